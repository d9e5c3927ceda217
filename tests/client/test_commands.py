"""What the client commands print, against an account made of plain values."""

import argparse
import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from taube import cli
from taube.client.errors import DeviceReplaced, TryLater
from taube.client.events import Message
from taube.terminal import Progress, Terminal
from tests.spec import spec

commands = pytest.importorskip("taube.commands")

EVIL = "\x1b[2Jmallory\u202e\nbob"


class FakeChat(SimpleNamespace):
    async def send_text(self, text: str) -> str:
        self.account.sent.append((self.name, text))
        return "message"

    async def verify(self) -> str:
        return "0123456789" * 6

    async def accept(self) -> None:
        self.state = "open"

    async def block(self) -> None:
        self.state = "blocked"

    async def unblock(self) -> None:
        self.state = "request"


class FakeAccount:
    """Two chats, two messages, and whatever state a test wants a sent message to reach."""

    id, name, server = "ab" * 32, "bob", "https://chat.example"
    settles_as = "kept"
    last_problem = ""
    problem: Exception | None = None
    delay = ""
    caught_up = True
    is_new_device = False
    deleted = False

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        common: dict[str, Any] = {"kind": "pair", "queued": 0, "is_waiting": False, "account": self}
        self.all = [
            FakeChat(id="11" * 16, name="alice", state="open", unread=2, last_at_ms=1_790_000_000_123, **common),
            FakeChat(id="22" * 16, name=EVIL, state="request", unread=0, last_at_ms=0, **common),
        ]

    async def __aenter__(self) -> "FakeAccount":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def contact_link(self) -> str:
        return "https://chat.example/c#AAAA"

    def chats(self) -> list[FakeChat]:
        return self.all

    def chat(self, name: str) -> FakeChat:
        return next(chat for chat in self.all if name in (chat.name, chat.id))

    async def settle(self, message: object, timeout_s: float) -> str:
        return self.settles_as

    async def wait_settled(self, timeout_s: float) -> bool:
        return True

    async def delete(self) -> None:
        self.deleted = True

    async def synchronise(self, timeout_s: float) -> bool:
        return self.caught_up

    async def read(
        self, chat: object = None, *, wait_s: float = 0, follow: bool = False
    ) -> AsyncIterator[list[Message]]:
        time_ms = 1_790_000_000_123
        yield [Message("01" * 16, "11" * 16, "alice", "alice", time_ms, "text", "hello\nyou", "received")]
        yield [Message("02" * 16, "22" * 16, EVIL, EVIL, 2**53, "text", EVIL, "received")]


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeAccount:
    fake = FakeAccount()
    opener = SimpleNamespace(open=lambda folder, *, passphrase=None, live=True: fake)
    monkeypatch.setattr(commands, "Account", opener)
    monkeypatch.setenv("TAUBE_HOME", str(tmp_path))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    return fake


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(*words: str, stdin: str = "", tty: bool = False) -> tuple[int, str, str]:
    make = Screen if tty else io.StringIO
    terminal = Terminal(make(), make(), io.StringIO(stdin))
    code = cli.run(cli.parse(words), terminal)
    return code, terminal.out.getvalue(), terminal.err.getvalue()  # type: ignore[attr-defined]


def test_me_as_json_is_one_object(account: FakeAccount) -> None:
    code, out, err = run("me", "--json")
    assert (code, err) == (0, "")
    expected = {
        "id": "ab" * 32,
        "name": "bob",
        "server": "https://chat.example",
        "contact_link": account.contact_link(),
    }
    assert json.loads(out) == expected
    assert out.count("\n") == 1


