"""The network fails, or one side stands still; and the proxy that makes it fail does what it says."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from taube.testing import free_port
from tests.chaos.proxy import Proxy
from tests.chaos.world import NEED_MACHINE, QUICK, WEIGHTS, Machine, Size, World

SEED = int(os.environ.get("TAUBE_CHAOS_SEED", "4"))
CALM = Size(**{**QUICK.__dict__, "pause_s": (0.5, 1.5)})


# ---------------------------------------------------------------- the proxy


@asynccontextmanager
async def echoing() -> AsyncIterator[Proxy]:
    """A proxy before a server that says everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    port, listen = free_port(), free_port()
    server = await asyncio.start_server(echo, "127.0.0.1", port)
    async with server, Proxy(listen, port) as proxy:
        yield proxy


async def dial(proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.listen_port)


async def said_back(line: tuple[asyncio.StreamReader, asyncio.StreamWriter], text: bytes, within_s: float) -> float:
    """Seconds until *text* came back. Raises TimeoutError, or OSError when the connection has ended."""
    began = time.monotonic()
    line[1].write(text)
    async with asyncio.timeout(within_s):
        if await line[0].readexactly(len(text)) != text:
            raise AssertionError("something else came back")
    return time.monotonic() - began


async def test_a_cut_resets_what_is_open_and_lets_in_what_comes_after() -> None:
    async with echoing() as proxy:
        line = await dial(proxy)
        await said_back(line, b"a", 5)
        assert proxy.cut() == 1
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await said_back(line, b"b", 5)
        await said_back(await dial(proxy), b"c", 5)


async def test_what_is_slowed_arrives_late_whole_and_in_order() -> None:
    async with echoing() as proxy:
        line = await dial(proxy)
        proxy.delay_s = 0.2
        assert await said_back(line, bytes(range(200)), 5) >= 0.4, "there and back"
        proxy.heal()
        assert await said_back(line, b"b", 5) < 0.2


async def test_a_black_hole_swallows_old_and_new_connections_and_cuts_them_when_it_ends() -> None:
    async with echoing() as proxy:
        old = await dial(proxy)
        await said_back(old, b"a", 5)
        proxy.swallow()
        new = await dial(proxy)
        for line in (old, new):
            with pytest.raises(TimeoutError):
                await said_back(line, b"b", 0.3)
        proxy.heal()
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await said_back(old, b"c", 5)
        await said_back(await dial(proxy), b"d", 5)


# ---------------------------------------------------------------- one fault at a time


@pytest.mark.timeout(300)
async def test_connections_that_are_cut_slowed_and_swallowed_lose_nothing(tmp_path: Path) -> None:
    async with World(tmp_path, SEED, CALM) as world:
        for fault in ("cut", "slow", "black_hole"):
            await world.run(1.5, (fault,))
            assert world.counts[fault] >= 1
        findings = await world.judge(90.0)
    assert not findings.broken, f"TAUBE_CHAOS_SEED={SEED}: {findings}"
    assert findings.kept > 100


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", WEIGHTS)
async def test_each_fault_alone_again_and_again_breaks_no_promise(tmp_path: Path, fault: str) -> None:
    if fault in NEED_MACHINE and not Machine.possible():
        pytest.skip("needs Linux and a C compiler")
    async with World(tmp_path, SEED, CALM) as world:
        while world.counts.get(fault, 0) < 5:
            await world.run(5.0, (fault,))
        findings = await world.judge(120.0)
    assert not findings.broken, f"TAUBE_CHAOS_SEED={SEED}: {findings}"
    assert findings.kept > 200


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("who", ["server", "senders", "receivers", "talker0"])
async def test_who_stands_still_for_30_seconds_goes_on_and_loses_nothing(tmp_path: Path, who: str) -> None:
    async with World(tmp_path, SEED, QUICK) as world:
        await asyncio.sleep(2)
        named = {"senders": world.senders, "receivers": world.receivers, "talker0": world.talkers[0]}
        process = named[who].process if who in named else None
        pid = process.pid if process is not None else world.server.pid
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(30)
        os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(2)
        assert world.server.is_running
        findings = await world.judge(120.0)
    assert not findings.broken, findings
    assert findings.kept > 200
