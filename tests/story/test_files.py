"""Files and photos between two people on the command line: real processes, TLS, a server that breaks off."""

import asyncio
import hashlib
import io
import itertools
import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from taube.testing import Person, Server, meet, succeeded, temporary_server
from tests.spec import spec

Pair = tuple[Server, Person, Person]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with temporary_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def pair(server: Server) -> Pair:
    """Alice and Bob, new for each test; the server is as it was left."""
    number = next(_numbers)
    alice, bob = server.person(f"alice{number}"), server.person(f"bob{number}")
    meet(alice, bob)
    return server, alice, bob


def photo(path: Path) -> bytes:
    """A picture as a camera writes it: lying on its side, with a place and a maker."""
    picture = Image.effect_mandelbrot((640, 480), (-2, -1.5, 1, 1.5), 60).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright
    exif[0x010F] = "CANARY-MAKER"
    exif.get_ifd(0x8825)[1] = "N"
    out = io.BytesIO()
    picture.save(out, "JPEG", exif=exif, comment=b"CANARY-COMMENT")
    path.write_bytes(out.getvalue())
    return out.getvalue()


def sealed_files(server: Server) -> list[Path]:
    return [path for path in (server.data / "blobs").rglob("*") if path.is_file()]


@spec("CNT-18", "CNT-19", "CNT-40", "CNT-41", "CNT-43", "BLB-11")
def test_two_people_exchange_a_photo_and_a_file(pair: Pair, tmp_path: Path) -> None:
    server, alice, bob = pair
    before = sealed_files(server)
    original = photo(tmp_path / "pigeon.jpg")
    assert b"CANARY-MAKER" in original and b"CANARY-COMMENT" in original
    succeeded(alice.run("send", bob.name, "--file", str(tmp_path / "pigeon.jpg"), "Look, a pigeon"))
    data = os.urandom(700_000) + b"CANARY-FILE" * 1000
    (tmp_path / "notes.bin").write_bytes(data)
    succeeded(alice.run("send", bob.name, "--file", str(tmp_path / "notes.bin")))
    new = set(sealed_files(server)) - set(before)
    assert len(new) == 2
    for path in new:
        sealed = path.read_bytes()
        for canary in (b"CANARY", b"pigeon", b"JFIF", alice.name.encode(), bob.name.encode()):
            assert canary not in sealed and canary not in str(path).encode()
    saved = tmp_path / "saved"
    saved.mkdir()
    first, second = bob.read("--save", str(saved))
    assert (first["kind"], first["text"], first["name"]) == ("media", "Look, a pigeon", "pigeon.jpg")
    assert (first["media_type"], first["width"], first["height"]) == ("image/jpeg", 480, 640), "upright"
    came = Path(first["saved"]).read_bytes()
    assert Path(first["saved"]) == saved / "pigeon.jpg" and len(came) == first["size"]
    assert b"CANARY" not in came and not Image.open(io.BytesIO(came)).getexif()
    assert (second["name"], second["size"], second["text"]) == ("notes.bin", len(data), "")
    assert hashlib.sha256(Path(second["saved"]).read_bytes()).digest() == hashlib.sha256(data).digest()
    assert sorted(path.name for path in saved.iterdir()) == ["notes.bin", "pigeon.jpg"]
    assert not list((alice.home / "outgoing").iterdir()), "what was uploaded is not kept"


@spec("CNT-44")
def test_names_never_lead_out_of_the_folder_and_nothing_is_replaced(pair: Pair, tmp_path: Path) -> None:
    _, alice, bob = pair
    for content in (b"one", b"two"):
        (tmp_path / "..hidden?.txt").write_bytes(content)
        succeeded(alice.run("send", bob.name, "--file", str(tmp_path / "..hidden?.txt")))
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "hidden_.txt").write_bytes(b"mine")
    bob.read("--save", str(saved))
    found = {path.name: path.read_bytes() for path in saved.iterdir()}
    assert found == {"hidden_.txt": b"mine", "hidden_-2.txt": b"one", "hidden_-3.txt": b"two"}


