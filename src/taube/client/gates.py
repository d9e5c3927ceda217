"""Agreeing on a group's next epoch: claim the gate, win or follow the winner, walk forward, finish for the dead.

    change    stage → store pending commit and exact claim → claim ─┬─ our value stands: merge, then tell the members
                                                                    ├─ another's: follow it, decide again
                                                                    └─ void: the same commit at gate k + 1
    walk      read the gates of the epochs ahead and apply what stands there

The pending commit is durable before its claim, and a claim is repeated with the same bytes, so neither a lost answer
nor a crash leaves doubt about who won. Whoever finds a commit in its gate before anyone told of it sends what its
maker may have died before sending. A group that we may not follow (standing `rejoin`) is left alone.

Not known here: why a change is wanted (callers), how a rejoin is asked for (rejoin.py).
Source: docs/protocol/device.md, "Gates"; docs/protocol/groups.md.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from taube.client.e2e import DEVICE_SCOPE, PACKAGES_SCOPE, Addressed, Applied, Core, CoreTrapped, GroupInfo
from taube.client.network import Network
from taube.client.store import Group, Passed, Pending, pack_welcomes, unpack_welcomes
from taube.client.vault import Vault
from taube.wire.messages import ClaimGate, GateState, ReadGate

LAST_K: Final = 15
MAX_RACES: Final = 8

Outcome = Literal["won", "lost", "void", "stuck", "none"]
Wanted = Callable[[Core, GroupInfo], Mapping[str, Any] | None]
"""The arguments of `Core.stage` for what is wanted in this epoch, or None when nothing is wanted any more."""


class Gates:
    """The gates of this device's groups."""

    def __init__(self, vault: Vault, network: Network) -> None:
        self._vault = vault
        self._store = vault.store
        self._network = network
        self.on_epoch: Callable[[bytes], None] = lambda chat: None
        """Called inside the transaction when a group of this chat has entered a new epoch."""
        self.on_stuck: Callable[[bytes, str], None] = lambda group_id, reason: None
        """Called inside the transaction when this device cannot follow a group: (group id, reason)."""
        self.on_exhausted: Callable[[bytes], None] = lambda group_id: None
        """Called inside the transaction when every gate of an epoch is void."""

    # ---------------------------------------------------------------- our own changes

    async def change(self, group_id: bytes, wanted: Wanted) -> bool:
        """Bring a change about, however many races are lost. Whether it stands, or is no longer wanted.

        Raises TransportError or WireError with the claim stored; `settle` goes on from there.
        """
        for _ in range(MAX_RACES):
            await self.settle(group_id)
            if (staged := self.stage(group_id, wanted)) is None:
                return True
            if not staged:
                return False
            if await self.settle(group_id) == "won":
                return True
        return False

    def stage(self, group_id: bytes, wanted: Wanted) -> bool | None:
        """Store a pending commit, ready to be claimed. None: nothing is wanted; False: this group takes no changes."""
        with self._vault.work() as core:
            if not self._usable(group_id):
                return False
            if self._store.pending(group_id) is not None:
                return True
            self._vault.use(DEVICE_SCOPE, PACKAGES_SCOPE, group_id)
            arguments = wanted(core, core.group(group_id))
            if arguments is None:
                return None
            staged = core.stage(group_id, k=0, known=self._vault.known(), now_s=self._vault.now_s(), **arguments)
            self._store.put_pending(
                Pending(
                    group_id,
                    staged.epoch,
                    staged.k,
                    staged.gate_name,
                    staged.gate_value,
                    staged.commit_body,
                    pack_welcomes(staged.welcomes),
                    self._vault.now_ms(),
                )
            )
            return True

    async def settle(self, group_id: bytes) -> Outcome:
        """Claim for the pending commit, if there is one, until it is known who won."""
        outcome: Outcome = "none"
        while (pending := self._store.pending(group_id)) is not None:
            if not self._usable(group_id):
                self.drop(group_id)
                return "stuck"
            stands = await self.claim(pending.name, pending.value)
            try:
                outcome = self._judge(pending, stands)
            except CoreTrapped:
                return self._trapped(group_id)
        return outcome

    def drop(self, group_id: bytes) -> None:
        """Give up the pending commit."""
        with self._vault.work() as core:
            self._vault.use(DEVICE_SCOPE, PACKAGES_SCOPE, group_id)
            core.drop(group_id)
            self._store.forget_pending(group_id)

    def _judge(self, pending: Pending, stands: bytes) -> Outcome:
        """What *stands* in the gate that we claimed means for our pending commit."""
        with self._vault.work() as core:
            if self._store.pending(pending.group_id) != pending:
                return "none"  # another process was faster
            if stands != pending.value:
                return self._follow(core, pending.group_id, pending.k, pending.name, stands)
            group_id = pending.group_id
            self._vault.use(DEVICE_SCOPE, PACKAGES_SCOPE, group_id)
            before = core.group(group_id)
            applied = core.confirm(group_id, self._vault.now_s())
            applied = applied._replace(
                commit_body=pending.body,
                welcomes=tuple(Addressed(*welcome) for welcome in unpack_welcomes(pending.welcomes)),
            )
            self._enter(core, before, applied, pending.k, pending.name, pending.value, tell=True)
            return "won"

    # ---------------------------------------------------------------- the changes of others

    async def walk(self, group_id: bytes) -> int:
        """Apply what stands in the gates ahead; how many epochs were passed.

        What a member said of a gate proves nothing: the gate is asked, by claiming it with the same value.
        """
        last = max((told.n for told in self._store.told(group_id)), default=0)
        passed, k = 0, 0
        while self._usable(group_id):
            if self._store.pending(group_id) is not None:
                await self.settle(group_id)
                k = 0
                continue
            with self._vault.work() as core:
                self._vault.use(DEVICE_SCOPE, PACKAGES_SCOPE, group_id)
                epoch, name = core.group(group_id).epoch, core.gate_name(group_id, k)
            said = [told.value for told in self._store.told(group_id) if (told.epoch, told.k) == (epoch, k)]
            value = next((value for value in said if value), b"")
            stands = await self.claim(name, value) if value else await self.read(name)
            if not stands:
                break
            outcome = self._look(group_id, epoch, k, name, stands, tell=stands not in said)
            if outcome == "void" and k < LAST_K:
                k += 1
            elif outcome in ("lost", "none"):
                passed, k = passed + (outcome == "lost"), 0
            else:
                break
        with self._store.write():
            self._store.forget_told(group_id, last)
        return passed

    def _look(self, group_id: bytes, epoch: int, k: int, name: bytes, stands: bytes, *, tell: bool) -> Outcome:
        """Apply what stands in a gate; "none" when the group has left that epoch meanwhile."""
        try:
            with self._vault.work() as core:
                self._vault.use(DEVICE_SCOPE, PACKAGES_SCOPE, group_id)
                if core.group(group_id).epoch != epoch:
                    return "none"
                return self._follow(core, group_id, k, name, stands, tell=tell)
        except CoreTrapped:
            return self._trapped(group_id)

    def _follow(self, core: Core, group_id: bytes, k: int, name: bytes, value: bytes, *, tell: bool = True) -> Outcome:
        """Apply a value that is not ours. "lost": it was applied."""
        self._vault.use(DEVICE_SCOPE, PACKAGES_SCOPE, group_id)
        before = core.group(group_id)
        applied = core.apply_gate_value(group_id, k, value, self._vault.known(), self._vault.now_s())
        pending = self._store.pending(group_id)
        if applied.verdict == "void":
            if k >= LAST_K:
                self.drop(group_id)
                self.on_exhausted(group_id)
                return "stuck"
            if pending is not None:
                staged = core.restage(group_id, k + 1)
                self._store.put_pending(
                    pending._replace(
                        k=staged.k,
                        name=staged.gate_name,
                        value=staged.gate_value,
                        body=staged.commit_body,
                        welcomes=pack_welcomes(staged.welcomes),
                    )
                )
            return "void"
        if applied.verdict == "stuck":
            self.on_stuck(group_id, "a change of the chat could not be followed")
            return "stuck"
        self._store.forget_pending(group_id)
        self._enter(core, before, applied, k, name, value, tell=tell)
        return "lost"

    def _trapped(self, group_id: bytes) -> Outcome:
        """The core broke on a value: others may well have applied it."""
        with self._vault.work():
            self.on_stuck(group_id, "a change of the chat could not be followed")
        return "stuck"

    # ---------------------------------------------------------------- the new epoch

    def _enter(
        self, core: Core, before: GroupInfo, applied: Applied, k: int, name: bytes, value: bytes, *, tell: bool
    ) -> None:
        """Store what the new epoch means; with *tell*, queue the commit and its Welcomes for those who need them."""
        group = self._store.group(before.group_id)
        assert group is not None
        now_ms = self._vault.now_ms()
        self._store.forget_pending(group.id)
        self._store.put_passed(Passed(group.id, before.epoch, k, name, value, now_ms))
        if applied.verdict == "removed":
            self._store.set_standing(group.id, "left", now_ms)
            self._vault.notice(group.chat, "You are no longer a member of this chat.")
        else:
            self._store.set_epoch(group.id, applied.epoch)
        if tell:
            for address, body in applied.welcomes:
                self._store.queue_body(body, [address], now_ms)
            self._store.queue_body(applied.commit_body, self._to_tell(before, applied), now_ms)
        there = {member.account_id for member in before.members}
        came = {member.account_id for member in applied.added} - there
        self._store.put_joined(group.chat, came, now_ms)
        self._tell_of_members(group, applied)
        self.on_epoch(group.chat)

    def _to_tell(self, before: GroupInfo, applied: Applied) -> list[bytes]:
        """The addresses of the old epoch's members, without ourselves and the commit's maker."""
        own = (self._vault.account, self._vault.device)
        return [
            member.address
            for member in before.members
            if (member.account_id, member.device_id) not in (own, applied.committer) and member.leaf != before.own_leaf
        ]

    def _tell_of_members(self, group: Group, applied: Applied) -> None:
        """A person is told when a contact has another device or key, or came with a list that is out of date."""
        self._vault.learn_and_tell(group.chat, (*applied.added, *applied.updated))
        for account in dict.fromkeys(account for account, _ in applied.outdated):
            contact = self._store.contact(account)
            name = contact.name if contact is not None and contact.name else "A member"
            text = f"{name} came with a device list that is out of date: it may be a device that was taken off since."
            self._vault.notice(group.chat, text)

    def _usable(self, group_id: bytes) -> bool:
        group = self._store.group(group_id)
        return group is not None and group.standing == "current"

    # ---------------------------------------------------------------- the server's gates

    async def claim(self, name: bytes, value: bytes) -> bytes:
        """Claim a gate; what stands in it now. The same bytes may be claimed any number of times."""
        link = await self._network.anonymous("gate")
        state = await link.expect(GateState, lambda request: ClaimGate(request, name, value))
        return bytes(state.value)

    async def read(self, name: bytes) -> bytes:
        """What stands in a gate; empty when nobody has claimed it."""
        link = await self._network.anonymous("gate")
        state = await link.expect(GateState, lambda request: ReadGate(request, name))
        return bytes(state.value)
