"""Assembles the frozen config slices that live beside the code they rule, and names the errors an operator can act on.

Each setting is a field with its unit in its name and a docstring beside it; docs/operating.md is generated from them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from taube.server.limits import LimitSettings
from taube.server.services.mailboxes import MailboxSettings
from taube.server.stores.sqlite import SqliteSettings
from taube.wire.errors import TaubeError

EX_USAGE: Final = 64
EX_DATAERR: Final = 65
EX_NOINPUT: Final = 66
EX_UNAVAILABLE: Final = 69
EX_SOFTWARE: Final = 70
EX_CANTCREAT: Final = 73
EX_IOERR: Final = 74
EX_TEMPFAIL: Final = 75
EX_NOPERM: Final = 77
EX_CONFIG: Final = 78


class OperatorError(TaubeError):
    """Something that the person who runs the server can put right: one sentence that says how, and an exit code."""

    def __init__(self, sentence: str, exit_code: int = EX_CONFIG) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything that rules a server, by slice."""

    mailboxes: MailboxSettings = field(default_factory=MailboxSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    sqlite: SqliteSettings = field(default_factory=SqliteSettings)
    unused_months: int = 12
    """Accounts that were not used for so many months are forgotten; 0 keeps them."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line says about a server to run (see `taube serve --help`)."""

    data: Path
    listen: str = "127.0.0.1:8080"
    url: str | None = None
    ops: str = "127.0.0.1:0"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    config: Path | None = None
