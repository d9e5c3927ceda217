"""The shape of the phone app, kept true: which room may use which, who owns which library, honest heads."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "web" / "src"
FILES = {
    path.relative_to(WEB).as_posix(): path
    for path in sorted(WEB.rglob("*"))
    if path.suffix in (".ts", ".tsx") and not path.name.endswith(".d.ts")
}

USES: dict[str, set[str]] = {
    "bytes": set(),
    "wire/": {"bytes", "wire/"},
    "client/": {"bytes", "wire/", "client/"},
    "model/": {"client/api", "platform", "model/"},
    "ui/": {"client/api", "platform", "model/", "ui/"},
}
"""What each room may import of ours: the engine knows no screen, the screens know the engine by client/api alone. What
stands beside the rooms (workers, main, platform) puts them together."""

NO_SCREEN = re.compile(r"\b(document|window|localStorage|sessionStorage)\.")
"""What there is on a page only; the engine runs in a worker."""

OWNERS: dict[str, set[str]] = {
    "@formatjs/icu-messageformat-parser": set(),
    "@preact/signals": {"model/", "ui/", "main.tsx"},
    "@tanstack/virtual-core": {"ui/virtual.ts"},
    "idb": {"client/database.ts"},
    "intl-messageformat": {"model/i18n.ts"},
    "preact": {"ui/", "main.tsx"},
    "qr": {"platform.ts"},
    "thumbhash": {"platform.ts", "ui/picture.tsx"},
    "uqr": {"ui/qr.tsx"},
    "vite": set(),
}
"""The files (or rooms) that may import each library that the app is made of."""


MADE_BY_THE_BUILD = ("npm:taube_core", "npm:catalogue:")


def imports(name: str) -> set[str]:
    """What a file imports: ours as paths below src/ without ending, libraries by the name of their package."""
    text = FILES[name].read_text()
    found = set()
    for target in re.findall(
        r"^(?:import|export)\b(?:[^;\"]*\bfrom)? ?\"([^\"]+)\"|\bimport\(\"([^\"]+)\"\)", text, re.M
    ):
        target = target[0] or target[1]
        if target.startswith("."):
            parts = [*Path(name).parent.parts, *target.partition("?")[0].split("/")]
            while ".." in parts:
                at = parts.index("..")
                del parts[at - 1 : at + 1]
            found.add(re.sub(r"\.tsx?$", "", "/".join(part for part in parts if part != ".")))
        else:
            found.add("npm:" + "/".join(target.split("/")[: 2 if target.startswith("@") else 1]))
    return found


def room_of(name: str) -> str | None:
    stem = re.sub(r"\.tsx?$", "", name)
    return next((room for room in USES if stem == room or (room.endswith("/") and stem.startswith(room))), None)


@pytest.mark.parametrize("name", [name for name in FILES if room_of(name) is not None])
def test_a_room_uses_only_what_stands_below_it(name: str) -> None:
    allowed = USES[str(room_of(name))]
    for other in imports(name):
        if other.startswith("npm:") or other.endswith(".css") or other.startswith("i18n/"):
            continue
        assert any(other == each or (each.endswith("/") and other.startswith(each)) for each in allowed), (
            f"{name} imports {other}"
        )


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith(("wire/", "client/", "model/"))])
def test_what_runs_in_a_worker_or_is_a_model_knows_no_page(name: str) -> None:
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", FILES[name].read_text(), flags=re.DOTALL)
    assert NO_SCREEN.findall(code) == []


@pytest.mark.parametrize("name", FILES)
def test_a_library_is_imported_by_its_owner_only(name: str) -> None:
    for module in imports(name):
        if module.startswith("npm:") and not module.startswith(MADE_BY_THE_BUILD):
            owners = OWNERS.get(module.removeprefix("npm:"), set())
            assert any(name == owner or (owner.endswith("/") and name.startswith(owner)) for owner in owners), (
                f"{name} imports {module}, which belongs to {owners or 'nobody'}"
            )


def test_every_library_of_the_app_has_owners() -> None:
    assert set(json.loads((WEB.parent / "package.json").read_text())["dependencies"]) == set(OWNERS)


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_first_what_it_is_for(name: str) -> None:
    head = re.match(r"/\*\*(.*?)\*/", FILES[name].read_text(), re.DOTALL)
    assert head, f"{name} has no head"
    text = re.sub(r"^\s*\* ?", "", head[1], flags=re.MULTILINE).strip()
    first = " ".join(text.split("\n\n")[0].split())
    assert first.endswith((".", ":")), f"{name}: the head starts with a sentence"
