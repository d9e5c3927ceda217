"""A real listener with real sockets before the server of world.py, on loopback, its event loop turned by hand.

`Port.play` is one connection: pieces in, what was answered out. `outcomes` reads such an answer. Both raise `Broken`
for what a server must not do: answer twice, call itself broken, send what is no message, keep a connection for nobody.
"""

import asyncio
import contextlib
import itertools
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

import uvloop

from taube.server import pages
from taube.server.gateway.blobs import BlobTraffic
from taube.server.gateway.listener import Listener, ListenerConfig, ends_one_connection
from taube.server.services.blobs import PREFIX, BlobSettings
from taube.server.stores.objects import ObjectFolder
from taube.wire.codec import decode_reply_or_event
from taube.wire.errors import FrameError
from tests.fuzz import files
from tests.fuzz.world import MOST_BYTES, ORIGIN, PUSH_KEY, Broken, Metrics, World, said

T = TypeVar("T")

_NO_LINGER: Final = struct.pack("ii", 1, 0)
"""A socket closed like this is gone at once, and its port free for one of the next."""

SMALL_BYTES: Final = 4096
"""Buffers of the kernel, so small that a peer that does not read is noticed soon."""
PATIENCE_S: Final = 8.0
"""How long a connection may outlive its peer: far longer than the time for goodbyes, which is short here."""


class Waits(NamedTuple):
    """Time passes for everyone, as far as deadlines are looked at."""

    seconds: float


class Reads(NamedTuple):
    """Whether the peer reads from now on what it is sent."""

    on: bool


class Another(NamedTuple):
    """What follows comes on another connection; those before stay as they are."""


Step = bytes | Waits | Reads | Another


class Traffic(BlobTraffic):
    """The blobs with a folder in memory, small bounds, and no threads: a call happens in the next turn."""

    def __init__(self, world: World, problem: Callable[[str, BaseException], None]) -> None:
        settings = BlobSettings(blob_bytes=2_048, total_bytes=4_096, keep_free_bytes=0, checkpoint_bytes=256)
        super().__init__(
            ObjectFolder(files.empty_folder()),
            settings,
            world.limits,
            world,
            Metrics(),
            spread=world.dispatch.spread,
            bug=world.bugs.append,
            problem=problem,
        )
        self.used_bytes = 0

    async def _call(self, call: Callable[..., T], *arguments: Any) -> T:
        await asyncio.sleep(0)
        return call(*arguments)


