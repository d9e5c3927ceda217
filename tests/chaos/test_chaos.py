"""A short life under faults, always the same unless TAUBE_CHAOS_SEED says otherwise; `make chaos` has the long ones.

Replay a seed: `TAUBE_CHAOS_SEED=n pytest tests/chaos/test_chaos.py`, or `python -m tests.chaos --quick --seed n`.
"""

import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import world as worlds
from tests.chaos.world import LONG, QUICK, FaultyServer, Size, World

SEED = int(os.environ.get("TAUBE_CHAOS_SEED", "20"))


async def lived(folder: Path, seconds: float, size: Size, *only: str) -> World:
    async with World(folder, SEED, size) as world:
        await world.run(seconds, only)
        world.findings = await world.judge(90.0)  # type: ignore[attr-defined]
        return world


@pytest.mark.timeout(300)
async def test_a_short_life_under_faults_breaks_no_promise(tmp_path: Path) -> None:
    world = await lived(tmp_path, 12.0, QUICK)
    findings: Any = world.findings  # type: ignore[attr-defined]
    assert not findings.broken, f"TAUBE_CHAOS_SEED={SEED}: {findings}"
    assert findings.kept > 500 and findings.chats == 3 and world.faults > 5


async def test_a_power_cut_changes_nothing_in_what_comes_after_it(tmp_path: Path) -> None:
    """However many sectors it has to decide on: that depends on what was written, and differs from run to run."""

    class Disk:
        journal = tmp_path / "journal"
        hold_sync = 0

        def __init__(self, sectors: int) -> None:
            self.sectors = sectors

        def syncs(self) -> list[tuple[int, int]]:
            return []

        def cut_power(self, dice: random.Random) -> int:
            return sum(dice.random() < 0.5 for _ in range(self.sectors))

        def heal(self) -> None:
            pass

    after = []
    for sectors in (1, 100):
        world = World(tmp_path / str(sectors), SEED)
        world.machine = Disk(sectors)  # type: ignore[assignment]
        await world._end_server(power=True)
        after.append([world.dice.random() for _ in range(10)])
    assert after[0] == after[1]


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_over_20_kills_under_load_nothing_of_50_000_messages_is_lost(tmp_path: Path) -> None:
    size = Size(**{**LONG.__dict__, "rate": 120.0, "longest_s": 3.0, "pause_s": (4.0, 14.0)})
    async with World(tmp_path, SEED, size) as world:
        while world.counts.get("kill_server", 0) < 20:
            await world.run(60.0, ("kill_server",))
        findings = await world.judge()
    assert not findings.broken, f"TAUBE_CHAOS_SEED={SEED}: {findings}"
    assert findings.kept >= 50_000, findings


BROKEN = """
import sys, time
from taube.server.stores import sqlite
right = sqlite.SqliteStore._commit
def too_early(self, submissions, jobs, deletes):
    early = [each._replace(done=lambda kept: None) for each in submissions]
    self._answer([lambda each=each: each.done(True) for each in submissions])
    time.sleep(0.01)
    return right(self, early, jobs, deletes)
sqlite.SqliteStore._commit = too_early
from taube.cli import main
sys.exit(main())
"""


@pytest.mark.timeout(300)
@pytest.mark.skipif(not worlds.Machine.possible(), reason="needs Linux and a C compiler")
async def test_a_server_that_answers_before_it_has_committed_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "broken.py"
    program.write_text(BROKEN)
    right = FaultyServer.command
    monkeypatch.setattr(FaultyServer, "command", lambda self: [sys.executable, str(program), *right(self)[3:]])
    size = Size(receivers=4, senders=2, talkers=0)
    async with World(tmp_path, SEED, size) as world:
        await world.run(3.0, ("kill_client", "freeze_client"))
        findings = await world.judge(30.0)
    assert findings.early, findings
