"""Background loops: expiry, the guarded clock, sweeping limits, noticing what another process changed.

One task owns them all; each round has a deadline, a failed round is reported and the next one comes anyway. The loops
only say when; what expires is decided by the services, by the guarded clock. Source: docs/protocol/delivery.md,
DEL-18, DEL-20.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from taube.server.clock import DAY_MS, HOUR_MS, TOLERANCE_MS, GuardedClock, check, hour_of, month_of
from taube.server.limits import Limits
from taube.server.ops.observe import Metric
from taube.server.ports import Metrics, QueueNumber, Store, Tables, TableStore
from taube.server.services import accounts, gates, identity, keys, registration
from taube.server.services.mailboxes import ENVELOPE_DAYS, Mailboxes
from taube.wire.errors import WireError
from taube.wire.messages import STATUS_BUSY, STATUS_FULL, STATUS_GONE

T = TypeVar("T")

METRICS: Final = (
    Metric(
        "expired",
        "counter",
        "entries",
        "What was deleted because its time was over.",
        ("envelope", "gate", "key_package", "invitation", "account", "blob"),
    ),
    Metric(
        "kept",
        "counter",
        "envelopes",
        "Envelopes answered kept: acknowledged at once by the device, or durable.",
        ("live", "stored"),
    ),
    Metric(
        "envelopes_refused", "counter", "envelopes", "Envelopes not kept, by their answer.", ("gone", "full", "busy")
    ),
    Metric("shed", "counter", "envelopes", "Ephemeral envelopes dropped under load, before anything else is refused."),
    Metric("commit_seconds", "histogram", "seconds", "How long a group commit of the store took."),
    Metric(
        "commit_rows",
        "histogram",
        "envelopes",
        "Envelopes that one group commit made durable.",
        buckets=(0, 1, 4, 16, 64, 256, 1024, 4096),
    ),
    Metric("backlog_bytes", "gauge", "bytes", "Bodies handed to the store and not yet durable."),
    Metric("backlog_jobs", "gauge", "commands", "Commands that wait for the writer of the store."),
    Metric("envelopes_loading", "gauge", "envelopes", "Envelopes that wait until their mailbox is looked up."),
    Metric("live_bytes", "gauge", "bytes", "Bodies delivered to devices and neither acknowledged nor durable."),
    Metric("mailboxes_remembered", "gauge", "mailboxes", "Mailboxes whose state is in memory."),
    Metric("limit_buckets", "gauge", "buckets", "Limits in memory that are partly used."),
)
"""What the store, the mailboxes and the loops report."""

EXPIRY_CHUNK: Final = 2_000
"""Envelopes that one transaction of the expiry deletes at most, so that no sender waits long behind it."""


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How often the loops run."""

    watch_s: float = 5.0
    """Figures are brought up to date."""
    sweep_s: float = 60.0
    """Limits forget full buckets: together with their nine minutes, the ten minutes promised for network addresses."""
    expiry_s: float = 3600.0
    """Everything that has expired is deleted."""
    first_expiry_s: float = 60.0
    """The first expiry after a start, so that a server which is often restarted expires too."""
    clock_s: float = 300.0
    """The guarded clock is compared with the wall clock and saved."""
    round_s: float = 300.0
    """Deadline of one round of any loop but the next."""
    sweep_blobs_s: float = 21_600.0
    """Deadline of one sweep of the blobs, of which there may be millions; until the first is over, none is begun."""


class GuardedTime:
    """A `ports.Clock` that holds the guarded clock's present state. Made by app from `identity.start_clock`."""

    def __init__(self, guarded: GuardedClock, monotonic: Callable[[], float], wall_ms: Callable[[], int]) -> None:
        self.guarded = guarded
        self.monotonic = monotonic
        self.wall_ms = wall_ms

    def guarded_ms(self) -> int:
        return self.guarded.now_ms(self.monotonic())

    def hour(self) -> int:
        """The guarded hour, for `Mailboxes`."""
        return hour_of(self.guarded.now_ms(self.monotonic()))

    def compare(self) -> bool:
        """Compare with the wall clock; True when expiry was just paused."""
        now = self.monotonic()
        before = self.guarded
        self.guarded = check(before, self.wall_ms(), now)
        return self.guarded.paused_until > before.paused_until

    def may_expire(self) -> bool:
        """Whether expiry may run now."""
        return self.guarded.may_expire(self.monotonic())


