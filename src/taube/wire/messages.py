"""Every command, reply and event that may stand in a frame, as a frozen type with its number and its limits.

One frame is one message: a MessagePack array that starts with the message's number. Numbers 1 to 63 are commands
(client to server), 64 to 127 replies (server to client, with the command's request id), 128 to 191 events (server to
client, unasked). Numbers and the order of fields never change; new fields are appended with a default.

This file does not know bytes (see codec) or when a message is allowed (see session).
Source: docs/protocol/connection.md.
"""

from typing import Annotated, Final, NewType

from taube.wire.packing import Meta, Record, field

PROTOCOL_VERSION: Final = 1

MAX_FRAME_BYTES: Final = 128 * 1024
MAX_BODY_BYTES: Final = 64 * 1024
MAX_GATE_VALUE_BYTES: Final = 48 * 1024
MAX_ADDRESSES: Final = 1024
MAX_KEY_PACKAGE_BYTES: Final = 8 * 1024
MAX_PACKAGES_PER_PUBLISH: Final = 12
MAX_MINT: Final = 64
MAX_ENDPOINT_CHARACTERS: Final = 1_000

AccountId = NewType("AccountId", bytes)
"""32 bytes: SHA-256 of the genesis statement."""
DeviceId = NewType("DeviceId", bytes)
"""16 random bytes."""
Serial = NewType("Serial", bytes)
"""8 random bytes that name one sealed address of a mailbox."""
SealedAddress = NewType("SealedAddress", bytes)
"""41 bytes: key version, then AES-SIV of mailbox id and serial."""
GateName = NewType("GateName", bytes)
"""32 bytes exported from an MLS epoch."""

RequestId = Annotated[int, Meta(ge=1, le=0xFFFF_FFFF)]
Account = Annotated[bytes, Meta(min_length=32, max_length=32)]
Device = Annotated[bytes, Meta(min_length=16, max_length=16)]
AddressSerial = Annotated[bytes, Meta(min_length=8, max_length=8)]
Address = Annotated[bytes, Meta(min_length=41, max_length=41)]
Gate = Annotated[bytes, Meta(min_length=32, max_length=32)]
Nonce = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Generation = Annotated[bytes, Meta(min_length=16, max_length=16)]
Body = Annotated[bytes, Meta(min_length=1, max_length=MAX_BODY_BYTES)]
GateValueBytes = Annotated[bytes, Meta(min_length=1, max_length=MAX_GATE_VALUE_BYTES)]
Genesis = Annotated[bytes, Meta(min_length=65, max_length=65)]
SignedList = Annotated[bytes, Meta(min_length=65, max_length=4096)]
KeyPackage = Annotated[bytes, Meta(min_length=1, max_length=MAX_KEY_PACKAGE_BYTES)]
Suite = Annotated[int, Meta(ge=1, le=0xFFFF)]
Milliseconds = Annotated[int, Meta(ge=0, le=2**53)]
Count = Annotated[int, Meta(ge=0, le=2**53)]

SUITE_CLASSIC: Final = 0x0001
SUITE_HYBRID: Final = 0x004F

FLAG_URGENT: Final = 1
FLAG_EPHEMERAL: Final = 2

STATUS_KEPT: Final = 0
STATUS_GONE: Final = 1
STATUS_FULL: Final = 2
STATUS_BUSY: Final = 3


# ---------------------------------------------------------------- commands


class Hello(Record, frozen=True, tag=1):
    """The first frame of every connection: the protocol versions that the client speaks, newest first."""

    versions: Annotated[list[Annotated[int, Meta(ge=1, le=0xFFFF)]], Meta(min_length=1, max_length=8)]


class Register(Record, frozen=True, tag=2):
    """Make an account from an invitation; anonymous connection; answered by Done."""

    request: RequestId
    invitation: Annotated[bytes, Meta(min_length=16, max_length=16)]
    genesis: Genesis
    device_list: SignedList


class Login(Record, frozen=True, tag=3):
    """Become a device connection: Ed25519 over `"taube login v1" ‖ origin ‖ device ‖ nonce`; answered by LoggedIn."""

    request: RequestId
    account: Account
    device: Device
    signature: Signature


