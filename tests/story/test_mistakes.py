"""What goes wrong for people: each time one clear sentence, the documented exit code, and nothing overwritten."""

import os
import sqlite3
from pathlib import Path

import pytest

from taube.testing import Person, Result, Server, free_port, make_certificate, run_command, succeeded, temporary_server


def refused(result: Result, code: int, *words: str) -> None:
    """*result* is one sentence with these words and this code, and nothing on standard output."""
    assert (result.code, result.out) == (code, ""), result
    assert result.err.startswith("taube: ") and result.err.count("\n") == 0, result.err
    assert result.err.endswith((".", ".)", "!")), result.err
    assert "Traceback" not in result.err and "Error" not in result.err
    for word in words:
        assert word in result.err, result.err


def stranger(server: Server, name: str) -> Person:
    return server.person(name, join=False)


def test_a_used_invitation(taube_server: Server) -> None:
    link = taube_server.invite()
    succeeded(stranger(taube_server, "used-1").run("join", link, "--name", "x"))
    late = stranger(taube_server, "used-2")
    refused(late.run("join", link, "--name", "x"), 77, "used up")
    assert late.run("me").code == 66
    succeeded(late.run("join", taube_server.invite(), "--name", "x"))


def test_an_unknown_and_a_revoked_invitation(taube_server: Server) -> None:
    link = taube_server.invite()
    unknown = link[: link.index("#") + 1] + "A" * 22
    nobody = stranger(taube_server, "unknown")
    refused(nobody.run("join", unknown, "--name", "x"), 77, "invitation")
    refused(nobody.run("join", unknown[:-1] + "B", "--name", "x"), 65, "copy it whole")
    succeeded(taube_server.admin("revoke", link))
    refused(nobody.run("join", link, "--name", "x"), 77, "invitation")


def test_an_expired_invitation(tmp_path: Path) -> None:
    with temporary_server(tmp_path) as server:
        link = server.invite()
        server.stop()
        with sqlite3.connect(server.data / "taube.db") as database:
            database.execute("update invitation set expires_at_ms = expires_at_ms - 8 * 86400000")
        server.start()
        refused(stranger(server, "late").run("join", link, "--name", "x"), 77, "expired")


@pytest.mark.parametrize(
    "link",
    [
        "",
        "nonsense",
        "https://",
        "https://localhost/i#",
        "https://localhost/i#%%%",
        "ftp://x/i#AAAA",
        "http://far.example/i#" + "A" * 22,
    ],
)
def test_a_malformed_invitation(taube_server: Server, link: str) -> None:
    nobody = stranger(taube_server, "malformed")
    refused(nobody.run("join", link, "--name", "x"), 65)
    assert not (nobody.home / "taube.db").exists()


@pytest.mark.parametrize(
    ("name", "words"), [("", "needs a name"), (" \u200b", "needs a name"), ("0123456789abcdef" * 2, "id of a chat")]
)
def test_a_name_that_is_none(taube_server: Server, name: str, words: str) -> None:
    nobody = stranger(taube_server, "nameless")
    refused(nobody.run("join", taube_server.invite(), "--name", name), 65, words, "--name")
    assert not nobody.home.exists()


@pytest.mark.parametrize(
    "link", ["nonsense", "https://localhost/c#", "https://localhost/c#AAAA", "https://localhost/i#" + "A" * 22]
)
def test_a_malformed_contact_link(somebody: Person, link: str) -> None:
    refused(somebody.run("add", link), 65, "link")


def test_a_contact_link_of_another_server(somebody: Person) -> None:
    link = somebody.contact_link()
    other = "https://elsewhere.example" + link[link.index("/c#") :]
    refused(somebody.run("add", other), 65, "elsewhere.example")


def test_adding_oneself(somebody: Person) -> None:
    refused(somebody.run("add", somebody.contact_link()), 65)


def test_joining_where_there_is_an_account_already(somebody: Person, taube_server: Server) -> None:
    before = succeeded(somebody.run("me")).out
    refused(somebody.run("join", taube_server.invite(), "--name", "again"), 73, "already")
    assert succeeded(somebody.run("me")).out == before


