"""Hosts the cryptographic core: the only caller of taube_core.wasm, and the only module that knows wasmtime.

Pure to its callers: bytes in, bytes out. Time and randomness are arguments; the core's storage writes queue up as deltas that
the caller stores in the same transaction as what the call was for. State is grouped in scopes (`ACCOUNT_SCOPE`,
`DEVICE_SCOPE`, `PACKAGES_SCOPE` and each group id), which the caller loads before use. A call that raises leaves the
state as it was. A trap loses the instance: CoreTrapped is raised, a new instance stands ready, all scopes are unloaded.

Source: docs/protocol/groups.md.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

SUITE_CLASSIC: Final = 0x0001
SUITE_HYBRID: Final = 0x004F

ACCOUNT_SCOPE: Final = b"account"
DEVICE_SCOPE: Final = b"device"
PACKAGES_SCOPE: Final = b"packages"

KIND_PAIR: Final = 0
KIND_GROUP: Final = 1


class CoreError(Exception):
    """Base of everything that the core refuses. `code` is stable; the text is for people who debug."""

    code: int = 0
    name: str = "Error"


class Malformed(CoreError):
    """The bytes are not what they were said to be."""

    code, name = 1, "Malformed"


class Unverified(CoreError):
    """A signature, certificate, credential or extension does not prove what it claims."""

    code, name = 2, "Unverified"


class NotLoaded(CoreError):
    """The call needs a scope that is not loaded, or that holds nothing."""

    code, name = 3, "NotLoaded"


class NoSuchGroup(CoreError):
    """The scope is loaded but holds no MLS group."""

    code, name = 4, "NoSuchGroup"


class WrongEpoch(CoreError):
    """The epoch asked for is neither the current one nor kept; or k is out of range."""

    code, name = 5, "WrongEpoch"


class Stuck(CoreError):
    """Only this device cannot go on: it asks for a rejoin."""

    code, name = 6, "Stuck"


class PolicyRefused(CoreError):
    """The chat's rules (roles, who may have a leaf) forbid it."""

    code, name = 7, "PolicyRefused"


class CounterOutdated(CoreError):
    """A device list has a lower counter than one that is already known."""

    code, name = 8, "CounterOutdated"


class Internal(CoreError):
    """The core met an error of its own; the state is as before."""

    code, name = 9, "Internal"


class CommitPending(CoreError):
    """There is a staged commit already: confirm or drop it first."""

    code, name = 10, "CommitPending"


class NothingPending(CoreError):
    """There is no staged commit to confirm, restage or drop."""

    code, name = 11, "NothingPending"


class TooLarge(CoreError):
    """The gate value, welcome or content is above the wire's limit."""

    code, name = 12, "TooLarge"


class NotForUs(CoreError):
    """HPKE does not open: the body was sealed to another device, or is no mail from a stranger."""

    code, name = 13, "NotForUs"


class NoKeyPackage(CoreError):
    """The Welcome names none of our key packages."""

    code, name = 14, "NoKeyPackage"


class Expired(CoreError):
    """A key package has less than 50 days left, or a request is too old."""

    code, name = 15, "Expired"


class CoreTrapped(CoreError):
    """The core's instance is lost. All scopes are unloaded; load them again and the state from before the call is good."""

    code, name = 99, "CoreTrapped"


class Delta(NamedTuple):
    """One write of the core's storage. *value* None deletes."""

    scope: bytes
    key: bytes
    value: bytes | None


class NewAccount(NamedTuple):
    account_id: bytes
    """32 bytes: SHA-256 of *genesis*."""
    genesis: bytes
    """65 bytes: 1, account public key, recovery public key."""


class DeviceKeys(NamedTuple):
    """A device as a device list names it. All keys 32 bytes."""

    device_id: bytes
    """16 bytes."""
    login_pk: bytes
    mls_pk: bytes
    hpke_pk: bytes
    """X25519."""


