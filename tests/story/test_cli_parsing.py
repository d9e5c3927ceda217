"""The command line without a server: what can be typed, and what mistakes are answered with."""

import argparse
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from taube import cli, exits
from taube.client.errors import NoAccount
from taube.client.transport import CertificateWrong
from taube.terminal import Terminal
from taube.wire.errors import BUSY, INVITATION_USED, WireError


def quiet() -> Terminal:
    return Terminal(io.StringIO(), io.StringIO(), io.StringIO())


@pytest.mark.parametrize(
    "line",
    [
        "serve",
        "serve --data D --listen 127.0.0.1:0 --url https://x --ops 127.0.0.1:0 --tls-cert C --tls-key K --config F",
        "admin invite --data D --uses 3 --days 2",
        "admin revoke LINK --data D",
        "admin remove ACCOUNT --data D",
        "admin knows ACCOUNT --data D",
        "admin backup FILE --data D",
        "admin restore FILE --data D",
        "admin rotate-keys --data D",
        "doctor --data D --json",
        "join LINK --home H --name alice",
        "me --home H --json",
        "add LINK --home H",
        "chats --home H --json",
        "accept bob --home H",
        "block bob --home H",
        "unblock bob --home H",
        "verify bob --home H",
        "send --home H bob hello",
        "send bob",
        "send bob --file F --as-is caption",
        "send --file F bob caption --home H",
        "send bob --file=F -- -caption",
        "read --home H bob --json --follow --wait 3 --save D",
        "read",
        "read bob --save D --again 3",
        "delete-account --home H",
    ],
)
def test_every_command_of_the_contract_is_understood(line: str) -> None:
    assert callable(cli.parse(line.split()).run)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "fly",
        "join LINK",
        "send",
        "read --wait soon",
        "read --wait -1",
        "read --again all",
        "admin",
        "admin invite --uses few",
    ],
)
def test_a_mistyped_command_is_one_sentence_and_64(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parse(line.split())
    assert caught.value.code == 64
    captured = capsys.readouterr()
    assert captured.out == ""
    if line:
        assert captured.err.startswith("taube: ") and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("jion L", "there is no command “jion” (did you mean “join”?)"),
        ("admin inivte", "did you mean “invite”?"),
        ("admin invite --days soon", "--days has to be a whole number, such as 10;"),
        ("read --wait soon", "--wait has to be a number of seconds"),
    ],
)
def test_a_mistake_is_told_in_plain_words(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse(line.split())
    assert words in capsys.readouterr().err


def test_help_documents_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parse(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for code in ("64", "65", "66", "69", "70", "73", "75", "77", "78", "130"):
        assert f"  {code}  " in out or f" {code}  " in out
    assert "TAUBE_PASSPHRASE_FILE" in out and "SSL_CERT_FILE" in out


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (NoAccount("There is no account in X: join one."), 66, "no account"),
        (CertificateWrong("X could not prove it."), 69, "prove"),
        (WireError(INVITATION_USED), 69, "used up"),
        (WireError(BUSY), 75, "limit"),
        (FileNotFoundError(2, "No such file or directory", "/x"), 66, "/x: no such file"),
        (PermissionError(13, "Permission denied", "/x"), 77, "/x: permission denied"),
        (ModuleNotFoundError("No module named 'uvloop'", name="uvloop"), 69, "taube[server]"),
        (ValueError("odd"), 70, "bug in Taube"),
    ],
)
def test_every_error_is_one_sentence_with_its_code(error: Exception, code: int, words: str) -> None:
    def fail(options: argparse.Namespace, terminal: Terminal) -> int:
        raise error

    terminal = quiet()
    assert cli.run(argparse.Namespace(run=fail), terminal) == code
    told = terminal.err.getvalue()  # type: ignore[attr-defined]
    assert words in told and told.startswith("taube: ") and told.count("\n") == 1


def test_an_error_with_a_strangers_words_cannot_steer_the_terminal() -> None:
    terminal = quiet()
    terminal.warn("No chat is called \x1b[2J\u202eevil.\nline")
    told = terminal.err.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in told and "\u202e" not in told and told.count("\n") == 1


def test_an_interrupt_is_quiet_and_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(options: argparse.Namespace, terminal: Terminal) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupt)
    assert cli.main(["read"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_broken_pipe_is_quiet() -> None:
    command = f"(sleep 0.1; {sys.executable} -m taube --help) | true"
    result = subprocess.run(["sh", "-c", command], capture_output=True, timeout=30, check=False)
    assert result.stderr == b""


def test_every_exit_code_stands_in_the_help() -> None:
    codes = {value for name, value in vars(exits).items() if name.startswith("EX_")}
    assert codes and codes <= {int(code) for code in re.findall(r"^ *(\d+)  ", cli.EPILOGUE, re.MULTILINE)}


def test_closed_standard_streams_are_no_bug() -> None:
    command = f"{sys.executable} -m taube me --home /nonexistent/home <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], timeout=30, check=False).returncode == 66


def test_help_and_mistakes_load_neither_client_nor_server() -> None:
    program = (
        "import sys, taube.cli\n"
        "try: taube.cli.main(['send'])\n"
        "except SystemExit: pass\n"
        "heavy = ('taube.client', 'taube.server', 'asyncio', 'ssl', 'segno')\n"
        "print(sorted(m for m in sys.modules if m.startswith(heavy)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout.strip() == "[]"


def test_folders_come_from_options_then_environment_then_the_usual_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commands = pytest.importorskip("taube.commands")
    operate = pytest.importorskip("taube.operate")
    monkeypatch.setenv("TAUBE_HOME", str(tmp_path / "h"))
    monkeypatch.setenv("TAUBE_DATA", str(tmp_path / "d"))
    assert commands.home_folder(argparse.Namespace(home=Path("x"))) == Path("x")
    assert commands.home_folder(argparse.Namespace(home=None)) == tmp_path / "h"
    assert operate.data_folder(argparse.Namespace(data=Path("x"))) == Path("x")
    assert operate.data_folder(argparse.Namespace(data=None)) == tmp_path / "d"
    monkeypatch.delenv("TAUBE_HOME")
    monkeypatch.delenv("TAUBE_DATA")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert commands.home_folder(argparse.Namespace(home=None)) == tmp_path / "taube" / "home"
    assert operate.data_folder(argparse.Namespace(data=None)) == tmp_path / "taube" / "server"
    assert os.environ["XDG_DATA_HOME"]


def test_a_server_that_is_still_loading_ends_when_it_is_told_to() -> None:
    """Also as the first process of a container, which hears no signal that it has no handler for."""
    program = (
        "import os, signal, sys; from taube import cli, operate\n"
        "operate.run = lambda *_: os.kill(os.getpid(), signal.SIGTERM) or 1\n"
        "sys.exit(cli.main(['serve']))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 0
