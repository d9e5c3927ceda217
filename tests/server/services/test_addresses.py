"""Addresses, gates, key packages and the server's own identity."""

import itertools

import pytest

from taube.server import clock
from taube.server.ports import DeviceRow, MailboxId, Tables
from taube.server.secrets import AddressKeys, verify
from taube.server.services import addresses, gates, identity, keys
from taube.server.stores.memory import MemoryTables
from taube.wire import errors
from taube.wire.errors import ErrorKind, WireError
from taube.wire.messages import AccountId, DeviceId, GateName, SealedAddress
from tests.server.services.people import key, public
from tests.spec import spec

DAY = clock.DAY_MS
MAILBOX = MailboxId(b"M" * 16)
SEALER = AddressKeys({0: b"k" * 32 + b"K" * 32}, 0)
_counter = itertools.count(1)


def random(size: int) -> bytes:
    return b"".join(next(_counter).to_bytes(8, "big") for _ in range(-(-size // 8)))[:size]


def refused(kind: ErrorKind) -> "pytest.RaisesExc[WireError]":
    return pytest.raises(WireError, check=lambda error: error.kind is kind)


@pytest.fixture
def tables() -> Tables:
    return MemoryTables()


@pytest.fixture
def device(tables: Tables) -> DeviceRow:
    return tables.add_device(AccountId(bytes(32)), DeviceId(bytes(16)), bytes(32), MAILBOX)


@spec("DEL-01")
def test_an_address_is_41_bytes_that_hold_mailbox_and_serial_sealed() -> None:
    minted = addresses.mint(SEALER.seal, MAILBOX, 64, random)
    assert len({each.serial for each in minted}) == len({each.address for each in minted}) == 64
    for each in minted:
        assert len(each.address) == 41
        assert each.address[0] == 0
        assert MAILBOX not in each.address
        assert each.serial not in each.address
        assert SEALER.open(each.address) == (MAILBOX, each.serial)


@spec("DEL-02")
def test_an_address_that_was_altered_or_is_of_another_server_does_not_open() -> None:
    address = SEALER.seal(MAILBOX, b"serial--")
    for at in range(41):
        assert SEALER.open(address[:at] + bytes([address[at] ^ 1]) + address[at + 1 :]) is None
    assert AddressKeys({0: b"o" * 32 + b"O" * 32}, 0).open(address) is None
    assert SEALER.open(address[:40]) is SEALER.open(b"") is None


@spec("DEL-03")
def test_a_retired_address_key_opens_for_thirteen_months_more(tables: Tables) -> None:
    first = identity.establish(tables, random, DAY)
    old = AddressKeys(first.address_keys, first.current_key).seal(MAILBOX, b"serial--")
    assert identity.rotate(tables, random, DAY) == 1
    for now_ms, opens in ((397 * DAY, True), (398 * DAY, False)):
        later = identity.establish(tables, random, now_ms)
        assert later.current_key == 1
        sealer = AddressKeys(later.address_keys, later.current_key)
        assert (sealer.open(old) == (MAILBOX, b"serial--")) is opens
        assert sealer.seal(MAILBOX, b"serial--")[0] == 1


def test_a_server_starts_again_and_again_after_an_address_key_was_forgotten(tables: Tables) -> None:
    identity.establish(tables, random, DAY)
    identity.rotate(tables, random, DAY)
    for now_ms in (398 * DAY, 399 * DAY, 400 * DAY):
        assert list(identity.establish(tables, random, now_ms).address_keys) == [1]
    assert identity.damage(tables.facts("")) == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (identity.GENERATION, b"short"),
        (identity.CURRENT_KEY, b""),
        (identity.CURRENT_KEY, b"\x07"),
        (identity.PUSH_KEY, bytes(31)),
        ("address key 0", bytes(71)),
        ("address key 256", bytes(72)),
        ("address key x", b""),
        ("clock", b"1234567"),
        ("clo\ufffdk", b"12345678"),
    ],
)
def test_what_a_server_cannot_know_of_itself_is_damage(tables: Tables, name: str, value: bytes) -> None:
    identity.establish(tables, random, DAY)
    identity.push_key(tables, lambda: random(32))
    identity.start_clock(tables, DAY, 0.0)
    assert identity.damage(tables.facts("")) == ""
    tables.set_fact(name, value)
    assert name in identity.damage(tables.facts(""))


def test_a_current_address_key_that_seems_to_be_retired_is_damage(tables: Tables) -> None:
    identity.establish(tables, random, DAY)
    tables.set_fact("address key 0", b"\x01" * 72)
    assert identity.CURRENT_KEY in identity.damage(tables.facts(""))


def test_rotating_address_keys_goes_round_and_never_takes_one_that_still_opens(tables: Tables) -> None:
    identity.establish(tables, random, DAY)
    versions = [identity.rotate(tables, random, DAY) for _ in range(255)]
    assert versions == list(range(1, 256))
    with pytest.raises(LookupError):
        identity.rotate(tables, random, DAY)
    identity.establish(tables, random, 500 * DAY)
    assert identity.rotate(tables, random, 500 * DAY) == 0


@spec("GAT-05")
def test_the_generation_stays_until_the_store_is_restored(tables: Tables) -> None:
    first = identity.establish(tables, random, 0)
    assert identity.establish(tables, random, 1) == first
    identity.renew_generation(tables, random)
    renewed = identity.establish(tables, random, 2)
    assert renewed.generation != first.generation
    assert renewed.address_keys == first.address_keys


@spec("DEL-04", "IDN-24")
def test_only_revoked_serials_are_stored_and_revoking_again_adds_nothing(
    tables: MemoryTables, device: DeviceRow
) -> None:
    address = SealedAddress(SEALER.seal(MAILBOX, b"serial--"))
    assert addresses.open_live(tables, SEALER, address) == (MAILBOX, b"serial--")
    for _ in range(2):
        addresses.revoke(tables, device.queue, b"serial--")
    assert tables.revocations == {device.queue: {b"serial--"}}
    assert addresses.open_live(tables, SEALER, address) is None
    assert addresses.open_live(tables, SEALER, SealedAddress(bytes(41))) is None


@spec("DEL-05")
def test_after_ten_thousand_revocations_the_mailbox_is_renewed_and_addresses_are_minted_anew(
    tables: MemoryTables, device: DeviceRow
) -> None:
    tables.revocations[device.queue] = {each.to_bytes(8, "big") for each in range(9_999)}
    assert not addresses.needs_renewal(tables, device.queue)
    addresses.revoke(tables, device.queue, b"serial--")
    assert addresses.needs_renewal(tables, device.queue)
    tables.revocations[device.queue] |= {each.to_bytes(8, "big") for each in range(12_000)}
    with refused(errors.RATE_LIMITED):
        addresses.revoke(tables, device.queue, b"another-")
    renewed = addresses.renew(tables, device.queue, random)
    row = tables.device_of(device.queue)
    assert row == device._replace(mailbox=renewed, remint=True)
    assert not addresses.needs_renewal(tables, device.queue)
    addresses.minted(tables, device.queue)
    assert tables.device_of(device.queue) == device._replace(mailbox=renewed)


@spec("GAT-01", "GAT-03")
def test_a_gate_keeps_its_first_value_and_reading_does_not_claim_it(tables: Tables) -> None:
    gate = GateName(b"g" * 32)
    assert gates.read(tables, gate) == b""
    assert gates.claim(tables, gate, b"mine", 0) == b"mine"
    assert gates.claim(tables, gate, b"theirs", 0) == b"mine"
    assert gates.claim(tables, gate, b"mine", 0) == b"mine", "a retry sees that it won"
    assert gates.read(tables, gate) == b"mine"


@spec("GAT-04")
def test_gates_stand_for_45_days(tables: Tables) -> None:
    gate = GateName(b"g" * 32)
    gates.claim(tables, gate, b"mine", 100 * DAY)
    assert gates.expire(tables, 145 * DAY + DAY - 1) == 0
    assert gates.read(tables, gate) == b"mine"
    assert gates.expire(tables, 146 * DAY) == 1
    assert gates.read(tables, gate) == b""


@spec("IDN-20", "IDN-21")
def test_packages_are_added_replaced_and_bounded(tables: Tables, device: DeviceRow) -> None:
    queue = device.queue
    assert keys.publish(tables, queue, 1, [b"1", b"2"], b"last", False, 0) == 2
    assert keys.publish(tables, queue, 0x4F, [b"h"], b"", False, 0) == 1
    assert keys.publish(tables, queue, 1, [b"3"], b"", False, 0) == 3
    assert keys.stock(tables, queue) == (3, 1, [1])
    assert keys.publish(tables, queue, 1, [b"4"], b"", True, 0) == 1
    assert keys.claim(tables, queue, 1) == b"4"
    with refused(errors.TOO_MANY_KEY_PACKAGES):
        keys.publish(tables, queue, 1, [b"x"] * 101, b"", False, 0)
    with refused(errors.STATEMENT_INVALID):
        keys.publish(tables, queue, 7, [b"x"], b"", False, 0)


@spec("IDN-22", "IDN-23")
def test_a_claim_without_any_package_is_refused(tables: Tables, device: DeviceRow) -> None:
    with refused(errors.NO_KEY_PACKAGE):
        keys.claim(tables, device.queue, 1)


@spec("IDN-25")
def test_packages_are_forgotten_when_the_month_begins_in_which_their_84_days_end(
    tables: Tables, device: DeviceRow
) -> None:
    keys.publish(tables, device.queue, 1, [b"1"], b"last", False, 0)  # 1 January, until 26 March 1970
    assert keys.expire(tables, 59 * DAY - 1) == 0
    assert keys.expire(tables, 59 * DAY) == 2


@spec("IDN-25", "IDN-13")
def test_the_store_tells_no_day_on_which_packages_were_published(tables: Tables, device: DeviceRow) -> None:
    for day in (5, 6, 35):  # their 84 days end on 31 March, on 1 April and on 30 April
        keys.publish(tables, device.queue, 1, [b"1"], b"", False, day * DAY)
    keys.publish(tables, device.queue, 0x4F, [], b"last", False, 0)
    assert tables.packages(device.queue) == [(1, False, 197003, 1), (1, False, 197004, 2), (0x4F, True, 197003, 1)]


@spec("IDN-25")
def test_who_may_still_be_claimed_is_kept(tables: Tables, device: DeviceRow) -> None:
    for day in range(400):
        keys.publish(tables, device.queue, 1, [b"1"], b"", True, day * DAY)
        assert keys.expire(tables, (day + 84 - 50) * DAY) == 0, "claimers ask for 50 days more"
        assert keys.expire(tables, (day + 84) * DAY) == 1


@spec("IDN-11")
def test_verification_never_raises_whatever_it_is_given() -> None:
    signature = key(1).sign(b"message")
    assert verify(public(key(1)), signature, b"message")
    for wrong in ((b"", signature), (public(key(2)), signature), (public(key(1)), b"short"), (b"\xff" * 32, signature)):
        assert not verify(*wrong, b"message")
