"""When a sleeping device is woken: once for all that waits, with back-off, and given up where nobody listens.

A device that has a push endpoint is called when something urgent became durable for it. It is woken once, and again
only when it has come and gone in between, or after `again_s` if more arrived. What the push service answers decides
what follows: a failure is tried again with growing waits, an endpoint that is gone is forgotten. Each push service has
a few turns at once, so that a slow one keeps its own devices waiting and nobody else's.

Pure: `Wakeups` is told what happened and the time, and says who is due. It does not know endpoints but for their host,
nor HTTP or what arrived. Source: docs/protocol/delivery.md, WAK-01 ff.
"""

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import urlsplit

from taube.server.ports import PushRow, QueueNumber
from taube.wire.errors import PUSH_REFUSED, WireError

KEY_BYTES: Final = 65
SECRET_BYTES: Final = 16
_UNICAST: Final = IPv6Network("2000::/3")
"""Where the addresses of the internet are in IPv6; outside it are old, local and translated forms of others."""
_NAT64: Final = IPv6Network("64:ff9b::/96")
_SPECIAL: Final = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"), IPv6Network("3fff::/20"))
"""Ranges for special use that not every Python calls so."""
HOST_SHARE: Final = 8
"""Of the pushes under way at once, one host has at most one in so many."""
GIVEN_UP_S: Final = 86_400.0
"""A device that did not come for a day after it was woken, or waited so long for its turn, is forgotten, and woken
again by the next urgent envelope."""


@dataclass(frozen=True, slots=True)
class PushSettings:
    """How devices are woken."""

    again_s: float = 900.0
    """How long after a push the next one may follow while the device has not come."""
    connected_s: float = 20.0
    """How long a device that seems connected has to acknowledge before it is woken too."""
    first_retry_s: float = 10.0
    """How long after a push failed it is tried again; each time twice as long."""
    most_retry_s: float = 3_600.0
    """The longest such wait, also of those that a push service asks for."""
    tries: int = 8
    """How often a push is tried."""
    remembered: int = 50_000
    """Devices that are due or were woken and have not come; above it, no more are woken until some come."""
    at_once: int = 32
    """Pushes under way at once."""
    timeout_s: float = 10.0
    """How long a push may take, from the first byte to the end of its answer."""
    ttl_s: int = 604_800
    """How long a push service shall keep a push for a phone that is off."""
    allow_private: int = 0
    """1: push also goes to private addresses and without TLS. For tests only: anyone with an account could reach what
    only this machine should."""


class Answer(Enum):
    """What became of one push."""

    TAKEN = "taken"
    GONE = "gone"
    """The subscription is no more: forget the endpoint."""
    LATER = "later"
    REFUSED = "refused"
    """It will never be taken: a wrong request, or an address that we do not push to."""


def check_endpoint(row: PushRow, allow_private: bool) -> tuple[str, int]:
    """(host, port) of an endpoint that we may push to, as far as can be seen without asking the network.

    Raises PUSH_REFUSED, with a detail that says what is wrong and names nobody.
    """
    try:
        parts = urlsplit(row.endpoint)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        host.encode("idna")  # as whoever looks it up does: empty and overlong labels are refused
    except ValueError as error:
        raise _refused("The endpoint is no URL.") from error
    if not row.endpoint.isascii() or any(ord(each) <= 32 for each in row.endpoint) or not host or parts.username:
        raise _refused("The endpoint is no URL.")
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise _refused("The endpoint is no https URL.")
    if len(row.key) != KEY_BYTES or row.key[0] != 4 or len(row.secret) != SECRET_BYTES:
        raise _refused("The key or the secret has another form.")
    if not allow_private:
        try:
            address = ip_address(host)
        except ValueError:
            if "." not in host.rstrip(".") or host.rstrip(".").endswith((".localhost", ".local", ".internal")):
                raise _refused("The endpoint is not on the internet.") from None
        else:
            if not is_public(address):
                raise _refused("The endpoint is not on the internet.")
    return host, port


