"""What one envelope does: opened, decided and stored in the transaction that also stores the core's new state.

    serial → chat → its groups: content, a commit, a hint to look at the gate
           → or mail from a stranger: a Welcome, a request to rejoin
           → or set aside, bounded, and tried again after each change of epoch

After the transaction the envelope may be acknowledged: it is stored, a duplicate, junk, or set aside. This file starts
no network traffic; work that needs the network is left as a chore.
Source: docs/protocol/device.md, DEV-02; docs/protocol/groups.md.
"""

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from taube.client import content
from taube.client.contacts import Contacts
from taube.client.content import Content, ContentError, Leave, Media, Profile, Receipt, ResendRequest, Text, Typing
from taube.client.e2e import (
    DEVICE_SCOPE,
    KIND_GROUP,
    KIND_PAIR,
    PACKAGES_SCOPE,
    CoreError,
    CoreTrapped,
    NotForUs,
    Received,
)
from taube.client.gates import Gates
from taube.client.outbox import Outbox
from taube.client.rejoin import Rejoin
from taube.client.store import WRITTEN, Address, Chat, Group
from taube.client.vault import Vault

GAP_GRACE_MS: Final = 3_000
"""Envelopes of one sender may overtake each other: a gap is asked for only after this time."""
MAX_GAPS: Final = 256
"""Messages of one device that are asked for at a time."""
MAX_GRANTS: Final = 16
"""Requests to rejoin kept for one account: it has no more devices."""
MAX_EPOCH_JOINED: Final = 2**32
"""No group of people gets that far; one that pretends to would not fit the store in the end."""
WALK_WAIT_MS: Final = 1_000


class Delivery(NamedTuple):
    """An envelope as it was delivered; an ephemeral one is never seen twice."""

    serial: bytes
    body: bytes
    ephemeral: bool = False


class Undo(Exception):
    """What the envelope did to the core must not be kept."""


def envelope_id(serial: bytes, body: bytes) -> bytes:
    """16 bytes that name an envelope at the address where it arrived: elsewhere, the same bytes may mean nothing."""
    return hashlib.sha256(serial + body).digest()[:16]


