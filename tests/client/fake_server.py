"""A server in memory, without sockets or time of its own, and clients on it whose every step a test decides.

It carries out the wire's messages as docs/protocol describes them, with each frame through the real codec. It trusts
every signature: what servers check is tested with the server. Faults are injected by `World.fault`.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from taube.client.account import Account
from taube.client.e2e import KIND_GROUP, Core, GroupContext
from taube.client.home import Home
from taube.client.store import Chat, Store
from taube.client.sync import Engine
from taube.client.transport import ConnectionLost, Unreachable
from taube.client.vault import Vault
from taube.wire import codec
from taube.wire.errors import (
    ACCOUNT_UNKNOWN,
    ADDRESS_GONE,
    INVITATION_UNKNOWN,
    LIST_OUTDATED,
    LOGIN_REFUSED,
    NO_KEY_PACKAGE,
    ErrorKind,
    WireError,
)
from taube.wire.messages import (
    FLAG_EPHEMERAL,
    STATUS_FULL,
    STATUS_GONE,
    STATUS_KEPT,
    CaughtUp,
    Certificate,
    ClaimGate,
    ClaimKeyPackage,
    DeleteAccount,
    Deliver,
    Done,
    Event,
    FetchCertificate,
    GateState,
    KeyPackageClaimed,
    LoggedIn,
    Login,
    MintAddresses,
    Minted,
    MintedAddress,
    PublishDeviceList,
    Published,
    PublishKeyPackages,
    ReadGate,
    Register,
    Reply,
    RevokeAddress,
    Send,
    Sent,
    Welcome,
)

ORIGIN = "http://127.0.0.1:1"
DAY_MS = 86_400_000
ReplyT = TypeVar("ReplyT")
CORE_CACHE = os.environ.get("TAUBE_TEST_CACHE", str(Path.home() / ".cache" / "taube"))


@dataclass
class _Device:
    account: bytes
    mailbox: list[tuple[bytes, bytes]] = field(default_factory=list)
    packages: dict[int, list[bytes]] = field(default_factory=dict)
    last_resorts: dict[int, bytes] = field(default_factory=dict)
    link: "FakeDeviceLink | None" = None


class World:
    """The server, the clock that all share, and the homes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_ms = 1_790_000_000_000
        self.server_ahead_ms = 0
        """How far the server's clock is ahead of everyone else's."""
        self.generation = os.urandom(16)
        self.accounts: dict[bytes, tuple[bytes, bytes, int]] = {}
        self.devices: dict[bytes, _Device] = {}
        self.addresses: dict[bytes, tuple[bytes, bytes]] = {}
        self.gates: dict[bytes, bytes] = {}
        self.full: set[bytes] = set()
        self.log: list[Any] = []
        self.fault: Callable[[Any], str | None] = lambda command: None
        """Told every command: "before" loses it, "after" loses its answer, an ErrorKind refuses it."""
        self.offline: set[str] = set()
        self.people: list[Client] = []

    def person(self, name: str, folder: str | None = None) -> "Client":
        client = Client(self, name, self.folder / (folder or name))
        self.people.append(client)
        return client

    async def settle(self, *clients: "Client", rounds: int = 20) -> None:
        """Let them all do what they can, until nothing happens any more."""
        for _ in range(rounds):
            before = len(self.log)
            for client in clients or tuple(self.people):
                await client.step()
            if len(self.log) == before:
                return
        raise AssertionError("it never came to rest")

    # ------------------------------------------------------------ commands

    def carry_out(self, command: Any, device: bytes | None) -> Reply:
        self.log.append(command)
        command = codec.decode_command(codec.encode(command))
        reply = getattr(self, f"_{type(command).__name__.lower()}")(command, device)
        decoded = codec.decode_reply_or_event(codec.encode(reply))
        assert not isinstance(decoded, Event)
        return decoded

    def _refuse(self, kind: ErrorKind) -> WireError:
        return WireError(kind)

    def _register(self, c: Register, _: Any) -> Reply:
        account = hashlib.sha256(c.genesis).digest()
        if c.invitation != b"i" * 16:
            raise self._refuse(INVITATION_UNKNOWN)
        if account not in self.accounts:
            self._put_list(account, c.genesis, c.device_list)
        return Done(c.request)

    def _put_list(self, account: bytes, genesis: bytes, signed: bytes) -> None:
        _, listed_account, counter, devices, _ = msgspec.msgpack.decode(signed[64:])
        assert listed_account == account
        if account in self.accounts and counter <= self.accounts[account][2]:
            raise self._refuse(LIST_OUTDATED)
        self.accounts[account] = (genesis, signed, counter)
        listed = {device[0] for device in devices}
        for device_id in [d for d, row in self.devices.items() if row.account == account and d not in listed]:
            link = self.devices.pop(device_id).link
            if link is not None:
                link.is_open = False
            self.addresses = {a: to for a, to in self.addresses.items() if to[0] != device_id}
        for device_id in listed:
            self.devices.setdefault(device_id, _Device(account))

    def _publishdevicelist(self, c: PublishDeviceList, _: Any) -> Reply:
        self._put_list(c.account, self.accounts[c.account][0], c.device_list)
        return Done(c.request)

    def _deleteaccount(self, c: DeleteAccount, device: bytes) -> Reply:
        account = self.devices[device].account
        del self.accounts[account]
        self.devices = {name: row for name, row in self.devices.items() if row.account != account}
        return Done(c.request)

    def _fetchcertificate(self, c: FetchCertificate, _: Any) -> Reply:
        if c.account not in self.accounts:
            raise self._refuse(ACCOUNT_UNKNOWN)
        genesis, signed, _counter = self.accounts[c.account]
        return Certificate(c.request, genesis, signed)

    def _mintaddresses(self, c: MintAddresses, device: bytes) -> Reply:
        minted = []
        for _ in range(c.count):
            address, serial = os.urandom(41), os.urandom(8)
            self.addresses[address] = (device, serial)
            minted.append(MintedAddress(address, serial))
        return Minted(c.request, minted)

    def _revokeaddress(self, c: RevokeAddress, device: bytes) -> Reply:
        self.addresses = {a: to for a, to in self.addresses.items() if to != (device, c.serial)}
        return Done(c.request)

    def _publishkeypackages(self, c: PublishKeyPackages, device: bytes) -> Reply:
        row = self.devices[device]
        if c.replace:
            row.packages[c.suite] = []
        row.packages.setdefault(c.suite, []).extend(c.packages)
        if c.last_resort:
            row.last_resorts[c.suite] = c.last_resort
        return Published(c.request, len(row.packages[c.suite]))

    def _claimkeypackage(self, c: ClaimKeyPackage, _: Any) -> Reply:
        if c.address not in self.addresses:
            raise self._refuse(ADDRESS_GONE)
        row = self.devices[self.addresses[c.address][0]]
        offered = row.packages.get(c.suite)
        package = offered.pop(0) if offered else row.last_resorts.get(c.suite)
        if package is None:
            raise self._refuse(NO_KEY_PACKAGE)
        genesis, signed, _counter = self.accounts[row.account]
        return KeyPackageClaimed(c.request, package, genesis, signed)

    def _claimgate(self, c: ClaimGate, _: Any) -> Reply:
        return GateState(c.request, self.gates.setdefault(c.name, c.value))

    def _readgate(self, c: ReadGate, _: Any) -> Reply:
        return GateState(c.request, self.gates.get(c.name, b""))

    def _send(self, c: Send, _: Any) -> Reply:
        statuses = bytes(self._deliver(address, c.body, c.flags) for address in c.addresses)
        return Sent(c.request, statuses)

    def _deliver(self, address: bytes, body: bytes, flags: int) -> int:
        if address not in self.addresses:
            return STATUS_GONE
        device, serial = self.addresses[address]
        row = self.devices[device]
        if device in self.full:
            return STATUS_FULL
        if flags & FLAG_EPHEMERAL:
            if row.link is not None and row.link.is_open:
                row.link.arrived.append(Deliver(0, serial, body))
            return STATUS_KEPT
        row.mailbox.append((serial, body))
        if row.link is not None and row.link.is_open:
            row.link.offer()
        return STATUS_KEPT


