"""`taube doctor` on a server that is well, on one that is not, and on no server at all: what it says, and its code."""

import asyncio
import json
import os
import time
from collections import namedtuple
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from taube import cli
from taube.server import doctor, folder
from taube.server.backup import DATABASE
from taube.server.doctor import ACT, NOTE, WELL, Case, Finding
from taube.server.services import identity
from taube.server.stores import sqlite
from taube.testing import make_certificate


def worst(findings: list[Finding], what: str) -> Finding:
    """The finding about *what* that matters most."""
    return max((each for each in findings if each.what == what), key=lambda each: [WELL, NOTE, ACT].index(each.state))


def a_case(data: Path, **given: object) -> Case:
    defaults: dict[str, object] = {"is_running": False, "origin": "https://localhost", "served": {}, "health": None}
    return Case(data, **(defaults | given))  # type: ignore[arg-type]


def a_folder(data: Path) -> Path:
    folder.prepare(data)
    with sqlite.transaction(data / DATABASE) as tables:
        identity.establish(tables, os.urandom, 1)
    return data


class Chain(NamedTuple):
    """Files of a certificate for localhost, of its key, and of the authority that signed it."""

    file: Path
    key: Path
    authority: Path


def a_chain(folder: Path, *, authority_days: int) -> Chain:
    now, ends = datetime.now(UTC), timedelta(days=90)
    keys = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)]) for each in ("an authority", "localhost")]
    paths = [folder / name for name in ("authority.pem", "cert.pem")]
    for n, lasts in enumerate((timedelta(days=authority_days), ends)):
        built = (
            x509.CertificateBuilder()
            .subject_name(names[n])
            .issuer_name(names[0])
            .public_key(keys[n].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - ends)
            .not_valid_after(now + lasts)
            .add_extension(x509.BasicConstraints(ca=n == 0, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        )
        paths[n].write_bytes(built.sign(keys[0], hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    key = folder / "key.pem"
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key.write_bytes(keys[1].private_bytes(serialization.Encoding.PEM, *form))
    return Chain(paths[1], key, paths[0])


async def test_a_server_that_is_well_has_nothing_to_be_done(rig, monkeypatch) -> None:
    async with rig() as server:
        data = server.folder / "data"
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate[0]))
        person, _ = await server.online()
        findings = await asyncio.to_thread(doctor.examine, data)
        assert [each for each in findings if each.state == ACT and each.what not in ("disk", "space")] == []
        assert {"version", "folder", "server", "port", "certificate", "clock", "descriptors", "disk", "database"} <= {
            each.what for each in findings
        }
        told = " ".join(each.sentence for each in findings)
        for secret in (person.account, person.device):
            assert secret.hex() not in told
        for finding in findings:
            assert finding.sentence.endswith((".", str(data))) and "\n" not in finding.sentence


async def test_a_folder_that_lets_others_in_is_told_in_the_log_at_a_start(rig) -> None:
    server = rig()
    data = server.folder / "data"
    folder.prepare(data)
    for mode, is_told in ((0o700, False), (0o755, True), (0o710, True)):
        data.chmod(mode)
        await server.start()
        await server.stop()
        told = [event for event in server.events() if f"chmod 700 {data}" in event.get("reason", "")]
        assert bool(told) == is_told and all(event["level"] == "warning" for event in told)
        server.log.seek(0)
        server.log.truncate()


async def test_a_stopped_server_is_looked_at_too(rig) -> None:
    server = rig()
    await server.start()
    await server.stop()
    findings = await asyncio.to_thread(doctor.examine, server.folder / "data")
    assert worst(findings, "server").state == NOTE
    assert worst(findings, "port").sentence.endswith("is free.")
    assert worst(findings, "certificate").state in (WELL, ACT)
    assert worst(findings, "database").state == WELL


async def test_a_renewed_certificate_that_was_not_read_again_is_told_and_one_nobody_trusts(rig) -> None:
    async with rig() as server:
        data = server.folder / "data"
        findings = await asyncio.to_thread(doctor.examine, data)
        assert "will not trust" in worst(findings, "certificate").sentence
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(server.certificate[0]))
            folder.keep(data, "origin", "https://other.example")
            findings = await asyncio.to_thread(doctor.examine, data)
            assert "does not name other.example" in worst(findings, "certificate").sentence
        make_certificate(server.folder / "tls", days=90)
        said = [each.sentence for each in await asyncio.to_thread(doctor.examine, data) if each.what == "certificate"]
        assert any("SIGHUP" in sentence and "before this one" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("days", "state", "words"), [(-1, ACT, "has expired"), (3, ACT, "expires in 3 days"), (90, WELL, "90 days more")]
)
def test_the_days_that_a_certificate_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, state: str, words: str
) -> None:
    file, key = make_certificate(tmp_path, days=days)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    case = a_case(tmp_path, served={"listen": "127.0.0.1:1", "tls_cert": str(file), "tls_key": str(key)})
    [finding] = doctor._certificate(case, time.time())
    assert finding.state == state and words in finding.sentence


