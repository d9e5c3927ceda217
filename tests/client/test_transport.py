"""The client's links against a real server on loopback: requests, deadlines, events, reconnecting, certificates."""

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from picows import WSMsgType

from taube.client.transport import (
    QUEUE_BYTES,
    BackOff,
    CertificateWrong,
    ConnectionLost,
    DeadlineMissed,
    NotTaube,
    Transport,
    TransportError,
    Unreachable,
    make_ssl_context,
    socket_url,
)
from taube.testing import make_certificate
from taube.wire.codec import encode
from taube.wire.errors import ADDRESS_GONE, LOGIN_REFUSED, RATE_LIMITED, WireError
from taube.wire.messages import (
    Acknowledge,
    CaughtUp,
    Deliver,
    Done,
    Draining,
    Failed,
    GateState,
    LoggedIn,
    Login,
    MintAddresses,
    Minted,
    ReadGate,
    Replaced,
)
from tests.client.tiny_server import NONCE, TinyServer, server_context, tiny_server
from tests.spec import spec

ACCOUNT, DEVICE = b"a" * 32, b"d" * 16


def transport_to(server: TinyServer, **options: object) -> Transport:
    return Transport(server.origin, **options)  # type: ignore[arg-type]


def look(request: int) -> ReadGate:
    return ReadGate(request, b"g" * 32)


def run(story: Callable[[TinyServer], Awaitable[None]]) -> None:
    async def main() -> None:
        async with tiny_server() as server, asyncio.timeout(20):
            server.answer = lambda c: GateState(c.request, b"v") if isinstance(c, ReadGate) else None
            await story(server)

    asyncio.run(main())


def sign(origin: str, nonce: bytes) -> bytes:
    assert nonce == NONCE
    return b"s" * 64


def test_a_request_gets_its_reply_and_requests_may_be_pipelined() -> None:
    async def story(server: TinyServer) -> None:
        link = await transport_to(server).anonymous("gate")
        assert link.welcome.generation == b"g" * 16
        replies = await asyncio.gather(*(link.expect(GateState, look) for _ in range(50)))
        assert [reply.value for reply in replies] == [b"v"] * 50
        assert len(server.connections) == 1

    run(story)


@spec("DEV-50", "DEV-51")
def test_purposes_never_share_a_connection_and_one_purpose_reuses_its_own() -> None:
    async def story(server: TinyServer) -> None:
        transport = transport_to(server)
        sends, gates, again = await asyncio.gather(*(transport.anonymous(p) for p in ("send", "gate", "send")))
        assert sends is again and sends is not gates
        assert len(server.connections) == 2
        await transport.close()

    run(story)


@spec("DEV-50")
def test_an_idle_anonymous_link_is_closed_and_the_next_one_is_new() -> None:
    async def story(server: TinyServer) -> None:
        transport = transport_to(server, idle_s=0.02)
        link = await transport.anonymous("send")
        await link.request(look)
        while link.is_open:
            await asyncio.sleep(0.005)
        assert await transport.anonymous("send") is not link

    run(story)


def test_a_refusal_is_a_typed_error_and_the_link_stays_good() -> None:
    async def story(server: TinyServer) -> None:
        server.answer = lambda c: Failed(c.request, ADDRESS_GONE.code)
        link = await transport_to(server).anonymous("gate")
        with pytest.raises(WireError) as caught:
            await link.request(look)
        assert caught.value.kind is ADDRESS_GONE
        server.answer = lambda c: GateState(c.request, b"v")
        await link.request(look)

    run(story)


def test_a_refusal_of_a_number_from_the_future_may_be_tried_later() -> None:
    async def story(server: TinyServer) -> None:
        server.answer = lambda c: Failed(c.request, 999, 5000)
        link = await transport_to(server).anonymous("gate")
        with pytest.raises(WireError) as caught:
            await link.request(look)
        assert (caught.value.kind.code, caught.value.retry_after_ms) == (999, 5000)

    run(story)


def test_a_missed_deadline_is_told_and_ends_the_link() -> None:
    async def story(server: TinyServer) -> None:
        server.answer = lambda c: None
        link = await transport_to(server).anonymous("gate")
        with pytest.raises(DeadlineMissed, match="did not answer within"):
            await link.request(look, timeout_s=0.03)
        assert not link.is_open

    run(story)


def test_a_cut_connection_fails_every_request_under_way() -> None:
    async def story(server: TinyServer) -> None:
        server.answer = lambda c: None
        link = await transport_to(server).anonymous("gate")
        requests = [asyncio.create_task(link.request(look)) for _ in range(3)]
        while len(server.connections[0].commands) < 4:
            await asyncio.sleep(0.005)
        server.connections[0].cut()
        results = await asyncio.gather(*requests, return_exceptions=True)
        assert [type(result) for result in results] == [ConnectionLost] * 3
        with pytest.raises(ConnectionLost):
            await link.request(look)

    run(story)


