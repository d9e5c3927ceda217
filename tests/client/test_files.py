"""Files on their way, sealed, held, uploaded, fetched, with blobs that a test can break; their names; photos."""

import asyncio
import hashlib
import io
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from taube.client import content, photos
from taube.client.blobs import Blobs
from taube.client.errors import Refused, UserError, WrongInput
from taube.client.events import Media, Message
from taube.client.files import CHUNK_BYTES, Files, clean_file_name, media_type_of, numbered, shortened
from taube.client.transport import ConnectionLost, TransportError
from taube.wire.errors import BLOB_TOO_LARGE, BLOB_UNKNOWN, NO_ROOM, WireError
from tests.client.fake_server import Client, World, friends
from tests.spec import spec


class FakeBlobs:
    """Blobs of all people; *fault* raises what a server or a network would."""

    def __init__(self) -> None:
        self.moved_bytes = 0
        self.kept: dict[bytes, bytes] = {}
        self.fault: Callable[[], None] = lambda: None

    async def upload(self, secret: bytes, path: Path) -> None:
        self.fault()
        self.kept[hashlib.sha256(secret).digest()] = path.read_bytes()

    async def download(self, name: bytes, path: Path, size: int) -> None:
        self.fault()
        if name not in self.kept:
            raise WireError(BLOB_UNKNOWN)
        path.write_bytes(self.kept[name])


def raising(error: Exception) -> Callable[[], None]:
    def fault() -> None:
        raise error

    return fault


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 60))


async def pair(world: World, blobs: FakeBlobs) -> tuple[Client, Client]:
    """Two people who know each other, and whose files go by *blobs*."""
    alice, bob = await friends(world, "alice", "bob")
    for client in (alice, bob):
        with_blobs(client, blobs)
    return alice, bob


def with_blobs(client: Client, blobs: FakeBlobs) -> None:
    client.engine.files = Files(client.vault, client.engine.outbox, blobs)  # type: ignore[arg-type]


def came(client: Client, name: str) -> list[Message]:
    return [m for m in client.account.chat(name).messages() if m.kind in ("text", "media")]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "world")


@spec("CNT-17", "CNT-18", "CNT-19", "DEV-14")
def test_a_file_is_held_until_it_is_uploaded_and_texts_do_not_wait_for_it(world: World, tmp_path: Path) -> None:
    async def story() -> None:
        blobs = FakeBlobs()
        alice, bob = await pair(world, blobs)
        data = os.urandom(3 * CHUNK_BYTES + 5)
        (tmp_path / "file.bin").write_bytes(data)
        blobs.fault = raising(ConnectionLost("cut"))
        sent = await alice.account.chat("bob").send_file(tmp_path / "file.bin", "words")
        text = await alice.account.chat("bob").send_text("first")
        with pytest.raises(ConnectionLost):
            await alice.engine.files.upload_due()
        await world.settle()
        assert [m.text for m in came(bob, "alice")] == ["first"]
        assert [m.state for m in came(alice, "bob")] == ["queued", "delivered"]
        alice.restart()
        with_blobs(alice, blobs)
        blobs.fault = lambda: None
        world.now_ms += 10_000
        await alice.engine.files.upload_due()
        await world.settle()
        messages = came(bob, "alice")
        assert [(m.kind, m.text) for m in messages] == [("text", "first"), ("media", "words")]
        assert messages[1].media == Media("application/octet-stream", len(data), "file.bin")
        assert messages[1].id == sent.id and messages[0].id == text.id
        path = await bob.account.fetch(messages[1], tmp_path / "came")
        assert path.read_bytes() == data
        assert not list((alice.folder / "outgoing").iterdir()) and not list((bob.folder / "incoming").iterdir())
        answer = await bob.account.chat("alice").send_text("thanks", reply_to=messages[1])
        await world.settle()
        assert came(alice, "bob")[-1].reply_to == sent.id == answer.reply_to
        await bob.engine.send()
        await world.settle()
        assert came(alice, "bob")[0].state == "delivered"

    run(story())


@spec("CNT-03", "CNT-15", "CNT-19")
def test_a_file_message_that_was_lost_is_sent_again_and_counts_in_the_order_in_which_it_left(
    world: World, tmp_path: Path
) -> None:
    async def story() -> None:
        blobs = FakeBlobs()
        alice, bob = await pair(world, blobs)
        (tmp_path / "a").write_bytes(b"a")
        bob.link.is_open = False
        await alice.account.chat("bob").send_file(tmp_path / "a")
        await alice.account.chat("bob").send_text("one")
        await alice.engine.files.upload_due()
        rows = {m.kind: m for m in alice.store.messages(bytes.fromhex(alice.account.chat("bob").id), 10)}
        assert rows["media"].sequence == rows["text"].sequence + 1
        await alice.engine.outbox.drain()
        (box,) = [device.mailbox for device in world.devices.values() if device.mailbox]
        assert len(box) == 2
        del box[1]  # the server loses the media message
        await alice.account.chat("bob").send_text("two")
        await world.settle()
        world.now_ms += 60_000
        await world.settle()
        assert sorted(m.kind for m in came(bob, "alice")) == ["media", "text", "text"]

    run(story())


