"""Links to one server: the device link, and short-lived anonymous links, one for each purpose.

A link is one WebSocket over TLS 1.3 with one `wire.session` on it. Requests may be pipelined; each has a deadline, and
a link that missed one is closed, since nothing on it can be trusted to arrive. Events wait in a bounded queue: when it
is full, the socket is no longer read, so a server cannot fill our memory.

    Transport(origin)
      .anonymous("send")      -> Link         reused while it lives; closed after 60 s idle; never shared by purposes
      .device(…)              -> DeviceLink   logged in, once

What it deliberately does not know: what a message means, the store, which request may be repeated (the caller does).
The only module of the client that imports picows; files go by HTTPS (blobs.py). Source: docs/protocol/connection.md.
"""

import asyncio
import ipaddress
import os
import re
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final, TypeVar
from urllib.parse import urlsplit

from picows import WSCloseCode, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from taube.client.errors import UserError
from taube.exits import EX_DATAERR, EX_NOINPUT
from taube.wire.errors import CATALOGUE, ErrorKind, Fault, FrameError, Retry, TaubeError, WireError
from taube.wire.messages import (
    MAX_FRAME_BYTES,
    AccountId,
    Command,
    Deliver,
    DeviceId,
    Draining,
    Event,
    Failed,
    LoggedIn,
    Login,
    Replaced,
    Reply,
    Welcome,
)
from taube.wire.session import ClientSession

CONNECT_TIMEOUT_S: Final = 10.0
REQUEST_TIMEOUT_S: Final = 20.0
IDLE_S: Final = 60.0
PING_AFTER_S: Final = 45.0
PING_TIMEOUT_S: Final = 20.0

QUEUE_EVENTS: Final = 512
"""Events that may wait before the socket is no longer read (unless an answer is being waited for)."""
QUEUE_BYTES: Final = 16 * 1024 * 1024
"""Bytes of events that may wait before the socket is no longer read, whatever else is waited for."""

BACK_OFF_FIRST_S: Final = 0.5
BACK_OFF_MOST_S: Final = 60.0
MOST_ASKED_MS: Final = 3_600_000
"""A server may ask for a wait as long as this; what it asks for beyond is not heard."""

_ORIGIN: Final = re.compile(r"[A-Za-z]+://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

ReplyT = TypeVar("ReplyT")
Sign = Callable[[str, bytes], bytes]
"""Signs a login: (origin, nonce) -> 64 bytes."""


# ---------------------------------------------------------------- errors


class TransportError(TaubeError):
    """No answer, and why; the text is one sentence for a person. *retry*: whether waiting may help."""

    retry = True


class Unreachable(TransportError):
    """There is no connection: no network, no such host, nothing listening, or no answer in time. Nothing was sent."""


class CertificateWrong(TransportError):
    """Someone answers, but cannot prove to be the server. Nothing was sent."""

    retry = False


class NotTaube(TransportError):
    """What answers does not speak this protocol, or is another server than the origin says. Nothing was sent."""

    retry = False


class ConnectionLost(TransportError):
    """The link ended before the answer came: the request may or may not have been carried out."""


class DeadlineMissed(ConnectionLost):
    """The answer did not come in time; the link was closed."""


# ---------------------------------------------------------------- origins and TLS


def socket_url(origin: str) -> str:
    """Where the WebSocket of *origin* is. Raises NotTaube unless it is https, or http on loopback, without a path."""
    try:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError
        parts = urlsplit(origin)
        host, port = parts.hostname, parts.port
        if not host or port == 0:
            raise ValueError
    except ValueError:
        raise NotTaube(
            f"“{origin}” is not the address of a server: expected something like https://chat.example.org."
        ) from None
    if parts.scheme == "http" and _is_loopback(host):
        scheme = "ws"
    elif parts.scheme == "https":
        scheme = "wss"
    else:
        raise NotTaube(f"“{origin}” is not safe: only https is accepted, and http on this machine itself.")
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}{f':{port}' if port else ''}/v1/socket"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make_ssl_context() -> ssl.SSLContext:
    """TLS 1.3 only, certificates checked (SSL_CERT_FILE and SSL_CERT_DIR honoured), no session tickets.

    Raises UserError if SSL_CERT_FILE cannot be used.
    """
    path, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if path:
        try:
            context = ssl.create_default_context(cafile=path, capath=folder or None)
        except ssl.SSLError as error:
            raise UserError(
                f"SSL_CERT_FILE names {path}, which holds no certificate in PEM form.", EX_DATAERR
            ) from error
        except OSError as error:
            why = error.strerror.lower() if error.strerror else "not readable"
            raise UserError(f"SSL_CERT_FILE names {path}, which cannot be read ({why}).", EX_NOINPUT) from error
    else:
        context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    return context


