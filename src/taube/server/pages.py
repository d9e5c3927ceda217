"""What a browser gets: the phone app with the rules that bind it, else a plain page; and a machine's card.

One small ASGI application. The secret of a link stands after `#` and never reaches the server, so every invitation and
every contact link gets the same page. Nothing is loaded from elsewhere, nothing is logged. The app's files come as they
were built: mapped when the server starts, so that one build is served until the end and only what is asked for takes
memory. Where no app was built, the plain page says what to do with a link. It knows no account and no session.
"""

import base64
import hashlib
import html
import json
import mmap
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from taube.wire.messages import PROTOCOL_VERSION

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = tuple[tuple[str, str], ...]

APP_FOLDER: Final = Path(__file__).resolve().parent.parent / "web"
PIECE_BYTES: Final = 64 * 1024
"""What is written of a file before waiting until the browser took it."""

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
_ENCODINGS: Final = (("br", ".br"), ("gzip", ".gz"))
"""What a file may have been compressed with, best first, and the ending of that form beside it."""

_STYLE: Final = (
    "body{font:1.1em/1.5 system-ui,sans-serif;max-width:34em;margin:12vh auto;padding:0 1.2em;"
    "color:#222;background:#fafaf7}code{background:#ececE4;padding:.1em .3em;border-radius:.2em}a{color:inherit}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181a1b}code{background:#2a2d2e}}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_EVERYWHERE: Final[Headers] = (
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("connection", "close"),
)
_PLAIN: Final[Headers] = (
    ("content-security-policy", f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
     "form-action 'none'; frame-ancestors 'none'"),
    ("cache-control", "no-store"),
)  # fmt: skip
_PERMISSIONS: Final = (
    "camera=(self), clipboard-write=(self), accelerometer=(), browsing-topics=(), clipboard-read=(), "
    "display-capture=(), geolocation=(), gyroscope=(), hid=(), identity-credentials-get=(), idle-detection=(), "
    "local-fonts=(), magnetometer=(), microphone=(), midi=(), payment=(), serial=(), storage-access=(), usb=()"
)
"""Of a browser's powers the app gets the camera, for codes and pictures, and may copy what someone asks for."""

_HOME: Final = (
    "A Taube server",
    "<p>This server carries end-to-end encrypted messages and can read none of them.</p>"
    "<p>To join, you need an invitation link from someone who runs it.</p>",
)
_INVITATION: Final = (
    "You are invited",
    "<p>Someone invited you to write messages that nobody but the two of you can read.</p>"
    "<p>Install Taube, copy the whole address of this page, and type:</p>"
    "<p><code>taube join 'LINK' --name 'Your name'</code></p>"
    "<p>The part of the link after <code>#</code> is the invitation. Your browser keeps it to itself: this server has "
    "not seen it.</p>",
)
_CONTACT: Final = (
    "Someone wants to hear from you",
    "<p>This is the contact link of a person who uses Taube.</p>"
    "<p>Copy the whole address of this page, and type:</p>"
    "<p><code>taube add 'LINK'</code></p>"
    "<p>The part of the link after <code>#</code> says who it is. Your browser keeps it to itself: this server has not "
    "seen it.</p>",
)
_NOTHING: Final = ("Nothing here", "<p>There is no such page on this Taube server.</p>")
_NO_APP: Final = (
    "<p>The phone app was not built on this server: whoever runs it can do that with <code>make setup</code>.</p>"
)


def _page(title: str, text: str, origin: str) -> bytes:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="robots" content="noindex">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{_STYLE}</style><h1>{title}</h1>{text}"
        f'<p><small><a href="/">{html.escape(origin)}</a></small></p></html>\n'
    ).encode()


# ---------------------------------------------------------------- the app


@dataclass(frozen=True, slots=True)
class AppFile:
    """One file of the app: its type, its hash, and its bytes by encoding ("" is as it is)."""

    kind: str
    tag: str
    forms: Mapping[str, "mmap.mmap | bytes"]
    unchanging: bool


@dataclass(frozen=True, slots=True)
class App:
    """A build: its hash, and what stands under each path."""

    hash: str
    files: Mapping[str, AppFile]


def read_app(folder: Path) -> App | None:
    """The app that web/build.mjs put into *folder*; None if there is none, or not all of it."""
    try:
        described = (folder / "build.json").read_bytes()
        build = json.loads(described)
        files = {f"/{name}": _app_file(folder, name, tag) for name, tag in build["files"].items()}
        files["/build.json"] = _app_file(folder, "build.json", hashlib.sha256(described).hexdigest())
        shell = files.pop("/index.html")
        return App(build["hash"], {**files, "/": shell, "/i": shell, "/c": shell})
    except (OSError, ValueError, KeyError):
        return None


