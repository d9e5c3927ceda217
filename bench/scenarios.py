"""One scenario for each figure of a server: a fresh server over prepared accounts, load, and what the kernel counted.

Every scenario is one run; `__main__` repeats them and takes the median. A run checks that what it measured is what it
says: that everything was kept, that nothing was missing, and how busy generator and server were. What is missing is
waited for, then counted and not raised, so that the report knows of it (`report.broken`).
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench import machine
from bench.load import (
    Device,
    Line,
    Receiver,
    Sender,
    acknowledgement,
    connect,
    frame,
    gathered,
    send_frames,
)
from bench.served import Served, copied
from taube.wire import messages as m
from taube.wire.codec import decode_reply_or_event, encode

BODY_BYTES = 300
SETTLED_S = 20.0
"""How long what is under way may take to arrive before it counts as missing."""
DELETED_S = 0.5
"""An envelope that was acknowledged so long before a crash is not told again after it: ten of the server's pauses
before it deletes, or 50 times what was under way."""


@dataclass
class Place:
    """Where runs happen: a folder of our own, the prepared server in it, its accounts, and the certificate."""

    folder: Path
    certificate: tuple[Path, Path]
    devices: list[Device] = field(default_factory=list)
    quick: bool = False

    def served(self) -> Served:
        """A server over a fresh copy of the prepared folder."""
        return Served(copied(self.folder / "prepared", self.folder / "run"), self.certificate)

    def own_server(self) -> Served:
        """An empty server that calls itself what it is reached by, for real clients."""
        return Served(self.folder / f"own-{time.monotonic_ns()}", self.certificate, origin="")


class Meter:
    """Reads the kernel's accounts of server and generator, and says what was used since."""

    def __init__(self, served: Served) -> None:
        self._pid = served.pid
        self.start()

    def start(self) -> None:
        self._began = time.perf_counter()
        self._server, self._mine = machine.cpu_ns(self._pid), time.process_time_ns()
        self._split = machine.user_and_system_ns(self._pid)

    def read(self) -> dict[str, float]:
        server, mine = machine.cpu_ns(self._pid) - self._server, time.process_time_ns() - self._mine
        seconds = time.perf_counter() - self._began
        user, system = (
            now - then for now, then in zip(machine.user_and_system_ns(self._pid), self._split, strict=True)
        )
        return {
            "seconds": seconds,
            "server_ns": server,
            "server_busy": server / seconds / 1e9,
            "generator_busy": mine / seconds / 1e9,
            "system_share": system / (user + system) if user + system else 0.0,
        }


async def logged_in(line: Any, served: Served, device: Device, tls: Any) -> Any:
    """*line*, connected and logged in, after CaughtUp; fast from then on."""
    await connect(line, served.port, tls)
    line.is_fast = True
    answer = await line.log_in(device)
    if not isinstance(answer, m.LoggedIn):
        raise RuntimeError(f"a login was refused: {answer}")
    while not line.caught_up:
        await asyncio.sleep(0.001)
    return line


def close(lines: list[Any]) -> None:
    for line in lines:
        if line.transport is not None:
            line.transport.abort()


async def came(is_done: Callable[[], bool], most_s: float = SETTLED_S) -> bool:
    """Wait for what a run counts afterwards: whether it came in time."""
    end = time.monotonic() + most_s
    while not (done := is_done()) and time.monotonic() < end:
        await asyncio.sleep(0.005)
    return done


async def until(is_done: Callable[[], bool], most_s: float, what: str) -> None:
    """Wait for what a run cannot do without. Raises TimeoutError."""
    if not await came(is_done, most_s):
        raise TimeoutError(f"{what} took more than {most_s:.0f} s")


# ---------------------------------------------------------------- online


async def _pairs(served: Served, place: Place, pairs: int, window: int, each: bool) -> tuple[list[Any], list[Any]]:
    tls = served.tls
    mine = place.devices[:pairs]
    receivers = await gathered([logged_in(Receiver(each=each), served, device, tls) for device in mine])
    senders = await gathered(
        [
            connect(Sender(send_frames([device.addresses[0]], BODY_BYTES, max(window, 8)), window), served.port, tls)
            for device in mine
        ]
    )
    return receivers, senders


