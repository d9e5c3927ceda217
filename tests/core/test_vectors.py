"""Vectors of the core that do not depend on randomness, for every host alike: tests/vectors/core.json."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from taube.client.e2e import DEVICE_SCOPE, Core
from taube.wire.packing import pack
from tests.core.people import CACHE
from tests.core.test_blobs import seal_file
from tests.core.test_identity import Forge
from tests.spec import spec

PATH = Path(__file__).resolve().parents[1] / "vectors" / "core.json"
SIZES = [0, 1, 255, 256, 257, 300, 512, 513, 1000, 4095, 4096, 5000, 32_768, 40_000, 65_535, 65_536, 1_000_000]
DEVICE = [bytes([16]) * 16, bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32]
ORIGIN, NONCE = "https://taube.example:8443", bytes(range(32))


def core() -> Core:
    """A core whose device has secrets that everyone knows."""
    core = Core(bytes, CACHE)
    core.load(DEVICE_SCOPE, [(DEVICE_SCOPE, pack(DEVICE))])
    return core


def certificates() -> list[dict[str, Any]]:
    forge = Forge()
    account, recovery, second, third, _ = forge.keys
    chain = [forge.succession(second, account), forge.succession(third, recovery)]
    made = [
        forge.certificate(),
        forge.certificate(counter=2**40, devices=3),
        forge.certificate(by=third, successions=chain),
    ]
    found = []
    for certificate in made:
        info = core().check_certificate(certificate)
        found.append(
            {
                "certificate": certificate.hex(),
                "genesis": forge.genesis.hex(),
                "account_id": info.account_id.hex(),
                "counter": info.counter,
                "account_key": info.account_key.hex(),
                "devices": [[part.hex() for part in device] for device in info.devices],
            }
        )
    return found


FILES = [0, 1, 255, 256, 1_000, 65_520, 65_536, 65_537, 200_000, 700_001]
BLOB_KEY = bytes(range(100, 132))


def pattern(size: int) -> bytes:
    """A file that everyone can make: byte *n* is n modulo 251."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def blobs() -> list[dict[str, Any]]:
    found = []
    for size in FILES:
        sealed = seal_file(core(), BLOB_KEY, pattern(size))
        whole = b"".join(sealed)
        found.append(
            {
                "size": size,
                "key": BLOB_KEY.hex(),
                "chunk_sizes": [len(chunk) for chunk in sealed],
                "chunk_tags": [chunk[-16:].hex() for chunk in sealed],
                "sealed_size": len(whole),
                "sealed_sha256": hashlib.sha256(whole).hexdigest(),
                "sealed": whole.hex() if len(whole) < 2_000 else None,
            }
        )
    return found


def vectors() -> dict[str, Any]:
    proven = certificates()
    mine, theirs = (bytes.fromhex(proven[at]["certificate"]) for at in (0, 2))
    return {
        "padme": [[size, core().padded_size(size)] for size in SIZES],
        "certificates": proven,
        "safety_number": [mine.hex(), theirs.hex(), core().safety_number(mine, theirs)],
        "login": {
            "device_secrets": [part.hex() for part in DEVICE],
            "origin": ORIGIN,
            "nonce": NONCE.hex(),
            "signature": core().login_signature(ORIGIN, NONCE).hex(),
        },
        "blobs": {"about": "byte n of each file is n modulo 251; see CNT-40", "files": blobs()},
    }


@spec("GRP-01", "GRP-03", "GRP-04", "ENV-01", "CNT-40")
def test_the_core_gives_what_the_vectors_say() -> None:
    if "TAUBE_WRITE_VECTORS" in os.environ:
        PATH.write_text(json.dumps(vectors(), indent=1) + "\n")
    assert json.loads(PATH.read_text()) == json.loads(json.dumps(vectors())), "TAUBE_WRITE_VECTORS=1 writes them anew"
