"""What tests of Taube and of bots need: a real server on loopback with TLS, people with accounts, and a clock to turn.

Use it as a pytest plugin, `pytest_plugins = ["taube.testing"]`, for the fixtures `taube_server`, `alice` and `bob`
(they have added and accepted each other), or build the same from the classes:

    with temporary_server() as server:
        alice, bob = server.person("alice"), server.person("bob")
        meet(alice, bob)
        alice.run("send", "bob", "hello")

The server is a process of its own (`taube serve`) with a certificate made for it; a person is a home folder, the
command line on it, and `account()` for the SDK. It needs the extra `taube[server]`.
"""

import asyncio
import contextlib
import heapq
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

START_TIMEOUT_S: Final = 30.0
COMMAND_TIMEOUT_S: Final = 60.0
_COMMAND: Final = (sys.executable, "-m", "taube")


class FakeClock:
    """A clock that stands until it is told to advance; `sleep` ends when it has advanced far enough."""

    def __init__(self, start_s: float = 1_800_000_000.0) -> None:
        self._now_s = start_s
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        """Now, in seconds."""
        return self._now_s

    def now_ms(self) -> int:
        """Now, in milliseconds."""
        return int(self._now_s * 1000)

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has advanced by *seconds*."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + seconds, next(self._order), future))
        await future

    def advance(self, seconds: float) -> None:
        """Move the clock on and wake, in order, whoever slept until then."""
        self._now_s += seconds
        while self._sleepers and self._sleepers[0][0] <= self._now_s:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended: exit code, standard output without the last line break, standard error likewise."""

    code: int
    out: str
    err: str

    def json(self) -> list[dict[str, Any]]:
        """The JSON objects of the output, one for each line."""
        return [json.loads(line) for line in self.out.splitlines()]


class CommandFailed(AssertionError):
    """A command that should have succeeded did not; the text has all it said."""


class Server:
    """`taube serve` as a process: start, stop, kill and start again on the same data and address."""

    def __init__(
        self, folder: Path, *, tls: bool = True, port: int | None = None, listen_port: int | None = None
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "server.log"
        self.port = port or free_port()
        self.listen_port = listen_port or self.port
        self.tls = tls
        self.origin = f"https://localhost:{self.port}" if tls else f"http://127.0.0.1:{self.port}"
        self.environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a command is a process: compiling each time is slow
        self._process: subprocess.Popen[str] | None = None
        if tls:
            self.certificate, self.key = make_certificate(folder)
            self.environment["SSL_CERT_FILE"] = str(self.certificate)

    @property
    def pid(self) -> int:
        """The process; the server runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def command(self) -> list[str]:
        """What is typed to serve."""
        line = [
            *_COMMAND,
            "serve",
            "--data",
            str(self.data),
            "--listen",
            f"127.0.0.1:{self.listen_port}",
            "--url",
            self.origin,
        ]
        if self.tls:
            line += ["--tls-cert", str(self.certificate), "--tls-key", str(self.key)]
        return line

    def start(self) -> None:
        """Serve; returns once it accepts. Raises CommandFailed with what it said if it does not."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdout=subprocess.PIPE, stderr=log, env=self.environment, text=True
            )
        assert self._process.stdout is not None
        line = _read_line(self._process.stdout, START_TIMEOUT_S)
        with self.log.open("a") as log:
            log.write(line)
        if not line.startswith("ready "):
            self.kill()
            raise CommandFailed(f"the server did not start: {line}{self.log.read_text()}")

    def stop(self) -> int:
        """End it in good order (SIGTERM); returns its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """End it as a crash would (SIGKILL)."""
        return self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            out, _ = process.communicate(timeout=START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
        with self.log.open("a") as log:
            log.write(out or "")
        return process.returncode

    def admin(self, *words: str) -> Result:
        """Run `taube admin …` on this server's data."""
        return run_command("admin", *words, "--data", str(self.data), environment=self.environment)

    def invite(self, uses: int = 1) -> str:
        """A fresh invitation link."""
        return succeeded(self.admin("invite", "--uses", str(uses))).out

    def person(self, name: str, *, join: bool = True) -> "Person":
        """Someone with a home folder, and with an account of this server unless *join* is false."""
        person = Person(name, self.folder / f"home-{name}", self.environment)
        if join:
            succeeded(person.run("join", self.invite(), "--name", name))
        return person


class Person:
    """A home folder and what one can do with it."""

    def __init__(self, name: str, home: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.home = home
        self.environment = environment

    def run(self, command: str, *words: str, text: str | None = None, timeout_s: float = COMMAND_TIMEOUT_S) -> Result:
        """Run `taube COMMAND --home HOME WORDS…`; *text* is its standard input."""
        return run_command(
            command, "--home", str(self.home), *words, environment=self.environment, text=text, timeout_s=timeout_s
        )

    def start(self, command: str, *words: str) -> "Running":
        """Start the command and leave it running."""
        return Running([*_COMMAND, command, "--home", str(self.home), *words], self.environment)

    def contact_link(self) -> str:
        """The link that others add this person by."""
        link = succeeded(self.run("me", "--json")).json()[0]["contact_link"]
        assert isinstance(link, str)
        return link

    def read(self, *words: str) -> list[dict[str, Any]]:
        """The new messages, as `taube read --json` prints them."""
        return succeeded(self.run("read", "--json", *words)).json()

    def account(self, **options: Any) -> Any:
        """The SDK on this home: `async with person.account() as me`. The server's certificate must be trusted."""
        from taube.client.account import Account

        return Account.open(self.home, **options)


class Running:
    """A command that runs; its lines are read as they come. Ends with the `with` block."""

    def __init__(self, line: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
        )
        assert self._process.stdout is not None and self._process.stderr is not None
        self._out, self._err = self._process.stdout, self._process.stderr

    def __enter__(self) -> "Running":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def line(self, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """The next line of its output, without the line break; empty when it has ended. Raises CommandFailed late."""
        return _read_line(self._out, timeout_s).removesuffix("\n")

    def error_line(self, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """The next line that it says of what is wrong, without the line break. Raises CommandFailed late."""
        return _read_line(self._err, timeout_s).removesuffix("\n")

    def record(self, timeout_s: float = COMMAND_TIMEOUT_S) -> dict[str, Any]:
        """The next line as JSON."""
        line = self.line(timeout_s)
        if not line:
            raise CommandFailed(f"the command ended: {self._err.read()}")
        record: dict[str, Any] = json.loads(line)
        return record

    def interrupt(self) -> Result:
        """Press Ctrl-C; returns how it ended."""
        self._process.send_signal(signal.SIGINT)
        out, err = self._process.communicate(timeout=COMMAND_TIMEOUT_S)
        return Result(self._process.returncode, out, err)


def run_command(
    *words: str,
    environment: dict[str, str] | None = None,
    text: str | None = None,
    timeout_s: float = COMMAND_TIMEOUT_S,
) -> Result:
    """Run `taube WORDS…` as a process of its own, with *text* (or nothing) as standard input."""
    done = subprocess.run(
        [*_COMMAND, *words],
        env=environment,
        input=text or "",
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Result(done.returncode, done.stdout.removesuffix("\n"), done.stderr.removesuffix("\n"))


def succeeded(result: Result) -> Result:
    """*result* if its exit code is 0. Raises CommandFailed."""
    if result.code != 0:
        raise CommandFailed(f"exit code {result.code}: {result.err}")
    return result


def meet(first: Person, second: Person) -> None:
    """*first* adds *second*, who accepts; afterwards both can write."""
    succeeded(first.run("add", second.contact_link()))
    succeeded(second.run("read", "--json"))
    succeeded(second.run("accept", first.name))
    succeeded(first.run("read", "--json"))


def wait_for_line(path: Path, words: str, timeout_s: float = START_TIMEOUT_S) -> str:
    """The first line of the growing file *path* that contains *words*. Raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
            if words in line:
                return line
        time.sleep(0.02)
    raise TimeoutError(f"{path} never said “{words}”")


def free_port() -> int:
    """A port of the loopback that nobody listens on, below those that the system gives to outgoing connections."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def make_certificate(
    folder: Path, name: str = "localhost", *, days: int = 2, is_rsa: bool = False
) -> tuple[Path, Path]:
    """(certificate, private key) files in *folder* for *name*, its own authority; negative *days*: it has expired.

    That of localhost is good for 127.0.0.1, too.
    """
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    folder.mkdir(parents=True, exist_ok=True)
    key = rsa.generate_private_key(65_537, 2048) if is_rsa else ec.generate_private_key(ec.SECP256R1())
    loopback = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))] if name == "localhost" else []
    subject = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name), *loopback]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / f"{name}.crt", folder / f"{name}.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key_file.touch(mode=0o600)
    key_file.write_bytes(key_bytes)
    return certificate_file, key_file


