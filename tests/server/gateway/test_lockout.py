"""Nobody uses up what is another's: limits of a device, an account and of everyone are charged after proof only."""

import os

import pytest

from taube.wire import errors as e
from taube.wire import messages as m
from tests.server.rawclient import Person
from tests.spec import spec

BURST = 25
"""More than any of these limits allows at once."""


def namesake(person: Person) -> Person:
    """A stranger who knows what everyone can fetch: the ids of an account and of its device."""
    stranger = Person()
    stranger.account, stranger.device = person.account, person.device
    return stranger


def kind(reply: object) -> e.ErrorKind:
    assert isinstance(reply, m.Failed), reply
    return e.CATALOGUE[reply.code]


async def publish(client, account: bytes, device_list: bytes):
    return await client.call(lambda n: m.PublishDeviceList(n, account, device_list))


@spec("DEL-28")
async def test_wrong_signatures_do_not_lock_a_device_out(rig):
    async with rig() as server:
        person = await server.person()
        for _ in range(BURST // 5):
            client = await server.connect()
            for _ in range(5):
                assert kind(await client.log_in(namesake(person))) is e.LOGIN_REFUSED
            assert kind(await client.log_in(person)) is e.RATE_LIMITED, "the connection pays"
        client = await server.connect()
        assert isinstance(await client.log_in(person), m.LoggedIn)


@spec("DEL-28")
async def test_an_account_that_names_the_same_device_id_does_not_lock_it_out(rig):
    async with rig() as server:
        person, thief = await server.person(), Person()
        thief.device = person.device
        await (await server.connect()).register(thief, await server.invitation())
        for _ in range(BURST):
            client = await server.connect()
            reply = await client.log_in(thief)
        assert kind(reply) is e.RATE_LIMITED
        client = await server.connect()
        assert isinstance(await client.log_in(person), m.LoggedIn)


@spec("DEL-24")
async def test_a_device_that_logs_in_too_often_is_told_when_to_try_again(rig):
    async with rig() as server:
        person = await server.person()
        for _ in range(BURST):
            client = await server.connect()
            reply = await client.log_in(person)
        assert kind(reply) is e.RATE_LIMITED and reply.retry_after_ms > 0
        assert client.session.state.name == "ANONYMOUS", "another may follow on this connection"


@spec("DEL-28")
@pytest.mark.parametrize("what", ["rubbish", "forged", "the list that stands", "an older list"])
async def test_what_a_stranger_can_send_does_not_prevent_a_newer_device_list(rig, what):
    async with rig() as server:
        person = await server.person()
        assert isinstance(await publish(await server.connect(), person.account, person.device_list(2)), m.Done)
        sent = {
            "rubbish": b"x" * 100,
            "forged": namesake(person).device_list(3),
            "the list that stands": person.device_list(2),
            "an older list": person.device_list(1),
        }[what]
        for _ in range(BURST // 5):
            client = await server.connect()
            for _ in range(5):
                reply = await publish(client, person.account, sent)
                assert isinstance(reply, m.Done) or kind(reply) in (e.STATEMENT_INVALID, e.LIST_OUTDATED)
        assert isinstance(await publish(await server.connect(), person.account, person.device_list(3)), m.Done)


@spec("DEL-24")
async def test_newer_device_lists_of_one_account_are_limited_wherever_they_come_from(rig):
    async with rig() as server:
        person = await server.person()
        for counter in range(2, BURST):
            reply = await publish(await server.connect(), person.account, person.device_list(counter))
        assert kind(reply) is e.RATE_LIMITED and reply.retry_after_ms > 1_000


@spec("DEL-24")
async def test_rubbish_is_limited_by_the_connection_that_sends_it(rig):
    async with rig() as server:
        person, client = await server.person(), await server.connect()
        for _ in range(BURST):
            reply = await publish(client, person.account, b"x" * 100)
        assert kind(reply) is e.RATE_LIMITED


@spec("DEL-28")
async def test_registrations_without_an_invitation_do_not_keep_the_invited_out(rig):
    async with rig() as server:
        for _ in range(30):
            client, stranger = await server.connect(), Person()
            for _ in range(4):
                assert kind(await client.register(stranger, os.urandom(16))) is e.INVITATION_UNKNOWN
            await client.close()
        client = await server.connect()
        assert isinstance(await client.register(Person(), await server.invitation()), m.Done)