class Send(Record, frozen=True, tag=4):
    """Append one body to the mailboxes behind up to 1,024 addresses; anonymous connection; answered by Sent."""

    request: RequestId
    flags: Annotated[int, Meta(ge=0, le=255)]
    addresses: Annotated[list[Address], Meta(min_length=1, max_length=MAX_ADDRESSES)]
    body: Body


class Acknowledge(Record, frozen=True, tag=5):
    """Every envelope delivered on this connection up to this number is durably decided; not answered."""

    upto: Count


class MintAddresses(Record, frozen=True, tag=6):
    """Make sealed addresses of this device's mailbox, each with a serial of its own; answered by Minted."""

    request: RequestId
    count: Annotated[int, Meta(ge=1, le=MAX_MINT)]


class RevokeAddress(Record, frozen=True, tag=7):
    """Refuse from now on what is sent to this address of this device's mailbox; answered by Done."""

    request: RequestId
    serial: AddressSerial


class PublishKeyPackages(Record, frozen=True, tag=8):
    """Add one-time key packages of one suite; a last resort, if given, replaces the one before; answered by Published.

    With *replace*, the unclaimed one-time packages of the suite are forgotten first.
    """

    request: RequestId
    suite: Suite
    packages: Annotated[list[KeyPackage], Meta(max_length=MAX_PACKAGES_PER_PUBLISH)]
    last_resort: Annotated[bytes, Meta(max_length=MAX_KEY_PACKAGE_BYTES)] = b""
    replace: bool = False


class ClaimKeyPackage(Record, frozen=True, tag=9):
    """Take a key package of the device behind a live address; anonymous connection; answered by KeyPackageClaimed."""

    request: RequestId
    address: Address
    suite: Suite


class ClaimGate(Record, frozen=True, tag=10):
    """Write a gate if nobody has yet; anonymous connection; answered by GateState with what stands there now."""

    request: RequestId
    name: Gate
    value: GateValueBytes


class ReadGate(Record, frozen=True, tag=11):
    """Look at a gate without claiming it; anonymous connection; answered by GateState."""

    request: RequestId
    name: Gate


class PublishDeviceList(Record, frozen=True, tag=12):
    """Replace an account's signed device list by one with a higher counter; any connection; answered by Done.

    Devices that the new list leaves out are revoked: their mailbox, addresses and key packages end with them.
    """

    request: RequestId
    account: Account
    device_list: SignedList


class FetchCertificate(Record, frozen=True, tag=13):
    """Ask for an account's genesis statement and newest device list; anonymous connection; answered by Certificate."""

    request: RequestId
    account: Account


class AskKnowledge(Record, frozen=True, tag=14):
    """Ask for everything that the server holds about this device's account; answered by Knowledge."""

    request: RequestId


class DeleteAccount(Record, frozen=True, tag=15):
    """Forget this device's account and everything that belongs to it; answered by Done, then the connection ends."""

    request: RequestId


class SwapMark(Record, frozen=True, tag=16):
    """Put *new* in the place of this device's mark if *expected* stands there, or nothing yet; answered by Done.

    A copy of a device finds by it that it is not the only one.
    """

    request: RequestId
    expected: Annotated[bytes, Meta(max_length=16)]
    new: Annotated[bytes, Meta(min_length=16, max_length=16)]


class SetPush(Record, frozen=True, tag=17):
    """Wake this device by Web Push from now on; answered by Done.

    *endpoint*: an https URL, empty to be woken no more. *key*: the browser's P-256 public key, uncompressed (65 bytes);
    *secret*: its authentication secret (16 bytes). Both are empty with an empty endpoint. Source: RFC 8030, RFC 8291.
    """

    request: RequestId
    endpoint: Annotated[str, Meta(max_length=MAX_ENDPOINT_CHARACTERS)]
    key: Annotated[bytes, Meta(max_length=65)] = b""
    secret: Annotated[bytes, Meta(max_length=16)] = b""


# ---------------------------------------------------------------- replies


class Welcome(Record, frozen=True, tag=64):
    """Answers Hello: the version chosen, the nonce that a login signs, the server's clock and its generation."""

    version: Annotated[int, Meta(ge=1, le=0xFFFF)]
    nonce: Nonce
    origin: Annotated[str, Meta(max_length=300)]
    now_ms: Milliseconds
    generation: Generation


