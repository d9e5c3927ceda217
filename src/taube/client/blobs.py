"""Moves sealed files to and from the server, over HTTPS connections of their own that never log in.

    Blobs(origin)
      .upload(secret, path)            begins, or goes on where the server says; returns once the blob is complete
      .download(name, path, size)      goes on where the file at *path* ends; returns once all of it is there

Each request has a connection of its own, so that nothing ties one transfer to another, and each wait a deadline. The
standard library's client blocks, so it runs in a thread, which ends with the task that waits for it. What is inside the
bytes, and whether they are right, others know. Source: docs/protocol/delivery.md, "Blobs".
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

from taube.client.transport import (
    ConnectionLost,
    NotTaube,
    Unreachable,
    certificate_wrong,
    make_ssl_context,
    refusal,
)
from taube.wire.errors import BLOB_CONFLICT, WireError
from taube.wire.messages import Failed

if TYPE_CHECKING:  # loading it takes longer than sending a text: it waits until there is a file to move
    import http.client

T = TypeVar("T")

TIMEOUT_S: Final = 30.0
"""For one wait: to connect, for the next bytes, for the server to take some."""
REQUEST_BYTES: Final = 4 * 1024 * 1024
"""What one request brings at most: even a slow line is done with it in the server's time."""
PIECE_BYTES: Final = 64 * 1024
ANSWER_BYTES: Final = 64 * 1024
IDLE_ANSWERS: Final = 5
"""How often in a row the server may say that it has no more of an upload than before."""


class Blobs:
    """Transfers with one server. *moved_bytes* rises while one gets on."""

    def __init__(self, origin: str, *, ssl_context: ssl.SSLContext | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.origin = origin
        self.moved_bytes = 0
        self._ssl_context = ssl_context
        self._timeout_s = timeout_s

    async def upload(self, secret: bytes, path: Path) -> None:
        """Make the file at *path* the blob whose upload secret is *secret* (32 bytes). May be repeated.

        Raises TransportError, WireError (BLOB_TOO_LARGE, NO_ROOM, RATE_LIMITED, …), OSError for the file.
        """
        await self._in_thread(lambda stop: self._upload(secret, path, stop))

    async def download(self, name: bytes, path: Path, size: int) -> None:
        """Bring the file at *path* (made if missing) to all *size* bytes of the blob *name*.

        Raises TransportError (what came stays in the file), WireError (BLOB_UNKNOWN, …), NotTaube when the blob has
        another size, OSError for the file.
        """
        await self._in_thread(lambda stop: self._download(name, path, size, stop))

    async def _in_thread(self, work: Callable[["_Stop"], T]) -> T:
        """*work* in a thread; when this is cancelled, its connection is broken off and the thread ends."""
        stop = _Stop()
        task = asyncio.get_running_loop().run_in_executor(None, work, stop)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            stop.set()
            with contextlib.suppress(Exception):
                await task
            raise

    # ---------------------------------------------------------------- in the thread

    def _upload(self, secret: bytes, path: Path, stop: "_Stop") -> None:
        length = path.stat().st_size
        own = {"Upload-Secret": _text(secret)}
        target = _target(name_of(secret))
        answer = self._ask("POST", target, own | {"Upload-Length": str(length)}, stop)
        reached, idle = -1, 0
        with path.open("rb") as file:
            while answer.fields.get("upload-complete") != "?1":
                offset = _offset(answer, length, self.origin)
                reached, idle = max(reached, offset), 0 if offset > reached else idle + 1
                if idle > IDLE_ANSWERS:
                    raise ConnectionLost(f"{self.origin} did not go on with the upload.")
                end = min(length, offset + REQUEST_BYTES)
                file.seek(offset)
                fields = own | {"Upload-Offset": str(offset), "Content-Length": str(end - offset)}
                answer = self._ask("PATCH", target, fields, stop, _pieces(file.read, end - offset), BLOB_CONFLICT.code)

    def _download(self, name: bytes, path: Path, size: int, stop: "_Stop") -> None:
        with path.open("ab") as file:
            have = file.tell()
            if have > size:
                file.truncate(0)
                have = 0
            while have < size:
                with self._open(stop) as connection:
                    connection.request("GET", _target(name), headers={"Range": f"bytes={have}-"})
                    answer = connection.getresponse()
                    if answer.status not in (200, 206):
                        raise self._refused(answer)
                    if answer.status == 200 and have:
                        file.truncate(0)
                        have = 0
                    if _total(answer) != size:
                        raise NotTaube(f"{self.origin} has another file than the one that was meant.")
                    while piece := answer.read(min(PIECE_BYTES, size - have)):
                        file.write(piece)
                        have += len(piece)
                        self.moved_bytes += len(piece)
                        stop.check()
                    file.flush()
                    if have < size:
                        raise ConnectionLost(f"{self.origin} ended the connection before the whole file was here.")

    def _ask(
        self,
        method: str,
        target: str,
        fields: dict[str, str],
        stop: "_Stop",
        body: Iterable[bytes] = (),
        accept: int = 0,
    ) -> "_Answer":
        """One request and its answer. Raises WireError unless it succeeded, or was refused by the code *accept*."""
        with self._open(stop) as connection:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in ({"Content-Length": "0"} | fields).items():
                connection.putheader(name, value)
            connection.endheaders()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused meanwhile: the answer says why
                for piece in body:
                    connection.send(piece)
                    self.moved_bytes += len(piece)
                    stop.check()
            answer = connection.getresponse()
            found = _Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()})
            if answer.status not in (200, 201, 204):
                error = self._refused(answer)
                if error.kind.code != accept:
                    raise error
            return found

    @contextlib.contextmanager
    def _open(self, stop: "_Stop") -> Iterator["http.client.HTTPConnection"]:
        """A connection for one exchange; what goes wrong on it becomes a TransportError."""
        import http.client

        parts = urlsplit(self.origin)
        connection: http.client.HTTPConnection
        try:
            if parts.scheme == "https":
                self._ssl_context = self._ssl_context or make_ssl_context()
                connection = http.client.HTTPSConnection(
                    parts.hostname or "", parts.port, timeout=self._timeout_s, context=self._ssl_context
                )
            else:
                connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=self._timeout_s)
            with contextlib.closing(connection):
                self._connect(connection)
                stop.watch(connection)
                yield connection
        except ssl.SSLCertVerificationError as error:
            raise certificate_wrong(self.origin, error) from error
        except TimeoutError as error:
            raise ConnectionLost(f"{self.origin} did not answer within {self._timeout_s:g} seconds.") from error
        except http.client.HTTPException as error:
            raise ConnectionLost(f"{self.origin} broke off an answer.") from error
        except (ConnectionError, ssl.SSLError) as error:
            raise ConnectionLost(f"The connection to {self.origin} broke off.") from error

    def _connect(self, connection: "http.client.HTTPConnection") -> None:
        try:
            connection.connect()
        except ssl.SSLError:
            raise
        except OSError as error:
            raise Unreachable(f"{self.origin} cannot be reached: check the network, or wait.") from error

    def _refused(self, answer: "http.client.HTTPResponse") -> WireError:
        try:
            said = json.loads(answer.read(ANSWER_BYTES))
            failed = Failed(1, int(said["code"]), min(max(int(said["retry_after_ms"]), 0), 2**40), "")
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise NotTaube(f"{self.origin} answers, but takes no files: check the address.") from None
        return refusal(failed)


