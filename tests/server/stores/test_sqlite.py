"""The embedded engine alone: restarts, kills, full disks, damage, other processes, older and newer files."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from taube.server.ports import StoreUnusable
from taube.server.stores import schema
from taube.server.stores import sqlite as module
from taube.server.stores.schema import APPLICATION_ID, SCHEMA_VERSION
from taube.server.stores.sqlite import SqliteSettings, prepare, transaction
from taube.wire.errors import BUSY, STORAGE, WireError
from taube.wire.messages import GateName
from tests.canaries import scan_for
from tests.server.stores.conftest import SqliteEngine
from tests.server.stores.test_stores import MAIN, bodies, device, rows
from tests.spec import spec


def test_everything_is_there_after_a_restart(sqlite: SqliteEngine) -> None:
    queue = device(sqlite).queue
    sqlite.submit(rows(queue, 1, 70))
    sqlite.submit([], [(queue, 68)])
    sqlite.reopen()
    assert bodies(sqlite, queue) == [b"69", b"70"]


@spec("DEL-11")
def test_what_was_answered_kept_survives_a_kill(tmp_path: Path) -> None:
    child = textwrap.dedent(
        """
        import asyncio, os, signal, sys
        from pathlib import Path
        from taube.server.stores.sqlite import SqliteStore
        from tests.server.stores.test_stores import MAIN, rows

        async def main():
            loop = asyncio.get_running_loop()
            store = SqliteStore(Path(sys.argv[1]), later=loop.call_soon_threadsafe, soon=loop.call_soon)
            answers = asyncio.Queue()
            store.write(lambda t: t.add_device(b"a" * 32, b"d" * 16, b"k" * 32, MAIN), lambda *a: answers.put_nowait(a))
            row, error = await answers.get()
            for place in range(1, 31):
                store.submit(rows(row.queue, place, place), [], answers.put_nowait)
                assert await answers.get() is True
                os.write(1, b"%d\\n" % place)
            os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
        """
    )
    path = tmp_path / "taube.db"
    done = subprocess.run([sys.executable, "-c", child, path], capture_output=True, timeout=60)
    assert done.returncode == -9, done.stderr.decode()
    kept = done.stdout.split()
    engine = SqliteEngine(path)
    mailbox = engine.load(MAIN)[0]
    assert mailbox is not None
    assert bodies(engine, mailbox.queue) == kept == [b"%d" % place for place in range(1, 31)]
    engine.close()


@spec("DEL-10")
def test_a_full_disk_fails_every_waiting_caller_and_goes_on_when_there_is_room(sqlite: SqliteEngine) -> None:
    queue = device(sqlite).queue
    sqlite.submit(rows(queue, 1, 3))
    writing = sqlite.store._writing
    writing.pragma("max_page_count", writing.pragma("page_count"))
    large = [row._replace(body=bytes(50_000)) for row in rows(queue, 4, 6)]
    assert sqlite.submit(large, [(queue, 1)]) is False
    with pytest.raises(WireError) as refused:
        sqlite.write(lambda t: t.set_fact("large", bytes(100_000)))
    assert refused.value.kind is STORAGE
    assert refused.value.retry_after_ms > 0
    assert sqlite.problems
    assert sqlite.store.backlog_bytes() == 0
    assert bodies(sqlite, queue)[-2:] == [b"2", b"3"], "what is intact can be read"
    writing.pragma("max_page_count", 1_000_000)
    assert sqlite.submit(rows(queue, 7, 7)) is True
    assert bodies(sqlite, queue) == [b"2", b"3", b"7"], "the acknowledged one was deleted later"


@spec("GAT-02")
def test_a_claim_that_could_not_be_made_durable_is_neither_answered_nor_seen(sqlite: SqliteEngine) -> None:
    gate, writing = GateName(b"g" * 32), sqlite.store._writing
    writing.pragma("max_page_count", writing.pragma("page_count"))
    with pytest.raises(WireError):
        sqlite.write(lambda t: t.claim_gate(gate, bytes(40_000), 1))
    assert sqlite.read(lambda t: t.read_gate(gate)) is None
    writing.pragma("max_page_count", 1_000_000)
    assert sqlite.write(lambda t: t.claim_gate(gate, b"another", 1)) == b"another"
    assert sqlite.read(lambda t: t.read_gate(gate)) == b"another"


@spec("DEL-14")
def test_what_was_acknowledged_is_soon_in_no_file(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "taube.db", SqliteSettings(delete_pause_s=0.0, foreign_check_s=0.02))
    queue = device(engine).queue
    canaries = {name: (name * 40).encode() for name in ("Mauersegler", "Feuersalamander", "Zaunkoenig")}
    bodies = [row._replace(body=body) for row, body in zip(rows(queue, 1, 3), canaries.values(), strict=True)]
    engine.submit(bodies + rows(queue, 4, 60))
    assert {name for name, _ in scan_for(canaries, tmp_path)} == set(canaries)
    engine.submit([], [(queue, 3)])
    deadline = time.monotonic() + 10
    while scan_for(canaries, tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert scan_for(canaries, tmp_path) == []
    engine.close()


def test_another_process_may_write_and_is_noticed(sqlite: SqliteEngine) -> None:
    with transaction(sqlite.path) as tables:
        tables.set_fact("from outside", b"1")
    assert sqlite.write(lambda t: t.fact("from outside")) == b"1"
    sqlite.write(lambda t: None)
    assert sqlite.foreign == 1
    sqlite.write(lambda t: t.set_fact("from inside", b"1"))
    sqlite.write(lambda t: None)
    assert sqlite.foreign == 1


def test_a_write_waits_for_another_process_that_is_writing(sqlite: SqliteEngine) -> None:
    entered, leave = threading.Event(), threading.Event()

    def outside() -> None:
        with transaction(sqlite.path) as tables:
            tables.set_fact("a", b"1")
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=outside)
    thread.start()
    entered.wait(10)
    threading.Timer(0.1, leave.set).start()
    sqlite.write(lambda t: t.set_fact("b", b"2"))
    thread.join()
    assert sqlite.read(lambda t: t.facts("")) == {"a": b"1", "b": b"2"}


def test_an_administrators_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "taube.db"
    with pytest.raises(ZeroDivisionError), transaction(path) as tables:
        tables.set_fact("a", b"1")
        raise ZeroDivisionError
    with transaction(path) as tables:
        assert tables.fact("a") is None


@spec("DEL-23")
def test_above_its_bound_of_waiting_jobs_the_store_is_busy(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "taube.db", SqliteSettings(backlog_jobs=0))
    with pytest.raises(WireError) as refused:
        engine.write(lambda t: None)
    assert refused.value.kind is BUSY
    engine.close()


@spec("DEL-25")
def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "taube.db"
    prepare(path, SqliteSettings())
    newer = apsw.Connection(os.fspath(path))
    newer.pragma("user_version", SCHEMA_VERSION + 1)
    newer.close()
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match="newer version of Taube"):
        prepare(path, SqliteSettings())
    assert path.read_bytes() == before


@spec("DEL-25")
@pytest.mark.parametrize("content", [b"this is a letter, not a database" * 200, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_damaged_file_is_refused_in_one_sentence_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "taube.db"
    path.write_bytes(content)
    with pytest.raises(StoreUnusable, match="damaged"):
        prepare(path, SqliteSettings())
    assert path.read_bytes() == content


@spec("DEL-25")
def test_a_file_that_was_cut_off_is_refused_in_one_sentence_and_left_alone(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "taube.db")
    engine.submit(rows(device(engine).queue, 1, 50))
    engine.close()
    whole = engine.path.read_bytes()
    for size in (5, 50, 100, 4096, len(whole) // 2, len(whole) - 4096, len(whole) - 1):
        engine.path.write_bytes(whole[:size])
        with pytest.raises(StoreUnusable, match="damaged"):
            SqliteEngine(engine.path)
        assert engine.path.read_bytes() == whole[:size]


def test_a_log_that_was_cut_off_gives_back_exactly_what_was_committed_before_the_cut(tmp_path: Path) -> None:
    settings = SqliteSettings(foreign_check_s=1_000.0)
    engine = SqliteEngine(tmp_path / "taube.db", settings)
    queue = device(engine).queue
    engine.reopen()  # the device lies in the file, what follows in its log
    log, ends = tmp_path / "taube.db-wal", []
    for place in range(1, 9):
        assert engine.submit(rows(queue, place, place))
        ends.append(log.stat().st_size)
    file, whole = engine.path.read_bytes(), log.read_bytes()
    engine.close()
    assert ends == sorted(set(ends)) and ends[-1] == len(whole)
    (tmp_path / "cut").mkdir()
    for size in sorted({0, 31, *(end + more for end in ends for more in (-1, 0, 2_000))}):
        other = bytes([whole[size] ^ 1]) if size < len(whole) else b""  # chance may not put the lost byte back
        for rest in (b"", other + os.urandom(5_000)):
            path = tmp_path / "cut" / "taube.db"
            path.write_bytes(file)
            path.with_name("taube.db-wal").write_bytes(whole[:size] + (rest if size < len(whole) else b""))
            path.with_name("taube.db-shm").unlink(missing_ok=True)
            cut = SqliteEngine(path)
            assert bodies(cut, queue) == [b"%d" % (n + 1) for n, end in enumerate(ends) if end <= size], size
            cut.close()


@spec("DEL-25")
def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "taube.db"
    other = apsw.Connection(os.fspath(path))
    other.execute("CREATE TABLE cake (taste TEXT)")
    other.close()
    with pytest.raises(StoreUnusable, match="not one of a Taube server"):
        prepare(path, SqliteSettings())


@spec("DEL-25")
def test_an_older_file_is_upgraded_and_keeps_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "taube.db"
    with transaction(path) as tables:
        tables.claim_gate(GateName(b"g" * 32), b"v", 1)
    monkeypatch.setattr(schema, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    monkeypatch.setattr(schema, "UPGRADES", {SCHEMA_VERSION: ("ALTER TABLE gate ADD COLUMN more INTEGER",)})
    prepare(path, SqliteSettings())
    with transaction(path) as tables:
        assert tables.read_gate(GateName(b"g" * 32)) == b"v"
    upgraded = apsw.Connection(os.fspath(path))
    assert upgraded.pragma("user_version") == SCHEMA_VERSION + 1
    assert upgraded.execute("SELECT more FROM gate").fetchall() == [(None,)]
    upgraded.close()


def test_a_new_file_is_for_its_owner_only_and_says_what_it_is(sqlite: SqliteEngine) -> None:
    assert sqlite.path.stat().st_mode & 0o777 == 0o600
    assert sqlite.store._writing.pragma("application_id") == APPLICATION_ID
    assert sqlite.store._writing.pragma("journal_mode") == "wal"
    assert sqlite.store._writing.pragma("synchronous") == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreUnusable, match="Cannot write"):
            prepare(tmp_path / "taube.db", SqliteSettings())
    finally:
        tmp_path.chmod(0o700)


def test_look_ups_by_key_use_an_index(sqlite: SqliteEngine) -> None:
    db = sqlite.store._looking
    statements = {
        module._FETCH_SQL: (1, 2, 3, 4),
        module._LOADS[8]: (b"m",) * 8,
        module._DELETES[8]: (1, 2) * 8,
        "SELECT min(key) FROM envelope WHERE key >= ?": (1,),
    }
    for sql, values in statements.items():
        plan = [row[3] for row in db.execute("EXPLAIN QUERY PLAN " + sql, values)]
        assert not [step for step in plan if step.startswith("SCAN") and step.split()[1] in ("envelope", "held")], plan


@spec("DEL-25")
def test_a_damaged_page_stops_those_who_need_it_and_nobody_else(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "taube.db")
    queue = device(engine).queue
    gates = [GateName(each.to_bytes(32, "big")) for each in range(60)]
    engine.write(lambda t: [t.claim_gate(gate, bytes(900), 1) for gate in gates])
    engine.store._writing.pragma("wal_checkpoint", "TRUNCATE")
    leaf = engine.store._looking.execute(
        "SELECT max(pageno) FROM dbstat WHERE name = 'gate' AND pagetype = 'leaf'"
    ).fetchone()
    assert leaf is not None
    engine.close()
    with engine.path.open("r+b") as file:
        file.seek((leaf[0] - 1) * 4096)
        file.write(b"\xff" * 4096)
    engine = SqliteEngine(tmp_path / "taube.db")
    answers: list[object] = []

    def begin(done: Callable[..., None]) -> None:
        for gate in gates:
            engine.store.write(
                lambda t, gate=gate: t.claim_gate(gate, b"other", 1),  # type: ignore[misc]
                lambda value, error: answers.append(error.kind if error else value),
            )
        engine.store.submit(rows(queue, 1, 3), [], done)

    engine.wait(begin)
    engine.write(lambda t: None)
    assert len(answers) == len(gates)
    assert set(answers) == {bytes(900), STORAGE}, engine.problems[:3]
    assert bodies(engine, queue) == [b"1", b"2", b"3"]
    engine.close()


def test_a_bug_in_a_batch_fails_that_batch_and_the_writer_goes_on(sqlite: SqliteEngine) -> None:
    queue = device(sqlite).queue
    broken = [row._replace(hour=object()) for row in rows(queue, 1, 1)]  # type: ignore[arg-type]
    assert sqlite.submit(broken) is False
    assert sqlite.submit(rows(queue, 2, 2)) is True
    assert len(sqlite.problems) == 1
