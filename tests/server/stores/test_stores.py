"""What every engine has to do, run against each; a new engine is done when these pass."""

import pytest

from taube.server.ports import (
    AccountRow,
    DeviceRow,
    EnvelopeRow,
    InvitationRow,
    MailboxId,
    MailboxRow,
    PushRow,
    QueueNumber,
    Tables,
)
from taube.wire.errors import ADDRESS_GONE, INTERNAL, WireError
from taube.wire.messages import AccountId, DeviceId, GateName, Serial
from tests.server.stores.conftest import Engine
from tests.spec import spec

ANN = AccountId(b"A" * 32)
MAIN, SPARE = MailboxId(b"M" * 16), MailboxId(b"S" * 16)
HERE, THERE = Serial(b"here----"), Serial(b"there---")


def device(engine: Engine, mailbox: MailboxId = MAIN, account: AccountId = ANN) -> DeviceRow:
    row = engine.write(lambda t: t.add_device(account, DeviceId(bytes(mailbox)), b"k" * 32, mailbox))
    assert isinstance(row, DeviceRow)
    return row


def rows(queue: QueueNumber, first: int, last: int, serial: Serial = HERE, hour: int = 100) -> list[EnvelopeRow]:
    return [EnvelopeRow(queue, each, serial, hour, b"%d" % each) for each in range(first, last + 1)]


def bodies(engine: Engine, queue: QueueNumber) -> list[bytes]:
    return [each.body for each in engine.fetch(queue)[0]]


def test_a_job_that_refuses_leaves_nothing_and_its_neighbours_stay(engine: Engine) -> None:
    def refused(tables: Tables) -> None:
        tables.set_fact("b", b"2")
        raise WireError(ADDRESS_GONE)

    def broken(tables: Tables) -> None:
        tables.set_fact("c", b"3")
        raise ZeroDivisionError

    answers: list[WireError | None] = []

    def begin(done: object) -> None:
        engine.store.write(lambda t: t.set_fact("a", b"1"), lambda result, error: answers.append(error))
        engine.store.write(refused, lambda result, error: answers.append(error))
        engine.store.write(broken, lambda result, error: answers.append(error))
        engine.store.write(lambda t: t.set_fact("d", b"4"), done)  # type: ignore[arg-type]

    engine.wait(begin)
    assert [error.kind if error else None for error in answers] == [None, ADDRESS_GONE, INTERNAL]
    assert engine.read(lambda t: t.facts("")) == {"a": b"1", "d": b"4"}


def test_accounts_and_devices_are_found_as_they_were_put(engine: Engine) -> None:
    account = AccountRow(ANN, b"g" * 65, b"list", 1, 202601, 202602)
    engine.write(lambda t: t.add_account(account))
    row = device(engine)
    assert engine.read(lambda t: t.account(ANN)) == account
    assert engine.read(lambda t: t.account(AccountId(b"X" * 32))) is None
    assert engine.read(lambda t: [t.used_month(ANN), t.used_month(AccountId(b"X" * 32))]) == [202602, None]
    assert engine.read(lambda t: [t.device(ANN, row.device), t.device_at(MAIN), t.device_of(row.queue)]) == [row] * 3
    engine.write(lambda t: [t.replace_list(ANN, b"newer", 2), t.touch_account(ANN, 202603)])
    expected = account._replace(device_list=b"newer", counter=2, used_month=202603)
    assert engine.read(lambda t: t.account(ANN)) == expected
    assert engine.read(lambda t: t.unused_accounts(202603, 10)) == []
    assert engine.read(lambda t: t.unused_accounts(202604, 10)) == [ANN]
    engine.write(lambda t: t.remove_account(ANN))
    assert engine.read(lambda t: t.account(ANN)) is None