async def online(place: Place, *, pairs: int = 32, window: int = 8, each: bool = True) -> dict[str, float]:
    """Pairs of a sender and a device that is online, as fast as the server can. CPU per delivered message."""
    seconds = 1.5 if place.quick else 4.0
    with place.served() as served:
        receivers, senders = await _pairs(served, place, pairs, window, each)
        acknowledgement(60_000)
        before = served.metrics()
        for sender in senders:
            sender.begin(1 << 30)
        await asyncio.sleep(0.5)
        meter, delivered = Meter(served), sum(each.number for each in receivers)
        await asyncio.sleep(seconds)
        found = meter.read()
        count = sum(each.number for each in receivers) - delivered
        for sender in senders:
            sender.left = 0
        await until(lambda: all(each.answered == each.sent for each in senders), 20, "the last answers")
        after = served.metrics()
        missing = await _missing(sum(each.sent for each in senders), receivers)
        total = sum(each.number for each in receivers)
        refused = sum(each.refused + each.failed for each in senders)
        close(receivers + senders)
    return found | {
        "value": found["server_ns"] / count / 1000,
        "per_second": count / found["seconds"],
        "refused": refused,
        "missing": missing,
        "kept_live": _share_live(before, after, total),
    }


async def _missing(sent: int, receivers: list[Any]) -> int:
    """How many of so many messages have not arrived, even after a while."""
    await came(lambda: sum(each.number for each in receivers) >= sent)
    return sent - sum(each.number for each in receivers)


def _share_live(before: dict[str, float], after: dict[str, float], delivered: int) -> float:
    """The part of the delivered envelopes that never touched the disk."""
    rows = "taube_commit_rows_sum"
    return 1 - (after[rows] - before[rows]) / delivered


class Pace:
    """Sends so many messages a second at random moments over the pairs, and notes how long each took to arrive."""

    def __init__(self, receivers: list[Any], senders: list[Any], rate: int) -> None:
        self._receivers, self._senders, self._rate = receivers, senders, rate
        self._chance = random.Random(7)
        self._loop = asyncio.get_running_loop()
        self._running = True
        for receiver in receivers:
            receiver.clock = time.perf_counter
        for sender in senders:
            sender.is_fast = True
        self._next_at = self._loop.time()
        self._send()

    def _send(self) -> None:
        now = self._loop.time()
        while self._next_at <= now:
            pair = self._chance.randrange(len(self._senders))
            self._receivers[pair].sent_at.append(time.perf_counter())
            self._senders[pair].send(1)
            self._next_at += self._chance.expovariate(self._rate)
        if self._running:
            self._loop.call_at(self._next_at, self._send)

    def taken(self) -> list[float]:
        """Seconds that each message since the last call took, the shortest first."""
        times = sorted(each for receiver in self._receivers for each in receiver.latencies)
        for receiver in self._receivers:
            receiver.latencies.clear()
        return times

    def stop(self) -> None:
        self._running = False


async def online_1000(place: Place, *, rate: int = 1000, pairs: int = 100) -> dict[str, Any]:
    """So many messages a second at random moments over so many pairs: CPU per message, and time until delivered."""
    seconds = 3.0 if place.quick else 10.0
    with place.served() as served:
        receivers, senders = await _pairs(served, place, pairs, 1, True)
        pace = Pace(receivers, senders, rate)
        await asyncio.sleep(0.7)
        pace.taken()
        meter, delivered = Meter(served), sum(each.number for each in receivers)
        await asyncio.sleep(seconds)
        found = meter.read()
        count = sum(each.number for each in receivers) - delivered
        pace.stop()
        latencies = pace.taken()
        await until(lambda: all(each.answered == each.sent for each in senders), 20, "the last answers")
        refused = sum(each.refused + each.failed for each in senders)
        missing = await _missing(sum(each.sent for each in senders), receivers)
        close(receivers + senders)
    return found | {
        "value": found["server_ns"] / count / 1000,
        "per_second": count / found["seconds"],
        "refused": refused,
        "missing": missing,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
        "p999_ms": latencies[int(len(latencies) * 0.999)] * 1000,
        "max_ms": latencies[-1] * 1000,
        "percentiles_ms": [round(latencies[int((len(latencies) - 1) * q / 100)] * 1000, 3) for q in range(101)],
    }


