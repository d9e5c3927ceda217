"""Random work on the embedded engine beside the memory store: the same answers, also after restarts."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from taube.server.ports import EnvelopeRow, MailboxId, QueueNumber
from taube.wire.messages import AccountId, DeviceId, GateName, Serial
from tests.server.stores.conftest import MemoryEngine, SqliteEngine

MAILBOXES = [MailboxId(bytes([each]) * 16) for each in range(3)]
SERIALS = [Serial(bytes([each]) * 8) for each in range(2)]
PLACES = st.integers(0, 2)
SUITES = st.sampled_from([1, 0x4F])


class Engines(RuleBasedStateMachine):
    """The same calls to both."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.model = MemoryEngine()
        self.real = SqliteEngine(Path(self._folder.name) / "taube.db")
        self.queues: dict[int, QueueNumber] = {}
        self.tops: dict[int, int] = {}

    def both(self, call: str, job: object) -> object:
        ours, theirs = (getattr(each, call)(job) for each in (self.model, self.real))
        assert ours == theirs
        return ours

    @rule(at=PLACES)
    def add_device(self, at: int) -> None:
        if at not in self.queues:
            account, mailbox = AccountId(bytes(32)), MAILBOXES[at]
            row = self.both("write", lambda t: t.add_device(account, DeviceId(bytes([at]) * 16), bytes(32), mailbox))
            self.queues[at] = row.queue  # type: ignore[attr-defined]
            self.tops[at] = 0

    @rule(at=PLACES)
    def remove_device(self, at: int) -> None:
        if at in self.queues:
            queue = self.queues.pop(at)
            self.both("write", lambda t: t.remove_device(queue))

    @rule(at=PLACES, serial=st.sampled_from(SERIALS), number=st.integers(1, 80), size=st.integers(0, 300))
    def append(self, at: int, serial: Serial, number: int, size: int) -> None:
        if at in self.queues:
            top = self.tops[at]
            added = [
                EnvelopeRow(self.queues[at], top + place, serial, top, bytes([place % 256]) * size)
                for place in range(1, number + 1)
            ]
            self.tops[at] = top + number
            assert [each.submit(added) for each in (self.model, self.real)] == [True, True]

    @rule(at=PLACES, back=st.integers(0, 30))
    def acknowledge(self, at: int, back: int) -> None:
        if at in self.queues:
            upto = max(0, self.tops[at] - back)
            for each in (self.model, self.real):
                each.submit([], [(self.queues[at], upto)])

    @rule(at=PLACES, after=st.integers(0, 100), count=st.integers(1, 40), size=st.integers(1, 5000))
    def fetch(self, at: int, after: int, count: int, size: int) -> None:
        if at in self.queues:
            found = [each.fetch(self.queues[at], after, count, size) for each in (self.model, self.real)]
            assert found[0] == found[1]

    @rule(before=st.integers(0, 100), limit=st.integers(1, 50))
    def expire(self, before: int, limit: int) -> None:
        self.both("write", lambda t: t.expire_envelopes(before, limit))

    @rule(at=PLACES, serial=st.sampled_from(SERIALS))
    def revoke(self, at: int, serial: Serial) -> None:
        if at in self.queues:
            self.both("write", lambda t: t.revoke(self.queues[at], serial))
            self.both(
                "read", lambda t: [t.revoked_serials(self.queues[at], 2), t.waiting_by_serial(self.queues[at], 2)]
            )

    @rule(at=PLACES, suite=SUITES, packages=st.lists(st.binary(min_size=1, max_size=4), max_size=3), day=PLACES)
    def publish(self, at: int, suite: int, packages: list[bytes], day: int) -> None:
        if at in self.queues:
            self.both("write", lambda t: t.add_packages(self.queues[at], suite, packages, day))
            if day == 0:
                self.both("write", lambda t: t.set_last_resort(self.queues[at], suite, b"last", day))

    @rule(at=PLACES, suite=SUITES)
    def claim_package(self, at: int, suite: int) -> None:
        if at in self.queues:
            self.both("write", lambda t: t.claim_package(self.queues[at], suite))
            self.both("read", lambda t: t.packages(self.queues[at]))

    @rule(day=PLACES)
    def expire_more(self, day: int) -> None:
        self.both("write", lambda t: [t.expire_packages(day), t.expire_gates(day)])

    @rule(name=PLACES, value=PLACES, day=PLACES)
    def claim_gate(self, name: int, value: int, day: int) -> None:
        self.both("write", lambda t: t.claim_gate(GateName(bytes([name]) * 32), bytes([value]), day))

    @rule()
    def restart(self) -> None:
        self.real.reopen()

    @invariant()
    def the_same_is_loaded(self) -> None:
        assert self.model.load(*MAILBOXES) == self.real.load(*MAILBOXES)

    def teardown(self) -> None:
        self.real.close()
        self._folder.cleanup()


TestEngines = Engines.TestCase
TestEngines.settings = settings(max_examples=10, stateful_step_count=25, deadline=None)
