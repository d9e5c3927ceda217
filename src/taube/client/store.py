"""The encrypted local database of a home: its schema, its transactions, and every query.

One SQLite file, encrypted page by page (sqlite3mc), in WAL mode with `synchronous=FULL`: what `write()` has left is on
the disk before any byte of it leaves for the network. Any number of processes may have it open. A process that changes
something holds the one write lock from before it read until it stored (`BEGIN IMMEDIATE`), so no two ever work from
the same state; `data_version` tells a process that another one wrote.

It keeps rows and knows their shapes. It does not know what MLS rows contain, what a content means, or the network.
The only importer of apsw. Source: docs/protocol/device.md, "State".
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeVar

import apsw

from taube.client.errors import HomeUnusable
from taube.client.home import Home
from taube.exits import EX_IOERR, EX_NOPERM, EX_TEMPFAIL
from taube.wire.packing import Unpacker, pack

Row = TypeVar("Row")

SCHEMA_VERSION: Final = 3
BUSY_MS: Final = 30_000
DAY_MS: Final = 86_400_000
KEEP_SENT_MS: Final = 30 * DAY_MS
KEEP_DECIDED_MS: Final = 45 * DAY_MS
KEEP_ASIDE_MS: Final = 30 * DAY_MS
KEEP_JOURNAL: Final = 5_000
# the longest that anything is put off; a chore: a day
MOST_OUTBOX_WAIT_MS: Final = 3_600_000
MOST_GAP_WAIT_MS: Final = 6 * 3_600_000
TRIM_JOURNAL_EVERY: Final = 500
MAX_ASIDE_PER_SERIAL: Final = 64
MAX_TOLD: Final = 32

_TROUBLE: Final = (apsw.BusyError, apsw.FullError, apsw.IOError, apsw.ReadOnlyError)
"""What a person can do something about."""

_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE mls (scope BLOB, name BLOB, value BLOB NOT NULL, PRIMARY KEY (scope, name)) WITHOUT ROWID;
CREATE TABLE scopes (scope BLOB PRIMARY KEY, version INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE addresses (serial BLOB PRIMARY KEY, address BLOB NOT NULL UNIQUE, purpose TEXT NOT NULL, chat BLOB,
                        made_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE packages (ref BLOB PRIMARY KEY, suite INTEGER NOT NULL, serial BLOB NOT NULL, chat BLOB,
                       last_resort INTEGER NOT NULL, made_ms INTEGER NOT NULL, retired_ms INTEGER) WITHOUT ROWID;

CREATE TABLE contacts (account BLOB PRIMARY KEY, name TEXT NOT NULL, counter INTEGER NOT NULL,
                       certificate BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE chats (id BLOB PRIMARY KEY, name TEXT NOT NULL UNIQUE, named_by TEXT NOT NULL, kind INTEGER NOT NULL,
                    state TEXT NOT NULL, peer BLOB, group_id BLOB, next_sequence INTEGER NOT NULL,
                    last_at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE UNIQUE INDEX chat_of_peer ON chats (peer) WHERE peer IS NOT NULL;
CREATE TABLE requests (chat BLOB PRIMARY KEY, account BLOB NOT NULL, serial BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE groups (id BLOB PRIMARY KEY, chat BLOB NOT NULL, mls_chat BLOB NOT NULL, epoch INTEGER NOT NULL,
                     standing TEXT NOT NULL, since_ms INTEGER NOT NULL, predecessor BLOB,
                     serial BLOB) WITHOUT ROWID;
CREATE INDEX groups_of_chat ON groups (chat);

CREATE TABLE messages (n INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL, chat BLOB NOT NULL, sender BLOB NOT NULL,
                       sequence INTEGER NOT NULL, sent_at_ms INTEGER NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL,
                       state TEXT NOT NULL, unread INTEGER NOT NULL, reply_to BLOB NOT NULL DEFAULT x'', content BLOB,
                       UNIQUE (chat, id, sender));
CREATE INDEX unread_messages ON messages (n) WHERE unread = 1;
CREATE TABLE receipts (chat BLOB, message BLOB, status INTEGER NOT NULL, PRIMARY KEY (chat, message)) WITHOUT ROWID;
CREATE TABLE heard (chat BLOB, device BLOB, highest INTEGER NOT NULL, PRIMARY KEY (chat, device)) WITHOUT ROWID;
CREATE TABLE gaps (chat BLOB, device BLOB, sequence INTEGER, sender BLOB NOT NULL, since_ms INTEGER NOT NULL,
                   ask_ms INTEGER NOT NULL, PRIMARY KEY (chat, device, sequence)) WITHOUT ROWID;

CREATE TABLE outbox (n INTEGER PRIMARY KEY AUTOINCREMENT, chat BLOB, message BLOB, content BLOB, only_device BLOB,
                     body BLOB, targets BLOB, kept INTEGER NOT NULL DEFAULT 0, made_ms INTEGER NOT NULL,
                     due_ms INTEGER NOT NULL, tries INTEGER NOT NULL DEFAULT 0);
CREATE TABLE sent (chat BLOB, sequence INTEGER, message BLOB NOT NULL, content BLOB NOT NULL, at_ms INTEGER NOT NULL,
                   resent INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (chat, sequence)) WITHOUT ROWID;

CREATE TABLE uploads (n INTEGER PRIMARY KEY AUTOINCREMENT, chat BLOB NOT NULL, message BLOB NOT NULL,
                      content BLOB NOT NULL, secret BLOB NOT NULL, made_ms INTEGER NOT NULL, due_ms INTEGER NOT NULL,
                      tries INTEGER NOT NULL DEFAULT 0);

CREATE TABLE decided (id BLOB PRIMARY KEY, at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE aside (n INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, serial BLOB NOT NULL,
                    body BLOB NOT NULL, at_ms INTEGER NOT NULL);
CREATE INDEX aside_of_serial ON aside (serial);

CREATE TABLE pending (group_id BLOB PRIMARY KEY, epoch INTEGER NOT NULL, k INTEGER NOT NULL, name BLOB NOT NULL,
                      value BLOB NOT NULL, body BLOB NOT NULL, welcomes BLOB NOT NULL,
                      at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE passed (group_id BLOB PRIMARY KEY, epoch INTEGER NOT NULL, k INTEGER NOT NULL, name BLOB NOT NULL,
                     value BLOB NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE told (n INTEGER PRIMARY KEY AUTOINCREMENT, group_id BLOB NOT NULL, epoch INTEGER NOT NULL,
                   k INTEGER NOT NULL, value BLOB NOT NULL);
CREATE TABLE joins (chat BLOB, account BLOB, at_ms INTEGER NOT NULL, PRIMARY KEY (chat, account)) WITHOUT ROWID;
CREATE TABLE grants (device BLOB, chat BLOB, at_ms INTEGER NOT NULL, PRIMARY KEY (device, chat)) WITHOUT ROWID;
CREATE TABLE chores (n INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, subject BLOB NOT NULL,
                     payload BLOB NOT NULL, made_ms INTEGER NOT NULL, due_ms INTEGER NOT NULL,
                     tries INTEGER NOT NULL, UNIQUE (kind, subject));
CREATE TABLE journal (n INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, chat BLOB NOT NULL, about BLOB NOT NULL,
                      text TEXT NOT NULL);
"""

