"""The lean client: one protocol object for each connection, frames encoded beforehand, no task for any message.

A `Line` is a TLS connection upgraded to a WebSocket. While it is set up, frames are decoded (`call`); under load, a
subclass only counts them by their first bytes. Client frames are masked, as RFC 6455 demands, when they are made.
It uses the same TLS transport as the server (aiofastnet over OpenSSL), since that is the fastest there is; the
WebSocket side is written here.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import aiofastnet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from taube.wire import messages as m
from taube.wire.codec import decode_reply_or_event, encode
from taube.wire.session import login_message

UPGRADE = (
    b"GET /v1/socket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CALL_TIMEOUT_S = 30.0
_SCRATCH = memoryview(bytearray(256 * 1024))


def frame(payload: bytes) -> bytes:
    """*payload* as one masked binary WebSocket frame."""
    size = len(payload)
    mask = os.urandom(4)
    if size < 126:
        head = bytes((0x82, 0x80 | size))
    elif size < 65536:
        head = b"\x82\xfe" + size.to_bytes(2, "big")
    else:
        head = b"\x82\xff" + size.to_bytes(8, "big")
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return head + mask + (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


HELLO = frame(encode(m.Hello([m.PROTOCOL_VERSION])))
_acknowledgements: list[bytes] = []


def acknowledgement(number: int) -> bytes:
    """The frame that acknowledges up to *number*; each is made once and kept."""
    while len(_acknowledgements) <= number:
        _acknowledgements.append(frame(encode(m.Acknowledge(len(_acknowledgements)))))
    return _acknowledgements[number]


class Device(NamedTuple):
    """What a client needs to log in, and addresses that lead to it (only some devices have any)."""

    account: bytes
    device: bytes
    login_key: bytes
    addresses: tuple[bytes, ...] = ()


class Line(asyncio.BufferedProtocol):
    """One connection to the server."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.write: Callable[[bytes], None]
        self.welcome: m.Welcome
        self._rest = b""
        self._upgraded = False
        self._requests = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_fast = False
        self.is_lost = False
        self.caught_up = False
        self.retry_after_ms: int | None = None
        self.when_lost: Callable[[], None] | None = None

    # from the transport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.write = transport.write
        self.write(UPGRADE)

    def get_buffer(self, hint: int) -> memoryview:
        return _SCRATCH

    def buffer_updated(self, size: int) -> None:
        data = bytes(_SCRATCH[:size])
        if self._rest:
            data = self._rest + data
            self._rest = b""
        if not self._upgraded:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self.transport.abort()
                return
            self._upgraded = True
            self.write(HELLO)
            if not data:
                return
        self._take(data)

    def _take(self, data: bytes) -> None:
        at, end, fast = 0, len(data), self.is_fast
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if size == 126:
                start = at + 4
                if end < start:
                    break
                size = data[at + 2] << 8 | data[at + 3]
            elif size == 127:
                start = at + 10
                if end < start:
                    break
                size = int.from_bytes(data[at + 2 : start], "big")
            after = start + size
            if after > end:
                break
            if data[at] != 0x82:
                self._control(data[at] & 15, data[start:after])
            elif fast:
                self.frame(data, start, after)
            else:
                self._slow_frame(data[start:after])
                fast = self.is_fast
            at = after
        if at < end:
            self._rest = data[at:]
        if fast:
            self.turned()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        for waiting in (*self._waiting.values(), self._ready):
            if not waiting.done():
                waiting.set_exception(ConnectionError("the server closed the connection"))
        if self._ready.done() and not self._ready.cancelled():
            self._ready.exception()  # whoever waited heard it; nobody else needs to
        if self.when_lost is not None:
            self.when_lost()

    # for subclasses

    def frame(self, data: bytes, start: int, end: int) -> None:
        """One frame under load."""

    def turned(self) -> None:
        """Everything that was read at once has been given to `frame`."""

    def event(self, event: Any) -> None:
        """An event while not under load."""

    # setting up

    def _control(self, kind: int, payload: bytes) -> None:
        if kind == 9:
            self.write(b"\x8a\x80\0\0\0\0")
        elif kind == 8:
            self.transport.close()

    def _slow_frame(self, payload: bytes) -> None:
        message = decode_reply_or_event(payload)
        if isinstance(message, m.Welcome):
            self.welcome = message
            if not self._ready.done():
                self._ready.set_result(None)
        elif isinstance(message, m.CaughtUp):
            self.caught_up = True
        elif isinstance(message, m.Draining):
            self.retry_after_ms = message.retry_after_ms
        elif isinstance(message, m.Deliver | m.Replaced):
            self.event(message)
        elif isinstance(message, m.Failed) and message.request not in self._waiting:
            self.retry_after_ms = message.retry_after_ms or self.retry_after_ms
        else:
            waiting = self._waiting.pop(getattr(message, "request", 0), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)

    async def ready(self) -> None:
        """Wait for the server's Welcome."""
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await self._ready

    async def call(self, build: Callable[[int], m.Command]) -> Any:
        """Send a command and wait for its reply."""
        self._requests += 1
        number = self._requests
        self._waiting[number] = waiting = asyncio.get_running_loop().create_future()
        self.write(frame(encode(build(number))))
        async with asyncio.timeout(CALL_TIMEOUT_S):
            return await waiting

    async def log_in(self, device: Device) -> Any:
        """The reply to a Login of *device*."""
        message = login_message(self.welcome.origin, device.device, self.welcome.nonce)
        signature = Ed25519PrivateKey.from_private_bytes(device.login_key).sign(message)
        return await self.call(lambda n: m.Login(n, device.account, device.device, signature))


