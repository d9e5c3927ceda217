"""Gates: write-once registers under random-looking names; the first claim wins, whoever comes later gets its value.

A gate is known only after it is durable: the answer to a claim follows the group commit that holds it, and a read sees
committed gates only. Nothing is stored that tells which gates belong together; not even the order of their claims
within a day.

Source: docs/protocol/delivery.md, GAT-01 .. GAT-05.
"""

from typing import Final

from taube.server.clock import day_of
from taube.server.ports import Gates
from taube.wire.messages import GateName

GATE_DAYS: Final = 45


def claim(tables: Gates, name: GateName, value: bytes, now_ms: int) -> bytes:
    """The value that stands in the gate from now on: *value* if nobody claimed it before. *now_ms* is guarded."""
    return tables.claim_gate(name, value, day_of(now_ms))


def read(tables: Gates, name: GateName) -> bytes:
    """The value that stands in the gate, empty when it is unclaimed."""
    return tables.read_gate(name) or b""


def expire(tables: Gates, now_ms: int) -> int:
    """Forget gates that were claimed more than 45 whole days ago; how many."""
    return tables.expire_gates(day_of(now_ms) - GATE_DAYS)