def host_of(row: PushRow) -> str:
    """The host of an endpoint that `check_endpoint` took, in one spelling."""
    return (urlsplit(row.endpoint).hostname or "").rstrip(".")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the internet at large: not this machine, not its network, not a special range."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is not None:
            return is_public(inner)
        if address in _NAT64:
            return is_public(IPv4Address(address.packed[12:]))
        if address not in _UNICAST:
            return False
    return address.is_global and not address.is_multicast and not any(address in each for each in _SPECIAL)


def _refused(detail: str) -> WireError:
    return WireError(PUSH_REFUSED, detail=detail)


class _Sleeper:
    """One device: *called* and *woken* at last; *due* when it is to be woken, None while it is not or waits for a turn;
    *tries* of the present push.

    *rests_until*: no push before; its push service failed, or asked for time. *came*: it was here since its push was
    begun; *again*: when it is to be woken for what came since then.
    """

    __slots__ = ("again", "called", "came", "due", "rests_until", "tries", "under_way", "woken")

    def __init__(self) -> None:
        self.due: float | None = None
        self.tries = 0
        self.under_way = False
        self.came = False
        self.again: float | None = None
        self.called = self.woken = self.rests_until = float("-inf")


class _Turns:
    """Which devices have a turn at the host of their push service, *most* of each host's, and which wait for one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._hosts: dict[QueueNumber, str] = {}
        self._taken: dict[str, int] = {}
        self._lines: dict[str, OrderedDict[QueueNumber, None]] = {}

    def __contains__(self, queue: QueueNumber) -> bool:
        """Whether a device has a turn or waits for one."""
        return queue in self._hosts

    def has(self, queue: QueueNumber, host: str) -> bool:
        return self._hosts.get(queue) == host and queue not in self._lines.get(host, ())

    def take(self, queue: QueueNumber, host: str) -> bool:
        """Whether a device that is in no line has a turn now; else it stands in its host's line."""
        self._hosts[queue] = host
        if self._taken.get(host, 0) >= self._most:
            self._lines.setdefault(host, OrderedDict())[queue] = None
            return False
        self._taken[host] = self._taken.get(host, 0) + 1
        return True

    def leave(self, queue: QueueNumber) -> QueueNumber | None:
        """Give a turn back, or leave the line; who has the turn instead. Idempotent."""
        host = self._hosts.pop(queue, None)
        if host is None:
            return None
        line = self._lines.get(host, OrderedDict())
        heir = None
        if queue in line:
            del line[queue]
        elif line:
            heir, _ = line.popitem(last=False)
        else:
            self._taken[host] -= 1
            if not self._taken[host]:
                del self._taken[host]
        if not line:
            self._lines.pop(host, None)
        return heir


