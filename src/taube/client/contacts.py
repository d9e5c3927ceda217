"""First contact: adding someone by a link, being added by a stranger, accepting, blocking, and who is called what.

The adder claims a key package by the link's address, checks it against the account id in the link, founds a group of
two and sends its Welcome to the package's own address; words go through MLS only. Whoever is added has a request until
it is accepted. Two people who add each other at once have two groups for one chat: the lower group id is used.
Source: docs/protocol/device.md, "First contact".
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Final, NamedTuple

from taube.client import content
from taube.client.content import MAX_NAME_BYTES, Profile
from taube.client.devices import Devices, encode_base64, split_link
from taube.client.e2e import DEVICE_SCOPE, KIND_PAIR, SUITE_CLASSIC, SUITE_HYBRID, CoreError, GroupContext, Joined
from taube.client.errors import Refused, TryLater, WrongInput
from taube.client.network import Network
from taube.client.outbox import Outbox
from taube.client.store import WRITTEN, Chat, Contact, Group
from taube.client.vault import Vault
from taube.wire.errors import ADDRESS_GONE, NO_KEY_PACKAGE, RATE_LIMITED, WireError
from taube.wire.messages import ClaimKeyPackage, KeyPackageClaimed
from taube.wire.packing import PackingError, Unpacker, pack

MAX_NAME: Final = 64
MAX_HYBRID: Final = 32
"""A group that begins with more leaves than this uses the classic suite: its handshakes are smaller."""
MAX_REQUESTS_OF_ACCOUNT: Final = 8
"""Chats that one stranger began and that wait to be accepted; above it, its Welcomes are junk."""
MAX_REQUESTS_OF_SERIAL: Final = 64
"""The same by the address that they came to: a last resort's key package makes any number of groups."""
MAX_GROUPS: Final = 16
"""Groups kept of one chat: the one in use, and the newest before it, whose envelopes may still come."""
MAX_GROUPS_OF_REQUEST: Final = 2

_UNSEEN: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""What Unicode calls default ignorable, and the empty pattern of Braille: names that differ in it look the same."""
_ID: Final = re.compile("[0-9a-f]{32}")
_link: Final = Unpacker[tuple[int, bytes, bytes, str]](tuple[int, bytes, bytes, str])


class ContactLink(NamedTuple):
    """What a contact link says."""

    origin: str
    account: bytes
    address: bytes
    name: str


def contact_link(link: ContactLink) -> str:
    """The link as text; everything but the origin stands after `#` and never reaches a server."""
    return f"{link.origin}/c#{encode_base64(pack([1, link.account, link.address, link.name]))}"


def parse_contact_link(link: str) -> ContactLink:
    """Raises WrongInput."""
    if "/c#" not in link and "/i#" in link:
        raise WrongInput(
            "That is an invitation link: use it with “taube join”; to add someone, you need a contact link."
        )
    try:
        origin, data = split_link(link, "/c#")
        version, account, address, name = _link.unpack(data)
        if not origin or version != 1 or len(account) != 32 or len(address) != 41:
            raise ValueError
    except (ValueError, PackingError) as error:
        raise WrongInput("That is not a contact link: copy it whole, from “http” to its end.") from error
    return ContactLink(origin, account, address, name)


def one_line(text: str) -> str:
    """*text* fit to be shown on one line: nothing unseen, no control characters, at most 64 characters."""
    seen = _UNSEEN.sub("", text)
    shown = " ".join("".join(c if c.isprintable() else " " for c in seen).split())[:MAX_NAME].strip()
    while len(shown.encode()) > MAX_NAME_BYTES:
        shown = shown[:-1]
    return shown


def clean_name(name: str) -> str:
    """A name as it may be kept: `one_line`; empty for what could be the id of a chat."""
    shown = one_line(name)
    return "" if _ID.fullmatch(skeleton(shown)) else shown


def skeleton(name: str) -> str:
    """What is the same for names that look the same: width, ligatures and case do not count."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _UNSEEN.sub("", name)).casefold())


