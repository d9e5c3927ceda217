"""What reaches a push service, what its answers mean, and where nothing is ever sent."""

import asyncio
import base64
import contextlib
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from taube.server import secrets
from taube.server.ports import PushRow
from taube.server.providers import web_push
from taube.server.providers.web_push import CONTENT, LOOKS, WebPush
from taube.server.services.push import Answer, PushSettings
from taube.wire.errors import WireError
from tests.server.providers.push_service import Browser, PushService
from tests.spec import spec

NOW_S = 1_800_000_000
KEY = secrets.PushKey(secrets.PushKey.make())


def unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def make(allow_private: int = 1, **settings: Any) -> WebPush:
    return WebPush(
        PushSettings(allow_private=allow_private, **{"timeout_s": 2.0} | settings),
        subject="https://taube.example.org",
        authorize=KEY.authorization,
        encrypt=lambda content, key, secret: secrets.encrypt_push(
            content, key, secret, b"salt salt salt s", secrets.PushKey.make()
        ),
        now_s=lambda: NOW_S,
    )


@pytest.fixture
def service() -> Iterator[PushService]:
    with PushService() as service:
        yield service


@pytest.fixture
def browser() -> Browser:
    return Browser()


def row(service: PushService, browser: Browser) -> PushRow:
    return PushRow(f"{service.origin}/wake/1", browser.public, browser.secret)


@spec("WAK-05")
def test_the_example_of_the_standard_is_encrypted_alike() -> None:
    """RFC 8291, section 5 and appendix A."""
    body = secrets.encrypt_push(
        b"When I grow up, I want to be a watermelon",
        unpadded("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"),
        unpadded("BTBZMqHH6r4Tts7J_aSIgg"),
        unpadded("DGv6ra1nlYgDCS1FRnbzlw"),
        unpadded("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"),
    )
    assert body == unpadded(
        "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_"
        "yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
    )


@spec("WAK-05")
async def test_what_is_pushed_is_the_same_for_all_and_opens_for_its_browser_only(
    service: PushService, browser: Browser
) -> None:
    push = make()
    assert await push.push(row(service, browser)) == (Answer.TAKEN, 0.0)
    (post,) = service.posts
    assert browser.open(post.body) == CONTENT
    assert post.path == "/wake/1" and post.headers["ttl"] == "604800" and post.headers["urgency"] == "high"
    assert post.headers["topic"] == "taube" and post.headers["content-encoding"] == "aes128gcm"
    push.close()


@spec("WAK-05")
async def test_a_push_service_can_check_who_pushes(service: PushService, browser: Browser) -> None:
    push = make()
    await push.push(row(service, browser))
    scheme, _, rest = service.posts[0].headers["authorization"].partition(" ")
    fields = dict(part.strip().split("=", 1) for part in rest.split(","))
    head, claims, signature = fields["t"].split(".")
    assert scheme == "vapid" and unpadded(fields["k"]) == KEY.public
    assert json.loads(unpadded(head)) == {"typ": "JWT", "alg": "ES256"}
    told = json.loads(unpadded(claims))
    assert told["aud"] == service.origin and told["sub"] == "https://taube.example.org"
    assert NOW_S < told["exp"] <= NOW_S + 86_400
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), KEY.public)
    r, s = unpadded(signature)[:32], unpadded(signature)[32:]
    public.verify(
        encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big")),
        f"{head}.{claims}".encode(),
        ec.ECDSA(SHA256()),
    )
    push.close()


@spec("WAK-04")
@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {}, (Answer.TAKEN, 0.0)),
        (404, {}, (Answer.GONE, 0.0)),
        (410, {}, (Answer.GONE, 0.0)),
        (400, {}, (Answer.REFUSED, 0.0)),
        (403, {}, (Answer.REFUSED, 0.0)),
        (302, {"Location": "http://127.0.0.1:1/"}, (Answer.REFUSED, 0.0)),
        (429, {"Retry-After": "120"}, (Answer.LATER, 120.0)),
        (503, {"Retry-After": "Fri, 15 Jan 2027 08:01:00 GMT"}, (Answer.LATER, 60.0)),
        (503, {"Retry-After": "soon"}, (Answer.LATER, 0.0)),
        (503, {"Retry-After": f"Fri, 15 Jan {'9' * 30} 08:01:00 GMT"}, (Answer.LATER, 0.0)),
        (500, {}, (Answer.LATER, 0.0)),
    ],
)
async def test_what_an_answer_means(
    service: PushService, browser: Browser, status: int, headers: dict[str, str], expected: tuple[Answer, float]
) -> None:
    service.answer = lambda post: (status, headers)
    push = make()
    assert await push.push(row(service, browser)) == expected
    assert len(service.posts) == 1
    push.close()


