"""`make run` keeps its promise: what it prints can be typed and leads to a first message; Ctrl-C ends it all."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from taube.testing import free_port

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 60


@contextmanager
def run(folder: Path) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """`make run` in *folder*: all that it prints until one can type, and the process."""
    process = subprocess.Popen(
        [sys.executable, "scripts/run.py", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watch = threading.Timer(PATIENCE_S, process.kill)
    watch.start()
    try:
        assert process.stdout is not None
        guide = until_ready(process.stdout)
        watch.cancel()
        yield guide, process
    finally:
        watch.cancel()
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)


def until_ready(output: IO[str]) -> str:
    lines = []
    for line in output:
        lines.append(line)
        if "Ctrl-C" in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def typed(script: str) -> str:
    """What a shell prints when a person types *script*."""
    script = script.replace(".venv/bin/taube", f"'{sys.executable}' -m taube")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TAUBE_")}
    done = subprocess.run(
        ["sh", "-euc", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def terminals(guide: str) -> list[str]:
    """What is printed to be typed in each terminal, every character of it; not the links to be opened in a browser."""
    return [block for block in re.findall(r"(?:^  .*\n)+", guide, re.MULTILINE) if not block.startswith("  http")]


def test_what_make_run_prints_leads_to_a_first_message_and_to_two_people_writing(tmp_path: Path) -> None:
    with run(tmp_path / "taube") as (guide, process):
        alice, bob, alice_again = terminals(guide)
        assert "echo  Hello, pigeon!" in typed(alice)
        me = typed(bob.replace("read --follow", "me --json"))
        link = re.findall(r'"contact_link": ?"([^"]+)"', me)[0]
        homes = [re.findall(r"export TAUBE_HOME=.*\n", block)[0] for block in (alice, bob)]
        typed(homes[0] + alice_again.replace("THE CONTACT LINK", link))
        assert "alice  Can you hear me?" in typed(homes[1] + ".venv/bin/taube read --wait 20")
        typed(homes[1] + ".venv/bin/taube accept alice && .venv/bin/taube send alice Yes.")
        assert "bob  Yes." in typed(homes[0] + ".venv/bin/taube read --wait 20")
    assert process.returncode == 0

    with run(tmp_path / "taube") as (guide, process):
        alice, *_ = terminals(guide)
        assert " join " not in alice
        assert "echo  Hello, pigeon!" in typed(alice)
    assert process.returncode == 0


def test_a_second_make_run_says_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "taube").mkdir()
    (tmp_path / "taube" / "port").write_text(str(free_port()))  # the test above may be looking for one now
    with run(tmp_path / "taube"):
        second = subprocess.run(
            [sys.executable, "scripts/run.py", str(tmp_path / "taube")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    assert second.returncode == 1
    assert "Traceback" not in second.stderr
    assert len(second.stderr.strip().splitlines()) == 1
