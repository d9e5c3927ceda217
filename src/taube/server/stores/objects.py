"""The embedded store of blobs: one file for each under a folder, durable before it is answered, whole or not there.

    blobs/3f/3fa1…      a complete blob: a head of 32 bytes, then its bytes; never changed again
    blobs/3f/3fa1….part an upload: the head says how far it was made durable; what lies behind that counts for nothing

A file is named by the blob's name, so names spread over 256 folders evenly. An upload becomes a blob by being renamed.
Every call blocks and is made from threads; whoever uses it makes no two calls for one upload at once. It knows no
limits, no clock and no requests. Source: docs/protocol/delivery.md, BLB-03 .. BLB-06.
"""

import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from taube.server.ledger import BLOB, SERVER, Entry
from taube.server.ports import BlobState, Swept, room_of

_HEAD: Final = struct.Struct(">4sIIIQQ")
_MAGIC: Final = b"TBL1"
HEAD_BYTES: Final = _HEAD.size
PART: Final = ".part"
_NO_ATIME: Final = getattr(os, "O_NOATIME", 0)
"""When a blob was read last is nobody's business. The files are ours, so this is permitted."""

FIELDS: Final[dict[str, Entry]] = {
    "format": SERVER,
    "ends_day": BLOB,
    "until_day": BLOB,
    "unused": SERVER,
    "length": BLOB,
    "offset": BLOB,
    "name of the file": BLOB,
    "bytes": BLOB,
}
"""Everything that a file of this store says, with the ledger entry that permits it."""


class ObjectFolder:
    """`ports.BlobStore` over a folder, which is made when the first upload begins."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._suspects: dict[int, set[Path]] = {}
        """By part, files that the last sweep found to be no blob; one that was just being made is one by the next."""

    def look(self, name: bytes) -> BlobState | None:
        """The blob, or its upload; None when there is neither, or the file is none of ours."""
        for path, is_complete in ((self._path(name), True), (self._part(name), False)):
            with suppress(OSError), path.open("rb") as file:
                state = _state(file.read(HEAD_BYTES), is_complete, os.fstat(file.fileno()).st_size)
                if state is not None:
                    return state
        return None

    def begin(self, name: bytes, length: int, ends_day: int, until_day: int) -> BlobState:
        """A new upload; whatever had this name is gone. Durable."""
        path, part = self._path(name), self._part(name)
        self._make(path.parent)
        path.unlink(missing_ok=True)
        state = BlobState(length, 0, ends_day, until_day, False)
        with _open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as file:
            os.pwrite(file, _head(state), 0)
            os.fsync(file)
        _sync(path.parent)
        return state

    def append(self, name: bytes, at: int, data: bytes) -> None:
        """Write *data* at offset *at*; it counts once `settle` has said so."""
        with _open(self._part(name)) as file:
            _write(file, data, HEAD_BYTES + at)

    def settle(self, name: bytes, state: BlobState) -> None:
        """Make what was appended up to *state.offset* durable, and then the head that says so."""
        with _open(self._part(name)) as file:
            os.fsync(file)
            _write(file, _head(state), 0)
            os.fsync(file)

    def finish(self, name: bytes) -> None:
        """Make the upload, of which everything is durable, a blob. Durable."""
        path, part = self._path(name), self._part(name)
        os.utime(part, (0, 0))  # the day is in the head; the file system need not tell the hour
        part.replace(path)
        _sync(path.parent)

    def read(self, name: bytes, start: int, size: int) -> bytes:
        """Up to *size* bytes of a complete blob. Raises OSError when it is gone."""
        with _open(self._path(name), os.O_RDONLY | _NO_ATIME) as file:
            return os.pread(file, size, HEAD_BYTES + start)

    def free_bytes(self) -> int:
        """Room on the disk."""
        place = self._folder if self._folder.exists() else self._folder.parent
        return shutil.disk_usage(place).free

    def sweep(self, part: int, today: int, may_expire: bool) -> Swept:
        """In one of the `BLOB_PARTS`, remove what is over (not if *may_expire* is false) and what is no blob; count
        what stays.
        """
        removed = room_bytes = left = 0
        suspects = self._suspects.get(part, set())
        found = self._suspects[part] = set()
        for path in self._files(part):
            is_complete = path.suffix != PART
            try:
                with path.open("rb") as file:
                    state = _state(file.read(HEAD_BYTES), is_complete, os.fstat(file.fileno()).st_size)
            except OSError:
                continue
            if state is None and path not in suspects:
                found.add(path)
            elif may_expire and (state is None or state.is_over(today)):
                path.unlink(missing_ok=True)
                removed += 1
            elif state is not None:
                left += 1
                room_bytes += room_of(state.length)
        return Swept(removed, left, room_bytes)

    def _files(self, part: int) -> Iterator[Path]:
        with suppress(OSError):
            yield from sorted((self._folder / f"{part:02x}").iterdir())

    def _make(self, shard: Path) -> None:
        if shard.is_dir():
            return
        for folder in (self._folder, shard):
            folder.mkdir(mode=0o700, exist_ok=True)
            _sync(folder.parent)

    def _path(self, name: bytes) -> Path:
        text = name.hex()
        return self._folder / text[:2] / text

    def _part(self, name: bytes) -> Path:
        return self._path(name).with_suffix(PART)


def _head(state: BlobState) -> bytes:
    return _HEAD.pack(_MAGIC, state.ends_day, state.until_day, 0, state.length, state.offset)


def _state(head: bytes, is_complete: bool, file_bytes: int) -> BlobState | None:
    """What a file's head says; None if it is none of ours, or less is there than it says."""
    if len(head) != HEAD_BYTES:
        return None
    magic, ends_day, until_day, _, length, offset = _HEAD.unpack(head)
    if magic != _MAGIC or offset > length or file_bytes < HEAD_BYTES + offset or (is_complete and offset < length):
        return None
    return BlobState(length, offset, ends_day, until_day, is_complete)


@contextmanager
def _open(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(file: int, data: bytes, at: int) -> None:
    """All of *data*: a disk that is nearly full takes a part."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written


def _sync(folder: Path) -> None:
    with _open(folder, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)