@pytest.mark.parametrize(
    "command", [["me"], ["chats"], ["read"], ["send", "x", "y"], ["add", "z"], ["delete-account", "--yes"]]
)
def test_a_home_without_an_account(taube_server: Server, command: list[str], tmp_path: Path) -> None:
    nobody = Person("nobody", tmp_path / "empty", taube_server.environment)
    refused(nobody.run(*command), 66, "join")
    assert not nobody.home.exists() or not any(nobody.home.iterdir())


@pytest.mark.parametrize(
    "command", [["send", "nobody", "x"], ["accept", "nobody"], ["verify", "nobody"], ["read", "nobody"]]
)
def test_a_chat_that_does_not_exist(somebody: Person, command: list[str]) -> None:
    refused(somebody.run(*command), 66, "nobody")


def test_texts_that_cannot_be_sent(bob: Person, alice: Person) -> None:
    refused(bob.run("send", alice.name, ""), 65)
    refused(bob.run("send", alice.name, text="ß" * 9000), 65, "16")
    succeeded(bob.run("send", alice.name, text="ß" * 8192))


def test_a_wrong_certificate(taube_server: Server, tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path, "localhost")
    suspicious = Person("s", tmp_path / "home", taube_server.environment | {"SSL_CERT_FILE": str(certificate)})
    link = taube_server.invite()
    refused(suspicious.run("join", link, "--name", "s"), 69, "could not prove", "certificate")
    refused(suspicious.run("me"), 66, "taube join")
    suspicious.environment = taube_server.environment
    succeeded(suspicious.run("join", link, "--name", "s"))


def test_a_wrong_certificate_while_sending_and_reading(alice: Person, bob: Person, tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path, "localhost")
    trusting, alice.environment = alice.environment, alice.environment | {"SSL_CERT_FILE": str(certificate)}
    sent = alice.run("send", bob.name, "only to the right one")
    assert sent.code == 75 and "certificate" in sent.err
    refused(alice.run("read"), 69, "certificate")
    alice.environment = trusting
    succeeded(alice.run("read"))
    assert [record["text"] for record in bob.read()] == ["only to the right one"]


def test_authorities_to_trust_that_are_not_there(somebody: Person, taube_server: Server, tmp_path: Path) -> None:
    nobody = stranger(taube_server, "trusting")
    for file, code in ((tmp_path / "none.pem", 66), (tmp_path / "empty.pem", 65)):
        (tmp_path / "empty.pem").touch()
        trusted = {"SSL_CERT_FILE": str(file)}
        person = Person(somebody.name, somebody.home, somebody.environment | trusted)
        refused(person.run("read"), code, "SSL_CERT_FILE", file.name)
        nobody.environment = taube_server.environment | trusted
        refused(nobody.run("join", taube_server.invite(), "--name", "n"), code, file.name)


def test_deleting_without_a_person_to_ask(somebody: Person) -> None:
    refused(somebody.run("delete-account"), 64, "--yes")
    succeeded(somebody.run("me"))


def test_a_server_that_is_away(taube_server: Server, tmp_path: Path) -> None:
    nobody = Person("n", tmp_path / "home", taube_server.environment)
    link = taube_server.invite()
    away = link.replace(str(taube_server.port), str(free_port()))
    refused(nobody.run("join", away, "--name", "n"), 75, "cannot be reached")
    succeeded(nobody.run("join", link, "--name", "n"))


def test_reading_while_the_server_is_away_shows_what_is_there_and_says_so(tmp_path: Path) -> None:
    with temporary_server(tmp_path) as server:
        bob = server.person("bob")
        server.stop()
        refused(bob.run("read"), 75, "cannot be reached")
        assert bob.run("me").code == bob.run("chats").code == 0


