"""What leaves: contents are queued with their sequence number, protected when their time has come, sent until kept.

    queue      content in the outbox, the archive and the history, one transaction
    protect    under the outbox lock, in order: content becomes one envelope body and the addresses that need it, stored
    send       pipelined on the anonymous "send" connection; the same bytes again until every address has answered

One process at a time sends (a file lock), for all processes of the home, so that what was queued first leaves first.
Source: docs/protocol/device.md, "Sending".
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from taube.client import content
from taube.client.content import Content, Media, Receipt, ResendRequest, Unknown
from taube.client.e2e import DEVICE_SCOPE, CoreError, CoreTrapped, GroupInfo
from taube.client.network import Link, Network
from taube.client.store import KEEP_SENT_MS, Chat, Outgoing, Upload, pack_targets, unpack_targets
from taube.client.vault import Vault
from taube.wire.errors import STORAGE, Retry, WireError
from taube.wire.messages import (
    FLAG_EPHEMERAL,
    FLAG_URGENT,
    MAX_ADDRESSES,
    STATUS_BUSY,
    STATUS_FULL,
    STATUS_KEPT,
    Send,
    Sent,
)
from taube.wire.packing import changed

BATCH: Final = 32
"""Rows protected in one transaction and sent pipelined."""
WAITING_MS: Final = 60_000
"""A chat that cannot be written to is looked at again after this time, or as soon as it can."""
BUSY_WAIT_MS: Final = 500
FULL_WAIT_MS: Final = 60_000
MOST_WAIT_MS: Final = 3_600_000
MAX_RESENT: Final = 5
MAX_SENT_AGAIN: Final = 256


class Outbox:
    """The outbox of this home."""

    def __init__(self, vault: Vault, network: Network) -> None:
        self._vault = vault
        self._store = vault.store
        self._network = network
        self.put_off = ""
        """Why the server, though it answers, has not kept what was sent last, in one sentence; empty if it has."""

    # ---------------------------------------------------------------- queue

    def queue(
        self,
        chat: Chat,
        make: Callable[[bytes, int, int], Content],
        *,
        shown_as: str | None = None,
        reply_to: bytes = b"",
    ) -> bytes:
        """Queue what *make(message id, sequence, sent_at_ms)* gives; returns the message id. With *shown_as*, the text
        stands in the history. Durable when the transaction is left; nothing has left for the network yet."""
        with self._store.write():
            now_ms = self._vault.now_ms()
            message = self._vault.random(16)
            sequence = self._store.take_sequence(chat.id)
            data = content.encode(make(message, sequence, now_ms))
            self._store.archive(chat.id, sequence, message, data, now_ms)
            if shown_as is not None:
                account = self._vault.account
                self._store.add_message(
                    chat.id, message, account, sequence, now_ms, "text", shown_as, "queued", False, reply_to
                )
                self._store.touch_chat(chat.id, now_ms)
            self._store.queue_content(chat.id, message, data, now_ms)
            return message

    def hold(self, chat: Chat, make: Callable[[bytes, int, int], Media], secret: bytes) -> bytes:
        """Keep a media message until its file is on the server (`release`); it stands in the history at once. *secret*
        is the upload secret of its blob. Returns the message id. Source: CNT-19."""
        with self._store.write():
            now_ms = self._vault.now_ms()
            message = self._vault.random(16)
            media = make(message, 0, now_ms)
            data = content.encode(media)
            self._store.add_message(
                *(chat.id, message, self._vault.account, 0, now_ms, "media", media.caption, "queued", False),
                *(media.reply_to, data),
            )
            self._store.touch_chat(chat.id, now_ms)
            self._store.add_upload(chat.id, message, data, secret, now_ms)
            return message

    def release(self, upload: Upload) -> None:
        """Its file is on the server: the message gets its sequence number and goes out."""
        with self._store.write():
            media = content.decode(upload.content)
            assert isinstance(media, Media)
            sequence = self._store.take_sequence(upload.chat)
            data = content.encode(changed(media, sequence=sequence))
            now_ms = self._vault.now_ms()
            self._store.archive(upload.chat, sequence, upload.message, data, now_ms)
            self._store.set_sequence(upload.chat, upload.message, self._vault.account, sequence, data)
            self._store.queue_content(upload.chat, upload.message, data, now_ms)
            self._store.forget_upload(upload.n)

    def abandon(self, upload: Upload) -> None:
        """Its file will not come to the server."""
        with self._store.write():
            self._store.forget_upload(upload.n)
            if self._store.set_message_state(upload.chat, upload.message, "failed", ("queued",)):
                self._store.note("changed", upload.chat, upload.message)

    def renumber(self) -> None:
        """Give what waits to be protected the numbers of a new device; inside the caller's transaction.

        What is to be sent again to one device only gets none: to all others it would be missing.
        """
        for row in self._store.outgoing():
            if row.chat is None or row.message is None or row.content is None:
                continue
            what = content.decode(row.content)
            if isinstance(what, Unknown) or what.sequence == 0:
                continue
            sequence = self._store.take_sequence(row.chat) if row.only_device is None else 0
            data = content.encode(changed(what, sequence=sequence))
            self._store.set_content(row.n, data)
            if sequence:
                self._store.archive(row.chat, sequence, row.message, data, what.sent_at_ms)

    def queue_receipts(self) -> None:
        """Make contents of the receipts that are owed, as few as possible."""
        with self._store.write():
            owed: dict[tuple[bytes, int], list[bytes]] = {}
            for chat, message, status in self._store.receipts_owed():
                owed.setdefault((chat, status), []).append(message)
            now_ms = self._vault.now_ms()
            for (chat, status), messages in owed.items():
                for start in range(0, len(messages), content.MAX_RECEIPT_IDS):
                    ids = messages[start : start + content.MAX_RECEIPT_IDS]
                    receipt = Receipt(self._vault.random(16), 0, now_ms, status, ids)
                    self._store.queue_content(chat, None, content.encode(receipt), now_ms)
                self._store.forget_receipts((chat, message) for message in messages)

    def queue_resend_requests(self, retry_ms: int) -> None:
        """Ask for what never came: now, and again after *retry_ms*; give up after 30 days."""
        with self._store.write():
            now_ms = self._vault.now_ms()
            asked: dict[tuple[bytes, bytes], list[int]] = {}
            lost: dict[tuple[bytes, bytes, bytes], list[tuple[int, int]]] = {}
            for chat, device, sender, sequence, since_ms in self._store.gaps_due(now_ms):
                if since_ms + KEEP_SENT_MS < now_ms:
                    self._store.close_gap(chat, device, sequence)
                    lost.setdefault((chat, device, sender), []).append((sequence, since_ms))
                    continue
                asked.setdefault((chat, device), []).append(sequence)
                self._store.postpone_gap(chat, device, sequence, now_ms + retry_ms)
            for (chat, device), sequences in asked.items():
                state = self._store.chat(chat)
                if state is None or state.state != "open":
                    continue
                request = ResendRequest(self._vault.random(16), 0, now_ms, sequences[: content.MAX_RESEND_SEQUENCES])
                self._store.queue_content(chat, None, content.encode(request), now_ms, device)
            for (chat, _, sender), missing in lost.items():
                self._show_lost(chat, sender, missing)

    def _show_lost(self, chat: bytes, sender: bytes, missing: Sequence[tuple[int, int]]) -> None:
        """One line for each run of numbers that will not come any more; *missing*: (sequence, since_ms), in order."""
        start = 0
        for end in range(1, len(missing) + 1):
            if end < len(missing) and missing[end][0] == missing[end - 1][0] + 1:
                continue
            count, (sequence, since_ms), line = end - start, missing[start], self._vault.random(16)
            text = "A message never arrived." if count == 1 else f"{count} messages never arrived."
            self._store.add_message(chat, line, sender, sequence, since_ms, "gap", text, "received", unread=True)
            self._store.note("message", chat, line + sender)
            start = end

    def resend(self, chat: bytes, sequences: Sequence[int], device: bytes) -> None:
        """Queue again, for one device, what it missed; inside the caller's transaction."""
        now_ms = self._vault.now_ms()
        for sequence in sequences:
            kept = self._store.archived(chat, sequence)
            if kept is None or kept[2] >= MAX_RESENT:
                continue
            message, data, _ = kept
            self._store.count_resent(chat, sequence)
            self._store.queue_content(chat, message, data, now_ms, device)

    def send_again(self, chat: bytes, device: bytes | None = None, since_ms: int = 0) -> None:
        """Queue again what was written since then and may have reached nobody (or not this device) while a device
        changed; in the caller's transaction. A mailbox ends with its device, also with what was kept in it; ids tell
        what was seen before."""
        now_ms = self._vault.now_ms()
        for message, data in self._store.unconfirmed(chat, MAX_SENT_AGAIN, since_ms):
            if self._store.set_message_state(chat, message, "queued", ("failed",)):
                self._store.note("changed", chat, message)
            self._store.queue_content(chat, message, data, now_ms, device)

    # ---------------------------------------------------------------- send

    async def drain(self, may_protect: Callable[[], bool] = lambda: True) -> None:
        """Protect and send everything that is due while *may_protect*, if no other process is at it. Raises
        TransportError, WireError: then what was not answered stays queued, to be sent with the same bytes."""
        lock = self._store.home.try_lock("outbox")
        if lock is None:
            return
        try:
            while may_protect() and (rows := self._protect()):
                link = await self._network.anonymous("send")
                answers = await asyncio.gather(*(_send(link, row) for row in rows), return_exceptions=True)
                self._settle(rows, answers)
                for answer in answers:
                    if isinstance(answer, BaseException) and not isinstance(answer, WireError):
                        raise answer
        finally:
            lock.release()

    async def send_ephemeral(self, chat: Chat, what: Content) -> None:
        """Protect and send what may be missed, once. Raises TransportError or WireError."""
        with self._vault.work():
            protected = self._protect_content(chat, [content.encode(what)])
        if protected is None:
            return
        bodies, info = protected
        targets = self._targets(info, None)
        if targets:
            link = await self._network.anonymous("send")
            await link.expect(Sent, lambda request: Send(request, FLAG_EPHEMERAL, targets, bodies[0]))

    def _protect(self) -> list[Outgoing]:
        """The next rows that are due, all of them protected and stored."""
        now_ms = self._vault.now_ms()
        rows: list[Outgoing] = []
        waiting: set[bytes] = set()
        due = self._store.outbox_due_ms()
        if due is None or due > now_ms:
            return []
        with self._vault.work():
            for row in self._store.outgoing():
                if row.made_ms + KEEP_SENT_MS < now_ms:
                    self._give_up(row)
                    continue
                if row.chat is not None and (row.chat in waiting or row.due_ms > now_ms):
                    waiting.add(row.chat)  # what was written first arrives first
                    continue
                if row.due_ms > now_ms:
                    continue
                ready = row if row.body is not None else self._protect_row(row)
                if ready is None:
                    assert row.chat is not None
                    waiting.add(row.chat)
                    self._store.postpone_outgoing(row.n, now_ms + WAITING_MS)
                elif unpack_targets(ready.targets):
                    rows.append(ready)
                else:
                    self._finish(ready, 0)
                if len(rows) >= BATCH:
                    break
        return rows

    def _protect_row(self, row: Outgoing) -> Outgoing | None:
        """None when the chat cannot be written to now: it waits to be taken back, or has nobody else yet."""
        chat = self._store.chat(row.chat or b"")
        if chat is None or row.content is None:
            self._store.forget_outgoing(row.n)
            return row._replace(targets=None)
        protected = self._protect_content(chat, [row.content])
        if protected is None:
            return None
        (body,), info = protected
        targets = self._targets(info, row.only_device)
        self._store.set_protected(row.n, body, targets)
        return row._replace(content=None, body=body, targets=pack_targets(targets))

    def _protect_content(self, chat: Chat, contents: list[bytes]) -> tuple[list[bytes], GroupInfo] | None:
        group = self._store.group(chat.group_id) if chat.group_id is not None else None
        if group is None or group.standing != "current" or chat.state == "blocked":
            return None
        core = self._vault.core
        self._vault.use(DEVICE_SCOPE, group.id)
        info = core.group(group.id)
        if len(info.members) < 2:
            return None
        try:
            return core.protect(group.id, contents), info
        except CoreTrapped:
            raise
        except CoreError:
            return None

    def _targets(self, info: GroupInfo, only_device: bytes | None) -> list[bytes]:
        return [
            member.address
            for member in info.members
            if member.leaf != info.own_leaf and only_device in (None, member.device_id)
        ][:MAX_ADDRESSES]

    def _settle(self, rows: list[Outgoing], answers: Sequence[bytes | BaseException]) -> None:
        """Store what each row's answer means."""
        with self._store.write():
            for row, answer in zip(rows, answers, strict=True):
                if isinstance(answer, bytes):
                    self._settle_row(row, answer)
                elif isinstance(answer, WireError):
                    self._settle_refused(row, answer)
        self.put_off = next(filter(None, map(_put_off, answers)), "")

    def _settle_row(self, row: Outgoing, statuses: bytes) -> None:
        targets = unpack_targets(row.targets)
        if len(statuses) != len(targets):  # nobody can tell which address has it: no answer
            wait_ms = min(BUSY_WAIT_MS << min(row.tries, 12), MOST_WAIT_MS)
            self._store.set_outgoing(row.n, targets, row.kept, self._vault.now_ms() + wait_ms, row.tries + 1)
            return
        left = [
            target for target, status in zip(targets, statuses, strict=True) if status in (STATUS_FULL, STATUS_BUSY)
        ]
        kept = row.kept + sum(status == STATUS_KEPT for status in statuses)
        if not left:
            self._finish(row, kept)
            return
        first_ms = FULL_WAIT_MS if STATUS_FULL in statuses else BUSY_WAIT_MS
        wait_ms = min(first_ms << min(row.tries, 12), MOST_WAIT_MS)
        self._store.set_outgoing(row.n, left, kept, self._vault.now_ms() + wait_ms, row.tries + 1)

    def _settle_refused(self, row: Outgoing, error: WireError) -> None:
        if error.kind.retry is Retry.LATER:
            wait_ms = min(max(error.retry_after_ms, BUSY_WAIT_MS << min(row.tries, 12)), MOST_WAIT_MS)
            targets = unpack_targets(row.targets)
            self._store.set_outgoing(row.n, targets, row.kept, self._vault.now_ms() + wait_ms, row.tries + 1)
        else:
            self._finish(row, row.kept)

    def _finish(self, row: Outgoing, kept: int) -> None:
        """Nothing more will be tried for this row: somebody has it, or nobody can be reached."""
        self._store.forget_outgoing(row.n)
        if row.chat is None or row.message is None:
            return
        if kept:
            changed = self._store.set_message_state(row.chat, row.message, "kept", ("queued", "failed"))
        else:
            changed = self._store.set_message_state(row.chat, row.message, "failed", ("queued",))
        if changed:
            self._store.note("changed", row.chat, row.message)

    def end(self) -> None:
        """This device is no longer the account's: what waited is never sent."""
        with self._store.write():
            for row in self._store.outgoing():
                self._finish(row, row.kept)
            for upload in self._store.uploads():
                self.abandon(upload)

    def _give_up(self, row: Outgoing) -> None:
        """It could not be delivered for 30 days. Source: DEV-12."""
        self._finish(row, row.kept)


def _put_off(answer: bytes | BaseException) -> str:
    """Why what was answered so has to be sent again; empty if it has not."""
    if isinstance(answer, WireError):
        if answer.kind is STORAGE:
            return "The server cannot keep messages at the moment."
        return f"The server cannot do that now: {answer.kind.meaning}" if answer.kind.retry is Retry.LATER else ""
    if isinstance(answer, BaseException):
        return ""
    if STATUS_BUSY in answer:
        return "The server has too much to do at the moment."
    return "The mailbox that it is for is full at the moment." if STATUS_FULL in answer else ""


async def _send(link: Link, row: Outgoing) -> bytes:
    """One status for each target."""
    addresses = unpack_targets(row.targets)
    body = row.body or b""
    flags = FLAG_URGENT if row.message is not None else 0
    sent = await link.expect(Sent, lambda request: Send(request, flags, addresses, body))
    return bytes(sent.statuses)
