"""Background loops: what expires when, and that a jumping clock expires nothing."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from taube.server import clock
from taube.server.clock import DAY_MS
from taube.server.limits import Limits
from taube.server.ops.workers import GuardedTime, Workers, months_before
from taube.server.ports import AccountRow, EnvelopeRow, MailboxId, QueueNumber
from taube.server.services import gates
from taube.server.services.mailboxes import Mailboxes, MailboxSettings
from taube.server.stores.memory import MemoryStore
from taube.wire.messages import AccountId, DeviceId, GateName, Serial
from tests.spec import spec

START = 20_000 * DAY_MS


class NoMetrics:
    def __init__(self) -> None:
        self.counted: dict[str, float] = {}

    def count(self, name: str, amount: float = 1, reason: str = "") -> None:
        self.counted[reason] = self.counted.get(reason, 0) + amount

    def gauge(self, name: str, value: float) -> None: ...
    def observe(self, name: str, value: float) -> None: ...


class House:
    """Workers over the memory store, with hand-driven clocks."""

    def __init__(self) -> None:
        self.now, self.wall = 0.0, START
        self.store = MemoryStore(lambda call: asyncio.get_running_loop().call_soon(call))
        self.time = GuardedTime(clock.start(None, START, 0.0), lambda: self.now, lambda: self.wall)
        self.metrics = NoMetrics()
        self.said: list[str] = []
        self.workers = Workers(
            store=self.store,
            mailboxes=Mailboxes(MailboxSettings(), self.store, self.time.hour, lambda: None),
            limits=Limits(),
            time=self.time,
            metrics=self.metrics,
            report=self.said.append,
        )

    def fill(self) -> None:
        tables = self.store.tables
        account = AccountId(b"a" * 32)
        tables.add_account(AccountRow(account, b"", b"", 1, clock.month_of(START), clock.month_of(START)))
        row = tables.add_device(account, DeviceId(bytes(16)), bytes(32), MailboxId(bytes(16)))
        hour = clock.hour_of(self.time.guarded_ms())
        tables.envelopes[row.queue] = {1: EnvelopeRow(QueueNumber(row.queue), 1, Serial(bytes(8)), hour, b"x")}
        gates.claim(tables, GateName(bytes(32)), b"v", self.time.guarded_ms())

    def pass_days(self, days: float) -> None:
        self.now += days * 86_400
        self.wall += int(days * DAY_MS)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@spec("DEL-21", "GAT-04", "IDN-16")
def test_each_thing_expires_in_its_time() -> None:
    house = House()
    house.fill()
    for days, expected in ((29.9, {}), (0.2, {"envelope": 1}), (16.0, {"gate": 1}), (380.0, {"account": 1})):
        house.metrics.counted.clear()
        house.pass_days(days)
        run(house.workers.expire())
        assert {reason: count for reason, count in house.metrics.counted.items() if count} == expected
    assert not house.store.tables.accounts
    assert not house.store.tables.device_rows


@spec("DEL-20")
def test_a_clock_that_jumps_a_year_ahead_expires_nothing_and_is_reported() -> None:
    house = House()
    house.fill()
    house.wall += 365 * DAY_MS
    run(house.workers.mind_clock())
    run(house.workers.expire())
    house.pass_days(1.5)
    run(house.workers.mind_clock())
    run(house.workers.expire())
    assert house.store.tables.envelopes[1]
    assert house.store.tables.gates
    assert len(house.said) == 2
    assert "8760 hours" in house.said[0]
    assert "expires again" in house.said[1]


def test_a_jump_is_told_within_seconds_and_so_is_that_the_clock_was_set_right() -> None:
    house = House()
    run(house.workers.watch())
    assert house.said == []
    house.wall += 26 * clock.HOUR_MS
    for _ in range(2):
        run(house.workers.watch())
    [jumped] = house.said
    assert "jumped ahead by about 26 hours" in jumped
    house.wall -= 26 * clock.HOUR_MS
    for _ in range(2):
        run(house.workers.watch())
    [_, corrected] = house.said
    assert "went back by about 26 hours and agrees with the server's own" in corrected
    assert not house.time.may_expire()
    house.wall -= 26 * clock.HOUR_MS
    run(house.workers.watch())
    assert "is about 26 hours behind the server's own" in house.said[2]
    house.pass_days(1.1)
    for _ in range(2):
        run(house.workers.watch())
    assert len(house.said) == 4 and "expires again" in house.said[3]


@pytest.mark.parametrize(("ahead_ms", "is_told"), [(DAY_MS, False), (3 * DAY_MS, True), (-DAY_MS, False)])
def test_a_start_with_a_clock_that_is_ahead_is_told(ahead_ms: int, is_told: bool) -> None:
    house = House()
    stored = clock.save(clock.start(None, START, 0.0), 0.0)
    house.wall += ahead_ms
    house.time.guarded = clock.start(stored, house.wall, 0.0)
    house.workers.tell_pause()
    assert bool(house.said) == is_told
    assert not is_told or ("48 hours ahead" in house.said[0] and "Nothing expires for a day" in house.said[0])
    run(house.workers.watch())
    house.pass_days(1.1)
    run(house.workers.watch())
    assert len(house.said) == (2 if is_told else 0)


def test_months_are_counted_back_over_years() -> None:
    assert [months_before(202601, count) for count in (0, 1, 12, 25)] == [202601, 202512, 202501, 202312]