def test_what_is_typed_in_bytes_that_are_no_text(taube_server: Server, bob: Person, tmp_path: Path) -> None:
    for words in (["send", "\udcff", "hi"], ["accept", "\udcff"], ["unblock", "\udcff"], ["read", "\udcff"]):
        refused(bob.run(*words), 65, "not valid UTF-8")
    refused(taube_server.admin("backup", f"{tmp_path}/\udcff"), 65, "not valid UTF-8")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_and_a_missing_passphrase(taube_server: Server, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("correct horse\n")
    wrong.write_text("incorrect horse\n")
    person = Person("p", tmp_path / "home", taube_server.environment | {"TAUBE_PASSPHRASE_FILE": str(right)})
    succeeded(person.run("join", taube_server.invite(), "--name", "p"))
    assert not (person.home / "key").exists()
    before = (person.home / "taube.db").read_bytes()
    person.environment = taube_server.environment | {"TAUBE_PASSPHRASE_FILE": str(wrong)}
    refused(person.run("me"), 77, "passphrase")
    person.environment = taube_server.environment
    refused(person.run("me"), 77, "TAUBE_PASSPHRASE_FILE")
    person.environment = taube_server.environment | {"TAUBE_PASSPHRASE_FILE": str(tmp_path / "none")}
    refused(person.run("me"), 66, "none")
    assert (person.home / "taube.db").read_bytes() == before
    person.environment = taube_server.environment | {"TAUBE_PASSPHRASE_FILE": str(right)}
    succeeded(person.run("me"))


def test_a_home_of_a_newer_version_is_refused_and_left_as_it_is(bob: Person) -> None:
    raise_schema(bob.home)
    before = {path.name: path.read_bytes() for path in bob.home.iterdir() if path.suffix == ".db"}
    refused(bob.run("me"), 78, "newer")
    refused(bob.run("read"), 78, "newer")
    assert {path.name: path.read_bytes() for path in bob.home.iterdir() if path.suffix == ".db"} == before


def raise_schema(home: Path) -> None:
    """What a version from the future would leave behind."""
    import apsw

    database = apsw.Connection(str(home / "taube.db"))
    database.pragma("key", f"raw:{(home / 'key').read_bytes().hex()}")
    version = database.pragma("user_version")
    database.pragma("user_version", version + 1000)
    database.pragma("wal_checkpoint", "truncate")
    database.close()


def test_a_busy_port(taube_server: Server, tmp_path: Path) -> None:
    line = ["serve", "--data", str(tmp_path / "data"), "--listen", f"127.0.0.1:{taube_server.port}"]
    result = run_command(*line, environment=taube_server.environment)
    assert result.code in (69, 73)
    refused(result, result.code, str(taube_server.port))


def test_a_second_server_on_the_same_data(taube_server: Server) -> None:
    line = ["serve", "--data", str(taube_server.data), "--listen", f"127.0.0.1:{free_port()}"]
    result = run_command(*line, environment=taube_server.environment)
    assert result.code in (69, 73, 75)
    refused(result, result.code, "another")
    succeeded(taube_server.admin("invite"))


def test_plain_http_is_for_loopback_only(tmp_path: Path) -> None:
    result = run_command("serve", "--data", str(tmp_path / "data"), "--listen", f"0.0.0.0:{free_port()}")
    refused(result, result.code, "--tls-cert")
    assert result.code in (64, 78)


def test_certificate_files_that_are_not_there(tmp_path: Path) -> None:
    line = ["serve", "--data", str(tmp_path / "data"), "--listen", f"127.0.0.1:{free_port()}"]
    line += ["--tls-cert", str(tmp_path / "no.crt"), "--tls-key", str(tmp_path / "no.key")]
    result = run_command(*line)
    refused(result, result.code, "no.crt")
    assert result.code in (66, 78)


def test_admin_for_what_is_not_there(taube_server: Server, tmp_path: Path) -> None:
    refused(taube_server.admin("knows", "00" * 32), 65, "no such account")
    refused(taube_server.admin("remove", "00" * 32), 65, "no such account")
    refused(taube_server.admin("knows", "no id"), 65)
    result = run_command("admin", "invite", "--data", str(tmp_path / "nothing"))
    refused(result, 66, "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_reader_whose_pipe_closes_ends_quietly_and_loses_nothing(alice: Person, bob: Person) -> None:
    import subprocess
    import sys

    for number in range(3):
        succeeded(alice.run("send", bob.name, str(number)))
    command = f"{sys.executable} -m taube read --json --home '{bob.home}' | head -n 0"
    done = subprocess.run(["sh", "-c", command], env=os.environ | bob.environment, capture_output=True, check=False)
    assert done.stderr == b""
