"""The SDK: an account in a home folder, its chats, and what happens in them, for bots, clients, the command line.

    async with Account.open("home") as me:
        chat = await me.add(link)
        message = await chat.send_text("Hello!")
        async for event in me.events(): …

Everything is stored before it is told or sent; every method may be called in any number of processes of the same home.
Errors are `client.errors.UserError`: one sentence and an exit code. This file translates between people's values
(names, hexadecimal ids, snapshots) and the engine's; what happens, happens in sync.py and below. Source: docs/sdk.md.
"""

import asyncio
import io
import os
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, NamedTuple, TypeVar

from taube.client import content, photos
from taube.client.blobs import Blobs
from taube.client.contacts import ContactLink, clean_name, contact_link, one_line
from taube.client.content import ContentError, Text
from taube.client.devices import parse_invitation
from taube.client.e2e import KIND_PAIR, Core
from taube.client.errors import DeviceReplaced, HomeUnusable, NoAccount, Refused, TryLater, UserError, WrongInput
from taube.client.events import (
    CaughtUp,
    ChatChanged,
    ChatState,
    Connected,
    Disconnected,
    Event,
    Kind,
    Media,
    Message,
    MessageChanged,
    MessageReceived,
    MessageState,
    Notice,
    Typing,
)
from taube.client.files import clean_file_name, media_type_of, numbered, shortened
from taube.client.home import Home
from taube.client.network import DeviceLink, Network
from taube.client.store import WRITTEN, Entry, Store
from taube.client.store import Chat as ChatRow
from taube.client.store import Message as MessageRow
from taube.client.sync import Engine
from taube.client.transport import Transport, TransportError, socket_url
from taube.client.vault import Vault
from taube.exits import EX_CANTCREAT
from taube.wire.errors import ACCOUNT_UNKNOWN, Retry, WireError
from taube.wire.messages import AskKnowledge, DeleteAccount, Done, Knowledge, MintAddresses, Minted

READ_BATCH: Final = 100
OPEN_LOCK_S: Final = 5.0
SIGN_OF_LIFE_S: Final = 5.0
FOUND_S: Final = 10.0
CONNECTION_EVENTS: Final = 256
DISK_S: Final = 1.0
"""How long to wait until a home that could not be used is tried again, in seconds."""

T = TypeVar("T")


class Fact(NamedTuple):
    """One thing that the server holds: the entry of its ledger that permits it, and the value in words."""

    entry: str
    value: str


