"""A WebSocket of picows as the channel of a connection: frames in, joined writes out, and the upgrade that begins it.

The one wrapper around picows on the server. Its WSProtocol is not public API: `upgrade` is its only caller, and the
version is pinned exactly. Keeps no header and no network address, and logs nothing.
It knows no command and no session. Source: docs/protocol/connection.md, "Transport".
"""

import asyncio
import importlib.metadata
from collections.abc import Callable
from typing import Any, Final

import picows
from picows.picows import WSAutoPingStrategy, WSProtocol  # type: ignore[attr-defined]

from taube.server.gateway.connection import Connection
from taube.wire.messages import MAX_FRAME_BYTES

if importlib.metadata.version("picows") != "2.3.1":
    raise ImportError("taube needs picows 2.3.1 exactly, because it uses a part of it that is not public")


class _Silence:
    """Stands where picows wants a logger: it would log network addresses, and keep a logger per connection."""

    name = "silence"

    def isEnabledFor(self, level: int) -> bool:
        return False

    def _nothing(self, *args: object, **kwargs: object) -> None: ...

    debug = info = warning = error = exception = log = _nothing


_SILENCE = _Silence()
_TEXT, _BINARY = picows.WSMsgType.TEXT, picows.WSMsgType.BINARY
_PING, _PONG, _CLOSE = picows.WSMsgType.PING, picows.WSMsgType.PONG, picows.WSMsgType.CLOSE
_CONTINUATION = picows.WSMsgType.CONTINUATION
_SHORT_HEADERS: Final = [bytes((0x82, size)) for size in range(126)]
_WS_MAX_BYTES: Final = MAX_FRAME_BYTES + 1024
"""Larger frames picows itself ends with close code 1009; between ours and this one they get a numbered error."""


