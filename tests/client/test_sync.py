"""The engine, step by step: two people from the first contact on, receipts, gaps, lost answers, crashes."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from taube.client.errors import HomeUnusable, NoAccount, WrongInput
from taube.client.inbox import Delivery
from taube.client.transport import ConnectionLost
from taube.wire.errors import BUSY, WireError
from taube.wire.messages import Deliver, Register, Send
from tests.client.fake_server import DAY_MS, Client, World, friends
from tests.spec import spec


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 60))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@spec("DEV-10", "DEV-40")
def test_two_people_write_to_each_other(world: World) -> None:
    async def story() -> None:
        alice = await world.person("alice").join()
        bob = await world.person("bob").join()
        chat = await alice.account.add(bob.contact_link)
        assert (chat.name, chat.state) == ("bob", "open")
        await chat.send_text("hello")
        await world.settle()
        assert [(c.name, c.state, c.unread) for c in bob.account.chats()] == [("alice", "request", 1)]
        assert alice.states("bob") == ["kept"]
        await bob.account.chat("alice").accept()
        await world.settle()
        assert alice.states("bob") == ["delivered"]
        await bob.account.chat("alice").send_text("hi")
        await world.settle()
        assert alice.texts("bob") == ["hello", "hi"] == bob.texts("alice")
        async for _ in bob.account.read():
            pass
        await world.settle()
        assert alice.states("bob") == ["read"]
        assert not world.devices[bob.vault.device].mailbox

    run(story())


@spec("DEV-41")
def test_two_who_add_each_other_at_once_use_one_group_and_lose_nothing(world: World) -> None:
    async def story() -> None:
        for n in range(4):
            alice = await world.person(f"alice{n}").join()
            bob = await world.person(f"bob{n}").join()
            await alice.account.add(bob.contact_link)
            await bob.account.add(alice.contact_link)
            await alice.account.chat(bob.name).send_text("from alice")
            await bob.account.chat(alice.name).send_text("from bob")
            await world.settle()
            assert len(alice.account.chats()) == len(bob.account.chats()) == 1
            assert alice.account.chats()[0].state == bob.account.chats()[0].state == "open"
            assert alice.group(bob.name).id == bob.group(alice.name).id
            assert alice.group(bob.name).id == min(group.id for group in alice.store.groups())
            await alice.account.chat(bob.name).send_text("again")
            await world.settle()
            assert sorted(bob.texts(alice.name)) == ["again", "from alice", "from bob"]
            assert sorted(alice.texts(bob.name)) == ["again", "from alice", "from bob"]

    run(story())


@spec("CNT-02", "DEV-11", "DEV-03")
def test_lost_answer_to_a_send_is_repeated_with_the_same_bytes_and_shown_once(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        await alice.account.chat("bob").send_text("once")
        bodies: list[bytes] = []

        def fault(command: Any) -> str | None:
            if isinstance(command, Send):
                bodies.append(command.body)
                return "after"
            return None

        world.fault = fault
        for _ in range(3):
            with pytest.raises(ConnectionLost):
                await alice.engine.send()
            alice.restart()
        world.fault = lambda command: None
        await world.settle()
        assert bob.texts("alice") == ["once"]
        assert len(bodies) == 3 and len(set(bodies)) == 1

    run(story())


@spec("DEV-02", "DEV-03")
def test_crash_before_the_acknowledgement_repeats_work_but_shows_nothing_twice(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        for n in range(5):
            await alice.account.chat("bob").send_text(str(n))
        await alice.engine.send()
        batch = list(bob.link.arrived)
        bob.engine.inbox.receive([Delivery(e.serial, e.body) for e in batch if isinstance(e, Deliver)])
        bob.restart()  # it was all stored, nothing was acknowledged
        await world.settle()
        assert bob.texts("alice") == ["0", "1", "2", "3", "4"]
        assert not world.devices[bob.vault.device].mailbox

    run(story())


@spec("DEV-01")
def test_failure_while_storing_loses_neither_message_nor_key(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        for n in range(3):
            await alice.account.chat("bob").send_text(str(n))
        await alice.engine.send()
        real, left = bob.store.put_row, [2]

        def failing(scope: bytes, name: bytes, value: bytes | None) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise HomeUnusable("the disk is full")
            real(scope, name, value)

        bob.store.put_row = failing  # type: ignore[method-assign]
        with pytest.raises(HomeUnusable):
            await bob.step()
        bob.store.put_row = real  # type: ignore[method-assign]
        bob.link = None
        await world.settle()
        assert bob.texts("alice") == ["0", "1", "2"]

    run(story())


@spec("DEV-12")
def test_message_to_a_full_mailbox_waits_and_is_delivered_in_order(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        world.full.add(bob.vault.device)
        for n in range(3):
            await alice.account.chat("bob").send_text(str(n))
        await world.settle()
        assert alice.states("bob") == ["queued"] * 3
        due_ms = alice.store.outbox_due_ms()
        assert due_ms is not None and due_ms > world.now_ms  # what waits behind is not looked at again and again
        world.full.clear()
        world.now_ms += 2 * 3_600_000
        await world.settle()
        assert bob.texts("alice") == ["0", "1", "2"]
        assert alice.states("bob") == ["delivered"] * 3

    run(story())


@spec("DEV-12")
def test_clock_that_was_ahead_and_is_set_back_holds_nothing_up(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        world.full.add(bob.vault.device)
        world.now_ms += 20 * DAY_MS
        await alice.account.chat("bob").send_text("under the wrong clock")
        await world.settle()
        assert alice.states("bob") == ["queued"]
        world.full.clear()
        world.now_ms -= 20 * DAY_MS
        assert alice.link is not None
        await alice.link.close()
        await world.settle()
        assert bob.texts("alice") == ["under the wrong clock"]
        assert alice.states("bob") == ["delivered"]

    run(story())


@spec("DEV-12")
def test_undeliverable_for_30_days_is_shown_as_failed(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        world.full.add(bob.vault.device)
        await alice.account.chat("bob").send_text("never")
        for _ in range(32):
            await world.settle()
            world.now_ms += DAY_MS
        assert alice.states("bob") == ["failed"]
        assert alice.store.outbox_size() == 0

    run(story())


@spec("CNT-11", "CNT-12", "DEV-42")
def test_stranger_gets_no_receipt_before_and_receipts_after_being_accepted(world: World) -> None:
    async def story() -> None:
        alice = await world.person("alice").join()
        bob = await world.person("bob").join()
        await alice.account.add(bob.contact_link)
        await alice.account.chat("bob").send_text("may I?")
        await world.settle()
        async for batch in bob.account.read():
            assert [message.text for message in batch] == ["may I?"]
        await world.settle()
        assert alice.states("bob") == ["kept"]
        await bob.account.chat("alice").accept()
        await world.settle()
        assert alice.states("bob") == ["read"]

    run(story())


@spec("DEV-42")
def test_blocked_chat_hears_nothing_more_and_can_be_let_in_again(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        await bob.account.chat("alice").block()
        await world.settle()
        await alice.account.chat("bob").send_text("refused")
        await world.settle()
        assert bob.texts("alice") == []
        assert alice.states("bob") == ["failed"]
        with pytest.raises(WrongInput):
            await bob.account.chat("alice").send_text("no")
        await bob.account.chat("alice").accept()
        await world.settle()
        await alice.account.chat("bob").send_text("thank you")
        await world.settle()
        assert "thank you" in bob.texts("alice")

    run(story())


@spec("DEV-43")
def test_names_that_clash_get_a_number_and_a_stranger_with_a_known_name_is_told_apart(world: World) -> None:
    async def story() -> None:
        (bob, _alice) = await friends(world, "bob", "alice")
        other = await world.person("alice", "other").join()
        await other.account.add(bob.contact_link)
        await world.settle()
        assert sorted(chat.name for chat in bob.account.chats()) == ["alice", "alice-2"]
        assert any("another account" in text for text in bob.notices())

    run(story())


@spec("CNT-13")
def test_typing_is_seen_by_those_who_are_there_and_stored_by_nobody(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        await alice.account.chat("bob").typing()
        await bob.step()
        assert [entry.text for entry in bob.store.journal_after(0) if entry.kind == "typing"] == ["1"]
        bob.link = None
        world.devices[bob.vault.device].link = None
        await alice.account.chat("bob").typing(False)
        assert not world.devices[bob.vault.device].mailbox

    run(story())


@spec("CNT-30")
def test_links_that_cannot_be_meant_are_refused_in_a_sentence(world: World) -> None:
    async def story() -> None:
        alice = await world.person("alice").join()
        for link in ("", "x", "https://chat.example.org/i#AAAA", "https://chat.example.org/c#AAAA", alice.contact_link):
            with pytest.raises(WrongInput):
                await alice.account.add(link)
        with pytest.raises(NoAccount, match="no chat"):
            alice.account.chat("nobody")

    run(story())


@spec("DEV-02")
def test_envelope_that_nobody_can_read_does_not_block_the_mailbox(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        info = alice.info(alice.group("bob").id)
        address = next(member.address for member in info.members if member.account_id == bob.vault.account)
        for n in range(100):
            world._deliver(address, bytes([n]) * 300, 0)
        await alice.account.chat("bob").send_text("readable")
        await world.settle()
        assert bob.texts("alice") == ["readable"]
        assert not world.devices[bob.vault.device].mailbox

    run(story())


@spec("DEV-44")
def test_key_packages_are_filled_up_and_replaced_after_30_days(world: World) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        device = world.devices[bob.vault.device]
        assert {suite: len(packages) for suite, packages in device.packages.items()} == {0x4F: 8, 1: 8}
        assert set(device.last_resorts) == {0x4F, 1}
        first = set(device.packages[0x4F])
        del device.packages[0x4F][3:]
        bob.link = None
        await bob.step()
        assert len(device.packages[0x4F]) == 8
        world.now_ms += 31 * DAY_MS
        bob.link = None
        await bob.step()
        assert len(device.packages[0x4F]) == len(device.packages[1]) == 8
        assert not first & set(device.packages[0x4F])
        kept = len(bob.store.packages())
        world.now_ms += 32 * DAY_MS
        bob.link = None
        await bob.step()
        await bob.step()
        assert len(bob.store.packages()) < kept + 18

    run(story())


@spec("DEV-45")
def test_join_that_lost_its_answer_can_be_repeated(world: World) -> None:
    async def story() -> None:
        bob = world.person("bob")
        world.fault = lambda command: "after" if isinstance(command, Register) else None
        with pytest.raises(ConnectionLost):
            await bob.join()
        account = bob.vault.account
        world.fault = lambda command: None
        await bob.join()
        assert bob.vault.account == account
        assert bob.contact_link

    run(story())


@spec("DEV-45")
def test_who_joins_while_the_server_is_behind_waits_twice_and_is_told_then(world: World) -> None:
    async def story() -> None:
        refusals = iter([BUSY] * 2 + [None] + [BUSY] * 3)
        world.fault = lambda command: next(refusals) if isinstance(command, Register) else None
        bob, carol = world.person("bob"), world.person("carol")
        await bob.join()
        assert bob.contact_link
        with pytest.raises(WireError) as told:
            await carol.join()
        assert told.value.kind is BUSY
        assert list(refusals) == []

    run(story())


@spec("DEV-04")
def test_two_processes_of_one_home_share_state_and_never_use_a_key_twice(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        second = Client(world, "alice", alice.folder)
        for n in range(10):
            await alice.account.chat("bob").send_text(f"first {n}")
            await second.account.chat("bob").send_text(f"second {n}")
            await (alice if n % 2 else second).engine.send()
        await world.settle()
        expected = [f"{who} {n}" for n in range(10) for who in ("first", "second")]
        assert bob.texts("alice") == expected
        assert alice.states("bob") == ["delivered"] * 20

    run(story())
