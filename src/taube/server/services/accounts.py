"""Self-certifying accounts and their devices: create, log in, publish a newer device list, tell what is known, delete.

An account id is the hash of its genesis statement; everything else about the account is signed by a key that the
statement leads to, so the server never vouches for anyone. It checks what it is given only so that nobody can put
rubbish in another's place.

Functions over `Tables`; they do not know sockets, stores or the cipher (Ed25519 comes in as `verify`).
Source: docs/protocol/identity.md, IDN-01 .. IDN-16.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated, Final, NamedTuple

from taube.server import ledger
from taube.server.ports import AccountRow, Accounts, DeviceRow, MailboxId, QueueNumber, Random, Verify
from taube.wire.errors import (
    ACCOUNT_UNKNOWN,
    DEVICE_REVOKED,
    LIST_OUTDATED,
    LOGIN_REFUSED,
    MARK_DIFFERS,
    STATEMENT_INVALID,
    WireError,
)
from taube.wire.messages import AccountId, DeviceId, Fact
from taube.wire.packing import Meta, PackingError, Record, Unpacker

GENESIS_VERSION: Final = 1
LIST_VERSION: Final = 1
LIST_LABEL: Final = b"taube device list v1"
KEY_LABEL: Final = b"taube account key v1"
MAX_DEVICES: Final = 16
MAX_SUCCESSIONS: Final = 16
MAX_COUNTER: Final = 2**53
EPOCH: Final = datetime(1970, 1, 1)

Key = Annotated[bytes, Meta(min_length=32, max_length=32)]


class ListedDevice(Record, frozen=True):
    """A device as its account's list names it: id, and public keys for login, MLS signatures and HPKE."""

    device: Annotated[bytes, Meta(min_length=16, max_length=16)]
    login_key: Key
    mls_key: Key
    hpke_key: Key


class Succession(Record, frozen=True):
    """A new account key, signed by the one before or by the recovery key."""

    account_key: Key
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class DeviceList(Record, frozen=True):
    """What the signature of a signed list covers."""

    version: int
    account: Annotated[bytes, Meta(min_length=32, max_length=32)]
    counter: Annotated[int, Meta(ge=1, le=MAX_COUNTER)]
    devices: Annotated[list[ListedDevice], Meta(min_length=1, max_length=MAX_DEVICES)]
    successions: Annotated[list[Succession], Meta(max_length=MAX_SUCCESSIONS)]


_unpacker = Unpacker(DeviceList)


class NewAccount(NamedTuple):
    """A genesis statement and a device list that were found good."""

    account: AccountId
    genesis: bytes
    signed_list: bytes
    device_list: DeviceList


class LoginFacts(NamedTuple):
    """What a device connection needs once its signature was found good."""

    row: DeviceRow
    used_month: int
    wakes: bool
    """Whether it has a push endpoint."""


class Change(NamedTuple):
    """What a newer device list did: mailboxes that ended with their devices, which live connections must learn."""

    changed: bool
    ended: list[QueueNumber]


def _invalid(detail: str) -> WireError:
    return WireError(STATEMENT_INVALID, detail=detail)


def check_genesis(genesis: bytes) -> AccountId:
    """The account id of a genesis statement. Raises STATEMENT_INVALID."""
    if len(genesis) != 65 or genesis[0] != GENESIS_VERSION:
        raise _invalid("The genesis statement has another version or length.")
    return AccountId(sha256(genesis).digest())


def check_list(signed_list: bytes, genesis: bytes, verify: Verify) -> DeviceList:
    """The device list in *signed_list* if every signature leads back to *genesis*. Raises STATEMENT_INVALID.

    Checks: account id, device ids all different, each succession by the account key before it or by the recovery key,
    the list by the newest account key.
    """
    account = check_genesis(genesis)
    signature, packed = signed_list[:64], signed_list[64:]
    try:
        listed = _unpacker.unpack(packed)
    except PackingError as error:
        raise _invalid("The device list cannot be read.") from error
    if listed.version != LIST_VERSION or listed.account != account:
        raise _invalid("The device list is of another version or account.")
    if len({each.device for each in listed.devices}) != len(listed.devices):
        raise _invalid("The device list names a device twice.")
    account_key, recovery_key = genesis[1:33], genesis[33:]
    for succession in listed.successions:
        statement = KEY_LABEL + account + succession.account_key
        if not any(verify(key, succession.signature, statement) for key in (account_key, recovery_key)):
            raise _invalid("A change of the account key is not signed by the key before or the recovery key.")
        account_key = succession.account_key
    if not verify(account_key, signature, LIST_LABEL + packed):
        raise _invalid("The device list is not signed by the account key.")
    return listed