class WebSocket(picows.WSListener):
    """One upgraded connection: the Channel of a Connection, writes joined by whoever calls `write`."""

    __slots__ = (
        "_buffer_bytes", "_connection", "_handed", "_loop", "_partial", "_release", "_transport", "_write", "was_open",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, release: Callable[[], None]) -> None:
        self._loop = loop
        self._release = release
        self._buffer_bytes = 1
        self._transport: Any = None
        self._write: Callable[[bytes], None] | None = None
        self._handed = 0
        self._partial: bytearray | None = None
        self._connection: Connection
        self.was_open = False
        """Whether the upgrade went through."""

    def serve(self, connection: Connection) -> None:
        self._connection = connection

    def begins_with(self, buffer_bytes: int) -> None:
        """The size of picows' read buffer before anything came."""
        self._buffer_bytes = buffer_bytes

    # from picows

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._transport = transport.underlying_transport
        self._write = self._transport.write
        self.was_open = True
        self._connection.opened()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if self._write is None or transport.is_close_frame_sent:  # ended, by us or by picows, which parses on
            return
        if frame.rsv1 or frame.rsv2 or frame.rsv3:  # picows sees to all else that the RFC forbids, but knows extensions
            self.close(1002)
        elif frame.msg_type == _BINARY and frame.fin and self._partial is None:
            self._connection.received(frame.get_payload_as_memoryview())
        else:
            self._rare_frame(frame)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Let go of everything: a circle would stay until a full collection, which a server rarely makes."""
        connection = self._connection
        self._end()
        self._transport = None
        del self._connection
        self._release()
        connection.lost()

    def pause_writing(self) -> None:
        if self._write is not None:
            self._connection.writing_paused()

    def resume_writing(self) -> None:
        if self._write is not None:
            self._connection.writing_resumed()

    def _rare_frame(self, frame: picows.WSFrame) -> None:
        kind = frame.msg_type
        if kind in (_BINARY, _CONTINUATION):
            self._fragment(frame)
        elif kind == _PING:
            self._connection.pinged(frame.get_payload_as_bytes())
        elif kind == _PONG:
            self._connection.ponged()
        elif kind == _CLOSE:
            self.close(1000)
        else:
            self._connection.received_text()

    def _fragment(self, frame: picows.WSFrame) -> None:
        starts = frame.msg_type == _BINARY
        if starts == (self._partial is not None):
            self.close(1002)
            return
        if self._partial is None:
            self._partial = bytearray()
        self._partial += frame.get_payload_as_memoryview()
        if len(self._partial) > _WS_MAX_BYTES:
            self.close(1009)
        elif frame.fin:
            whole, self._partial = self._partial, None
            self._connection.received(memoryview(whole))

    # for the Connection

    def write(self, payloads: list[bytes]) -> int:
        """Send each payload as one binary frame, all in one write; the bytes that now wait for a slow reader."""
        if self._write is None:
            return 0
        parts: list[bytes] = []
        for payload in payloads:
            size = len(payload)
            if size < 126:
                parts.append(_SHORT_HEADERS[size])
            elif size < 65536:
                parts.append(b"\x82\x7e" + size.to_bytes(2, "big"))
            else:
                parts.append(b"\x82\x7f" + size.to_bytes(8, "big"))
            parts.append(payload)
        joined = b"".join(parts)
        self._handed += len(joined)
        self._write(joined)
        return int(self._transport.get_write_buffer_size())

    def waiting(self) -> int:
        return int(self._transport.get_write_buffer_size()) if self._write is not None else 0

    def taken(self) -> int:
        return self._handed - self.waiting()

    def held(self) -> int:
        """Bytes of buffers grown for large frames, or for one that has not come to its end.

        picows does not tell the size of its buffer, only how much of it is free. It doubles, whenever nine tenths are
        used: a free part that is no doubling of the first size means that a frame is unfinished, and then the buffer
        counts as one that holds the largest.
        """
        if self._write is None:
            return 0
        first, free = self._buffer_bytes, len(self._transport.get_protocol().get_buffer(-1))
        times, rest = divmod(free, first)
        if rest or times & (times - 1):
            free = first
            while free * 9 < _WS_MAX_BYTES * 10:
                free *= 2
        return free - first + (len(self._partial) if self._partial is not None else 0)

    def ping(self) -> None:
        if self._write is not None:
            self._write(b"\x89\x00")

    def pong(self, payload: bytes) -> None:
        if self._write is not None:
            self._write(bytes((0x8A, len(payload))) + payload)

    def close(self, code: int) -> None:
        """Say why, flush what is written, and close; a peer that does not read is cut off by the shutdown timeout."""
        if self._write is not None:
            self._write(b"\x88\x02" + code.to_bytes(2, "big"))
            self._end()
            self._transport.close()

    def abort(self) -> None:
        """Close at once and forget what was not sent."""
        self._end()
        if self._transport is not None:
            self._transport.abort()

    def _end(self) -> None:
        """Neither write nor put fragments together any more."""
        self._write = self._partial = None

    def pause_reading(self) -> None:
        if self._write is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on, first what was already decrypted: aiofastnet 1.2.0 forgets it if the socket has nothing new."""
        if self._write is not None:
            self._transport.resume_reading()
            retry = getattr(self._transport, "_retry_ssl_read", None)
            if retry is not None:
                self._loop.call_soon(retry)


def upgrade(
    transport: asyncio.Transport, listener: WebSocket, key: bytes, early: bytes, frame_buffer_bytes: int
) -> bool:
    """Let picows take over *transport*, as if it had read the request itself. Whether it did.

    It does not when the socket takes no options any more (on a Mac: when the peer has reset it). It must not see the
    end of such a connection: without a transport it would end the process.

    It gets a request of ours, which holds nothing that the client sent but the key: browsers differ in headers that
    picows is strict about. It keeps request and answer as long as the connection lives; their headers are dropped here.
    """
    request = (
        b"GET /v1/socket HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )
    protocol = WSProtocol(
        None,  # host and port
        None,  # path
        False,  # is client
        lambda _request: listener,
        _SILENCE,
        True,  # disconnect on exception
        None,  # handshake timeout: the handshake is already here
        False,  # automatic ping
        10,
        10,
        WSAutoPingStrategy.PING_WHEN_IDLE,
        False,  # automatic pong
        _WS_MAX_BYTES,
        None,  # extra headers
        frame_buffer_bytes,
    )
    listener.begins_with(len(protocol.get_buffer(-1)))
    try:
        protocol.connection_made(transport)
    except OSError:
        return False
    transport.set_protocol(protocol)
    waiting = memoryview(request + early)
    while waiting and not transport.is_closing():
        space = protocol.get_buffer(-1)
        size = min(len(space), len(waiting))
        space[:size] = waiting[:size]
        waiting = waiting[size:]
        protocol.buffer_updated(size)
    for kept in (protocol.transport.request, protocol.transport.response):
        if kept is not None:
            kept.headers = None
    return True
