"""The encrypted database and the home folder: keys, versions, transactions between processes, copies."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import apsw
import pytest

from taube.client.errors import HomeUnusable
from taube.client.home import Home
from taube.client.store import MAX_ASIDE_PER_SERIAL, SCHEMA_VERSION, Store, _connect
from tests.spec import spec


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@spec("DEV-06")
def test_home_and_key_can_be_read_by_their_owner_only(home: Home) -> None:
    Store.create(home, os.urandom).close()
    assert home.folder.stat().st_mode & 0o777 == 0o700
    assert home.key_file.stat().st_mode & 0o777 == 0o600
    assert home.database.stat().st_mode & 0o777 == 0o600


def test_a_home_whose_making_was_interrupted_is_made_to_the_end(home: Home) -> None:
    """By a kill, or by a disk that was full: the file was there, and no table in it."""
    home.create()
    _connect(home, None, home.make_key(os.urandom), create=True).close()
    assert home.exists()
    Store.open(home).close()
    store = Store.create(home, os.urandom)
    assert store.meta_int("registered") == 0 and store._value("PRAGMA user_version") == SCHEMA_VERSION
    store.close()


@spec("DEV-06")
def test_nothing_readable_is_written(home: Home) -> None:
    store = Store.create(home, os.urandom)
    with store.write():
        store.set_meta("name", "a very secret canary")
    written = b"".join(path.read_bytes() for path in home.folder.iterdir())
    assert b"canary" not in written
    assert b"CREATE TABLE" not in written
    store.close()


def test_wrong_passphrase_is_one_sentence_and_changes_nothing(home: Home) -> None:
    Store.create(home, os.urandom, "right").close()
    before = home.database.read_bytes()
    with pytest.raises(HomeUnusable, match="not the passphrase") as caught:
        Store.open(home, "wrong")
    assert caught.value.exit_code == 77
    with pytest.raises(HomeUnusable, match="passphrase"):
        Store.open(home)
    assert home.database.read_bytes() == before
    assert not home.key_file.exists()
    Store.open(home, "right").close()


def test_wrong_key_file_is_one_sentence(home: Home) -> None:
    Store.create(home, os.urandom).close()
    home.key_file.write_bytes(bytes(32))
    with pytest.raises(HomeUnusable, match="key file does not fit"):
        Store.open(home)


def test_a_home_on_a_disk_that_can_only_be_read_is_told_so(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.create(home, os.urandom).close()

    def refuse(*_: object, **__: object) -> None:
        raise apsw.CantOpenError("unable to open database file")

    monkeypatch.setattr(apsw, "Connection", refuse)
    with pytest.raises(HomeUnusable, match="permissions") as caught:
        Store.open(home)
    assert caught.value.exit_code == 77
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(HomeUnusable, match="can only be read") as caught:
        Store.open(home)
    assert caught.value.exit_code == 74


@spec("DEV-06")
def test_home_of_a_newer_version_is_refused_and_left_alone(home: Home) -> None:
    store = Store.create(home, os.urandom)
    with store.write():
        store._run(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    store.close()
    with pytest.raises(HomeUnusable, match="newer version") as caught:
        Store.open(home)
    assert caught.value.exit_code == 78


@spec("DEV-01")
def test_transaction_left_by_an_exception_never_was(home: Home) -> None:
    store = Store.create(home, os.urandom)
    told: list[int] = []
    store.on_commit.append(lambda: told.append(1))
    with pytest.raises(RuntimeError), store.write():
        store.set_meta("x", "1")
        raise RuntimeError
    assert store.meta("x") is None
    assert told == []
    with store.write():
        store.set_meta("x", "2")
    assert told == [1]
    store.close()


@spec("DEV-04")
def test_another_process_is_noticed_and_waits_for_the_lock(home: Home) -> None:
    store = Store.create(home, os.urandom)
    other = Store.open(home)
    before = store.data_version()
    with other.write():
        other.set_meta("x", "1")
    assert store.data_version() != before
    assert store.meta_int("x") == 1
    store.close()
    other.close()


@spec("DEV-01")
def test_process_killed_inside_a_transaction_leaves_the_state_from_before(home: Home) -> None:
    Store.create(home, os.urandom).close()
    script = (
        "import os, signal, sys; from taube.client.home import Home; from taube.client.store import Store\n"
        "s = Store.open(Home(sys.argv[1]))\n"
        "with s.write():\n s.set_meta('a', '1'); s.put_row(b'g', b'k', b'1'); s.bump_scope(b'g')\n"
        "with s.write():\n s.set_meta('a', '2'); s.put_row(b'g', b'k', b'2'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(home.folder)], check=False, timeout=30)
    store = Store.open(home)
    assert store.meta_int("a") == 1
    assert store.scope_rows(b"g") == [(b"k", b"1")]
    assert store.scope_version(b"g") == 1
    store.close()


@spec("DEV-05")
def test_copy_of_a_home_has_another_stamp_and_a_moved_one_keeps_it(home: Home, tmp_path: Path) -> None:
    Store.create(home, os.urandom).close()
    home.write_stamp_file(os.urandom)
    stamp = home.stamp()
    assert stamp == home.stamp() != b""
    shutil.copytree(home.folder, tmp_path / "copy", copy_function=shutil.copy2)
    assert Home(tmp_path / "copy").stamp() != stamp
    home.folder.rename(tmp_path / "moved")
    assert Home(tmp_path / "moved").stamp() == stamp


def test_restoring_over_the_same_files_changes_the_stamp(home: Home, tmp_path: Path) -> None:
    Store.create(home, os.urandom).close()
    home.write_stamp_file(os.urandom)
    stamp = home.stamp()
    for name in ("stamp", "taube.db"):
        content = (home.folder / name).read_bytes()
        with (home.folder / name).open("r+b") as file:
            file.write(content)
    assert home.stamp() != stamp


@spec("DEV-04")
def test_lock_is_held_by_one_at_a_time(home: Home) -> None:
    home.create()
    first = home.try_lock("device")
    assert first is not None
    assert home.try_lock("device") is None
    first.release()
    second = home.try_lock("device")
    assert second is not None
    second.release()


@spec("DEV-02")
def test_envelopes_set_aside_are_bounded_for_each_serial(home: Home) -> None:
    store = Store.create(home, os.urandom)
    with store.write():
        for n in range(MAX_ASIDE_PER_SERIAL):
            assert store.set_aside(bytes([n] * 16), b"serial01", b"body", 0)
        assert not store.set_aside(b"x" * 16, b"serial01", b"body", 0)
        assert store.set_aside(b"y" * 16, b"serial02", b"body", 0)
        assert store.is_decided(bytes(16))
        store.expire(31 * 86_400_000)
        assert not store.is_decided(bytes(16))
    store.close()


def test_receipts_are_owed_to_open_chats_only_and_the_higher_one_counts(home: Home) -> None:
    from taube.client.store import Chat

    store = Store.create(home, os.urandom)
    with store.write():
        store.add_chat(Chat(b"c" * 16, "bob", "link", 0, "request", b"b" * 32, None, 1, 0))
        store.owe_receipt(b"c" * 16, b"m" * 16, 1)
        assert store.receipts_owed() == []
        store.set_chat_state(b"c" * 16, "open")
        store.owe_receipt(b"c" * 16, b"m" * 16, 2)
        store.owe_receipt(b"c" * 16, b"m" * 16, 1)
        assert store.receipts_owed() == [(b"c" * 16, b"m" * 16, 2)]
    store.close()


def as_of_schema_2(store: Store) -> None:
    """Take away what came later."""
    store._run("DROP TABLE uploads")
    for column in ("reply_to", "content"):
        store._run(f"ALTER TABLE messages DROP COLUMN {column}")
    store._run("PRAGMA user_version = 2")


def test_a_home_of_schema_2_is_upgraded_with_its_messages_and_takes_files(home: Home) -> None:
    store = Store.create(home, os.urandom)
    fresh = store._rows("SELECT name, type FROM pragma_table_info('messages')")
    with store.write():
        as_of_schema_2(store)
        columns = "id, chat, sender, sequence, sent_at_ms, kind, text, state, unread"
        values = (b"m" * 16, b"c" * 16, b"s" * 32, 1, 5, "text", "of old", "received", 1)
        store._run(f"INSERT INTO messages ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", *values)
    store.close()
    store = Store.open(home)
    assert store._value("PRAGMA user_version") == SCHEMA_VERSION
    assert store._rows("SELECT name, type FROM pragma_table_info('messages')") == fresh
    (old,) = store.messages(b"c" * 16, 10)
    assert (old.text, old.reply_to, old.content) == ("of old", b"", None)
    with store.write():
        store.add_upload(b"c" * 16, b"n" * 16, b"content", b"s" * 32, 7)
    assert [upload.secret for upload in store.uploads()] == [b"s" * 32]
    store.close()


def test_a_home_of_schema_1_is_upgraded_and_its_requests_are_counted(home: Home) -> None:
    from taube.client.store import Chat, Group

    store = Store.create(home, os.urandom)
    with store.write():
        for name, state in ((b"a", "request"), (b"b", "open"), (b"c", "request")):
            group = name * 32
            peer = b"p" * 32 if name == b"a" else None
            store.add_chat(Chat(name * 16, name.decode(), "link", 0, state, peer, group, 1, 0))
            store.put_group(Group(group, name * 16, name * 16, 1, "current", 0, None, b"serial01"))
        as_of_schema_2(store)
        store._run("DROP TABLE requests")
        store._run("PRAGMA user_version = 1")
    store.close()
    store = Store.open(home)
    assert store._value("PRAGMA user_version") == SCHEMA_VERSION
    assert store.count_requests(b"p" * 32, b"serial01") == (1, 2)
    with store.write():
        store.set_chat_state(b"c" * 16, "blocked")
    assert store.count_requests(b"p" * 32, b"serial01") == (1, 1)
    fresh = Store.create(Home(home.folder.parent / "fresh"), os.urandom)
    schema = "SELECT name, sql FROM sqlite_schema ORDER BY name"
    assert store._rows(schema) == fresh._rows(schema), "the same as a new one"
    fresh.close()
    store.close()
    Store.open(home).close()
