"""A server with a breakable disk, clock and network, clients around it, and faults in an order that a seed decides.

    async with World(folder, seed) as world:      server, raw receivers and senders, accounts that talk
        await world.run(seconds)                  faults, one after the other
        findings = await world.judge()            heal, wait until everything has come to rest, check

Every fault is a method `fault_…`; the seed decides which, when and for how long. What the machine makes of it differs
from run to run, so a replay is a good chance, not a certainty; that is why a run goes on after small faults.
"""

import asyncio
import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from taube.testing import Server, free_port, meet
from taube.wire import messages as m
from tests.chaos import history
from tests.chaos.checker import Findings, check
from tests.chaos.faults import Machine
from tests.chaos.history import History
from tests.chaos.proxy import Proxy
from tests.chaos.swarm import State, person_of
from tests.server.rawclient import RawClient

ROOT = Path(__file__).parents[2]
YEAR_S = 365 * 86_400
LISTEN_S = 4.0
"""How long everybody listens on after that: what comes a second time comes after the first."""
REST_S = 240.0
"""How long everything may take to come to rest once it has healed: clients wait longer after each refusal."""


@dataclass
class Size:
    """How much of everything; *longest_s* of one fault, *pause_s* between two."""

    receivers: int = 6
    senders: int = 3
    rate: float = 60.0
    talkers: int = 3
    talk_rate: float = 2.0
    longest_s: float = 2.0
    pause_s: tuple[float, float] = (0.3, 1.5)


QUICK = Size()
LONG = Size(receivers=24, senders=6, rate=60.0, talkers=4, talk_rate=4.0, longest_s=30.0, pause_s=(0.5, 4.0))


class FaultyServer(Server):
    """`taube serve` on a machine that can be broken. Its journal of syncs goes into the history after each run."""

    def __init__(
        self,
        folder: Path,
        machine: Machine | None = None,
        proxy_port: int | None = None,
        listen_port: int | None = None,
        *,
        tls: bool = True,
        config: str = "",
    ) -> None:
        """*config*: what stands in the file of settings."""
        super().__init__(folder, tls=tls, port=proxy_port, listen_port=listen_port)
        self.machine = machine
        self.config = folder / "config.toml" if config else None
        if self.config is not None:
            self.config.write_text(config)

    def command(self) -> list[str]:
        return super().command() + (["--config", str(self.config)] if self.config is not None else [])

    def begin(self, *, record: bool = False) -> None:
        """Start; with *record*, a power cut may follow."""
        clean = self.environment
        if self.machine is not None:
            self.environment = clean | self.machine.prepare(self.data, record=record)
        try:
            self.start()
        finally:
            self.environment = clean


@dataclass
class Child:
    """A client process that may be killed and started again."""

    name: str
    line: Callable[[int], list[str]]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    lives: int = 0
    codes: list[int] = field(default_factory=list)

    def start(self) -> None:
        """Signals wait until the process is ready for them."""
        self.lives += 1
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGUSR1))
        try:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    self.line(self.lives),
                    cwd=ROOT,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def ended_badly(self) -> bool:
        """Whether it ended by itself, with an error."""
        return self.process is not None and self.process.poll() not in (None, 0, -signal.SIGKILL)


