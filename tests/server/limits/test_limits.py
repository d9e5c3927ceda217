"""Limits: arithmetic, scopes, bounds of memory, and the promise about network addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taube.server.limits import LIMITS, Limit, Limits, LimitSettings, Scope, charge
from taube.wire.errors import RATE_LIMITED, WireError
from tests.spec import spec

TEN_A_SECOND = Limit("knock", Scope.SOURCE, 5, 10)


def limits(*rows: Limit, keys: int = 100) -> Limits:
    return Limits(LimitSettings(rows, keys))


def test_a_burst_is_allowed_then_the_rate() -> None:
    full_at, waits = 0.0, []
    for _ in range(7):
        full_at, wait = charge(full_at, TEN_A_SECOND, 100.0)
        waits.append(wait)
    assert waits == [0.0] * 5 + [pytest.approx(0.1)] * 2
    assert charge(full_at, TEN_A_SECOND, 100.1)[1] == 0.0


@given(steps=st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 20)), max_size=60))
def test_never_more_than_burst_and_rate_and_the_wait_that_is_told_is_enough(steps: list[tuple[float, float]]) -> None:
    now = begin = 1000.0
    full_at = taken = 0.0
    for pause, amount in steps:
        now += pause
        full_at, wait = charge(full_at, TEN_A_SECOND, now, amount)
        if wait:
            assert charge(full_at, TEN_A_SECOND, now + wait + 1e-6, amount)[1] == 0.0
        else:
            taken += min(amount, TEN_A_SECOND.burst)
        assert taken <= TEN_A_SECOND.burst + (now - begin) * TEN_A_SECOND.per_s + 1e-3


@spec("DEL-24")
def test_what_is_above_a_limit_is_refused_with_the_time_to_wait() -> None:
    table = limits(TEN_A_SECOND)
    for _ in range(5):
        table.check("knock", 1.0, source="192.0.2.1")
    with pytest.raises(WireError) as refused:
        table.check("knock", 1.0, source="192.0.2.1")
    assert refused.value.kind is RATE_LIMITED
    assert 100 <= refused.value.retry_after_ms <= 101
    table.check("knock", 1.0, source="192.0.2.2")
    table.check("knock", 1.101, source="192.0.2.1")


def test_an_operation_is_charged_in_every_scope_or_in_none() -> None:
    table = limits(Limit("knock", Scope.CONNECTION, 3, 1), Limit("knock", Scope.SERIAL, 1, 1))
    connection: dict[str, float] = {}
    assert table.spend("knock", 0.0, connection=connection, serial=b"a") == 0.0
    for _ in range(5):
        assert table.spend("knock", 0.0, connection=connection, serial=b"a") > 0
    assert table.spend("knock", 0.0, connection=connection, serial=b"b") == 0.0
    assert table.spend("knock", 0.0, connection=connection, serial=b"c") == 0.0
    assert table.spend("knock", 0.0, connection=connection, serial=b"d") > 0


def test_loopback_is_no_source() -> None:
    table = limits(TEN_A_SECOND)
    assert [table.spend("knock", 0.0, source=None) for _ in range(100)] == [0.0] * 100


def test_more_than_the_burst_at_once_is_charged_as_the_burst() -> None:
    table = limits(TEN_A_SECOND)
    assert table.spend("knock", 0.0, 1000, source="a") == 0.0
    assert table.spend("knock", 0.0, source="a") > 0


@spec("DEL-24")
def test_a_source_is_forgotten_within_ten_minutes() -> None:
    table = Limits()
    operations = {limit.operation for limit in LIMITS if limit.scope is Scope.SOURCE}
    for operation in operations:
        for _ in range(1_000):
            table.spend(operation, 0.0, source="192.0.2.1")
    assert table.remembered() > 0
    for minute in range(1, 11):
        table.sweep(minute * 60.0 - 0.001)
    assert not any(
        "192.0.2.1" in buckets
        for rows in table._rows.values()
        for limit, buckets in rows
        if limit.scope is Scope.SOURCE
    )


def test_a_limit_that_would_remember_sources_longer_cannot_be_set() -> None:
    with pytest.raises(ValueError, match="ten minutes"):
        limits(Limit("knock", Scope.SOURCE, 100, 0.01))


def test_a_flood_of_new_keys_shares_one_bucket_and_memory_stays_bounded() -> None:
    table = limits(TEN_A_SECOND, keys=10)
    results = [table.spend("knock", 0.0, source=place) for place in range(1_000)]
    assert table.remembered() <= 11
    assert results[:10] == [0.0] * 10
    assert sum(1 for wait in results if not wait) == 15
    assert table.spend("knock", 100.0, source="later") == 0.0
    assert table.remembered() == 1


def test_every_operation_names_its_limits_once_per_scope() -> None:
    pairs = [(limit.operation, limit.scope) for limit in LIMITS]
    assert len(pairs) == len(set(pairs))
    assert all(limit.burst >= 1 and limit.per_s > 0 for limit in LIMITS)
    with pytest.raises(KeyError):
        Limits().spend("unheard of", 0.0)


def test_the_largest_send_fits_its_burst() -> None:
    bursts = {(limit.operation, limit.scope): limit.burst for limit in LIMITS}
    assert bursts["send", Scope.CONNECTION] >= 1024


@spec("IDN-24")
def test_packages_of_one_serial_cannot_be_drained() -> None:
    table = Limits()
    claims = [table.spend("claim key package", float(second), serial=b"serial--") for second in range(3_600)]
    assert claims.count(0.0) <= 25
    assert table.spend("claim key package", 3_600.0, serial=b"another-") == 0.0