class FakeLink:
    """An anonymous link, or (with a device) the base of a device link."""

    def __init__(self, world: World, name: str, device: bytes | None = None) -> None:
        self.world = world
        self.name = name
        self.device = device
        self.is_open = True
        self.welcome = Welcome(1, os.urandom(32), ORIGIN, world.now_ms + world.server_ahead_ms, world.generation)
        self._next = 0

    async def request(self, build: Callable[[int], Any], timeout_s: float = 0) -> Reply:
        if not self.is_open or self.name in self.world.offline:
            self.is_open = False
            raise ConnectionLost("cut")
        self._next += 1
        command = build(self._next)
        fault = self.world.fault(command)
        if isinstance(fault, ErrorKind):
            raise WireError(fault)
        if fault == "before":
            raise ConnectionLost("lost on the way there")
        reply = self.world.carry_out(command, self.device)
        if fault == "after":
            raise ConnectionLost("lost on the way back")
        return reply

    async def expect(self, kind: type[ReplyT], build: Callable[[int], Any], timeout_s: float = 0) -> ReplyT:
        reply = await self.request(build)
        assert isinstance(reply, kind)
        return reply

    async def close(self) -> None:
        self.is_open = False


class FakeDeviceLink(FakeLink):
    """A logged-in link. Envelopes wait in `arrived`; they leave the mailbox when acknowledged."""

    def __init__(self, world: World, name: str, device: bytes) -> None:
        super().__init__(world, name, device)
        row = world.devices[device]
        self.row = row
        self.reconnect_after_ms = 0
        self.replaced = False
        self.arrived: list[Event] = []
        self._offered = 0
        self._acknowledged = 0
        left = {suite: len(packages) for suite, packages in row.packages.items()}
        self.logged_in = LoggedIn(1, left.get(1, 0), left.get(0x4F, 0), list(row.last_resorts))
        self.offer()
        self.arrived.append(CaughtUp(self._offered))

    def offer(self) -> None:
        for serial, body in self.row.mailbox[self._offered - self._acknowledged :]:
            self._offered += 1
            self.arrived.append(Deliver(self._offered, serial, body))

    def acknowledge(self, upto: int) -> None:
        assert upto <= self._offered
        del self.row.mailbox[: upto - self._acknowledged]
        self._acknowledged = max(upto, self._acknowledged)

    async def events(self, most: int = 256) -> AsyncIterator[list[Event]]:
        batch, self.arrived = self.arrived, []
        yield batch


