"""What the services need from outside, declared by those who use it: stores, live connections, time, chance, metrics.

Two kinds of store access, because they have two kinds of load:

- *Tables* (accounts, devices, invitations, key packages, gates): a service is a plain function over `Tables`; the
  caller hands the store a job that calls it. `Store.write` runs the job in one transaction of the store's own
  choosing (a savepoint within a group commit) and reports the outcome only after it is durable. A job that raises
  leaves nothing.
- *Envelopes*: `EnvelopeStore` takes everything of one event-loop turn at once, and answers after the group commit.

Every callback is called on the event loop, once, in the order of the calls within its kind. Nothing here waits.
Source: docs/protocol/delivery.md; STYLE.md §3.
"""

from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any, Final, NamedTuple, NewType, Protocol, TypeVar

from taube.exits import EX_CONFIG, EX_IOERR
from taube.wire.errors import TaubeError, WireError
from taube.wire.messages import AccountId, DeviceId, GateName, Serial

T = TypeVar("T")

MailboxId = NewType("MailboxId", bytes)
"""16 random bytes; sealed into addresses; a renewed mailbox gets another."""
QueueNumber = NewType("QueueNumber", int)
"""The store's own number of a device's queue: 1 .. 2^31-1, never used again, unchanged when the mailbox id is renewed.
"""

Random = Callable[[int], bytes]
"""So many bytes from the system's random source."""
Verify = Callable[[bytes, bytes, bytes], bool]
"""(Ed25519 public key, signature, message) -> whether the signature is good. Never raises for bytes of any length."""

Outcome = Callable[[Any, WireError | None], None]
"""(result, None) after success, (None, error) after failure."""


class Clock(Protocol):
    """Three readings of time. Only `app` and tests make one."""

    def monotonic(self) -> float:
        """Seconds that never go back; meaningless between runs."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 as the machine believes."""

    def guarded_ms(self) -> int:
        """Milliseconds since 1970 by the guarded clock, which alone may expire anything (see clock.py)."""


class Metrics(Protocol):
    """Counts of what the server does; names and labels are catalogued in ops/observe.py, each with its ledger entry."""

    def count(self, name: str, amount: float = 1, reason: str = "") -> None:
        """Add to a counter; *reason* is one of a small fixed set."""

    def gauge(self, name: str, value: float) -> None:
        """Set what is true now."""

    def observe(self, name: str, value: float) -> None:
        """Add one measurement, in the unit of the metric's name."""


class StoreUnusable(TaubeError):
    """A store that cannot be opened: one sentence for the operator. Nothing in it was changed.

    *is_disk*: the disk is at fault, not what is on it.
    """

    def __init__(self, sentence: str, *, is_disk: bool = False) -> None:
        super().__init__(sentence)
        self.exit_code = EX_IOERR if is_disk else EX_CONFIG


# ---------------------------------------------------------------- rows


class AccountRow(NamedTuple):
    """An account. Months are year * 100 + month."""

    account: AccountId
    genesis: bytes
    device_list: bytes
    counter: int
    created_month: int
    used_month: int


class DeviceRow(NamedTuple):
    """A device and its mailbox. *remint*: the mailbox was renewed and the device has not minted since."""

    queue: QueueNumber
    account: AccountId
    device: DeviceId
    login_key: bytes
    mailbox: MailboxId
    remint: bool


class PushRow(NamedTuple):
    """How a device is woken: an https URL, and what its browser made for it (65 and 16 bytes). Source: RFC 8291."""

    endpoint: str
    key: bytes
    secret: bytes


class InvitationRow(NamedTuple):
    """An invitation by its SHA-256."""

    hash: bytes
    uses_left: int
    expires_at_ms: int


class MailboxRow(NamedTuple):
    """What an engine tells of one mailbox: its queue, the highest place in it, what lies there by serial, what is
    revoked.
    """

    queue: QueueNumber
    top: int
    held: dict[bytes, tuple[int, int]]
    """serial -> (envelopes, bytes of their bodies)"""
    revoked: frozenset[bytes]
    wakes: bool = False
    """Whether its device has a push endpoint."""