class CertificateInfo(NamedTuple):
    account_id: bytes
    counter: int
    account_key: bytes
    """The newest account public key."""
    devices: tuple[DeviceKeys, ...]


class NewKeyPackage(NamedTuple):
    ref: bytes
    """32 bytes, the key package reference of RFC 9420; names its private parts in `PACKAGES_SCOPE`."""
    key_package: bytes


class KeyPackageInfo(NamedTuple):
    account_id: bytes
    device_id: bytes
    suite: int
    address: bytes
    """41 bytes: the sealed address of the chat that will use this package."""
    expires_at_s: int
    certificate: CertificateInfo


class GroupContext(NamedTuple):
    """What stands in the MLS GroupContext and decides whether a commit is valid."""

    kind: int
    """KIND_PAIR or KIND_GROUP."""
    chat_id: bytes
    """16 bytes; a successor group keeps it."""
    admins: tuple[bytes, ...]
    """Account ids; in a pair: both."""
    predecessor: tuple[bytes, int] | None = None
    """(group id, its newest epoch) of the group that this one succeeds."""


class Member(NamedTuple):
    account_id: bytes
    device_id: bytes
    address: bytes
    certificate: bytes
    counter: int
    leaf: int
    """Index of the leaf in the tree."""


class GroupInfo(NamedTuple):
    group_id: bytes
    epoch: int
    suite: int
    context: GroupContext
    members: tuple[Member, ...]
    """In the order of their leaves; ourselves among them."""
    has_pending: bool
    own_leaf: int


class Addressed(NamedTuple):
    """An envelope body and the one address it goes to."""

    address: bytes
    body: bytes


class Staged(NamedTuple):
    """A commit waiting for its gate. Store everything durably before claiming the gate."""

    epoch: int
    """The epoch that the commit ends."""
    k: int
    gate_name: bytes
    gate_value: bytes
    commit_body: bytes
    """Envelope body for the members of the old epoch."""
    welcomes: tuple[Addressed, ...]


Verdict = Literal["applied", "void", "stuck", "removed"]
ReceivedKind = Literal["content", "commit", "look_at_gate", "later", "duplicate", "junk"]


class Applied(NamedTuple):
    """What a commit did.

    "applied": we are in *epoch*, the new one. "removed": it removed us, *epoch* is the last we saw. "void": every member judges the value bad alike: go to k + 1.
    "stuck": only we cannot apply it: ask for a rejoin. After "void" and "stuck" the state is as before and only *epoch* (the current) is set.
    """

    verdict: Verdict
    epoch: int
    committer: tuple[bytes, bytes] | None = None
    """(account id, device id)."""
    added: tuple[Member, ...] = ()
    removed: tuple[tuple[bytes, bytes], ...] = ()
    updated: tuple[Member, ...] = ()
    """Leaves that stayed but changed: address, keys or certificate."""
    context: GroupContext | None = None
    """The new context if the commit changed it."""
    commit_body: bytes = b""
    welcomes: tuple[Addressed, ...] = ()
    """With *commit_body*: what any member sends to finish for a committer that died. Byte for byte what the committer sends."""


class Received(NamedTuple):
    """What one envelope body turned out to be.

    "content": *content* from *sender*. "commit": nothing applied yet, call `apply_gate_value(k, gate_value)`. "look_at_gate": a commit was made at gate *k*.
    "later": no seal key opens it; perhaps of a next epoch: set it aside. "duplicate": opened before. "junk": never usable.
    """

    kind: ReceivedKind
    sender: tuple[bytes, bytes] | None = None
    epoch: int = 0
    content: bytes = b""
    k: int = 0
    gate_value: bytes = b""


class StrangerMail(NamedTuple):
    """An envelope body that was HPKE-sealed to this device. The fields after *payload* are set for "rejoin" only."""

    kind: Literal["welcome", "rejoin", "unknown"]
    payload: bytes
    account_id: bytes = b""
    device_id: bytes = b""
    chat_id: bytes = b""
    last_epoch: int = 0
    key_package: bytes = b""
    time_s: int = 0