@spec("DEV-14")
def test_a_file_that_trips_over_a_bug_does_not_hold_up_those_behind_it(world: World, tmp_path: Path) -> None:
    async def story() -> None:
        blobs = FakeBlobs()
        alice, _ = await pair(world, blobs)
        (tmp_path / "a").write_bytes(b"a")
        for _ in range(2):
            await alice.account.chat("bob").send_file(tmp_path / "a")
        blobs.fault = raising(ArithmeticError("nobody foresaw this"))
        with pytest.raises(ArithmeticError):
            await alice.engine.files.upload_due()
        blobs.fault = lambda: None
        await alice.engine.files.upload_due()
        assert len(blobs.kept) == 1
        world.now_ms += 86_400_000
        await alice.engine.files.upload_due()
        assert len(blobs.kept) == 2

    run(story())


@pytest.mark.parametrize(
    "answer",
    [
        ("200 OK", "Upload-Offset: 0\r\nUpload-Length: 1000\r\nUpload-Complete: ?0\r\n", ""),
        ("200 OK", f"Upload-Offset: {'9' * 5000}\r\nUpload-Length: 1000\r\n", ""),
        ("503 Busy", "", '{"code": 7, "retry_after_ms": 1e400}'),
        ("503 Busy", "", '{"code": 1e999, "retry_after_ms": 0}'),
        ("503 Busy", "", "[" * 60_000),
    ],
)
def test_a_server_that_answers_an_upload_with_nonsense_is_left_alone(
    answer: tuple[str, str, str], tmp_path: Path
) -> None:
    status, fields, body = answer
    asked = 0

    async def answer_it(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        length = f"Content-Length: {len(body)}\r\nConnection: close\r\n"
        writer.write(f"HTTP/1.1 {status}\r\n{fields}{length}\r\n{body}".encode())
        await writer.drain()
        writer.close()

    async def story() -> None:
        (tmp_path / "sealed").write_bytes(bytes(1000))
        async with await asyncio.start_server(answer_it, "127.0.0.1", 0) as server:
            origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            with pytest.raises(TransportError):
                await Blobs(origin).upload(bytes(32), tmp_path / "sealed")

    run(story())
    assert asked < 10


@spec("DEV-14")
def test_what_the_server_will_never_take_fails_and_what_it_may_take_later_waits(world: World, tmp_path: Path) -> None:
    async def story() -> None:
        blobs = FakeBlobs()
        alice, _ = await pair(world, blobs)
        (tmp_path / "a").write_bytes(b"a")
        blobs.fault = raising(WireError(NO_ROOM, retry_after_ms=3_600_000))
        first = await alice.account.chat("bob").send_file(tmp_path / "a")
        with pytest.raises(WireError):
            await alice.engine.files.upload_due()
        await alice.engine.files.upload_due()  # not before its time
        assert came(alice, "bob")[0].state == "queued" and first.state == "queued"
        assert "no room" in alice.account.last_problem
        blobs.fault = raising(WireError(BLOB_TOO_LARGE))
        world.now_ms += 3_700_000
        await alice.engine.files.upload_due()
        assert came(alice, "bob")[0].state == "failed"
        assert "send a smaller one" in alice.account.last_problem
        assert not list((alice.folder / "outgoing").iterdir())
        await alice.account.chat("bob").send_file(tmp_path / "a")
        world.now_ms += 31 * 86_400_000
        await alice.engine.files.upload_due()
        assert [m.state for m in came(alice, "bob")] == ["failed", "failed"]

    run(story())


@spec("CNT-41")
def test_a_file_that_was_altered_in_any_way_leaves_nothing(world: World, tmp_path: Path) -> None:
    async def story() -> None:
        blobs = FakeBlobs()
        alice, bob = await pair(world, blobs)
        data = os.urandom(2 * CHUNK_BYTES + 100)
        (tmp_path / "a").write_bytes(data)
        await alice.account.chat("bob").send_file(tmp_path / "a")
        await alice.engine.files.upload_due()
        await world.settle()
        (message,) = came(bob, "alice")
        ((name, whole),) = blobs.kept.items()
        sealed = CHUNK_BYTES + 16
        places = tmp_path / "places"
        places.mkdir()
        for broken in (
            whole[:100] + bytes([whole[100] ^ 1]) + whole[101:],
            whole[sealed : 2 * sealed] + whole[:sealed] + whole[2 * sealed :],
            whole[:-1],
            whole[:sealed],
            whole + b"x",
            b"",
        ):
            blobs.kept[name] = broken
            with pytest.raises(UserError, match="not the one that alice sealed"):
                await bob.account.fetch(message, places)
            assert list(places.iterdir()) == [] == list((bob.folder / "incoming").iterdir())
        del blobs.kept[name]
        with pytest.raises(Refused, match="no longer on the server"):
            await bob.account.fetch(message, places)
        blobs.kept[name] = whole
        (places / "taken").write_bytes(b"mine")
        with pytest.raises(UserError, match="not overwritten"):
            await bob.account.fetch(message, places / "taken")
        assert (places / "taken").read_bytes() == b"mine"
        assert (await bob.account.fetch(message, places)).read_bytes() == data

    run(story())


@spec("CNT-42")
def test_a_chat_that_is_not_accepted_fetches_nothing(world: World, tmp_path: Path) -> None:
    async def story() -> None:
        blobs = FakeBlobs()
        alice, bob = await pair(world, blobs)
        (tmp_path / "a").write_bytes(b"a")
        await alice.account.chat("bob").send_file(tmp_path / "a")
        await alice.engine.files.upload_due()
        await world.settle()
        (message,) = came(bob, "alice")
        await bob.account.chat("alice").block()
        blobs.fault = raising(AssertionError("nothing is asked for"))
        with pytest.raises(WrongInput, match="accept the chat"):
            await bob.account.fetch(message, tmp_path / "b")

    run(story())


@spec("CNT-11", "DEV-42")
@pytest.mark.parametrize("is_file", [True, False])
def test_what_was_read_right_before_its_sender_was_blocked_is_confirmed_when_they_are_let_in(
    world: World, tmp_path: Path, is_file: bool
) -> None:
    async def story() -> None:
        alice, bob = await pair(world, FakeBlobs())
        (tmp_path / "a").write_bytes(b"a")
        chat = alice.account.chat("bob")
        await (chat.send_file(tmp_path / "a") if is_file else chat.send_text("a"))
        await alice.engine.files.upload_due()
        await world.settle()
        async for batch in bob.account.read():
            assert len(batch) == 1
        await bob.account.chat("alice").block()
        await world.settle()
        assert alice.states("bob") == ["delivered"]
        await bob.account.chat("alice").accept()
        await world.settle()
        assert alice.states("bob") == ["read"]

    run(story())


def test_a_blocked_chat_and_a_replaced_device_send_no_file_any_more(world: World, tmp_path: Path) -> None:
    async def story() -> None:
        blobs = FakeBlobs()
        alice, _ = await pair(world, blobs)
        (tmp_path / "a").write_bytes(b"a")
        await alice.account.chat("bob").send_file(tmp_path / "a")
        await alice.account.chat("bob").block()
        assert came(alice, "bob")[0].state == "failed" and alice.store.uploads() == []
        await alice.account.chat("bob").accept()
        await alice.account.chat("bob").send_file(tmp_path / "a")
        alice.engine.outbox.end()
        assert [m.state for m in came(alice, "bob")] == ["failed", "failed"] and alice.store.uploads() == []

    run(story())


def test_a_file_that_changes_while_it_is_read_is_not_sent(world: World) -> None:
    async def story() -> None:
        alice, _ = await pair(world, FakeBlobs())
        for said, there in ((10, 9), (9, 10), (CHUNK_BYTES + 1, CHUNK_BYTES)):
            with pytest.raises(WrongInput, match="send it again"):
                await alice.engine.files.seal(io.BytesIO(bytes(there)), said)
        assert list((alice.folder / "outgoing").iterdir()) == []

    run(story())


# ---------------------------------------------------------------- names


@spec("CNT-44")
@given(
    st.text(max_size=80) | st.sampled_from(["../../etc/passwd", "a/../b", "C:\\x\\y.txt", ".bashrc", "..", "", "\0"])
)
def test_any_name_becomes_one_plain_part(claimed: str) -> None:
    name = clean_file_name(claimed, "image/jpeg")
    assert name and name not in (".", "..") and not name.startswith(".")
    assert not set(name) & set('/\\<>:"|?*\0\n\r\x7f') and len(name.encode()) <= 255
    assert name.isprintable()
    assert Path("folder", name).parent == Path("folder")


@spec("CNT-44")
@pytest.mark.parametrize(
    ("claimed", "kind", "name"),
    [
        ("pigeon.jpg", "image/jpeg", "pigeon.jpg"),
        ("../../.ssh/id_rsa", "application/octet-stream", "id_rsa"),
        ("", "image/png", "photo.png"),
        ("...", "application/pdf", "file.pdf"),
        ("bericht", "application/octet-stream", "bericht"),
        ("a\u202egpj.exe", "application/octet-stream", "agpj.exe"),
        ("notes.of.a.long.day", "text/plain", "notes.of.a.long.day"),
    ],
)
def test_names_stay_what_they_are_where_they_may(claimed: str, kind: str, name: str) -> None:
    assert clean_file_name(claimed, kind) == name


@spec("CNT-44")
def test_a_file_that_is_there_is_never_replaced_nor_a_link_followed(tmp_path: Path) -> None:
    assert numbered(tmp_path, "a.txt") == tmp_path / "a.txt"
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "a-2.txt").symlink_to("/nowhere")
    assert numbered(tmp_path, "a.txt") == tmp_path / "a-3.txt"


