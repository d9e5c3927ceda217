"""The SDK against a real server: what an application is told, from writing a message to its being read."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

import pytest

from taube.client.events import CaughtUp, ChatChanged, Connected, Event, MessageChanged, MessageReceived, Typing
from taube.testing import Person, Server, succeeded

EventT = TypeVar("EventT")


@pytest.fixture(autouse=True)
def trust_the_server(taube_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(taube_server.certificate))


async def the_next(events: AsyncIterator[Event], kind: type[EventT]) -> EventT:
    async with asyncio.timeout(30):
        async for event in events:
            if isinstance(event, kind):
                return event
    raise AssertionError("no more events")


def test_an_application_is_told_every_step_of_a_conversation(alice: Person, bob: Person) -> None:
    async def main() -> None:
        async with alice.account() as a, bob.account() as b:
            of_alice, of_bob = a.events(), b.events()
            await the_next(of_bob, CaughtUp)
            chat = a.chat(bob.name)
            message = await chat.send_text("hello")
            assert (message.state, message.mine, message.kind) == ("queued", True, "text")
            assert await a.settle(message, 30) in ("kept", "delivered")

            received = (await the_next(of_bob, MessageReceived)).message
            assert (received.id, received.text, received.sender) == (message.id, "hello", alice.name)
            assert (received.chat_name, received.mine, received.state) == (alice.name, False, "received")

            states = []
            while "delivered" not in states:
                states.append((await the_next(of_alice, MessageChanged)).message.state)
            async for batch in b.read():
                assert [each.text for each in batch] == ["hello"]
            while "read" not in states:
                states.append((await the_next(of_alice, MessageChanged)).message.state)
            assert [state for n, state in enumerate(states) if state not in states[:n]][-2:] == ["delivered", "read"]

            await b.chat(alice.name).typing()
            typing = await the_next(of_alice, Typing)
            assert (typing.sender, typing.active) == (bob.name, True)

    asyncio.run(main())


def test_a_strangers_chat_is_a_request_until_it_is_accepted_and_gets_no_receipt(taube_server: Server) -> None:
    stranger, asked = taube_server.person("stranger"), taube_server.person("asked")
    link = asked.contact_link()

    async def main() -> None:
        async with stranger.account() as s, asked.account() as a:
            events = a.events()
            await the_next(events, Connected)
            chat = await s.add(link)
            message = await chat.send_text("may I?")
            change = await the_next(events, ChatChanged)
            assert change.state == "request"
            assert (await the_next(events, MessageReceived)).message.text == "may I?"
            assert await s.settle(message, 30) == "kept"
            async for _ in a.read():
                pass
            assert [each.state for each in s.chat("asked").messages() if each.id == message.id] == ["kept"]
            await a.chat("stranger").accept()
            of_stranger = s.events()
            await a.chat("stranger").send_text("you may")
            assert (await the_next(of_stranger, MessageReceived)).message.text == "you may"
            assert await a.chat("stranger").verify() == await s.chat("asked").verify()

    asyncio.run(main())


def test_the_server_tells_its_owner_what_it_knows(bob: Person) -> None:
    async def main() -> None:
        async with bob.account() as me:
            await me.synchronise(30)
            facts = await me.knows()
            assert facts and all(fact.entry and fact.value for fact in facts)

    asyncio.run(main())
    succeeded(bob.run("me"))
