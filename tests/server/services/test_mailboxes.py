"""The mailbox machine: what is answered kept, when, in which order, and what each limit does."""

from dataclasses import replace

import pytest

from taube.server.ports import MailboxId, QueueNumber, Tables
from taube.server.services.mailboxes import Mailboxes, MailboxSettings
from taube.server.stores.memory import MemoryStore
from taube.wire.errors import STORAGE, WireError
from taube.wire.messages import (
    FLAG_EPHEMERAL,
    STATUS_BUSY,
    STATUS_FULL,
    STATUS_GONE,
    STATUS_KEPT,
    AccountId,
    DeviceId,
)
from tests.server.services.fakes import FakeLink, FakeSender
from tests.spec import spec

BOB = MailboxId(b"B" * 16)
CAROL = MailboxId(b"C" * 16)
CHAT, OTHER = b"chat----", b"other---"
KEPT, GONE, FULL, BUSY = (bytes([status]) for status in (STATUS_KEPT, STATUS_GONE, STATUS_FULL, STATUS_BUSY))


class World:
    """Mailboxes over the memory store, with a hand-driven clock. Store answers come with `store.run`."""

    def __init__(self, settings: MailboxSettings) -> None:
        self.store = MemoryStore()
        self.now = 100.0
        self.woken = 0
        self.mailboxes = Mailboxes(settings, self.store, lambda: 500_000, self.wake)
        self.sender = FakeSender()
        self.queues = {each: self.make(each) for each in (BOB, CAROL)}
        self.requests = 0

    def wake(self) -> None:
        self.woken += 1

    def make(self, mailbox: MailboxId) -> QueueNumber:
        made: list[QueueNumber] = []

        def job(tables: Tables) -> None:
            row = tables.add_device(AccountId(bytes(32)), DeviceId(bytes(mailbox)), bytes(32), mailbox)
            made.append(row.queue)

        self.store.write(job, lambda result, error: None)
        self.store.run()
        return made[0]

    def send(self, body: bytes, *to: tuple[bytes, bytes] | None, flags: int = 0) -> int:
        self.requests += 1
        opened = to or ((BOB, CHAT),)
        self.mailboxes.send(self.sender, self.requests, flags, opened, body, self.now)
        return self.requests

    def attach(self, mailbox: MailboxId = BOB) -> FakeLink:
        link = FakeLink()
        self.mailboxes.attach(mailbox, self.queues[mailbox], link, self.now)
        return link

    def settle(self) -> None:
        """Let the store do everything that it has been given, and what follows from that."""
        for _ in range(20):
            self.mailboxes.flush()
            self.store.run()

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.mailboxes.tick(self.now)

    def acknowledge(self, link: FakeLink, upto: int | None = None) -> None:
        self.mailboxes.acknowledge(link, len(link.bodies) if upto is None else upto, self.now)

    def answer(self, request: int) -> bytes | WireError | None:
        return self.sender.answers.get(request)

    def stored(self, mailbox: MailboxId = BOB) -> list[bytes]:
        rows = self.store.tables.envelopes.get(self.queues[mailbox], {})
        return [rows[sequence].body for sequence in sorted(rows)]


@pytest.fixture
def world() -> World:
    return World(MailboxSettings())


def small(**changes: int) -> World:
    return World(replace(MailboxSettings(), **changes))


@spec("DEL-07")
def test_for_an_offline_device_kept_is_answered_only_after_the_store_has_it(world: World) -> None:
    request = world.send(b"hello")
    world.mailboxes.flush()  # looks the mailbox up
    world.store.run()
    world.mailboxes.flush()  # hands the envelope over
    assert world.answer(request) is None
    world.store.run()
    assert world.answer(request) == KEPT
    assert world.stored() == [b"hello"]