@given(st.text(max_size=400))
def test_any_own_name_fits_into_a_content(name: str) -> None:
    short = shortened(name)
    assert len(short.encode()) <= content.MAX_FILE_NAME_BYTES
    assert media_type_of(short).partition("/")[2]


# ---------------------------------------------------------------- photos


def picture(kind: str, **options: Any) -> bytes:
    image = Image.new("RGB", (40, 20), (200, 30, 30))
    image.putpixel((0, 0), (0, 0, 255))
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def told() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "CANARY"
    return exif


@spec("CNT-43")
@pytest.mark.parametrize(
    "data",
    [
        picture("JPEG", exif=told(), comment=b"CANARY", xmp=b"<x>CANARY</x>"),
        picture("PNG", exif=told()),
        picture("WEBP", exif=told(), xmp=b"<x>CANARY</x>"),
    ],
    ids=["jpeg", "png", "webp"],
)
def test_a_photo_keeps_its_looks_and_loses_what_it_tells(data: bytes) -> None:
    assert b"CANARY" in data
    clean = photos.cleaned(data, "image/jpeg")
    assert b"CANARY" not in clean.data
    with Image.open(io.BytesIO(clean.data)) as image:
        assert not image.getexif() and image.size == (20, 40) == (clean.width, clean.height), "upright"
        assert Image.MIME[image.format or ""] == clean.media_type


