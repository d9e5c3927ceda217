"""The engine of an open account: receive, decide, acknowledge; send; do what is left to do; tell what happened.

    device loop    holds home/device.lock → logs in → each batch: one transaction (inbox.py) → acknowledge
    sender loop    receipts and resend requests → outbox.drain (outbox.py)
    upload loop    files of held messages → the server → the outbox (files.py)
    chore loop     commits that wait for their gate, gates to walk, rejoins, successors, revocations
    watch loop     notices what this or another process stored, and announces it

Any number of processes may run an engine on the same home. The one with the device lock has the mailbox; it protects
nothing before it has caught up. The others send at once. Events are read from the journal that each transaction
writes, after its commit, so all processes announce the same. Source: docs/protocol/device.md, "State".
"""

import asyncio
import contextlib
import logging
import random as random_module
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeGuard

from taube.client import events
from taube.client.blobs import Blobs
from taube.client.contacts import Contacts
from taube.client.devices import Devices
from taube.client.e2e import DEVICE_SCOPE, PACKAGES_SCOPE, Core, CoreError, GroupInfo
from taube.client.errors import DeviceReplaced, HomeUnusable, UserError
from taube.client.files import Files
from taube.client.gates import Gates
from taube.client.home import Lock
from taube.client.inbox import Delivery, Inbox
from taube.client.network import DeviceLink, Network
from taube.client.outbox import Outbox
from taube.client.rejoin import Rejoin
from taube.client.store import DAY_MS, Chore, Entry, Group
from taube.client.transport import BackOff, TransportError
from taube.client.vault import Vault
from taube.wire.errors import REPLACED, Retry, TaubeError, WireError
from taube.wire.messages import CaughtUp, Deliver, Event, Replaced, Welcome

AWAY_MS: Final = 30 * DAY_MS
WATCH_S: Final = 0.025
LOCK_POLL_S: Final = 0.2
RECEIPT_DELAY_S: Final = 0.1
ASK_AGAIN_MS: Final = 6 * 3_600_000
SYNCED_EVERY_MS: Final = 3_600_000
MAX_RECLAIMS: Final = 3
"""How often a claim after a restore is tried before everything else does not wait for it any more."""
CHORE_RETRY_MS: Final = 5_000
CHORE_RETRY_MOST_MS: Final = 3_600_000
SEND_AGAIN_S: Final = 5.0
UPLOAD_POLL_S: Final = 0.1
SHORTEST_WAIT_S: Final = 0.01
LONGEST_WAIT_S: Final = 30.0

_log = logging.getLogger(__name__)