UNREADABLE: Final = MailboxRow(QueueNumber(-1), 0, {}, frozenset())
"""Stands for a mailbox of which something lies on a damaged page."""


class Stored(Protocol):
    """What is told of a batch: whether its rows are durable, all but those of the *damaged* queues."""

    def __call__(self, kept: bool, damaged: Set[int] = frozenset(), /) -> None: ...


class StoredEnvelope(NamedTuple):
    """An envelope read back from a queue."""

    sequence: int
    """Place in the queue, 1 .. 2^32-1: rises by at least one with each."""
    serial: Serial
    body: bytes


class EnvelopeRow(NamedTuple):
    """An envelope to be kept; *hour* is guarded hours since 1970."""

    queue: QueueNumber
    sequence: int
    serial: Serial
    hour: int
    body: bytes


class PackagesRow(NamedTuple):
    """How many key packages of one suite lapse in one month."""

    suite: int
    last_resort: bool
    month: int
    packages: int


class WaitingRow(NamedTuple):
    """The envelopes of one serial that wait in a queue: between which places, arrived in which guarded hours."""

    serial: bytes
    envelopes: int
    size_bytes: int
    first: int
    last: int
    first_hour: int
    last_hour: int


# ---------------------------------------------------------------- tables, inside one transaction


class Accounts(Protocol):
    """Accounts and their devices."""

    def account(self, account: AccountId) -> AccountRow | None: ...
    def used_month(self, account: AccountId) -> int | None:
        """The month in which the account was last used, without reading the rest of it; None if there is none."""

    def add_account(self, row: AccountRow) -> None: ...
    def replace_list(self, account: AccountId, device_list: bytes, counter: int) -> None: ...
    def touch_account(self, account: AccountId, month: int) -> None: ...
    def remove_account(self, account: AccountId) -> None:
        """Forget the account row; its devices are removed one by one before."""

    def unused_accounts(self, before_month: int, limit: int) -> list[AccountId]: ...
    def device(self, account: AccountId, device: DeviceId) -> DeviceRow | None: ...
    def devices(self, account: AccountId) -> list[DeviceRow]: ...
    def device_at(self, mailbox: MailboxId) -> DeviceRow | None: ...
    def device_of(self, queue: QueueNumber) -> DeviceRow | None: ...
    def add_device(self, account: AccountId, device: DeviceId, login_key: bytes, mailbox: MailboxId) -> DeviceRow: ...
    def remove_device(self, queue: QueueNumber) -> None:
        """Forget the device with its envelopes, key packages, revoked serials and push endpoint."""

    def mark(self, queue: QueueNumber) -> bytes | None:
        """The device's mark; None if it never had one, or a restore has cleared it."""

    def set_mark(self, queue: QueueNumber, mark: bytes) -> None: ...
    def clear_marks(self) -> None:
        """Forget the marks of all devices."""

    def push(self, queue: QueueNumber) -> PushRow | None: ...
    def set_push(self, queue: QueueNumber, row: PushRow | None) -> None: ...

    def waiting(self, queue: QueueNumber) -> tuple[int, int]:
        """(envelopes, bytes of their bodies) that wait in the queue."""

    def waiting_by_serial(self, queue: QueueNumber, most: int) -> list[WaitingRow]:
        """The same for each of at most *most* serials, rising, with places and hours."""


class Revocations(Protocol):
    """Revoked serials of mailboxes, and the renewal of a mailbox id."""

    def revoke(self, queue: QueueNumber, serial: bytes) -> None: ...
    def is_revoked(self, queue: QueueNumber, serial: bytes) -> bool: ...
    def revoked_count(self, queue: QueueNumber) -> int: ...
    def revoked_serials(self, queue: QueueNumber, most: int) -> list[bytes]:
        """At most *most* of them, rising."""

    def device_at(self, mailbox: MailboxId) -> DeviceRow | None: ...
    def renew_mailbox(self, queue: QueueNumber, mailbox: MailboxId) -> None:
        """Give the queue a new mailbox id, forget its revoked serials, set remint."""

    def clear_remint(self, queue: QueueNumber) -> None: ...


