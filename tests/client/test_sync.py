"""The engine, step by step: two people from the first contact on, receipts, gaps, lost answers, crashes."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.client.fake_server import World


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 60))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


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
