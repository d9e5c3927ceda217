"""Whatever bytes come in, the answer is a result or a typed error; the chat goes on afterwards."""

import random
from collections.abc import Callable

import pytest

from taube.client.e2e import (
    SUITE_CLASSIC,
    SUITE_HYBRID,
    Applied,
    CoreError,
    CoreTrapped,
    Received,
    StrangerMail,
)
from tests.core.people import NOW_S, Person, chat_of, pair_of
from tests.spec import spec


def mutate(dice: random.Random, data: bytes) -> bytes:
    """One of the ways in which bytes go wrong."""
    at = dice.randrange(len(data) or 1)
    match dice.randrange(7):
        case 0:
            return data[:at]
        case 1:
            return data[at:]
        case 2:
            return data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :] if data else b"\1"
        case 3:
            return data[:at] + dice.randbytes(dice.randrange(1, 9)) + data[at:]
        case 4:
            return data[:at] + dice.randbytes(8) + data[at + 8 :]
        case 5:
            return data[:at] + data[at : at + 40] * dice.randrange(2, 5) + data[at + 40 :]
        case _:
            return data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :]


class Target:
    """A chat of three and every call that takes bytes from outside."""

    def __init__(self, suite: int) -> None:
        (self.alice, self.bob, self.carol), self.group = chat_of("alice", "bob", "carol", suite=suite, seed=str(suite))
        self.suite = suite
        bob, group = self.bob, self.group
        self.body = self.alice.says(group, b"hello")[0]
        staged = self.alice.core.stage(
            group, k=0, adds=[Person("dave").package(suite)], removes=[self.carol.who], now_s=NOW_S
        )
        other = self.alice.found(pair_of(self.alice, bob), suite)
        welcome = self.alice.core.stage(other, k=0, adds=[bob.package(suite)], now_s=NOW_S).welcomes[0].body
        request = self.carol.core.rejoin_request(group, bob.who, self.carol.package(suite), NOW_S)[1]
        mail = bob.core.open_from_stranger(request)
        package = self.carol.package(suite)
        self.inputs: list[tuple[bytes, Callable[[bytes], object]]] = [
            (self.body, lambda data: bob.core.receive(group, [data], {}, NOW_S)),
            (staged.commit_body, lambda data: bob.core.receive(group, [data], {}, NOW_S)),
            (staged.gate_value, lambda data: bob.core.apply_gate_value(group, 0, data, {}, NOW_S)),
            (welcome, lambda data: bob.core.join(data, {}, NOW_S)),
            (request, lambda data: bob.core.open_from_stranger(data)),
            (package, lambda data: bob.core.inspect_key_package(data, self.carol.certificate, NOW_S)),
            (self.carol.certificate, lambda data: bob.core.inspect_key_package(package, data, NOW_S)),
            (self.carol.certificate, lambda data: bob.core.check_certificate(data)),
            (self.carol.certificate, lambda data: bob.core.safety_number(bob.certificate, data)),
            (package, lambda data: bob.core.stage(group, k=0, adds=[data], now_s=NOW_S)),
            (mail.payload, lambda data: bob.core.check_rejoin(group, rejoin(data), self.carol.certificate, NOW_S)),
        ]

    def goes_on(self) -> None:
        assert self.bob.core.group(self.group).epoch == 1
        received = self.bob.core.receive(self.group, self.alice.says(self.group, b"still here"), {}, NOW_S)
        assert received[0].content == b"still here"


def rejoin(payload: bytes) -> StrangerMail:
    return StrangerMail("rejoin", payload)


def bombard(suite: int, count: int, seed: int) -> None:
    dice = random.Random(seed)
    target = Target(suite)
    answers = {"result": 0, "refused": 0}
    for number in range(count):
        data, call = dice.choice(target.inputs)
        try:
            if (mutated := mutate(dice, data)) != data:
                call(mutated)
            answers["result"] += 1
        except CoreTrapped:
            raise AssertionError(f"the core trapped at {number} (seed {seed})") from None
        except CoreError:
            answers["refused"] += 1
        if number % 500 == 499:
            target.goes_on()
    target.goes_on()
    assert answers["refused"] > count // 4


class Sealed:
    """What a member can do who knows the epoch's keys: mutated bytes inside valid seals."""

    def __init__(self, suite: int) -> None:
        import msgspec
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.target = Target(suite)
        bob, group = self.target.bob, self.target.group
        row = msgspec.msgpack.decode(bob.rows[group][b"E" + (1).to_bytes(8, "big")])
        self.seal, self.gate = AESGCM(row[0]), AESGCM(row[1])
        self.name = bob.core.gate_name(group, 0)
        staged = self.target.bob.core.stage(group, k=0, update=True, now_s=NOW_S)
        self.value = self.gate.decrypt(staged.gate_value[:12], staged.gate_value[12:], self.name)
        bob.core.drop(group)
        bob.keep()
        body = self.target.body
        self.body = self.seal.decrypt(body[:12], body[12:], b"")

    def receive(self, plaintext: bytes) -> list[Received]:
        body = bytes(12) + self.seal.encrypt(bytes(12), plaintext, b"")
        return self.target.carol.core.receive(self.target.group, [body], {}, NOW_S)

    def apply(self, plaintext: bytes) -> Applied:
        value = bytes(12) + self.gate.encrypt(bytes(12), plaintext, self.name)
        return self.target.carol.core.apply_gate_value(self.target.group, 0, value, {}, NOW_S)

    def calls(self) -> list[tuple[bytes, Callable[[bytes], object]]]:
        """Every call with bytes from outside, with what it would be given."""
        return [*self.target.inputs, (self.body, self.receive), (self.value, self.apply)]

    def attack(self, dice: random.Random) -> None:
        carol = self.target.carol
        if dice.random() < 0.5:
            self.receive(mutate(dice, self.body))
        else:
            applied = self.apply(mutate(dice, self.value))
            assert applied.verdict in ("void", "stuck", "applied")
            if applied.verdict == "applied":  # the mutation hit the padding only
                carol.core.unload_all()
                for scope, rows in carol.rows.items():
                    carol.core.load(scope, rows.items())


@spec("GRP-41")
@pytest.mark.parametrize("suite", [SUITE_CLASSIC, SUITE_HYBRID])
def test_mutated_input_gives_typed_errors(suite: int) -> None:
    bombard(suite, 700, seed=suite)


@spec("GRP-41", "GRP-53")
def test_mutated_input_from_a_member_gives_typed_errors() -> None:
    dice = random.Random(3)
    sealed = Sealed(SUITE_CLASSIC)
    for _ in range(600):
        sealed.attack(dice)
    assert sealed.target.carol.core.group(sealed.target.group).epoch == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(20))
def test_mutated_input_gives_typed_errors_for_long(seed: int) -> None:
    bombard((SUITE_CLASSIC, SUITE_HYBRID)[seed % 2], 7_000, seed=1000 + seed)
    dice = random.Random(seed)
    sealed = Sealed((SUITE_CLASSIC, SUITE_HYBRID)[seed % 2])
    for _ in range(3_000):
        sealed.attack(dice)
