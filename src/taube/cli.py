"""The command line: parses what was typed, runs that one command, and ends with an exit code and at most one sentence.

The commands and their output are a contract for scripts (docs/sdk.md, "The command line"). Nothing that is not needed
is imported: a client command never loads the server, and `taube --help` loads neither. What the commands do stands in
`commands.py`; how text reaches a terminal in `terminal.py`.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from taube import __version__, shortage
from taube.exits import (
    EX_CANTCREAT,
    EX_CONFIG,
    EX_DATAERR,
    EX_IOERR,
    EX_NOINPUT,
    EX_NOPERM,
    EX_SOFTWARE,
    EX_TEMPFAIL,
    EX_UNAVAILABLE,
    EX_USAGE,
)
from taube.terminal import Terminal

Run = Callable[[argparse.Namespace, Terminal], int]
"""A command: (options, terminal) -> exit code."""

EX_INTERRUPTED: Final = 130
EX_BROKEN_PIPE: Final = 141

EPILOGUE: Final = """\
exit codes (as in sysexits.h):
   0  done; for send: the message is kept for its receiver
   1  for doctor: something has to be done
  64  the command was typed wrongly
  65  what was given is no good: a malformed link or text, a link of another server
  66  what was named does not exist: a chat, an account, a file
  69  the server refused, or cannot prove that it is the right one
  70  a bug in Taube
  73  something is already there and was not overwritten, or cannot be created
  74  a disk failed: it is full, read-only or damaged
  75  not now, but later: the server cannot be reached or asks to wait; a message waits here until it can be sent
  77  not permitted: a wrong passphrase, a used or expired invitation, a device that was replaced
  78  the configuration or the home folder does not fit this version
 130  interrupted from the keyboard

