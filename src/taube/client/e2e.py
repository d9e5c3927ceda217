"""Hosts the cryptographic core: the only caller of taube_core.wasm, and the only module that knows wasmtime.

Pure to its callers: bytes in, bytes out. Time and randomness are arguments; the core's storage writes queue up as
deltas
that the caller stores in the same transaction as what the call was for. State is grouped in scopes (`ACCOUNT_SCOPE`,
`DEVICE_SCOPE`, `PACKAGES_SCOPE` and each group id), which the caller loads before use. A call that raises leaves the
state as it was. A trap loses the instance: CoreTrapped is raised, a new instance stands ready, all scopes are unloaded.

Source: docs/protocol/groups.md.
"""

import ctypes
import functools
import hashlib
import os
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeVar, cast

from taube.wire.errors import TaubeError
from taube.wire.packing import Unpacker, pack

if TYPE_CHECKING:
    import wasmtime

T = TypeVar("T")

SUITE_CLASSIC: Final = 0x0001
SUITE_HYBRID: Final = 0x004F

ACCOUNT_SCOPE: Final = b"account"
DEVICE_SCOPE: Final = b"device"
PACKAGES_SCOPE: Final = b"packages"

KIND_PAIR: Final = 0
KIND_GROUP: Final = 1


class CoreError(TaubeError):
    """Base of everything that the core refuses. `code` is stable.

    The text is for people who debug, without keys or content.
    """

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


class Evicted(CoreError):
    """A commit removed this device from the group."""

    code, name = 16, "Evicted"


class CoreTrapped(CoreError):
    """The core's instance is lost. All scopes are unloaded.

    Load them again and the state from before the call is good.
    """

    code, name = 99, "CoreTrapped"


class Delta(NamedTuple):
    """One write of the core's storage. *value* None deletes the row.

    With an empty *key* it deletes every row of *scope* first.
    """

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

    "applied": we are in *epoch*, the new one. "removed": it removed us; *epoch* is the one that we are not part of.
    "void": every member judges the value bad alike: go to k + 1. "stuck": only we cannot apply it: ask for a rejoin.
    After "void" and "stuck" the state is as before and only *epoch* (the current) is set.
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
    """With *commit_body*: what any member sends to finish for a committer that died.

    Byte for byte what the committer sends.
    """
    outdated: tuple[tuple[bytes, bytes], ...] = ()
    """Added or changed leaves whose device list is older than `known` says (GRP-58): remove them, or tell."""


