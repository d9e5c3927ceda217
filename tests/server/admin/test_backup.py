"""Backup and restore: whole, checked, never over another file, never while a server runs, and resumed after a stop."""

import asyncio
import os
from pathlib import Path

import apsw
import pytest

from taube import cli
from taube.server import admin, backup, folder
from taube.server.config import OperatorError, ServerConfig
from taube.server.services import identity
from taube.server.stores import schema
from taube.server.stores.objects import ObjectFolder
from taube.server.stores.sqlite import SqliteSettings, copy, examine, read_facts, transaction
from taube.wire import messages as m
from taube.wire.messages import GateName
from tests.server.admin.test_admin import run
from tests.spec import spec

GATE = GateName(b"g" * 32)


def a_server(data: Path, value: bytes = b"v", origin: str = "https://taube.example") -> Path:
    """A data folder as a server leaves it, with one gate that holds *value*."""
    folder.prepare(data)
    folder.keep(data, "origin", origin)
    with transaction(data / backup.DATABASE) as tables:
        identity.establish(tables, os.urandom, 1)
        tables.claim_gate(GATE, value, 1)
    return data


def gate(data: Path) -> bytes | None:
    with transaction(data / backup.DATABASE) as tables:
        return tables.read_gate(GATE)


def facts(data: Path) -> dict[str, bytes]:
    return read_facts(data / backup.DATABASE)


def without_digest(data: Path, file: Path) -> Path:
    """A backup as a version wrote it that knew of no digest."""
    file.touch(mode=0o600)
    copy(data / backup.DATABASE, file, {backup.ORIGIN: (folder.kept_origin(data) or "").encode()})
    return file


def test_a_backup_is_one_checked_file_for_its_owner_only(tmp_path: Path) -> None:
    data, file = a_server(tmp_path / "data"), tmp_path / "taube.backup"
    assert backup.make(data, file) == file.stat().st_size > examine(file).size_bytes
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data", "taube.backup"]
    assert read_facts(file)[backup.ORIGIN] == b"https://taube.example"


@pytest.mark.parametrize("origin", [b"\xff", b"nonsense", b"https://taube.example/x", b"https://taube.example\n"])
def test_a_backup_with_an_origin_that_is_none_is_damaged(tmp_path: Path, origin: bytes) -> None:
    data, file = a_server(tmp_path / "data"), tmp_path / "taube.backup"
    without_digest(data, file)
    with transaction(file) as tables:
        tables.set_fact(backup.ORIGIN, origin)
    with pytest.raises(OperatorError, match="is damaged"):
        backup.restore(tmp_path / "new", file)


@pytest.mark.parametrize("part", [b"clock", b"generation", b"address key"])
def test_a_backup_in_which_the_name_of_a_fact_is_no_text_is_damaged(tmp_path: Path, part: bytes) -> None:
    data, file = a_server(tmp_path / "data"), tmp_path / "taube.backup"
    with transaction(data / backup.DATABASE) as tables:
        identity.start_clock(tables, 1, 0.0)
    without_digest(data, file)
    file.write_bytes(file.read_bytes().replace(part, b"\xc1" + part[1:]))
    with pytest.raises(OperatorError, match="is damaged"):
        backup.restore(tmp_path / "new", file)


def test_an_origin_file_that_is_damaged_is_told_in_one_sentence(tmp_path: Path) -> None:
    data = a_server(tmp_path / "data")
    (data / "origin").write_bytes(b"\xff")
    with pytest.raises(OperatorError, match="origin is damaged"):
        folder.kept_origin(data)


def test_a_backup_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    data, file = a_server(tmp_path / "data"), tmp_path / "letter"
    file.write_text("dear bob")
    with pytest.raises(OperatorError, match="not overwritten") as refused:
        backup.make(data, file)
    assert refused.value.exit_code == 73
    assert file.read_text() == "dear bob"


def test_a_backup_that_fails_leaves_no_file(tmp_path: Path) -> None:
    data, file = a_server(tmp_path / "data"), tmp_path / "taube.backup"
    (data / backup.DATABASE).write_bytes(b"this is no database at all" * 500)
    with pytest.raises(OperatorError, match="No backup was made") as refused:
        backup.make(data, file)
    assert refused.value.exit_code == 74 and ".taube.backup." not in str(refused.value)
    with pytest.raises(OperatorError, match="There is no server"):
        backup.make(tmp_path / "nowhere", file)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["data"]


