"""One `taube serve` as a real process: pinned to its core, with a certificate, stopped by its pid whatever happens.

The server runs with its default settings. It ends with this process, even if this process is killed: the kernel
sends it SIGKILL then (PR_SET_PDEATHSIG).
"""

import atexit
import ctypes
import os
import select
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType

from bench import machine

ORIGIN = "https://bench.example"
"""What the server calls itself: logins sign it. Where it listens changes with every start."""
START_TIMEOUT_S = 30.0
_PR_SET_PDEATHSIG = 1
_running: set["Served"] = set()


class Served:
    """A server over *folder*. A context manager: leaving it stops the server, at once after an error."""

    def __init__(self, folder: Path, certificate: tuple[Path, Path], *, origin: str = ORIGIN, port: int = 0) -> None:
        self.folder = folder
        self._certificate = certificate
        self._origin = origin
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.start_s = 0.0

    def start(self) -> "Served":
        """Start, and wait until the server says that it is ready."""
        certificate, key = self._certificate
        host = "127.0.0.1" if self._origin else "localhost"
        command = [
            sys.executable, "-m", "taube", "serve",
            "--data", str(self.folder / "data"), "--listen", f"{host}:{self._port}",
            "--tls-cert", str(certificate), "--tls-key", str(key),
            *(["--url", self._origin] if self._origin else []),
        ]  # fmt: skip
        libc = ctypes.CDLL(None)
        parent = os.getpid()

        def before() -> None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            machine.pin(machine.SERVER_CORE)

        self.folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, preexec_fn=before, start_new_session=True
            )
        _running.add(self)
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], START_TIMEOUT_S)
        line = self._process.stdout.readline() if readable else b""
        self.start_s = time.monotonic() - began
        if not line.startswith(b"ready "):
            self.kill()
            raise RuntimeError(f"the server did not start: {(self.folder / 'server.log').read_text()[-2000:]}")
        self.port = self._find_port()
        return self

    def _find_port(self) -> int:
        """The port on which this process listens besides the one of its metrics."""
        inodes = set()
        for descriptor in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
        ops = int(self.ops_url.rpartition(":")[2])
        for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == "0A" and fields[9] in inodes and port != ops:
                return port
        raise RuntimeError("the server listens on no port")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def ops_url(self) -> str:
        return (self.folder / "data" / "ops").read_text().strip()

    @property
    def tls(self) -> ssl.SSLContext:
        """What a client of this server verifies it with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self._certificate[0])
        return context

    def metrics(self) -> dict[str, float]:
        """What the server says about itself, by name."""
        with urllib.request.urlopen(self.ops_url + "/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def disk_bytes(self) -> int:
        """What the database takes on disk: its file and its write-ahead log."""
        return sum(each.stat().st_size for each in (self.folder / "data").glob("taube.db*"))

    def stop(self) -> None:
        """Ask the server to go, and wait until it has."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._reap()

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self._reap()

    def _reap(self) -> None:
        _running.discard(self)
        if self._process is not None:
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None

    def __enter__(self) -> "Served":
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop() if kind is None else self.kill()


@atexit.register
def kill_all() -> None:
    """Stop every server that was started here and still runs."""
    for served in list(_running):
        served.kill()


def copied(prepared: Path, folder: Path) -> Path:
    """A copy of a prepared server's folder, so that each run begins with the same."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    shutil.copytree(prepared / "data", folder / "data")
    return folder