_STEPS: Final = {
    2: """
CREATE TABLE requests (chat BLOB PRIMARY KEY, account BLOB NOT NULL, serial BLOB NOT NULL) WITHOUT ROWID;
INSERT INTO requests SELECT chats.id, coalesce(chats.peer, x''), coalesce(groups.serial, x'')
    FROM chats LEFT JOIN groups ON groups.id = chats.group_id WHERE chats.state = 'request';
""",
    3: """
ALTER TABLE messages ADD COLUMN reply_to BLOB NOT NULL DEFAULT x'';
ALTER TABLE messages ADD COLUMN content BLOB;
CREATE TABLE uploads (n INTEGER PRIMARY KEY AUTOINCREMENT, chat BLOB NOT NULL, message BLOB NOT NULL,
                      content BLOB NOT NULL, secret BLOB NOT NULL, made_ms INTEGER NOT NULL, due_ms INTEGER NOT NULL,
                      tries INTEGER NOT NULL DEFAULT 0);
""",
}
"""What makes of the schema before each version the schema of that version."""


class Address(NamedTuple):
    """A sealed address of ours. *purpose*: spare, link, package, chat (then *chat* says whose), revoked, or dead (of a
    mailbox that was renewed: nothing new arrives, what waits there is still read; *made_ms*: since when)."""

    serial: bytes
    address: bytes
    purpose: str
    chat: bytes | None
    made_ms: int


class Package(NamedTuple):
    """A key package of ours. *chat*: made for asking that chat to take us back. *retired_ms*: not offered since (or
    from then on)."""

    ref: bytes
    suite: int
    serial: bytes
    chat: bytes | None
    last_resort: int
    made_ms: int
    retired_ms: int | None


class Contact(NamedTuple):
    """Another account: the name it gave itself, the lowest list counter still acceptable, its newest certificate."""

    account: bytes
    name: str
    counter: int
    certificate: bytes


class Chat(NamedTuple):
    """A conversation as people see it. *group_id*: the MLS group that it uses now."""

    id: bytes
    name: str
    named_by: str
    kind: int
    state: str
    peer: bytes | None
    group_id: bytes | None
    next_sequence: int
    last_at_ms: int


class Group(NamedTuple):
    """An MLS group of a chat. *standing*: current, rejoin (not usable), left. *serial*: the address we joined by."""

    id: bytes
    chat: bytes
    mls_chat: bytes
    epoch: int
    standing: str
    since_ms: int
    predecessor: bytes | None
    serial: bytes | None


WRITTEN: Final = ("text", "media")
"""The kinds of messages that a person wrote: they are confirmed and can be answered."""


class Message(NamedTuple):
    """One message of the history; *sender* is an account. *reply_to*: message id and account of what it answers.
    *content*: all that was said, where *text* is not all of it (media, and kinds that are not known)."""

    n: int
    id: bytes
    chat: bytes
    sender: bytes
    sequence: int
    sent_at_ms: int
    kind: str
    text: str
    state: str
    unread: int
    reply_to: bytes
    content: bytes | None


class Upload(NamedTuple):
    """A media message that waits until its file is on the server, in the blob that *secret* opens."""

    n: int
    chat: bytes
    message: bytes
    content: bytes
    secret: bytes
    made_ms: int
    due_ms: int
    tries: int


class Outgoing(NamedTuple):
    """One row of the outbox: *content* until it is protected, then *body* and the *targets* that do not have it yet."""

    n: int
    chat: bytes | None
    message: bytes | None
    content: bytes | None
    only_device: bytes | None
    body: bytes | None
    targets: bytes | None
    kept: int
    made_ms: int
    due_ms: int
    tries: int


class Pending(NamedTuple):
    """A commit of ours that waits for its gate, with the exact bytes of the claim."""

    group_id: bytes
    epoch: int
    k: int
    name: bytes
    value: bytes
    body: bytes
    welcomes: bytes
    at_ms: int


class Passed(NamedTuple):
    """The gate that a group passed last."""

    group_id: bytes
    epoch: int
    k: int
    name: bytes
    value: bytes
    at_ms: int


class Told(NamedTuple):
    """A member said that gate *k* of this epoch holds *value* (empty: too large to be said)."""

    n: int
    group_id: bytes
    epoch: int
    k: int
    value: bytes


class Chore(NamedTuple):
    """Work that has to be done once, even if this process ends before."""

    n: int
    kind: str
    subject: bytes
    payload: bytes
    made_ms: int
    due_ms: int
    tries: int


class Entry(NamedTuple):
    """One line of the journal, from which every process makes its events."""

    n: int
    kind: str
    chat: bytes
    about: bytes
    text: str


_addresses: Final = Unpacker[list[bytes]](list[bytes])
_welcomes: Final = Unpacker[list[tuple[bytes, bytes]]](list[tuple[bytes, bytes]])


def pack_targets(targets: Sequence[bytes]) -> bytes:
    """Sealed addresses as one column."""
    return pack(list(targets))


def unpack_targets(data: bytes | None) -> list[bytes]:
    """The inverse; none for an empty column."""
    return _addresses.unpack(data) if data else []


def pack_welcomes(welcomes: Iterable[tuple[bytes, bytes]]) -> bytes:
    """(address, body) pairs as one column."""
    return pack([(address, body) for address, body in welcomes])


def unpack_welcomes(data: bytes) -> list[tuple[bytes, bytes]]:
    """The inverse."""
    return _welcomes.unpack(data)