@pytest.mark.parametrize("days", [-1, 90])
def test_while_the_server_is_stopped_it_is_told_whom_a_certificate_names_and_who_vouches_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    file, key = make_certificate(tmp_path, days=days)
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    served = {"listen": "127.0.0.1:1", "tls_cert": str(file), "tls_key": str(key)}
    case = a_case(tmp_path, served=served, origin="https://other.example")
    dates, name, trust = doctor._certificate(case, time.time())
    assert dates.state == (ACT if days < 0 else WELL)
    assert name.state == trust.state == ACT
    assert "does not name other.example" in name.sentence
    assert "will not trust" in trust.sentence and "self-signed" in trust.sentence


def test_a_chain_that_has_expired_or_is_not_whole_is_told_while_the_server_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = a_chain(tmp_path, authority_days=-1)
    served = {"listen": "127.0.0.1:1", "tls_cert": str(chain.file), "tls_key": str(chain.key)}
    for trusted, words in ((chain.authority, "certificate has expired"), (Path(os.devnull), "local issuer")):
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        dates, trust = doctor._certificate(a_case(tmp_path, served=served), time.time())
        assert dates.state == WELL and trust.state == ACT
        assert words in trust.sentence and "chain" in trust.sentence


def test_a_certificate_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    file, _ = make_certificate(tmp_path / "one")
    _, key = make_certificate(tmp_path / "two")
    case = a_case(tmp_path, served={"listen": "127.0.0.1:1", "tls_cert": str(file), "tls_key": str(key)})
    [finding] = doctor._certificate(case, time.time())
    assert finding.state == ACT and "cannot be used" in finding.sentence


def test_a_folder_whose_database_is_gone_is_not_called_a_new_one(tmp_path: Path) -> None:
    folder.keep(tmp_path, "origin", "https://taube.example")
    [finding] = doctor.examine(tmp_path)
    assert finding.state == ACT and "has served https://taube.example" in finding.sentence
    assert "restore a backup" in finding.sentence


def test_a_port_that_something_else_uses_is_told(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        [finding] = doctor._port(a_case(tmp_path, served={"listen": listen}))
    assert finding.state == ACT and "in use" in finding.sentence


@pytest.mark.parametrize("body", [b"[1]", b"[" * 60_000, b"nonsense", b"{}", b'{"origin": {}}', b"\xff"])
def test_another_program_on_the_port_is_told_whatever_it_answers(tmp_path: Path, body: bytes) -> None:
    import socket
    import threading

    def answer(listening: socket.socket) -> None:
        peer, _ = listening.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + body)

    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=answer, args=(other,))
        thread.start()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        findings = list(doctor._port(a_case(tmp_path, is_running=True, served={"listen": listen})))
        thread.join()
    assert findings[0].state == ACT and ("does not answer" in findings[0].sentence or "Another" in findings[0].sentence)


@pytest.mark.parametrize(("is_kept_right", "state"), [(True, NOTE), (False, ACT), (None, ACT)])
def test_a_clock_that_went_back_is_told_and_called_wrong_only_where_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_kept_right: bool | None, state: str
) -> None:
    monkeypatch.setattr(doctor, "_is_synchronised", lambda: is_kept_right)
    data = a_folder(tmp_path / "data")
    with sqlite.transaction(data / DATABASE) as tables:
        identity.start_clock(tables, 1_800_000_000_000, 0.0)
    [behind] = doctor._clock(a_case(data), 1_800_000_000 - 7200)
    assert behind.state == state and "2 hours behind the server's own" in behind.sentence
    assert ("if it is wrong" in behind.sentence) is not (is_kept_right is True)
    [ahead] = doctor._clock(a_case(data, is_running=True), 1_800_000_000 + 100 * 3600)
    assert ahead.state == NOTE and "100 hours ahead" in ahead.sentence
    paused, _ = doctor._clock(a_case(data, is_running=True, figures={"expiry_paused": 1.0}), 1_800_000_000)
    assert paused.state == NOTE and "Nothing expires" in paused.sentence