class World:
    """See the module's head."""

    def __init__(self, folder: Path, seed: int, size: Size = QUICK, say: Callable[[str], None] = lambda line: None):
        self.folder = folder
        self.size = size
        self.say = say
        self.dice = random.Random(seed)
        self.sectors = random.Random(f"{seed} sectors")  # how many it decides differs from run to run
        self.seed = seed
        self.machine = Machine(folder / "machine") if Machine.possible() else None
        proxy_port, server_port = free_port(), free_port()
        self.server = FaultyServer(folder, self.machine, proxy_port, server_port)
        self.proxy = Proxy(proxy_port, server_port)
        shutil.copytree(ROOT / "src", folder / "code", ignore=shutil.ignore_patterns("__pycache__"))
        self.server.environment["PYTHONPATH"] = str(folder / "code")  # the code as it was at the beginning
        self.history = folder / "history"
        self.disk = History(self.history / "disk.history")
        self.senders: Child
        self.receivers: Child
        self.talkers: list[Child] = []
        self.faults = 0
        self.began = time.monotonic()
        self.counts: dict[str, int] = {}

    # ------------------------------------------------------------ setting up

    async def __aenter__(self) -> "World":
        await self.proxy.__aenter__()
        try:
            await self._set_up()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self.children:
            child.signal(signal.SIGCONT)
            child.kill()
        if self.machine is not None:
            self.machine.heal()
        if self.server.is_running:
            os.kill(self.server.pid, signal.SIGCONT)
            await asyncio.to_thread(self.server.kill)
        await self.proxy.__aexit__()

    @property
    def children(self) -> list[Child]:
        return [each for each in (getattr(self, "senders", None), getattr(self, "receivers", None)) if each] + list(
            self.talkers
        )

    async def _set_up(self) -> None:
        await asyncio.to_thread(self.server.begin)
        state = State(self.server.origin, str(self.server.certificate), self.seed, [])
        state.senders, state.rate = self.size.senders, self.size.rate
        link = await asyncio.to_thread(self.server.invite, max(1, self.size.receivers))
        invitation = _secret(link)
        tls = state.tls()
        for n in range(self.size.receivers):
            state.people.append({"seed": f"{self.seed}.{n}", "address": await self._join(state, tls, n, invitation)})
        path = self.folder / "swarm.json"
        state.save(path)
        environment = self.server.environment
        swarm = [sys.executable, "-m", "tests.chaos.swarm"]
        for role in ("receive", "send"):

            def line(life: int, role: str = role) -> list[str]:
                return [*swarm, role, str(path), str(self.history / f"{role}.history"), str(life)]

            child = Child(role, line, environment, self.folder / f"{role}.log")
            setattr(self, "receivers" if role == "receive" else "senders", child)
            if self.size.receivers:
                child.start()
        await asyncio.to_thread(self._add_talkers)
        await self._end_server(power=False)
        await self._start_server()

    async def _join(self, state: State, tls: Any, n: int, invitation: bytes) -> str:
        person = person_of(f"{self.seed}.{n}")
        client = await RawClient.connect(state.origin, tls)
        done = await client.register(person, invitation)
        assert isinstance(done, m.Done), done
        assert isinstance(await client.log_in(person), m.LoggedIn)
        address = (await client.mint())[0].address
        await client.close()
        return address.hex()

    def _add_talkers(self) -> None:
        people = [self.server.person(f"talker{n}") for n in range(self.size.talkers)]
        for n, one in enumerate(people):
            for other in people[n + 1 :]:
                meet(one, other)
        for person in people:
            path = self.history / f"{person.name}.history"

            def line(life: int, person: Any = person, path: Path = path) -> list[str]:
                words = [str(person.home), person.name, str(path), str(life), str(self.size.talk_rate), str(self.seed)]
                return [sys.executable, "-m", "tests.chaos.talker", *words]

            child = Child(person.name, line, person.environment, self.folder / f"{person.name}.log")
            self.talkers.append(child)
            child.start()

    # ------------------------------------------------------------ running

    async def run(self, seconds: float, only: tuple[str, ...] = ()) -> None:
        """Break things for so long; *only*: names of the faults to choose from."""
        names = [name for name in only or WEIGHTS if self.machine is not None or name not in NEED_MACHINE]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(self.dice.uniform(*self.size.pause_s))
            name = self.dice.choices(names, [WEIGHTS[each] for each in names])[0]
            self.say(f"{time.monotonic() - self.began:7.1f} s  {name}")
            self.faults += 1
            self.counts[name] = self.counts.get(name, 0) + 1
            await getattr(self, f"fault_{name}")()
            for child in self.children:
                if child.ended_badly():
                    raise AssertionError(f"{child.name} ended by itself: {child.log.read_text()[-2000:]}")
            if not self.server.is_running:
                raise AssertionError(f"the server ended by itself: {self.server.log.read_text()[-2000:]}")

    def _long(self) -> float:
        """How long a fault lasts: mostly short."""
        return self.size.longest_s * self.dice.random() ** 3 + 0.05

    async def _end_server(self, *, power: bool) -> None:
        machine = self.machine
        if power and machine is not None and self.dice.random() < 0.7:
            machine.hold_sync = 1  # the disk is slow, so that writes wait when the power goes
            await asyncio.sleep(self.dice.uniform(0.02, 0.3))
        await asyncio.to_thread(self.server.kill)
        if machine is None:
            return
        self.disk.note_all(
            [
                ("sync", {"id": "", "began": began, "t": ended})
                for began, ended in await asyncio.to_thread(machine.syncs)
            ]
        )
        if power:
            machine.hold_sync = 0
            lost = await asyncio.to_thread(machine.cut_power, self.sectors)
            self.say(f"           {lost} writes were not synced")
        machine.journal.unlink(missing_ok=True)

    async def _start_server(self) -> None:
        await asyncio.to_thread(self.server.begin, record=self.machine is not None)

    async def fault_kill_server(self) -> None:
        """kill -9."""
        await self._end_server(power=False)
        await asyncio.sleep(self.dice.choice((0.0, 0.3)))
        await self._start_server()

    async def fault_cut_power(self) -> None:
        """kill -9, and what was not synced is gone."""
        await self._end_server(power=True)
        await self._start_server()

    async def fault_restart_server(self) -> None:
        """In good order."""
        await asyncio.to_thread(self.server.stop)
        await self._end_server(power=False)
        await self._start_server()

    async def fault_freeze_server(self) -> None:
        os.kill(self.server.pid, signal.SIGSTOP)
        await asyncio.sleep(self._long())
        os.kill(self.server.pid, signal.SIGCONT)

    async def fault_disk_full(self) -> None:
        await self._break("full", 1)

    async def fault_disk_error(self) -> None:
        await self._break(self.dice.choice(("write_error", "sync_error", "read_error")), errno.EIO)

    async def fault_slow_disk(self) -> None:
        await self._break("hold_sync", 1)

    async def _break(self, what: str, value: int) -> None:
        setattr(self.machine, what, value)
        await asyncio.sleep(self._long())
        if self.dice.random() < 0.2:
            await self._end_server(power=False)  # it dies while the disk is broken, and comes back on a good one
            setattr(self.machine, what, 0)
            await self._start_server()
        setattr(self.machine, what, 0)

    async def fault_clock(self) -> None:
        """An hour or a year, either way; it stays so until the next jump."""
        assert self.machine is not None
        self.machine.clock_s = self.dice.choice((3600, -3600, YEAR_S, -YEAR_S, 0))

    async def fault_cut(self) -> None:
        self.proxy.cut()

    async def fault_slow(self) -> None:
        self.proxy.delay_s = self.dice.uniform(0.01, 0.2)
        await asyncio.sleep(self._long())
        self.proxy.heal()

    async def fault_black_hole(self) -> None:
        self.proxy.swallow()
        await asyncio.sleep(self._long())
        self.proxy.heal()

    async def fault_kill_client(self) -> None:
        child = self.dice.choice([each for each in self.children if each.process is not None])
        child.kill()
        await asyncio.sleep(self.dice.choice((0.0, 0.5)))
        child.start()

    async def fault_freeze_client(self) -> None:
        child = self.dice.choice([each for each in self.children if each.process is not None])
        child.signal(signal.SIGSTOP)
        await asyncio.sleep(self._long())
        child.signal(signal.SIGCONT)

    # ------------------------------------------------------------ judging

    async def judge(self, rest_s: float = REST_S) -> Findings:
        """Heal everything, let everybody finish, listen on for a while, and check.

        Raises AssertionError when somebody cannot finish.
        """
        if self.machine is not None:
            self.machine.heal()
        self.proxy.heal()
        for talker in self.talkers:
            talker.signal(signal.SIGUSR1)
        if self.size.receivers:
            self.senders.signal(signal.SIGTERM)
        deadline = time.monotonic() + rest_s
        while self.size.receivers and self.senders.process and self.senders.process.poll() is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"senders still wait for answers {rest_s:.0f} s after everything healed")
            await asyncio.sleep(0.1)
        pause_s = 0.5
        while not (await self._is_at_rest() or time.monotonic() > deadline):
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 10.0)
        await asyncio.sleep(LISTEN_S)
        await asyncio.to_thread(self._end_clients)
        syncs = self.machine.syncs() if self.machine is not None else []
        self.disk.note_all([("sync", {"id": "", "began": began, "t": ended}) for began, ended in syncs])
        return await asyncio.to_thread(self._check)

    def _check(self) -> Findings:
        return check(history.read(self.history))

    async def _is_at_rest(self) -> bool:
        """Whether everything has arrived, and everybody has said what they hold of their chats, and it agrees."""
        findings = await asyncio.to_thread(self._check)
        talkers = self.size.talkers
        return not (findings.lost or findings.split) and findings.chats >= talkers * (talkers - 1) // 2

    def _end_clients(self) -> None:
        """Processes end by SIGTERM, without errors."""
        for child in self.children:
            child.signal(signal.SIGTERM)
        for child in self.children:
            if child.process is None:
                continue
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(20)
            if child.process.poll() != 0:
                raise AssertionError(f"{child.name} did not end well: {child.log.read_text()[-2000:]}")


WEIGHTS = {
    "kill_server": 4, "cut_power": 5, "restart_server": 1, "freeze_server": 3, "disk_full": 3, "disk_error": 3,
    "slow_disk": 2, "clock": 2, "cut": 4, "slow": 2, "black_hole": 2, "kill_client": 6, "freeze_client": 3,
}  # fmt: skip
"""How often each fault, in relation to the others."""
NEED_MACHINE = {"cut_power", "disk_full", "disk_error", "slow_disk", "clock"}


def _secret(link: str) -> bytes:
    from taube.client.devices import parse_invitation

    return parse_invitation(link)[1]
