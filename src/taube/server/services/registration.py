"""Ways to get an account; for now one: an invitation, of which the server keeps the hash only.

Source: docs/protocol/identity.md, IDN-30 .. IDN-33.
"""

from hashlib import sha256
from typing import Final

from taube.server.ports import InvitationRow, Invitations, Random
from taube.wire.errors import INVITATION_EXPIRED, INVITATION_UNKNOWN, INVITATION_USED, WireError

DAY_MS: Final = 86_400_000
TOLD_DAYS: Final = 30
"""How long an expired invitation is remembered, so that who follows it is told why it fails."""


def invite(tables: Invitations, uses: int, days: int, now_ms: int, random: Random) -> bytes:
    """Make an invitation for *uses* accounts within *days*: 16 random bytes, which only the link holds."""
    invitation = random(16)
    tables.add_invitation(InvitationRow(sha256(invitation).digest(), uses, now_ms + days * DAY_MS))
    return invitation


def check(tables: Invitations, invitation: bytes, now_ms: int) -> bytes:
    """The hash of an invitation that can be used. Raises INVITATION_UNKNOWN, INVITATION_USED or INVITATION_EXPIRED."""
    digest = sha256(invitation).digest()
    row = tables.invitation(digest)
    if row is None:
        raise WireError(INVITATION_UNKNOWN)
    if row.uses_left < 1:
        raise WireError(INVITATION_USED)
    if row.expires_at_ms <= now_ms:
        raise WireError(INVITATION_EXPIRED)
    return digest


def redeem(tables: Invitations, invitation: bytes, now_ms: int) -> None:
    """Take one use of *invitation*. Raises as `check`."""
    tables.use_invitation(check(tables, invitation, now_ms))


def revoke(tables: Invitations, invitation: bytes) -> bool:
    """Forget an invitation; whether there was one."""
    return tables.remove_invitation(sha256(invitation).digest())


def expire(tables: Invitations, now_ms: int) -> int:
    """Forget invitations that expired more than 30 days ago; how many."""
    return tables.expire_invitations(now_ms - TOLD_DAYS * DAY_MS)
