"""Blobs: what their names, lengths, days and ranges mean, and whether there is room for one more.

A blob is named by the hash of a secret that only its uploader has, is written once, from its first byte to its last,
and is forgotten on a day that was settled when it began. Everything here is arithmetic over what the store tells; the
bytes pass elsewhere (gateway/blobs.py), and nothing knows who sends or reads them.

Source: docs/protocol/delivery.md, BLB-01 .. BLB-11.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from taube.server.ports import BlobState, room_of
from taube.wire.errors import BLOB_BAD_REQUEST, BLOB_TOO_LARGE, NO_ROOM, WireError

PREFIX: Final = "/v1/blobs/"
MIN_SEALED_BYTES: Final = 272
"""The smallest sealed file: one chunk of 256 bytes and its tag."""
UNFINISHED_DAYS: Final = 2
FEWEST_DAYS: Final = 2
NO_ROOM_MS: Final = 3_600_000
MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class BlobSettings:
    """What blobs may cost."""

    blob_bytes: int = 65 * MIB
    """The largest blob: a file of 64 MiB, and what sealing adds. No more than `total_bytes`."""
    total_bytes: int = 20_480 * MIB
    """All blobs together, each as 16 KiB at least, with what was announced and has not come yet; above it, uploads are
    refused."""
    keep_free_bytes: int = 512 * MIB
    """What uploads leave free on the disk, so that messages go on when blobs no longer can."""
    days: int = 45
    """The longest that a blob is kept, and how long it is kept when its uploader does not ask for less: 2 to 45."""
    transfers: int = 256
    """Uploads and downloads at once."""
    transfers_per_source: int = 32
    """Of them, those of one IPv4 address or one IPv6 /64 network."""
    idle_s: float = 30.0
    """A peer that moves no byte for so long is cut off."""
    slowest_bytes_per_s: int = 4096
    """A peer that is slower than this on the whole is cut off."""
    request_s: float = 600.0
    """Time for one request; whoever needs longer goes on with another one."""
    checkpoint_bytes: int = 4 * MIB
    """How much of an upload is made durable at once."""


class Range(NamedTuple):
    """Bytes of a blob: from *start*, so many. *is_part*: whether that was asked for as a range."""

    start: int
    size: int
    is_part: bool


_RANGE: Final = re.compile(r"bytes=[ \t]*(\d{0,19})-(\d{0,19})[ \t]*", re.ASCII)
_NUMBER: Final = re.compile(r"\d{1,15}", re.ASCII)


def name_of(text: str) -> bytes | None:
    """The 32 bytes in 43 characters of unpadded base64url; None for anything else, another way to write them too."""
    if len(text) != 43:
        return None
    try:
        raw = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if base64.urlsafe_b64encode(raw).decode().rstrip("=") == text else None


def opens(secret: bytes, name: bytes) -> bool:
    """Whether *secret* is the upload secret of *name*. Source: BLB-01."""
    return hashlib.sha256(secret).digest() == name


def number(text: str | None, least: int, most: int) -> int:
    """A decimal number in these bounds. Raises WireError."""
    if text is None or not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise WireError(BLOB_BAD_REQUEST)
    return int(text)


def range_of(field: str | None, size: int) -> Range | Literal["unsatisfiable"]:
    """What a `Range` field asks for of *size* bytes; all of them if there is none, or none that we understand.

    Source: BLB-07; RFC 9110, section 14.
    """
    whole = Range(0, size, False)
    match = _RANGE.fullmatch(field) if field is not None else None
    if match is None or match.groups() == ("", ""):
        return whole
    first, last = match.groups()
    if not first:
        wanted = min(int(last), size)
        return Range(size - wanted, wanted, True) if wanted else "unsatisfiable"
    start = int(first)
    if last and int(last) < start:
        return whole
    if start >= size:
        return "unsatisfiable"
    end = min(int(last), size - 1) if last else size - 1
    return Range(start, end - start + 1, True)


def last_day(today: int, days: int, settings: BlobSettings) -> int:
    """The first day on which a blob that begins *today* is gone. Source: BLB-06."""
    return today + max(FEWEST_DAYS, min(days, settings.days))


def is_readable(state: BlobState | None, today: int) -> bool:
    """Whether readers may have it: complete, and its day has not come."""
    return state is not None and state.is_complete and today < state.ends_day


def check_length(length: int, settings: BlobSettings) -> None:
    """Raises BLOB_TOO_LARGE."""
    if length > settings.blob_bytes:
        raise WireError(BLOB_TOO_LARGE)


def check_room(length: int, used: int, free: int, settings: BlobSettings) -> None:
    """Raises NO_ROOM if *length* bytes more are too many for the room of blobs, or for the disk. Source: BLB-10."""
    if used + room_of(length) > settings.total_bytes:
        raise WireError(NO_ROOM, retry_after_ms=NO_ROOM_MS)
    check_disk(length, free, settings)


def check_disk(size: int, free: int, settings: BlobSettings) -> None:
    """Raises NO_ROOM if *size* bytes more would leave too little of the disk. Source: BLB-10."""
    if free - size < settings.keep_free_bytes:
        raise WireError(NO_ROOM, retry_after_ms=NO_ROOM_MS)


def is_too_slow(moved: int, took_s: float, settings: BlobSettings) -> bool:
    """Whether a peer that moved so many bytes in so many seconds is cut off. Source: BLB-09."""
    return took_s > settings.idle_s + moved / max(1, settings.slowest_bytes_per_s)
