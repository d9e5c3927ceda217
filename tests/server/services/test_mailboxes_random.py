"""Random lives of mailboxes: whatever devices, stores and clocks do, kept is never lost and nothing changes places."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from taube.server.services.mailboxes import Mailboxes, MailboxSettings
from taube.wire.messages import STATUS_KEPT
from tests.server.services.fakes import FakeLink, FakeSender
from tests.server.services.test_mailboxes import BOB, CAROL, CHAT, OTHER, World
from tests.spec import spec

LIMITS = replace(
    MailboxSettings(),
    window_envelopes=3,
    window_bytes=400,
    capacity_envelopes=12,
    live_bytes=300,
    remembered=1,
)
MAILBOXES = (BOB, CAROL)


class Phone:
    """A device: what it decided durably, in order of first arrival, over all its connections."""

    def __init__(self) -> None:
        self.link: FakeLink | None = None
        self.seen = 0
        self.arrived: list[bytes] = []
        self.decided: set[bytes] = set()

    def read(self) -> None:
        if self.link is None:
            return
        for place, (number, _, body) in enumerate(self.link.delivered[self.seen :], self.seen + 1):
            assert number == place, "delivery numbers rise by one from 1"
            if body not in self.arrived:
                self.arrived.append(body)
        self.seen = len(self.link.delivered)


class Lives(RuleBasedStateMachine):
    """Every step is something that a client, the store or the clock does."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(LIMITS)
        self.phones = {each: Phone() for each in MAILBOXES}
        self.sends: dict[tuple[FakeSender, int], tuple[bytes, list[bytes]]] = {}
        self.counters = [0, 0]

    @rule(who=st.integers(0, 1), to=st.sampled_from([(BOB,), (CAROL,), (BOB, CAROL)]), large=st.booleans())
    def send(self, who: int, to: tuple[bytes, ...], large: bool) -> None:
        self.counters[who] += 1
        body = b"%d:%d" % (who, self.counters[who]) + b"." * (150 if large else 0)
        request = self.world.send(body, *((mailbox, CHAT if who else OTHER) for mailbox in to))
        self.sends[self.world.sender, request] = (body, list(to))

    @rule(mailbox=st.sampled_from(MAILBOXES))
    def connect(self, mailbox: bytes) -> None:
        phone = self.phones[mailbox]  # type: ignore[index]
        phone.read()
        phone.link = self.world.attach(mailbox)  # type: ignore[arg-type]
        phone.seen = 0

    @rule(mailbox=st.sampled_from(MAILBOXES))
    def disconnect(self, mailbox: bytes) -> None:
        phone = self.phones[mailbox]  # type: ignore[index]
        if phone.link is not None:
            phone.read()
            self.world.mailboxes.detach(phone.link, self.world.now)
            phone.link = None

    @rule(mailbox=st.sampled_from(MAILBOXES), share=st.integers(1, 4))
    def acknowledge(self, mailbox: bytes, share: int) -> None:
        phone = self.phones[mailbox]  # type: ignore[index]
        if phone.link is not None:
            phone.read()
            upto = -(-phone.seen * share // 4)
            phone.decided.update(body for _, _, body in phone.link.delivered[:upto])
            self.world.acknowledge(phone.link, upto)

    @rule()
    def flush(self) -> None:
        self.world.mailboxes.flush()

    @rule()
    def store_answers_once(self) -> None:
        if self.world.store._queue:
            self.world.store._queue.popleft()()

    @rule()
    def store_answers(self) -> None:
        self.world.settle()

    @rule(failing=st.booleans())
    def disk(self, failing: bool) -> None:
        self.world.store.failing = failing

    @rule(seconds=st.sampled_from([0.01, 0.03, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.later(seconds)

    @rule()
    def expiry_looks_again(self) -> None:
        self.world.mailboxes.stale()

    @precondition(lambda self: sum(self.counters) > 3)
    @rule()
    def server_crashes(self) -> None:
        for mailbox in MAILBOXES:
            self.phones[mailbox].read()
            self.phones[mailbox].link = None
        world = self.world
        world.store._queue.clear()
        world.store._deletes_again.clear()
        world.sender = FakeSender()
        world.mailboxes = Mailboxes(LIMITS, world.store, lambda: 500_000, world.wake)

    def kept(self) -> list[tuple[bytes, bytes]]:
        found = []
        for (sender, request), (body, to) in self.sends.items():
            answer = sender.answers.get(request)
            if isinstance(answer, bytes):
                found += [(to[at], body) for at, status in enumerate(answer) if status == STATUS_KEPT]
        return found

    @invariant()
    def kept_is_decided_or_stored(self) -> None:
        stored = {mailbox: set(self.world.stored(mailbox)) for mailbox in MAILBOXES}
        for mailbox, body in self.kept():
            assert body in self.phones[mailbox].decided or body in stored[mailbox]  # type: ignore[index]

    @invariant()
    def order_within_a_sender_holds(self) -> None:
        for phone in self.phones.values():
            phone.read()
            for who in (b"0", b"1"):
                numbers = [int(body.split(b".")[0][2:]) for body in phone.arrived if body[:1] == who]
                assert numbers == sorted(numbers)

    def teardown(self) -> None:
        self.world.store.failing = False
        for mailbox in MAILBOXES:
            self.connect(mailbox)
        for _ in range(30):
            self.world.settle()
            for mailbox in MAILBOXES:
                self.acknowledge(mailbox, 4)
            self.world.later(1.0)
        self.world.store.submit([], [], lambda kept: None)  # a real engine tries failed deletes again by itself
        self.world.settle()
        for mailbox, body in self.kept():
            assert body in self.phones[mailbox].arrived  # type: ignore[index]
        self.order_within_a_sender_holds()
        for (sender, request), _ in self.sends.items():
            if sender is self.world.sender:
                assert request in sender.answers, "every Send is answered in the end"
        assert self.world.stored(BOB) == self.world.stored(CAROL) == []
        counts = self.world.mailboxes.counts()
        assert counts["live_bytes"] == counts["loading"] == 0
        for mailbox in self.world.mailboxes._mailboxes.values():
            assert (mailbox.envelopes, mailbox.stored_bytes, mailbox.held) == (0, 0, {})
            assert (mailbox.live, mailbox.storing, mailbox.flying_bytes) == (0, 0, 0)


TestLives = spec("DEL-07", "DEL-12")(Lives.TestCase)
TestLives.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.slow
class TestManyLives(Lives.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(
        max_examples=3000, stateful_step_count=80, deadline=None, suppress_health_check=list(HealthCheck)
    )
