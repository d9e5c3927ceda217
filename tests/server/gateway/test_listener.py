"""The public port: TLS, pages beside the WebSocket, first bytes that are slow, too many or nonsense."""

import asyncio
import contextlib
import gc
import socket
import ssl
import time

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from taube.server import pages
from taube.server.config import ListenerConfig, ServerConfig
from taube.server.gateway.listener import Doorstep, Listener, Sources, source_of, websocket_key
from taube.wire import messages as m
from tests.server.rawclient import RawClient
from tests.spec import spec

UPGRADE = (
    b"GET /v1/socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nCookie: a=b\r\n\r\n"
)


def get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def test_nonsense_behind_a_request_puts_no_second_answer_into_the_first(rig):
    """A refused upload is answered before its last bytes are there; what follows them is no request."""
    head = b"PATCH /v1/blobs/x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
    async with rig(tls=False) as server:
        host, _, port = server.server.url.partition("://")[2].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + b"01234")
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n\r\n")
            writer.write(b"56789 nonsense\r\n\r\n")
            answer += await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1") == 1


async def test_a_socket_that_takes_no_options_any_more_ends_its_connection_and_nothing_else(rig):
    """On a Mac that is one whose peer has reset it; here one that is not of TCP."""
    async with rig(tls=False) as server:
        listener = server.server._listener
        ours, theirs = socket.socketpair()
        with ours:
            listener._admit(theirs, None)
            ours.sendall(UPGRADE)
            async with asyncio.timeout(10):
                while listener.sources.total:
                    await asyncio.sleep(0.01)
            assert ours.recv(100) == b""
        assert len(server.server.hub) == 0 and listener.sources.total == 0
        assert isinstance(await (await server.connect()).call(lambda n: m.ReadGate(n, bytes(32))), m.GateState)


async def test_other_requests_get_plain_answers(rig):
    async with rig() as server:
        assert b'"service": "taube"' in await server.http(get("/.well-known/taube"))
        assert (await server.http(get("/none"))).startswith(b"HTTP/1.1 404")
        assert (await server.http(get("/", "POST"))).startswith(b"HTTP/1.1 405")
        assert (await server.http(get("/v1/socket"))).startswith(b"HTTP/1.1 426")
        assert (await server.http(b"BREW / nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400")


@spec("CON-01", "CON-02")
async def test_only_tls_1_3_is_spoken_and_no_session_ticket_is_given(rig):
    async with rig() as server:
        old = ssl.create_default_context(cafile=str(server.certificate[0]))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, OSError)):
            await RawClient.connect(server.server.url, old)
        client = await server.connect()
        tls = client.transport.underlying_transport.get_extra_info("ssl_object")
        assert tls.version() == "TLSv1.3"
        host, _, port = server.server.url.partition("://")[2].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=server.context)
        writer.write(get("/"))
        await reader.read()
        session = writer.get_extra_info("ssl_object").session
        assert session is None or not session.has_ticket
        writer.close()


@spec("CON-01")
async def test_plain_http_speaks_the_same_protocol_on_loopback(rig):
    async with rig(tls=False) as server:
        assert server.server.origin.startswith("http://127.0.0.1:")
        client = await server.connect()
        assert isinstance(await client.call(lambda n: m.ReadGate(n, bytes(32))), m.GateState)
        assert (await server.http(get("/"))).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("tls", [True, False])
async def test_headers_of_every_browser_are_understood_and_early_frames_are_not_lost(rig, tls):
    """Firefox sends `Connection: keep-alive, Upgrade`; a client may send its Hello with the request."""
    hello = b"\x92\x01\x91\x01"
    masked = bytes([0x82, 0x80 | len(hello)]) + bytes(4) + hello
    async with rig(tls=tls) as server:
        host, _, port = server.server.url.partition("://")[2].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=server.context)
        for at in range(0, len(UPGRADE + masked), 50):  # in pieces
            writer.write((UPGRADE + masked)[at : at + 50])
            await writer.drain()
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            assert (await reader.readexactly(2))[0] == 0x82
        writer.close()