def check_new(genesis: bytes, signed_list: bytes, verify: Verify) -> NewAccount:
    """Genesis statement and first list of an account to be made, found good. Raises STATEMENT_INVALID. Touches no
    store.
    """
    listed = check_list(signed_list, genesis, verify)
    return NewAccount(AccountId(listed.account), genesis, signed_list, listed)


def exists(tables: Accounts, new: NewAccount) -> bool:
    """Whether exactly this was registered before: then a Register was repeated because its answer was lost."""
    row = tables.account(new.account)
    return row is not None and row.device_list == new.signed_list


def create(tables: Accounts, new: NewAccount, month: int, random: Random) -> None:
    """Make the account and its devices, each with a mailbox of its own. Raises LIST_OUTDATED if the account exists."""
    if tables.account(new.account) is not None:
        raise WireError(LIST_OUTDATED, detail="The account exists already.")
    tables.add_account(AccountRow(new.account, new.genesis, new.signed_list, new.device_list.counter, month, month))
    for each in new.device_list.devices:
        tables.add_device(new.account, DeviceId(each.device), each.login_key, MailboxId(random(16)))


def log_in(
    tables: Accounts, account: AccountId, device: DeviceId, message: bytes, signature: bytes, verify: Verify
) -> LoginFacts:
    """The device's row if *signature* over *message* (wire.session.login_message) is by its login key.

    Raises LOGIN_REFUSED, or DEVICE_REVOKED if the account lives and its list does not name the device.
    """
    used_month = tables.used_month(account)
    if used_month is None:
        raise WireError(LOGIN_REFUSED)
    row = tables.device(account, device)
    if row is None:
        raise WireError(DEVICE_REVOKED)
    if not verify(row.login_key, signature, message):
        raise WireError(LOGIN_REFUSED)
    return LoginFacts(row, used_month, tables.push(row.queue) is not None)


def touch(tables: Accounts, account: AccountId, month: int) -> None:
    """Note the month last used (only written when it changed)."""
    tables.touch_account(account, month)


def check_newer(tables: Accounts, account: AccountId, signed_list: bytes, verify: Verify) -> DeviceList | None:
    """The list, if it is to replace the one that stands: only who has the account key can make it. None for the very
    list that stands, which everyone can fetch.

    Raises ACCOUNT_UNKNOWN, STATEMENT_INVALID (a device that changed its login key too), or LIST_OUTDATED for a counter
    that does not rise or a list that forgets a succession.
    """
    owner = tables.account(account)
    if owner is None:
        raise WireError(ACCOUNT_UNKNOWN)
    if signed_list == owner.device_list:
        return None
    listed = check_list(signed_list, owner.genesis, verify)
    before = _unpacker.unpack(owner.device_list[64:])
    if listed.counter <= owner.counter:
        raise WireError(LIST_OUTDATED)
    if listed.successions[: len(before.successions)] != before.successions:
        raise WireError(LIST_OUTDATED, detail="The list forgets a change of the account key.")
    login_keys = {each.device: each.login_key for each in listed.devices}
    if any(login_keys.get(row.device, row.login_key) != row.login_key for row in tables.devices(account)):
        raise _invalid("A device never changes its login key.")
    return listed


def publish_list(tables: Accounts, account: AccountId, signed_list: bytes, verify: Verify, random: Random) -> Change:
    """Take a newer device list: new devices get mailboxes, devices left out end with everything that is theirs.

    The very list that stands is accepted again without effect. A device that stays keeps its mailbox. Raises as
    `check_newer`.
    """
    listed = check_newer(tables, account, signed_list, verify)
    if listed is None:
        return Change(False, [])
    tables.replace_list(account, signed_list, listed.counter)
    standing = {bytes(row.device): row for row in tables.devices(account)}
    named = {each.device: each for each in listed.devices}
    ended = [row.queue for device, row in standing.items() if device not in named]
    for queue in ended:
        tables.remove_device(queue)
    for device, each in named.items():
        if device not in standing:
            tables.add_device(account, DeviceId(device), each.login_key, MailboxId(random(16)))
    return Change(True, ended)


def swap_mark(tables: Accounts, queue: QueueNumber, expected: bytes, new: bytes) -> None:
    """Give the device the mark *new*. Raises MARK_DIFFERS if another than *expected* stands there; none is as good as
    any: a restored server has forgotten them. Raises DEVICE_REVOKED for a device that ended. Source: IDN-17.
    """
    if tables.device_of(queue) is None:
        raise WireError(DEVICE_REVOKED)
    if tables.mark(queue) not in (None, expected):
        raise WireError(MARK_DIFFERS)
    tables.set_mark(queue, new)


