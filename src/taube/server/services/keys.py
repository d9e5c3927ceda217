"""Key packages: published by a device, claimed once each by whoever presents a live address of it.

A claim takes the oldest one-time package of the suite; when none is left, the last resort, which stays. The server
does not look inside a package: the client that claims it checks it against the certificate that comes with it.

Source: docs/protocol/identity.md, IDN-20 .. IDN-25.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from taube.server.clock import DAY_MS, month_of
from taube.server.ports import KeyPackages, QueueNumber
from taube.wire.errors import NO_KEY_PACKAGE, STATEMENT_INVALID, TOO_MANY_KEY_PACKAGES, WireError

SUITES: Final = (0x0001, 0x004F)
MAX_WAITING: Final = 100
"""One-time packages of one device and suite."""
PACKAGE_DAYS: Final = 84
"""How long a package can be used. It is forgotten when the month in which this ends begins: the day would tell on which
day its device was last there, and nobody takes a package with less than 50 days left.
"""


class Stock(NamedTuple):
    """What waits for a device: one-time packages of each suite, and the suites with a last resort."""

    classic: int
    hybrid: int
    last_resorts: list[int]


def stock(tables: KeyPackages, queue: QueueNumber) -> Stock:
    """For the answer to a login."""
    kinds = tables.packages_by_kind(queue)
    one_time = {suite: count for suite, is_last_resort, count in kinds if not is_last_resort}
    return Stock(
        one_time.get(SUITES[0], 0),
        one_time.get(SUITES[1], 0),
        [suite for suite, is_last_resort, _ in kinds if is_last_resort],
    )


def publish(
    tables: KeyPackages,
    queue: QueueNumber,
    suite: int,
    packages: Sequence[bytes],
    last_resort: bytes,
    replace: bool,
    now_ms: int,
) -> int:
    """Add packages; the number of one-time packages of the suite that wait now. *now_ms* is guarded.

    Raises TOO_MANY_KEY_PACKAGES above 100, STATEMENT_INVALID for a suite that this server does not know.
    """
    if suite not in SUITES:
        raise WireError(STATEMENT_INVALID, detail="This server keeps no key packages of that suite.")
    if replace:
        tables.clear_packages(queue, suite)
    left = tables.packages_left(queue, suite) + len(packages)
    if left > MAX_WAITING:
        raise WireError(TOO_MANY_KEY_PACKAGES)
    lapses = month_of(now_ms + PACKAGE_DAYS * DAY_MS)
    if packages:
        tables.add_packages(queue, suite, packages, lapses)
    if last_resort:
        tables.set_last_resort(queue, suite, last_resort, lapses)
    return left


def claim(tables: KeyPackages, queue: QueueNumber, suite: int) -> bytes:
    """A package of that suite, which nobody else will get unless it is the last resort. Raises NO_KEY_PACKAGE."""
    package = tables.claim_package(queue, suite)
    if package is None:
        raise WireError(NO_KEY_PACKAGE)
    return package


def expire(tables: KeyPackages, now_ms: int) -> int:
    """Forget packages whose month has come; how many."""
    return tables.expire_packages(month_of(now_ms))


def knows(tables: KeyPackages, queue: QueueNumber) -> list[str]:
    """What is held of a device's packages, in words."""
    return [
        f"{row.packages} {'last resort' if row.last_resort else 'one-time'} of suite {row.suite},"
        f" forgotten in {row.month // 100}-{row.month % 100:02}"
        for row in tables.packages(queue)
    ] or ["none"]
