"""Many raw clients in one process, which may be killed at any moment: senders, or receivers, that note all they see.

    python -m tests.chaos.swarm receive STATE HISTORY LIFE    receivers: record, then acknowledge, in moods of their own
    python -m tests.chaos.swarm send STATE HISTORY LIFE       senders: pipelined, again and again until kept

STATE is a JSON file (`State`) with everybody's keys, so that a process can be started again after a kill; LIFE counts
its starts, and is part of its seed. Senders get a new name at each start: what a dead one had not been answered may be
missing. SIGTERM ends both: senders first wait
for their answers. Everybody reconnects by themselves, spread at random. Source of the rules: docs/protocol/delivery.md.
"""

import asyncio
import contextlib
import itertools
import json
import random
import signal
import ssl
import sys
from collections import deque
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from taube.wire import messages as m
from tests.chaos.history import History
from tests.server.rawclient import Person, RawClient

ANSWER_S = 40.0
CONNECT_S = 15.0


@dataclass
class State:
    """Who there is: *people* [{seed, address}], *rate* messages a second of each sender (0: as fast as it goes)."""

    origin: str
    certificate: str
    seed: int
    people: list[dict[str, str]]
    senders: int = 4
    window: int = 32
    rate: float = 0.0
    body_bytes: int = 300

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.__dict__))

    @classmethod
    def load(cls, path: Path) -> "State":
        return cls(**json.loads(path.read_text()))

    def tls(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=self.certificate) if self.certificate else None


def person_of(seed: str) -> Person:
    """The same keys for the same seed, always."""

    def key(use: bytes) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(sha256(use + seed.encode()).digest())

    person = Person()
    person.account_key, person.recovery_key, person.login_key = key(b"account"), key(b"recovery"), key(b"login")
    person.device = sha256(b"device" + seed.encode()).digest()[:16]
    person.genesis = b"\x01" + b"".join(
        each.public_key().public_bytes_raw() for each in (person.account_key, person.recovery_key)
    )
    person.account = sha256(person.genesis).digest()
    return person


async def connected(state: State, tls: ssl.SSLContext | None) -> RawClient:
    """One greeted connection. Raises OSError and alike."""
    try:
        async with asyncio.timeout(CONNECT_S):
            return await RawClient.connect(state.origin, tls)
    except AssertionError as error:  # something else than a Welcome: it drains, or is busy
        raise ConnectionError from error


def drop(client: RawClient) -> None:
    if client.transport is not None and not client.gone.is_set():
        client.transport.disconnect(False)


# ---------------------------------------------------------------- receivers


