"""The home folder: its files and their permissions, the key of the database, locks between processes, and the stamp.

The stamp tells a home that was copied or restored from the one it was copied from. It names what a copy cannot take
along: the inode of the database, and inode, birth and time of a file that is written once and never again. The
database holds the stamp, so a copy finds that it does not fit. A home that was moved within its file system keeps it,
and so does one whose permissions were changed. Each opening takes a new stamp file: a backup that is written over the
same files, their times included, holds the stamp of an earlier one. Where births are not known, the last change of the
file stands for its birth, and a change of permissions makes a copy.
(What no program can see from inside, a snapshot of the whole machine, is not told apart.)

This file does not know what is in the database. Source: docs/protocol/device.md, "State".
"""

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from taube.client.errors import HomeUnusable
from taube.exits import EX_CANTCREAT, EX_NOPERM

KEY_BYTES: Final = 32
_LOCK_POLL_S: Final = 0.02


class Home:
    """The paths of a home folder, and what is done to them apart from the database itself."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self.database = self.folder / "taube.db"
        self.key_file = self.folder / "key"
        self.stamp_file = self.folder / "stamp"
        self.next_stamp_file = self.folder / "stamp.next"

    def exists(self) -> bool:
        """Whether a database is there."""
        return self.database.exists()

    def create(self) -> None:
        """Make the folder, mode 0700, with everything above it. Raises HomeUnusable."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self.folder.stat().st_mode & 0o077:
                self.folder.chmod(0o700)
        except OSError as error:
            raise HomeUnusable(
                f"{self.folder} cannot be made ({_reason(error)}): choose another --home.", EX_CANTCREAT
            ) from error

    def read_key(self) -> bytes | None:
        """The 32 bytes of the key file, or None when there is none (the home has a passphrase). Raises HomeUnusable."""
        try:
            key = self.key_file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HomeUnusable(f"{self.key_file} cannot be read ({_reason(error)}).", EX_NOPERM) from error
        if len(key) != KEY_BYTES:
            raise HomeUnusable(f"{self.key_file} is damaged: put the one of your backup back.")
        return key

    def make_key(self, random: Callable[[int], bytes]) -> bytes:
        """A new key file, mode 0600, durable before the database is; the one that is there already, if so."""
        present = self.read_key()
        if present is not None:
            return present
        key = random(KEY_BYTES)
        self._write_once(self.key_file, key)
        return self.read_key() or key

    def write_stamp_file(self, random: Callable[[int], bytes]) -> None:
        """A new stamp file; the database has to be told the new `stamp` afterwards."""
        self.stamp_file.unlink(missing_ok=True)
        self._write_once(self.stamp_file, random(16))

    def write_next_stamp(self, random: Callable[[int], bytes]) -> bytes | None:
        """The stamp that the home will have after `take_next_stamp`; None where the birth of a file is not known."""
        if not _birth_ns(self.stamp_file):
            return None
        self.next_stamp_file.unlink(missing_ok=True)
        self._write_once(self.next_stamp_file, random(16))
        return self.next_stamp()

    def take_next_stamp(self) -> None:
        """Put it in the place of the stamp that was, once the database has been told. Idempotent."""
        with contextlib.suppress(FileNotFoundError):
            self.next_stamp_file.replace(self.stamp_file)

    def stamp(self) -> bytes:
        """What a copy cannot take along; empty when the stamp file is missing."""
        return self._stamp_of(self.stamp_file)

    def next_stamp(self) -> bytes:
        """The stamp that a process may have left half taken; empty when there is none."""
        return self._stamp_of(self.next_stamp_file)

    def _stamp_of(self, path: Path) -> bytes:
        try:
            content = path.read_bytes()
            mark, database = path.stat(), self.database.stat()
        except FileNotFoundError:
            return b""
        parts = (database.st_ino, mark.st_ino, mark.st_mtime_ns, _birth_ns(path) or mark.st_ctime_ns, _machine())
        return content + "/".join(str(part) for part in parts).encode()

    def try_lock(self, name: str) -> "Lock | None":
        """The exclusive lock *name* of this home, or None while another process (or handle) holds it."""
        descriptor = os.open(self.folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return None
            raise
        return Lock(descriptor)

    def erase(self) -> None:
        """Delete everything of the home: the key first, without which the rest is noise."""
        self.key_file.unlink(missing_ok=True)
        others = [path for mark in ("taube.db-*", "stamp*", "*.lock") for path in self.folder.glob(mark)]
        for path in (self.database, *others):
            path.unlink(missing_ok=True)
        for folder in ("outgoing", "incoming"):  # sealed files on their way
            shutil.rmtree(self.folder / folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    async def lock(self, name: str) -> "Lock":
        """The exclusive lock *name*, waiting for it as long as it takes; cancel to give up."""
        while (lock := self.try_lock(name)) is None:
            await asyncio.sleep(_LOCK_POLL_S)
        return lock

    def _write_once(self, path: Path, content: bytes) -> None:
        """*path* appears whole and durable, or not at all; what is there already stays."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(descriptor, content)
            os.fsync(descriptor)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Lock:
    """A held lock; it ends with `release`, or with the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it up. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _machine() -> str:
    """The machine's own id where it has one; stands in no copy on another machine."""
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""


def _birth_ns(path: Path) -> int:
    """When the file was born, by Linux' statx(2), in nanoseconds; 0 where that is not known."""
    try:
        statx = ctypes.CDLL(None).statx
    except (AttributeError, OSError):
        return 0
    buffer = (ctypes.c_uint8 * 256)()
    at_fdcwd, want_birth = -100, 0x800
    if statx(at_fdcwd, os.fsencode(path), 0, want_birth, buffer) != 0:
        return 0
    if not int.from_bytes(bytes(buffer[0:4]), "little") & want_birth:
        return 0
    seconds = int.from_bytes(bytes(buffer[80:88]), "little", signed=True)
    return seconds * 1_000_000_000 + int.from_bytes(bytes(buffer[88:92]), "little")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
