"""The command line with a person at a terminal: questions, passphrases, Ctrl-C at any of them."""

import os
import pty
import select
import sys
import time
from pathlib import Path

from taube.testing import Person, Server, succeeded


def at_terminal(person: Person, *words: str, answers: list[tuple[str, str]]) -> tuple[int, str]:
    """Run a command at a terminal of its own and type each answer once its question stands there; (code, screen)."""
    process, terminal = pty.fork()
    if process == 0:
        command, *rest = words
        line = [sys.executable, "-m", "taube", command, "--home", str(person.home), *rest]
        os.execve(sys.executable, line, person.environment | {"TERM": "xterm"})
    screen, left, deadline = b"", list(answers), time.monotonic() + 60
    waiting = select.poll()  # select() knows only the first 1,024 descriptors of a process
    waiting.register(terminal, select.POLLIN)
    while time.monotonic() < deadline:
        if not waiting.poll(1_000):
            continue
        try:
            part = os.read(terminal, 4096)
        except OSError:
            break
        if not part:
            break
        screen += part
        if left and left[0][0].encode() in screen:
            time.sleep(0.1)  # the prompt is written just before the terminal stops echoing
            os.write(terminal, left.pop(0)[1].encode())
            screen = b"" if left else screen
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), screen.decode(errors="replace")


def test_a_passphrase_is_asked_for_and_never_shown(taube_server: Server) -> None:
    pia = taube_server.person("pia", join=False)
    typed = [("New passphrase:", "horse\n"), ("The same again:", "horse\n")]
    code, screen = at_terminal(pia, "join", taube_server.invite(), "--name", "Pia", "--passphrase", answers=typed)
    assert code == 0 and "horse" not in screen
    assert not (pia.home / "key").exists()

    code, screen = at_terminal(pia, "me", answers=[("Passphrase:", "horse\n")])
    assert code == 0 and "Pia" in screen and "▀" in screen and "horse" not in screen
    code, screen = at_terminal(pia, "me", answers=[("Passphrase:", "mouse\n")])
    assert code == 77 and "nothing was changed" in screen
    assert at_terminal(pia, "me", answers=[("Passphrase:", "\x03")])[0] == 130

    asked = [("Passphrase:", "horse\n"), ("Type its name:", "Mia\n")]
    code, screen = at_terminal(pia, "delete-account", answers=asked)
    assert code == 64 and "Nothing was deleted." in screen
    asked = [("Passphrase:", "horse\n"), ("Type its name:", "Pia\n")]
    assert at_terminal(pia, "delete-account", answers=asked)[0] == 0
    assert pia.run("me").code == 66


def test_a_text_is_typed_and_ctrl_c_sends_nothing(alice: Person, bob: Person) -> None:
    assert at_terminal(alice, "send", bob.name, answers=[("Ctrl-D ends it.", "\x03")])[0] == 130
    assert at_terminal(alice, "send", bob.name, answers=[("Ctrl-D ends it.", "by hand\n\x04")])[0] == 0
    assert [record["text"] for record in bob.read()] == ["by hand"]


def test_whoever_is_shown_a_file_is_told_how_to_save_it(alice: Person, bob: Person, tmp_path: Path) -> None:
    for name in ("one.bin", "two.bin"):
        (tmp_path / name).write_bytes(b"something")
        succeeded(alice.run("send", bob.name, "--file", str(tmp_path / name)))
    code, screen = at_terminal(bob, "read", answers=[])
    assert code == 0 and screen.count("--save DIR") == 1
    code, screen = at_terminal(bob, "read", "--save", str(tmp_path), answers=[])
    assert code == 0 and "Nothing new came" in screen and "--again N" in screen
    assert "--again N" not in bob.run("read").err, "a script is told nothing"