class Done(Record, frozen=True, tag=65):
    """The command was carried out."""

    request: RequestId


class Failed(Record, frozen=True, tag=66):
    """The command was refused; nothing of it happened. Request 0 means the frame had none that could be read."""

    request: Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
    code: Annotated[int, Meta(ge=1, le=0xFFFF)]
    retry_after_ms: Milliseconds = 0
    detail: Annotated[str, Meta(max_length=200)] = ""


class LoggedIn(Record, frozen=True, tag=67):
    """Answers Login: one-time key packages left by suite; *remint* asks for new addresses (the mailbox was renewed).

    *wakes*: the server has a push endpoint of this device.
    """

    request: RequestId
    classic_left: Count
    hybrid_left: Count
    last_resorts: Annotated[list[Suite], Meta(max_length=8)] = field(default_factory=list)
    remint: bool = False
    wakes: bool = False


class Sent(Record, frozen=True, tag=68):
    """Answers Send, once, when the slowest address is settled: one status byte for each address, in order."""

    request: RequestId
    statuses: Annotated[bytes, Meta(min_length=1, max_length=MAX_ADDRESSES)]


class MintedAddress(Record, frozen=True):
    """A fresh sealed address and the serial inside it."""

    address: Address
    serial: AddressSerial


class Minted(Record, frozen=True, tag=69):
    """Answers MintAddresses."""

    request: RequestId
    addresses: Annotated[list[MintedAddress], Meta(max_length=MAX_MINT)]


class Published(Record, frozen=True, tag=70):
    """Answers PublishKeyPackages: one-time packages of that suite now waiting to be claimed."""

    request: RequestId
    left: Count


class KeyPackageClaimed(Record, frozen=True, tag=71):
    """Answers ClaimKeyPackage: the package and the certificate of the account that it belongs to."""

    request: RequestId
    key_package: KeyPackage
    genesis: Genesis
    device_list: SignedList


class GateState(Record, frozen=True, tag=72):
    """Answers ClaimGate and ReadGate: the value that stands in the gate; empty only if ReadGate found none."""

    request: RequestId
    value: Annotated[bytes, Meta(max_length=MAX_GATE_VALUE_BYTES)]


class Certificate(Record, frozen=True, tag=73):
    """Answers FetchCertificate."""

    request: RequestId
    genesis: Genesis
    device_list: SignedList


class Fact(Record, frozen=True):
    """One thing the server holds: the ledger entry that permits it, and the value in words."""

    entry: Annotated[str, Meta(max_length=100)]
    value: Annotated[str, Meta(max_length=2000)]


class Knowledge(Record, frozen=True, tag=74):
    """Answers AskKnowledge: everything the server holds about the account, by ledger entry."""

    request: RequestId
    facts: Annotated[list[Fact], Meta(max_length=1000)]


# ---------------------------------------------------------------- events


class Deliver(Record, frozen=True, tag=128):
    """An envelope for this device. Numbers rise from 1 on each connection; 0 is ephemeral: not acknowledged."""

    number: Count
    serial: AddressSerial
    body: Body


class CaughtUp(Record, frozen=True, tag=129):
    """Everything that waited in the mailbox at login has been delivered up to this number; sent once a connection."""

    upto: Count


class Draining(Record, frozen=True, tag=130):
    """The server is about to close this connection: connect again after this time."""

    retry_after_ms: Milliseconds


class Replaced(Record, frozen=True, tag=131):
    """A newer connection of this device took over; the server closes this one."""


Command = (
    Hello | Register | Login | Send | Acknowledge | MintAddresses | RevokeAddress | PublishKeyPackages
    | ClaimKeyPackage | ClaimGate | ReadGate | PublishDeviceList | FetchCertificate | AskKnowledge | DeleteAccount
    | SwapMark | SetPush
)  # fmt: skip
Reply = (
    Welcome | Done | Failed | LoggedIn | Sent | Minted | Published | KeyPackageClaimed | GateState | Certificate
    | Knowledge
)  # fmt: skip
Event = Deliver | CaughtUp | Draining | Replaced
Message = Command | Reply | Event