_CERTIFICATE_SENTENCES: Final = {
    9: "its certificate is not valid yet (is this machine's clock right?)",
    10: "its certificate has expired",
    18: "its certificate is signed by itself alone",
    19: "its certificate was not issued by an authority that this machine trusts",
    20: "its certificate was not issued by an authority that this machine trusts",
    21: "its certificate was not issued by an authority that this machine trusts",
    62: "its certificate is for another name",
    64: "its certificate is for another address",
}


def certificate_wrong(origin: str, error: ssl.SSLCertVerificationError) -> CertificateWrong:
    """What a certificate that does not verify means, in one sentence."""
    reason = _CERTIFICATE_SENTENCES.get(error.verify_code, f"its certificate is not valid ({error.verify_message})")
    return CertificateWrong(
        f"{origin} could not prove that it is the right server: {reason}. Nothing was sent; ask who runs the server."
    )


# ---------------------------------------------------------------- one connection


class _Listener(WSListener):
    """Hands whole binary frames and the end of the connection to its link."""

    def __init__(self, link: "Link") -> None:
        super().__init__()
        self._link = link
        self._begun: bytearray | None = None
        """What is here of a frame that comes in fragments (CON-03)."""

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind, begun = frame.msg_type, self._begun
        if kind is WSMsgType.BINARY and frame.fin and begun is None:
            self._link._received(frame.get_payload_as_bytes())
        elif kind is WSMsgType.CLOSE:
            transport.disconnect()
        elif kind is (WSMsgType.BINARY if begun is None else WSMsgType.CONTINUATION):
            begun = self._begun = bytearray() if begun is None else begun
            begun += frame.get_payload_as_memoryview()
            if len(begun) > MAX_FRAME_BYTES:
                self._not_taube()
            elif frame.fin:
                self._begun = None
                self._link._received(bytes(begun))
        elif kind not in (WSMsgType.PING, WSMsgType.PONG):
            self._not_taube()

    def _not_taube(self) -> None:
        self._link._lose(NotTaube(f"{self._link.origin} sent something that is not Taube's protocol."))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._link._lose(ConnectionLost(f"The connection to {self._link.origin} ended."))

    def pause_writing(self) -> None:
        self._link._writable.clear()

    def resume_writing(self) -> None:
        self._link._writable.set()