def test_a_draining_server_gets_no_new_request_but_answers_what_is_under_way() -> None:
    async def story(server: TinyServer) -> None:
        waiting: list[int] = []
        server.answer = lambda c: waiting.append(c.request)  # type: ignore[func-returns-value]
        transport = transport_to(server)
        link = await transport.anonymous("gate")
        request = asyncio.create_task(link.expect(GateState, look))
        while not waiting:
            await asyncio.sleep(0.005)
        server.connections[0].say(Draining(0))
        while link.is_open:
            await asyncio.sleep(0.005)
        server.connections[0].say(GateState(waiting[0], b"still"))
        assert (await request).value == b"still"
        assert await transport.anonymous("gate") is not link

    run(story)


def test_a_cancelled_request_leaves_the_link_good_and_its_late_reply_is_ignored() -> None:
    async def story(server: TinyServer) -> None:
        late: list[int] = []
        server.answer = lambda c: late.append(c.request)  # type: ignore[func-returns-value]
        link = await transport_to(server).anonymous("gate")
        request = asyncio.create_task(link.request(look))
        while not late:
            await asyncio.sleep(0.005)
        request.cancel()
        server.answer = lambda c: GateState(c.request, b"second")
        server.connections[0].say(GateState(late[0], b"first"))
        assert (await link.expect(GateState, look)).value == b"second"

    run(story)


@spec("CON-03")
def test_a_frame_comes_in_fragments_too_and_what_is_none_ends_the_link() -> None:
    def pieces(server: TinyServer, *sent: tuple[WSMsgType, bytes, bool]) -> None:
        for kind, data, is_last in sent:
            server.connections[-1].transport.send(kind, data, is_last)

    async def story(server: TinyServer) -> None:
        asked: list[int] = []
        server.answer = lambda command: asked.append(command.request)  # type: ignore[union-attr, func-returns-value]
        whole, binary, more = encode(GateState(1, b"v" * 1000)), WSMsgType.BINARY, WSMsgType.CONTINUATION
        link = await transport_to(server).anonymous("gate")
        reply = asyncio.create_task(link.request(look))
        while not asked:
            await asyncio.sleep(0)
        assert asked == [1]
        pieces(server, (binary, whole[:9], False), (more, whole[9:500], False), (WSMsgType.PING, b"", True))
        pieces(server, (more, b"", False), (more, whole[500:], True))
        assert await reply == GateState(1, b"v" * 1000)
        wrong = [
            [(more, b"x", True)],
            [(binary, b"x", False), (binary, b"x", True)],
            [(binary, b"x" * 100_000, False), (more, b"x" * 100_000, True)],
            [(WSMsgType.TEXT, b"x", True)],
        ]
        for each in wrong:
            link = await transport_to(server).anonymous("gate")
            reply = asyncio.create_task(link.request(look))
            await asyncio.sleep(0)
            pieces(server, *each)
            with pytest.raises(NotTaube):
                await reply

    run(story)


def test_frames_that_are_no_protocol_end_the_link() -> None:
    async def story(server: TinyServer) -> None:
        server.answer = lambda c: None
        link = await transport_to(server).anonymous("gate")
        request = asyncio.create_task(link.request(look))
        await asyncio.sleep(0.02)
        server.connections[0].transport.send(WSMsgType.BINARY, b"\xc1 nonsense")
        with pytest.raises(NotTaube):
            await request

    run(story)


def test_a_device_link_logs_in_and_brings_events_in_order() -> None:
    async def story(server: TinyServer) -> None:
        link = await transport_to(server).device(ACCOUNT, DEVICE, sign)
        assert isinstance(link.logged_in, LoggedIn)
        assert isinstance(server.connections[0].commands[-1], Login)
        for number in range(1, 1001):
            server.connections[0].say(Deliver(number, b"s" * 8, b"x"))
        server.connections[0].say(CaughtUp(1000))
        seen = []
        async for batch in link.events():
            seen += batch
            if isinstance(batch[-1], CaughtUp):
                break
        assert [event.number for event in seen[:-1]] == list(range(1, 1001))
        link.acknowledge(1000)
        while not isinstance(server.connections[0].commands[-1], Acknowledge):
            await asyncio.sleep(0.005)
        await link.close()

    run(story)


