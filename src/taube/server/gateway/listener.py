"""One public port: TLS, the first bytes of a connection, and who speaks from then on: a WebSocket or plain HTTP.

The listener accepts connections itself, so that a source with too many of them is refused before a TLS handshake is
paid for. `FirstBytes` reads one HTTP request head, within a deadline and a bound: `GET /v1/socket` is handed to picows'
WSProtocol (`websocket.upgrade`), all else to uvicorn's HTTP protocol, over the same transport and one request per
connection. aiofastnet's transports are not public API: `make_transport` is their only caller, and the version is pinned
exactly.

Network addresses stay in this file: they are counted in memory and passed on only as an opaque source for limits.
It knows no command, no session and no service. Source: docs/protocol/connection.md, "Transport".
"""

import asyncio
import base64
import binascii
import contextlib
import errno
import importlib.metadata
import ipaddress
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from aiofastnet.selector_transport import SelectorSocketTransport  # type: ignore[import-not-found]
from aiofastnet.ssl_transport import SSLTransport_Socket  # type: ignore[import-not-found]
from uvicorn.config import Config as UvicornConfig
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from taube.server.gateway.connection import Channel, Connection
from taube.server.gateway.websocket import WebSocket, upgrade

if importlib.metadata.version("aiofastnet") != "1.2.0":
    raise ImportError("taube needs aiofastnet 1.2.0 exactly, because it uses a part of it that is not public")

SOCKET_PATH: Final = b"/v1/socket"

Application = Callable[..., Any]
"""An ASGI application."""


@dataclass(frozen=True, slots=True)
class ListenerConfig:
    """What the port allows before a connection has said who it is."""

    accepts_per_turn: int = 32
    """Connections accepted in one turn of the loop, so that those already here are served in between."""
    handshakes_per_turn: int = 8
    """TLS handshakes begun in one turn of the loop; the others wait."""
    connections: int = 100_000
    """Open connections altogether; more are closed at once."""
    connections_per_source: int = 4096
    """Open connections of one IPv4 address or one IPv6 /64 network (mobile networks hide many phones behind one)."""
    handshake_timeout_s: float = 10.0
    """Time until the first byte, and then for the TLS handshake."""
    shutdown_timeout_s: float = 3.0
    """Time for a peer to take what was written last, and to say goodbye."""
    head_timeout_s: float = 10.0
    """Time from the end of the handshake to the end of the first request's head."""
    http_timeout_s: float = 30.0
    """Time for one HTTP request, and then for the peer to take each piece of its answer."""
    head_bytes: int = 8192
    """Size of a request head."""
    http_body_bytes: int = 64 * 1024
    """Size of what may follow the head of an HTTP request."""
    tls_in_bytes: int = 2048
    """Encrypted bytes read from the socket at once, kept per connection."""
    tls_out_bytes: int = 4096
    """Encrypted bytes handed to the socket at once, kept per connection."""
    frame_buffer_bytes: int = 2048
    """Read buffer of a WebSocket; it doubles until the largest frame received fits: up to 229,376 bytes."""


class Sources:
    """Counts open connections by source, in memory only; a source is forgotten with its last connection."""

    __slots__ = ("_limit", "_open", "total")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: dict[str, int] = {}
        self.total = 0

    def admit(self, source: str | None) -> bool:
        """Count one more connection of *source*, or say no."""
        if source is None:
            self.total += 1
            return True
        count = self._open.get(source, 0)
        if count >= self._limit:
            return False
        self._open[source] = count + 1
        self.total += 1
        return True

    def release(self, source: str | None) -> None:
        """One connection of *source* that was admitted is gone."""
        self.total -= 1
        if source is None:
            return
        count = self._open[source] - 1
        if count:
            self._open[source] = count
        else:
            del self._open[source]


def source_of(host: str) -> str | None:
    """What limits count: the IPv4 address, or the /64 network of an IPv6 address; None for this machine itself.

    Behind loopback stands the operator or a proxy, and everyone would share one count.
    """
    if ":" not in host:
        return None if host.startswith("127.") else host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return source_of(str(address.ipv4_mapped))
    if address.is_loopback:
        return None
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.3 only, without session tickets: a ticket would tie anonymous connections to a device.

    Raises KeyIsProtected, OSError or ssl.SSLError if the files cannot be read or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_SINGLE_ECDH_USE
    context.load_cert_chain(certificate, key, _no_passphrase)
    return context


class KeyIsProtected(OSError):
    """The private key asks for a passphrase; a server has nobody who could type it."""