def _app_file(folder: Path, name: str, tag: str) -> AppFile:
    path = folder / name
    forms = {"": _mapped(path)}
    for encoding, ending in _ENCODINGS:
        packed = path.with_name(path.name + ending)
        if packed.exists():
            forms[encoding] = _mapped(packed)
    return AppFile(_TYPES.get(path.suffix, "application/octet-stream"), tag[:32], forms, name.startswith("assets/"))


def _mapped(path: Path) -> "mmap.mmap | bytes":
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def app_rules(origin: str) -> Headers:
    """What binds the app, and each of its workers: only its own files run, and it speaks with its own server only."""
    socket = "ws" + origin.removeprefix("http")
    policy = (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        f"connect-src 'self' {socket}",
        "worker-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types taube",
    )
    secure = (("strict-transport-security", "max-age=31536000"),) if origin.startswith("https:") else ()
    return (
        ("content-security-policy", "; ".join(policy)),
        ("permissions-policy", _PERMISSIONS),
        ("vary", "accept-encoding"),
        *secure,
    )


async def _answer_with_file(scope: Scope, send: Send, file: AppFile, rules: Headers) -> None:
    asked = {name: value.decode("latin-1") for name, value in scope["headers"]}
    accepted = {part.partition(";")[0].strip() for part in asked.get(b"accept-encoding", "").split(",")}
    encoding = next((name for name, _ in _ENCODINGS if name in accepted and name in file.forms), "")
    body = file.forms[encoding]
    tag = f'"{file.tag}{"-" * bool(encoding)}{encoding}"'
    headers = [
        *_EVERYWHERE,
        *rules,
        ("cache-control", "public, max-age=31536000, immutable" if file.unchanging else "no-cache"),
        ("etag", tag),
    ]
    if tag in {part.strip().removeprefix("W/") for part in asked.get(b"if-none-match", "").split(",")}:
        await _begin(send, 304, headers)
        await send({"type": "http.response.body", "body": b""})
        return
    headers += [("content-type", file.kind), ("content-length", str(len(body)))]
    await _begin(send, 200, headers + ([("content-encoding", encoding)] if encoding else []))
    end = len(body) if scope["method"] == "GET" else 0
    for at in range(0, end, PIECE_BYTES):
        await send({"type": "http.response.body", "body": body[at : at + PIECE_BYTES], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


# ---------------------------------------------------------------- all of it


def card(origin: str, push_key: bytes, blob_bytes: int, app: App | None = None) -> bytes:
    """What `/.well-known/taube` says: enough for a client to see that it speaks with the server it means, the key that
    a browser wants to know before it lets itself be woken, the largest blob, and which build of the app this server
    gives out (`app`: SHA-256 in hex as web/build.mjs makes it, or null)."""
    about = {
        "service": "taube",
        "origin": origin,
        "versions": [PROTOCOL_VERSION],
        "socket": "/v1/socket",
        "push_key": base64.urlsafe_b64encode(push_key).rstrip(b"=").decode(),
        "blob_bytes": blob_bytes,
        "app": app.hash if app else None,
    }
    return json.dumps(about).encode()


def public_pages(origin: str, push_key: bytes, blob_bytes: int, folder: Path = APP_FOLDER) -> Application:
    """The ASGI application of the public port; the app is the one in *folder*."""
    web = "text/html; charset=utf-8"
    app = read_app(folder)
    files, rules = app.files if app else {}, app_rules(origin)
    found: dict[str, tuple[str, bytes]] = {
        "/.well-known/taube": ("application/json", card(origin, push_key, blob_bytes, app))
    }
    if app is None:
        for path, (title, text) in (("/", _HOME), ("/i", _INVITATION), ("/c", _CONTACT)):
            found[path] = (web, _page(title, text + _NO_APP, origin))
    missing = _page(*_NOTHING, origin)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/v1/socket":
            await answer(send, 426, "text/plain", b"This address speaks WebSocket only.\n", upgrade="websocket")
        elif scope["method"] not in ("GET", "HEAD"):
            await answer(send, 405, "text/plain", b"Only GET is understood here.\n", allow="GET, HEAD")
        elif path in files:
            await _answer_with_file(scope, send, files[path], rules)
        elif path in found:
            await answer(send, 200, *found[path])
        else:
            await answer(send, 404, web, missing)

    return application


def routed(pages: Application, others: Mapping[str, Application]) -> Application:
    """*pages*, but what begins with a path in *others* goes to the application there."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        found = next((other for prefix, other in others.items() if path.startswith(prefix)), pages)
        await found(scope, receive, send)

    return application


async def answer(send: Send, status: int, kind: str, body: bytes, **more: str) -> None:
    """One whole response, with the headers that keep a browser from doing anything but showing it."""
    headers = [("content-type", kind), ("content-length", str(len(body))), *_EVERYWHERE, *_PLAIN, *more.items()]
    await _begin(send, status, headers)
    await send({"type": "http.response.body", "body": body})


async def _begin(send: Send, status: int, headers: list[tuple[str, str]]) -> None:
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
