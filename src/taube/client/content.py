"""Message content as it stands inside the encryption: kinds, their fields and limits, and their bytes.

A content is a MessagePack array `[kind, message id, sequence, sent_at_ms, …fields of the kind]`. Kinds that this
version does not know are kept as `Unknown` with all their bytes, so that a later version can show them; fields that a
newer version appends are ignored. What a content does to the store is `client.sync`'s to decide.
Source: docs/protocol/content.md (CNT-01 ff.).
"""

import re
from typing import Annotated, Final, NamedTuple

from taube.wire.packing import Meta, PackingError, Record, Unpacker, check_depth, pack

MAX_CONTENT_BYTES: Final = 60_000
MAX_TEXT_BYTES: Final = 16_384
MAX_NAME_BYTES: Final = 128
MAX_RECEIPT_IDS: Final = 512
MAX_RESEND_SEQUENCES: Final = 256
MAX_MEDIA_BYTES: Final = 2**30
MAX_MEDIA_TYPE_BYTES: Final = 100
MAX_FILE_NAME_BYTES: Final = 200
MAX_THUMBHASH_BYTES: Final = 64
REPLY_BYTES: Final = 48
MAX_PHOTO_BYTES: Final = 32_768

DELIVERED: Final = 1
READ: Final = 2

MessageId = Annotated[bytes, Meta(min_length=16, max_length=16)]
"""16 random bytes, the same when a message is protected again."""
Sequence = Annotated[int, Meta(ge=0, le=2**53)]
"""1, 2, 3, … for what a device sends to a chat and a receiver must not miss; 0 for what it may."""
Milliseconds = Annotated[int, Meta(ge=0, le=2**53)]
Reply = Annotated[bytes, Meta(max_length=REPLY_BYTES)]
"""What is answered: message id (16) ‖ account id of its sender (32); empty when it is no answer."""
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Pixels = Annotated[int, Meta(ge=0, le=65_535)]
"""0: not known."""


class ContentError(ValueError):
    """The bytes are no content, or the content breaks a limit; the text names the first thing that is wrong."""


class Text(Record, frozen=True, tag=1):
    """Words for people: 1 to 16,384 bytes of UTF-8."""

    message_id: MessageId
    sequence: Sequence
    sent_at_ms: Milliseconds
    text: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_BYTES)]
    reply_to: Reply = b""


class Receipt(Record, frozen=True, tag=2):
    """These messages of yours are on my device (DELIVERED), or were shown to me (READ)."""

    message_id: MessageId
    sequence: Sequence
    sent_at_ms: Milliseconds
    status: Annotated[int, Meta(ge=DELIVERED, le=READ)]
    messages: Annotated[list[MessageId], Meta(min_length=1, max_length=MAX_RECEIPT_IDS)]


class Typing(Record, frozen=True, tag=3):
    """I am writing, or stopped; sent as an ephemeral envelope only, sequence 0."""

    message_id: MessageId
    sequence: Sequence
    sent_at_ms: Milliseconds
    active: bool


class Profile(Record, frozen=True, tag=4):
    """The name that I go by: 1 to 128 bytes of UTF-8. The receiver may know me by another."""

    message_id: MessageId
    sequence: Sequence
    sent_at_ms: Milliseconds
    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_BYTES)]
    photo: Annotated[bytes, Meta(max_length=MAX_PHOTO_BYTES)] = b""
    """A small picture, JPEG or WebP; empty: none."""


class ResendRequest(Record, frozen=True, tag=5):
    """These of your sequence numbers never came: protect them again under the same message ids."""

    message_id: MessageId
    sequence: Sequence
    sent_at_ms: Milliseconds
    sequences: Annotated[
        list[Annotated[int, Meta(ge=1, le=2**53)]], Meta(min_length=1, max_length=MAX_RESEND_SEQUENCES)
    ]


class Leave(Record, frozen=True, tag=6):
    """I leave this chat: whoever may, remove me."""

    message_id: MessageId
    sequence: Sequence
    sent_at_ms: Milliseconds


