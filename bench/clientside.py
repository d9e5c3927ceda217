"""What a client costs: the cryptographic core for one message, and the command line from start to exit.

These run where the load runs, not on the server's core. The core is called as the SDK calls it: one message a call,
its deltas taken, without the database write that follows.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from bench.scenarios import Place
from taube.client.e2e import SUITE_HYBRID
from tests.core.people import NOW_S, chat_of_two

MESSAGES = 200
TEXT = b"x" * 100


async def core(place: Place) -> dict[str, Any]:
    """Protect and unprotect one message in a chat of two, hybrid suite: the median of many, in milliseconds."""
    alice, bob, group = chat_of_two(SUITE_HYBRID, os.urandom(8).hex())
    protect: list[float] = []
    unprotect: list[float] = []
    for number in range(MESSAGES + 20):
        writer, reader = (alice, bob) if number % 3 else (bob, alice)
        began = time.perf_counter()
        [body] = writer.core.protect(group, [TEXT])
        deltas = writer.core.take_deltas()
        middle = time.perf_counter()
        [received] = reader.core.receive(group, [body], {}, NOW_S)
        others = reader.core.take_deltas()
        ended = time.perf_counter()
        if received.content != TEXT or not deltas or not others:
            raise RuntimeError("the core did not read what it wrote")
        if number >= 20:
            protect.append(middle - began)
            unprotect.append(ended - middle)
    return {
        "protect_ms": statistics.median(protect) * 1000,
        "unprotect_ms": statistics.median(unprotect) * 1000,
        "protect_p99_ms": sorted(protect)[int(len(protect) * 0.99)] * 1000,
        "unprotect_p99_ms": sorted(unprotect)[int(len(unprotect) * 0.99)] * 1000,
        "delta_bytes": sum(len(delta.key) + len(delta.value or b"") for delta in deltas),
    }


async def send(place: Place) -> dict[str, Any]:
    """`taube send` from start to exit 0 (the message is kept), for a receiver that is away; the fourth time on."""
    folder = place.folder / "cli"
    environment = os.environ | {"SSL_CERT_FILE": str(place.certificate[0])}
    served = place.own_server()
    with served:
        folder.mkdir(exist_ok=True)
        homes = [folder / f"{name}-{time.monotonic_ns()}" for name in ("alice", "bob")]

        def taube(*words: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "taube", *words], env=environment, capture_output=True, text=True, timeout=60
            )
            if done.returncode:
                raise RuntimeError(f"taube {words[0]} ended with {done.returncode}: {done.stderr}")
            return done.stdout.strip()

        invitation = taube("admin", "invite", "--data", str(served.folder / "data"), "--uses", "2")
        for home in homes:
            taube("join", invitation, "--home", str(home), "--name", home.name)
        link = json.loads(taube("me", "--home", str(homes[1]), "--json"))["contact_link"]
        chat = taube("add", link, "--home", str(homes[0]))
        for _ in range(3):
            taube("send", "--home", str(homes[0]), chat, "hello")
        times = []
        for number in range(3 if place.quick else 8):
            began = time.perf_counter()
            taube("send", "--home", str(homes[0]), chat, f"hello {number}")
            times.append(time.perf_counter() - began)
        doing_nothing = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", "pass"], check=True)
            doing_nothing.append(time.perf_counter() - began)
    return {
        "client_send_s": statistics.median(times),
        "slowest_s": max(times),
        "python_itself_s": statistics.median(doing_nothing),
    }
