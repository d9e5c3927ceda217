"""What `taube doctor` finds on a data folder: is all well for a server here, and if not, what has to be done.

Each check is one function that yields findings, each one sentence, with what to do if there is something. It works
whether the server runs (its health, figures and port are asked, on this machine only) or not (what the next start
would meet is tried). It changes nothing but one small file that it writes, to see that it can, and removes. No finding
is about a person: the database is checked page by page, and nothing in it is told.

Source: docs/operating.md, "Doctor".
"""

import ctypes
import http.client
import json
import os
import platform
import re
import resource
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from taube import __version__
from taube.server import certificate, clock, folder
from taube.server.backup import DATABASE
from taube.server.config import OperatorError, read_config
from taube.server.gateway.listener import tls_context
from taube.server.ports import StoreUnusable
from taube.server.services import identity
from taube.server.stores import schema, sqlite

WELL: Final = "well"
NOTE: Final = "note"
ACT: Final = "act"

TIMEOUT_S: Final = 5.0
DAY_S: Final = 86_400.0
EXPIRES_SOON_S: Final = 14 * DAY_S
FREE_LEAST: Final = 512 * 1024 * 1024
FREE_SHARE: Final = 0.1
FULL_SHARE: Final = 0.9
SLOW_DISK_S: Final = 0.1
CONNECTIONS_LEAST: Final = 256
CONNECTIONS_COMFORTABLE: Final = 4096
CLOCK_TOLERANCE_S: Final = 3600.0
REMOTE: Final = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "ceph", "glusterfs", "fuse.glusterfs"}
FLEETING: Final = {"tmpfs", "ramfs"}
_CLOCK_UNSYNCHRONISED: Final = 5
"""TIME_ERROR of adjtimex(2)."""


class Finding(NamedTuple):
    """One thing that was looked at: *state* is WELL, NOTE (worth knowing) or ACT (something must be done)."""

    what: str
    state: str
    sentence: str


@dataclass(frozen=True)
class Case:
    """What every check starts from."""

    data: Path
    is_running: bool
    origin: str | None
    served: dict[str, Any]
    """The options that the server was last started with."""
    health: dict[str, Any] | None
    figures: dict[str, float] = field(default_factory=dict)
    """The running server's metrics without labels."""


def examine(data: Path, wall_s: Callable[[], float] = time.time) -> list[Finding]:
    """Everything that is found. Never raises for what is wrong with the server: that is a finding."""
    if not (data / DATABASE).is_file():
        sentence = f"There is no server in {data}: start it once with taube serve, or name its folder with --data."
        with suppress(OSError, OperatorError):
            if origin := folder.kept_origin(data):
                lost = f"{data / DATABASE} is missing, though this folder has served {origin}"
                sentence = f"{lost}: put it back, or restore a backup."
        return [Finding("folder", ACT, sentence)]
    case = look(data)
    findings = [*_version(case), *_folder(case), *_origin(case), *_settings(case), *_server(case), *_port(case)]
    findings += [*_certificate(case, wall_s()), *_clock(case, wall_s()), *_descriptors(case)]
    return [*findings, *_disk(case), *_database(case), *_blobs(case), *_left_overs(case)]


def look(data: Path) -> Case:
    """Ask the folder, and the server if one runs."""
    is_running = folder.is_held(data)
    served: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        served = _json_object((data / folder.SERVED).read_bytes())
    health, figures = None, {}
    if is_running:
        with suppress(OSError, ValueError, http.client.HTTPException):
            ops = (data / "ops").read_text().strip()
            health = _json_object(_get(ops, "/health"))
            figures = _figures(_get(ops, "/metrics").decode())
    return Case(data, is_running, folder.kept_origin(data), served, health, figures)


