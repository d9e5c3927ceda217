"""What a browser gets: the app's files with the rules that bind them, from a real server; else a plain page."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

from taube.server import pages
from tests.spec import spec

APP = pages.APP_FOLDER
BUILD = json.loads((APP / "build.json").read_text())
"""The build that `make dev` left there."""


def asked(path: str, method: str = "GET", **headers: str) -> bytes:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()


def told(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), {line.partition(": ")[0]: line.partition(": ")[2] for line in lines}, body


@pytest.mark.parametrize("path", ["/", "/i", "/c"])
async def test_every_link_shows_the_app_which_may_run_only_its_own_files(rig, path):
    async with rig() as server:
        status, headers, body = told(await server.http(asked(path)))
        assert status == 200 and headers["content-type"] == "text/html; charset=utf-8"
        assert body == (APP / "index.html").read_bytes() and len(body) == int(headers["content-length"])
        policy = dict(part.partition(" ")[::2] for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
        assert policy["script-src"] == "'self' 'wasm-unsafe-eval'" and policy["style-src"] == "'self'"
        assert policy["connect-src"] == f"'self' {server.server.origin.replace('https', 'wss')}"
        assert policy["require-trusted-types-for"] == "'script'"
        assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer" and headers["x-content-type-options"] == "nosniff"
        assert "microphone=()" in headers["permissions-policy"]
        assert headers["strict-transport-security"] == "max-age=31536000"
        assert headers["cache-control"] == "no-cache"
        status, _, body = told(await server.http(asked(path, "HEAD")))
        assert (status, body) == (200, b"")


async def test_each_file_of_the_build_comes_byte_for_byte_with_its_type_and_the_same_rules(rig):
    types = {"js": "text/javascript; charset=utf-8", "wasm": "application/wasm", "css": "text/css; charset=utf-8"}
    async with rig() as server:
        rules = told(await server.http(asked("/")))[1]["content-security-policy"]
        assert len(BUILD["files"]) > 8
        for name, digest in BUILD["files"].items():
            status, headers, body = told(await server.http(asked("/" if name == "index.html" else f"/{name}")))
            assert (status, hashlib.sha256(body).hexdigest()) == (200, digest), name
            assert headers["content-security-policy"] == rules, "a worker has the rules of its own answer"
            assert headers["content-type"] == types.get(name.rpartition(".")[2], headers["content-type"])
            assert "octet-stream" not in headers["content-type"], name
            kept = "public, max-age=31536000, immutable" if name.startswith("assets/") else "no-cache"
            assert headers["cache-control"] == kept
            assert headers["etag"] == f'"{digest[:32]}"', "alike for everyone who has these bytes"


async def test_a_browser_that_can_gets_the_compressed_form_and_nothing_when_it_has_the_file(rig):
    core = next(name for name in BUILD["files"] if name.endswith(".wasm"))
    async with rig() as server:
        _, headers, body = told(await server.http(asked(f"/{core}", accept_encoding="gzip, deflate")))
        assert headers["content-encoding"] == "gzip" and headers["vary"] == "accept-encoding"
        assert gzip.decompress(body) == (APP / core).read_bytes()
        _, best, smallest = told(await server.http(asked(f"/{core}", accept_encoding="gzip, deflate, br, zstd")))
        assert best["content-encoding"] == "br" and len(smallest) < len(body)
        assert best["etag"] != headers["etag"]
        again = asked(f"/{core}", accept_encoding="gzip", if_none_match=f'"other", W/{headers["etag"]}')
        status, _, body = told(await server.http(again))
        assert (status, body) == (304, b"")
        status, _, body = told(await server.http(asked("/", if_none_match=headers["etag"])))
        assert status == 200 and body


def test_the_page_runs_only_scripts_and_styles_whose_hash_it_names():
    page = (APP / "index.html").read_text()
    named = re.findall(r"<(?:script|link)[^>]*(?:src|href)=\"/([^\"]+\.(?:js|css))\"[^>]*>", page)
    assert "check.js" in named and len(named) >= 2
    assert len(re.findall(r"integrity=\"sha384-[A-Za-z0-9+/]{64}\"", page)) == len(named)
    assert not re.search(r"<script(?![^>]*src=)|\son[a-z]+=|\sstyle=", page)
    assert "needs JavaScript" in page and "too old" in page


def test_the_hash_of_a_build_is_that_of_the_sorted_list_of_its_files():
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(BUILD["files"].items()))
    assert BUILD["hash"] == hashlib.sha256(lines.encode()).hexdigest()
    found = {path.relative_to(APP).as_posix() for path in APP.rglob("*") if path.is_file()}
    assert {name for name in found if not name.endswith((".gz", ".br"))} == {*BUILD["files"], "build.json"}


async def test_the_card_names_the_build_that_the_server_gives_out(rig):
    async with rig() as server:
        _, _, body = told(await server.http(asked("/.well-known/taube")))
        assert json.loads(body)["app"] == BUILD["hash"]
        _, headers, body = told(await server.http(asked("/build.json")))
        assert json.loads(body) == BUILD and headers["content-type"] == "application/json"
        assert headers["etag"] == f'"{hashlib.sha256(body).hexdigest()[:32]}"'


async def test_a_page_that_there_is_not_leads_back_to_the_app(rig):
    async with rig() as server:
        status, headers, body = told(await server.http(asked("/nonsense")))
        assert (status, headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert re.search(r"<a href=\"/\">https?://[^<]+</a>", body.decode())


async def test_only_what_was_built_can_be_fetched(rig):
    async with rig() as server:
        for path in ("/index.html.gz", "/../pages.py", "/assets/", "/assets/../build.json", "/%2e%2e/pages.py", "//"):
            assert told(await server.http(asked(path)))[0] == 404, path
        assert told(await server.http(asked("/sw.js", "POST")))[0] == 405


@spec("CON-02")
async def test_a_file_comes_without_cookies_and_alike_for_everyone(rig):
    async with rig() as server:
        first, second = [told(await server.http(asked("/", cookie=f"a={n}"))) for n in range(2)]
        assert first == second and "set-cookie" not in first[1]


async def test_a_rebuilt_app_is_not_mixed_with_the_one_that_is_served(rig, tmp_path, monkeypatch):
    folder = a_build(tmp_path / "app", "old")
    monkeypatch.setattr(pages.public_pages, "__defaults__", (folder,))
    async with rig() as server:
        (folder / "index.html").unlink()
        a_build(folder, "new")
        assert told(await server.http(asked("/")))[2] == b"old"


@pytest.mark.parametrize("path", ["/", "/i", "/c"])
async def test_without_a_build_a_plain_page_says_what_to_do_and_runs_nothing(rig, path, tmp_path, monkeypatch):
    monkeypatch.setattr(pages.public_pages, "__defaults__", (tmp_path,))
    async with rig() as server:
        status, headers, body = told(await server.http(asked(path)))
        assert status == 200 and b"<h1>" in body and b"make setup" in body
        assert "default-src 'none'" in headers["content-security-policy"]
        assert b"<script" not in body and b"src=" not in body
        assert json.loads(told(await server.http(asked("/.well-known/taube")))[2])["app"] is None


def test_a_build_that_is_not_whole_is_none(tmp_path):
    folder = a_build(tmp_path, "x")
    assert pages.read_app(folder) is not None
    (folder / "index.html").unlink()
    assert pages.read_app(folder) is None


def a_build(folder: Path, text: str) -> Path:
    """A build of one page."""
    folder.mkdir(exist_ok=True)
    (folder / "index.html").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "build.json").write_text(json.dumps({"hash": digest, "files": {"index.html": digest}}))
    return folder