@spec("GAT-05")
def test_a_restore_moves_the_old_aside_and_makes_a_new_generation(tmp_path: Path) -> None:
    data, file = a_server(tmp_path / "data"), tmp_path / "taube.backup"
    backup.make(data, file)
    with transaction(data / backup.DATABASE) as tables:
        tables.claim_gate(GateName(b"h" * 32), b"later", 1)
    before = facts(data)
    aside = backup.restore(data, file).aside
    assert gate(data) == b"v"
    assert facts(data)[identity.GENERATION] != before[identity.GENERATION]
    assert aside is not None and aside.parent == data and aside.stat().st_mode & 0o777 == 0o700
    with transaction(aside / backup.DATABASE) as tables:
        assert tables.read_gate(GateName(b"h" * 32)) == b"later"
    assert backup.restore(data, file).aside != aside, "nothing that was moved aside is overwritten by the next"
    assert len(list(data.glob("replaced-*/taube.db"))) == 2


def test_a_restore_into_an_empty_folder_knows_its_origin(tmp_path: Path) -> None:
    backup.make(a_server(tmp_path / "data"), tmp_path / "taube.backup")
    assert backup.restore(tmp_path / "new", tmp_path / "taube.backup") == (None, True)
    assert folder.kept_origin(tmp_path / "new") == "https://taube.example"
    assert gate(tmp_path / "new") == b"v"
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    assert modes == dict.fromkeys((backup.DATABASE, "origin", "lock"), 0o600)


def test_what_is_no_sound_backup_of_this_server_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    data, file = a_server(tmp_path / "data"), tmp_path / "taube.backup"
    backup.make(data, file)
    bad = {
        "no file": (tmp_path / "none", "There is no file"),
        "empty": (tmp_path / "empty", "not a database of a Taube server"),
        "text": (tmp_path / "text", "damaged"),
        "damaged": (tmp_path / "damaged", "damaged"),
        "newer": (tmp_path / "newer", "newer version of Taube"),
        "other": (tmp_path / "other", "is a backup of https://other.example"),
    }
    bad["empty"][0].touch()
    bad["text"][0].write_bytes(b"no database" * 1000)
    whole = bytearray(without_digest(data, tmp_path / "older").read_bytes())
    whole[4096 * 3 : 4096 * 5] = bytes(b"\xa5" * 4096 * 2)
    bad["damaged"][0].write_bytes(whole)
    without_digest(data, bad["newer"][0])
    newer = apsw.Connection(os.fspath(bad["newer"][0]))
    newer.pragma("user_version", schema.SCHEMA_VERSION + 1)
    newer.close()
    backup.make(a_server(tmp_path / "otherdata", origin="https://other.example"), bad["other"][0])
    before = facts(data)
    there = sorted(each.name for each in data.iterdir())
    for name, (path, sentence) in bad.items():
        with pytest.raises(OperatorError, match=sentence) as refused:
            backup.restore(data, path)
        assert f"{backup.RESTORED}." not in str(refused.value), name
        assert facts(data) == before, name
    assert set(there) <= {each.name for each in data.iterdir()} <= {*there, "lock"}


