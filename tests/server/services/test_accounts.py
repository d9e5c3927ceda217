"""Accounts and devices: what is checked, what changes, what is told, what is forgotten."""

import itertools

import pytest

from taube.server import ledger
from taube.server.gateway.dispatch import knows
from taube.server.ports import EnvelopeRow, InvitationRow, Tables
from taube.server.secrets import verify
from taube.server.services import accounts, keys, registration
from taube.server.stores.memory import MemoryTables
from taube.wire import errors
from taube.wire.codec import encode
from taube.wire.errors import ErrorKind, WireError
from taube.wire.messages import MAX_FRAME_BYTES, AccountId, DeviceId, Knowledge, Serial
from tests.server.services.people import Person, key, public
from tests.spec import spec

_counter = itertools.count()


def random(size: int) -> bytes:
    return next(_counter).to_bytes(size, "big")


def refused(kind: ErrorKind) -> "pytest.RaisesExc[WireError]":
    return pytest.raises(WireError, check=lambda error: error.kind is kind)


@pytest.fixture
def tables() -> Tables:
    return MemoryTables()


@pytest.fixture
def ann() -> Person:
    return Person(1)


def create(tables: Tables, person: Person, numbers: tuple[int, ...] = (0,)) -> None:
    new = accounts.check_new(person.genesis, person.device_list(1, numbers), verify)
    accounts.create(tables, new, 202601, random)


@spec("IDN-01")
def test_the_account_id_is_the_hash_of_the_genesis_statement(ann: Person) -> None:
    assert accounts.check_genesis(ann.genesis) == ann.account
    for wrong in (b"\x02" + ann.genesis[1:], ann.genesis[:-1]):
        with refused(errors.STATEMENT_INVALID):
            accounts.check_genesis(wrong)


@spec("IDN-02", "IDN-03", "IDN-05")
def test_a_device_list_that_is_not_well_formed_is_refused(ann: Person) -> None:
    good = ann.packed(1, [ann.listed(0)])
    signed = ann.sign(good)
    assert accounts.check_list(signed, ann.genesis, verify).counter == 1
    bad = {
        "altered": signed[:-1] + bytes([signed[-1] ^ 1]),
        "signature altered": bytes([signed[0] ^ 1]) + signed[1:],
        "signed by another": key(99).sign(good) + good,
        "label left out": ann.account_key.sign(good) + good,
        "signed by the recovery key": ann.recovery_key.sign(accounts.LIST_LABEL + good) + good,
        "other version": ann.sign(ann.packed(1, [ann.listed(0)], version=2)),
        "other account": ann.sign(ann.packed(1, [ann.listed(0)], account=b"x" * 32)),
        "no device": ann.sign(ann.packed(1, [])),
        "counter 0": ann.sign(ann.packed(0, [ann.listed(0)])),
        "a device twice": ann.sign(ann.packed(1, [ann.listed(0), ann.listed(0)])),
        "junk": ann.sign(b"\xc1"),
        "too short": signed[:60],
    }
    for wrong in bad.values():
        with refused(errors.STATEMENT_INVALID):
            accounts.check_list(wrong, ann.genesis, verify)


@spec("IDN-04")
def test_a_new_account_key_is_signed_by_the_one_before_or_by_the_recovery_key(ann: Person) -> None:
    ann.change_account_key(key(50))
    ann.change_account_key(key(51), by=ann.recovery_key)
    assert len(accounts.check_list(ann.device_list(3), ann.genesis, verify).successions) == 2
    thief = Person(1)
    thief.change_account_key(key(66), by=key(67))
    with refused(errors.STATEMENT_INVALID):
        accounts.check_list(thief.device_list(4), thief.genesis, verify)


@spec("IDN-33")
def test_registering_takes_one_use_and_repeating_it_takes_none(tables: Tables, ann: Person) -> None:
    new = accounts.check_new(ann.genesis, ann.device_list(), verify)
    assert not accounts.exists(tables, new)
    accounts.create(tables, new, 202601, random)
    assert accounts.exists(tables, new)
    with refused(errors.LIST_OUTDATED):
        accounts.create(tables, accounts.check_new(ann.genesis, ann.device_list(2), verify), 202601, random)