def test_a_photo_is_shown_in_words(pair: Pair, tmp_path: Path) -> None:
    _, alice, bob = pair
    photo(tmp_path / "pigeon.jpg")
    succeeded(alice.run("send", bob.name, "--file", str(tmp_path / "pigeon.jpg"), "Look"))
    shown = succeeded(bob.run("read")).out
    assert "[photo pigeon.jpg, 480 x 640, " in shown and shown.endswith("kB] Look")


def test_a_photo_that_was_printed_can_be_saved_later(pair: Pair, tmp_path: Path) -> None:
    _, alice, bob = pair
    original = os.urandom(5_000)
    (tmp_path / "notes.bin").write_bytes(original)
    succeeded(alice.run("send", bob.name, "--file", str(tmp_path / "notes.bin")))
    succeeded(alice.run("send", bob.name, "What do you say?"))
    assert len(bob.read()) == 2
    succeeded(bob.run("send", alice.name, "Fine"))
    saved = tmp_path / "saved"
    saved.mkdir()
    assert bob.read("--save", str(saved)) == []
    file, text = bob.read(alice.name, "--again", "2", "--save", str(saved))
    assert Path(file["saved"]).read_bytes() == original and text["text"] == "What do you say?"
    assert [record["text"] for record in bob.read("--again", "1")] == ["What do you say?"]
    succeeded(alice.run("send", bob.name, "new"))
    assert [record["text"] for record in bob.read("--again", "1")] == ["new"]
    assert [record["text"] for record in bob.read()] == ["new"], "it was not marked as read"
    for words in (("--again", "0"), ("--again", "1", "--follow"), ("--again", "1", "--wait", "1")):
        assert bob.run("read", *words).code == 64


@spec("CNT-43")
def test_a_film_is_sent_as_it_is_only_when_that_is_asked_for(pair: Pair, tmp_path: Path) -> None:
    _, alice, bob = pair
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(500))
    refused = alice.run("send", bob.name, "--file", str(tmp_path / "film.mp4"))
    assert refused.code == 65 and "--as-is" in refused.err and refused.err.count("\n") == 0
    succeeded(alice.run("send", bob.name, "--file", str(tmp_path / "film.mp4"), "--as-is"))
    assert bob.read()[0]["media_type"] == "video/mp4"


@spec("CNT-19", "BLB-05")
def test_a_file_waits_for_the_server_and_survives_its_crashes(pair: Pair, tmp_path: Path) -> None:
    server, alice, bob = pair
    before = set(sealed_files(server))
    data = os.urandom(9_000_000)
    (tmp_path / "large.bin").write_bytes(data)
    server.kill()
    waits = alice.run("send", bob.name, "--file", str(tmp_path / "large.bin"))
    assert waits.code == 75 and "queued" in waits.err
    (tmp_path / "large.bin").unlink()
    assert len(list((alice.home / "outgoing").iterdir())) == 1
    server.start()
    for _ in range(2):
        with alice.start("read", "--follow"):
            while not any(path.stat().st_size > 200_000 for path in set(sealed_files(server)) - before):
                time.sleep(0.005)
            server.kill()
        server.start()
    with alice.start("read", "--follow"):
        (message,) = bob.read("--wait", "30")
    saved = tmp_path / "saved"
    saved.mkdir()
    assert message["size"] == len(data)
    succeeded(alice.run("send", bob.name, "after it"))
    assert [record["text"] for record in bob.read()] == ["after it"]
    assert not list((alice.home / "outgoing").iterdir())


