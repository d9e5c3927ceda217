"""Looks for planted words in every byte that a server wrote, also where hex, base64, JSON or UTF-16 would hide them."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path


def disguises(canary: str | bytes) -> list[bytes]:
    """The forms in which *canary* might stand in a file."""
    plain = canary.encode() if isinstance(canary, str) else canary
    forms = [plain, plain.hex().encode(), plain.hex().upper().encode()]
    for shift in range(3):  # base64 of the middle of something longer
        encoded = base64.b64encode(bytes(shift) + plain)
        inner = encoded[-(-shift * 8 // 6) : len(encoded) - 4]
        if len(inner) >= 8:
            forms += [inner, inner.replace(b"+", b"-").replace(b"/", b"_")]
    if isinstance(canary, str):
        forms += [json.dumps(canary)[1:-1].encode(), canary.encode("utf-16-le"), canary.encode("utf-16-be")]
    return forms


def scan_for(canaries: Mapping[str, str | bytes], *folders: Path) -> list[tuple[str, Path]]:
    """(name of the canary, file) for each found in any file under *folders*, or in a file's name."""
    forms = {name: disguises(canary) for name, canary in canaries.items()}
    found: list[tuple[str, Path]] = []
    for folder in folders:
        for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
            content = path.name.encode() + b"\0" + (path.read_bytes() if path.is_file() else b"")
            found += [(name, path) for name, each in forms.items() if any(form in content for form in each)]
    return found
