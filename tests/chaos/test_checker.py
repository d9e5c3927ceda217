"""The checker finds what it is there to find, and nothing in a history that kept every promise."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import history
from tests.chaos.checker import Findings, check


def fact(kind: str, name: str, at: int, **more: Any) -> dict[str, Any]:
    return {"k": kind, "id": name, "t": at, **more}


def sent(name: str, at: int, seq: int, **more: Any) -> dict[str, Any]:
    return fact("send", name, at, **({"from": "a", "to": "b", "seq": seq, "try": 1, "on": "c1"} | more))


def good(name: str, seq: int, at: int) -> list[dict[str, Any]]:
    return [
        sent(name, at, seq),
        fact("arrive", name, at + 1, to="b"),
        fact("ack", name, at + 2, to="b"),
        fact("kept", name, at + 3),
    ]


def queued(name: str) -> list[dict[str, Any]]:
    return [fact("intent", name, 1, **{"from": "a", "to": "b", "seq": 1}), fact("queued", name, 2)]


def judged(*facts: dict[str, Any]) -> Findings:
    return check(facts)


def test_a_history_that_kept_every_promise_has_no_findings() -> None:
    found = check([*good("m1", 1, 10), *good("m2", 2, 20), *good("m3", 3, 30)])
    assert not found.broken
    assert (found.sent, found.kept, found.arrived) == (3, 3, 3)


def test_kept_and_never_arrived_is_lost() -> None:
    found = judged(sent("m1", 1, 1), fact("kept", "m1", 2))
    assert found.lost == ["m1"] and found.broken
    assert "lost 1 (such as m1)" in str(found)


def test_what_was_never_answered_may_be_missing() -> None:
    assert not judged(sent("m1", 1, 1)).broken


def test_what_an_account_has_in_its_outbox_must_arrive() -> None:
    assert not judged(*queued("m1")[:1]).broken
    assert judged(*queued("m1")).lost == ["m1"]


def test_shown_twice_in_one_life_is_found() -> None:
    shown = [fact("shown", "m1", at, to="b", life="x", batch=at) for at in (2, 3)]
    assert judged(*queued("m1"), *shown).twice == ["m1"]


def test_shown_again_after_a_death_is_allowed_for_the_last_batch_only() -> None:
    both = [*queued("m1"), *queued("m2")]
    first = [fact("shown", "m1", 2, to="b", life="x", batch=1), fact("shown", "m2", 3, to="b", life="x", batch=2)]
    again = fact("shown", "m2", 4, to="b", life="y", batch=1)
    assert not judged(*both, *first, again).broken
    too_far = fact("shown", "m1", 5, to="b", life="y", batch=2)
    assert judged(*both, *first, again, too_far).twice == ["m1"]


def test_kept_before_the_next_was_sent_and_yet_overtaken_is_reordered() -> None:
    facts = [
        sent("m1", 1, 1, **{"try": 2}),
        sent("m1", 2, 1),
        fact("kept", "m1", 3),
        sent("m2", 4, 2),
        fact("arrive", "m2", 5, to="b"),
        fact("arrive", "m1", 6, to="b"),
        fact("kept", "m2", 7),
    ]
    assert check(facts).reordered == [("m1", "m2")]


def test_pipelined_on_one_connection_and_overtaken_is_reordered_unless_one_was_tried_again() -> None:
    arrivals = [fact("arrive", "m2", 5, to="b"), fact("arrive", "m1", 6, to="b")]
    kept = [fact("kept", "m1", 7), fact("kept", "m2", 7)]
    assert check([sent("m1", 1, 1), sent("m2", 2, 2), *arrivals, *kept]).reordered == [("m1", "m2")]
    retried = [sent("m1", 1, 1), sent("m2", 2, 2), sent("m1", 3, 1)]
    assert not check([*retried, *arrivals, *kept]).broken


def test_an_inversion_behind_an_allowed_one_is_found() -> None:
    facts = [
        sent("m0", 1, 0),
        sent("m0", 2, 0),
        *(sent(f"m{n}", 2 + n, n) for n in (1, 2)),
        *(fact("arrive", name, 10 + at, to="b") for at, name in enumerate(("m2", "m1", "m0"))),
        *(fact("kept", name, 20) for name in ("m0", "m1", "m2")),
    ]
    assert check(facts).reordered == [("m1", "m2")]


def test_kept_before_any_sync_or_acknowledgement_is_early() -> None:
    facts = [sent("m1", 10, 1), fact("kept", "m1", 20), fact("arrive", "m1", 30, to="b"), fact("ack", "m1", 31)]
    assert check([{"k": "sync", "t": 15, "began": 9}, *facts]).early == ["m1"], "that sync began before the send"
    assert check([{"k": "sync", "t": 25, "began": 11}, *facts]).early == ["m1"], "that sync ended too late"
    assert not check([{"k": "sync", "t": 15, "began": 11}, *facts]).broken
    assert not check([{"k": "sync", "t": 1, "began": 0}, *good("m1", 1, 10)]).broken, "it was acknowledged"


def test_kept_after_a_retry_is_not_excused_by_what_held_an_earlier_try() -> None:
    facts = [sent("m1", 10, 1), sent("m1", 20, 1), fact("kept", "m1", 30)]
    later = [fact("arrive", "m1", 40, to="b")]
    assert check([{"k": "sync", "t": 15, "began": 11}, *facts, *later]).early == ["m1"], "that sync held the first try"
    assert check([{"k": "sync", "t": 1, "began": 0}, *facts, fact("ack", "m1", 15), *later]).early == ["m1"]
    assert not check([{"k": "sync", "t": 25, "began": 21}, *facts, *later]).broken
    assert not check([{"k": "sync", "t": 1, "began": 0}, *facts, fact("ack", "m1", 25), *later]).broken
    again = [fact("ack", "m1", 15), fact("ack", "m1", 25)]
    assert not check([{"k": "sync", "t": 1, "began": 0}, *facts, *again, *later]).broken, "acknowledged again"
    after = sent("m1", 35, 1)
    assert not check([{"k": "sync", "t": 25, "began": 21}, *facts, after, *later]).broken, (
        "what is tried later is not it"
    )


def member(who: str, **more: Any) -> dict[str, Any]:
    held = {"of": who, "group": "g", "standing": "current", "epoch": 3, "secret": "s", "members": 2}
    return fact("group", "c1", 1, **(held | more))


def test_members_in_one_epoch_with_one_secret_are_not_split() -> None:
    found = judged(member("a", epoch=2, secret="old"), member("b"), member("a"))
    assert not found.broken and found.chats == 1, "what was said last counts"


@pytest.mark.parametrize(
    "other",
    [{"epoch": 2}, {"secret": "t"}, {"group": "h"}, {"standing": "rejoin"}],
    ids=lambda other: next(iter(other)),
)
def test_members_that_hold_something_else_are_split(other: dict[str, Any]) -> None:
    found = judged(member("a"), member("b", **other))
    assert found.split == ["c1"] and found.broken and "split 1 (such as c1)" in str(found)


def test_a_member_that_says_nothing_or_all_of_whom_cannot_go_on_is_split() -> None:
    assert judged(member("a")).split == ["c1"]
    assert judged(member("a", standing="left"), member("b", standing="left")).split == ["c1"]


def test_arrived_without_being_sent_is_strange() -> None:
    assert judged(fact("arrive", "m9", 1, to="b")).strange == ["m9"]


def test_a_message_that_arrives_again_is_counted_and_allowed() -> None:
    found = check([*good("m1", 1, 10), fact("arrive", "m1", 50, to="b")])
    assert not found.broken and found.repeated == 1


def test_a_history_survives_kill_and_a_line_cut_off_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.history"
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.chaos.history import History\n"
        "h = History(Path(sys.argv[1])); h.note('kept', id='m1'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, env=os.environ, check=False)
    assert done.returncode == -9
    with path.open("a") as file:
        file.write('{"k": "kept", "id": "m')
    assert [each["id"] for each in history.read(tmp_path)] == ["m1"]
