"""The server's few cryptographic primitives: the one importer of `cryptography`, given to services as arguments.

AES-SIV (RFC 5297) seals addresses; Ed25519 (RFC 8032) verifies signatures; for push services, ECDSA P-256 signs who
this server is (VAPID, RFC 8292), and what wakes a browser is encrypted to it (RFC 8291). Nothing else is needed.
Source: docs/protocol/delivery.md, DEL-01, DEL-02, WAK-05.
"""

import base64
import json
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KEY_BYTES: Final = 64
ADDRESS_BYTES: Final = 41
_MAILBOX_BYTES: Final = 16
PUSH_RECORD_BYTES: Final = 4_096


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


class PushKey:
    """The P-256 key by which this server names itself to push services. Source: RFC 8292."""

    def __init__(self, private: bytes) -> None:
        """*private*: 32 bytes, as `make` gives them."""
        self._key = ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256R1())
        self.public = _point(self._key.public_key())
        """65 bytes, uncompressed: what a browser is given when it subscribes."""

    @staticmethod
    def make() -> bytes:
        """A new private key, 32 bytes."""
        key = ec.generate_private_key(ec.SECP256R1())
        return key.private_numbers().private_value.to_bytes(32, "big")

    def authorization(self, audience: str, subject: str, expires_at_s: int) -> str:
        """The Authorization header for the push service at the origin *audience*, at most a day ahead of its expiry."""
        head = {"typ": "JWT", "alg": "ES256"}
        claims = {"aud": audience, "exp": expires_at_s, "sub": subject}
        signed = ".".join(_base64(json.dumps(each, separators=(",", ":")).encode()) for each in (head, claims))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return f"vapid t={signed}.{_base64(signature)}, k={_base64(self.public)}"


def encrypt_push(content: bytes, key: bytes, secret: bytes, salt: bytes, private: bytes) -> bytes:
    """*content* as the body of a push (aes128gcm) for the browser with *key* (65 bytes) and *secret* (16 bytes).

    *salt* (16 bytes) and *private* (32 bytes, a P-256 key of `PushKey.make`) are used once. Raises ValueError for a
    key that is no point of the curve. Source: RFC 8291, RFC 8188.
    """
    own = ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256R1())
    public = _point(own.public_key())
    shared = own.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key))
    base = _derive(shared, secret, b"WebPush: info\0" + key + public, 32)
    content_key = _derive(base, salt, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _derive(base, salt, b"Content-Encoding: nonce\0", 12)
    head = salt + PUSH_RECORD_BYTES.to_bytes(4, "big") + bytes([len(public)]) + public
    return head + AESGCM(content_key).encrypt(nonce, content + b"\x02", None)


def _derive(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(key)


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
