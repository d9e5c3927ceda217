"""Mailboxes: append, deliver, acknowledge; *kept* only when acknowledged by the device or durable.

How the gateway drives this (one object per process, used on the event loop only, no awaits, no tasks, no futures):

    opened = [sealer.open(address) for address in command.addresses]
    mailboxes.send(connection, command.request, command.flags, opened, command.body, now)   # dispatch of Send
    mailboxes.attach(mailbox_id, queue, connection, now)      # after the answer to a login was sent
    mailboxes.acknowledge(connection, upto, now)              # dispatch of Acknowledge
    mailboxes.detach(connection, now)                         # the connection closed

`now` is the monotonic clock in seconds. When something waits for the store or for a deadline, the machine calls
`wake` (which it got when it was made; possibly many times a turn). The gateway then arms one `loop.call_soon`, which
calls `flush()` and arms one timer for `next_deadline()`; the timer calls `tick(now)`, and then does the same.
Connections are `ports.Link` (devices) and `ports.Sender` (whoever sends). Answers (`Sender.sent`) come out of send,
acknowledge, detach, tick and the store's callbacks.

One mailbox, seen from inside. An envelope (`Parcel`) goes one of two ways:

- *live*: the device is online, nothing is stored that it was not handed yet, and its window has room: it is delivered
  at once and waits `patience_s` for the acknowledgement. If that comes, it was never stored. If not, or if the
  connection is lost, it is stored. A device that was not fast enough last time gets its envelopes both ways at once
  until it is.
- *stored*: it gets the next sequence of the queue and goes to the store with the turn's batch. It is read back when the
  device's window has room.

Order within a sender holds because whatever is stored takes all earlier live envelopes of that mailbox with it first,
and nothing is delivered live while anything stored waits before it (`cursor < top`).

Source: docs/protocol/delivery.md, DEL-06 .. DEL-19.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Final

from taube.server.ports import (
    UNREADABLE,
    EnvelopeRow,
    EnvelopeStore,
    Link,
    MailboxId,
    MailboxRow,
    QueueNumber,
    Sender,
    StoredEnvelope,
)
from taube.wire.errors import STORAGE, WireError
from taube.wire.messages import FLAG_EPHEMERAL, FLAG_URGENT, STATUS_BUSY, STATUS_FULL, STATUS_GONE, STATUS_KEPT, Serial

ENVELOPE_DAYS: Final = 30
SERIAL_SHARE: Final = 4
"""One serial may fill at most this part (a quarter) of a mailbox."""


@dataclass(frozen=True, slots=True)
class MailboxSettings:
    """Limits of mailboxes and of what is under way between them and the store."""

    capacity_bytes: int = 64 * 1024 * 1024
    """Bodies that may wait in one mailbox."""
    capacity_envelopes: int = 20_000
    """Envelopes that may wait in one mailbox."""
    window_envelopes: int = 256
    """Envelopes delivered and not acknowledged, per connection."""
    window_bytes: int = 1024 * 1024
    """Bytes of bodies delivered and not acknowledged, per connection (one envelope always fits)."""
    patience_s: float = 0.03
    """How long a live envelope waits for its acknowledgement before it is stored."""
    live_bytes: int = 64 * 1024 * 1024
    """Bodies delivered live and not yet settled, over all connections; above it, envelopes are stored at once."""
    backlog_bytes: int = 64 * 1024 * 1024
    """Bodies handed to the store and not yet durable; above it, a Send is answered busy."""
    loading_envelopes: int = 10_000
    """Envelopes that wait for their mailbox to be looked up, over all; above it, a Send is answered busy."""
    remembered: int = 100_000
    """Mailboxes whose state is kept in memory; the idle ones above it are forgotten."""
    storage_retry_ms: int = 2_000
    """When to try again after the store failed."""


class Settlement:
    """One Send under way: its statuses, and how many of them are still open."""

    __slots__ = ("failed", "open", "request", "sender", "statuses", "urgent")

    def __init__(self, sender: Sender, request: int, addresses: int, urgent: bool) -> None:
        self.urgent = urgent
        self.sender = sender
        self.request = request
        self.statuses = bytearray(addresses)
        self.open = addresses
        self.failed = False


class Parcel:
    """One envelope on its way to one mailbox.

    *number* 0: not delivered on the present link. *live*: delivered, neither settled nor stored. *sequence* not 0:
    stored, or about to be, and counted in its mailbox. *settlement* None: answered, or read back from the store.
    """

    __slots__ = ("body", "due", "index", "live", "number", "sequence", "serial", "settlement", "size")

    def __init__(self, serial: bytes, body: bytes, settlement: Settlement | None, index: int) -> None:
        self.serial = serial
        self.body = body
        self.size = len(body)
        self.settlement = settlement
        self.index = index
        self.number = 0
        self.sequence = 0
        self.live = False
        self.due = 0.0


_NO_FLIGHTS: Final[deque[Parcel]] = deque(maxlen=0)
"""What mailboxes share that never had a flight on their link: an empty deque takes 600 bytes."""


class Mailbox:
    """State of one mailbox in memory; see the module's head. Everything in it can be loaded again when it is `idle`."""

    __slots__ = (
        "attached", "caught_up_at", "cursor", "delivered", "envelopes", "fetching", "flights", "flying_bytes",
        "forgotten", "gone", "held", "id", "link", "live", "loading", "queue", "revoked", "settled", "slow",
        "stored_bytes", "storing", "top", "waiting", "wakes",
    )  # fmt: skip

    def __init__(self, mailbox: MailboxId) -> None:
        self.id = mailbox
        self.queue = QueueNumber(0)
        self.loading = True
        self.gone = False
        self.waiting: list[Parcel] = []  # arrived while loading
        self.revoked: frozenset[bytes] = frozenset()
        self.top = 0  # highest sequence given out
        self.settled = 0  # sequences up to here are committed, or failed
        self.forgotten = 0  # sequences up to here were acknowledged: deleted, or about to be
        self.storing = 0  # parcels that the store has not answered yet
        self.envelopes = 0  # stored ones
        self.stored_bytes = 0
        self.held: dict[bytes, list[int]] = {}  # serial -> [envelopes, bytes], stored ones
        self.link: Link | None = None
        self.attached = 0  # counts links, so that a late fetch for an earlier one is recognised
        self.cursor = 0  # everything stored up to here was handed to this link
        self.fetching = False
        self.caught_up_at: int | None = None  # say CaughtUp when the cursor has come here
        self.delivered = 0  # last delivery number on this link
        self.flights = _NO_FLIGHTS  # delivered on this link, not acknowledged; by number
        self.flying_bytes = 0
        self.live = 0  # how many of the flights are live
        self.wakes = False  # its device has a push endpoint
        self.slow = False  # the last live envelope was not acknowledged in time: store at once

    @property
    def idle(self) -> bool:
        """Nothing is lost by forgetting this state."""
        return self.link is None and not self.loading and not self.storing