class Wakeups:
    """Who is to be woken, and when. Times are monotonic seconds."""

    def __init__(self, settings: PushSettings) -> None:
        self._settings = settings
        self._sleepers: dict[QueueNumber, _Sleeper] = {}
        self._heap: list[tuple[float, QueueNumber]] = []
        self._under_way = 0
        self._turns = _Turns(max(1, settings.at_once // HOST_SHARE))

    def wants(self, queue: QueueNumber, now: float) -> bool:
        """Whether a call would lead to a push: not if one is due, under way or just made, unless it came since."""
        sleeper = self._sleepers.get(queue)
        if sleeper is None:
            return len(self._sleepers) < self._settings.remembered
        if sleeper.under_way:
            return sleeper.came and sleeper.again is None
        if sleeper.due is not None or queue in self._turns:
            return False
        return now - sleeper.woken >= self._settings.again_s

    def call(self, queue: QueueNumber, now: float, is_connected: bool) -> None:
        """Something urgent waits for this device. Does nothing unless `wants`."""
        if self.wants(queue, now):
            sleeper = self._sleepers.setdefault(queue, _Sleeper())
            sleeper.called = now
            at = now + (self._settings.connected_s if is_connected else 0.0)
            if sleeper.under_way:
                sleeper.again = at
                return
            sleeper.came = False
            self._plan(queue, sleeper, max(at, sleeper.rests_until))

    def came(self, queue: QueueNumber) -> None:
        """The device is here, or is no more: nothing has to be remembered of it, but of a push service that failed.

        Else a device that comes and goes could have such a push service tried all the time, in place of others'.
        """
        sleeper = self._sleepers.get(queue)
        if sleeper is None:
            return
        sleeper.due = sleeper.again = None
        sleeper.came = True
        if sleeper.under_way:
            return
        self._leave(queue)
        if not sleeper.tries:
            del self._sleepers[queue]

    def due(self, now: float) -> list[QueueNumber]:
        """Those to be woken now; each is under way until `answered`, `skipped` or put off by `begins`."""
        wanted = []
        while self._heap and self._heap[0][0] <= now and self._under_way < self._settings.at_once:
            at, queue = heapq.heappop(self._heap)
            sleeper = self._sleepers.get(queue)
            if sleeper is None or sleeper.due != at:
                continue
            sleeper.due = None
            sleeper.under_way = True
            self._under_way += 1
            wanted.append(queue)
        return wanted

    def begins(self, queue: QueueNumber, host: str) -> bool:
        """Whether the push of a device that was due begins, at *host*.

        Else that host has as many under way as it may: the device waits for its turn there, is due again then, and
        holds nobody up meanwhile.
        """
        if self._turns.has(queue, host):
            return True
        self._leave(queue)
        if self._turns.take(queue, host):
            return True
        sleeper = self._sleepers[queue]
        sleeper.under_way = False
        self._under_way -= 1
        if sleeper.came:  # while its endpoint was read
            again = sleeper.again
            self.came(queue)
            if again is not None:
                self.call(queue, again, is_connected=False)
        return False

    def answered(self, queue: QueueNumber, answer: Answer, now: float, after_s: float = 0.0) -> None:
        """What became of a push; *after_s*: how long the push service asks to wait."""
        sleeper = self._sleepers[queue]
        settings = self._settings
        sleeper.under_way = False
        self._under_way -= 1
        self._leave(queue)
        sleeper.tries += 1
        again, sleeper.again = sleeper.again, None
        if answer is Answer.LATER and sleeper.tries < settings.tries:
            wait_s = max(after_s, settings.first_retry_s * 2 ** (sleeper.tries - 1))
            sleeper.rests_until = now + min(wait_s, settings.most_retry_s)
            if not sleeper.came or again is not None:
                sleeper.came = False
                self._plan(queue, sleeper, max(sleeper.rests_until, again or 0.0))
        elif answer is Answer.TAKEN and not sleeper.came:
            sleeper.woken = now
            sleeper.tries = 0
        elif again is not None and answer is not Answer.LATER:
            sleeper.came = False
            sleeper.tries = 0
            self._plan(queue, sleeper, again)
        else:
            del self._sleepers[queue]

    def skipped(self, queue: QueueNumber) -> None:
        """There was nothing to be woken for any more."""
        if self._sleepers.pop(queue, None) is not None:
            self._under_way -= 1
            self._leave(queue)

    def sweep(self, now: float) -> None:
        """Forget those who were woken long ago or wait in a line that does not move, and plans that were given up.

        It looks at everyone.
        """
        for queue, sleeper in list(self._sleepers.items()):
            is_idle = sleeper.due is None and not sleeper.under_way
            since = sleeper.called if queue in self._turns else sleeper.woken
            if is_idle and now - since > GIVEN_UP_S and now >= sleeper.rests_until:
                self._leave(queue)
                del self._sleepers[queue]
        self._heap = [(each.due, queue) for queue, each in self._sleepers.items() if each.due is not None]
        heapq.heapify(self._heap)

    def next_due(self) -> float | None:
        """When `due` has something, as far as known; None while it has not or as many are under way as may be."""
        if self._under_way >= self._settings.at_once:
            return None
        while self._heap:
            at, queue = self._heap[0]
            sleeper = self._sleepers.get(queue)
            if sleeper is not None and sleeper.due == at:
                return at
            heapq.heappop(self._heap)
        return None

    def remembered(self) -> int:
        """How many devices are remembered, for metrics."""
        return len(self._sleepers)

    def _leave(self, queue: QueueNumber) -> None:
        """It has no turn at its host any more, nor waits for one; who was next there is due."""
        heir = self._turns.leave(queue)
        if heir is not None:
            self._plan(heir, self._sleepers[heir], float("-inf"))

    def _plan(self, queue: QueueNumber, sleeper: _Sleeper, at: float) -> None:
        sleeper.due = at
        heapq.heappush(self._heap, (at, queue))