@spec("DEL-08")
def test_what_the_device_acknowledges_in_time_is_kept_and_never_stored(world: World) -> None:
    link = world.attach()
    world.settle()
    request = world.send(b"hello")
    assert link.delivered == [(1, CHAT, b"hello")]
    assert world.answer(request) is None
    world.acknowledge(link, 1)
    assert world.answer(request) == KEPT
    world.settle()
    assert world.stored() == []
    assert world.mailboxes.next_deadline() is None


@spec("DEL-08")
def test_what_is_not_acknowledged_in_time_is_stored_and_stays_delivered(world: World) -> None:
    link = world.attach()
    world.settle()
    request = world.send(b"hello")
    assert world.mailboxes.next_deadline() == pytest.approx(world.now + 0.03)
    world.later(0.031)
    world.settle()
    assert world.answer(request) == KEPT
    assert world.stored() == [b"hello"]
    assert link.bodies == [b"hello"], "it is not delivered again"
    world.acknowledge(link, 1)
    world.settle()
    assert world.stored() == []


def test_an_acknowledgement_while_the_store_is_writing_settles_and_deletes(world: World) -> None:
    link = world.attach()
    world.settle()
    request = world.send(b"hello")
    world.later(0.031)
    world.mailboxes.flush()
    world.acknowledge(link, 1)
    assert world.answer(request) == KEPT
    world.settle()
    assert world.stored() == []


def test_a_device_that_was_slow_is_delivered_and_stored_at_once_until_it_is_fast(world: World) -> None:
    link = world.attach()
    world.settle()
    world.send(b"one")
    world.later(0.031)
    world.settle()
    second = world.send(b"two")
    world.settle()
    assert world.answer(second) == KEPT, "nobody waited for its acknowledgement"
    assert link.bodies == [b"one", b"two"]
    world.acknowledge(link)
    world.settle()
    world.send(b"three")
    world.settle()
    assert world.stored() == []


@spec("DEL-09")
def test_what_a_lost_connection_did_not_acknowledge_is_stored_in_order(world: World) -> None:
    link = world.attach()
    world.settle()
    requests = [world.send(body) for body in (b"1", b"2", b"3")]
    world.acknowledge(link, 1)
    world.mailboxes.detach(link, world.now)
    world.settle()
    assert [world.answer(each) for each in requests] == [KEPT] * 3
    assert world.stored() == [b"2", b"3"]
    again = world.attach()
    world.settle()
    assert again.delivered == [(1, CHAT, b"2"), (2, CHAT, b"3")]


@spec("DEL-10")
def test_when_the_store_fails_nothing_is_answered_kept(world: World) -> None:
    world.store.failing = True
    request = world.send(b"hello")
    world.settle()
    answer = world.answer(request)
    assert isinstance(answer, WireError)
    assert answer.kind is STORAGE
    assert answer.retry_after_ms > 0
    world.store.failing = False
    again = world.send(b"hello")
    world.settle()
    assert world.answer(again) == KEPT
    assert world.stored() == [b"hello"]


@spec("DEL-10")
def test_an_address_that_is_kept_is_told_apart_from_one_whose_store_failed(world: World) -> None:
    link = world.attach()
    world.settle()
    request = world.send(b"hello", (BOB, CHAT), (CAROL, CHAT))
    world.store.failing = True
    world.acknowledge(link, 1)
    world.settle()
    assert world.answer(request) == KEPT + BUSY


@spec("DEL-06")
def test_one_answer_holds_one_status_for_each_address_in_order(world: World) -> None:
    request = world.send(b"hello", (BOB, CHAT), None, (CAROL, CHAT), (b"X" * 16, CHAT))
    world.settle()
    assert world.answer(request) == KEPT + GONE + KEPT + GONE
    assert world.stored(BOB) == world.stored(CAROL) == [b"hello"]


@spec("DEL-04")
def test_a_revoked_serial_is_gone_at_once_and_others_are_not(world: World) -> None:
    world.send(b"before")
    world.settle()
    world.mailboxes.revoked(BOB, CHAT)
    revoked, other = world.send(b"after"), world.send(b"other", (BOB, OTHER))
    world.settle()
    assert world.answer(revoked) == GONE
    assert world.answer(other) == KEPT
    assert world.stored() == [b"before", b"other"]


