"""The guarded clock: time that may expire things, and cannot be pushed forward by a wrong wall clock.

It advances with the monotonic clock; at a start it may follow the wall clock by at most one day. A larger jump of the
wall clock, at a start or while running, pauses expiry for a day of running time, in which the operator is told; then
expiry goes on by the guarded clock, which did not follow. Everything that expires was stamped by this same clock, so
a clock that is behind only keeps things longer. A wall clock that went back never takes the guarded clock with it.

Pure: states in, states out. Source: docs/protocol/delivery.md, DEL-20.
"""

import struct
from typing import Final, NamedTuple

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
TOLERANCE_MS: Final = HOUR_MS
PAUSE_S: Final = 86_400.0
FACT: Final = "clock"
FACT_BYTES: Final = 8


class GuardedClock(NamedTuple):
    """Guarded time *base_ms* stood at monotonic time *since*; nothing may expire before monotonic *paused_until*."""

    base_ms: int
    since: float
    paused_until: float
    ahead_ms: int
    """How far the wall clock was ahead when it was last compared; negative when behind."""

    def now_ms(self, monotonic: float) -> int:
        """Guarded milliseconds since 1970."""
        return self.base_ms + int((monotonic - self.since) * 1000)

    def may_expire(self, monotonic: float) -> bool:
        """Whether expiry may run now."""
        return monotonic >= self.paused_until


def start(stored: bytes | None, wall_ms: int, monotonic: float) -> GuardedClock:
    """The clock at a start of the server, from what `save` gave last time (None: the very first start)."""
    if stored is None:
        return GuardedClock(wall_ms, monotonic, monotonic, 0)
    (last,) = struct.unpack(">Q", stored)
    ahead = wall_ms - last
    followed = min(max(ahead, 0), DAY_MS)
    left = ahead - followed
    return GuardedClock(last + followed, monotonic, monotonic + (PAUSE_S if left > TOLERANCE_MS else 0), left)


def check(clock: GuardedClock, wall_ms: int, monotonic: float) -> GuardedClock:
    """Compare with the wall clock while running: a jump ahead of more than an hour since last time pauses expiry."""
    ahead = wall_ms - clock.now_ms(monotonic)
    jumped = ahead - clock.ahead_ms > TOLERANCE_MS and ahead > TOLERANCE_MS
    return clock._replace(ahead_ms=ahead, paused_until=monotonic + PAUSE_S if jumped else clock.paused_until)


def save(clock: GuardedClock, monotonic: float) -> bytes:
    """What to keep for the next start."""
    return struct.pack(">Q", clock.now_ms(monotonic))


def saved_ms(stored: bytes | None) -> int | None:
    """The guarded time that `save` kept."""
    return struct.unpack(">Q", stored)[0] if stored else None


def hour_of(ms: int) -> int:
    """Whole hours since 1970."""
    return ms // HOUR_MS


def day_of(ms: int) -> int:
    """Whole days since 1970."""
    return ms // DAY_MS


def month_of(ms: int) -> int:
    """Year * 100 + month (UTC), such as 202601."""
    days = ms // DAY_MS
    # Civil from days (Howard Hinnant, "chrono-compatible low-level date algorithms"), without any clock of the library.
    z = days + 719_468
    era, doe = divmod(z, 146_097)
    yoe = (doe - doe // 1460 + doe // 36_524 - doe // 146_096) // 365
    doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    shifted = (5 * doy + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return (yoe + era * 400 + (month <= 2)) * 100 + month