def written(store: TableStore, job: Callable[[Tables], T]) -> Awaitable[T]:
    """Await a job of the store, for what is not the hot path. Raises what the store reports. Cancelling does not undo
    it.
    """
    waiting = asyncio.get_running_loop().create_future()

    def done(result: Any, error: WireError | None) -> None:
        if waiting.done():
            return
        if error is None:
            waiting.set_result(result)
        else:
            waiting.set_exception(error)

    store.write(job, done)
    return cast(Awaitable[T], waiting)


class Workers:
    """The loops of one server."""

    def __init__(
        self,
        *,
        store: Store,
        mailboxes: Mailboxes,
        limits: Limits,
        time: GuardedTime,
        metrics: Metrics,
        unused_months: int = 12,
        sweep_blobs: Callable[[bool], Awaitable[int]] | None = None,
        report: Callable[[str], None] = lambda sentence: None,
        settings: WorkerSettings | None = None,
    ) -> None:
        """*report*: one sentence for the operator's log. *unused_months* 0: accounts are kept however long unused.

        *sweep_blobs* is told whether blobs may expire, removes those that are over and gives how many; it may raise
        OSError.
        """
        self._store = store
        self._mailboxes = mailboxes
        self._limits = limits
        self._time: GuardedTime = time
        self._metrics = metrics
        self._unused_months = unused_months
        self._sweep_blobs = sweep_blobs
        self._report = report
        self._settings = settings or WorkerSettings()
        self._counted: dict[tuple[str, str], int] = {}
        self._was_paused = False

    async def run(self) -> None:
        """Run until cancelled. The caller owns the task and awaits it."""
        settings = self._settings
        self.tell_pause()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._every(settings.watch_s, "watching", self.watch))
            group.create_task(self._every(settings.sweep_s, "sweeping limits", self.sweep))
            group.create_task(self._every(settings.clock_s, "the guarded clock", self.mind_clock))
            group.create_task(self._every(settings.expiry_s, "expiry", self.expire, settings.first_expiry_s))
            group.create_task(
                self._every(settings.expiry_s, "the sweep of blobs", self.expire_blobs, 0.0, settings.sweep_blobs_s)
            )

    async def _every(
        self,
        pause_s: float,
        what: str,
        round: Callable[[], Awaitable[None]],
        first_s: float | None = None,
        most_s: float | None = None,
    ) -> None:
        await asyncio.sleep(pause_s if first_s is None else first_s)
        while True:
            try:
                async with asyncio.timeout(most_s or self._settings.round_s):
                    await round()
            except (WireError, TimeoutError, OSError) as error:
                self._report(f"A round of {what} failed and will be tried again: {error or 'it took too long'}")
            await asyncio.sleep(pause_s)

    async def watch(self) -> None:
        """Bring counters and gauges up to date, without a call per envelope."""
        mailboxes, metrics = self._mailboxes, self._metrics
        figures = {
            ("kept", "live"): mailboxes.kept_live,
            ("kept", "stored"): mailboxes.kept_stored,
            ("shed", ""): mailboxes.shed,
            ("envelopes_refused", "gone"): mailboxes.refused[STATUS_GONE],
            ("envelopes_refused", "full"): mailboxes.refused[STATUS_FULL],
            ("envelopes_refused", "busy"): mailboxes.refused[STATUS_BUSY],
        }
        for (name, reason), figure in figures.items():
            metrics.count(name, figure - self._counted.get((name, reason), 0), reason)
            self._counted[name, reason] = figure
        counts = mailboxes.counts()
        metrics.gauge("backlog_bytes", self._store.backlog_bytes())
        metrics.gauge("backlog_jobs", self._store.backlog_jobs())
        metrics.gauge("envelopes_loading", counts["loading"])
        metrics.gauge("live_bytes", counts["live_bytes"])
        metrics.gauge("mailboxes_remembered", counts["remembered"])
        metrics.gauge("limit_buckets", self._limits.remembered())
        self.compare_clock()

    async def sweep(self) -> None:
        """Forget full buckets."""
        self._limits.sweep(self._time.monotonic())

    def tell_pause(self) -> None:
        """At a start: tell the operator if the wall clock is further than could be followed."""
        self._was_paused = not self._time.may_expire()
        if self._was_paused:
            self._report(
                f"The clock of this machine is about {_hours(self._time.guarded.ahead_ms)} ahead of the server's own,"
                " which follows by a day at a start: it is wrong, or no server ran for long. Nothing expires for a day:"
                " check the clock."
            )

    def compare_clock(self) -> None:
        """Compare the guarded clock with the wall clock; tell the operator of a jump, and when a pause is over."""
        before_ms = self._time.guarded.ahead_ms
        is_new = self._time.compare()
        ahead_ms, is_paused = self._time.guarded.ahead_ms, not self._time.may_expire()
        if is_new:
            self._report(
                f"The clock of this machine jumped ahead by about {_hours(ahead_ms - before_ms)}."
                " Nothing expires for a day: check the clock."
            )
        elif before_ms - ahead_ms > TOLERANCE_MS:
            side = "ahead of" if ahead_ms > 0 else "behind"
            now = "agrees with" if abs(ahead_ms) <= TOLERANCE_MS else f"is about {_hours(abs(ahead_ms))} {side}"
            self._report(
                f"The clock of this machine went back by about {_hours(before_ms - ahead_ms)} and {now} the server's"
                " own, which never goes back. If it is right now, nothing has to be done."
            )
        if self._was_paused and not is_paused:
            self._report("A day has passed since the clock jumped: what is over its time expires again.")
        self._was_paused = is_paused

    async def mind_clock(self) -> None:
        """Compare the guarded clock with the wall clock, and save it."""
        self.compare_clock()
        guarded, monotonic = self._time.guarded, self._time.monotonic()
        await written(self._store, lambda tables: identity.save_clock(tables, guarded, monotonic))

    async def expire(self) -> None:
        """Delete what has expired by the guarded clock, in small transactions."""
        if not self._time.may_expire():
            return
        now_ms = self._time.guarded_ms()
        before_hour = hour_of(now_ms - ENVELOPE_DAYS * DAY_MS)
        touched: set[QueueNumber] = set()
        while gone := await written(self._store, lambda tables: tables.expire_envelopes(before_hour, EXPIRY_CHUNK)):
            touched.update(queue for queue, _ in gone)
            self._metrics.count("expired", sum(count for _, count in gone), reason="envelope")
        self._mailboxes.stale(touched)
        for reason, job in (
            ("gate", gates.expire),
            ("key_package", keys.expire),
            ("invitation", registration.expire),
        ):
            count = await written(self._store, lambda tables, job=job: job(tables, now_ms))  # type: ignore[misc]
            self._metrics.count("expired", count, reason=reason)
        if self._unused_months:
            before = months_before(month_of(now_ms), self._unused_months)
            while ended := await written(self._store, lambda tables: accounts.delete_unused(tables, before)):
                self._mailboxes.ended(ended)
                self._metrics.count("expired", len(ended), reason="account")

    async def expire_blobs(self) -> None:
        """Delete blobs that are over, and uploads that were left; count the others. Source: BLB-06."""
        if self._sweep_blobs is not None:
            self._metrics.count("expired", await self._sweep_blobs(self._time.may_expire()), reason="blob")

    def changed_behind(self) -> None:
        """Another process wrote the store (`foreign` of the store): look again at everything remembered or live."""
        self._mailboxes.stale()
        live = self._mailboxes.live_queues()

        def missing(tables: Tables) -> list[QueueNumber]:
            return [queue for queue in live if tables.device_of(queue) is None]

        self._store.read(missing, lambda ended, error: self._mailboxes.ended(ended) if error is None else None)


def _hours(ms: int) -> str:
    hours = round(ms / HOUR_MS)
    return "1 hour" if hours == 1 else f"{hours} hours"


def months_before(month: int, months: int) -> int:
    """The month (year * 100 + month) so many months before another."""
    index = month // 100 * 12 + month % 100 - 1 - months
    return index // 12 * 100 + index % 12 + 1
