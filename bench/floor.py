"""What the transport alone costs: the four TLS records of one message, moved by a server that does nothing else.

    python -m bench.floor

A bare server over the same event loop and TLS transport (uvloop, aiofastnet), without WebSocket, protocol, mailboxes or
limits: it hands what one connection of a pair sends to the other, and the answer back. What `taube serve` costs
beyond this is ours; below it no change of our own code leads. Sizes are those of a 300-byte message.
"""

import asyncio
import multiprocessing
import os
import random
import ssl
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiofastnet
import uvloop

from bench import machine, served
from taube.testing import make_certificate

SEND, DELIVER, ACKNOWLEDGE, SENT = (bytes([size & 255]) * size for size in (359, 321, 9, 8))
_SCRATCH = memoryview(bytearray(64 * 1024))


class Bare(asyncio.BufferedProtocol):
    """Counts bytes; *on* is called with how many came."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.other: Bare | None = None
        self.got = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, hint: int) -> memoryview:
        return _SCRATCH

    def buffer_updated(self, size: int) -> None:
        self.came(size)

    def came(self, size: int) -> None: ...


class Half(Bare):
    """The server's end: the first byte ever says which pair and which half it is; then it relays."""

    waiting: dict[int, "Half"] = {}  # noqa: RUF012

    def came(self, size: int) -> None:
        if self.other is None:
            key = int.from_bytes(_SCRATCH[:4], "big")
            other = self.waiting.pop(key, None)
            if other is None:
                self.waiting[key] = self
            else:
                self.other, other.other = other, self
                self.transport.write(b"!")
                other.transport.write(b"!")
            return
        self.other.transport.write(SENT if size % len(ACKNOWLEDGE) == 0 else DELIVER)


def serve(certificate: tuple[Path, Path], pipe: Connection) -> None:
    """The bare server, in a process of its own."""
    machine.pin(machine.SERVER_CORE)
    machine.raise_descriptors()

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.num_tickets = 0
    tls.load_cert_chain(*certificate)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await aiofastnet.create_server(loop, Half, "127.0.0.1", 0, ssl=tls)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)
        os._exit(0)

    uvloop.run(run())


class Sender(Bare):
    def came(self, size: int) -> None:
        self.got += size // len(SENT)
        if running[0]:
            self.transport.write(SEND)


class Receiver(Bare):
    def came(self, size: int) -> None:
        self.got += 1
        self.transport.write(ACKNOWLEDGE)


running = [False]


async def measure(pid: int, port: int, tls: Any, pairs: int, rate: float, seconds: float) -> float:
    """µs of server CPU per message: saturated with one message under way in each pair (*rate* 0), or at *rate*."""
    loop = asyncio.get_running_loop()
    senders, receivers = [], []
    for key in range(pairs):
        for kind, made in ((Sender, senders), (Receiver, receivers)):
            _, one = await aiofastnet.create_connection(
                loop, kind, "127.0.0.1", port, ssl=tls, server_hostname="localhost"
            )
            one.transport.write(key.to_bytes(4, "big"))
            made.append(one)
    await asyncio.sleep(0.5)
    running[0] = not rate
    stop = False
    if rate:
        chance, next_at = random.Random(7), loop.time()

        def send() -> None:
            nonlocal next_at
            while next_at <= loop.time():
                senders[chance.randrange(pairs)].transport.write(SEND)
                next_at += chance.expovariate(rate)
            if not stop:
                loop.call_at(next_at, send)

        send()
    else:
        for sender in senders:
            sender.transport.write(SEND)
    await asyncio.sleep(0.5)
    before, began = sum(each.got for each in receivers), machine.cpu_ns(pid)
    await asyncio.sleep(seconds)
    used = (machine.cpu_ns(pid) - began) / 1000 / (sum(each.got for each in receivers) - before)
    running[0], stop = False, True
    await asyncio.sleep(0.2)
    for each in senders + receivers:
        each.transport.abort()
    return used


def main() -> None:
    machine.pin(machine.LOAD_CORE)
    with tempfile.TemporaryDirectory() as folder:
        certificate = make_certificate(Path(folder))
        mine, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(target=serve, args=(certificate, theirs), daemon=True)
        process.start()
        assert process.pid is not None
        port = mine.recv()
        tls = served.Served(Path(folder), certificate).tls
        for name, pairs, rate in (("256 x 1 saturated", 256, 0.0), ("1,000 a second", 100, 1000.0)):
            values = sorted(
                uvloop.run(measure(process.pid, port, tls, pairs, rate, 1.5 if not rate else 4)) for _ in range(3)
            )
            print(f"{name}: {values[1]:.1f} µs ({values[0]:.1f} – {values[2]:.1f})", flush=True)
        process.kill()
        process.join()


if __name__ == "__main__":
    main()
