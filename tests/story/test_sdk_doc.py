"""The tutorial is true: every Python block of docs/sdk.md runs against a real server, the echo bot among them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from taube.client import errors, events
from taube.testing import Person, Server, meet, succeeded, wait_for_line

DOCUMENT = (Path(__file__).parents[2] / "docs" / "sdk.md").read_text()
SNIPPETS = dict(re.findall(r"<!-- snippet: (\w+) -->\n```python\n(.*?)```", DOCUMENT, re.DOTALL))


def run_script(text: str, folder: Path, server: Server) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text],
        cwd=folder,
        env=os.environ | server.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_python_block_is_run_or_is_the_one_line_of_a_conftest() -> None:
    assert set(SNIPPETS) == {"echo", "join", "read", "files", "errors", "test"}
    assert DOCUMENT.count("```python") == len(SNIPPETS) + 1


def test_the_echo_bot_has_ten_lines_and_answers(taube_server: Server, tmp_path: Path) -> None:
    body = SNIPPETS["echo"].split("asyncio.run")[0].split("\n\n")[1].splitlines()
    assert len(body) <= 10
    echo = Person("echo", tmp_path / "echo", taube_server.environment)
    succeeded(echo.run("join", taube_server.invite(), "--name", "echo"))
    alice = taube_server.person("alice-of-the-doc")
    log = tmp_path / "log"
    with log.open("w") as out:
        bot = subprocess.Popen(
            [
                sys.executable,
                "-c",
                SNIPPETS["echo"].replace(
                    "    async with Account", '    print("up", flush=True)\n    async with Account'
                ),
            ],
            cwd=tmp_path,
            env=os.environ | taube_server.environment,
            stdout=out,
            stderr=out,
        )
    try:
        wait_for_line(log, "up")
        succeeded(alice.run("add", echo.contact_link()))
        with alice.start("read", "--follow", "--json") as following:
            for text in ("one", "two"):
                succeeded(alice.run("send", "echo", text))
                record = following.record()
                while record["kind"] != "text":
                    record = following.record()
                assert (record["from"], record["text"]) == ("echo", text)
        assert bot.poll() is None, log.read_text()
    finally:
        bot.kill()
        bot.wait()


def test_the_joining_and_reading_blocks_run(taube_server: Server, tmp_path: Path) -> None:
    echo = Person("echo", tmp_path / "echo", taube_server.environment)
    succeeded(echo.run("join", taube_server.invite(), "--name", "echo"))
    call = f"asyncio.run(main({taube_server.invite()!r}, {echo.contact_link()!r}))"
    joined = run_script(SNIPPETS["join"] + call, tmp_path, taube_server)
    assert joined.stderr == ""
    assert joined.stdout.splitlines()[-1] == "the server has it"
    call = "asyncio.run(main({!r}))"
    added = run_script(SNIPPETS["errors"] + call.format(echo.contact_link()), tmp_path, taube_server)
    assert (added.returncode, added.stdout, added.stderr) == (0, "", "")
    wrong = run_script(SNIPPETS["errors"] + call.format("nonsense"), tmp_path, taube_server)
    assert wrong.returncode == 1 and "not a contact link" in wrong.stderr and "(65)" in wrong.stderr
    read = run_script(SNIPPETS["read"] + "asyncio.run(main())", tmp_path, taube_server)
    assert read.stderr == ""
    assert read.stdout.splitlines()[-1].endswith(" Alice Hello!")
    (tmp_path / "notes.txt").write_text("coo")
    (tmp_path / "saved").mkdir()
    files = run_script(SNIPPETS["files"] + "asyncio.run(main('notes.txt', 'saved'))", tmp_path, taube_server)
    assert files.stderr == ""
    assert files.stdout.splitlines() == ["kept", "text/plain 3 notes.txt", "saved/notes.txt"]


def test_the_testing_block_runs(alice: Person, bob: Person) -> None:
    names: dict[str, object] = {}
    exec(compile(SNIPPETS["test"], "docs/sdk.md", "exec"), names)
    test = names["test_bob_reads_what_alice_wrote"]
    assert callable(test)
    test(alice, bob)


@pytest.mark.parametrize("name", re.findall(r"^\| `([A-Z]\w+)\(", DOCUMENT, re.MULTILINE))
def test_every_event_of_the_table_exists(name: str) -> None:
    assert hasattr(events, name)


def test_the_errors_of_the_document_exist() -> None:
    for name in re.findall(r"`(?:taube\.client\.errors\.)?(UserError|TryLater)`", DOCUMENT):
        assert issubclass(getattr(errors, name), errors.UserError)


def test_meeting_is_what_the_fixtures_do(taube_server: Server) -> None:
    first, second = taube_server.person("first"), taube_server.person("second")
    meet(first, second)
    assert succeeded(second.run("chats", "--json")).json()[0]["state"] == "open"