class _Stop:
    """Tells a thread that nobody waits for it any more, and breaks off what it waits for."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._connection: http.client.HTTPConnection | None = None

    def watch(self, connection: "http.client.HTTPConnection") -> None:
        self._connection = connection
        self.check()

    def check(self) -> None:
        if self._event.is_set():
            raise ConnectionLost("The transfer was given up.")

    def set(self) -> None:
        self._event.set()
        connection = self._connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class _Answer:
    def __init__(self, status: int, fields: dict[str, str]) -> None:
        self.status = status
        self.fields = fields


def name_of(secret: bytes) -> bytes:
    """The name of the blob that whoever has the upload *secret* may write. Source: delivery.md, BLB-01."""
    return hashlib.sha256(secret).digest()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _target(name: bytes) -> str:
    return f"/v1/blobs/{_text(name)}"


def _pieces(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    while size and (piece := read(min(PIECE_BYTES, size))):
        size -= len(piece)
        yield piece


def _offset(answer: _Answer, length: int, origin: str) -> int:
    text = answer.fields.get("upload-offset", "")
    is_offset = text.isdecimal() and len(text) < 20 and int(text) <= length
    if not is_offset or answer.fields.get("upload-length") != str(length):
        raise NotTaube(f"{origin} has another upload under that name.")
    return int(text)


def _total(answer: "http.client.HTTPResponse") -> int:
    """The size of the whole blob; -1 if the answer does not say."""
    whole = answer.headers.get("content-length", "")
    if answer.status == 206:
        whole = answer.headers.get("content-range", "").rpartition("/")[2]
    return int(whole) if whole.isdecimal() else -1


def sync_file(path: Path) -> None:
    """Make a file, and its name in its folder, durable."""
    for place in (path, path.parent):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


__all__ = ["Blobs", "sync_file"]
