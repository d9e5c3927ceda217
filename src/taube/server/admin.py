"""What `taube admin` does on a data folder, while the server runs or not: invitations, removing an account, knowledge.

Each call is one durable transaction on the database; a running server notices within seconds that another process
wrote, and drops the connections of devices that are no more. An operator learns about an account exactly what the
account's own device is told, and no more. Source: docs/operating.md, "Administration".
"""

import base64
import binascii
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from taube.exits import EX_DATAERR, EX_NOINPUT, EX_USAGE
from taube.server import folder
from taube.server.config import OperatorError
from taube.server.gateway.dispatch import knows as all_known
from taube.server.ports import StoreUnusable, Tables
from taube.server.services import accounts, identity, registration
from taube.server.stores.sqlite import transaction
from taube.wire.errors import WireError
from taube.wire.messages import AccountId, Fact

MAX_USES: Final = 100_000
MAX_DAYS: Final = 3650


def invite(data: Path, *, uses: int = 1, days: int = 7) -> str:
    """A new invitation link for so many accounts within so many days. Raises OperatorError."""
    if not 1 <= uses <= MAX_USES:
        raise OperatorError(f"--uses has to be a whole number from 1 to {MAX_USES:,}.", EX_USAGE)
    if not 1 <= days <= MAX_DAYS:
        raise OperatorError(f"--days has to be a whole number from 1 to {MAX_DAYS:,}.", EX_USAGE)
    with _tables(data) as tables:
        origin = folder.kept_origin(data)
        if origin is None:
            raise _no_server(data)
        invitation = registration.invite(tables, uses, days, _now_ms(), os.urandom)
    return f"{origin}/i#{_text(invitation)}"


def revoke(data: Path, link: str) -> None:
    """End an invitation before its time. Raises OperatorError, also if there is none."""
    invitation = _invitation(data, link)
    with _tables(data) as tables:
        if not registration.revoke(tables, invitation):
            raise OperatorError("This server knows no such invitation: it may have been revoked before.", EX_DATAERR)


def remove(data: Path, account: str) -> None:
    """Forget an account and everything that belongs to it. Raises OperatorError."""
    wanted = _account(account)
    with _tables(data) as tables:
        try:
            accounts.delete(tables, wanted)
        except WireError as error:
            raise _no_account() from error


def knows(data: Path, account: str) -> list[Fact]:
    """Everything that the server holds about an account, by ledger entry. Raises OperatorError."""
    wanted = _account(account)
    with _tables(data) as tables:
        try:
            return all_known(tables, wanted)
        except WireError as error:
            raise _no_account() from error


def rotate_keys(data: Path) -> int:
    """Seal addresses with a new key from now on; gives how many keys open addresses. Raises OperatorError.

    A running server notices by itself; the key before goes on opening for 13 months.
    """
    with _tables(data) as tables:
        if tables.fact(identity.CURRENT_KEY) is None:
            raise _no_server(data)
        now_ms = identity.guarded_now(tables, _now_ms())
        try:
            identity.rotate(tables, os.urandom, now_ms)
        except LookupError as error:
            raise OperatorError("The key was rotated 256 times in 13 months: no more is possible now.") from error
        return len(identity.establish(tables, os.urandom, now_ms).address_keys)


@contextmanager
def _tables(data: Path) -> Iterator[Tables]:
    path = data / "taube.db"
    if not path.is_file():
        raise _no_server(data)
    try:
        with transaction(path) as tables:
            wrong = identity.damage(tables.facts(""))
            if wrong:
                raise OperatorError(f"{path} is damaged ({wrong}): restore a backup.")
            yield tables
    except StoreUnusable as error:
        raise OperatorError(str(error), error.exit_code) from error


def _no_server(data: Path) -> OperatorError:
    return OperatorError(
        f"There is no server in {data}: start it once with taube serve, or name its folder with --data.", EX_NOINPUT
    )


def _no_account() -> OperatorError:
    return OperatorError("This server has no such account.", EX_DATAERR)


def _invitation(data: Path, link: str) -> bytes:
    """The 16 bytes of an invitation link of this server."""
    origin, mark, secret = link.strip().partition("/i#")
    try:
        invitation = base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4))
    except (binascii.Error, ValueError):
        invitation = b""
    if not mark or len(invitation) != 16:
        raise OperatorError("That is no invitation link: it looks like https://example.org/i#…", EX_DATAERR)
    kept = folder.kept_origin(data)
    if kept is not None and origin != kept:
        raise OperatorError(f"That link is of another server: this one is {kept}.", EX_DATAERR)
    return invitation


def _account(text: str) -> AccountId:
    """An account id from its 64 hexadecimal digits."""
    try:
        account = bytes.fromhex(text.strip())
    except ValueError:
        account = b""
    if len(account) != 32:
        raise OperatorError("That is no account id: it has 64 digits, as `taube me` shows it.", EX_DATAERR)
    return AccountId(account)


def _text(secret: bytes) -> str:
    return base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


def _now_ms() -> int:
    return int(time.time() * 1000)
