"""Agreeing on the next epoch: races, lost answers, committers that die, junk claims, a restored server."""

import asyncio
import os
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest

from taube.client.content import Leave
from taube.client.e2e import Core, GroupInfo
from taube.client.transport import ConnectionLost
from taube.wire.errors import INTERNAL, TOO_LARGE, ErrorKind, WireError
from taube.wire.messages import ClaimGate, ReadGate, Send
from tests.client.fake_server import Client, World, friends, same_epoch, three
from tests.spec import spec


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 120))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def update(core: Core, info: GroupInfo) -> Mapping[str, Any]:
    return {"update": True}


async def change(one: Client, chat: str) -> bool:
    return await one.engine.gates.change(one.group(chat).id, update)


async def all_can_write(world: World, chat: str, *people: Client) -> None:
    """A word from each reaches all others."""
    await world.settle(*people)
    for one in people:
        await one.account.chat(chat).send_text(f"{one.name} {os.urandom(4).hex()}")
        await world.settle(*people)
    written = [sorted(one.texts(chat)[-len(people) :]) for one in people]
    assert all(texts == written[0] for texts in written)


@spec("DEV-21")
def test_winner_of_the_gate_tells_the_others(world: World) -> None:
    async def story() -> None:
        people = await three(world)
        before = same_epoch("group", *people)
        assert await change(people[1], "group")
        await all_can_write(world, "group", *people)
        assert same_epoch("group", *people) == before + 1

    run(story())


@spec("DEV-22")
def test_two_who_commit_at_once_agree(world: World) -> None:
    async def story() -> None:
        people = await three(world)
        before = same_epoch("group", *people)
        results = await asyncio.gather(*(change(one, "group") for one in people))
        assert results == [True] * 3
        await all_can_write(world, "group", *people)
        assert same_epoch("group", *people) == before + 3

    run(story())


