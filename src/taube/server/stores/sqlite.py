"""The embedded engine: one SQLite file in WAL mode, one writer thread, every answer after the fsync of a group commit.

Whatever arrives while the writer is busy becomes its next batch: one transaction with all new envelopes, then all
acknowledged ones, then the jobs over tables, each in a savepoint of its own. Its answers go to the event loop in one
call. When the commit fails (disk full, disk error), nothing of the batch is kept, every caller hears it, and the next
batch tries again.

Reads: jobs over tables are a few look-ups by key and run on the event loop, gathered once a turn; so does looking up
mailboxes in which nothing lies, as most are. What may touch much of the file (looking up a mailbox's contents, reading
a queue) runs in a reader thread.

Every statement that the threads run for envelopes does its work for many rows in a single step and returns at most
one row. SQLite lets go of the interpreter lock around each step, and getting it back from a busy event loop costs up
to the switch interval: measured with a busy second thread, 1,440 µs for each row inserted by `executemany`, 60 µs by
statements of 256 rows.

The one importer of `apsw` on the server; it brings its own SQLite, the same on every machine. Other processes
(`taube admin`) may write the file at the same time. Source: docs/protocol/delivery.md, DEL-10, DEL-11.
"""

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw

from taube import shortage
from taube.server.ports import (
    UNREADABLE,
    EnvelopeRow,
    MailboxId,
    MailboxRow,
    Outcome,
    QueueNumber,
    Stored,
    StoredEnvelope,
    StoreUnusable,
    Tables,
)
from taube.server.stores import schema
from taube.server.stores.schema import APPLICATION_ID, create_sql
from taube.server.stores.tables import LOW, SqliteTables
from taube.wire.errors import BUSY, INTERNAL, STORAGE, WireError
from taube.wire.messages import Serial


@dataclass(frozen=True, slots=True)
class SqliteSettings:
    """How the embedded engine uses file and memory."""

    busy_timeout_ms: int = 10_000
    """How long a write waits for another process that is writing."""
    backlog_jobs: int = 5_000
    """Jobs that wait for the writer; above it, a command is answered busy."""
    cache_kib: int = 16 * 1024
    """Page cache of each connection to the file."""
    checkpoint_pages: int = 4_000
    """Pages in the write-ahead log before they are written back."""
    delete_pause_s: float = 0.05
    """How long acknowledged envelopes may wait for company before they are deleted on their own."""
    foreign_check_s: float = 2.0
    """How often an idle writer looks whether another process has written the file, and empties the log."""


# ---------------------------------------------------------------- statements for many rows


def _insert_sql(rows: int) -> str:
    return "INSERT OR REPLACE INTO envelope (key, serial, hour, body) VALUES " + ", ".join(["(?, ?, ?, ?)"] * rows)


def _delete_sql(ranges: int) -> str:
    return (
        f"WITH gone (low, high) AS (VALUES {', '.join(['(?, ?)'] * ranges)}) DELETE FROM envelope WHERE key IN"
        " (SELECT held.key FROM gone CROSS JOIN envelope AS held WHERE held.key BETWEEN gone.low AND gone.high)"
    )


def _load_sql(mailboxes: int) -> str:
    wanted = ", ".join(f"({place}, ?)" for place in range(mailboxes))
    mine = f"key BETWEEN device.queue << 32 AND (device.queue << 32) + {LOW}"
    return (
        f"WITH wanted (place, mailbox) AS (VALUES {wanted}) SELECT json_group_array(json_array(place, queue,"
        f" coalesce((SELECT max(key) & {LOW} FROM envelope WHERE {mine}), 0),"
        f" (SELECT json_group_array(json_array(hex(serial), envelopes, size)) FROM"
        "   (SELECT serial, count(*) AS envelopes, sum(length(body)) AS size FROM envelope"
        f"   WHERE {mine} GROUP BY serial)),"
        " (SELECT coalesce(group_concat(hex(serial), ' '), '') FROM revoked WHERE revoked.queue = device.queue),"
        " EXISTS (SELECT 1 FROM push WHERE push.queue = device.queue)))"
        " FROM wanted CROSS JOIN device ON device.mailbox = wanted.mailbox"
    )


