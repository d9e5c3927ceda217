"""The folder of blobs: what is durable, what a crash leaves, what a sweep removes."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taube.server.ports import BLOB_PARTS, SMALLEST_ROOM_BYTES, BlobState, Swept
from taube.server.stores.objects import HEAD_BYTES, ObjectFolder
from tests.spec import spec

NAME = bytes(range(32))
DAY = 20_000


@pytest.fixture
def store(tmp_path: Path) -> ObjectFolder:
    return ObjectFolder(tmp_path / "blobs")


def file_of(tmp_path: Path, end: str = "") -> Path:
    return tmp_path / "blobs" / NAME.hex()[:2] / (NAME.hex() + end)


def upload(store: ObjectFolder, name: bytes, data: bytes, ends_day: int = DAY + 45) -> None:
    state = store.begin(name, len(data), ends_day, DAY + 2)
    store.append(name, 0, data)
    store.settle(name, state._replace(offset=len(data)))
    store.finish(name)


def sweep(store: ObjectFolder, today: int, may_expire: bool) -> Swept:
    """All parts of a sweep."""
    parts = [store.sweep(part, today, may_expire) for part in range(BLOB_PARTS)]
    return Swept(*(sum(each[at] for each in parts) for at in range(3)))


@spec("BLB-04")
def test_an_upload_is_read_only_when_it_is_complete(store: ObjectFolder) -> None:
    assert store.look(NAME) is None
    state = store.begin(NAME, 600, DAY + 45, DAY + 2)
    assert store.look(NAME) == state == BlobState(600, 0, DAY + 45, DAY + 2, False)
    store.append(NAME, 0, b"a" * 300)
    store.settle(NAME, state._replace(offset=300))
    with pytest.raises(OSError):
        store.read(NAME, 0, 10)
    store.append(NAME, 300, b"b" * 300)
    store.settle(NAME, state._replace(offset=600))
    store.finish(NAME)
    found = store.look(NAME)
    assert found is not None and found.is_complete and found.offset == 600
    assert store.read(NAME, 290, 20) == b"a" * 10 + b"b" * 10
    assert store.read(NAME, 590, 100) == b"b" * 10


@spec("BLB-05")
@given(steps=st.lists(st.tuples(st.integers(1, 400), st.booleans(), st.integers(0, 399)), min_size=1, max_size=12))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_after_a_crash_an_upload_goes_on_from_what_was_durable_and_gives_the_same_bytes(
    tmp_path: Path, steps: list[tuple[int, bool, int]]
) -> None:
    """A crash leaves any part of what was not settled, zeros for it, or nothing."""
    data = os.urandom(sum(size for size, _, _ in steps))
    store = ObjectFolder(tmp_path / "blobs")
    store.begin(NAME, len(data), DAY + 45, DAY + 2)
    pending = list(steps)
    while True:
        state = store.look(NAME)
        assert state is not None and not state.is_complete
        if state.offset == len(data):
            break
        size, crashes, left = pending.pop(0) if pending else (len(data), False, 0)
        piece = data[state.offset : state.offset + size]
        store.append(NAME, state.offset, piece)
        if crashes:
            kept = min(left, len(piece))
            with file_of(tmp_path, ".part").open("r+b") as file:
                file.truncate(HEAD_BYTES + state.offset + kept)
                file.seek(HEAD_BYTES + state.offset)
                file.write(bytes(kept))
            store = ObjectFolder(tmp_path / "blobs")
            continue
        store.settle(NAME, state._replace(offset=state.offset + len(piece)))
    store.finish(NAME)
    assert store.read(NAME, 0, len(data) + 1) == data


@spec("BLB-05")
def test_a_file_that_is_cut_or_none_of_ours_is_no_blob(store: ObjectFolder, tmp_path: Path) -> None:
    upload(store, NAME, b"x" * 300)
    file = file_of(tmp_path)
    whole = file.read_bytes()
    for broken in (b"", whole[:10], whole[:-1], b"OTHER" + whole[5:], whole[:HEAD_BYTES]):
        file.write_bytes(broken)
        assert store.look(NAME) is None
    assert sweep(store, DAY, True).removed == 0, "perhaps it is just being made"
    assert sweep(store, DAY, True).removed == 1 and not file.exists()


@spec("BLB-06")
def test_a_sweep_removes_what_is_over_and_counts_the_rest(store: ObjectFolder, tmp_path: Path) -> None:
    for number in range(3):
        upload(store, bytes([number]) * 32, b"x" * 300, DAY + 10 + number)
    store.begin(NAME, 20_000, DAY + 45, DAY + 2)
    store.begin(bytes([99]) * 32, 50_000, DAY + 45, DAY + 45)
    room = 3 * SMALLEST_ROOM_BYTES + 20_000 + 50_000
    assert sweep(store, DAY, True) == (0, 5, room), "a small one counts as the file that it takes"
    assert sweep(store, DAY + 12, False) == (0, 5, room), "the clock jumped: nothing expires"
    assert sweep(store, DAY + 11, True) == (3, 2, SMALLEST_ROOM_BYTES + 50_000)
    assert store.look(NAME) is None and store.look(bytes([2]) * 32) is not None
    assert sweep(ObjectFolder(tmp_path / "nothing"), DAY, True) == (0, 0, 0)


@spec("BLB-11")
def test_the_folder_is_its_owners_only_and_tells_no_time_of_a_blob(store: ObjectFolder, tmp_path: Path) -> None:
    upload(store, NAME, b"x" * 300)
    assert (tmp_path / "blobs").stat().st_mode & 0o077 == 0
    file = file_of(tmp_path)
    store.read(NAME, 0, 300)
    assert file.stat().st_mode & 0o077 == 0
    assert file.stat().st_mtime == file.stat().st_atime == 0