class Chat:
    """A chat: a snapshot of how it stood when it was asked for, and what one can do with it."""

    def __init__(self, account: "Account", row: ChatRow) -> None:
        self._account = account
        self._row = row
        self.id: str = row.id.hex()
        """32 hexadecimal digits."""
        self.name: str = row.name
        """As it is shown; unique in this home."""
        self.kind: Literal["pair", "group"] = "pair" if row.kind == KIND_PAIR else "group"
        self.state: ChatState = _chat_state(row.state)
        self.unread: int = account._store.count_unread(row.id)
        self.last_at_ms: int = row.last_at_ms
        """When something was last written, milliseconds since 1970; 0: never."""
        self.queued: int = account._store.count_queued(row.id)
        """How many messages of one's own wait to be sent."""
        group = account._store.group(row.group_id) if row.group_id is not None else None
        self.is_waiting: bool = group is not None and group.standing == "rejoin"
        """Whether another device of the chat has to let this one in first, as after its home was copied."""

    async def send_text(self, text: str, *, reply_to: Message | None = None) -> Message:
        """Write to the chat. Returns once the message is durably in the outbox; `Account.settle` waits for more.

        *text*: 1 to 16,384 bytes of UTF-8. *reply_to*: a message of this chat that is answered. Raises WrongInput for a
        text outside of that, or a blocked chat; DeviceReplaced once this device is known to be no longer the account's.
        """
        row = self._writable()
        answered = self._answered(reply_to)
        try:
            message = self._account._engine.outbox.queue(
                row,
                lambda message, sequence, at_ms: Text(message, sequence, at_ms, text, answered),
                shown_as=text,
                reply_to=answered,
            )
        except ContentError as error:
            raise WrongInput(
                f"A message has 1 to {content.MAX_TEXT_BYTES} bytes of text; this one has {len(text.encode())}."
            ) from error
        return self._account._message(row.id, message)

    async def send_file(
        self, path: str | os.PathLike[str], caption: str = "", *, as_is: bool = False, reply_to: Message | None = None
    ) -> Message:
        """Send a file, sealed. Returns once it lies sealed in the home and the message is held until it is uploaded;
        `Account.settle` waits for more. The file at *path* may be changed or deleted afterwards.

        A photo loses what it tells of where and when it was taken, and is turned upright; with *as_is* it goes as it
        is, as every other kind of file does. *caption*: up to 16,384 bytes of UTF-8. Raises WrongInput for a picture or
        film that cannot be cleaned, a file above 1 GiB, or what `send_text` refuses; DeviceReplaced; OSError.
        """
        row, file, files = self._writable(), Path(path), self._account._engine.files
        answered = self._answered(reply_to)
        media_type, photo = media_type_of(file.name), None
        with file.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            if photos.is_picture_or_film(media_type) and not as_is:
                photo = await asyncio.to_thread(lambda: photos.cleaned(source.read(photos.MOST_BYTES + 1), media_type))
            sealed = await files.seal(io.BytesIO(photo.data) if photo else source, len(photo.data) if photo else size)

        def make(message: bytes, sequence: int, at_ms: int) -> content.Media:
            return content.Media(
                *(message, sequence, at_ms, sealed.name, sealed.key, sealed.hash, sealed.size),
                photo.media_type if photo else media_type,
                *((photo.width, photo.height) if photo else (0, 0)),
                caption=caption,
                reply_to=answered,
                name=shortened(file.name),
            )

        try:
            message = self._account._engine.outbox.hold(row, make, sealed.secret)
        except ContentError as error:
            files.discard(sealed.secret)
            raise WrongInput(
                f"A caption has at most {content.MAX_TEXT_BYTES} bytes of text; this one has {len(caption.encode())}."
            ) from error
        return self._account._message(row.id, message)

    def _writable(self) -> ChatRow:
        """The chat, accepted if it was not. Raises WrongInput, DeviceReplaced."""
        if self._account._engine.fatal is not None:
            raise self._account._engine.fatal
        row = self._account._row(self._row.id)
        if row.state == "blocked":
            raise WrongInput(f"{row.name} is blocked: accept the chat first.")
        return self._account._engine.contacts.accept(row) if row.state == "request" else row

    def _answered(self, message: Message | None) -> bytes:
        """What an answer to *message* names."""
        if message is None:
            return b""
        number = bytes.fromhex(message.id)
        row = next((row for row in self._account._store.messages_of_id(self._row.id, number)), None)
        if row is None or row.kind not in WRITTEN:
            raise WrongInput("What is to be answered is no message of this chat.")
        return row.id + row.sender

    async def typing(self, active: bool = True) -> None:
        """Tell the others that one is writing, or stopped. Best effort: no error if it does not arrive."""
        row = self._account._row(self._row.id)
        if row.state != "open":
            return
        account = self._account
        what = content.Typing(account._vault.random(16), 0, account._vault.now_ms(), active)
        try:
            await account._engine.outbox.send_ephemeral(row, what)
        except (TransportError, WireError):
            return

    async def accept(self) -> None:
        """Let a stranger's chat in (or a blocked one back): from now on it gets receipts. Nothing if it is open."""
        self._account._engine.contacts.accept(self._row)
        self._refresh()
        await self._account._founded()

    async def block(self) -> None:
        """Refuse everything from this chat: its address is revoked, at the server as soon as it answers."""
        self._account._engine.contacts.block(self._row)
        self._refresh()
        await self._account._until(lambda: not self._account._engine.has_chores("revoke"), 10.0)

    async def unblock(self) -> None:
        """Block no more: who was never accepted asks again. Nothing if it is not blocked."""
        self._account._engine.contacts.unblock(self._row)
        self._refresh()
        await self._account._founded()

    async def verify(self) -> str:
        """The safety number, 60 digits: the same on both sides if nobody stands in between."""
        peer = self._row.peer
        contact = self._account._store.contact(peer) if peer is not None else None
        if contact is None or not contact.certificate:
            raise NoAccount(f"{self.name} has no safety number: only a chat of two has one.")
        vault = self._account._vault
        return vault.core.safety_number(vault.certificate, contact.certificate)

    def messages(self, limit: int = 100) -> list[Message]:
        """The newest *limit* messages of the history, oldest first; marks nothing as read."""
        return [self._account._snapshot(row) for row in self._account._store.messages(self._row.id, limit)]

    def _refresh(self) -> None:
        self.__init__(self._account, self._account._row(self._row.id))  # type: ignore[misc]


