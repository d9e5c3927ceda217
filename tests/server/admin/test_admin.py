"""`taube admin` on the folder of a running server: invite, revoke, remove, knows, and clear sentences for bad input."""

import asyncio
import base64

import pytest

from taube import cli
from taube.exits import EX_USAGE
from taube.server import admin
from taube.server.config import OperatorError, ServerConfig
from taube.server.stores.sqlite import SqliteSettings
from taube.wire import errors as e
from taube.wire import messages as m
from tests.server.rawclient import Person


def secret(link: str) -> bytes:
    return base64.urlsafe_b64decode(link.rpartition("#")[2] + "==")


async def run(function, *arguments, **options):
    """As another process would: off the server's loop."""
    return await asyncio.to_thread(function, *arguments, **options)


async def test_an_invitation_made_beside_a_running_server_works_at_once(rig):
    async with rig() as server:
        link = await run(admin.invite, server.folder / "data", uses=2, days=1)
        assert link.startswith(f"{server.server.origin}/i#")
        client = await server.connect()
        for _ in range(2):
            assert isinstance(await client.register(Person(), secret(link)), m.Done)
        reply = await client.register(Person(), secret(link))
        assert e.CATALOGUE[reply.code] is e.INVITATION_USED


async def test_a_revoked_invitation_is_unknown(rig):
    async with rig() as server:
        data = server.folder / "data"
        link = await run(admin.invite, data)
        await run(admin.revoke, data, link)
        client = await server.connect()
        reply = await client.register(Person(), secret(link))
        assert e.CATALOGUE[reply.code] is e.INVITATION_UNKNOWN
        with pytest.raises(OperatorError, match="no such invitation"):
            await run(admin.revoke, data, link)


async def test_a_removed_account_is_put_off_by_the_running_server(rig):
    quick = ServerConfig(sqlite=SqliteSettings(foreign_check_s=0.05))
    async with rig(config=quick) as server:
        person, bob = await server.online()
        [minted] = await bob.mint()
        await run(admin.remove, server.folder / "data", person.account.hex())
        await bob.closed()
        alice = await server.connect()
        assert (await alice.send([minted.address], b"x")).statuses == bytes([m.STATUS_GONE])
        reply = await alice.log_in(person)
        assert e.CATALOGUE[reply.code] is e.LOGIN_REFUSED


async def test_the_operator_learns_what_the_person_is_told_and_no_more(rig):
    async with rig() as server:
        person, bob = await server.online()
        told = (await bob.call(m.AskKnowledge)).facts
        assert await run(admin.knows, server.folder / "data", person.account.hex()) == told


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("--uses 0", "--uses has to be a whole number from 1 to 100,000."),
        ("--uses 100001", "--uses has to be a whole number from 1 to 100,000."),
        ("--days -1", "--days has to be a whole number from 1 to 3,650."),
        ("--days 3651", "--days has to be a whole number from 1 to 3,650."),
    ],
)
def test_an_invitation_beyond_its_bounds_is_one_sentence_and_64(tmp_path, capsys, option, sentence):
    assert cli.main(["admin", "invite", "--data", str(tmp_path), *option.split()]) == EX_USAGE
    assert capsys.readouterr().err == f"taube: {sentence}\n"


async def test_bad_input_gets_one_clear_sentence(rig, tmp_path):
    async with rig() as server:
        data = server.folder / "data"
        for call, sentence in [
            (lambda: admin.invite(tmp_path / "nothing"), "There is no server"),
            (lambda: admin.revoke(data, "hello"), "no invitation link"),
            (lambda: admin.revoke(data, f"{server.server.origin}/i#short"), "no invitation link"),
            (lambda: admin.revoke(data, "https://other.example/i#" + "A" * 22), "another server"),
            (lambda: admin.remove(data, "xyz"), "no account id"),
            (lambda: admin.remove(data, "00" * 32), "no such account"),
            (lambda: admin.knows(data, "00" * 32), "no such account"),
        ]:
            with pytest.raises(OperatorError, match=sentence):
                await run(call)