def _no_passphrase() -> str:
    raise KeyIsProtected(errno.EACCES, "it is protected by a passphrase")


# ---------------------------------------------------------------- the first bytes


def websocket_key(head: bytes) -> bytes | None:
    """The key of a request head that asks properly for the socket; None for every other request."""
    lines = head.split(b"\r\n")
    request = lines[0].split(b" ")
    if len(request) != 3 or request[0] != b"GET" or request[2] != b"HTTP/1.1":
        return None
    if request[1].partition(b"?")[0] != SOCKET_PATH:
        return None
    headers: dict[bytes, bytes] = {}
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip(b" \t")
    tokens = {token.strip().lower() for token in headers.get(b"connection", b"").split(b",")}
    if headers.get(b"upgrade", b"").lower() != b"websocket" or b"upgrade" not in tokens:
        return None
    if (
        headers.get(b"sec-websocket-version") != b"13"
        or b"content-length" in headers
        or b"transfer-encoding" in headers
    ):
        return None
    key = headers.get(b"sec-websocket-key", b"")
    try:
        return key if len(base64.b64decode(key, validate=True)) == 16 else None
    except binascii.Error:
        return None


class FirstBytes(asyncio.BufferedProtocol):
    """Reads one request head, then hands the transport to a WebSocket or feeds one HTTP exchange."""

    def __init__(self, listener: "Listener", source: str | None) -> None:
        self._listener = listener
        self._source = source
        self._head = b""
        self._http: HttpToolsProtocol | None = None
        self._body_left = listener.config.http_body_bytes
        self._is_long = False
        """Whether the request has one deadline for all of it, and its application watches how it moves."""
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._deadline = self._listener.loop.call_later(self._listener.config.head_timeout_s, self._transport.abort)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._listener.scratch

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._listener.scratch[:nbytes])
        if self._http is not None:
            self._feed_http(data)
            return
        self._head += data
        if not 0x41 <= self._head[0] <= 0x5A:  # every HTTP method begins with a capital letter
            self._transport.abort()
            return
        head, end, early = self._head.partition(b"\r\n\r\n")
        if len(head) > self._listener.config.head_bytes:
            self._refuse(b"431 Request Header Fields Too Large")
        elif end:
            self._route(head, early)

    def _route(self, head: bytes, early: bytes) -> None:
        key = websocket_key(head)
        if key is None:
            self._become_http()
            return
        self._disarm()
        listener, source = self._listener, self._source
        websocket = WebSocket(listener.loop, lambda: listener.released(source))
        websocket.serve(listener.connect(websocket, source))
        if not upgrade(self._transport, websocket, key, early, listener.config.frame_buffer_bytes):
            self._transport.abort()
        elif not websocket.was_open:  # the peer has gone meanwhile: picows will not tell
            self._transport.abort()
            listener.released(source)

    def _become_http(self) -> None:
        longer = self._listener.longer(self._head.partition(b" ")[2])
        if longer is None:
            self._allow_time()
        else:
            self._disarm()
            self._is_long = True
            self._deadline = self._listener.loop.call_later(longer[0], self._transport.abort)
            self._body_left = longer[1]
        about = {"source": self._source, "abort": self._transport.abort, "has_gone": self._transport.is_closing}
        self._http = self._listener.http(about)
        self._http.connection_made(cast("asyncio.Transport", Resuming(self._transport, self._listener.loop)))
        self._feed_http(self._head)
        self._head = b""

    def _allow_time(self) -> None:
        self._disarm()
        self._deadline = self._listener.loop.call_later(self._listener.config.http_timeout_s, self._transport.abort)

    def _feed_http(self, data: bytes) -> None:
        self._body_left -= len(data)
        if self._body_left < 0:
            self._transport.abort()
        elif self._http is not None and not self._transport.is_closing():
            self._http.data_received(data)

    def _refuse(self, status: bytes) -> None:
        self._transport.write(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self._transport.close()

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self._http is not None:
            self._http.pause_writing()

    def resume_writing(self) -> None:
        if self._http is not None:
            if not self._is_long:
                self._allow_time()
            self._http.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._listener.released(self._source)
        if self._http is not None:
            self._http.connection_lost(exc)
            self._http = None


class Resuming:
    """A transport of aiofastnet that also hands over what it had decrypted when reading was paused.

    Version 1.2.0 forgets that until more arrives from the network, and nothing may: an upload would wait for ever.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def resume_reading(self) -> None:
        self._transport.resume_reading()
        retry = getattr(self._transport, "_retry_ssl_read", None)
        if retry is not None:
            self._loop.call_soon(retry)


def ends_one_connection(error: BaseException) -> bool:
    """Whether *error*, which a loop was told of, is the end of one connection and no fault of the server.

    aiofastnet 1.2.0 raises the second kind for a peer that goes on writing and does not read while it is being closed.
    """
    return isinstance(error, OSError) or (isinstance(error, RuntimeError) and str(error).startswith("incoming BIO: "))


# ---------------------------------------------------------------- the port


class Doorstep:
    """Sockets that were accepted and have not spoken yet: they cost no TLS state until their first byte is there.

    Those that speak are let in a few at a time in each turn of the loop, so that a flood of handshakes makes newcomers
    wait and nobody else. *enter* takes a socket in; *leave* is told of one that went, or was sent, away.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: ListenerConfig,
        enter: Callable[[socket.socket, str | None], None],
        leave: Callable[[str | None], None],
    ) -> None:
        self._loop = loop
        self._config = config
        self._enter = enter
        self._leave = leave
        self._silent: dict[int, tuple[socket.socket, str | None, asyncio.TimerHandle]] = {}
        self._spoken: deque[tuple[socket.socket, str | None]] = deque()

    def wait(self, sock: socket.socket, source: str | None) -> None:
        """Let *sock* in when it speaks; close it when it stays silent for too long."""
        number = sock.fileno()
        deadline = self._loop.call_later(self._config.handshake_timeout_s, self._forget, number)
        self._silent[number] = (sock, source, deadline)
        self._loop.add_reader(number, self._speaks, number)

    def __len__(self) -> int:
        return len(self._silent) + len(self._spoken)

    def clear(self) -> None:
        for number in list(self._silent):
            self._forget(number)
        while self._spoken:
            self._send_away(*self._spoken.popleft())

    def _forget(self, number: int) -> None:
        sock, source, deadline = self._silent.pop(number)
        deadline.cancel()
        self._loop.remove_reader(number)
        self._send_away(sock, source)

    def _speaks(self, number: int) -> None:
        sock, source, deadline = self._silent.pop(number)
        deadline.cancel()
        self._loop.remove_reader(number)
        try:
            first = sock.recv(1, socket.MSG_PEEK)
        except OSError:
            first = b""
        if first == b"\x16":  # the record type of a TLS handshake
            if not self._spoken:
                self._loop.call_soon(self._let_in)
            self._spoken.append((sock, source))
            return
        if first.isalpha():
            with contextlib.suppress(OSError):
                sock.send(_TLS_ONLY)
        self._send_away(sock, source)

    def _let_in(self) -> None:
        for _ in range(min(self._config.handshakes_per_turn, len(self._spoken))):
            self._enter(*self._spoken.popleft())
        if self._spoken:
            self._loop.call_soon(self._let_in)

    def _send_away(self, sock: socket.socket, source: str | None) -> None:
        sock.close()
        self._leave(source)