class Account:
    """An account in its home folder. Open it with `open` or `join`, use it as an async context manager."""

    def __init__(self, store: Store, vault: Vault, network: Network, *, live: bool) -> None:
        self._store = store
        self._vault = vault
        self._network = network
        self._live = live
        self._engine = Engine(vault, network, Blobs(vault.origin))
        self._engine.describe = self._describe
        self._closed = False
        self.is_new_device = False
        """Whether the home turned out to be a copy when it was opened, and became a new device of the account."""

    # ---------------------------------------------------------------- opening

    @classmethod
    async def join(
        cls,
        home: str | os.PathLike[str],
        invitation_link: str,
        *,
        name: str,
        passphrase: str | None = None,
    ) -> "Account":
        """Make an account from an invitation and a new home for it. Repeat it after an error: nothing is done twice.

        *name*: what others are told. Without a *passphrase*, the key of the home lies in its file `key`, mode 0600.
        Raises WrongInput, Refused (used, expired or unknown invitation), TryLater (no connection), HomeUnusable.
        """
        shown = clean_name(name)
        if not shown and one_line(name):
            raise WrongInput("That name looks like the id of a chat: give another with --name.")
        if not shown:
            raise WrongInput("An account needs a name that others see: give one with --name.")
        origin, invitation = parse_invitation(invitation_link)
        try:
            socket_url(origin)
        except TransportError as error:
            raise WrongInput(str(error)) from error
        folder = Home(home)
        if folder.exists():
            with_account = Store.open(folder, passphrase)
            registered = with_account.meta_int("registered")
            with_account.close()
            if registered:
                raise UserError(
                    f"{folder.folder} has an account already: choose another folder with --home.", EX_CANTCREAT
                )
            if passphrase is not None and folder.read_key() is not None:
                raise UserError(
                    f"The unfinished account in {folder.folder} was begun without a passphrase: go on without one, or"
                    " choose another folder with --home.",
                    EX_CANTCREAT,
                )
        store = Store.create(folder, secrets.token_bytes, passphrase)
        with store.write():
            store.set_meta("origin", origin)
        account = cls._on(store, live=True)
        try:
            with store.write():
                account._engine.devices.set_stamp()
            account._engine.devices.prepare(origin, shown)
            with translated():
                await account._engine.devices.register(invitation)
            await account._first_login()
        except BaseException:
            await account.close()
            raise
        return account

    @classmethod
    def open(cls, home: str | os.PathLike[str], *, passphrase: str | None = None, live: bool = True) -> "Account":
        """The account of an existing home. *live* False: only look at what is stored, make no connection.

        Raises NoAccount, HomeUnusable (passphrase, newer version, damage). A copied home becomes a new device here.
        """
        folder = Home(home)
        if not folder.exists():
            raise NoAccount(f"There is no account in {folder.folder}: make one with “taube join”, or name its folder.")
        store = Store.open(folder, passphrase)
        if not store.meta_int("registered"):
            store.close()
            raise NoAccount(f"The account in {folder.folder} was never finished: repeat “taube join”.")
        account = cls._on(store, live=live)
        account.is_new_device = account._engine.devices.start_anew()
        account._engine.devices.renew_stamp()
        return account

    @classmethod
    def _on(cls, store: Store, *, live: bool) -> "Account":
        vault = Vault(store, now_ms=_now_ms, random=secrets.token_bytes, make_core=_make_core)
        network = Transport(store.meta_text("origin"))
        return cls(store, vault, network, live=live)

    async def _first_login(self) -> None:
        """Addresses and key packages, so that others can add us; a failure is mended by the next connection."""
        lock = self._store.home.try_lock("device")
        if lock is None:
            return
        try:
            link = await self._engine.connect()
            await link.close()
        except (TransportError, WireError):
            return
        finally:
            self._engine.link = None
            lock.release()

    async def __aenter__(self) -> "Account":
        if self._live:
            self._engine.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live and error is None and not self._closed and self._engine.online:
            await self._founded()
            await self._until(lambda: not self._store.receipts_owed() and not self._sendable(), 1.0)
        await self.close()

    async def close(self) -> None:
        """End the connections. What was not sent is sent the next time. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._engine.stop()
        self._store.close()

    # ---------------------------------------------------------------- who one is

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self._vault.account.hex()

    @property
    def name(self) -> str:
        """What others are told."""
        return self._store.meta_text("name")

    @property
    def server(self) -> str:
        """The server's origin, such as https://chat.example.org."""
        return self._vault.origin

    def contact_link(self) -> str:
        """The link by which others add this account. Raises TryLater before the first connection."""
        addresses = self._store.addresses("link")
        if not addresses:
            raise TryLater("There is no contact link yet: connect to the server once, for example with “taube read”.")
        return contact_link(ContactLink(self.server, self._vault.account, addresses[0].address, self.name))

    # ---------------------------------------------------------------- chats

    async def add(self, link: str) -> Chat:
        """The chat with whoever gave out this contact link: the one there is, or a new one.

        Raises WrongInput (no contact link, one's own, of another server, no longer valid), TryLater, Refused.
        """
        await self._ready()
        with translated():
            row = await self._engine.contacts.add(link)
        return Chat(self, row)

    def chats(self) -> list[Chat]:
        """All chats, the one last written in first."""
        return [Chat(self, row) for row in self._store.chats()]

    def chat(self, name_or_id: str) -> Chat:
        """The chat with this id, or this name. Raises NoAccount."""
        row = None
        if len(name_or_id) == 32:
            with suppress(ValueError):
                row = self._store.chat(bytes.fromhex(name_or_id))
        row = row or self._store.chat_named(name_or_id)
        if row is None:
            raise NoAccount(f"There is no chat “{one_line(name_or_id)}”: “taube chats” lists them.")
        return Chat(self, row)

    # ---------------------------------------------------------------- what happens

    def events(self) -> AsyncIterator[Event]:
        """Everything that happens from now on, in this or another process of the home, after it was stored."""
        news: deque[Event] = deque(maxlen=CONNECTION_EVENTS)

        def hear(event: Event) -> None:
            """Of the engine's events only those of the connection: all others come from the journal, once."""
            if isinstance(event, Connected | CaughtUp | Disconnected):
                news.append(event)

        stop = self._engine.listen(hear)
        return self._events(self._store.journal_end(), news, stop)

    async def _events(self, position: int, news: deque[Event], stop: Callable[[], None]) -> AsyncIterator[Event]:
        try:
            while not self._closed:
                changed = self._engine.next_change()
                while news:
                    yield news.popleft()
                entries = self._store.journal_after(position)
                for entry in entries:
                    position = entry.n
                    event = self._describe(entry)
                    if event is not None:
                        yield event
                if not entries and not news:
                    await changed(30.0)
        finally:
            stop()

    async def read(
        self, chat: Chat | str | None = None, *, wait_s: float = 0, follow: bool = False
    ) -> AsyncIterator[list[Message]]:
        """Batches of messages that no reader of this home has had, of all chats or of one.

        A batch is marked as read when the next one is asked for: a reader that dies has not read it. Ends when there is
        nothing more, having looked into the mailbox first and having waited up to *wait_s* seconds for the first
        message; with *follow*, never: it outlasts a disk that is full. Any number of processes may read: each message
        goes to one of them.
        """
        only = None if chat is None else (self.chat(chat) if isinstance(chat, str) else chat)._row.id
        if not follow and self._live:
            await self.synchronise(max(wait_s, OPEN_LOCK_S * 2))
        deadline = time.monotonic() + wait_s
        given = False
        while not self._closed:
            changed = self._engine.next_change()
            lock = self._store.home.try_lock("read")
            if lock is not None:
                with lock:
                    while rows := await self._outlasting(follow, lambda: self._store.unread(only, READ_BATCH)):
                        given = True
                        yield [self._snapshot(row) for row in rows]
                        await self._outlasting(follow, partial(self._mark_read, rows))
            left_s = deadline - time.monotonic()
            if not follow and (given or left_s <= 0) and lock is not None:
                return
            if self._engine.fatal is not None and not follow:
                return
            await changed(0.1 if lock is None else 30.0 if follow else max(left_s, 0.01))

    def received(self, chat: Chat | str | None = None, limit: int = 100) -> list[Message]:
        """The newest *limit* texts and files that others sent, read or not, of all chats or of one, oldest first; marks
        nothing as read."""
        only = None if chat is None else (self.chat(chat) if isinstance(chat, str) else chat)._row.id
        return [self._snapshot(row) for row in self._store.received(only, limit)]

    async def _outlasting(self, patient: bool, step: Callable[[], T]) -> T:
        """What *step* returns. Who is *patient* tries again while the home cannot be used: a disk may be full."""
        while True:
            try:
                return step()
            except HomeUnusable:
                if not patient or self._closed:
                    raise
            await asyncio.sleep(DISK_S)

    def _mark_read(self, rows: list[MessageRow]) -> None:
        with self._store.write():
            self._store.mark_read([row.n for row in rows])
            for row in rows:
                if row.kind in WRITTEN:
                    self._store.owe_receipt(row.chat, row.id, content.READ)

    async def settle(self, message: Message, timeout_s: float) -> MessageState:
        """Wait until *message* is no longer queued, at most *timeout_s* seconds; its state then. While its file gets on
        to the server, the seconds begin anew."""
        chat, number = bytes.fromhex(message.chat), bytes.fromhex(message.id)
        files = self._engine.files

        def settled() -> bool:
            row = self._store.message(chat, number, self._vault.account)
            return row is None or row.state != "queued" or (message.media is not None and files.problem is not None)

        moved = -1
        while moved != files.moved_bytes:
            moved = files.moved_bytes
            if await self._until(settled, timeout_s, give_up=True):
                break
        return self._message(chat, number).state

    async def fetch(self, message: Message, path: str | os.PathLike[str]) -> Path:
        """Bring the file of *message*: to *path*, which must not be there yet, or into the folder *path*, under the
        name that it has, cleaned and numbered. Returns where it is. It appears whole and as it was sealed, or not at
        all; a fetch that was broken off goes on where it was.

        Raises WrongInput for a message without a file, or of a chat that is not accepted; Refused when the file is no
        longer on the server; TryLater; UserError when it was altered, or *path* is there; OSError.
        """
        row = next((row for row in self._store.messages_of_id(*_ids(message)) if row.kind == "media"), None)
        if row is None or row.content is None:
            raise WrongInput("That message has no file.")
        chat = self._row(row.chat)
        if chat.state != "open":
            raise WrongInput(f"{chat.name} is a stranger’s request: accept the chat before you load its files.")
        media = content.decode(row.content)
        assert isinstance(media, content.Media)
        place = Path(path)
        target = numbered(place, clean_file_name(media.name, media.media_type)) if place.is_dir() else place
        if target.exists():
            raise UserError(f"{target} is there already and was not overwritten.", EX_CANTCREAT)
        sender = self.name if row.sender == self._vault.account else self._name_of(row.sender, chat)
        with translated():
            await self._engine.files.fetch(media, target, sender)
        return target

    async def wait_settled(self, timeout_s: float) -> bool:
        """Wait until the outbox has nothing left that can be sent now; whether it is empty."""
        await self._until(lambda: not self._sendable(), timeout_s, give_up=True)
        return self._store.outbox_size() == 0

    async def synchronise(self, timeout_s: float) -> bool:
        """Wait until the mailbox was read to its end; whether it was. At once when another process has the mailbox."""
        await self._until(lambda: self._engine.caught_up or not self._engine.owner, timeout_s, give_up=True)
        return self._engine.caught_up or not self._engine.owner

    @property
    def last_problem(self) -> str:
        """Why there is no connection, in one sentence; empty while there is one."""
        return str(self.problem or "")

    @property
    def problem(self) -> UserError | None:
        """Why there is no connection: TryLater, Refused or DeviceReplaced; None while there is one."""
        engine = self._engine
        reason = engine.fatal or engine.offline_reason or engine.send_problem or engine.files.problem
        try:
            with translated():
                if reason is not None:
                    raise reason
        except UserError as error:
            return error
        return None

    @property
    def delay(self) -> str:
        """Why the server, though it answers, does not keep what is queued, in one sentence; empty if it does."""
        return self._engine.outbox.put_off

    # ---------------------------------------------------------------- the account at its server

    async def knows(self) -> list[Fact]:
        """Everything that the server holds about this account. Raises TryLater."""
        link = await self._device_link()
        with translated():
            known = await link.expect(Knowledge, lambda request: AskKnowledge(request))
        return [Fact(fact.entry, fact.value) for fact in known.facts]

    async def delete(self) -> None:
        """Delete the account at the server, then its home.

        Raises TryLater or Refused; then the home is still there, and nothing was deleted nor will be, unless the
        sentence says that this is not known: then it is to be repeated, the server may have done its part.
        Source: DEV-45.
        """
        try:
            link = await self._device_link()
        except DeviceReplaced:
            if not self._store.meta_int("deleting"):
                raise
            with translated():
                is_gone = await self._engine.devices.is_account_gone()
            if not is_gone:  # another copy of this home became the device; that deletion never came to be
                raise
        else:
            await self._delete_at_server(link)
        await self.close()
        self._store.home.erase()

    async def _delete_at_server(self, link: DeviceLink) -> None:
        """It does not begin unless the server answers now: a request on a dead connection leaves when the network is
        back, long after it was said to have failed. Once it has left, only its answer or the next login tells."""
        with translated():
            await _await_sign_of_life(link)
        with self._store.write():
            self._store.set_meta("deleting", 1)
        try:
            await link.expect(Done, lambda request: DeleteAccount(request))
        except TransportError as error:
            raise TryLater(
                f"Whether the account was deleted is not known, for the server’s answer did not come: {error}"
                " Delete it again to find out."
            ) from error
        except WireError as error:
            if error.kind is ACCOUNT_UNKNOWN:  # an earlier answer was lost on its way
                return
            self._engine.drop_deletion()
            with translated():
                raise

    async def _device_link(self) -> DeviceLink:
        """The device link of this process. Raises TryLater, DeviceReplaced."""
        await self._until(lambda: self._engine.link is not None and self._engine.caught_up, OPEN_LOCK_S, give_up=True)
        if self._engine.fatal is not None:
            raise self._engine.fatal
        if self._engine.link is None:
            if not self._engine.owner:
                raise TryLater(
                    "Another Taube with this home is running and has the connection: end it, then try again."
                )
            raise TryLater(self.last_problem or "The server does not answer: try again later.")
        return self._engine.link

    async def _ready(self) -> None:
        """Before what needs a fresh address: wait for the first connection to bring some, or to fail."""
        if self._live and not self._store.addresses("spare"):
            await self._until(lambda: bool(self._store.addresses("spare")), OPEN_LOCK_S, give_up=True)

    # ---------------------------------------------------------------- helpers

    async def _until(self, is_so: Callable[[], bool], timeout_s: float, *, give_up: bool = True) -> bool:
        """Wait until *is_so*; at most *timeout_s*, and no longer than there is hope."""
        deadline = time.monotonic() + timeout_s
        while True:
            changed = self._engine.next_change()
            if is_so():
                return True
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not self._live or self._engine.fatal is not None:
                return False
            if give_up and self._engine.hopeless:
                return False
            await changed(min(left_s, 1.0))

    async def _founded(self) -> None:
        """Wait until the groups that succeed others are founded, or put off: before, those chats reach nobody."""
        await self._until(lambda: not self._engine.has_due_chores("successor"), FOUND_S)

    def _sendable(self) -> bool:
        """Whether the outbox holds something that may leave now."""
        due_ms = self._store.outbox_due_ms()
        return due_ms is not None and due_ms <= self._vault.now_ms()

    def _row(self, chat: bytes) -> ChatRow:
        row = self._store.chat(chat)
        if row is None:
            raise NoAccount("That chat is not there any more.")
        return row

    def _message(self, chat: bytes, message: bytes) -> Message:
        row = self._store.message(chat, message, self._vault.account)
        if row is None:
            raise NoAccount("That message is not there any more.")
        return self._snapshot(row)

    def _snapshot(self, row: MessageRow) -> Message:
        chat = self._store.chat(row.chat)
        mine = row.sender == self._vault.account
        name = self.name if mine else self._name_of(row.sender, chat)
        return Message(
            row.id.hex(), row.chat.hex(), chat.name if chat else "", name, row.sent_at_ms,
            _KINDS.get(row.kind, "unknown"), row.text,
            _STATES.get(row.state, "failed"), mine, _media_of(row), row.reply_to[:16].hex(),
        )  # fmt: skip

    def _name_of(self, sender: bytes, chat: ChatRow | None) -> str:
        """In a chat of two, the chat's own name for them: it is unique here."""
        if chat is not None and chat.peer == sender:
            return chat.name
        contact = self._store.contact(sender)
        return contact.name if contact is not None and contact.name else "someone"

    def _describe(self, entry: Entry) -> Event | None:
        """The event that a line of the journal stands for."""
        chat = self._store.chat(entry.chat)
        if chat is None:
            return None
        if entry.kind in ("message", "changed"):
            row = self._store.message(entry.chat, entry.about[:16], entry.about[16:] or self._vault.account)
            if row is None:
                return None
            message = self._snapshot(row)
            return MessageReceived(message) if entry.kind == "message" else MessageChanged(message)
        if entry.kind == "chat":
            return ChatChanged(chat.id.hex(), chat.name, _chat_state(chat.state))
        if entry.kind == "typing":
            return Typing(chat.id.hex(), self._name_of(entry.about, chat), bool(entry.text))
        return Notice(chat.id.hex(), entry.text)


