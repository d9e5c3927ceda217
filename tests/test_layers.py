"""The shape of the code, kept true: who may import whom, what stays pure, who owns which dependency, honest heads."""

import ast
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src"

FLOORS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli",),
    ("commands", "operate", "testing"),
    ("terminal",),
    ("server.app", "server.admin", "server.doctor"),
    ("server.ops.waking",),
    ("server.ops.lifecycle", "server.ops.workers", "server.backup"),
    ("server.folder",),
    ("server.config",),
    ("server.gateway.listener",),
    ("server.gateway.websocket",),
    ("server.gateway.dispatch", "server.gateway.blobs"),
    ("server.gateway.hub",),
    ("server.gateway.connection",),
    (
        "server.stores.objects",
        "server.stores.sqlite",
        "server.stores.memory",
        "server.secrets",
        "server.ops.observe",
        "server.pages",
        "server.providers.*",
    ),
    ("server.stores.tables", "server.stores.schema"),
    ("server.services.*",),
    ("server.limits",),
    ("server.ports",),
    ("server.ledger", "server.clock", "server.certificate"),
    ("client.bot",),
    ("client.account",),
    ("client.sync",),
    ("client.inbox",),
    ("client.rejoin",),
    ("client.files", "client.photos"),
    ("client.contacts",),
    ("client.devices", "client.gates", "client.outbox"),
    ("client.vault", "client.blobs"),
    ("client.transport", "client.network", "client.e2e", "client.store"),
    ("client.home",),
    ("client.events",),
    ("client.content", "client.errors"),
    ("wire.session",),
    ("wire.codec",),
    ("wire.messages",),
    ("wire.errors", "wire.packing", "exits", "shortage"),
    ("",),
)
"""From the roof to the ground: a module imports only what stands on a lower floor, never its neighbours on its own.
`x.*` stands for all modules of a package."""

PURE = ("wire.*", "server.services.*", "server.limits", "client.e2e", "client.content")
IMPURE = frozenset(
    ["asyncio", "socket", "ssl", "sqlite3", "time", "random", "secrets", "threading", "subprocess", "uuid"]
)

OWNERS: dict[str, set[str]] = {
    "aiofastnet": {"server.gateway.listener"},
    "apsw": {"client.store", "server.stores.sqlite"},
    "cryptography": {"server.secrets", "testing"},
    "httpcore": {"server.providers.web_push"},
    "PIL": {"client.photos"},
    "msgspec": {"wire.packing"},
    "picows": {"server.gateway.websocket", "client.transport"},
    "prometheus_client": {"server.ops.observe"},
    "pytest": {"testing"},
    "segno": {"terminal"},
    "uvicorn": {"server.gateway.listener"},
    "uvloop": {"server.app"},
    "wasmtime": {"client.e2e"},
}
"""The modules that may import each dependency: one on each side, which maps its types and errors to ours."""


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE / "taube").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {name_of(path): path for path in sorted((SOURCE / "taube").rglob("*.py"))}
PACKAGES = {name for name, path in FILES.items() if path.name == "__init__.py"}
CODE = {name: path for name, path in FILES.items() if name not in PACKAGES}


def matches(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith(".*") else name == pattern


def floor_of(name: str) -> int | None:
    return next((at for at, floor in enumerate(FLOORS) if any(matches(name, pattern) for pattern in floor)), None)


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere; from our own package without `taube.`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            ours = module == "taube" or module.startswith("taube.")
            found |= {f"{module}.{alias.name}" for alias in node.names} if ours else {module}
    return {own(name) for name in found}


def own(name: str) -> str:
    """A module of ours from what was imported (which may be a name inside it); others unchanged."""
    if name != "taube" and not name.startswith("taube."):
        return name
    inner = name.removeprefix("taube").lstrip(".")
    while inner and inner not in FILES:
        inner = inner.rpartition(".")[0]
    return "taube:" + inner


def ours(path: Path) -> set[str]:
    return {name.removeprefix("taube:") for name in imports(path) if name.startswith("taube:")}


@pytest.mark.parametrize("name", CODE)
def test_a_module_imports_only_what_stands_on_a_lower_floor(name: str) -> None:
    here = floor_of(name)
    assert here is not None, f"{name} has no place in FLOORS: where does it stand, and why?"
    for other in ours(CODE[name]) - {name}:
        there = floor_of(other) if other not in PACKAGES - {""} else None
        assert there is not None, f"{name} imports the package {other}: name the module"
        assert there > here, f"{name} imports {other}, which does not stand below it"
        for one, two in (("server.", "client."), ("client.", "server.")):
            assert not (name.startswith(one) and other.startswith(two)), f"{name} imports {other}"


@pytest.mark.parametrize("name", [name for name in CODE if any(matches(name, pattern) for pattern in PURE)])
def test_a_pure_module_has_no_clock_no_randomness_and_no_sockets(name: str) -> None:
    found = {module.partition(".")[0] for module in imports(CODE[name])} & IMPURE
    assert not found, f"{name} imports {found}: these arrive as arguments"


@pytest.mark.parametrize("name", CODE)
def test_a_dependency_is_imported_by_its_owner_only(name: str) -> None:
    for module in {module.partition(".")[0] for module in imports(CODE[name])}:
        if module in sys.stdlib_module_names or module.startswith("taube:"):
            continue
        assert name in OWNERS.get(module, set()), f"{name} imports {module}, which belongs to {OWNERS.get(module)}"


def test_every_dependency_has_the_owner_that_the_table_names() -> None:
    for module, owners in OWNERS.items():
        for owner in owners & set(CODE):
            assert module in {name.partition(".")[0] for name in imports(CODE[owner])}, f"{owner} needs no {module}"


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_first_what_it_is_for(name: str) -> None:
    text = FILES[name].read_text()
    if not text.strip():
        assert name in PACKAGES
        return
    head = ast.get_docstring(ast.parse(text))
    assert head, f"{name} has no head"
    first = head.split("\n\n")[0].strip()
    assert first.endswith((".", ":")), f"{name}: the head starts with a sentence"
    assert first.count(". ") == 0, f"{name}: the head starts with one sentence, in a paragraph of its own"