@spec("CNT-43")
def test_the_text_chunks_of_a_png_and_the_comment_of_a_gif_go_and_the_colour_profile_stays() -> None:
    from PIL.ImageCms import ImageCmsProfile, createProfile
    from PIL.PngImagePlugin import PngInfo

    said = PngInfo()
    said.add_text("Author", "CANARY")
    said.add_itxt("XML:com.adobe.xmp", "CANARY")
    profile = ImageCmsProfile(createProfile("sRGB")).tobytes()
    png = photos.cleaned(picture("PNG", pnginfo=said, icc_profile=profile), "image/png")
    assert b"CANARY" not in png.data
    assert Image.open(io.BytesIO(png.data)).info["icc_profile"] == profile
    frames = [Image.new("RGB", (8, 8), (n, 0, 255 - n)) for n in (1, 100, 250)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], comment=b"CANARY", duration=70, loop=0)
    assert b"CANARY" in out.getvalue()
    gif = photos.cleaned(out.getvalue(), "image/gif")
    assert b"CANARY" not in gif.data
    assert getattr(Image.open(io.BytesIO(gif.data)), "n_frames", 1) == 3


@spec("CNT-43")
@given(st.binary(min_size=1, max_size=300))
def test_what_is_no_picture_is_refused_in_one_sentence(data: bytes) -> None:
    with pytest.raises(WrongInput, match="--as-is"):
        photos.cleaned(data, "image/heic")
    with pytest.raises(WrongInput, match=r"^The file is not the picture that its name says") as refusal:
        photos.cleaned(data, "image/jpeg")
    assert "--as-is" not in str(refusal.value)


@pytest.mark.parametrize(
    ("data", "media_type", "words"),
    [
        (b"", "image/png", "empty"),
        (b"", "video/mp4", "empty"),
        (picture("JPEG")[:-200], "image/jpeg", "damaged"),
        (picture("PNG")[:60], "image/png", "damaged"),
    ],
)
def test_a_broken_picture_is_called_so_and_nobody_is_told_to_send_it(data: bytes, media_type: str, words: str) -> None:
    with pytest.raises(WrongInput, match=words) as refusal:
        photos.cleaned(data, media_type)
    assert "--as-is" not in str(refusal.value)
