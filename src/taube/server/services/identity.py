"""The server's own identity in its store: generation, address keys and their retirement, guarded clock.

Facts are small values under a name; this file is the only one that knows their forms. It makes what is missing at a
first start, rotates address keys, and tells which of them still open. Source: docs/protocol/delivery.md, DEL-02,
DEL-03, DEL-20.
"""

import struct
from collections.abc import Callable, Mapping, Set
from typing import Final, NamedTuple

from taube.server import clock
from taube.server.ports import Facts, Random

GENERATION: Final = "generation"
CURRENT_KEY: Final = "address key"
KEY_PREFIX: Final = "address key "
KEY_BYTES: Final = 64
PUSH_KEY: Final = "push key"
PUSH_KEY_BYTES: Final = 32
RETIRED_DAYS: Final = 396
"""A retired address key goes on opening for 13 months."""


class Identity(NamedTuple):
    """What a server is, as its store remembers."""

    generation: bytes
    """16 bytes: new when the server was restored from a backup."""
    current_key: int
    address_keys: dict[int, bytes]
    """Version -> 64 bytes, those that still open."""


def establish(tables: Facts, random: Random, now_ms: int) -> Identity:
    """The identity in the store; made at the first start. Forgets address keys that were retired too long ago."""
    generation = tables.fact(GENERATION)
    if generation is None:
        generation = random(16)
        tables.set_fact(GENERATION, generation)
    if tables.fact(CURRENT_KEY) is None:
        rotate(tables, random, now_ms)
    return _read(tables, generation, now_ms)


def damage(facts: Mapping[str, bytes]) -> str:
    """What is wrong with the facts of a store, in words; empty if nothing is, or if they are not made yet.

    A database can be sound, and values in it be spoiled: nobody but this file would notice.
    """
    sizes = {GENERATION: {16}, PUSH_KEY: {PUSH_KEY_BYTES}, clock.FACT: {0, clock.FACT_BYTES}, CURRENT_KEY: {1}}
    sizes |= {f"{KEY_PREFIX}{version}": {0, 8 + KEY_BYTES} for version in range(256)}
    wrong = {name for name, value in facts.items() if name in sizes and not _fits(value, sizes[name])}
    wrong |= {name for name in facts if "\ufffd" in name or (name.startswith(KEY_PREFIX) and name not in sizes)}
    wrong |= {GENERATION, CURRENT_KEY} - facts.keys() if GENERATION in facts or CURRENT_KEY in facts else set()
    if not wrong and CURRENT_KEY in facts and not _is_in_use(facts.get(f"{KEY_PREFIX}{facts[CURRENT_KEY][0]}", b"")):
        wrong = {CURRENT_KEY}
    return f"what the server knows of itself: {', '.join(sorted(wrong))}" if wrong else ""


def _fits(value: object, sizes: Set[int]) -> bool:
    return isinstance(value, bytes) and len(value) in sizes


def _is_in_use(key: bytes) -> bool:
    """Whether an address key is there and was not retired."""
    return key[:8] == bytes(8)


def push_key(tables: Facts, make: Callable[[], bytes]) -> bytes:
    """The private key (32 bytes) by which this server names itself to push services; made when first asked for."""
    key = tables.fact(PUSH_KEY)
    if key is None:
        key = make()
        tables.set_fact(PUSH_KEY, key)
    return key


def rotate(tables: Facts, random: Random, now_ms: int) -> int:
    """Seal with a new address key; gives its version. A running server notices by itself.

    Versions go round 0 .. 255; one that still opens is never taken again (LookupError after 256 rotations in 13
    months).
    """
    before = tables.fact(CURRENT_KEY)
    version = 0
    if before is not None:
        old = before[0]
        key = tables.fact(f"{KEY_PREFIX}{old}")
        assert key is not None
        tables.set_fact(f"{KEY_PREFIX}{old}", struct.pack(">Q", now_ms) + key[8:])
        version = next(
            (each % 256 for each in range(old + 1, old + 256) if not tables.fact(f"{KEY_PREFIX}{each % 256}")), -1
        )
        if version < 0:
            raise LookupError("every version of address keys is in use")
    tables.set_fact(f"{KEY_PREFIX}{version}", bytes(8) + random(KEY_BYTES))
    tables.set_fact(CURRENT_KEY, bytes([version]))
    return version


def carry_over(tables: Facts, replaced: Mapping[str, bytes]) -> None:
    """Take from the facts of a store that a restored one replaces what must not be lost: newer address keys, the clock.

    Without them, addresses that were sealed after the backup would never open again. If the two have different keys
    under one version, they are not of one server, and nothing is taken.
    """
    keys = {name: key for name, key in replaced.items() if name.startswith(KEY_PREFIX) and key}
    shared = [(key, keys[name]) for name, key in tables.facts(KEY_PREFIX).items() if key and name in keys]
    if not shared or any(one[8:] != other[8:] for one, other in shared):
        return
    for name, key in keys.items():
        tables.set_fact(name, key)
    if replaced.get(CURRENT_KEY):
        tables.set_fact(CURRENT_KEY, replaced[CURRENT_KEY])
    tables.set_fact(clock.FACT, max(tables.fact(clock.FACT) or b"", replaced.get(clock.FACT, b"")))


def guarded_now(tables: Facts, wall_ms: int) -> int:
    """The guarded time as far as a process beside the server can tell: at most a day after it was last saved."""
    return clock.start(tables.fact(clock.FACT) or None, wall_ms, 0.0).now_ms(0.0)


def renew_generation(tables: Facts, random: Random) -> None:
    """The store was restored from a backup: clients claim again the gates that it may have forgotten."""
    tables.set_fact(GENERATION, random(16))


def _read(tables: Facts, generation: bytes, now_ms: int) -> Identity:
    current = tables.fact(CURRENT_KEY)
    assert current is not None
    keys: dict[int, bytes] = {}
    for name, value in tables.facts(KEY_PREFIX).items():
        if not value:  # was retired and forgotten
            continue
        (retired_ms,) = struct.unpack(">Q", value[:8])
        if retired_ms and retired_ms + RETIRED_DAYS * clock.DAY_MS < now_ms:
            tables.set_fact(name, b"")
        else:
            keys[int(name.removeprefix(KEY_PREFIX))] = value[8:]
    return Identity(generation, current[0], keys)


def start_clock(tables: Facts, wall_ms: int, monotonic: float) -> clock.GuardedClock:
    """The guarded clock at a start, written back at once so that repeated starts cannot each gain a day unnoticed."""
    started = clock.start(tables.fact(clock.FACT) or None, wall_ms, monotonic)
    tables.set_fact(clock.FACT, clock.save(started, monotonic))
    return started


def save_clock(tables: Facts, guarded: clock.GuardedClock, monotonic: float) -> None:
    """Remember how far the guarded clock has come (hourly, and at the end)."""
    tables.set_fact(clock.FACT, clock.save(guarded, monotonic))