class FakeNetwork:
    """One client's way to the world."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.purposes: dict[str, FakeLink] = {}

    async def anonymous(self, purpose: str) -> FakeLink:
        if self.name in self.world.offline:
            raise Unreachable("offline")
        link = self.purposes.get(purpose)
        if link is None or not link.is_open:
            link = self.purposes[purpose] = FakeLink(self.world, self.name)
        return link

    async def device(self, account: Any, device: Any, sign: Callable[[str, bytes], bytes]) -> FakeDeviceLink:
        if self.name in self.world.offline:
            raise Unreachable("offline")
        row = self.world.devices.get(device)
        nonce = os.urandom(32)
        codec.decode_command(codec.encode(Login(1, account, device, sign(ORIGIN, nonce))))
        if row is None or row.account != account:
            raise WireError(LOGIN_REFUSED)
        if row.link is not None:
            row.link.is_open = False
        row.link = FakeDeviceLink(self.world, self.name, device)
        return row.link

    async def close(self) -> None:
        self.purposes.clear()


class Client:
    """A person's home and one engine on it, driven step by step."""

    def __init__(self, world: World, name: str, folder: Path) -> None:
        self.world = world
        self.name = name
        self.folder = folder
        self.network = FakeNetwork(world, name)
        self.link: Any = None
        self._start()

    def _start(self) -> None:
        self.store = Store.create(Home(self.folder), os.urandom)
        self.vault = Vault(
            self.store,
            now_ms=lambda: self.world.now_ms,
            random=os.urandom,
            make_core=lambda random: Core(random, CORE_CACHE),
        )
        self.account = Account(self.store, self.vault, self.network, live=False)
        self.engine: Engine = self.account._engine

    async def join(self) -> "Client":
        with self.store.write():
            self.engine.devices.set_stamp()
        self.engine.devices.prepare(ORIGIN, self.name)
        await self.engine.devices.register(b"i" * 16)
        await self.step()
        return self

    def restart(self) -> None:
        """The process dies (nothing is flushed, closed or told) and a new one starts."""
        self.link = None
        self.network.purposes.clear()
        self.store.close()
        self._start()
        self.engine.devices.start_anew()

    async def step(self) -> None:
        """Connect if need be, read what has arrived, do the chores, send."""
        if self.name in self.world.offline:
            return
        if self.link is None or not self.link.is_open:
            self.link = await self.engine.connect()
        while self.link.arrived:
            batch, self.link.arrived = self.link.arrived, []
            self.engine.receive(self.link, batch)
        await self.engine.do_chores()
        await self.engine.send()

    @property
    def contact_link(self) -> str:
        return self.account.contact_link()

    def texts(self, chat: str) -> list[str]:
        """Every text in the chat, in the order of this home."""
        return [m.text for m in self.account.chat(chat).messages(10_000) if m.kind in ("text", "gap")]

    def states(self, chat: str) -> list[str]:
        """The states of one's own texts."""
        return [m.state for m in self.account.chat(chat).messages(10_000) if m.mine]

    def notices(self) -> list[str]:
        rows = [m for chat in self.account.chats() for m in chat.messages(10_000) if m.kind == "notice"]
        assert {row.text for row in rows} <= {e.text for e in self.store.journal_after(0) if e.kind == "notice"} | {
            "left the chat"
        }
        return [row.text for row in rows]

    def group(self, chat: str) -> Any:
        """The row of the group that the chat uses."""
        row = self.store.chat_named(chat)
        assert row is not None and row.group_id is not None
        group = self.store.group(row.group_id)
        assert group is not None
        return group

    def info(self, group_id: bytes) -> Any:
        """The MLS group as the core sees it."""
        with self.vault.work() as core:
            self.vault.use(b"device", group_id)
            return core.group(group_id)


