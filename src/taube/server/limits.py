"""Token buckets and quotas as pure arithmetic over `now`, and the one table of every limit on what clients may ask.

A limit belongs to an operation and a scope (connection, source, device, serial, account, everyone). An operation is
allowed when every one of its limits has room; then all are charged, else none. What anyone can name (a device, an
account, everyone) is charged as an operation of its own, after the proof that only its owner has was found good:
else a stranger could use up what is another's. A bucket is one number, the time at
which it will be full again (GCRA), so a table of a million is small; a bucket that is full again is forgotten.

Memory is bounded: a table that is full of busy keys lets new ones share a single bucket. Sources (network addresses)
are forgotten when their bucket is full again, at most ten minutes after they were last counted; loopback is no
source: behind it stands the operator or a proxy, and everyone would share one bucket. This file keeps nothing on disk
and knows no clock.

Source: docs/protocol/delivery.md, DEL-24; docs/operating.md.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypedDict, Unpack

from taube.wire.errors import RATE_LIMITED, WireError


class Scope(Enum):
    """Whose bucket an operation is charged to."""

    CONNECTION = "connection"
    SOURCE = "source"
    DEVICE = "device"
    SERIAL = "address serial"
    ACCOUNT = "account"
    EVERYONE = "everyone"


@dataclass(frozen=True, slots=True)
class Limit:
    """At most *burst* at once, refilled by *per_s* a second."""

    operation: str
    scope: Scope
    burst: float
    per_s: float
    unit: str = "requests"


HOUR: Final = 3600.0
DAY: Final = 86_400.0
SOURCE_MEMORY_S: Final = 540.0
"""A source's bucket is full again, and thereby forgotten, within nine minutes, and one for the sweep."""

LIMITS: Final = (
    # above the limit of logins, which says when to come again: before TLS nothing can be said, and a source may be the
    # network of a thousand phones, with two connections each, that all come back to a server that was away
    Limit("connect", Scope.SOURCE, 4_000, 500),
    Limit("junk", Scope.CONNECTION, 20, 1, "bad frames"),
    Limit("register", Scope.SOURCE, 20, 20 / SOURCE_MEMORY_S),
    Limit("register", Scope.CONNECTION, 20, 10),
    Limit("register, invited", Scope.EVERYONE, 100, 10),
    Limit("login", Scope.CONNECTION, 5, 0.1),
    Limit("login", Scope.SOURCE, 500, 250),
    Limit("login, signed", Scope.DEVICE, 20, 1),
    Limit("send", Scope.CONNECTION, 10_000, 5_000, "addresses"),
    Limit("send", Scope.SOURCE, 20_000, 5_000, "addresses"),
    Limit("send bytes", Scope.CONNECTION, 32e6, 16e6, "bytes"),
    Limit("send bytes", Scope.SOURCE, 64e6, 16e6, "bytes"),
    Limit("claim gate", Scope.CONNECTION, 200, 20),
    Limit("claim gate", Scope.SOURCE, 500, 20),
    Limit("claim gate", Scope.EVERYONE, 20_000, 500),
    Limit("gate bytes", Scope.SOURCE, 16e6, 40e3, "bytes"),
    Limit("gate bytes", Scope.EVERYONE, 512e6, 400e3, "bytes"),
    Limit("read gate", Scope.CONNECTION, 1_000, 200),
    Limit("read gate", Scope.SOURCE, 5_000, 500),
    Limit("begin blob", Scope.SOURCE, 200, 1),
    Limit("begin blob", Scope.EVERYONE, 5_000, 100),
    Limit("blob bytes", Scope.SOURCE, 256e6, 500e3, "bytes"),
    Limit("blob bytes", Scope.EVERYONE, 4e9, 20e6, "bytes"),
    Limit("write blob", Scope.SOURCE, 1_000, 20),
    Limit("read blob", Scope.SOURCE, 2_000, 50),
    Limit("read blob bytes", Scope.SOURCE, 1e9, 5e6, "bytes"),
    Limit("read blob bytes", Scope.EVERYONE, 10e9, 100e6, "bytes"),
    Limit("claim key package", Scope.SERIAL, 20, 100 / DAY),
    Limit("claim key package", Scope.SOURCE, 200, 5),
    Limit("fetch certificate", Scope.CONNECTION, 200, 20),
    Limit("fetch certificate", Scope.SOURCE, 1_000, 50),
    Limit("publish device list", Scope.CONNECTION, 10, 0.1),
    Limit("publish device list", Scope.SOURCE, 50, 1),
    Limit("publish device list, signed", Scope.ACCOUNT, 10, 20 / DAY),
    Limit("publish key packages", Scope.DEVICE, 50, 200 / HOUR),
    Limit("mint", Scope.DEVICE, 5_000, 5_000 / DAY, "addresses"),
    Limit("revoke", Scope.DEVICE, 1_000, 1_000 / DAY),
    Limit("swap mark", Scope.DEVICE, 20, 1),
    Limit("set push", Scope.DEVICE, 20, 60 / HOUR),
    Limit("wake", Scope.SERIAL, 20, 60 / HOUR, "wake-ups"),
    Limit("ask knowledge", Scope.DEVICE, 10, 60 / HOUR),
    Limit("delete account", Scope.DEVICE, 5, 5 / HOUR),
)
"""Every limit; docs/operating.md is generated from it. Budgets that span a day lie in memory only, too."""


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """The limits in force."""

    limits: tuple[Limit, ...] = LIMITS
    keys: int = 50_000
    """Buckets kept for each limit; above it, new sources, devices or serials share one."""


