"""A real server in this process on loopback, with real TLS, for the tests of the gateway, of operation and of admin."""

import asyncio
import inspect
import io
import json
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from taube.server.app import Server
from taube.server.config import ServeOptions, ServerConfig
from taube.server.ops.observe import Log
from taube.server.services import registration
from taube.testing import make_certificate
from taube.wire import messages as m
from tests.server.rawclient import Person, RawClient


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine in a loop of its own, the one that the server uses."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def run() -> None:
        async with asyncio.timeout(60):
            await pyfuncitem.obj(**arguments)

    uvloop.run(run())
    return True


class Rig:
    """One server and its clients; everything is closed at the end of `async with`."""

    def __init__(self, folder: Path, *, tls: bool = True, config: ServerConfig | None = None, **options: Any) -> None:
        self.folder = folder
        self.config = config
        self.certificate = make_certificate(folder / "tls", days=90) if tls else None
        self.options = options
        self.log = io.StringIO()
        self.server: Server
        self.context: ssl.SSLContext | None = None
        self._clients: list[RawClient] = []

    async def __aenter__(self) -> "Rig":
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        for client in self._clients:
            if not client.gone.is_set():
                client.transport.disconnect(False)
        await self.stop()

    async def start(self) -> None:
        given: dict[str, Any] = {"listen": "127.0.0.1:0", **self.options}
        if self.certificate is not None:
            given |= {"tls_cert": self.certificate[0], "tls_key": self.certificate[1]}
            self.context = ssl.create_default_context(cafile=str(self.certificate[0]))
        options = ServeOptions(data=self.folder / "data", **given)
        self.server = Server(options, self.config, Log(self.log, lambda: 0))
        await self.server.start()

    async def stop(self) -> None:
        await self.server.stop()

    async def invitation(self, uses: int = 1, days: int = 1) -> bytes:
        now_ms = int(time.time() * 1000)
        return await self.server.ask(lambda tables: registration.invite(tables, uses, days, now_ms, os.urandom))

    async def connect(self, **options: Any) -> RawClient:
        client = await RawClient.connect(self.server.url, self.context, **options)
        self._clients.append(client)
        return client

    async def person(self) -> Person:
        """Someone who has an account. On a busy machine the server may ask newcomers to come again."""
        person = Person()
        client = await self.connect()
        invitation = await self.invitation()
        async with asyncio.timeout(60):
            while isinstance(reply := await client.register(person, invitation), m.Failed) and reply.retry_after_ms:
                await asyncio.sleep(0.5)
        assert type(reply).__name__ == "Done", reply
        await client.close()
        return person

    async def online(self, person: Person | None = None) -> tuple[Person, RawClient]:
        """Someone whose device is connected and has read what waited."""
        person = person or await self.person()
        client = await self.connect()
        reply = await client.log_in(person)
        assert type(reply).__name__ == "LoggedIn", reply
        return person, client

    async def http(self, request: bytes, url: str | None = None) -> bytes:
        """What the server answers to raw bytes on the public port (or another), until it closes."""
        host_port = (url or self.server.url).partition("://")[2]
        host, _, port = host_port.rpartition(":")
        context = self.context if (url or self.server.url).startswith("https") else None
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
        writer.write(request)
        async with asyncio.timeout(15):
            answer = await reader.read()
        writer.close()
        return answer

    def events(self) -> list[dict[str, Any]]:
        """The lines of the log so far."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@pytest.fixture
def rig(tmp_path: Path) -> Callable[..., Rig]:
    """Makes a server: `async with rig() as server`."""
    return lambda **options: Rig(tmp_path, **options)
