"""A message's way through a real server: kept, delivered, acknowledged, stored, read later, in order."""

import asyncio

import pytest

from taube.server.config import ServerConfig
from taube.server.services.mailboxes import MailboxSettings
from taube.wire import messages as m
from tests.spec import spec

KEPT, GONE = bytes([m.STATUS_KEPT]), bytes([m.STATUS_GONE])


@spec("DEL-07", "DEL-08")
async def test_an_envelope_to_someone_online_is_kept_once_it_is_acknowledged(rig):
    patient = ServerConfig(mailboxes=MailboxSettings(patience_s=30))
    async with rig(config=patient) as server:
        _, bob = await server.online()
        await bob.next(m.CaughtUp)
        [minted] = await bob.mint()
        alice = await server.connect()
        waiting = alice.post(lambda n: m.Send(n, 0, [minted.address], b"hello"))
        delivered = await bob.next(m.Deliver)
        assert (delivered.number, delivered.serial, delivered.body) == (1, minted.serial, b"hello")
        await asyncio.sleep(0.05)
        assert not waiting.done()
        bob.acknowledge(1)
        assert (await waiting).statuses == KEPT


@spec("DEL-08", "DEL-09")
async def test_what_is_not_acknowledged_in_time_is_stored_and_then_kept(rig):
    async with rig() as server:
        person, bob = await server.online()
        await bob.next(m.CaughtUp)
        [minted] = await bob.mint()
        alice = await server.connect()
        assert (await alice.send([minted.address], b"slow")).statuses == KEPT
        assert (await bob.next(m.Deliver)).body == b"slow"
        await bob.close()
        _, again = await server.online(person)
        assert (await again.next(m.Deliver)).body == b"slow"
        assert (await again.next(m.CaughtUp)).upto == 1


@spec("DEL-12", "DEL-13", "DEL-14", "DEL-16")
async def test_what_was_sent_while_offline_is_read_in_order_and_only_until_it_is_acknowledged(rig):
    async with rig() as server:
        person, bob = await server.online()
        [minted] = await bob.mint()
        await bob.close()
        alice = await server.connect()
        bodies = [b"%d" % number for number in range(600)]
        answers = await asyncio.gather(
            *(alice.post(lambda n, b=body: m.Send(n, 0, [minted.address], b)) for body in bodies)
        )
        assert {answer.statuses for answer in answers} == {KEPT}
        _, again = await server.online(person)
        read = []
        for number in range(1, 601):
            delivered = await again.next(m.Deliver)
            assert delivered.number == number
            read.append(delivered.body)
            if number % 50 == 0:
                again.acknowledge(number)
        assert read == bodies
        assert (await again.next(m.CaughtUp)).upto == 600
        assert await again.mint()  # the acknowledgement before it has arrived
        await again.close()
        _, third = await server.online(person)
        assert (await third.next(m.CaughtUp)).upto == 0


@spec("DEL-15")
async def test_a_window_of_unacknowledged_envelopes_is_never_exceeded(rig):
    narrow = ServerConfig(mailboxes=MailboxSettings(window_envelopes=4))
    async with rig(config=narrow) as server:
        _, bob = await server.online()
        await bob.next(m.CaughtUp)
        [minted] = await bob.mint()
        alice = await server.connect()
        for number in range(10):
            assert (await alice.send([minted.address], b"%d" % number)).statuses == KEPT
        for number in range(1, 5):
            assert (await bob.next(m.Deliver)).number == number
        await asyncio.sleep(0.1)
        assert bob.events.empty()
        for number in range(5, 11):
            bob.acknowledge(number - 1)
            delivered = await bob.next(m.Deliver)
            assert (delivered.number, delivered.body) == (number, b"%d" % (number - 1))


@spec("DEL-19")
async def test_ephemeral_envelopes_are_never_stored_and_always_answered_alike(rig):
    async with rig() as server:
        person, bob = await server.online()
        await bob.next(m.CaughtUp)
        [minted] = await bob.mint()
        alice = await server.connect()
        answer = await alice.send([minted.address, b"\x00" * 41], b"typing", m.FLAG_EPHEMERAL)
        assert answer.statuses == KEPT * 2
        assert (await bob.next(m.Deliver)).number == 0
        await bob.close()
        assert (await alice.send([minted.address], b"typing", m.FLAG_EPHEMERAL)).statuses == KEPT
        _, again = await server.online(person)
        assert (await again.next(m.CaughtUp)).upto == 0


@spec("DEL-17")
async def test_a_newer_connection_of_a_device_replaces_the_older_one(rig):
    async with rig() as server:
        person, first = await server.online()
        await first.next(m.CaughtUp)
        [minted] = await first.mint()
        _, second = await server.online(person)
        await first.next(m.Replaced)
        await first.closed()
        await second.next(m.CaughtUp)
        alice = await server.connect()
        waiting = alice.post(lambda n: m.Send(n, 0, [minted.address], b"to the new one"))
        assert (await second.next(m.Deliver)).body == b"to the new one"
        second.acknowledge(1)
        assert (await waiting).statuses == KEPT


@spec("DEL-04")
@pytest.mark.parametrize("is_online", [True, False])
async def test_a_revoked_address_is_gone(rig, is_online):
    async with rig() as server:
        _, bob = await server.online()
        one, other = await bob.mint(2)
        await bob.call(lambda n: m.RevokeAddress(n, one.serial))
        if not is_online:
            await bob.close()
        alice = await server.connect()
        assert (await alice.send([one.address, other.address], b"x")).statuses == GONE + KEPT


@spec("DEL-02")
async def test_an_altered_address_and_one_of_another_server_are_gone(rig):
    async with rig() as server:
        _, bob = await server.online()
        [minted] = await bob.mint()
        altered = minted.address[:-1] + bytes([minted.address[-1] ^ 1])
        alice = await server.connect()
        assert (await alice.send([altered, bytes(41), b"\xff" * 41], b"x")).statuses == GONE * 3


@spec("DEL-06")
async def test_one_body_reaches_many_mailboxes_with_one_answer(rig):
    async with rig() as server:
        readers = [await server.online() for _ in range(5)]
        addresses = [(await client.mint())[0].address for _, client in readers]
        alice = await server.connect()
        assert (await alice.send([*addresses, bytes(41)], b"to all")).statuses == KEPT * 5 + GONE
        for _, client in readers:
            await client.next(m.CaughtUp)
            assert (await client.next(m.Deliver)).body == b"to all"


@spec("DEL-12")
async def test_fifty_senders_at_once_keep_their_own_order(rig):
    async with rig() as server:
        _, bob = await server.online()
        [minted] = await bob.mint()
        senders = [await server.connect() for _ in range(50)]
        waiting = [
            sender.post(lambda n, b=b"%d:%d" % (who, turn): m.Send(n, 0, [minted.address], b))
            for turn in range(10)
            for who, sender in enumerate(senders)
        ]
        seen: dict[bytes, int] = {}
        await bob.next(m.CaughtUp)
        for number in range(1, 501):
            who, _, turn = (await bob.next(m.Deliver)).body.partition(b":")
            assert seen.get(who, -1) + 1 == int(turn)
            seen[who] = int(turn)
            if number % 7 == 0:
                bob.acknowledge(number)
        assert {answer.statuses for answer in await asyncio.gather(*waiting)} == {KEPT}