@spec("DEL-22")
def test_a_removed_device_takes_everything_with_it_and_its_queue_never_returns(engine: Engine) -> None:
    row, other = device(engine), device(engine, SPARE)
    engine.submit(rows(row.queue, 1, 3) + rows(other.queue, 1, 1))
    engine.write(
        lambda t: [
            t.revoke(row.queue, HERE),
            t.add_packages(row.queue, 1, [b"p"], 500),
            t.set_last_resort(row.queue, 1, b"r", 500),
        ]
    )
    engine.write(lambda t: t.remove_device(row.queue))
    assert engine.submit(rows(row.queue, 4, 5)), "what was on its way is dropped"
    assert engine.read(lambda t: t.waiting(row.queue)) == (0, 0)
    assert engine.read(lambda t: t.claim_package(row.queue, 1)) is None
    assert engine.read(lambda t: t.revoked_count(row.queue)) == 0
    assert bodies(engine, other.queue) == [b"1"]
    assert device(engine).queue > other.queue


def test_a_job_that_removed_a_device_and_then_refused_removed_nothing(engine: Engine) -> None:
    row = device(engine)

    def job(tables: Tables) -> None:
        tables.remove_device(row.queue)
        raise WireError(ADDRESS_GONE)

    with pytest.raises(WireError):
        engine.write(job)
    engine.submit(rows(row.queue, 1, 2))
    assert bodies(engine, row.queue) == [b"1", b"2"]


def test_envelopes_are_fetched_in_order_within_count_and_size(engine: Engine) -> None:
    row = device(engine)
    engine.submit([EnvelopeRow(row.queue, each, HERE, 100, bytes([each]) * 100) for each in (3, 1, 2, 9)])
    found, more = engine.fetch(row.queue)
    assert [(each.sequence, each.body[0]) for each in found] == [(1, 1), (2, 2), (3, 3), (9, 9)]
    assert not more
    assert [each.sequence for each in engine.fetch(row.queue, after=2)[0]] == [3, 9]
    for count, size, expected, left in ((2, 1000, [1, 2], True), (9, 250, [1, 2], True), (9, 10, [1], True)):
        found, more = engine.fetch(row.queue, 0, count, size)
        assert ([each.sequence for each in found], more) == (expected, left)
    assert engine.fetch(row.queue, after=9) == ([], False)


@spec("DEL-14")
def test_acknowledged_envelopes_are_deleted_up_to_a_place_and_only_of_that_queue(engine: Engine) -> None:
    row, other = device(engine), device(engine, SPARE)
    engine.submit(rows(row.queue, 1, 300) + rows(other.queue, 1, 3))
    engine.submit(rows(row.queue, 301, 301), [(row.queue, 298), (other.queue, 1)])
    assert bodies(engine, row.queue) == [b"299", b"300", b"301"]
    assert bodies(engine, other.queue) == [b"2", b"3"]
    engine.submit(rows(row.queue, 302, 302), [(row.queue, 302)])
    assert bodies(engine, row.queue) == [], "what is put and acknowledged in one batch is gone"


def test_many_queues_are_deleted_from_in_one_batch(engine: Engine) -> None:
    queues = [device(engine, MailboxId(bytes([each]) * 16)).queue for each in range(75)]
    engine.submit([row for queue in queues for row in rows(queue, 1, 2)])
    engine.submit([], [(queue, 1) for queue in queues])
    assert [bodies(engine, queue) for queue in queues] == [[b"2"]] * 75


def test_a_mailbox_is_loaded_with_what_it_holds_and_refuses(engine: Engine) -> None:
    row = device(engine)
    device(engine, SPARE)
    engine.submit(rows(row.queue, 1, 9) + rows(row.queue, 10, 12, THERE))
    engine.write(lambda t: [t.revoke(row.queue, HERE), t.revoke(row.queue, HERE)])
    main, unknown, spare = engine.load(MAIN, MailboxId(b"?" * 16), SPARE)
    assert main is not None
    assert spare is not None
    assert main._replace(held={}) == (row.queue, 12, {}, frozenset({HERE}), False)
    assert main.held == {HERE: (9, 9), THERE: (3, 6)}
    assert unknown is None
    assert (spare.top, spare.held, spare.revoked) == (0, {}, frozenset())


def test_many_mailboxes_are_loaded_at_once(engine: Engine) -> None:
    mailboxes = [MailboxId(bytes([each]) * 16) for each in range(100)]
    for each in mailboxes[::2]:
        device(engine, each)
    found = engine.load(*mailboxes)
    assert [row is not None for row in found] == [place % 2 == 0 for place in range(100)]


