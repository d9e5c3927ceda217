"""Random lives of three people: written, cut, crashed, raced; at the end everyone has each message once, and agrees."""

import asyncio
import contextlib
import os
import random
from pathlib import Path
from typing import Any

import pytest

from taube.client.errors import UserError
from taube.client.transport import TransportError
from taube.wire.errors import TaubeError
from tests.client.fake_server import DAY_MS, Client, World, same_epoch, three
from tests.spec import spec

EXPECTED = (TransportError, UserError, TaubeError)


async def life(folder: Path, seed: int, steps: int) -> None:
    chance = random.Random(seed)
    world = World(folder)
    people = await three(world)
    sent: dict[tuple[str, str], list[str]] = {}

    def fault(command: Any) -> str | None:
        return chance.choice(["before", "after"]) if chance.random() < 0.15 else None

    async def one_step(one: Client) -> None:
        try:
            await one.step()
        except EXPECTED:
            one.link = None

    async def act(one: Client) -> None:
        what = chance.random()
        other = chance.choice([person for person in people if person is not one])
        if what < 0.45:
            chat = chance.choice(["group", other.name])
            text = f"{one.name}-{len(sent)}-{chance.random()}"
            await one.account.chat(chat).send_text(text)
            sent.setdefault((one.name, chat), []).append(text)
        elif what < 0.6:
            chat = chance.choice(["group", other.name])
            group_id = one.group(chat).id
            with contextlib.suppress(EXPECTED):
                await one.engine.gates.change(group_id, lambda core, info: {"update": True})
        elif what < 0.7:
            one.restart()
        elif what < 0.8:
            world.offline ^= {one.name}
        elif what < 0.85:
            world.now_ms += chance.choice([1_000, 60_000, 3_600_000, DAY_MS])
        elif what < 0.88:
            world.generation = os.urandom(16)  # a restart that lost nothing, and says otherwise
            for person in people:
                person.link = None
        elif what < 0.9:
            row = one.store.chat_named("group")
            if row is not None and row.group_id is not None:
                with one.vault.work() as core:
                    one.vault.use(b"device", row.group_id)
                    world.gates.setdefault(core.gate_name(row.group_id, 0), os.urandom(300))

    world.fault = fault
    for _ in range(steps):
        await act(chance.choice(people))
        await asyncio.gather(*(one_step(one) for one in people if chance.random() < 0.5))

    world.fault = lambda command: None
    world.offline.clear()
    for person in people:
        person.link = None
    for _ in range(6):
        await world.settle(rounds=60)
        world.now_ms += 6 * 3_600_000
    await world.settle(rounds=60)

    for (name, chat), texts in sent.items():
        writer = next(person for person in people if person.name == name)
        readers = [person for person in people if person.name == chat or (chat == "group" and person is not writer)]
        for reader in readers:
            got = [text for text in reader.texts("group" if chat == "group" else name) if text.startswith(f"{name}-")]
            assert sorted(got) == sorted(texts), (seed, name, chat, reader.name)
    same_epoch("group", *people)
    for person in people:
        assert person.store.outbox_size() == 0, (seed, person.name)
        assert person.store.all_pending() == []
        person.store.close()


@spec("DEV-01", "DEV-03", "DEV-11", "DEV-20")
@pytest.mark.parametrize("seed", range(4))
def test_random_life_loses_doubles_and_splits_nothing(seed: int, tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(life(tmp_path, seed, 40), 240))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1150))
def test_long_random_life_loses_doubles_and_splits_nothing(seed: int, tmp_path: Path) -> None:
    asyncio.run(asyncio.wait_for(life(tmp_path, seed, 150), 600))
