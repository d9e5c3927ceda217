"""Mail made to harm: whatever a stranger sends is decided, and what comes behind it arrives."""

import asyncio
import os
from pathlib import Path

from taube.client.contacts import parse_contact_link
from taube.client.e2e import KIND_PAIR, SUITE_HYBRID, Core, Delta, GroupContext
from tests.client.fake_server import World

NEAR_THE_END = 2**63 + 5


def move_to_epoch(core: Core, group: bytes, made: list[Delta], epoch: int) -> None:
    """Load a group of epoch 0, made just now, as if it were in *epoch*."""
    packed, row_epoch = b"\xcf" + epoch.to_bytes(8, "big"), epoch.to_bytes(8, "big")
    rows: dict[bytes, bytes] = {}
    for delta in made:
        if delta.scope == group and delta.key and delta.value is not None:
            rows[delta.key] = delta.value
    moved: list[tuple[bytes, bytes]] = []
    for key, value in rows.items():
        if key[:1] == b"E":
            key = b"E" + row_epoch
        elif key[:1] == b"k":
            key = b"k" + packed + key[2:]
        elif key[:1] == b"x":
            at = value.index(group) + 32
            assert value[at] == 0
            value = value[:at] + packed + value[at + 1 :]
        moved.append((key, value))
    core.load(group, moved)


def test_a_welcome_into_an_impossible_epoch_does_not_jam_the_mailbox(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        alice = await world.person("alice").join()
        mallory = await world.person("mallory").join()
        bob = await world.person("bob").join()
        world.people = [alice, bob]
        link = parse_contact_link(alice.contact_link)
        claimed = await mallory.engine.contacts.claim(link.address)
        with mallory.vault.work() as core:
            mallory.vault.use_keys()
            core.take_deltas()
            both = tuple(sorted((mallory.vault.account, alice.vault.account)))
            context = GroupContext(KIND_PAIR, os.urandom(16), both)
            certificate, now_s = mallory.vault.certificate, mallory.vault.now_s()
            group = core.create_group(SUITE_HYBRID, context, os.urandom(41), certificate, now_s)
            move_to_epoch(core, group, core.take_deltas(), NEAR_THE_END)
            assert core.group(group).epoch == NEAR_THE_END
            staged = core.stage(group, k=0, adds=[claimed.key_package], known={}, now_s=now_s)
            core.take_deltas()
        for address, body in staged.welcomes:
            world._deliver(address, body, 0)
        await bob.account.add(alice.contact_link)
        for _ in range(3):
            await bob.step()
            await alice.step()
        assert [(chat.name, chat.state) for chat in alice.account.chats()] == [("bob", "request")]
        assert not world.devices[alice.vault.device].mailbox

    asyncio.run(asyncio.wait_for(story(), 60))
