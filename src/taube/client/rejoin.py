"""Coming back: asking to be taken back into a group, taking others back, and founding a group that succeeds a dead one.

    ask         a fresh key package, signed and sealed to one member at a time, until one adds us again or a day is over
    grant       remove the device's old leaf and add its new one in one commit; only for accounts that are in the group
    succeed     a new MLS group for the same chat; of several, the lowest SHA-256 of the group id wins

Everything here is a chore of the store: it goes on after a crash. Source: docs/protocol/device.md, "Coming back".
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from taube.client.contacts import Claimed, Contacts
from taube.client.devices import Devices
from taube.client.e2e import DEVICE_SCOPE, KIND_PAIR, PACKAGES_SCOPE, Core, CoreError, GroupInfo, Joined, Member
from taube.client.gates import Gates
from taube.client.outbox import Outbox
from taube.client.store import DAY_MS, Chore, Group
from taube.client.vault import Vault
from taube.wire.errors import Retry, WireError
from taube.wire.packing import Unpacker, pack

NEXT_PEER_MS: Final = 10 * 60 * 1000

_asked: Final = Unpacker[list[bytes]](list[bytes])


class Rejoin:
    """The groups that this device cannot follow, and those of others that it can help back."""

    def __init__(self, vault: Vault, gates: Gates, devices: Devices, contacts: Contacts, outbox: Outbox) -> None:
        self._vault = vault
        self._store = vault.store
        self._gates = gates
        self._devices = devices
        self._contacts = contacts
        self._outbox = outbox

    # ---------------------------------------------------------------- we are lost

    def lost(self, group_id: bytes, reason: str) -> None:
        """This device may not use the group any more: ask to be taken back. Inside or outside a transaction."""
        with self._vault.work():
            group = self._store.group(group_id)
            if group is None or group.standing != "current":
                return
            if self._store.pending(group_id) is not None:
                self._gates.drop(group_id)
            self._store.set_standing(group_id, "rejoin", self._vault.now_ms())
            chat = self._store.chat(group.chat)
            if chat is not None and chat.group_id == group_id:
                self._store.add_chore("ask", group_id, b"", self._vault.now_ms())
                self._vault.notice(group.chat, f"This device asks to be let back in: {reason}.")

    async def ask(self, chore: Chore) -> None:
        """Ask the next member that was not asked yet; after a day without an answer tell the person, and start anew."""
        with self._vault.work() as core:
            group = self._store.group(chore.subject)
            if group is None or group.standing != "rejoin":
                self._store.forget_chore("ask", chore.subject)
                return
            now_ms = self._vault.now_ms()
            self._vault.use(DEVICE_SCOPE, group.id)
            info = core.group(group.id)
            asked = _asked.unpack(chore.payload) if chore.payload else []
            over_ms = chore.made_ms + DAY_MS
            if now_ms >= over_ms:
                self._unanswered(group, info)
                return
            peers = [
                member
                for member in info.members
                if member.account_id != self._vault.account and member.device_id not in asked
            ]
            if not peers:
                self._store.set_chore(chore.n, chore.payload, over_ms, chore.tries)
                return
            self._ask_member(core, group, info, peers[0])
            asked.append(peers[0].device_id)
            due_ms = now_ms + NEXT_PEER_MS if len(peers) > 1 else over_ms
            self._store.set_chore(chore.n, pack(asked), due_ms, chore.tries)

    def _ask_member(self, core: Core, group: Group, info: GroupInfo, peer: Member) -> None:
        (package,) = self._devices.make_packages(info.suite, 1, chat=group.chat)
        address, body = core.rejoin_request(group.id, (peer.account_id, peer.device_id), package, self._vault.now_s())
        self._store.queue_body(body, [address], self._vault.now_ms())

    def _unanswered(self, group: Group, info: GroupInfo) -> None:
        """Nobody took us back for a day."""
        self._store.forget_chore("ask", group.id)
        if self._may_succeed(info):
            text = "Nobody let this device back in for a day: the chat is started anew."
            self._store.add_chore("successor", group.chat, b"", self._vault.now_ms())
        else:
            text = "Nobody let this device back in for a day: ask someone who manages the chat to add you again."
        self._vault.notice(group.chat, text)

    def _may_succeed(self, info: GroupInfo) -> bool:
        return self._vault.account in info.context.admins

    def lost_groups(self, chat: bytes) -> dict[bytes, GroupInfo]:
        """What this device knew last of the groups of the chat that it asks to be taken back to; inside `work`."""
        found = {}
        for group in self._store.groups_of_chat(chat):
            if group.standing == "rejoin":
                self._vault.use(DEVICE_SCOPE, PACKAGES_SCOPE, group.id)
                found[group.id] = self._vault.core.group(group.id)
        return found

    def returned(self, joined: Joined, known: Group, before: GroupInfo | None) -> bool:
        """A Welcome into a group that we know; inside `work`. Whether it is the answer to our asking.

        Anyone can make a group with any id; only a package that was made for asking this chat proves that it is meant,
        and any member that was asked has one: so the group must also be what it was *before*.
        """
        package = self._store.package(joined.package_ref)
        if known.standing != "rejoin" or package is None or package.chat != known.chat or before is None:
            return False
        if joined.epoch <= known.epoch or not _goes_on(joined, before):
            return False
        self._vault.learn_and_tell(known.chat, joined.members)
        self._store.put_joined(known.chat, _came(joined.members, before.members), self._vault.now_ms())
        self._store.put_group(known._replace(epoch=joined.epoch, standing="current", since_ms=self._vault.now_ms()))
        self._store.hurry_outgoing(known.chat, self._vault.now_ms())
        self._store.forget_chore("ask", known.id)
        self._store.forget_chore("successor", known.chat)
        self._vault.notice(known.chat, "This device is back in the chat.")
        return True

    # ---------------------------------------------------------------- others are lost

    async def grant(self, chore: Chore) -> None:
        """Take a device back that asked, if it may come back; refuse in silence otherwise."""
        with self._vault.work() as core:
            self._vault.use_keys()
            mail = core.open_from_stranger(chore.payload)
        group = self._store.group_of_mls_chat(mail.chat_id)
        chat = self._store.chat(group.chat) if group is not None else None
        now_ms = self._vault.now_ms()
        granted_ms = self._store.granted_ms(mail.device_id, mail.chat_id)
        refused = (
            group is None
            or chat is None
            or chat.state != "open"
            or group.standing == "left"
            or (granted_ms is not None and now_ms - granted_ms < DAY_MS)
        )
        if refused or group is None or chat is None:
            self._store.forget_chore("grant", chore.subject)
            return
        if group.standing != "current":
            # both of us are lost: nobody is left who could take anyone back
            with self._vault.work() as core:
                self._vault.use(DEVICE_SCOPE, group.id)
                if chat.kind == KIND_PAIR and self._may_succeed(core.group(group.id)):
                    self._store.add_chore("successor", chat.id, b"", now_ms)
                self._store.forget_chore("grant", chore.subject)
            return
        try:
            certificate = await self._devices.fetch_certificate(mail.account_id)
        except WireError as error:
            if error.kind.retry is Retry.LATER:
                raise
            self._store.forget_chore("grant", chore.subject)
            return
        try:
            with self._vault.work() as core:
                self._vault.use(DEVICE_SCOPE, group.id)
                core.check_rejoin(group.id, mail, certificate, self._vault.now_s())
                address = core.inspect_key_package(mail.key_package, certificate, self._vault.now_s()).address
                listed = {device.device_id for device in core.check_certificate(certificate).devices}
        except CoreError:
            self._store.forget_chore("grant", chore.subject)
            return

        def wanted(core: Core, info: GroupInfo) -> Mapping[str, Any] | None:
            leaves = [member for member in info.members if member.account_id == mail.account_id]
            if not leaves or any(member.address == address for member in leaves):
                return None
            gone = [
                (member.account_id, member.device_id)
                for member in leaves
                if member.device_id == mail.device_id or member.device_id not in listed
            ]
            return {"adds": [mail.key_package], "removes": gone}

        if await self._gates.change(group.id, wanted):
            with self._store.write():
                self._store.put_grant(mail.device_id, mail.chat_id, now_ms)
                self._store.forget_chore("grant", chore.subject)
                self._outbox.send_again(chat.id, mail.device_id, self._store.joined_ms(chat.id, mail.account_id))

    # ---------------------------------------------------------------- successors

    async def succeed(self, chore: Chore) -> None:
        """Found the group that succeeds the one that nobody can use any more, for the same chat and people."""
        chat = self._store.chat(chore.subject)
        group = self._store.group(chat.group_id) if chat is not None and chat.group_id is not None else None
        if chat is None or group is None or group.standing == "current" or chat.state == "blocked":
            self._store.forget_chore("successor", chore.subject)
            return
        with self._vault.work() as core:
            self._vault.use(DEVICE_SCOPE, group.id)
            info = core.group(group.id)
        claimed: dict[bytes, Claimed] = {}
        for member in info.members:
            if member.account_id != self._vault.account and member.account_id not in claimed:
                claimed[member.account_id] = await self._contacts.claim(member.address)
        with self._vault.work():
            again = self._store.group(group.id)
            now = self._store.chat(chat.id)
            if again is None or again.standing == "current" or now is None or now.group_id != group.id:
                self._store.forget_chore("successor", chore.subject)
                return
            context = info.context._replace(predecessor=(group.id, info.epoch))
            self._contacts.found(chat.id, context, claimed)
            self._store.forget_chore("successor", chore.subject)
            self._store.forget_chore("ask", group.id)
            self._vault.notice(chat.id, "The encryption of this chat was started anew.")

    def succeeded(self, joined: Joined, predecessor: Group, serial: bytes) -> bool:
        """A Welcome into a group that names one of ours as its predecessor; inside `work`. Whether it may be."""
        chat = self._store.chat(predecessor.chat)
        if chat is None or chat.state == "blocked" or joined.context.chat_id != predecessor.mls_chat:
            return False
        core = self._vault.core
        self._vault.use(DEVICE_SCOPE, PACKAGES_SCOPE, predecessor.id)
        old = core.group(predecessor.id)
        sender = joined.sender[0]
        accounts = {member.account_id for member in old.members}
        if sender not in old.context.admins or sender not in accounts or joined.context.kind != old.context.kind:
            return False
        if chat.kind == KIND_PAIR and {member.account_id for member in joined.members} != set(old.context.admins):
            return False
        self._vault.learn_and_tell(chat.id, joined.members)
        self._store.put_joined(chat.id, _came(joined.members, old.members), self._vault.now_ms())
        now_ms = self._vault.now_ms()
        self._store.put_group(
            Group(
                joined.group_id,
                chat.id,
                joined.context.chat_id,
                joined.epoch,
                "current",
                now_ms,
                predecessor.id,
                serial,
            )
        )
        current = self._store.group(chat.group_id) if chat.group_id is not None else None
        if current is None or self._goes_before(joined.group_id, predecessor.id, current):
            self._store.set_chat_group(chat.id, joined.group_id, self._vault.now_ms())
            for group in (predecessor, current):
                if group is not None and group.id != joined.group_id:
                    self._store.forget_chore("ask", group.id)
            self._store.forget_chore("successor", chat.id)
            self._outbox.send_again(chat.id)
            self._vault.notice(chat.id, "The encryption of this chat was started anew.")
        self._contacts.forget_older_groups(chat)
        return True

    def _goes_before(self, group_id: bytes, predecessor: bytes, current: Group) -> bool:
        """Whether a new group is the one to use: it succeeds the one in use, or beats its other successor."""
        if current.id == predecessor:
            return True
        return current.predecessor == predecessor and _rank(group_id) < _rank(current.id)


def _came(members: Iterable[Member], before: Iterable[Member]) -> set[bytes]:
    """The accounts that were not there before."""
    return {member.account_id for member in members} - {member.account_id for member in before}


def _goes_on(joined: Joined, before: GroupInfo) -> bool:
    """Whether a group that we are welcomed back to can be the one that we knew. What changed its admins while we were
    away is not known: then one of those whom we knew has to be the one who welcomes us."""
    new, old = joined.context, before.context
    if (new.kind, new.chat_id, new.predecessor) != (old.kind, old.chat_id, old.predecessor):
        return False
    if new.kind == KIND_PAIR:
        return {member.account_id for member in joined.members} == set(new.admins) == set(old.admins)
    return set(new.admins) == set(old.admins) or joined.sender[0] in old.admins


def _rank(group_id: bytes) -> bytes:
    return hashlib.sha256(group_id).digest()
