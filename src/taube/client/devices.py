"""The life of this device: registering, logging in, its addresses and key packages, and a copied home's new start.

    register          account and device keys are stored, then the invitation is spent: repeating it is safe
    upkeep            after each login: spare addresses, key packages of both suites and their last resorts, revocations
    start_anew        a copied or restored home becomes a new device, its groups are asked to take it back

Source: docs/protocol/identity.md; docs/protocol/device.md, "State".
"""

import asyncio
import base64
import itertools
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from taube.client.e2e import (
    DEVICE_SCOPE,
    PACKAGES_SCOPE,
    SUITE_CLASSIC,
    SUITE_HYBRID,
    CertificateInfo,
    CoreError,
    DeviceKeys,
)
from taube.client.errors import Refused, TryLater, WrongInput
from taube.client.network import DeviceLink, Link, Network
from taube.client.store import DAY_MS, Address
from taube.client.vault import Vault
from taube.exits import EX_NOPERM
from taube.wire.errors import (
    ACCOUNT_UNKNOWN,
    ADDRESS_GONE,
    INVITATION_EXPIRED,
    INVITATION_UNKNOWN,
    INVITATION_USED,
    LIST_OUTDATED,
    Retry,
    WireError,
)
from taube.wire.messages import (
    AccountId,
    Certificate,
    Done,
    FetchCertificate,
    MintAddresses,
    Minted,
    PublishDeviceList,
    Published,
    PublishKeyPackages,
    Register,
    RevokeAddress,
)
from taube.wire.packing import Unpacker, pack

PACKAGES: Final = 8
"""One-time key packages of each suite that a device keeps on offer."""
SPARES: Final = 16
REPLACE_AFTER_MS: Final = 30 * DAY_MS
FORGET_AFTER_MS: Final = 31 * DAY_MS
SUITES: Final = (SUITE_HYBRID, SUITE_CLASSIC)
REGISTER_WAITS: Final = 2
REGISTER_WAIT_MS: Final = 15_000
"""A newcomer whom the server asks to come again soon waits so often, and so long each time, before a person is told."""
MAX_LEAP: Final = 1 << 20
"""How far another home of this account may be ahead of this one's device list; each new device is one step."""

_keys: Final = Unpacker[tuple[bytes, bytes, bytes, bytes]](tuple[bytes, bytes, bytes, bytes])
_certificate: Final = Unpacker[tuple[bytes, bytes]](tuple[bytes, bytes])


