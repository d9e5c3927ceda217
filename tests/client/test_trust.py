"""Who is told what about a contact's devices and keys, and whose Welcome is believed."""

import asyncio
import os
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from taube.client.contacts import parse_contact_link
from taube.client.content import ResendRequest, Text, encode
from taube.client.e2e import KIND_GROUP, KIND_PAIR, SUITE_HYBRID, Applied, GroupContext, Joined
from taube.client.events import MessageReceived
from taube.wire.messages import ClaimGate, Send
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


# ---------------------------------------------------------------- requests and blocked chats on a last resort


async def meet_by_last_resort(world: World) -> list[Client]:
    """Alice has added Bob by his last resort."""
    bob = await world.person("bob").join()
    alice = await world.person("alice").join()
    world.devices[bob.vault.device].packages[SUITE_HYBRID].clear()
    await alice.account.add(bob.contact_link)
    await alice.account.chat("bob").send_text("hello")
    await world.settle()
    return [alice, bob]


@spec("DEV-42")
def test_request_by_a_last_resort_is_not_answered_by_a_commit_until_it_is_accepted(world: World) -> None:
    async def story() -> None:
        alice, bob = await meet_by_last_resort(world)
        assert [(chat.name, chat.state) for chat in bob.account.chats()] == [("alice", "request")]
        before = alice.info(alice.group("bob").id)
        used = {member.address for member in before.members}
        assert not any(isinstance(command, ClaimGate) for command in world.log)
        assert before.epoch == 1
        await bob.account.chat("alice").accept()
        await world.settle()
        info = alice.info(alice.group("bob").id)
        assert info.epoch == 2
        assert len(used & {member.address for member in info.members}) == 1
        await alice.account.chat("bob").send_text("still open")
        await world.settle()
        assert bob.texts("alice") == ["hello", "still open"]

    run(story())


@spec("DEV-31", "DEV-42")
def test_request_takes_nobody_back_before_it_is_accepted(world: World) -> None:
    async def story() -> None:
        alice, bob = await meet_by_last_resort(world)
        with alice.vault.work():
            alice.engine.rejoin.lost(alice.group("bob").id, "a modified client")
        await world.settle()
        assert alice.group("bob").standing == "rejoin"
        assert bob.store.count_chores("grant") == 0
        assert not any(isinstance(command, ClaimGate) for command in world.log)
        world.now_ms += DAY_MS + 1000
        await world.settle()
        await alice.account.chat("bob").send_text("in a successor")
        await world.settle()
        assert bob.texts("alice") == ["hello", "in a successor"]
        assert [(chat.name, chat.state) for chat in bob.account.chats()] == [("alice", "request")]

    run(story())


@spec("CNT-12", "DEV-42")
def test_stranger_who_is_unblocked_is_a_request_again_and_told_nothing_until_accepted(world: World) -> None:
    async def story() -> None:
        _alice, bob = await friends(world, "alice", "bob")
        carol = await world.person("carol").join()
        await carol.account.add(bob.contact_link)
        await carol.account.chat("bob").send_text("let me in")
        await world.settle()
        await bob.account.chat("carol").block()
        await bob.account.chat("alice").block()
        await world.settle()
        sent = sum(isinstance(command, Send) for command in world.log)
        await bob.account.chat("carol").unblock()
        await world.settle()
        assert bob.account.chat("carol").state == "request"
        assert sum(isinstance(command, Send) for command in world.log) == sent
        await bob.account.chat("alice").unblock()
        await bob.account.chat("carol").accept()
        await world.settle()
        await bob.account.chat("carol").send_text("come in")
        await carol.account.chat("bob").send_text("thank you")
        await world.settle()
        assert bob.texts("carol") == ["let me in", "come in", "thank you"]
        assert carol.states("bob")[0] == "delivered"
        await bob.account.chat("carol").block()
        await bob.account.chat("carol").unblock()
        assert [chat.state for chat in bob.account.chats()] == ["open", "open"]

    run(story())


@spec("DEV-42")
def test_what_a_blocked_peer_sends_to_a_last_resort_is_dropped(world: World) -> None:
    async def story() -> None:
        alice, bob = await meet_by_last_resort(world)
        await bob.account.chat("alice").block()
        await world.settle()
        sends = sum(isinstance(command, Send) for command in world.log)
        await alice.account.chat("bob").send_text("are you there?")
        with alice.store.write():
            alice.store.add_chore("update", alice.group("bob").id, b"", world.now_ms)
        await alice.account.chat("bob").send_text("in the next epoch")
        world.now_ms += 3_600_000
        await world.settle()
        assert bob.texts("alice") == ["hello"]
        assert bob.account.chat("alice").state == "blocked"
        assert bob.notices() == []
        assert alice.states("bob") == ["kept"] * 3
        with alice.vault.work():
            alice.engine.rejoin.lost(alice.group("bob").id, "a test")
        await world.settle()
        assert bob.store.count_chores("grant") == 0
        assert sum(isinstance(command, Send) for command in world.log) > sends
        assert bob.store.outbox_size() == 0

    run(story())


# ---------------------------------------------------------------- members of a group


@spec("CNT-02")
def test_member_that_uses_the_id_of_another_suppresses_nothing(world: World) -> None:
    async def story() -> None:
        alice, bob, carol = await three(world)
        row, hers = alice.store.chat_named("group"), carol.store.chat_named("group")
        assert row is not None and hers is not None
        stolen = alice.engine.outbox.queue(row, lambda message, n, at_ms: Text(message, n, at_ms, "of alice"))
        carol.engine.outbox.queue(hers, lambda _, n, at_ms: Text(stolen, n, at_ms, "of carol"))
        end = bob.store.journal_end()
        await world.settle(carol, bob)
        await world.settle()
        assert bob.texts("group") == ["of carol", "of alice"]
        events = [bob.account._describe(entry) for entry in bob.store.journal_after(end)]
        said = [(event.message.sender, event.message.text) for event in events if isinstance(event, MessageReceived)]
        assert said == [("carol", "of carol"), ("alice", "of alice")]

    run(story())


@spec("CNT-15", "DEV-13")
def test_new_member_is_not_sent_again_what_was_written_before_it_came(world: World) -> None:
    async def story() -> None:
        alice, bob, _ = await three(world)
        dave = await world.person("dave").join()
        await alice.account.chat("group").send_text("before")
        await world.settle()
        world.now_ms += 1_000
        claimed = await alice.engine.contacts.claim(parse_contact_link(dave.contact_link).address)
        group_id = alice.group("group").id
        assert await alice.engine.gates.change(group_id, lambda core, info: {"adds": [claimed.key_package]})
        await world.settle()
        world.now_ms += 1_000
        await alice.account.chat("group").send_text("after")
        await world.settle()
        await dave.account.chats()[0].accept()
        await world.settle()
        name = dave.account.chats()[0].name
        assert dave.texts(name) == ["after"]
        for one, chat in ((dave, name), (bob, "group")):
            with one.store.write():
                one.store._run("DELETE FROM messages")
            row = one.store.chat_named(chat)
            assert row is not None
            request = encode(ResendRequest(bytes(16), 0, 1, list(range(1, 10))))
            one.store.queue_content(row.id, None, request, world.now_ms, alice.vault.device)
        await world.settle()
        assert dave.texts(name) == ["after"]
        assert bob.texts("group") == ["before", "after"]

    run(story())
