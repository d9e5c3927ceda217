"""Blobs on a real server over TLS: uploads that are cut anywhere, readers, limits, room, deadlines, the end of days."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import random
import threading
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from taube.server.config import ServerConfig
from taube.server.gateway import blobs as gateway
from taube.server.limits import LIMITS, LimitSettings
from taube.server.ops.workers import GuardedTime
from taube.server.ports import SMALLEST_ROOM_BYTES
from taube.server.services.blobs import BlobSettings
from taube.server.stores.objects import ObjectFolder
from tests.spec import spec

KIB = 1024


def text_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class Answer(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def error(self) -> Any:
        return json.loads(self.body)


class Uploader:
    """Someone with an upload secret, on connections of their own."""

    def __init__(self, rig: Any) -> None:
        self.rig = rig
        self.secret = os.urandom(32)
        self.path = "/v1/blobs/" + text_of(hashlib.sha256(self.secret).digest())
        self.own = {"Upload-Secret": text_of(self.secret)}

    async def ask(self, method: str, fields: dict[str, Any] | None = None, body: bytes | None = None) -> Answer:
        return parsed(await self.rig.http(request(method, self.path, fields or {}, body)))

    async def begin(self, length: int, **fields: Any) -> Answer:
        return await self.ask("POST", self.own | {"Upload-Length": length} | fields, b"")

    async def append(self, offset: int, data: bytes) -> Answer:
        return await self.ask("PATCH", self.own | {"Upload-Offset": offset}, data)

    async def offset(self) -> Answer:
        return await self.ask("HEAD", self.own)

    async def upload(self, data: bytes) -> Answer:
        assert (await self.begin(len(data))).status == 201
        return await self.append(0, data)

    async def dial(self, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection, for a request that is sent by hand."""
        host, _, port = self.rig.server.url.partition("://")[2].rpartition(":")
        return await asyncio.open_connection(host, int(port), ssl=self.rig.context, **options)

    async def cut(self, offset: int, data: bytes, sent: int) -> None:
        """Begin to append all of *data* and break the connection after *sent* bytes."""
        head = request("PATCH", self.path, self.own | {"Upload-Offset": offset, "Content-Length": len(data)}, None)
        _, writer = await self.dial()
        writer.write(head + data[:sent])
        with contextlib.suppress(OSError):
            await writer.drain()
        await asyncio.sleep(0.02)
        writer.transport.abort()


def request(method: str, path: str, fields: dict[str, Any], body: bytes | None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in fields.items())]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (body or b"")


def parsed(raw: bytes) -> Answer:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split(" ")[1]), fields, body)


