"""The one place that knows MessagePack: records packed as arrays, and bytes unpacked with every limit checked.

A `Record` packs as a MessagePack array of its fields in order; with a tag, the tag comes first. Fields that a newer
peer appends are ignored when an older one unpacks; fields with a default may be missing. Nothing here knows what a
record means.
"""

from typing import Final, Generic, TypeVar

import msgspec

T = TypeVar("T")

MAX_DEPTH: Final = 64
"""So many arrays and maps may stand in one another; the outermost is the first of them."""


class PackingError(ValueError):
    """The bytes are not what they were said to be; the text names the first thing that is wrong."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of everything that is packed: immutable, compared by value, fields in wire order."""


Meta = msgspec.Meta
field = msgspec.field

_encoder = msgspec.msgpack.Encoder()


def pack(value: object) -> bytes:
    """The MessagePack form of *value*: records, lists, tuples, bytes, text, whole numbers, booleans and None."""
    return _encoder.encode(value)


RecordT = TypeVar("RecordT", bound=Record)


def changed(record: RecordT, **fields: object) -> RecordT:
    """*record* with other values in these fields."""
    return msgspec.structs.replace(record, **fields)


def tag_of(kind: type[Record]) -> int:
    """The number that starts every packed record of this *kind*. Raises TypeError for a record without one."""
    tag = kind.__struct_config__.tag
    if not isinstance(tag, int):
        raise TypeError(f"{kind.__name__} has no number")
    return tag


class Unpacker(Generic[T]):
    """Unpacks bytes as one type and checks types, lengths and ranges while doing so."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)

    def unpack(self, data: bytes | bytearray | memoryview) -> T:
        """The value in *data*. Raises PackingError for anything else than exactly one value of this type."""
        try:
            return self._decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise PackingError(str(error)) from error


def check_depth(data: bytes) -> None:
    """Raises PackingError if more than MAX_DEPTH arrays and maps stand in one another in *data*.

    *data* is what an Unpacker took. Known fields nest as deep as their types; this looks at those that it skipped, and
    takes a step in Python for each value: too slow for a server's frames, which hold nothing that is shown to anyone.
    """
    at, left, around = 0, 1, list[int]()
    while left or around:
        if not left:
            left = around.pop()
            continue
        left -= 1
        width, length, values = _FORMS[data[at]]
        at += 1 + width
        if width:
            length += int.from_bytes(data[at - width : at], "big")
        if not values:
            at += length
        elif len(around) == MAX_DEPTH:
            raise PackingError("nested too deeply")
        else:
            around.append(left)
            left = values * length


_OTHER_FORMS: Final = {
    **{0xC4: (1, 0, 0), 0xC5: (2, 0, 0), 0xC6: (4, 0, 0)},  # bytes
    **{0xC7: (1, 1, 0), 0xC8: (2, 1, 0), 0xC9: (4, 1, 0)},  # extensions, each with a byte for its type
    **{0xCA: (0, 4, 0), 0xCB: (0, 8, 0)},  # fractions
    **{0xCC: (0, 1, 0), 0xCD: (0, 2, 0), 0xCE: (0, 4, 0), 0xCF: (0, 8, 0)},  # numbers
    **{0xD0: (0, 1, 0), 0xD1: (0, 2, 0), 0xD2: (0, 4, 0), 0xD3: (0, 8, 0)},  # numbers that may be negative
    **{0xD4: (0, 2, 0), 0xD5: (0, 3, 0), 0xD6: (0, 5, 0), 0xD7: (0, 9, 0), 0xD8: (0, 17, 0)},  # short extensions
    **{0xD9: (1, 0, 0), 0xDA: (2, 0, 0), 0xDB: (4, 0, 0)},  # text
    **{0xDC: (2, 0, 1), 0xDD: (4, 0, 1)},  # arrays
    **{0xDE: (2, 0, 2), 0xDF: (4, 0, 2)},  # maps
}


def _form(mark: int) -> tuple[int, int, int]:
    """What the byte *mark*, which begins a value, says: the bytes that tell a length, what adds to that length, and
    the values that each of it stands for; 0 values: the length is of bytes."""
    if 0x80 <= mark <= 0x8F:
        return 0, mark & 0x0F, 2
    if 0x90 <= mark <= 0x9F:
        return 0, mark & 0x0F, 1
    if 0xA0 <= mark <= 0xBF:
        return 0, mark & 0x1F, 0
    return _OTHER_FORMS.get(mark, (0, 0, 0))


_FORMS: Final = tuple(_form(mark) for mark in range(256))
