"""Databases of every schema there ever was, stored under schemas/, are upgraded and keep everything.

A schema that changes gets a new version, a step in `schema.UPGRADES`, and its own file here: `schemas/N.sql`, made by

    python -m tests.server.stores.test_upgrades
"""

import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from taube.server import backup, folder
from taube.server.ports import AccountRow, EnvelopeRow, InvitationRow, MailboxId, QueueNumber, StoreUnusable, Tables
from taube.server.services import identity
from taube.server.stores.schema import APPLICATION_ID, SCHEMA_VERSION
from taube.server.stores.sqlite import SqliteSettings, examine, prepare, transaction
from taube.wire.messages import AccountId, DeviceId, GateName, Serial
from tests.server.stores.conftest import SqliteEngine
from tests.spec import spec

SCHEMAS = Path(__file__).parent / "schemas"
STORED = sorted(int(path.stem) for path in SCHEMAS.glob("*.sql"))
ACCOUNT = AccountRow(AccountId(b"a" * 32), b"genesis", b"list", 7, 202511, 202512)
MAILBOX = MailboxId(b"m" * 16)
ENVELOPES = [
    EnvelopeRow(QueueNumber(1), place, Serial(b"serial-%d" % (place % 2)), 5, b"body %d" % place) for place in (1, 2, 3)
]


def fill(tables: Tables) -> None:
    """Something in every table of the first schema."""
    tables.add_account(ACCOUNT)
    tables.add_device(ACCOUNT.account, DeviceId(b"d" * 16), b"k" * 32, MAILBOX)
    tables.revoke(QueueNumber(1), b"revoked!")
    tables.add_invitation(InvitationRow(b"h" * 32, 3, 1_800_000_000_000))
    tables.add_packages(QueueNumber(1), 1, [b"package 1", b"package 2"], 202410)
    tables.set_last_resort(QueueNumber(1), 79, b"last resort", 202410)
    tables.claim_gate(GateName(b"g" * 32), b"value", 19_000)
    identity.establish(tables, lambda count: bytes(range(count)), 1)


def check(engine: SqliteEngine) -> None:
    """All that `fill` put there, by the words of today's code."""
    tables = engine.store._look_tables
    assert tables.account(ACCOUNT.account) == ACCOUNT
    device = tables.device(ACCOUNT.account, DeviceId(b"d" * 16))
    assert device is not None and device[:5] == (1, ACCOUNT.account, b"d" * 16, b"k" * 32, MAILBOX)
    assert tables.is_revoked(QueueNumber(1), b"revoked!") and tables.revoked_count(QueueNumber(1)) == 1
    assert tables.invitation(b"h" * 32) == InvitationRow(b"h" * 32, 3, 1_800_000_000_000)
    assert tables.packages(QueueNumber(1)) == [(1, False, 202410, 2), (79, True, 202410, 1)]
    assert tables.read_gate(GateName(b"g" * 32)) == b"value"
    assert tables.fact(identity.GENERATION) == bytes(range(16))
    found, more = engine.fetch(QueueNumber(1))
    assert not more
    assert [(each.sequence, each.serial, each.body) for each in found] == [
        (each.sequence, each.serial, each.body) for each in ENVELOPES
    ]


def stored(version: int, path: Path) -> Path:
    """A database of that schema, as it was stored."""
    connection = apsw.Connection(os.fspath(path))
    connection.execute((SCHEMAS / f"{version}.sql").read_text())
    connection.close()
    return path


