"""What the engine owes after a crash, a lost answer, a reconnect or a restored server: it remembers, and does it."""

import asyncio
import os
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from taube.client.errors import DeviceReplaced, TryLater
from taube.client.outbox import BATCH
from taube.client.store import Chore
from taube.client.transport import ConnectionLost
from taube.wire.errors import ACCOUNT_UNKNOWN, RATE_LIMITED
from taube.wire.messages import (
    ClaimGate,
    ClaimKeyPackage,
    DeleteAccount,
    FetchCertificate,
    LoggedIn,
    PublishKeyPackages,
    Send,
)
from tests.client.fake_server import DAY_MS, Client, World, friends
from tests.client.test_rejoin import away
from tests.spec import spec


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 60))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@spec("DEV-10", "DEV-25")
def test_after_a_reconnect_nothing_is_protected_or_claimed_before_the_mailbox_was_read_again(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        alice.engine._lock = alice.store.home.try_lock("device")
        await alice.account.chat("bob").send_text("waits")
        with alice.store.write():
            alice.store.add_chore("update", alice.group("bob").id, b"", world.now_ms)
        alice.link = await alice.engine.connect()
        before = len(world.log)
        await alice.engine.do_chores()
        await alice.engine.send()
        assert world.log[before:] == []
        await world.settle()
        assert bob.texts("alice") == ["waits"]

    run(story())


def test_chore_that_is_interrupted_is_not_put_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        alice, _ = await friends(world, "alice", "bob")
        with alice.store.write():
            alice.store.add_chore("update", alice.group("bob").id, b"", world.now_ms)
        begun = asyncio.Event()

        async def never_done(chore: Chore) -> None:
            begun.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as patched:
            patched.setattr(alice.engine, "_do", never_done)
            chores = asyncio.create_task(alice.engine.do_chores())
            await begun.wait()
            chores.cancel()
            await asyncio.gather(chores, return_exceptions=True)
        assert [(chore.kind, chore.tries) for chore in alice.store.chores_due(world.now_ms)] == [("update", 0)]
        await alice.engine.do_chores()
        assert alice.store.chores_due(world.now_ms + DAY_MS) == []

    run(story())


@spec("DEV-10")
def test_what_is_being_sent_when_the_connection_is_renewed_stops_after_what_is_protected(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        alice.engine._lock = alice.store.home.try_lock("device")
        for n in range(BATCH + 3):
            await alice.account.chat("bob").send_text(str(n))

        def fault(command: Any) -> None:
            if isinstance(command, Send):
                alice.engine.caught_up = False  # as `connect` does, meanwhile

        world.fault = fault
        await alice.engine.send()
        assert [row.body for row in alice.store.outgoing()] == [None] * 3
        world.fault = lambda command: None
        alice.link = None
        await world.settle()
        assert bob.texts("alice") == [str(n) for n in range(BATCH + 3)]

    run(story())


# ---------------------------------------------------------------- key packages


async def _cut_while_publishing(world: World, bob: Client, when: str) -> None:
    """Bob connects, and loses the connection around his publishing."""
    bob.link = None
    world.fault = lambda command: when if isinstance(command, PublishKeyPackages) else None
    with pytest.raises(ConnectionLost):
        await bob.step()
    world.fault = lambda command: None
    bob.restart()


@spec("DEV-44")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("why", ["age", "remint", "generation"])
def test_replacing_key_packages_is_taken_up_again_when_the_connection_was_lost(
    world: World, why: str, when: str
) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        device = world.devices[bob.vault.device]
        first = {suite: {*packages, device.last_resorts[suite]} for suite, packages in device.packages.items()}
        if why == "age":
            world.now_ms += 31 * DAY_MS
        elif why == "generation":
            world.generation = os.urandom(16)
        else:
            _ask_for_new_addresses_once(bob)
        await _cut_while_publishing(world, bob, when)
        await bob.step()
        for suite, packages in first.items():
            assert len(device.packages[suite]) == 8
            assert not packages & {*device.packages[suite], device.last_resorts[suite]}
        made = len(bob.store.packages())
        bob.link = None
        await bob.step()
        assert len(bob.store.packages()) == made

    run(story())


def _ask_for_new_addresses_once(bob: Client) -> None:
    """The next login of *bob* hears that his mailbox was renewed."""
    real = bob.network.device

    async def device(*arguments: Any) -> Any:
        bob.network.device = real  # type: ignore[method-assign]
        link = await real(*arguments)
        addresses = bob.world.addresses
        bob.world.addresses = {address: to for address, to in addresses.items() if to[0] != bob.vault.device}
        left = link.logged_in
        link.logged_in = LoggedIn(1, left.classic_left, left.hybrid_left, left.last_resorts, remint=True)
        return link

    bob.network.device = device  # type: ignore[method-assign,assignment]


@spec("DEV-44")
def test_private_keys_are_kept_while_their_packages_may_still_be_on_offer(world: World) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        alice = await world.person("alice").join()
        world.now_ms += 31 * DAY_MS
        await _cut_while_publishing(world, bob, "before")
        await alice.account.add(bob.contact_link)
        await alice.engine.send()
        world.now_ms += 32 * DAY_MS
        await bob.step()
        assert [chat.name for chat in bob.account.chats()] == ["alice"]

    run(story())


# ---------------------------------------------------------------- the server's clock


@spec("DEV-27")
def test_connections_that_die_before_the_mailbox_was_read_do_not_count_as_synchronised(world: World) -> None:
    async def story() -> None:
        _alice, bob = await friends(world, "alice", "bob")
        for _ in range(2):
            assert bob.group("alice").standing == "current"
            world.now_ms += 20 * DAY_MS
            bob.restart()
            await bob.engine.connect()  # it dies before it reads anything
        assert bob.group("alice").standing == "rejoin"

    run(story())


@spec("DEV-26", "DEV-27")
def test_server_restored_with_an_older_clock_counts_the_days_away_from_then_on(world: World) -> None:
    async def story() -> None:
        _alice, bob = await friends(world, "alice", "bob")
        world.generation = os.urandom(16)
        world.now_ms -= 20 * DAY_MS
        bob.link = None
        await bob.step()
        assert bob.group("alice").standing == "current"
        world.now_ms += 31 * DAY_MS
        bob.restart()
        await bob.engine.connect()
        assert bob.group("alice").standing == "rejoin"

    run(story())


# ---------------------------------------------------------------- a renewed mailbox


@spec("DEV-02")
def test_welcome_that_waited_while_the_mailbox_was_renewed_is_read(world: World) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        alice = await world.person("alice").join()
        await alice.account.add(bob.contact_link)
        await alice.account.chat("bob").send_text("hello")
        await world.settle(alice)
        _ask_for_new_addresses_once(bob)
        bob.link = None
        old = bob.store.addresses("link")[0]
        await world.settle()
        assert bob.texts("alice") == ["hello"]
        assert [address.purpose for address in (bob.store.address(old.serial),) if address] == ["dead"]
        assert bob.store.addresses("link")[0] != old
        await alice.account.chat("bob").send_text("to the new address")
        await world.settle()
        assert bob.texts("alice") == ["hello", "to the new address"]
        world.now_ms += 32 * DAY_MS
        bob.link = None
        await world.settle()
        assert bob.store.addresses("dead") == []

    run(story())


# ---------------------------------------------------------------- chores


@spec("DEV-20")
def test_claim_that_the_server_refuses_holds_up_no_other_work_and_is_tried_again_later(world: World) -> None:
    async def story() -> None:
        alice, bob, carol = await friends(world, "alice", "bob", "carol")
        to_bob, to_carol = alice.group("bob").id, alice.group("carol").id
        alice.engine.gates.stage(to_bob, lambda core, info: {"update": True})
        alice.engine.gates.stage(to_carol, lambda core, info: {"update": True})
        refused = alice.store.all_pending()[0]
        claims: list[bytes] = []

        def fault(command: Any) -> Any:
            if not isinstance(command, ClaimGate):
                return None
            claims.append(command.name)
            return RATE_LIMITED if command.name == refused.name else None

        world.fault = fault
        with alice.store.write():
            alice.store.add_chore("revoke", b"12345678", b"", world.now_ms)
        for _ in range(3):
            await alice.engine.do_chores()
        assert alice.store.count_chores("revoke") == 0
        assert alice.store.all_pending() == [refused]
        assert claims.count(refused.name) == 1
        world.fault = lambda command: None
        world.now_ms += 6_000
        await world.settle()
        assert alice.store.all_pending() == []
        assert alice.info(to_bob).epoch == bob.info(to_bob).epoch
        assert alice.info(to_carol).epoch == carol.info(to_carol).epoch

    run(story())


@spec("DEV-26")
@pytest.mark.parametrize("chores_come_between", [False, True])
def test_gates_owed_to_a_restored_server_are_claimed_whatever_came_between(
    world: World, chores_come_between: bool
) -> None:
    async def story() -> None:
        alice, _bob = await friends(world, "alice", "bob")
        await alice.engine.gates.change(alice.group("bob").id, lambda core, info: {"update": True})
        await world.settle()
        world.generation = os.urandom(16)
        world.gates.clear()
        world.fault = lambda command: "before" if isinstance(command, ClaimGate) else None
        with pytest.raises(ConnectionLost):
            await alice.engine.connect()
        world.fault = lambda command: None
        assert alice.store.count_chores("reclaim") == 1
        if chores_come_between:
            await alice.engine.do_chores()  # of the connection before
        else:
            await alice.engine.connect()
        assert alice.store.count_chores("reclaim") == 0
        passed = alice.store.passed(alice.group("bob").id)
        assert passed is not None and world.gates == {passed.name: passed.value}

    run(story())


@spec("DEV-22", "DEV-28")
@pytest.mark.parametrize("kind", ["update", "remove"])
def test_change_that_did_not_come_about_is_tried_again_with_growing_waits(world: World, kind: str) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        group_id = alice.group("bob").id
        subject = group_id if kind == "update" else group_id + bob.vault.account + bob.vault.device
        real, tries = alice.engine.gates.change, 0

        async def lost(*_: Any) -> bool:
            nonlocal tries
            tries += 1
            return False

        alice.engine.gates.change = lost  # type: ignore[method-assign,assignment]
        with alice.store.write():
            alice.store.add_chore(kind, subject, b"", world.now_ms)
        for _ in range(3):
            await alice.engine.do_chores()
        assert tries == 1
        assert alice.store.count_chores(kind) == 1
        alice.engine.gates.change = real  # type: ignore[method-assign]
        world.now_ms += 6_000
        epoch = alice.info(group_id).epoch
        await alice.engine.do_chores()
        assert alice.info(group_id).epoch == epoch + 1
        assert alice.store.count_chores(kind) == 0

    run(story())


# ---------------------------------------------------------------- copied homes, asking to be taken back


@spec("DEV-05", "DEV-13")
def test_what_waited_when_the_home_was_copied_is_numbered_anew_and_nobody_misses_anything(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        for n in range(5):
            await bob.account.chat("alice").send_text(f"before {n}")
            await world.settle()
        await bob.account.chat("alice").send_text("queued when copied")
        await bob.account.chat("alice").send_text("queued too")
        bob.store.close()
        shutil.copytree(bob.folder, world.folder / "copy")
        copy = world.person("bob", "copy")
        copy.engine.devices.start_anew()
        world.people = [alice, copy]
        await world.settle()
        await copy.account.chat("alice").send_text("from the copy")
        await world.settle()
        assert alice.texts("bob")[5:] == ["queued when copied", "queued too", "from the copy"]
        assert alice.store.next_gap_ms() is None
        assert copy.states("alice")[-3:] == ["delivered"] * 3

    run(story())


@spec("DEV-05", "DEV-13")
def test_what_one_device_missed_when_the_home_was_copied_goes_to_it_alone_and_without_a_number(world: World) -> None:
    async def story() -> None:
        alice, bob, _carol = await friends(world, "alice", "bob", "carol")
        chat = bob.store.chat_named("alice")
        assert chat is not None
        await bob.account.chat("alice").send_text("missed")
        (waiting,) = bob.store.outgoing()
        with bob.store.write():
            bob.store.forget_outgoing(waiting.n)
            bob.engine.outbox.resend(chat.id, [chat.next_sequence], alice.vault.device)
        bob.store.close()
        shutil.copytree(bob.folder, world.folder / "copy")
        copy = world.person("bob", "copy")
        copy.engine.devices.start_anew()
        (again,) = [row for row in copy.store.outgoing() if row.chat == chat.id]
        assert again.only_device == alice.vault.device
        world.people = [alice, copy]
        await world.settle()
        assert alice.texts("bob") == ["missed"]
        assert alice.store.next_gap_ms() is None

    run(story())


@spec("DEV-44")
def test_packages_made_for_asking_are_given_up_with_their_private_parts(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        await away(world, bob, 31)
        await bob.step()
        asked = [package.ref for package in bob.store.packages() if package.chat is not None]
        assert asked
        world.offline.add("alice")
        alice.link = None
        for days in (59, 3):
            assert all(bob.store.package(ref) for ref in asked)
            world.now_ms += days * DAY_MS
            bob.link = None
            await bob.step()
        assert not any(bob.store.package(ref) for ref in asked)

    run(story())


@spec("DEV-50")
def test_own_certificate_is_asked_for_apart_from_what_is_claimed_of_contacts(world: World) -> None:
    async def story() -> None:
        alice = await world.person("alice").join()
        bob = await world.person("bob").join()
        seen: list[tuple[str, bool]] = []
        real = bob.network.anonymous

        async def anonymous(purpose: str) -> Any:
            world.fault = lambda command: _look(purpose, command)
            return await real(purpose)

        def _look(purpose: str, command: Any) -> None:
            if isinstance(command, FetchCertificate | ClaimKeyPackage):
                seen.append((purpose, getattr(command, "account", None) == bob.vault.account))

        bob.network.anonymous = anonymous  # type: ignore[method-assign]
        await bob.engine.devices.restore_list()
        await bob.account.add(alice.contact_link)
        await bob.engine.devices.fetch_certificate(alice.vault.account)
        assert seen == [("register", True), ("keys", False), ("keys", False)]

    run(story())


# ---------------------------------------------------------------- deleting the account


@spec("DEV-45")
def test_deletion_that_lost_its_answer_erases_the_home_when_it_is_repeated(world: World) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        bob.engine.link = bob.link
        world.fault = lambda command: "after" if isinstance(command, DeleteAccount) else None
        with pytest.raises(TryLater, match="not known"):
            await bob.account.delete()
        assert bob.vault.account not in world.accounts
        bob.restart()
        with pytest.raises(DeviceReplaced) as gone:
            await bob.step()
        bob.engine._end(gone.value)
        await bob.account.delete()
        assert not bob.folder.exists()

    run(story())


@spec("DEV-45")
@pytest.mark.parametrize("first", ["before", ACCOUNT_UNKNOWN])
def test_deletion_can_be_repeated_until_the_server_says_that_there_is_no_such_account(world: World, first: Any) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        bob.engine.link = bob.link
        world.fault = lambda command: first if isinstance(command, DeleteAccount) else None
        if first == "before":
            with pytest.raises(TryLater):
                await bob.account.delete()
            assert bob.store.meta("account")
            world.fault = lambda command: None
        await bob.account.delete()
        assert not bob.folder.exists()

    run(story())


@spec("DEV-45")
def test_deletion_does_not_begin_while_the_server_does_not_answer(world: World) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        bob.engine.link = bob.link
        tried: list[Any] = []

        def fault(command: Any) -> str:
            tried.append(command)
            return "before"

        world.fault = fault
        with pytest.raises(TryLater) as failed:
            await bob.account.delete()
        assert "not known" not in str(failed.value)
        assert not any(isinstance(command, DeleteAccount) for command in tried)
        assert not bob.store.meta_int("deleting")

    run(story())


@spec("DEV-45")
def test_deletion_that_is_refused_or_after_which_the_device_logs_in_is_none(world: World) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        bob.engine.link = bob.link
        faults: list[Any] = [RATE_LIMITED, "before"]
        world.fault = lambda command: faults[0] if isinstance(command, DeleteAccount) else None
        with pytest.raises(TryLater):
            await bob.account.delete()
        assert not bob.store.meta_int("deleting")
        faults.pop(0)
        with pytest.raises(TryLater, match="not known"):
            await bob.account.delete()
        assert bob.store.meta_int("deleting")
        bob.restart()
        await bob.step()
        assert not bob.store.meta_int("deleting")

    run(story())


@spec("DEV-45")
def test_deletion_that_never_came_to_be_erases_nothing_when_a_copy_took_over(world: World) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        bob.engine.link = bob.link
        world.fault = lambda command: "before" if isinstance(command, DeleteAccount) else None
        with pytest.raises(TryLater):
            await bob.account.delete()
        bob.engine._end(DeviceReplaced("another copy took over"))
        with pytest.raises(DeviceReplaced):
            await bob.account.delete()
        assert bob.store.meta("account")

    run(story())


@spec("DEV-45")
def test_home_that_was_replaced_by_a_copy_is_not_erased_if_nobody_wanted_that_before(world: World) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        bob.engine._end(DeviceReplaced("another copy took over"))
        with pytest.raises(DeviceReplaced):
            await bob.account.delete()
        assert bob.store.meta("account")

    run(story())
