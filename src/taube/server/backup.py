"""Backup and restore of a data folder: one file that holds everything, made while the server runs.

A backup is a copy of the database at one moment, with the origin in it, readable by its owner only: it holds the
server's keys. It is checked before it gets its name, and never takes the place of another file. Behind the last page,
where SQLite does not look, stands the SHA-256 of everything before; a fact in the database says that it has to be
there, so that a backup that lost its end is not taken for one of a version that wrote none.

A restore needs the folder for itself. It copies the backup beside the old database, byte for byte and without what
lies beside the backup, and checks by the digest what it has copied; from then on it looks at nothing else. It gives
the copy a new generation (so that clients claim again the gates that the backup has forgotten), and takes over from
the database that it replaces the address keys and the clock, if that can still be read. Naming it `taube.db.restored`
is the moment of decision: from then on `finish` puts it in its place, at once, or at the next start if the machine
stopped in between. What was there before is moved aside, never deleted.

Source: docs/operating.md, "Backup and restore"; docs/protocol/delivery.md, GAT-05.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from taube.exits import EX_CANTCREAT, EX_DATAERR, EX_IOERR, EX_NOINPUT
from taube.server import folder
from taube.server.config import OperatorError
from taube.server.ports import StoreUnusable
from taube.server.services import identity
from taube.server.stores import sqlite

DATABASE: Final = "taube.db"
RESTORED: Final = "taube.db.restored"
ORIGIN: Final = "origin"
DIGEST: Final = "backup digest"
"""The fact by which a backup says that its digest follows; empty in a database that is none."""
_DIGEST_HEAD: Final = b"SHA-256 of everything before this line: "
_DIGEST_BYTES: Final = len(_DIGEST_HEAD) + 64 + 1
_CHUNK: Final = 1024 * 1024
_FILES: Final = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm")


class Restored(NamedTuple):
    """What a restore did."""

    aside: Path | None
    """The folder into which what was there before was moved, if anything was."""
    is_verified: bool
    """Whether the backup carried a digest; those of older versions do not."""


def make(data: Path, file: Path) -> int:
    """Write a checked backup of *data* to *file*, which must not be there yet; gives its size in bytes.

    The server may be running, and is not held up. Raises OperatorError.
    """
    if not (data / DATABASE).is_file():
        raise OperatorError(f"There is no server in {data}: name its folder with --data.", EX_NOINPUT)
    with _new_file(file) as draft:
        try:
            facts = {ORIGIN: (folder.kept_origin(data) or "").encode(), DIGEST: b"SHA-256"}
            sqlite.copy(data / DATABASE, draft, facts)
            sqlite.examine(draft)
            _add_digest(draft)
        except StoreUnusable as error:
            raise OperatorError(f"No backup was made. {_name(str(error), draft, file)}", EX_IOERR) from error
    return file.stat().st_size


def restore(data: Path, file: Path) -> Restored:
    """Make *data* what the backup *file* holds.

    Raises OperatorError, and has then changed nothing that was there: if a server runs on *data*, if *file* is no sound
    backup, if it is one of another server than *data*.
    """
    if not file.is_file():
        raise OperatorError(folder.no_file(file), EX_NOINPUT)
    folder.prepare(data)
    holding = folder.hold(data)
    try:
        _give(data / "lock", data)
        finish(data)
        is_verified = _prepare(data, file)
        return Restored(finish(data), is_verified)
    finally:
        os.close(holding)


def finish(data: Path) -> Path | None:
    """Put a database that a restore has prepared in its place; gives where the old one went, None if there was none.

    If none is prepared, it only removes what a restore left that was killed. Whoever calls it holds the folder.
    """
    for left in data.glob(f".{RESTORED}.*"):
        with suppress(OSError):
            left.unlink()
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


def _add_digest(draft: Path) -> None:
    with draft.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with draft.open("ab") as file:
        file.write(_DIGEST_HEAD + digest.encode() + b"\n")


def _take(file: Path, draft: Path) -> bool:
    """Copy *file* into *draft*, all but its digest; whether it has one. Raises OperatorError if that is of another."""
    digest, end = hashlib.sha256(), b""
    with draft.open("wb") as copy:
        for part in _parts(file):
            end += part
            body, end = end[:-_DIGEST_BYTES], end[-_DIGEST_BYTES:]
            digest.update(body)
            copy.write(body)
        if not end.startswith(_DIGEST_HEAD):
            copy.write(end)
            return False
    if end != _DIGEST_HEAD + digest.hexdigest().encode() + b"\n":
        raise _not_as_made(file)
    return True


def _parts(file: Path) -> Iterator[bytes]:
    """What is in *file*, piece by piece. Raises OperatorError."""
    try:
        with file.open("rb") as backup:
            while part := backup.read(_CHUNK):
                yield part
    except OSError as error:
        raise OperatorError(f"{file} cannot be read ({(error.strerror or '').lower()}).", EX_NOINPUT) from error


def _check_alone(file: Path) -> None:
    """Raises OperatorError if a log lies beside *file*, which nothing says whether it belongs to it."""
    if logs := sqlite.logs_of(file):
        raise OperatorError(
            f"Nothing was restored. {logs[0]} lies beside {file}, and a backup is one file: if both are a copy of a"
            " server's, name their folder with --data and make a backup of it; if not, move it away.",
            EX_DATAERR,
        )


def _not_as_made(file: Path) -> OperatorError:
    return OperatorError(
        f"Nothing was restored. {file} is damaged: it is not what was written when the backup was made (its SHA-256 is"
        " another one). Use another backup, or fetch another copy of this one.",
        EX_DATAERR,
    )


def _prepare(data: Path, file: Path) -> bool:
    """Everything of a restore that can fail: afterwards `taube.db.restored` is whole and durable.

    Gives whether *file* carried its digest. Raises OperatorError.
    """
    handle, name = tempfile.mkstemp(prefix=f".{RESTORED}.", dir=data)
    os.close(handle)
    draft = Path(name)
    try:
        _give(draft, data)
        is_verified = _take(file, draft)
        if not is_verified:
            _check_alone(file)
        sqlite.examine(draft)
        _check_facts(draft)
        if sqlite.read_facts(draft).get(DIGEST) and not is_verified:
            raise _not_as_made(file)
        origin = _origin_in(draft)
        _check_origin(data, file, origin)
        with sqlite.transaction(draft) as tables:
            with suppress(StoreUnusable):  # it may be damaged: that may be why there is a restore
                identity.carry_over(tables, _facts_replaced(data))
            identity.renew_generation(tables, os.urandom)
            tables.clear_marks()
            tables.set_fact(DIGEST, b"")
        sqlite.join_log(draft)
        if origin and folder.kept_origin(data) is None:
            folder.keep(data, "origin", origin)
            _give(data / "origin", data)
        _sync(draft)
        draft.replace(data / RESTORED)
        _sync(data)
        return is_verified
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
        if origin and folder.check_origin(origin, origin) != origin:
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
