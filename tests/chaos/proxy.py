"""A TCP proxy on loopback that can cut, slow and swallow what goes through it.

    async with Proxy(listen_port, server_port) as proxy:
        proxy.cut()              every connection ends now, without a goodbye
        proxy.delay_s = 0.05     each piece of data waits this long (its order is kept)
        proxy.black_hole = True  nothing is passed on, nothing is closed, new connections are accepted and stay silent

Data moves through bounded buffers, so that a reader who stops reading is felt on the other side.
"""

import asyncio
import contextlib
import socket
import struct
from typing import Any

PIECE_BYTES = 64 * 1024


class Proxy:
    """Listens on loopback; passes on to another port of loopback."""

    def __init__(self, listen_port: int, server_port: int) -> None:
        self.listen_port = listen_port
        self.server_port = server_port
        self.delay_s = 0.0
        self.black_hole = False
        self.refuse = False
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.listen_port, backlog=2048, limit=PIECE_BYTES
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        self.heal()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def heal(self) -> None:
        """Pass everything on at once again. What a black hole swallowed is gone: its connections are cut."""
        if self.black_hole:
            self.black_hole = False
            self.cut()
        self.delay_s = 0.0
        self._open.set()

    def swallow(self) -> None:
        """Become a black hole until `heal`."""
        self.black_hole = True
        self._open.clear()

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        writers = list(self._writers)
        for writer in writers:
            _reset(writer)
        return len(writers) // 2

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._open.wait()
            there, to_server = await asyncio.open_connection("127.0.0.1", self.server_port, limit=PIECE_BYTES)
            self._writers.add(to_server)
            try:
                await asyncio.gather(self._pump(reader, to_server), self._pump(there, writer))
            finally:
                self._writers.discard(to_server)
                _reset(to_server)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            _reset(writer)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(PIECE_BYTES):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._open.wait()
            target.write(data)
            await target.drain()
        with contextlib.suppress(OSError):
            target.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset, as a lost network would look in the end."""
    sock: Any = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport: Any = writer.transport
    transport.abort()
