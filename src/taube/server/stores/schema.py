"""The schema of the embedded engine: every table and column with the ledger entry that permits it, and the upgrades.

A change here is a new version: raise SCHEMA_VERSION, add the step to UPGRADES, and the entry to the ledger if the fact
is new. tests/test_ledger.py compares this with a real file.
"""

from typing import Final, NamedTuple

from taube.server import ledger
from taube.server.ledger import Entry

SCHEMA_VERSION: Final = 3
APPLICATION_ID: Final = 0x7A0BE001
"""Written into the file's head, so that another program's database is not taken for ours."""


class Column(NamedTuple):
    """A column, its SQL, and the ledger entry that permits it."""

    name: str
    sql: str
    entry: Entry


class Table(NamedTuple):
    """A table; *tail* is its key, *without_rowid* how it is laid out."""

    name: str
    columns: tuple[Column, ...]
    tail: str = ""
    without_rowid: bool = True


SCHEMA: Final = (
    Table(
        "account",
        (
            Column("account", "BLOB PRIMARY KEY", ledger.ACCOUNT),
            Column("genesis", "BLOB NOT NULL", ledger.ACCOUNT),
            Column("device_list", "BLOB NOT NULL", ledger.ACCOUNT),
            Column("counter", "INTEGER NOT NULL", ledger.ACCOUNT),
            Column("created_month", "INTEGER NOT NULL", ledger.ACCOUNT_MONTHS),
            Column("used_month", "INTEGER NOT NULL", ledger.ACCOUNT_MONTHS),
        ),
    ),
    Table(
        "device",
        (
            Column("queue", "INTEGER PRIMARY KEY AUTOINCREMENT", ledger.DEVICE),
            Column("account", "BLOB NOT NULL", ledger.DEVICE),
            Column("device", "BLOB NOT NULL", ledger.DEVICE),
            Column("login_key", "BLOB NOT NULL", ledger.DEVICE),
            Column("mailbox", "BLOB NOT NULL UNIQUE", ledger.DEVICE),
            Column("remint", "INTEGER NOT NULL DEFAULT 0", ledger.DEVICE),
            Column("mark", "BLOB", ledger.MARK),
        ),
        "UNIQUE (account, device)",
        without_rowid=False,
    ),
    Table(
        "push",
        (
            Column("queue", "INTEGER PRIMARY KEY", ledger.PUSH),
            Column("endpoint", "TEXT NOT NULL", ledger.PUSH),
            Column("key", "BLOB NOT NULL", ledger.PUSH),
            Column("secret", "BLOB NOT NULL", ledger.PUSH),
        ),
        without_rowid=False,
    ),
    Table(
        "revoked",
        (
            Column("queue", "INTEGER NOT NULL", ledger.REVOKED_SERIAL),
            Column("serial", "BLOB NOT NULL", ledger.REVOKED_SERIAL),
        ),
        "PRIMARY KEY (queue, serial)",
    ),
    Table(
        "invitation",
        (
            Column("hash", "BLOB PRIMARY KEY", ledger.INVITATION),
            Column("uses_left", "INTEGER NOT NULL", ledger.INVITATION),
            Column("expires_at_ms", "INTEGER NOT NULL", ledger.INVITATION),
        ),
    ),
    Table(
        "key_package",
        (
            Column("queue", "INTEGER NOT NULL", ledger.KEY_PACKAGE),
            Column("suite", "INTEGER NOT NULL", ledger.KEY_PACKAGE),
            Column("last_resort", "INTEGER NOT NULL", ledger.KEY_PACKAGE),
            Column("place", "INTEGER NOT NULL", ledger.KEY_PACKAGE),
            Column("month", "INTEGER NOT NULL", ledger.KEY_PACKAGE),
            Column("package", "BLOB NOT NULL", ledger.KEY_PACKAGE),
        ),
        "PRIMARY KEY (queue, suite, last_resort, place)",
    ),
    Table(
        "gate",
        (
            Column("name", "BLOB PRIMARY KEY", ledger.GATE),
            Column("day", "INTEGER NOT NULL", ledger.GATE),
            Column("value", "BLOB NOT NULL", ledger.GATE),
        ),
    ),
    Table(
        "envelope",
        (
            Column("key", "INTEGER PRIMARY KEY", ledger.ENVELOPE),
            Column("serial", "BLOB NOT NULL", ledger.ENVELOPE),
            Column("hour", "INTEGER NOT NULL", ledger.ENVELOPE),
            Column("body", "BLOB NOT NULL", ledger.ENVELOPE),
        ),
        without_rowid=False,
    ),
    Table(
        "fact",
        (
            Column("name", "TEXT PRIMARY KEY", ledger.SERVER),
            Column("value", "BLOB NOT NULL", ledger.SERVER),
        ),
    ),
)
"""The newest schema."""

INDEXES: Final = ("CREATE INDEX gate_by_day ON gate (day)",)


def create_sql() -> list[str]:
    """The statements that make the newest schema in an empty file."""
    statements = []
    for table in SCHEMA:
        parts = [f"{column.name} {column.sql}" for column in table.columns] + ([table.tail] if table.tail else [])
        layout = " WITHOUT ROWID" if table.without_rowid else ""
        statements.append(f"CREATE TABLE {table.name} ({', '.join(parts)}){layout}")
    return [*statements, *INDEXES]


UPGRADES: Final[dict[int, tuple[str, ...]]] = {
    1: (  # the day a key package lapses told the day its device was last there
        "ALTER TABLE key_package RENAME COLUMN day TO month",
        "UPDATE key_package SET month = CAST(strftime('%Y%m', month * 86400, 'unixepoch') AS INTEGER)",
    ),
    2: (
        "ALTER TABLE device ADD COLUMN mark BLOB",
        "CREATE TABLE push (queue INTEGER PRIMARY KEY, endpoint TEXT NOT NULL, key BLOB NOT NULL,"
        " secret BLOB NOT NULL)",
    ),
}
"""Schema version -> statements that lead to the next one."""
