"""Health, readiness, metrics, drain and logs of a running server, and that none of them tells of a person."""

import asyncio
import contextlib
import json
import os
import re
import struct
from pathlib import Path

import pytest

from taube.server import clock
from taube.server.app import wall_ms
from taube.server.backup import DATABASE
from taube.server.config import ServerConfig
from taube.server.ops import waking, workers
from taube.server.ops.observe import LOG_FIELDS, METRICS, Log, PrometheusMetrics
from taube.server.services.mailboxes import MailboxSettings
from taube.server.stores.sqlite import transaction
from taube.wire import errors as e
from taube.wire import messages as m
from tests.server.rawclient import Person, RawClient
from tests.spec import spec

SERVICE_METRICS = workers.METRICS + waking.METRICS


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def test_health_readiness_and_metrics_are_on_their_own_port(rig):
    async with rig() as server:
        ops = server.server.ops_url
        assert ops.startswith("http://127.0.0.1:")
        health = await server.http(get("/health"), ops)
        assert health.startswith(b"HTTP/1.1 200") and json.loads(health.partition(b"\r\n\r\n")[2])["problems"] == []
        assert (await server.http(get("/ready"), ops)).startswith(b"HTTP/1.1 200")
        await server.online()
        metrics = (await server.http(get("/metrics"), ops)).decode()
        assert 'taube_connections{reason="device"} 1.0' in metrics
        assert (await server.http(get("/elsewhere"), ops)).startswith(b"HTTP/1.1 404")
        for path in ("/metrics", "/health", "/ready"):
            assert (await server.http(get(path))).startswith(b"HTTP/1.1 404")  # not on the public port


async def test_a_pause_of_expiry_is_in_the_log_in_health_and_in_the_figures(rig):
    server = rig()
    await server.start()
    await server.stop()
    with transaction(server.folder / "data" / DATABASE) as tables:
        tables.set_fact(clock.FACT, struct.pack(">Q", wall_ms() - 5 * clock.DAY_MS))
    async with server:
        health = json.loads((await server.http(get("/health"), server.server.ops_url)).partition(b"\r\n\r\n")[2])
        assert health["notes"] == ["expiry paused"] and health["problems"] == []
        metrics = (await server.http(get("/metrics"), server.server.ops_url)).decode()
        assert "taube_expiry_paused 1.0" in metrics
        ahead_s = float(re.findall(r"^taube_clock_ahead_seconds (\S+)$", metrics, re.MULTILINE)[0])
        assert ahead_s == pytest.approx(4 * clock.DAY_MS / 1000, abs=600)
        told = [event["reason"] for event in server.events() if event["event"] == "attention"]
        assert len(told) == 1 and "Nothing expires for a day" in told[0]


@spec("CON-34")
async def test_a_draining_server_tells_everyone_and_finishes_what_was_begun(rig):
    patient = ServerConfig(mailboxes=MailboxSettings(patience_s=0.3))
    server = rig(config=patient)
    await server.start()
    person, bob = await server.online()
    [minted] = await bob.mint()
    await bob.next(m.CaughtUp)
    alice = await server.connect()
    waiting = alice.post(lambda n: m.Send(n, 0, [minted.address], b"just before the end"))
    await bob.next(m.Deliver)
    stopping = asyncio.create_task(server.stop())
    assert (await bob.next(m.Draining)).retry_after_ms > 0
    await alice.next(m.Draining)
    refused = await alice.send([minted.address], b"too late")
    assert e.CATALOGUE[refused.code] is e.DRAINING and refused.retry_after_ms > 0
    assert (await waiting).statuses == b"\0"  # not acknowledged: it was stored before the end
    with pytest.raises(OSError):
        await RawClient.connect(server.server.url, server.context)
    await stopping
    await bob.closed()
    await server.start()
    _, again = await server.online(person)
    assert (await again.next(m.Deliver)).body == b"just before the end"
    await server.stop()


async def test_nothing_personal_is_in_logs_and_metrics(rig):
    async with rig() as server:
        person, bob = await server.online()
        [minted] = await bob.mint()
        alice = await server.connect()
        body = os.urandom(40)
        await alice.send([minted.address], body)
        await alice.log_in(Person())
        alice.send_bytes(b"\xff" + body)
        await alice.next(m.Failed)
        await server.http(b"GET /c?secret=hunter2 HTTP/1.1\r\nHost: x\r\n\r\n")
        server.server._dispatch.bug(ValueError("hunter2"))
        written = server.log.getvalue() + (await server.http(get("/metrics"), server.server.ops_url)).decode()
        assert '"event": "bug"' in written
        assert "hunter2" not in written and "127.0.0.1" not in written.replace(server.server.ops_url, "").replace(
            server.server.url, ""
        )
        for secret in (person.account, person.device, minted.serial, minted.address, body):
            assert secret.hex() not in written and repr(secret)[2:-1] not in written


@spec("DEL-26")
def test_every_metric_and_log_field_has_its_ledger_entry_and_no_label_but_reason():
    for metric in METRICS + SERVICE_METRICS:
        assert not metric.entry.about_a_person, metric.name
        assert metric.help.endswith("."), metric.name
        assert all(len(reason) < 20 for reason in metric.reasons)
    assert not any(entry.about_a_person for entry in LOG_FIELDS.values())
    for family in PrometheusMetrics(METRICS + SERVICE_METRICS).registry.collect():
        for sample in family.samples:
            assert set(sample.labels) <= {"reason", "le"}


def test_a_log_field_that_is_not_in_the_catalogue_is_refused(tmp_path):
    with (tmp_path / "log").open("w") as stream, pytest.raises(KeyError):
        Log(stream, lambda: 0).event("x", account="someone")


async def test_a_bug_in_a_background_loop_is_reported_and_the_loops_begin_again(rig, monkeypatch):
    monkeypatch.setattr("taube.server.app.LOOPS_AGAIN_S", 0.01)
    async with rig() as server:
        running = server.server

        async def bug():
            raise ZeroDivisionError

        first, running._workers.run = running._workers.run, bug
        running._loops.cancel()
        await asyncio.sleep(0)
        running._start_loops()
        await asyncio.sleep(0.05)
        running._workers.run = first
        await asyncio.sleep(0.05)
        assert not running._loops.done()
        kinds = [event["kind"] for event in server.events() if event["event"] == "bug"]
        assert kinds == ["ZeroDivisionError"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    """Such as `taube serve 2>> /srv/log` when that disk is full."""
    with Path("/dev/full").open("w") as full:
        log = Log(full, lambda: 0)
        log.event("storage")
        log.bug(ValueError())
        with contextlib.suppress(OSError):
            full.close()
