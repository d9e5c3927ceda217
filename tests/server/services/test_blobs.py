"""Blobs as arithmetic: names, ranges, room and pace, over every value that can come."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taube.server.ports import BlobState
from taube.server.services import blobs
from taube.server.services.blobs import BlobSettings, Range
from taube.wire.errors import NO_ROOM, WireError
from tests.spec import spec

sizes = st.integers(1, 2**40)


def text_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@spec("BLB-01")
@given(st.binary(min_size=32, max_size=32))
def test_a_name_is_read_in_its_one_form_only_and_opened_by_its_secret_only(secret: bytes) -> None:
    name = hashlib.sha256(secret).digest()
    assert blobs.name_of(text_of(name)) == name
    assert blobs.opens(secret, name) and not blobs.opens(name, name)
    text = text_of(name)
    for wrong in (text[:-1], text + "=", text + "A", "+" + text[1:], "/" + text[1:], " " + text[1:], "ß" + text[1:]):
        assert blobs.name_of(wrong) is None
    others = [text[:-1] + last for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"]
    assert sum(blobs.name_of(other) == name for other in others) == 1  # the two spare bits are zero


@given(st.text(max_size=60))
def test_any_text_is_a_name_or_none(text: str) -> None:
    name = blobs.name_of(text)
    assert name is None or text_of(name) == text


@spec("BLB-07")
@given(size=sizes, first=st.integers(0, 2**41), last=st.integers(0, 2**41))
def test_a_range_gives_the_bytes_that_it_names_and_lie_in_the_blob(size: int, first: int, last: int) -> None:
    given_range = blobs.range_of(f"bytes={first}-{last}", size)
    if last < first:
        assert given_range == Range(0, size, False)
    elif first >= size:
        assert given_range == "unsatisfiable"
    else:
        assert given_range == Range(first, min(last, size - 1) - first + 1, True)
    from_there = blobs.range_of(f"bytes={first}-", size)
    assert from_there == ("unsatisfiable" if first >= size else Range(first, size - first, True))


@spec("BLB-07")
@given(size=sizes, last=st.integers(0, 2**41))
def test_a_suffix_gives_the_end(size: int, last: int) -> None:
    wanted = min(last, size)
    assert blobs.range_of(f"bytes=-{last}", size) == (Range(size - wanted, wanted, True) if wanted else "unsatisfiable")


@spec("BLB-07")
@given(st.text(max_size=30) | st.sampled_from(["bytes=0-1,3-4", "bytes=-", "bytes=", "lines=0-1", "bytes=a-b"]))
def test_what_is_no_range_gives_everything_and_nothing_gives_more(field: str) -> None:
    found = blobs.range_of(field, 100)
    assert found == "unsatisfiable" or (found.start + found.size <= 100 and found.size > 0)
    if not field.startswith("bytes=") or "," in field:
        assert found == Range(0, 100, False)


@spec("BLB-10")
def test_room_is_refused_before_the_disk_is_full_with_the_time_to_wait() -> None:
    settings = BlobSettings(total_bytes=100_000, keep_free_bytes=500)
    blobs.check_room(40_000, 60_000, 50_000, settings)
    for length, used, free in ((40_000, 60_001, 50_000), (40_000, 0, 40_499), (400, 90_000, 50_000)):
        with pytest.raises(WireError) as refused:
            blobs.check_room(length, used, free, settings)
        assert refused.value.kind is NO_ROOM and refused.value.retry_after_ms > 0


@spec("BLB-06")
@given(today=st.integers(20_000, 40_000), days=st.integers(2, 45))
def test_a_blob_ends_within_the_last_of_its_days(today: int, days: int) -> None:
    ends = blobs.last_day(today, days, BlobSettings())
    assert ends == today + days
    state = BlobState(272, 272, ends, today + 2, True)
    assert blobs.is_readable(state, ends - 1) and not blobs.is_readable(state, ends)
    assert not state.is_over(ends - 1) and state.is_over(ends)
    unfinished = state._replace(is_complete=False)
    assert not blobs.is_readable(unfinished, today)
    assert not unfinished.is_over(min(today + 1, ends - 1)) and unfinished.is_over(today + 2)


@spec("BLB-09")
def test_a_peer_has_half_a_minute_and_then_has_to_keep_a_pace() -> None:
    settings = BlobSettings()
    assert not blobs.is_too_slow(0, 30.0, settings) and blobs.is_too_slow(0, 30.1, settings)
    assert not blobs.is_too_slow(4096 * 100, 130.0, settings) and blobs.is_too_slow(4096 * 100, 131.0, settings)
