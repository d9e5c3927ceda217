"""The codec: every message survives the way through bytes, and any bytes give a message or a typed refusal."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.generate_vectors import MALFORMED, OTHER_FORMS, from_json
from taube.wire import codec, messages
from taube.wire.errors import BAD_FRAME, CATALOGUE, TOO_LARGE, UNKNOWN_TYPE, FrameError
from taube.wire.packing import pack
from taube.wire.session import login_message
from tests.spec import spec
from tests.wire import strategies

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "wire.json").read_text())


def decode(kind: type, frame: bytes) -> object:
    return codec.decode_command(frame) if kind in codec.COMMANDS.values() else codec.decode_reply_or_event(frame)


@spec("CON-10")
@pytest.mark.parametrize("kind", strategies.ALL_KINDS, ids=lambda kind: kind.__name__)
def test_every_message_survives_the_way_through_bytes(kind: type) -> None:
    @given(strategies.message(kind))
    def check(message: Any) -> None:
        assert decode(kind, codec.encode(message)) == message

    check()


@spec("CON-13", "CON-14")
@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_frame_error(frame: bytes) -> None:
    for read in (codec.decode_command, codec.decode_reply_or_event):
        try:
            message = read(frame)
        except FrameError as error:
            assert error.kind in (BAD_FRAME, UNKNOWN_TYPE)
            assert 0 <= error.request <= 0xFFFF_FFFF
        else:
            assert codec.encode(message)


@spec("CON-13", "CON-14")
@given(strategies.any_message(), st.data())
def test_a_damaged_message_gives_a_message_or_a_frame_error(message: Any, data: st.DataObject) -> None:
    frame = bytearray(codec.encode(message)[:400])
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    for bytes_seen in (bytes(frame), bytes(frame[:cut])):
        for read in (codec.decode_command, codec.decode_reply_or_event):
            try:
                read(bytes_seen)
            except FrameError as error:
                assert error.kind.code in CATALOGUE


@spec("CON-12")
@given(strategies.any_message(), st.lists(st.integers() | st.none() | st.binary(max_size=9), min_size=1, max_size=3))
def test_fields_that_a_newer_peer_appended_are_ignored(message: Any, more: list[Any]) -> None:
    fields = [getattr(message, name) for name in type(message).__struct_fields__]
    more = [value for value in more if not isinstance(value, int) or -(2**63) <= value < 2**64]
    longer = pack([type(message).__struct_config__.tag, *fields, *more])
    assert decode(type(message), longer) == message


@spec("CON-12")
def test_fields_with_a_default_may_be_missing() -> None:
    assert codec.decode_reply_or_event(pack([66, 7, 9])) == messages.Failed(7, 9)
    assert codec.decode_command(pack([8, 7, 1, []])) == messages.PublishKeyPackages(7, 1, [])


@spec("CON-15")
def test_a_frame_above_128_kib_is_refused_unread() -> None:
    largest = messages.Send(1, 0, [b"a" * 41] * 1024, b"b" * (64 * 1024))
    assert codec.decode_command(codec.encode(largest)) == largest
    with pytest.raises(FrameError) as refused:
        codec.decode_command(bytes(128 * 1024 + 1))
    assert refused.value.kind is TOO_LARGE
    with pytest.raises(FrameError):
        codec.decode_reply_or_event(bytes(128 * 1024 + 1))


@spec("CON-11")
@pytest.mark.parametrize("kind", strategies.ALL_KINDS, ids=lambda kind: kind.__name__)
def test_numbers_say_who_may_send_a_message(kind: type) -> None:
    ranges = {"command": range(1, 64), "reply": range(64, 128), "event": range(128, 192)}
    side = "command" if kind in codec.COMMANDS.values() else "reply" if kind in codec.REPLIES.values() else "event"
    assert kind.__struct_config__.tag in ranges[side]  # type: ignore[attr-defined]


@spec("CON-15")
@pytest.mark.parametrize(
    "message",
    [
        messages.Send(1, 0, [], b"b"),
        messages.Send(1, 0, [b"a" * 40], b"b"),
        messages.Send(1, 0, [b"a" * 41] * 1025, b"b"),
        messages.Send(1, 0, [b"a" * 41], b""),
        messages.Send(1, 0, [b"a" * 41], b"b" * (64 * 1024 + 1)),
        messages.Send(0, 0, [b"a" * 41], b"b"),
        messages.ClaimGate(1, b"n" * 32, b""),
        messages.ClaimGate(1, b"n" * 32, b"v" * (48 * 1024 + 1)),
        messages.ClaimGate(1, b"n" * 31, b"v"),
        messages.MintAddresses(1, 65),
        messages.Login(1, b"a" * 32, b"d" * 16, b"s" * 63),
        messages.Hello([]),
    ],
    ids=repr,
)
def test_a_field_beyond_its_limit_is_refused(message: messages.Command) -> None:
    with pytest.raises(FrameError) as refused:
        codec.decode_command(codec.encode(message))
    assert refused.value.kind is BAD_FRAME


@spec("CON-10")
@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda vector: vector["message"])
def test_messages_are_these_bytes(vector: dict[str, Any]) -> None:
    message = from_json(vector["message"], vector["fields"])
    frame = bytes.fromhex(vector["frame"])
    assert codec.encode(message) == frame
    assert decode(type(message), frame) == message


@spec("CON-10")
def test_the_vectors_show_every_message() -> None:
    assert {vector["message"] for vector in VECTORS["messages"]} == {kind.__name__ for kind in strategies.ALL_KINDS}


@spec("CON-10", "CON-12")
@pytest.mark.parametrize("vector", VECTORS["other_forms"], ids=lambda vector: vector["why"])
def test_other_forms_of_the_same_message_are_read(vector: dict[str, Any]) -> None:
    message = from_json(vector["message"], vector["fields"])
    assert decode(type(message), bytes.fromhex(vector["frame"])) == message


@spec("CON-13", "CON-14", "CON-16")
@pytest.mark.parametrize("vector", VECTORS["malformed"], ids=lambda vector: vector["why"])
def test_malformed_frames_are_refused_with_this_error(vector: dict[str, Any]) -> None:
    with pytest.raises(FrameError) as refused:
        codec.decode_command(bytes.fromhex(vector["frame"]))
    assert (refused.value.kind.code, refused.value.request) == (vector["error"], vector["request"])


@spec("CON-25")
def test_a_login_signs_these_bytes() -> None:
    vector = VECTORS["login_message"]
    signed = login_message(vector["origin"], bytes.fromhex(vector["device"]), bytes.fromhex(vector["nonce"]))
    assert signed.hex() == vector["bytes"]
    assert len(MALFORMED) == len(VECTORS["malformed"])
    assert len(OTHER_FORMS) == len(VECTORS["other_forms"])
