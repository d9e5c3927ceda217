"""Coming back: devices that were away, copied homes, members that were removed, successors."""

import asyncio
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from taube.client.e2e import SUITE_HYBRID
from taube.client.errors import DeviceReplaced
from taube.wire.messages import ClaimGate, ReadGate
from tests.client.fake_server import DAY_MS, Client, World, friends, same_epoch, three
from tests.spec import spec


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 120))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def write(world: World, one: Client, other: Client, text: str) -> None:
    await one.account.chat(other.name).send_text(text)
    await world.settle()
    assert other.texts(one.name)[-1] == text, (other.texts(one.name), one.notices(), other.notices())


async def away(world: World, one: Client, days: int) -> None:
    """*one* has no network for that long."""
    world.offline.add(one.name)
    one.link = None
    for _ in range(days):
        world.now_ms += DAY_MS
        await world.settle()
    world.offline.discard(one.name)


# ---------------------------------------------------------------- away


@spec("DEV-25")
def test_device_that_was_away_for_a_day_reads_on(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        world.offline.add("bob")
        for n in range(3):
            await alice.account.chat("bob").send_text(f"while away {n}")
        await alice.engine.gates.change(alice.group("bob").id, lambda core, info: {"update": True})
        await alice.account.chat("bob").send_text("in the next epoch")
        await away(world, bob, 1)
        await world.settle()
        assert bob.texts("alice") == ["while away 0", "while away 1", "while away 2", "in the next epoch"]
        assert bob.notices() == []
        await write(world, bob, alice, "back")

    run(story())


@spec("DEV-27", "DEV-30")
def test_device_that_was_away_for_31_days_touches_no_gate_and_asks_to_be_taken_back(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        group = bob.group("alice").id
        await away(world, bob, 31)
        before = len(world.log)
        await bob.step()
        assert bob.group("alice").standing == "rejoin"
        await bob.account.chat("alice").send_text("held until I am back")
        await bob.step()
        assert not any(isinstance(command, ReadGate | ClaimGate) for command in world.log[before:])
        assert bob.states("alice")[-1] == "queued"
        await world.settle()
        assert bob.group("alice").standing == "current"
        assert bob.group("alice").id == group == alice.group("bob").id
        assert alice.texts("bob") == ["held until I am back"]
        await write(world, alice, bob, "welcome back")

    run(story())


@spec("DEV-27", "DEV-33")
def test_pair_in_which_both_were_away_for_31_days_goes_on_in_a_successor(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        old = bob.group("alice").id
        world.offline |= {"alice", "bob"}
        alice.link = bob.link = None
        world.now_ms += 31 * DAY_MS
        world.offline.clear()
        await world.settle()
        assert alice.group("bob").id == bob.group("alice").id != old
        assert len(alice.account.chats()) == len(bob.account.chats()) == 1
        await write(world, alice, bob, "where were we?")
        await write(world, bob, alice, "here")

    run(story())


@spec("DEV-30")
def test_asking_without_an_answer_for_a_day_is_told_and_a_successor_founded(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        old = bob.group("alice").id
        await away(world, bob, 31)
        world.offline.add("alice")
        alice.link = None
        await world.settle()
        world.now_ms += DAY_MS // 2
        await world.settle()
        assert not any("a day" in text and "Nobody" in text for text in bob.notices())
        world.now_ms += DAY_MS // 2 + 1000
        await world.settle()
        assert any("Nobody let this device back in for a day" in text for text in bob.notices())
        new = bob.group("alice").id
        assert new != old
        world.offline.clear()
        await world.settle()
        assert alice.group("bob").id == new
        await write(world, alice, bob, "in the new group")

    run(story())


@spec("DEV-33")
def test_of_two_successors_the_lowest_hash_wins_for_both(world: World) -> None:
    async def story() -> None:
        for _ in range(3):
            alice, bob = await friends(world, "alice", "bob")
            for one, other in ((alice, bob), (bob, alice)):
                with one.vault.work():
                    one.engine._exhausted(one.group(other.name).id)
            await asyncio.gather(alice.engine.do_chores(), bob.engine.do_chores())
            await world.settle()
            assert alice.group("bob").id == bob.group("alice").id
            await write(world, alice, bob, "one of two")
            for one in (alice, bob):
                one.store.close()
                shutil.rmtree(one.folder)
            world.people.clear()

    run(story())


# ---------------------------------------------------------------- who may come back


@spec("DEV-31")
def test_removed_member_that_asks_to_rejoin_is_refused(world: World) -> None:
    async def story() -> None:
        alice, bob, carol = await three(world)
        group_id = alice.group("group").id
        gone = (carol.vault.account, carol.vault.device)
        assert await alice.engine.gates.change(group_id, lambda core, info: {"removes": [gone]})
        await world.settle(alice, bob)
        epoch = same_epoch("group", alice, bob)
        with carol.vault.work():  # carol never heard of it and asks, as a modified client might
            carol.engine.rejoin.lost(group_id, "she wants to be back")
        await carol.engine.do_chores()
        await carol.engine.send()
        for _ in range(3):
            await world.settle(alice, bob)
            world.now_ms += 700_000
            await carol.step()
        assert same_epoch("group", alice, bob) == epoch
        assert len(alice.info(group_id).members) == 2
        assert alice.store.count_chores("grant") == bob.store.count_chores("grant") == 0

    run(story())


@spec("DEV-31")
def test_rejoin_is_granted_once_a_day(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        group_id = alice.group("bob").id
        epochs = []
        for _ in range(2):
            with bob.vault.work():
                bob.engine.rejoin.lost(group_id, "a test")
            await world.settle()
            epochs.append(alice.info(group_id).epoch)
        assert epochs[0] == epochs[1]
        assert bob.group("alice").standing == "rejoin"
        world.now_ms += DAY_MS + 1000
        await world.settle()
        await write(world, alice, bob, "in a successor, then")

    run(story())


@spec("DEV-32")
def test_welcome_into_a_group_of_ours_that_nobody_asked_for_changes_nothing(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        group_id = bob.group("alice").id
        before = bob.info(group_id)
        device = world.devices[bob.vault.device]
        package = device.packages[SUITE_HYBRID][0]
        gone = (bob.vault.account, bob.vault.device)
        staged = await _stage(alice, group_id, package, gone)
        for address, body in staged:
            world._deliver(address, body, 0)
        await bob.step()
        assert bob.info(group_id) == before
        assert bob.group("alice").standing == "current"

    async def _stage(alice: Client, group_id: bytes, package: bytes, gone: tuple[bytes, bytes]) -> list[Any]:
        with alice.vault.work() as core:
            alice.vault.use(b"device", b"packages", group_id)
            staged = core.stage(group_id, k=0, adds=[package], removes=[gone], known={}, now_s=alice.vault.now_s())
            core.drop(group_id)
            return list(staged.welcomes)

    run(story())


# ---------------------------------------------------------------- copied homes


@spec("DEV-05")
def test_copied_home_becomes_a_new_device_and_the_old_one_ends(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        await write(world, alice, bob, "before")
        old_device = bob.vault.device
        bob.store.close()
        shutil.copytree(bob.folder, world.folder / "copy")
        copy = world.person("bob", "copy")
        copy.engine.devices.start_anew()
        bob._start()
        assert copy.vault.device != old_device
        assert copy.vault.account == bob.vault.account
        world.people = [alice, copy]
        await world.settle()
        assert old_device not in world.devices
        assert copy.texts("alice") == ["before"]
        await write(world, alice, copy, "to the copy")
        await write(world, copy, alice, "from the copy")
        assert any("another device" in text for text in alice.notices())
        bob.link = None
        with pytest.raises(DeviceReplaced, match="another copy"):
            await bob.step()
        await bob.account.chat("alice").send_text("too late")
        bob.engine.outbox.end()
        assert bob.states("alice")[-1] == "failed"
        assert bob.store.outbox_size() == 0

    run(story())


@spec("DEV-05")
def test_what_reached_nobody_while_the_device_changed_is_sent_again(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        bob.store.close()
        shutil.copytree(bob.folder, world.folder / "copy")
        copy = world.person("bob", "copy")
        copy.engine.devices.start_anew()
        await copy.engine.devices.publish_list()
        world.people = [alice]
        alice.link = None
        await alice.account.chat("bob").send_text("to nobody")
        await world.settle()
        assert alice.states("bob") == ["failed"]
        world.people = [alice, copy]
        await world.settle()
        assert copy.texts("alice") == ["to nobody"]
        assert alice.states("bob") == ["delivered"]

    run(story())


@spec("DEV-05")
def test_copied_home_never_uses_the_old_ratchets(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        await bob.account.chat("alice").send_text("queued when copied")
        bob.store.close()
        shutil.copytree(bob.folder, world.folder / "copy")
        copy = world.person("bob", "copy")
        copy.engine.devices.start_anew()
        world.people = [alice, copy]
        before = len(world.log)
        await copy.step()
        sent = [command for command in world.log[before:] if type(command).__name__ == "Send"]
        assert len(sent) == 1  # the request to be taken back, and nothing else
        await world.settle()
        assert alice.texts("bob") == ["queued when copied"]

    run(story())


@spec("CNT-02", "CNT-11", "DEV-05")
def test_what_both_copies_of_a_home_send_is_shown_once_and_confirmed_to_both(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        for text in ("read", "delivered"):
            await bob.account.chat("alice").send_text(text)
        bob.store.close()
        shutil.copytree(bob.folder, world.folder / "copy")
        bob.restart()
        await world.settle()
        first = next(message for message in alice.account.chat("bob").messages() if message.text == "read")
        rows = [row for row in alice.store.unread(None, 10) if row.id.hex() == first.id]
        alice.account._mark_read(rows)
        await world.settle()
        assert bob.states("alice") == ["read", "delivered"]
        copy = world.person("bob", "copy")
        copy.engine.devices.start_anew()
        world.people = [alice, copy]
        await world.settle()
        assert copy.states("alice") == ["read", "delivered"]
        assert alice.texts("bob") == ["read", "delivered"]

    run(story())


@spec("DEV-05")
def test_crash_anywhere_in_the_new_start_is_taken_up(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        bob.store.close()
        shutil.copytree(bob.folder, world.folder / "copy")
        copy = world.person("bob", "copy")
        copy.engine.devices.start_anew()
        world.people = [alice, copy]
        seen: set[str] = set()

        def fault(command: Any) -> str | None:
            name = type(command).__name__
            if name in seen:
                return None
            seen.add(name)
            return "after"

        world.fault = fault
        for _ in range(12):
            try:
                await world.settle()
            except Exception:
                copy.restart()
                alice.restart()
        world.fault = lambda command: None
        world.now_ms += 20_000
        await world.settle()
        assert {"PublishDeviceList", "MintAddresses", "PublishKeyPackages", "ClaimGate", "Send"} <= seen
        await write(world, alice, copy, "to the copy")
        await write(world, copy, alice, "from the copy")

    run(story())


@spec("CNT-15", "CNT-21", "DEV-13")
def test_missed_messages_are_asked_for_and_sent_again(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        for text in ("one", "two"):
            await alice.account.chat("bob").send_text(text)
        await alice.engine.send()
        world.devices[bob.vault.device].mailbox.clear()
        bob.link.arrived.clear()
        bob.link = None
        await write(world, alice, bob, "three")
        world.now_ms += 5_000
        await world.settle()
        assert sorted(bob.texts("alice")) == ["one", "three", "two"]
        assert alice.states("bob") == ["delivered"] * 3

    run(story())


@spec("CNT-21", "DEV-13")
def test_what_cannot_be_had_again_is_shown_as_missing_after_30_days(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        await alice.account.chat("bob").send_text("lost for ever")
        await alice.engine.send()
        with alice.store.write():
            alice.store._run("DELETE FROM sent")
        world.devices[bob.vault.device].mailbox.clear()
        bob.link.arrived.clear()
        bob.link = None
        await write(world, alice, bob, "later")
        for _ in range(31):
            world.now_ms += DAY_MS
            await world.settle()
        assert "A message never arrived." in bob.texts("alice")

    run(story())


@spec("DEV-44")
def test_last_resort_package_leads_to_a_chat_with_an_address_of_its_own(world: World) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        alice = await world.person("alice").join()
        carol = await world.person("carol").join()
        world.devices[bob.vault.device].packages[SUITE_HYBRID].clear()
        link = bob.contact_link
        for one in (alice, carol):
            await one.account.add(link)
            await one.account.chat("bob").send_text(f"from {one.name}")
        await world.settle()
        assert bob.texts("alice") == ["from alice"]
        assert bob.texts("carol") == ["from carol"]
        for name in ("alice", "carol"):
            await bob.account.chat(name).accept()
        await world.settle()
        used = []
        for one in (alice, carol):
            info = one.info(one.group("bob").id)
            used += [member.address for member in info.members if member.account_id == bob.vault.account]
        assert len(set(used)) == 2
        await bob.account.chat("carol").block()
        await world.settle()
        await write(world, alice, bob, "still open")
        await carol.account.chat("bob").send_text("refused")
        await world.settle()
        assert bob.texts("carol") == ["from carol"]
        assert carol.states("bob")[-1] == "failed"

    run(story())
