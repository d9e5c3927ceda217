"""What the core costs: milliseconds of CPU for each call, bytes for each row and body, size of the binary.

    python bench/core.py [--json]

Times are CPU time of this process, the best of several rounds, so that a busy machine does not show.
"""

import argparse
import gzip
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from taube.client import e2e
from taube.client.e2e import SUITE_CLASSIC, SUITE_HYBRID, Core, GroupContext
from taube.wire.packing import pack

CACHE = str(Path(__file__).resolve().parents[1] / ".cache" / "core")
NOW_S = 1_780_000_000
BODY = b"x" * 300


def best_ms(work: Callable[[], object], rounds: int = 7, calls: int = 40) -> float:
    """CPU milliseconds of one call of *work*: the best round's mean."""
    found = []
    for _ in range(rounds):
        before = time.process_time()
        for _ in range(calls):
            work()
        found.append((time.process_time() - before) / calls * 1000)
    return round(min(found), 3)


class Device:
    """An account with one device, all loaded."""

    def __init__(self, name: str) -> None:
        self.core = Core(os.urandom, CACHE)
        for scope in (e2e.ACCOUNT_SCOPE, e2e.DEVICE_SCOPE, e2e.PACKAGES_SCOPE):
            self.core.load(scope, [])
        self.account = self.core.create_account()
        self.device = self.core.create_device()
        self.certificate = pack([self.account.genesis, self.core.sign_device_list(1, [self.device])])
        self.address = hashlib.sha512(name.encode()).digest()[:41]

    def package(self, suite: int) -> bytes:
        return self.core.create_key_packages(suite, [self.address], self.certificate, NOW_S)[0].key_package


def chat_of_two(suite: int) -> dict[str, float]:
    alice, bob = Device("alice"), Device("bob")
    context = GroupContext(0, bytes(16), (alice.account.account_id, bob.account.account_id))
    group = alice.core.create_group(suite, context, alice.address, alice.certificate, NOW_S)
    staged = alice.core.stage(group, k=0, adds=[bob.package(suite)], now_s=NOW_S)
    alice.core.confirm(group, NOW_S)
    bob.core.join(staged.welcomes[0].body, {}, NOW_S)
    bodies: list[bytes] = []
    protect = best_ms(lambda: bodies.extend(alice.core.protect(group, [BODY])))
    queue = iter(bodies)
    unprotect = best_ms(lambda: bob.core.receive(group, [next(queue)], {}, NOW_S))
    alice.core.take_deltas(), bob.core.take_deltas()
    alice.core.protect(group, [BODY])
    row = sum(len(delta.value or b"") for delta in alice.core.take_deltas())

    def update() -> None:
        made = alice.core.stage(group, k=0, update=True, now_s=NOW_S)
        alice.core.confirm(group, NOW_S)
        bob.core.apply_gate_value(group, 0, made.gate_value, {}, NOW_S)

    commit = best_ms(update, rounds=3, calls=10)
    for _ in range(12):
        update()
    after = best_ms(lambda: alice.core.protect(group, [BODY]))
    rows = {delta.key: delta.value for delta in alice.core.take_deltas() if delta.scope == group}
    state = sum(len(value) for value in rows.values() if value)
    return {
        "protect 300 bytes, ms": protect,
        "unprotect 300 bytes, ms": unprotect,
        "protect with 40 past epochs, ms": after,
        "update: stage, confirm and apply, ms": commit,
        "key package, ms": best_ms(lambda: bob.package(suite), rounds=3, calls=10),
        "row written by a message, bytes": row,
        "envelope of 300 bytes, bytes": len(bodies[0]),
        "gate value that adds one, bytes": len(staged.gate_value),
        "rows of a chat after 40 epochs, bytes": state,
    }


def start_ms() -> float:
    Core(os.urandom, CACHE)
    return best_ms(lambda: Core(os.urandom, CACHE), rounds=5, calls=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    wasm = e2e.WASM_PATH.read_bytes()
    figures = {
        "core": {
            "binary, bytes": len(wasm),
            "binary, gzip -9, bytes": len(gzip.compress(wasm, 9)),
            "start from the cache, ms": start_ms(),
        },
        "chat of two, suite 0x0001": chat_of_two(SUITE_CLASSIC),
        "chat of two, suite 0x004F": chat_of_two(SUITE_HYBRID),
    }
    if parser.parse_args().json:
        print(json.dumps(figures))
        return
    for title, part in figures.items():
        print(title)
        for name, figure in part.items():
            print(f"  {name:42} {figure:>12,}")


if __name__ == "__main__":
    main()
