"""What an operator has to know of a certificate: when it begins and ends, and its bytes.

Python's TLS tells that of a peer's certificate only, so a server and a client shake hands here, in memory; no library
that parses certificates has to be loaded (one took 9 MB). As a side effect it proves that certificate and key work.
It knows no port and no file but the one that it is given.
"""

import ssl
from pathlib import Path
from typing import Final, NamedTuple

_NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME: one that has expired tells its dates, too."""


class CertificateAbout(NamedTuple):
    """Times are seconds since 1970."""

    not_before_s: float
    not_after_s: float
    der: bytes


WRONG_NAME: Final = (62, 64)
"""X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH: what `verify_code` is for a certificate of others."""
OUT_OF_DATE: Final = (9, 10)
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED, of any certificate of the chain."""
SELF_SIGNED: Final = 18
"""X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT."""


def about(server: ssl.SSLContext, file: Path) -> CertificateAbout:
    """About the certificate in *file*, which *server* shows. Raises ssl.SSLError if it cannot be used for a server."""
    asking = show(server, _believing(file), None)
    found = asking.getpeercert() or {}
    begins, ends = (ssl.cert_time_to_seconds(str(found[name])) for name in ("notBefore", "notAfter"))
    return CertificateAbout(begins, ends, asking.getpeercert(binary_form=True) or b"")


def names(server: ssl.SSLContext, file: Path, host: str) -> bool:
    """Whether the certificate in *file*, which *server* shows, names *host*. Raises as `about`."""
    try:
        show(server, _believing(file), host)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code not in WRONG_NAME:
            raise
        return False
    return True


def show(server: ssl.SSLContext, client: ssl.SSLContext, host: str | None) -> ssl.SSLObject:
    """Show the certificate of *server* to *client*, which looks for *host* in it if given; gives the client's side.

    Raises ssl.SSLCertVerificationError if the client refuses it.
    """
    client.check_hostname = host is not None
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_hostname=host)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    while not _shook_hands(asking):
        _shook_hands(answering)
    return asking


def _believing(file: Path) -> ssl.SSLContext:
    """A client that trusts *file*, whatever its dates."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    client.load_verify_locations(file)
    return client


def _shook_hands(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
