"""What one connection may do and cost: bad frames, silence, a reader that stops reading, bugs of ours."""

import asyncio
import gc
import os
import socket

import picows
import pytest

from taube.server.config import ConnectionConfig, ServerConfig
from taube.server.gateway.connection import Connection
from taube.server.gateway.websocket import WebSocket
from taube.wire import errors as e
from taube.wire import messages as m
from taube.wire.codec import encode
from tests.fuzz.targets import masked
from tests.server.rawclient import Person
from tests.spec import spec

CLOSE_BECAUSE_FORBIDDEN = 1002
CLOSE_BECAUSE_TOO_BIG = 1009


def kind(reply: object) -> e.ErrorKind:
    assert isinstance(reply, m.Failed), reply
    return e.CATALOGUE[reply.code]


@spec("CON-20", "CON-21")
async def test_a_command_before_hello_is_refused(rig):
    async with rig() as server:
        client = await server.connect(greet=False)
        client.send_bytes(encode(m.ReadGate(7, bytes(32))))
        reply = await client.next(m.Failed)
        assert (reply.request, kind(reply)) == (7, e.OUT_OF_ORDER)


@spec("CON-23")
async def test_a_client_that_speaks_no_common_version_is_told_and_closed(rig):
    async with rig() as server:
        client = await server.connect(greet=False)
        client.send_bytes(encode(m.Hello([999])))
        assert kind(await client.next(m.Failed)) is e.NO_COMMON_VERSION
        await client.closed()


@spec("CON-03", "CON-13", "CON-14", "CON-16")
async def test_junk_unknown_frames_and_text_get_numbered_errors(rig):
    async with rig() as server:
        client = await server.connect()
        client.send_bytes(b"\xc1\xff")
        assert kind(await client.next(m.Failed)) is e.BAD_FRAME
        client.send_bytes(b"\x92\x3f\x05")  # number 63, request 5
        reply = await client.next(m.Failed)
        assert (reply.request, kind(reply)) == (5, e.UNKNOWN_TYPE)
        client.transport.send(picows.WSMsgType.TEXT, b"hello")
        assert kind(await client.next(m.Failed)) is e.BAD_FRAME
        assert isinstance(await client.call(lambda n: m.ReadGate(n, bytes(32))), m.GateState)


@spec("CON-15")
async def test_a_frame_that_is_too_large_is_told_and_closed(rig):
    async with rig() as server:
        client = await server.connect()
        client.send_bytes(bytes(m.MAX_FRAME_BYTES + 1))
        assert kind(await client.next(m.Failed)) is e.TOO_LARGE
        await client.closed()
        other = await server.connect()
        other.send_bytes(bytes(3 * m.MAX_FRAME_BYTES))
        assert await other.closed() == CLOSE_BECAUSE_TOO_BIG


@spec("DEL-24")
async def test_too_many_bad_frames_end_the_connection(rig):
    async with rig() as server:
        client = await server.connect()
        for _ in range(40):
            client.send_bytes(b"\xc1")
        await client.closed()
        last = None
        while not client.events.empty():
            last = client.events.get_nowait()
        assert kind(last) is e.RATE_LIMITED
        assert last.retry_after_ms > 0


@spec("CON-03")
async def test_a_message_in_fragments_is_put_together_and_bounded(rig):
    async with rig() as server:
        client = await server.connect()
        frame = encode(m.ReadGate(1, bytes(32)))
        client.session.request(lambda n: m.ReadGate(n, bytes(32)))
        binary, more = picows.WSMsgType.BINARY, picows.WSMsgType.CONTINUATION
        client.transport.send(binary, frame[:10], fin=False)
        client.transport.send_ping(b"between")
        client.transport.send(more, frame[10:20], fin=False)
        client.transport.send(more, frame[20:])
        await client.next(m.GateState)
        client.transport.send(binary, bytes(100_000), fin=False)
        for _ in range(5):
            client.transport.send(more, bytes(100_000), fin=False)
        assert await client.closed() == CLOSE_BECAUSE_TOO_BIG


@pytest.mark.parametrize("tls", [False, True])
async def test_what_a_connection_held_goes_with_it_and_waits_for_no_collector(rig, tls):
    def alive() -> int:
        return sum(type(each) in (WebSocket, Connection) for each in gc.get_objects())

    async with rig(tls=tls) as server:
        gc.collect()
        gc.disable()
        try:
            before, clients = alive(), [await server.connect() for _ in range(10)]
            assert alive() == before + 20
            for client in clients:
                client.transport.send(picows.WSMsgType.BINARY, bytes(100_000), fin=False)
                client.transport.send(picows.WSMsgType.CONTINUATION, bytes(30_000), fin=False)
            for client in clients:
                client.transport.disconnect(False)
            async with asyncio.timeout(20):
                while alive() > before:
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()