def _json_object(data: bytes) -> dict[str, Any]:
    """The JSON object in *data*, which another program may have written. Raises ValueError for anything else."""
    try:
        found = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def _get(url: str, path: str) -> bytes:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def _figures(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^taube_(\w+) (\S+)$", text, re.MULTILINE)}


# ---------------------------------------------------------------- the checks


def _version(case: Case) -> Iterator[Finding]:
    here = f"taube {__version__}, Python {platform.python_version()}, SQLite {sqlite.library_version()}"
    runs = (case.health or {}).get("version", __version__)
    if runs != __version__:
        yield Finding("version", ACT, f"{here} is installed, but {runs} runs: restart the server.")
    else:
        yield Finding("version", WELL, f"{here}.")


def _folder(case: Case) -> Iterator[Finding]:
    if open_to_others := folder.openness(case.data):
        yield Finding("folder", ACT, open_to_others)
        return
    owner = case.data.stat().st_uid
    for path in case.data.glob(f"{DATABASE}*"):
        with suppress(OSError):
            if path.stat().st_uid != owner:
                sentence = f"{path} belongs to another user than its folder: give it to the one who runs the server."
                yield Finding("folder", ACT, sentence)
                return
    yield Finding("folder", WELL, f"{case.data} is its owner's only.")


def _origin(case: Case) -> Iterator[Finding]:
    if case.origin and (odd := folder.oddness(case.origin)):
        yield Finding("origin", NOTE, f"{odd} Before there are accounts, --url can give it another.")


def _settings(case: Case) -> Iterator[Finding]:
    named = case.served.get("config")
    if named:
        try:
            read_config(Path(named))
        except OperatorError as error:
            yield Finding("settings", ACT, error.sentence)
        else:
            yield Finding("settings", WELL, f"{named} can be read.")


def _server(case: Case) -> Iterator[Finding]:
    if not case.is_running:
        yield Finding("server", NOTE, "No server runs on this folder; what its next start would meet was tried.")
        return
    if case.health is None:
        yield Finding("server", ACT, "The server does not answer on its port for health: look at its log, restart it.")
        return
    problems = case.health.get("problems", [])
    if problems:
        yield Finding("server", ACT, f"The server is not well ({', '.join(problems)}): look at its log.")
    elif case.figures.get("bugs_total"):
        count = int(case.figures["bugs_total"])
        yield Finding("server", NOTE, f"It met {count} errors that nobody foresaw: its log has them, please report.")
    else:
        yield Finding("server", WELL, f"The server is {case.health.get('stage')} and well.")


def _port(case: Case) -> Iterator[Finding]:
    listen = case.served.get("listen")
    if not listen:
        return
    host, port = _local(listen)
    if not case.is_running:
        yield _free(listen, host, port)
        return
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as plain:
            sock: socket.socket = plain
            if case.served.get("tls_cert"):
                sock = _unverified().wrap_socket(plain, server_hostname=_host(case) or None)
            with sock:
                card = _json_object(_ask_card(sock, _host(case)))
    except (OSError, ValueError) as error:
        yield Finding("port", ACT, f"{listen} does not answer ({_why(error)}): look at the server's log, restart it.")
        return
    if card.get("origin") != case.origin:
        yield Finding("port", ACT, f"Another server answers on {listen}: one of the two needs another port.")
    else:
        yield Finding("port", WELL, f"{listen} answers as {case.origin}.")
    if not folder.is_loopback(_host(case)):
        yield from _name(_host(case))


def _name(host: str) -> Iterator[Finding]:
    if not host:
        return
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        yield Finding("name", ACT, f"The name {host} leads nowhere: make its DNS record point to this machine.")


def _free(listen: str, host: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except PermissionError:
            return Finding("port", NOTE, f"{listen} needs a right that you have not: AmbientCapabilities in its unit.")
        except OSError as error:
            return Finding("port", ACT, f"{listen} cannot be listened on ({_why(error)}): stop what uses it.")
    return Finding("port", WELL, f"{listen} is free.")


def _certificate(case: Case, now_s: float) -> Iterator[Finding]:
    file, key = case.served.get("tls_cert"), case.served.get("tls_key")
    if not file or not key:
        return
    try:
        tls = tls_context(Path(file), Path(key))
        about = certificate.about(tls, Path(file))
    except OSError as error:  # ssl.SSLError is an OSError
        sentence = f"{file} and {key} cannot be used ({_why(error)}): put a certificate and its key there, in PEM form."
        yield Finding("certificate", ACT, sentence)
        return
    left_s = about.not_after_s - now_s
    soon_s = min(EXPIRES_SOON_S, (about.not_after_s - about.not_before_s) / 5)
    days = f"{left_s / DAY_S:.0f} days"
    if left_s <= 0:
        yield Finding("certificate", ACT, f"{file} has expired: renew it, then send the server SIGHUP.")
    elif now_s < about.not_before_s:
        yield Finding("certificate", ACT, f"{file} is not valid yet: check the clock of this machine.")
    elif left_s < soon_s:
        yield Finding("certificate", ACT, f"{file} expires in {days}: renew it, then send the server SIGHUP.")
    else:
        yield Finding("certificate", WELL, f"{file} is valid for {days} more.")
    host = _host(case)
    try:
        if host and not certificate.names(tls, Path(file), host):
            sentence = f"Clients will refuse the certificate: it does not name {host}; get one that does."
            yield Finding("certificate", ACT, sentence)
        if case.is_running:
            yield from _served_certificate(case, about)
        else:
            certificate.show(tls, ssl.create_default_context(), None)
    except ssl.SSLCertVerificationError as error:
        is_told = left_s <= 0 or now_s < about.not_before_s
        if not (is_told and error.verify_code in certificate.OUT_OF_DATE):
            yield Finding("certificate", ACT, _distrust(error))
    except OSError:
        return  # the port's own finding says it


def _served_certificate(case: Case, about: certificate.CertificateAbout) -> Iterator[Finding]:
    """What a client meets: the certificate that the port shows, with its chain.

    Raises ssl.SSLCertVerificationError if nobody vouches for it, OSError if the port does not answer.
    """
    place, host = _local(case.served["listen"]), _host(case)
    with (
        socket.create_connection(place, TIMEOUT_S) as plain,
        _unverified().wrap_socket(plain, server_hostname=host or None) as sock,
    ):
        shown = sock.getpeercert(binary_form=True) or b""
    if shown != about.der:
        sentence = "The server still shows the certificate before this one: send it SIGHUP (systemctl reload taube)."
        yield Finding("certificate", ACT, sentence)
    context = ssl.create_default_context()
    context.check_hostname = False
    with socket.create_connection(place, TIMEOUT_S) as plain:
        context.wrap_socket(plain, server_hostname=host or None).close()


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == certificate.SELF_SIGNED:
        return "Clients will not trust the certificate, which is self-signed: get one from a known authority."
    return (
        f"Clients will not trust the certificate ({error.verify_message}): it has to come from a known authority, with"
        " the chain up to it in the file."
    )


def _clock(case: Case, now_s: float) -> Iterator[Finding]:
    saved_ms = None
    with suppress(StoreUnusable):
        facts = sqlite.read_facts(case.data / DATABASE)
        saved_ms = None if identity.damage(facts) else clock.saved_ms(facts.get(clock.FACT))
    ahead_s = 0.0 if saved_ms is None else now_s - saved_ms / 1000
    is_kept_right = _is_synchronised()
    if case.figures.get("expiry_paused"):
        sentence = (
            "Nothing expires until a day has passed since the clock jumped ahead, or since a start with a clock that"
            " was ahead by more than a day: check that it is right now."
        )
        yield Finding("clock", NOTE, sentence)
    if ahead_s < -CLOCK_TOLERANCE_S:
        yield _behind(-ahead_s / 3600, is_kept_right=bool(is_kept_right))
    elif case.is_running and ahead_s > 2 * CLOCK_TOLERANCE_S:
        sentence = (
            f"The clock is {ahead_s / 3600:.0f} hours ahead of the server's own: if it is wrong, set it; if not, things"
            " expire that much later, and each start catches up by a day."
        )
        yield Finding("clock", NOTE, sentence)
    elif is_kept_right is False:
        yield Finding("clock", NOTE, "The system does not know of anything that keeps its clock right: use NTP.")
    else:
        yield Finding("clock", WELL, "The clock agrees with the server's own.")


def _behind(hours: float, *, is_kept_right: bool) -> Finding:
    """A clock behind the server's own: it went back, or was ahead and was set right; the system may know which."""
    behind = f"The clock is {hours:.0f} hours behind the server's own"
    if is_kept_right:
        sentence = (
            f"{behind}, which followed it when it was ahead and never goes back. The system keeps it right now, so"
            " nothing has to be done."
        )
        return Finding("clock", NOTE, sentence)
    sentence = (
        f"{behind}: if it is wrong, set it; if it was ahead and has been set right, nothing is wrong with it, as the"
        " server's own never goes back. With NTP the system would know."
    )
    return Finding("clock", ACT, sentence)


def _descriptors(case: Case) -> Iterator[Finding]:
    most = case.figures.get("connections_most")
    if most is None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        most = 1_000_000 if hard == resource.RLIM_INFINITY else hard
    used = case.figures.get("sockets", 0.0)
    raise_it = "raise the limit of open files (LimitNOFILE= in its unit, ulimit -n)."
    if most < CONNECTIONS_LEAST:
        yield Finding("descriptors", ACT, f"There is room for {most:.0f} connections only: {raise_it}")
    elif used > 0.9 * most:
        yield Finding("descriptors", ACT, f"{used:.0f} of {most:.0f} connections are in use: {raise_it}")
    elif most < CONNECTIONS_COMFORTABLE:
        yield Finding("descriptors", NOTE, f"There is room for {most:.0f} connections; for more, {raise_it}")
    else:
        yield Finding("descriptors", WELL, f"There is room for {most:,.0f} connections.")


def _disk(case: Case) -> Iterator[Finding]:
    kind = _file_system(case.data.resolve())
    if kind in REMOTE:
        sentence = f"{case.data} is on a network file system ({kind}), which can damage the database: use a local disk."
        yield Finding("disk", ACT, sentence)
    elif kind in FLEETING:
        sentence = f"{case.data} is in memory ({kind}) and gone with the next restart of the machine: use a disk."
        yield Finding("disk", ACT, sentence)
    try:
        took_s = _write_and_sync(case.data)
    except OSError as error:
        yield Finding("disk", ACT, f"{case.data} cannot be written ({_why(error)}): the server keeps nothing new.")
        return
    usage = shutil.disk_usage(case.data)
    size = sum(path.stat().st_size for path in case.data.glob(f"{DATABASE}*"))
    free = f"{_size(usage.free)} of {_size(usage.total)} are free, the database takes {_size(size)}"
    if usage.free < FREE_LEAST:
        yield Finding("space", ACT, f"{free}: make room, or the server will refuse messages.")
    elif usage.free < FREE_SHARE * usage.total or usage.free < size:
        yield Finding("space", NOTE, f"{free}: think of more room.")
    else:
        yield Finding("space", WELL, f"{free}.")
    if took_s > SLOW_DISK_S:
        sentence = (
            f"Making one write durable takes {took_s * 1000:.0f} ms, and every message waits for that: a faster disk"
        )
        yield Finding("disk", NOTE, f"{sentence} makes a faster server.")
    elif kind not in REMOTE | FLEETING:
        yield Finding("disk", WELL, f"A write is durable after {took_s * 1000:.1f} ms.")


def _database(case: Case) -> Iterator[Finding]:
    path = case.data / DATABASE
    try:
        found = sqlite.examine(path)
        wrong = identity.damage(sqlite.read_facts(path))
    except StoreUnusable as error:
        yield Finding("database", ACT, str(error))
        return
    if wrong:
        yield Finding("database", ACT, f"{path} is damaged ({wrong}): restore a backup.")
        return
    if found.schema < schema.SCHEMA_VERSION:
        sentence = (
            f"It is sound, of schema {found.schema}; this version upgrades it to {schema.SCHEMA_VERSION} at the next"
            " start: make a backup before."
        )
        yield Finding("database", NOTE, sentence)
    else:
        yield Finding("database", WELL, f"Every page of it is sound, schema {found.schema}.")
    if case.figures.get("storage_problems_total"):
        count = int(case.figures["storage_problems_total"])
        sentence = (
            f"Reading or writing failed {count} times since the server started: its log says how; check the disk."
        )
        yield Finding("database", NOTE, sentence)


def _blobs(case: Case) -> Iterator[Finding]:
    """The folder of files that people send: whose it is, and how full."""
    place = case.data / folder.BLOBS
    if place.is_dir():
        about = place.stat()
        if about.st_uid != case.data.stat().st_uid or not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            yield Finding("blobs", ACT, f"{place} cannot be written by the server: give it to the one who runs it.")
            return
        if about.st_mode & 0o077:
            yield Finding("blobs", ACT, f"Others can look into {place}: chmod 700 {place}")
            return
    used, most = case.figures.get("blobs_bytes"), case.figures.get("blobs_most_bytes")
    if used is None or not most:
        return
    filled = f"{int(case.figures.get('blobs', 0))} files that people sent take {_size(used)} of {_size(most)}"
    if used > FULL_SHARE * most:
        sentence = f"{filled}: new ones will be refused; raise blobs.total_bytes, or lower blobs.days."
        yield Finding("blobs", NOTE, sentence)
    else:
        yield Finding("blobs", WELL, f"{filled}.")


def _left_overs(case: Case) -> Iterator[Finding]:
    count = len(list(case.data.glob("replaced-*")))
    if count:
        sentence = f"{count} folders replaced-… hold what a restore moved aside: delete them once all is well."
        yield Finding("left over", NOTE, sentence)


# ---------------------------------------------------------------- how they look


def _local(listen: str) -> tuple[str, int]:
    """Where this machine reaches *listen* itself."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), int(port)


def _host(case: Case) -> str:
    return folder.host_of(case.origin or "")


def _unverified() -> ssl.SSLContext:
    """To see what is shown, whoever vouches for it; nothing is told to the other side."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _ask_card(sock: socket.socket, host: str) -> bytes:
    request = f"GET /.well-known/taube HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    sock.sendall(request.encode())
    answer = bytearray()
    while len(answer) < 65_536 and (part := sock.recv(4096)):
        answer += part
    return bytes(answer).partition(b"\r\n\r\n")[2]


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS failed").lower().replace("_", " ")
    strerror = getattr(error, "strerror", None)
    return str(strerror).lower() if strerror else "no good answer"


def _is_synchronised() -> bool | None:
    """Whether something keeps the kernel's clock right; None where the kernel does not tell (it does on Linux)."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
    state = int(adjtimex(ctypes.create_string_buffer(1024)))
    return None if state < 0 else state != _CLOCK_UNSYNCHRONISED


def _file_system(path: Path) -> str:
    """The kind of the file system that holds *path*; empty where the system does not tell."""
    best, kind = "", ""
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            words = line.split()
            point = words[1].replace("\\040", " ")
            if len(point) >= len(best) and path.is_relative_to(point):
                best, kind = point, words[2]
    return kind


def _write_and_sync(data: Path) -> float:
    """Write a small file durably and remove it; seconds that it took."""
    with tempfile.TemporaryFile(dir=data) as file:
        began = time.monotonic()
        file.write(bytes(4096))
        file.flush()
        os.fsync(file.fileno())
        return time.monotonic() - began


def _size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