def held_count(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A server that starts now counts its blobs once the event is set, or after 30 seconds."""
    may_count, sweep = threading.Event(), ObjectFolder.sweep

    def late(*arguments: Any) -> Any:
        may_count.wait(30)
        return sweep(*arguments)

    monkeypatch.setattr(ObjectFolder, "sweep", late)
    return may_count


def blobs(**settings: Any) -> ServerConfig:
    return ServerConfig(blobs=BlobSettings(**{"keep_free_bytes": 0, **settings}))


@spec("BLB-01", "BLB-02", "BLB-03", "BLB-04", "BLB-08")
@pytest.mark.parametrize("tls", [True, False])
async def test_an_upload_is_begun_appended_to_and_read(rig, tls):
    data = random.Random(1).randbytes(300 * KIB + 7)
    async with rig(tls=tls, config=blobs()) as server:
        one = Uploader(server)
        assert (await one.ask("GET")).status == 404
        begun = await one.begin(len(data))
        assert (begun.status, begun.fields["upload-offset"], begun.fields["upload-complete"]) == (201, "0", "?0")
        half = await one.append(0, data[:100_000])
        assert (half.status, half.fields["upload-offset"], half.fields["upload-complete"]) == (204, "100000", "?0")
        assert (await one.ask("GET")).status == 404, "half a file is shown to nobody"
        again = await one.begin(len(data))
        assert (again.status, again.fields["upload-offset"]) == (200, "100000")
        done = await one.append(100_000, data[100_000:])
        assert (done.status, done.fields["upload-complete"]) == (204, "?1")
        got = await one.ask("GET", {"Cookie": "a=b"})
        assert got.status == 200 and got.body == data
        assert got.fields["content-type"] == "application/octet-stream"
        assert got.fields["content-disposition"] == "attachment"
        assert got.fields["x-content-type-options"] == "nosniff"
        assert got.fields["cache-control"] == "private, max-age=3888000, immutable"
        assert got.fields["content-security-policy"] == "default-src 'none'; sandbox"
        assert "set-cookie" not in got.fields
        head = await one.ask("HEAD")
        assert (head.status, head.fields["content-length"], head.body) == (200, str(len(data)), b"")
        late = await one.append(len(data), b"")
        assert (late.status, late.fields["upload-complete"]) == (204, "?1")
        assert (await one.begin(len(data))).fields["upload-complete"] == "?1"
        assert (await one.append(0, b"x")).status == 409, "a blob never changes"


async def test_uploads_of_every_size_come_through_at_once(rig):
    """The transport below TLS must hand over what it had read when it was paused."""
    chance = random.Random(4)
    async with rig(config=blobs()) as server:
        for _ in range(20):
            one, data = Uploader(server), chance.randbytes(chance.randrange(60_000, 1_500_000))
            async with asyncio.timeout(5):
                assert (await one.upload(data)).fields["upload-complete"] == "?1"
                assert (await one.ask("GET")).body == data


@spec("BLB-03", "BLB-05")
async def test_an_upload_that_is_cut_anywhere_goes_on_where_it_was(rig):
    chance = random.Random(2)
    data = chance.randbytes(700 * KIB)
    async with rig(config=blobs(checkpoint_bytes=100_000)) as server:
        one = Uploader(server)
        await one.begin(len(data))
        offset, seen = 0, [0]
        for _ in range(12):
            await one.cut(offset, data[offset:], chance.choice([0, 1, 5_000, 70_000, 150_000, 300_000]))
            state = await one.offset()
            assert state.status == 204
            offset = int(state.fields["upload-offset"])
            seen.append(offset)
            if offset == len(data):
                break
        assert len(set(seen)) > 3 and seen == sorted(seen), "what was durable stays"
        done = await one.append(offset, data[offset:])
        assert (done.status, done.fields["upload-complete"]) == (204, "?1")
        assert (await one.ask("GET")).body == data


@spec("BLB-03")
async def test_a_newer_request_ends_one_that_still_waits_for_bytes(rig):
    data = os.urandom(200 * KIB)
    async with rig(config=blobs()) as server:
        one = Uploader(server)
        await one.begin(len(data))
        head = request("PATCH", one.path, one.own | {"Upload-Offset": 0, "Content-Length": len(data)}, None)
        reader, writer = await one.dial()
        writer.write(head + data[:50_000])
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5):
            state = await one.offset()
            assert await reader.read() == b"", "the older one was ended"
        writer.close()
        assert int(state.fields["upload-offset"]) == 50_000
        assert (await one.append(50_000, data[50_000:])).fields["upload-complete"] == "?1"


@spec("BLB-01", "BLB-02", "BLB-10")
async def test_what_is_wrong_is_refused_with_a_number_and_before_its_bytes_are_read(rig):
    async with rig(config=blobs(blob_bytes=1000 * KIB)) as server:
        one, other = Uploader(server), Uploader(server)
        await one.upload(b"x" * 500)
        stranger = {"Upload-Secret": text_of(other.secret), "Upload-Length": 500, "Upload-Offset": 0}
        name_as_secret = {**stranger, "Upload-Secret": one.path.rpartition("/")[2]}
        for method, fields, body, status, code in [
            ("POST", stranger, b"", 403, 51),
            ("PATCH", stranger, b"y", 403, 51),
            ("PATCH", name_as_secret, b"y", 403, 51),
            ("POST", {"Upload-Length": 500}, b"", 400, 50),
            ("POST", one.own, b"", 400, 50),
            ("POST", one.own | {"Upload-Length": "0x10"}, b"", 400, 50),
            ("POST", one.own | {"Upload-Length": 271}, b"", 400, 50),
            ("POST", one.own | {"Upload-Length": 1000 * KIB + 1}, b"", 413, 54),
            ("POST", one.own | {"Upload-Length": 500, "Upload-Days": 46}, b"", 400, 50),
            ("POST", one.own | {"Upload-Length": 600}, b"", 409, 53),
            ("PATCH", one.own, b"y", 400, 50),
            ("PATCH", one.own | {"Upload-Offset": 0, "Transfer-Encoding": "chunked"}, None, 411, 50),
            ("PATCH", one.own | {"Upload-Offset": 500}, b"y", 413, 54),
        ]:
            answer = await one.ask(method, fields, body)
            assert (answer.status, answer.error["code"]) == (status, code), (method, fields)
            assert answer.fields["cache-control"] == "no-store"
        assert (await other.ask("HEAD", other.own)).status == 404
        assert (await other.append(0, b"y" * 900_000)).error["name"] == "blob_unknown"
        assert (await one.ask("DELETE")).status == 405
        for path in ("/v1/blobs/", "/v1/blobs/short", one.path + "A", one.path + "/x", "/v1/blobs/%2e%2e%2ftaube.db"):
            assert parsed(await server.http(request("GET", path, {}, None))).status == 400
        assert (await one.ask("GET")).body == b"x" * 500
        card = parsed(await server.http(request("GET", "/.well-known/taube", {}, None)))
        assert json.loads(card.body)["blob_bytes"] == 1000 * KIB


@spec("BLB-07")
async def test_a_reader_goes_on_with_a_range(rig):
    data = random.Random(3).randbytes(200 * KIB)
    async with rig(config=blobs()) as server:
        one = Uploader(server)
        await one.upload(data)
        for field, start, end in (("0-0", 0, 1), ("1000-", 1000, len(data)), ("-5", len(data) - 5, len(data))):
            part = await one.ask("GET", {"Range": f"bytes={field}"})
            assert part.status == 206 and part.body == data[start:end]
            assert part.fields["content-range"] == f"bytes {start}-{end - 1}/{len(data)}"
        whole = await one.ask("GET", {"Range": "bytes=0-1,5-6"})
        assert whole.status == 200 and whole.body == data
        nothing = await one.ask("GET", {"Range": f"bytes={len(data)}-"})
        assert (nothing.status, nothing.fields["content-range"]) == (416, f"bytes */{len(data)}")


@spec("BLB-10")
async def test_limits_room_and_disk_refuse_with_the_time_to_wait_and_messages_go_on(rig):
    few = tuple(replace(each, burst=2, per_s=0.01) if each.operation == "begin blob" else each for each in LIMITS)
    for config, status, name in (
        (ServerConfig(limits=LimitSettings(few), blobs=BlobSettings(keep_free_bytes=0)), 429, "rate_limited"),
        (blobs(total_bytes=2 * SMALLEST_ROOM_BYTES), 507, "no_room"),
        (blobs(keep_free_bytes=2**60), 507, "no_room"),
        (blobs(transfers=0), 503, "busy"),
    ):
        async with rig(config=config) as server:
            answers = []
            for _ in range(3):
                one = Uploader(server)
                answers.append(await one.begin(700))
                answers.append(await one.append(0, b"x" * 700))
            refused = [answer for answer in answers if answer.status not in (201, 204, 404)]
            assert refused and all(answer.status == status for answer in refused), (name, answers)
            for answer in refused:
                assert answer.error["name"] == name and answer.error["retry_after_ms"] > 0
                assert int(answer.fields["retry-after"]) > 0
            await server.online()


@spec("BLB-09")
async def test_who_moves_no_byte_or_drips_is_cut_off_and_what_came_is_kept(rig):
    """Silent: one piece and nothing more. Dripping: a byte every 20 ms, far below the pace."""
    async with rig(config=blobs(idle_s=0.3, slowest_bytes_per_s=1_000_000)) as server:
        for drips in (False, True):
            one = Uploader(server)
            await one.begin(500_000)
            reader, writer = await one.dial()
            head = request("PATCH", one.path, one.own | {"Upload-Offset": 0, "Content-Length": 500_000}, None)
            writer.write(head + b"x" * 1_000)
            with contextlib.suppress(OSError):
                async with asyncio.timeout(5):
                    ended = asyncio.ensure_future(reader.read())
                    while not ended.done():
                        await asyncio.sleep(0.02)
                        if drips:
                            writer.write(b"x")
                    assert await ended == b""
            writer.transport.abort()
            offset = int((await one.offset()).fields["upload-offset"])
            assert offset > 1_000 if drips else offset == 1_000


@spec("BLB-09")
async def test_a_reader_that_stops_reading_is_cut_off(rig):
    data = os.urandom(8_000_000)
    async with rig(config=blobs(idle_s=0.3)) as server:
        one = Uploader(server)
        await one.upload(data)
        _, writer = await one.dial(limit=1024)
        writer.write(request("GET", one.path, {}, None))
        async with asyncio.timeout(10):
            while server.server._blobs.transfers == 0:
                await asyncio.sleep(0.01)
            while server.server._blobs.transfers:
                await asyncio.sleep(0.05)
        writer.transport.abort()
        assert (await one.ask("GET")).body == data


async def test_nothing_is_read_any_more_for_a_reader_that_has_gone(rig, monkeypatch):
    data = bytes(8 * KIB * KIB)
    async with rig(tls=True, config=blobs()) as server:
        one = Uploader(server)
        await one.upload(data)
        read, pieces = ObjectFolder.read, list[int]()

        def slowly(self: ObjectFolder, name: bytes, start: int, size: int) -> bytes:
            pieces.append(start)
            threading.Event().wait(0.01)
            return read(self, name, start, size)

        monkeypatch.setattr(ObjectFolder, "read", slowly)
        reader, writer = await one.dial()
        writer.write(request("GET", one.path, {}, None))
        await reader.readexactly(1000)
        writer.transport.abort()
        traffic = server.server._blobs
        async with asyncio.timeout(30):
            while traffic.transfers:
                await asyncio.sleep(0.01)
        assert len(pieces) < len(data) // gateway.READ_BYTES // 2


async def test_nothing_is_begun_for_one_who_has_gone_while_what_there_is_was_counted(rig, monkeypatch):
    may_count = held_count(monkeypatch)
    async with rig(config=blobs()) as server:
        one, traffic = Uploader(server), server.server._blobs
        _, writer = await one.dial()
        writer.write(request("POST", one.path, one.own | {"Upload-Length": 5000}, b""))
        async with asyncio.timeout(30):
            while not traffic._uploads:
                await asyncio.sleep(0.01)
            writer.transport.abort()
            while server.server._listener.sources.total:
                await asyncio.sleep(0.01)
            may_count.set()
            while traffic._running:
                await asyncio.sleep(0.01)
        assert (await one.offset()).status == 404
        assert (await one.begin(5000)).status == 201


@spec("BLB-09")
async def test_an_upload_of_60_mb_does_not_sit_in_memory(rig):
    from taube.server.app import resident_bytes

    async with rig(config=blobs()) as server:
        await Uploader(server).upload(os.urandom(1_000_000))
        one, size, piece = Uploader(server), 60_000_000, os.urandom(1_000_000)
        await one.begin(size)
        reader, writer = await one.dial()
        writer.write(request("PATCH", one.path, one.own | {"Upload-Offset": 0, "Content-Length": size}, None))
        before = most = resident_bytes()
        for _ in range(60):
            writer.write(piece)
            await writer.drain()
            most = max(most, resident_bytes())
        answer = parsed(await reader.read())
        writer.close()
        assert (answer.status, answer.fields["upload-complete"]) == (204, "?1")
        assert most - before < 12_000_000, f"{most - before:,} bytes more"


@spec("BLB-06")
async def test_a_blob_and_an_upload_that_was_left_end_with_their_days(rig):
    async with rig(config=blobs()) as server:
        short, long, left = Uploader(server), Uploader(server), Uploader(server)
        assert (await short.begin(300, **{"Upload-Days": 2})).status == 201
        await short.append(0, b"x" * 300)
        await long.upload(b"y" * 300)
        await left.begin(300)
        now = server.server._time
        for days, found in ((1, [200, 200, 204]), (2, [404, 200, 404]), (44, [404, 200, 404]), (45, [404, 404, 404])):
            later = now.guarded._replace(base_ms=now.guarded.base_ms + days * 86_400_000)
            server.server._blobs._time = GuardedTime(later, now.monotonic, now.wall_ms)
            answers = [await short.ask("HEAD"), await long.ask("HEAD"), await left.offset()]
            assert [answer.status for answer in answers] == found, days
        assert await server.server._blobs.sweep(may_expire=True) == 3
        assert server.server._blobs.used_bytes == server.server._blobs.count == 0


@spec("BLB-05", "BLB-11")
async def test_a_restarted_server_has_its_blobs_and_uploads_and_logged_nothing_of_them(rig):
    async with rig(config=blobs()) as server:
        one, two = Uploader(server), Uploader(server)
        await one.upload(b"x" * 5_000)
        await two.begin(5_000)
        await two.append(0, b"y" * 2_000)
        log = server.log.getvalue()
        await server.stop()
        await server.start()
        assert (await one.ask("GET")).body == b"x" * 5_000
        assert (await two.offset()).fields["upload-offset"] == "2000"
        assert (await two.append(2_000, b"y" * 3_000)).fields["upload-complete"] == "?1"
        async with asyncio.timeout(5):
            while server.server._blobs.used_bytes is None:
                await asyncio.sleep(0.01)
        assert server.server._blobs.used_bytes == 2 * SMALLEST_ROOM_BYTES
        metrics = (await server.http(request("GET", "/metrics", {}, None), server.server.ops_url)).decode()
        assert (
            f"taube_blobs_bytes {2 * SMALLEST_ROOM_BYTES}.0" in metrics
            and 'taube_blob_bytes_total{reason="in"} 3000.0' in metrics
        )
        name = one.path.rpartition("/")[2]
        for said in (log, server.log.getvalue(), metrics):
            assert name not in said and hashlib.sha256(one.secret).hexdigest() not in said


@spec("BLB-10")
async def test_a_disk_that_cannot_be_written_refuses_and_nothing_of_it_counts(rig, monkeypatch):
    from taube.server.stores import objects

    async with rig(config=blobs()) as server:
        one = Uploader(server)
        await one.begin(5_000)
        await one.append(0, b"a" * 1_000)

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(objects, "_write", full)
        refused = await one.append(1_000, b"b" * 4_000)
        assert (refused.status, refused.error["name"]) == (503, "storage")
        monkeypatch.undo()
        assert (await one.offset()).fields["upload-offset"] == "1000"
        assert (await one.append(1_000, b"c" * 4_000)).fields["upload-complete"] == "?1"
        assert (await one.ask("GET")).body == b"a" * 1_000 + b"c" * 4_000
        await server.online()


@spec("BLB-10")
async def test_an_upload_right_after_a_start_waits_until_what_there_is_was_counted(rig, monkeypatch):
    may_count = held_count(monkeypatch)
    async with rig(config=blobs()) as server:
        waiting = asyncio.ensure_future(Uploader(server).begin(300))
        async with asyncio.timeout(10):
            while not server.server._blobs._uploads:
                await asyncio.sleep(0.01)
        monkeypatch.setattr(gateway, "COUNT_S", 0.05)
        impatient = await Uploader(server).begin(300)
        assert (impatient.status, impatient.error["name"]) == (503, "busy")
        assert int(impatient.fields["retry-after"]) > 0
        may_count.set()
        assert (await waiting).status == 201


@spec("BLB-10")
async def test_many_who_begin_at_once_share_the_room_that_there_is(rig):
    async with rig(tls=False, config=blobs(total_bytes=500_000)) as server:
        await Uploader(server).begin(100_000)
        answers = await asyncio.gather(*(Uploader(server).begin(100_000) for _ in range(20)))
        assert sorted(answer.status for answer in answers) == [201] * 4 + [507] * 16
        assert server.server._blobs.used_bytes == 500_000


@spec("BLB-10")
async def test_what_was_announced_while_there_was_room_does_not_fill_the_disk_later(rig, monkeypatch):
    """In small pieces, and many at once: what comes is refused before its bytes are read, and messages have room."""
    from taube.server.stores import objects

    free = 10_000_000

    class Usage(NamedTuple):
        free: int

    async with rig(tls=False, config=blobs(keep_free_bytes=1_000_000)) as server:
        monkeypatch.setattr(objects.shutil, "disk_usage", lambda _: Usage(free))
        many = [Uploader(server) for _ in range(8)]
        for one in many:
            assert (await one.begin(800_000)).status == 201
        free = 2_000_000
        begun = []
        for one in many:  # each promises 400,000 bytes and sends a few
            reader, writer = await one.dial()
            writer.write(request("PATCH", one.path, one.own | {"Upload-Offset": 0, "Content-Length": 400_000}, None))
            writer.write(b"x" * 100)
            begun.append((asyncio.ensure_future(reader.read()), writer))
        async with asyncio.timeout(20):
            while sum(answer.done() for answer, _ in begun) < 6 or server.server._blobs.transfers < 2:
                await asyncio.sleep(0.01)
        refused = [one for one, (answer, _) in zip(many, begun, strict=True) if answer.done()]
        assert all(parsed(answer.result()).status == 507 for answer, _ in begun if answer.done())
        for answer, writer in begun:
            answer.cancel()
            writer.transport.abort()
        async with asyncio.timeout(20):
            while server.server._blobs.transfers:
                await asyncio.sleep(0.01)
        assert server.server._blobs._coming_bytes == 0
        free = 1_000_000
        for one in refused:
            assert (await one.append(0, b"x" * 10)).error["name"] == "no_room"
        free = 1_000_010
        assert (await refused[0].append(0, b"x" * 10)).status == 204


@spec("BLB-10")
async def test_an_upload_that_could_not_begin_takes_no_room(rig):
    async with rig(config=blobs()) as server:
        one = Uploader(server)
        place = server.folder / "data" / "blobs"
        place.write_text("in the way")
        assert (await one.begin(5_000)).error["name"] == "storage"
        assert server.server._blobs.used_bytes == server.server._blobs.count == 0
        place.unlink()
        assert (await one.upload(b"x" * 5_000)).status == 204


@spec("BLB-01")
async def test_only_a_request_that_writes_writes(rig):
    async with rig(config=blobs()) as server:
        one = Uploader(server)
        await one.begin(300)
        assert (await one.ask("GET", one.own | {"Upload-Offset": 0}, b"x" * 300)).status == 404
        assert (await one.offset()).fields["upload-offset"] == "0"