async def connect(line: Line, port: int, tls: Any) -> Line:
    """Connect *line* to the server and wait for its Welcome. Raises OSError or TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CALL_TIMEOUT_S):
        await aiofastnet.create_connection(
            loop, lambda: line, "127.0.0.1", port, ssl=tls, server_hostname="localhost" if tls else None
        )
    await line.ready()
    return line


async def gathered(work: list[Any], at_once: int = 32) -> list[Any]:
    """The results of coroutines, so many at once."""
    gate = asyncio.Semaphore(at_once)

    async def one(each: Any) -> Any:
        async with gate:
            return await each

    return await asyncio.gather(*(one(each) for each in work))


class Receiver(Line):
    """A device that acknowledges what it is delivered: each envelope on its own, or all that came at once together."""

    def __init__(self, *, each: bool = True) -> None:
        super().__init__()
        self.each = each
        self.number = 0
        self._out: list[bytes] = []
        self.clock: Callable[[], float] | None = None
        self.sent_at: deque[float] = deque()
        self.latencies: list[float] = []
        self.on_delivery: Callable[[], None] | None = None

    def frame(self, data: bytes, start: int, end: int) -> None:
        if data[start + 1] != 0xCC or data[start + 2] != 0x80:  # not a Deliver
            self._slow_frame(data[start:end])
            return
        self.number += 1
        if self.each:
            self._out.append(acknowledgement(self.number))
        if self.clock is not None:
            self.latencies.append(self.clock() - self.sent_at.popleft())

    def turned(self) -> None:
        if self._out:
            self.write(b"".join(self._out))
            self._out.clear()
        elif not self.each and self.number:
            self.write(acknowledgement(self.number))


class Sender(Line):
    """An anonymous connection that keeps *window* sends under way: frames made beforehand, used in turn.

    `answered` counts replies, `refused` those whose status (of the last address) was not *kept*, `failed` the Failed.
    """

    def __init__(self, frames: list[bytes], window: int) -> None:
        super().__init__()
        self._frames = frames * 2 if len(frames) >= window else frames * (window // len(frames) + 2)
        self._period = len(frames)
        self._at = 0
        self.window = window
        self.left = 0
        self.sent = self.answered = self.refused = self.failed = 0
        self._credit = 0
        self.when_answered: Callable[[], None] | None = None

    def begin(self, count: int) -> None:
        """Start *count* sends, at most `window` at once."""
        self.is_fast = True
        self.left = count
        self._go(self.window)

    def send(self, count: int) -> None:
        """Send the next *count* frames now."""
        at = self._at
        self.write(b"".join(self._frames[at : at + count]) if count > 1 else self._frames[at])
        self._at = (at + count) % self._period
        self.sent += count

    def _go(self, room: int) -> None:
        count = min(room, self.left)
        if count > 0:
            self.left -= count
            self.send(count)

    def frame(self, data: bytes, start: int, end: int) -> None:
        if data[start + 1] == 68:
            self.answered += 1
            self._credit += 1
            if data[end - 1]:
                self.refused += 1
        elif data[start + 1] == 66:
            self.answered += 1
            self._credit += 1
            self.failed += 1

    def turned(self) -> None:
        credit, self._credit = self._credit, 0
        if credit:
            if self.left:
                self._go(credit)
            if self.when_answered is not None:
                self.when_answered()


def send_frames(addresses: list[bytes], body_bytes: int, count: int) -> list[bytes]:
    """*count* frames of Send, each with a body of its own to all of *addresses*; request ids from 1."""
    return [frame(encode(m.Send(number, 0, addresses, os.urandom(body_bytes)))) for number in range(1, count + 1)]
