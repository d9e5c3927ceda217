"""Frames to messages and back: the only place that turns bytes of the wire into commands, replies and events.

A frame is one MessagePack array, `[number, field, …]`. Decoding checks types, lengths and ranges in one pass and
ignores fields that a newer peer appended. Whatever bytes come in, the answer is a message or a FrameError, which
carries the request id whenever one stands where it belongs, so that the refusal finds its asker.

This file does not know when a message is allowed (see session) or what it means.
Source: docs/protocol/connection.md, CON-10 to CON-16.
"""

from collections.abc import Set
from typing import Final, cast, get_args

from taube.wire.errors import BAD_FRAME, TOO_LARGE, UNKNOWN_TYPE, ErrorKind, FrameError
from taube.wire.messages import MAX_FRAME_BYTES, Command, Event, Message, Reply
from taube.wire.packing import PackingError, Unpacker, pack, tag_of

COMMANDS: Final[dict[int, type[Command]]] = {tag_of(kind): kind for kind in get_args(Command)}
REPLIES: Final[dict[int, type[Reply]]] = {tag_of(kind): kind for kind in get_args(Reply)}
EVENTS: Final[dict[int, type[Event]]] = {tag_of(kind): kind for kind in get_args(Event)}

_commands: Final = Unpacker(cast("type[Command]", Command))
_replies_and_events: Final = Unpacker(cast("type[Reply | Event]", Reply | Event))
_numbers_from_server: Final = REPLIES.keys() | EVENTS.keys()

_MAX_REQUEST_ID: Final = 0xFFFF_FFFF


def encode(message: Message) -> bytes:
    """The frame that carries *message*. The limits of its fields are the caller's to keep; the reader checks them."""
    return pack(message)


def decode_command(frame: bytes | bytearray | memoryview) -> Command:
    """The command in *frame*; what a server calls. Nothing in the result refers to *frame* any more.

    Raises FrameError: TOO_LARGE, UNKNOWN_TYPE or BAD_FRAME. Source: CON-10, CON-13 to CON-16.
    """
    if len(frame) > MAX_FRAME_BYTES:
        raise FrameError(TOO_LARGE)
    try:
        return _commands.unpack(frame)
    except PackingError as error:
        raise _refusal(frame, COMMANDS.keys(), error) from error


def decode_reply_or_event(frame: bytes | bytearray | memoryview) -> Reply | Event:
    """The reply or event in *frame*; what a client calls. Raises FrameError like decode_command."""
    if len(frame) > MAX_FRAME_BYTES:
        raise FrameError(TOO_LARGE)
    try:
        return _replies_and_events.unpack(frame)
    except PackingError as error:
        raise _refusal(frame, _numbers_from_server, error) from error


def _refusal(frame: bytes | bytearray | memoryview, known: Set[int], error: PackingError) -> FrameError:
    """Why *frame* was refused, found from its head alone: nothing behind the second field is looked at."""
    number, request = _head(bytes(frame[:16]))
    kind: ErrorKind = BAD_FRAME
    if number is not None and number not in known:
        kind = UNKNOWN_TYPE
    in_range = request is not None and 1 <= request <= _MAX_REQUEST_ID
    return FrameError(kind, request=request if in_range and request else 0, detail=str(error)[:200])


def _head(start: bytes) -> tuple[int | None, int | None]:
    """Message number and request id from the first bytes of a MessagePack array; None for what is not there."""
    if not start:
        return None, None
    first = start[0]
    if 0x90 <= first <= 0x9F:
        fields, at = first & 0x0F, 1
    elif first == 0xDC:
        fields, at = int.from_bytes(start[1:3], "big"), 3
    elif first == 0xDD:
        fields, at = int.from_bytes(start[1:5], "big"), 5
    else:
        return None, None
    number, at = _whole_number(start, at) if fields > 0 else (None, at)
    request, at = _whole_number(start, at) if fields > 1 and number is not None else (None, at)
    return number, request


def _whole_number(start: bytes, at: int) -> tuple[int | None, int]:
    """The unsigned MessagePack number at *at*, and the place behind it."""
    if at >= len(start):
        return None, at
    first = start[at]
    if first <= 0x7F:
        return first, at + 1
    size = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}.get(first, 0)
    end = at + 1 + size
    if size == 0 or end > len(start):
        return None, at
    return int.from_bytes(start[at + 1 : end], "big"), end
