"""What lies in the data folder beside the database: who holds it, the server's origin, where the ops port is.

    DIR/lock     held by the running server (flock); never deleted
    DIR/origin   the origin that links, addresses and logins name
    DIR/ops      URL of health and metrics of the running server
    DIR/served   the options of the last start, for `taube doctor`
    DIR/blobs    sealed files that people sent, until their days are over

It knows no table. Source: docs/operating.md, "The data folder".
"""

import fcntl
import ipaddress
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from taube import shortage
from taube.exits import EX_CANTCREAT, EX_CONFIG, EX_IOERR, EX_TEMPFAIL, EX_USAGE
from taube.server.config import OperatorError

SERVED: Final = "served"
BLOBS: Final = "blobs"
MAX_HOST: Final = 253
_LABEL: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.ASCII | re.IGNORECASE)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII | re.IGNORECASE)
"""The last label of what browsers take for an IPv4 address."""


def no_file(path: Path) -> str:
    """The sentence for a path that is no file."""
    return f"{path} is not a file." if path.exists() else f"There is no file {path}."


def prepare(folder: Path) -> None:
    """Make the data folder if there is none, for its owner only. Raises OperatorError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError
    except OSError as error:
        sentence = (
            f"The data folder {folder} cannot be written: choose another with --data, or give this user the right."
        )
        raise _unwritable(error, folder, sentence) from error


def openness(folder: Path) -> str:
    """The sentence about a folder that lets others in; empty if it is its owner's only."""
    if not folder.stat().st_mode & 0o077:
        return ""
    return f"Others can look into {folder}, which holds keys: chmod 700 {folder}"


def hold(folder: Path) -> int:
    """Take the folder for this process; gives the descriptor that holds it. Raises OperatorError if another has it."""
    path = folder / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(error, path, f"The file {path} cannot be written: check who owns it.") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise OperatorError(
            f"Another server is running on the data folder {folder}: stop it first, or choose another with --data.",
            EX_TEMPFAIL,
        ) from error
    return descriptor


def is_held(folder: Path) -> bool:
    """Whether a server is running on this folder."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_loopback(host: str) -> bool:
    """Whether *host* is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_origin(text: str, kept: str | None = None) -> str:
    """*text* as an origin: `https://host[:port]`, or `http://` on loopback. Raises OperatorError.

    The one that was *kept* is taken without a look at its host, even if it would be refused today.
    """
    try:
        parts = urlsplit(text.strip().rstrip("/"))
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    is_bare = not (parts.path or parts.query or parts.fragment or parts.username)
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    name = f"[{host}]" if ":" in host else host
    default = 443 if parts.scheme == "https" else 80
    origin = f"{parts.scheme}://{name}" + (f":{port}" if port is not None and port != default else "")
    is_whole = f"{parts.netloc.lower()}:".startswith(f"{name}:")
    is_possible = is_host(host) and port != 0 and is_whole
    if not is_bare or not host or not is_safe or not (is_possible or origin == kept):
        raise OperatorError(
            "--url has to be https://HOST or https://HOST:PORT (http:// only on this machine itself), where HOST is an"
            " IP address, or a name of letters a to z, digits and hyphens between dots (one with other letters in its"
            " form with xn--).",
            EX_USAGE,
        )
    return origin


def is_host(host: str) -> bool:
    """Whether clients can look for *host*: an IP address, or a name as DNS and certificates have them."""
    labels = host.split(".")
    if ":" in host or _NUMBER.fullmatch(labels[-1]):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return "%" not in host
    return len(host) <= MAX_HOST and all(_LABEL.fullmatch(each) for each in labels)


def host_of(origin: str) -> str:
    """The host in *origin*; empty if it is none that clients can look for."""
    try:
        host = urlsplit(origin).hostname or ""
    except ValueError:
        return ""
    return host if is_host(host) else ""


def oddness(origin: str) -> str:
    """The sentence about an origin by which clients may not find the server; empty if there is nothing to say."""
    if host_of(origin):
        return ""
    return f"Clients may not find this server: the host in {origin} is no name as DNS and certificates have them."


def kept_origin(folder: Path) -> str | None:
    """The origin that this folder's server has gone by, None if it never ran. Raises OperatorError if it is damaged."""
    path = folder / "origin"
    try:
        return path.read_text().strip() or None
    except OSError:
        return None
    except UnicodeDecodeError as error:
        raise OperatorError(f"{path} is damaged: write into it the URL by which clients know this server.") from error


def keep(folder: Path, name: str, text: str) -> None:
    """Write a one-line file whole or not at all, durably, for its owner only."""
    path, draft = folder / name, folder / f"{name}.new"
    try:
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise _unwritable(error, path, f"The file {path} cannot be written: check who owns it.") from error


def _unwritable(error: OSError, path: Path, otherwise: str) -> OperatorError:
    """What is short, if that is why; else the sentence *otherwise*."""
    short = shortage.sentence(error.errno, path)
    if error.errno in shortage.ROOM:
        return OperatorError(short, EX_IOERR)
    return OperatorError(short, EX_CONFIG) if short else OperatorError(otherwise, EX_CANTCREAT)


def forget(folder: Path, name: str) -> None:
    with suppress(OSError):
        (folder / name).unlink()
