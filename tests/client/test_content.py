"""Message content: vectors, limits, unknown kinds, and any bytes at all."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taube.client import content
from taube.client.content import (
    Content,
    ContentError,
    Known,
    Leave,
    Media,
    Profile,
    Receipt,
    ResendRequest,
    Text,
    Typing,
    Unknown,
    decode,
    encode,
)
from taube.wire.packing import pack
from tests.spec import spec

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "content.json").read_text())
KINDS: dict[str, type[Known]] = {
    "text": Text,
    "receipt": Receipt,
    "typing": Typing,
    "profile": Profile,
    "resend_request": ResendRequest,
    "leave": Leave,
    "media": Media,
}
ID = bytes(range(16))

ids = st.binary(min_size=16, max_size=16)
whole = st.integers(0, 2**53)
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
names = st.binary(min_size=32, max_size=32)
replies = st.just(b"") | st.binary(min_size=48, max_size=48)
pixels = st.integers(0, 65_535)
photos = st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"RIFF\x04\x00\x00\x00WEBPVP8 "])
contents: st.SearchStrategy[Known] = st.one_of(
    st.builds(Text, ids, whole, whole, words, replies),
    st.builds(
        Media,
        *(ids, whole, whole, names, names, names, st.integers(0, 2**30)),
        st.sampled_from(["image/jpeg", "application/vnd.oasis.opendocument.text", "text/x-c++"]),
        *(pixels, pixels, st.binary(max_size=64), st.just("") | words, replies),
        words.filter(lambda name: len(name.encode()) <= 200),
    ),
    st.builds(Receipt, ids, whole, whole, st.sampled_from([1, 2]), st.lists(ids, min_size=1, max_size=20)),
    st.builds(Typing, ids, st.just(0), whole, st.booleans()),
    st.builds(Profile, ids, whole, whole, words.filter(lambda name: len(name.encode()) <= 128), photos),
    st.builds(ResendRequest, ids, whole, whole, st.lists(st.integers(1, 2**53), min_size=1, max_size=20)),
    st.builds(Leave, ids, whole, whole),
)


def from_fields(vector: dict[str, Any]) -> Content:
    fields = [
        bytes.fromhex(value[4:])
        if isinstance(value, str) and value.startswith("hex:")
        else [bytes.fromhex(item[4:]) if isinstance(item, str) else item for item in value]
        if isinstance(value, list)
        else value
        for value in vector["fields"]
    ]
    return KINDS[vector["kind"]](*fields)


@spec("CNT-01", "CNT-04")
@pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda vector: vector["name"])
def test_vectors_encode_and_decode_to_each_other(vector: dict[str, Any]) -> None:
    expected = from_fields(vector)
    assert encode(expected).hex() == vector["bytes"]
    assert decode(bytes.fromhex(vector["bytes"])) == expected


@spec("CNT-17", "CNT-18")
@pytest.mark.parametrize("vector", VECTORS["older"], ids=lambda vector: vector["name"])
def test_vectors_of_older_senders_are_read_with_what_they_lack_empty(vector: dict[str, Any]) -> None:
    assert decode(bytes.fromhex(vector["bytes"])) == from_fields(vector)


@spec("CNT-05")
@pytest.mark.parametrize("vector", VECTORS["newer"], ids=lambda vector: vector["name"])
def test_vectors_of_newer_senders_are_read_without_what_we_do_not_know(vector: dict[str, Any]) -> None:
    assert decode(bytes.fromhex(vector["bytes"])) == from_fields(vector)


@spec("CNT-06")
@pytest.mark.parametrize("vector", VECTORS["unknown"], ids=lambda vector: vector["name"])
def test_vectors_of_unknown_kinds_are_kept_with_all_their_bytes(vector: dict[str, Any]) -> None:
    raw = bytes.fromhex(vector["bytes"])
    kept = decode(raw)
    assert isinstance(kept, Unknown)
    assert (kept.kind, kept.sequence, kept.raw, encode(kept)) == (vector["number"], vector["sequence"], raw, raw)


@spec("CNT-07")
@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda vector: vector["name"])
def test_vectors_that_are_no_content_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(ContentError):
        decode(bytes.fromhex(vector["bytes"]))


@spec("CNT-01", "CNT-02", "CNT-03")
@given(contents)
def test_what_is_encoded_decodes_to_the_same(message: Known) -> None:
    again = decode(encode(message))
    assert again == message
    assert (again.message_id, again.sequence) == (message.message_id, message.sequence)


@spec("CNT-07")
@given(st.binary(max_size=200))
def test_any_bytes_are_a_content_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ContentError):
        decode(data)


@spec("CNT-07")
@given(contents, st.data())
def test_altered_bytes_are_a_content_or_an_error(message: Known, data: st.DataObject) -> None:
    altered = bytearray(encode(message))
    altered[data.draw(st.integers(0, len(altered) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ContentError):
        decode(bytes(altered))


@spec("CNT-05")
@given(contents, st.lists(st.integers() | st.binary(max_size=5) | st.none(), min_size=1, max_size=3))
def test_fields_behind_the_known_ones_are_ignored(message: Known, more: list[object]) -> None:
    more = [item for item in more if not isinstance(item, int) or abs(item) < 2**62]
    data = encode(message)
    fields = (data[0] & 0x0F) + len(more)
    head = b"\xdc" + fields.to_bytes(2, "big")  # an array of up to 65,535 fields
    assert decode(head + data[1:] + b"".join(pack(item) for item in more)) == message


def media(**fields: Any) -> Media:
    photo: dict[str, Any] = {"size": 1, "media_type": "image/png"}
    return Media(ID, 1, 0, blob=ID * 2, key=ID * 2, hash=ID * 2, **{**photo, **fields})


@spec("CNT-08", "CNT-10", "CNT-11", "CNT-13", "CNT-14", "CNT-15", "CNT-17", "CNT-18")
@pytest.mark.parametrize(
    "message",
    [
        Text(ID, 1, 0, ""),
        Text(ID, 1, 0, "x" * 16_385),
        Text(ID, 1, 0, "ß" * 8_193),
        Text(ID, 1, 0, "\udc80"),
        Text(b"short", 1, 0, "x"),
        Text(ID, -1, 0, "x"),
        Text(ID, 1, 2**53 + 1, "x"),
        Receipt(ID, 0, 0, 3, [ID]),
        Receipt(ID, 0, 0, 1, []),
        Receipt(ID, 0, 0, 1, [ID] * 513),
        Typing(ID, 1, 0, True),
        Profile(ID, 1, 0, ""),
        Profile(ID, 1, 0, "ß" * 65),
        Profile(ID, 1, 0, "x", b"\x89PNG\r\n\x1a\n"),
        Profile(ID, 1, 0, "x", b"RIFF\x00\x00\x00\x00WAVE"),
        Profile(ID, 1, 0, "x", b"\xff\xd8\xff" + bytes(32_766)),
        ResendRequest(ID, 0, 0, [0]),
        ResendRequest(ID, 0, 0, [1] * 257),
        Text(ID, 1, 0, "x", ID),
        media(reply_to=ID),
        media(media_type="image"),
        media(media_type="image/png; a=b"),
        media(size=2**30 + 1),
        media(width=65_536),
        media(thumbhash=b"x" * 65),
        media(caption="ß" * 8_193),
        media(name="ß" * 101),
    ],
)
def test_a_sender_cannot_make_what_would_be_refused(message: Known) -> None:
    with pytest.raises(ContentError):
        encode(message)


@spec("CNT-01", "CNT-10")
def test_the_largest_of_each_kind_fit() -> None:
    for message in (
        Text(ID, 2**53, 2**53, "ß" * 8192),
        Receipt(ID, 0, 2**53, 2, [ID] * 512),
        Profile(ID, 1, 0, "x" * 128, b"\xff\xd8\xff" + bytes(32_765)),
        ResendRequest(ID, 0, 0, [2**53] * 256),
        media(caption="ß" * 8192, name="ß" * 100, thumbhash=b"x" * 64, reply_to=ID * 3, size=2**30),
    ):
        assert len(encode(message)) <= content.MAX_CONTENT_BYTES
        assert decode(encode(message)) == message


@spec("CNT-01", "CNT-07")
def test_a_content_above_the_limit_is_refused_even_if_its_kind_is_unknown() -> None:
    fits = pack([99, ID, 1, 1, b"x" * 59_900])
    assert isinstance(decode(fits), Unknown)
    with pytest.raises(ContentError):
        decode(pack([99, ID, 1, 1, b"x" * 60_000]))