@spec("CNT-41")
def test_an_altered_and_an_expired_file_are_told_in_one_sentence_and_the_rest_goes_on(
    pair: Pair, tmp_path: Path
) -> None:
    server, alice, bob = pair
    before = set(sealed_files(server))
    for name in ("altered", "expired", "fine"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
        succeeded(alice.run("send", bob.name, "--file", str(tmp_path / name)))
    server.stop()
    by_age = sorted(set(sealed_files(server)) - before, key=lambda path: path.stat().st_ctime_ns)
    raw = bytearray(by_age[0].read_bytes())
    raw[500] ^= 1
    by_age[0].write_bytes(raw)
    by_age[1].unlink()
    server.start()
    saved = tmp_path / "saved"
    saved.mkdir()
    result = bob.run("read", "--json", "--save", str(saved))
    assert result.code in (65, 69)
    altered, expired = result.err.splitlines()
    assert f"not the one that {alice.name} sealed" in altered and "no longer on the server" in expired
    assert [("saved" in record, record["name"]) for record in result.json()] == [
        (False, "altered"),
        (False, "expired"),
        (True, "fine"),
    ]
    assert [path.name for path in saved.iterdir()] == ["fine"]


@spec("CNT-42")
def test_a_strangers_request_loads_nothing(server: Server, tmp_path: Path) -> None:
    alice, bob = server.person("stranger"), server.person("wary")
    succeeded(alice.run("add", bob.contact_link()))
    (tmp_path / "bait").write_bytes(b"x")
    succeeded(alice.run("send", bob.name, "--file", str(tmp_path / "bait")))
    saved = tmp_path / "saved"
    saved.mkdir()
    before = read_bytes(server)
    result = bob.run("read", "--json", "--save", str(saved))
    assert "accept the chat" in result.err and not list(saved.iterdir())
    assert read_bytes(server) == before


def read_bytes(server: Server) -> str:
    """How much of blobs the server gave out."""
    ops = (server.data / "ops").read_text().strip()
    with urllib.request.urlopen(ops + "/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return next(line for line in lines if line.startswith('taube_blob_bytes_total{reason="out"}'))


def test_mistakes_are_one_sentence(pair: Pair, tmp_path: Path) -> None:
    _, alice, bob = pair
    for words, code in (
        (("send", bob.name, "--file", str(tmp_path / "none")), 66),
        (("send", bob.name, "--file", str(tmp_path)), 73),
        (("read", "--save", str(tmp_path / "none")), 66),
    ):
        result = alice.run(*words)
        assert result.code == code and len(result.err.splitlines()) == 1, result
    for name, data, word in (("broken.jpg", b"no picture", "not the picture"), ("empty.png", b"", "empty")):
        (tmp_path / name).write_bytes(data)
        result = alice.run("send", bob.name, "--file", str(tmp_path / name))
        assert result.code == 65 and word in result.err and "--as-is" not in result.err


@spec("CNT-17")
async def _answers(alice: Person, bob: Person) -> None:
    async with bob.account() as me:
        chat = me.chat(alice.name)
        message = chat.messages()[-1]
        answer = await chat.send_text("Yes", reply_to=message)
        assert answer.reply_to == message.id
        assert await me.settle(answer, 20) == "kept"


def test_an_answer_says_what_it_answers(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    server, alice, bob = pair
    monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
    succeeded(alice.run("send", bob.name, "Coming?"))
    (asked,) = bob.read()
    asyncio.run(_answers(alice, bob))
    (answer,) = alice.read()
    assert (answer["text"], answer["reply_to"]) == ("Yes", asked["id"])
    assert "reply_to" not in asked


def test_a_deleted_account_leaves_no_sealed_file(pair: Pair, tmp_path: Path) -> None:
    server, alice, bob = pair
    (tmp_path / "file").write_bytes(b"x")
    server.kill()
    alice.run("send", bob.name, "--file", str(tmp_path / "file"))
    assert list((alice.home / "outgoing").iterdir())
    server.start()
    succeeded(alice.run("delete-account", "--yes"))
    assert not alice.home.exists()
