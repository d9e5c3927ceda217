"""Everybody at once after a crash: all are back soon, nobody is refused without a hint, nothing is lost.

The short one has 250 clients, the slow one 4,000 or as many as this machine's descriptors allow.
"""

import asyncio
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest

from taube.server.clock import month_of
from taube.server.secrets import verify
from taube.server.services import accounts
from taube.server.stores.sqlite import transaction
from taube.wire import messages as m
from tests.chaos.folk import Folk, Member
from tests.chaos.swarm import person_of
from tests.chaos.world import FaultyServer
from tests.server.rawclient import Person, RawClient

BACK_WITHIN_S = 20.0


def settle_in(server: FaultyServer, count: int) -> list[Person]:
    """So many accounts, put into the stopped server's tables: registering them would take minutes, by its limits."""
    people = [person_of(f"storm {n}") for n in range(count)]
    with transaction(server.data / "taube.db") as tables:
        month = month_of(int(time.time() * 1000))
        for person in people:
            new = accounts.check_new(person.genesis, person.device_list(), verify)
            accounts.create(tables, new, month, os.urandom)
    return people


class Storm:
    """Clients that come back as clients do: at once, and when they are told to wait, after that."""

    def __init__(self, folk: Folk, people: list[Person]) -> None:
        self.folk = folk
        self.people = people
        self.devices: dict[int, RawClient] = {}
        self.refused = 0
        self.without_hint: list[Any] = []

    async def come(self, within_s: float) -> float:
        """All log in at once; seconds until the last is in."""
        began = time.monotonic()
        slots = asyncio.Semaphore(300)  # as many handshakes as one client process should have under way
        async with asyncio.timeout(within_s):
            await asyncio.gather(*(self._one(n, slots) for n in range(len(self.people))))
        return time.monotonic() - began

    async def _one(self, n: int, slots: asyncio.Semaphore) -> None:
        wait_s = 0.0
        while True:
            await asyncio.sleep(wait_s)
            async with slots:
                try:
                    client = await RawClient.connect(
                        self.folk.server.origin, self.folk.tls, websocket_handshake_timeout=60
                    )
                    reply = await client.log_in(self.people[n])
                except Exception as error:
                    if not isinstance(error, OSError) and "picows" not in type(error).__module__:
                        raise
                    wait_s = 0.5
                    continue
            if isinstance(reply, m.LoggedIn):
                self.devices[n] = client
                return
            self.refused += 1
            if not reply.retry_after_ms:
                self.without_hint.append(reply)
            wait_s = reply.retry_after_ms / 1000
            client.transport.disconnect(False)

    def leave(self) -> None:
        for device in self.devices.values():
            device.transport.disconnect(False)


async def storm(tmp_path: Path, count: int, within_s: float) -> None:
    server = FaultyServer(tmp_path)
    server.begin()
    try:
        async with Folk(server) as folk:
            server.stop()
            people = settle_in(server, count)
            server.begin()
            crowd = Storm(folk, people)
            first_s = await crowd.come(within_s * 4)
            members = [Member(people[n], (await crowd.devices[n].mint())[0].address) for n in range(0, count, 25)]
            crowd.leave()
            for member in members:
                await folk.fill(member, [b"%d" % n for n in range(3)])
            server.kill()
            crowd = Storm(folk, people)
            server.begin()
            took_s = await crowd.come(within_s)
            assert not crowd.without_hint, crowd.without_hint[:3]
            for n in range(0, count, 25):
                got = []
                while len(got) < 3:
                    event = await folk.event(crowd.devices[n])
                    if isinstance(event, m.Deliver):
                        got.append(bytes(event.body))
                assert got == [b"0", b"1", b"2"]
            print(f"{count} clients: first in {first_s:.1f} s, back in {took_s:.1f} s, told to wait {crowd.refused}")
            crowd.leave()
        assert "Traceback" not in server.log.read_text()
    finally:
        server.kill()


async def test_after_a_crash_everybody_comes_back_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    await storm(tmp_path, 250, BACK_WITHIN_S)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_4000_clients_come_back_at_once(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(4000, (hard if hard != resource.RLIM_INFINITY else 10_000) - 500)
    try:
        await storm(tmp_path, count, 3 * BACK_WITHIN_S)  # one of the two cores is this client's, and it is in Python
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