class Inbox:
    """Decides envelopes."""

    def __init__(self, vault: Vault, gates: Gates, rejoin: Rejoin, contacts: Contacts, outbox: Outbox) -> None:
        self._vault = vault
        self._store = vault.store
        self._rejoin = rejoin
        self._contacts = contacts
        self._outbox = outbox
        gates.on_epoch = self.retry_aside

    def receive(self, deliveries: Sequence[Delivery]) -> None:
        """Decide all of them, durably, in one transaction; one by one if one of them has to be undone."""
        if not deliveries:
            return
        try:
            with self._vault.work():
                for delivery in deliveries:
                    self._decide(delivery)
        except (CoreTrapped, Undo, ArithmeticError, AssertionError, LookupError, TypeError, ValueError):
            # what data of a stranger can bring about; a disk that fails is not among them, and is tried again
            if len(deliveries) > 1:
                for delivery in deliveries:
                    self.receive([delivery])
            elif not deliveries[0].ephemeral:
                self._refuse(deliveries[0])

    def _refuse(self, delivery: Delivery) -> None:
        """Decided as junk; should it have been a commit that we alone cannot apply, the gate will tell."""
        with self._store.write():
            now_ms = self._vault.now_ms()
            self._store.decide(envelope_id(delivery.serial, delivery.body), now_ms)
            address = self._store.address(delivery.serial)
            chat = self._store.chat(address.chat) if address is not None and address.chat is not None else None
            if chat is not None and chat.group_id is not None:
                self._store.add_chore("walk", chat.group_id, b"", now_ms)

    def retry_aside(self, chat: bytes) -> None:
        """Try again what was set aside for this chat; inside `work`."""
        for envelope, serial, body in self._store.aside_of_chat(chat):
            address = self._store.address(serial)
            if address is not None and self._open(address, body):
                self._store.forget_aside(envelope)
                self._store.decide(envelope, self._vault.now_ms())

    # ---------------------------------------------------------------- one envelope

    def _decide(self, delivery: Delivery) -> None:
        envelope = envelope_id(delivery.serial, delivery.body)
        if self._store.is_decided(envelope):
            return
        address = self._store.address(delivery.serial)
        opened = address is None or self._open(address, delivery.body)
        if delivery.ephemeral:
            return
        now_ms = self._vault.now_ms()
        later = address is not None and (address.chat is not None or address.purpose in ("package", "dead"))
        if opened or not later or not self._store.set_aside(envelope, delivery.serial, delivery.body, now_ms):
            self._store.decide(envelope, now_ms)
            return
        chat = self._store.chat(address.chat) if address is not None and address.chat is not None else None
        if chat is not None and chat.group_id is not None:
            self._store.add_chore("walk", chat.group_id, b"", now_ms, now_ms + WALK_WAIT_MS)

    def _open(self, address: Address, body: bytes) -> bool:
        """Whether the envelope is decided; False when it may become readable later."""
        groups = self._store.groups_of_serial(address.serial)
        if address.chat is not None:
            groups = [*self._store.groups_of_chat(address.chat), *groups]
        for group in {group.id: group for group in groups}.values():
            self._vault.use(DEVICE_SCOPE, PACKAGES_SCOPE, group.id)
            try:
                received = self._vault.core.receive(group.id, [body], {}, self._vault.now_s())[0]
            except CoreTrapped:
                raise
            except CoreError:
                continue
            if received.kind != "later":
                self._take(group, received)
                return True
        return self._open_from_stranger(address, body)

    def _take(self, group: Group, received: Received) -> None:
        if received.kind == "content":
            self._take_content(group, received)
        elif group.standing != "current" or received.epoch < group.epoch:
            return
        elif received.kind in ("commit", "look_at_gate"):
            self._store.put_told(group.id, received.epoch, received.k, received.gate_value)
            self._store.add_chore("walk", group.id, b"", self._vault.now_ms())

    def _open_from_stranger(self, address: Address, body: bytes) -> bool:
        self._vault.use_keys()
        core = self._vault.core
        try:
            mail = core.open_from_stranger(body)
        except NotForUs:
            return False
        except CoreTrapped:
            raise
        except CoreError:
            return True
        if mail.kind == "welcome":
            self._join(address, body)
        elif mail.kind == "rejoin" and self._may_ask(mail.account_id, mail.chat_id):
            subject = mail.account_id + mail.device_id + mail.chat_id
            self._store.add_chore("grant", subject, body, self._vault.now_ms())
        return True

    def _may_ask(self, account: bytes, mls_chat: bytes) -> bool:
        """Whether a request to rejoin is kept: the account is in the group that the chat uses, and asked for few."""
        group = self._store.group_of_mls_chat(mls_chat)
        if group is None or group.standing == "left" or self._store.count_chores("grant", account) >= MAX_GRANTS:
            return False
        self._vault.use(DEVICE_SCOPE, PACKAGES_SCOPE, group.id)
        return any(member.account_id == account for member in self._vault.core.group(group.id).members)

    def _join(self, address: Address, body: bytes) -> None:
        """Join by a Welcome. Raises Undo when the group is none that we want to be in."""
        lost = self._rejoin.lost_groups(address.chat) if address.chat is not None else {}
        self._vault.forget_loaded_groups()
        try:
            joined = self._vault.core.join(body, self._vault.known(), self._vault.now_s())
        except CoreTrapped:
            raise
        except CoreError:
            return
        package = self._store.package(joined.package_ref)
        if package is None or joined.epoch > MAX_EPOCH_JOINED:
            raise Undo
        known = self._store.group(joined.group_id)
        predecessor = joined.context.predecessor
        before = self._store.group(predecessor[0]) if predecessor is not None else None
        if known is not None:
            wanted = self._rejoin.returned(joined, known, lost.get(joined.group_id))
        elif before is not None:
            wanted = self._rejoin.succeeded(joined, before, package.serial)
        else:
            wanted = self._contacts.met(joined, package.serial)
        if not wanted:
            raise Undo
        self._vault.flush()
        group = self._store.group(joined.group_id)
        assert group is not None
        sent_to = self._store.address(package.serial)
        if sent_to is not None and sent_to.purpose == "dead":
            self._store.add_chore("update", group.id, b"", self._vault.now_ms())
        if package.last_resort:
            self._contacts.leave_last_resort(group)
        else:
            self._store.forget_package(package.ref)
            self._store.use_address(package.serial, "chat", group.chat)
        self.retry_aside(group.chat)

    # ---------------------------------------------------------------- contents

    def _take_content(self, group: Group, received: Received) -> None:
        chat = self._store.chat(group.chat)
        if chat is None or chat.state == "blocked" or received.sender is None:
            return
        sender, device = received.sender
        if sender == self._vault.account:
            return
        try:
            what = content.decode(received.content)
        except ContentError:
            return
        if what.sequence:
            self._heard(chat, sender, device, what.sequence)
        match what:
            case Text():
                self._show(chat, sender, what, "text", what.text, what.reply_to)
            case Media():
                self._show(chat, sender, what, "media", what.caption, what.reply_to, received.content)
            case Receipt():
                self._take_receipt(chat, what)
            case Profile():
                self._contacts.heard_name(chat, sender, what.name)
            case ResendRequest():
                if chat.state == "open":
                    since_ms = self._store.joined_ms(chat.id, sender)
                    numbers = [n for n in what.sequences if self._store.sent_ms(chat.id, n) >= since_ms]
                    self._outbox.resend(chat.id, numbers, device)
            case Typing():
                self._store.note("typing", chat.id, sender, "1" if what.active else "")
            case Leave():
                self._show(chat, sender, what, "notice", "left the chat")
                if chat.kind == KIND_GROUP and chat.state == "open" and self._vault.account in self._admins(group.id):
                    self._store.add_chore("remove", group.id + sender + device, b"", self._vault.now_ms())
            case _:
                if what.sequence:
                    text = "This message needs a newer version of Taube."
                    self._show(chat, sender, what, "unknown", text, b"", received.content)

    def _admins(self, group_id: bytes) -> tuple[bytes, ...]:
        return self._vault.core.group(group_id).context.admins

    def _show(
        self,
        chat: Chat,
        sender: bytes,
        what: Content,
        kind: str,
        text: str,
        reply_to: bytes = b"",
        raw: bytes | None = None,
    ) -> None:
        """Put a message in the history, once; with *raw*, all that was said."""
        message = what.message_id
        is_new = self._store.add_message(
            *(chat.id, message, sender, what.sequence, what.sent_at_ms, kind, text, "received", True, reply_to, raw)
        )
        if kind in WRITTEN:
            # also when it comes again: whoever sends it again has not heard of its receipt (CNT-11)
            row = None if is_new else self._store.message(chat.id, message, sender)
            self._store.owe_receipt(chat.id, message, content.READ if row and not row.unread else content.DELIVERED)
        if not is_new:
            return
        self._store.touch_chat(chat.id, self._vault.now_ms())
        self._store.note("message", chat.id, message + sender)

    def _take_receipt(self, chat: Chat, receipt: Receipt) -> None:
        state = "delivered" if receipt.status == content.DELIVERED else "read"
        before = ("queued", "kept", "failed") if state == "delivered" else ("queued", "kept", "failed", "delivered")
        for message in receipt.messages:
            if self._store.set_message_state(chat.id, message, state, before):
                self._store.note("changed", chat.id, message)

    def _heard(self, chat: Chat, sender: bytes, device: bytes, sequence: int) -> None:
        """Notice what is missing before *sequence*."""
        highest = self._store.heard(chat.id, device)
        if highest is None:
            highest = 0 if chat.kind == KIND_PAIR else sequence - 1
        if sequence <= highest:
            self._store.close_gap(chat.id, device, sequence)
            return
        if chat.state == "open":
            self._ask_for(chat, sender, device, highest + 1, sequence)
        self._store.set_heard(chat.id, device, sequence)

    def _ask_for(self, chat: Chat, sender: bytes, device: bytes, first: int, end: int) -> None:
        """Remember the numbers from *first* up to *end*, the newest of them if they are too many."""
        now_ms = self._vault.now_ms()
        room = MAX_GAPS - self._store.count_gaps(chat.id, device)
        start = max(first, end - room)
        for missing in range(start, end):
            self._store.add_gap(chat.id, device, missing, sender, now_ms, now_ms + GAP_GRACE_MS)
        if start > first:
            text, message = "More messages are missing than can be asked for.", self._vault.random(16)
            self._store.add_message(chat.id, message, sender, first, now_ms, "gap", text, "received", unread=True)
            self._store.note("message", chat.id, message + sender)