class Mailboxes:
    """All mailboxes of this process. See the module's head for how to drive it."""

    def __init__(
        self,
        settings: MailboxSettings,
        store: EnvelopeStore,
        hour: Callable[[], int],
        wake: Callable[[], None],
        call: Callable[[QueueNumber, bytes, bool], None] = lambda queue, serial, is_connected: None,
    ) -> None:
        """*hour* gives the guarded hour that is stamped on what is stored; *wake* as in the module's head.

        *call(queue, serial, is_connected)*: something urgent became durable for a device that has a push endpoint.
        """
        self._call = call
        self._settings = settings
        self._store = store
        self._hour = hour
        self._wake = wake
        self._mailboxes: dict[bytes, Mailbox] = {}
        self._by_queue: dict[int, Mailbox] = {}
        self._links: dict[Link, Mailbox] = {}
        self._to_load: list[Mailbox] = []
        self._loading = 0
        self._rows: list[EnvelopeRow] = []
        self._row_bytes = 0
        self._storing: list[tuple[Mailbox, int, Parcel]] = []
        self._deletes: dict[QueueNumber, int] = {}
        self._due: deque[tuple[float, Mailbox, Parcel]] = deque()
        self._live_bytes = 0
        self._now = 0.0
        self.is_strained = False
        """Set by whoever measures it: the process is behind, and ephemeral envelopes are dropped."""
        self.shed = 0
        """Ephemeral envelopes dropped under load (counter for metrics)."""
        self.kept_live = 0
        """Envelopes acknowledged in time, never stored (counter for metrics)."""
        self.kept_stored = 0
        """Envelopes made durable (counter for metrics)."""
        self.refused = {STATUS_GONE: 0, STATUS_FULL: 0, STATUS_BUSY: 0}
        """Envelopes answered so (counters for metrics)."""

    # ------------------------------------------------------------ what the gateway calls

    def send(
        self,
        sender: Sender,
        request: int,
        flags: int,
        opened: Sequence[tuple[bytes, bytes] | None],
        body: bytes,
        now: float,
    ) -> None:
        """One Send: *opened* is what stands in each address, None for one that does not open. Answers now or later."""
        self._now = now
        if flags & FLAG_EPHEMERAL:
            self._send_ephemeral(opened, body)
            sender.sent(request, bytes(len(opened)))
            return
        if self._store.backlog_bytes() + self._row_bytes > self._settings.backlog_bytes:
            self.refused[STATUS_BUSY] += len(opened)
            sender.sent(request, bytes([STATUS_BUSY]) * len(opened))
            return
        settlement = Settlement(sender, request, len(opened), bool(flags & FLAG_URGENT))
        for index, pair in enumerate(opened):
            if pair is None:
                self._settle(settlement, index, STATUS_GONE)
                continue
            mailbox = self._mailboxes.get(pair[0]) or self._begin_load(MailboxId(pair[0]))
            parcel = Parcel(pair[1], body, settlement, index)
            if not mailbox.loading:
                self._accept(mailbox, parcel, settlement)
            elif self._loading < self._settings.loading_envelopes:
                self._loading += 1
                mailbox.waiting.append(parcel)
            else:
                self._settle(settlement, index, STATUS_BUSY)

    def attach(self, mailbox_id: MailboxId, queue: QueueNumber, link: Link, now: float) -> None:
        """*link* serves this mailbox from now on; the one before, if any, is told that it was replaced.

        What waits in the mailbox is delivered in order, then CaughtUp.
        """
        self._now = now
        mailbox = self._mailboxes.get(mailbox_id) or self._begin_load(mailbox_id)
        before = mailbox.link
        if before is not None:
            self._unlink(mailbox)
            before.replaced()
        mailbox.queue = queue
        mailbox.link = link
        mailbox.attached += 1
        self._links[link] = mailbox
        if not mailbox.loading:
            self._begin_delivery(mailbox, link)

    def detach(self, link: Link, now: float) -> None:
        """The connection is gone; what it did not acknowledge is stored. Idempotent; unknown links are ignored."""
        self._now = now
        mailbox = self._links.get(link)
        if mailbox is not None:
            self._unlink(mailbox)

    def acknowledge(self, link: Link, upto: int, now: float) -> None:
        """Everything delivered on this connection up to *upto* is durably decided: forget it.

        Idempotent; numbers that were not delivered yet are ignored until they are, links unknown here too.
        """
        self._now = now
        mailbox = self._links.get(link)
        if mailbox is None:
            return
        flights = mailbox.flights
        last = 0
        while flights and flights[0].number <= upto:
            parcel = flights.popleft()
            mailbox.flying_bytes -= parcel.size
            if mailbox.slow and now < parcel.due:
                mailbox.slow = False
            if parcel.live:
                parcel.live = False
                mailbox.live -= 1
                self._live_bytes -= parcel.size
                self.kept_live += 1
            elif parcel.sequence:
                last = parcel.sequence
                self._uncount(mailbox, parcel)
            settlement = parcel.settlement
            if settlement is not None:
                parcel.settlement = None
                self._settle(settlement, parcel.index, STATUS_KEPT)
        if last:
            mailbox.forgotten = self._deletes[mailbox.queue] = last
            self._wake()
        if mailbox.cursor < mailbox.top:
            self._pump(mailbox)
        elif mailbox.envelopes and not flights:
            self._empty(mailbox)

    def tick(self, now: float) -> None:
        """Store every live envelope whose patience has run out."""
        self._now = now
        due = self._due
        while due and due[0][0] <= now:
            _, mailbox, parcel = due.popleft()
            if parcel.live:
                mailbox.slow = True
                self._store_live(mailbox, parcel.number)

    def next_deadline(self) -> float | None:
        """Monotonic time at which `tick` wants to be called; None if nothing waits."""
        due = self._due
        while due and not due[0][2].live:
            due.popleft()
        return due[0][0] if due else None

    def flush(self) -> None:
        """Hand everything that this turn gathered to the store, as one batch."""
        if self._to_load:
            wanted, self._to_load = self._to_load, []
            self._store.load([each.id for each in wanted], lambda rows: self._loaded(wanted, rows))
        if self._rows or self._deletes:
            rows, storing, deletes = self._rows, self._storing, self._deletes
            self._rows, self._storing, self._deletes, self._row_bytes = [], [], {}, 0
            self._store.submit(
                rows, deletes.items(), lambda kept, damaged=frozenset(): self._stored(storing, kept, damaged)
            )

    def revoked(self, mailbox_id: MailboxId, serial: bytes) -> None:
        """A serial was revoked (call after it is durable)."""
        mailbox = self._mailboxes.get(mailbox_id)
        if mailbox is not None:
            mailbox.revoked |= {serial}

    def set_wakes(self, mailbox_id: MailboxId, wakes: bool) -> None:
        """The device took a push endpoint, or gave it back (call after it is durable)."""
        mailbox = self._mailboxes.get(mailbox_id)
        if mailbox is not None:
            mailbox.wakes = wakes

    def waits(self, queue: QueueNumber) -> bool:
        """Whether something stored may wait for this device: also when its mailbox is not in memory."""
        mailbox = self._by_queue.get(queue)
        return mailbox is None or mailbox.loading or mailbox.envelopes > 0

    def ended(self, queues: Iterable[QueueNumber]) -> None:
        """These devices are no more (call after it is durable): their links end, what is under way to them is gone."""
        for queue in queues:
            mailbox = self._by_queue.get(queue)
            if mailbox is not None:
                self._end(mailbox)

    def renewed(self, before: MailboxId, after: MailboxId) -> None:
        """The mailbox got another id (call after it is durable, before the device is attached under the new id)."""
        mailbox = self._mailboxes.pop(before, None)
        if mailbox is not None:
            mailbox.id = after
            mailbox.revoked = frozenset()
            self._mailboxes[after] = mailbox

    def stale(self, queues: Iterable[QueueNumber] | None = None) -> None:
        """The store changed behind our back (expiry, a foreign process): forget the idle state of these, or of all."""
        wanted = list(self._mailboxes.values()) if queues is None else [self._by_queue.get(each) for each in queues]
        for mailbox in wanted:
            if mailbox is not None and mailbox.idle:
                self._drop(mailbox)

    def live_queues(self) -> list[QueueNumber]:
        """Queues that a connection serves now."""
        return [mailbox.queue for mailbox in self._links.values()]

    def counts(self) -> dict[str, int]:
        """Sizes for metrics; none says anything about a person."""
        return {
            "remembered": len(self._mailboxes),
            "links": len(self._links),
            "live_bytes": self._live_bytes,
            "loading": self._loading,
        }

    # ------------------------------------------------------------ one envelope

    def _accept(self, mailbox: Mailbox, parcel: Parcel, settlement: Settlement) -> None:
        if parcel.serial in mailbox.revoked:
            self._settle(settlement, parcel.index, STATUS_GONE)
            return
        link = mailbox.link
        if link is None or mailbox.cursor < mailbox.top or not self._has_room(mailbox, parcel.size):
            self._keep(mailbox, parcel)
            return
        parcel.due = self._now + self._settings.patience_s
        if not mailbox.slow and self._live_bytes + parcel.size <= self._settings.live_bytes:
            parcel.live = True
            mailbox.live += 1
            self._live_bytes += parcel.size
            if not self._due:
                self._wake()
            self._due.append((parcel.due, mailbox, parcel))
            self._fly(mailbox, link, parcel)
        elif self._keep(mailbox, parcel):
            mailbox.cursor = mailbox.top
            self._fly(mailbox, link, parcel)

    def _is_loaded(self) -> bool:
        """Whether so much is under way that what nobody will miss is dropped, before anything is refused."""
        settings = self._settings
        return (
            self.is_strained
            or 2 * self._live_bytes > settings.live_bytes
            or 2 * (self._store.backlog_bytes() + self._row_bytes) > settings.backlog_bytes
        )

    def _send_ephemeral(self, opened: Sequence[tuple[bytes, bytes] | None], body: bytes) -> None:
        if self._is_loaded():
            self.shed += len(opened)
            return
        for pair in opened:
            mailbox = self._mailboxes.get(pair[0]) if pair is not None else None
            if pair is None or mailbox is None or mailbox.link is None or mailbox.loading:
                continue
            caught_up = mailbox.cursor >= mailbox.top
            if caught_up and pair[1] not in mailbox.revoked and self._is_half_empty(mailbox):
                mailbox.link.deliver(0, pair[1], body)

    def _has_room(self, mailbox: Mailbox, size: int) -> bool:
        flying = len(mailbox.flights)
        return not flying or (
            flying < self._settings.window_envelopes and mailbox.flying_bytes + size <= self._settings.window_bytes
        )

    def _is_half_empty(self, mailbox: Mailbox) -> bool:
        settings = self._settings
        return (
            len(mailbox.flights) * 2 <= settings.window_envelopes and mailbox.flying_bytes * 2 <= settings.window_bytes
        )

    def _fly(self, mailbox: Mailbox, link: Link, parcel: Parcel) -> None:
        mailbox.delivered = parcel.number = mailbox.delivered + 1
        if mailbox.flights is _NO_FLIGHTS:
            mailbox.flights = deque()
        mailbox.flights.append(parcel)
        mailbox.flying_bytes += parcel.size
        link.deliver(parcel.number, parcel.serial, parcel.body)

    def _keep(self, mailbox: Mailbox, parcel: Parcel) -> bool:
        """Store *parcel* after everything live before it; False, settled as full, if the mailbox has no room."""
        if mailbox.live:
            self._store_live(mailbox, mailbox.delivered)
        return self._put(mailbox, parcel)

    def _store_live(self, mailbox: Mailbox, upto: int) -> None:
        """Store the live ones among the flights up to that delivery number, in order."""
        covered = mailbox.cursor >= mailbox.top
        for parcel in mailbox.flights:
            if parcel.number > upto or not mailbox.live:
                break
            if parcel.live:
                parcel.live = False
                mailbox.live -= 1
                self._live_bytes -= parcel.size
                self._put(mailbox, parcel)
        if covered:
            mailbox.cursor = mailbox.top

    def _put(self, mailbox: Mailbox, parcel: Parcel) -> bool:
        settings = self._settings
        held = mailbox.held.get(parcel.serial)
        count, size = held or (0, 0)
        if (
            mailbox.envelopes >= settings.capacity_envelopes
            or mailbox.stored_bytes + parcel.size > settings.capacity_bytes
            or count >= settings.capacity_envelopes // SERIAL_SHARE
            or size + parcel.size > settings.capacity_bytes // SERIAL_SHARE
        ):
            settlement, parcel.settlement = parcel.settlement, None
            if settlement is not None:
                self._settle(settlement, parcel.index, STATUS_FULL)
            return False
        if held is None:
            mailbox.held[parcel.serial] = [1, parcel.size]
        else:
            held[0] += 1
            held[1] += parcel.size
        mailbox.envelopes += 1
        mailbox.stored_bytes += parcel.size
        mailbox.storing += 1
        mailbox.top = sequence = parcel.sequence = mailbox.top + 1
        if not self._rows:
            self._wake()
        self._rows.append(EnvelopeRow(mailbox.queue, sequence, Serial(parcel.serial), self._hour(), parcel.body))
        self._row_bytes += parcel.size
        self._storing.append((mailbox, sequence, parcel))
        return True

    def _uncount(self, mailbox: Mailbox, parcel: Parcel) -> None:
        parcel.sequence = 0
        mailbox.envelopes -= 1
        mailbox.stored_bytes -= parcel.size
        held = mailbox.held.get(parcel.serial)
        if held is not None:
            held[0] -= 1
            held[1] -= parcel.size
            if held[0] <= 0:
                del mailbox.held[parcel.serial]

    def _empty(self, mailbox: Mailbox) -> None:
        """All was handed over and acknowledged: what is counted still was deleted after this state was looked up."""
        mailbox.envelopes = mailbox.stored_bytes = 0
        mailbox.held = {}

    def _settle(self, settlement: Settlement, index: int, status: int) -> None:
        if status != STATUS_KEPT:
            self.refused[status] += 1
            settlement.statuses[index] = status
        settlement.open -= 1
        if settlement.open:
            return
        if settlement.failed and STATUS_KEPT not in settlement.statuses:
            error = WireError(STORAGE, retry_after_ms=self._settings.storage_retry_ms)
            settlement.sender.send_failed(settlement.request, error)
        else:
            settlement.sender.sent(settlement.request, bytes(settlement.statuses))

    # ------------------------------------------------------------ what the store answers

    def _stored(self, storing: list[tuple[Mailbox, int, Parcel]], all_kept: bool, damaged: Set[int]) -> None:
        behind: set[Mailbox] = set()
        for mailbox, sequence, parcel in storing:
            kept = all_kept and mailbox.queue not in damaged
            mailbox.storing -= 1
            mailbox.settled = sequence
            if mailbox.cursor < mailbox.top and mailbox.link is not None:
                behind.add(mailbox)
            settlement, parcel.settlement = parcel.settlement, None
            if kept:
                self.kept_stored += 1
                parcel.body = b""
            elif parcel.sequence:
                self._uncount(mailbox, parcel)
            if settlement is None:
                continue
            if not kept:
                settlement.failed = True
            elif mailbox.wakes and settlement.urgent:
                self._call(mailbox.queue, parcel.serial, mailbox.link is not None)
            self._settle(settlement, parcel.index, STATUS_KEPT if kept else STATUS_BUSY)
        for mailbox in behind:
            self._pump(mailbox)

    def _begin_load(self, mailbox_id: MailboxId) -> Mailbox:
        if len(self._mailboxes) >= self._settings.remembered:
            self._forget_idle()
        mailbox = self._mailboxes[mailbox_id] = Mailbox(mailbox_id)
        if not self._to_load:
            self._wake()
        self._to_load.append(mailbox)
        return mailbox

    def _loaded(self, wanted: list[Mailbox], rows: list[MailboxRow | None] | None) -> None:
        for at, mailbox in enumerate(wanted):
            row = None if rows is None or mailbox.gone else rows[at]
            waiting, mailbox.waiting = mailbox.waiting, []
            self._loading -= len(waiting)
            mailbox.loading = False
            if row is None or row is UNREADABLE:
                self._not_loaded(mailbox, waiting, failed=rows is None or row is UNREADABLE)
                continue
            mailbox.queue = row.queue
            self._by_queue[row.queue] = mailbox
            mailbox.top = mailbox.settled = row.top
            mailbox.revoked |= row.revoked
            mailbox.wakes = row.wakes
            mailbox.held = {serial: [count, size] for serial, (count, size) in row.held.items()}
            mailbox.envelopes = sum(count for count, _ in row.held.values())
            mailbox.stored_bytes = sum(size for _, size in row.held.values())
            if mailbox.link is not None:
                self._begin_delivery(mailbox, mailbox.link)
            for parcel in waiting:
                assert parcel.settlement is not None
                self._accept(mailbox, parcel, parcel.settlement)

    def _not_loaded(self, mailbox: Mailbox, waiting: list[Parcel], failed: bool) -> None:
        link = mailbox.link
        if link is not None:
            self._unlink(mailbox)
            if failed:
                link.unavailable()
            else:
                link.ended()
        self._drop(mailbox)
        for parcel in waiting:
            settlement = parcel.settlement
            assert settlement is not None
            settlement.failed = settlement.failed or failed
            self._settle(settlement, parcel.index, STATUS_BUSY if failed else STATUS_GONE)

    # ------------------------------------------------------------ one link

    def _begin_delivery(self, mailbox: Mailbox, link: Link) -> None:
        mailbox.caught_up_at = mailbox.top
        mailbox.cursor = mailbox.forgotten if mailbox.envelopes else mailbox.top
        self._pump(mailbox)

    def _pump(self, mailbox: Mailbox) -> None:
        """Go on handing over what is stored, as far as the window has room."""
        link = mailbox.link
        if link is None or mailbox.fetching:
            return
        if mailbox.caught_up_at is not None and mailbox.cursor >= mailbox.caught_up_at:
            mailbox.caught_up_at = None
            link.caught_up(mailbox.delivered)
        if mailbox.cursor >= mailbox.settled or not self._is_half_empty(mailbox):
            return
        mailbox.fetching = True
        attached, settled = mailbox.attached, mailbox.settled
        self._store.fetch(
            mailbox.queue,
            mailbox.cursor,
            self._settings.window_envelopes - len(mailbox.flights),
            self._settings.window_bytes - mailbox.flying_bytes,
            lambda envelopes, more: self._fetched(mailbox, attached, settled, envelopes, more),
        )

    def _fetched(
        self, mailbox: Mailbox, attached: int, settled: int, envelopes: list[StoredEnvelope] | None, more: bool
    ) -> None:
        link = mailbox.link
        if link is None or mailbox.attached != attached:
            return
        mailbox.fetching = False
        if envelopes is None:
            self._unlink(mailbox)
            link.unavailable()
            return
        for sequence, serial, body in envelopes:
            parcel = Parcel(serial, body, None, 0)
            parcel.sequence = mailbox.cursor = sequence
            self._fly(mailbox, link, parcel)
            parcel.body = b""
        if not more and mailbox.cursor < settled:
            mailbox.cursor = settled
        if not more and mailbox.top == settled and not mailbox.flights:
            self._empty(mailbox)
        self._pump(mailbox)

    def _unlink(self, mailbox: Mailbox) -> None:
        link = mailbox.link
        assert link is not None
        if mailbox.live:
            self._store_live(mailbox, mailbox.delivered)
        del self._links[link]
        mailbox.link = None
        mailbox.attached += 1
        mailbox.fetching = False
        mailbox.caught_up_at = None
        mailbox.cursor = mailbox.delivered = mailbox.flying_bytes = 0
        mailbox.flights = _NO_FLIGHTS
        mailbox.slow = False

    def _end(self, mailbox: Mailbox) -> None:
        mailbox.gone = True
        for parcel in mailbox.flights:
            settlement = parcel.settlement
            if parcel.live and settlement is not None:
                parcel.live = False
                parcel.settlement = None
                mailbox.live -= 1
                self._live_bytes -= parcel.size
                self._settle(settlement, parcel.index, STATUS_GONE)
        link = mailbox.link
        if link is not None:
            self._unlink(mailbox)
            link.ended()
        if not mailbox.loading:
            self._drop(mailbox)

    def _drop(self, mailbox: Mailbox) -> None:
        if self._mailboxes.get(mailbox.id) is mailbox:
            del self._mailboxes[mailbox.id]
        if self._by_queue.get(mailbox.queue) is mailbox:
            del self._by_queue[mailbox.queue]

    def _forget_idle(self) -> None:
        """Make room: forget the idle mailboxes that were looked up first, a tenth of what may be remembered."""
        idle = [mailbox for mailbox in self._mailboxes.values() if mailbox.idle]
        for mailbox in idle[: self._settings.remembered // 10 + 1]:
            self._drop(mailbox)
