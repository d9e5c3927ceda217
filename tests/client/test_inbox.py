"""What arrives too early, twice, under another address, or in a flood that someone made."""

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from taube.client import contacts
from taube.client.contacts import Claimed, parse_contact_link
from taube.client.e2e import KIND_GROUP, SUITE_HYBRID, GroupContext, Received, StrangerMail
from taube.client.inbox import Delivery
from taube.client.store import Chat
from taube.wire.errors import ACCOUNT_UNKNOWN, RATE_LIMITED
from taube.wire.messages import Deliver, FetchCertificate, Send
from tests.client.fake_server import Client, World, friends
from tests.spec import spec


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 120))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def lose_first_send(world: World, client: Client) -> list[Send]:
    """Let *client* send, but refuse its first envelope for now; what it tried to send."""
    tried: list[Send] = []

    def fault(command: Any) -> Any:
        if isinstance(command, Send):
            tried.append(command)
            return RATE_LIMITED if len(tried) == 1 else None
        return None

    world.fault = fault
    await client.engine.send()
    world.fault = lambda command: None
    return tried


# ---------------------------------------------------------------- too early


@spec("DEV-02")
@pytest.mark.parametrize("last_resort", [False, True])
def test_contents_that_overtake_their_welcome_are_read_after_it(world: World, last_resort: bool) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        alice = await world.person("alice").join()
        if last_resort:
            world.devices[bob.vault.device].packages[SUITE_HYBRID].clear()
        await alice.account.add(bob.contact_link)
        await alice.account.chat("bob").send_text("hello")
        assert len(await lose_first_send(world, alice)) > 1
        await bob.step()
        assert bob.account.chats() == []
        assert not world.devices[bob.vault.device].mailbox
        world.now_ms += 5_000
        await world.settle()
        assert [(chat.name, chat.state) for chat in bob.account.chats()] == [("alice", "request")]
        assert bob.texts("alice") == ["hello"]
        assert bob.store.chats_with_aside() == []

    run(story())


# ---------------------------------------------------------------- under another address


