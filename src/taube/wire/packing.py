"""The one place that knows MessagePack: records packed as arrays, and bytes unpacked with every limit checked.

A `Record` packs as a MessagePack array of its fields in order; with a tag, the tag comes first. Fields that a newer
peer appends are ignored when an older one unpacks; fields with a default may be missing. Nothing here knows what a
record means.
"""

from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


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
