"""People for the core's tests: each with a core, and a store that keeps its deltas the way a real host does."""

import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from taube.client.e2e import (
    ACCOUNT_SCOPE,
    DEVICE_SCOPE,
    KIND_GROUP,
    KIND_PAIR,
    PACKAGES_SCOPE,
    SUITE_CLASSIC,
    SUITE_HYBRID,
    Applied,
    Core,
    Delta,
    GroupContext,
    Received,
    Staged,
)
from taube.wire.packing import pack

NOW_S = 1_780_000_000
DAY_S = 86_400
SUITES = (SUITE_CLASSIC, SUITE_HYBRID)
CHAT = bytes(range(16))
CACHE = str(Path(__file__).resolve().parents[2] / ".cache" / "core")

Rows = dict[bytes, dict[bytes, bytes]]


def seeded(seed: str) -> Callable[[int], bytes]:
    """Randomness that is the same in each run: a hash in counter mode."""

    @functools.cache
    def block(number: int) -> bytes:
        return hashlib.sha256(f"{seed} {number}".encode()).digest()

    at = 0

    def random(size: int) -> bytes:
        nonlocal at
        blocks = b"".join(block(at + step) for step in range(size // 32 + 1))
        at += size // 32 + 1
        return blocks[:size]

    return random


def store(rows: Rows, deltas: list[Delta]) -> None:
    """What a host's store does with deltas."""
    for scope, key, value in deltas:
        if value is not None:
            rows.setdefault(scope, {})[key] = value
        elif key:
            rows.get(scope, {}).pop(key, None)
        else:
            rows[scope] = {}


class Person:
    """One account with one device."""

    def __init__(self, name: str, seed: str = "") -> None:
        self.name = name
        self.core = Core(seeded(f"{name} {seed}"), CACHE)
        self.rows: Rows = {}
        self._addresses = self._mint()
        for scope in (ACCOUNT_SCOPE, DEVICE_SCOPE, PACKAGES_SCOPE):
            self.core.load(scope, [])
        self.account = self.core.create_account()
        self.new_device()

    def _mint(self) -> Iterator[bytes]:
        number = 0
        while True:
            number += 1
            yield hashlib.sha512(f"{self.name} {number}".encode()).digest()[:41]

    def new_device(self, counter: int = 1) -> None:
        self.device = self.core.create_device()
        self.counter = counter
        self.certificate = pack([self.account.genesis, self.core.sign_device_list(counter, [self.device])])
        self.keep()

    @property
    def id(self) -> bytes:
        return self.account.account_id

    @property
    def who(self) -> tuple[bytes, bytes]:
        return self.id, self.device.device_id

    def address(self) -> bytes:
        return next(self._addresses)

    def keep(self) -> None:
        """Store what the last call wrote."""
        store(self.rows, self.core.take_deltas())

    def reload(self, random: Callable[[int], bytes] | None = None) -> Core:
        """A second core with the state that was stored."""
        core = Core(random or seeded("reload"), CACHE)
        for scope, rows in self.rows.items():
            core.load(scope, rows.items())
        return core

    def package(self, suite: int = SUITE_CLASSIC, now_s: int = NOW_S, last_resort: bool = False) -> bytes:
        [made] = self.core.create_key_packages(suite, [self.address()], self.certificate, now_s, last_resort)
        self.keep()
        return made.key_package

    def found(self, context: GroupContext, suite: int = SUITE_CLASSIC, now_s: int = NOW_S) -> bytes:
        group = self.core.create_group(suite, context, self.address(), self.certificate, now_s)
        self.keep()
        return group

    def join(self, staged: Staged, now_s: int = NOW_S, known: dict[bytes, int] | None = None) -> bytes:
        """Join by whichever of the Welcomes is for us."""
        for welcome in staged.welcomes:
            try:
                joined = self.core.join(welcome.body, known or {}, now_s)
            except Exception as error:
                if type(error).__name__ != "NotForUs":
                    raise
            else:
                self.keep()
                return joined.group_id
        raise AssertionError("no Welcome for us")

    def apply(self, group: bytes, staged: Staged, now_s: int = NOW_S, known: dict[bytes, int] | None = None) -> Applied:
        applied = self.core.apply_gate_value(group, staged.k, staged.gate_value, known or {}, now_s)
        self.keep()
        return applied

    def confirm(self, group: bytes, now_s: int = NOW_S) -> Applied:
        applied = self.core.confirm(group, now_s)
        self.keep()
        return applied

    def says(self, group: bytes, *texts: bytes) -> list[bytes]:
        bodies = self.core.protect(group, texts)
        self.keep()
        return bodies

    def hears(self, group: bytes, *bodies: bytes, now_s: int = NOW_S) -> list[Received]:
        received = self.core.receive(group, bodies, {}, now_s)
        self.keep()
        return received


def pair_of(first: Person, second: Person) -> GroupContext:
    return GroupContext(KIND_PAIR, CHAT, (first.id, second.id))


def group_of(*admins: Person) -> GroupContext:
    return GroupContext(KIND_GROUP, CHAT, tuple(admin.id for admin in admins))


def add(by: Person, group: bytes, *who: Person, suite: int = SUITE_CLASSIC, now_s: int = NOW_S) -> Staged:
    """One person adds others, who join; the members before have to apply what is returned."""
    staged = by.core.stage(group, k=0, adds=[person.package(suite, now_s) for person in who], now_s=now_s)
    by.keep()
    by.confirm(group, now_s)
    for person in who:
        assert person.join(staged, now_s) == group
    return staged


def chat_of_two(suite: int = SUITE_CLASSIC, seed: str = "") -> tuple[Person, Person, bytes]:
    alice, bob = Person("alice", seed), Person("bob", seed)
    group = alice.found(pair_of(alice, bob), suite)
    add(alice, group, bob, suite=suite)
    return alice, bob, group


def chat_of(*names: str, suite: int = SUITE_CLASSIC, seed: str = "") -> tuple[list[Person], bytes]:
    """A group whose first person founded it and is its only admin."""
    people = [Person(name, seed) for name in names]
    group = people[0].found(group_of(people[0]), suite)
    add(people[0], group, *people[1:], suite=suite)
    return people, group