def test_events_that_had_arrived_are_still_read_after_the_link_was_cut() -> None:
    async def story(server: TinyServer) -> None:
        link = await transport_to(server).device(ACCOUNT, DEVICE, sign)
        server.connections[0].say(Deliver(1, b"s" * 8, b"x"))
        while not link._queue:
            await asyncio.sleep(0.005)
        server.connections[0].cut()
        assert [batch async for batch in link.events()] == [[Deliver(1, b"s" * 8, b"x")]]
        assert isinstance(link.lost, ConnectionLost)

    run(story)


def test_a_reader_that_is_behind_makes_the_server_wait_and_loses_nothing() -> None:
    async def story(server: TinyServer) -> None:
        link = await transport_to(server).device(ACCOUNT, DEVICE, sign)
        connection, body, count = server.connections[0], b"x" * 60_000, 0
        while not connection.paused.is_set():
            count += 1
            connection.say(Deliver(count, b"s" * 8, body))
            await asyncio.sleep(0)
            assert count < 5000
        assert link._queued_bytes < 40_000_000
        numbers: list[int] = []
        async for batch in link.events():
            numbers += [event.number for event in batch]
            if numbers[-1] == count:
                break
        assert numbers == list(range(1, count + 1))

    run(story)


def test_a_request_is_answered_even_while_the_event_queue_is_full() -> None:
    async def story(server: TinyServer) -> None:
        server.answer = lambda c: Minted(c.request, []) if isinstance(c, MintAddresses) else None
        link = await transport_to(server).device(ACCOUNT, DEVICE, sign)
        for number in range(1, 3001):
            server.connections[0].say(Deliver(number, b"s" * 8, b"x" * 200))
        while link._reading:
            await asyncio.sleep(0.005)
        await link.expect(Minted, lambda request: MintAddresses(request, 1))

    run(story)


def test_ephemeral_envelopes_are_dropped_first_when_we_are_behind() -> None:
    async def story(server: TinyServer) -> None:
        link = await transport_to(server).device(ACCOUNT, DEVICE, sign)
        for number in range(1, 301):
            server.connections[0].say(Deliver(number, b"s" * 8, b"x"))
        server.connections[0].say(Deliver(0, b"s" * 8, b"typing"))
        server.connections[0].say(CaughtUp(300))
        while len(link._queue) < 301:
            await asyncio.sleep(0.005)
        seen = []
        async for batch in link.events():
            seen += batch
            if isinstance(batch[-1], CaughtUp):
                break
        assert 0 not in [event.number for event in seen[:-1]]

    run(story)


def test_a_device_link_ends_when_the_server_drains_or_another_takes_over_and_says_why() -> None:
    async def story(server: TinyServer) -> None:
        transport = transport_to(server)
        drained = await transport.device(ACCOUNT, DEVICE, sign)
        server.connections[0].say(Draining(4000))
        replaced = await transport.device(ACCOUNT, DEVICE, sign)
        server.connections[1].say(Replaced())
        for link, connection in zip((drained, replaced), server.connections, strict=True):
            async for _ in link.events():
                connection.cut()
            assert isinstance(link.lost, ConnectionLost)
        assert (drained.reconnect_after_ms, drained.replaced) == (4000, False)
        assert (replaced.reconnect_after_ms, replaced.replaced) == (0, True)

    run(story)


def test_a_login_that_is_refused_is_told_with_its_reason_and_leaves_no_link() -> None:
    async def story(server: TinyServer) -> None:
        for kind, wait_ms in ((RATE_LIMITED, 2000), (LOGIN_REFUSED, 0)):
            server.answer = lambda c, kind=kind, wait_ms=wait_ms: Failed(c.request, kind.code, wait_ms)
            with pytest.raises(WireError) as caught:
                await transport_to(server).device(ACCOUNT, DEVICE, sign)
            assert (caught.value.kind, caught.value.retry_after_ms) == (kind, wait_ms)
        while not all(connection.transport.is_disconnected for connection in server.connections):
            await asyncio.sleep(0.005)

    run(story)


def test_back_off_doubles_spreads_and_is_capped() -> None:
    spread = BackOff(random.Random(1).random)
    waits = [spread.next_s() for _ in range(12)]
    assert all(0.25 * 2 ** min(n, 7) * 0.9 <= wait <= 60 for n, wait in enumerate(waits) if n < 7)
    assert all(30 <= wait <= 60 for wait in waits[8:])
    spread.succeeded()
    assert 0.25 <= spread.next_s() <= 0.5


def test_a_server_that_calls_itself_otherwise_is_refused() -> None:
    async def story(server: TinyServer) -> None:
        server.calls_itself = "https://other.example"
        with pytest.raises(NotTaube, match=r"calls itself https://other\.example"):
            await transport_to(server).anonymous("send")

    run(story)


def test_a_server_that_says_nothing_is_unreachable_in_time() -> None:
    async def story(server: TinyServer) -> None:
        server.silent = True
        with pytest.raises(Unreachable, match="did not answer within"):
            await transport_to(server, connect_timeout_s=0.05).anonymous("send")

    run(story)


