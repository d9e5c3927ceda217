"""Who is told what about a contact's devices and keys, and whose Welcome is believed."""

import asyncio
import os
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from taube.client.contacts import parse_contact_link
from taube.client.e2e import KIND_GROUP, KIND_PAIR, Applied, GroupContext, Joined
from tests.client.fake_server import DAY_MS, Client, World, friends, three
from tests.spec import spec

OTHER_DEVICE = "bob uses another device now."


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 120))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def copy_of(world: World, one: Client) -> Client:
    """The home of *one*, copied: a new device of the same account."""
    one.store.close()
    world.people.remove(one)
    shutil.copytree(one.folder, world.folder / "copy")
    copy = world.person(one.name, "copy")
    assert copy.engine.devices.start_anew()
    return copy


# ---------------------------------------------------------------- devices and keys


@spec("DEV-46")
def test_another_device_that_comes_by_a_group_of_its_own_is_told(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        copy = copy_of(world, bob)
        with copy.store.write():
            for group in copy.store.groups():
                copy.store.forget_chore("ask", group.id)
        await copy.engine.connect()
        row = copy.store.chat_named("alice")
        assert row is not None and row.peer is not None
        claimed = await copy.engine.contacts.claim(parse_contact_link(alice.contact_link).address)
        with copy.vault.work():
            admins = tuple(sorted((copy.vault.account, row.peer)))
            context = GroupContext(KIND_PAIR, os.urandom(16), admins)
            copy.engine.contacts.found(row.id, context, {row.peer: claimed})
        await world.settle()
        assert OTHER_DEVICE in alice.notices()

    run(story())


@spec("DEV-46")
def test_another_device_that_comes_by_a_successor_is_told(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        world.offline.add("alice")
        alice.link = None
        copy = copy_of(world, bob)
        await world.settle()
        world.now_ms += DAY_MS + 1000
        await world.settle()
        assert copy.group("alice").standing == "current"
        world.offline.clear()
        await world.settle()
        assert alice.group("bob").id == copy.group("alice").id
        assert OTHER_DEVICE in alice.notices()

    run(story())


@spec("DEV-46")
def test_another_device_that_comes_by_a_commit_is_told_in_the_group_and_the_chat_of_two(world: World) -> None:
    async def story() -> None:
        alice, bob, carol = await three(world)
        copy_of(world, bob)
        await world.settle()
        assert alice.notices().count(OTHER_DEVICE) in (1, 2)
        assert OTHER_DEVICE in [message.text for message in alice.account.chat("bob").messages(100)]
        assert OTHER_DEVICE in [message.text for message in carol.account.chat("bob").messages(100)]

    run(story())


@spec("DEV-46")
def test_another_account_key_is_told_apart_from_another_device(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        member = next(m for m in alice.info(alice.group("bob").id).members if m.account_id == bob.vault.account)
        newer = member._replace(counter=member.counter + 1, certificate=b"newer")
        real = alice.vault.core.check_certificate
        known = real(member.certificate)

        def check_certificate(certificate: bytes) -> Any:
            return known._replace(account_key=bytes(32)) if certificate == b"newer" else real(certificate)

        alice.vault.core.check_certificate = check_certificate  # type: ignore[method-assign]
        chat = alice.group("bob").chat
        with alice.vault.work():
            alice.vault.learn_and_tell(chat, [newer])
        told = ["bob has another account key now: compare the safety number again."]
        assert alice.notices() == told
        with alice.vault.work():
            alice.vault.learn_and_tell(chat, [newer, member])
        assert alice.notices() == told

    run(story())


@spec("GRP-58")
def test_member_that_came_with_an_old_device_list_is_told(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        applied = Applied("applied", 1, outdated=((bob.vault.account, bob.vault.device),))
        with alice.vault.work():
            alice.engine.gates._tell_of_members(alice.group("bob"), applied)
        (text,) = alice.notices()
        assert text.startswith("bob came with a device list that is out of date")

    run(story())


# ---------------------------------------------------------------- whose Welcome


@spec("DEV-33")
def test_successor_of_an_admin_that_was_removed_is_refused(world: World) -> None:
    async def story() -> None:
        alice, bob, carol = await three(world)
        group_id = alice.group("group").id
        admins = tuple(sorted((alice.vault.account, carol.vault.account)))
        await alice.engine.gates.change(group_id, lambda core, info: {"context": info.context._replace(admins=admins)})
        await world.settle()
        gone = (carol.vault.account, carol.vault.device)
        assert await alice.engine.gates.change(group_id, lambda core, info: {"removes": [gone]})
        await world.settle(alice, bob)
        old = carol.info(group_id)
        with carol.vault.work():  # a modified client: she was removed, and is on the list of admins still
            carol.store.set_standing(group_id, "rejoin", world.now_ms)
        to = next(member.address for member in old.members if member.account_id == bob.vault.account)
        claimed = await carol.engine.contacts.claim(to)
        with carol.vault.work():
            context = old.context._replace(predecessor=(group_id, old.epoch))
            carol.engine.contacts.found(carol.group("group").chat, context, {bob.vault.account: claimed})
        await carol.engine.send()
        await bob.step()
        assert bob.group("group").id == group_id
        assert len(bob.store.groups()) == 3

    run(story())


@spec("DEV-34")
def test_welcome_back_into_a_group_of_another_making_is_refused(world: World) -> None:
    async def story() -> None:
        alice, bob, carol = await three(world)
        for name in ("alice", "group"):
            known = bob.group(name)
            with bob.vault.work():
                bob.engine.rejoin.lost(known.id, "a test")
            for chore in bob.store.chores_due(world.now_ms):
                if chore.kind == "ask" and chore.subject == known.id:
                    await bob.engine.rejoin.ask(chore)
            package = next(package for package in bob.store.packages() if package.chat == known.chat)
            info = bob.info(known.id)
            good = Joined(
                known.id,
                known.epoch + 1,
                info.suite,
                info.context,
                info.members,
                (carol.vault.account, carol.vault.device),
                package.ref,
            )
            mallory = (*info.context.admins[:-1], carol.vault.account)
            other_kind = KIND_GROUP if info.context.kind == KIND_PAIR else KIND_PAIR
            bad = [
                good._replace(context=info.context._replace(admins=mallory)),
                good._replace(context=info.context._replace(kind=other_kind)),
                good._replace(context=info.context._replace(predecessor=(bytes(32), 1))),
            ]
            if name == "alice":
                bad.append(good._replace(members=good.members[:1]))
            with bob.vault.work():
                known = bob.group(name)
                before = bob.engine.rejoin.lost_groups(known.chat)[known.id]
                for joined in bad:
                    assert not bob.engine.rejoin.returned(joined, known, before)
                assert not bob.engine.rejoin.returned(good, known, None)
                if name == "group":
                    from_admin = bad[0]._replace(sender=(alice.vault.account, alice.vault.device))
                    assert bob.engine.rejoin.returned(from_admin, known, before)
                else:
                    assert bob.engine.rejoin.returned(good, known, before)

    run(story())