class Joined(NamedTuple):
    group_id: bytes
    epoch: int
    suite: int
    context: GroupContext
    members: tuple[Member, ...]
    sender: tuple[bytes, bytes]
    """(account id, device id) of whoever sent the Welcome."""
    package_ref: bytes


Known = Mapping[bytes, int]
"""Account id -> the lowest device list counter that is still acceptable."""


class Core:
    """One instance of the core. Not thread-safe."""

    def __init__(self, random: Callable[[int], bytes], cache_dir: str | None = None) -> None:
        """*random(n)* gives n random bytes, fit for keys. *cache_dir* keeps the compiled module (a directory of ours, mode 0700)."""
        raise NotImplementedError

    # -- state ----------------------------------------------------------------------------------------------------

    def load(self, scope: bytes, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Make *rows* the whole content of *scope*; replaces what was loaded."""
        raise NotImplementedError

    def unload(self, scope: bytes) -> None:
        """Forget *scope* and its deltas that were not taken."""
        raise NotImplementedError

    def unload_all(self) -> None:
        raise NotImplementedError

    def is_loaded(self, scope: bytes) -> bool:
        raise NotImplementedError

    def take_deltas(self) -> list[Delta]:
        """The writes since the last take, in order. Store them in the transaction of the call, or `unload_all` if it rolls back."""
        raise NotImplementedError

    # -- identity -------------------------------------------------------------------------------------------------

    def create_account(self) -> NewAccount:
        """Make account and recovery keys; the secrets go to `ACCOUNT_SCOPE`, which must be loaded (empty)."""
        raise NotImplementedError

    def create_device(self) -> DeviceKeys:
        """Make the device's keys; the secrets go to `DEVICE_SCOPE`, replacing the one before."""
        raise NotImplementedError

    def sign_device_list(self, counter: int, devices: Sequence[DeviceKeys]) -> bytes:
        """The signed list. Needs `ACCOUNT_SCOPE`."""
        raise NotImplementedError

    def login_signature(self, origin: str, nonce: bytes) -> bytes:
        """64 bytes by the login key of the device. Needs `DEVICE_SCOPE`."""
        raise NotImplementedError

    def check_certificate(self, certificate: bytes) -> CertificateInfo:
        """What *certificate* proves. Raises Malformed or Unverified."""
        raise NotImplementedError

    def safety_number(self, mine: bytes, theirs: bytes) -> str:
        """60 digits from two certificates: the same on both sides while account ids and account keys are the same."""
        raise NotImplementedError

    # -- key packages ---------------------------------------------------------------------------------------------

    def create_key_packages(
        self, suite: int, addresses: Sequence[bytes], certificate: bytes, now_s: int, last_resort: bool = False
    ) -> list[NewKeyPackage]:
        """One key package for each address, valid 84 days. Needs `DEVICE_SCOPE` and `PACKAGES_SCOPE`."""
        raise NotImplementedError

    def delete_key_packages(self, refs: Sequence[bytes]) -> None:
        """Forget the private parts of packages; unknown references are ignored."""
        raise NotImplementedError

    def inspect_key_package(self, key_package: bytes, certificate: bytes, now_s: int) -> KeyPackageInfo:
        """Check a claimed package against the certificate that came with it, and that 50 days are left.

        Raises Malformed, Unverified or Expired.
        """
        raise NotImplementedError

    # -- groups ---------------------------------------------------------------------------------------------------

    def create_group(self, suite: int, context: GroupContext, address: bytes, certificate: bytes, now_s: int) -> bytes:
        """Found a group with ourselves as its only leaf; returns its id, 32 random bytes, which is its (loaded) scope."""
        raise NotImplementedError

    def group(self, group_id: bytes) -> GroupInfo:
        raise NotImplementedError

    def stage(
        self,
        group_id: bytes,
        *,
        k: int,
        adds: Sequence[bytes] = (),
        removes: Sequence[tuple[bytes, bytes]] = (),
        update: bool = False,
        address: bytes | None = None,
        certificate: bytes | None = None,
        context: GroupContext | None = None,
        known: Known | None = None,
        now_s: int,
    ) -> Staged:
        """Prepare a commit for gate *k*: add key packages, remove (account, device) pairs, change our leaf or the context.

        Pending until `confirm` or `drop`. Raises CommitPending, PolicyRefused, Unverified, CounterOutdated, Expired, TooLarge.
        """
        raise NotImplementedError

    def restage(self, group_id: bytes, k: int) -> Staged:
        """The same pending commit sealed for gate *k*, after the one before turned out void."""
        raise NotImplementedError

    def confirm(self, group_id: bytes, now_s: int) -> Applied:
        """Our claim won: merge the pending commit."""
        raise NotImplementedError

    def drop(self, group_id: bytes) -> None:
        """Forget the pending commit; nothing happens if there is none."""
        raise NotImplementedError

    def gate_name(self, group_id: bytes, k: int) -> bytes:
        """32 bytes: gate *k* (0..15) of the current epoch."""
        raise NotImplementedError

    def past_gate_name(self, group_id: bytes, epoch: int, k: int) -> bytes:
        """32 bytes: gate *k* of an epoch that is still kept. Raises WrongEpoch."""
        raise NotImplementedError

    def apply_gate_value(self, group_id: bytes, k: int, value: bytes, known: Known, now_s: int) -> Applied:
        """Judge and apply the value of gate *k* of the current epoch. A value equal to our own pending one is confirmed.

        A pending commit of ours is dropped if another one is applied.
        """
        raise NotImplementedError

    def protect(self, group_id: bytes, contents: Sequence[bytes]) -> list[bytes]:
        """One envelope body for each content, in the current epoch."""
        raise NotImplementedError

    def receive(self, group_id: bytes, bodies: Sequence[bytes], known: Known, now_s: int) -> list[Received]:
        """What each body is. Bad bodies do not raise; they are "junk"."""
        raise NotImplementedError

    def open_from_stranger(self, body: bytes) -> StrangerMail:
        """Open a body that was HPKE-sealed to this device. Needs `DEVICE_SCOPE`. Raises NotForUs."""
        raise NotImplementedError

    def join(self, body: bytes, known: Known, now_s: int) -> Joined:
        """Join by a "welcome" body. Needs `DEVICE_SCOPE` and `PACKAGES_SCOPE`; the group's id becomes a loaded scope.

        The one-time package that it used is deleted. Raises NotForUs, NoKeyPackage, Malformed, Unverified, CounterOutdated, PolicyRefused.
        """
        raise NotImplementedError

    def rejoin_request(
        self, group_id: bytes, peer: tuple[bytes, bytes], key_package: bytes, now_s: int
    ) -> tuple[bytes, bytes]:
        """Ask *peer* (account, device) to add us again. Returns (the peer's address, envelope body)."""
        raise NotImplementedError

    def check_rejoin(self, group_id: bytes, mail: StrangerMail, certificate: bytes, now_s: int) -> None:
        """Raises unless the request is signed by a device on the account's newest list (*certificate*), whose account has a leaf."""
        raise NotImplementedError

    def export(self, group_id: bytes, label: str, context: bytes, length: int) -> bytes:
        """A secret of the current epoch for another use (RFC 9420 section 8.5). Labels that begin with "taube " are reserved."""
        raise NotImplementedError

    def forget_group(self, group_id: bytes) -> None:
        """Delete all rows of the group."""
        raise NotImplementedError

    def padded_size(self, size: int) -> int:
        """Padmé, at least 256."""
        raise NotImplementedError
