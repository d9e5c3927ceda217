"""A whole server in one thread for the fuzzer: real listener, connections, commands and services, the same each time.

`World` is what server/app.py builds, with the engine of dictionaries and with fixed keys, randomness and time: one
account whose device can log in, one address that can be sent to, one invitation.

It knows neither sockets nor fuzzing: it raises `Broken` for what a server must not do, whatever it was sent.
"""

import re
from collections import deque
from collections.abc import Callable
from copy import deepcopy
from typing import Any, Final

from taube.server import secrets
from taube.server.gateway.connection import Channel, Connection, ConnectionConfig, Turn
from taube.server.gateway.dispatch import Dispatch
from taube.server.gateway.hub import Hub
from taube.server.limits import Limits
from taube.server.ports import MailboxId, PushRow
from taube.server.services import accounts, registration
from taube.server.services.mailboxes import Mailboxes, MailboxSettings
from taube.server.services.push import check_endpoint
from taube.server.stores.memory import MemoryStore, MemoryTables
from taube.wire.errors import WireError
from taube.wire.messages import Event, Failed, Reply
from taube.wire.session import ServerSession, login_message
from tests.server.services.people import Person

ORIGIN: Final = "https://taube.example"
NOW_MS: Final = 1_790_000_000_000
NONCE: Final = bytes(range(32))
INVITATION: Final = b"invitation 16 by"
MAILBOX: Final = MailboxId(b"mailbox 16 bytes")
SERIAL: Final = b"serial 8"
PERSON: Final = Person(1)
NEWCOMER: Final = Person(2)
SEALER: Final = secrets.AddressKeys({0: bytes(range(64))}, 0)
ADDRESS: Final = SEALER.seal(MAILBOX, SERIAL)
PUSH_KEY: Final = secrets.PushKey(bytes(31) + b"\x07")
SIGNATURE: Final = PERSON.login_keys[0].sign(login_message(ORIGIN, PERSON.device_id(0), NONCE))


class Broken(AssertionError):
    """The server did what it must not do."""


def fixed_random(size: int) -> bytes:
    return b"\x5a" * size


def _prepared() -> MemoryTables:
    tables = MemoryTables()
    new = accounts.check_new(PERSON.genesis, PERSON.device_list(), secrets.verify)
    accounts.create(tables, new, 202609, lambda size: bytes(MAILBOX)[:size])
    registration.invite(tables, 3, 30, NOW_MS, lambda size: INVITATION[:size])
    return tables


_TABLES: Final = _prepared()


def _check_push(row: PushRow, done: Callable[[WireError | None], None]) -> None:
    """Whether an endpoint may be pushed to, without asking the network."""
    try:
        check_endpoint(row, allow_private=False)
    except WireError as error:
        done(error)
    else:
        done(None)


MOST_BYTES: Final = (1 << 20, 1 << 20)
"""What may wait for slow readers, and what large frames may take, before those that take most are cut off."""
_SMALL: Final = MailboxSettings(
    capacity_envelopes=12,
    capacity_bytes=8_192,
    window_envelopes=4,
    window_bytes=2_048,
    live_bytes=3_072,
    backlog_bytes=4_096,
    loading_envelopes=16,
    remembered=2,
)
"""Bounds that a short input can reach."""


class Metrics:
    """Keeps nothing; INTERNAL among the refusals is a bug that somebody swallowed."""

    def count(self, name: str, amount: float = 1, reason: str = "") -> None:
        if reason == "internal":
            raise Broken("a command was refused as an internal error")

    def gauge(self, name: str, value: float) -> None: ...
    def observe(self, name: str, value: float) -> None: ...


class World:
    """One server's parts, new for each input. *call_soon* and *monotonic* are a loop's, or by hand."""

    def __init__(
        self, call_soon: Callable[..., Any] | None = None, monotonic: Callable[[], float] | None = None
    ) -> None:
        self.now = 1_000.0
        self.bugs: list[BaseException] = []
        self._soon: deque[Callable[[], None]] = deque()
        self._call_soon = call_soon or self._soon.append
        self.monotonic = monotonic or (lambda: self.now)
        self.store = MemoryStore(self._call_soon)
        self.store.tables = deepcopy(_TABLES)
        self.turn = Turn(self._call_soon, self._finish)
        self.hub = Hub()
        self.limits = Limits()
        self.mailboxes = Mailboxes(_SMALL, self.store, lambda: 500_000, self.turn.arm)
        self.dispatch = Dispatch(
            origin=ORIGIN,
            store=self.store,
            mailboxes=self.mailboxes,
            sealer=SEALER,
            verify=secrets.verify,
            hub=self.hub,
            limits=self.limits,
            time=self,
            random=fixed_random,
            metrics=Metrics(),
            log_bug=self.bugs.append,
            check_push=_check_push,
        )

    def wall_ms(self) -> int:
        return NOW_MS

    def guarded_ms(self) -> int:
        return NOW_MS

    def _finish(self) -> None:
        self.mailboxes.flush()

    def connect(self, channel: Channel, source: str | None = None) -> Connection:
        session = ServerSession(nonce=NONCE, origin=ORIGIN, now_ms=NOW_MS, generation=bytes(16))
        return Connection(
            channel,
            session,
            self.dispatch,
            source=source,
            turn=self.turn,
            time=self.monotonic,
            config=ConnectionConfig(),
        )

    def run(self) -> None:
        """Do what is due, without a loop, and raise what went wrong."""
        while self._soon:
            self._soon.popleft()()
        self.judge()

    def later(self, seconds: float) -> None:
        """Let time pass, without a loop."""
        self.now += seconds
        self.mailboxes.tick(self.now)
        self.turn.arm()
        self.run()
        self.hub.check(self.now, *MOST_BYTES)
        self.run()

    def judge(self) -> None:
        if self.bugs:
            raise Broken("a bug that a connection met") from self.bugs[0]


def said(message: Reply | Event) -> str:
    """What a server said, in one short text without what varies."""
    if isinstance(message, Failed):
        return f"Failed {message.code} {plain(message.detail)}"
    return type(message).__name__


def plain(text: str) -> str:
    """A message for people without the numbers and values in it."""
    return re.sub(r"(?<!\[)\d+|'[^']*'|“[^”]*”|`[^`]{30,}`", "", text)[:80]
