"""Envelope bodies: sizes, what opens them, what is junk, and that every finisher sends the same bytes."""

import math

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from taube.client.e2e import SUITE_HYBRID, NotForUs
from taube.wire.messages import MAX_BODY_BYTES, MAX_GATE_VALUE_BYTES
from tests.core.people import NOW_S, Person, chat_of, chat_of_two, pair_of
from tests.spec import spec


def padme(size: int) -> int:
    """Written down a second time, from the paper."""
    if size <= 256:
        return 256
    exponent = math.floor(math.log2(size))
    bits = math.floor(math.log2(exponent)) + 1
    step = 2 ** (exponent - bits)
    return math.ceil(size / step) * step


@spec("ENV-01")
def test_sizes_are_padme() -> None:
    alice = Person("alice")
    for size in [*range(600), *range(600, 70_000, 37)]:
        padded = alice.core.padded_size(size)
        assert padded == padme(size)
        assert size <= padded <= max(256, size * 1.12)


@spec("ENV-01", "ENV-02")
def test_bodies_have_few_sizes_and_fit_the_wire() -> None:
    alice, bob, group = chat_of_two()
    bodies = alice.says(group, *[bytes(size) for size in range(1, 400)])
    assert len({len(body) for body in bodies}) <= 20
    largest = alice.says(group, bytes(63_000))[0]
    assert len(largest) <= MAX_BODY_BYTES
    assert bob.hears(group, largest)[0].content == bytes(63_000)


@spec("ENV-02")
def test_equal_texts_look_different() -> None:
    alice, _, group = chat_of_two()
    assert len(set(alice.says(group, *[b"same"] * 20))) == 20


@spec("ENV-03")
def test_what_no_seal_key_opens_is_set_aside_and_works_after_the_commit() -> None:
    alice, bob, group = chat_of_two()
    staged = alice.core.stage(group, k=0, update=True, now_s=NOW_S)
    alice.confirm(group)
    early = alice.says(group, b"early")
    assert bob.hears(group, *early)[0].kind == "later"
    bob.apply(group, staged)
    assert bob.hears(group, *early)[0].content == b"early"


@spec("ENV-03", "GRP-24")
def test_what_opens_but_is_nothing_is_junk() -> None:
    alice, bob, group = chat_of_two()
    seal_key = bytes(msgspec.msgpack.decode(alice.rows[group][b"E" + (1).to_bytes(8, "big")])[0])

    def sealed(plaintext: bytes) -> bytes:
        return bytes(12) + AESGCM(seal_key).encrypt(bytes(12), plaintext, b"")

    plaintexts = (
        b"",
        bytes(256),
        b"\x00\x80",
        b"\x00hello\x80",
        b"\x01\x80",
        b"\x01\x92\x10\xc4\x01x\x80",
        b"\x09x\x80",
    )
    kinds = [
        message.kind for message in bob.hears(group, *map(sealed, plaintexts), *map(sealed, [b"\x02\x91\x03\x80"]))
    ]
    assert kinds == ["junk"] * len(plaintexts) + ["look_at_gate"]


@spec("ENV-02", "ENV-04", "ENV-05")
def test_a_commit_comes_by_envelope_and_is_not_applied_by_it() -> None:
    alice, bob, group = chat_of_two()
    staged = alice.core.stage(group, k=2, update=True, now_s=NOW_S)
    [received] = bob.hears(group, staged.commit_body)
    assert (received.kind, received.k, received.gate_value, received.epoch) == ("commit", 2, staged.gate_value, 1)
    assert bob.core.group(group).epoch == 1
    bob.apply(group, staged)
    assert bob.hears(group, staged.commit_body)[0].kind == "duplicate"


@spec("ENV-05")
def test_a_large_commit_is_only_announced() -> None:
    (alice, bob, *_), group = chat_of("alice", "bob", "carol", "dave", suite=SUITE_HYBRID)
    crowd = [Person(f"guest {number}").package(SUITE_HYBRID) for number in range(2)]
    staged = alice.core.stage(group, k=0, adds=crowd, now_s=NOW_S)
    assert 32 * 1024 < len(staged.gate_value) <= MAX_GATE_VALUE_BYTES
    [received] = bob.hears(group, staged.commit_body)
    assert (received.kind, received.k) == ("look_at_gate", 0)
    assert bob.apply(group, staged).commit_body == staged.commit_body


@spec("ENV-06")
def test_mail_to_a_stranger_opens_for_that_device_only() -> None:
    alice, bob, carol = (Person(name) for name in ("alice", "bob", "carol"))
    group = alice.found(pair_of(alice, bob))
    [welcome] = alice.core.stage(group, k=0, adds=[bob.package()], now_s=NOW_S).welcomes
    assert bob.core.open_from_stranger(welcome.body).kind == "welcome"
    with pytest.raises(NotForUs):
        carol.core.open_from_stranger(welcome.body)
    with pytest.raises(NotForUs):
        bob.core.open_from_stranger(welcome.body[:-1])