class Engine:
    """One process's engine on a home. `run` is for applications; tests call the steps one by one."""

    def __init__(
        self,
        vault: Vault,
        network: Network,
        blobs: Blobs | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.vault = vault
        self.store = vault.store
        self.network = network
        self.devices = Devices(vault, network)
        self.outbox = Outbox(vault, network)
        self.files = Files(vault, self.outbox, blobs or Blobs(vault.origin))
        self.devices.on_new_device = self.outbox.renumber
        self.gates = Gates(vault, network)
        self.contacts = Contacts(vault, network, self.devices, self.outbox)
        self.rejoin = Rejoin(vault, self.gates, self.devices, self.contacts, self.outbox)
        self.inbox = Inbox(vault, self.gates, self.rejoin, self.contacts, self.outbox)
        self.gates.on_stuck = self.rejoin.lost
        self.gates.on_exhausted = self._exhausted
        self.link: DeviceLink | None = None
        self.caught_up = False
        """Whether the mailbox was read to its end since the last login of this process."""
        self.offline_reason: TaubeError | None = None
        """Why there is no device link at the moment."""
        self.send_problem: TaubeError | None = None
        """Why the last attempt to send failed; None when it did not."""
        self.fatal: UserError | None = None
        """Why there will be none any more."""
        self._sleep = sleep
        self._random = random
        self._monotonic = monotonic
        self._connected_s = 0.0
        self._refused_claims: dict[bytes, tuple[int, int]] = {}
        """For groups whose claim the server refused: (when to try again, how often that was)."""
        self._lock: Lock | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._wake_sender = asyncio.Event()
        self._wake_uploads = asyncio.Event()
        self._online = asyncio.Event()
        self._wake_chores = asyncio.Event()
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[events.Event], None]] = []
        self._announced = self.store.journal_end()
        self._data_version = self.store.data_version()
        self.describe: Callable[[Entry], events.Event | None] = lambda entry: None
        """Makes an event of a line of the journal; set by the account."""
        self.store.on_commit.append(self._committed)

    # ---------------------------------------------------------------- one step at a time

    async def connect(self) -> DeviceLink:
        """Log in, and do what comes before the mailbox. Raises TransportError, WireError, DeviceReplaced."""
        self.caught_up = False
        await self.devices.publish_list()
        try:
            link = await self._login()
        except WireError as error:
            if error.kind.retry is Retry.LATER:
                raise
            if not await self.devices.restore_list():
                raise DeviceReplaced(
                    "The server no longer knows this device: another copy of its folder took over, or the account was"
                    " deleted; nothing more is sent, and what is stored here can still be read."
                ) from error
            link = await self._login()
        self.drop_deletion()
        self._greet(link.welcome)
        await self._reclaim()
        await self.devices.upkeep(link)
        self.link = link
        return link

    def drop_deletion(self) -> None:
        """What the server was asked to delete and still knows was not deleted: who wants that asks anew (DEV-45)."""
        if self.store.meta_int("deleting"):
            with self.store.write():
                self.store.set_meta("deleting", None)

    async def _login(self) -> DeviceLink:
        link = await self.network.device(self.vault.account, self.vault.device, self.devices.sign)
        self._connected_s = self._monotonic()
        return link

    def receive(self, link: DeviceLink, batch: list[Event]) -> None:
        """Decide a batch of the mailbox in one transaction, then acknowledge it."""
        deliveries = [
            Delivery(event.serial, event.body, event.number == 0) for event in batch if isinstance(event, Deliver)
        ]
        self.inbox.receive(deliveries)
        numbers = [event.number for event in batch if isinstance(event, Deliver) and event.number]
        if numbers:
            link.acknowledge(max(numbers))
        if any(isinstance(event, CaughtUp) for event in batch):
            self.synchronised(link)

    def synchronised(self, link: DeviceLink) -> None:
        """The mailbox was read to its end."""
        with self.store.write():
            self._set_synced(link.welcome.now_ms)
            now_ms = self.vault.now_ms()
            for chat in self.store.chats_with_aside():
                state = self.store.chat(chat)
                if state is not None and state.group_id is not None:
                    self.store.add_chore("walk", state.group_id, b"", now_ms)
            self.store.hurry_misdated(now_ms)
            self.store.expire(now_ms)
        self.caught_up = True

    async def send(self) -> None:
        """Send everything that is due. Raises TransportError, WireError."""
        if self._must_read_first():
            return
        if self.store.receipts_owed():
            self.outbox.queue_receipts()
        gap_ms = self.store.next_gap_ms()
        if gap_ms is not None and gap_ms <= self.vault.now_ms():
            self.outbox.queue_resend_requests(ASK_AGAIN_MS)
        await self.outbox.drain(lambda: not self._must_read_first())

    def _must_read_first(self) -> bool:
        """Whether the mailbox is ours and has more to say before anything is protected or claimed."""
        return self._lock is not None and not self.caught_up

    async def do_chores(self) -> None:
        """Do everything that is due; what fails is tried again later. Raises TransportError."""
        for pending in self.store.all_pending():
            if self._must_read_first():
                return
            await self._settle(pending.group_id)
        done: set[int] = set()
        while chore := next((c for c in self.store.chores_due(self.vault.now_ms()) if c.n not in done), None):
            if self._must_read_first():
                return
            done.add(chore.n)
            try:
                await self._do(chore)
            except (WireError, CoreError, UserError) as error:
                _log.debug("chore %s is tried again: %s", chore.kind, type(error).__name__)
            except Exception:
                self._postpone_undone(chore)
                raise
            self._postpone_undone(chore)  # not after an interruption: whoever comes next goes on with it at once

    async def _settle(self, group_id: bytes) -> None:
        """Claim for what waits for its gate; one that the server refuses waits, and holds up nothing else."""
        due_ms, tries = self._refused_claims.get(group_id, (0, 0))
        if 0 < due_ms - self.vault.now_ms() <= CHORE_RETRY_MOST_MS:  # a clock may have been set back
            return
        try:
            await self.gates.settle(group_id)
            self._refused_claims.pop(group_id, None)
        except (WireError, CoreError, UserError) as error:
            _log.debug("a claim is tried again: %s", type(error).__name__)
            self._refused_claims[group_id] = (self.vault.now_ms() + _wait_ms(tries), tries + 1)

    async def _do(self, chore: Chore) -> None:
        group = self.store.group(chore.subject)
        if chore.kind == "walk":
            if group is not None:
                await self.gates.walk(group.id)
            if not self.store.told(chore.subject):
                self._forget(chore)
        elif chore.kind == "update":
            if not self._takes_changes(group) or await self.gates.change(group.id, self._with_new_address(group.chat)):
                self._forget(chore)
        elif chore.kind == "ask":
            await self.rejoin.ask(chore)
        elif chore.kind == "grant":
            await self.rejoin.grant(chore)
        elif chore.kind == "successor":
            await self.rejoin.succeed(chore)
        elif chore.kind == "remove":
            await self._remove(chore)
        elif chore.kind == "reclaim":
            await self._claim_again(chore)
        elif chore.kind == "revoke" and self.link is not None:
            await self.devices.revoke(self.link, chore.subject)

    async def _remove(self, chore: Chore) -> None:
        """Someone left: remove its leaf, if that is still ours to do."""
        group_id, account, device = chore.subject[:32], chore.subject[32:64], chore.subject[64:]
        group = self.store.group(group_id)

        def wanted(core: Core, info: GroupInfo) -> dict[str, object] | None:
            here = any((member.account_id, member.device_id) == (account, device) for member in info.members)
            return {"removes": [(account, device)]} if here else None

        if not self._takes_changes(group) or await self.gates.change(group_id, wanted):
            self._forget(chore)

    def _takes_changes(self, group: Group | None) -> TypeGuard[Group]:
        """Whether a change of this group may still come about: we are in it, or may come back."""
        return group is not None and group.standing != "left"

    def _with_new_address(self, chat: bytes) -> Callable[[Core, GroupInfo], dict[str, object]]:
        def wanted(core: Core, info: GroupInfo) -> dict[str, object]:
            address = self.devices.take_address("chat", chat)
            return {"update": True, "address": address.address}

        return wanted

    def _forget(self, chore: Chore) -> None:
        with self.store.write():
            self.store.forget_chore(chore.kind, chore.subject)

    def _postpone_undone(self, chore: Chore) -> None:
        """Try it again later, unless it is done, or has said itself when it goes on."""
        if self.store.chore(chore.kind, chore.subject) == chore:
            self._postpone(chore)

    def _postpone(self, chore: Chore) -> None:
        """Try it again later; after 30 days, never."""
        now_ms = self.vault.now_ms()
        with self.store.write():
            if chore.made_ms + AWAY_MS < now_ms and chore.kind != "revoke":
                self.store.forget_chore(chore.kind, chore.subject)
            else:
                self.store.set_chore(chore.n, chore.payload, now_ms + _wait_ms(chore.tries), chore.tries + 1)

    # ---------------------------------------------------------------- the server's clock and generation

    def _greet(self, welcome: Welcome) -> None:
        """What the server's clock and generation mean for our groups, addresses and key packages."""
        with self.vault.work():
            synced_ms = self.store.meta_int("synced_ms")
            if synced_ms and self._away_ms(welcome.now_ms) > AWAY_MS:
                for group in self.store.groups():
                    self.rejoin.lost(group.id, "it was away for more than 30 days")
            generation = self.store.meta("generation")
            is_new = generation is not None and generation != welcome.generation
            if is_new:
                for group in self.store.groups():
                    if group.standing == "current" and self.store.passed(group.id) is not None:
                        self.store.add_chore("reclaim", group.id, b"", self.vault.now_ms())
            if generation != welcome.generation:
                self.store.set_meta("generation", welcome.generation)
            if is_new:
                self.devices.revoke_again()
                self.devices.owe_packages()
            if not synced_ms or (is_new and welcome.now_ms < synced_ms):
                self.store.set_meta("synced_ms", welcome.now_ms)
                self.store.set_meta("synced_own_ms", self.vault.now_ms())

    def _away_ms(self, server_now_ms: int) -> int:
        """How long ago we last synchronised: by the server's clock, by our own where that one has fallen."""
        away_ms = server_now_ms - self.store.meta_int("synced_ms")
        own_ms = self.store.meta_int("synced_own_ms")
        return away_ms if away_ms >= 0 or not own_ms else self.vault.now_ms() - own_ms

    def _is_synced_old(self, server_now_ms: int) -> bool:
        return abs(server_now_ms - self.store.meta_int("synced_ms")) >= SYNCED_EVERY_MS

    def _set_synced(self, server_now_ms: int) -> None:
        """Remember the server's time, also where it has fallen: a clock that was a year ahead would hide a year."""
        if self._is_synced_old(server_now_ms):
            self.store.set_meta("synced_ms", server_now_ms)
            self.store.set_meta("synced_own_ms", self.vault.now_ms())

    def keep_synced(self) -> None:
        """While the link lives, we are not away: remember the server's time now and then."""
        if self.link is not None and self.caught_up:
            connected_ms = int((self._monotonic() - self._connected_s) * 1000)
            now_ms = self.link.welcome.now_ms + connected_ms
            if self._is_synced_old(now_ms):
                with self.store.write():
                    self._set_synced(now_ms)

    async def _reclaim(self) -> None:
        """The server was restored from a backup: claim again the gate that each group passed last.

        A claim that the server refuses for good, or again and again, holds up neither the mailbox nor other groups: it
        becomes a chore like any other.
        """
        for chore in self.store.chores("reclaim"):
            try:
                await self._claim_again(chore)
            except WireError as error:
                self._postpone(chore)
                if error.kind.retry is Retry.LATER and chore.tries < MAX_RECLAIMS:
                    raise
                _log.debug("a gate is claimed again later: %s", error.kind.name)

    async def _claim_again(self, chore: Chore) -> None:
        """The server may have forgotten the gate; a different value there means that someone went another way."""
        passed = self.store.passed(chore.subject)
        if passed is not None and await self.gates.claim(passed.name, passed.value) != passed.value:
            with self.vault.work():
                self._exhausted(chore.subject)
        self._forget(chore)

    def _exhausted(self, group_id: bytes) -> None:
        """No member can go on with this group: found its successor, if that is ours to do."""
        group = self.store.group(group_id)
        if group is None or group.standing != "current":
            return
        if self.store.pending(group_id) is not None:
            self.gates.drop(group_id)
        self.vault.use(DEVICE_SCOPE, PACKAGES_SCOPE, group_id)
        self.store.set_standing(group_id, "rejoin", self.vault.now_ms())
        if self.vault.account in self.vault.core.group(group_id).context.admins:
            self.store.add_chore("successor", group.chat, b"", self.vault.now_ms())

    # ---------------------------------------------------------------- running

    def start(self) -> None:
        """Start the loops in the running event loop; the lock is tried at once, so that `owner` is known."""
        self._lock = self.store.home.try_lock("device")
        loops = (self._device_loop, self._sender_loop, self._upload_loop, self._chore_loop, self._watch_loop)
        self._tasks = [asyncio.create_task(loop(), name=f"taube {loop.__name__}") for loop in loops]
        for task in self._tasks:
            task.add_done_callback(_report)

    async def stop(self) -> None:
        """End the loops and the connections. What was not sent stays in the outbox."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self.network.close()
        if self._committed in self.store.on_commit:
            self.store.on_commit.remove(self._committed)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def owner(self) -> bool:
        """Whether this process has the device connection."""
        return self._lock is not None

    @property
    def online(self) -> bool:
        """Whether there is nothing known that stands in the way of sending."""
        return self.fatal is None and self.offline_reason is None and self.send_problem is None

    @property
    def hopeless(self) -> bool:
        """Whether waiting is of no use at the moment: the last attempt to connect, or to send, failed."""
        return not self.online

    async def _device_loop(self) -> None:
        while self._lock is None:
            await self._sleep(LOCK_POLL_S)
            self._lock = self.store.home.try_lock("device")
        back_off = BackOff(self._random)
        while True:
            at_least_ms = 0
            try:
                link = await self.connect()
                back_off.succeeded()
                self.offline_reason = None
                self._online.set()
                self._tell(events.Connected())
                await self._read(link)
                at_least_ms = link.reconnect_after_ms
                reason: TaubeError = getattr(link, "lost", None) or TransportError("The connection ended.")
            except DeviceReplaced as error:
                self._end(error)
                return
            except WireError as error:
                reason, at_least_ms = error, error.retry_after_ms
            except TaubeError as error:
                reason = error
            except Exception:
                _log.exception("the device connection broke on a bug")
                reason = TransportError("Something in Taube went wrong; it tries again.")
            finally:
                self.link = None
            self.offline_reason = reason
            self._online.clear()
            wait_s = back_off.next_s(at_least_ms)
            self._tell(events.Disconnected(str(reason), wait_s))
            self._pulse()
            await self._sleep(wait_s)

    async def _read(self, link: DeviceLink) -> None:
        """Receive until the link ends. Raises WireError(REPLACED) when another process of ours took it over."""
        self._wake_sender.set()
        async for batch in link.events():
            self.receive(link, batch)
            if any(isinstance(event, CaughtUp) for event in batch):
                self._tell(events.CaughtUp())
                self._wake_sender.set()
                self._wake_chores.set()
                self._pulse()
            if any(isinstance(event, Replaced) for event in batch):
                raise WireError(REPLACED)
        await link.close()

    def _end(self, error: UserError) -> None:
        self.fatal = error
        self.outbox.end()
        self.offline_reason = error
        self._tell(events.Disconnected(str(error), float("inf")))
        self._pulse()

    async def _sender_loop(self) -> None:
        back_off = BackOff(self._random)
        while True:
            self._wake_sender.clear()
            try:
                await self.send()
                back_off.succeeded()
                self.send_problem = None
                wait_s = self._until(self.store.outbox_due_ms, self.store.next_gap_ms)
                if self.store.receipts_owed():
                    wait_s = min(wait_s, RECEIPT_DELAY_S)
                if self.owner and not self.caught_up:
                    wait_s = LONGEST_WAIT_S
            except Exception as error:
                self.send_problem = self._explained(error)
                self._pulse()
                self._online.clear()
                await _wait(self._online, min(back_off.next_s(), SEND_AGAIN_S))
                continue
            await _wait(self._wake_sender, wait_s)

    async def _upload_loop(self) -> None:
        """Bring the files of held messages to the server; another process of the home may be at it."""
        while True:
            self._wake_uploads.clear()
            if self._until(self.store.uploads_due_ms) <= SHORTEST_WAIT_S and self.fatal is None:
                try:
                    await self.files.upload_due()
                except Exception as error:
                    self.files.problem = self._explained(error)
                self._pulse()
            await self._sleep(UPLOAD_POLL_S)
            await _wait(self._wake_uploads, self._until(self.store.uploads_due_ms))

    async def _chore_loop(self) -> None:
        back_off = BackOff(self._random)
        while True:
            ready = self.owner and self.caught_up and self.link is not None
            await _wait(self._wake_chores, self._until(self.store.next_chore_ms) if ready else LONGEST_WAIT_S)
            self._wake_chores.clear()
            if not self.owner or not self.caught_up or self.link is None:
                continue
            try:
                self.keep_synced()
                await self.do_chores()
                back_off.succeeded()
            except Exception as error:
                self._explained(error)
                await self._sleep(back_off.next_s())

    def _explained(self, error: Exception) -> TaubeError:
        """An error of ours as it is; a bug is logged, and must not end the loop that met it."""
        if isinstance(error, TaubeError):
            return error
        _log.error("a bug", exc_info=error)
        return TransportError("Something in Taube went wrong; it tries again.")

    async def _watch_loop(self) -> None:
        """Notice what other processes store."""
        while True:
            await asyncio.sleep(WATCH_S)
            with contextlib.suppress(HomeUnusable):
                version = self.store.data_version()
                if version != self._data_version:
                    self._data_version = version
                    self._announce()

    def _until(self, *due_ms: Callable[[], int | None]) -> float:
        """Seconds until the first of these times, between a blink and half a minute. A store that cannot be read at
        the moment is asked again after that: whoever waits must not end on it."""
        try:
            known = [time_ms for due in due_ms if (time_ms := due()) is not None]
        except HomeUnusable:
            return LONGEST_WAIT_S
        if not known:
            return LONGEST_WAIT_S
        return min(max((min(known) - self.vault.now_ms()) / 1000, SHORTEST_WAIT_S), LONGEST_WAIT_S)

    # ---------------------------------------------------------------- telling

    def listen(self, listener: Callable[[events.Event], None]) -> Callable[[], None]:
        """Call *listener* with every event from now on; returns what ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def next_change(self) -> Callable[[float], Awaitable[None]]:
        """What waits until something was stored after this call, by any process, or the connection changed; or until
        the given number of seconds is over."""
        changed = self._changed
        return lambda timeout_s: _wait(changed, timeout_s)

    def has_chores(self, kind: str) -> bool:
        """Whether work of this kind is left."""
        return self.store.count_chores(kind) > 0

    def has_due_chores(self, kind: str) -> bool:
        """Whether work of this kind is left that was not put off."""
        return any(chore.kind == kind for chore in self.store.chores_due(self.vault.now_ms()))

    def _committed(self) -> None:
        """Called after each transaction of this process."""
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop().call_soon(self._announce)

    def _announce(self) -> None:
        """Turn new lines of the journal into events, and wake what may have work now."""
        if self._committed not in self.store.on_commit:
            return  # stopped; the store may be closed
        while entries := self.store.journal_after(self._announced):
            self._announced = entries[-1].n
            if self._listeners:
                for entry in entries:
                    event = self.describe(entry)
                    if event is not None:
                        self._tell(event)
        self._wake_sender.set()
        self._wake_uploads.set()
        self._wake_chores.set()
        self._pulse()

    def _tell(self, event: events.Event) -> None:
        for listener in list(self._listeners):
            listener(event)

    def _pulse(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _wait_ms(tries: int) -> int:
    """How long to wait after so many failures: seconds first, an hour at most."""
    return min(CHORE_RETRY_MS << min(tries, 12), CHORE_RETRY_MOST_MS)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("%s ended", task.get_name(), exc_info=task.exception())


__all__ = ["Engine"]