def test_one_byte_that_changed_anywhere_in_a_backup_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    data, file = a_server(tmp_path / "data", b"a value that somebody claimed"), tmp_path / "taube.backup"
    backup.make(data, file)
    whole, before = file.read_bytes(), facts(data)
    there = sorted(each.name for each in data.iterdir())
    places = {
        "head": 27,
        "free room of a page": 2000,
        "address key": whole.index(before[f"{identity.KEY_PREFIX}0"][8:]) + 5,
        "generation": whole.index(before[identity.GENERATION]),
        "gate": whole.index(b"a value that somebody claimed") + 3,
        "name of a fact": whole.index(backup.DIGEST.encode()),
        "words before the digest": len(whole) - 100,
        "digest": len(whole) - 10,
        "last": len(whole) - 1,
    }
    for name, at in places.items():
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        for into in (data, tmp_path / "new"):
            with pytest.raises(OperatorError, match=r"Nothing was restored.*is damaged") as refused:
                backup.restore(into, file)
            assert refused.value.exit_code == 65, name
        assert facts(data) == before, name
        assert not (tmp_path / "new" / backup.DATABASE).exists(), name
    for size in (len(whole) - 1, len(whole) - len(b"\n") - 64, whole.rindex(b"SHA-256 of"), len(whole) - 300):
        file.write_bytes(whole[:size])
        with pytest.raises(OperatorError, match=r"Nothing was restored.*is damaged"):
            backup.restore(data, file)
    file.write_bytes(whole + b"\n")
    with pytest.raises(OperatorError, match=r"Nothing was restored.*is damaged"):
        backup.restore(data, file)
    assert set(there) <= {each.name for each in data.iterdir()} <= {*there, "lock"}
    file.write_bytes(whole)
    assert backup.restore(data, file).is_verified
    assert backup.restore(tmp_path / "copied", without_digest(data, tmp_path / "copy")) == (None, False)


def test_a_backup_without_a_digest_is_restored_and_it_is_said_that_it_was_not_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, told = a_server(tmp_path / "data"), "could not be checked"
    older, file = without_digest(data, tmp_path / "older"), tmp_path / "taube.backup"
    assert cli.main(["admin", "restore", "--data", str(tmp_path / "new"), str(older)]) == 0
    assert capsys.readouterr().err.count(told) == 1
    assert gate(tmp_path / "new") == b"v"
    assert cli.main(["admin", "backup", "--data", str(tmp_path / "new"), str(file)]) == 0
    assert cli.main(["admin", "restore", "--data", str(tmp_path / "new"), str(file)]) == 0
    assert told not in capsys.readouterr().err


def log_of_another(file: Path, folder_of: Path, mode: str) -> Path:
    """Beside *file*, as if it had lain there by that name: the log of a server whose gate holds *other*."""
    folder_of.mkdir()
    other = folder_of / file.name
    other.write_bytes(file.read_bytes())
    writing = apsw.Connection(os.fspath(other))
    writing.pragma("journal_mode", mode)
    writing.execute("UPDATE gate SET value = 'other'")
    if mode == "delete":  # such a log says what was there before
        writing.execute("BEGIN; UPDATE gate SET value = 'later'")
        writing.cache_flush()
    [log] = [path for path in folder_of.iterdir() if path.name.endswith(("-wal", "-journal"))]
    beside = file.with_name(log.name)
    beside.write_bytes(log.read_bytes())
    writing.close()
    return beside


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_log_beside_a_backup_is_no_part_of_what_is_restored(tmp_path: Path, mode: str) -> None:
    data, file = a_server(tmp_path / "data"), tmp_path / "copied" / backup.DATABASE
    file.parent.mkdir()
    backup.make(data, file)
    whole, beside = file.read_bytes(), log_of_another(file, tmp_path / "other", mode)
    log = beside.read_bytes()
    assert log
    assert backup.restore(tmp_path / "new", file).is_verified
    assert gate(tmp_path / "new") == b"v"
    assert (file.read_bytes(), beside.read_bytes()) == (whole, log)
    assert gate_as_sqlite_reads(file) == "other"


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_log_beside_a_backup_without_a_digest_is_told_before_anything_is_touched(tmp_path: Path, mode: str) -> None:
    """It may be a part of it: a copy of a server's files, or one of an older version's backup."""
    data, file = a_server(tmp_path / "data"), tmp_path / "copied"
    beside = log_of_another(without_digest(data, file), tmp_path / "other", mode)
    with pytest.raises(OperatorError, match=rf"Nothing was restored. {beside} lies beside") as refused:
        backup.restore(tmp_path / "new", file)
    assert refused.value.exit_code == 65
    assert {path.name for path in (tmp_path / "new").iterdir()} <= {"lock"}
    beside.write_bytes(b"")
    assert backup.restore(tmp_path / "new", file) == (None, False)


