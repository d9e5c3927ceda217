"""Nothing that people wrote, are called or came from is in any byte that the server wrote: data, logs, metrics."""

import asyncio
import base64
import contextlib
import json
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

from taube.testing import Person, Server, free_port, meet, succeeded, temporary_server
from tests.spec import spec

NAMES = ("Canaria Zwitscher", "Kanarius Vogelsang")
FILE = ("canary-portrait-3312.bin", "what only the file of the canary says 9083")
TEXTS = ("the yellow bird sings at midnight 7781", "a feather in the letterbox 4410")
ADDRESS = "127.77.88.99"


def planted() -> list[bytes]:
    """Every canary in the forms in which it might have been written down."""
    forms = []
    for text in (*NAMES, *TEXTS, *FILE):
        raw = text.encode()
        forms += [raw, raw.hex().encode(), text.encode("utf-16-le"), json.dumps(text).strip('"').encode()]
        forms += [base64.b64encode(raw)[:-4], base64.urlsafe_b64encode(raw)[:-4]]
    return forms


def everything_written(server: Server) -> dict[str, bytes]:
    """Data folder, log and metrics of a running server, by where they were found."""
    found = {str(path): path.read_bytes() for path in server.data.rglob("*") if path.is_file()}
    found["log"] = server.log.read_bytes()
    ops = (server.data / "ops").read_text().strip()
    for page in ("/metrics", "/health", "/ready"):
        try:
            with urllib.request.urlopen(ops.rstrip("/") + page, timeout=10) as answer:
                found[page] = answer.read() + str(answer.headers).encode()
        except urllib.error.HTTPError as error:
            found[page] = error.read()
    return found


def search(server: Server, canaries: list[bytes]) -> list[str]:
    found = everything_written(server)
    assert len(found["/metrics"]) > 100
    return [f"{canary!r} in {place}" for place, content in found.items() for canary in canaries if canary in content]


class Relay:
    """Carries connections on to a server from a network address that is nowhere else: the canary of an address."""

    def __init__(self, to_port: int) -> None:
        self.to_port = to_port
        self.carried = 0
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._carry, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "Relay":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            further = await asyncio.open_connection("127.0.0.1", self.to_port, local_addr=(ADDRESS, 0))
        except OSError:
            writer.close()
            return
        self.carried += 1
        await asyncio.gather(self._pump(reader, further[1]), self._pump(further[0], writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        writer.close()


@spec("CNT-30", "BLB-11")
def test_no_canary_is_in_any_byte_that_the_server_wrote(tmp_path: Path) -> None:
    listen_port = free_port()
    canaries = [*planted(), ADDRESS.encode(), socket.inet_aton(ADDRESS)]
    with Relay(listen_port) as relay:
        server = Server(tmp_path / "server", port=relay.port, listen_port=listen_port)
        try:
            server.start()
            first, second = (Person(name, tmp_path / str(n), server.environment) for n, name in enumerate(NAMES))
            for person in (first, second):
                succeeded(person.run("join", server.invite(), "--name", person.name))
            meet(first, second)
            succeeded(first.run("send", second.name, TEXTS[0]))
            assert search(server, canaries) == []
            assert [record["text"] for record in second.read()] == [TEXTS[0]]
            succeeded(second.run("send", first.name, TEXTS[1]))
            (tmp_path / FILE[0]).write_text(FILE[1] * 5_000)
            succeeded(second.run("send", first.name, TEXTS[0], "--file", str(tmp_path / FILE[0])))
            assert any(path.is_file() for path in (server.data / "blobs").rglob("*"))
            server.kill()
            server.start()
            assert [record["text"] for record in first.read("--save", str(tmp_path))] == [TEXTS[1], TEXTS[0]]
            assert (tmp_path / FILE[0]).with_stem(f"{Path(FILE[0]).stem}-2").read_text() == FILE[1] * 5_000
            assert relay.carried >= 10
            assert search(server, canaries) == []
            server.stop()
            at_rest = {str(path): path.read_bytes() for path in server.data.rglob("*") if path.is_file()}
            at_rest["log"] = server.log.read_bytes()
            assert [place for place, content in at_rest.items() for canary in canaries if canary in content] == []
        finally:
            server.stop()


def test_the_search_would_find_what_is_there(tmp_path: Path) -> None:
    with temporary_server(tmp_path / "server") as server:
        (server.data / "leak").write_bytes(b"..." + base64.b64encode(TEXTS[0].encode()) + b"...")
        assert len(search(server, planted())) >= 1