def certificate(tables: Accounts, account: AccountId) -> tuple[bytes, bytes]:
    """(genesis statement, newest signed device list). Raises ACCOUNT_UNKNOWN."""
    owner = tables.account(account)
    if owner is None:
        raise WireError(ACCOUNT_UNKNOWN)
    return owner.genesis, owner.device_list


def delete(tables: Accounts, account: AccountId) -> list[QueueNumber]:
    """Forget the account and everything that belongs to it; the queues that ended. Raises ACCOUNT_UNKNOWN."""
    if tables.account(account) is None:
        raise WireError(ACCOUNT_UNKNOWN)
    ended = [row.queue for row in tables.devices(account)]
    for queue in ended:
        tables.remove_device(queue)
    tables.remove_account(account)
    return ended


def delete_unused(tables: Accounts, before_month: int, limit: int = 100) -> list[QueueNumber]:
    """Forget accounts last used before that month, at most *limit* of them; the queues that ended."""
    ended: list[QueueNumber] = []
    for account in tables.unused_accounts(before_month, limit):
        ended += delete(tables, account)
    return ended


MOST_SERIALS: Final = 3_000
"""Revoked serials in one answer of what is known, over all devices of the account: it has to fit into a frame."""
MOST_WAITING: Final = 300
"""Serials with envelopes that wait, likewise."""


class Holdings(NamedTuple):
    """What other services hold for one queue, asked by the caller of `knows` (services do not know each other)."""

    packages: Callable[[QueueNumber], list[str]]
    revoked: Callable[[QueueNumber, int], list[str]]
    """Given how many serials to name at most."""


def knows(tables: Accounts, account: AccountId, holdings: Holdings) -> list[Fact]:
    """Everything the server holds about an account, by ledger entry, in words. Raises ACCOUNT_UNKNOWN."""
    owner = tables.account(account)
    if owner is None:
        raise WireError(ACCOUNT_UNKNOWN)
    facts = [
        Fact(ledger.ACCOUNT.name, f"account {owner.account.hex()}"),
        Fact(ledger.ACCOUNT.name, f"genesis statement {owner.genesis.hex()}"),
    ]
    listed = owner.device_list.hex()
    facts += [
        Fact(ledger.ACCOUNT.name, f"signed device list {listed[at : at + 1900]}") for at in range(0, len(listed), 1900)
    ]
    facts += [
        Fact(ledger.ACCOUNT.name, f"counter of the device list {owner.counter}"),
        Fact(ledger.ACCOUNT_MONTHS.name, f"created in {_month(owner.created_month)}"),
        Fact(ledger.ACCOUNT_MONTHS.name, f"last used in {_month(owner.used_month)}"),
    ]
    devices = tables.devices(account)
    for row in devices:
        facts += [
            Fact(
                ledger.DEVICE.name,
                f"device {row.device.hex()}, login key {row.login_key.hex()}, mailbox {row.mailbox.hex()},"
                f" queue {row.queue}, new addresses asked for: {'yes' if row.remint else 'no'}",
            ),
            *(Fact(ledger.MARK.name, f"mark {mark.hex()}") for mark in [tables.mark(row.queue)] if mark is not None),
            *(
                Fact(ledger.PUSH.name, f"{push.endpoint}, key {push.key.hex()}, secret {push.secret.hex()}")
                for push in [tables.push(row.queue)]
                if push is not None
            ),
            *(Fact(ledger.KEY_PACKAGE.name, value) for value in holdings.packages(row.queue)),
            *(
                Fact(ledger.REVOKED_SERIAL.name, value)
                for value in holdings.revoked(row.queue, MOST_SERIALS // len(devices))
            ),
            *(Fact(ledger.ENVELOPE.name, value) for value in _waiting(tables, row.queue, MOST_WAITING // len(devices))),
        ]
    return facts


def _waiting(tables: Accounts, queue: QueueNumber, most: int) -> list[str]:
    """The envelopes that wait, in words: all together, then by the serial of the address that they came to."""
    count, size = tables.waiting(queue)
    rows = tables.waiting_by_serial(queue, most + 1)
    serials = [
        f"{row.envelopes} of {row.size_bytes} bytes for serial {row.serial.hex()}, places {row.first} to {row.last},"
        f" arrived {_hour(row.first_hour)} to {_hour(row.last_hour)}"
        for row in rows[:most]
    ]
    more = ["and more for other serials"] if len(rows) > most else []
    return ledger.told(f"{count} envelopes of {size} bytes wait", [*serials, *more], len(serials) + len(more))


def _hour(hour: int) -> str:
    """Such as 2026-01-31 17h (UTC)."""
    return (EPOCH + timedelta(hours=hour)).strftime("%Y-%m-%d %Hh")


def _month(month: int) -> str:
    return f"{month // 100}-{month % 100:02}"