def gate_as_sqlite_reads(file: Path) -> str:
    reading = apsw.Connection(os.fspath(file))
    try:
        return str(reading.execute("SELECT value FROM gate").fetchone()[0])
    finally:
        reading.close()


def test_what_is_restored_is_what_was_checked_whatever_becomes_of_the_file_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, file = a_server(tmp_path / "data", b"a value that somebody claimed"), tmp_path / "taube.backup"
    backup.make(data, file)
    whole = file.read_bytes()
    hold, examine = folder.hold, backup.sqlite.examine

    def spoil() -> None:
        file.write_bytes(whole.replace(b"a value that", b"a value This"))

    monkeypatch.setattr(folder, "hold", lambda path: (spoil(), hold(path))[1])
    with pytest.raises(OperatorError, match="is damaged"):
        backup.restore(tmp_path / "new", file)
    file.write_bytes(whole)
    monkeypatch.setattr(folder, "hold", hold)
    monkeypatch.setattr(backup.sqlite, "examine", lambda path: (spoil(), examine(path))[1])
    assert backup.restore(tmp_path / "new", file).is_verified
    assert gate(tmp_path / "new") == b"a value that somebody claimed"


async def test_a_backup_is_made_while_the_server_runs_and_a_restore_is_refused(rig, tmp_path) -> None:
    async with rig() as server:
        data, file = server.folder / "data", tmp_path / "taube.backup"
        person, bob = await server.online()
        [minted] = await bob.mint()
        await bob.close()
        alice = await server.connect()
        assert (await alice.send([minted.address], b"in the backup")).statuses == b"\0"
        await run(backup.make, data, file)
        with pytest.raises(OperatorError, match="stop it first") as refused:
            await run(backup.restore, data, file)
        assert refused.value.exit_code == 75
        assert (await alice.send([minted.address], b"after it")).statuses == b"\0"
        await server.stop()
        await run(backup.restore, data, file)
        await server.start()
        _, bob = await server.online(person)
        assert (await bob.next(m.Deliver)).body == b"in the backup"
        assert (await bob.next(m.CaughtUp)).upto == 1


async def test_a_backup_under_load_holds_all_that_was_kept_before_it_began(rig, tmp_path) -> None:
    async with rig() as server:
        data = server.folder / "data"
        _, bob = await server.online()
        [minted] = await bob.mint()
        await bob.close()
        alice = await server.connect()
        kept = 0

        async def write() -> None:
            nonlocal kept
            while True:
                assert (await alice.send([minted.address], b"%d" % kept)).statuses == b"\0"
                kept += 1

        writing = asyncio.create_task(write())
        for number in range(5):
            before = kept
            await run(backup.make, data, tmp_path / f"backup-{number}")
            assert kept > before, "writing goes on meanwhile"
            copied = apsw.Connection(os.fspath(tmp_path / f"backup-{number}"))
            bodies = [row[0] for row in copied.execute("SELECT body FROM envelope ORDER BY key").fetchall()]
            copied.close()
            assert bodies == [b"%d" % each for each in range(len(bodies))] and len(bodies) >= before
        writing.cancel()


async def test_a_restore_that_was_interrupted_is_finished_by_the_next_start(rig, tmp_path) -> None:
    server = rig()
    data, file = server.folder / "data", tmp_path / "taube.backup"
    await server.start()
    await server.stop()
    backup.make(data, file)
    assert backup._prepare(data, file)  # and the machine stops here
    generation = read_facts(data / backup.RESTORED)[identity.GENERATION]
    await server.start()
    assert server.server._generation == generation
    assert any("interrupted" in event.get("reason", "") for event in server.events())
    await server.stop()
    assert len(list(data.glob("replaced-*/taube.db"))) == 1


async def test_what_a_restore_that_was_killed_left_is_removed_by_the_next_start(rig) -> None:
    server = rig()
    data = server.folder / "data"
    await server.start()
    await server.stop()
    for name in ("abc", "abc-wal", "abc-shm", "abc-journal"):
        (data / f".{backup.RESTORED}.{name}").write_bytes(b"keys")
    await server.start()
    assert not list(data.glob(f".{backup.RESTORED}*"))
    assert not any("interrupted" in event.get("reason", "") for event in server.events())
    await server.stop()