@spec("WAK-04")
async def test_a_push_service_that_is_not_there_is_tried_again(browser: Browser) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        push = make()
        gone = PushRow(f"http://127.0.0.1:{held.getsockname()[1]}/", browser.public, browser.secret)
        assert await push.push(gone) == (Answer.LATER, 0.0)
        push.close()


async def test_a_key_that_is_no_point_of_the_curve_is_refused(service: PushService) -> None:
    push = make()
    assert await push.push(PushRow(service.origin, b"\x04" + bytes(64), bytes(16))) == (Answer.REFUSED, 0.0)
    assert not service.posts
    push.close()


@spec("WAK-03")
async def test_a_name_that_leads_inside_is_refused_before_and_while_it_is_pushed_to(
    service: PushService, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = int(service.origin.rpartition(":")[2])
    inside = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    outside = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("9.9.9.9", port))
    wanted = PushRow("https://push.example.org/", browser.public, browser.secret)
    push = make(allow_private=0)
    monkeypatch.setattr(web_push.socket, "getaddrinfo", lambda *_, **__: [*inside, outside])
    assert await push.push(wanted) == (Answer.REFUSED, 0.0)
    monkeypatch.setattr(web_push.socket, "getaddrinfo", lambda *_, **__: inside)
    assert await push.push(wanted) == (Answer.REFUSED, 0.0)
    assert not service.posts
    push.close()