environment:
  TAUBE_HOME, TAUBE_DATA   folders instead of --home and --data
  TAUBE_PASSPHRASE_FILE    file whose first line is the passphrase of the home folder
  SSL_CERT_FILE            file of the certificate authorities to trust, instead of the system's
  NO_COLOR                 no colours
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser that answers mistakes with one sentence and exit code 64, and takes no shortened options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            from difflib import get_close_matches

            near = get_close_matches(str(value), [str(choice) for choice in action.choices], 1)
            meant = f" (did you mean “{near[0]}”?)" if near else ""
            raise argparse.ArgumentError(None, f"there is no command “{value}”{meant}")

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument (\S+): ", r"\1 ", message)
        if message.startswith("unrecognized arguments: -"):
            message += " (put -- before a text that starts with a dash)"
        self.exit(EX_USAGE, f"taube: {message}; see `{self.prog} --help`.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. The entry point of the `taube` script."""
    terminal = Terminal()
    try:
        try:
            return run(parse(arguments), terminal)
        finally:  # also behind --help, which leaves by SystemExit
            terminal.out.flush()
    except KeyboardInterrupt:
        return EX_INTERRUPTED
    except BrokenPipeError:
        _silence(sys.stdout)
        return EX_BROKEN_PIPE


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options in *arguments*. Ends the process with 64 for mistakes, 0 after `--help` and `--version`."""
    parser = _make_parser()
    options = parser.parse_args(_options_first(list(sys.argv[1:] if arguments is None else arguments)))
    if options.command is None:
        parser.print_help(sys.stderr)
        raise SystemExit(EX_USAGE)
    return options


def _options_first(arguments: list[str]) -> list[str]:
    """Of `send`, the options before the words: argparse gives up an optional word when an option stands before it."""
    if arguments[:1] != ["send"]:
        return arguments
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options, words = arguments[:1], list[str]()
    rest = iter(arguments[1:end])
    for argument in rest:
        if argument in ("--file", "--home"):
            options += [argument, *(value for value in [next(rest, None)] if value is not None)]
        else:
            (options if argument.startswith("-") and len(argument) > 1 else words).append(argument)
    return [*options, *words, *arguments[end:]]


def run(options: argparse.Namespace, terminal: Terminal) -> int:
    """Run the command in *options*; what went wrong for a reason becomes one sentence and its exit code."""
    command: Run = options.run
    try:
        return command(options, terminal)
    except Exception as error:
        sentence, code = explain(error)
        if code == EX_SOFTWARE and os.environ.get("TAUBE_DEBUG"):
            raise
        terminal.warn(sentence)
        return code


def explain(error: Exception) -> tuple[str, int]:
    """One sentence that says what to do, and the exit code, for anything that a command raised."""
    if isinstance(error, BrokenPipeError):
        raise error
    exit_code = getattr(error, "exit_code", None)
    if isinstance(exit_code, int):
        return str(getattr(error, "sentence", None) or error), exit_code
    refusal = getattr(error, "kind", None)
    if refusal is not None and hasattr(refusal, "meaning"):
        later = getattr(refusal.retry, "value", "") == "later"
        return f"The server refused: {refusal.meaning}", EX_TEMPFAIL if later else EX_UNAVAILABLE
    if hasattr(error, "retry"):  # TransportError: its text is the sentence
        return str(error), EX_UNAVAILABLE
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("taube"):
        return (
            f"The part of Taube that needs “{error.name}” is not installed: pip install 'taube[server]'.",
            EX_UNAVAILABLE,
        )
    if isinstance(error, OSError) and error.errno in shortage.FILES:
        return shortage.sentence(error.errno, ""), EX_CONFIG
    if isinstance(error, OSError) and error.errno in shortage.DISK:
        where = error.filename if error.filename is not None else "A file"
        return (
            f"{where} cannot be written ({(error.strerror or '').lower()}): make room or mend it, then try again.",
            EX_IOERR,
        )
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {(error.strerror or 'cannot be used').lower()}.", _code_of(error)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return "What was typed is not valid UTF-8: type it anew, or give the file or folder another name.", EX_DATAERR
    return f"A bug in Taube ({type(error).__name__}: {error}); with TAUBE_DEBUG=1 it shows where.", EX_SOFTWARE


def _code_of(error: OSError) -> int:
    if isinstance(error, FileNotFoundError):
        return EX_NOINPUT
    return EX_NOPERM if isinstance(error, PermissionError) else EX_CANTCREAT


# ---------------------------------------------------------------- the commands, each imported when it runs


def _client(name: str) -> Run:
    def command(options: argparse.Namespace, terminal: Terminal) -> int:
        from taube import commands

        return commands.run(name, options, terminal)

    return command


def _server(name: str) -> Run:
    def command(options: argparse.Namespace, terminal: Terminal) -> int:
        if name == "serve":
            _end_when_told()
        from taube import operate

        return operate.run(name, options, terminal)

    return command


def _end_when_told() -> None:
    """Until the server listens to it itself: the first process of a container hears no signal without a handler."""
    import signal

    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


def _make_parser() -> _Parser:
    parser = _Parser(
        prog="taube",
        description="Messages that only the two of you can read.",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"taube {__version__}")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", parser_class=_Parser)
    _add_client_commands(commands)
    _add_server_commands(commands)
    return parser


def _add(commands: Any, name: str, run: Run, about: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    parser.set_defaults(command=name, run=run)
    return parser


def _add_client_commands(commands: Any) -> None:
    def add(name: str, about: str) -> argparse.ArgumentParser:
        parser = _add(commands, name, _client(name), about)
        parser.add_argument("--home", type=Path, metavar="DIR", help="folder of the account (default: TAUBE_HOME)")
        return parser

    join = add("join", "make an account from an invitation; prints its id")
    join.add_argument("link", metavar="LINK")
    join.add_argument("--name", required=True, help="the name that your contacts see")
    join.add_argument("--passphrase", action="store_true", help="ask for a passphrase that protects the folder")

    me = add("me", "who you are, and the contact link that others add you by")
    me.add_argument("--json", action="store_true", help="one JSON object")
    me.add_argument("--knows", action="store_true", help="instead: everything that the server holds about you")

    contact = add("add", "start a chat from a contact link; prints the chat's name")
    contact.add_argument("link", metavar="CONTACT_LINK")

    chats = add("chats", "list the chats")
    chats.add_argument("--json", action="store_true", help="one JSON object per line")

    for name, about in (
        ("accept", "accept the chat of someone who wrote to you first"),
        ("block", "refuse everything from a chat from now on"),
        ("unblock", "block a chat no more; one that was never accepted is a request again"),
        ("verify", "show the safety number of a chat, to compare with the other person's"),
    ):
        add(name, about).add_argument("chat", metavar="CHAT", help="name or id of the chat")

    send = add("send", "send a text or a file; returns 0 once it is kept, 75 if it waits")
    send.add_argument("chat", metavar="CHAT", help="name or id of the chat")
    send.add_argument("text", metavar="TEXT", nargs="?", help="the text (default: what comes from standard input)")
    send.add_argument("--file", type=Path, metavar="PATH", help="a file or photo to send; TEXT is its caption")
    send.add_argument("--as-is", action="store_true", help="do not take out where and when a photo was taken")

    read = add("read", "print new messages, each one once")
    read.add_argument("chat", metavar="CHAT", nargs="?", help="name or id of a chat (default: all)")
    read.add_argument("--json", action="store_true", help="one JSON object per line")
    read.add_argument("--save", type=Path, metavar="DIR", help="save the files that came, without replacing any")
    read.add_argument(
        "--again", type=_count, metavar="N", help="instead: the newest N that came, also those printed before"
    )
    read.add_argument("--follow", action="store_true", help="go on until interrupted")
    read.add_argument("--wait", type=_seconds, default=0.0, metavar="SECONDS", help="wait so long for a first message")

    delete = add("delete-account", "delete the account, on the server and here")
    delete.add_argument("--yes", action="store_true", help="do not ask")


def _add_server_commands(commands: Any) -> None:
    def add_data(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the server (default: TAUBE_DATA)")

    serve = _add(commands, "serve", _server("serve"), "run a server; prints `ready URL` once it accepts")
    add_data(serve)
    serve.add_argument("--listen", metavar="HOST:PORT", help="where to listen")
    serve.add_argument("--url", metavar="ORIGIN", help="the origin that links, addresses and logins name")
    serve.add_argument(
        "--change-url", action="store_true", help="take another --url than before, and cut off the accounts there are"
    )
    serve.add_argument("--ops", metavar="HOST:PORT", help="health and metrics, on loopback (default: a free port)")
    serve.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM")
    serve.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    serve.add_argument("--config", type=Path, metavar="FILE", help="settings, TOML")

    admin = _add(commands, "admin", _server("admin"), "what an operator does")
    actions = admin.add_subparsers(
        metavar="ACTION", title="actions", dest="action", required=True, parser_class=_Parser
    )
    invite = actions.add_parser("invite", help="make an invitation; prints its link")
    invite.add_argument("--uses", type=_count, default=1, metavar="N", help="accounts it may make (default: 1)")
    invite.add_argument("--days", type=_count, default=7, metavar="N", help="days until it expires (default: 7)")
    revoke = actions.add_parser("revoke", help="end an invitation")
    revoke.add_argument("link", metavar="LINK")
    remove = actions.add_parser("remove", help="remove an account and everything of it")
    remove.add_argument("account", metavar="ACCOUNT")
    knows = actions.add_parser("knows", help="everything that the server holds about an account")
    knows.add_argument("account", metavar="ACCOUNT")
    rotate = actions.add_parser("rotate-keys", help="seal addresses with a new key; those given out go on opening")
    backup = actions.add_parser("backup", help="write a checked backup of everything, while the server runs")
    backup.add_argument("file", type=Path, metavar="FILE", help="a new file; it holds the server's keys")
    restore = actions.add_parser("restore", help="become what a backup holds; the server must be stopped")
    restore.add_argument("file", type=Path, metavar="FILE")
    for parser in (invite, revoke, remove, knows, rotate, backup, restore):
        add_data(parser)

    doctor = _add(commands, "doctor", _server("doctor"), "look for trouble, and say what to do; 1 if something must be")
    add_data(doctor)
    doctor.add_argument("--json", action="store_true", help="one JSON object per finding")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (value := float(text)) <= 86_400 * 365:
            return value
    raise argparse.ArgumentTypeError("has to be a number of seconds, such as 10")


def _count(text: str) -> int:
    """A whole number; how large it may be is said by whoever counts."""
    with suppress(ValueError):
        return int(text)
    raise argparse.ArgumentTypeError("has to be a whole number, such as 10")


def _silence(stream: Any) -> None:
    """Point *stream* at nothing, so that the interpreter does not complain when it flushes it at the end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
