"""A crash under load, then everybody at once: all are back soon, nobody is refused without a hint, nothing is lost.

The short one has 250 clients, the slow one 4,000 or as many as this machine's descriptors allow. The new server listens
before the first of them comes, so that whoever it lets in and then leaves without a word was not told when to return.
"""

import asyncio
import contextlib
import os
import resource
import time
from pathlib import Path
from typing import Any

import picows
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
MOST = 200
"""Messages to one member: fewer than may be under way to it unacknowledged."""


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
        """Replies that do not say when to come again, and errors of connections that ended without any."""

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
                reply = await self._try(n)
            if isinstance(reply, m.LoggedIn):
                return
            if reply is None:
                wait_s = 0.5
                continue
            self.refused += 1
            wait_s = getattr(reply, "retry_after_ms", 0) / 1000
            if not wait_s:
                self.without_hint.append(reply)
                wait_s = 0.5

    async def _try(self, n: int) -> Any:
        """What the server said last, or how it ended the connection; None if it did before it could have said it."""
        try:
            client = await RawClient.connect(
                self.folk.server.origin, self.folk.tls, greet=False, websocket_handshake_timeout=60
            )
        except OSError:  # of TCP or TLS
            return None
        except picows.WSError as error:
            return error
        try:
            client.send_bytes(client.session.hello())
            said = await self.folk.event(client, 60.0)
            reply = await client.log_in(self.people[n]) if isinstance(said, m.Welcome) else said
        except (OSError, TimeoutError) as error:
            if not client.gone.is_set():  # slow, and it is we who end it
                client.transport.disconnect(False)
                return None
            return self._hint(client) or error
        if isinstance(reply, m.LoggedIn):
            self.devices[n] = client
        else:
            client.transport.disconnect(False)
        return reply

    def _hint(self, client: RawClient) -> Any:
        """What was said before the connection ended, if it says when to return."""
        while not client.events.empty():
            event: Any = client.events.get_nowait()
            if getattr(event, "retry_after_ms", 0):
                return event
        return None

    def leave(self) -> None:
        for device in self.devices.values():
            device.transport.disconnect(False)


async def write(folk: Folk, to: Member, kept: list[bytes]) -> None:
    """Write to one member, one message after the other, until the server is gone; note what was kept."""
    with contextlib.suppress(ConnectionError):
        for n in range(MOST):
            body = b"%d" % n
            if await folk.kept(to, body):
                kept.append(body)
            await asyncio.sleep(0.01)


async def read(folk: Folk, client: RawClient, kept: list[bytes]) -> list[bytes]:
    """What a member is told, until all that was kept is among it."""
    got: list[bytes] = []
    while not set(kept) <= set(got):
        event = await folk.event(client)
        if isinstance(event, m.Deliver):
            got.append(bytes(event.body))
    return got


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
            some = range(0, count, 25)
            members = [Member(people[n], (await crowd.devices[n].mint())[0].address) for n in some]
            kept: list[list[bytes]] = [[] for _ in members]
            await folk.sender()
            writing = asyncio.gather(*(write(folk, to, mine) for to, mine in zip(members, kept, strict=True)))
            await asyncio.sleep(0.5)
            server.kill()
            await writing
            assert all(kept) and all(len(mine) < MOST for mine in kept), "the kill came before or after the load"
            crowd.leave()
            crowd = Storm(folk, people)
            server.begin()
            took_s = await crowd.come(within_s)
            assert not crowd.without_hint, crowd.without_hint[:3]
            for n, mine in zip(some, kept, strict=True):
                got = await read(folk, crowd.devices[n], mine)
                assert got == sorted(set(got), key=int), "in order, and none twice"
            total = sum(len(mine) for mine in kept)
            print(
                f"{count} clients: first in {first_s:.1f} s, back in {took_s:.1f} s, told to wait {crowd.refused};"
                f" {total} kept before the kill, none lost"
            )
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
