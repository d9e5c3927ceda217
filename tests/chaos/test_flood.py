"""Floods of every kind against one server: the right answer or an end, bounded memory, and the others served meanwhile.

A witness writes to a friend all the time; each message has to be kept within a generous deadline. After each flood the
server has closed everything and gone back to the descriptors it had. The figures of a real machine are the bench's.
"""

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from taube.wire import messages as m
from taube.wire.errors import BAD_FRAME, BUSY, OUT_OF_ORDER, UNKNOWN_TYPE
from tests.chaos.folk import KEPT, Folk, memory_kb, metric
from tests.chaos.world import ROOT, FaultyServer
from tests.server.rawclient import RawClient

SERVED_WITHIN_S = 10.0
CONFIG = """
[listener]
handshake_timeout_s = 2
head_timeout_s = 2
http_timeout_s = 3
[connection]
hello_timeout_s = 2
stalled_s = 3
frames_bytes_of_all = 4_000_000
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyServer]:
    server = FaultyServer(tmp_path_factory.mktemp("flood"), config=CONFIG)
    server.begin()
    yield server
    assert "Traceback" not in server.log.read_text() and '"bug"' not in server.log.read_text()
    assert server.stop() == 0


def descriptors(server: FaultyServer) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


@contextlib.asynccontextmanager
async def witnessed(server: FaultyServer, *, grows_kb: int) -> AsyncIterator[Folk]:
    """Two friends who go on writing during a flood; afterwards everything is as before."""
    async with Folk(server) as folk:
        bob = await folk.member()
        device = await folk.online(bob)
        await device.next(m.CaughtUp)
        await folk.kept(bob, b"warm")
        slowest = 0.0
        peak = 0
        over = False

        async def read() -> None:
            while True:
                event = await device.events.get()
                assert isinstance(event, m.Deliver)
                device.acknowledge(event.number)

        async def write() -> int:
            nonlocal slowest, peak
            count = 0
            while not (over and count):
                began = time.monotonic()
                async with asyncio.timeout(SERVED_WITHIN_S):
                    assert await folk.kept(bob, b"witness %d" % count)
                slowest = max(slowest, time.monotonic() - began)
                peak = max(peak, memory_kb(server.pid))
                count += 1
                await asyncio.sleep(0.05)
            return count

        base_kb, base = memory_kb(server.pid), descriptors(server)
        reading, writing = asyncio.create_task(read()), asyncio.create_task(write())
        try:
            yield folk
            over = True
            assert await writing > 0
            print(f"slowest {slowest * 1000:.0f} ms, memory +{peak - base_kb} KB")
            assert peak - base_kb < grows_kb
            async with asyncio.timeout(20):
                while descriptors(server) > base + 2:
                    await asyncio.sleep(0.05)
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)


def dial(server: FaultyServer) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.connect(("127.0.0.1", server.listen_port))
    return sock


async def all_closed(socks: list[socket.socket], timeout_s: float = 20.0) -> None:
    """The server ends each of them; what it says before is read."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        for sock in socks:
            with contextlib.suppress(OSError):
                while await loop.sock_recv(sock, 65536):
                    pass
            sock.close()


def half_a_handshake(context: ssl.SSLContext) -> bytes:
    """A ClientHello, as the server would get it."""
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


# ---------------------------------------------------------------- connections


async def silence(server: FaultyServer, count: int, first: bytes = b"") -> None:
    async with witnessed(server, grows_kb=20_000 + 10 * count):  # with a TLS state each, it would be 51
        loop = asyncio.get_running_loop()
        socks = []
        for n in range(count):
            socks.append(dial(server))
            if first:
                await loop.sock_connect(socks[-1], ("127.0.0.1", server.listen_port))
                await loop.sock_sendall(socks[-1], first)
            elif n % 50 == 0:
                await asyncio.sleep(0)
        await all_closed(socks, 60)


async def test_connections_that_send_nothing_cost_little_and_are_ended(server: FaultyServer) -> None:
    await silence(server, 800)


