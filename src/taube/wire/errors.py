"""Every numbered error that may travel in a frame: number, name, whose fault, whether to retry, and what it means.

    TaubeError
    ├── WireError            a refusal that travels as `Failed`; carries an ErrorKind
    └── FrameError           the peer's bytes are no message; `WireError` with the kind to answer

Numbers and names are API and never reused; the texts are for people and may improve. An error never carries anything
about a person: no id, address, name or content. Source: docs/protocol/connection.md, "Errors".
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Fault(Enum):
    """Who has to change something before the same request can succeed."""

    CALLER = "caller"
    RESOURCE = "resource"
    SERVER = "server"


class Retry(Enum):
    """Whether the same request may be sent again."""

    NEVER = "never"
    LATER = "later"
    AFTER_CHANGE = "after a change"


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """One row of the catalogue."""

    code: int
    name: str
    fault: Fault
    retry: Retry
    meaning: str
    closes: bool = False


_C, _R, _S = Fault.CALLER, Fault.RESOURCE, Fault.SERVER
_NEVER, _LATER, _CHANGE = Retry.NEVER, Retry.LATER, Retry.AFTER_CHANGE

BAD_FRAME: Final = ErrorKind(1, "bad_frame", _C, _NEVER, "The frame is not a message of this protocol.")
UNKNOWN_TYPE: Final = ErrorKind(2, "unknown_type", _C, _NEVER, "This server does not know that kind of frame.")
TOO_LARGE: Final = ErrorKind(3, "too_large", _C, _NEVER, "The frame is larger than 128 KiB.", closes=True)
NO_COMMON_VERSION: Final = ErrorKind(
    4,
    "no_common_version",
    _C,
    _CHANGE,
    "Client and server share no protocol version: one of them needs an update.",
    closes=True,
)
OUT_OF_ORDER: Final = ErrorKind(
    5, "out_of_order", _C, _NEVER, "That command is not allowed in this state of the connection."
)
RATE_LIMITED: Final = ErrorKind(6, "rate_limited", _R, _LATER, "Too many requests: wait as long as the answer says.")
BUSY: Final = ErrorKind(7, "busy", _S, _LATER, "The server is at its limit: wait as long as the answer says.")
DRAINING: Final = ErrorKind(8, "draining", _S, _LATER, "The server is about to stop: connect again.", closes=True)
INTERNAL: Final = ErrorKind(9, "internal", _S, _LATER, "The server met an error of its own and did nothing.")
STORAGE: Final = ErrorKind(
    10, "storage", _S, _LATER, "The server cannot write its storage at the moment; nothing was kept."
)
REPLACED: Final = ErrorKind(11, "replaced", _R, _NEVER, "A newer connection of the same device took over.", closes=True)
IDLE: Final = ErrorKind(12, "idle", _C, _LATER, "The connection was silent for too long.", closes=True)

LOGIN_REFUSED: Final = ErrorKind(
    20, "login_refused", _C, _CHANGE, "The signature, the device or the account is not known here."
)
DEVICE_REVOKED: Final = ErrorKind(
    21, "device_revoked", _C, _CHANGE, "The account's device list no longer names this device."
)
INVITATION_UNKNOWN: Final = ErrorKind(22, "invitation_unknown", _C, _CHANGE, "This server knows no such invitation.")
INVITATION_USED: Final = ErrorKind(23, "invitation_used", _C, _CHANGE, "The invitation has been used up.")
INVITATION_EXPIRED: Final = ErrorKind(24, "invitation_expired", _C, _CHANGE, "The invitation has expired.")
STATEMENT_INVALID: Final = ErrorKind(
    25, "statement_invalid", _C, _NEVER, "Genesis statement or device list is not valid."
)
LIST_OUTDATED: Final = ErrorKind(
    26, "list_outdated", _C, _CHANGE, "The server holds a device list with the same or a higher counter."
)
ACCOUNT_UNKNOWN: Final = ErrorKind(27, "account_unknown", _C, _CHANGE, "This server knows no such account.")
MARK_DIFFERS: Final = ErrorKind(
    28, "mark_differs", _C, _CHANGE, "Another copy of this device was used, or an older state of it came back."
)

ADDRESS_GONE: Final = ErrorKind(
    40, "address_gone", _R, _NEVER, "The address was revoked, altered, or is not of this server."
)
NO_KEY_PACKAGE: Final = ErrorKind(
    41, "no_key_package", _R, _LATER, "The device has published no key package of that suite."
)
TOO_MANY_KEY_PACKAGES: Final = ErrorKind(
    42, "too_many_key_packages", _C, _CHANGE, "The device has as many key packages here as it may."
)
PUSH_REFUSED: Final = ErrorKind(43, "push_refused", _C, _CHANGE, "The server sends no push to that address.")

BLOB_BAD_REQUEST: Final = ErrorKind(50, "blob_bad_request", _C, _NEVER, "The request for a blob lacks a field.")
BLOB_SECRET_WRONG: Final = ErrorKind(51, "blob_secret_wrong", _C, _NEVER, "Only who has its secret writes a blob.")
BLOB_UNKNOWN: Final = ErrorKind(
    52, "blob_unknown", _R, _NEVER, "There is no such blob: it was never finished, or its time is over."
)
BLOB_CONFLICT: Final = ErrorKind(
    53, "blob_conflict", _C, _CHANGE, "The upload stands at another offset: go on from the one in the answer."
)
BLOB_TOO_LARGE: Final = ErrorKind(54, "blob_too_large", _C, _NEVER, "The blob is larger than this server takes.")
NO_ROOM: Final = ErrorKind(
    55, "no_room", _S, _LATER, "The server has no room for files at the moment; messages go on without."
)

CATALOGUE: Final[dict[int, ErrorKind]] = {
    kind.code: kind for kind in list(globals().values()) if isinstance(kind, ErrorKind)
}


class TaubeError(Exception):
    """Base of every error that Taube raises on purpose."""


class WireError(TaubeError):
    """A refusal as it travels: its kind, when to try again (milliseconds), and a detail without personal facts."""

    def __init__(self, kind: ErrorKind, *, retry_after_ms: int = 0, detail: str = "") -> None:
        super().__init__(f"{kind.name}: {detail or kind.meaning}")
        self.kind = kind
        self.retry_after_ms = retry_after_ms
        self.detail = detail


class FrameError(WireError):
    """Bytes that are no message. *request* is the request id if it could still be read, else 0."""

    def __init__(self, kind: ErrorKind, *, request: int = 0, detail: str = "") -> None:
        super().__init__(kind, detail=detail)
        self.request = request