class Link:
    """One open connection after its hello. Requests are pipelined; any task may call."""

    def __init__(self, origin: str, *, idle_s: float | None = None) -> None:
        self.origin = origin
        self.welcome: Welcome
        """The server's answer to hello: version, nonce, origin, now_ms (its clock), generation."""
        self.lost: TransportError | None = None
        """Why the link ended; None while it lives."""
        self._session = ClientSession()
        self._transport: WSTransport | None = None
        self._welcomed: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
        self._pending: dict[int, asyncio.Future[Reply]] = {}
        self._writable = asyncio.Event()
        self._writable.set()
        self._idle_s = idle_s
        self._idle_timer: asyncio.TimerHandle | None = None
        self._draining = False

    @property
    def is_open(self) -> bool:
        """Whether it is worth making requests: the link lives, and the server is not about to end it."""
        return self.lost is None and not self._draining

    async def request(self, build: Callable[[int], Command], timeout_s: float = REQUEST_TIMEOUT_S) -> Reply:
        """Send what *build* makes of a request id and return its reply.

        Raises WireError when the server refused (nothing of it happened), DeadlineMissed or ConnectionLost when it is
        unknown whether it happened. Cancelled: the same is unknown; the link stays good.
        """
        self._raise_if_lost()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        number = 0
        try:
            async with asyncio.timeout(timeout_s):
                await self._writable.wait()
                self._raise_if_lost()
                number, frame = self._session.request(build)
                self._pending[number] = future
                self._resume_reading()
                self._send(frame)
                return await future
        except TimeoutError:
            self._lose(DeadlineMissed(f"{self.origin} did not answer in time."))
            raise DeadlineMissed(f"{self.origin} did not answer within {timeout_s:g} seconds.") from None
        finally:
            self._pending.pop(number, None)
            self._start_idle()

    async def expect(
        self, kind: type[ReplyT], build: Callable[[int], Command], timeout_s: float = REQUEST_TIMEOUT_S
    ) -> ReplyT:
        """`request`, for a reply of one kind; another kind is a broken server: NotTaube."""
        reply = await self.request(build, timeout_s)
        if not isinstance(reply, kind):
            error = NotTaube(f"{self.origin} gave an answer of the wrong kind.")
            self._lose(error)
            raise error
        return reply

    async def close(self) -> None:
        """End the link; requests under way fail with ConnectionLost. Idempotent."""
        transport = self._transport
        self._lose(ConnectionLost(f"The connection to {self.origin} was closed."))
        if transport is not None:
            try:
                async with asyncio.timeout(1.0):
                    await transport.wait_disconnected()
            except (TimeoutError, WSError, OSError):
                transport.underlying_transport.abort()

    # -- called by Transport

    async def _open(self, url: str, context: ssl.SSLContext | None, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                self._transport, _ = await ws_connect(
                    lambda: _Listener(self),
                    url,
                    ssl_context=context,
                    websocket_handshake_timeout=timeout_s,
                    enable_auto_ping=True,
                    auto_ping_idle_timeout=PING_AFTER_S,
                    auto_ping_reply_timeout=PING_TIMEOUT_S,
                    max_frame_size=MAX_FRAME_BYTES,
                    max_redirects=0,
                    use_aiofastnet=False,
                )
                self._raise_if_lost()
                self._send(self._session.hello())
                self.welcome = await self._welcomed
        except TimeoutError:
            self._lose(Unreachable(f"{self.origin} did not answer within {timeout_s:g} seconds."))
        except ssl.SSLCertVerificationError as error:
            self._lose(certificate_wrong(self.origin, error))
        except ssl.SSLError as error:
            self._lose(NotTaube(f"{self.origin} does not speak TLS 1.3 ({error.reason or 'handshake failed'})."))
        except WSError:
            self._lose(NotTaube(f"{self.origin} answers, but is not a Taube server: check the address."))
        except OSError as error:
            self._lose(Unreachable(f"{self.origin} cannot be reached ({_reason(error)}): check the network, or wait."))
        except TransportError as error:
            self._lose(error)
        except asyncio.CancelledError:
            self._lose(ConnectionLost(f"The connection to {self.origin} was given up."))
            raise
        self._raise_if_lost()
        if self.welcome.origin != self.origin:
            self._lose(NotTaube(f"The server at {self.origin} calls itself {self.welcome.origin}: use that address."))
        self._raise_if_lost()
        self._start_idle()

    # -- called by the listener

    def _received(self, frame: bytes) -> None:
        if self.lost is not None:
            return
        try:
            message = self._session.receive(frame)
        except FrameError:
            self._lose(NotTaube(f"{self.origin} sent something that is not Taube's protocol."))
            return
        if isinstance(message, Event):
            self._event(message, len(frame))
        elif isinstance(message, Welcome):
            if not self._welcomed.done():
                self._welcomed.set_result(message)
        elif isinstance(message, Failed):
            self._failed(message)
        else:
            self._settle(message.request, message)

    def _failed(self, failed: Failed) -> None:
        error = refusal(failed)
        future = self._pending.get(failed.request)
        if future is not None and not future.done():
            future.set_exception(error)
        elif failed.request == 0:
            if error.kind.retry is Retry.LATER:
                self._lose(ConnectionLost(f"{self.origin} ended the connection: {error.kind.meaning}"))
            else:
                self._lose(NotTaube(f"{self.origin} refused the connection: {error.kind.meaning}"))

    def _settle(self, request: int, reply: Reply) -> None:
        future = self._pending.get(request)
        if future is not None and not future.done():
            future.set_result(reply)

    def _event(self, event: Event, size: int) -> None:
        """An anonymous link expects none but Draining, after which it takes no new request."""
        if isinstance(event, Draining):
            self._draining = True
            if not self._pending:
                self._lose(ConnectionLost(f"{self.origin} is about to restart."))

    def _lose(self, error: TransportError) -> None:
        if self.lost is not None:
            return
        self.lost = error
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._writable.set()
        if not self._welcomed.done():
            self._welcomed.set_exception(error)
            self._welcomed.exception()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(_copy(error))
                future.exception()
        if self._transport is not None and not self._transport.is_disconnected:
            self._transport.send_close(WSCloseCode.OK)
            self._transport.disconnect()

    def _raise_if_lost(self) -> None:
        if self.lost is not None:
            raise _copy(self.lost)

    def _send(self, frame: bytes) -> None:
        assert self._transport is not None
        self._transport.send(WSMsgType.BINARY, frame)

    def _resume_reading(self) -> None:
        pass

    def _start_idle(self) -> None:
        if self._idle_s is not None and not self._pending and self.lost is None:
            if self._idle_timer is not None:
                self._idle_timer.cancel()
            error = ConnectionLost(f"The connection to {self.origin} was idle.")
            self._idle_timer = asyncio.get_running_loop().call_later(self._idle_s, self._lose, error)


class DeviceLink(Link):
    """A connection that logged in: besides requests, it brings this device's envelopes."""

    def __init__(self, origin: str) -> None:
        super().__init__(origin)
        self.logged_in: LoggedIn
        """The server's answer to the login: key packages left, last resorts there, whether to mint addresses anew."""
        self.reconnect_after_ms = 0
        """What the server asked for when it drained."""
        self.replaced = False
        """A newer connection of this device took over."""
        self._queue: deque[tuple[Event, int]] = deque()
        self._queued_bytes = 0
        self._arrived = asyncio.Event()
        self._reading = True

    async def events(self, most: int = 256) -> AsyncIterator[list[Event]]:
        """What the server sends unasked (Deliver, CaughtUp, Draining, Replaced), in order, in batches of up to *most*.

        Ends when the link does, after everything that had arrived; `lost` then says why. One consumer at a time.
        """
        while True:
            while not self._queue:
                if self.lost is not None:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            batch: list[Event] = []
            while self._queue and len(batch) < most:
                event, size = self._queue.popleft()
                self._queued_bytes -= size
                batch.append(event)
            self._resume_reading()
            yield batch

    def acknowledge(self, upto: int) -> None:
        """Everything delivered on this link up to number *upto* is durably decided. Nothing happens on a lost link."""
        if self.lost is None:
            self._send(self._session.acknowledge(upto))

    def _event(self, event: Event, size: int) -> None:
        if isinstance(event, Deliver) and event.number == 0 and len(self._queue) >= QUEUE_EVENTS // 2:
            return  # ephemeral envelopes are best effort, and we are behind
        self._queue.append((event, size))
        self._queued_bytes += size
        self._arrived.set()
        if isinstance(event, Draining):
            self._draining = True
            self.reconnect_after_ms = min(event.retry_after_ms, MOST_ASKED_MS)
        elif isinstance(event, Replaced):
            self.replaced = True
        self._pause_reading_if_full()

    def _pause_reading_if_full(self) -> None:
        full = len(self._queue) >= QUEUE_EVENTS and not self._pending
        if self._reading and self._transport is not None and (full or self._queued_bytes >= QUEUE_BYTES):
            self._reading = False
            self._transport.underlying_transport.pause_reading()

    def _resume_reading(self) -> None:
        room = len(self._queue) < QUEUE_EVENTS // 2 or bool(self._pending)
        if not self._reading and room and self._queued_bytes < QUEUE_BYTES and self.lost is None:
            self._reading = True
            assert self._transport is not None
            transport = self._transport.underlying_transport
            transport.resume_reading()
            # aiofastnet 1.2.0 forgets what it had decrypted before the pause until more arrives from the network
            retry = getattr(transport, "_retry_ssl_read", None)
            if retry is not None:
                asyncio.get_running_loop().call_soon(retry)

    def _lose(self, error: TransportError) -> None:
        super()._lose(error)
        self._arrived.set()


# ---------------------------------------------------------------- all links to one server


class BackOff:
    """How long to wait before the next attempt: doubling, capped, spread over half its length so that clients of one
    server that fell do not come back all at once. *random* gives 0 ≤ x < 1."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._failures = 0

    def succeeded(self) -> None:
        """The next wait is the shortest again."""
        self._failures = 0

    def next_s(self, at_least_ms: int = 0) -> float:
        """Seconds to wait now; at least what the server asked for, up to an hour, plus the spread."""
        at_least_ms = min(at_least_ms, MOST_ASKED_MS)
        base = min(BACK_OFF_FIRST_S * 2.0 ** min(self._failures, 20), BACK_OFF_MOST_S)
        self._failures += 1
        return max(base / 2, at_least_ms / 1000) + self._random() * max(base / 2, at_least_ms / 2000)


class Transport:
    """All links of one client to one server. Close it when done; links of it end then. Whoever needs a device link for
    long asks for the next one when the last is over, and waits in between as `BackOff` says."""

    def __init__(
        self,
        origin: str,
        *,
        ssl_context: ssl.SSLContext | None = None,
        idle_s: float = IDLE_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self.origin = origin
        self._url = socket_url(origin)
        self._ssl_context = ssl_context
        self._idle_s = idle_s
        self._connect_timeout_s = connect_timeout_s
        self._anonymous: dict[str, Link] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._devices: set[DeviceLink] = set()

    async def anonymous(self, purpose: str) -> Link:
        """The link for *purpose* ("send", "gate", "keys", "register", …), opened when there is none that lives.

        Purposes never share a link, and a link carries nothing that says who opened it. Raises TransportError.
        Source: docs/protocol/device.md, DEV-50.
        """
        async with self._opening.setdefault(purpose, asyncio.Lock()):
            link = self._anonymous.get(purpose)
            if link is None or not link.is_open:
                link = Link(self.origin, idle_s=self._idle_s)
                await link._open(self._url, self._context(), self._connect_timeout_s)
                self._anonymous[purpose] = link
            return link

    async def device(self, account: AccountId, device: DeviceId, sign: Sign) -> DeviceLink:
        """A new connection, logged in as *device* of *account*; *sign* gets our own idea of the origin, and the nonce.

        Raises TransportError, or WireError when the login was refused.
        """
        link = DeviceLink(self.origin)
        await link._open(self._url, self._context(), self._connect_timeout_s)
        try:
            signature = sign(self.origin, link.welcome.nonce)
            link.logged_in = await link.expect(LoggedIn, lambda request: Login(request, account, device, signature))
        except BaseException:
            link._lose(ConnectionLost(f"The login to {self.origin} failed."))
            raise
        self._devices.add(link)
        return link

    async def close(self) -> None:
        """End every link. Idempotent."""
        links = [*self._anonymous.values(), *self._devices]
        self._anonymous.clear()
        self._devices.clear()
        await asyncio.gather(*(link.close() for link in links))

    def _context(self) -> ssl.SSLContext | None:
        if self._ssl_context is None and self._url.startswith("wss:"):
            self._ssl_context = make_ssl_context()
        return self._ssl_context if self._url.startswith("wss:") else None


# ---------------------------------------------------------------- helpers


def refusal(failed: Failed) -> WireError:
    """The error that *failed* stands for; a number that we do not know yet may be tried again later."""
    kind = CATALOGUE.get(failed.code) or ErrorKind(
        failed.code,
        "unknown",
        Fault.SERVER,
        Retry.LATER,
        "The server refused for a reason that this version does not know.",
    )
    return WireError(kind, retry_after_ms=min(failed.retry_after_ms, MOST_ASKED_MS), detail=failed.detail)


def _copy(error: TransportError) -> TransportError:
    """The same error, fresh: one exception object must not be raised in several tasks."""
    return type(error)(*error.args)


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "no such host is known"
    if error.errno:
        return os.strerror(error.errno).lower()
    return "it ended the connection before TLS 1.3 was agreed on"


__all__ = [
    "BackOff",
    "CertificateWrong",
    "ConnectionLost",
    "DeadlineMissed",
    "DeviceLink",
    "Link",
    "NotTaube",
    "Transport",
    "TransportError",
    "Unreachable",
    "make_ssl_context",
    "refusal",
    "socket_url",
]
