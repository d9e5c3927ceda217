"""The bench can find what it looks for, and writes nothing down then. What it measures is its own affair."""

import asyncio
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as bench
from bench import report
from bench.scenarios import Place, came, told_again

CRASH_AT = 100.0


def results(*, failed: tuple[str, ...] = (), **found: float) -> dict[str, Any]:
    """The results of one run of the storm."""
    return {"checks": report.checks({"storm": [found]}), "failed": list(failed)}


def test_results_with_nothing_wrong_may_be_written_down() -> None:
    assert report.broken(results(kept=1000, lost=0, twice=0, told_again=12, hintless=0, refused_while_down=5)) == ""


@pytest.mark.parametrize("name", report.ZERO)
def test_results_in_which_something_is_wrong_are_not_written_down(name: str) -> None:
    said = report.broken(results(**{name: 3}))
    assert said == f"Nothing is written down, because there were 3 {report.ZERO[name]}."


def test_results_with_a_run_that_failed_are_not_written_down() -> None:
    assert "1 runs that failed (storm 2: TimeoutError: x)" in report.broken(
        results(failed=("storm 2: TimeoutError: x",))
    )


@pytest.mark.parametrize("lost", [0, 1])
def test_a_bench_that_lost_something_says_so_and_ends_with_1(
    lost: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def core(place: Place) -> dict[str, Any]:
        return {"protect_ms": 1.0, "unprotect_ms": 1.0, "lost": lost}

    written: list[dict[str, Any]] = []
    monkeypatch.setitem(bench.SCENARIOS, "core", core)
    monkeypatch.setattr(report, "write", written.append)
    options = Namespace(quick=False, only="core", runs=1, clients=None, report=True, add=False)
    assert bench.run(options, tmp_path) == lost
    assert len(written) == 1 - lost
    assert ("Nothing is written down, because there were 1 messages lost" in capsys.readouterr().out) == bool(lost)


def test_a_bench_of_which_a_run_failed_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def core(place: Place) -> dict[str, Any]:
        raise TimeoutError("the last answers took more than 20 s")

    monkeypatch.setitem(bench.SCENARIOS, "core", core)
    monkeypatch.setattr(report, "write", pytest.fail)
    assert bench.run(Namespace(quick=False, only="core", runs=1, clients=None, report=True, add=False), tmp_path) == 1


def test_what_does_not_come_is_waited_for_and_not_raised() -> None:
    assert asyncio.run(came(lambda: True))
    assert not asyncio.run(came(lambda: False, 0.02))


def test_told_once_or_again_because_the_acknowledgement_died_with_the_server_is_right() -> None:
    before, after = object(), object()
    assert told_again({b"1": [(before, 99.0)], b"2": [(before, 99.9), (after, 101.0)]}, CRASH_AT) == (0, 1)


def test_told_again_long_after_its_acknowledgement_or_on_one_connection_is_twice() -> None:
    before, after = object(), object()
    assert told_again({b"1": [(before, 99.0), (after, 101.0)]}, CRASH_AT) == (1, 0)
    assert told_again({b"1": [(after, 101.0), (after, 101.1)]}, CRASH_AT) == (1, 0)


def test_results_from_before_something_was_measured_are_shown_without_it() -> None:
    run = {"kept": 7, "lost": 0, "hintless": 0}
    assert "told again" not in report.checked(report.checks({"storm": [run]}))[0]
    assert (
        "long acknowledged: 0 (and 4 "
        in report.checked(report.checks({"storm": [run | {"twice": 0, "told_again": 4}]}))[0]
    )


def test_how_busy_the_generator_was_is_told_apart_where_the_rate_is_its_own() -> None:
    found = report.checks({"online": [{"generator_busy": 0.4}], "logins": [{"generator_busy": 0.97}]})
    assert (found["generator_busy_highest"], found["generator_busy_highest_its_rate"]) == (0.4, 0.97)
