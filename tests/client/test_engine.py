"""What the engine owes after a crash, a lost answer, a reconnect or a restored server: it remembers, and does it."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.client.fake_server import World, friends
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