class Invitations(Protocol):
    """Invitations by their hash."""

    def invitation(self, hash: bytes) -> InvitationRow | None: ...
    def add_invitation(self, row: InvitationRow) -> None: ...
    def use_invitation(self, hash: bytes) -> None:
        """One use less."""

    def remove_invitation(self, hash: bytes) -> bool: ...
    def expire_invitations(self, before_ms: int) -> int: ...


class KeyPackages(Protocol):
    """Key packages by queue and suite. A package lapses when its month (guarded, year * 100 + month) begins."""

    def packages_left(self, queue: QueueNumber, suite: int) -> int:
        """One-time packages that wait."""

    def packages_by_kind(self, queue: QueueNumber) -> list[tuple[int, bool, int]]:
        """(suite, whether last resort, how many), rising; only kinds of which there are any."""

    def add_packages(self, queue: QueueNumber, suite: int, packages: Sequence[bytes], month: int) -> None: ...
    def clear_packages(self, queue: QueueNumber, suite: int) -> None: ...
    def set_last_resort(self, queue: QueueNumber, suite: int, package: bytes, month: int) -> None: ...
    def claim_package(self, queue: QueueNumber, suite: int) -> bytes | None:
        """The oldest one-time package, which is thereby gone; else the last resort, which stays; else None."""

    def packages(self, queue: QueueNumber) -> list[PackagesRow]:
        """What is held, by suite, kind and month."""

    def expire_packages(self, month: int) -> int:
        """Forget what lapses in that month or before; how many."""


class Gates(Protocol):
    """Write-once registers."""

    def claim_gate(self, name: GateName, value: bytes, day: int) -> bytes:
        """The value that stands in the gate now: *value* if nobody was first."""

    def read_gate(self, name: GateName) -> bytes | None: ...
    def expire_gates(self, before_day: int) -> int: ...


class Facts(Protocol):
    """The server's own facts: generation, address keys, guarded clock."""

    def fact(self, name: str) -> bytes | None: ...
    def set_fact(self, name: str, value: bytes) -> None: ...
    def facts(self, prefix: str) -> dict[str, bytes]: ...


class Expiry(Protocol):
    """What the hourly expiry does to queues."""

    def expire_envelopes(self, before_hour: int, limit: int) -> list[tuple[QueueNumber, int]]:
        """Delete at most *limit* envelopes that arrived before that hour; (queue, how many), empty when none left."""


class Tables(Accounts, Revocations, Invitations, KeyPackages, Gates, Facts, Expiry, Protocol):
    """All tables inside one transaction; a job gets it, uses it synchronously, and keeps nothing of it."""


class TableStore(Protocol):
    """Runs jobs over the tables, off the event loop."""

    def write(self, job: Callable[[Tables], Any], done: Outcome) -> None:
        """Run *job* in a transaction; *done* after it is durable. The store may undo a job and run it again.

        A WireError that the job raises undoes the job and reaches *done*; any other exception reaches it as INTERNAL
        (and is logged once); a failing disk as STORAGE; a full queue, at once, as BUSY.
        """

    def read(self, job: Callable[[Tables], Any], done: Outcome) -> None:
        """Run *job* over what is committed; it must not write. Same errors."""

    def backlog_jobs(self) -> int:
        """Jobs that wait to be written."""


# ---------------------------------------------------------------- envelopes