def test_mailboxes_are_answered_in_the_order_in_which_they_were_asked_for_empty_or_not(engine: Engine) -> None:
    row, spare = device(engine), device(engine, SPARE)
    engine.submit(rows(row.queue, 1, 3))
    asked = [SPARE, MAIN, SPARE, MailboxId(b"?" * 16), MAIN, SPARE]
    answers: list[QueueNumber | None] = []

    def answered(found: list[MailboxRow | None] | None) -> None:
        assert found is not None
        answers.extend(each.queue if each is not None else None for each in found)

    for each in asked:
        engine.store.load([each], answered)
    engine.load(MAIN)
    assert answers == [spare.queue, row.queue, spare.queue, None, row.queue, spare.queue]


@spec("DEL-05")
def test_a_renewed_mailbox_has_another_id_the_same_queue_and_no_revocations(engine: Engine) -> None:
    row = device(engine)
    engine.submit(rows(row.queue, 1, 2))
    engine.write(lambda t: t.revoke(row.queue, HERE))
    engine.write(lambda t: t.renew_mailbox(row.queue, SPARE))
    assert engine.read(lambda t: t.device_at(MAIN)) is None
    assert engine.read(lambda t: t.device_at(SPARE)) == row._replace(mailbox=SPARE, remint=True)
    assert engine.read(lambda t: t.revoked_count(row.queue)) == 0
    assert bodies(engine, row.queue) == [b"1", b"2"]
    engine.write(lambda t: t.clear_remint(row.queue))
    assert engine.read(lambda t: t.device_of(row.queue)).remint is False


def test_invitations_are_used_and_expire(engine: Engine) -> None:
    row = InvitationRow(b"h" * 32, 2, 1_000)
    engine.write(lambda t: t.add_invitation(row))
    engine.write(lambda t: t.use_invitation(row.hash))
    assert engine.read(lambda t: t.invitation(row.hash)) == row._replace(uses_left=1)
    assert engine.write(lambda t: t.expire_invitations(1_000)) == 0
    assert engine.write(lambda t: t.expire_invitations(1_001)) == 1
    assert engine.write(lambda t: t.remove_invitation(row.hash)) is False


@spec("IDN-22", "IDN-23")
def test_a_one_time_package_is_claimed_once_oldest_first_then_the_last_resort_stays(engine: Engine) -> None:
    queue = device(engine).queue
    engine.write(lambda t: t.add_packages(queue, 1, [b"1", b"2"], 500))
    engine.write(lambda t: t.add_packages(queue, 1, [b"3"], 600))
    engine.write(lambda t: t.set_last_resort(queue, 1, b"old", 500))
    engine.write(lambda t: t.set_last_resort(queue, 1, b"last", 500))
    engine.write(lambda t: t.add_packages(queue, 0x4F, [b"hybrid"], 500))
    assert engine.read(lambda t: [t.packages_left(queue, 1), t.packages_left(queue, 0x4F)]) == [3, 1]
    assert engine.read(lambda t: t.packages_by_kind(queue)) == [(1, False, 3), (1, True, 1), (0x4F, False, 1)]
    claimed = [engine.write(lambda t: t.claim_package(queue, 1)) for _ in range(5)]
    assert claimed == [b"1", b"2", b"3", b"last", b"last"]
    assert engine.write(lambda t: t.claim_package(queue, 0x4F)) == b"hybrid"
    assert engine.write(lambda t: t.claim_package(queue, 0x4F)) is None


def test_packages_are_replaced_and_expire(engine: Engine) -> None:
    queue = device(engine).queue
    engine.write(lambda t: [t.add_packages(queue, 1, [b"1"], 500), t.add_packages(queue, 2, [b"2", b"3"], 501)])
    engine.write(lambda t: t.set_last_resort(queue, 1, b"last", 500))
    assert engine.read(lambda t: t.packages(queue)) == [(1, False, 500, 1), (1, True, 500, 1), (2, False, 501, 2)]
    engine.write(lambda t: t.clear_packages(queue, 1))
    assert engine.read(lambda t: t.packages_left(queue, 1)) == 0
    assert engine.read(lambda t: t.packages_by_kind(queue)) == [(1, True, 1), (2, False, 2)]
    engine.write(lambda t: t.claim_package(queue, 2))
    assert engine.write(lambda t: t.expire_packages(499)) == 0
    assert engine.write(lambda t: t.expire_packages(500)) == 1
    assert engine.read(lambda t: t.packages_by_kind(queue)) == [(2, False, 1)]


