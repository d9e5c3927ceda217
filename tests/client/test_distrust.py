"""What a server that cheats, a stranger with a chosen name, or a broken link cannot bring about."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from taube.client.e2e import DeviceKeys
from taube.client.errors import Refused
from taube.wire.packing import Unpacker
from tests.client.fake_server import Client, World
from tests.spec import spec


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 60))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# ---------------------------------------------------------------- a server that shows another certificate


def list_with(one: Client, counter: int) -> bytes:
    """A device list of this account as it stands, signed, with another counter."""
    with one.vault.work() as core:
        one.vault.use_account()
        (device,) = core.check_certificate(one.vault.certificate).devices
        keys = Unpacker[tuple[bytes, bytes, bytes, bytes]](tuple[bytes, bytes, bytes, bytes]).unpack(
            one.store.meta("device_keys") or b""
        )
        assert device.device_id == keys[0]
        return core.sign_device_list(counter, [DeviceKeys(*keys)])


@spec("DEV-07")
def test_certificate_of_another_account_does_not_move_the_counter_of_ours(world: World) -> None:
    async def story() -> None:
        alice = await world.person("alice").join()
        mallory = await world.person("mallory").join()
        of_alice, genesis = world.accounts[alice.vault.account], mallory.store.meta("genesis") or b""
        world.accounts[alice.vault.account] = (genesis, list_with(mallory, 2**53 - 1), 2**53)
        with alice.store.write():
            alice.store.set_meta("list_due", 1)
        with pytest.raises(Refused, match="another account"):
            await alice.engine.devices.publish_list()
        assert alice.store.meta_int("counter") == 1
        assert alice.store.meta_int("list_due")
        with alice.store.write():
            alice.store.set_meta("counter", 5)
        world.accounts[alice.vault.account] = (genesis, list_with(mallory, 1), 1)
        assert not await alice.engine.devices.restore_list()
        world.accounts[alice.vault.account] = of_alice
        with alice.store.write():
            alice.store.set_meta("counter", 1)
        await alice.engine.devices.publish_list()
        await alice.step()

    run(story())


@spec("DEV-07")
def test_counter_that_leaps_ahead_is_refused_and_one_that_is_a_little_ahead_is_passed(world: World) -> None:
    async def story() -> None:
        alice = await world.person("alice").join()
        genesis = alice.store.meta("genesis") or b""
        for counter in (2**52, 2**53 - 1):
            world.accounts[alice.vault.account] = (genesis, list_with(alice, counter), counter)
            with alice.store.write():
                alice.store.set_meta("list_due", 1)
            with pytest.raises(Refused, match="ask who runs it"):
                await alice.engine.devices.publish_list()
            assert alice.store.meta_int("counter") == 1
        world.accounts[alice.vault.account] = (genesis, list_with(alice, 7), 7)
        await alice.engine.devices.publish_list()
        assert alice.store.meta_int("counter") == 8 == world.accounts[alice.vault.account][2]

    run(story())