@pytest.mark.slow
async def test_ten_thousand_connections_that_send_nothing(server: FaultyServer) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 11_000:
        pytest.skip(f"this machine allows a process {most} files; `ulimit -Hn` has to say 11,000")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        await silence(server, 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_handshakes_left_half_way_are_ended(server: FaultyServer) -> None:
    await silence(server, 200, half_a_handshake(ssl.create_default_context(cafile=str(server.certificate))))


async def test_what_is_no_tls_at_all_is_ended(server: FaultyServer) -> None:
    await silence(server, 200, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


async def burst(server: FaultyServer, count: int) -> None:
    async with witnessed(server, grows_kb=60_000):
        refused = metric(server, "taube_connections_refused_total")
        for n in range(count):  # as fast as this process can: it waits for nobody
            sock = dial(server)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", n % 2, 0))
            sock.close()
            if n % 100 == 0:
                await asyncio.sleep(0)
        async with asyncio.timeout(60):  # the kernel drops those for which there is no room in the queue
            while metric(server, "taube_connections_refused_total") < refused + count / 2:
                await asyncio.sleep(0.1)


async def test_a_burst_of_connects_that_leave_at_once_is_survived(server: FaultyServer) -> None:
    await burst(server, 1000)


@pytest.mark.slow
async def test_five_thousand_connects_in_a_burst(server: FaultyServer) -> None:
    await burst(server, 5000)


async def flood(server: FaultyServer, kind: str, at_least: int, *, grows_kb: int) -> None:
    """As fast as one core can, from a process of its own, for two seconds and until at least so many came about."""
    command = (sys.executable, "-m", "bench.flood", kind, str(server.listen_port), "2", str(at_least))
    async with witnessed(server, grows_kb=grows_kb):
        child = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE)
        try:
            async with asyncio.timeout(90):
                said, _ = await child.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        print(kind, said.decode().strip())
        assert int(said) >= at_least, "that was no flood"


async def test_tls_handshakes_as_fast_as_one_core_can_offer_them(server: FaultyServer) -> None:
    await flood(server, "handshakes", 500, grows_kb=80_000)


async def test_tcp_connects_as_fast_as_one_core_can_make_them(server: FaultyServer) -> None:
    await flood(server, "connects", 5_000, grows_kb=80_000)


async def test_slow_loris_is_ended(server: FaultyServer) -> None:
    async with witnessed(server, grows_kb=40_000) as folk:

        async def drip(first: bytes) -> None:
            reader, writer = await asyncio.open_connection("localhost", server.listen_port, ssl=folk.tls)
            writer.write(first)
            end = asyncio.create_task(reader.read())
            for _ in range(200):
                if end.done():
                    break
                with contextlib.suppress(OSError):
                    writer.write(b"X: y\r\n")
                    await writer.drain()
                await asyncio.sleep(0.05)
            async with asyncio.timeout(10):
                with contextlib.suppress(OSError):
                    await end
            writer.transport.abort()

        post = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n"
        await asyncio.gather(*(drip(b"GET / HTTP/1.1\r\n") for _ in range(20)), *(drip(post) for _ in range(20)))


# ---------------------------------------------------------------- frames


async def test_junk_frames_as_fast_as_one_core_can_send_them(server: FaultyServer) -> None:
    await flood(server, "junk", 10_000, grows_kb=80_000)


async def test_each_wrong_frame_gets_its_number_and_the_connection_goes_on(server: FaultyServer) -> None:
    async with witnessed(server, grows_kb=20_000) as folk:
        client = await folk.connect()
        hello = b"\x92\x01\x91\x01"
        for frame, kind in (
            (hello, OUT_OF_ORDER),  # repeated
            (b"\x92\x05\x01", OUT_OF_ORDER),  # an acknowledgement before a login
            (b"\x92\xcc\xfa\x01", UNKNOWN_TYPE),
            (b"", BAD_FRAME),
            (b"\x94\x04\x01\x00", BAD_FRAME),  # cut off
        ):
            client.send_bytes(frame)
            failed = await client.next(m.Failed)
            assert failed.code == kind.code, frame
        bob = await folk.member()
        assert (await client.send([bob.address], b"x")).statuses == KEPT


async def test_frames_that_are_repeated_do_no_harm(server: FaultyServer) -> None:
    async with witnessed(server, grows_kb=20_000) as folk:
        bob = await folk.member()
        client = await folk.connect()
        claim = client.session.request(lambda n: m.ClaimGate(n, b"r" * 32, b"v"))[1]
        send = client.session.request(lambda n: m.Send(n, 0, [bob.address], b"again"))[1]
        for frame in (claim, claim, send, send, send):
            client.send_bytes(frame)
        assert (await folk.kept(bob, b"after")) is True
        read = await folk.read_all(bob)
        assert set(read) == {b"again", b"after"} and read[-1] == b"after"
        assert await folk.read_all(bob) == []


async def test_a_frame_cut_off_by_the_end_of_its_connection_is_forgotten(server: FaultyServer) -> None:
    async with witnessed(server, grows_kb=40_000) as folk:
        bob = await folk.member()
        for size in (1, 3, 60, 5000):
            client = await folk.connect()
            _, frame = client.session.request(lambda n: m.Send(n, 0, [bob.address], bytes(60_000)))
            head = b"\x82\xff" + len(frame).to_bytes(8, "big") + bytes(4)
            client.transport.underlying_transport.write((head + frame)[:size])
            await asyncio.sleep(0.01)
            client.transport.underlying_transport.abort()
        assert await folk.read_all(bob) == []


async def test_frames_that_never_end_share_a_bound_and_their_senders_are_told_to_come_again(
    server: FaultyServer,
) -> None:
    unfinished = b"\x82\xff" + (130_000).to_bytes(8, "big") + bytes(4) + bytes(120_000)
    whole = m.Send(1, 0, [bytes(41)], bytes(60_000))
    async with witnessed(server, grows_kb=40_000) as folk:
        idle = await folk.connect()
        busy = []
        for n in range(150):  # 18 MB without the bound, and more in buffers
            client = await folk.connect()
            if n % 5 == 4:  # buffers that have grown for a frame that came to its end
                assert isinstance(await client.call(lambda _: whole), m.Sent)
            else:
                client.transport.underlying_transport.write(unfinished)
            busy.append(client)
        async with asyncio.timeout(30):
            while metric(server, "taube_frames_bytes") > 4_000_000 or sum(each.gone.is_set() for each in busy) < 100:
                await asyncio.sleep(0.2)
        ended = next(each for each in busy if each.gone.is_set())
        assert (await ended.next(m.Failed)).code == BUSY.code
        assert isinstance(await idle.call(lambda n: m.ReadGate(n, bytes(32))), m.GateState), "others stay"
        for client in (idle, *busy):
            client.transport.disconnect(False)


async def test_devices_that_stop_reading_cost_a_window_and_their_mail_is_stored(server: FaultyServer) -> None:
    async with witnessed(server, grows_kb=60_000) as folk:
        members = await folk.members(8)
        stopped: list[RawClient] = []
        for member in members:
            device = await folk.online(member)
            await device.next(m.CaughtUp)
            device.transport.underlying_transport.pause_reading()
            stopped.append(device)
        sender = await folk.connect()
        addresses = [member.address for member in members]
        for n in range(60):
            assert (await sender.send(addresses, b"%d " % n + bytes(60_000))).statuses == KEPT * 8
        for device in stopped:
            device.transport.underlying_transport.abort()
        for member in members[:2]:
            assert len(await folk.read_all(member)) == 60


async def test_whoever_asks_and_asks_and_never_reads_the_answers_is_cut_off(server: FaultyServer) -> None:
    async with witnessed(server, grows_kb=60_000) as folk:
        greedy = await folk.connect()
        name = os.urandom(32)
        await greedy.call(lambda n: m.ClaimGate(n, name, bytes(48_000)))
        greedy.transport.underlying_transport.pause_reading()
        for _ in range(900):  # 43 MB
            greedy.post(lambda n: m.ReadGate(n, name)).add_done_callback(lambda answer: answer.exception())
            if greedy.gone.is_set():
                break
            await asyncio.sleep(0)
        await asyncio.sleep(0.2)
        greedy.transport.underlying_transport.resume_reading()
        await greedy.closed()


async def test_addresses_that_lead_nowhere_are_gone_and_remembered_nowhere(server: FaultyServer) -> None:
    async with witnessed(server, grows_kb=20_000) as folk:
        bob, carol = await folk.members(2)
        device = await folk.online(bob)
        minted = (await device.mint())[0]
        await device.call(lambda n: m.RevokeAddress(n, minted.serial))
        await device.close()
        device = await folk.online(carol)
        await device.call(lambda n: m.DeleteAccount(n))
        altered = [bytes((bob.address[0],)) + os.urandom(40) for _ in range(1000)]
        sender = await folk.connect()
        bad = [*altered, minted.address, carol.address, b"\xfe" + bob.address[1:]]
        for _ in range(5):
            reply = await sender.send([*bad, bob.address], b"x")
            assert bytes(reply.statuses) == bytes([m.STATUS_GONE]) * len(bad) + KEPT
        claimed = await sender.call(lambda n: m.ClaimKeyPackage(n, altered[0], 1))
        assert isinstance(claimed, m.Failed) and claimed.code == 40
