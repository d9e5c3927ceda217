"""Wakes the devices that are due: reads their endpoint, lets it be pushed to, and stores what became of it.

One task owns the pushes under way, `at_once` at most. Who is due is decided by `services.push`, how it is done by
`providers.web_push`; nothing here says which device it was. Source: docs/protocol/delivery.md, WAK-02 to WAK-06.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from taube.server.ops.observe import Metric
from taube.server.ops.workers import written
from taube.server.ports import MailboxId, Metrics, PushRow, QueueNumber, Tables, TableStore
from taube.server.services.push import Answer, Wakeups, host_of
from taube.wire.errors import INTERNAL, PUSH_REFUSED, WireError

METRICS: Final = (
    Metric(
        "pushes",
        "counter",
        "pushes",
        "Pushes, by what the push service answered.",
        tuple(each.value for each in Answer),
    ),
    Metric("waking", "gauge", "devices", "Devices that are to be woken, or were and have not come."),
)
"""What the waking reports."""

SWEEP_S: Final = 60.0
"""At the latest after so long the loop looks again."""


class Waking:
    """The loop that wakes devices."""

    def __init__(
        self,
        wakeups: Wakeups,
        *,
        store: TableStore,
        push: Callable[[PushRow], Awaitable[tuple[Answer, float]]],
        leads_inside: Callable[[PushRow], Awaitable[bool]],
        waits: Callable[[QueueNumber], bool],
        ended: Callable[[MailboxId], None],
        monotonic: Callable[[], float],
        metrics: Metrics,
        bug: Callable[[BaseException], None],
    ) -> None:
        """*leads_inside* bounds how many wait for it. *waits*: whether something still waits for that device. *ended*:
        its mailbox has no endpoint any more. *bug* is told of errors that nobody foresaw: they end one push, and no
        other."""
        self._wakeups = wakeups
        self._store = store
        self._push = push
        self._leads_inside = leads_inside
        self._waits = waits
        self._ended = ended
        self._monotonic = monotonic
        self._metrics = metrics
        self._bug = bug
        self._swept = float("-inf")
        self._news = asyncio.Event()
        self._checks: set[asyncio.Task[None]] = set()

    def call(self, queue: QueueNumber, is_connected: bool) -> None:
        """Something urgent waits for that device."""
        self._wakeups.call(queue, self._monotonic(), is_connected)
        self._news.set()

    def check(self, row: PushRow, done: Callable[[WireError | None], None]) -> None:
        """Tell *done*, later, whether a device may be woken by *row*: None, PUSH_REFUSED or INTERNAL."""
        task = asyncio.get_running_loop().create_task(self._check(row, done))
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    async def _check(self, row: PushRow, done: Callable[[WireError | None], None]) -> None:
        try:
            inside = await self._leads_inside(row)
        except WireError as error:
            done(error)
        except Exception as error:
            self._bug(error)
            done(WireError(INTERNAL, retry_after_ms=1_000))
        else:
            done(WireError(PUSH_REFUSED, detail="The endpoint leads into a private network.") if inside else None)

    async def run(self) -> None:
        """Until cancelled; the caller owns the task."""
        try:
            await self._run()
        finally:
            for task in list(self._checks):
                task.cancel()
            await asyncio.gather(*self._checks, return_exceptions=True)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as pushes:
            while True:
                self._news.clear()
                now = self._monotonic()
                if now - self._swept >= SWEEP_S:
                    self._swept = now
                    self._wakeups.sweep(now)
                for queue in self._wakeups.due(now):
                    pushes.create_task(self._wake(queue))
                self._metrics.gauge("waking", self._wakeups.remembered())
                due = self._wakeups.next_due()
                wait_s = SWEEP_S if due is None else max(0.0, min(due - self._monotonic(), SWEEP_S))
                try:
                    async with asyncio.timeout(wait_s):
                        await self._news.wait()
                except TimeoutError:
                    pass

    async def _wake(self, queue: QueueNumber) -> None:
        try:
            if not self._waits(queue):
                self._wakeups.skipped(queue)
                return
            outcome = await self._try(queue)
            if outcome is None:
                return
            answer, after_s = outcome
            self._wakeups.answered(queue, answer, self._monotonic(), after_s)
            self._metrics.count("pushes", reason=answer.value)
        except BaseException:
            self._wakeups.skipped(queue)
            raise
        finally:
            self._news.set()

    async def _try(self, queue: QueueNumber) -> tuple[Answer, float] | None:
        """What became of its push; None if it has to wait for its turn at its push service."""
        try:
            row = await written(self._store, lambda tables: tables.push(queue))
            if row is None:
                return Answer.GONE, 0.0
            if not self._wakeups.begins(queue, host_of(row)):
                return None
            answer, after_s = await self._push(row)
            if answer is Answer.GONE or answer is Answer.REFUSED:
                mailbox = await written(self._store, lambda tables: forget(tables, queue, row))
                if mailbox is not None:
                    self._ended(mailbox)
            return answer, after_s
        except WireError:
            return Answer.LATER, 0.0
        except Exception as error:
            self._bug(error)
            return Answer.LATER, 0.0


def forget(tables: Tables, queue: QueueNumber, row: PushRow) -> MailboxId | None:
    """Forget an endpoint that is gone, unless the device has given another since; its mailbox then."""
    device = tables.device_of(queue)
    if device is None or tables.push(queue) != row:
        return None
    tables.set_push(queue, None)
    return device.mailbox