def charge(full_at: float, limit: Limit, now: float, amount: float = 1.0) -> tuple[float, float]:
    """(new time at which the bucket is full again, seconds to wait: 0 when *amount* was taken).

    *full_at*: what this returned last, 0 for a bucket that was never touched. More than the burst is charged as the
    burst.
    """
    start = full_at if full_at > now else now
    after = start + min(amount, limit.burst) / limit.per_s
    wait = after - now - limit.burst / limit.per_s
    return (full_at, wait) if wait > 1e-9 else (after, 0.0)


_SHARED: Final = object()

Buckets = dict[str, float]
"""Operation -> time at which its bucket is full again: the buckets of one connection, which the connection keeps."""


class Whose(TypedDict, total=False):
    """Who asks: the scopes that an operation is charged to. A scope that is missing or None is not charged."""

    connection: Buckets | None
    source: Hashable
    """None: loopback or unknown."""
    device: Hashable
    serial: Hashable
    account: Hashable


class Limits:
    """All limits of a process."""

    def __init__(self, settings: LimitSettings | None = None) -> None:
        self._settings = settings or LimitSettings()
        self._rows: dict[str, list[tuple[Limit, dict[Hashable, float]]]] = {}
        self._made_room = -1.0
        for limit in self._settings.limits:
            if limit.scope is Scope.SOURCE and limit.burst / limit.per_s > SOURCE_MEMORY_S:
                raise ValueError(f"the limit {limit.operation!r} would remember sources for over ten minutes")
            self._rows.setdefault(limit.operation, []).append((limit, {}))

    def spend(self, operation: str, now: float, amount: float = 1.0, **whose: Unpack[Whose]) -> float:
        """Charge *operation* in every scope that was given; seconds to wait, 0 when it is allowed and charged.

        Unknown operations raise KeyError.
        """
        connection = whose.get("connection")
        keys = {
            Scope.SOURCE: whose.get("source"),
            Scope.DEVICE: whose.get("device"),
            Scope.SERIAL: whose.get("serial"),
            Scope.ACCOUNT: whose.get("account"),
            Scope.EVERYONE: "",
        }
        charged: list[tuple[dict[Hashable, float], Hashable, float]] = []
        for limit, table in self._rows[operation]:
            if limit.scope is Scope.CONNECTION:
                if connection is None:
                    continue
                full_at, wait = charge(connection.get(operation, 0.0), limit, now, amount)
                charged.append((connection, operation, full_at))  # type: ignore[arg-type]
            else:
                key = keys[limit.scope]
                if key is None:
                    continue
                if key not in table and len(table) >= self._settings.keys:
                    self._make_room(table, now)
                    if len(table) >= self._settings.keys:
                        key = _SHARED
                full_at, wait = charge(table.get(key, 0.0), limit, now, amount)
                charged.append((table, key, full_at))
            if wait:
                return wait
        for buckets, key, full_at in charged:
            buckets[key] = full_at
        return 0.0

    def check(self, operation: str, now: float, amount: float = 1.0, **whose: Unpack[Whose]) -> None:
        """As `spend`, but raises RATE_LIMITED with the time to wait."""
        if wait := self.spend(operation, now, amount, **whose):
            raise WireError(RATE_LIMITED, retry_after_ms=int(wait * 1000) + 1)

    def sweep(self, now: float) -> None:
        """Forget every bucket that is full again. To be called once a minute: it keeps the promise about sources."""
        for rows in self._rows.values():
            for _, table in rows:
                self._forget_full(table, now)

    def remembered(self) -> int:
        """How many buckets there are, for metrics."""
        return sum(len(table) for rows in self._rows.values() for _, table in rows)

    def _make_room(self, table: dict[Hashable, float], now: float) -> None:
        """Sweep a full table, at most once a second: it is large."""
        if now - self._made_room >= 1.0:
            self._made_room = now
            self._forget_full(table, now)

    @staticmethod
    def _forget_full(table: dict[Hashable, float], now: float) -> None:
        for key in [key for key, full_at in table.items() if full_at <= now]:
            del table[key]
