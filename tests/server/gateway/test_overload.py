"""Under load: what nobody will miss goes first, newcomers wait, and every refusal says when to come back."""

import asyncio
import contextlib
import socket
from dataclasses import replace

from taube.server.config import ServerConfig
from taube.server.gateway.listener import ListenerConfig
from taube.server.limits import LIMITS, LimitSettings, Scope
from taube.server.services.mailboxes import MailboxSettings
from taube.wire import errors as e
from taube.wire import messages as m
from tests.server.rawclient import Person, RawClient
from tests.spec import spec


async def figures(server) -> str:
    await server.server._workers.watch()
    return server.server.metrics.text().decode()


@spec("DEL-19")
async def test_ephemeral_envelopes_are_shed_first_and_messages_still_arrive(rig) -> None:
    async with rig() as server:
        _, bob = await server.online()
        await bob.next(m.CaughtUp)
        [minted] = await bob.mint()
        alice = await server.connect()
        server.server._mailboxes.is_strained = True
        typing = alice.post(lambda n: m.Send(n, m.FLAG_EPHEMERAL, [minted.address], b"typing"))
        message = alice.post(lambda n: m.Send(n, 0, [minted.address], b"message"))
        assert (await typing).statuses == b"\0", "the answer is the same as ever"
        assert (await bob.next(m.Deliver)).body == b"message"
        bob.acknowledge(1)
        assert (await message).statuses == b"\0"
        assert "taube_shed_total 1.0" in await figures(server)


async def test_newcomers_wait_while_the_process_is_behind_and_those_here_are_served(rig) -> None:
    async with rig() as server:
        person = await server.person()
        server.server._dispatch.is_strained = True
        client = await server.connect()
        refused = await client.register(Person(), await server.invitation())
        assert e.CATALOGUE[refused.code] is e.BUSY and refused.retry_after_ms >= 5_000
        assert isinstance(await client.log_in(person), m.LoggedIn)
        server.server._feel_lag(asyncio.get_running_loop().time() + 10)
        assert not server.server._dispatch.is_strained


@spec("DEL-27")
async def test_refusals_spread_the_time_to_come_back(rig) -> None:
    async with rig() as server:
        _, client = await server.online()
        hints = set()
        for _ in range(40):
            reply = await client.call(m.AskKnowledge)
            if isinstance(reply, m.Failed):
                hints.add(reply.retry_after_ms // 100)
        assert len(hints) > 5
        spread = server.server._dispatch.spread
        waits = [spread(e.WireError(e.BUSY, retry_after_ms=1_000)).retry_after_ms for _ in range(200)]
        assert min(waits) >= 1_000 and max(waits) < 2_000 and max(waits) - min(waits) > 500
        assert spread(e.WireError(e.BUSY, retry_after_ms=600_000)).retry_after_ms < 610_001
        for kind in e.CATALOGUE.values():
            assert bool(spread(e.WireError(kind)).retry_after_ms) == (kind.retry is e.Retry.LATER), kind


@spec("DEL-27")
async def test_who_comes_when_there_is_hardly_room_is_told_when_to_come_back(rig) -> None:
    async with rig(tls=False, config=ServerConfig(listener=ListenerConfig(connections=64))) as server:
        person = await server.person()
        await asyncio.sleep(0)
        host, port = server.server.url.removeprefix("http://").split(":")
        with contextlib.ExitStack() as stack:
            for _ in range(62):
                stack.enter_context(socket.create_connection((host, int(port))))
            late = await RawClient.connect(server.server.url, greet=False)
            told = await late.next(m.Failed)
            assert e.CATALOGUE[told.code] is e.BUSY and told.retry_after_ms >= 10_000
            await late.closed()
        async with asyncio.timeout(10):
            while server.server._listener.sources.total:
                await asyncio.sleep(0.01)
        await server.online(person)


@spec("DEL-27")
async def test_phones_behind_one_network_that_all_come_back_at_once_are_told_when_to_come_again(rig, monkeypatch):
    """Before TLS nothing can be said, so who logs in has to meet the limit of logins before that of connections."""
    monkeypatch.setattr("taube.server.gateway.listener.source_of", lambda host: "192.0.2.1")
    fiftieth = tuple(
        replace(limit, burst=limit.burst / 50, per_s=limit.per_s / 50)
        if limit.scope is Scope.SOURCE and limit.operation in ("connect", "login")
        else limit
        for limit in LIMITS
    )
    async with rig(config=ServerConfig(limits=LimitSettings(fiftieth))) as server:
        phones = [await server.connect() for _ in range(40)]
        replies = [await phone.log_in(Person()) for phone in phones]
        refused = [e.CATALOGUE[reply.code] for reply in replies]
        assert set(refused) == {e.LOGIN_REFUSED, e.RATE_LIMITED}
        assert all(reply.retry_after_ms > 0 for reply in replies if reply.code == e.RATE_LIMITED.code)


async def test_a_backlog_that_is_half_full_sheds_and_a_full_one_refuses(rig) -> None:
    small = ServerConfig(mailboxes=MailboxSettings(backlog_bytes=100_000))
    async with rig(config=small) as server:
        _, bob = await server.online()
        await bob.next(m.CaughtUp)
        [minted] = await bob.mint()
        alice = await server.connect()
        waiting = 60_000
        server.server.store.backlog_bytes = lambda: waiting
        await alice.call(lambda n: m.Send(n, m.FLAG_EPHEMERAL, [minted.address], b"typing"))
        message = alice.post(lambda n: m.Send(n, 0, [minted.address], b"message"))
        assert (await bob.next(m.Deliver)).body == b"message"
        bob.acknowledge(1)
        await message
        waiting = 200_000
        refused = await alice.send([minted.address], b"too much")
        assert refused.statuses == bytes([m.STATUS_BUSY])
        assert 'taube_envelopes_refused_total{reason="busy"} 1.0' in await figures(server)
        del server.server.store.backlog_bytes