async def friends(world: World, *names: str) -> list[Client]:
    """People who all know each other in pairs, accepted, at rest."""
    people = [await world.person(name).join() for name in names]
    for n, one in enumerate(people):
        for other in people[n + 1 :]:
            await one.account.add(other.contact_link)
            await world.settle()
            await other.account.chat(one.name).accept()
            await world.settle()
    return people


async def three(world: World) -> list[Client]:
    """Alice, Bob and Carol, at rest, in a group that Alice manages; each calls it "group"."""
    people = await friends(world, "alice", "bob", "carol")
    alice = people[0]
    claimed = {}
    for other in people[1:]:
        row = alice.store.chat_named(other.name)
        assert row is not None and row.peer is not None and row.group_id is not None
        to = [m.address for m in alice.info(row.group_id).members if m.account_id == row.peer]
        claimed[row.peer] = await alice.engine.contacts.claim(to[0])
    with alice.vault.work():
        chat_id = os.urandom(16)
        alice.store.add_chat(Chat(chat_id, "group", "nobody", KIND_GROUP, "open", None, None, 1, world.now_ms))
        context = GroupContext(KIND_GROUP, chat_id, (alice.vault.account,))
        alice.engine.contacts.found(chat_id, context, claimed)
    await world.settle()
    return people


def same_epoch(name: str, *people: Client) -> int:
    """The epoch of the chat's group, which has to be the same group, and the same epoch, for all."""
    infos = [one.info(one.group(name).id) for one in people]
    assert len({(info.group_id, info.epoch, len(info.members)) for info in infos}) == 1, infos
    secrets = set()
    for one, info in zip(people, infos, strict=True):
        with one.vault.work() as core:
            one.vault.use(b"device", info.group_id)
            secrets.add(core.export(info.group_id, "test", b"", 16))
    assert len(secrets) == 1
    epoch = infos[0].epoch
    assert isinstance(epoch, int)
    return epoch


__all__ = ["Client", "World", "friends", "same_epoch", "three"]