@spec("DEL-04")
def test_a_serial_that_was_revoked_before_the_mailbox_was_looked_up_is_gone(world: World) -> None:
    world.store.write(lambda tables: tables.revoke(world.queues[BOB], CHAT), lambda result, error: None)
    world.store.run()
    request = world.send(b"hello")
    world.settle()
    assert world.answer(request) == GONE


@spec("DEL-12")
def test_nothing_overtakes_what_is_stored(world: World) -> None:
    for body in (b"1", b"2"):
        world.send(body)
    world.settle()
    link = world.attach()
    world.send(b"3")
    world.settle()
    world.send(b"4")
    world.settle()
    assert link.bodies == [b"1", b"2", b"3", b"4"]


@spec("DEL-12")
def test_storing_one_envelope_stores_all_live_ones_before_it() -> None:
    world = small(window_envelopes=2)
    link = world.attach()
    world.settle()
    for body in (b"1", b"2", b"3"):
        world.send(body)
    world.settle()
    assert link.bodies == [b"1", b"2"]
    assert world.stored() == [b"1", b"2", b"3"]
    world.mailboxes.detach(link, world.now)
    again = world.attach()
    world.settle()
    world.acknowledge(again)
    world.settle()
    assert again.bodies == [b"1", b"2", b"3"]


@spec("DEL-13")
def test_delivery_numbers_start_at_one_on_each_connection(world: World) -> None:
    world.send(b"1")
    world.send(b"2")
    world.settle()
    first = world.attach()
    world.settle()
    world.mailboxes.detach(first, world.now)
    second = world.attach()
    world.settle()
    assert [number for number, _, _ in first.delivered] == [1, 2]
    assert [number for number, _, _ in second.delivered] == [1, 2]
    world.acknowledge(first, 2)
    world.settle()
    assert world.stored() == [b"1", b"2"], "an acknowledgement of an earlier connection means nothing"


@spec("DEL-14")
def test_acknowledging_is_cumulative_and_may_be_repeated_or_lowered(world: World) -> None:
    for body in (b"1", b"2", b"3"):
        world.send(body)
    world.settle()
    link = world.attach()
    world.settle()
    for upto in (2, 1, 2, 0):
        world.acknowledge(link, upto)
    world.settle()
    assert world.stored() == [b"3"]


@spec("DEL-14")
def test_an_acknowledgement_of_what_was_not_delivered_yet_forgets_nothing(world: World) -> None:
    link = world.attach()
    world.settle()
    world.acknowledge(link, 1_000_000)
    world.send(b"1")
    world.mailboxes.detach(link, world.now)
    world.settle()
    assert world.stored() == [b"1"]


@spec("DEL-15")
def test_no_more_than_a_window_is_under_way_and_the_rest_follows_acknowledgements() -> None:
    world = small(window_envelopes=4)
    bodies = [b"%d" % place for place in range(20)]
    for body in bodies:
        world.send(body)
    world.settle()
    link = world.attach()
    world.settle()
    assert len(link.bodies) == 4
    while len(link.bodies) < len(bodies):
        before = len(link.bodies)
        world.acknowledge(link)
        world.settle()
        assert before < len(link.bodies) <= before + 4
    assert link.bodies == bodies


@spec("DEL-15")
def test_the_window_counts_bytes_too_and_one_envelope_always_fits() -> None:
    world = small(window_bytes=1000)
    for place in range(3):
        world.send(bytes([place]) * 2000)
    world.settle()
    link = world.attach()
    for expected in (1, 2, 3):
        world.settle()
        assert len(link.bodies) == expected
        world.acknowledge(link)


@spec("DEL-16")
def test_caught_up_is_told_once_when_all_that_waited_was_delivered() -> None:
    world = small(window_envelopes=2)
    for body in (b"1", b"2", b"3"):
        world.send(body)
    world.settle()
    link = world.attach()
    world.settle()
    assert link.told == []
    world.acknowledge(link)
    world.settle()
    assert link.told == [3]
    world.send(b"4")
    world.acknowledge(link)
    world.settle()
    assert link.told == [3]


