"""Health, readiness and the end of a server: stop accepting, tell the clients, finish what was begun, close.

    STARTING ──► READY ──► DRAINING ──► STOPPED

It knows no service; what has to be done in each step is passed in. Source: docs/operating.md, "Stopping".
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from enum import Enum
from typing import Any, Final

from taube import __version__

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Stage(Enum):
    """Where the process is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


_NEXT: Final = {Stage.STARTING: Stage.READY, Stage.READY: Stage.DRAINING, Stage.DRAINING: Stage.STOPPED}


class Lifecycle:
    """The stage of this process, and one thing to wait for: that someone wants it to end."""

    def __init__(self) -> None:
        self.stage = Stage.STARTING
        self.reason = ""
        self._end = asyncio.Event()
        self._problems: dict[str, Callable[[], bool]] = {}
        self._notes: dict[str, Callable[[], bool]] = {}

    def move(self, stage: Stage) -> None:
        """Go on to the next stage. Raises ValueError for any other."""
        if stage is not Stage.STOPPED and _NEXT.get(self.stage) is not stage:
            raise ValueError(f"{self.stage.value} does not lead to {stage.value}")
        self.stage = stage

    def ask_to_end(self, reason: str) -> None:
        """End the server soon; a second time changes nothing."""
        self.reason = self.reason or reason
        self._end.set()

    async def asked_to_end(self) -> str:
        """Wait until the server shall end; gives why."""
        await self._end.wait()
        return self.reason

    def watch(self, name: str, is_well: Callable[[], bool]) -> None:
        """One more thing that has to be well for the server to be healthy."""
        self._problems[name] = is_well

    def problems(self) -> list[str]:
        """Names of what is not well now."""
        return [name for name, is_well in self._problems.items() if not is_well()]

    def remark(self, name: str, holds: Callable[[], bool]) -> None:
        """One more thing that is worth knowing while it holds, and does not make the server unwell."""
        self._notes[name] = holds

    def notes(self) -> list[str]:
        """Names of what is worth knowing now."""
        return [name for name, holds in self._notes.items() if holds()]


def ops_pages(lifecycle: Lifecycle, metrics_text: Callable[[], bytes]) -> Application:
    """The ASGI application of the loopback-only port: `/health`, `/ready` and `/metrics`."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/metrics":
            await _answer(send, 200, "text/plain; version=0.0.4; charset=utf-8", metrics_text())
        elif path == "/health":
            problems = lifecycle.problems()
            about = {
                "stage": lifecycle.stage.value,
                "problems": problems,
                "notes": lifecycle.notes(),
                "version": __version__,
            }
            await _answer(send, 503 if problems else 200, "application/json", json.dumps(about).encode())
        elif path == "/ready":
            is_ready = lifecycle.stage is Stage.READY
            await _answer(send, 200 if is_ready else 503, "text/plain", lifecycle.stage.value.encode())
        else:
            await _answer(send, 404, "text/plain", b"/health, /ready and /metrics are here.\n")

    return application


async def _answer(send: Send, status: int, kind: str, body: bytes) -> None:
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
