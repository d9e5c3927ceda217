"""The SDK on a real server: two accounts in one process, several on one home, crashes, copies."""

import asyncio
import contextlib
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from taube.client.account import Account, Chat
from taube.client.errors import DeviceReplaced, HomeUnusable, NoAccount, Refused, UserError, WrongInput
from taube.client.events import CaughtUp, ChatChanged, Event, MessageChanged, MessageReceived
from taube.testing import Server
from tests.spec import spec


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 60))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    server = Server(folder, tls=False)
    server.start()
    yield server
    server.stop()


async def until(events: AsyncIterator[Event], kind: type[Any]) -> Any:
    """The next event of this kind."""
    async with asyncio.timeout(20):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError("the events ended")


async def pair(server: Server, folder: Path, stack: contextlib.AsyncExitStack) -> tuple[Account, Account, Chat, Chat]:
    """Alice and Bob, open, in an accepted chat; (alice, bob, alice's chat, bob's chat)."""
    alice = await stack.enter_async_context(await Account.join(folder / "alice", server.invite(), name="alice"))
    bob = await stack.enter_async_context(await Account.join(folder / "bob", server.invite(), name="bob"))
    events = bob.events()
    chat = await alice.add(bob.contact_link())
    event = await until(events, ChatChanged)
    request = bob.chat(event.chat)
    await request.accept()
    return alice, bob, chat, request


def test_events_tell_of_every_step_of_a_message(server: Server, tmp_path: Path) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            alice, bob, chat, _ = await pair(server, tmp_path, stack)
            at_alice, at_bob = alice.events(), bob.events()
            message = await chat.send_text("hello")
            assert message.state == "queued" and message.mine
            received = await until(at_bob, MessageReceived)
            assert (received.message.text, received.message.sender, received.message.id) == (
                "hello",
                "alice",
                message.id,
            )
            assert (await until(at_alice, MessageChanged)).message.state == "kept"
            assert (await until(at_alice, MessageChanged)).message.state == "delivered"
            async for batch in bob.read():
                assert [m.text for m in batch] == ["hello"]
            assert (await until(at_alice, MessageChanged)).message.state == "read"
            assert await alice.wait_settled(5)

    run(story())


def test_message_written_without_a_server_is_sent_when_it_is_back(server: Server, tmp_path: Path) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            alice, bob, chat, _ = await pair(server, tmp_path, stack)
            at_bob = bob.events()
            server.stop()
            message = await chat.send_text("later")
            assert await alice.settle(message, 0.2) == "queued"
            server.start()
            assert (await until(at_bob, MessageReceived)).message.text == "later"

    run(story())


@spec("DEV-05")
def test_copied_home_takes_over_and_the_original_is_told(server: Server, tmp_path: Path) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            alice, bob, chat, _ = await pair(server, tmp_path, stack)
            message = await chat.send_text("before")
            await alice.settle(message, 10)
            await bob.synchronise(10)
            await bob.close()
            shutil.copytree(tmp_path / "bob", tmp_path / "copy")
            copy = await stack.enter_async_context(Account.open(tmp_path / "copy"))
            at_copy = copy.events()
            await chat.send_text("to the copy")
            received = await until(at_copy, MessageReceived)
            assert received.message.text == "to the copy"
            answer = await copy.chat("alice").send_text("from the copy")
            assert await copy.settle(answer, 20) in ("kept", "delivered")
            texts = [m.text for m in copy.chat("alice").messages() if m.kind == "text"]
            assert texts == ["before", "to the copy", "from the copy"]
            async with Account.open(tmp_path / "bob") as old:
                lost = await old.chat("alice").send_text("lost")
                assert await old.settle(lost, 10) == "failed"
                with pytest.raises(DeviceReplaced, match="another copy"):
                    await old.knows()
                assert isinstance(old.problem, DeviceReplaced)
                with pytest.raises(DeviceReplaced):
                    await old.chat("alice").send_text("too late")
                assert [m.text for m in old.chat("alice").messages()] == ["before", "lost"]

    run(story())


@spec("DEV-04")
def test_processes_that_share_a_home_read_each_message_once_and_see_all_events(server: Server, tmp_path: Path) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            alice, bob, _, request = await pair(server, tmp_path, stack)
            second = await stack.enter_async_context(Account.open(tmp_path / "alice"))
            assert not second._engine.owner
            at_second = second.events()
            sent = [f"{n}" for n in range(20)]
            for n, text in enumerate(sent):
                await (second if n % 2 else alice).chat("bob").send_text(text)
            assert await second.wait_settled(20)
            got: list[str] = []
            async for batch in bob.read(wait_s=20):
                got += [message.text for message in batch]
            while len(got) < len(sent):
                async for batch in bob.read(wait_s=20):
                    got += [message.text for message in batch]
            assert got == sent
            await request.send_text("to both")
            assert (await until(at_second, MessageReceived)).message.text == "to both"
            readers = [reader async for reader in _texts(alice)] + [reader async for reader in _texts(second)]
            assert readers == ["to both"]

    async def _texts(me: Account) -> AsyncIterator[str]:
        async for batch in me.read():
            for message in batch:
                yield message.text

    run(story())


def test_who_follows_outlasts_a_home_that_cannot_be_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            _, bob, chat, _ = await pair(server, tmp_path, stack)
            batches = bob.read(follow=True)
            await chat.send_text("shown")
            async with asyncio.timeout(20):
                while "shown" not in [message.text for message in await anext(batches)]:
                    pass
            mark_read, refused = bob._store.mark_read, 0

            def full(rows: list[int]) -> None:
                nonlocal refused
                refused += 1
                if refused < 3:
                    raise HomeUnusable("the disk is full")
                mark_read(rows)

            monkeypatch.setattr(bob._store, "mark_read", full)
            await chat.send_text("after that")
            async with asyncio.timeout(20):
                assert [message.text for message in await anext(batches)] == ["after that"]
            assert refused == 3
            await batches.aclose()  # type: ignore[attr-defined]

    run(story())


