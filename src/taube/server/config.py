"""Assembles the frozen config slices that live beside the code they rule, and names the errors an operator can act on.

Each setting is a field with its unit in its name and a docstring beside it; docs/operating.md is generated from them.
"""

import dataclasses
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

from taube.exits import EX_CONFIG, EX_NOINPUT
from taube.server.gateway.connection import ConnectionConfig
from taube.server.gateway.listener import ListenerConfig
from taube.server.limits import LimitSettings
from taube.server.services.blobs import BlobSettings
from taube.server.services.mailboxes import MailboxSettings
from taube.server.services.push import PushSettings
from taube.server.stores.sqlite import SqliteSettings
from taube.wire.errors import TaubeError
from taube.wire.messages import MAX_FRAME_BYTES

T = TypeVar("T")

MOST: Final = 2**53
"""No setting is a larger number, but those in MOSTS."""
MOST_S: Final = 2**31 - 1
"""No time in seconds is longer: four of them together (`drain`) are just what a thread can wait."""
LEAST_SPREAD_MS: Final = 200
"""How soon a client may be asked to come back to a server that goes."""
MOSTS: Final = {
    "blobs.days": 45,
    "drain.spread_ms": 3_600_000,
    "listener.frame_buffer_bytes": 2**20,
    "listener.head_bytes": 2**20,
    "mailboxes.storage_retry_ms": 3_600_000,
    "push.at_once": 1_000,
    "push.allow_private": 1,
    "push.tries": 1_000,
    "sqlite.busy_timeout_ms": 2**31 - 1,
    "sqlite.cache_kib": 2**31 - 1,
    "sqlite.checkpoint_pages": 2**31 - 1,
}
LEASTS: Final = {
    "blobs.days": 2,
    "connection.waiting_bytes": 2 * MAX_FRAME_BYTES,
    "drain.spread_ms": LEAST_SPREAD_MS,
    "listener.frame_buffer_bytes": 128,
    "listener.head_bytes": 1024,
    "mailboxes.capacity_bytes": 2**20,
}
MAY_BE_ZERO: Final = {
    "unused_months",
    "blobs.total_bytes",
    "blobs.keep_free_bytes",
    "blobs.transfers",
    "drain.goodbye_s",
    "mailboxes.patience_s",
    "mailboxes.live_bytes",
    "push.again_s",
    "push.allow_private",
    "push.connected_s",
    "push.remembered",
    "push.ttl_s",
    "sqlite.delete_pause_s",
}
"""Settings for which nothing is something; a server with any other at 0 would serve nobody."""

AT_MOST: Final = {
    "connection.device_ping_s": "connection.device_idle_s",
    "blobs.blob_bytes": "blobs.total_bytes",
}
"""Settings that are no larger than another one, unless that is 0: the two would contradict each other."""


class OperatorError(TaubeError):
    """Something that the person who runs the server can put right: one sentence that says how, and an exit code."""

    def __init__(self, sentence: str, exit_code: int = EX_CONFIG) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class DrainConfig:
    """How a server goes."""

    spread_ms: int = 5_000
    """Clients are asked to come back after a time up to this, 200 to an hour, so that they do not all come at once."""
    goodbye_s: float = 2.0
    """How long clients have to acknowledge and to close by themselves."""
    flush_s: float = 10.0
    """How long storage may take to finish what it was given."""

    @property
    def most_s(self) -> float:
        """How long it takes at most: until clients went by themselves, were closed, blobs under way ended; storage."""
        return 3 * self.goodbye_s + self.flush_s


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything that rules a server, by slice."""

    mailboxes: MailboxSettings = field(default_factory=MailboxSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    sqlite: SqliteSettings = field(default_factory=SqliteSettings)
    listener: ListenerConfig = field(default_factory=ListenerConfig)
    connection: ConnectionConfig = field(default_factory=ConnectionConfig)
    push: PushSettings = field(default_factory=PushSettings)
    drain: DrainConfig = field(default_factory=DrainConfig)
    blobs: BlobSettings = field(default_factory=BlobSettings)
    unused_months: int = 12
    """Accounts that were not used for so many months are forgotten; 0 keeps them."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line says about a server to run (see `taube serve --help`)."""

    data: Path
    listen: str = "127.0.0.1:8080"
    url: str | None = None
    change_url: bool = False
    ops: str = "127.0.0.1:0"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    config: Path | None = None