class HangingNames:
    """Look-ups of hosts that begin so hang until `answers` is set; all lead to this machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, beginning: str = "") -> None:
        self.answers = threading.Event()
        self.asked: list[str] = []
        self._beginning = beginning
        monkeypatch.setattr(web_push.socket, "getaddrinfo", self._look_up)

    def _look_up(self, host: str, *_: object, **__: object) -> list[Any]:
        self.asked.append(host)
        if host.startswith(self._beginning):
            self.answers.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))]


@spec("WAK-04")
async def test_a_look_up_that_hangs_holds_no_push_beyond_its_time_and_few_threads(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = HangingNames(monkeypatch)

    def at(host: str) -> PushRow:
        return PushRow(f"https://{host}.example.org/", browser.public, browser.secret)

    push = make(allow_private=0, timeout_s=0.2, at_once=4)
    try:
        async with asyncio.timeout(30):
            for _ in range(3):
                assert await asyncio.gather(*(push.push(at("a")) for _ in range(4))) == [(Answer.LATER, 0.0)] * 4
            for host in "bcdefg":
                assert await push.push(at(host)) == (Answer.LATER, 0.0)
        assert [host[0] for host in names.asked] == ["a", "b", "c", "d"]
    finally:
        names.answers.set()
    async with asyncio.timeout(30):
        while await push.push(at("g")) != (Answer.REFUSED, 0.0):
            await asyncio.sleep(0.02)
    push.close()


@spec("WAK-03")
async def test_slow_name_servers_hold_up_few_threads_and_nobody_elses_endpoint_nor_push(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = HangingNames(monkeypatch, "slow")

    def at(host: str) -> PushRow:
        return PushRow(f"https://{host}.example.org/", browser.public, browser.secret)

    push = make(allow_private=0, timeout_s=0.2)
    try:
        async with asyncio.timeout(30):
            for _ in range(2):
                slow = [push.leads_inside(at(f"slow{number}")) for number in range(LOOKS)]
                assert not any(await asyncio.gather(*slow))
                assert not await push.leads_inside(at("other")), "nobody waits for what others look up"
            while len(names.asked) < LOOKS:
                await asyncio.sleep(0.01)
            assert sorted(names.asked) == sorted(f"slow{number}.example.org" for number in range(LOOKS))
            while await push.push(at("another")) != (Answer.REFUSED, 0.0):
                await asyncio.sleep(0.01)
    finally:
        names.answers.set()
    async with asyncio.timeout(30):
        while not await push.leads_inside(at("other")):
            await asyncio.sleep(0.02)
    push.close()


@spec("WAK-03")
async def test_as_many_as_wait_for_a_look_up_make_nobody_else_wait_and_let_no_wrong_endpoint_in(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = HangingNames(monkeypatch)

    def at(host: str) -> PushRow:
        return PushRow(f"https://{host}/", browser.public, browser.secret)

    push = make(allow_private=0, timeout_s=60.0)
    waiting = [asyncio.ensure_future(push.leads_inside(at("slow.example.org"))) for _ in range(LOOKS)]
    try:
        async with asyncio.timeout(30):
            while not names.asked:
                await asyncio.sleep(0.01)
            waiting[0].cancel()
            await asyncio.wait(waiting[:1])
            waiting[0] = asyncio.ensure_future(push.leads_inside(at("slow.example.org")))
            await asyncio.sleep(0)
            assert not await push.leads_inside(at("push.example.org"))
            with pytest.raises(WireError):
                await push.leads_inside(at("10.0.0.1"))
        assert names.asked == ["slow.example.org"]
    finally:
        names.answers.set()
    async with asyncio.timeout(30):
        assert all(await asyncio.gather(*waiting)), "who stops waiting ends no look-up of others"
    push.close()


@spec("WAK-03")
async def test_an_endpoint_on_this_machine_is_refused_by_its_look(browser: Browser) -> None:
    push = make(allow_private=0)
    for host in ("https://127.0.0.1/", "https://localhost/"):
        with pytest.raises(WireError):
            await push.leads_inside(PushRow(host, browser.public, browser.secret))
    push.close()


def endless(first: bytes, then: bytes, pause_s: float) -> Iterator[bytes]:
    yield first
    while True:
        time.sleep(pause_s)
        yield then


@contextlib.contextmanager
def odd_service(says: Callable[[], Iterator[bytes]]) -> Iterator[str]:
    """A push service that answers every connection with what *says* gives, until the peer has had enough."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.request.recv(65_536)
                for part in says():
                    self.request.sendall(part)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join(5)


@spec("WAK-04")
async def test_a_push_that_was_answered_waits_for_nothing_more(browser: Browser) -> None:
    def says() -> Iterator[bytes]:
        return endless(b"HTTP/1.1 201 Created\r\nContent-Length: 60000\r\n\r\n", b"y", 5.0)

    push = make(timeout_s=30.0)
    with odd_service(says) as origin:
        async with asyncio.timeout(10):
            assert await push.push(PushRow(origin, browser.public, browser.secret)) == (Answer.TAKEN, 0.0)
    push.close()


@spec("WAK-04")
@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (lambda: endless(b"HTTP/1.1 2", b"0", 0.1), Answer.LATER),
        (lambda: endless(b"HTTP/1.1 201 Created\r\nX: ", b"y", 0.1), Answer.LATER),
        (lambda: endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0.0), Answer.LATER),
        (lambda: endless(b"HTTP/1.1 201 Created\r\nX: ", b"y" * 1000, 0.0), Answer.LATER),
        (lambda: endless(b"HTTP/1.1 410 Gone\r\nContent-Length: 999999\r\n\r\n", b"y", 0.1), Answer.GONE),
        (lambda: endless(b"HTTP/1.1 410 Gone\r\nContent-Length: 9999999\r\n\r\n", b"y" * 1000, 0.0), Answer.GONE),
    ],
    ids=["drips its status", "drips its head", "never answers", "endless head", "drips its body", "huge body"],
)  # fmt: skip
async def test_a_push_service_that_never_ends_holds_nobody_for_longer_than_a_push_may_take(
    browser: Browser, says: Callable[[], Iterator[bytes]], expected: Answer
) -> None:
    push = make()
    with odd_service(says) as origin:
        async with asyncio.timeout(10):
            assert await push.push(PushRow(origin, browser.public, browser.secret)) == (expected, 0.0)
    push.close()
