"""Blobs over HTTP: an upload goes to the store piece by piece, a download comes from it the same way.

One small ASGI application behind the public port. An upload is begun, appended to and asked for by whoever shows its
secret; a complete blob is read by whoever knows its name. A newer request of an uploader ends the older one. What is
under way is bounded: pieces of 64 KiB at most, so many transfers at once, a deadline for each wait and for the whole.
The store blocks, so it is called in threads; each upload has one request at a time.

It keeps nothing of whoever asks: the source is a key for limits only. Source: docs/protocol/delivery.md, "Blobs".
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from taube.server.clock import day_of
from taube.server.limits import Limits
from taube.server.ports import BLOB_PARTS, BlobState, BlobStore, Clock, Metrics, room_of
from taube.server.services import blobs
from taube.server.services.blobs import PREFIX, BlobSettings, Range
from taube.wire.errors import (
    BLOB_BAD_REQUEST,
    BLOB_CONFLICT,
    BLOB_SECRET_WRONG,
    BLOB_TOO_LARGE,
    BLOB_UNKNOWN,
    BUSY,
    DRAINING,
    INTERNAL,
    NO_ROOM,
    RATE_LIMITED,
    STORAGE,
    ErrorKind,
    WireError,
)

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Fields = tuple[tuple[str, str], ...]

THREADS: Final = 4
READ_BYTES: Final = 64 * 1024
WRITE_BYTES: Final = 64 * 1024
HEAD_ROOM_BYTES: Final = 64 * 1024
TAKEOVER_S: Final = 10.0
COUNT_S: Final = 10.0
"""How long an upload that begins right after a start waits until what there is has been counted."""
LEFT_OVER_S: Final = 2.0
"""How long the rest of a refused upload is read and dropped, so that its sender gets to see the answer."""
LEFT_OVER_BYTES: Final = 4 * 1024 * 1024
RETRY_MS: Final = 2_000

_STATUS: Final[dict[ErrorKind, int]] = {
    BLOB_BAD_REQUEST: 400,
    BLOB_SECRET_WRONG: 403,
    BLOB_UNKNOWN: 404,
    BLOB_CONFLICT: 409,
    BLOB_TOO_LARGE: 413,
    RATE_LIMITED: 429,
    INTERNAL: 500,
    BUSY: 503,
    DRAINING: 503,
    STORAGE: 503,
    NO_ROOM: 507,
}
_SAFE: Final = (
    ("content-security-policy", "default-src 'none'; sandbox"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("connection", "close"),
)
_BLOB: Final = (
    ("content-type", "application/octet-stream"),
    ("content-disposition", "attachment"),
    ("cache-control", "private, max-age=3888000, immutable"),
    ("accept-ranges", "bytes"),
)


class _Gone(Exception):
    """The peer is no longer there, or is cut off: nothing more can be said to it."""


@dataclass(eq=False, slots=True)
class _Upload:
    """A request that writes a blob; *abort* ends it, *done* is set when the store has what it brought."""

    abort: Callable[[], None]
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False, slots=True)
class _Exchange:
    """One request and its answer."""

    scope: Scope
    receive: Receive
    send: Send
    fields: dict[bytes, str]
    source: str | None
    abort: Callable[[], None]
    has_gone: Callable[[], bool]
    """Whether the connection has ended, or is about to: what is sent is dropped then, without a word."""
    began: bool = False
    """Whether the answer has begun."""
    is_read: bool = False
    """Whether the request's bytes have all come."""
    coming_bytes: int = 0
    """How many bytes of it are to come, or to be written."""

    def text(self, name: bytes) -> str | None:
        return self.fields.get(name)

    async def answer(self, status: int, fields: Fields, body: bytes = b"") -> None:
        """A whole answer. What is left of the request is read for a moment and dropped."""
        length = () if status in (204, 304) else (("content-length", str(len(body))),)
        await self.begin(status, (*fields, *length))
        if not self.is_read and self.text(b"content-length") not in (None, "0"):
            await self.send({"type": "http.response.body", "body": body, "more_body": True})
            await self._drop_rest()
            body = b""
        await self.send({"type": "http.response.body", "body": body})

    async def begin(self, status: int, fields: Fields) -> None:
        self.began = True
        headers = [(name.encode(), value.encode()) for name, value in (*_SAFE, *fields)]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def _drop_rest(self) -> None:
        dropped = 0
        try:
            async with asyncio.timeout(LEFT_OVER_S):
                while dropped < LEFT_OVER_BYTES:
                    message = await self.receive()
                    if message["type"] != "http.request" or not message.get("more_body"):
                        return
                    dropped += len(message.get("body", b""))
        except TimeoutError:
            return


