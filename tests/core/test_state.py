"""State: rows hold all of it, an error changes nothing, a trap loses the instance only; the compiled module's cache."""

import gc
import os
import random
import weakref
from pathlib import Path

import pytest

from taube.client.e2e import (
    ACCOUNT_SCOPE,
    Core,
    CoreError,
    CoreTrapped,
    NotLoaded,
)
from tests.core.people import CACHE, NOW_S, SUITES, Person, Rows, chat_of, chat_of_two, pair_of, seeded, store
from tests.spec import spec


class Failing:
    """Randomness that can be told to fail: the host's way to make the core trap."""

    def __init__(self) -> None:
        self.fails = False
        self.source = seeded("failing")

    def __call__(self, size: int) -> bytes:
        if self.fails:
            raise OSError("no randomness")
        return self.source(size)


def same(first: Core, second: Core, group: bytes) -> None:
    """Both are in the same state: with the same randomness they do the same, and write the same."""
    assert first.group(group) == second.group(group)
    for core in (first, second):
        core._random = seeded("same")
        core._instance._random = core._random
    if not first.group(group).has_pending:
        assert first.stage(group, k=0, update=True, now_s=NOW_S) == second.stage(group, k=0, update=True, now_s=NOW_S)
    assert first.protect(group, [b"a", b"b"]) == second.protect(group, [b"a", b"b"])
    assert first.take_deltas() == second.take_deltas()


@pytest.mark.parametrize("suite", SUITES)
@spec("GRP-40")
def test_a_state_restored_from_rows_goes_on_like_the_live_one(suite: int) -> None:
    """After every call, a core that was loaded from the rows replaces the live one: the chat never notices."""
    dice = random.Random(suite)
    (alice, bob, carol), group = chat_of("alice", "bob", "carol", suite=suite)
    people = [alice, bob, carol]
    for step in range(25):
        sender = dice.choice(people)
        if step % 5 == 4:
            staged = sender.core.stage(group, k=0, update=True, now_s=NOW_S + step)
            sender.keep()
            for person in people:
                assert person.apply(group, staged, NOW_S + step).verdict == "applied"
        else:
            bodies = sender.says(group, b"%d" % step, b"more")
            for person in people:
                if person is not sender:
                    assert [message.kind for message in person.hears(group, *dice.sample(bodies, 2))] == ["content"] * 2
        for person in people:
            live, person.core = person.core, person.reload(seeded(f"{person.name} {step}"))
            if step % 6 == 0:
                rows = {scope: dict(kept) for scope, kept in person.rows.items()}
                same(live, person.reload(), group)
                assert rows == person.rows


@spec("GRP-40")
def test_an_error_leaves_no_trace() -> None:
    alice, bob, group = chat_of_two()
    carol = Person("carol")
    before = {scope: dict(rows) for scope, rows in alice.rows.items()}
    refused = (
        lambda: alice.core.stage(group, k=0, adds=[carol.package()], now_s=NOW_S),
        lambda: alice.core.stage(group, k=0, adds=[b"junk"], now_s=NOW_S),
        lambda: alice.core.stage(group, k=77, update=True, now_s=NOW_S),
        lambda: alice.core.stage(group, k=0, removes=[alice.who], now_s=NOW_S),
        lambda: alice.core.protect(group, [b"fine", bytes(70_000)]),
        lambda: alice.core.create_key_packages(1, [alice.address(), b"short"], alice.certificate, NOW_S),
        lambda: alice.core.create_group(7, pair_of(alice, bob), alice.address(), alice.certificate, NOW_S),
        lambda: alice.core.join(b"junk", {}, NOW_S),
    )
    for call in refused:
        with pytest.raises(CoreError):
            call()
        assert alice.core.take_deltas() == []
    assert alice.core.apply_gate_value(group, 0, b"junk", {}, NOW_S).verdict == "void"
    assert [message.kind for message in alice.core.receive(group, [b"junk", b""], {}, NOW_S)] == ["later", "later"]
    assert alice.core.take_deltas() == []
    same(alice.core, alice.reload(), group)
    assert alice.rows == before


@spec("GRP-40")
def test_a_call_that_was_refused_does_not_burn_a_message_key() -> None:
    alice, bob, group = chat_of_two()
    with pytest.raises(CoreError):
        alice.core.protect(group, [b"fine", bytes(70_000)])
    first = alice.says(group, b"first")
    assert bob.hears(group, *first)[0].content == b"first"


