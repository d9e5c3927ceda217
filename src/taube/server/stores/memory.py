"""The reference engine, everything in dictionaries: the model that real engines are tested against, nothing durable.

A job runs on a deep copy that replaces the tables when it succeeds, which is slow and obviously right. Answers come
through `later`, as a real engine's come from its thread: `loop.call_soon` on a server, `MemoryStore.run` in tests.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

from taube.server.ports import (
    AccountRow,
    DeviceRow,
    EnvelopeRow,
    InvitationRow,
    MailboxId,
    MailboxRow,
    Outcome,
    PackagesRow,
    PushRow,
    QueueNumber,
    Stored,
    StoredEnvelope,
    Tables,
    WaitingRow,
)
from taube.wire.errors import INTERNAL, STORAGE, WireError
from taube.wire.messages import AccountId, DeviceId, GateName, Serial


class MemoryTables(Tables):
    """`ports.Tables` over dictionaries."""

    def __init__(self) -> None:
        self.accounts: dict[bytes, AccountRow] = {}
        self.device_rows: dict[int, DeviceRow] = {}
        self.next_queue = 1
        self.marks: dict[int, bytes] = {}
        self.pushes: dict[int, PushRow] = {}
        self.revocations: dict[int, set[bytes]] = {}
        self.invitations: dict[bytes, InvitationRow] = {}
        self.one_time: dict[tuple[int, int], list[tuple[bytes, int]]] = {}
        self.resorts: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.gates: dict[bytes, tuple[bytes, int]] = {}
        self.own: dict[str, bytes] = {}
        self.envelopes: dict[int, dict[int, EnvelopeRow]] = {}

    # accounts and devices

    def account(self, account: AccountId) -> AccountRow | None:
        return self.accounts.get(account)

    def used_month(self, account: AccountId) -> int | None:
        row = self.accounts.get(account)
        return row.used_month if row is not None else None

    def add_account(self, row: AccountRow) -> None:
        self.accounts[row.account] = row

    def replace_list(self, account: AccountId, device_list: bytes, counter: int) -> None:
        self.accounts[account] = self.accounts[account]._replace(device_list=device_list, counter=counter)

    def touch_account(self, account: AccountId, month: int) -> None:
        if account in self.accounts:
            self.accounts[account] = self.accounts[account]._replace(used_month=month)

    def remove_account(self, account: AccountId) -> None:
        self.accounts.pop(account, None)

    def unused_accounts(self, before_month: int, limit: int) -> list[AccountId]:
        return sorted(row.account for row in self.accounts.values() if row.used_month < before_month)[:limit]

    def device(self, account: AccountId, device: DeviceId) -> DeviceRow | None:
        return next((row for row in self.devices(account) if row.device == device), None)

    def devices(self, account: AccountId) -> list[DeviceRow]:
        return [row for row in self.device_rows.values() if row.account == account]

    def device_at(self, mailbox: MailboxId) -> DeviceRow | None:
        return next((row for row in self.device_rows.values() if row.mailbox == mailbox), None)

    def device_of(self, queue: QueueNumber) -> DeviceRow | None:
        return self.device_rows.get(queue)

    def add_device(self, account: AccountId, device: DeviceId, login_key: bytes, mailbox: MailboxId) -> DeviceRow:
        row = DeviceRow(QueueNumber(self.next_queue), account, device, login_key, mailbox, False)
        self.next_queue += 1
        self.device_rows[row.queue] = row
        return row

    def remove_device(self, queue: QueueNumber) -> None:
        self.device_rows.pop(queue, None)
        self.revocations.pop(queue, None)
        self.envelopes.pop(queue, None)
        self.marks.pop(queue, None)
        self.pushes.pop(queue, None)
        self.one_time = {key: each for key, each in self.one_time.items() if key[0] != queue}
        self.resorts = {key: each for key, each in self.resorts.items() if key[0] != queue}

    def mark(self, queue: QueueNumber) -> bytes | None:
        return self.marks.get(queue)

    def set_mark(self, queue: QueueNumber, mark: bytes) -> None:
        if queue in self.device_rows:
            self.marks[queue] = mark

    def clear_marks(self) -> None:
        self.marks.clear()

    def push(self, queue: QueueNumber) -> PushRow | None:
        return self.pushes.get(queue)

    def set_push(self, queue: QueueNumber, row: PushRow | None) -> None:
        if row is None:
            self.pushes.pop(queue, None)
        else:
            self.pushes[queue] = row

    def waiting(self, queue: QueueNumber) -> tuple[int, int]:
        rows = self.envelopes.get(queue, {}).values()
        return len(rows), sum(len(row.body) for row in rows)

    def waiting_by_serial(self, queue: QueueNumber, most: int) -> list[WaitingRow]:
        by_serial: dict[bytes, list[EnvelopeRow]] = {}
        for row in self.envelopes.get(queue, {}).values():
            by_serial.setdefault(row.serial, []).append(row)
        told = []
        for serial, rows in sorted(by_serial.items())[:most]:
            size = sum(len(row.body) for row in rows)
            places, hours = [row.sequence for row in rows], [row.hour for row in rows]
            told.append(WaitingRow(serial, len(rows), size, min(places), max(places), min(hours), max(hours)))
        return told

    # revocations

    def revoke(self, queue: QueueNumber, serial: bytes) -> None:
        self.revocations.setdefault(queue, set()).add(serial)

    def is_revoked(self, queue: QueueNumber, serial: bytes) -> bool:
        return serial in self.revocations.get(queue, set())

    def revoked_count(self, queue: QueueNumber) -> int:
        return len(self.revocations.get(queue, set()))

    def revoked_serials(self, queue: QueueNumber, most: int) -> list[bytes]:
        return sorted(self.revocations.get(queue, set()))[:most]

    def renew_mailbox(self, queue: QueueNumber, mailbox: MailboxId) -> None:
        self.device_rows[queue] = self.device_rows[queue]._replace(mailbox=mailbox, remint=True)
        self.revocations.pop(queue, None)

    def clear_remint(self, queue: QueueNumber) -> None:
        if queue in self.device_rows:
            self.device_rows[queue] = self.device_rows[queue]._replace(remint=False)

    # invitations

    def invitation(self, hash: bytes) -> InvitationRow | None:
        return self.invitations.get(hash)

    def add_invitation(self, row: InvitationRow) -> None:
        self.invitations[row.hash] = row

    def use_invitation(self, hash: bytes) -> None:
        row = self.invitations[hash]
        self.invitations[hash] = row._replace(uses_left=row.uses_left - 1)

    def remove_invitation(self, hash: bytes) -> bool:
        return self.invitations.pop(hash, None) is not None

    def expire_invitations(self, before_ms: int) -> int:
        gone = [row.hash for row in self.invitations.values() if row.expires_at_ms < before_ms]
        for hash in gone:
            del self.invitations[hash]
        return len(gone)

    # key packages

    def packages_left(self, queue: QueueNumber, suite: int) -> int:
        return len(self.one_time.get((queue, suite), []))

    def packages_by_kind(self, queue: QueueNumber) -> list[tuple[int, bool, int]]:
        kinds = [(suite, False, len(waiting)) for (owner, suite), waiting in self.one_time.items() if owner == queue]
        kinds += [(suite, True, 1) for owner, suite in self.resorts if owner == queue]
        return sorted(kind for kind in kinds if kind[2])

    def add_packages(self, queue: QueueNumber, suite: int, packages: Sequence[bytes], month: int) -> None:
        self.one_time.setdefault((queue, suite), []).extend((package, month) for package in packages)

    def clear_packages(self, queue: QueueNumber, suite: int) -> None:
        self.one_time.pop((queue, suite), None)

    def set_last_resort(self, queue: QueueNumber, suite: int, package: bytes, month: int) -> None:
        self.resorts[queue, suite] = (package, month)

    def claim_package(self, queue: QueueNumber, suite: int) -> bytes | None:
        waiting = self.one_time.get((queue, suite))
        if waiting:
            return waiting.pop(0)[0]
        resort = self.resorts.get((queue, suite))
        return resort[0] if resort else None

    def packages(self, queue: QueueNumber) -> list[PackagesRow]:
        held = Counter(
            (suite, False, month)
            for (owner, suite), waiting in self.one_time.items()
            if owner == queue
            for _, month in waiting
        )
        held.update((suite, True, month) for (owner, suite), (_, month) in self.resorts.items() if owner == queue)
        return [PackagesRow(*row, count) for row, count in sorted(held.items())]

    def expire_packages(self, month: int) -> int:
        gone = 0
        for key, waiting in self.one_time.items():
            kept = [each for each in waiting if each[1] > month]
            gone += len(waiting) - len(kept)
            self.one_time[key] = kept
        lapsed = [key for key, (_, lapses) in self.resorts.items() if lapses <= month]
        for key in lapsed:
            del self.resorts[key]
        return gone + len(lapsed)

    # gates

    def claim_gate(self, name: GateName, value: bytes, day: int) -> bytes:
        return self.gates.setdefault(name, (value, day))[0]

    def read_gate(self, name: GateName) -> bytes | None:
        gate = self.gates.get(name)
        return gate[0] if gate else None

    def expire_gates(self, before_day: int) -> int:
        gone = [name for name, (_, day) in self.gates.items() if day < before_day]
        for name in gone:
            del self.gates[name]
        return len(gone)

    # the server's own facts

    def fact(self, name: str) -> bytes | None:
        return self.own.get(name)

    def set_fact(self, name: str, value: bytes) -> None:
        self.own[name] = value

    def facts(self, prefix: str) -> dict[str, bytes]:
        return {name: value for name, value in sorted(self.own.items()) if name.startswith(prefix)}

    # queues

    def expire_envelopes(self, before_hour: int, limit: int) -> list[tuple[QueueNumber, int]]:
        gone: list[tuple[QueueNumber, int]] = []
        for queue in sorted(self.envelopes):
            rows = self.envelopes[queue]
            old = [sequence for sequence in sorted(rows) if rows[sequence].hour < before_hour][:limit]
            for sequence in old:
                del rows[sequence]
            if old:
                gone.append((QueueNumber(queue), len(old)))
                limit -= len(old)
        return gone

    def mailbox(self, mailbox: MailboxId) -> MailboxRow | None:
        device = self.device_at(mailbox)
        if device is None:
            return None
        rows = self.envelopes.get(device.queue, {})
        held: dict[bytes, tuple[int, int]] = {}
        for row in rows.values():
            count, size = held.get(row.serial, (0, 0))
            held[row.serial] = (count + 1, size + len(row.body))
        return MailboxRow(
            device.queue,
            max(rows, default=0),
            held,
            frozenset(self.revocations.get(device.queue, set())),
            device.queue in self.pushes,
        )


class MemoryStore:
    """`ports.Store` in memory. *failing* makes every write fail like a full disk (for tests)."""

    def __init__(self, later: Callable[[Callable[[], None]], Any] | None = None) -> None:
        self.tables = MemoryTables()
        self.failing = False
        self._deletes_again: list[tuple[QueueNumber, int]] = []
        self._queue: deque[Callable[[], None]] = deque()
        self._later = later or self._queue.append

    def run(self) -> None:
        """Call back everything that is due (without an event loop)."""
        while self._queue:
            self._queue.popleft()()

    def write(self, job: Callable[[Tables], Any], done: Outcome) -> None:
        self._later(lambda: self._run(job, done, keep=True))

    def read(self, job: Callable[[Tables], Any], done: Outcome) -> None:
        self._later(lambda: self._run(job, done, keep=False))

    def _run(self, job: Callable[[Tables], Any], done: Outcome, keep: bool) -> None:
        copy = deepcopy(self.tables)
        try:
            if self.failing and keep:
                raise WireError(STORAGE, retry_after_ms=2_000)
            result = job(copy)
        except WireError as error:
            done(None, error)
            return
        except Exception as error:
            failure = WireError(INTERNAL)
            failure.__cause__ = error
            done(None, failure)
            return
        if keep:
            self.tables = copy
        done(result, None)

    def backlog_jobs(self) -> int:
        return 0

    def backlog_bytes(self) -> int:
        return 0

    def submit(self, rows: Sequence[EnvelopeRow], deletes: Iterable[tuple[QueueNumber, int]], done: Stored) -> None:
        deletes = list(deletes)
        self._later(lambda: self._submit(rows, deletes, done))

    def _submit(self, rows: Sequence[EnvelopeRow], deletes: list[tuple[QueueNumber, int]], done: Stored) -> None:
        if self.failing:
            self._deletes_again += deletes
            done(False)
            return
        deletes, self._deletes_again = self._deletes_again + deletes, []
        for row in rows:
            if row.queue in self.tables.device_rows:
                self.tables.envelopes.setdefault(row.queue, {})[row.sequence] = row
        for queue, upto in deletes:
            queued = self.tables.envelopes.get(queue, {})
            for sequence in [each for each in queued if each <= upto]:
                del queued[sequence]
        done(True)

    def load(self, mailboxes: Sequence[MailboxId], done: Callable[[list[MailboxRow | None] | None], None]) -> None:
        wanted = list(mailboxes)
        self._later(lambda: done([self.tables.mailbox(each) for each in wanted]))

    def fetch(
        self,
        queue: QueueNumber,
        after: int,
        count: int,
        size_bytes: int,
        done: Callable[[list[StoredEnvelope] | None, bool], None],
    ) -> None:
        self._later(lambda: self._fetch(queue, after, count, size_bytes, done))

    def _fetch(
        self,
        queue: QueueNumber,
        after: int,
        count: int,
        size_bytes: int,
        done: Callable[[list[StoredEnvelope] | None, bool], None],
    ) -> None:
        rows = self.tables.envelopes.get(queue, {})
        found: list[StoredEnvelope] = []
        for sequence in sorted(each for each in rows if each > after):
            row = rows[sequence]
            size_bytes -= len(row.body)
            if found and (size_bytes < 0 or len(found) >= count):
                done(found, True)
                return
            found.append(StoredEnvelope(sequence, Serial(row.serial), row.body))
        done(found, False)

    def close(self) -> None:
        self.run()
