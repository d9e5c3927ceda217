"""The server's few cryptographic primitives: the one importer of `cryptography`, given to services as arguments.

AES-SIV (RFC 5297) seals addresses; Ed25519 (RFC 8032) verifies signatures. Nothing else is needed, nothing is signed.
Source: docs/protocol/delivery.md, DEL-01, DEL-02.
"""

from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

KEY_BYTES: Final = 64
ADDRESS_BYTES: Final = 41
_MAILBOX_BYTES: Final = 16


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether *signature* over *message* is by *public_key* (Ed25519). False for keys or signatures of a wrong form."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class AddressKeys:
    """Seals addresses under the newest address key, opens them under every key that is not retired for too long.

    An address is key version (1 byte) ‖ AES-SIV(key, mailbox id (16) ‖ serial (8)): 41 bytes.
    """

    def __init__(self, keys: Mapping[int, bytes], current: int) -> None:
        """*keys*: version 0 .. 255 -> 64 bytes; *current*: the version that seals."""
        self.renew(keys, current)

    def renew(self, keys: Mapping[int, bytes], current: int) -> None:
        """Use these keys from now on, and no others."""
        self._ciphers = {version: AESSIV(key) for version, key in keys.items()}
        self._seal = self._ciphers[current].encrypt
        self._version = bytes([current])

    def seal(self, mailbox: bytes, serial: bytes) -> bytes:
        """The address of *mailbox* (16 bytes) with *serial* (8 bytes). The same again for the same arguments."""
        return self._version + self._seal(mailbox + serial, None)

    def open(self, address: bytes) -> tuple[bytes, bytes] | None:
        """(mailbox id, serial), or None for an address that was altered or that this server did not seal."""
        cipher = self._ciphers.get(address[0]) if len(address) == ADDRESS_BYTES else None
        if cipher is None:
            return None
        try:
            plain = cipher.decrypt(address[1:], None)
        except InvalidTag:
            return None
        return plain[:_MAILBOX_BYTES], plain[_MAILBOX_BYTES:]
