"""What the phone app costs a phone: bytes of the first load, and how long a person waits in a chat of 10,000 messages.

A real Chromium, a real server and the app that was built last; what is measured, and how, is in
web/test/browser/figures.ts. Here it is called, and called off where there is no browser.
"""

import json
import os
import subprocess
from typing import Any

from bench.scenarios import Place
from scripts import browsers, node

MOST_S = 300.0


def missing() -> str:
    """Why the app cannot be measured here; empty if it can."""
    if browsers.find("TAUBE_CHROMIUM") is None:
        return "there is no Chromium here (`make test` says how to get it)"
    if not (node.WEB / "node_modules" / "vitest").exists() or not (node.APP / "build.json").exists():
        return "the app is not built here (`make dev` does it)"
    return ""


async def app(place: Place) -> dict[str, Any]:
    """One round of web/test/browser/figures.ts: kilobytes of 1,000; milliseconds, with the page slowed down.

    Raises RuntimeError with what was said there."""
    file = place.folder / "figures.json"
    file.unlink(missing_ok=True)
    environment = node.environment() | {
        "TAUBE_CHROMIUM": str(browsers.find("TAUBE_CHROMIUM")),
        "TAUBE_FIGURES": str(file),
        "QUICK": "1" if place.quick else "",
    }
    everywhere = range(os.cpu_count() or 1)
    try:
        done = subprocess.run(
            [*node.npm(), "run", "--silent", "figures"],
            cwd=node.WEB,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, everywhere),
            capture_output=True,
            text=True,
            timeout=MOST_S,
        )
    except subprocess.TimeoutExpired as late:
        raise RuntimeError(f"the app was not measured within {MOST_S:.0f} s") from late
    if done.returncode != 0 or not file.exists():
        raise RuntimeError(f"the app was not measured: {(done.stdout + done.stderr)[-2000:]}")
    found: dict[str, Any] = json.loads(file.read_text())
    return found