@spec("DEV-20")
def test_lost_answer_to_a_claim_is_asked_for_again_with_the_same_bytes(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        before = same_epoch_pair(alice, bob)
        world.fault = lambda command: "after" if isinstance(command, ClaimGate) else None
        with pytest.raises(ConnectionLost):
            await change(alice, "bob")
        world.fault = lambda command: None
        await world.settle()
        claims = {command.value for command in world.log if isinstance(command, ClaimGate)}
        assert len(claims) == 1
        assert same_epoch_pair(alice, bob) == before + 1

    run(story())


@spec("DEV-20", "DEV-21")
def test_crash_after_the_claim_is_taken_up_where_it_was(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        before = same_epoch_pair(alice, bob)
        world.fault = lambda command: "after" if isinstance(command, ClaimGate) else None
        with pytest.raises(ConnectionLost):
            await change(alice, "bob")
        world.fault = lambda command: None
        alice.restart()
        await world.settle()
        assert same_epoch_pair(alice, bob) == before + 1

    run(story())


@spec("DEV-23")
def test_committer_that_dies_after_its_claim_is_finished_by_another(world: World) -> None:
    async def story() -> None:
        alice, bob, carol = await three(world)
        before = same_epoch("group", alice, bob, carol)
        world.fault = lambda command: "after" if isinstance(command, ClaimGate) else None
        with pytest.raises(ConnectionLost):
            await change(alice, "group")
        world.offline.add("alice")
        world.fault = lambda command: None
        assert await change(bob, "group")  # loses first, follows alice, then wins
        await world.settle(bob, carol)
        assert same_epoch("group", bob, carol) == before + 2
        await all_can_write(world, "group", bob, carol)
        world.offline.clear()
        alice.restart()
        await all_can_write(world, "group", alice, bob, carol)
        assert same_epoch("group", alice, bob, carol) == before + 2

    run(story())


@spec("DEV-23")
def test_whoever_was_added_by_a_dead_committer_gets_its_welcome_from_another(world: World) -> None:
    async def story() -> None:
        alice, bob, carol = await three(world)
        dave = await world.person("dave").join()
        address = dave.store.addresses("link")[0].address
        claimed = await alice.engine.contacts.claim(address)
        world.fault = lambda command: "after" if isinstance(command, ClaimGate) else None
        with pytest.raises(ConnectionLost):
            await alice.engine.gates.change(alice.group("group").id, lambda core, info: {"adds": [claimed.key_package]})
        world.offline.add("alice")
        world.fault = lambda command: None
        assert await bob.engine.gates.walk(bob.group("group").id) == 1
        await world.settle(bob, carol, dave)
        await dave.account.chat("group").accept()
        await all_can_write(world, "group", bob, carol, dave)
        same_epoch("group", bob, carol, dave)

    run(story())


@spec("DEV-24")
def test_junk_claim_is_stepped_over_by_all(world: World) -> None:
    async def story() -> None:
        people = await three(world)
        before = same_epoch("group", *people)
        alice = people[0]
        group_id = alice.group("group").id
        with alice.vault.work() as core:
            alice.vault.use(b"device", group_id)
            names = [core.gate_name(group_id, k) for k in (0, 1)]
        world.gates[names[0]] = b"junk"
        world.gates[names[1]] = os.urandom(500)
        assert await change(people[1], "group")
        assert await change(people[2], "group")
        await all_can_write(world, "group", *people)
        assert same_epoch("group", *people) == before + 2

    run(story())


@spec("DEV-24", "DEV-33")
def test_when_every_gate_is_junk_a_successor_follows(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        old = alice.group("bob").id
        with alice.vault.work() as core:
            alice.vault.use(b"device", old)
            names = [core.gate_name(old, k) for k in range(16)]
        world.gates |= dict.fromkeys(names, b"junk")
        await change(alice, "bob")
        await world.settle()
        assert alice.group("bob").id == bob.group("alice").id != old
        await alice.account.chat("bob").send_text("still here")
        await world.settle()
        assert bob.texts("alice") == ["still here"]

    run(story())


@spec("DEV-50")
def test_claims_and_sends_never_share_a_connection(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        assert await change(alice, "bob")
        await world.settle()
        for one in (alice, bob):
            links = one.network.purposes
            assert links.get("gate") is not links.get("send")
        kinds = {type(command) for command in world.log}
        assert {ClaimGate, Send} <= kinds

    run(story())


@spec("DEV-25")
def test_member_that_missed_the_commit_walks_the_gates_forward(world: World) -> None:
    async def story() -> None:
        alice, bob, carol = await three(world)
        before = same_epoch("group", alice, bob, carol)
        assert await change(alice, "group")
        assert await change(alice, "group")
        # carol's copies are lost with her mailbox; she sees only that something cannot be read yet
        await alice.engine.send()
        world.devices[carol.vault.device].mailbox.clear()
        carol.link = None
        await alice.account.chat("group").send_text("later")
        await world.settle(alice, bob, carol)
        world.now_ms += 5_000
        await world.settle(alice, bob, carol)
        assert any(isinstance(command, ReadGate) for command in world.log)
        assert carol.texts("group") == ["later"]
        assert same_epoch("group", alice, bob, carol) == before + 2

    run(story())


@spec("DEV-26")
def test_restored_server_gets_the_gates_back_and_nobody_is_split(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        assert await change(alice, "bob")
        await world.settle()
        before = same_epoch_pair(alice, bob)
        world.gates.clear()
        world.generation = os.urandom(16)
        for one in (alice, bob):
            one.link = None
        await world.settle()
        passed = alice.store.passed(alice.group("bob").id)
        assert passed is not None and world.gates[passed.name] == passed.value
        assert await change(bob, "alice")
        await world.settle()
        assert same_epoch_pair(alice, bob) == before + 1

    run(story())


@spec("DEV-26")
def test_restored_server_learns_again_of_devices_and_revoked_addresses(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        lists, devices, addresses = dict(world.accounts), dict(world.devices), dict(world.addresses)
        await bob.account.chat("alice").block()
        await world.settle()
        bob.store.home.stamp_file.unlink()  # as if copied
        bob.restart()
        await world.settle()
        device = bob.vault.device
        world.accounts, world.devices, world.addresses = lists, devices, addresses
        world.generation = os.urandom(16)
        alice.link = bob.link = None
        await world.settle()
        assert device in world.devices
        assert world.accounts[bob.vault.account][2] == 2

    run(story())


@spec("DEV-26")
def test_restored_server_is_told_again_what_is_blocked(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        addresses = dict(world.addresses)
        await bob.account.chat("alice").block()
        await world.settle()
        world.addresses = addresses
        world.generation = os.urandom(16)
        alice.link = bob.link = None
        await world.settle()
        await alice.account.chat("bob").send_text("refused")
        await world.settle()
        assert alice.states("bob") == ["failed"]

    run(story())


@spec("DEV-26")
def test_fork_found_after_a_restore_is_mended_by_a_successor(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        assert await change(alice, "bob")
        await world.settle()
        old = alice.group("bob").id
        passed = alice.store.passed(old)
        assert passed is not None
        world.gates = {passed.name: b"what somebody else claimed after the restore"}
        world.generation = os.urandom(16)
        alice.link = None
        await world.settle(alice)
        await world.settle()
        assert alice.group("bob").id == bob.group("alice").id != old
        await bob.account.chat("alice").send_text("whole again")
        await world.settle()
        assert alice.texts("bob") == ["whole again"]

    run(story())


@spec("DEV-26")
@pytest.mark.parametrize("kind", [TOO_LARGE, INTERNAL])
def test_claim_that_a_restored_server_keeps_refusing_holds_up_nothing_else(world: World, kind: ErrorKind) -> None:
    async def story() -> None:
        alice, _, carol = await friends(world, "alice", "bob", "carol")
        for name in ("bob", "carol"):
            assert await change(alice, name)
        await world.settle()
        passed = [alice.store.passed(alice.group(name).id) for name in ("bob", "carol")]
        assert passed[0] is not None and passed[1] is not None
        refused = passed[0].name
        world.gates.clear()
        world.generation = os.urandom(16)
        alice.link = None
        await carol.account.chat("alice").send_text("while she was away")
        await carol.step()
        world.fault = lambda command: (  # type: ignore[assignment,return-value]
            kind if isinstance(command, ClaimGate) and command.name == refused else None
        )
        failures = 0
        for _ in range(5):
            try:
                await alice.step()
                break
            except WireError as error:
                assert error.kind is kind
                failures += 1
        assert failures == (0 if kind is TOO_LARGE else 3)
        assert alice.texts("carol") == ["while she was away"]
        assert world.gates[passed[1].name] == passed[1].value
        assert refused not in world.gates
        due_ms = alice.store.next_chore_ms()
        assert due_ms is None or due_ms > world.now_ms, "it is not tried without a pause"
        world.fault = lambda command: None
        world.now_ms += 3_600_000
        await alice.step()
        assert world.gates[refused] == passed[0].value
        assert alice.store.count_chores("reclaim") == 0

    run(story())


@spec("CNT-16", "DEV-28")
def test_member_that_leaves_is_removed_by_whoever_may(world: World) -> None:
    async def story() -> None:
        alice, bob, carol = await three(world)
        row = carol.store.chat_named("group")
        assert row is not None
        carol.engine.outbox.queue(row, Leave)
        await world.settle()
        assert same_epoch("group", alice, bob)
        assert len(alice.info(alice.group("group").id).members) == 2
        assert carol.group("group").standing == "left"

    run(story())


def same_epoch_pair(alice: Client, bob: Client) -> int:
    one, other = alice.info(alice.group(bob.name).id), bob.info(bob.group(alice.name).id)
    assert (one.group_id, one.epoch) == (other.group_id, other.epoch)
    assert isinstance(one.epoch, int)
    return one.epoch


@spec("ENV-04")
def test_what_a_member_says_of_a_gate_is_not_believed_but_asked(world: World) -> None:
    async def story() -> None:
        alice, bob, carol = await three(world)
        before = same_epoch("group", alice, bob, carol)
        group_id = alice.group("group").id
        with alice.vault.work() as core:  # alice tells bob of a commit that she never claimed, and means another
            alice.vault.use(b"device", b"packages", group_id)
            lie = core.stage(group_id, k=0, update=True, known={}, now_s=alice.vault.now_s())
            core.drop(group_id)
        assert await change(carol, "group")
        address = next(m.address for m in alice.info(group_id).members if m.account_id == bob.vault.account)
        world._deliver(address, lie.commit_body, 0)
        await all_can_write(world, "group", alice, bob, carol)
        assert same_epoch("group", alice, bob, carol) == before + 1

    run(story())


@spec("DEV-51")
def test_anonymous_connections_carry_no_login(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        await alice.account.chat("bob").send_text("hello")
        assert await change(alice, "bob")
        await world.settle()
        for one in (alice, bob):
            assert set(one.network.purposes) <= {"send", "gate", "keys", "register"}
            assert all(link.device is None for link in one.network.purposes.values())

    run(story())