class Media(Record, frozen=True, tag=7):
    """A file, sealed in the blob *blob* of the sender's server under *key*; its bytes are fetched when wanted."""

    message_id: MessageId
    sequence: Sequence
    sent_at_ms: Milliseconds
    blob: Bytes32
    """The blob's name."""
    key: Bytes32
    hash: Bytes32
    """SHA-256 of the sealed bytes."""
    size: Annotated[int, Meta(ge=0, le=MAX_MEDIA_BYTES)]
    """Bytes of the file before it was sealed."""
    media_type: Annotated[str, Meta(min_length=1, max_length=MAX_MEDIA_TYPE_BYTES)]
    """Such as image/jpeg; what the sender claims."""
    width: Pixels = 0
    height: Pixels = 0
    thumbhash: Annotated[bytes, Meta(max_length=MAX_THUMBHASH_BYTES)] = b""
    caption: Annotated[str, Meta(max_length=MAX_TEXT_BYTES)] = ""
    reply_to: Reply = b""
    name: Annotated[str, Meta(max_length=MAX_FILE_NAME_BYTES)] = ""
    """The file's name; what the sender claims."""


class Unknown(NamedTuple):
    """A kind that this version does not know: its header as far as it could be read, and all of its bytes."""

    kind: int
    message_id: bytes
    sequence: int
    sent_at_ms: int
    raw: bytes


class _Header(Record, frozen=True):
    kind: Annotated[int, Meta(ge=0, le=2**32)]
    message_id: MessageId
    sequence: Sequence
    sent_at_ms: Milliseconds


Known = Text | Receipt | Typing | Profile | ResendRequest | Leave | Media
Content = Known | Unknown

_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*")
"""A media type of RFC 6838 in small letters, without parameters."""

_header: Final = Unpacker(_Header)
_kinds: Final[dict[int, Unpacker[Known]]] = {
    1: Unpacker[Known](Text),
    2: Unpacker[Known](Receipt),
    3: Unpacker[Known](Typing),
    4: Unpacker[Known](Profile),
    5: Unpacker[Known](ResendRequest),
    6: Unpacker[Known](Leave),
    7: Unpacker[Known](Media),
}


def encode(content: Content) -> bytes:
    """The bytes of *content*. Raises ContentError when it breaks a limit: what is sent can always be read again."""
    if isinstance(content, Unknown):
        return content.raw
    try:
        data = pack(content)
    except UnicodeEncodeError as error:
        raise ContentError("text is not Unicode") from error
    decode(data)
    return data


def decode(data: bytes) -> Content:
    """The content in *data*: 1 to 60,000 bytes. Raises ContentError for anything that no version could have sent."""
    if len(data) > MAX_CONTENT_BYTES:
        raise ContentError(f"content of {len(data)} bytes is above the limit of {MAX_CONTENT_BYTES}")
    try:
        header = _header.unpack(data)
        check_depth(data)
        unpacker = _kinds.get(header.kind)
        if unpacker is None:
            return Unknown(header.kind, header.message_id, header.sequence, header.sent_at_ms, data)
        content = unpacker.unpack(data)
    except PackingError as error:
        raise ContentError(str(error)) from error
    _check(content)
    return content


def _check(content: Known) -> None:
    """The limits that are counted in bytes of UTF-8, and those between fields."""
    if isinstance(content, Text) and _size(content.text) > MAX_TEXT_BYTES:
        raise ContentError(f"text is above the limit of {MAX_TEXT_BYTES} bytes")
    if isinstance(content, Profile) and _size(content.name) > MAX_NAME_BYTES:
        raise ContentError(f"name is above the limit of {MAX_NAME_BYTES} bytes")
    if isinstance(content, Profile) and content.photo and not is_photo(content.photo):
        raise ContentError("the photo is neither JPEG nor WebP")
    if isinstance(content, Text | Media) and len(content.reply_to) not in (0, REPLY_BYTES):
        raise ContentError(f"a reply names {REPLY_BYTES} bytes, or none")
    if isinstance(content, Media):
        _check_media(content)
    if isinstance(content, Typing) and content.sequence != 0:
        raise ContentError("typing has no sequence number")


def is_photo(data: bytes) -> bool:
    """Whether *data* begins as a JPEG or WebP picture does."""
    return data.startswith(b"\xff\xd8\xff") or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


def _check_media(media: Media) -> None:
    for what, text, most in (
        ("media type", media.media_type, MAX_MEDIA_TYPE_BYTES),
        ("caption", media.caption, MAX_TEXT_BYTES),
        ("file name", media.name, MAX_FILE_NAME_BYTES),
    ):
        if _size(text) > most:
            raise ContentError(f"{what} is above the limit of {most} bytes")
    if not _MEDIA_TYPE.fullmatch(media.media_type):
        raise ContentError("the media type is none")


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