def read_config(path: Path | None) -> ServerConfig:
    """The settings in a TOML file over the defaults: a table for each slice, `unused_months` at the top.

    Raises OperatorError for a file that cannot be read, a setting that there is not, a value of the wrong kind, and
    settings that contradict each other.
    """
    if path is None:
        return ServerConfig()
    try:
        given = tomllib.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise OperatorError(f"There is no file {path}.", EX_NOINPUT) from error
    except IsADirectoryError as error:
        raise OperatorError(f"{path} is not a file: name the TOML file itself.", EX_NOINPUT) from error
    except PermissionError as error:
        raise OperatorError(f"{path} cannot be read by this user.", EX_NOINPUT) from error
    except OSError as error:
        raise OperatorError(f"{path} cannot be read ({(error.strerror or '').lower()}).", EX_NOINPUT) from error
    except (ValueError, RecursionError) as error:
        raise OperatorError(f"{path} cannot be read as TOML: {error}.", EX_CONFIG) from error
    config = _set(ServerConfig(), given, "", path)
    values = dict(_settings(config, ""))
    for smaller, larger in AT_MOST.items():
        if values[smaller] > values[larger] > 0:
            raise OperatorError(
                f"{path}: “{smaller}” ({values[smaller]}) may be no more than “{larger}” ({values[larger]}): change"
                " one of the two.",
                EX_CONFIG,
            )
    return config


def _settings(config: object, within: str) -> Iterator[tuple[str, Any]]:
    """Each setting by its whole name, and its value."""
    for each in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, each.name)
        if dataclasses.is_dataclass(value):
            yield from _settings(value, f"{within}{each.name}.")
        elif not isinstance(value, tuple):
            yield f"{within}{each.name}", value


def _no_setting(name: str, path: Path) -> OperatorError:
    """There is no setting *name*; perhaps one that is like it is meant."""
    known = [each for each, _ in _settings(ServerConfig(), "")]
    tables = {each.partition(".")[0] for each in known if "." in each}
    own = name.rpartition(".")[2]
    like = [each for each in known if each.rpartition(".")[2] == own] or get_close_matches(name, [*known, *tables], 1)
    hint = f"; did you mean “{like[0]}”?" if like else "."
    return OperatorError(f"{path}: there is no setting “{name}”{hint}", EX_CONFIG)


def is_time(name: str) -> bool:
    """Whether the setting *name* is a time in seconds; a rate is none."""
    return name.endswith("_s") and not name.endswith("_per_s")


def _number(value: object, default: int | float, name: str, path: Path) -> int | float:
    """*value* for the setting *name*, of the default's kind. Raises OperatorError if it is none, or out of bounds."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OperatorError(f"{path}: “{name}” has to be a number, such as {default}.", EX_CONFIG)
    if not 0 <= value <= MOST:
        raise OperatorError(f"{path}: “{name}” has to be a number from 0 to {MOST}, such as {default}.", EX_CONFIG)
    if isinstance(default, int) and value != int(value):
        raise OperatorError(f"{path}: “{name}” has to be a whole number, such as {default}.", EX_CONFIG)
    number = int(value) if isinstance(default, int) else float(value)
    if number == 0 and name not in MAY_BE_ZERO:
        raise OperatorError(f"{path}: “{name}” has to be more than 0, such as {default}.", EX_CONFIG)
    least, most = LEASTS.get(name, 0), MOSTS.get(name, MOST_S if is_time(name) else MOST)
    if not least <= number <= most:
        raise OperatorError(f"{path}: “{name}” has to be between {least} and {most}, such as {default}.", EX_CONFIG)
    return number


def _set(config: T, given: dict[str, Any], within: str, path: Path) -> T:
    """*config* with the given fields replaced; a table goes into the slice of its name."""
    changes: dict[str, Any] = {}
    known = {each.name: getattr(config, each.name) for each in dataclasses.fields(config)}  # type: ignore[arg-type]
    for name, value in given.items():
        default = known.get(name)
        if name not in known or isinstance(default, tuple):
            raise _no_setting(f"{within}{name}", path)
        if dataclasses.is_dataclass(default):
            if not isinstance(value, dict):
                raise OperatorError(f"{path}: “{within}{name}” is a table of settings.", EX_CONFIG)
            changes[name] = _set(default, value, f"{within}{name}.", path)
        else:
            assert isinstance(default, int | float)
            changes[name] = _number(value, default, f"{within}{name}", path)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]