@spec("DEL-16")
def test_an_empty_mailbox_is_caught_up_at_once(world: World) -> None:
    link = world.attach()
    world.settle()
    assert link.told == [0]


@spec("DEL-17")
def test_a_newer_connection_replaces_and_gets_what_the_older_did_not_acknowledge(world: World) -> None:
    older = world.attach()
    world.settle()
    request = world.send(b"hello")
    newer = world.attach()
    assert older.told == [0, "replaced"]
    world.settle()
    assert newer.bodies == [b"hello"]
    world.acknowledge(newer)
    assert world.answer(request) == KEPT
    world.settle()
    assert world.stored() == []


@spec("DEL-18")
def test_a_full_mailbox_refuses_and_drops_nothing() -> None:
    world = small(capacity_envelopes=4)
    serials = [bytes([place]) * 8 for place in range(6)]
    requests = [world.send(b"%d" % place, (BOB, serial)) for place, serial in enumerate(serials)]
    world.settle()
    assert [world.answer(each) for each in requests] == [KEPT] * 4 + [FULL] * 2
    assert world.stored() == [b"0", b"1", b"2", b"3"]
    link = world.attach()
    world.settle()
    world.acknowledge(link)
    again = world.send(b"4", (BOB, serials[4]))
    world.settle()
    assert world.answer(again) == KEPT or link.bodies[-1] == b"4"


@spec("DEL-18")
def test_one_serial_fills_at_most_a_quarter_in_number_and_in_bytes() -> None:
    world = small(capacity_envelopes=8, capacity_bytes=8000)
    requests = [world.send(b"x") for _ in range(3)]
    large = [world.send(b"y" * 1500, (BOB, OTHER)) for _ in range(2)]
    world.settle()
    assert [world.answer(each) for each in requests] == [KEPT, KEPT, FULL]
    assert [world.answer(each) for each in large] == [KEPT, FULL]


@spec("DEL-19")
def test_an_ephemeral_send_gets_the_same_answer_whatever_becomes_of_it(world: World) -> None:
    link = world.attach()
    world.settle()
    world.mailboxes.revoked(BOB, OTHER)
    pairs = [(BOB, CHAT), (BOB, OTHER), (CAROL, CHAT), None]
    answers = [world.answer(world.send(b"typing", pair, flags=FLAG_EPHEMERAL)) for pair in pairs]
    assert answers == [KEPT] * 4
    assert link.delivered == [(0, CHAT, b"typing")]
    world.settle()
    assert world.stored(BOB) == world.stored(CAROL) == []


@spec("DEL-19")
def test_an_ephemeral_envelope_is_dropped_while_others_wait() -> None:
    world = small(window_envelopes=4)
    link = world.attach()
    world.settle()
    for place in range(3):
        world.send(b"%d" % place)
    world.send(b"typing", flags=FLAG_EPHEMERAL)
    assert all(number for number, _, _ in link.delivered)


@spec("DEL-22")
def test_a_device_that_ended_loses_its_connection_and_its_senders_are_told(world: World) -> None:
    link = world.attach()
    world.settle()
    waiting = world.send(b"hello")
    queue = world.queues[BOB]
    world.store.write(lambda tables: tables.remove_device(queue), lambda result, error: None)
    world.store.run()
    world.mailboxes.ended([queue])
    assert link.told == [0, "ended"]
    assert world.answer(waiting) == GONE
    after = world.send(b"later")
    world.settle()
    assert world.answer(after) == GONE


