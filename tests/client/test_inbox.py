"""What arrives too early, twice, under another address, or in a flood that someone made."""

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from taube.client.e2e import SUITE_HYBRID
from taube.wire.errors import RATE_LIMITED
from taube.wire.messages import Send
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
