"""The disk and the clock of the rig fail as they say; a database that does not sync loses what a power cut takes."""

import errno
import os
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import apsw
import pytest

from tests.chaos.faults import Machine

pytestmark = pytest.mark.skipif(not Machine.possible(), reason="needs Linux and a C compiler")

COMMITS = textwrap.dedent(
    """
    import os, signal, sys, apsw
    db = apsw.Connection(sys.argv[1])
    db.pragma("journal_mode", "wal"); db.pragma("synchronous", sys.argv[2]); db.pragma("wal_autocheckpoint", 5)
    db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, body BLOB)")
    for n in range(int(sys.argv[3])):
        db.execute("INSERT INTO t VALUES (NULL, randomblob(900))")
        os.write(1, b".")
    os.kill(os.getpid(), signal.SIGKILL)
    """
)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


def child(environment: dict[str, str], code: str, *words: str) -> "subprocess.CompletedProcess[bytes]":
    line = [sys.executable, "-c", code, *words]
    return subprocess.run(line, env=os.environ | environment, capture_output=True, timeout=60, check=False)


def commits(machine: Machine, data: Path, synchronous: str, count: int) -> int:
    """How many commits a process made before it was killed."""
    environment = machine.prepare(data, record=True)
    return len(child(environment, COMMITS, str(data / "t.db"), synchronous, str(count)).stdout)


def rows(data: Path) -> int:
    db = apsw.Connection(str(data / "t.db"))
    try:
        assert db.pragma("integrity_check") == "ok"
        return int(db.execute("SELECT count(*) FROM t").fetchone()[0])
    finally:
        db.close()


@pytest.mark.parametrize("seed", range(6))
def test_after_a_power_cut_every_synced_commit_is_there_and_the_file_is_whole(
    machine: Machine, tmp_path: Path, seed: int
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    dice = random.Random(seed)
    made = 0
    for _ in range(3):
        made += commits(machine, data, "full", dice.randrange(1, 40))
        machine.cut_power(dice)
        assert rows(data) >= made
        made = rows(data)


def test_a_power_cut_takes_what_was_never_synced(machine: Machine, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    assert commits(machine, data, "full", 1) == 1
    machine.cut_power(random.Random(1))
    made = commits(machine, data, "off", 30)
    assert made == 30
    machine.cut_power(random.Random(2))
    db = apsw.Connection(str(data / "t.db"))
    try:
        left = db.execute("SELECT count(*) FROM t").fetchone()[0]
    except apsw.Error:
        left = 0  # not only lost but damaged: that is what synchronous=off risks
    assert left < 31


@pytest.mark.parametrize("first", ["a", "b"])
def test_a_file_that_was_made_anew_is_not_taken_for_one_whose_place_it_took(
    machine: Machine, tmp_path: Path, first: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    code = textwrap.dedent(
        """
        import os, signal, sys; os.chdir(sys.argv[1]); here = os.getcwd()
        def write(path, text):
            f = os.open(here + "/" + path, os.O_RDWR | os.O_CREAT); os.write(f, text); os.fsync(f); os.close(f)
        write("a", b"an older one, and longer"); write("b", b"stale and longer")
        for path in (sys.argv[2], "a" if sys.argv[2] == "b" else "b"): os.unlink(path)
        write("b", b"fresh")
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    child(machine.prepare(data, record=True), code, str(data), first)
    assert machine.cut_power(random.Random(1)) == 0
    assert [(path.name, path.read_bytes()) for path in data.iterdir()] == [("b", b"fresh")]


def test_the_journal_knows_when_the_log_was_synced(machine: Machine, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    before = time.monotonic_ns()
    commits(machine, data, "full", 5)
    syncs = machine.syncs()
    assert len(syncs) >= 5
    assert all(before < began <= ended < time.monotonic_ns() for began, ended in syncs)


def test_a_full_disk_lets_nothing_grow_and_everything_be_overwritten(machine: Machine, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_bytes(b"x" * 10)
    machine.full = 1
    code = "import os, sys; f = os.open(sys.argv[1], os.O_RDWR); os.pwrite(f, b'y' * 10, 0); os.pwrite(f, b'z', 10)"
    done = child(machine.prepare(data), code, str(data / "a"))
    assert f"[Errno {errno.ENOSPC}]".encode() in done.stderr
    assert (data / "a").read_bytes() == b"y" * 10
    machine.heal()
    assert child(machine.prepare(data), code, str(data / "a")).returncode == 0


@pytest.mark.parametrize("fault", ["write_error", "sync_error", "read_error"])
def test_a_disk_error_is_met_below_the_folder_only(machine: Machine, tmp_path: Path, fault: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    setattr(machine, fault, errno.EIO)
    code = (
        "import os, sys; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)\n"
        "os.write(f, b'x'); os.fsync(f); os.pread(f, 1, 0)"
    )
    assert f"[Errno {errno.EIO}]".encode() in child(machine.prepare(data), code, str(data / "a")).stderr
    assert child(machine.prepare(data), code, str(tmp_path / "a")).returncode == 0


def test_the_wall_clock_jumps_and_the_monotonic_one_does_not(machine: Machine, tmp_path: Path) -> None:
    machine.clock_s = -365 * 86_400
    code = "import time; print(time.time(), time.monotonic())"
    wall, monotonic = map(float, child(machine.prepare(tmp_path), code).stdout.split())
    assert abs(wall + 365 * 86_400 - time.time()) < 60
    assert abs(monotonic - time.monotonic()) < 60
