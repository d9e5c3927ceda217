"""What each command does on a real server, and how it is refused."""

import asyncio
import os
from dataclasses import replace

import pytest

from taube.server.config import ServerConfig
from taube.server.limits import LIMITS, LimitSettings, Scope
from taube.server.ports import QueueNumber
from taube.server.services import keys
from taube.wire import errors as e
from taube.wire import messages as m
from tests.server.rawclient import Person, raw
from tests.spec import spec


def refused(reply: object, kind: e.ErrorKind) -> m.Failed:
    assert isinstance(reply, m.Failed), reply
    assert e.CATALOGUE[reply.code] is kind
    return reply


@spec("IDN-31", "IDN-33")
async def test_an_invitation_makes_one_account_and_is_used_up(rig):
    async with rig() as server:
        invitation = await server.invitation()
        client, person = await server.connect(), Person()
        assert isinstance(await client.register(person, invitation), m.Done)
        assert isinstance(await client.register(person, invitation), m.Done)  # the answer may have been lost
        refused(await client.register(Person(), invitation), e.INVITATION_USED)


@spec("IDN-32")
async def test_unknown_and_expired_invitations_are_told_apart(rig):
    async with rig() as server:
        client = await server.connect()
        refused(await client.register(Person(), bytes(16)), e.INVITATION_UNKNOWN)
        expired = await server.invitation(days=-1)
        refused(await client.register(Person(), expired), e.INVITATION_EXPIRED)


@spec("IDN-33")
async def test_a_statement_that_was_tampered_with_is_refused_and_costs_no_invitation(rig):
    async with rig() as server:
        invitation = await server.invitation()
        client, person = await server.connect(), Person()
        forged = bytes(64) + person.device_list()[64:]
        reply = await client.call(lambda n: m.Register(n, invitation, person.genesis, forged))
        refused(reply, e.STATEMENT_INVALID)
        assert isinstance(await client.register(person, invitation), m.Done)


@spec("IDN-12")
async def test_only_the_device_that_holds_the_key_can_log_in(rig):
    async with rig() as server:
        person = await server.person()
        client = await server.connect()
        stranger = Person()
        stranger.account, stranger.device = person.account, person.device
        refused(await client.log_in(stranger), e.LOGIN_REFUSED)
        refused(await client.log_in(Person()), e.LOGIN_REFUSED)
        assert isinstance(await client.log_in(person), m.LoggedIn)


@spec("CON-25", "IDN-11")
async def test_a_signature_for_one_connection_is_worth_nothing_on_another(rig):
    async with rig() as server:
        person = await server.person()
        one, other = await server.connect(), await server.connect()
        other.session.welcome = one.session.welcome
        refused(await other.log_in(person), e.LOGIN_REFUSED)


@spec("GAT-01", "GAT-03")
async def test_the_first_claim_of_a_gate_wins_and_everyone_learns_the_winner(rig):
    async with rig() as server:
        clients = [await server.connect() for _ in range(10)]
        for _ in range(5):
            name = os.urandom(32)
            assert (await clients[0].call(lambda n, g=name: m.ReadGate(n, g))).value == b""
            claims = [c.post(lambda n, g=name, v=b"value %d" % i: m.ClaimGate(n, g, v)) for i, c in enumerate(clients)]
            values = {state.value for state in await asyncio.gather(*claims)}
            assert len(values) == 1
            assert (await clients[0].call(lambda n, g=name: m.ReadGate(n, g))).value in values


@spec("IDN-22", "IDN-23", "IDN-24")
async def test_a_key_package_is_claimed_once_and_the_last_resort_stays(rig):
    async with rig() as server:
        person, bob = await server.online()
        [minted] = await bob.mint()
        stranger = await server.connect()
        claim = lambda: stranger.call(lambda n: m.ClaimKeyPackage(n, minted.address, m.SUITE_CLASSIC))  # noqa: E731
        refused(await claim(), e.NO_KEY_PACKAGE)
        published = await bob.call(
            lambda n: m.PublishKeyPackages(n, m.SUITE_CLASSIC, [b"one", b"two"], last_resort=b"last")
        )
        assert published.left == 2
        claimed = [await claim() for _ in range(4)]
        assert [each.key_package for each in claimed] == [b"one", b"two", b"last", b"last"]
        assert claimed[0].genesis == person.genesis
        refused(await stranger.call(lambda n: m.ClaimKeyPackage(n, bytes(41), m.SUITE_CLASSIC)), e.ADDRESS_GONE)


@spec("DEL-24")
async def test_claims_through_one_address_are_limited_with_a_time_to_wait(rig):
    async with rig() as server:
        _, bob = await server.online()
        one, other = await bob.mint(2)
        await bob.call(lambda n: m.PublishKeyPackages(n, m.SUITE_CLASSIC, [], last_resort=b"last"))
        stranger = await server.connect()
        for _ in range(20):
            await stranger.call(lambda n: m.ClaimKeyPackage(n, one.address, m.SUITE_CLASSIC))
        reply = await stranger.call(lambda n: m.ClaimKeyPackage(n, one.address, m.SUITE_CLASSIC))
        assert refused(reply, e.RATE_LIMITED).retry_after_ms > 1000
        assert isinstance(
            await stranger.call(lambda n: m.ClaimKeyPackage(n, other.address, m.SUITE_CLASSIC)), m.KeyPackageClaimed
        )