class Receiver:
    """One device. Moods, changed at random: prompt, slow to acknowledge, away for a while."""

    def __init__(self, name: str, person: Person, state: State, tls: Any, history: History, dice: random.Random):
        self.name, self.person, self.state, self.tls = name, person, state, tls
        self.history = history
        self.dice = dice

    async def run(self, end: asyncio.Event) -> None:
        while not end.is_set():
            client = None
            try:
                client = await connected(self.state, self.tls)
                reply = await client.log_in(self.person)
                if isinstance(reply, m.LoggedIn):
                    await self._read(client, end)
                else:
                    await asyncio.sleep(max(getattr(reply, "retry_after_ms", 0) / 1000, 0.2))
            except (OSError, TimeoutError, ConnectionError, EOFError):
                pass
            except Exception as error:  # of picows: names differ by version
                if "picows" not in type(error).__module__:
                    raise
            finally:
                if client is not None:
                    drop(client)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1 + self.dice.random()):
                    await end.wait()

    async def _read(self, client: RawClient, end: asyncio.Event) -> None:
        mood = self.dice.choices(("prompt", "slow", "brief"), (6, 3, 2))[0]
        stop = asyncio.get_running_loop().time() + (self.dice.uniform(0.2, 2.0) if mood == "brief" else 30.0)
        gone = asyncio.create_task(client.gone.wait())
        over = asyncio.create_task(end.wait())
        try:
            while not (client.gone.is_set() or end.is_set()) and asyncio.get_running_loop().time() < stop:
                event = asyncio.create_task(client.events.get())
                await asyncio.wait((event, gone, over), timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                if not event.done():
                    event.cancel()
                    continue
                batch = [event.result()]
                while not client.events.empty():
                    batch.append(client.events.get_nowait())
                if mood == "slow":
                    await asyncio.sleep(self.dice.uniform(0.02, 0.2))
                self._take(client, batch)
        finally:
            gone.cancel()
            over.cancel()

    def _take(self, client: RawClient, batch: list[Any]) -> None:
        delivered = [event for event in batch if isinstance(event, m.Deliver) and event.number]
        if not delivered:
            return
        names = [event.body.split(b" ", 1)[0].decode() for event in delivered]
        self.history.note_all(
            [("arrive", {"id": name, "to": self.name}) for name in names]
            + [("ack", {"id": name, "to": self.name}) for name in names]
        )
        if not client.gone.is_set():
            client.acknowledge(delivered[-1].number)


# ---------------------------------------------------------------- senders


class Sender:
    """One anonymous sender: a window of messages under way; what was not answered is sent again, the same bytes."""

    def __init__(self, name: str, state: State, tls: Any, history: History, dice: random.Random):
        self.name, self.state, self.tls = name, state, tls
        self.history = history
        self.dice = dice
        self.seq = itertools.count(1)
        self.unanswered: deque[tuple[str, int, int, bytes]] = deque()  # id, seq, receiver, body
        self.tries: dict[str, int] = {}
        self.lives = itertools.count(1)

    async def run(self, end: asyncio.Event) -> None:
        while not end.is_set() or self.unanswered:
            client = None
            try:
                client = await connected(self.state, self.tls)
                await self._send(client, f"{self.name}/{next(self.lives)}", end)
            except (OSError, TimeoutError, ConnectionError, EOFError):
                pass
            except Exception as error:
                if "picows" not in type(error).__module__:
                    raise
            finally:
                if client is not None:
                    drop(client)
            await asyncio.sleep(0.1 + 0.5 * self.dice.random())

    async def _send(self, client: RawClient, connection: str, end: asyncio.Event) -> None:
        while (not end.is_set() or self.unanswered) and not client.gone.is_set():
            while len(self.unanswered) < self.state.window and not end.is_set():
                self.unanswered.append(self._new())
            batch = list(self.unanswered)
            answers = []
            facts = []
            for name, seq, to, _ in batch:
                self.tries[name] = self.tries.get(name, 0) + 1
                facts.append(
                    ("send", {"id": name, "from": self.name, "to": f"r{to}", "seq": seq, "try": self.tries[name],
                              "on": connection})
                )  # fmt: skip
            self.history.note_all(facts)
            for _, _, to, body in batch:
                address = bytes.fromhex(self.state.people[to]["address"])
                answers.append(client.post(lambda n, a=address, b=body: m.Send(n, 0, [a], b)))
            wait_ms = await self._settle(client, batch, answers)
            pause_s = max(wait_ms / 1000, len(batch) / self.state.rate if self.state.rate else 0.0)
            if pause_s:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await client.gone.wait()

    async def _settle(self, client: RawClient, batch: list[Any], answers: list["asyncio.Future[Any]"]) -> int:
        """Note what was kept, as the answers come; milliseconds to wait before what was refused is sent again."""
        wait_ms = 0
        try:
            async with asyncio.timeout(ANSWER_S):
                for message, answer in zip(batch, answers, strict=True):
                    try:
                        reply = await answer
                    except ConnectionError:
                        break
                    if isinstance(reply, m.Sent) and reply.statuses == bytes([m.STATUS_KEPT]):
                        self.history.note("kept", id=message[0])
                        self.unanswered.remove(message)
                        del self.tries[message[0]]
                    else:
                        wait_ms = max(wait_ms, getattr(reply, "retry_after_ms", 0), 200)
        finally:
            for answer in answers:
                if answer.done() and not answer.cancelled():
                    answer.exception()
                else:
                    answer.cancel()
        return wait_ms

    def _new(self) -> tuple[str, int, int, bytes]:
        seq = next(self.seq)
        to = self.dice.randrange(len(self.state.people))
        name = f"{self.name}:{seq}"
        body = f"{name} ".encode()
        return name, seq, to, body + self.dice.randbytes(max(0, self.state.body_bytes - len(body)))


# ---------------------------------------------------------------- the process


async def run(role: str, state: State, history: History, life: str) -> None:
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, end.set)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    tls = state.tls()
    dice = random.Random(f"{state.seed} {role} {life}")
    everybody: list[Any]
    if role == "receive":
        everybody = [
            Receiver(f"r{n}", person_of(each["seed"]), state, tls, history, random.Random(dice.random()))
            for n, each in enumerate(state.people)
        ]
    else:
        everybody = [
            Sender(f"s{life}.{n}", state, tls, history, random.Random(dice.random())) for n in range(state.senders)
        ]
    async with asyncio.TaskGroup() as group:
        for each in everybody:
            group.create_task(each.run(end))


def main() -> None:
    role, state, history, life = sys.argv[1:5]
    asyncio.run(run(role, State.load(Path(state)), History(Path(history)), life))


if __name__ == "__main__":
    main()
