"""Puts what Taube needs into `.venv/` and `web/`, from locks, builds the phone app; does nothing when nothing changed.

    python -m scripts.setup run     what the server, the command line and the phone app need
    python -m scripts.setup dev     and what the tests need
    python -m scripts.setup fuzz    and the fuzzer, where there is one

Standard library only. It asks nothing, shows progress on a terminal, and says in one sentence what is missing.
"""

import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys

from scripts.node import (
    INTEROP,
    LOG,
    ROOT,
    VENV,
    WEB,
    SetupFailed,
    build_app,
    install_packages,
    node,
    say,
    system_node,
)

PYTHON = VENV / "bin" / "python"
LOCKS = {"run": ["run.txt"], "dev": ["run.txt", "dev.txt"], "fuzz": ["run.txt", "dev.txt", "fuzz.txt"]}


def fingerprint(level: str) -> str:
    """Changes whenever set-up has something to do: other locks, another Python, a checkout that was moved."""
    parts = [sys.version, str(ROOT), (ROOT / "pyproject.toml").read_text()]
    parts += [read(name) for name in locks(level)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def locks(level: str) -> list[str]:
    """The lock files of a level, and Node's where the machine has none that is new enough."""
    return LOCKS[level] + ([] if system_node() else ["node.txt"])


def link_node() -> None:
    """The Node that we brought is on the path of whatever runs with `.venv/bin` on it."""
    link = VENV / "bin" / "node"
    if system_node():
        link.unlink(missing_ok=True)
    elif not (link.exists() and link.samefile(node())):
        link.unlink(missing_ok=True)
        link.symlink_to(node())


def is_done(level: str) -> bool:
    """Whether an earlier set-up of this level, or of a higher one, still holds; the fuzzer is one of its own."""
    if not PYTHON.exists():
        return False
    if level == "fuzz":
        stamp = VENV / "taube-fuzz.stamp"
        return stamp.exists() and stamp.read_text() == fingerprint(level)
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


def progress(text: str) -> None:
    """Replace the line that shows progress; nothing where output is no terminal."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{text}", end="", flush=True)


def main(arguments: list[str]) -> int:
    """Set up the level named; 0 if all is there."""
    if len(arguments) != 1 or arguments[0] not in LOCKS:
        print("usage: setup.py run|dev|fuzz", file=sys.stderr)
        return 64
    level = arguments[0]
    guard = os.open(ROOT / "requirements", os.O_RDONLY)
    fcntl.flock(guard, fcntl.LOCK_EX)
    try:
        new = not is_done(level)
        if new:
            make_environment()
            LOG.unlink(missing_ok=True)
            install(locks(level))
            (VENV / f"taube-{level}.stamp").write_text(fingerprint(level))
        link_node()
        if level == "dev":
            install_packages(INTEROP, "the interop test", development=True)
        install_packages(WEB, "the phone app", development=level != "run")
        build_app()
        if new:
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