async def fanout(place: Place, *, receivers: int = 256, at_once: int = 4) -> dict[str, float]:
    """One body to 256 devices that are online, a few such sends under way: CPU per device reached."""
    seconds = 1.5 if place.quick else 4.0
    with place.served() as served:
        tls = served.tls
        mine = place.devices[:receivers]
        devices = await gathered([logged_in(Receiver(), served, device, tls) for device in mine])
        addresses = [device.addresses[0] for device in mine]
        senders: list[Any] = await gathered(
            [connect(Sender(send_frames(addresses, BODY_BYTES, 1), 1), served.port, tls) for _ in range(64)]
        )
        turn, running = 0, True
        before = served.metrics()

        def next_one() -> None:
            nonlocal turn
            if running:
                turn = (turn + 1) % len(senders)
                senders[turn].send(1)

        for sender in senders:
            sender.is_fast = True
            sender.when_answered = next_one
        for _ in range(at_once):
            next_one()
        await asyncio.sleep(0.5)
        meter, delivered = Meter(served), sum(each.number for each in devices)
        await asyncio.sleep(seconds)
        found = meter.read()
        count = sum(each.number for each in devices) - delivered
        running = False
        await until(lambda: all(each.answered == each.sent for each in senders), 20, "the last answers")
        after = served.metrics()
        missing = await _missing(sum(each.sent for each in senders) * len(addresses), devices)
        total = sum(each.number for each in devices)
        refused = sum(each.refused + each.failed for each in senders)
        close(devices + senders)
    return found | {
        "value": found["server_ns"] / count / 1000,
        "per_second": count / found["seconds"],
        "refused": refused,
        "missing": missing,
        "kept_live": _share_live(before, after, total),
    }


async def shapes(place: Place) -> dict[str, float]:
    """`online` with other numbers of pairs and of sends under way in each: how much doing many at once saves."""
    found = {"refused": 0.0, "missing": 0.0}
    for pairs, window in ((256, 1), (64, 4), (16, 16)):
        run = await online(place, pairs=pairs, window=window)
        found[f"{pairs} x {window}"] = run["value"]
        for name in ("refused", "missing"):
            found[name] += run[name]
    return found


FLOODS = ("handshakes", "connects", "junk")


async def flooded(place: Place, *, rate: int = 300, pairs: int = 30) -> dict[str, Any]:
    """Who is connected writes on while one core floods the server: the time until delivered, for the worst flood."""
    seconds = 2.0 if place.quick else 8.0
    found: dict[str, Any] = {}
    with place.served() as served:
        receivers, senders = await _pairs(served, place, pairs, 1, True)
        before_kb = machine.pss_kb(served.pid)
        pace = Pace(receivers, senders, rate)
        for kind in FLOODS:
            await asyncio.sleep(1.0)
            pace.taken()
            flood = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "bench.flood",
                kind,
                str(served.port),
                str(seconds),
                stdout=asyncio.subprocess.PIPE,
            )
            said, _ = await flood.communicate()
            times = pace.taken()
            found[f"{kind}_p99_ms"] = times[int(len(times) * 0.99)] * 1000
            found[f"{kind}_per_second"] = int(said) / seconds
            found["grown_mb"] = max(found.get("grown_mb", 0.0), (machine.pss_kb(served.pid) - before_kb) / 1024)
        pace.stop()
        await until(lambda: all(each.answered == each.sent for each in senders), 20, "the last answers")
        found["refused"] = sum(each.refused + each.failed for each in senders)
        found["missing"] = await _missing(sum(each.sent for each in senders), receivers)
        close(receivers + senders)
    return found | {"value": max(found[f"{kind}_p99_ms"] for kind in FLOODS)}


# ---------------------------------------------------------------- offline


