"""A device that sleeps is woken through the push service that its browser named; a mark tells a copy from it."""

import asyncio
import os
import threading
from collections.abc import Iterator

import pytest

from taube.server.config import ServerConfig
from taube.server.providers.web_push import WebPush
from taube.server.services.push import PushSettings
from taube.wire import errors as e
from taube.wire import messages as m
from tests.server.gateway.test_commands import refused
from tests.server.providers.push_service import Browser, PushService
from tests.spec import spec

HERE = ServerConfig(push=PushSettings(allow_private=1, connected_s=0.3, first_retry_s=0.1))


@pytest.fixture
def service() -> Iterator[PushService]:
    with PushService() as service:
        yield service


async def until(is_so, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not is_so():
            await asyncio.sleep(0.02)


async def sleeper(server, service: PushService, browser: Browser, path: str = "/wake"):
    """Someone who gave an address away, named a push service, and went to sleep."""
    person, client = await server.online()
    (minted,) = await client.mint()
    endpoint = service.origin + path
    assert isinstance(await client.call(lambda n: m.SetPush(n, endpoint, browser.public, browser.secret)), m.Done)
    await client.close()
    return person, minted.address


@spec("WAK-01", "WAK-02")
async def test_an_urgent_message_wakes_a_device_that_sleeps_once(rig, service):
    async with rig(config=HERE) as server:
        browser = Browser()
        person, address = await sleeper(server, service, browser)
        sender = await server.connect()
        for _ in range(5):
            await sender.send([address], os.urandom(300), m.FLAG_URGENT)
        await until(lambda: service.posts)
        await asyncio.sleep(0.3)
        assert len(service.posts) == 1 and browser.open(service.posts[0].body) == b"taube"
        _, client = await server.online(person)
        for number in range(1, 6):
            assert (await client.next(m.Deliver)).number == number
        client.acknowledge(5)
        await client.close()
        await sender.send([address], os.urandom(300), m.FLAG_URGENT)
        await until(lambda: len(service.posts) == 2)


@spec("WAK-02")
async def test_nothing_else_wakes_a_device(rig, service):
    async with rig(config=HERE) as server:
        person, address = await sleeper(server, service, Browser())
        sender = await server.connect()
        await sender.send([address], os.urandom(300))
        await sender.send([address], os.urandom(300), m.FLAG_EPHEMERAL)
        _, client = await server.online(person)
        await client.next(m.Deliver)
        client.acknowledge(1)
        await client.next(m.CaughtUp)
        sent = asyncio.ensure_future(sender.send([address], os.urandom(300), m.FLAG_URGENT))
        client.acknowledge((await client.next(m.Deliver)).number)
        await sent
        await asyncio.sleep(0.6)
        assert not service.posts


@spec("WAK-02")
async def test_a_connection_that_only_seems_to_be_there_does_not_keep_a_device_asleep(rig, service):
    async with rig(config=HERE) as server:
        person, address = await sleeper(server, service, Browser())
        _, client = await server.online(person)
        sender = await server.connect()
        await sender.send([address], os.urandom(300), m.FLAG_URGENT)  # delivered, and never acknowledged
        await until(lambda: service.posts)
        await client.close()


@spec("WAK-04")
async def test_an_endpoint_that_is_gone_is_forgotten_and_told_to_nobody(rig, service):
    async with rig(config=HERE) as server:
        service.answer = lambda post: (410, {})
        person, address = await sleeper(server, service, Browser(), "/secret-endpoint")
        sender = await server.connect()
        await sender.send([address], os.urandom(300), m.FLAG_URGENT)
        await until(lambda: service.posts)
        _, client = await server.online(person)
        for _ in range(100):
            known = await client.call(m.AskKnowledge)
            if not any(fact.entry == "push endpoint" for fact in known.facts):
                break
            await asyncio.sleep(0.05)
        assert not any(fact.entry == "push endpoint" for fact in known.facts)
        await client.close()
        await sender.send([address], os.urandom(300), m.FLAG_URGENT)
        await asyncio.sleep(0.3)
        assert len(service.posts) == 1
        assert "secret-endpoint" not in server.log.getvalue()


@spec("WAK-07")
async def test_a_login_says_whether_the_device_can_be_woken(rig, service):
    async def wakes() -> bool:
        client = await server.connect()
        reply = await client.log_in(person)
        await client.close()
        return reply.wakes

    async with rig(config=HERE) as server:
        person = await server.person()
        assert not await wakes()
        _, client = await server.online(person)
        (minted,) = await client.mint()
        browser = Browser()
        endpoint = service.origin + "/wake"
        assert isinstance(await client.call(lambda n: m.SetPush(n, endpoint, browser.public, browser.secret)), m.Done)
        await client.close()
        assert await wakes()
        await server.stop()
        await server.start()
        assert await wakes()
        service.answer = lambda post: (410, {})
        sender = await server.connect()
        await sender.send([minted.address], os.urandom(300), m.FLAG_URGENT)
        await until(lambda: service.posts)
        async with asyncio.timeout(10):
            while await wakes():
                await asyncio.sleep(0.05)


@spec("WAK-04", "WAK-06")
async def test_a_push_service_that_fails_is_tried_again(rig, service):
    async with rig(config=HERE) as server:
        service.answer = lambda post: (503 if len(service.posts) < 2 else 201, {})
        _, address = await sleeper(server, service, Browser(), "/secret-endpoint")
        sender = await server.connect()
        await sender.send([address], os.urandom(300), m.FLAG_URGENT)
        await until(lambda: len(service.posts) == 3)
        assert "secret-endpoint" not in server.log.getvalue()


@spec("WAK-04")
async def test_a_push_service_that_does_not_answer_keeps_no_other_phone_asleep(rig, service):
    answers = threading.Event()
    with PushService() as slow:
        slow.origin = slow.origin.replace("127.0.0.1", "localhost")
        slow.answer = lambda post: (201 if answers.wait(60) else 503, {})
        config = ServerConfig(push=PushSettings(allow_private=1, at_once=2, timeout_s=60.0))
        async with rig(config=config) as server:
            sender = await server.connect()
            for number in range(3):
                _, address = await sleeper(server, slow, Browser(), f"/{number}")
                await sender.send([address], os.urandom(300), m.FLAG_URGENT)
            _, address = await sleeper(server, service, Browser())
            await sender.send([address], os.urandom(300), m.FLAG_URGENT)
            try:
                await until(lambda: service.posts, 30.0)
            finally:
                answers.set()
            await until(lambda: len(slow.posts) == 3, 30.0)
            assert [post.path for post in slow.posts] == ["/0", "/1", "/2"]


@spec("WAK-01")
async def test_a_device_takes_its_endpoint_back(rig, service):
    async with rig(config=HERE) as server:
        person, address = await sleeper(server, service, Browser())
        _, client = await server.online(person)
        known = await client.call(m.AskKnowledge)
        assert any(fact.entry == "push endpoint" and service.origin in fact.value for fact in known.facts)
        assert isinstance(await client.call(lambda n: m.SetPush(n, "")), m.Done)
        await client.close()
        sender = await server.connect()
        await sender.send([address], os.urandom(300), m.FLAG_URGENT)
        await asyncio.sleep(0.4)
        assert not service.posts


@spec("WAK-01")
@pytest.mark.parametrize("is_refused_first", [False, True])
async def test_the_newest_request_counts_whatever_the_look_at_an_older_one_takes(
    rig, service, monkeypatch, is_refused_first
):
    looks: list[asyncio.Event] = []
    inside: list[int] = []

    async def slow(*_) -> bool:
        number, look = len(looks), asyncio.Event()
        looks.append(look)
        await look.wait()
        return number in inside

    monkeypatch.setattr(WebPush, "leads_inside", slow)
    async with rig(config=HERE) as server:
        browser = Browser()
        _, client = await server.online()

        def named(path: str):
            endpoint = service.origin + path if path else ""
            key, secret = (browser.public, browser.secret) if path else (b"", b"")
            return client.post(lambda n: m.SetPush(n, endpoint, key, secret))

        async def kept() -> str:
            known = await client.call(m.AskKnowledge)
            return " ".join(fact.value for fact in known.facts if fact.entry == "push endpoint")

        older = [named("/one"), named("/two")]
        await until(lambda: len(looks) == 2)
        assert isinstance(await named(""), m.Done)
        older.append(named("/three"))
        await until(lambda: len(looks) == 3)
        looks[2].set()
        await until(older[2].done)
        for look in looks:
            look.set()
        assert [type(await each) for each in older] == [m.Done] * 3
        assert "/three" in await kept()
        last = [named("/four"), named("")]
        await until(lambda: len(looks) == 4)
        looks[3].set()
        assert [type(await each) for each in last] == [m.Done] * 2
        assert await kept() == ""
        good, bad = named("/five"), named("/six")
        await until(lambda: len(looks) == 6)
        inside.append(5)
        for look in (looks[5], looks[4]) if is_refused_first else (looks[4], looks[5]):
            look.set()
        assert isinstance(await good, m.Done) and isinstance(await bad, m.Failed)
        assert "/five" in await kept()
        await client.close()


@spec("WAK-01")
async def test_a_restarted_server_goes_on_waking(rig, service):
    async with rig(config=HERE) as server:
        _, address = await sleeper(server, service, Browser())
        await server.stop()
        await server.start()
        sender = await server.connect()
        await sender.send([address], os.urandom(300), m.FLAG_URGENT)
        await until(lambda: service.posts)


@spec("WAK-03")
async def test_an_endpoint_in_the_servers_own_network_is_refused_in_words(rig):
    async with rig() as server:
        _, client = await server.online()
        browser = Browser()
        for endpoint in (
            "https://127.0.0.1/x",
            "https://10.0.0.1/x",
            "https://localhost/x",
            "http://push.example.org/",
        ):
            reply = await client.call(lambda n, to=endpoint: m.SetPush(n, to, browser.public, browser.secret))
            assert refused(reply, e.PUSH_REFUSED).detail


@spec("IDN-17")
async def test_whoever_has_an_old_mark_is_told_that_there_is_another(rig):
    async with rig() as server:
        _, client = await server.online()
        first, second, third = (os.urandom(16) for _ in range(3))
        assert isinstance(await client.call(lambda n: m.SwapMark(n, b"", first)), m.Done)
        assert isinstance(await client.call(lambda n: m.SwapMark(n, first, second)), m.Done)
        refused(await client.call(lambda n: m.SwapMark(n, first, third)), e.MARK_DIFFERS)
        refused(await client.call(lambda n: m.SwapMark(n, b"", third)), e.MARK_DIFFERS)
        assert isinstance(await client.call(lambda n: m.SwapMark(n, second, third)), m.Done)


@spec("WAK-04")
async def test_an_error_that_nobody_foresaw_ends_one_push_and_no_loop(rig, service, monkeypatch):
    async with rig(config=HERE) as server:
        browser, running = Browser(), server.server
        _, broken = await sleeper(server, service, browser, "/broken")
        _, address = await sleeper(server, service, browser)
        loops, push, inside = running._loops, running._waking._push, running._waking._leads_inside

        async def fails(row):
            if row.endpoint.endswith("/broken"):
                raise ZeroDivisionError
            return await push(row)

        async def fails_too(row):
            if row.endpoint.endswith("/broken"):
                raise ZeroDivisionError
            return await inside(row)

        monkeypatch.setattr(running._waking, "_push", fails)
        monkeypatch.setattr(running._waking, "_leads_inside", fails_too)
        sender = await server.connect()
        await sender.send([broken], os.urandom(300), m.FLAG_URGENT)
        await until(lambda: [event for event in server.events() if event["event"] == "bug"])
        await sender.send([address], os.urandom(300), m.FLAG_URGENT)
        await until(lambda: service.posts)
        _, client = await server.online()
        endpoint = service.origin + "/broken"
        answer = await client.call(lambda n: m.SetPush(n, endpoint, browser.public, browser.secret))
        refused(answer, e.INTERNAL)
        assert running._loops is loops and not loops.done()
