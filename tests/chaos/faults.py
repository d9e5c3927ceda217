"""A server's disk, clock and name service, to break them: what faults.c does, driven from Python.

    machine = Machine(folder)            builds the library (needs a C compiler: `Machine.possible()`)
    machine.prepare(data, record=True)   before a start: remembers the disk as it is, gives the environment
    machine.full = 1                     at any time: see `Machine.FIELDS`
    machine.cut_power(random)            after a kill: leaves on the disk what had been synced, and some of the rest

A power cut keeps every write that a completed fsync covers. Of the others (a failed fsync makes its writes unsafe for
good) each 512-byte sector survives or not, as the given random numbers say. Renames and removals count as durable at
once. It knows nothing of the server.
"""

import mmap
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

SOURCE: Final = Path(__file__).with_name("faults.c")
SECTOR: Final = 512
_HEAD: Final = struct.Struct("<c3xiqq")


class Record(NamedTuple):
    """One line of the journal: *op* O(pen) W(rite) T(runcate) S(ync) F(ailed sync); *a*, *b* as faults.c says.

    *data*: the path of O, what W wrote, and of S, when it began.
    """

    op: bytes
    file: int
    a: int
    b: int
    data: bytes


class Machine:
    """The disk below one data folder, the clock and the name service of one server."""

    FIELDS: ClassVar = {
        "clock_s": ("<q", 0),
        "full": ("<i", 8),
        "write_error": ("<i", 12),
        "sync_error": ("<i", 16),
        "read_error": ("<i", 20),
        "hold_sync": ("<i", 24),
        "held": ("<i", 28),
        "hold_names": ("<i", 32),
        "names_held": ("<i", 36),
    }
    """Clock offset in seconds; files cannot grow; errno of writes, syncs, reads; syncs wait; how many wait; look-ups of
    hosts wait, and fail then; how many wait."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._library = folder / "faults.so"
        self._control = folder / "control"
        self._before = folder / "before"
        self._data = Path()
        self._runs = 0
        subprocess.run(
            [_compiler(), "-shared", "-fPIC", "-O1", "-o", self._library, SOURCE, "-ldl", "-lpthread"],
            check=True,
            capture_output=True,
        )
        self._control.write_bytes(bytes(64))
        with self._control.open("r+b") as file:
            self._page = mmap.mmap(file.fileno(), 64)

    @staticmethod
    def possible() -> bool:
        """Whether this machine can build the library."""
        return os.uname().sysname == "Linux" and shutil.which(_compiler()) is not None

    def __getattr__(self, name: str) -> int:
        kind, at = self.FIELDS[name]
        value: int = struct.unpack_from(kind, self._page, at)[0]
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.FIELDS:
            kind, at = self.FIELDS[name]
            struct.pack_into(kind, self._page, at, value)
        else:
            super().__setattr__(name, value)

    def heal(self) -> None:
        """No fault any more; the clock is right."""
        for name in ("full", "write_error", "sync_error", "read_error", "hold_sync", "hold_names", "clock_s"):
            setattr(self, name, 0)

    @property
    def journal(self) -> Path:
        """What the present run of the server did to its files."""
        return self._folder / f"journal-{self._runs}"

    def prepare(self, data: Path, *, record: bool = False) -> dict[str, str]:
        """Before each start of the server: the environment for it."""
        self._data = data
        self._runs += 1
        if record:
            shutil.rmtree(self._before, ignore_errors=True)
            if data.exists():
                shutil.copytree(data, self._before, ignore=shutil.ignore_patterns("*-shm"))
            else:
                self._before.mkdir()
        return {
            "LD_PRELOAD": str(self._library),
            "CHAOS_CONTROL": str(self._control),
            "CHAOS_FOLDER": f"{data}/",
            "CHAOS_JOURNAL": str(self.journal),
            "CHAOS_RECORD": "1" if record else "0",
        }

    def records(self) -> Iterator[Record]:
        """The journal of the present run."""
        if not self.journal.exists():
            return
        with self.journal.open("rb") as file:
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                op, number, a, b = _HEAD.unpack(head)
                size = {b"W": b, b"O": a, b"S": 8}.get(op, 0)
                yield Record(op, number, a, b, file.read(size))

    def syncs(self) -> list[tuple[int, int]]:
        """When each sync of the write-ahead log began and ended in the present run: monotonic nanoseconds."""
        times: list[tuple[int, int]] = []
        paths: dict[int, bytes] = {}
        for record in self.records():
            if record.op == b"O":
                paths[record.file] = record.data
            elif record.op == b"S" and paths.get(record.file, b"").endswith(b"-wal"):
                times.append((int.from_bytes(record.data, "little"), record.b))
        return times

    def cut_power(self, dice: random.Random) -> int:
        """The server was killed: put the data folder back to what a disk could hold then. Returns the writes lost.

        Only after a start that was prepared with *record*.
        """
        paths: dict[int, Path] = {}
        records = list(self.records())
        pending: dict[int, list[int]] = {}  # file -> places of writes that no sync has decided
        safe: set[int] = set()
        for at, record in enumerate(records):
            if record.op == b"O":
                paths.setdefault(record.file, Path(os.fsdecode(record.data)))
            elif record.op == b"T" and record.b:
                safe.add(at)  # the file was made anew
            elif record.op in (b"W", b"T"):
                pending.setdefault(record.file, []).append(at)
            elif record.op in (b"S", b"F"):
                waiting = pending.get(record.file, [])
                if record.op == b"S":
                    safe.update(place for place in waiting if place < record.a)
                pending[record.file] = [place for place in waiting if place >= record.a]
        contents: dict[int, bytearray] = {}
        lost = 0
        for at, record in enumerate(records):
            path = paths.get(record.file)
            if path is None or record.op not in (b"W", b"T"):
                continue
            if record.file not in contents:
                kept = self._before / path.relative_to(self._data)
                contents[record.file] = bytearray(kept.read_bytes() if kept.exists() else b"")
            lost += at not in safe
            _apply(contents[record.file], record, None if at in safe else dice)
        for file, content in contents.items():
            if paths[file].exists():
                paths[file].write_bytes(content)
        for left in self._data.glob("*-shm"):
            left.unlink()
        return lost


def _apply(content: bytearray, record: Record, dice: random.Random | None) -> None:
    """One write or truncation; with *dice*, sector by sector, each or not."""
    if record.op == b"T":
        if dice is None or dice.random() < 0.5:
            del content[record.a :]
            content.extend(bytes(record.a - len(content)))
        return
    mood = dice.choice((0.0, 0.5, 1.0)) if dice is not None else 1.0
    at, end = record.a, record.a + len(record.data)
    while at < end:
        stop = min(end, (at // SECTOR + 1) * SECTOR)
        if dice is None or dice.random() < mood:
            if len(content) < stop:
                content.extend(bytes(stop - len(content)))
            content[at:stop] = record.data[at - record.a : stop - record.a]
        at = stop


def _compiler() -> str:
    return os.environ.get("CC", "cc")