_LOAD_EMPTY_SQL: Final = (
    f"SELECT queue, EXISTS (SELECT 1 FROM envelope WHERE key BETWEEN queue << 32 AND (queue << 32) + {LOW})"
    " OR EXISTS (SELECT 1 FROM revoked WHERE revoked.queue = device.queue),"
    " EXISTS (SELECT 1 FROM push WHERE push.queue = device.queue) FROM device WHERE mailbox = ?"
)
"""A mailbox's queue, whether anything lies there or is revoked, and whether its device is woken."""

_FETCH_SQL: Final = f"""
    WITH near AS (SELECT key, length(body) AS size FROM envelope WHERE key > ?1 AND key <= ?2 ORDER BY key LIMIT ?3 +
    1), fitting AS (SELECT key, row_number() OVER (ORDER BY key) AS place, sum(size) OVER (ORDER BY key) AS total FROM
    near) SELECT (SELECT count(*) FROM near), group_concat( (held.key & {LOW}) || ' ' || hex(held.serial) || ' ' ||
    hex(held.body), ',' ORDER BY held.key) FROM fitting CROSS JOIN envelope AS held ON held.key = fitting.key WHERE
    place <= ?3 AND (total <= ?4 OR place = 1)
"""

_INSERT_SIZES: Final = (256, 64, 16, 4, 1)
_PAD_SIZES: Final = (1, 8, 64)
_INSERTS: Final = {size: _insert_sql(size) for size in _INSERT_SIZES}
_DELETES: Final = {size: _delete_sql(size) for size in _PAD_SIZES}
_LOADS: Final = {size: _load_sql(size) for size in _PAD_SIZES}


