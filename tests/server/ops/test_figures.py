"""The figures that show trouble before users meet it: each is there, true, and about nobody."""

import asyncio
import re
import time

from taube.server.config import ServerConfig
from taube.server.services.mailboxes import MailboxSettings
from taube.testing import make_certificate
from taube.wire import messages as m


async def read(server) -> dict[str, float]:
    await server.server._workers.watch()
    answer = await server.http(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", server.server.ops_url)
    return {name: float(value) for name, value in re.findall(r"^taube_(\S+) (\S+)$", answer.decode(), re.MULTILINE)}


async def test_what_an_operator_watches_is_there_and_true(rig) -> None:
    async with rig() as server:
        _, bob = await server.online()
        await bob.next(m.CaughtUp)
        [minted] = await bob.mint()
        await bob.close()
        alice = await server.connect()
        await alice.send([minted.address], b"stored")
        figures = await read(server)
        assert figures["sockets"] >= 1 and figures["connections_most"] >= 16
        assert figures["greeting"] == 0 and figures["behind_bytes"] == 0
        assert figures["backlog_jobs"] == figures["backlog_bytes"] == figures["envelopes_loading"] == 0
        assert figures["commit_seconds_count"] >= 1 and figures["loop_lag_seconds_count"] >= 1
        assert figures['kept_total{reason="stored"}'] == 1
        assert figures["memory_bytes"] > 1 << 20 and figures["disk_free_bytes"] > 0
        assert figures["database_bytes"] > 4096
        assert figures["ready"] == 1 and figures["strained"] == figures["expiry_paused"] == 0
        assert abs(figures["clock_ahead_seconds"]) < 60
        assert figures["certificate_expires_seconds"] > time.time()


async def test_what_was_refused_is_counted_by_its_answer(rig) -> None:
    small = ServerConfig(mailboxes=MailboxSettings(capacity_envelopes=4))
    async with rig(config=small) as server:
        _, bob = await server.online()
        await bob.next(m.CaughtUp)
        [minted] = await bob.mint()
        await bob.close()
        alice = await server.connect()
        assert (await alice.send([minted.address, bytes(41)], b"x")).statuses == bytes([m.STATUS_KEPT, m.STATUS_GONE])
        assert (await alice.send([minted.address], b"y")).statuses == bytes([m.STATUS_FULL])
        alice.send_bytes(b"\xff")
        await alice.next(m.Failed)
        figures = await read(server)
        assert figures['envelopes_refused_total{reason="gone"}'] == 1
        assert figures['envelopes_refused_total{reason="full"}'] == 1
        assert figures['refused_total{reason="bad_frame"}'] == 1


async def test_a_silent_socket_is_a_greeting_and_a_late_loop_a_strain(rig) -> None:
    async with rig() as server:
        host, _, port = server.server.url.partition("://")[2].rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        figures = await read(server)
        while not figures["greeting"]:
            figures = await read(server)
        assert figures["greeting"] == 1
        server.server._feel_lag(time.monotonic() - 1.0)
        assert (await read(server))["strained"] == 1
        writer.close()


async def test_a_certificate_that_was_read_again_shows_its_new_end(rig) -> None:
    async with rig() as server:
        before = (await read(server))["certificate_expires_seconds"]
        for old, new in zip(server.certificate, make_certificate(server.folder / "renewed", days=180), strict=True):
            old.write_bytes(new.read_bytes())
        server.server.reload()
        after = (await read(server))["certificate_expires_seconds"]
        assert after > before
        server.certificate[0].write_text("nonsense")
        server.server.reload()
        assert (await read(server))["certificate_expires_seconds"] == after