_TLS_ONLY: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 42\r\nConnection: close\r\n\r\n"
    b"This server speaks https:// (TLS 1.3) only"
)


class Listener:
    """Accepts connections on bound sockets and hands each to `FirstBytes`.

    *connect* makes the Connection of a new WebSocket; *may_connect* says whether a source may have one more now;
    *refused* is told once for each connection turned away. *longer* names, for the target of an HTTP request, the
    seconds and bytes that all of it may take where that is more than usual. The sockets are bound and listen.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: list[socket.socket],
        *,
        tls: ssl.SSLContext | None,
        connect: Callable[[Channel, str | None], Connection],
        application: Application,
        config: ListenerConfig,
        may_connect: Callable[[str | None], bool],
        refused: Callable[[str], None],
        longer: Callable[[bytes], tuple[float, int] | None] = lambda target: None,
    ) -> None:
        self.loop = loop
        self.config = config
        self.connect = connect
        self.tls = tls
        self.scratch = memoryview(bytearray(max(4096, config.head_bytes)))
        self.sources = Sources(config.connections_per_source)
        self._sockets = sockets
        self._may_connect = may_connect
        self._refused = refused
        self.longer = longer
        self._greeting: set[Any] = set()
        self._doorstep = Doorstep(loop, config, self._greet, self._sent_away)
        self.http = http_protocols(loop, application)
        self._accepting = False

    def start(self) -> None:
        self._accepting = True
        for sock in self._sockets:
            sock.setblocking(False)
            self.loop.add_reader(sock.fileno(), self._accept, sock)

    def stop(self) -> None:
        """Accept no more; connections that are open stay."""
        self._accepting = False
        for sock in self._sockets:
            self.loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets = []

    def give_up(self) -> None:
        """Break off what has not become a connection yet. Call after `stop`."""
        self._doorstep.clear()
        for transport in list(self._greeting):
            transport.abort()

    @property
    def greeting(self) -> int:
        """Sockets that wait for their first byte, or for their TLS handshake to begin or to end."""
        return len(self._doorstep) + len(self._greeting)

    def released(self, source: str | None) -> None:
        self.sources.release(source)

    def _sent_away(self, source: str | None) -> None:
        self._refused("handshake")
        self.released(source)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(self.config.accepts_per_turn):
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                self._refused("descriptors")
                self._rest(listening)
                return
            self._admit(sock, source_of(address[0]))

    def _rest(self, listening: socket.socket) -> None:
        self.loop.remove_reader(listening.fileno())

        def again() -> None:
            if self._accepting:
                self.loop.add_reader(listening.fileno(), self._accept, listening)

        self.loop.call_later(0.5, again)

    def _admit(self, sock: socket.socket, source: str | None) -> None:
        if self.sources.total >= self.config.connections:
            reason = "connections"
        elif not self._may_connect(source) or not self.sources.admit(source):
            reason = "source"
        else:
            sock.setblocking(False)
            if self.tls is None:
                self._greet(sock, source)
            else:
                self._doorstep.wait(sock, source)
            return
        self._refused(reason)
        sock.close()

    def _greet(self, sock: socket.socket, source: str | None) -> None:
        """Shake hands; `FirstBytes` releases the source when the connection ends, this only if it never began."""
        waiter = self.loop.create_future()

        def greeted(waiter: asyncio.Future[None]) -> None:
            self._greeting.discard(transport)
            if waiter.cancelled() or waiter.exception() is not None:
                self._sent_away(source)

        try:
            transport = make_transport(self.loop, FirstBytes(self, source), sock, self.tls, waiter, self.config)
        except OSError:  # the peer has gone already
            sock.close()
            self._sent_away(source)
            return
        self._greeting.add(transport)
        waiter.add_done_callback(greeted)


def make_transport(
    loop: asyncio.AbstractEventLoop,
    protocol: asyncio.BaseProtocol,
    sock: socket.socket,
    tls: ssl.SSLContext | None,
    waiter: asyncio.Future[None],
    config: ListenerConfig,
) -> Any:
    """aiofastnet's transport on an accepted socket; *waiter* ends with the handshake.

    `aiofastnet.connect_accepted_socket` does the same with a task for each connection, and with buffers of at least
    16 KiB, which an idle connection would keep. These classes are not public API: the version is pinned exactly.
    """
    if tls is None:
        return SelectorSocketTransport(loop, sock, protocol, waiter=waiter)
    return SSLTransport_Socket(
        loop,
        protocol,
        tls,
        True,  # server side
        config.handshake_timeout_s,
        config.shutdown_timeout_s,
        config.tls_in_bytes,
        config.tls_out_bytes,
        sock,
        waiter=waiter,
    )


class OneAnswer(HttpToolsProtocol):
    """uvicorn's protocol for one request: what follows it is dropped, and nonsense there ends the connection once the
    answer has begun.

    uvicorn would keep all that comes in one piece until its turn, hundreds of requests for each connection, would no
    longer tell the first one when its peer is gone, and would write a second answer into the first.
    """

    _is_whole = False
    """Whether the request has come to its end."""

    def data_received(self, data: bytes) -> None:
        if not self._is_whole:
            super().data_received(data)

    def on_message_complete(self) -> None:
        if not self._is_whole:
            self._is_whole = True
            super().on_message_complete()

    def on_message_begin(self) -> None:
        if not self._is_whole:
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_whole:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_whole:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._is_whole:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._is_whole:
            super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        if self._is_whole:
            return
        if self.cycle is not None and self.cycle.response_started:
            self.transport.close()
        else:
            super().send_400_response(msg)


def http_protocols(loop: asyncio.AbstractEventLoop, application: Application) -> Callable[..., HttpToolsProtocol]:
    """Makes a protocol for each HTTP connection to *application*: no logs, signals, lifespan or proxies.

    What is made takes the `state` that the application finds in its scope.
    """
    config = UvicornConfig(
        application,
        http=OneAnswer,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="critical",
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )
    config.load()
    state = ServerState()
    return lambda about=None: OneAnswer(config, state, about or {}, loop)