async def offline(place: Place, *, senders: int = 64, window: int = 16) -> dict[str, Any]:
    """Store for devices that are away; stop and start the server; let the devices fetch and acknowledge all of it."""
    each = 300 if place.quick else 600
    count = senders * each
    served = place.served()
    with served:
        empty = served.disk_bytes()
    with served:
        tls = served.tls
        mine = place.devices[:senders]
        lines: list[Any] = await gathered(
            [connect(Sender(send_frames([d.addresses[0]], BODY_BYTES, window), window), served.port, tls) for d in mine]
        )
        meter = Meter(served)
        for line in lines:
            line.begin(each)
        await until(lambda: all(line.answered == each for line in lines), 120, "storing")
        seconds = meter.read()["seconds"]
        await asyncio.sleep(0.3)
        stored = meter.read()
        refused = sum(line.refused + line.failed for line in lines)
        metrics = served.metrics()
        rows, batches = metrics.get("taube_commit_rows_sum", 0), metrics.get("taube_commit_rows_count", 0)
        close(lines)
    full = served.disk_bytes()
    with served:
        tls = served.tls
        receivers = [Receiver(each=False) for _ in mine]
        await gathered([connect(line, served.port, tls) for line in receivers])
        meter = Meter(served)
        for line in receivers:
            line.is_fast = True
        await asyncio.gather(*(line.log_in(device) for line, device in zip(receivers, mine, strict=True)))
        await came(lambda: sum(line.number for line in receivers) >= count, 120)
        fetch_seconds = meter.read()["seconds"]
        await asyncio.sleep(0.5)
        fetched = meter.read()
        missing = count - sum(line.number for line in receivers)
        close(receivers)  # type: ignore[arg-type]
    with served:
        tls = served.tls
        again = Receiver(each=False)
        await logged_in(again, served, mine[0], tls)
        await asyncio.sleep(0.05)
        shown_twice = again.number
        close([again])
    return {
        "store_us": stored["server_ns"] / count / 1000,
        "store_per_second": count / seconds,
        "store_generator_busy": stored["generator_busy"],
        "rows_per_commit": rows / batches if batches else 0.0,
        "refused": refused,
        "fetch_us": fetched["server_ns"] / count / 1000,
        "fetch_per_second": count / fetch_seconds,
        "fetch_generator_busy": fetched["generator_busy"],
        "missing": missing,
        "after_acknowledgement": shown_twice,
        "disk_bytes": (full - empty) / count - BODY_BYTES,
    }


# ---------------------------------------------------------------- connections


async def empty(place: Place) -> dict[str, float]:
    """A server with nothing in it: time until it is ready, memory once it is."""
    served = place.own_server()
    with served:
        await asyncio.sleep(1.0)
        mb = machine.pss_kb(served.pid) / 1024
    return {"empty_mb": mb, "start_s": served.start_s}


async def idle(place: Place) -> dict[str, float]:
    """Devices that are logged in and silent: memory of each, right after login and after each got one message."""
    wanted = min(len(place.devices), machine.raise_descriptors() - 500)
    with place.served() as served:
        tls = served.tls
        warm = place.devices[-1]
        close([await logged_in(Receiver(), served, warm, tls)])
        await asyncio.sleep(0.5)
        before = machine.pss_kb(served.pid)
        meter = Meter(served)
        lines = await gathered([logged_in(Receiver(), served, each, tls) for each in place.devices[:wanted]], 64)
        logins = meter.read()
        await asyncio.sleep(2.0)
        after = machine.pss_kb(served.pid)
        addressed = [each for each in place.devices[:wanted] if each.addresses]
        frames = [send_frames([each.addresses[0]], BODY_BYTES, 1)[0] for each in addressed]
        sender: Any = await connect(Sender(frames, 1), served.port, tls)
        meter.start()
        await asyncio.sleep(1.0)
        quiet = meter.read()
        sender.window = 8
        sender.begin(len(frames))
        await until(lambda: sender.answered == len(frames), 30, "one message each")
        await asyncio.sleep(1.0)
        used = machine.pss_kb(served.pid)
        close([*lines, sender])
    return {
        "value": (after - before) / wanted,
        "connections": wanted,
        "after_message_kb": (used - after) / len(frames),
        "login_ms": logins["server_ns"] / wanted / 1e6,
        "idle_cpu_percent": quiet["server_busy"] * 100,
    }


async def logins(place: Place) -> dict[str, float]:
    """Connect, shake hands, log in, hear CaughtUp, close: CPU of the server for each."""
    count = min(len(place.devices), 300 if place.quick else 1500)

    async def one(device: Device) -> None:
        line = await logged_in(Receiver(), served, device, tls)
        line.transport.close()

    with place.served() as served:
        tls = served.tls
        await gathered([one(device) for device in place.devices[-50:]], 16)
        meter = Meter(served)
        await gathered([one(device) for device in place.devices[:count]], 16)
        found = meter.read()
    return found | {"value": found["server_ns"] / count / 1e6, "per_second": count / found["seconds"]}


# ---------------------------------------------------------------- after a crash


Shown = dict[bytes, list[tuple[object, float]]]
"""What devices were told: by the first 8 bytes of the body, on which connection each time, and when."""


class StormDevice(Receiver):
    """A device that remembers what it was told. It acknowledges at once."""

    def __init__(self, shown: Shown) -> None:
        super().__init__()
        self.shown = shown

    def frame(self, data: bytes, start: int, end: int) -> None:
        if data[start + 1] == 0xCC and data[start + 2] == 0x80:
            mark = data[end - BODY_BYTES : end - BODY_BYTES + 8]
            self.shown.setdefault(mark, []).append((self, time.monotonic()))
        super().frame(data, start, end)