@spec("CON-03")
@pytest.mark.parametrize(
    "bytes_",
    [
        masked(0xC2, b"\x92\x3f\x05"), masked(0xA2, b"\x92\x3f\x05"), masked(0x92, b"\x92\x3f\x05"),
        masked(0x42, b"\x92") + masked(0x80, b"\x3f\x05"), masked(0x02, b"\x92") + masked(0xC0, b"\x3f\x05"),
        masked(0xC1, b"text"), masked(0xC9, b"ping"), masked(0xCA, b"pong"), masked(0xC8, b"\x03\xe8"),
        masked(0x83, b""), masked(0x8B, b""), b"\x82\x03\x92\x3f\x05", masked(0x09, b"ping"), masked(0x89, bytes(126)),
        masked(0x80, b"\x92\x3f\x05"), masked(0x02, b"\x92") + masked(0x82, b"\x92\x3f\x05"),
    ],
    ids=[
        "RSV1", "RSV2", "RSV3", "RSV1 of a first fragment", "RSV1 of a last fragment", "RSV1 of a text",
        "RSV1 of a ping", "RSV1 of a pong", "RSV1 of a close", "reserved opcode", "reserved control opcode", "unmasked",
        "fragmented ping", "long ping", "a fragment of nothing", "a message in the middle of another",
    ],
)  # fmt: skip
async def test_a_frame_that_the_standard_forbids_ends_the_connection_unanswered(rig, bytes_: bytes):
    """RFC 6455, sections 5.1, 5.2, 5.4 and 5.5."""
    async with rig() as server:
        client = await server.connect()
        client.transport.underlying_transport.write(bytes_)
        assert await client.closed() == CLOSE_BECAUSE_FORBIDDEN
        assert client.events.empty()


async def test_nothing_behind_a_close_is_carried_out(rig):
    async with rig() as server:
        person, invitation = Person(), await server.invitation()
        client = await server.connect()
        _, frame = client.session.request(lambda n: m.Register(n, invitation, person.genesis, person.device_list()))
        close = b"\x88\x82" + bytes(4) + b"\x03\xe8"
        client.transport.underlying_transport.write(close + masked(0x82, frame))
        await client.closed()
        other = await server.connect()
        found = await other.call(lambda n: m.FetchCertificate(n, person.account))
        assert kind(found) is e.ACCOUNT_UNKNOWN


async def test_a_ping_is_answered_with_its_payload(rig):
    async with rig() as server:
        client = await server.connect()
        pongs: asyncio.Queue[bytes] = asyncio.Queue()
        on_frame = client.on_ws_frame

        def listen(transport, frame):
            if frame.msg_type == picows.WSMsgType.PONG:
                pongs.put_nowait(frame.get_payload_as_bytes())
            else:
                on_frame(transport, frame)

        client.on_ws_frame = listen
        client.transport.send_ping(b"are you there?")
        async with asyncio.timeout(10):
            assert await pongs.get() == b"are you there?"


@pytest.mark.parametrize("greet", [True, False])
async def test_a_silent_connection_is_closed_with_a_reason(rig, greet):
    quick = ServerConfig(connection=ConnectionConfig(hello_timeout_s=0.01, anonymous_idle_s=0.01))
    async with rig(config=quick) as server:
        client = await server.connect(greet=greet)
        await asyncio.sleep(0.05)
        server.server._check()
        assert kind(await client.next(m.Failed)) is e.IDLE
        await client.closed()


async def test_a_silent_device_is_asked_whether_it_is_there_before_it_is_closed(rig):
    quick = ServerConfig(connection=ConnectionConfig(device_ping_s=0.01, device_idle_s=0.2))
    async with rig(config=quick) as server:
        _, bob = await server.online()
        await bob.next(m.CaughtUp)
        await asyncio.sleep(0.05)
        server.server._check()  # the client answers the ping by itself
        await asyncio.sleep(0.16)
        server.server._check()
        assert bob.events.empty() and not bob.gone.is_set()


async def test_a_reader_that_stops_reading_is_cut_off_before_it_costs_memory(rig):
    async with rig() as server:
        gate, value = os.urandom(32), os.urandom(m.MAX_GATE_VALUE_BYTES)
        client = await server.connect()
        client.transport.underlying_transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 4096
        )
        await client.call(lambda n: m.ClaimGate(n, gate, value))
        client.transport.underlying_transport.pause_reading()
        other = await server.connect()
        for _ in range(900):
            client.post(lambda n: m.ReadGate(n, gate)).add_done_callback(lambda done: done.exception())
        async with asyncio.timeout(15):
            while len(server.server.hub) > 1:
                await asyncio.sleep(0.02)
        assert isinstance(await other.call(lambda n: m.ReadGate(n, gate)), m.GateState)


async def test_a_bug_in_one_command_closes_that_connection_only(rig):
    async with rig() as server:

        def bug(connection, command):
            raise ZeroDivisionError("someone's secret")

        server.server._dispatch._stories[m.ReadGate] = bug
        one, other = await server.connect(), await server.connect()
        one.send_bytes(encode(m.ReadGate(1, bytes(32))))
        assert kind(await one.next(m.Failed)) is e.INTERNAL
        await one.closed()
        assert isinstance(await other.call(lambda n: m.ClaimGate(n, bytes(32), b"v")), m.GateState)
        [event] = [event for event in server.events() if event["event"] == "bug"]
        assert event["kind"] == "ZeroDivisionError" and "secret" not in server.log.getvalue()


async def test_one_connection_that_sends_without_pause_does_not_starve_another(rig):
    async with rig() as server:
        greedy, modest = await server.connect(), await server.connect()
        waiting = [greedy.post(lambda n: m.ReadGate(n, bytes(32))) for _ in range(700)]
        assert isinstance(await modest.call(lambda n: m.ReadGate(n, bytes(32))), m.GateState)
        assert len(await asyncio.gather(*waiting)) == 700