class Received(NamedTuple):
    """What one envelope body turned out to be.

    "content": *content* from *sender*. "commit": a member says that gate *k* holds *gate_value*; nothing is applied:
    claim the gate with it and apply what the gate answers. "look_at_gate": the same without the value. "later": no seal
    key opens it, perhaps one of a next epoch will: set it aside. "duplicate": opened before. "junk": never usable.
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

_ERRORS: Final[dict[int, type[CoreError]]] = {
    error.code: error for error in CoreError.__subclasses__() if error is not CoreTrapped
}

_Bodies = list[bytes]


@functools.cache
def _reply(kind: Hashable) -> Unpacker[tuple[int, Any, list[Delta]]]:
    """Unpacks the answer to a call that results in *kind*: 0, the result, its deltas. Made when first needed."""
    return Unpacker(tuple[Literal[0], kind, list[Delta]])  # type: ignore[valid-type]


@functools.cache
def _refusal() -> Unpacker[tuple[int, str]]:
    return Unpacker(tuple[int, str])


WASM_PATH: Final = Path(__file__).with_name("taube_core.wasm")


class Core:
    """One instance of the core. Not thread-safe."""

    def __init__(self, random: Callable[[int], bytes], cache_dir: str | None = None) -> None:
        """*random(n)* gives n random bytes, fit for keys.

        *cache_dir* keeps the compiled module (made with mode 0700 if missing).
        """
        self._random = random
        self._runtime = _Runtime(WASM_PATH.read_bytes(), None if cache_dir is None else Path(cache_dir))
        self._instance = self._runtime.instance(random)
        self._loaded: set[bytes] = set()
        self._deltas: list[Delta] = []

    def _call(self, number: int, kind: type[T] | None, *arguments: object) -> T:
        """One call through the boundary (the numbers are in core/src/lib.rs). Queues its deltas."""
        try:
            reply = self._instance.call(number, pack(arguments))
        except BaseException:
            # Whatever came up, a trap or an interrupt: the instance may have stopped half-way and is not used again.
            self._loaded.clear()
            self._deltas.clear()
            self._instance = self._runtime.instance(self._random)
            raise
        if reply[0] == 0x92:
            code, text = _refusal().unpack(reply)
            raise _ERRORS.get(code, Internal)(text)
        _, result, deltas = _reply(cast(Hashable, kind)).unpack(reply)
        self._deltas += deltas
        return result  # type: ignore[no-any-return]

    # -- state ----------------------------------------------------------------------------------------------------

    def load(self, scope: bytes, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Make *rows* the whole content of *scope*; replaces what was loaded."""
        self.unload(scope)
        self._call(1, None, scope, list(rows))
        self._loaded.add(scope)

    def unload(self, scope: bytes) -> None:
        """Forget *scope* and its deltas that were not taken."""
        if scope in self._loaded:
            self._loaded.discard(scope)
            self._call(2, None, scope)
        self._deltas = [delta for delta in self._deltas if delta.scope != scope]

    def unload_all(self) -> None:
        """Forget every scope and every delta that was not taken: what a host does when it rolls back."""
        for scope in tuple(self._loaded):
            self.unload(scope)
        self._deltas.clear()

    def is_loaded(self, scope: bytes) -> bool:
        """Whether calls can use *scope*."""
        return scope in self._loaded

    def take_deltas(self) -> list[Delta]:
        """The writes since the last take, in order.

        Store them in the transaction of the call, or `unload_all` if it rolls back.
        """
        deltas, self._deltas = self._deltas, []
        return deltas

    # -- identity -------------------------------------------------------------------------------------------------

    def create_account(self) -> NewAccount:
        """Make account and recovery keys; the secrets go to `ACCOUNT_SCOPE`, which must be loaded (empty)."""
        return self._call(10, NewAccount)

    def create_device(self) -> DeviceKeys:
        """Make the device's keys; the secrets go to `DEVICE_SCOPE`, replacing the one before."""
        return self._call(11, DeviceKeys)

    def sign_device_list(self, counter: int, devices: Sequence[DeviceKeys]) -> bytes:
        """The signed list. Needs `ACCOUNT_SCOPE`. Raises Malformed for a list that no one would accept."""
        return self._call(12, bytes, counter, list(devices))

    def login_signature(self, origin: str, nonce: bytes) -> bytes:
        """64 bytes by the login key of the device. Needs `DEVICE_SCOPE`."""
        return self._call(13, bytes, origin, nonce)

    def check_certificate(self, certificate: bytes) -> CertificateInfo:
        """What *certificate* proves. Raises Malformed or Unverified."""
        return self._call(14, CertificateInfo, certificate)

    def safety_number(self, mine: bytes, theirs: bytes) -> str:
        """60 digits from two certificates: the same on both sides while account ids and account keys are the same."""
        return self._call(15, str, mine, theirs)

    # -- key packages ---------------------------------------------------------------------------------------------

    def create_key_packages(
        self, suite: int, addresses: Sequence[bytes], certificate: bytes, now_s: int, last_resort: bool = False
    ) -> list[NewKeyPackage]:
        """One key package for each address, valid 84 days. Needs `DEVICE_SCOPE` and `PACKAGES_SCOPE`."""
        return self._call(20, list[NewKeyPackage], suite, list(addresses), certificate, now_s, last_resort)

    def delete_key_packages(self, refs: Sequence[bytes]) -> None:
        """Forget the private parts of packages; unknown references are ignored."""
        self._call(21, None, list(refs))

    def inspect_key_package(self, key_package: bytes, certificate: bytes, now_s: int) -> KeyPackageInfo:
        """Check a claimed package against the certificate that came with it, and that 50 days are left.

        Raises Malformed, Unverified, CounterOutdated or Expired.
        """
        return self._call(22, KeyPackageInfo, key_package, certificate, now_s)

    # -- groups ---------------------------------------------------------------------------------------------------

    def create_group(self, suite: int, context: GroupContext, address: bytes, certificate: bytes, now_s: int) -> bytes:
        """Found a group with ourselves as its only leaf.

        Returns its id, 32 random bytes, which is its (loaded) scope.
        """
        group_id = self._call(30, bytes, suite, context, address, certificate, now_s)
        self._loaded.add(group_id)
        return group_id

    def group(self, group_id: bytes) -> GroupInfo:
        """What the group is now. Raises NotLoaded or NoSuchGroup, as all calls on a group do."""
        return self._call(31, GroupInfo, group_id)

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
        """Prepare a commit for gate *k*: add key packages, remove (account, device) pairs, change our leaf or the
        context.

        Pending until `confirm` or `drop`. Raises CommitPending, PolicyRefused, Unverified, CounterOutdated, Expired,
        TooLarge.
        """
        leaf = (update, address, certificate)
        return self._call(32, Staged, group_id, k, list(adds), list(removes), leaf, context, dict(known or {}), now_s)

    def restage(self, group_id: bytes, k: int) -> Staged:
        """The same pending commit sealed for gate *k*, after the one before turned out void. Raises NothingPending."""
        return self._call(33, Staged, group_id, k)

    def confirm(self, group_id: bytes, now_s: int) -> Applied:
        """Our claim won: merge the pending commit. Raises NothingPending."""
        return self._call(34, Applied, group_id, now_s)

    def drop(self, group_id: bytes) -> None:
        """Forget the pending commit; nothing happens if there is none."""
        self._call(35, None, group_id)

    def gate_name(self, group_id: bytes, k: int) -> bytes:
        """32 bytes: gate *k* (0..15) of the current epoch."""
        return self._call(36, bytes, group_id, None, k)

    def past_gate_name(self, group_id: bytes, epoch: int, k: int) -> bytes:
        """32 bytes: gate *k* of an epoch that is still kept. Raises WrongEpoch."""
        return self._call(36, bytes, group_id, epoch, k)

    def apply_gate_value(self, group_id: bytes, k: int, value: bytes, known: Known, now_s: int) -> Applied:
        """Judge and apply the value of gate *k* of the current epoch. A value equal to our own pending one is
        confirmed.

        A pending commit of ours is dropped if another one is applied. A CoreTrapped here means "stuck".
        """
        return self._call(37, Applied, group_id, k, value, dict(known), now_s)

    def protect(self, group_id: bytes, contents: Sequence[bytes]) -> list[bytes]:
        """One envelope body for each content, in the current epoch; also while a commit is pending.

        Raises TooLarge, Evicted.
        """
        return self._call(38, _Bodies, group_id, list(contents))

    def receive(self, group_id: bytes, bodies: Sequence[bytes], known: Known, now_s: int) -> list[Received]:
        """What each body is. Bad bodies do not raise; they are "junk". (*known* is not needed.

        Bodies bring no new leaves.)
        """
        return self._call(39, list[Received], group_id, list(bodies), now_s)

    def open_from_stranger(self, body: bytes) -> StrangerMail:
        """Open a body that was HPKE-sealed to this device. Needs `DEVICE_SCOPE`. Raises NotForUs."""
        return self._call(40, StrangerMail, body)

    def join(self, body: bytes, known: Known, now_s: int) -> Joined:
        """Join by a "welcome" body. Needs `DEVICE_SCOPE` and `PACKAGES_SCOPE`; the group's id becomes a loaded scope.

        The one-time package that it used is deleted; an earlier state of the same group is replaced.
        Raises NotForUs, NoKeyPackage, Malformed, Unverified, CounterOutdated, PolicyRefused.
        """
        joined = self._call(41, Joined, body, dict(known), now_s)
        self._loaded.add(joined.group_id)
        return joined

    def rejoin_request(
        self, group_id: bytes, peer: tuple[bytes, bytes], key_package: bytes, now_s: int
    ) -> tuple[bytes, bytes]:
        """Ask *peer* (account, device) to add us again. Returns (the peer's address, envelope body)."""
        return self._call(42, Addressed, group_id, peer, key_package, now_s)

    def check_rejoin(self, group_id: bytes, mail: StrangerMail, certificate: bytes, now_s: int) -> None:
        """Raises unless the request is signed by a device on the account's newest list (*certificate*), whose account
        has a leaf.

        Raises Malformed, Unverified, PolicyRefused, CounterOutdated or Expired (the request is older than 30 days, or
        its package).
        """
        self._call(43, None, group_id, mail.payload, certificate, now_s)

    def export(self, group_id: bytes, label: str, context: bytes, length: int) -> bytes:
        """A secret of the current epoch for another use (RFC 9420 section 8.5).

        Labels that begin with "taube " are reserved.
        """
        return self._call(44, bytes, group_id, label, context, length)

    def forget_group(self, group_id: bytes) -> None:
        """Delete all rows of the group. Its scope stays loaded, empty."""
        self._call(45, None, group_id)
        self._loaded.add(group_id)

    def padded_size(self, size: int) -> int:
        """Padmé, at least 256."""
        return self._call(46, int, size)

    # -- files ----------------------------------------------------------------------------------------------------

    def seal_blob(self, key: bytes, size: int, index: int, piece: bytes) -> bytes:
        """Chunk *index* (0, 1, …) of a file of *size* bytes, sealed: padded, and 16 bytes longer.

        *key*: 32 random bytes that seal no other file. *piece*: the file's bytes from index * 65,536 on, 65,536 of
        them or as many as there are; none where the chunk is all padding. How many chunks there are follows from
        `padded_size(size)`. Raises Malformed, TooLarge (above 1 GiB). Source: CNT-40.
        """
        return self._call(47, bytes, key, size, index, piece)

    def open_blob(self, key: bytes, size: int, index: int, sealed: bytes) -> bytes:
        """The inverse: what chunk *index* holds of the file. Raises Malformed, TooLarge, Unverified."""
        return self._call(48, bytes, key, size, index, sealed)


