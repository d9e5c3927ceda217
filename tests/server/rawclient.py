"""A client with no store and no encryption: frames in and out of a real server, as the gateway's tests need it."""

import asyncio
import os
import ssl
from collections.abc import Callable
from hashlib import sha256
from typing import Any, TypeVar

import picows
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from taube.wire import messages as m
from taube.wire.codec import decode_reply_or_event
from taube.wire.errors import FrameError
from taube.wire.messages import Command, Event, Reply
from taube.wire.packing import pack
from taube.wire.session import ClientSession, login_message

PATIENCE_S = 15.0
Kind = TypeVar("Kind")


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


class Person:
    """The keys of an account with one device, made without the core."""

    def __init__(self) -> None:
        self.account_key, self.recovery_key, self.login_key = (Ed25519PrivateKey.generate() for _ in range(3))
        self.device = os.urandom(16)
        self.genesis = b"\x01" + raw(self.account_key) + raw(self.recovery_key)
        self.account = sha256(self.genesis).digest()

    def device_list(self, counter: int = 1, devices: list[list[bytes]] | None = None) -> bytes:
        mine = [[self.device, raw(self.login_key), bytes(32), bytes(32)]]
        listed = pack([1, self.account, counter, mine if devices is None else devices, []])
        return self.account_key.sign(b"taube device list v1" + listed) + listed


class RawClient(picows.WSListener):
    """One connection. `call` sends a command and waits for its reply; events wait in `events`."""

    def __init__(self) -> None:
        self.session = ClientSession()
        self.replies: dict[int, asyncio.Future[Reply]] = {}
        self.events: asyncio.Queue[Event | Reply] = asyncio.Queue()
        self.gone = asyncio.Event()
        self.close_code = 0
        self.transport: Any = None

    @classmethod
    async def connect(
        cls, url: str, context: ssl.SSLContext | None = None, *, greet: bool = True, **options: Any
    ) -> "RawClient":
        client = cls()
        address = url.replace("http", "ws", 1) + "/v1/socket"
        client.transport, _ = await picows.ws_connect(
            lambda: client, address, ssl_context=context, logger_name="raw", **options
        )
        if greet:
            client.send_bytes(client.session.hello())
            await client.next(m.Welcome)
        return client

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        if frame.msg_type == picows.WSMsgType.CLOSE:
            self.close_code = int(frame.get_close_code())
            transport.disconnect()
            return
        if frame.msg_type != picows.WSMsgType.BINARY:
            return
        payload = frame.get_payload_as_bytes()
        try:
            message = self.session.receive(payload)
        except FrameError:  # an answer to something that no proper client would send
            message = decode_reply_or_event(payload)
        waiting = self.replies.pop(getattr(message, "request", 0), None)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)
        else:
            self.events.put_nowait(message)

    def on_ws_disconnected(self, transport: Any) -> None:
        self.gone.set()
        for waiting in self.replies.values():
            if not waiting.done():
                waiting.set_exception(ConnectionError("the server closed the connection"))

    def send_bytes(self, frame: bytes) -> None:
        self.transport.send(picows.WSMsgType.BINARY, frame)

    def post(self, build: Callable[[int], Command]) -> asyncio.Future[Reply]:
        number, frame = self.session.request(build)
        waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.replies[number] = waiting
        self.send_bytes(frame)
        return waiting

    async def call(self, build: Callable[[int], Command]) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return await self.post(build)

    async def next(self, kind: type[Kind]) -> Kind:
        """The next event, which has to be of that kind."""
        async with asyncio.timeout(PATIENCE_S):
            event = await self.events.get()
        assert isinstance(event, kind), event
        return event

    def acknowledge(self, upto: int) -> None:
        self.send_bytes(self.session.acknowledge(upto))

    async def closed(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            await self.gone.wait()
        return self.close_code

    async def close(self) -> None:
        self.transport.disconnect(False)
        await self.closed()

    # what several tests do

    async def register(self, person: Person, invitation: bytes) -> Any:
        return await self.call(lambda n: m.Register(n, invitation, person.genesis, person.device_list()))

    async def log_in(self, person: Person) -> Any:
        assert self.session.welcome is not None
        message = login_message(self.session.welcome.origin, person.device, self.session.welcome.nonce)
        signature = person.login_key.sign(message)
        return await self.call(lambda n: m.Login(n, person.account, person.device, signature))

    async def send(self, addresses: list[bytes], body: bytes, flags: int = 0) -> Any:
        return await self.call(lambda n: m.Send(n, flags, addresses, body))

    async def mint(self, count: int = 1) -> list[m.MintedAddress]:
        minted = await self.call(lambda n: m.MintAddresses(n, count))
        return list(minted.addresses)
