"""Floods a server as fast as one core can, from a process of its own, so that nobody who is measured waits for it.

    python -m bench.flood handshakes PORT SECONDS    TLS handshakes: a ClientHello again and again, until it is answered
    python -m bench.flood connects PORT SECONDS      TCP connections that say nothing; the oldest leave
    python -m bench.flood junk PORT SECONDS          WebSockets whose frames are noise, until the server ends them

A number behind SECONDS says how many there have to be: it goes on until both are reached, for a minute more at most.
Prints how many there were. A ClientHello is made once: its sender pays nothing for it, the server all of its answer.
It gives way to everything else on its core (nice 19). It speaks to 127.0.0.1 only, and ends by itself.
"""

import asyncio
import contextlib
import logging
import os
import selectors
import socket
import ssl
import struct
import sys
import time
from collections import deque
from collections.abc import Callable

from bench import load

Going = Callable[[int], bool]
"""Whether to go on after so many."""

AT_ONCE = 256
"""Handshakes under way."""
LONGEST_S = 60
"""Behind SECONDS, for as many as there have to be."""
SILENT = 2_000
"""Silent connections kept."""
FRAMES = 200


def client_hello() -> bytes:
    """The first bytes of a TLS connection to localhost."""
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def dial(port: int) -> socket.socket:
    """A connection under way; it will end by a reset, so that its port is free at once."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(BlockingIOError):
        sock.connect(("127.0.0.1", port))
    return sock


def handshakes(port: int, going: Going) -> int:
    hello, count, under_way = client_hello(), 0, 0
    selector = selectors.DefaultSelector()
    while going(count):
        while under_way < AT_ONCE:
            selector.register(dial(port), selectors.EVENT_WRITE)
            under_way += 1
        for key, ready in selector.select(0.1):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            try:
                if ready == selectors.EVENT_WRITE:
                    sock.send(hello)
                    selector.modify(sock, selectors.EVENT_READ)
                    continue
                count += bool(sock.recv(65536))
            except OSError:
                pass
            selector.unregister(sock)
            sock.close()
            under_way -= 1
    return count


def connects(port: int, going: Going) -> int:
    count = 0
    silent: deque[socket.socket] = deque()
    while going(count):
        try:
            silent.append(dial(port))
            count += 1
        except OSError:  # no port is free
            time.sleep(0.01)
        if len(silent) > SILENT:
            silent.popleft().close()
    return count


async def junk(port: int, going: Going) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    noise = b"".join(load.frame(os.urandom(size)) for size in (1, 10, 300, 2_000) for _ in range(FRAMES // 4))
    count = 0

    async def one() -> None:
        nonlocal count
        while going(count):
            line = load.Line()
            with contextlib.suppress(OSError, TimeoutError):
                await load.connect(line, port, context)
                line.is_fast = True
                gone = asyncio.Event()
                line.when_lost = gone.set
                line.write(noise)
                async with asyncio.timeout(10):
                    await gone.wait()
                count += FRAMES
            if line.transport is not None:
                line.transport.abort()

    await asyncio.gather(*(one() for _ in range(16)))
    return count


def main() -> None:
    kind, port, seconds, *more = sys.argv[1:]
    os.nice(19)
    end, at_least = time.monotonic() + float(seconds), int(more[0]) if more else 0

    def going(count: int) -> bool:
        return time.monotonic() < (end + LONGEST_S if count < at_least else end)

    if kind == "junk":
        logging.disable()  # asyncio says each time that the server has ended a connection
        print(asyncio.run(junk(int(port), going)))
    else:
        print({"handshakes": handshakes, "connects": connects}[kind](int(port), going))


if __name__ == "__main__":
    main()