def told_again(shown: Shown, crash_at: float) -> tuple[int, int]:
    """Of what was told more than once: how much against the rules, how much rightly.

    Rightly is on a new connection, if the acknowledgement was not older than `DELETED_S` when the server crashed: it
    may have died with it, and the receiver drops what it has (docs/protocol/delivery.md, DEL-14).
    """
    twice = again = 0
    for moments in shown.values():
        for (line, at), (later, _) in pairwise(moments):
            is_right = later is not line and at >= crash_at - DELETED_S
            again += is_right
            twice += not is_right
    return twice, again


class StormSender(Line):
    """Sends marked messages one after the other and remembers which were answered *kept*."""

    def __init__(self, address: bytes, kept: set[bytes]) -> None:
        super().__init__()
        self._address = address
        self._kept = kept
        self._under_way: dict[int, bytes] = {}
        self._number = 0

    def begin(self) -> None:
        self.is_fast = True
        for _ in range(4):
            self._next()

    def _next(self) -> None:
        self._number += 1
        body = os.urandom(BODY_BYTES)
        self._under_way[self._number] = body[:8]
        self.write(frame(encode(m.Send(self._number, 0, [self._address], body))))

    def frame(self, data: bytes, start: int, end: int) -> None:
        answer = decode_reply_or_event(data[start:end])
        mark = self._under_way.pop(getattr(answer, "request", 0), None)
        if mark is not None and isinstance(answer, m.Sent) and not answer.statuses[0]:
            self._kept.add(mark)
        if mark is not None and not self.is_lost:
            self._next()


async def storm(place: Place) -> dict[str, float]:
    """kill -9 under load with every client connected; start again; every client comes back at once.

    Time from the kill until the last is logged in; messages answered *kept* that are lost, or told twice; clients that
    were turned away without being told when to come again (a refused TCP connection tells nothing, but while the
    server is not there nobody can, so that those are counted apart).
    """
    wanted = min(len(place.devices), 800 if place.quick else 4000)
    loaded = 64
    kept: set[bytes] = set()
    shown: Shown = {}
    served = place.served()
    served.start()
    try:
        tls = served.tls
        devices = place.devices[:wanted]
        lines = await gathered([logged_in(StormDevice(shown), served, each, tls) for each in devices], 64)
        senders: list[Any] = await gathered(
            [connect(StormSender(each.addresses[0], kept), served.port, tls) for each in devices[:loaded]]
        )
        for sender in senders:
            sender.begin()
        await asyncio.sleep(1.5)
        gone = asyncio.Event()
        port, left = served.port, len(lines)

        def lost() -> None:
            nonlocal left
            left -= 1
            if not left:
                gone.set()

        for line in lines:
            line.when_lost = lost
        began = time.monotonic()
        served.kill()
        async with asyncio.timeout(30):
            await gone.wait()
        refused = hintless = 0
        times: list[float] = []

        async def back(device: Device) -> Any:
            nonlocal refused, hintless
            pause = 0.1
            while True:
                line = StormDevice(shown)
                try:
                    await connect(line, port, tls)
                    line.is_fast = True
                    answer = await line.log_in(device)
                    if isinstance(answer, m.LoggedIn):
                        times.append(time.monotonic() - began)
                        return line
                    if not answer.retry_after_ms:
                        hintless += 1
                    pause = (answer.retry_after_ms or 500) / 1000
                except ConnectionRefusedError:
                    refused += 1
                except (OSError, TimeoutError):
                    if line.retry_after_ms is None:
                        hintless += 1
                if line.transport is not None:
                    line.transport.abort()
                await asyncio.sleep(pause * (0.5 + random.random()))
                pause = min(pause * 2, 5.0)

        coming = asyncio.gather(*(back(each) for each in devices))
        served._port = port
        await asyncio.to_thread(served.start)
        meter = Meter(served)
        async with asyncio.timeout(120):
            lines = await coming
        found = meter.read()
        await came(lambda: kept <= shown.keys())
        await asyncio.sleep(0.2)
        close(lines + senders)
    finally:
        served.kill()
    times.sort()
    twice, again = told_again(shown, began)
    return found | {
        "value": times[-1],
        "median_s": times[len(times) // 2],
        "start_s": served.start_s,
        "clients": wanted,
        "refused_while_down": refused,
        "hintless": hintless,
        "kept": len(kept),
        "lost": len(kept - shown.keys()),
        "twice": twice,
        "told_again": again,
    }
