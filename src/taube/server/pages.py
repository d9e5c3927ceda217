"""What a browser gets: a plain page that says what this server is and what to do with a link, and a machine's card.

One small ASGI application. The secret of a link stands after `#` and never reaches the server, so every invitation and
every contact link gets the same page. Nothing is loaded from elsewhere, nothing runs, nothing is logged.
It knows no account and no session.
"""

import base64
import hashlib
import html
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from taube.wire.messages import PROTOCOL_VERSION

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_STYLE: Final = (
    "body{font:1.1em/1.5 system-ui,sans-serif;max-width:34em;margin:12vh auto;padding:0 1.2em;"
    "color:#222;background:#fafaf7}code{background:#ececE4;padding:.1em .3em;border-radius:.2em}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181a1b}code{background:#2a2d2e}}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_SAFETY: Final = (
    ("content-security-policy", f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
     "form-action 'none'; frame-ancestors 'none'"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
    ("connection", "close"),
)  # fmt: skip

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


def _page(title: str, text: str, origin: str) -> bytes:
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="robots" content="noindex">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{_STYLE}</style><h1>{title}</h1>{text}<p><small>{html.escape(origin)}</small></p></html>\n"
    ).encode()


def card(origin: str, push_key: bytes) -> bytes:
    """What `/.well-known/taube` says: enough for a client to see that it speaks with the server it means, and the key
    that a browser wants to know before it lets itself be woken."""
    key = base64.urlsafe_b64encode(push_key).rstrip(b"=").decode()
    about = {
        "service": "taube", "origin": origin, "versions": [PROTOCOL_VERSION], "socket": "/v1/socket", "push_key": key,
    }  # fmt: skip
    return json.dumps(about).encode()


def public_pages(origin: str, push_key: bytes) -> Application:
    """The ASGI application of the public port."""
    web = "text/html; charset=utf-8"
    found: dict[str, tuple[str, bytes]] = {
        "/.well-known/taube": ("application/json", card(origin, push_key)),
        "/": (web, _page(*_HOME, origin)),
        "/i": (web, _page(*_INVITATION, origin)),
        "/c": (web, _page(*_CONTACT, origin)),
    }
    missing = _page(*_NOTHING, origin)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/v1/socket":
            await answer(send, 426, "text/plain", b"This address speaks WebSocket only.\n", upgrade="websocket")
        elif scope["method"] not in ("GET", "HEAD"):
            await answer(send, 405, "text/plain", b"Only GET is understood here.\n", allow="GET, HEAD")
        elif path in found:
            await answer(send, 200, *found[path])
        else:
            await answer(send, 404, web, missing)

    return application


async def answer(send: Send, status: int, kind: str, body: bytes, **more: str) -> None:
    """One whole response, with the headers that keep a browser from doing anything but showing it."""
    headers = [("content-type", kind), ("content-length", str(len(body))), *_SAFETY, *more.items()]
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