@spec("IDN-06", "IDN-09", "DEL-22")
async def test_a_device_that_the_newest_list_leaves_out_is_put_off_and_its_addresses_end(rig):
    async with rig() as server:
        person, bob = await server.online()
        [minted] = await bob.mint()
        replacement = [[os.urandom(16), raw(person.recovery_key), bytes(32), bytes(32)]]
        other = await server.connect()
        newer = person.device_list(2, replacement)
        assert isinstance(await other.call(lambda n: m.PublishDeviceList(n, person.account, newer)), m.Done)
        await bob.closed()
        assert (await other.send([minted.address], b"x")).statuses == bytes([m.STATUS_GONE])
        refused(await other.log_in(person), e.DEVICE_REVOKED)
        refused(
            await other.call(lambda n: m.PublishDeviceList(n, person.account, person.device_list(1))), e.LIST_OUTDATED
        )
        certificate = await other.call(lambda n: m.FetchCertificate(n, person.account))
        assert (certificate.genesis, certificate.device_list) == (person.genesis, newer)


@spec("IDN-14")
async def test_a_device_is_told_everything_that_is_held_about_its_account(rig):
    async with rig() as server:
        person, bob = await server.online()
        knowledge = await bob.call(m.AskKnowledge)
        text = " ".join(fact.value for fact in knowledge.facts)
        assert person.account.hex() in text and person.device.hex() in text


@spec("IDN-15", "DEL-22")
async def test_a_deleted_account_is_gone_with_everything_of_it(rig):
    async with rig() as server:
        person, bob = await server.online()
        [minted] = await bob.mint()
        assert isinstance(await bob.call(m.DeleteAccount), m.Done)
        await bob.closed()
        client = await server.connect()
        refused(await client.log_in(person), e.LOGIN_REFUSED)
        refused(await client.call(lambda n: m.FetchCertificate(n, person.account)), e.ACCOUNT_UNKNOWN)
        assert (await client.send([minted.address], b"x")).statuses == bytes([m.STATUS_GONE])


@spec("DEL-24")
async def test_too_many_gates_from_one_connection_are_refused_with_a_time_to_wait(rig):
    async with rig() as server:
        client = await server.connect()
        waiting = [client.post(lambda n: m.ClaimGate(n, os.urandom(32), b"v")) for _ in range(230)]
        replies = await asyncio.gather(*waiting)
        limited = [reply for reply in replies if isinstance(reply, m.Failed)]
        assert limited and all(refused(reply, e.RATE_LIMITED).retry_after_ms for reply in limited)


@spec("CON-20")
@pytest.mark.parametrize(
    "command",
    [
        lambda n: m.Send(n, 0, [bytes(41)], b"x"),
        lambda n: m.ClaimGate(n, bytes(32), b"x"),
        lambda n: m.ClaimKeyPackage(n, bytes(41), 1),
    ],
)
async def test_what_must_not_be_tied_to_a_device_is_refused_on_its_connection(rig, command):
    async with rig() as server:
        _, bob = await server.online()
        await bob.next(m.CaughtUp)
        from taube.wire.codec import encode

        bob.send_bytes(encode(command(77)))
        reply = await bob.next(m.Failed)
        assert (reply.request, e.CATALOGUE[reply.code]) == (77, e.OUT_OF_ORDER)


@spec("DEL-24")
async def test_a_connection_may_send_exactly_its_budget_and_is_then_told_how_long_to_wait(rig):
    slow = tuple(
        replace(limit, burst=50, per_s=0.01) if (limit.operation, limit.scope) == ("send", Scope.CONNECTION) else limit
        for limit in LIMITS
    )
    async with rig(config=ServerConfig(limits=LimitSettings(limits=slow))) as server:
        _, bob = await server.online()
        [minted] = await bob.mint()
        alice = await server.connect()
        for _ in range(50):
            assert isinstance(await alice.send([minted.address], b"x"), m.Sent)
        assert refused(await alice.send([minted.address], b"x"), e.RATE_LIMITED).retry_after_ms > 1000
        other = await server.connect()
        assert isinstance(await other.send([minted.address], b"x"), m.Sent)


@spec("DEL-06")
async def test_an_address_stands_once_in_a_send(rig):
    async with rig() as server:
        person = await server.person()
        client = await server.connect()
        await client.log_in(person)
        address = (await client.mint(1))[0].address
        sender = await server.connect()
        refused(await sender.send([address, address], b"twice"), e.BAD_FRAME)
        assert isinstance(await sender.send([address], b"once"), m.Sent)


async def test_nothing_is_written_for_a_device_that_has_just_ended(rig):
    async with rig() as server:
        person = await server.person()
        client = await server.connect()
        await client.log_in(person)
        gone = client.post(lambda n: m.DeleteAccount(n))
        late = [
            client.post(lambda n: m.RevokeAddress(n, b"revoked!")),
            client.post(lambda n: m.PublishKeyPackages(n, m.SUITE_CLASSIC, [b"package"], b"last resort")),
        ]
        assert isinstance(await gone, m.Done)
        await asyncio.gather(*late, return_exceptions=True)
        assert await server.server.ask(lambda tables: tables.revoked_count(QueueNumber(1))) == 0
        left = await server.server.ask(lambda tables: keys.stock(tables, QueueNumber(1)))
        assert (left.classic, left.last_resorts) == (0, [])


async def test_gates_take_so_many_bytes_from_everyone_and_no_more(rig):
    few = tuple(
        replace(limit, burst=50_000.0, per_s=100.0) if limit.operation == "gate bytes" else limit for limit in LIMITS
    )
    few = tuple(limit for limit in few if (limit.operation, limit.scope) != ("gate bytes", Scope.SOURCE))
    async with rig(config=ServerConfig(limits=LimitSettings(limits=few))) as server:
        client = await server.connect()
        answers = [await client.call(lambda n: m.ClaimGate(n, os.urandom(32), bytes(30_000))) for _ in range(3)]
        assert isinstance(answers[0], m.GateState)
        assert refused(answers[2], e.RATE_LIMITED).retry_after_ms > 0