class Store:
    """The open database of one home, for one process. Not thread-safe."""

    def __init__(self, home: Home, connection: apsw.Connection) -> None:
        self.home = home
        self._db = connection
        self._cursor = connection.cursor()
        self.on_commit: list[Callable[[], None]] = []
        """Called after each transaction that changed something."""

    # ---------------------------------------------------------------- opening

    @classmethod
    def create(cls, home: Home, random: Callable[[int], bytes], passphrase: str | None = None) -> "Store":
        """A new database (or the one that is there), its folder and its key. Raises HomeUnusable."""
        home.create()
        if home.exists():
            return cls.open(home, passphrase)
        key = None if passphrase else home.make_key(random)
        store = cls(home, _connect(home, passphrase, key, create=True))
        store._begin()
        return store

    @classmethod
    def open(cls, home: Home, passphrase: str | None = None) -> "Store":
        """The database of an existing home. Raises HomeUnusable, in one sentence, and changes nothing then."""
        key = home.read_key()
        if key is None and not passphrase:
            raise HomeUnusable(
                f"{home.folder} is protected by a passphrase (or its file “key” is missing): give the passphrase.",
                EX_NOPERM,
            )
        connection = _connect(home, None if key else passphrase, key, create=False)
        version = connection.pragma("user_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            connection.close()
            raise HomeUnusable(f"{home.folder} was written by a newer version of Taube: update Taube to open it.")
        store = cls(home, connection)
        if version == 0:  # it was being made when the process, or the room on the disk, came to its end
            store._begin()
        elif version in range(1, SCHEMA_VERSION):
            store._upgrade()
        return store

    def _begin(self) -> None:
        """Make the tables, at once or not at all, if there are none. Raises HomeUnusable."""
        with self.write():
            if self._value("PRAGMA user_version") == 0:
                self._run(_SCHEMA)
                self._run(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _upgrade(self) -> None:
        """Bring an older database to the schema of today, at once or not at all. Raises HomeUnusable."""
        with self.write():
            for version in range(int(self._value("PRAGMA user_version")) + 1, SCHEMA_VERSION + 1):
                for statement in _STEPS[version].split(";"):
                    self._run(statement)
                self._run(f"PRAGMA user_version = {version}")

    def close(self) -> None:
        """Idempotent."""
        self._cursor.close()
        self._db.close()

    # ---------------------------------------------------------------- transactions

    @contextmanager
    def write(self) -> Iterator[None]:
        """One write transaction: on the disk when left, undone when left by an exception. Nested: part of it."""
        if self._db.in_transaction:
            yield
            return
        self._run("BEGIN IMMEDIATE")
        before = self._db.total_changes()
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        if self._db.total_changes() != before:
            for callback in self.on_commit:
                callback()

    @property
    def in_transaction(self) -> bool:
        return self._db.in_transaction

    def data_version(self) -> int:
        """Changes when another process has committed."""
        return int(self._value("PRAGMA data_version"))

    # ---------------------------------------------------------------- meta

    def meta(self, name: str) -> bytes | None:
        value = self._value("SELECT value FROM meta WHERE name = ?", name)
        return None if value is None else bytes(value)

    def meta_text(self, name: str) -> str:
        return (self.meta(name) or b"").decode()

    def meta_int(self, name: str) -> int:
        return int(self.meta_text(name) or 0)

    def set_meta(self, name: str, value: bytes | str | int | None) -> None:
        if value is None:
            self._run("DELETE FROM meta WHERE name = ?", name)
            return
        data = value if isinstance(value, bytes) else str(value).encode()
        self._run("INSERT OR REPLACE INTO meta VALUES (?, ?)", name, data)

    # ---------------------------------------------------------------- rows of the core

    def scope_version(self, scope: bytes) -> int:
        """Rises with every change of the scope's rows; 0 when it never had any."""
        return int(self._value("SELECT version FROM scopes WHERE scope = ?", scope) or 0)

    def scope_rows(self, scope: bytes) -> list[tuple[bytes, bytes]]:
        return [(name, value) for name, value in self._rows("SELECT name, value FROM mls WHERE scope = ?", scope)]

    def put_row(self, scope: bytes, name: bytes, value: bytes | None) -> None:
        """Store a row; None deletes it, and all rows of the scope if *name* is empty."""
        if value is None and not name:
            self.clear_scope(scope)
        elif value is None:
            self._run("DELETE FROM mls WHERE scope = ? AND name = ?", scope, name)
        else:
            self._run("INSERT OR REPLACE INTO mls VALUES (?, ?, ?)", scope, name, value)

    def clear_scope(self, scope: bytes) -> None:
        self._run("DELETE FROM mls WHERE scope = ?", scope)

    def bump_scope(self, scope: bytes) -> int:
        self._run("INSERT INTO scopes VALUES (?, 1) ON CONFLICT (scope) DO UPDATE SET version = version + 1", scope)
        return self.scope_version(scope)

    # ---------------------------------------------------------------- addresses and key packages

    def add_address(self, serial: bytes, address: bytes, purpose: str, chat: bytes | None, now_ms: int) -> None:
        self._run("INSERT OR IGNORE INTO addresses VALUES (?, ?, ?, ?, ?)", serial, address, purpose, chat, now_ms)

    def address(self, serial: bytes) -> Address | None:
        return self._one(Address, "SELECT * FROM addresses WHERE serial = ?", serial)

    def addresses(self, purpose: str) -> list[Address]:
        return self._all(Address, "SELECT * FROM addresses WHERE purpose = ? ORDER BY made_ms, serial", purpose)

    def addresses_of_chat(self, chat: bytes) -> list[Address]:
        return self._all(Address, "SELECT * FROM addresses WHERE chat = ?", chat)

    def use_address(self, serial: bytes, purpose: str, chat: bytes | None = None) -> None:
        self._run("UPDATE addresses SET purpose = ?, chat = ? WHERE serial = ?", purpose, chat, serial)

    def bury_addresses(self, purpose: str, now_ms: int) -> None:
        self._run("UPDATE addresses SET purpose = 'dead', made_ms = ? WHERE purpose = ?", now_ms, purpose)

    def forget_dead_addresses(self, before_ms: int) -> None:
        self._run("DELETE FROM addresses WHERE purpose = 'dead' AND made_ms < ?", before_ms)

    def forget_address(self, serial: bytes) -> None:
        self._run("DELETE FROM addresses WHERE serial = ?", serial)

    def forget_all_addresses(self) -> None:
        self._run("DELETE FROM addresses")

    def add_package(
        self,
        ref: bytes,
        suite: int,
        serial: bytes,
        chat: bytes | None,
        last_resort: bool,
        now_ms: int,
        retired_ms: int | None = None,
    ) -> None:
        self._run(
            "INSERT INTO packages VALUES (?, ?, ?, ?, ?, ?, ?)",
            ref, suite, serial, chat, int(last_resort), now_ms, retired_ms,
        )  # fmt: skip

    def package(self, ref: bytes) -> Package | None:
        return self._one(Package, "SELECT * FROM packages WHERE ref = ?", ref)

    def packages(self) -> list[Package]:
        return self._all(Package, "SELECT * FROM packages")

    def packages_on_offer(self, suite: int) -> list[Package]:
        """Those that the server may still give out."""
        return self._all(
            Package, "SELECT * FROM packages WHERE suite = ? AND retired_ms IS NULL AND chat IS NULL", suite
        )

    def retire_package(self, ref: bytes, now_ms: int) -> None:
        self._run("UPDATE packages SET retired_ms = ? WHERE ref = ?", now_ms, ref)

    def packages_retired_before(self, at_ms: int) -> list[Package]:
        return self._all(Package, "SELECT * FROM packages WHERE retired_ms < ?", at_ms)

    def oldest_package_ms(self, suite: int) -> int | None:
        """When the oldest package on offer was made."""
        return self._int(
            "SELECT min(made_ms) FROM packages WHERE suite = ? AND retired_ms IS NULL AND chat IS NULL", suite
        )

    def forget_package(self, ref: bytes) -> None:
        self._run("DELETE FROM packages WHERE ref = ?", ref)

    def forget_all_packages(self) -> None:
        self._run("DELETE FROM packages")

    # ---------------------------------------------------------------- contacts and chats

    def contact(self, account: bytes) -> Contact | None:
        return self._one(Contact, "SELECT * FROM contacts WHERE account = ?", account)

    def contacts(self) -> list[Contact]:
        return self._all(Contact, "SELECT * FROM contacts")

    def put_contact(self, contact: Contact) -> None:
        self._run("INSERT OR REPLACE INTO contacts VALUES (?, ?, ?, ?)", *contact)

    def add_chat(self, chat: Chat) -> None:
        self._run("INSERT INTO chats VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", *chat)

    def chat(self, chat: bytes) -> Chat | None:
        return self._one(Chat, "SELECT * FROM chats WHERE id = ?", chat)

    def chat_named(self, name: str) -> Chat | None:
        return self._one(Chat, "SELECT * FROM chats WHERE name = ?", name)

    def chat_of_peer(self, account: bytes) -> Chat | None:
        return self._one(Chat, "SELECT * FROM chats WHERE peer = ?", account)

    def chats(self) -> list[Chat]:
        return self._all(Chat, "SELECT * FROM chats ORDER BY last_at_ms DESC, name")

    def rename_chat(self, chat: bytes, name: str, named_by: str) -> None:
        self._run("UPDATE chats SET name = ?, named_by = ? WHERE id = ?", name, named_by, chat)

    def set_chat_state(self, chat: bytes, state: str) -> None:
        self._run("UPDATE chats SET state = ? WHERE id = ?", state, chat)
        if state == "open":
            self._run("DELETE FROM requests WHERE chat = ?", chat)

    def add_request(self, chat: bytes, account: bytes, serial: bytes) -> None:
        """The chat waits to be accepted: who began it, and the address that its Welcome was for. Blocking keeps it."""
        self._run("INSERT OR REPLACE INTO requests VALUES (?, ?, ?)", chat, account, serial)

    def count_requests(self, account: bytes, serial: bytes) -> tuple[int, int]:
        """How many chats that this account began, and how many that came to this address, wait to be accepted."""
        waiting = "SELECT count(*) FROM requests JOIN chats ON chats.id = requests.chat WHERE chats.state = 'request'"
        by_account = self._value(f"{waiting} AND account = ?", account)
        return int(by_account), int(self._value(f"{waiting} AND serial = ?", serial))

    def is_undecided(self, chat: bytes) -> bool:
        """Whether a stranger began the chat, and it was never accepted."""
        return bool(self._value("SELECT count(*) FROM requests WHERE chat = ?", chat))

    def set_chat_group(self, chat: bytes, group_id: bytes, now_ms: int) -> None:
        """Use this group from now on; what waits to be protected is protected in it."""
        self.hurry_outgoing(chat, now_ms)
        self._run("UPDATE chats SET group_id = ? WHERE id = ?", group_id, chat)

    def touch_chat(self, chat: bytes, at_ms: int) -> None:
        self._run("UPDATE chats SET last_at_ms = max(last_at_ms, ?) WHERE id = ?", at_ms, chat)

    def take_sequence(self, chat: bytes) -> int:
        """The next number for what we send to the chat."""
        self._run("UPDATE chats SET next_sequence = next_sequence + 1 WHERE id = ?", chat)
        return int(self._value("SELECT next_sequence - 1 FROM chats WHERE id = ?", chat))

    def restart_sequences(self) -> None:
        """A new device counts from 1; what the old one sent can no longer be asked for by number. What still waits is
        numbered anew by `outbox.renumber`."""
        self._run("UPDATE chats SET next_sequence = 1")
        self._run("DELETE FROM sent")

    # ---------------------------------------------------------------- groups

    def put_group(self, group: Group) -> None:
        self._run("INSERT OR REPLACE INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *group)

    def group(self, group_id: bytes) -> Group | None:
        return self._one(Group, "SELECT * FROM groups WHERE id = ?", group_id)

    def groups(self) -> list[Group]:
        return self._all(Group, "SELECT * FROM groups")

    def groups_of_chat(self, chat: bytes) -> list[Group]:
        """The one in use first, then the newest."""
        return self._all(
            Group,
            "SELECT groups.* FROM groups JOIN chats ON chats.id = groups.chat WHERE groups.chat = ?"
            " ORDER BY groups.id = chats.group_id DESC, since_ms DESC, groups.id",
            chat,
        )

    def groups_of_serial(self, serial: bytes) -> list[Group]:
        """The groups that were joined by this address; several, if its key package was a last resort."""
        return self._all(Group, "SELECT * FROM groups WHERE serial = ? ORDER BY since_ms DESC", serial)

    def group_of_mls_chat(self, mls_chat: bytes) -> Group | None:
        """The group in use among those that carry this chat id."""
        return self._one(
            Group,
            "SELECT groups.* FROM groups JOIN chats ON chats.id = groups.chat WHERE mls_chat = ?"
            " ORDER BY groups.id = chats.group_id DESC, since_ms DESC LIMIT 1",
            mls_chat,
        )

    def forget_group(self, group_id: bytes) -> None:
        """All rows about the group but those of the core."""
        self._run("DELETE FROM groups WHERE id = ?", group_id)
        for table in ("pending", "passed", "told"):
            self._run(f"DELETE FROM {table} WHERE group_id = ?", group_id)
        self._run("DELETE FROM chores WHERE subject = ?", group_id)

    def set_epoch(self, group_id: bytes, epoch: int) -> None:
        self._run("UPDATE groups SET epoch = ? WHERE id = ?", epoch, group_id)

    def set_standing(self, group_id: bytes, standing: str, now_ms: int) -> None:
        self._run("UPDATE groups SET standing = ?, since_ms = ? WHERE id = ?", standing, now_ms, group_id)

    def put_pending(self, pending: Pending) -> None:
        self._run("INSERT OR REPLACE INTO pending VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *pending)

    def pending(self, group_id: bytes) -> Pending | None:
        return self._one(Pending, "SELECT * FROM pending WHERE group_id = ?", group_id)

    def all_pending(self) -> list[Pending]:
        return self._all(Pending, "SELECT * FROM pending")

    def forget_pending(self, group_id: bytes) -> None:
        self._run("DELETE FROM pending WHERE group_id = ?", group_id)

    def put_passed(self, passed: Passed) -> None:
        self._run("INSERT OR REPLACE INTO passed VALUES (?, ?, ?, ?, ?, ?)", *passed)

    def passed(self, group_id: bytes) -> Passed | None:
        return self._one(Passed, "SELECT * FROM passed WHERE group_id = ?", group_id)

    def put_told(self, group_id: bytes, epoch: int, k: int, value: bytes) -> None:
        """Once only, and no more than MAX_TOLD of a group: the gate itself is asked in any case."""
        told = self.told(group_id)
        if len(told) < MAX_TOLD and all((one.epoch, one.k, one.value) != (epoch, k, value) for one in told):
            self._run("INSERT INTO told (group_id, epoch, k, value) VALUES (?, ?, ?, ?)", group_id, epoch, k, value)

    def told(self, group_id: bytes) -> list[Told]:
        """What members said about the gates of a group, oldest first."""
        return self._all(Told, "SELECT * FROM told WHERE group_id = ? ORDER BY n", group_id)

    def forget_told(self, group_id: bytes, upto: int) -> None:
        self._run("DELETE FROM told WHERE group_id = ? AND n <= ?", group_id, upto)

    def put_joined(self, chat: bytes, accounts: Iterable[bytes], now_ms: int) -> None:
        """These accounts came to the chat after us."""
        self._run_for_each(
            "INSERT OR REPLACE INTO joins VALUES (?, ?, ?)", [(chat, account, now_ms) for account in accounts]
        )

    def joined_ms(self, chat: bytes, account: bytes) -> int:
        """When this account came to the chat, as far as we saw it; 0 for one that was there when we came."""
        return self._int("SELECT at_ms FROM joins WHERE chat = ? AND account = ?", chat, account) or 0

    def granted_ms(self, device: bytes, chat: bytes) -> int | None:
        """When a rejoin was last granted to this device."""
        return self._int("SELECT at_ms FROM grants WHERE device = ? AND chat = ?", device, chat)

    def put_grant(self, device: bytes, chat: bytes, now_ms: int) -> None:
        self._run("INSERT OR REPLACE INTO grants VALUES (?, ?, ?)", device, chat, now_ms)

    # ---------------------------------------------------------------- messages and receipts

    def add_message(
        self, chat: bytes, message: bytes, sender: bytes, sequence: int, sent_at_ms: int, kind: str, text: str,
        state: str, unread: bool, reply_to: bytes = b"", content: bytes | None = None,
    ) -> bool:  # fmt: skip
        """Whether it was new; the same id from the same account in the same chat is the same message."""
        self._run(
            "INSERT OR IGNORE INTO messages (id, chat, sender, sequence, sent_at_ms, kind, text, state, unread,"
            " reply_to, content) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            message, chat, sender, sequence, sent_at_ms, kind, text, state, int(unread), reply_to, content,
        )  # fmt: skip
        return self._db.changes() == 1

    def message(self, chat: bytes, message: bytes, sender: bytes) -> Message | None:
        return self._one(
            Message, "SELECT * FROM messages WHERE chat = ? AND id = ? AND sender = ?", chat, message, sender
        )

    def messages_of_id(self, chat: bytes, message: bytes) -> list[Message]:
        """Those with this id, which is unique for one sender only."""
        return self._all(Message, "SELECT * FROM messages WHERE chat = ? AND id = ? ORDER BY n", chat, message)

    def messages(self, chat: bytes, limit: int) -> list[Message]:
        """The newest *limit*, oldest first."""
        rows = self._all(Message, "SELECT * FROM messages WHERE chat = ? ORDER BY n DESC LIMIT ?", chat, limit)
        return rows[::-1]

    def unread(self, chat: bytes | None, limit: int) -> list[Message]:
        if chat is None:
            return self._all(Message, "SELECT * FROM messages WHERE unread = 1 ORDER BY n LIMIT ?", limit)
        return self._all(
            Message, "SELECT * FROM messages WHERE unread = 1 AND chat = ? ORDER BY n LIMIT ?", chat, limit
        )

    def received(self, chat: bytes | None, limit: int) -> list[Message]:
        """The newest *limit* texts and files of others, of all chats or of one; oldest first."""
        of = "" if chat is None else "chat = ? AND "
        rows = self._all(
            Message,
            f"SELECT * FROM messages WHERE {of}kind IN ('text', 'media') AND sender <> ? ORDER BY n DESC LIMIT ?",
            *(() if chat is None else (chat,)),
            self.meta("account"),
            limit,
        )
        return rows[::-1]

    def count_unread(self, chat: bytes) -> int:
        return int(self._value("SELECT count(*) FROM messages WHERE unread = 1 AND chat = ?", chat))

    def count_queued(self, chat: bytes) -> int:
        return int(self._value("SELECT count(*) FROM messages WHERE state = 'queued' AND chat = ?", chat))

    def mark_read(self, numbers: Sequence[int]) -> None:
        self._run_for_each("UPDATE messages SET unread = 0 WHERE n = ?", [(n,) for n in numbers])

    def set_message_state(self, chat: bytes, message: bytes, state: str, only_from: Sequence[str]) -> bool:
        """Whether the state changed; only states in *only_from* do."""
        marks = ", ".join("?" * len(only_from))
        self._run(
            f"UPDATE messages SET state = ? WHERE chat = ? AND id = ? AND state IN ({marks})",
            state, chat, message, *only_from,
        )  # fmt: skip
        return self._db.changes() == 1

    def set_sequence(self, chat: bytes, message: bytes, sender: bytes, sequence: int, content: bytes) -> None:
        """A message that waited got its place among what this device sends."""
        self._run(
            "UPDATE messages SET sequence = ?, content = ? WHERE chat = ? AND id = ? AND sender = ?",
            sequence, content, chat, message, sender,
        )  # fmt: skip

    def owe_receipt(self, chat: bytes, message: bytes, status: int) -> None:
        self._run(
            "INSERT INTO receipts VALUES (?, ?, ?) ON CONFLICT (chat, message) DO UPDATE"
            " SET status = max(status, excluded.status)",
            chat, message, status,
        )  # fmt: skip

    def receipts_owed(self) -> list[tuple[bytes, bytes, int]]:
        """(chat, message, status), only for chats that are open."""
        return list(
            self._rows(
                "SELECT r.chat, message, status FROM receipts r JOIN chats ON chats.id = r.chat WHERE state = 'open'"
                " ORDER BY r.chat, status"
            )
        )

    def forget_receipts(self, receipts: Iterable[tuple[bytes, bytes]]) -> None:
        self._run_for_each("DELETE FROM receipts WHERE chat = ? AND message = ?", list(receipts))

    def forget_receipts_of(self, chat: bytes) -> None:
        self._run("DELETE FROM receipts WHERE chat = ?", chat)

    # ---------------------------------------------------------------- gaps

    def heard(self, chat: bytes, device: bytes) -> int | None:
        """The highest sequence number that came from this device."""
        return self._int("SELECT highest FROM heard WHERE chat = ? AND device = ?", chat, device)

    def set_heard(self, chat: bytes, device: bytes, highest: int) -> None:
        self._run("INSERT OR REPLACE INTO heard VALUES (?, ?, ?)", chat, device, highest)

    def add_gap(self, chat: bytes, device: bytes, sequence: int, sender: bytes, now_ms: int, ask_ms: int) -> None:
        self._run(
            "INSERT OR IGNORE INTO gaps VALUES (?, ?, ?, ?, ?, ?)", chat, device, sequence, sender, now_ms, ask_ms
        )

    def count_gaps(self, chat: bytes, device: bytes) -> int:
        return int(self._value("SELECT count(*) FROM gaps WHERE chat = ? AND device = ?", chat, device))

    def close_gap(self, chat: bytes, device: bytes, sequence: int) -> None:
        self._run("DELETE FROM gaps WHERE chat = ? AND device = ? AND sequence = ?", chat, device, sequence)

    def gaps_due(self, now_ms: int) -> list[tuple[bytes, bytes, bytes, int, int]]:
        """(chat, device, sender, sequence, since_ms) of those to ask for now."""
        return list(
            self._rows(
                "SELECT chat, device, sender, sequence, since_ms FROM gaps WHERE ask_ms <= ?"
                " ORDER BY chat, device, sequence",
                now_ms,
            )
        )

    def next_gap_ms(self) -> int | None:
        return self._int("SELECT min(ask_ms) FROM gaps")

    def postpone_gap(self, chat: bytes, device: bytes, sequence: int, ask_ms: int) -> None:
        self._run(
            "UPDATE gaps SET ask_ms = ? WHERE chat = ? AND device = ? AND sequence = ?", ask_ms, chat, device, sequence
        )

    # ---------------------------------------------------------------- outbox and archive

    def queue_content(
        self, chat: bytes, message: bytes | None, content: bytes, now_ms: int, only_device: bytes | None = None
    ) -> None:
        self._run(
            "INSERT INTO outbox (chat, message, content, only_device, made_ms, due_ms) VALUES (?, ?, ?, ?, ?, ?)",
            chat, message, content, only_device, now_ms, now_ms,
        )  # fmt: skip

    def queue_body(self, body: bytes, targets: Sequence[bytes], now_ms: int) -> None:
        """Bytes that are ready to go: a commit, a Welcome, a request to rejoin."""
        if targets:
            self._run(
                "INSERT INTO outbox (body, targets, made_ms, due_ms) VALUES (?, ?, ?, ?)",
                body, pack_targets(targets), now_ms, now_ms,
            )  # fmt: skip

    def outgoing(self) -> list[Outgoing]:
        """Everything in the outbox, in order; handshakes first, since contents may be of the epoch that they bring."""
        return self._all(Outgoing, "SELECT * FROM outbox ORDER BY chat IS NOT NULL, n")

    def outbox_size(self) -> int:
        return int(self._value("SELECT count(*) FROM outbox"))

    def outbox_due_ms(self) -> int | None:
        """When the next row is due; one of a chat not before those that were written before it."""
        return self._int(
            "SELECT min(due_ms) FROM outbox"
            " WHERE chat IS NULL OR n IN (SELECT min(n) FROM outbox WHERE chat IS NOT NULL GROUP BY chat)"
        )

    def postpone_outgoing(self, n: int, due_ms: int) -> None:
        self._run("UPDATE outbox SET due_ms = ? WHERE n = ?", due_ms, n)

    def hurry_outgoing(self, chat: bytes, now_ms: int) -> None:
        """The chat can be written to again."""
        self._run("UPDATE outbox SET due_ms = ? WHERE chat = ? AND content IS NOT NULL", now_ms, chat)

    def set_content(self, n: int, content: bytes) -> None:
        """Other bytes for a content that waits."""
        self._run("UPDATE outbox SET content = ? WHERE n = ?", content, n)

    def set_protected(self, n: int, body: bytes, targets: Sequence[bytes]) -> None:
        self._run("UPDATE outbox SET content = NULL, body = ?, targets = ? WHERE n = ?", body, pack_targets(targets), n)

    def set_outgoing(self, n: int, targets: Sequence[bytes], kept: int, due_ms: int, tries: int) -> None:
        self._run(
            "UPDATE outbox SET targets = ?, kept = ?, due_ms = ?, tries = ? WHERE n = ?",
            pack_targets(targets), kept, due_ms, tries, n,
        )  # fmt: skip

    def forget_outgoing(self, n: int) -> None:
        self._run("DELETE FROM outbox WHERE n = ?", n)

    def forget_outgoing_of(self, chat: bytes) -> list[bytes]:
        """The messages that will not be sent."""
        rows = self._rows("DELETE FROM outbox WHERE chat = ? RETURNING message", chat)
        rows += self._rows("DELETE FROM uploads WHERE chat = ? RETURNING message", chat)
        return [message for (message,) in rows if message is not None]

    def archive(self, chat: bytes, sequence: int, message: bytes, content: bytes, now_ms: int) -> None:
        self._run("INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?, ?, 0)", chat, sequence, message, content, now_ms)

    def archived(self, chat: bytes, sequence: int) -> tuple[bytes, bytes, int] | None:
        """(message, content, times it was sent again)."""
        rows = self._rows("SELECT message, content, resent FROM sent WHERE chat = ? AND sequence = ?", chat, sequence)
        return rows[0] if rows else None

    def sent_ms(self, chat: bytes, sequence: int) -> int:
        """When we wrote this; -1 when it is not kept."""
        at_ms = self._int("SELECT at_ms FROM sent WHERE chat = ? AND sequence = ?", chat, sequence)
        return -1 if at_ms is None else at_ms

    def unconfirmed(self, chat: bytes, limit: int, since_ms: int) -> list[tuple[bytes, bytes]]:
        """(message, content) of our newest *limit* texts since then, still kept, that no receipt came for, in order."""
        rows = self._rows(
            "SELECT message, sent.content FROM sent JOIN messages ON messages.chat = sent.chat AND id = message"
            " WHERE sent.chat = ? AND state IN ('kept', 'failed') AND at_ms >= ? ORDER BY sent.sequence DESC LIMIT ?",
            chat, since_ms, limit,
        )  # fmt: skip
        return rows[::-1]

    def count_resent(self, chat: bytes, sequence: int) -> None:
        self._run("UPDATE sent SET resent = resent + 1 WHERE chat = ? AND sequence = ?", chat, sequence)

    # ---------------------------------------------------------------- files that wait for their upload

    def add_upload(self, chat: bytes, message: bytes, content: bytes, secret: bytes, now_ms: int) -> None:
        self._run(
            "INSERT INTO uploads (chat, message, content, secret, made_ms, due_ms) VALUES (?, ?, ?, ?, ?, ?)",
            chat, message, content, secret, now_ms, now_ms,
        )  # fmt: skip

    def uploads(self) -> list[Upload]:
        """All of them, in order."""
        return self._all(Upload, "SELECT * FROM uploads ORDER BY n")

    def uploads_due_ms(self) -> int | None:
        """When the next one is due."""
        return self._int("SELECT min(due_ms) FROM uploads")

    def postpone_upload(self, n: int, due_ms: int, tries: int) -> None:
        self._run("UPDATE uploads SET due_ms = ?, tries = ? WHERE n = ?", due_ms, tries, n)

    def forget_upload(self, n: int) -> None:
        self._run("DELETE FROM uploads WHERE n = ?", n)

    # ---------------------------------------------------------------- envelopes

    def is_decided(self, envelope: bytes) -> bool:
        """Whether this envelope came before; one that was set aside counts."""
        return bool(
            self._value(
                "SELECT EXISTS (SELECT 1 FROM decided WHERE id = ?) OR EXISTS (SELECT 1 FROM aside WHERE id = ?)",
                envelope, envelope,
            )
        )  # fmt: skip

    def decide(self, envelope: bytes, now_ms: int) -> None:
        self._run("INSERT OR IGNORE INTO decided VALUES (?, ?)", envelope, now_ms)

    def set_aside(self, envelope: bytes, serial: bytes, body: bytes, now_ms: int) -> bool:
        """Keep an envelope that may become readable. False when the serial has as many as it may."""
        if int(self._value("SELECT count(*) FROM aside WHERE serial = ?", serial)) >= MAX_ASIDE_PER_SERIAL:
            return False
        self._run(
            "INSERT OR IGNORE INTO aside (id, serial, body, at_ms) VALUES (?, ?, ?, ?)", envelope, serial, body, now_ms
        )
        return True

    def aside_of_chat(self, chat: bytes) -> list[tuple[bytes, bytes, bytes]]:
        """(envelope id, serial, body), oldest first: of its addresses, and of those by which its groups were joined."""
        return list(
            self._rows(
                "SELECT aside.id, aside.serial, body FROM aside JOIN addresses USING (serial) WHERE chat = ?"
                " OR serial IN (SELECT serial FROM groups WHERE groups.chat = ?) ORDER BY n",
                chat, chat,
            )
        )  # fmt: skip

    def chats_with_aside(self) -> list[bytes]:
        rows = self._rows("SELECT DISTINCT chat FROM aside JOIN addresses USING (serial) WHERE chat IS NOT NULL")
        return [chat for (chat,) in rows]

    def forget_aside(self, envelope: bytes) -> None:
        self._run("DELETE FROM aside WHERE id = ?", envelope)

    # ---------------------------------------------------------------- chores and journal

    def add_chore(self, kind: str, subject: bytes, payload: bytes, now_ms: int, due_ms: int | None = None) -> None:
        """Remember work to be done; the same kind for the same subject once only, at the earlier of two times."""
        self._run(
            "INSERT INTO chores (kind, subject, payload, made_ms, due_ms, tries) VALUES (?, ?, ?, ?, ?, 0)"
            " ON CONFLICT (kind, subject) DO UPDATE SET due_ms = min(due_ms, excluded.due_ms)",
            kind, subject, payload, now_ms, now_ms if due_ms is None else due_ms,
        )  # fmt: skip

    def chore(self, kind: str, subject: bytes) -> Chore | None:
        return self._one(Chore, "SELECT * FROM chores WHERE kind = ? AND subject = ?", kind, subject)

    def chores_due(self, now_ms: int) -> list[Chore]:
        return self._all(Chore, "SELECT * FROM chores WHERE due_ms <= ? ORDER BY n", now_ms)

    def chores(self, kind: str) -> list[Chore]:
        """All of this kind, whenever they are due."""
        return self._all(Chore, "SELECT * FROM chores WHERE kind = ? ORDER BY n", kind)

    def count_chores(self, kind: str, about: bytes = b"") -> int:
        """With *about*, only those whose subject begins with it."""
        sql = "SELECT count(*) FROM chores WHERE kind = ? AND substr(subject, 1, ?) = ?"
        return int(self._value(sql, kind, len(about), about))

    def next_chore_ms(self) -> int | None:
        return self._int("SELECT min(due_ms) FROM chores")

    def set_chore(self, n: int, payload: bytes, due_ms: int, tries: int) -> None:
        self._run("UPDATE chores SET payload = ?, due_ms = ?, tries = ? WHERE n = ?", payload, due_ms, tries, n)

    def forget_chore(self, kind: str, subject: bytes) -> None:
        self._run("DELETE FROM chores WHERE kind = ? AND subject = ?", kind, subject)

    def note(self, kind: str, chat: bytes, about: bytes = b"", text: str = "") -> None:
        """Write a line of the journal: what the applications are told after the commit."""
        if kind == "typing":  # only how it is now matters, and anyone may send any number
            self._run("DELETE FROM journal WHERE kind = ? AND chat = ? AND about = ?", kind, chat, about)
        self._run("INSERT INTO journal (kind, chat, about, text) VALUES (?, ?, ?, ?)", kind, chat, about, text)
        if self._db.last_insert_rowid() % TRIM_JOURNAL_EVERY == 0:
            self._trim_journal()

    def journal_end(self) -> int:
        return int(self._value("SELECT coalesce(max(n), 0) FROM journal"))

    def journal_after(self, n: int) -> list[Entry]:
        return self._all(Entry, "SELECT * FROM journal WHERE n > ? ORDER BY n LIMIT 1000", n)

    # ---------------------------------------------------------------- housekeeping

    def hurry_misdated(self, now_ms: int) -> None:
        """What is due later than anything may wait was put off under a clock that has been set back: it is due now."""
        self._run("UPDATE outbox SET due_ms = ? WHERE due_ms > ?", now_ms, now_ms + MOST_OUTBOX_WAIT_MS)
        self._run("UPDATE uploads SET due_ms = ? WHERE due_ms > ?", now_ms, now_ms + MOST_OUTBOX_WAIT_MS)
        self._run("UPDATE chores SET due_ms = ? WHERE due_ms > ?", now_ms, now_ms + DAY_MS)
        self._run("UPDATE gaps SET ask_ms = ? WHERE ask_ms > ?", now_ms, now_ms + MOST_GAP_WAIT_MS)

    def expire(self, now_ms: int) -> None:
        """Forget what has served its time."""
        self._run("DELETE FROM sent WHERE at_ms < ?", now_ms - KEEP_SENT_MS)
        self._run("DELETE FROM decided WHERE at_ms < ?", now_ms - KEEP_DECIDED_MS)
        self._run("DELETE FROM aside WHERE at_ms < ?", now_ms - KEEP_ASIDE_MS)
        self._run("DELETE FROM grants WHERE at_ms < ?", now_ms - 2 * DAY_MS)
        self._trim_journal()

    def _trim_journal(self) -> None:
        """Keep the newest lines: who has not read the older ones by now does not listen."""
        self._run(
            "DELETE FROM journal WHERE n <= (SELECT n FROM journal ORDER BY n DESC LIMIT 1 OFFSET ?)", KEEP_JOURNAL
        )

    # ---------------------------------------------------------------- plumbing

    def _run(self, sql: str, *values: Any) -> None:
        try:
            self._cursor.execute(sql, values)
        except _TROUBLE as error:
            raise self._unusable(error) from error

    def _run_for_each(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        try:
            self._cursor.executemany(sql, rows)
        except _TROUBLE as error:
            raise self._unusable(error) from error

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        """What a query finds. On a full disk even that may fail, since readers share a file, too."""
        try:
            return self._cursor.execute(sql, values).fetchall()
        except _TROUBLE as error:
            raise self._unusable(error) from error

    def _unusable(self, error: apsw.Error) -> HomeUnusable:
        if isinstance(error, apsw.BusyError):
            return HomeUnusable(f"{self.home.folder} is held by another process for too long: try again.", EX_TEMPFAIL)
        return HomeUnusable(f"{self.home.folder} cannot be written: is the disk full or read-only?", EX_IOERR)

    def _value(self, sql: str, *values: Any) -> Any:
        rows = self._rows(sql, *values)
        return rows[0][0] if rows else None

    def _int(self, sql: str, *values: Any) -> int | None:
        value = self._value(sql, *values)
        return None if value is None else int(value)

    def _one(self, kind: Callable[..., Row], sql: str, *values: Any) -> Row | None:
        rows = self._rows(sql, *values)
        return kind(*rows[0]) if rows else None

    def _all(self, kind: Callable[..., Row], sql: str, *values: Any) -> list[Row]:
        return [kind(*row) for row in self._rows(sql, *values)]


def _connect(home: Home, passphrase: str | None, key: bytes | None, *, create: bool) -> apsw.Connection:
    """An open connection whose key fits. Raises HomeUnusable."""
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    try:
        connection = apsw.Connection(str(home.database), flags=flags)
        connection.set_busy_timeout(BUSY_MS)
        connection.pragma("key", f"raw:{key.hex()}" if key else passphrase)
        connection.pragma("user_version")
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
        connection.pragma("secure_delete", "on")
        connection.pragma("cache_size", -2000)
    except apsw.NotADBError as error:
        what = "The key file does not fit" if key else "That is not the passphrase of"
        raise HomeUnusable(f"{what} {home.database}; nothing was changed.", EX_NOPERM) from error
    except apsw.CorruptError as error:
        raise HomeUnusable(f"{home.database} is damaged; it was left as it is: restore a backup.") from error
    except (apsw.CantOpenError, apsw.PermissionsError, apsw.ReadOnlyError) as error:
        if os.statvfs(home.database.parent).f_flag & os.ST_RDONLY:
            raise HomeUnusable(
                f"{home.database} lies on a disk that can only be read: mount it for writing, then try again.", EX_IOERR
            ) from error
        raise HomeUnusable(f"{home.database} cannot be opened: check its permissions.", EX_NOPERM) from error
    except (apsw.FullError, apsw.IOError) as error:
        raise HomeUnusable(f"{home.database} cannot be used: is the disk full, or damaged?", EX_IOERR) from error
    home.database.chmod(0o600)
    return connection
