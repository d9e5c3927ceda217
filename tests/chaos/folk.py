"""Raw accounts on a real server process, for tests that break one thing.

folk = Folk(server)
bob = await folk.member()           an account with an address
client = await folk.online(bob)     its device connection
await folk.kept(bob, b"hello")      sent by somebody; whether it was kept
"""

import asyncio
import ssl
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taube.client.devices import parse_invitation
from taube.testing import Server
from taube.wire import messages as m
from tests.server.rawclient import Person, RawClient

KEPT = bytes([m.STATUS_KEPT])


@dataclass
class Member:
    """An account and one address of it."""

    person: Person
    address: bytes


class Folk:
    """Who is there."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.tls = ssl.create_default_context(cafile=str(server.certificate)) if server.tls else None
        self._clients: list[RawClient] = []
        self._sender: RawClient | None = None
        self._sender_of = 0

    async def __aenter__(self) -> "Folk":
        return self

    async def __aexit__(self, *error: object) -> None:
        for client in self._clients:
            if not client.gone.is_set():
                client.transport.disconnect(False)

    async def connect(self, **options: Any) -> RawClient:
        client = await RawClient.connect(self.server.origin, self.tls, **options)
        self._clients.append(client)
        return client

    async def members(self, count: int) -> list[Member]:
        link = await asyncio.to_thread(self.server.invite, count)
        return [await self._join(parse_invitation(link)[1]) for _ in range(count)]

    async def member(self) -> Member:
        return (await self.members(1))[0]

    async def _join(self, invitation: bytes) -> Member:
        person = Person()
        client = await self.connect()
        reply = await client.register(person, invitation)
        assert isinstance(reply, m.Done), reply
        assert isinstance(await client.log_in(person), m.LoggedIn)
        address = (await client.mint())[0].address
        await client.close()
        return Member(person, address)

    async def online(self, member: Member) -> RawClient:
        client = await self.connect()
        reply = await client.log_in(member.person)
        assert isinstance(reply, m.LoggedIn), reply
        return client

    async def sender(self) -> RawClient:
        """One anonymous connection, made anew when it has ended. Raises ConnectionError when the server is dead."""
        if not self.server.is_running:
            raise ConnectionError("the server is dead")
        if self._sender is None or self._sender.gone.is_set() or self._sender_of != self.server.pid:
            self._sender = await self.connect()
            self._sender_of = self.server.pid
        return self._sender

    async def kept(self, to: Member, body: bytes) -> bool:
        """Send once: whether it was kept. A refusal has to say when to try again."""
        reply = await (await self.sender()).send([to.address], body)
        if isinstance(reply, m.Sent):
            return bytes(reply.statuses) == KEPT
        assert isinstance(reply, m.Failed) and reply.retry_after_ms > 0, reply
        return False

    async def fill(self, to: Member, bodies: list[bytes]) -> None:
        """Send all of these, pipelined; all are kept."""
        sender = await self.sender()
        answers = [sender.post(lambda n, b=body: m.Send(n, 0, [to.address], b)) for body in bodies]
        async with asyncio.timeout(30):
            for answer in answers:
                reply = await answer
                assert isinstance(reply, m.Sent) and reply.statuses == KEPT, reply

    async def read_all(self, member: Member, *, acknowledge: bool = True) -> list[bytes]:
        """Everything that waits for *member*, in order. Raises ConnectionError when the server ends the connection."""
        client = await self.online(member)
        bodies = []
        while True:
            event: Any = await self.event(client)
            if isinstance(event, m.CaughtUp):
                break
            if isinstance(event, m.Failed):
                raise ConnectionError(event)
            bodies.append(bytes(event.body))
            if acknowledge and event.number % 10 == 0:
                client.acknowledge(event.number)
        if acknowledge and bodies:
            client.acknowledge(len(bodies))
            await client.mint()  # what was said before is done
        await client.close()
        return bodies

    async def event(self, client: RawClient, timeout_s: float = 15.0) -> Any:
        """The next event. Raises ConnectionError when the connection ends first."""
        event = asyncio.ensure_future(client.events.get())
        gone = asyncio.ensure_future(client.gone.wait())
        done, _ = await asyncio.wait((event, gone), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if event in done:
            return event.result()
        event.cancel()
        raise ConnectionError("the connection ended" if done else "nothing came in time")


def metric(server: Server, name: str) -> float:
    """A figure of the metrics page, summed over its labels."""
    url = (server.data / "ops").read_text().strip()
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def memory_kb(pid: int) -> int:
    """What a process occupies (PSS), in KiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