def test_nothing_listening_and_another_kind_of_server_are_told_apart() -> None:
    async def main() -> None:
        async def not_websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()

        web = await asyncio.start_server(not_websocket, "127.0.0.1", 0)
        port = web.sockets[0].getsockname()[1]
        origin = f"http://127.0.0.1:{port}"
        with pytest.raises(NotTaube, match="is not a Taube server"):
            await Transport(origin).anonymous("send")
        web.close()
        await web.wait_closed()
        with pytest.raises(Unreachable, match="connection refused"):
            await Transport(origin).anonymous("send")

    asyncio.run(main())


def context_for(file: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return make_ssl_context()


def test_tls_with_the_right_certificate_works_and_is_version_1_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        certificate = make_certificate(tmp_path)
        async with tiny_server(server_context(certificate)) as server:
            server.answer = lambda c: Done(c.request)
            transport = transport_to(server, ssl_context=context_for(certificate[0], monkeypatch))
            link = await transport.anonymous("send")
            assert link._transport is not None
            first = link._transport.underlying_transport.get_extra_info("ssl_object")
            assert first.version() == "TLSv1.3"
            again = await transport.anonymous("gate")
            assert again._transport is not None
            assert not again._transport.underlying_transport.get_extra_info("ssl_object").session_reused
            await transport.close()

    asyncio.run(main())


def test_over_tls_a_reader_that_was_behind_gets_the_rest_though_the_server_says_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        certificate = make_certificate(tmp_path)
        async with tiny_server(server_context(certificate)) as server:
            transport = transport_to(server, ssl_context=context_for(certificate[0], monkeypatch))
            link = await transport.device(ACCOUNT, DEVICE, sign)
            count = QUEUE_BYTES // 60_000 + 3
            for number in range(1, count + 1):
                server.connections[0].say(Deliver(number, b"s" * 8, b"x" * 60_000))
            while link._reading:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.1)
            numbers: list[int] = []
            async with asyncio.timeout(10):
                async for batch in link.events():
                    numbers += [event.number for event in batch if isinstance(event, Deliver)]
                    if numbers[-1] == count:
                        break
            assert numbers == list(range(1, count + 1))
            await transport.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("name", "days", "trusted", "sentence"),
    [
        ("localhost", 1, False, "signed by itself alone"),
        ("elsewhere.example", 1, True, "for another name"),
        ("localhost", -1, True, "has expired"),
    ],
)
def test_a_wrong_certificate_gives_one_clear_sentence(
    name: str, days: int, trusted: bool, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        served = make_certificate(tmp_path, name, days=days)
        other = tmp_path / "other"
        other.mkdir()
        trust = served[0] if trusted else make_certificate(other, "other.example")[0]
        async with tiny_server(server_context(served)) as server:
            transport = transport_to(server, ssl_context=context_for(trust, monkeypatch))
            with pytest.raises(CertificateWrong, match=sentence) as caught:
                await transport.anonymous("send")
            assert "\n" not in str(caught.value) and server.origin in str(caught.value)
            assert not server.connections

    asyncio.run(main())


def test_a_server_without_tls_1_3_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        certificate = make_certificate(tmp_path)
        old = server_context(certificate)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with tiny_server(old) as server:
            with pytest.raises(TransportError, match=r"TLS 1\.3"):
                await transport_to(server, ssl_context=context_for(certificate[0], monkeypatch)).anonymous("send")

    asyncio.run(main())


@spec("CNT-31")
@pytest.mark.parametrize(
    ("origin", "url"),
    [
        ("https://chat.example", "wss://chat.example/v1/socket"),
        ("https://chat.example:8443", "wss://chat.example:8443/v1/socket"),
        ("http://127.0.0.1:8000", "ws://127.0.0.1:8000/v1/socket"),
        ("http://[::1]:8000", "ws://[::1]:8000/v1/socket"),
    ],
)
def test_origins_lead_to_sockets(origin: str, url: str) -> None:
    assert socket_url(origin) == url


@spec("CNT-31")
@pytest.mark.parametrize(
    "origin",
    [
        *("http://chat.example", "ftp://x", "https://", "https://x/path", "https://u@x", "https://x:99999", ""),
        *("https://[::1", "https://x?", "https://x#", "https://x:", "https://x:0", "https://x\t", "\x1bhttps://x"),
        *("https://x\0", "https://x y", "https://@x", "https://x\\@y", "https://x\n", "https://[1", "nonsense"),
    ],
)
def test_origins_that_are_not_safe_or_not_origins_are_refused(origin: str) -> None:
    with pytest.raises(NotTaube):
        socket_url(origin)