def encode_base64(data: bytes) -> str:
    """Base64url without padding, as links carry it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_base64(text: str) -> bytes:
    """The inverse. Raises ValueError."""
    if not text.isascii() or any(not (c.isalnum() or c in "-_") for c in text):
        raise ValueError("not base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_base64(data) != text:
        raise ValueError("not how these bytes are written: mistyped at its end")
    return data


def split_link(link: str, mark: str) -> tuple[str, bytes]:
    """(origin, what stands behind *mark*) of a link, with nothing around or in between. Raises ValueError."""
    origin, found, data = link.strip(" \t\r\n").partition(mark)
    if not found or not all("!" <= c <= "~" and c not in "?#" for c in origin):
        raise ValueError("not a link")
    urlsplit(origin)
    return origin, decode_base64(data)


def parse_invitation(link: str) -> tuple[str, bytes]:
    """(origin, 16 bytes) of an invitation link. Raises WrongInput."""
    try:
        origin, invitation = split_link(link, "/i#")
    except ValueError:
        origin, invitation = "", b""
    if len(invitation) != 16 or not origin:
        if "/c#" in link:
            raise WrongInput("That is a contact link: use it with “taube add”; to join, you need an invitation link.")
        raise WrongInput("That is not an invitation link: copy it whole, from “http” to its end.")
    return origin, invitation


def _publish_due(suite: int) -> str:
    """The note that the packages of *suite* at the server have to be replaced."""
    return f"publish_due:{suite}"


class Devices:
    """This device, as it is known to its account and its server."""

    def __init__(self, vault: Vault, network: Network) -> None:
        self._vault = vault
        self._store = vault.store
        self._network = network
        self.on_new_device: Callable[[], None] = lambda: None
        """Called inside the transaction in which this home becomes a new device."""

    # ---------------------------------------------------------------- registering

    def prepare(self, origin: str, name: str) -> None:
        """Make and store account and device keys, unless an earlier attempt did."""
        with self._vault.work() as core:
            self._store.set_meta("origin", origin)
            self._store.set_meta("name", name)
            if self._store.meta("account") is not None:
                return
            self._vault.use_account()
            account = core.create_account()
            device = core.create_device()
            self._store.set_meta("account", account.account_id)
            self._store.set_meta("genesis", account.genesis)
            self._set_device(device, 1)

    async def register(self, invitation: bytes) -> None:
        """Spend the invitation. A repetition after a lost answer finds the account there and is content. A server that
        is busy is given the seconds that it asks for. Source: DEV-45."""
        for waits in itertools.count():
            try:
                await self._register_once(invitation)
                break
            except WireError as error:
                is_passing = error.kind.retry is Retry.LATER and error.retry_after_ms <= REGISTER_WAIT_MS
                if not is_passing or waits == REGISTER_WAITS:
                    raise
                await asyncio.sleep(error.retry_after_ms / 1000)
        with self._store.write():
            self._store.set_meta("registered", 1)

    async def _register_once(self, invitation: bytes) -> None:
        genesis, signed_list = _certificate.unpack(self._vault.certificate)
        link = await self._network.anonymous("register")
        try:
            await link.expect(Done, lambda request: Register(request, invitation, genesis, signed_list))
        except WireError as error:
            if error.kind is not INVITATION_UNKNOWN and await self._is_registered(link):
                pass
            elif error.kind is INVITATION_USED:
                raise Refused("This invitation has been used up: ask for a new one.", EX_NOPERM) from error
            elif error.kind is INVITATION_EXPIRED:
                raise Refused("This invitation has expired: ask for a new one.", EX_NOPERM) from error
            elif error.kind is INVITATION_UNKNOWN:
                raise Refused(
                    "The server does not know this invitation: check that the link is whole, or ask for a new one.",
                    EX_NOPERM,
                ) from error
            else:
                raise

    async def is_account_gone(self) -> bool:
        """Whether the server says that there is no such account any more. Raises ConnectionLost, WireError."""
        try:
            await self.fetch_certificate(self._vault.account)
        except WireError as error:
            if error.kind is ACCOUNT_UNKNOWN:
                return True
            raise
        return False

    async def _is_registered(self, link: Link) -> bool:
        account = self._vault.account
        try:
            await link.expect(Certificate, lambda request: FetchCertificate(request, account))
        except WireError:
            return False
        return True

    def _set_device(self, device: DeviceKeys, counter: int) -> None:
        """Store a device list that names *device* alone."""
        signed_list = self._vault.core.sign_device_list(counter, [device])
        self._store.set_meta("device", device.device_id)
        self._store.set_meta("device_keys", pack(list(device)))
        self._store.set_meta("counter", counter)
        self._store.set_meta("certificate", pack([self._store.meta("genesis"), signed_list]))

    # ---------------------------------------------------------------- logging in

    def sign(self, origin: str, nonce: bytes) -> bytes:
        """The signature of a login."""
        with self._vault.work() as core:
            self._vault.use(DEVICE_SCOPE)
            return core.login_signature(origin, nonce)

    async def upkeep(self, link: DeviceLink) -> None:
        """Bring addresses and key packages to what they should be."""
        logged_in = link.logged_in
        now_ms = self._vault.now_ms()
        if logged_in.remint:
            self._drop_addresses()
        self._forget_old_packages(now_ms)
        wanted: list[tuple[int, int, bool, bool]] = []
        for suite, left in ((SUITE_HYBRID, logged_in.hybrid_left), (SUITE_CLASSIC, logged_in.classic_left)):
            oldest_ms = self._store.oldest_package_ms(suite)
            owed = self._store.meta(_publish_due(suite)) is not None
            old = owed or oldest_ms is None or oldest_ms + REPLACE_AFTER_MS < now_ms
            count = PACKAGES if old else (PACKAGES - left if left <= PACKAGES // 2 else 0)
            last_resort = old or suite not in logged_in.last_resorts
            if count or last_resort:
                wanted.append((suite, count, last_resort, old))
        needed = sum(count + last_resort for _, count, last_resort, _ in wanted)
        has_link = bool(self._store.addresses("link"))
        spares = len(self._store.addresses("spare"))
        if needed or not has_link or spares < SPARES // 2:
            await self._mint(link, needed + SPARES - min(spares, SPARES) + (not has_link))
        if not has_link:
            with self._store.write():
                self._store.use_address(self._store.addresses("spare")[0].serial, "link")
        for suite, count, last_resort, old in wanted:
            await self._publish(link, suite, count, last_resort, old)

    async def revoke(self, link: DeviceLink, serial: bytes) -> None:
        """Refuse from now on what is sent to this address of ours."""
        try:
            await link.expect(Done, lambda request: RevokeAddress(request, serial))
        except WireError as error:
            if error.kind is not ADDRESS_GONE:
                raise
        with self._store.write():
            self._store.use_address(serial, "revoked")
            self._store.forget_chore("revoke", serial)

    def revoke_again(self) -> None:
        """A restored server may have forgotten what was revoked; inside a transaction."""
        for address in self._store.addresses("revoked"):
            self._store.add_chore("revoke", address.serial, b"", self._vault.now_ms())

    async def _mint(self, link: DeviceLink, count: int) -> None:
        minted = await link.expect(Minted, lambda request: MintAddresses(request, min(count, 64)))
        with self._store.write():
            for one in minted.addresses:
                self._store.add_address(one.serial, one.address, "spare", None, self._vault.now_ms())

    def owe_packages(self) -> None:
        """What the server offers of ours is stale: replace it at the next upkeep; inside a transaction."""
        for suite in SUITES:
            self._store.set_meta(_publish_due(suite), 1)

    async def _publish(self, link: DeviceLink, suite: int, count: int, last_resort: bool, replace: bool) -> None:
        """Make key packages, store their private parts, then offer them; the answer retires what they replace.

        Until the answer the old ones may still be given out, and what was made may be on offer already.
        """
        with self._vault.work():
            replaced = [
                package.ref
                for package in self._store.packages_on_offer(suite)
                if (last_resort if package.last_resort else replace)
            ]
            packages = self.make_packages(suite, count)
            resort = self.make_packages(suite, 1, last_resort=True)[0] if last_resort else b""
            if replace:
                self._store.set_meta(_publish_due(suite), 1)
        await link.expect(Published, lambda request: PublishKeyPackages(request, suite, packages, resort, replace))
        with self._store.write():
            now_ms = self._vault.now_ms()
            for ref in replaced:
                self._store.retire_package(ref, now_ms)
            if replace:
                self._store.set_meta(_publish_due(suite), None)

    def make_packages(
        self, suite: int, count: int, *, chat: bytes | None = None, last_resort: bool = False
    ) -> list[bytes]:
        """*count* key packages, each with an address of its own; inside `work`. *chat*: made to be taken back there,
        by a request that may be granted for 30 days."""
        if count == 0:
            return []
        addresses = [self.take_address("package" if chat is None else "chat", chat) for _ in range(count)]
        self._vault.use_keys()
        made = self._vault.core.create_key_packages(
            suite,
            [address.address for address in addresses],
            self._vault.certificate,
            self._vault.now_s(),
            last_resort,
        )
        for package, address in zip(made, addresses, strict=True):
            now_ms = self._vault.now_ms()
            retired_ms = None if chat is None else now_ms + REPLACE_AFTER_MS
            self._store.add_package(package.ref, suite, address.serial, chat, last_resort, now_ms, retired_ms)
        return [package.key_package for package in made]

    def take_address(self, purpose: str, chat: bytes | None = None) -> Address:
        """An address of ours that nobody knows yet; inside a transaction. Raises TryLater when there is none left."""
        spares = self._store.addresses("spare")
        if not spares:
            raise TryLater("No fresh address is left on this device: connect to the server once, then try again.")
        self._store.use_address(spares[0].serial, purpose, chat)
        return spares[0]

    def _forget_old_packages(self, now_ms: int) -> None:
        """Private parts of replaced packages stay 31 days: a Welcome may still be under way."""
        if any(address.made_ms < now_ms - FORGET_AFTER_MS for address in self._store.addresses("dead")):
            with self._store.write():
                self._store.forget_dead_addresses(now_ms - FORGET_AFTER_MS)
        old = self._store.packages_retired_before(now_ms - FORGET_AFTER_MS)
        if not old:
            return
        with self._vault.work() as core:
            self._vault.use_keys()
            core.delete_key_packages([package.ref for package in old])
            for package in old:
                self._store.forget_package(package.ref)
                address = self._store.address(package.serial)
                if address is not None and address.purpose == "package":
                    self._store.add_chore("revoke", package.serial, b"", now_ms)

    def _drop_addresses(self) -> None:
        """The mailbox was renewed: every address that we gave away is dead, each chat needs a new one.

        What was sent to them before waits in the mailbox, and is known by their serials.
        """
        with self._store.write():
            for address in self._store.addresses("spare"):
                self._store.forget_address(address.serial)
            for purpose in ("link", "package"):
                self._store.bury_addresses(purpose, self._vault.now_ms())
            for group in self._store.groups():
                if group.standing == "current":
                    self._store.add_chore("update", group.id, b"", self._vault.now_ms())
            self.owe_packages()

    # ---------------------------------------------------------------- certificates

    async def fetch_certificate(self, account: bytes) -> bytes:
        """The newest certificate that the server holds of an account; not checked."""
        link = await self._network.anonymous("register" if account == self._vault.account else "keys")
        found = await link.expect(Certificate, lambda request: FetchCertificate(request, AccountId(account)))
        return pack([found.genesis, found.device_list])

    # ---------------------------------------------------------------- a copied home

    def is_copy(self) -> bool:
        """Whether this home was copied or restored since it was last opened as itself."""
        home, stamp = self._store.home, self._store.meta("stamp")
        if stamp == home.stamp():
            return False
        if stamp == home.next_stamp():
            home.take_next_stamp()  # a process ended, or is, between telling the database and this
        return stamp != home.stamp()

    def set_stamp(self) -> None:
        """This folder is the home from now on; inside a transaction."""
        self._store.home.write_stamp_file(self._vault.random)
        self._store.set_meta("stamp", self._store.home.stamp())

    def renew_stamp(self) -> None:
        """From now on a copy that was made before does not fit, even if it is written over these very files."""
        home = self._store.home
        lock = home.try_lock("stamp")
        if lock is None:
            return
        with lock:
            with self._store.write():
                stamp = home.write_next_stamp(self._vault.random)
                if stamp is None:
                    return
                self._store.set_meta("stamp", stamp)
            home.take_next_stamp()

    def start_anew(self) -> bool:
        """If this home is a copy: never touch its MLS state again, become a new device. Whether it was one.

        Ratchet keys would be used twice. Source: DEV-05.
        """
        if not self.is_copy():
            return False
        with self._vault.work() as core:
            if not self.is_copy():
                return False
            now_ms = self._vault.now_ms()
            if self._store.meta_int("registered"):
                self._vault.use_account()
                self._vault.use(PACKAGES_SCOPE)
                core.delete_key_packages([package.ref for package in self._store.packages()])
                self._store.forget_all_packages()
                self._store.forget_all_addresses()
                self._set_device(core.create_device(), self._store.meta_int("counter") + 1)
                self._store.set_meta("list_due", 1)
                self._store.restart_sequences()
                self.on_new_device()
                for group in self._store.groups():
                    self._store.forget_pending(group.id)
                    if group.standing in ("current", "rejoin"):
                        self._store.set_standing(group.id, "rejoin", now_ms)
                        self._store.forget_chore("ask", group.id)
                        self._store.add_chore("ask", group.id, b"", now_ms)
                for chat in self._store.chats():
                    self._vault.notice(
                        chat.id,
                        "This is a copy of the account's folder: it asks to be let in as a new device.",
                    )
            self.set_stamp()
            return True

    async def publish_list(self) -> None:
        """Tell the server of the newest device list, above whatever counter it has."""
        if not self._store.meta_int("list_due"):
            return
        link = await self._network.anonymous("register")
        for _ in range(4):
            if await self._offer_list(link):
                break
            newest = await self.fetch_certificate(self._vault.account)
            if newest == self._vault.certificate:
                break
            with self._vault.work():
                self._vault.use_account()
                info = self._check_own(newest)
                keys = DeviceKeys(*_keys.unpack(self._store.meta("device_keys") or b""))
                self._set_device(keys, info.counter + 1)
        with self._store.write():
            self._store.set_meta("list_due", None)

    def _check_own(self, certificate: bytes) -> CertificateInfo:
        """What a certificate that the server gives as ours says. Raises Refused: a counter near its end would leave no
        device list that could ever follow."""
        try:
            info = self._vault.core.check_certificate(certificate)
        except CoreError as error:
            raise Refused("The server gave a device list that nobody signed: ask who runs it.") from error
        if info.account_id != self._vault.account:
            raise Refused("The server gave the device list of another account: do not trust it, ask who runs it.")
        if info.counter > self._store.meta_int("counter") + MAX_LEAP:
            raise Refused("The server gave a device list that cannot be this account's next: ask who runs it.")
        return info

    async def restore_list(self) -> bool:
        """If the server has an older device list than ours (it was restored): give it ours. Whether it took it."""
        try:
            newest = await self.fetch_certificate(self._vault.account)
            info = self._check_own(newest)
        except WireError as error:
            if error.kind.retry is Retry.LATER:
                raise
            return False
        except Refused:
            return False
        if info.counter >= self._store.meta_int("counter"):
            return False
        return await self._offer_list(await self._network.anonymous("register"))

    async def _offer_list(self, link: Link) -> bool:
        """Whether the server took our device list; False when it has one with the same or a higher counter."""
        account = self._vault.account
        signed_list = _certificate.unpack(self._vault.certificate)[1]
        try:
            await link.expect(Done, lambda request: PublishDeviceList(request, account, signed_list))
        except WireError as error:
            if error.kind is LIST_OUTDATED:
                return False
            raise
        return True


__all__ = ["Devices", "decode_base64", "encode_base64", "parse_invitation", "split_link"]
