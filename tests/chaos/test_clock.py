"""The server's wall clock jumps by an hour or a year, ahead or back, while it runs and between two starts."""

from pathlib import Path

import pytest

from taube.wire import messages as m
from tests.chaos.faults import Machine
from tests.chaos.folk import Folk
from tests.chaos.world import YEAR_S, FaultyServer

HOUR_S = 3600
DAY_MS = 86_400_000


@pytest.mark.skipif(not Machine.possible(), reason="needs Linux and a C compiler")
@pytest.mark.parametrize(
    "jump_s",
    [YEAR_S, -HOUR_S, pytest.param(HOUR_S, marks=pytest.mark.slow), pytest.param(-YEAR_S, marks=pytest.mark.slow)],
)
async def test_a_clock_that_jumps_expires_nothing_and_stops_nobody(tmp_path: Path, jump_s: int) -> None:
    machine = Machine(tmp_path / "machine")
    server = FaultyServer(tmp_path, machine)
    server.begin()
    try:
        async with Folk(server) as folk:
            bob = await folk.member()
            await folk.fill(bob, [b"before"])
            first = await folk.connect()
            machine.clock_s = jump_s
            await folk.fill(bob, [b"during"])
            server.kill()
            server.begin()
            await folk.fill(bob, [b"after a start with the wrong clock"])
            second = await folk.connect()
            assert first.session.welcome is not None and second.session.welcome is not None
            ahead_ms = second.session.welcome.now_ms - first.session.welcome.now_ms
            assert -60_000 <= ahead_ms <= DAY_MS + 60_000, "it follows by a day at most, and never back"
            assert isinstance(await folk.member(), object), "an invitation that was just made can be used"
            machine.heal()
            server.kill()
            server.begin()
            third = await folk.connect()
            assert third.session.welcome is not None
            assert third.session.welcome.now_ms >= second.session.welcome.now_ms - 60_000
            assert await folk.read_all(bob) == [b"before", b"during", b"after a start with the wrong clock"]
            carol = await folk.member()
            claimed = await (await folk.sender()).call(lambda n: m.ClaimGate(n, b"c" * 32, b"v"))
            assert claimed.value == b"v" and await folk.kept(carol, b"on")
        assert "Traceback" not in server.log.read_text()
        assert server.stop() == 0
    finally:
        server.kill()