@spec("GAT-01")
def test_the_first_claim_of_a_gate_wins_and_the_others_get_its_value(engine: Engine) -> None:
    gate = GateName(b"g" * 32)
    assert engine.read(lambda t: t.read_gate(gate)) is None
    assert [engine.write(lambda t, v=value: t.claim_gate(gate, v, 100)) for value in (b"1", b"2", b"1")] == [b"1"] * 3
    assert engine.read(lambda t: t.read_gate(gate)) == b"1"


@spec("GAT-04")
def test_gates_expire_by_the_day_of_their_claim(engine: Engine) -> None:
    for day in (100, 101):
        engine.write(lambda t, d=day: t.claim_gate(GateName(bytes([d]) * 32), b"v", d))
    assert engine.write(lambda t: t.expire_gates(101)) == 1
    assert engine.read(lambda t: t.read_gate(GateName(bytes([100]) * 32))) is None
    assert engine.read(lambda t: t.read_gate(GateName(bytes([101]) * 32))) == b"v"


@spec("DEL-21")
def test_envelopes_expire_by_their_arrival_hour_at_most_so_many_at_once(engine: Engine) -> None:
    one, two = device(engine).queue, device(engine, SPARE).queue
    engine.submit(rows(one, 1, 5, hour=10) + rows(one, 6, 7, hour=20) + rows(two, 1, 2, hour=10))
    assert engine.write(lambda t: t.expire_envelopes(10, 100)) == []
    assert engine.write(lambda t: t.expire_envelopes(11, 4)) == [(one, 4)]
    assert engine.write(lambda t: t.expire_envelopes(11, 4)) == [(one, 1), (two, 2)]
    assert engine.write(lambda t: t.expire_envelopes(11, 4)) == []
    assert bodies(engine, one) == [b"6", b"7"]


def test_facts_are_found_by_their_prefix(engine: Engine) -> None:
    engine.write(lambda t: [t.set_fact("key 1", b"a"), t.set_fact("key 2", b"b"), t.set_fact("other", b"c")])
    engine.write(lambda t: t.set_fact("key 1", b"d"))
    assert engine.read(lambda t: t.facts("key ")) == {"key 1": b"d", "key 2": b"b"}
    assert engine.read(lambda t: [t.fact("other"), t.fact("none")]) == [b"c", None]


def test_callbacks_come_in_the_order_of_the_calls(engine: Engine) -> None:
    queue = device(engine).queue
    order: list[int] = []

    def begin(done: object) -> None:
        for place in range(1, 6):
            engine.store.submit(rows(queue, place, place), [], lambda kept, at=place: order.append(at))  # type: ignore[misc]
        engine.store.submit(rows(queue, 6, 6), [], done)  # type: ignore[arg-type]

    engine.wait(begin)
    assert order == [1, 2, 3, 4, 5]
    assert engine.store.backlog_bytes() == 0


def test_a_device_has_its_mark_and_its_push_endpoint_until_it_ends(engine: Engine) -> None:
    row = device(engine)
    push = PushRow("https://push.example.org/1", b"k" * 65, b"s" * 16)
    assert engine.read(lambda t: (t.mark(row.queue), t.push(row.queue))) == (None, None)
    engine.write(lambda t: [t.set_mark(row.queue, b"m" * 16), t.set_push(row.queue, push)])
    assert engine.read(lambda t: (t.mark(row.queue), t.push(row.queue))) == (b"m" * 16, push)
    (loaded,) = engine.load(MAIN)
    assert loaded is not None and loaded.wakes
    engine.write(
        lambda t: [t.set_push(row.queue, push._replace(endpoint="https://other.example.org/")), t.clear_marks()]
    )
    assert engine.read(lambda t: (t.mark(row.queue), t.push(row.queue).endpoint)) == (
        None,
        "https://other.example.org/",
    )
    engine.write(lambda t: t.remove_device(row.queue))
    assert engine.read(lambda t: (t.mark(row.queue), t.push(row.queue))) == (None, None)
