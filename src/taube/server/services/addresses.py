"""Sealed addresses: minted for a device, opened for a sender, revoked one by one.

The server stores no address: an address is mailbox id and serial, sealed by a key of the server (`Sealer`). What it
stores is the revoked serials of each mailbox; when they become too many, the mailbox gets a new id, which ends every
address that was given out before, and the device is asked to mint new ones.

This file does not know the cipher (secrets.py) or how live mailboxes remember revocations (mailboxes.py).
Source: docs/protocol/delivery.md, DEL-01 .. DEL-05.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from taube.server.ledger import told
from taube.server.ports import MailboxId, QueueNumber, Random, Revocations
from taube.wire.errors import RATE_LIMITED, WireError
from taube.wire.messages import MintedAddress, SealedAddress, Serial

MAX_REVOKED = 10_000
REVOKED_SLACK = 2_000


class Sealer(Protocol):
    """Seals and opens addresses with the server's address keys (implemented by secrets.AddressKeys)."""

    def seal(self, mailbox: bytes, serial: bytes) -> bytes:
        """41 bytes under the current key."""

    def open(self, address: bytes) -> tuple[bytes, bytes] | None:
        """(mailbox id, serial), or None for what no key of this server sealed."""


class Opened(NamedTuple):
    """What stands in a sealed address."""

    mailbox: MailboxId
    serial: Serial


def mint(seal: Callable[[bytes, bytes], bytes], mailbox: MailboxId, count: int, random: Random) -> list[MintedAddress]:
    """So many fresh addresses of *mailbox*, each with its own random serial. Touches no store."""
    serials = random(8 * count)
    return [
        MintedAddress(seal(mailbox, serial), serial)
        for serial in (serials[at : at + 8] for at in range(0, len(serials), 8))
    ]


def minted(tables: Revocations, queue: QueueNumber) -> None:
    """The device has answered the request to mint anew (job of a MintAddresses while *remint* stands)."""
    tables.clear_remint(queue)


def revoke(tables: Revocations, queue: QueueNumber, serial: bytes) -> None:
    """Refuse what is sent to this serial from now on. Idempotent.

    Raises RATE_LIMITED when so many were revoked that the mailbox has to be renewed first, at the next login.
    """
    if tables.is_revoked(queue, serial):
        return
    if tables.revoked_count(queue) >= MAX_REVOKED + REVOKED_SLACK:
        raise WireError(RATE_LIMITED, retry_after_ms=60_000, detail="Too many revoked addresses: log in again.")
    tables.revoke(queue, serial)


def knows(tables: Revocations, queue: QueueNumber, most: int) -> list[str]:
    """What is held of a mailbox's revoked addresses, in words; at most *most* of them by their serials."""
    serials = [serial.hex() for serial in tables.revoked_serials(queue, most)]
    count = tables.revoked_count(queue)
    return told(f"{count} revoked serials", serials, count)


def needs_renewal(tables: Revocations, queue: QueueNumber) -> bool:
    """Whether the mailbox has so many revoked serials that it shall get a new id at this login."""
    return tables.revoked_count(queue) >= MAX_REVOKED


def renew(tables: Revocations, queue: QueueNumber, random: Random) -> MailboxId:
    """Give the mailbox a new id. Its envelopes stay; all its addresses end; the device is asked to mint new ones."""
    mailbox = MailboxId(random(16))
    tables.renew_mailbox(queue, mailbox)
    return mailbox


def open_live(tables: Revocations, sealer: Sealer, address: SealedAddress) -> Opened | None:
    """What stands in *address* if its mailbox lives and the serial is not revoked (for claims of key packages)."""
    opened = sealer.open(address)
    if opened is None:
        return None
    device = tables.device_at(MailboxId(opened[0]))
    if device is None or tables.is_revoked(device.queue, opened[1]):
        return None
    return Opened(device.mailbox, Serial(opened[1]))