class Port:
    """A listener with real transports: `play` sends pieces to a new connection and gives what it answered."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.loop = uvloop.new_event_loop()
        self.loop.set_exception_handler(self._unforeseen)
        self.world: World
        self.blobs: Traffic
        self._contexts: list[dict[str, Any]] = []
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
        self.address = listening.getsockname()
        self.listener = Listener(
            self.loop,
            [listening],
            tls=tls,
            connect=lambda channel, source: self.world.connect(channel, source),
            application=pages.routed(
                pages.public_pages(ORIGIN, PUSH_KEY.public, 0, files.app_folder()),
                {PREFIX: lambda scope, receive, send: self.blobs(scope, receive, send)},
            ),
            longer=lambda target: self.blobs.exchange(target),
            config=ListenerConfig(shutdown_timeout_s=0.01),
            may_connect=lambda source: True,
            refused=lambda reason: None,
        )
        self.listener.start()

    def _unforeseen(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (error is ConnectionResetError or (error and ends_one_connection(error))):  # the class is given, too
            self._contexts.append(context)

    def turn(self) -> None:
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def play(self, steps: Iterable[Step], in_tls: bool = False) -> bytes:
        """Do each step when the one before was noticed; then hang up. What the last connection was answered."""
        return self.converse(steps, in_tls)[-1]

    def converse(self, steps: Iterable[Step], in_tls: bool = False) -> list[bytes]:
        """The same; what each connection was answered."""
        self.world = World(self.loop.call_soon, self.loop.time)
        self.blobs = Traffic(self.world, lambda what, error: self.world.bugs.append(error))
        kind = TlsPeer if in_tls else Peer
        peers = [kind(self)]
        try:
            for step in steps:
                if isinstance(step, Another):
                    peers.append(kind(self))
                else:
                    self._do(peers[-1], step)
                for _ in range(3 + len(step) // 1024 if isinstance(step, bytes) else 3):
                    self.turn()
                self._read(peers)
            self._end(peers)
        finally:
            for peer in peers:
                peer.sock.close()
        self.turn()
        self.world.judge()
        if self._contexts:
            context, self._contexts = self._contexts[0], []
            raise Broken(f"the loop met: {context.get('message')}") from context.get("exception")
        return [bytes(peer.answer) for peer in peers]

    def _read(self, peers: list["Peer"]) -> None:
        for peer in peers:
            peer.read()

    def _end(self, peers: list["Peer"]) -> None:
        """Everyone reads what is still to come, and hangs up; what the server remembers of them is gone then."""
        for peer in peers:
            peer.reads = True
        self.world.mailboxes.tick(self.loop.time() + 1)
        self.world.turn.arm()
        self.turn()
        self._read(peers)
        for peer in peers:
            peer.hang_up()
        self._wait(peers)
        if self.blobs.transfers or self.loop.run_until_complete(self.blobs.sweep(True)):
            raise Broken("a transfer that nobody is at, or a file that is no blob")

    def _do(self, peer: "Peer", step: Step) -> None:
        if isinstance(step, Waits):
            self.world.hub.check(self.loop.time() + step.seconds, *MOST_BYTES)
        elif isinstance(step, Reads):
            peer.reads = step.on
        else:
            peer.send(step)

    def _wait(self, peers: list["Peer"]) -> None:
        """Turn until the connections are forgotten."""
        end = time.monotonic() + PATIENCE_S
        for number in itertools.count():
            self.turn()
            self._read(peers)
            if not (
                self.listener.sources.total or self.listener.greeting or len(self.world.hub) or self.blobs._running
            ):
                return
            if number > 50:
                time.sleep(0.001)
            if time.monotonic() > end:
                raise Broken("the connection outlives its peer")


class Peer:
    """The other end of one connection; `answer` is what came so far."""

    def __init__(self, port: Port) -> None:
        self.answer = bytearray()
        self.reads = True
        self._turn = port.turn
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
        self.sock.connect(port.address)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.sock.setblocking(False)
        port.turn()

    def send(self, data: bytes) -> None:
        waiting = memoryview(data)
        for _ in range(1 + len(data) // 256):
            try:
                waiting = waiting[self.sock.send(waiting) :]
            except BlockingIOError:
                pass
            except OSError:  # the server has hung up
                return
            if not waiting:
                return
            self._turn()

    def read(self) -> None:
        self.answer += self.receive()

    def receive(self) -> bytes:
        found = bytearray()
        if not self.reads:
            return b""
        with contextlib.suppress(OSError):
            while part := self.sock.recv(65_536):
                found += part
        return bytes(found)

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)


class TlsPeer(Peer):
    """The same inside TLS: what is sent and read is what the server's protocols see and write."""

    def __init__(self, port: Port) -> None:
        super().__init__(port)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = _CLIENT.wrap_bio(self._in, self._out)
        for _ in range(8):
            with contextlib.suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
            super().send(self._out.read())
            for _ in range(3):
                port.turn()
            self._in.write(self.receive())
        if self._tls.version() is None:
            raise Broken("no handshake")

    def send(self, data: bytes) -> None:
        if data:
            self._tls.write(data)
            super().send(self._out.read())

    def read(self) -> None:
        self._in.write(self.receive())
        with contextlib.suppress(ssl.SSLError):
            while part := self._tls.read(65_536):
                self.answer += part


def _client() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


_CLIENT: Final = _client()


# ---------------------------------------------------------------- what a server answers


def outcomes(answer: bytes) -> set[str]:
    """What stands in *answer* to one connection. Raises Broken for what a server never says."""
    if not answer:
        return {"nothing"}
    head, end, rest = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0]
    if not end or not status.startswith(b"HTTP/1.1 "):
        return _unclear(f"no HTTP: {answer[:60]!r}")
    if status.startswith(b"HTTP/1.1 5") and status[9:12] not in (b"503", b"507"):
        return _unclear(f"the server calls itself broken: {status!r}")
    if not status.startswith(b"HTTP/1.1 101"):
        if b"HTTP/1.1 " in rest[_length(head) :]:
            return _unclear("two requests of one connection were answered")
        return {status.decode()}
    return {"101", *(_said(frame) for frame in _frames(rest))}


def _length(head: bytes) -> int:
    """What the head of an answer says of the length of its body; 0 if nothing."""
    found = re.search(rb"\r\ncontent-length: (\d+)", head)
    return int(found[1]) if found else 0


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
    """The whole frames; who was cut off has only a part of the last one."""
    at = 0
    while at + 2 <= len(data):
        kind, size, at = data[at], data[at + 1], at + 2
        if size > 125:
            wide = 2 if size == 126 else 8
            size, at = int.from_bytes(data[at : at + wide], "big"), at + wide
        if at + size <= len(data):
            yield kind, data[at : at + size]
        at += size


def _unclear(sentence: str) -> NoReturn:
    raise Broken(sentence)
