"""A whole server in one thread for the fuzzer: real listener, connections, commands and services, the same each time.

`World` is what server/app.py builds, with the engine of dictionaries and with fixed keys, randomness and time: one
account whose device can log in, one address that can be sent to, one invitation. `Line` is a channel without a socket.
`Port` puts a real listener with real sockets before it, on loopback and in an event loop that is turned by hand.

It knows nothing about fuzzing: it raises `Broken` for what a server must not do, whatever it was sent.
"""

import asyncio
import contextlib
import re
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from typing import Any, Final, NoReturn

import uvloop

from taube.server import pages, secrets
from taube.server.gateway.connection import Channel, Connection, ConnectionConfig, Turn
from taube.server.gateway.dispatch import Dispatch
from taube.server.gateway.hub import Hub
from taube.server.gateway.listener import Listener, ListenerConfig
from taube.server.limits import Limits
from taube.server.ports import MailboxId
from taube.server.services import accounts, registration
from taube.server.services.mailboxes import Mailboxes, MailboxSettings
from taube.server.stores.memory import MemoryStore, MemoryTables
from taube.wire.codec import decode_reply_or_event
from taube.wire.errors import FrameError
from taube.wire.messages import Event, Failed, Reply
from taube.wire.session import ServerSession, login_message
from tests.server.services.people import Person

ORIGIN: Final = "https://taube.example"
NOW_MS: Final = 1_790_000_000_000
NONCE: Final = bytes(range(32))
INVITATION: Final = b"invitation 16 by"
MAILBOX: Final = MailboxId(b"mailbox 16 bytes")
SERIAL: Final = b"serial 8"
PERSON: Final = Person(1)
NEWCOMER: Final = Person(2)
SEALER: Final = secrets.AddressKeys({0: bytes(range(64))}, 0)
ADDRESS: Final = SEALER.seal(MAILBOX, SERIAL)
SIGNATURE: Final = PERSON.login_keys[0].sign(login_message(ORIGIN, PERSON.device_id(0), NONCE))


class Broken(AssertionError):
    """The server did what it must not do."""


def _random(size: int) -> bytes:
    return b"\x5a" * size


def _prepared() -> MemoryTables:
    tables = MemoryTables()
    new = accounts.check_new(PERSON.genesis, PERSON.device_list(), secrets.verify)
    accounts.create(tables, new, 202609, lambda size: bytes(MAILBOX)[:size])
    registration.invite(tables, 3, 30, NOW_MS, lambda size: INVITATION[:size])
    return tables


_TABLES: Final = _prepared()


class _Metrics:
    """Keeps nothing; INTERNAL among the refusals is a bug that somebody swallowed."""

    def count(self, name: str, amount: float = 1, reason: str = "") -> None:
        if reason == "internal":
            raise Broken("a command was refused as an internal error")

    def gauge(self, name: str, value: float) -> None: ...
    def observe(self, name: str, value: float) -> None: ...


class World:
    """One server's parts, new for each input. *call_soon* and *monotonic* are a loop's, or by hand."""

    def __init__(
        self, call_soon: Callable[..., Any] | None = None, monotonic: Callable[[], float] | None = None
    ) -> None:
        self.now = 1_000.0
        self.bugs: list[BaseException] = []
        self._soon: deque[Callable[[], None]] = deque()
        self._call_soon = call_soon or self._soon.append
        self.monotonic = monotonic or (lambda: self.now)
        self.store = MemoryStore(self._call_soon)
        self.store.tables = deepcopy(_TABLES)
        self.turn = Turn(self._call_soon, self._finish)
        self.hub = Hub()
        self.mailboxes = Mailboxes(MailboxSettings(), self.store, lambda: 500_000, self.turn.arm)
        self.dispatch = Dispatch(
            origin=ORIGIN,
            store=self.store,
            mailboxes=self.mailboxes,
            sealer=SEALER,
            verify=secrets.verify,
            hub=self.hub,
            limits=Limits(),
            time=self,
            random=_random,
            metrics=_Metrics(),
            log_bug=self.bugs.append,
        )

    def wall_ms(self) -> int:
        return NOW_MS

    def guarded_ms(self) -> int:
        return NOW_MS

    def _finish(self) -> None:
        self.mailboxes.flush()

    def connect(self, channel: Channel, source: str | None = None) -> Connection:
        session = ServerSession(nonce=NONCE, origin=ORIGIN, now_ms=NOW_MS, generation=bytes(16))
        return Connection(
            channel,
            session,
            self.dispatch,
            source=source,
            turn=self.turn,
            time=self.monotonic,
            config=ConnectionConfig(),
        )

    def run(self) -> None:
        """Do what is due, without a loop, and raise what went wrong."""
        while self._soon:
            self._soon.popleft()()
        self.judge()

    def later(self, seconds: float) -> None:
        """Let time pass, without a loop."""
        self.now += seconds
        self.mailboxes.tick(self.now)
        self.turn.arm()
        self.run()
        self.hub.check(self.now, 1 << 28)
        self.run()

    def judge(self) -> None:
        if self.bugs:
            raise Broken("a bug that a connection met") from self.bugs[0]