@spec("IDN-11", "IDN-12")
def test_a_login_is_refused_unless_the_devices_own_key_signed_it(tables: Tables, ann: Person) -> None:
    create(tables, ann)
    device, message = ann.device_id(0), b"what a login signs"
    good = ann.login_keys[0].sign(message)
    facts = accounts.log_in(tables, ann.account, device, message, good, verify)
    assert (facts.row.device, facts.used_month) == (device, 202601)
    for account, signature in (
        (ann.account, ann.login_keys[1].sign(message)),
        (ann.account, ann.login_keys[0].sign(b"another nonce")),
        (ann.account, bytes(64)),
        (AccountId(bytes(32)), good),
    ):
        with refused(errors.LOGIN_REFUSED):
            accounts.log_in(tables, account, device, message, signature, verify)
    with refused(errors.DEVICE_REVOKED):
        accounts.log_in(tables, ann.account, DeviceId(bytes(16)), message, good, verify)


@spec("IDN-06", "IDN-09", "IDN-10")
def test_a_newer_list_brings_devices_and_ends_those_it_leaves_out(tables: Tables, ann: Person) -> None:
    create(tables, ann, (0, 1))
    before = {row.device: row for row in tables.devices(ann.account)}
    change = accounts.publish_list(tables, ann.account, ann.device_list(2, (1, 2)), verify, random)
    after = {row.device: row for row in tables.devices(ann.account)}
    assert change.ended == [before[ann.device_id(0)].queue]
    assert set(after) == {ann.device_id(1), ann.device_id(2)}
    assert after[ann.device_id(1)] == before[ann.device_id(1)], "a device that stays keeps its mailbox"
    assert accounts.certificate(tables, ann.account) == (ann.genesis, ann.device_list(2, (1, 2)))


@spec("IDN-06")
def test_a_counter_that_does_not_rise_is_refused_and_the_same_list_changes_nothing(tables: Tables, ann: Person) -> None:
    create(tables, ann)
    accounts.publish_list(tables, ann.account, ann.device_list(5), verify, random)
    assert accounts.publish_list(tables, ann.account, ann.device_list(5), verify, random) == (False, [])
    for counter in (4, 5):
        with refused(errors.LIST_OUTDATED):
            accounts.publish_list(tables, ann.account, ann.device_list(counter, (0, 1)), verify, random)
    with refused(errors.ACCOUNT_UNKNOWN):
        accounts.publish_list(tables, AccountId(bytes(32)), ann.device_list(6), verify, random)


@spec("IDN-07")
def test_a_list_that_forgets_a_change_of_the_account_key_is_refused(tables: Tables, ann: Person) -> None:
    create(tables, ann)
    thief = Person(1)
    ann.change_account_key(key(50), by=ann.recovery_key)
    accounts.publish_list(tables, ann.account, ann.device_list(2), verify, random)
    with refused(errors.LIST_OUTDATED):
        accounts.publish_list(tables, ann.account, thief.device_list(9), verify, random)


@spec("IDN-08")
def test_a_device_never_changes_its_login_key(tables: Tables, ann: Person) -> None:
    create(tables, ann)
    ann.login_keys[0] = key(77)
    with refused(errors.STATEMENT_INVALID):
        accounts.publish_list(tables, ann.account, ann.device_list(2), verify, random)


@spec("IDN-13")
def test_of_time_only_months_are_noted(tables: Tables, ann: Person) -> None:
    create(tables, ann)
    accounts.touch(tables, ann.account, 202603)
    row = tables.account(ann.account)
    assert row is not None
    assert (row.created_month, row.used_month) == (202601, 202603)


@spec("IDN-14")
def test_what_the_server_knows_is_told_by_ledger_entry(tables: Tables, ann: Person) -> None:
    create(tables, ann)
    facts = knows(tables, ann.account)
    assert {fact.entry for fact in facts} == {
        entry.name
        for entry in (
            ledger.ACCOUNT,
            ledger.ACCOUNT_MONTHS,
            ledger.DEVICE,
            ledger.KEY_PACKAGE,
            ledger.REVOKED_SERIAL,
            ledger.ENVELOPE,
        )
    }
    text = "\n".join(fact.value for fact in facts)
    (row,) = tables.devices(ann.account)
    for known in (ann.account, ann.genesis, ann.device_list(), row.device, row.login_key, row.mailbox):
        assert known.hex() in text
    assert "2026-01" in text
    assert max(len(fact.value) for fact in facts) <= 2000


