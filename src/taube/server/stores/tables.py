"""The tables of the embedded engine: `ports.Tables` over one connection, in a transaction that others begin and end.

An envelope is one row under a single integer: queue number * 2^32 + sequence.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol

from taube.server.ports import (
    AccountRow,
    DeviceRow,
    InvitationRow,
    MailboxId,
    PackagesRow,
    PushRow,
    QueueNumber,
    Tables,
    WaitingRow,
)
from taube.wire.messages import AccountId, DeviceId, GateName

LOW: Final = 0xFFFF_FFFF
"""The part of an envelope's key that is its sequence."""


class Connection(Protocol):
    """What is used of `apsw.Connection`."""

    def execute(self, statements: str, bindings: Sequence[Any] = ..., /) -> Any: ...
    def changes(self) -> int: ...


class SqliteTables(Tables):
    """`ports.Tables` over one connection, inside a transaction that others begin and end."""

    def __init__(self, connection: Connection) -> None:
        self._execute = connection.execute
        self._changes = connection.changes
        self.removed: set[int] = set()
        """Queues that were removed; whoever runs a job empties it before and looks after."""

    def _one(self, sql: str, *values: Any) -> Any:
        return self._execute(sql, values).fetchone()

    # accounts and devices

    def account(self, account: AccountId) -> AccountRow | None:
        row = self._one(
            "SELECT account, genesis, device_list, counter, created_month, used_month FROM account WHERE account = ?",
            account,
        )
        return AccountRow(*row) if row else None

    def used_month(self, account: AccountId) -> int | None:
        row = self._one("SELECT used_month FROM account WHERE account = ?", account)
        return row[0] if row else None

    def add_account(self, row: AccountRow) -> None:
        self._execute("INSERT INTO account VALUES (?, ?, ?, ?, ?, ?)", row)

    def replace_list(self, account: AccountId, device_list: bytes, counter: int) -> None:
        self._execute(
            "UPDATE account SET device_list = ?, counter = ? WHERE account = ?", (device_list, counter, account)
        )

    def touch_account(self, account: AccountId, month: int) -> None:
        self._execute("UPDATE account SET used_month = ? WHERE account = ?", (month, account))

    def remove_account(self, account: AccountId) -> None:
        self._execute("DELETE FROM account WHERE account = ?", (account,))

    def unused_accounts(self, before_month: int, limit: int) -> list[AccountId]:
        rows = self._execute(
            "SELECT account FROM account WHERE used_month < ? ORDER BY account LIMIT ?", (before_month, limit)
        )
        return [AccountId(row[0]) for row in rows]

    _DEVICE = "SELECT queue, account, device, login_key, mailbox, remint FROM device"

    @staticmethod
    def _device(row: Any) -> DeviceRow | None:
        return _device_row(row) if row else None

    def device(self, account: AccountId, device: DeviceId) -> DeviceRow | None:
        return self._device(self._one(f"{self._DEVICE} WHERE account = ? AND device = ?", account, device))

    def devices(self, account: AccountId) -> list[DeviceRow]:
        rows = self._execute(f"{self._DEVICE} WHERE account = ? ORDER BY queue", (account,))
        return [_device_row(row) for row in rows]

    def device_at(self, mailbox: MailboxId) -> DeviceRow | None:
        return self._device(self._one(f"{self._DEVICE} WHERE mailbox = ?", mailbox))

    def device_of(self, queue: QueueNumber) -> DeviceRow | None:
        return self._device(self._one(f"{self._DEVICE} WHERE queue = ?", queue))

    def add_device(self, account: AccountId, device: DeviceId, login_key: bytes, mailbox: MailboxId) -> DeviceRow:
        (queue,) = self._one(
            "INSERT INTO device (account, device, login_key, mailbox) VALUES (?, ?, ?, ?) RETURNING queue",
            account,
            device,
            login_key,
            mailbox,
        )
        return DeviceRow(queue, account, device, login_key, mailbox, False)

    def remove_device(self, queue: QueueNumber) -> None:
        self._execute("DELETE FROM device WHERE queue = ?", (queue,))
        self._execute("DELETE FROM revoked WHERE queue = ?", (queue,))
        self._execute("DELETE FROM key_package WHERE queue = ?", (queue,))
        self._execute("DELETE FROM push WHERE queue = ?", (queue,))
        self._execute("DELETE FROM envelope WHERE key BETWEEN ? AND ?", (queue << 32, queue << 32 | LOW))
        self.removed.add(queue)

    def mark(self, queue: QueueNumber) -> bytes | None:
        row = self._one("SELECT mark FROM device WHERE queue = ?", queue)
        return row[0] if row else None

    def set_mark(self, queue: QueueNumber, mark: bytes) -> None:
        self._execute("UPDATE device SET mark = ? WHERE queue = ?", (mark, queue))

    def clear_marks(self) -> None:
        self._execute("UPDATE device SET mark = NULL WHERE mark IS NOT NULL")

    def push(self, queue: QueueNumber) -> PushRow | None:
        row = self._one("SELECT endpoint, key, secret FROM push WHERE queue = ?", queue)
        return PushRow(*row) if row else None

    def set_push(self, queue: QueueNumber, row: PushRow | None) -> None:
        if row is None:
            self._execute("DELETE FROM push WHERE queue = ?", (queue,))
        else:
            self._execute("INSERT OR REPLACE INTO push VALUES (?, ?, ?, ?)", (queue, *row))

    def waiting(self, queue: QueueNumber) -> tuple[int, int]:
        count, size = self._one(
            "SELECT count(*), coalesce(sum(length(body)), 0) FROM envelope WHERE key BETWEEN ? AND ?",
            queue << 32,
            queue << 32 | LOW,
        )
        return count, size

    def waiting_by_serial(self, queue: QueueNumber, most: int) -> list[WaitingRow]:
        rows = self._execute(
            "SELECT serial, count(*), sum(length(body)), min(key) & ?, max(key) & ?, min(hour), max(hour) FROM envelope"
            " WHERE key BETWEEN ? AND ? GROUP BY serial ORDER BY serial LIMIT ?",
            (LOW, LOW, queue << 32, queue << 32 | LOW, most),
        )
        return [WaitingRow(*row) for row in rows]

    # revocations

    def revoke(self, queue: QueueNumber, serial: bytes) -> None:
        self._execute("INSERT OR IGNORE INTO revoked VALUES (?, ?)", (queue, serial))

    def is_revoked(self, queue: QueueNumber, serial: bytes) -> bool:
        return self._one("SELECT 1 FROM revoked WHERE queue = ? AND serial = ?", queue, serial) is not None

    def revoked_count(self, queue: QueueNumber) -> int:
        return int(self._one("SELECT count(*) FROM revoked WHERE queue = ?", queue)[0])

    def revoked_serials(self, queue: QueueNumber, most: int) -> list[bytes]:
        rows = self._execute("SELECT serial FROM revoked WHERE queue = ? ORDER BY serial LIMIT ?", (queue, most))
        return [row[0] for row in rows]

    def renew_mailbox(self, queue: QueueNumber, mailbox: MailboxId) -> None:
        self._execute("UPDATE device SET mailbox = ?, remint = 1 WHERE queue = ?", (mailbox, queue))
        self._execute("DELETE FROM revoked WHERE queue = ?", (queue,))

    def clear_remint(self, queue: QueueNumber) -> None:
        self._execute("UPDATE device SET remint = 0 WHERE queue = ?", (queue,))

    # invitations

    def invitation(self, hash: bytes) -> InvitationRow | None:
        row = self._one("SELECT hash, uses_left, expires_at_ms FROM invitation WHERE hash = ?", hash)
        return InvitationRow(*row) if row else None

    def add_invitation(self, row: InvitationRow) -> None:
        self._execute("INSERT OR REPLACE INTO invitation VALUES (?, ?, ?)", row)

    def use_invitation(self, hash: bytes) -> None:
        self._execute("UPDATE invitation SET uses_left = uses_left - 1 WHERE hash = ?", (hash,))

    def remove_invitation(self, hash: bytes) -> bool:
        self._execute("DELETE FROM invitation WHERE hash = ?", (hash,))
        return self._changes() > 0

    def expire_invitations(self, before_ms: int) -> int:
        self._execute("DELETE FROM invitation WHERE expires_at_ms < ?", (before_ms,))
        return self._changes()

    # key packages

    def packages_left(self, queue: QueueNumber, suite: int) -> int:
        sql = "SELECT count(*) FROM key_package WHERE queue = ? AND suite = ? AND last_resort = 0"
        return int(self._one(sql, queue, suite)[0])

    def packages_by_kind(self, queue: QueueNumber) -> list[tuple[int, bool, int]]:
        rows = self._execute(
            "SELECT suite, last_resort, count(*) FROM key_package WHERE queue = ? GROUP BY suite, last_resort"
            " ORDER BY suite, last_resort",
            (queue,),
        )
        return [(suite, bool(last_resort), count) for suite, last_resort, count in rows]

    def add_packages(self, queue: QueueNumber, suite: int, packages: Sequence[bytes], month: int) -> None:
        (top,) = self._one(
            "SELECT coalesce(max(place), 0) FROM key_package WHERE queue = ? AND suite = ? AND last_resort = 0",
            queue,
            suite,
        )
        values = [value for place, each in enumerate(packages, top + 1) for value in (queue, suite, place, month, each)]
        rows = ", ".join(["(?, ?, 0, ?, ?, ?)"] * len(packages))
        if packages:
            self._execute(
                f"INSERT INTO key_package (queue, suite, last_resort, place, month, package) VALUES {rows}", values
            )

    def clear_packages(self, queue: QueueNumber, suite: int) -> None:
        self._execute("DELETE FROM key_package WHERE queue = ? AND suite = ? AND last_resort = 0", (queue, suite))

    def set_last_resort(self, queue: QueueNumber, suite: int, package: bytes, month: int) -> None:
        self._execute("INSERT OR REPLACE INTO key_package VALUES (?, ?, 1, 0, ?, ?)", (queue, suite, month, package))

    def claim_package(self, queue: QueueNumber, suite: int) -> bytes | None:
        row = self._one(
            "SELECT last_resort, place, package FROM key_package WHERE queue = ? AND suite = ?"
            " ORDER BY last_resort, place LIMIT 1",
            queue,
            suite,
        )
        if row is None:
            return None
        last_resort, place, package = row
        if not last_resort:
            self._execute(
                "DELETE FROM key_package WHERE queue = ? AND suite = ? AND last_resort = 0 AND place = ?",
                (queue, suite, place),
            )
        return bytes(package)

    def packages(self, queue: QueueNumber) -> list[PackagesRow]:
        rows = self._execute(
            "SELECT suite, last_resort, month, count(*) FROM key_package WHERE queue = ?"
            " GROUP BY suite, last_resort, month ORDER BY suite, last_resort, month",
            (queue,),
        )
        return [PackagesRow(suite, bool(last_resort), month, count) for suite, last_resort, month, count in rows]

    def expire_packages(self, month: int) -> int:
        self._execute("DELETE FROM key_package WHERE month <= ?", (month,))
        return self._changes()

    # gates

    def claim_gate(self, name: GateName, value: bytes, day: int) -> bytes:
        self._execute("INSERT OR IGNORE INTO gate (name, day, value) VALUES (?, ?, ?)", (name, day, value))
        return value if self._changes() else bytes(self._one("SELECT value FROM gate WHERE name = ?", name)[0])

    def read_gate(self, name: GateName) -> bytes | None:
        row = self._one("SELECT value FROM gate WHERE name = ?", name)
        return row[0] if row else None

    def expire_gates(self, before_day: int) -> int:
        self._execute("DELETE FROM gate WHERE day < ?", (before_day,))
        return self._changes()

    # the server's own facts

    def fact(self, name: str) -> bytes | None:
        row = self._one("SELECT CAST(value AS BLOB) FROM fact WHERE name = ?", name)
        return row[0] if row else None

    def set_fact(self, name: str, value: bytes) -> None:
        self._execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))

    def facts(self, prefix: str) -> dict[str, bytes]:
        rows = self._execute(
            "SELECT CAST(name AS BLOB), CAST(value AS BLOB) FROM fact WHERE substr(name, 1, ?) = ? ORDER BY name",
            (len(prefix), prefix),
        )
        return {row[0].decode(errors="replace"): row[1] for row in rows}  # a damaged name is no text

    # queues

    def expire_envelopes(self, before_hour: int, limit: int) -> list[tuple[QueueNumber, int]]:
        """Jumps from queue to queue: within one, the oldest come first. Drops what lies in queues of no device, too."""
        gone: list[tuple[QueueNumber, int]] = []
        at = 0
        while limit > 0:
            row = self._one("SELECT min(key) FROM envelope WHERE key >= ?", at)
            if row is None or row[0] is None:
                break
            queue = row[0] >> 32
            at = (queue + 1) << 32
            orphan = self._one("SELECT 1 FROM device WHERE queue = ?", queue) is None
            self._execute(
                "DELETE FROM envelope WHERE key IN (SELECT key FROM envelope WHERE key >= ? AND key < ?"
                " AND key < coalesce((SELECT min(key) FROM envelope WHERE key >= ? AND key < ? AND hour >= ?), ?)"
                " ORDER BY key LIMIT ?)",
                (row[0], at, row[0], at, LOW if orphan else before_hour, at, limit),
            )
            if self._changes():
                gone.append((QueueNumber(queue), self._changes()))
                limit -= self._changes()
        return gone


def _device_row(row: Any) -> DeviceRow:
    queue, account, device, login_key, mailbox, remint = row
    return DeviceRow(queue, account, device, login_key, mailbox, bool(remint))