def _padded(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """*items* in groups of 64, 8 or 1, the last one filled up by repeating its last item."""
    at = 0
    while at < len(items):
        left = len(items) - at
        size = next((each for each in _PAD_SIZES if each >= left), _PAD_SIZES[-1])
        group = list(items[at : at + size])
        yield group + [group[-1]] * (size - len(group))
        at += size


# ---------------------------------------------------------------- opening

LOGS: Final = ("-wal", "-journal")
"""Behind a file's name: what SQLite reads together with it."""


def open_connection(path: Path, settings: SqliteSettings) -> apsw.Connection:
    """A connection with our settings. Raises StoreUnusable; changes nothing in a file that is not ours."""
    try:
        connection = apsw.Connection(os.fspath(path))
        connection.set_busy_timeout(settings.busy_timeout_ms)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
        connection.pragma("secure_delete", "on")
        connection.pragma("cache_size", -settings.cache_kib)
        connection.pragma("wal_autocheckpoint", settings.checkpoint_pages)
        connection.pragma("journal_size_limit", 64 * 1024 * 1024)
        connection.pragma("temp_store", "memory")
    except apsw.Error as error:
        raise _unusable(path, error) from error
    return connection


def prepare(path: Path, settings: SqliteSettings) -> None:
    """Make the file, or bring it to the newest schema, each in one transaction. Raises StoreUnusable."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        sentence = shortage.sentence(error.errno, path)
        sentence = sentence or f"Cannot write {path}: {error.strerror}. Check who owns the folder."
        raise StoreUnusable(sentence, is_disk=error.errno in shortage.DISK) from error
    if is_cut_off(path):
        raise StoreUnusable(f"{path} is damaged (cut off). Nothing was changed: restore a backup, or repair a copy.")
    try:
        looking = apsw.Connection(os.fspath(path))
        looking.set_busy_timeout(settings.busy_timeout_ms)
        version, application = looking.pragma("user_version"), looking.pragma("application_id")
        tables = looking.execute("SELECT 1 FROM sqlite_schema").fetchone()
        looking.close()
    except apsw.Error as error:
        raise _unusable(path, error) from error
    if tables and application != APPLICATION_ID:
        raise StoreUnusable(f"{path} is a database, but not one of a Taube server. Nothing was changed.")
    _check_version(path, version)
    connection = open_connection(path, settings)
    try:
        connection.execute("BEGIN IMMEDIATE")
        version = connection.pragma("user_version")
        if version == 0:
            steps: list[str] = create_sql()
        else:
            steps = [statement for step in range(version, schema.SCHEMA_VERSION) for statement in schema.UPGRADES[step]]
        for statement in steps:
            connection.execute(statement)
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", schema.SCHEMA_VERSION)
        connection.execute("COMMIT")
    except apsw.Error as error:
        raise _unusable(path, error) from error
    finally:
        connection.close()


def logs_of(path: Path) -> list[Path]:
    """The logs beside a file that hold something."""
    logs = [path.with_name(f"{path.name}{ending}") for ending in LOGS]
    return [log for log in logs if log.exists() and log.stat().st_size]


def is_cut_off(path: Path) -> bool:
    """Whether a file without a log is shorter than its own head says. SQLite takes a piece of a page for nothing, or
    fills it with zeros; with a log, what is missing may lie there."""
    if logs_of(path):
        return False
    with path.open("rb") as file:
        head = file.read(100)
    if not head.startswith(b"SQLite format 3\0"):
        return 0 < len(head) < 16
    page_bytes, pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
    return len(head) < 100 or path.stat().st_size < page_bytes * pages


def _unusable(path: Path, error: apsw.Error) -> StoreUnusable:
    if isinstance(error, apsw.NotADBError | apsw.CorruptError):
        return StoreUnusable(f"{path} is damaged ({error}). Nothing was changed: restore a backup, or repair a copy.")
    if isinstance(error, apsw.FullError):
        return StoreUnusable(shortage.sentence(errno.ENOSPC, path), is_disk=True)
    if isinstance(error, apsw.IOError | apsw.CantOpenError):  # SQLite does not always tell what hindered it
        number = shortage.of_folder(path.parent)
        if short := shortage.sentence(number, path):
            return StoreUnusable(short, is_disk=number in shortage.ROOM)
    if isinstance(error, apsw.CantOpenError | apsw.ReadOnlyError) and path.exists() and not _is_written(path.parent):
        return StoreUnusable(
            f"{path} is where nothing can be written, which even reading it needs: copy its folder, all of it, to where"
            " that can be done, and use the copy.",
            is_disk=True,
        )
    if isinstance(error, apsw.CantOpenError):
        return StoreUnusable(f"{path} cannot be opened: check that it is there, and who owns it and its folder.")
    if isinstance(error, apsw.BusyError):
        return StoreUnusable(f"{path} is locked by another process. Wait for it to finish, or stop it.")
    sentence = f"Cannot use {path} ({error}). Check who owns it, and the disk."
    return StoreUnusable(sentence, is_disk=isinstance(error, apsw.IOError))


def _is_written(folder: Path) -> bool:
    """Whether this user can write there."""
    return os.access(folder, os.W_OK)


@contextmanager
def transaction(path: Path, settings: SqliteSettings | None = None) -> Iterator[Tables]:
    """The tables of a file in one durable transaction, for `taube admin`; a server may be using the file meanwhile.

    Leaving the block commits; an exception leaves nothing. Raises StoreUnusable.
    """
    settings = settings or SqliteSettings()
    prepare(path, settings)
    connection = open_connection(path, settings)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield SqliteTables(connection)
        connection.execute("COMMIT")
    except apsw.Error as error:
        raise _unusable(path, error) from error
    finally:
        connection.close()


# ---------------------------------------------------------------- copies, for backup, restore and doctor


def library_version() -> str:
    """The version of SQLite in use."""
    return apsw.sqlite_lib_version()


class Examined(NamedTuple):
    """What `examine` found in a sound file of ours."""

    schema: int
    size_bytes: int


def examine(path: Path) -> Examined:
    """Read every page of a file and check it, changing nothing; others may go on using it. Takes seconds for each GB.

    Raises StoreUnusable if it is not ours, is of a newer version, or is damaged.
    """
    try:
        looking = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            version, application = looking.pragma("user_version"), looking.pragma("application_id")
            if application != APPLICATION_ID:
                raise _not_ours(path)
            _check_version(path, version)
            if looking.pragma("integrity_check", 1) != "ok":
                raise StoreUnusable(f"{path} is damaged. Nothing was changed: restore a backup, or repair a copy.")
            return Examined(version, looking.pragma("page_count") * looking.pragma("page_size"))
        finally:
            looking.close()
    except apsw.Error as error:
        raise _unusable(path, error) from error


def copy(source: Path, target: Path, facts: Mapping[str, bytes] | None = None) -> None:
    """Write into the empty file *target* what *source* holds at this moment, as one file without a log beside it.

    Others may read and write *source* meanwhile. *facts* are put into the copy. Raises StoreUnusable.
    """
    at_fault = source
    try:
        reading = apsw.Connection(os.fspath(source), flags=apsw.SQLITE_OPEN_READONLY)
        writing = apsw.Connection(os.fspath(target), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            if reading.pragma("application_id") != APPLICATION_ID:
                raise _not_ours(source)
            _check_version(source, reading.pragma("user_version"))
            reading.set_busy_timeout(SqliteSettings().busy_timeout_ms)
            with writing.backup("main", reading, "main") as work:
                work.step(-1)  # one read transaction: what others write meanwhile is not in the copy
            at_fault = target
            for name, value in (facts or {}).items():
                SqliteTables(writing).set_fact(name, value)
            _join_log(writing)
        finally:
            writing.close()
            reading.close()
    except apsw.Error as error:
        raise _unusable(at_fault, error) from error


def join_log(path: Path) -> None:
    """Write the log beside a file that nobody uses back into it, so that the file alone is everything."""
    try:
        connection = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            _join_log(connection)
        finally:
            connection.close()
    except apsw.Error as error:
        raise _unusable(path, error) from error


def _join_log(connection: apsw.Connection) -> None:
    connection.pragma("synchronous", "full")
    connection.pragma("journal_mode", "delete")


def read_facts(path: Path) -> dict[str, bytes]:
    """The server's own facts in a file, which another process may be using. Raises StoreUnusable."""
    try:
        looking = apsw.Connection(os.fspath(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            return SqliteTables(looking).facts("")
        finally:
            looking.close()
    except apsw.Error as error:
        raise _unusable(path, error) from error


def _not_ours(path: Path) -> StoreUnusable:
    return StoreUnusable(f"{path} is not a database of a Taube server. Nothing was changed.")


def _check_version(path: Path, version: int) -> None:
    if version < 0:
        raise StoreUnusable(f"{path} is damaged (schema {version}). Nothing was changed: restore a backup.")
    if version > schema.SCHEMA_VERSION:
        raise StoreUnusable(
            f"{path} was written by a newer version of Taube (schema {version}; this one knows"
            f" {schema.SCHEMA_VERSION}). Update Taube; nothing was changed."
        )


# ---------------------------------------------------------------- the store


class _Submission(NamedTuple):
    rows: Sequence[EnvelopeRow]
    done: Stored
    size: int


class _Job(NamedTuple):
    job: Callable[[Tables], Any]
    done: Outcome


class _DamagedPage(Exception):
    """A job met a damaged page of the file."""

    def __init__(self, job: _Job, error: apsw.Error) -> None:
        super().__init__()
        self.job = job
        self.error = error


_STORAGE_RETRY_MS: Final = 2_000


def _storage_error(cause: BaseException) -> WireError:
    error = WireError(STORAGE, retry_after_ms=_STORAGE_RETRY_MS)
    error.__cause__ = cause
    return error


class SqliteStore:
    """`ports.Store` over one file. Made and called on the event loop's thread; see the module's head."""

    def __init__(
        self,
        path: Path,
        *,
        later: Callable[[Callable[[], None]], Any],
        soon: Callable[[Callable[[], None]], Any],
        problem: Callable[[str, BaseException], None] = lambda what, error: None,
        foreign: Callable[[], None] = lambda: None,
        observe: Callable[[str, float], None] = lambda name, value: None,
        settings: SqliteSettings | None = None,
    ) -> None:
        """Open or make the file. Raises StoreUnusable.

        *later*: `loop.call_soon_threadsafe`; *soon*: `loop.call_soon`. *problem(what, error)*: a write or read
        failed, or a job has a bug; *foreign()*: another process wrote the file; *observe(name, value)*: "commit_s",
        "commit_rows". All of these are called on the event loop.
        """
        self._settings = settings or SqliteSettings()
        self._later = later
        self._soon = soon
        self._problem = problem
        self._foreign = foreign
        self._observe = observe
        prepare(path, self._settings)
        self._writing = open_connection(path, self._settings)
        self._reading = open_connection(path, self._settings)
        self._looking = open_connection(path, self._settings)
        self._write_tables = SqliteTables(self._writing)
        self._look_tables = SqliteTables(self._looking)
        self._lock = threading.Condition()
        self._submissions: list[_Submission] = []
        self._jobs: list[_Job] = []
        self._deletes: dict[int, int] = {}
        self._forgotten: dict[int, int] = {}  # as the deletes, until they are durable
        self._damaged: set[int] = set()  # queues that reach a damaged page: nothing is stored for them
        self._backlog_bytes = 0
        self._looks: list[_Job] = []
        self._loading = 0  # calls of `load` that the reader thread has not answered yet
        self._read_lock = threading.Condition()
        self._reads: list[Callable[[], Callable[[], None]]] = []
        self._closing = False
        self._removed: set[int] = set()
        self._data_version = self._writing.pragma("data_version")
        self._threads = [
            threading.Thread(target=self._write_loop, name="taube-writer", daemon=True),
            threading.Thread(target=self._read_loop, name="taube-reader", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # ------------------------------------------------------------ called on the event loop

    def write(self, job: Callable[[Tables], Any], done: Outcome) -> None:
        if len(self._jobs) >= self._settings.backlog_jobs:
            self._soon(lambda: done(None, WireError(BUSY, retry_after_ms=1_000)))
            return
        with self._lock:
            self._jobs.append(_Job(job, done))
            self._lock.notify()

    def read(self, job: Callable[[Tables], Any], done: Outcome) -> None:
        if not self._looks:
            self._soon(self._look)
        self._looks.append(_Job(job, done))

    def backlog_jobs(self) -> int:
        return len(self._jobs)

    def backlog_bytes(self) -> int:
        return self._backlog_bytes

    def submit(self, rows: Sequence[EnvelopeRow], deletes: Iterable[tuple[QueueNumber, int]], done: Stored) -> None:
        size = sum(len(row.body) for row in rows)
        self._backlog_bytes += size
        with self._lock:
            self._submissions.append(_Submission(rows, done, size))
            for queue, upto in deletes:
                if upto > self._deletes.get(queue, 0):
                    self._deletes[queue] = upto
                if upto > self._forgotten.get(queue, 0):
                    self._forgotten[queue] = upto
            if rows or len(self._submissions) == 1:
                self._lock.notify()

    def load(self, mailboxes: Sequence[MailboxId], done: Callable[[list[MailboxRow | None] | None], None]) -> None:
        wanted = list(mailboxes)
        empty = self._load_empty(wanted) if not self._loading and len(wanted) <= _PAD_SIZES[-1] else None
        if empty is not None:
            self._soon(lambda: done(empty))
            return
        self._loading += 1

        def loaded(rows: list[MailboxRow | None] | None) -> None:
            self._loading -= 1
            done(rows)

        def run() -> Callable[[], None]:
            try:
                rows = self._load(wanted)
            except apsw.CorruptError as error:
                intact = self._load_intact(wanted)
                return self._failed("looking up mailboxes", error, lambda: loaded(intact))
            except Exception as error:
                return self._failed("looking up mailboxes", error, lambda: loaded(None))
            return lambda: loaded(rows)

        self._queue_read(run)

    def fetch(
        self,
        queue: QueueNumber,
        after: int,
        count: int,
        size_bytes: int,
        done: Callable[[list[StoredEnvelope] | None, bool], None],
    ) -> None:
        def run() -> Callable[[], None]:
            try:
                envelopes, more = self._fetch(queue, after, count, size_bytes)
            except apsw.CorruptError as error:
                before = self._fetch_intact(queue, after, count, size_bytes)
                return self._failed("reading a queue", error, lambda: done(before or None, True))
            except Exception as error:
                return self._failed("reading a queue", error, lambda: done(None, False))
            return lambda: done(envelopes, more)

        self._queue_read(run)

    def close(self) -> None:
        """Answers that are still due are handed to *later*, so run the loop once more afterwards to see them."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        with self._read_lock:
            self._read_lock.notify()
        for thread in self._threads:
            thread.join()
        for connection in (self._reading, self._looking, self._writing):
            connection.close()

    # ------------------------------------------------------------ look-ups, on the event loop

    def _look(self) -> None:
        looks, self._looks = self._looks, []
        with self._together():
            for job, done in looks:
                try:
                    result = job(self._look_tables)
                except WireError as error:
                    done(None, error)
                except apsw.Error as error:
                    self._problem("reading tables", error)
                    done(None, _storage_error(error))
                except Exception as error:
                    self._problem("a look-up", error)
                    done(None, WireError(INTERNAL))
                else:
                    done(result, None)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """What is read within is one transaction, so that SQLite takes the locks of the file once. Should it not begin
        or end early, each statement is a transaction of its own, as it would be without this."""
        with suppress(apsw.Error):
            self._looking.execute("BEGIN")
        try:
            yield
        finally:
            with suppress(apsw.Error):
                if self._looking.in_transaction:
                    self._looking.execute("COMMIT")

    def _load_empty(self, wanted: list[MailboxId]) -> list[MailboxRow | None] | None:
        """As `_load`, if nothing lies in any of these and no serial of them is revoked; None if that is not so."""
        rows: list[MailboxRow | None] = []
        try:
            with self._together():
                for mailbox in wanted:
                    found = self._looking.execute(_LOAD_EMPTY_SQL, (mailbox,)).fetchone()
                    if found is None:
                        rows.append(None)
                        continue
                    queue, has_more, wakes = found
                    if has_more:
                        return None
                    rows.append(MailboxRow(queue, self._forgotten.get(queue, 0), {}, frozenset(), bool(wakes)))
        except apsw.Error:  # the reader thread finds out what is wrong
            return None
        return rows

    # ------------------------------------------------------------ the reader thread

    def _queue_read(self, run: Callable[[], Callable[[], None]]) -> None:
        with self._read_lock:
            self._reads.append(run)
            self._read_lock.notify()

    def _read_loop(self) -> None:
        while True:
            with self._read_lock:
                while not self._reads and not self._closing:
                    self._read_lock.wait()
                reads, self._reads = self._reads, []
            if not reads:
                return
            self._answer([run() for run in reads])

    def _load(self, wanted: list[MailboxId]) -> list[MailboxRow | None]:
        rows: list[MailboxRow | None] = [None] * len(wanted)
        at = 0
        for group in _padded(wanted):
            found = _only(self._reading, _LOADS[len(group)], group)[0]
            for place, queue, top, held, revoked, wakes in json.loads(found):
                if at + place < len(rows):
                    rows[at + place] = MailboxRow(
                        queue,
                        max(top, self._forgotten.get(queue, 0)),
                        {bytes.fromhex(serial): (count, size) for serial, count, size in _nested(held)},
                        frozenset(map(bytes.fromhex, revoked.split())),
                        bool(wakes),
                    )
            at += len(group)
        return rows

    def _load_intact(self, wanted: list[MailboxId]) -> list[MailboxRow | None]:
        """One by one, so that a damaged page stops only those who need it."""
        rows: list[MailboxRow | None] = []
        for mailbox in wanted:
            try:
                rows += self._load([mailbox])
            except apsw.CorruptError:
                rows.append(UNREADABLE)
        return rows

    def _fetch_intact(self, queue: int, after: int, count: int, size: int) -> list[StoredEnvelope]:
        """What can be read before a damaged page."""
        envelopes: list[StoredEnvelope] = []
        while len(envelopes) < count and size > 0:
            try:
                found, more = self._fetch(queue, after, 1, size)
            except apsw.CorruptError:
                break
            envelopes += found
            if not more:
                break
            after, size = found[0].sequence, size - len(found[0].body)
        return envelopes

    def _fetch(self, queue: int, after: int, count: int, size: int) -> tuple[list[StoredEnvelope], bool]:
        low = queue << 32
        near, packed = _only(self._reading, _FETCH_SQL, (low + after, low + LOW, count, size))
        if packed is None:
            return [], False
        envelopes = []
        for row in packed.split(","):
            sequence, serial, body = row.split(" ")
            envelopes.append(StoredEnvelope(int(sequence), Serial(bytes.fromhex(serial)), bytes.fromhex(body)))
        return envelopes, near > len(envelopes)

    # ------------------------------------------------------------ the writer thread

    def _write_loop(self) -> None:
        written = True  # since the log was emptied
        while True:
            with self._lock:
                while not (self._submissions or self._jobs or self._closing):
                    if not self._lock.wait(self._settings.foreign_check_s):
                        break
                only_deletes = not self._jobs and not any(each.rows for each in self._submissions)
                if only_deletes and self._submissions and not self._closing:
                    self._lock.wait(self._settings.delete_pause_s)
                submissions, self._submissions = self._submissions, []
                jobs, self._jobs = self._jobs, []
                deletes, self._deletes = self._deletes, {}
                closing = self._closing
            if submissions or jobs or deletes:
                self._answer(self._commit(submissions, jobs, deletes))
                written = True
            elif written:
                written = not self._empty_log()
            self._check_foreign()
            if closing:
                with self._lock:
                    if not (self._submissions or self._jobs):
                        return

    def _commit(
        self, submissions: list[_Submission], jobs: list[_Job], deletes: dict[int, int]
    ) -> list[Callable[[], None]]:
        """Everything in one transaction; the answers, to be called on the event loop."""
        size = sum(each.size for each in submissions)
        damaged: list[Callable[[], None]] = []
        began = time.monotonic()
        while True:
            try:
                rows, answers = self._transact(submissions, jobs, deletes)
                break
            except apsw.CorruptError as error:
                self._roll_back()
                found = self._find_damage(submissions, deletes)
                if not found:
                    return self._all_failed(submissions, jobs, deletes, damaged, error)
                self._damaged |= found
                damaged.append(self._failed("writing to a damaged page", error, lambda: None))
            except _DamagedPage as damage:  # it stops those who need it, and nobody else: once more without this job
                self._roll_back()
                jobs = [job for job in jobs if job is not damage.job]
                answer = _answer_failed(damage.job, damage.error)
                damaged.append(self._failed("reading a damaged page", damage.error, answer))
            except Exception as error:  # whatever it is, the callers hear it and the writer goes on
                self._roll_back()
                return self._all_failed(submissions, jobs, deletes, damaged, error)
        with self._lock:
            for queue, upto in deletes.items():
                if self._forgotten.get(queue) == upto:
                    del self._forgotten[queue]
        took = time.monotonic() - began
        stored = [_answer_stored(each, True, self._damaged) for each in submissions]
        return [lambda: self._written(size, rows, took), *damaged, *stored, *answers]

    def _all_failed(
        self,
        submissions: list[_Submission],
        jobs: list[_Job],
        deletes: dict[int, int],
        before: list[Callable[[], None]],
        error: Exception,
    ) -> list[Callable[[], None]]:
        with self._lock:
            self._merge_deletes(deletes)
        size = sum(each.size for each in submissions)
        failed = [_answer_failed(job, error) for job in jobs]
        failed += [_answer_stored(each, False) for each in submissions]
        return [self._failed("writing", error, lambda: self._written(size, 0, 0.0)), *before, *failed]

    def _find_damage(self, submissions: list[_Submission], deletes: dict[int, int]) -> set[int]:
        """Which queues of this batch, not known yet, meet a damaged page; tried one by one and undone."""
        damaged: set[int] = set()
        batch: dict[int, list[EnvelopeRow]] = {queue: [] for queue in deletes}
        for each in submissions:
            for row in each.rows:
                batch.setdefault(row.queue, []).append(row)
        for queue in batch.keys() - self._damaged:
            try:
                self._writing.execute("BEGIN IMMEDIATE")
                self._insert(batch[queue])
                self._delete({queue: deletes[queue]} if queue in deletes else {})
            except apsw.CorruptError:
                damaged.add(queue)
            except apsw.Error:
                break
            finally:
                self._roll_back()
        return damaged

    def _transact(
        self, submissions: list[_Submission], jobs: list[_Job], deletes: dict[int, int]
    ) -> tuple[int, list[Callable[[], None]]]:
        tables, execute = self._write_tables, self._writing.execute
        answers: list[Callable[[], None]] = []
        ended: set[int] = set()
        execute("BEGIN IMMEDIATE")
        rows = self._insert([row for each in submissions for row in each.rows])
        self._delete(deletes)
        for job in jobs:
            tables.removed.clear()
            answers.append(self._run(job, tables))
            ended |= tables.removed
        execute("COMMIT")
        self._removed |= ended
        return rows, answers

    def _insert(self, rows: list[EnvelopeRow]) -> int:
        left_out = self._removed | self._damaged if self._damaged else self._removed
        values: list[Any] = []
        for queue, sequence, serial, hour, body in rows:
            if queue not in left_out:
                values += (queue << 32 | sequence, serial, hour, body)
        at, left = 0, len(values) // 4
        for size in _INSERT_SIZES:
            while left >= size:
                self._writing.execute(_INSERTS[size], values[at : at + 4 * size])
                at += 4 * size
                left -= size
        return len(values) // 4

    def _delete(self, deletes: dict[int, int]) -> None:
        damaged = self._damaged
        ranges = [(queue << 32, queue << 32 | upto) for queue, upto in deletes.items() if queue not in damaged]
        for group in _padded(ranges):
            self._writing.execute(_DELETES[len(group)], [bound for pair in group for bound in pair])

    def _run(self, job: _Job, tables: SqliteTables) -> Callable[[], None]:
        execute, done = self._writing.execute, job.done
        execute("SAVEPOINT job")
        try:
            result = job.job(tables)
        except apsw.ConstraintError as error:
            self._undo_job()
            return self._failed("a job", error, lambda: done(None, WireError(INTERNAL)))
        except apsw.CorruptError as error:
            raise _DamagedPage(job, error) from error
        except apsw.Error:
            raise
        except WireError as refusal:
            self._undo_job()
            refused = refusal
            return lambda: done(None, refused)
        except Exception as error:
            self._undo_job()
            return self._failed("a job", error, lambda: done(None, WireError(INTERNAL)))
        execute("RELEASE job")
        return lambda: done(result, None)

    def _undo_job(self) -> None:
        self._writing.execute("ROLLBACK TO job; RELEASE job")
        self._write_tables.removed.clear()

    def _roll_back(self) -> None:
        try:
            if self._writing.in_transaction:
                self._writing.execute("ROLLBACK")
        except apsw.Error:  # the connection reports what it has by its next statement
            pass

    def _merge_deletes(self, deletes: dict[int, int]) -> None:
        for queue, upto in deletes.items():
            self._deletes[queue] = max(upto, self._deletes.get(queue, 0))

    def _empty_log(self) -> bool:
        """While nothing is to be done: write the log back and empty it, so that what was deleted is in no file.

        False when somebody is reading; then it is tried again.
        """
        try:
            self._writing.set_busy_timeout(0)
            return not self._writing.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0][0]
        except apsw.Error:
            return False
        finally:
            self._writing.set_busy_timeout(self._settings.busy_timeout_ms)

    def _check_foreign(self) -> None:
        try:
            version = self._writing.pragma("data_version")
        except apsw.Error:
            return
        if version != self._data_version:
            self._data_version = version
            self._later(self._foreign)

    # ------------------------------------------------------------ answers

    def _answer(self, answers: list[Callable[[], None]]) -> None:
        def run() -> None:
            for answer in answers:
                answer()

        self._later(run)

    def _failed(self, what: str, error: BaseException, answer: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            self._problem(what, error)
            answer()

        return run

    def _written(self, size: int, rows: int, took_s: float) -> None:
        self._backlog_bytes -= size
        if took_s:
            self._observe("commit_seconds", took_s)
            self._observe("commit_rows", rows)


def _answer_stored(submission: _Submission, kept: bool, damaged: set[int] | None = None) -> Callable[[], None]:
    if damaged:
        queues = frozenset(damaged)
        return lambda: submission.done(kept, queues)
    return lambda: submission.done(kept)


def _answer_failed(job: _Job, error: BaseException) -> Callable[[], None]:
    return lambda: job.done(None, _storage_error(error))


def _only(connection: apsw.Connection, sql: str, values: Sequence[Any]) -> Any:
    """The one row of a statement that always has one."""
    return connection.execute(sql, values).fetchone()


def _nested(value: Any) -> Any:
    """JSON within JSON: some versions of SQLite give an inner array as text."""
    return json.loads(value) if isinstance(value, str) else value