class Line:
    """A channel that keeps what was written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, payloads: list[bytes]) -> int:
        self.written += payloads
        return 0

    def waiting(self) -> int:
        return 0

    def taken(self) -> int:
        return len(self.written)

    def ping(self) -> None: ...
    def pong(self, payload: bytes) -> None: ...

    def close(self, code: int) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


def said(message: Reply | Event) -> str:
    """What a server said, in one short text without what varies."""
    if isinstance(message, Failed):
        return f"Failed {message.code} {plain(message.detail)}"
    return type(message).__name__


def plain(text: str) -> str:
    """A message for people without the numbers and values in it."""
    return re.sub(r"(?<!\[)\d+|'[^']*'|“[^”]*”|`[^`]{30,}`", "", text)[:80]


_NO_LINGER: Final = struct.pack("ii", 1, 0)
"""A socket closed like this is gone at once, and its port free for one of the next."""

TURNS: Final = 400
"""Turns of the loop after which a connection whose peer has gone has to be forgotten."""


class Port:
    """A listener with real transports: `play` sends pieces to a new connection and gives what it answered."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.loop = uvloop.new_event_loop()
        self.loop.set_exception_handler(self._unforeseen)
        self.world: World
        self._contexts: list[dict[str, Any]] = []
        listening = socket.create_server(("127.0.0.1", 0))
        self._address = listening.getsockname()
        self.listener = Listener(
            self.loop,
            [listening],
            tls=tls,
            connect=lambda channel, source: self.world.connect(channel, source),
            application=pages.public_pages(ORIGIN),
            config=ListenerConfig(),
            may_connect=lambda source: True,
            refused=lambda reason: None,
        )
        self.listener.start()

    def _unforeseen(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) or error is ConnectionResetError):  # aiofastnet gives the class, too
            self._contexts.append(context)

    def turn(self) -> None:
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def play(self, pieces: Iterable[bytes], then: Callable[[socket.socket], None] | None = None) -> bytes:
        """Send each piece when the one before was read; then hang up. Raises Broken."""
        self.world = World(self.loop.call_soon, self.loop.time)
        ours = socket.create_connection(self._address)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        ours.setblocking(False)
        answer = bytearray()
        try:
            self.turn()
            for piece in pieces:
                self._send(ours, piece)
                for _ in range(3):
                    self.turn()
                answer += _read(ours)
            self.world.mailboxes.tick(self.loop.time() + 1)
            self.world.turn.arm()
            self.turn()
            answer += _read(ours)
            _hang_up(ours)
            for _ in range(TURNS):
                self.turn()
                answer += _read(ours)
                if not self.listener.sources.total and not self.listener.greeting and not len(self.world.hub):
                    break
            else:
                raise Broken("the connection outlives its peer")
        finally:
            ours.close()
        self.turn()
        self.world.judge()
        if self._contexts:
            context, self._contexts = self._contexts[0], []
            raise Broken(f"the loop met: {context.get('message')}") from context.get("exception")
        return bytes(answer)

    def _send(self, sock: socket.socket, piece: bytes) -> None:
        waiting = memoryview(piece)
        for _ in range(1 + len(piece) // 256):
            try:
                waiting = waiting[sock.send(waiting) :]
            except BlockingIOError:
                pass
            except OSError:  # the server has hung up
                return
            if not waiting:
                return
            self.turn()


def _hang_up(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


def _read(sock: socket.socket) -> bytes:
    found = bytearray()
    try:
        while part := sock.recv(65_536):
            found += part
    except OSError:
        pass
    return bytes(found)


# ---------------------------------------------------------------- what a server answers


def outcomes(answer: bytes) -> set[str]:
    """What stands in *answer* to one connection. Raises Broken for what a server never says."""
    if not answer:
        return {"nothing"}
    head, end, rest = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0]
    if not end or not status.startswith(b"HTTP/1.1 "):
        return _unclear(f"no HTTP: {answer[:60]!r}")
    if status.startswith(b"HTTP/1.1 5"):
        return _unclear(f"the server calls itself broken: {status!r}")
    if not status.startswith(b"HTTP/1.1 101"):
        if b"HTTP/1.1" in rest:
            return _unclear("two requests of one connection were answered")
        return {status.decode()}
    return {"101", *(_said(frame) for frame in _frames(rest))}


def _said(frame: tuple[int, bytes]) -> str:
    kind, payload = frame
    if kind == 0x88:
        return f"close {int.from_bytes(payload[:2], 'big')}"
    if kind == 0x82:
        try:
            return said(decode_reply_or_event(payload))
        except FrameError as error:
            raise Broken(f"the server sent what is no message: {payload[:40]!r}") from error
    return f"frame {kind:#x}"


def _frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 2 <= len(data):
        kind, size, at = data[at], data[at + 1], at + 2
        if size > 125:
            wide = 2 if size == 126 else 8
            size, at = int.from_bytes(data[at : at + wide], "big"), at + wide
        yield kind, data[at : at + size]
        at += size


def _unclear(sentence: str) -> NoReturn:
    raise Broken(sentence)