class Claimed(NamedTuple):
    """A key package and the certificate that came with it; not checked yet."""

    key_package: bytes
    certificate: bytes


class Contacts:
    """The people this account knows, and the chats with each of them."""

    def __init__(self, vault: Vault, network: Network, devices: Devices, outbox: Outbox) -> None:
        self._vault = vault
        self._store = vault.store
        self._network = network
        self._devices = devices
        self._outbox = outbox

    # ---------------------------------------------------------------- adding

    async def add(self, text: str) -> Chat:
        """The chat with whoever gave out this contact link: the one there is, or a new one."""
        link = parse_contact_link(text)
        if link.origin != self._vault.origin:
            raise WrongInput(
                f"That link is from another server, {link.origin}; this account is at {self._vault.origin}."
                " Chats between servers are not possible yet."
            )
        if link.account == self._vault.account:
            raise WrongInput("That is your own contact link: give it to someone else.")
        chat = self._store.chat_of_peer(link.account)
        if chat is None:
            claimed = await self.claim(link.address)
            chat = self._start(link, claimed)
        if chat.state != "open":
            chat = self.accept(chat)
        return chat

    async def claim(self, address: bytes) -> Claimed:
        """A key package of the device behind *address*. Raises WrongInput, TryLater, TransportError, WireError."""
        link = await self._network.anonymous("keys")
        try:
            claimed = await link.expect(
                KeyPackageClaimed, lambda request: ClaimKeyPackage(request, address, SUITE_HYBRID)
            )
        except WireError as error:
            if error.kind is ADDRESS_GONE:
                raise WrongInput("This contact link is no longer valid: ask for a new one.") from error
            if error.kind is RATE_LIMITED:
                minutes = error.retry_after_ms // 60_000 + 1
                raise TryLater(
                    f"This contact link was used too often of late: try again in {minutes} minutes, or ask for another."
                ) from error
            if error.kind is NO_KEY_PACKAGE:
                raise TryLater("The other device is not ready to be written to yet: try again later.") from error
            raise
        return Claimed(claimed.key_package, pack([claimed.genesis, claimed.device_list]))

    def _start(self, link: ContactLink, claimed: Claimed) -> Chat:
        with self._vault.work():
            chat = self._store.chat_of_peer(link.account)
            if chat is not None:
                return chat  # they, or another process, were faster
            chat_id = self._vault.random(16)
            said = clean_name(link.name)
            name, named_by = self.free_name(said or "someone"), "link" if said else "nobody"
            self._store.add_chat(
                Chat(chat_id, name, named_by, KIND_PAIR, "open", link.account, None, 1, self._vault.now_ms())
            )
            admins = tuple(sorted((self._vault.account, link.account)))
            self.found(chat_id, GroupContext(KIND_PAIR, chat_id, admins), {link.account: claimed})
            contact = self._store.contact(link.account)
            if contact is not None:
                self._store.put_contact(contact._replace(name=said))
            self._store.note("chat", chat_id)
            return self._greet(chat_id)

    def found(self, chat: bytes, context: GroupContext, claimed: Mapping[bytes, Claimed]) -> bytes:
        """Found the group that *chat* uses from now on, with the devices *claimed* (by account); its id. Inside `work`.

        No gate: nobody else is in it yet.
        """
        core, now_s = self._vault.core, self._vault.now_s()
        for account, one in claimed.items():
            try:
                info = core.inspect_key_package(one.key_package, one.certificate, now_s)
            except CoreError as error:
                raise Refused("The server gave keys that do not fit this contact: ask who runs it.") from error
            if info.account_id != account:
                raise Refused("The server gave keys of another account: do not trust it, ask who runs it.")
        address = self._devices.take_address("chat", chat)
        suite = SUITE_HYBRID if len(claimed) < MAX_HYBRID else SUITE_CLASSIC
        self._vault.use(DEVICE_SCOPE)
        group_id = core.create_group(suite, context, address.address, self._vault.certificate, now_s)
        adds = [one.key_package for one in claimed.values()]
        staged = core.stage(group_id, k=0, adds=adds, known=self._vault.known(), now_s=now_s)
        applied = core.confirm(group_id, now_s)
        self._vault.learn_and_tell(chat, core.group(group_id).members)
        for to, body in staged.welcomes:
            self._store.queue_body(body, [to], self._vault.now_ms())
        before = context.predecessor[0] if context.predecessor else None
        now_ms = self._vault.now_ms()
        self._store.put_group(
            Group(group_id, chat, context.chat_id, applied.epoch, "current", now_ms, before, address.serial)
        )
        self._store.set_chat_group(chat, group_id, now_ms)
        if before is not None:
            self._outbox.send_again(chat)
        self._vault.forget_older_groups(chat, MAX_GROUPS)
        return group_id

    # ---------------------------------------------------------------- being added

    def met(self, joined: Joined, serial: bytes) -> bool:
        """A Welcome brought a group that succeeds no other; inside `work`. Whether we want to be in it."""
        chat = self._chat_for(joined, serial)
        if chat is None:
            return False
        self._vault.learn_and_tell(chat.id, joined.members)
        current = self._store.group(chat.group_id) if chat.group_id is not None else None
        now_ms = self._vault.now_ms()
        self._store.put_group(
            Group(joined.group_id, chat.id, joined.context.chat_id, joined.epoch, "current", now_ms, None, serial)
        )
        # two who add each other at once have two groups: the lower id is used by both
        if current is None or current.standing != "current" or joined.group_id < current.id:
            self._store.set_chat_group(chat.id, joined.group_id, now_ms)
        self.forget_older_groups(chat)
        return True

    def forget_older_groups(self, chat: Chat) -> None:
        """Keep a bounded number of the chat's groups; after each that another began."""
        self._vault.forget_older_groups(chat.id, MAX_GROUPS_OF_REQUEST if chat.state == "request" else MAX_GROUPS)

    def _chat_for(self, joined: Joined, serial: bytes) -> Chat | None:
        """The chat that a new group belongs to, made if need be; None for a group that we do not want."""
        own, sender, context = self._vault.account, joined.sender[0], joined.context
        accounts = {member.account_id for member in joined.members}
        if sender == own or sender not in context.admins:
            return None
        of_sender = self._store.chat_of_peer(sender)
        if of_sender is not None and of_sender.state == "blocked":
            return None
        if context.kind == KIND_PAIR:
            if accounts != {own, sender} or set(context.admins) != accounts:
                return None
            if of_sender is not None:
                return of_sender
        if self._store.chat(context.chat_id) is not None:
            return None
        peer = sender if context.kind == KIND_PAIR else None
        trusted = of_sender is not None and of_sender.state == "open" and peer is None
        state = "open" if trusted else "request"
        if state == "request":
            of_account, of_serial = self._store.count_requests(sender, serial)
            if of_account >= MAX_REQUESTS_OF_ACCOUNT or of_serial >= MAX_REQUESTS_OF_SERIAL:
                return None
        name = self.free_name("someone" if peer is not None else "group")
        chat = Chat(context.chat_id, name, "nobody", context.kind, state, peer, None, 1, self._vault.now_ms())
        self._store.add_chat(chat)
        if state == "request":
            self._store.add_request(chat.id, sender, serial)
        self._store.note("chat", chat.id)
        return chat

    def heard_name(self, chat: Chat, sender: bytes, name: str) -> None:
        """Someone says what it is called; inside a transaction."""
        name = clean_name(name)
        contact = self._store.contact(sender)
        if not name or contact is None or contact.name == name:
            return
        like = skeleton(name)
        same = [c.name for c in self._store.contacts() if c.account != sender and skeleton(c.name) == like]
        same += [c.name for c in self._store.chats() if c.peer not in (None, sender) and skeleton(c.name) == like]
        self._store.put_contact(contact._replace(name=name))
        if chat.peer == sender:
            self._store.rename_chat(chat.id, self.free_name(name, chat.id), "profile")
            self._store.note("chat", chat.id)
            if same and chat.state == "request":
                known = f"This is another account than the {same[0]} whom you know: check who it is."
                self._vault.notice(chat.id, known)

    def free_name(self, name: str, chat: bytes | None = None) -> str:
        """*name*, or with -2, -3, … when another chat has it, or one that looks the same."""
        taken = {skeleton(other.name) for other in self._store.chats() if other.id != chat}
        candidate, n = name, 1
        while skeleton(candidate) in taken:
            n += 1
            candidate = f"{name}-{n}"
        return candidate

    # ---------------------------------------------------------------- accepting and blocking

    def accept(self, chat: Chat) -> Chat:
        """Open a request, or a chat that is blocked; receipts are sent from now on."""
        with self._store.write():
            chat = self._store.chat(chat.id) or chat
            if chat.state == "open":
                return chat
            self._store.set_chat_state(chat.id, "open")
            # blocking ended its group, now or before it was a request again
            group = self._store.group(chat.group_id) if chat.group_id is not None else None
            if group is not None and group.standing == "left":
                self._store.add_chore("successor", chat.id, b"", self._vault.now_ms())
            for message in self._store.messages(chat.id, content.MAX_RECEIPT_IDS):
                if message.sender != self._vault.account and message.kind in WRITTEN:
                    status = content.DELIVERED if message.unread else content.READ
                    self._store.owe_receipt(chat.id, message.id, status)
            for group in self._store.groups_of_chat(chat.id):
                self.leave_last_resort(group)
            self._store.note("chat", chat.id)
            return self._greet(chat.id)

    def leave_last_resort(self, group: Group) -> None:
        """If the group has our address from a last resort, give it one of its own, by a commit; inside a transaction.

        Not before the chat is accepted: a stranger would see by the commit that somebody is there.
        """
        chat = self._store.chat(group.chat)
        if chat is None or chat.state != "open" or group.standing != "current" or group.serial is None:
            return
        address = self._store.address(group.serial)
        if address is not None and address.chat is None:
            self._store.add_chore("update", group.id, b"", self._vault.now_ms())

    def block(self, chat: Chat) -> Chat:
        """Refuse everything from this chat: its addresses are revoked, what waits to be sent to it is dropped."""
        with self._store.write():
            now_ms = self._vault.now_ms()
            self._store.set_chat_state(chat.id, "blocked")
            for message in self._store.forget_outgoing_of(chat.id):
                if self._store.set_message_state(chat.id, message, "failed", ("queued",)):
                    self._store.note("changed", chat.id, message)
            self._store.forget_receipts_of(chat.id)
            for group in self._store.groups_of_chat(chat.id):
                self._store.set_standing(group.id, "left", now_ms)
                self._store.forget_chore("ask", group.id)
            self._store.forget_chore("successor", chat.id)
            for address in self._store.addresses_of_chat(chat.id):
                self._store.add_chore("revoke", address.serial, b"", now_ms)
            self._store.note("chat", chat.id)
            return self._store.chat(chat.id) or chat

    def unblock(self, chat: Chat) -> Chat:
        """Block no more: who was accepted is again, a stranger asks again and is told nothing. Source: DEV-42."""
        with self._store.write():
            chat = self._store.chat(chat.id) or chat
            if chat.state != "blocked":
                return chat
            if not self._store.is_undecided(chat.id):
                return self.accept(chat)
            self._store.set_chat_state(chat.id, "request")
            self._store.note("chat", chat.id)
            return self._store.chat(chat.id) or chat

    def _greet(self, chat_id: bytes) -> Chat:
        """Tell the chat what we are called; the chat as it is now."""
        chat = self._store.chat(chat_id)
        assert chat is not None
        name = self._store.meta_text("name")
        self._outbox.queue(chat, lambda message, sequence, at_ms: Profile(message, sequence, at_ms, name))
        return chat


__all__ = [
    "Claimed",
    "Contact",
    "ContactLink",
    "Contacts",
    "clean_name",
    "contact_link",
    "one_line",
    "parse_contact_link",
    "skeleton",
]