def test_me_shows_a_code_on_a_terminal_only(account: FakeAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "▀" not in run("me")[1]
    assert "▀" in run("me", tty=True)[1]
    assert account.contact_link() in run("me")[1]


def test_chats_as_json_are_one_object_per_line(account: FakeAccount) -> None:
    lines = [json.loads(line) for line in run("chats", "--json")[1].splitlines()]
    assert lines == [
        {
            "chat": "11" * 16,
            "name": "alice",
            "kind": "pair",
            "state": "open",
            "unread": 2,
            "last_at": "2026-09-21T14:13:20.123Z",
        },
        {"chat": "22" * 16, "name": EVIL, "kind": "pair", "state": "request", "unread": 0, "last_at": None},
    ]


def test_read_as_json_is_one_object_per_line(account: FakeAccount) -> None:
    lines = [json.loads(line) for line in run("read", "--json")[1].splitlines()]
    assert lines[0] == {
        "id": "01" * 16,
        "chat": "11" * 16,
        "from": "alice",
        "sent_at": "2026-09-21T14:13:20.123Z",
        "kind": "text",
        "text": "hello\nyou",
    }
    assert lines[1]["text"] == EVIL and lines[1]["sent_at"] == "9999-12-31T00:00:00.000Z"


@spec("CNT-04", "CNT-10", "CNT-14")
@pytest.mark.parametrize("command", [["read"], ["read", "--json"], ["chats"], ["chats", "--json"]])
@pytest.mark.parametrize("tty", [False, True])
def test_a_strangers_words_cannot_steer_the_terminal(
    account: FakeAccount, command: list[str], tty: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = run(*command, tty=tty)[1]
    assert "\x1b" not in out and "\u202e" not in out and "mallory" in out
    assert not any(line.startswith("bob") for line in out.splitlines())


def test_read_says_when_the_mailbox_could_not_be_looked_into(account: FakeAccount) -> None:
    account.caught_up, account.problem = False, TryLater("The server cannot be reached.")
    code, out, err = run("read")
    assert (code, err) == (75, "taube: The server cannot be reached.\n") and "hello" in out


def test_a_text_of_several_lines_is_indented_for_people(account: FakeAccount) -> None:
    assert run("read")[1].splitlines()[:2] == ["2026-09-21 14:13  alice  hello", "    you"]


def test_send_takes_its_text_from_the_line_or_from_standard_input(account: FakeAccount) -> None:
    assert run("send", "alice", "hello") == (0, "", "")
    assert run("send", "alice", stdin="one\ntwo\n") == (0, "", "")
    assert account.sent == [("alice", "hello"), ("alice", "one\ntwo")]


@pytest.mark.parametrize("state", ["kept", "delivered", "read"])
def test_send_is_done_once_it_is_kept(account: FakeAccount, state: str) -> None:
    account.settles_as = state
    assert run("send", "alice", "x")[0] == 0


def test_send_says_when_it_could_only_be_queued(account: FakeAccount) -> None:
    account.settles_as = "queued"
    code, out, err = run("send", "alice", "x")
    assert (code, out) == (75, "") and "queued" in err and err.count("\n") == 1


def test_send_says_what_becomes_of_a_message_that_nobody_lets_in(account: FakeAccount) -> None:
    account.settles_as = "failed"
    code, out, err = run("send", "alice", "x")
    assert (code, out) == (75, "") and err.count("\n") == 1
    assert "may not use this account any more" in err and "kept here" in err
    assert "lets you in" not in err  # nobody is told that they were blocked, and a deleted account lets nobody in


def test_send_ends_with_77_on_a_device_that_was_replaced(account: FakeAccount) -> None:
    account.settles_as, account.problem = "failed", DeviceReplaced("Another copy took over.")
    assert run("send", "alice", "x") == (77, "", "taube: Another copy took over.\n")


def test_send_says_that_the_other_device_has_to_let_this_one_in(account: FakeAccount) -> None:
    account.settles_as, account.all[0].is_waiting = "queued", True
    code, out, err = run("send", "alice", "x")
    assert (code, out) == (75, "") and "alice’s device" in err and err.count("\n") == 1


def test_the_first_run_of_a_copy_says_what_it_does(account: FakeAccount) -> None:
    account.is_new_device = True
    code, out, err = run("me", "--json")
    assert code == 0 and out.count("\n") == 1 and "the original ends" in err and err.count("\n") == 1


def test_nothing_is_deleted_where_nobody_can_be_asked(account: FakeAccount) -> None:
    code, out, err = run("delete-account")
    assert (code, out, account.deleted) == (64, "", False) and "--yes" in err
    assert run("delete-account", "--yes") == (0, "", "") and account.deleted


def test_chats_tell_what_waits_and_what_to_do_when_there_are_none(account: FakeAccount) -> None:
    account.all[0].queued = 1
    assert "2 unread  1 queued" in run("chats")[1]
    account.all = []
    assert run("chats") == (0, "", "")
    assert "No chats yet" in run("chats", tty=True)[2]


def test_one_who_follows_is_told_how_to_end_it(account: FakeAccount) -> None:
    assert run("read", "--follow")[2] == ""
    assert "Ctrl-C" in run("read", "--follow", tty=True)[2]


def test_a_passphrase_that_is_not_needed_is_pointed_out(
    account: FakeAccount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_bytes(b"")
    monkeypatch.setenv("TAUBE_PASSPHRASE_FILE", str(tmp_path / "none"))
    assert run("me")[2] == ""
    assert "no passphrase" in run("me", tty=True)[2]


@pytest.mark.parametrize("tty", [False, True])
def test_send_says_what_it_waits_for_when_the_server_keeps_nothing(
    account: FakeAccount, monkeypatch: pytest.MonkeyPatch, tty: bool
) -> None:
    told = asyncio.Event()
    tell = Progress.tell

    def telling(self: Progress, sentence: str) -> None:
        tell(self, sentence)
        told.set()

    async def settle(message: object, timeout_s: float) -> str:
        account.delay = "The server cannot keep messages at the moment."
        await asyncio.wait_for(told.wait(), 60)
        return "queued"

    monkeypatch.setattr(Progress, "tell", telling)
    monkeypatch.setattr(commands, "TELL_AFTER_S", 0.0)
    monkeypatch.setattr(account, "settle", settle)
    code, out, err = run("send", "alice", "hello", tty=tty)
    assert (code, out) == (75, "")
    first, last = err.removesuffix("\n").split("\n")
    assert "taube: The server cannot keep messages at the moment. Waiting and trying again." in first
    assert "is queued" in last and last.endswith("The server cannot keep messages at the moment.")


def test_send_refuses_to_send_nothing(account: FakeAccount) -> None:
    for text in ("", "  \n"):
        assert run("send", "alice", stdin=text)[0] == 65
    assert run("send", "alice", "\udc80")[0] == 65
    assert account.sent == []


def test_a_terminal_of_another_encoding_gets_valid_json_and_readable_text(account: FakeAccount) -> None:
    account.all[0].name = "Åsa"
    for words, expected in ((["chats", "--json"], b'"name":"\\u00c5sa"'), (["chats"], b"?sa")):
        raw = io.BytesIO()
        terminal = Terminal(io.TextIOWrapper(raw, encoding="ascii"), io.StringIO(), io.StringIO())
        assert cli.run(cli.parse(words), terminal) == 0
        assert expected in raw.getvalue()


def test_bytes_that_are_no_text_are_refused(account: FakeAccount) -> None:
    terminal = Terminal(io.StringIO(), io.StringIO(), io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8"))
    assert cli.run(cli.parse(["send", "alice"]), terminal) == 65


def test_a_text_that_is_too_long_to_be_read_whole_is_not_counted(account: FakeAccount) -> None:
    code, _, err = run("send", "alice", stdin="x" * 1_000_000)
    assert code == 65 and err == "taube: A message has 1 to 16384 bytes of text; this one has more.\n"
    assert run("send", "alice", stdin="x" * 16_384 + "\n")[0] == 0


def test_a_file_of_a_passphrase_that_is_no_text_is_refused(
    account: FakeAccount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taube.db").write_bytes(b"")
    (tmp_path / "word").write_bytes(b"\xff\n")
    monkeypatch.setenv("TAUBE_PASSPHRASE_FILE", str(tmp_path / "word"))
    code, _, err = run("me")
    assert code == 65 and "word is not valid UTF-8" in err


def test_verify_prints_sixty_digits_in_groups(account: FakeAccount) -> None:
    code, out, _ = run("verify", "alice")
    assert code == 0
    assert out.splitlines() == ["01234 56789 01234 56789"] * 3


def test_accept_block_and_unblock_print_nothing_in_a_pipe(account: FakeAccount) -> None:
    assert run("accept", "alice") == (0, "", "")
    assert run("block", "alice") == (0, "", "")
    assert run("unblock", "alice") == (0, "", "")


def test_a_passphrase_is_only_asked_for_where_somebody_can_answer(
    account: FakeAccount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TAUBE_PASSPHRASE_FILE", raising=False)
    (tmp_path / "taube.db").write_bytes(b"")
    code, _, err = run("me")
    assert code == 77 and "TAUBE_PASSPHRASE_FILE" in err
    asked = Terminal(Screen(), Screen(), Screen())
    monkeypatch.setattr(asked, "ask_secret", lambda question: "horse")
    assert commands._passphrase(tmp_path, asked) == "horse"


def test_a_new_passphrase_is_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAUBE_PASSPHRASE_FILE", raising=False)
    asked = Terminal(Screen(), Screen(), Screen())
    answers = iter(["horse", "horse", "horse", "mouse"])
    monkeypatch.setattr(asked, "ask_secret", lambda question: next(answers))
    options = argparse.Namespace(passphrase=True)
    assert commands._new_passphrase(options, asked) == "horse"
    with pytest.raises(commands.UserError, match="differ"):
        commands._new_passphrase(options, asked)


def test_an_interrupted_command_is_quiet(account: FakeAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: object, **__: object) -> AsyncIterator[list[Message]]:
        raise KeyboardInterrupt
        yield []

    monkeypatch.setattr(account, "read", interrupted)
    assert cli.main(["read"]) == 130
    assert asyncio.new_event_loop().close() is None