@pytest.mark.parametrize(
    "change",
    [
        (b"13", b"12"),
        (b"AAAAAAAAAAAAAAAAAAAAAA==", b"short"),
        (b"websocket", b"h2c"),
        (b"GET", b"POST"),
        (b"Cookie: a=b", b"Content-Length: 5"),
    ],
)
def test_a_request_that_is_no_proper_upgrade_is_left_to_http(change):
    assert websocket_key(UPGRADE.partition(b"\r\n\r\n")[0]) == b"AAAAAAAAAAAAAAAAAAAAAA=="
    assert websocket_key(UPGRADE.partition(b"\r\n\r\n")[0].replace(*change)) is None


async def test_slow_endless_and_senseless_first_bytes_are_cut_off(rig):
    hasty = ServerConfig(listener=ListenerConfig(head_timeout_s=0.1, handshake_timeout_s=0.1))
    async with rig(config=hasty) as server:
        assert await server.http(b"GET / HTTP/1.1\r\nX: slow") == b""
        assert (await server.http(b"GET / HTTP/1.1\r\nX: " + b"y" * 9000)).startswith(b"HTTP/1.1 431")
        assert await server.http(b"\x00\x01\x02") == b""
        host, _, port = server.server.url.partition("://")[2].rpartition(":")
        half, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x16\x03\x01\x02\x00\x01")  # a handshake left half-way
        async with asyncio.timeout(10):
            assert await half.read() == b""
        await asyncio.sleep(0.05)
        assert server.server._listener.sources.total == 0


async def test_a_slow_reader_gets_a_file_to_its_end_and_one_that_stopped_reading_is_cut_off(rig):
    hasty = ServerConfig(listener=ListenerConfig(http_timeout_s=0.5))
    core = next(path.name for path in pages.APP_FOLDER.glob("assets/*.wasm"))
    async with rig(config=hasty, tls=False) as server:
        port = int(server.server.url.rpartition(":")[2])
        with socket.socket() as slow, socket.socket() as stopped:
            for sock in (slow, stopped):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
                sock.connect(("127.0.0.1", port))
                sock.setblocking(False)
                sock.sendall(get(f"/assets/{core}"))
            loop, got, began = asyncio.get_running_loop(), 0, time.monotonic()
            while piece := await loop.sock_recv(slow, 64 * 1024):
                got += len(piece)
                await asyncio.sleep(0.2 if got > 700_000 else 0.02)
            assert got > (pages.APP_FOLDER / "assets" / core).stat().st_size
            assert time.monotonic() - began > 0.7
            async with asyncio.timeout(10):
                while server.server._listener.sources.total:
                    await asyncio.sleep(0.05)


async def test_a_socket_that_says_nothing_is_closed_and_plain_http_on_the_tls_port_is_told_so(rig):
    hasty = ServerConfig(listener=ListenerConfig(handshake_timeout_s=0.1))
    async with rig(config=hasty) as server:
        host, _, port = server.server.url.partition("://")[2].rpartition(":")
        for said, answer in [(b"", b""), (b"GET / HTTP/1.1\r\n\r\n", b"https"), (b"\x00", b"")]:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(said)
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionResetError):
                    assert answer in await reader.read()
            writer.close()
        await asyncio.sleep(0.05)
        assert server.server._listener.sources.total == 0


async def test_many_handshakes_at_once_all_come_through(rig):
    few = ServerConfig(listener=ListenerConfig(handshakes_per_turn=1, accepts_per_turn=4))
    async with rig(config=few) as server:
        clients = await asyncio.gather(*(server.connect() for _ in range(60)))
        assert len(server.server.hub) == 60
        assert isinstance(await clients[-1].call(lambda n: m.ReadGate(n, bytes(32))), m.GateState)


async def test_no_more_handshakes_begin_in_one_turn_than_are_allowed():
    loop = asyncio.get_running_loop()
    turn, entered = 0, []
    done = asyncio.Event()

    def next_turn() -> None:
        nonlocal turn
        turn += 1
        if not done.is_set():
            loop.call_soon(next_turn)

    def enter(sock: socket.socket, source: str | None) -> None:
        entered.append(turn)
        sock.close()
        if len(entered) == 20:
            done.set()

    doorstep = Doorstep(loop, ListenerConfig(handshakes_per_turn=3), enter, lambda source: None)
    pairs = [socket.socketpair() for _ in range(20)]
    for mine, _ in pairs:
        doorstep.wait(mine, None)
    for _, theirs in pairs:
        theirs.send(b"\x16")
    next_turn()
    async with asyncio.timeout(10):
        await done.wait()
    assert max(entered.count(each) for each in entered) == 3
    for _, theirs in pairs:
        theirs.close()


