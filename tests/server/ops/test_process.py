"""`taube serve` as a process: ready, refused starts, signals, and what is kept over a kill."""

import asyncio
import base64
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from taube.exits import EX_IOERR
from taube.server import admin, folder
from taube.server.config import DrainConfig
from taube.testing import free_port, make_certificate
from taube.wire import messages as m
from tests.chaos.faults import Machine
from tests.server.providers.push_service import Browser
from tests.server.rawclient import Person, RawClient
from tests.spec import spec

ROOT = Path(__file__).parents[3]


@contextmanager
def process(data: Path, *options: str, **environment: str):
    """A running server; gives (process, its URL)."""
    command = [sys.executable, "-m", "taube", "serve", "--data", str(data), *options]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        assert line.startswith("ready http"), started.stderr.read() if started.stderr else ""
        yield started, line.removeprefix("ready ").strip()
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


def refused(data: Path, *options: str) -> tuple[int, str]:
    """Exit code and message of a server that does not start."""
    command = [sys.executable, "-m", "taube", "serve", "--data", str(data), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    return done.returncode, done.stderr


def end(server: subprocess.Popen[str], number: int = signal.SIGTERM) -> str:
    server.send_signal(number)
    _, errors = server.communicate(timeout=30)
    assert server.returncode == 0
    return errors


async def registered(data: Path, url: str) -> tuple[RawClient, Person]:
    """Someone with an account, and their device's connection."""
    person, secret = Person(), base64.urlsafe_b64decode(admin.invite(data).rpartition("#")[2] + "==")
    client = await RawClient.connect(url)
    assert isinstance(await client.register(person, secret), m.Done)
    await client.log_in(person)
    return client, person


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_exit_code_0(tmp_path, number):
    with process(tmp_path, "--listen", "127.0.0.1:0") as (server, _):
        assert (tmp_path / "ops").read_text().startswith("http://127.0.0.1:")
        end(server, number)
    assert not (tmp_path / "ops").exists()


def test_a_renewed_certificate_is_taken_without_a_restart_and_a_bad_one_is_not(tmp_path):
    def seen(url: str) -> str:
        host, _, port = url.partition("://")[2].rpartition(":")
        return ssl.get_server_certificate((host, int(port)), timeout=10)

    def comes(url: str, wanted: str) -> None:
        end = time.monotonic() + 10
        while seen(url) != wanted:
            assert time.monotonic() < end
            time.sleep(0.02)

    file, key = make_certificate(tmp_path / "tls")
    options = ("--listen", "127.0.0.1:0", "--tls-cert", str(file), "--tls-key", str(key))
    with process(tmp_path / "data", *options) as (server, url):
        comes(url, file.read_text())
        for is_rsa in (False, True, False):  # a pair of another type of key replaces the old one, too
            make_certificate(tmp_path / "tls", is_rsa=is_rsa)
            server.send_signal(signal.SIGHUP)
            comes(url, file.read_text())
        good = file.read_text()
        file.write_text("nonsense")
        server.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        assert seen(url) == good
        assert "certificate" in end(server)


@pytest.mark.skipif(not Machine.possible(), reason="needs Linux and a C compiler")
def test_a_signal_ends_the_server_also_while_its_disk_hangs_and_loses_nothing_that_was_kept(tmp_path):
    async def before(url: str) -> Person:
        client, person = await registered(tmp_path / "data", url)
        [minted] = await client.mint()
        await client.close()
        sender = await RawClient.connect(url)
        assert (await sender.send([minted.address], b"kept")).statuses == b"\0"
        machine.hold_sync = 1
        waiting = sender.post(lambda n: m.Send(n, 0, [minted.address], b"not kept"))
        while not machine.held:
            await asyncio.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        await sender.next(m.Draining)
        await sender.closed()
        assert isinstance(waiting.exception(), ConnectionError), "nothing is answered before it is on the disk"
        return person

    async def after(url: str, person: Person) -> None:
        client = await RawClient.connect(url)
        await client.log_in(person)
        assert (await client.next(m.Deliver)).body == b"kept"

    machine = Machine(tmp_path / "machine")
    (tmp_path / "c.toml").write_text("[drain]\ngoodbye_s = 0.2\nflush_s = 1\n")
    options = ("--listen", "127.0.0.1:0", "--config", str(tmp_path / "c.toml"))
    with process(tmp_path / "data", *options, **machine.prepare(tmp_path / "data")) as (server, url):
        person = asyncio.run(before(url))
        began = time.monotonic()
        _, errors = server.communicate(timeout=20)
        assert time.monotonic() - began < 10
    assert server.returncode == EX_IOERR
    assert "Traceback" not in errors and errors.count("did not finish in time") == 1
    with process(tmp_path / "data", "--listen", url.removeprefix("http://")) as (_, again):
        asyncio.run(after(again, person))


def test_a_signal_ends_the_server_also_while_a_push_service_never_answers(tmp_path):
    async def pushes(url: str) -> None:
        client, _ = await registered(tmp_path / "data", url)
        [minted] = await client.mint()
        browser, endpoint = Browser(), f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert isinstance(await client.call(lambda n: m.SetPush(n, endpoint, browser.public, browser.secret)), m.Done)
        await client.close()
        sender = await RawClient.connect(url)
        await sender.send([minted.address], b"urgent", m.FLAG_URGENT)
        await sender.close()

    (tmp_path / "c.toml").write_text("[push]\nallow_private = 1\ntimeout_s = 300\n")
    options = ("--listen", "127.0.0.1:0", "--config", str(tmp_path / "c.toml"))
    with socket.create_server(("127.0.0.1", 0)) as silent, process(tmp_path / "data", *options) as (server, url):
        asyncio.run(pushes(url))
        silent.settimeout(30)
        with silent.accept()[0] as push:
            push.settimeout(30)
            assert push.recv(4) == b"POST"
            assert "Traceback" not in end(server)


@pytest.mark.skipif(not Machine.possible(), reason="needs Linux and a C compiler")
def test_a_signal_ends_the_server_also_while_hosts_are_looked_up(tmp_path):
    async def asks(url: str) -> None:
        client, _ = await registered(tmp_path / "data", url)
        browser = Browser()
        machine.hold_names = 1
        for number in range(3):
            endpoint = f"https://{number}.example.org/"
            client.post(lambda n, to=endpoint: m.SetPush(n, to, browser.public, browser.secret))
        async with asyncio.timeout(30):
            while machine.names_held < 3:
                await asyncio.sleep(0.01)
        await client.close()

    machine = Machine(tmp_path / "machine")
    environment = machine.prepare(tmp_path / "data")
    with process(tmp_path / "data", "--listen", "127.0.0.1:0", **environment) as (server, url):
        asyncio.run(asks(url))
        assert "Traceback" not in end(server)


def test_supervisors_wait_longer_than_a_server_takes_to_end():
    for file, wanted in (("taube.service", r"TimeoutStopSec=(\d+)"), ("Containerfile", r"--stop-timeout (\d+)")):
        [given] = re.findall(wanted, (ROOT / "deploy" / file).read_text())
        assert int(given) > DrainConfig().most_s + 5, file


def test_a_second_server_on_the_same_data_is_refused(tmp_path):
    with process(tmp_path, "--listen", "127.0.0.1:0"):
        code, sentence = refused(tmp_path, "--listen", "127.0.0.1:0")
    assert code == 75 and "Another server is running" in sentence


def test_a_busy_port_is_refused_and_the_folder_is_free_again(tmp_path):
    with process(tmp_path / "one", "--listen", "127.0.0.1:0") as (_, url):
        port = url.rpartition(":")[2]
        code, sentence = refused(tmp_path / "two", "--listen", f"127.0.0.1:{port}")
    assert code == 69 and "--listen" in sentence
    with process(tmp_path / "two", "--listen", "127.0.0.1:0"):
        pass


@pytest.mark.parametrize("host", ["a..b", "a" * 300, b"\xff"])
def test_a_host_that_is_no_name_is_refused(tmp_path, host):
    file, key = make_certificate(tmp_path / "tls")
    tls = ("--url", "https://example.org", "--tls-cert", str(file), "--tls-key", str(key))
    listen = f"{host}:0" if isinstance(host, str) else host + b":0"
    code, sentence = refused(tmp_path / "data", *tls, "--listen", listen)
    assert code == 64 and "is no name of a host" in sentence and "--listen" in sentence


def test_a_server_whose_standard_error_is_closed_runs(tmp_path):
    server = subprocess.Popen(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "taube", "serve", "--data", str(tmp_path / "data"),
         "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    assert server.stdout.readline().startswith("ready ")
    server.terminate()
    assert server.wait(60) == 0


@spec("DEL-25")
def test_a_folder_that_lost_its_database_is_refused_and_left_alone(tmp_path):
    listen = ("--listen", "127.0.0.1:0")
    with process(tmp_path, *listen) as (server, _):
        end(server)
    database = tmp_path / "taube.db"
    database.write_bytes(b"")
    for is_there in (True, False):
        code, sentence = refused(tmp_path, *listen)
        assert code == 78 and "missing or empty" in sentence and "restore a backup" in sentence
        assert database.exists() == is_there
        database.unlink(missing_ok=True)


def test_a_wrong_certificate_is_refused(tmp_path):
    good, key = make_certificate(tmp_path / "tls")
    _, other_key = make_certificate(tmp_path / "other")
    listen = ("--listen", "127.0.0.1:0")
    code, sentence = refused(tmp_path, *listen, "--tls-cert", str(good), "--tls-key", str(other_key))
    assert code == 78 and "certificate" in sentence
    code, sentence = refused(tmp_path, *listen, "--tls-cert", str(tmp_path / "none"), "--tls-key", str(key))
    assert code == 78 and "There is no file" in sentence
    assert refused(tmp_path, *listen, "--tls-cert", str(good))[0] == 64
    assert "is not a file" in refused(tmp_path, *listen, "--tls-cert", str(tmp_path), "--tls-key", str(key))[1]


def protected(key: Path) -> None:
    """Put a passphrase on the key."""
    secret = serialization.load_pem_private_key(key.read_bytes(), None)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    key.write_bytes(secret.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")))


def test_a_key_with_a_passphrase_is_refused_and_asks_nobody_for_it(tmp_path):
    file, key = make_certificate(tmp_path / "tls")
    options = ("--listen", "127.0.0.1:0", "--tls-cert", str(file), "--tls-key", str(key))
    with process(tmp_path / "data", *options) as (server, url):
        protected(key)
        server.send_signal(signal.SIGHUP)
        host, _, port = url.partition("://")[2].rpartition(":")
        assert ssl.get_server_certificate((host, int(port)), timeout=10) == file.read_text()
        assert "protected by a passphrase" in end(server)
    code, sentence = refused(tmp_path / "data", *options)
    assert code == 78 and "protected by a passphrase" in sentence


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--listen", "0.0.0.0:0"), 64),
        (("--listen", "nonsense"), 64),
        (("--url", "ftp://example.org"), 64),
        (("--url", "http://example.org"), 64),
        (("--ops", "0.0.0.0:0"), 64),
    ],
)
def test_options_that_would_be_unsafe_or_make_no_sense_are_refused(tmp_path, options, code):
    listen = () if options[0] == "--listen" else ("--listen", "127.0.0.1:0")
    assert refused(tmp_path, *listen, *options)[0] == code


def test_an_address_without_a_host_is_told_in_words_and_what_to_type_instead(tmp_path):
    code, sentence = refused(tmp_path, "--listen", ":18459")
    assert code == 64 and "every address" in sentence and "--listen 127.0.0.1:18459" in sentence


def test_a_certificate_and_an_origin_without_tls_are_refused_together(tmp_path):
    file, key = make_certificate(tmp_path)
    with_tls = ("--listen", "127.0.0.1:0", "--tls-cert", str(file), "--tls-key", str(key))
    code, sentence = refused(tmp_path / "data", *with_tls, "--url", "http://127.0.0.1:8080")
    assert code == 64 and "--url" in sentence and "--tls-cert" in sentence


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_a_url_without_a_possible_host_is_refused_before_it_is_kept(tmp_path, host):
    file, key = make_certificate(tmp_path)
    with_tls = ("--listen", "127.0.0.1:0", "--tls-cert", str(file), "--tls-key", str(key))
    code, sentence = refused(tmp_path / "data", *with_tls, "--url", f"https://{host}")
    assert code == 64 and "--url" in sentence
    assert not (tmp_path / "data" / "origin").exists()


@pytest.mark.parametrize("kept", ["https://a_b.example", "https://a..b", "https://" + "b" * 300, "https://["])
def test_an_origin_kept_from_before_stops_nothing_and_is_pointed_out(tmp_path, kept):
    file, key = make_certificate(tmp_path)
    data = tmp_path / "data"
    options = ("--listen", f"127.0.0.1:{free_port()}", "--tls-cert", str(file), "--tls-key", str(key))
    with process(data, *options):
        pass
    folder.keep(data, "origin", kept)
    with process(data, *options) as (server, url):
        assert url == kept
        told = subprocess.run(
            [sys.executable, "-m", "taube", "doctor", "--data", str(data)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert told.returncode != 70 and "Traceback" not in told.stderr
        assert f"answers as {kept}" in told.stdout and "may not find this server" in told.stdout
        assert "may not find this server" in end(server)


def test_a_setting_that_there_is_not_is_refused_and_one_that_there_is_is_taken(tmp_path):
    file = tmp_path / "taube.toml"
    file.write_text("[connection]\nhello_timout_s = 3\n")
    code, sentence = refused(tmp_path / "data", "--listen", "127.0.0.1:0", "--config", str(file))
    assert code == 78 and "connection.hello_timout_s" in sentence
    file.write_text("unused_months = 24\n[connection]\nhello_timeout_s = 3\n")
    with process(tmp_path / "data", "--listen", "127.0.0.1:0", "--config", str(file)):
        pass


def test_the_origin_stays_with_the_folder(tmp_path):
    with process(tmp_path, "--listen", "127.0.0.1:0", "--url", "https://Taube.Example/") as (_, url):
        assert url == "https://taube.example"
    assert admin.invite(tmp_path).startswith("https://taube.example/i#")


def test_another_origin_is_refused_once_there_are_accounts_unless_it_is_meant(tmp_path):
    async def register(url: str) -> None:
        secret = base64.urlsafe_b64decode(admin.invite(tmp_path).rpartition("#")[2] + "==")
        client = await RawClient.connect(url)
        assert isinstance(await client.register(Person(), secret), m.Done)
        await client.close()

    listen = ("--listen", f"127.0.0.1:{free_port()}")
    with process(tmp_path, *listen):
        pass
    other = (*listen, "--url", "https://typo.example")
    with process(tmp_path, *listen, "--url", "https://taube.example"):
        pass  # nobody is cut off
    with process(tmp_path, *listen, "--url", f"http://{listen[1]}") as (_, url):
        asyncio.run(register(url))
    code, sentence = refused(tmp_path, *other)
    assert code == 64 and url in sentence and "--change-url" in sentence
    with process(tmp_path, *listen) as (_, again):
        assert again == url
    with process(tmp_path, *other, "--change-url") as (_, changed):
        assert changed == "https://typo.example"


def test_a_certificate_of_another_name_is_pointed_out(tmp_path):
    file, key = make_certificate(tmp_path / "tls")
    options = ("--listen", "127.0.0.1:0", "--tls-cert", str(file), "--tls-key", str(key))
    with process(tmp_path / "data", *options, "--url", "https://other.example") as (server, _):
        assert "does not name other.example" in end(server)
    with process(tmp_path / "more", *options, "--url", "https://localhost") as (server, _):
        assert "does not name" not in end(server)
    for here, later in zip((file, key), make_certificate(tmp_path / "later", "later.example"), strict=True):
        later.replace(here)
    with process(tmp_path / "last", *options, "--url", "https://later.example") as (server, _):
        make_certificate(tmp_path / "tls")
        server.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        assert "does not name later.example" in end(server)


@spec("DEL-11")
def test_what_was_kept_is_there_after_a_kill(tmp_path):
    async def before(url: str) -> tuple[Person, bytes]:
        person = Person()
        invitation = admin.invite(tmp_path).rpartition("#")[2]
        client = await RawClient.connect(url)
        secret = base64.urlsafe_b64decode(invitation + "==")
        assert isinstance(await client.register(person, secret), m.Done)
        await client.log_in(person)
        [minted] = await client.mint()
        await client.close()
        sender = await RawClient.connect(url)
        for number in range(100):
            assert (await sender.send([minted.address], b"%d" % number)).statuses == b"\0"
        return person, minted.address

    async def after(url: str, person: Person, address: bytes) -> None:
        client = await RawClient.connect(url)
        await client.log_in(person)
        for number in range(100):
            assert (await client.next(m.Deliver)).body == b"%d" % number
        sender = await RawClient.connect(url)
        waiting = sender.post(lambda n: m.Send(n, 0, [address], b"again"))
        assert (await client.next(m.CaughtUp)).upto == 100
        client.acknowledge(100)
        assert (await client.next(m.Deliver)).body == b"again"
        client.acknowledge(101)
        assert (await waiting).statuses == b"\0"

    with process(tmp_path, "--listen", "127.0.0.1:0") as (server, url):
        person, address = asyncio.run(before(url))
        server.kill()
        server.wait()
    with process(tmp_path, "--listen", url.removeprefix("http://")) as (_, same):
        assert same == url
        asyncio.run(after(url, person, address))