@pytest.mark.parametrize(
    ("figures", "state"),
    [
        ({"connections_most": 100.0}, ACT),
        ({"connections_most": 10_000.0, "sockets": 9_500.0}, ACT),
        ({"connections_most": 1_000.0}, NOTE),
        ({"connections_most": 100_000.0, "sockets": 10.0}, WELL),
    ],
)
def test_room_for_connections(tmp_path: Path, figures: dict[str, float], state: str) -> None:
    [finding] = doctor._descriptors(a_case(tmp_path, figures=figures))
    assert finding.state == state


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "state"), [(1 << 20, ACT), (1 << 30, NOTE), (500 << 30, WELL)])
def test_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(1 << 40, 0, free))
    monkeypatch.setattr(doctor, "_file_system", lambda path: "ext4")
    assert worst(list(doctor._disk(a_case(tmp_path))), "space").state == state


@pytest.mark.parametrize(("kind", "words"), [("nfs4", "local disk"), ("tmpfs", "in memory")])
def test_file_systems_that_keep_nothing_well_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str
) -> None:
    monkeypatch.setattr(doctor, "_file_system", lambda path: kind)
    finding = worst(list(doctor._disk(a_case(tmp_path))), "disk")
    assert finding.state == ACT and words in finding.sentence


def test_a_damaged_database_and_an_open_folder_are_told(tmp_path: Path) -> None:
    data = a_folder(tmp_path / "data")
    assert [each.state for each in doctor._database(a_case(data))] == [WELL]
    (data / DATABASE).write_bytes(b"no database" * 1000)
    [finding] = doctor._database(a_case(data))
    assert finding.state == ACT and "damaged" in finding.sentence
    data.chmod(0o755)
    [finding] = doctor._folder(a_case(data))
    assert finding.state == ACT and "chmod 700" in finding.sentence


def test_files_that_others_can_see_or_that_fill_their_room_are_told(tmp_path: Path) -> None:
    data = a_folder(tmp_path / "data")
    figures = {"blobs": 3.0, "blobs_bytes": 95.0, "blobs_most_bytes": 100.0}
    assert list(doctor._blobs(a_case(data))) == []
    assert worst(list(doctor._blobs(a_case(data, figures=figures))), "blobs").state == NOTE
    assert worst(list(doctor._blobs(a_case(data, figures=figures | {"blobs_bytes": 5.0}))), "blobs").state == WELL
    (data / folder.BLOBS).mkdir(mode=0o755)
    (data / folder.BLOBS).chmod(0o755)
    assert worst(list(doctor._blobs(a_case(data, figures=figures))), "blobs").state == ACT


def test_a_server_that_hangs_is_unwell_or_is_an_older_version(tmp_path: Path) -> None:
    def of(health: object, figures: dict[str, float] | None = None) -> Finding:
        return next(doctor._server(a_case(tmp_path, is_running=True, health=health, figures=figures or {})))

    assert of(None).state == ACT
    assert of({"stage": "ready", "problems": ["storage"]}).state == ACT
    assert of({"stage": "ready", "problems": []}, {"bugs_total": 2.0}).state == NOTE
    assert of({"stage": "ready", "problems": []}).state == WELL
    [old] = doctor._version(a_case(tmp_path, health={"version": "0.0.1"}))
    assert old.state == ACT and "0.0.1 runs: restart" in old.sentence


def test_the_command_ends_with_1_when_something_must_be_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "--data", str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith("ACT   folder:        There is no server in")
    data = a_folder(tmp_path / "data")
    code = cli.main(["doctor", "--json", "--data", str(data)])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == (1 if any(each["state"] == ACT for each in found) else 0)
    assert all(set(each) == {"what", "state", "advice"} for each in found)