class _Runtime:
    """The compiled module, from the cache if there is one that fits."""

    def __init__(self, wasm: bytes, cache_dir: Path | None) -> None:
        import wasmtime

        self._wasmtime = wasmtime
        self._engine = wasmtime.Engine()
        self._module = self._compiled(wasm, cache_dir)

    def _compiled(self, wasm: bytes, cache_dir: Path | None) -> "wasmtime.Module":
        if cache_dir is None:
            return self._wasmtime.Module(self._engine, wasm)
        name = f"core-{hashlib.sha256(wasm).hexdigest()[:32]}"
        for path in _cached(cache_dir, name):
            try:
                return self._wasmtime.Module.deserialize_file(self._engine, str(path))
            except self._wasmtime.WasmtimeError:
                continue  # of another version of wasmtime
        module = self._wasmtime.Module(self._engine, wasm)
        _keep(cache_dir, name, bytes(module.serialize()))
        return module

    def instance(self, random: Callable[[int], bytes]) -> "_Instance":
        return _Instance(self._engine, self._module, random)


class _Instance:
    """One running instance: memory, the two exports, and what WASI asks of the host."""

    def __init__(self, engine: "wasmtime.Engine", module: "wasmtime.Module", random: Callable[[int], bytes]) -> None:
        import wasmtime

        self._random = random
        self._panic = b""
        self._store = wasmtime.Store(engine)
        imports = []
        hosts: dict[str | None, Callable[..., Any]] = {
            "random_get": self._random_get,
            "fd_write": self._fd_write,
            "environ_get": self._environ_get,
            "environ_sizes_get": self._environ_sizes_get,
            "proc_exit": self._proc_exit,
        }
        for needed in module.imports:
            assert isinstance(needed.type, wasmtime.FuncType)
            imports.append(wasmtime.Func(self._store, needed.type, _weakly(hosts[needed.name])))
        exports = wasmtime.Instance(self._store, module, imports).exports(self._store)
        self._memory: wasmtime.Memory = exports["memory"]  # type: ignore[assignment]
        self._buffer: Callable[..., int] = exports["taube_buffer"]  # type: ignore[assignment]
        self._function: Callable[..., int] = exports["taube_call"]  # type: ignore[assignment]
        if "_initialize" in exports:
            exports["_initialize"](self._store)  # type: ignore[operator]

    def call(self, number: int, arguments: bytes) -> bytes:
        """The answer to one call. Raises CoreTrapped; the instance is lost then."""
        try:
            self._write(self._buffer(self._store, len(arguments)), arguments)
            answer = self._function(self._store, number) & 0xFFFF_FFFF_FFFF_FFFF
        except Exception as error:
            text = self._panic.decode("utf-8", "replace").strip() or str(error) or type(error).__name__
            raise CoreTrapped(text.splitlines()[0]) from error
        return ctypes.string_at(self._base() + (answer >> 32), answer & 0xFFFF_FFFF)

    def _base(self) -> int:
        return ctypes.addressof(self._memory.data_ptr(self._store).contents)

    def _write(self, pointer: int, data: bytes) -> None:
        ctypes.memmove(self._base() + (pointer & 0xFFFF_FFFF), data, len(data))

    # What WASI asks for. Pointers into memory come from the core itself.

    def _random_get(self, pointer: int, length: int) -> int:
        data = self._random(length)
        if len(data) != length:
            raise ValueError("the random argument gave another number of bytes than it was asked for")
        self._write(pointer, data)
        return 0

    def _fd_write(self, _fd: int, vectors: int, count: int, written: int) -> int:
        total = 0
        for at in range(count):
            pointer, length = (
                int.from_bytes(ctypes.string_at(self._base() + (vectors & 0xFFFF_FFFF) + 8 * at + half, 4), "little")
                for half in (0, 4)
            )
            self._panic += ctypes.string_at(self._base() + pointer, length)
            total += length
        self._write(written, total.to_bytes(4, "little"))
        return 0

    def _environ_sizes_get(self, count: int, size: int) -> int:
        self._write(count, bytes(4))
        self._write(size, bytes(4))
        return 0

    def _proc_exit(self, code: int) -> None:
        raise RuntimeError(f"the core exited with {code}")

    def _environ_get(self, _pointers: int, _text: int) -> int:
        return 0


