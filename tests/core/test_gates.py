"""Gates: races, verdicts, finishing for a committer that died, and that no one ever ends up in another epoch."""

import hashlib
import random

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from taube.client.e2e import (
    SUITE_HYBRID,
    NothingPending,
    Staged,
    TooLarge,
    WrongEpoch,
)
from taube.wire.packing import pack
from tests.core.people import NOW_S, SUITES, Person, chat_of, chat_of_two
from tests.spec import spec


@spec("GRP-51")
def test_gate_names_are_the_same_for_all_and_different_for_each() -> None:
    alice, bob, group = chat_of_two()
    names = [alice.core.gate_name(group, k) for k in range(16)]
    assert names == [bob.core.gate_name(group, k) for k in range(16)]
    assert len(set(names)) == 16 and {len(name) for name in names} == {32}
    with pytest.raises(WrongEpoch):
        alice.core.gate_name(group, 16)
    with pytest.raises(WrongEpoch):
        alice.core.past_gate_name(group, 9, 0)


@pytest.mark.parametrize("suite", SUITES)
@spec("GRP-56", "GRP-57", "GRP-52", "ENV-05")
def test_anyone_finishes_for_a_committer_that_died(suite: int) -> None:
    (alice, bob, carol), group = chat_of("alice", "bob", "carol", suite=suite)
    dave = Person("dave")
    staged = alice.core.stage(group, k=0, adds=[dave.package(suite)], now_s=NOW_S)
    finished = [person.apply(group, staged) for person in (bob, carol)] + [alice.confirm(group)]
    for applied in finished:
        assert applied.commit_body == staged.commit_body
        assert applied.welcomes == staged.welcomes
    [welcome], [member] = finished[0].welcomes, finished[0].added
    assert welcome.address == member.address
    dave.join(staged)
    assert dave.hears(group, *bob.says(group, b"welcome"))[0].content == b"welcome"


@spec("GRP-56", "GRP-55")
def test_a_value_equal_to_our_own_is_our_own() -> None:
    alice, bob, group = chat_of_two()
    staged = alice.core.stage(group, k=0, update=True, now_s=NOW_S)
    alice.keep()
    # Crashed after the claim: another process, the same store.
    again = alice.reload()
    assert again.group(group).has_pending
    applied = again.apply_gate_value(group, 0, staged.gate_value, {}, NOW_S)
    assert (applied.verdict, applied.epoch, applied.commit_body) == ("applied", 2, staged.commit_body)
    assert bob.apply(group, staged).verdict == "applied"


@spec("GRP-55")
def test_a_dropped_commit_can_be_made_again() -> None:
    alice, bob, group = chat_of_two()
    alice.core.stage(group, k=0, update=True, now_s=NOW_S)
    alice.core.drop(group)
    alice.core.drop(group)
    assert not alice.core.group(group).has_pending
    for call in (lambda: alice.core.confirm(group, NOW_S), lambda: alice.core.restage(group, 1)):
        with pytest.raises(NothingPending):
            call()
    staged = alice.core.stage(group, k=0, update=True, now_s=NOW_S)
    assert bob.apply(group, staged).verdict == "applied"
    assert alice.confirm(group).epoch == 2


@spec("GRP-53", "GRP-55")
def test_a_junk_claim_is_stepped_over() -> None:
    alice, bob, group = chat_of_two()
    before = bob.core.group(group)
    staged = alice.core.stage(group, k=0, update=True, now_s=NOW_S)
    for junk in (b"", b"x", bytes(300), staged.gate_value[:-1], staged.gate_value[:-1] + b"\0"):
        for person in (alice, bob):
            assert person.core.apply_gate_value(group, 0, junk, {}, NOW_S).verdict == "void"
    assert bob.core.group(group) == before
    again = alice.core.restage(group, 1)
    assert again.gate_name == bob.core.gate_name(group, 1) and again.welcomes == staged.welcomes
    # The same commit, but sealed for gate 1: it does not do for gate 0.
    assert bob.core.apply_gate_value(group, 0, again.gate_value, {}, NOW_S).verdict == "void"
    assert bob.apply(group, again).verdict == "applied"
    assert alice.confirm(group).epoch == 2


@spec("GRP-53")
def test_a_value_of_another_epoch_or_group_is_void() -> None:
    alice, bob, group = chat_of_two()
    staged = alice.core.stage(group, k=0, update=True, now_s=NOW_S)
    alice.confirm(group)
    assert bob.apply(group, staged).verdict == "applied"
    assert bob.core.apply_gate_value(group, 0, staged.gate_value, {}, NOW_S).verdict == "void"


@spec("GRP-54")
def test_a_commit_that_claims_to_be_ours_leaves_only_us_stuck() -> None:
    (alice, bob, carol), group = chat_of("alice", "bob", "carol")
    staged = alice.core.stage(group, k=0, update=True, now_s=NOW_S)
    alice.core.drop(group)
    assert alice.core.apply_gate_value(group, 0, staged.gate_value, {}, NOW_S).verdict == "stuck"
    for person in (bob, carol):
        assert person.apply(group, staged).verdict == "applied"
    assert alice.core.group(group).epoch == 1