@spec("DEL-05")
def test_a_renewed_mailbox_keeps_its_envelopes_and_ends_its_old_addresses(world: World) -> None:
    kept = world.send(b"before")
    world.settle()
    waiting = world.send(b"on its way")
    world.mailboxes.flush()
    new = MailboxId(b"N" * 16)
    world.store.write(lambda tables: tables.renew_mailbox(world.queues[BOB], new), lambda result, error: None)
    world.store.run()
    world.mailboxes.renewed(BOB, new)
    old_address, new_address = world.send(b"old"), world.send(b"new", (new, CHAT))
    link = FakeLink()
    world.mailboxes.attach(new, world.queues[BOB], link, world.now)
    world.settle()
    assert [world.answer(each) for each in (kept, waiting, old_address, new_address)] == [KEPT, KEPT, GONE, KEPT]
    assert link.bodies == [b"before", b"on its way", b"new"]


@spec("DEL-23")
def test_above_the_bound_of_the_stores_backlog_a_send_is_answered_busy() -> None:
    world = small(backlog_bytes=10)
    world.send(b"x")
    world.settle()
    first, second = world.send(b"y" * 20), world.send(b"z")
    assert world.answer(second) == BUSY
    world.settle()
    assert world.answer(first) == KEPT


@spec("DEL-23")
def test_while_a_mailbox_is_looked_up_only_so_many_wait_for_it() -> None:
    world = small(loading_envelopes=2)
    requests = [world.send(b"x") for _ in range(3)]
    world.settle()
    assert [world.answer(each) for each in requests] == [KEPT, KEPT, BUSY]


@spec("DEL-23")
def test_above_the_bound_of_live_bytes_envelopes_are_stored_at_once() -> None:
    world = small(live_bytes=10)
    link = world.attach()
    world.settle()
    first, second = world.send(b"x" * 8), world.send(b"y" * 8)
    world.settle()
    assert world.answer(second) == KEPT
    assert link.bodies == [b"x" * 8, b"y" * 8]
    assert world.stored() == [b"x" * 8, b"y" * 8]
    assert world.answer(first) == KEPT


def test_idle_mailboxes_are_forgotten_above_the_bound_and_found_again() -> None:
    world = small(remembered=2)
    others = [MailboxId(bytes([place]) * 16) for place in range(5)]
    for mailbox in others:
        world.queues[mailbox] = world.make(mailbox)
        world.send(b"1", (mailbox, CHAT))
        world.settle()
    assert world.mailboxes.counts()["remembered"] <= 3
    for mailbox in others:
        request = world.send(b"2", (mailbox, CHAT))
        world.settle()
        assert world.answer(request) == KEPT
        assert world.stored(mailbox) == [b"1", b"2"]


def test_what_was_counted_while_its_delete_was_under_way_counts_no_more(world: World) -> None:
    world.send(b"x")
    world.settle()
    link = world.attach()
    world.settle()
    world.acknowledge(link, 1)
    world.mailboxes.detach(link, world.now)
    world.mailboxes.stale()
    world.attach()  # looked up anew, before the store was told
    world.settle()
    assert world.stored() == []
    assert not world.mailboxes.waits(world.queues[BOB])


def test_what_is_deleted_while_its_mailbox_is_looked_up_does_not_stay_counted(world: World) -> None:
    world.send(b"one", (BOB, OTHER))
    world.settle()
    link = world.attach()
    world.settle()
    world.acknowledge(link)  # its deletion waits for the end of this turn
    world.mailboxes.detach(link, world.now)
    world.mailboxes.stale()
    world.send(b"two", (BOB, OTHER))
    link = world.attach()
    world.settle()
    world.acknowledge(link)
    world.settle()
    assert link.bodies == [b"two"] and world.stored() == []
    assert not world.mailboxes.waits(world.queues[BOB])


def test_a_mailbox_that_was_emptied_by_expiry_has_room_again() -> None:
    world = small(capacity_envelopes=4)
    for _ in range(2):
        world.send(b"x")
    world.settle()
    assert world.stored() == [b"x"]
    world.store.tables.envelopes.clear()
    world.mailboxes.stale([world.queues[BOB]])
    request = world.send(b"y")
    world.settle()
    assert world.answer(request) == KEPT
