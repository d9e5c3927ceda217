"""Typed events that applications receive from `Account.events()`; each is sent after what it tells is in the store.

Everything here is a frozen snapshot: plain values, safe to keep, to compare and to pass between tasks. Times are
milliseconds since 1970 (UTC), as the sender or the server said. This file knows no store and no network.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "media", "notice", "gap", "unknown"]
"""What a message is: text, *media* (a file, perhaps with words), a *notice* of the chat itself (someone joined, a key
changed), a *gap* (something that was sent never arrived), or a kind that this version does not know yet."""

MessageState = Literal["received", "queued", "kept", "delivered", "read", "failed"]
"""A message of someone else is *received*. One's own goes *queued* (in the outbox) → *kept* (the other's mailbox has
it durably) → *delivered* (on the other's device) → *read*; or *failed* when nobody could be reached: it goes
out after all if the other lets this device in again within 30 days."""

ChatState = Literal["open", "request", "blocked"]


@dataclass(frozen=True, slots=True)
class Media:
    """The file of a message, as its sender describes it; `Account.fetch` brings it. *size* in bytes; *width* and
    *height* in pixels, 0 where they are not known; *name* may be empty, and is no path."""

    media_type: str
    size: int
    name: str
    width: int = 0
    height: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat. *id*: 32 hexadecimal digits. *chat*: the chat's id, hexadecimal; *chat_name* and *sender*:
    names as they are shown, the sender's own claim cleaned by the store. *mine*: written by this account. *media*: its
    file, if it has one; *text* is its caption then. *reply_to*: the id of the message that it answers, or empty."""

    id: str
    chat: str
    chat_name: str
    sender: str
    sent_at_ms: int
    kind: Kind
    text: str
    state: MessageState
    mine: bool = False
    media: Media | None = None
    reply_to: str = ""


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A new message is in the store."""

    message: Message


@dataclass(frozen=True, slots=True)
class MessageChanged:
    """The state of one's own message went on: kept, delivered, read or failed."""

    message: Message


@dataclass(frozen=True, slots=True)
class ChatChanged:
    """A chat is new, or its name or state changed. *state* "request": a stranger wrote; accept it or block it."""

    chat: str
    chat_name: str
    state: ChatState


@dataclass(frozen=True, slots=True)
class Typing:
    """Someone is writing, or stopped. Best effort; assume it stopped after ten seconds."""

    chat: str
    sender: str
    active: bool


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about a chat that a person should be told, in plain words: a new device, a changed key, a new start."""

    chat: str
    text: str


@dataclass(frozen=True, slots=True)
class Connected:
    """The device link is up."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Everything that waited in the mailbox when the link came up is in the store."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The device link is down; tried again in *retry_in_s* seconds. *reason* is one sentence for a person."""

    reason: str
    retry_in_s: float


Event = (
    MessageReceived | MessageChanged | ChatChanged | Typing | Notice | Connected | CaughtUp | Disconnected
)  # fmt: skip