async def _await_sign_of_life(link: DeviceLink) -> None:
    """Ask the server for what it makes without keeping it, an address. Raises TransportError if it does not answer."""
    with suppress(WireError):  # a refusal is an answer
        await link.expect(Minted, lambda request: MintAddresses(request, 1), SIGN_OF_LIFE_S)


# ---------------------------------------------------------------- translations


@contextmanager
def translated() -> Iterator[None]:
    """What the network and the server say, as one sentence for a person."""
    try:
        yield
    except TransportError as error:
        if error.retry:
            raise TryLater(str(error)) from error
        raise Refused(str(error)) from error
    except WireError as error:
        if error.kind.retry is Retry.LATER:
            raise TryLater(f"The server cannot do that now: {error.kind.meaning}") from error
        raise Refused(f"The server refused: {error.kind.meaning}") from error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _make_core(random: Callable[[int], bytes]) -> Core:
    base = os.environ.get("XDG_CACHE_HOME")
    return Core(random, str((Path(base) if base else Path.home() / ".cache") / "taube"))


def _chat_state(state: str) -> ChatState:
    return "open" if state == "open" else "request" if state == "request" else "blocked"


def _media_of(row: MessageRow) -> Media | None:
    """The file of a message, as it is shown."""
    if row.kind != "media" or row.content is None:
        return None
    media = content.decode(row.content)
    if not isinstance(media, content.Media):
        return None
    return Media(media.media_type, media.size, media.name, media.width, media.height)


def _ids(message: Message) -> tuple[bytes, bytes]:
    return bytes.fromhex(message.chat), bytes.fromhex(message.id)


_KINDS: Final[dict[str, Kind]] = {"text": "text", "media": "media", "notice": "notice", "gap": "gap"}
_STATES: Final[dict[str, MessageState]] = {
    "received": "received",
    "queued": "queued",
    "kept": "kept",
    "delivered": "delivered",
    "read": "read",
}


__all__ = ["Account", "Chat", "Fact"]
