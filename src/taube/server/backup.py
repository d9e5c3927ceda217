"""Backup and restore of a data folder: one file that holds everything, made while the server runs.

A backup is a copy of the database at one moment, with the origin in it, readable by its owner only: it holds the
server's keys. It is checked before it gets its name, and never takes the place of another file.

A restore needs the folder for itself. It prepares the new database beside the old one, checks it, gives it a new
generation (so that clients claim again the gates that the backup has forgotten), and takes over from the database that
it replaces the address keys and the clock, if that can still be read. Naming it `taube.db.restored` is the moment of
decision: from then on `finish` puts it in its place, at once, or at the next start if the machine stopped in between.
What was there before is moved aside, never deleted.

Source: docs/operating.md, "Backup and restore"; docs/protocol/delivery.md, GAT-05.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from taube.exits import EX_CANTCREAT, EX_DATAERR, EX_IOERR, EX_NOINPUT
from taube.server import folder
from taube.server.config import OperatorError
from taube.server.ports import StoreUnusable
from taube.server.services import identity
from taube.server.stores import sqlite

DATABASE: Final = "taube.db"
RESTORED: Final = "taube.db.restored"
ORIGIN: Final = "origin"
_FILES: Final = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm")


def make(data: Path, file: Path) -> int:
    """Write a checked backup of *data* to *file*, which must not be there yet; gives its size in bytes.

    The server may be running, and is not held up. Raises OperatorError.
    """
    if not (data / DATABASE).is_file():
        raise OperatorError(f"There is no server in {data}: name its folder with --data.", EX_NOINPUT)
    with _new_file(file) as draft:
        try:
            sqlite.copy(data / DATABASE, draft, {ORIGIN: (folder.kept_origin(data) or "").encode()})
            examined = sqlite.examine(draft)
        except StoreUnusable as error:
            raise OperatorError(f"No backup was made. {_name(str(error), draft, file)}", EX_IOERR) from error
    return examined.size_bytes


def restore(data: Path, file: Path) -> Path | None:
    """Make *data* what the backup *file* holds; gives the folder into which what was there before was moved, if any.

    Raises OperatorError, and has then changed nothing: if a server runs on *data*, if *file* is no sound backup, if it
    is one of another server than *data*.
    """
    if not file.is_file():
        raise OperatorError(folder.no_file(file), EX_NOINPUT)
    folder.prepare(data)
    holding = folder.hold(data)
    try:
        _give(data / "lock", data)
        finish(data)
        _prepare(data, file)
        return finish(data)
    finally:
        os.close(holding)


def finish(data: Path) -> Path | None:
    """Put a database that a restore has prepared in its place; gives where the old one went, None if there was none.

    Does nothing if there is none prepared. Whoever calls it holds the folder.
    """
    restored = data / RESTORED
    if not restored.exists():
        return None
    seconds, rest = divmod(restored.stat().st_mtime_ns, 1_000_000_000)  # of the file: the same after an interruption
    aside = data / f"replaced-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{rest:09d}Z"
    for name in _FILES:
        if (data / name).exists():
            aside.mkdir(mode=0o700, exist_ok=True)
            _give(aside, data)
            (data / name).replace(aside / name)
    _sync(data)
    restored.replace(data / DATABASE)
    _sync(data)
    return aside if aside.exists() else None


def _prepare(data: Path, file: Path) -> None:
    """Everything of a restore that can fail: afterwards `taube.db.restored` is whole and durable."""
    for left in data.glob(f".{RESTORED}.*"):  # of a restore that was killed
        left.unlink()
    handle, name = tempfile.mkstemp(prefix=f".{RESTORED}.", dir=data)
    os.close(handle)
    draft = Path(name)
    try:
        _give(draft, data)
        sqlite.copy(file, draft)
        sqlite.examine(draft)
        _check_facts(draft)
        origin = _origin_in(draft)
        _check_origin(data, file, origin)
        with sqlite.transaction(draft) as tables:
            with suppress(StoreUnusable):  # it may be damaged: that may be why there is a restore
                identity.carry_over(tables, _facts_replaced(data))
            identity.renew_generation(tables, os.urandom)
            tables.clear_marks()
        sqlite.join_log(draft)
        if origin and folder.kept_origin(data) is None:
            folder.keep(data, "origin", origin)
            _give(data / "origin", data)
        _sync(draft)
        draft.replace(data / RESTORED)
        _sync(data)
    except StoreUnusable as error:
        raise OperatorError(f"Nothing was restored. {_name(str(error), draft, file)}", EX_DATAERR) from error
    except OSError as error:
        raise OperatorError(f"Nothing was restored: {data} cannot be written ({error.strerror}).", EX_IOERR) from error
    finally:
        _remove(draft)


def _facts_replaced(data: Path) -> dict[str, bytes]:
    return sqlite.read_facts(data / DATABASE) if (data / DATABASE).is_file() else {}


def _check_facts(draft: Path) -> None:
    """Raises StoreUnusable."""
    wrong = identity.damage(sqlite.read_facts(draft))
    if wrong:
        raise StoreUnusable(f"{draft} is damaged ({wrong}).")


def _origin_in(draft: Path) -> str:
    """The origin of the server that was backed up; empty if it never had one. Raises StoreUnusable."""
    try:
        origin = sqlite.read_facts(draft).get(ORIGIN, b"").decode()
        if origin and folder.check_origin(origin) != origin:
            raise ValueError
    except (ValueError, OperatorError) as error:
        raise StoreUnusable(f"{draft} is damaged: the origin in it is none.") from error
    return origin


def _check_origin(data: Path, file: Path, origin: str) -> None:
    kept = folder.kept_origin(data)
    if origin and kept and origin != kept:
        raise OperatorError(
            f"{file} is a backup of {origin}, but {data} is the folder of {kept}: name an empty folder with --data.",
            EX_DATAERR,
        )


@contextmanager
def _new_file(file: Path) -> Iterator[Path]:
    """A draft beside *file*, 0600, that becomes *file* when the block ends well. Never takes the place of a file."""
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError as error:
        raise OperatorError(
            f"{file} is there already and was not overwritten: choose another name.", EX_CANTCREAT
        ) from error
    except OSError as error:
        raise OperatorError(f"{file} cannot be written ({error.strerror}).", EX_CANTCREAT) from error
    draft: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        os.close(handle)
        draft = Path(name)
        yield draft
        _sync(draft)
        draft.replace(file)
        _sync(file.parent)
    except BaseException as error:
        file.unlink(missing_ok=True)
        if draft is not None:
            _remove(draft)
        if isinstance(error, OSError):
            raise OperatorError(f"{file} cannot be written ({error.strerror}).", EX_CANTCREAT) from error
        raise


def _give(path: Path, data: Path) -> None:
    """What root makes in a folder belongs to the folder's owner, as whom the server runs."""
    if os.geteuid() == 0:
        owner = data.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def _remove(draft: Path) -> None:
    for left in (draft, *(Path(f"{draft}{end}") for end in ("-wal", "-shm", "-journal"))):
        left.unlink(missing_ok=True)


def _name(sentence: str, draft: Path, file: Path) -> str:
    """*sentence* about the file that the operator knows."""
    return sentence.replace(str(draft), str(file))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
