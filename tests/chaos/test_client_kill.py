"""kill -9 of a client at every step of sending and receiving: no lost message, no forked group, no key used twice.

A client dies before its n-th statement to its store, or before or after a command reaches the server, for every n until
a round of writing, reading and changing the group passes without a death. The dead client's store rolls back what was
not committed, and nothing that it would do afterwards happens. In between, everything goes on: the same homes, the
same groups, death after death.
"""

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest

from taube.client.sync import Engine
from taube.wire.messages import Deliver, Send
from tests.client.fake_server import Client, World, same_epoch, three


class Killed(BaseException):
    """The process is no more."""


class Death:
    """Decides when *victim* dies: at its n-th step from `arm` on. A step: a statement, a command before or after."""

    def __init__(self, victim: Client) -> None:
        self.victim = victim
        self.left = 0
        self.steps = 0
        self.dead = False

    def arm(self, step: int) -> None:
        self.left, self.steps, self.dead = step, 0, False
        store = self.victim.store
        run, cursor = type(store)._run, store._cursor

        def counted(sql: str, *values: Any) -> Any:
            self.step()
            return run(store, sql, *values)

        store._run = counted  # type: ignore[method-assign]
        store._cursor = Cursor(cursor, self.step)  # type: ignore[assignment]

    def step(self) -> None:
        if self.dead:
            raise Killed
        self.steps += 1
        if self.steps == self.left:
            self.dead = True
            raise Killed

    def revive(self) -> None:
        self.left, self.dead = 0, False
        self.victim.restart()


class Cursor:
    """A cursor that counts what writes many rows."""

    def __init__(self, cursor: Any, step: Any) -> None:
        self._cursor, self._step = cursor, step

    def executemany(self, *arguments: Any) -> Any:
        self._step()
        return self._cursor.executemany(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


class Witness:
    """Sees every envelope that leaves a client, and what becomes of it."""

    def __init__(self, world: World, death: Death) -> None:
        self.bodies: dict[bytes, bytes] = {}  # nonce -> body
        self.junk: list[str] = []
        self.seen: set[tuple[str, bytes]] = set()
        self.world = world

        def fault(command: Any) -> str | None:
            if isinstance(command, Send):
                body = bytes(command.body)
                assert self.bodies.setdefault(body[:12], body) == body, "a nonce was used twice"
            return None

        carry_out = world.carry_out

        def carried(command: Any, device: bytes | None) -> Any:
            mine = self.sender is death.victim
            if mine:
                death.step()
            reply = carry_out(command, device)
            if mine:
                death.step()
            return reply

        self.sender: Client | None = None
        world.fault = fault
        world.carry_out = carried  # type: ignore[method-assign]

    def watch(self, client: Client) -> None:
        """Note what *client* cannot open although it is new to it: a key that was used twice would be one."""
        core = client.vault.core
        receive = core.receive

        def noted(group_id: bytes, bodies: Any, known: Any, now_s: int) -> Any:
            received = receive(group_id, bodies, known, now_s)
            for body, each in zip(bodies, received, strict=True):
                if each.kind in ("junk", "duplicate") and (client.name, body) not in self.seen:
                    self.junk.append(f"{client.name}: {each.kind}")
                if each.kind != "later":
                    self.seen.add((client.name, body))
            return received

        core.receive = noted  # type: ignore[method-assign]


async def step(witness: Witness, client: Client) -> None:
    witness.sender = client
    try:
        await client.step()
    finally:
        witness.sender = None


async def settle(witness: Witness, world: World) -> None:
    for _ in range(40):
        before = len(world.log)
        for client in world.people:
            await step(witness, client)
        if len(world.log) == before:
            return
    raise AssertionError("it never came to rest")


async def a_round(witness: Witness, world: World, victim: Client, number: int) -> None:
    """Everybody writes, everybody reads, and the victim changes the group."""
    for client in world.people:
        for chat in client.account.chats():
            await chat.send_text(f"{client.name} to {chat.name} {number}")
    group = victim.group("group")
    witness.sender = victim
    await victim.engine.gates.change(group.id, victim.engine._with_new_address(group.chat))
    witness.sender = None
    await settle(witness, world)
    async for _ in victim.account.read():
        pass
    await settle(witness, world)


def written(client: Client, chat: str) -> list[str]:
    return [each.text for each in client.account.chat(chat).messages(100_000) if each.mine]


def read(client: Client, chat: str, sender: str) -> list[str]:
    return [
        each.text
        for each in client.account.chat(chat).messages(100_000)
        if not each.mine and each.kind in ("text", "gap") and each.sender == sender
    ]


def nothing_is_lost(world: World) -> None:
    """What stands in a writer's home stands in every reader's, once and in order; groups have not forked."""
    for one in world.people:
        for other in world.people:
            if one is not other:
                assert read(other, one.name, one.name) == written(one, other.name), (one.name, other.name)
                assert read(other, "group", one.name) == written(one, "group"), (one.name, other.name)
                same_epoch_pair(one, other)
        assert {message.state for chat in one.account.chats() for message in chat.messages(9) if message.mine} <= {
            "delivered", "read",
        }  # fmt: skip
    same_epoch("group", *world.people)


def same_epoch_pair(one: Client, other: Client) -> None:
    mine, theirs = (a.info(a.group(b.name).id) for a, b in ((one, other), (other, one)))
    assert (mine.group_id, mine.epoch) == (theirs.group_id, theirs.epoch)


async def die_at(folder: Path, who: str, steps: Any, *, until_it_lives: bool = False) -> int:
    """Let *who* die at each of these steps of a round; how many deaths there were."""
    world = World(folder)
    people = await three(world)
    victim = next(each for each in people if each.name == who)
    death = Death(victim)
    witness = Witness(world, death)
    for each in people:
        witness.watch(each)
    deaths = 0
    for number, at in enumerate(steps):
        world.now_ms += 10_000
        death.arm(at)
        try:
            await a_round(witness, world, victim, number)
            survived = True
        except Killed:
            survived = False
        assert survived or death.dead
        deaths += not survived
        await asyncio.sleep(0)
        death.revive()
        witness.watch(victim)
        for _ in range(3):
            world.now_ms += 70_000
            await settle(witness, world)
        nothing_is_lost(world)
        assert not witness.junk, (at, witness.junk)
        if survived and until_it_lives:
            break
    return deaths


@pytest.mark.parametrize("who", ["alice", "bob"])
async def test_a_client_that_is_killed_at_any_step_loses_nothing_and_forks_nothing(tmp_path: Path, who: str) -> None:
    seed = int(os.environ.get("TAUBE_CHAOS_SEED", "1"))
    dice = random.Random(f"{seed} {who}")
    steps = [dice.randrange(1, 150) for _ in range(14)]
    assert await die_at(tmp_path, who, steps) >= 8, f"TAUBE_CHAOS_SEED={seed}"


async def test_a_client_that_acknowledged_before_it_stored_would_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Engine.receive

    def too_early(engine: Engine, link: Any, batch: list[Any]) -> None:
        numbers = [event.number for event in batch if isinstance(event, Deliver) and event.number]
        if numbers:
            link.acknowledge(max(numbers))
        right(engine, link, batch)

    monkeypatch.setattr(Engine, "receive", too_early)
    with pytest.raises(AssertionError):
        await die_at(tmp_path, "bob", range(1, 200, 7))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("who", ["alice", "bob", "carol"])
async def test_a_client_that_is_killed_at_every_step_loses_nothing_and_forks_nothing(tmp_path: Path, who: str) -> None:
    assert await die_at(tmp_path, who, range(1, 100_000), until_it_lives=True) > 100
