"""The guarded clock: nothing that a wall clock does makes anything expire early."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from taube.server import clock
from taube.server.clock import DAY_MS, HOUR_MS
from tests.spec import spec

NOW = 1_800_000_000_000
YEAR = 365 * DAY_MS


@spec("DEL-20")
def test_it_advances_with_the_monotonic_clock_whatever_the_wall_clock_does() -> None:
    running = clock.start(None, NOW, 50.0)
    assert running.now_ms(60.0) == NOW + 10_000
    for wall in (NOW - YEAR, NOW + YEAR):
        assert clock.check(running, wall, 60.0).now_ms(60.0) == NOW + 10_000


@spec("DEL-20")
def test_at_a_start_it_follows_the_wall_clock_by_a_day_at_most() -> None:
    stored = clock.save(clock.start(None, NOW, 0.0), 0.0)
    for ahead, followed, pauses in (
        (HOUR_MS, HOUR_MS, False),
        (DAY_MS, DAY_MS, False),
        (YEAR, DAY_MS, True),
        (-YEAR, 0, False),
    ):
        started = clock.start(stored, NOW + ahead, 7.0)
        assert started.now_ms(7.0) == NOW + followed
        assert started.may_expire(7.0) is not pauses
        assert started.may_expire(7.0 + clock.PAUSE_S)


@spec("DEL-20")
def test_a_jump_ahead_while_running_pauses_expiry_for_a_day() -> None:
    running = clock.start(None, NOW, 0.0)
    jumped = clock.check(running, NOW + YEAR, 0.0)
    assert not jumped.may_expire(0.0)
    again = clock.check(jumped, NOW + YEAR + 60_000, 60.0)
    assert again.paused_until == jumped.paused_until, "the same jump pauses once"
    assert again.may_expire(clock.PAUSE_S)


@given(walls=st.lists(st.integers(0, NOW * 2), min_size=1, max_size=10), ran=st.integers(0, 10_000))
def test_over_any_restarts_it_never_runs_ahead_by_more_than_a_day_a_start(walls: list[int], ran: int) -> None:
    state = clock.start(None, NOW, 0.0)
    most = NOW
    for wall in walls:
        before = state.now_ms(float(ran))
        state = clock.start(clock.save(state, float(ran)), wall, 0.0)
        most += ran * 1000 + DAY_MS
        assert before <= state.now_ms(0.0) <= most


@given(days=st.integers(0, 60_000))
def test_months_are_those_of_the_calendar(days: int) -> None:
    date = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=days)
    assert clock.month_of(days * DAY_MS + 5) == date.year * 100 + date.month