class EnvelopeStore(Protocol):
    """Queues of envelopes, in batches."""

    def backlog_bytes(self) -> int:
        """Bytes handed over and not yet durable: the caller refuses (BUSY) above its bound."""

    def submit(self, rows: Sequence[EnvelopeRow], deletes: Iterable[tuple[QueueNumber, int]], done: Stored) -> None:
        """Keep *rows* and forget every envelope of a queue up to (inclusive) a sequence; rows first.

        *done(True)* once durable, *done(False)* when none of the rows was kept, *done(True, queues)* when all were but
        those of queues that reach a damaged page. Calls complete in order. Deletes that could not be written are tried
        again with a later batch; calls without rows may wait a little for company.
        """

    def load(self, mailboxes: Sequence[MailboxId], done: Callable[[list[MailboxRow | None] | None], None]) -> None:
        """State of each mailbox (None: there is no such mailbox), or None for all when the store failed.

        Deletes that are still to be written count: *top* is never below what was asked to be forgotten.
        """

    def fetch(
        self,
        queue: QueueNumber,
        after: int,
        count: int,
        size_bytes: int,
        done: Callable[[list[StoredEnvelope] | None, bool], None],
    ) -> None:
        """The next envelopes of a queue after a sequence, in order: at most *count*, and so many that they hold at most
        *size_bytes* (but at least one).

        *done(envelopes, more)*; not *more*: nothing else was committed when it was read. None when the store failed.
        """


class Store(TableStore, EnvelopeStore, Protocol):
    """An engine: everything above, and its end."""

    def close(self) -> None:
        """Finish what was handed over, make it durable, release files. Blocks; call it once, last."""


# ---------------------------------------------------------------- connections


class Link(Protocol):
    """A live device connection as the mailboxes see it (implemented by gateway/connection.py).

    Hashable by identity. Nothing here waits, raises, or calls back into the mailboxes before it returns.
    """

    def deliver(self, number: int, serial: bytes, body: bytes) -> None:
        """Send a Deliver event. Number 0 is ephemeral: drop it if anything waits in the connection's own buffer."""

    def caught_up(self, upto: int) -> None:
        """Send CaughtUp."""

    def replaced(self) -> None:
        """Send Replaced and close: a newer connection of the device took over."""

    def ended(self) -> None:
        """Send Failed(0, DEVICE_REVOKED) and close: the device was revoked or the account deleted."""

    def unavailable(self) -> None:
        """Send Failed(0, STORAGE) and close: the mailbox cannot be read at the moment."""


class Sender(Protocol):
    """Whoever waits for the answer to a Send (a connection)."""

    def sent(self, request: int, statuses: bytes) -> None:
        """Send Sent. Called once; may come after the connection closed, and is then dropped."""

    def send_failed(self, request: int, error: WireError) -> None:
        """Send Failed instead: nothing of the Send was kept."""


# ---------------------------------------------------------------- blobs


SMALLEST_ROOM_BYTES: Final = 16 * 1024
"""What the smallest blob counts as: a file system has room for about one file in so many bytes."""
BLOB_PARTS: Final = 256
"""A sweep of blobs goes through so many parts of the store, one call for each."""


def room_of(length: int) -> int:
    """What a blob of so many bytes counts as."""
    return max(length, SMALLEST_ROOM_BYTES)


class BlobState(NamedTuple):
    """A blob or its upload: *length* bytes in all, *offset* of them durable; days of the guarded clock."""

    length: int
    offset: int
    ends_day: int
    """The first day on which it is gone."""
    until_day: int
    """The first day on which an upload that got no more bytes is gone."""
    is_complete: bool

    def is_over(self, today: int) -> bool:
        """Whether its day has come, or its upload was left."""
        return today >= self.ends_day or (not self.is_complete and today >= self.until_day)


class Swept(NamedTuple):
    """What a sweep did: how many it removed, how many are left, and what these count as, announced bytes included."""

    removed: int
    left: int
    room_bytes: int


class BlobStore(Protocol):
    """Files under random names. Its calls block, are made from threads, and raise OSError."""

    def look(self, name: bytes) -> BlobState | None: ...
    def begin(self, name: bytes, length: int, ends_day: int, until_day: int) -> BlobState: ...
    def append(self, name: bytes, at: int, data: bytes) -> None: ...
    def settle(self, name: bytes, state: BlobState) -> None: ...
    def finish(self, name: bytes) -> None: ...
    def read(self, name: bytes, start: int, size: int) -> bytes: ...
    def free_bytes(self) -> int: ...
    def sweep(self, part: int, today: int, may_expire: bool) -> Swept: ...
