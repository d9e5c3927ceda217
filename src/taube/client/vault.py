"""Runs the core inside write transactions of the store: fresh state before, its changes stored after.

    with vault.work() as core:            BEGIN IMMEDIATE
        vault.use(group_id)               loads the scope's rows, if another process changed them since
        body, = core.protect(…)
                                          the core's deltas are stored, COMMIT

An exception rolls back and unloads the core, so that no later call can build on state that was never stored. Nothing
may leave for the network before `work` was left. It knows neither what the calls are for nor the network.
Source: docs/protocol/device.md, DEV-01.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property

from taube.client.e2e import ACCOUNT_SCOPE, DEVICE_SCOPE, PACKAGES_SCOPE, Core, Member
from taube.client.store import Contact, Store
from taube.wire.messages import AccountId, DeviceId


class Vault:
    """The state of one device in one process: its store, its core, its clock and its randomness."""

    def __init__(
        self,
        store: Store,
        *,
        now_ms: Callable[[], int],
        random: Callable[[int], bytes],
        make_core: Callable[[Callable[[int], bytes]], Core] = Core,
    ) -> None:
        """*now_ms*: milliseconds since 1970; *random(n)*: n random bytes, fit for keys."""
        self.store = store
        self.now_ms = now_ms
        self.random = random
        self._make_core = make_core
        self._versions: dict[bytes, int] = {}

    @cached_property
    def core(self) -> Core:
        """Made when first needed: listing chats does not need it."""
        return self._make_core(self.random)

    def now_s(self) -> int:
        return self.now_ms() // 1000

    # ---------------------------------------------------------------- who we are

    @property
    def account(self) -> AccountId:
        """Our account id; empty before there is one."""
        return AccountId(self.store.meta("account") or b"")

    @property
    def device(self) -> DeviceId:
        return DeviceId(self.store.meta("device") or b"")

    @property
    def certificate(self) -> bytes:
        """Our newest certificate: genesis statement and signed device list."""
        return self.store.meta("certificate") or b""

    @property
    def origin(self) -> str:
        return self.store.meta_text("origin")

    # ---------------------------------------------------------------- the core in a transaction

    @contextmanager
    def work(self) -> Iterator[Core]:
        """The core, inside a write transaction; what it changed is stored when left. Nested: part of the outer one."""
        if self.store.in_transaction:
            yield self.core
            return
        core = self.core
        try:
            with self.store.write():
                yield core
                self.flush()
        except BaseException:
            core.unload_all()
            self._versions.clear()
            raise

    def use(self, *scopes: bytes) -> None:
        """Make the core know the stored rows of *scopes*, inside `work`."""
        if any(scope not in self._versions for scope in scopes):
            self.flush()  # a group founded or joined in this transaction is newer in the core than in the store
        for scope in scopes:
            version = self.store.scope_version(scope)
            if self._versions.get(scope) != version or not self.core.is_loaded(scope):
                self.core.load(scope, self.store.scope_rows(scope))
                self._versions[scope] = version

    def use_keys(self) -> None:
        """The scopes that opening a stranger's mail and making key packages need."""
        self.use(DEVICE_SCOPE, PACKAGES_SCOPE)

    def use_account(self) -> None:
        self.use(ACCOUNT_SCOPE, DEVICE_SCOPE)

    def forget_loaded_groups(self) -> None:
        """Unload every group: before a Welcome that may bring one that we have had before."""
        self.flush()
        for scope in [scope for scope in self._versions if scope not in (ACCOUNT_SCOPE, DEVICE_SCOPE, PACKAGES_SCOPE)]:
            self.core.unload(scope)
            del self._versions[scope]

    def forget_older_groups(self, chat: bytes, keep: int) -> None:
        """Forget all groups of the chat but the one in use and the newest others, *keep* in all; inside `work`.

        Whoever may begin a group in a chat may begin any number, and each is tried for each envelope.
        """
        for group in self.store.groups_of_chat(chat)[keep:]:
            self.flush()
            if self.core.is_loaded(group.id):
                self.core.unload(group.id)
            self._versions.pop(group.id, None)
            self.store.clear_scope(group.id)
            self.store.bump_scope(group.id)
            self.store.forget_group(group.id)

    def flush(self) -> None:
        """Store what the core has changed so far, inside `work`; leaving `work` does it too."""
        changed: dict[bytes, None] = {}
        for delta in self.core.take_deltas():
            self.store.put_row(delta.scope, delta.key, delta.value)
            changed[delta.scope] = None
        for scope in changed:
            self._versions[scope] = self.store.bump_scope(scope)

    def notice(self, chat: bytes, text: str) -> None:
        """Tell the person something about the chat, in its history and as an event; inside a transaction."""
        row = self.store.chat(chat)
        sender = row.peer if row is not None and row.peer is not None else b""
        now_ms = self.now_ms()
        self.store.add_message(chat, self.random(16), sender, 0, now_ms, "notice", text, "received", unread=True)
        self.store.note("notice", chat, text=text)

    # ---------------------------------------------------------------- certificates

    def known(self) -> dict[bytes, int]:
        """For each account the lowest device list counter that is still acceptable."""
        known = {contact.account: contact.counter for contact in self.store.contacts()}
        known[self.account] = self.store.meta_int("counter")
        return known

    def learn_and_tell(self, chat: bytes, members: Iterable[Member]) -> None:
        """Remember the newest certificates of members. A contact's new device or changed account key is told in *chat*,
        where it was met, and in the chat with that contact; inside `work`. Source: docs/protocol/device.md, DEV-46."""
        for member in members:
            if member.account_id == self.account:
                continue
            contact = self.store.contact(member.account_id)
            if contact is None:
                self.store.put_contact(Contact(member.account_id, "", member.counter, member.certificate))
                continue
            if member.counter < contact.counter or member.certificate == contact.certificate:
                continue
            self.store.put_contact(contact._replace(counter=member.counter, certificate=member.certificate))
            own = self.store.chat_of_peer(member.account_id)
            chats = dict.fromkeys([chat] if own is None or own.state == "blocked" else [chat, own.id])
            for change in self._changes(contact.certificate, member.certificate):
                for one in chats:
                    self.notice(one, f"{contact.name or 'Your contact'} {change}")

    def _changes(self, before: bytes, after: bytes) -> Iterator[str]:
        """What a person should know of a newer certificate."""
        old, new = self.core.check_certificate(before), self.core.check_certificate(after)
        if new.account_key != old.account_key:
            yield "has another account key now: compare the safety number again."
        if {device.device_id for device in new.devices} - {device.device_id for device in old.devices}:
            yield "uses another device now."