@contextlib.contextmanager
def temporary_server(folder: Path | None = None, *, tls: bool = True) -> Iterator[Server]:
    """A server that runs for the length of a `with` block; its folder goes with it unless it was given."""
    own = folder is None
    place = Path(tempfile.mkdtemp(prefix="taube-")) if folder is None else folder
    server = Server(place, tls=tls)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        if own:
            shutil.rmtree(place, ignore_errors=True)


def _read_line(stream: IO[str], timeout_s: float) -> str:
    """One line of a pipe, or what came of it before it ended. Raises CommandFailed when it takes too long."""
    import threading

    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.append(stream.readline()), daemon=True)
    reader.start()
    reader.join(timeout_s)
    if not lines:
        raise CommandFailed(f"nothing was said within {timeout_s:g} seconds")
    return lines[0]


try:
    import pytest
except ModuleNotFoundError:  # a bench or a demonstration needs no pytest
    pass
else:

    @pytest.fixture(scope="session")
    def taube_server() -> Iterator[Server]:
        """One running server for all tests of a session."""
        with temporary_server() as server:
            yield server

    @pytest.fixture
    def people(taube_server: Server) -> tuple[Person, Person]:
        """Two people who have met: new for each test."""
        number = next(_numbers)
        first, second = taube_server.person(f"alice{number}"), taube_server.person(f"bob{number}")
        meet(first, second)
        return first, second

    @pytest.fixture
    def alice(people: tuple[Person, Person]) -> Person:
        """Someone who knows *bob*."""
        return people[0]

    @pytest.fixture
    def bob(people: tuple[Person, Person]) -> Person:
        """Someone who knows *alice*."""
        return people[1]


_numbers: Final = itertools.count(1)