@spec("GRP-40")
def test_a_host_that_rolls_back_reloads() -> None:
    alice, bob, group = chat_of_two()
    alice.core.protect(group, [b"never sent"])
    alice.core.unload_all()
    assert alice.core.take_deltas() == []
    with pytest.raises(NotLoaded):
        alice.core.group(group)
    for scope, rows in alice.rows.items():
        alice.core.load(scope, rows.items())
    assert bob.hears(group, *alice.says(group, b"sent"))[0].content == b"sent"


def test_a_message_writes_one_small_row() -> None:
    alice, bob, group = chat_of_two()
    for person in (alice, bob):
        for _ in range(10):
            staged = person.core.stage(group, k=0, update=True, now_s=NOW_S)
            person.keep()
            for other in (alice, bob):
                other.apply(group, staged)
    bodies = alice.core.protect(group, [b"hello"] * 3)
    [written] = alice.core.take_deltas()
    assert written.scope == group and len(written.value or b"") < 800
    bob.core.receive(group, bodies, {}, NOW_S)
    [written] = bob.core.take_deltas()
    assert written.scope == group and len(written.value or b"") < 800


@spec("GRP-41")
def test_a_trap_is_a_typed_error_and_the_state_before_is_good() -> None:
    alice, bob, group = chat_of_two()
    failing = Failing()
    core = alice.reload(failing)
    failing.fails = True
    with pytest.raises(CoreTrapped):
        core.protect(group, [b"never sent"])
    failing.fails = False
    assert not any(core.is_loaded(scope) for scope in alice.rows)
    assert core.take_deltas() == []
    for scope, rows in alice.rows.items():
        core.load(scope, rows.items())
    [body] = core.protect(group, [b"sent"])
    assert bob.hears(group, body)[0].content == b"sent"


@spec("GRP-41")
def test_an_interrupt_in_the_middle_of_a_call_costs_the_instance_only() -> None:
    def interrupted(_: int) -> bytes:
        raise KeyboardInterrupt

    core = Core(interrupted, CACHE)
    core.load(ACCOUNT_SCOPE, [])
    with pytest.raises((KeyboardInterrupt, CoreTrapped)):
        core.create_account()
    assert not core.is_loaded(ACCOUNT_SCOPE)


def test_rows_that_were_damaged_are_reported_and_kept() -> None:
    alice, _, group = chat_of_two()
    damaged: Rows = {scope: dict(rows) for scope, rows in alice.rows.items()}
    for key in damaged[group]:
        rows = damaged[group] | {key: damaged[group][key][:-1]}
        core = Core(seeded("damaged"), CACHE)
        for scope in (ACCOUNT_SCOPE, b"device", b"packages"):
            core.load(scope, damaged.get(scope, {}).items())
        core.load(group, rows.items())
        try:
            core.protect(group, [b"x"])
        except CoreError:
            assert core.take_deltas() == []


def test_a_damaged_or_foreign_cache_does_not_hurt(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    Core(os.urandom, str(cache))
    [compiled] = cache.iterdir()
    assert cache.stat().st_mode & 0o777 == 0o700
    good = compiled.read_bytes()
    for bad in (b"", good[:-1] + bytes([good[-1] ^ 1])):
        compiled.write_bytes(bad)
        core = Core(os.urandom, str(cache))
        assert core.padded_size(1) == 256
        assert compiled.read_bytes() == good
    cache.chmod(0o755)
    compiled.write_bytes(b"someone else's code")
    assert Core(os.urandom, str(cache)).padded_size(1) == 256
    assert compiled.read_bytes() == b"someone else's code"


def test_without_a_cache_or_with_one_that_cannot_be_written_all_works(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert Core(os.urandom, str(tmp_path / "file" / "cache")).padded_size(300) == 304


def test_deltas_clear_a_scope_before_they_fill_it() -> None:
    rows: Rows = {b"x": {b"old": b"1"}}
    alice = Person("alice")
    alice.core.forget_group(b"x")
    store(rows, alice.core.take_deltas())
    assert rows == {b"x": {}}


def test_a_core_that_nobody_holds_gives_its_memory_back() -> None:
    core = Core(os.urandom, str(CACHE))
    instance = weakref.ref(core._instance)
    store = weakref.ref(core._instance._store)
    del core
    gc.collect()
    assert instance() is None
    assert store() is None