def shape(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Tables with their columns, and indexes."""
    connection = apsw.Connection(os.fspath(path))
    names = connection.execute(
        "SELECT name, type FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    ).fetchall()
    found = {
        str(name): connection.execute(f"PRAGMA {'table_info' if kind == 'table' else 'index_info'}({name})").fetchall()
        for name, kind in names
    }
    connection.close()
    return found


@spec("DEL-25")
@pytest.mark.parametrize("version", STORED)
def test_a_database_of_every_schema_there_was_keeps_everything(tmp_path: Path, version: int) -> None:
    path = stored(version, tmp_path / "taube.db")
    engine = SqliteEngine(path)
    try:
        check(engine)
    finally:
        engine.close()
    prepare(tmp_path / "fresh.db", SqliteSettings())
    assert shape(path) == shape(tmp_path / "fresh.db")
    assert examine(path).schema == SCHEMA_VERSION


def test_the_schema_of_today_is_stored_and_unchanged(tmp_path: Path) -> None:
    assert list(range(1, SCHEMA_VERSION + 1)) == STORED, "raise SCHEMA_VERSION, add the step, store the new schema"
    prepare(tmp_path / "fresh.db", SqliteSettings())
    assert shape(stored(SCHEMA_VERSION, tmp_path / "taube.db")) == shape(tmp_path / "fresh.db")


@pytest.mark.parametrize("version", STORED)
def test_a_backup_of_every_schema_there_was_can_be_restored(tmp_path: Path, version: int) -> None:
    path = stored(version, tmp_path / "old.backup")
    before = path.read_bytes()
    assert not backup.restore(tmp_path / "data", path).is_verified
    assert path.read_bytes() == before, "a backup is only read"
    assert examine(tmp_path / "data" / backup.DATABASE).schema == SCHEMA_VERSION
    with transaction(tmp_path / "data" / backup.DATABASE) as tables:
        assert tables.account(ACCOUNT.account) == ACCOUNT
        assert tables.fact(identity.GENERATION) != bytes(range(16))


@spec("DEL-25")
@pytest.mark.parametrize(
    "words",
    [
        ["serve", "--listen", "127.0.0.1:0"],
        ["admin", "invite"],
        ["admin", "rotate-keys"],
        ["admin", "backup", "new.backup"],
        ["doctor"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_newer_schema_is_refused_by_every_command_in_one_sentence(tmp_path: Path, words: list[str]) -> None:
    folder.prepare(tmp_path / "data")
    path = stored(SCHEMA_VERSION, tmp_path / "data" / backup.DATABASE)
    connection = apsw.Connection(os.fspath(path))
    connection.pragma("user_version", SCHEMA_VERSION + 1)
    connection.close()
    before = path.read_bytes()
    command = [sys.executable, "-m", "taube", *words, "--data", "data"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "newer version of Taube" in said and "Traceback" not in said
    assert "data/taube.db was written" in said, "it names the file that is newer"
    assert words == ["doctor"] or len(said.strip().splitlines()) == 1
    assert path.read_bytes() == before
    assert not (tmp_path / "new.backup").exists()


@pytest.mark.parametrize("version", [-1, -(2**31)])
def test_a_schema_that_never_was_is_refused_as_damage(tmp_path: Path, version: int) -> None:
    path = stored(SCHEMA_VERSION, tmp_path / "taube.db")
    connection = apsw.Connection(os.fspath(path))
    connection.pragma("user_version", version)
    connection.close()
    for look in (examine, lambda path: prepare(path, SqliteSettings())):
        with pytest.raises(StoreUnusable, match="is damaged"):
            look(path)


def store() -> None:
    """Write the file of today's schema."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        engine = SqliteEngine(Path(place) / "taube.db")
        engine.write(fill)
        engine.submit(ENVELOPES)
        engine.close()
        connection = apsw.Connection(f"{place}/taube.db")
        lines = [f"PRAGMA application_id = {APPLICATION_ID};", f"PRAGMA user_version = {SCHEMA_VERSION};", "BEGIN;"]
        schema = connection.execute("SELECT sql FROM sqlite_schema WHERE sql NOT NULL AND name != 'sqlite_sequence'")
        lines += [f"{sql};" for (sql,) in schema.fetchall()]
        tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name != 'sqlite_sequence' ORDER BY rowid"
        for (table,) in connection.execute(tables).fetchall():
            for row in connection.execute(f"SELECT * FROM {table}").fetchall():
                lines.append(f"INSERT INTO {table} VALUES ({', '.join(map(apsw.format_sql_value, row))});")
        connection.close()
    SCHEMAS.mkdir(exist_ok=True)
    (SCHEMAS / f"{SCHEMA_VERSION}.sql").write_text("\n".join([*lines, "COMMIT;"]) + "\n")


if __name__ == "__main__":
    store()