def _weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """*method* without keeping its object alive: wasmtime holds host functions where the garbage collector cannot see
    that the store behind them is held by nobody else."""
    reference = weakref.WeakMethod(method)

    def call(*arguments: int) -> Any:
        alive = reference()
        assert alive is not None
        return alive(*arguments)

    return call


def _is_ours_alone(folder: Path) -> bool:
    """A compiled module is native code: it is taken only from a directory that no one else can write or read."""
    status = folder.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o077


def _cached(folder: Path, name: str) -> list[Path]:
    """The compiled modules of this core in *folder* whose bytes have the hash that stands in their name."""
    try:
        if not _is_ours_alone(folder):
            return []
        found = folder.glob(f"{name}-*.cwasm")
        return [path for path in found if hashlib.sha256(path.read_bytes()).hexdigest()[:32] in path.name]
    except OSError:
        return []


def _keep(folder: Path, name: str, module: bytes) -> None:
    """Keep a compiled module for the next start, and no other. A cache that cannot be written only costs time."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours_alone(folder):
            return
        older = list(folder.glob("core-*.cwasm"))
        path = folder / f"{name}-{hashlib.sha256(module).hexdigest()[:32]}.cwasm"
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(module)
        unfinished.replace(path)
        for old in older:
            if old != path:
                old.unlink(missing_ok=True)
    except OSError:
        pass