async def waits_for_ever(scope, receive, send):
    """Wants all of the body."""
    while (await receive()).get("more_body"):
        pass
    await asyncio.sleep(60)


async def says_much(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(200):
        await send({"type": "http.response.body", "body": bytes(100_000), "more_body": True})


@pytest.mark.parametrize(
    ("application", "request_"),
    [(waits_for_ever, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"), (says_much, get("/"))],
)
async def test_who_does_not_finish_a_request_or_read_its_answer_is_ended_in_time(application, request_):
    loop = asyncio.get_running_loop()
    bound = socket.create_server(("127.0.0.1", 0))
    config = ListenerConfig(http_timeout_s=0.3)
    listener = Listener(
        loop, [bound], tls=None, connect=lambda channel, source: None, application=application, config=config,
        may_connect=lambda source: True, refused=lambda reason: None,
    )  # fmt: skip
    port = bound.getsockname()[1]
    listener.start()
    try:
        slow = socket.create_connection(("127.0.0.1", port))
        slow.setblocking(False)
        await loop.sock_sendall(slow, request_)
        async with asyncio.timeout(10):
            while not listener.sources.total:
                await asyncio.sleep(0.01)
            while listener.sources.total:
                await asyncio.sleep(0.01)
        slow.close()
    finally:
        listener.stop()
        listener.give_up()


async def test_one_request_of_a_connection_is_served_and_what_follows_takes_no_memory():
    """uvicorn would keep every request that came along, and no longer tell the first that its peer is gone."""
    loop = asyncio.get_running_loop()
    bound = socket.create_server(("127.0.0.1", 0))
    served, gone = [], asyncio.Event()

    async def waits(scope, receive, send):
        served.append(scope["path"])
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    listener = Listener(
        loop, [bound], tls=None, connect=lambda channel, source: None, application=waits, config=ListenerConfig(),
        may_connect=lambda source: True, refused=lambda reason: None,
    )  # fmt: skip
    listener.start()
    try:
        _, writer = await asyncio.open_connection(*bound.getsockname())
        writer.write(get("/first") + get("/more") * 200 + b"nonsense")
        async with asyncio.timeout(30):
            while not served:
                await asyncio.sleep(0.01)
            kept = [each for each in gc.get_objects() if isinstance(each, RequestResponseCycle)]
            assert [each.scope["path"] for each in kept if each.scope["path"] in ("/first", "/more")] == ["/first"]
            del kept
            writer.close()
            await gone.wait()
        assert served == ["/first"]
    finally:
        listener.stop()
        listener.give_up()


async def test_every_connection_is_forgotten_when_it_ends(rig):
    async with rig() as server:
        clients = [await server.connect() for _ in range(5)]
        await server.http(get("/"))
        await server.http(b"\x00")
        for client in clients:
            await client.close()
        async with asyncio.timeout(10):
            while server.server._listener.sources.total or len(server.server.hub):
                await asyncio.sleep(0.02)


async def test_above_its_limit_the_server_turns_connections_away_and_serves_the_rest(rig):
    small = ServerConfig(listener=ListenerConfig(connections=3))
    async with rig(config=small) as server:
        clients = [await server.connect() for _ in range(3)]
        with pytest.raises((OSError, ssl.SSLError)):
            await RawClient.connect(server.server.url, server.context)
        assert isinstance(await clients[0].call(lambda n: m.ReadGate(n, bytes(32))), m.GateState)
        await clients[1].close()
        await asyncio.sleep(0.05)
        await server.connect()


def test_connections_are_counted_by_source_in_memory_only_while_they_are_open():
    sources = Sources(2)
    assert [sources.admit("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert sources.admit("192.0.2.2")
    sources.release("192.0.2.1")
    sources.release("192.0.2.1")
    sources.release("192.0.2.2")
    assert sources.total == 0 and not sources._open


def test_a_source_is_an_address_or_a_network_and_this_machine_is_none():
    assert source_of("192.0.2.7") == "192.0.2.7"
    assert source_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert source_of("2001:db8:1:2:3:4:5:6") == source_of("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert source_of("127.0.0.1") is source_of("::1") is source_of("::ffff:127.0.0.1") is None