@spec("DEV-03")
def test_an_envelope_seen_first_under_another_address_is_read_all_the_same(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        await alice.account.chat("bob").send_text("hi")
        (tried,) = await lose_first_send(world, alice)
        world._deliver(bob.store.addresses("link")[0].address, tried.body, 0)
        await bob.step()
        assert bob.texts("alice") == []
        world.now_ms += 5_000
        await world.settle()
        assert bob.texts("alice") == ["hi"]
        assert alice.states("bob") == ["delivered"]

    run(story())


@spec("DEV-03")
@pytest.mark.parametrize("body", [b"junk of any kind", None])
def test_an_envelope_that_was_decided_is_not_opened_again(world: World, body: bytes | None) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        serial = bob.store.addresses("link")[0].serial
        if body is None:
            await alice.account.chat("bob").send_text("once")
            await alice.engine.send()
            (event,) = [each for each in bob.link.arrived if isinstance(each, Deliver)]
            serial, sent = bytes(event.serial), bytes(event.body)
            await world.settle()
        else:
            sent = body
            bob.engine.inbox.receive([Delivery(serial, sent)])
        opened = []
        core = bob.vault.core
        for name in ("receive", "open_from_stranger"):
            setattr(core, name, lambda *arguments, name=name: opened.append(name))
        bob.engine.inbox.receive([Delivery(serial, sent)] * 3)
        assert opened == []
        assert bob.texts("alice") == (["once"] if body is None else [])

    run(story())


# ---------------------------------------------------------------- floods


def skip(client: Client, numbers: int) -> None:
    """Let the client's chats count on, as if that many messages had been lost."""
    with client.store.write():
        client.store._run("UPDATE chats SET next_sequence = next_sequence + ?", numbers)


def count(client: Client, table: str) -> int:
    return int(client.store._value(f"SELECT count(*) FROM {table}"))


@spec("DEV-13")
def test_a_request_makes_no_gaps(world: World) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        alice = await world.person("alice").join()
        await alice.account.add(bob.contact_link)
        skip(alice, 300)
        await alice.account.chat("bob").send_text("hello")
        await world.settle()
        assert bob.texts("alice") == ["hello"]
        assert count(bob, "gaps") == 0
        await bob.account.chat("alice").accept()
        await world.settle()
        await alice.account.chat("bob").send_text("again")
        await world.settle()
        assert count(bob, "gaps") == 0

    run(story())


@spec("DEV-13")
def test_gaps_of_a_device_are_bounded_and_one_line_says_that_more_is_missing(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        for n in range(3):
            skip(alice, 200)
            await alice.account.chat("bob").send_text(f"{n}")
            await world.settle()
        assert count(bob, "gaps") == 256
        more = "More messages are missing than can be asked for."
        assert bob.texts("alice") == ["0", more, "1", more, "2"]
        for _ in range(31):
            world.now_ms += 86_400_000
            await world.settle()
        assert count(bob, "gaps") == 0
        assert bob.texts("alice")[5:] == ["200 messages never arrived.", "56 messages never arrived."]

    run(story())


def forge_rejoins(client: Client, chat_id: bytes) -> None:
    """Let the client take bodies "FORGED" + account + device for requests to rejoin this chat."""
    real = client.vault.core.open_from_stranger

    def open_from_stranger(body: bytes) -> StrangerMail:
        if body.startswith(b"FORGED"):
            return StrangerMail("rejoin", b"", body[6:38], body[38:54], chat_id)
        return real(body)

    client.vault.core.open_from_stranger = open_from_stranger  # type: ignore[method-assign]


@spec("DEV-31")
def test_requests_to_rejoin_of_accounts_that_have_no_leaf_are_not_kept(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        info = bob.info(bob.group("alice").id)
        forge_rejoins(alice, info.context.chat_id)
        address = next(member.address for member in info.members if member.account_id == alice.vault.account)
        for size in (0, 5, *[32] * 20):
            world._deliver(address, b"FORGED" + os.urandom(size + 16), 0)
        alice.engine.receive(alice.link, alice.link.arrived)
        alice.link.arrived.clear()
        assert alice.store.count_chores("grant") == 0

    run(story())


@spec("DEV-31")
def test_requests_to_rejoin_of_one_account_are_bounded_and_end_with_a_final_refusal(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        info = bob.info(bob.group("alice").id)
        forge_rejoins(alice, info.context.chat_id)
        address = next(member.address for member in info.members if member.account_id == alice.vault.account)
        for _ in range(50):
            world._deliver(address, b"FORGED" + bob.vault.account + os.urandom(16), 0)
        alice.engine.receive(alice.link, alice.link.arrived)
        alice.link.arrived.clear()
        assert alice.store.count_chores("grant") == 16
        world.fault = lambda command: ACCOUNT_UNKNOWN if isinstance(command, FetchCertificate) else None  # type: ignore[assignment,return-value]
        await alice.engine.do_chores()
        assert alice.store.count_chores("grant") == 0

    run(story())


@spec("DEV-25")
def test_what_is_said_of_a_gate_is_kept_once_and_bounded(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        group = bob.store.group(bob.group("alice").id)
        assert group is not None
        sender = (alice.vault.account, alice.vault.device)

        def said(epoch: int, value: bytes) -> None:
            with bob.vault.work():
                bob.engine.inbox._take(group, Received("commit", sender, epoch, b"", 0, value))

        for _ in range(3):
            said(group.epoch, b"the same")
        assert count(bob, "told") == 1
        said(group.epoch - 1, b"of an epoch that is over")
        assert count(bob, "told") == 1
        for n in range(100):
            said(group.epoch, b"%d" % n)
        assert count(bob, "told") == 32
        await world.settle()
        assert count(bob, "told") == 0

    run(story())


# ---------------------------------------------------------------- strangers in numbers


async def only_a_last_resort(world: World) -> Client:
    bob = await world.person("bob").join()
    world.devices[bob.vault.device].packages[SUITE_HYBRID].clear()
    return bob


def states(client: Client) -> list[str]:
    return [chat.state for chat in client.account.chats()]


@spec("DEV-47")
def test_requests_that_came_to_one_address_are_bounded_and_those_that_are_there_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contacts, "MAX_REQUESTS_OF_SERIAL", 3)

    async def story() -> None:
        bob = await only_a_last_resort(world)
        strangers = [await world.person(f"stranger{n}").join() for n in range(6)]
        for one in strangers[:5]:
            await one.account.add(bob.contact_link)
            await world.settle()
        assert states(bob) == ["request"] * 3
        assert len(bob.store.groups()) == 3
        await strangers[0].account.chat("bob").send_text("one of the first")
        await world.settle()
        assert bob.texts("stranger0") == ["one of the first"]
        await strangers[5].account.add(bob.contact_link)
        await world.settle()
        assert len(states(bob)) == 3
        await bob.account.chat("stranger0").accept()
        await bob.account.chat("stranger1").block()
        late = await world.person("late").join()
        await late.account.add(bob.contact_link)
        await late.account.chat("bob").send_text("now there is room")
        await world.settle()
        assert bob.texts("late") == ["now there is room"]

    run(story())


def found(one: Client, world: World, claimed: Claimed, to: bytes) -> bytes:
    """A new group chat of *one* with the device whose key package was claimed; its id."""
    with one.vault.work():
        chat_id = os.urandom(16)
        name = f"group {chat_id.hex()}"
        one.store.add_chat(Chat(chat_id, name, "nobody", KIND_GROUP, "open", None, None, 1, world.now_ms))
        one.engine.contacts.found(chat_id, GroupContext(KIND_GROUP, chat_id, (one.vault.account,)), {to: claimed})
    return chat_id


@spec("DEV-47")
def test_requests_that_one_account_began_are_bounded_until_some_are_decided(world: World) -> None:
    async def story() -> None:
        bob = await only_a_last_resort(world)
        mallory = await world.person("mallory").join()
        link = parse_contact_link(bob.contact_link)
        claimed = await mallory.engine.contacts.claim(link.address)
        for _ in range(12):
            found(mallory, world, claimed, link.account)
        await world.settle()
        assert states(bob) == ["request"] * 8
        await bob.account.chats()[0].block()
        await world.settle()
        for _ in range(2):
            found(mallory, world, claimed, link.account)
        await world.settle()
        assert sorted(states(bob)) == ["blocked"] + ["request"] * 8
        (blocked,) = (chat for chat in bob.account.chats() if chat.state == "blocked")
        await blocked.unblock()
        assert states(bob) == ["request"] * 9
        await bob.account.chats()[0].accept()
        found(mallory, world, claimed, link.account)
        await world.settle()
        assert sorted(states(bob)) == ["open"] + ["request"] * 8

    run(story())


@spec("DEV-47")
def test_groups_of_one_chat_are_bounded_and_the_one_in_use_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contacts, "MAX_GROUPS", 4)

    async def story() -> None:
        bob = await only_a_last_resort(world)
        mallory = await world.person("mallory").join()
        link = parse_contact_link(bob.contact_link)
        claimed = await mallory.engine.contacts.claim(link.address)
        chat = found(mallory, world, claimed, link.account)
        await world.settle()

        async def succeed() -> None:
            world.now_ms += 1_000
            row = mallory.store.chat(chat)
            assert row is not None and row.group_id is not None
            info = mallory.info(row.group_id)
            with mallory.vault.work():
                context = info.context._replace(predecessor=(row.group_id, info.epoch))
                mallory.engine.contacts.found(chat, context, {link.account: claimed})
            await world.settle()

        for _ in range(5):
            await succeed()
        assert len(bob.store.groups()) == 2
        row, his = mallory.store.chat(chat), bob.account.chats()[0]
        assert row is not None and bob.group(his.name).id == row.group_id
        await his.accept()
        await world.settle()
        for _ in range(5):
            await succeed()
        assert len(bob.store.groups()) == len(mallory.store.groups()) == 4
        scopes = bob.store._rows("SELECT count(DISTINCT scope) FROM mls WHERE length(scope) = 32")
        assert scopes == [(4,)], "the core's rows of the others are gone too"
        await mallory.account.chat(chat.hex()).send_text("in the newest")
        await his.send_text("so it is")
        await world.settle()
        assert sorted(bob.texts(his.name)[-2:]) == ["in the newest", "so it is"]
        bob.restart()
        await bob.account.chats()[0].send_text("after a start")
        await world.settle()
        assert mallory.texts(chat.hex())[-1] == "after a start"

    run(story())