def test_chat_let_in_again_by_one_short_command_can_be_written_to(server: Server, tmp_path: Path) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            alice, bob, chat, request = await pair(server, tmp_path, stack)
            await request.block()
            await bob.close()
            message = await chat.send_text("are you there?")
            assert await alice.settle(message, 20) == "failed"
            at_alice = alice.events()
            async with Account.open(tmp_path / "bob") as again:
                await again.chat(request.id).unblock()
                assert not again._engine.has_chores("successor")
                assert await again.wait_settled(20)
            changed = (await until(at_alice, MessageChanged)).message
            while changed.id != message.id or changed.state in ("failed", "queued"):
                changed = (await until(at_alice, MessageChanged)).message

    run(story())


def test_reader_that_ends_at_once_founds_the_group_that_is_due(server: Server, tmp_path: Path) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            _, bob, _, request = await pair(server, tmp_path, stack)
            await request.block()
            await bob.close()
            async with Account.open(tmp_path / "bob", live=False) as stored:
                await stored.chat(request.id).unblock()
                assert stored._engine.has_chores("successor")
            async with Account.open(tmp_path / "bob") as reader:
                async for _ in reader.read():
                    pass
            async with Account.open(tmp_path / "bob", live=False) as stored:
                assert not stored._engine.has_chores("successor")

    run(story())


@spec("DEV-04")
def test_second_process_takes_the_mailbox_over_when_the_first_ends(server: Server, tmp_path: Path) -> None:
    async def story() -> None:
        async with contextlib.AsyncExitStack() as stack:
            _, bob, chat, _ = await pair(server, tmp_path, stack)
            second = await stack.enter_async_context(Account.open(tmp_path / "bob"))
            at_second = second.events()
            await bob.close()
            await until(at_second, CaughtUp)
            await chat.send_text("to whoever is there")
            assert (await until(at_second, MessageReceived)).message.text == "to whoever is there"

    run(story())


@spec("DEV-01", "DEV-03")
def test_process_killed_while_it_sends_and_receives_loses_and_doubles_nothing(server: Server, tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from taube.client.account import Account\n"
        "async def main():\n"
        "    async with Account.open(sys.argv[1]) as me:\n"
        "        chat = me.chats()[0]\n"
        "        for n in range(int(sys.argv[2]), 10_000):\n"
        "            await chat.send_text(str(n)); print(n, flush=True)\n"
        "            await asyncio.sleep(0.001)\n"
        "asyncio.run(main())\n"
    )

    async def story() -> None:
        written = 0
        async with contextlib.AsyncExitStack() as stack:
            alice, bob, _, request = await pair(server, tmp_path, stack)
            await alice.wait_settled(10)
            await alice.close()
            for _ in range(3):
                process = subprocess.Popen(
                    [sys.executable, "-c", script, str(tmp_path / "alice"), str(written)],
                    stdout=subprocess.PIPE,
                    text=True,
                )
                assert process.stdout is not None
                for _ in range(15):
                    line = await asyncio.to_thread(process.stdout.readline)
                    written = int(line) + 1
                    await request.send_text(f"to {line.strip()}")
                process.kill()
                rest = [int(line) for line in process.stdout.read().split()]
                process.wait()
                written = max([written, *(n + 1 for n in rest)])
            async with Account.open(tmp_path / "alice") as again:
                stored = [m.id for m in again.chat("bob").messages(1000) if m.mine]
                assert await again.wait_settled(30)
                await bob.wait_settled(30)
                mine = [m.text for m in request.messages(1000) if m.mine]
                while len([m for m in again.chat("bob").messages(1000) if not m.mine]) < len(mine):
                    await again._engine.next_change()(5)
                theirs = [m.text for m in again.chat("bob").messages(1000) if not m.mine]
                assert sorted(theirs) == sorted(mine)
            got = [m.id for m in request.messages(1000) if not m.mine]
            assert sorted(got) == sorted(stored)
            assert len(set(got)) == len(got)

    run(story())


def test_what_cannot_be_opened_or_made_is_said_in_one_sentence(server: Server, tmp_path: Path) -> None:
    async def story() -> None:
        with pytest.raises(NoAccount, match="taube join"):
            Account.open(tmp_path / "nowhere")
        unknown = server.invite()[:-22] + "A" * 22
        with pytest.raises(Refused, match="does not know this invitation"):
            await Account.join(tmp_path / "a", unknown, name="a")
        with pytest.raises(NoAccount, match="never finished"):
            Account.open(tmp_path / "a")
        with pytest.raises(UserError, match="begun without"):
            await Account.join(tmp_path / "a", server.invite(), name="a", passphrase="p")
        await (await Account.join(tmp_path / "b", server.invite(), name="a", passphrase="p")).close()
        with pytest.raises(HomeUnusable, match="passphrase"):
            Account.open(tmp_path / "b", passphrase="q")
        with pytest.raises(UserError, match="already"):
            await Account.join(tmp_path / "b", server.invite(), name="a", passphrase="p")
        async with Account.open(tmp_path / "b", passphrase="p") as me:
            with pytest.raises(WrongInput):
                await me.add(me.contact_link())

    run(story())


def test_account_that_was_deleted_leaves_nothing(server: Server, tmp_path: Path) -> None:
    async def story() -> None:
        async with await Account.join(tmp_path / "a", server.invite(), name="a") as me:
            assert {fact.entry for fact in await me.knows()}
            await me.delete()
        assert not (tmp_path / "a").exists()

    run(story())