@spec("DEL-03")
def test_a_restore_takes_over_newer_address_keys_if_the_old_database_can_be_read(tmp_path: Path) -> None:
    data, file = a_server(tmp_path / "data"), tmp_path / "taube.backup"
    backup.make(data, file)
    assert admin.rotate_keys(data) == 2
    before = facts(data)
    backup.restore(data, file)
    after = facts(data)
    assert {name: key for name, key in after.items() if name.startswith(identity.CURRENT_KEY)} == {
        name: key for name, key in before.items() if name.startswith(identity.CURRENT_KEY)
    }


def test_keys_of_another_server_are_not_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "taube.backup"
    backup.make(a_server(tmp_path / "data"), file)
    fresh = a_server(tmp_path / "fresh")  # started anew after the disk was lost, before the backup was found
    admin.rotate_keys(fresh)
    backup.restore(fresh, file)
    kept = facts(tmp_path / "data")
    assert facts(fresh)[identity.CURRENT_KEY] == kept[identity.CURRENT_KEY]
    assert f"{identity.KEY_PREFIX}1" not in facts(fresh)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_restores_belongs_to_the_folders_owner(tmp_path: Path) -> None:
    file = tmp_path / "taube.backup"
    backup.make(a_server(tmp_path / "data"), file)
    for data in (tmp_path / "data", tmp_path / "empty"):
        folder.prepare(data)
        for path in (data, *data.iterdir()):
            os.chown(path, 12345, 12345)
        backup.restore(data, file)
        assert {path.name: path.stat().st_uid for path in data.rglob("*")} == {
            path.name: 12345 for path in data.rglob("*")
        }
    assert file.stat().st_uid == 0


def test_a_restore_over_a_damaged_database_works(tmp_path: Path) -> None:
    data, file = a_server(tmp_path / "data"), tmp_path / "taube.backup"
    backup.make(data, file)
    (data / backup.DATABASE).write_bytes(b"\0" * 9000)
    aside = backup.restore(data, file).aside
    assert gate(data) == b"v" and aside is not None
    assert (aside / backup.DATABASE).read_bytes() == b"\0" * 9000


@spec("DEL-03")
async def test_a_rotated_key_is_noticed_by_the_running_server_and_old_addresses_open(rig) -> None:
    quick = ServerConfig(sqlite=SqliteSettings(foreign_check_s=0.02))
    async with rig(config=quick) as server:
        _, bob = await server.online()
        await bob.next(m.CaughtUp)
        [old] = await bob.mint()
        assert await run(admin.rotate_keys, server.folder / "data") == 2
        while True:
            [new] = await bob.mint()
            if new.address[0] != old.address[0]:
                break
        alice = await server.connect()
        waiting = [alice.post(lambda n, to=each: m.Send(n, 0, [to.address], b"x")) for each in (old, new)]
        for _ in range(2):
            bob.acknowledge((await bob.next(m.Deliver)).number)
        assert [(await each).statuses for each in waiting] == [b"\0", b"\0"]


@spec("DEL-03")
def test_a_key_that_was_retired_13_months_ago_is_forgotten(tmp_path: Path) -> None:
    data = a_server(tmp_path / "data")
    admin.rotate_keys(data)
    with transaction(data / backup.DATABASE) as tables:
        now_ms = identity.guarded_now(tables, admin._now_ms())
        day = 86_400_000
        assert sorted(identity.establish(tables, os.urandom, now_ms + 395 * day).address_keys) == [0, 1]
        assert sorted(identity.establish(tables, os.urandom, now_ms + 397 * day).address_keys) == [1]


def test_a_restore_leaves_the_files_that_people_sent_where_they_are(tmp_path: Path) -> None:
    data, file = a_server(tmp_path / "data"), tmp_path / "taube.backup"
    store = ObjectFolder(data / folder.BLOBS)
    store.begin(b"n" * 32, 300, 20_045, 20_002)
    backup.make(data, file)
    store.begin(b"m" * 32, 300, 20_045, 20_002)
    backup.restore(data, file)
    assert store.look(b"n" * 32) is not None and store.look(b"m" * 32) is not None
