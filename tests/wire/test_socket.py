"""The rules of the transport, against a real server on loopback with TLS: what a socket must be before frames count."""

import asyncio
import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import picows
import pytest

from taube.client.transport import NotTaube, Transport, refusal
from taube.wire.errors import BAD_FRAME, CATALOGUE, Retry
from taube.wire.messages import MAX_FRAME_BYTES, Failed
from tests.client.tiny_server import tiny_server
from tests.server.conftest import Rig
from tests.spec import spec


def with_server(folder: Path, story: Callable[[Rig], Any]) -> None:
    async def main() -> None:
        async with Rig(folder) as server:
            await story(server)

    asyncio.run(main())


@spec("CON-01")
def test_only_tls_1_3_is_spoken(tmp_path: Path) -> None:
    async def story(server: Rig) -> None:
        assert server.context is not None
        server.context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await server.http(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        server.context.maximum_version = ssl.TLSVersion.TLSv1_3
        assert b"HTTP/1.1 200" in await server.http(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")

    with_server(tmp_path, story)


@spec("CON-02")
def test_nothing_is_handed_out_that_would_tell_one_client_from_another(tmp_path: Path) -> None:
    async def story(server: Rig) -> None:
        host, _, port = server.server.url.partition("://")[2].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=server.context)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        headers = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
        assert b"set-cookie" not in headers
        assert headers[b"etag"].decode() == f'"{hashlib.sha256(body).hexdigest()[:32]}"', "it says nothing but the body"
        session = writer.get_extra_info("ssl_object").session
        assert session is None or not session.has_ticket
        writer.close()

    with_server(tmp_path, story)


@spec("CON-03")
def test_text_is_answered_like_a_malformed_frame(tmp_path: Path) -> None:
    async def story(server: Rig) -> None:
        client = await server.connect()
        client.transport.send(picows.WSMsgType.TEXT, b"hello")
        assert (await client.next(Failed)).code == BAD_FRAME.code

    with_server(tmp_path, story)


@spec("CON-03", "CON-15")
def test_a_message_that_is_too_large_ends_the_connection(tmp_path: Path) -> None:
    async def story(server: Rig) -> None:
        client = await server.connect()
        client.transport.send(picows.WSMsgType.BINARY, bytes(MAX_FRAME_BYTES + 1))
        await client.closed()

    with_server(tmp_path, story)


@spec("CON-04")
def test_a_client_goes_no_further_when_the_server_has_another_name() -> None:
    async def main() -> None:
        async with tiny_server() as server:
            server.calls_itself = "https://other.example"
            with pytest.raises(NotTaube):
                await Transport(server.origin).anonymous("send")

    asyncio.run(main())


@spec("CON-40")
def test_error_numbers_and_names_are_given_out_once() -> None:
    assert len({kind.name for kind in CATALOGUE.values()}) == len(CATALOGUE)
    assert all(code == kind.code and kind.meaning.endswith(".") for code, kind in CATALOGUE.items())


@spec("CON-41")
def test_an_error_of_the_future_may_be_tried_later() -> None:
    unknown = refusal(Failed(3, 60_000, 250))
    assert (unknown.kind.code, unknown.kind.retry, unknown.retry_after_ms) == (60_000, Retry.LATER, 250)