@spec("IDN-14")
def test_serials_places_months_and_hours_are_told(tables: MemoryTables, ann: Person) -> None:
    create(tables, ann)
    (row,) = tables.devices(ann.account)
    tables.revoke(row.queue, b"revoked!")
    keys.publish(tables, row.queue, 0x4F, [b"1", b"2"], b"last", False, 0)
    tables.envelopes[row.queue] = {
        place: EnvelopeRow(row.queue, place, Serial(b"serial-1"), 24 + place, b"body") for place in (4, 5, 6)
    }
    text = "\n".join(fact.value for fact in knows(tables, ann.account))
    assert f"1 revoked serials: {b'revoked!'.hex()}" in text
    assert "2 one-time of suite 79, forgotten in 1970-03" in text and "1 last resort of suite 79" in text
    assert (
        f"3 of 12 bytes for serial {b'serial-1'.hex()}, places 4 to 6, arrived 1970-01-02 04h to 1970-01-02 06h" in text
    )


@spec("IDN-14")
def test_the_longest_answer_fits_into_a_frame_and_says_how_much_more_there_is(
    tables: MemoryTables, ann: Person
) -> None:
    ann.login_keys |= {number: key(100 + number) for number in range(16)}
    create(tables, ann, tuple(range(16)))
    for row in tables.devices(ann.account):
        serials = [(1_000_000 * row.queue + n).to_bytes(8, "big") for n in range(10_000)]
        tables.revocations[row.queue] = set(serials)
        tables.envelopes[row.queue] = {
            n: EnvelopeRow(row.queue, 2**31 + n, Serial(serial), 500_000, b"body")
            for n, serial in enumerate(serials[:1000])
        }
    facts = knows(tables, ann.account)
    assert len(encode(Knowledge(2**32, facts))) < MAX_FRAME_BYTES
    assert sum("and 9813 more" in fact.value for fact in facts) == 16
    assert sum("and more for other serials" in fact.value for fact in facts) == 16
    assert max(len(fact.value) for fact in facts) <= 2000 and len(facts) <= 1000


@spec("IDN-15")
def test_a_deleted_account_leaves_nothing(tables: MemoryTables, ann: Person) -> None:
    create(tables, ann, (0, 1))
    queues = [row.queue for row in tables.devices(ann.account)]
    keys.publish(tables, queues[0], 1, [b"package"], b"last", False, 0)
    tables.revoke(queues[0], b"serial--")
    assert accounts.delete(tables, ann.account) == queues
    empty = MemoryTables()
    empty.next_queue = tables.next_queue
    assert {name: value for name, value in vars(tables).items() if value} == {"next_queue": 3}
    with refused(errors.ACCOUNT_UNKNOWN):
        accounts.delete(tables, ann.account)


@spec("IDN-16")
def test_accounts_that_were_long_unused_are_forgotten(tables: Tables, ann: Person) -> None:
    create(tables, ann)
    other = Person(5)
    create(tables, other)
    accounts.touch(tables, other.account, 202612)
    assert len(accounts.delete_unused(tables, 202602)) == 1
    assert tables.account(ann.account) is None
    assert tables.account(other.account) is not None


@spec("IDN-30", "IDN-31", "IDN-32")
def test_an_invitation_is_used_so_often_and_tells_why_it_fails(tables: MemoryTables) -> None:
    day = registration.DAY_MS
    invitation = registration.invite(tables, uses=2, days=3, now_ms=1_000, random=random)
    assert len(invitation) == 16
    assert invitation not in str(tables.invitations).encode(), "only its hash is kept"
    registration.redeem(tables, invitation, 1_000)
    registration.redeem(tables, invitation, 2 * day)
    with refused(errors.INVITATION_USED):
        registration.redeem(tables, invitation, 2 * day)
    other = registration.invite(tables, uses=1, days=3, now_ms=0, random=random)
    with refused(errors.INVITATION_EXPIRED):
        registration.redeem(tables, other, 3 * day)
    with refused(errors.INVITATION_UNKNOWN):
        registration.redeem(tables, bytes(16), 0)
    assert registration.expire(tables, 3 * day + 30 * day) == 0
    assert registration.expire(tables, 3 * day + 30 * day + 1) == 1
    assert registration.revoke(tables, invitation)
    assert not registration.revoke(tables, invitation)
    with refused(errors.INVITATION_UNKNOWN):
        registration.redeem(tables, invitation, 0)


def test_an_invitation_row_holds_a_hash() -> None:
    assert InvitationRow._fields == ("hash", "uses_left", "expires_at_ms")
    assert len(public(key(1))) == 32
