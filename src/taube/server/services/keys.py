"""Key packages: published by a device, claimed once each by whoever presents a live address of it.

A claim takes the oldest one-time package of the suite; when none is left, the last resort, which stays. The server
does not look inside a package: the client that claims it checks it against the certificate that comes with it.

Source: docs/protocol/identity.md, IDN-20 .. IDN-25.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from taube.server.clock import day_of
from taube.server.ports import KeyPackages, QueueNumber
from taube.wire.errors import NO_KEY_PACKAGE, STATEMENT_INVALID, TOO_MANY_KEY_PACKAGES, WireError

SUITES: Final = (0x0001, 0x004F)
MAX_WAITING: Final = 100
"""One-time packages of one device and suite."""
PACKAGE_DAYS: Final = 84


class Stock(NamedTuple):
    """What waits for a device: one-time packages of each suite, and the suites with a last resort."""

    classic: int
    hybrid: int
    last_resorts: list[int]


def stock(tables: KeyPackages, queue: QueueNumber) -> Stock:
    """For the answer to a login."""
    return Stock(
        tables.packages_left(queue, SUITES[0]), tables.packages_left(queue, SUITES[1]), tables.last_resorts(queue)
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
    lapses = day_of(now_ms) + PACKAGE_DAYS
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
    """Forget packages whose day has come; how many."""
    return tables.expire_packages(day_of(now_ms))