class BlobTraffic:
    """The application under `/v1/blobs/`, and what it counts. `close` waits for the threads.

    *spread* lengthens the waiting time of a refusal at random (DEL-27). *bug* is told of errors that nobody foresaw,
    *problem* of a disk that fails.
    """

    def __init__(
        self,
        store: BlobStore,
        settings: BlobSettings,
        limits: Limits,
        time: Clock,
        metrics: Metrics,
        *,
        spread: Callable[[WireError], WireError],
        bug: Callable[[BaseException], None],
        problem: Callable[[str, BaseException], None],
    ) -> None:
        self._store = store
        self._settings = settings
        self._limits = limits
        self._time = time
        self._metrics = metrics
        self._spread = spread
        self._bug = bug
        self._problem = problem
        self._threads = ThreadPoolExecutor(THREADS, "blobs")
        self._running: set[_Exchange] = set()
        self._uploads: dict[bytes, _Upload] = {}
        self._sources: dict[str, int] = {}
        self.transfers = 0
        self.count = 0
        self.used_bytes: int | None = None
        """Bytes of all blobs and of what was announced; None until they were counted after the start."""
        self._counted = asyncio.Event()
        """Ends the waiting for that; set when the server stops, too."""
        self._begun_bytes = 0
        self._begun = 0
        self._coming_bytes = 0
        """What uploads under way have not written to the disk yet."""
        self._draining = False

    # ---------------------------------------------------------------- for the server

    def exchange(self, target: bytes) -> tuple[float, int] | None:
        """For the listener: (seconds, bytes) that a request for *target* may take; None if it is not ours."""
        if not target.startswith(PREFIX.encode()):
            return None
        return self._settings.request_s, self._settings.blob_bytes + HEAD_ROOM_BYTES

    async def end(self, most_s: float) -> None:
        """Break off what is under way, keep what came of it, begin nothing any more. Clients go on later."""
        self._draining = True
        self._counted.set()
        for exchange in list(self._running):
            exchange.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                while self._running:
                    await asyncio.sleep(0.01)

    def close(self) -> None:
        """Wait for what the threads are at. Blocks; call it when no request is left."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def sweep(self, may_expire: bool) -> int:
        """Forget what is over, count what is left; gives how many were removed. Raises OSError."""
        self._begun_bytes = self._begun = 0
        removed = left = room_bytes = 0
        for part in range(BLOB_PARTS):
            swept = await self._call(self._store.sweep, part, self._today(), may_expire)
            removed, left, room_bytes = removed + swept.removed, left + swept.left, room_bytes + swept.room_bytes
        self.used_bytes = room_bytes + self._begun_bytes
        self.count = left + self._begun
        self._counted.set()
        return removed

    # ---------------------------------------------------------------- requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. `scope["state"]` holds the *source* for limits, *abort*, which ends the connection, and *has_gone*."""
        state = scope.get("state", {})
        fields = {name: value.decode("latin-1") for name, value in reversed(scope["headers"])}
        exchange = _Exchange(
            scope,
            receive,
            send,
            fields,
            state.get("source"),
            state.get("abort", _nothing),
            state.get("has_gone", lambda: False),
        )
        self._running.add(exchange)
        try:
            await self._answer(exchange)
        except _Gone:
            exchange.abort()
        except WireError as error:
            await self._refuse(exchange, error)
        except OSError as error:
            self._problem("blob", error)
            await self._refuse(exchange, WireError(STORAGE, retry_after_ms=RETRY_MS))
        except Exception as error:
            self._bug(error)
            await self._refuse(exchange, WireError(INTERNAL, retry_after_ms=RETRY_MS))
        finally:
            self._running.discard(exchange)

    async def _answer(self, exchange: _Exchange) -> None:
        method = exchange.scope["method"]
        if method not in ("GET", "HEAD", "POST", "PATCH"):
            await exchange.answer(405, (("allow", "GET, HEAD, POST, PATCH"), ("cache-control", "no-store")))
            return
        if self._draining:
            raise WireError(DRAINING, retry_after_ms=RETRY_MS)
        name = blobs.name_of(exchange.scope["path"].removeprefix(PREFIX))
        if name is None:
            raise WireError(BLOB_BAD_REQUEST, detail="the name is none")
        if method in ("POST", "PATCH") or (method == "HEAD" and exchange.text(b"upload-secret") is not None):
            secret = blobs.name_of(exchange.text(b"upload-secret") or "")
            if secret is None:
                raise WireError(BLOB_BAD_REQUEST, detail="Upload-Secret")
            if not blobs.opens(secret, name):
                raise WireError(BLOB_SECRET_WRONG)
            await self._write(exchange, method, name)
        else:
            await self._read(exchange, name, with_bytes=method == "GET")

    async def _refuse(self, exchange: _Exchange, error: WireError) -> None:
        self._metrics.count("blobs_refused", reason=error.kind.name)
        if exchange.began:  # half of an answer is out: only a broken connection can tell
            exchange.abort()
            return
        retry_ms = self._spread(error).retry_after_ms
        body = {"code": error.kind.code, "name": error.kind.name, "meaning": error.kind.meaning}
        fields = [("content-type", "application/json"), ("cache-control", "no-store")]
        if retry_ms:
            fields.append(("retry-after", str(-(-retry_ms // 1000))))
        if isinstance(error, _Conflict):
            fields += _progress(error.state)
        status = error.status if isinstance(error, _LengthRequired) else _STATUS[error.kind]
        await exchange.answer(status, tuple(fields), json.dumps({**body, "retry_after_ms": retry_ms}).encode())

    # ---------------------------------------------------------------- the uploader

    async def _write(self, exchange: _Exchange, method: str, name: bytes) -> None:
        """POST, PATCH, HEAD with the secret: one at a time for each upload, the newest wins. Source: BLB-03."""
        self._limits.check("write blob", self._time.monotonic(), source=exchange.source)
        while (older := self._uploads.get(name)) is not None:
            older.abort()
            try:
                async with asyncio.timeout(TAKEOVER_S):
                    await older.done.wait()
            except TimeoutError:
                raise WireError(BUSY, retry_after_ms=RETRY_MS) from None
        upload = self._uploads[name] = _Upload(exchange.abort)
        try:
            state = await self._call(self._store.look, name)
            if state is not None and state.is_over(self._today()):
                state = None
            if method == "POST":
                await self._begin(exchange, name, state)
            elif state is None:
                raise WireError(BLOB_UNKNOWN)
            elif method == "HEAD":
                await exchange.answer(204, (*_progress(state), ("cache-control", "no-store")))
            else:
                await self._append(exchange, name, state)
        finally:
            del self._uploads[name]
            upload.done.set()

    async def _begin(self, exchange: _Exchange, name: bytes, state: BlobState | None) -> None:
        settings = self._settings
        length = blobs.number(exchange.text(b"upload-length"), blobs.MIN_SEALED_BYTES, 2**40)
        given = exchange.text(b"upload-days")
        days = settings.days if given is None else blobs.number(given, blobs.FEWEST_DAYS, 45)
        blobs.check_length(length, settings)
        status = 200
        if state is None:
            status = 201
            await self._wait_for_count(exchange)
            free = await self._call(self._store.free_bytes) - self._coming_bytes
            assert self.used_bytes is not None
            blobs.check_room(length, self.used_bytes, free, settings)
            now = self._time.monotonic()
            self._limits.check("begin blob", now, source=exchange.source)
            self._limits.check("blob bytes", now, length, source=exchange.source)
            self._count_begun(room_of(length), 1)
            today = self._today()
            ends_day = blobs.last_day(today, days, settings)
            try:
                state = await self._call(self._store.begin, name, length, ends_day, today + blobs.UNFINISHED_DAYS)
            except OSError:
                self._count_begun(-room_of(length), -1)
                raise
        elif state.length != length:
            raise _Conflict(state)
        await exchange.answer(status, (*_progress(state), ("cache-control", "no-store")))

    async def _wait_for_count(self, exchange: _Exchange) -> None:
        """Until `used_bytes` is known. Raises BUSY when that takes too long, or the server stops; _Gone when nobody
        waits for the answer any more."""
        if self.used_bytes is not None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(COUNT_S):
                await self._counted.wait()
        if exchange.has_gone():
            raise _Gone
        if self.used_bytes is None:
            raise WireError(BUSY, retry_after_ms=RETRY_MS)

    def _count_begun(self, room_bytes: int, count: int) -> None:
        assert self.used_bytes is not None
        self.used_bytes += room_bytes
        self.count += count
        self._begun_bytes += room_bytes
        self._begun += count

    async def _append(self, exchange: _Exchange, name: bytes, state: BlobState) -> None:
        offset = blobs.number(exchange.text(b"upload-offset"), 0, 2**40)
        given = exchange.text(b"content-length")
        if given is None:
            raise _LengthRequired()
        size = blobs.number(given, 0, 2**40)
        if offset != state.offset:
            raise _Conflict(state)
        if offset + size > state.length:
            raise WireError(BLOB_TOO_LARGE)
        if size and not state.is_complete:
            blobs.check_disk(size, await self._call(self._store.free_bytes) - self._coming_bytes, self._settings)
            with self._transfer(exchange.source):
                state, error = await self._take(exchange, name, state, size)
            if error is not None:
                raise error
        if state.offset == state.length and not state.is_complete:
            await self._call(self._store.finish, name)
            state = state._replace(is_complete=True)
            self._metrics.count("blobs_finished")
        await exchange.answer(204, (*_progress(state), ("cache-control", "no-store")))

    async def _take(
        self, exchange: _Exchange, name: bytes, state: BlobState, size: int
    ) -> tuple[BlobState, _Gone | WireError | None]:
        """Store what comes: how far the upload is now, durably, and what ended it too early."""
        exchange.coming_bytes = size
        self._coming_bytes += size
        try:
            return await self._take_pieces(exchange, name, state)
        finally:
            self._coming_bytes -= exchange.coming_bytes

    async def _take_pieces(
        self, exchange: _Exchange, name: bytes, state: BlobState
    ) -> tuple[BlobState, _Gone | WireError | None]:
        start, waiting, began = state.offset, bytearray(), self._time.monotonic()
        written, is_last = start, False
        problem: _Gone | WireError | None = None
        while not is_last and problem is None:
            piece, is_last = await self._piece(exchange)
            waiting += piece or b""
            if piece is None or (not is_last and self._is_slow(written + len(waiting) - start, began)):
                problem = _Gone()
            is_end = is_last or problem is not None
            if waiting and (is_end or len(waiting) >= WRITE_BYTES):
                data = bytes(waiting)
                waiting.clear()
                await self._call(self._store.append, name, written, data)
                written += len(data)
                exchange.coming_bytes -= len(data)
                self._coming_bytes -= len(data)
            if is_end or written - state.offset >= self._settings.checkpoint_bytes:
                state = await self._settle(name, state, written)
                if not is_end and await self._call(self._store.free_bytes) < self._settings.keep_free_bytes:
                    problem = WireError(NO_ROOM, retry_after_ms=blobs.NO_ROOM_MS)
        return state, problem

    async def _settle(self, name: bytes, state: BlobState, written: int) -> BlobState:
        moved = written - state.offset
        if moved:
            state = state._replace(offset=written, until_day=self._today() + blobs.UNFINISHED_DAYS)
            await self._call(self._store.settle, name, state)
            self._metrics.count("blob_bytes", moved, reason="in")
        return state

    async def _piece(self, exchange: _Exchange) -> tuple[bytes | None, bool]:
        """(what came, whether it was the last); None when the peer is gone or silent for too long."""
        try:
            async with asyncio.timeout(self._settings.idle_s):
                message = await exchange.receive()
        except TimeoutError:
            self._metrics.count("blobs_refused", reason="slow")
            return None, False
        if message["type"] != "http.request":
            return None, False
        exchange.is_read = not message.get("more_body", False)
        return message.get("body", b""), exchange.is_read

    # ---------------------------------------------------------------- the reader

    async def _read(self, exchange: _Exchange, name: bytes, *, with_bytes: bool) -> None:
        now = self._time.monotonic()
        self._limits.check("read blob", now, source=exchange.source)
        state = await self._call(self._store.look, name)
        if state is None or not blobs.is_readable(state, self._today()):
            raise WireError(BLOB_UNKNOWN)
        part = blobs.range_of(exchange.text(b"range") if with_bytes else None, state.length)
        if part == "unsatisfiable":
            nothing = (("content-range", f"bytes */{state.length}"), ("cache-control", "no-store"))
            await exchange.answer(416, nothing)
            return
        assert isinstance(part, Range)
        fields: Fields = (*_BLOB, ("content-length", str(part.size)))
        if part.is_part:
            last = part.start + part.size - 1
            fields = (*fields, ("content-range", f"bytes {part.start}-{last}/{state.length}"))
        status = 206 if part.is_part else 200
        if not with_bytes:
            await exchange.begin(status, fields)
            await exchange.send({"type": "http.response.body", "body": b""})
            return
        self._limits.check("read blob bytes", now, part.size, source=exchange.source)
        with self._transfer(exchange.source):
            await self._give(exchange, name, part, status, fields)

    async def _give(self, exchange: _Exchange, name: bytes, part: Range, status: int, fields: Fields) -> None:
        at, end, began = part.start, part.start + part.size, self._time.monotonic()
        while at < end:
            piece = await self._call(self._store.read, name, at, min(READ_BYTES, end - at))
            if not piece:
                raise OSError("a blob is shorter than its head says")
            if at == part.start:
                await exchange.begin(status, fields)
            at += len(piece)
            try:
                async with asyncio.timeout(self._settings.idle_s):
                    await exchange.send({"type": "http.response.body", "body": piece, "more_body": at < end})
            except TimeoutError:
                self._metrics.count("blobs_refused", reason="slow")
                raise _Gone from None
            self._metrics.count("blob_bytes", len(piece), reason="out")
            if at < end and (exchange.has_gone() or self._is_slow(at - part.start, began)):
                raise _Gone

    # ---------------------------------------------------------------- helpers

    def _is_slow(self, moved: int, began: float) -> bool:
        is_slow = blobs.is_too_slow(moved, self._time.monotonic() - began, self._settings)
        if is_slow:
            self._metrics.count("blobs_refused", reason="slow")
        return is_slow

    def _transfer(self, source: str | None) -> "_Transfer":
        return _Transfer(self, source)

    def enter(self, source: str | None) -> None:
        """One more transfer. Raises BUSY."""
        count = self._sources.get(source, 0) if source is not None else 0
        if self.transfers >= self._settings.transfers or count >= self._settings.transfers_per_source:
            raise WireError(BUSY, retry_after_ms=RETRY_MS)
        self.transfers += 1
        if source is not None:
            self._sources[source] = count + 1

    def leave(self, source: str | None) -> None:
        """That transfer has ended; its source is forgotten with its last one."""
        self.transfers -= 1
        if source is None:
            return
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]

    def _today(self) -> int:
        return day_of(self._time.guarded_ms())

    async def _call(self, call: Callable[..., T], *arguments: Any) -> T:
        """*call* in a thread. It ends even when whoever waits for it is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)


class _Transfer:
    """Holds one of the transfers that there may be at once."""

    def __init__(self, traffic: BlobTraffic, source: str | None) -> None:
        self._traffic, self._source = traffic, source

    def __enter__(self) -> None:
        self._traffic.enter(self._source)

    def __exit__(self, *_: object) -> None:
        self._traffic.leave(self._source)


class _Conflict(WireError):
    """Another offset or length than the upload's: the answer says which it has."""

    def __init__(self, state: BlobState) -> None:
        super().__init__(BLOB_CONFLICT)
        self.state = state


class _LengthRequired(WireError):
    status = 411

    def __init__(self) -> None:
        super().__init__(BLOB_BAD_REQUEST, detail="Content-Length")


def _progress(state: BlobState) -> Fields:
    return (
        ("upload-offset", str(state.offset)),
        ("upload-length", str(state.length)),
        ("upload-complete", "?1" if state.is_complete else "?0"),
    )


def _nothing() -> None:
    """What ends a connection that cannot be ended."""