@spec("GRP-52")
def test_what_does_not_fit_a_gate_is_refused_and_changes_nothing() -> None:
    (alice, _), group = chat_of("alice", "bob", suite=SUITE_HYBRID)
    before = alice.core.group(group)
    crowd = [Person(f"guest {number}").package(SUITE_HYBRID) for number in range(12)]
    with pytest.raises(TooLarge):
        alice.core.stage(group, k=0, adds=crowd, now_s=NOW_S)
    assert alice.core.group(group) == before
    assert alice.core.stage(group, k=0, adds=crowd[:2], now_s=NOW_S).epoch == 1


@spec("GRP-58", "GRP-14")
def test_an_outdated_leaf_is_applied_and_reported() -> None:
    (alice, bob), group = chat_of("alice", "bob")
    carol = Person("carol")
    staged = alice.core.stage(group, k=0, adds=[carol.package()], now_s=NOW_S)
    applied = bob.apply(group, staged, known={carol.id: 2})
    assert (applied.verdict, applied.outdated) == ("applied", (carol.who,))


@spec("GRP-53", "GRP-55", "GRP-56")
def test_two_who_commit_at_the_same_moment_never_split() -> None:
    dice = random.Random(1)
    (alice, bob, carol), group = chat_of("alice", "bob", "carol")
    people = [alice, bob, carol]
    for _ in range(100):
        gates: dict[bytes, bytes] = {}
        racers = dice.sample(people, 2)
        staged: dict[Person, Staged] = {}
        for racer in racers:
            staged[racer] = racer.core.stage(group, k=0, update=True, now_s=NOW_S)
            racer.keep()
        for racer in dice.sample(racers, 2):  # either order at the server: the first claim wins
            gates.setdefault(staged[racer].gate_name, staged[racer].gate_value)
        for person in dice.sample(people, 3):
            value = gates[person.core.gate_name(group, 0)]
            assert person.core.apply_gate_value(group, 0, value, {}, NOW_S).verdict == "applied"
            person.keep()
        assert len({person.core.export(group, "same", b"", 32) for person in people}) == 1
    assert {person.core.group(group).epoch for person in people} == {101}
    assert not any(person.core.group(group).has_pending for person in people)


class Mallory:
    """A member who knows the epoch's secrets and puts whatever it likes into gates."""

    def __init__(self, person: Person, group: bytes) -> None:
        self.person, self.group = person, group

    def value(self, k: int, commit: bytes, welcomes: list[tuple[bytes, bytes]], time_s: int = NOW_S) -> bytes:
        gate_key = gate_key_of(self.person, self.group)
        payload = bytes([0]) + pack([commit, welcomes, time_s]) + b"\x80"
        plaintext = payload.ljust(self.person.core.padded_size(len(payload)), b"\0")
        nonce = hashlib.sha256(plaintext).digest()[:12]
        return nonce + AESGCM(gate_key).encrypt(nonce, plaintext, self.person.core.gate_name(self.group, k))

    def opened(self, staged: Staged) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        sealed = AESGCM(gate_key_of(self.person, self.group))
        plaintext = sealed.decrypt(staged.gate_value[:12], staged.gate_value[12:], staged.gate_name)
        commit, welcomes, _ = msgspec.msgpack.decode(plaintext.rstrip(b"\0")[1:-1])
        return commit, [tuple(welcome) for welcome in welcomes]


def gate_key_of(person: Person, group: bytes) -> bytes:
    """From the row that the core keeps for the epoch: [seal key, gate key, …]."""
    person.keep()
    epoch = person.core.group(group).epoch
    row = person.rows[group][b"E" + epoch.to_bytes(8, "big")]
    return bytes(msgspec.msgpack.decode(row)[1])


@spec("GRP-24", "GRP-53", "GRP-52")
def test_a_malicious_member_voids_but_never_splits() -> None:
    (alice, bob, carol), group = chat_of("alice", "bob", "carol")
    mallory = Mallory(bob, group)
    dave = Person("dave")
    good = alice.core.stage(group, k=0, adds=[dave.package()], now_s=NOW_S)
    commit, welcomes = mallory.opened(good)
    [(address, body)] = welcomes
    values = {
        "no commit": mallory.value(0, b"", []),
        "junk": mallory.value(0, b"junk", []),
        "cut": mallory.value(0, commit[:-1], welcomes),
        "flipped": mallory.value(0, commit[:-1] + bytes([commit[-1] ^ 1]), welcomes),
        "no Welcome": mallory.value(0, commit, []),
        "to someone else": mallory.value(0, commit, [(bytes(41), body)]),
        "to two": mallory.value(0, commit, [*welcomes, (address, body)]),
        "empty Welcome": mallory.value(0, commit, [(address, b"")]),
        "end of time": mallory.value(0, commit, welcomes, 2**63),
        "before the package": mallory.value(0, commit, welcomes, NOW_S - 10**6),
        "after the package": mallory.value(0, commit, welcomes, NOW_S + 10**8),
        "a key package": mallory.value(0, dave.package(), []),
    }
    before = carol.core.group(group)
    for case, value in values.items():
        verdicts = [person.core.apply_gate_value(group, 0, value, {}, NOW_S).verdict for person in (bob, carol)]
        assert verdicts == ["void", "void"], case
    assert carol.core.group(group) == before
    assert carol.apply(group, good).verdict == "applied"
