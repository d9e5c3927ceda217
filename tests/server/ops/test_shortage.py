"""What a machine has run out of is told as that, wherever a start meets it, and not as a matter of who owns a file."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from taube import cli, shortage
from taube.exits import EX_CONFIG, EX_IOERR
from taube.server import folder
from taube.server.config import OperatorError
from taube.server.ports import StoreUnusable
from taube.server.stores import sqlite

SHORT = [
    (errno.ENOSPC, "is full. Make room", EX_IOERR),
    (errno.EDQUOT, "quota", EX_IOERR),
    (errno.EMFILE, "limit of open files", EX_CONFIG),
    (errno.ENFILE, "fs.file-max", EX_CONFIG),
]


@pytest.mark.parametrize(("number", "said", "code"), SHORT)
def test_a_data_folder_that_cannot_be_taken_says_what_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str, code: int
) -> None:
    def short(*words: object, **more: object) -> int:
        raise OSError(number, os.strerror(number), str(words[0]))

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", short)
        patched.setattr(Path, "mkdir", short)
        for call in (
            lambda: folder.prepare(tmp_path / "new"),
            lambda: folder.hold(tmp_path),
            lambda: folder.keep(tmp_path, "ops", "http://127.0.0.1:1"),
        ):
            with pytest.raises(OperatorError, match=said) as refused:
                call()
            assert refused.value.exit_code == code and "own" not in str(refused.value)
        with pytest.raises(StoreUnusable, match=said) as unusable:
            sqlite.prepare(tmp_path / "taube.db", sqlite.SqliteSettings())
    assert unusable.value.exit_code == code and "own" not in str(unusable.value)


@pytest.mark.parametrize(("number", "said", "code"), SHORT)
@pytest.mark.parametrize("kind", [apsw.IOError, apsw.CantOpenError])
def test_what_sqlite_does_not_tell_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str, code: int, kind: type[apsw.Error]
) -> None:
    monkeypatch.setattr(shortage, "of_folder", lambda folder: number)
    told = sqlite._unusable(tmp_path / "taube.db", kind("disk I/O error"))
    assert said in str(told) and told.exit_code == code
    monkeypatch.setattr(shortage, "of_folder", lambda folder: None)
    assert said not in str(sqlite._unusable(tmp_path / "taube.db", kind("disk I/O error")))


def test_a_folder_that_can_be_written_is_short_of_nothing_and_left_as_it_is(tmp_path: Path) -> None:
    assert shortage.of_folder(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    assert shortage.of_folder(tmp_path / "nowhere") == errno.ENOENT
    assert not shortage.sentence(errno.ENOENT, tmp_path) and not shortage.sentence(None, tmp_path)


@pytest.mark.parametrize("files", [12, 20, 40])
def test_a_server_that_may_open_few_files_says_that_this_is_the_limit(tmp_path: Path, files: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "taube", "serve", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0"],
        capture_output=True, text=True, timeout=60, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)),
    )  # fmt: skip
    assert done.returncode == EX_CONFIG, done
    assert len(done.stderr.splitlines()) == 1 and "raise the limit of open files" in done.stderr


def test_a_soft_limit_of_few_files_is_raised_before_anything_is_opened(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    server = subprocess.Popen(
        [sys.executable, "-m", "taube", "serve", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (20, hard)),
    )  # fmt: skip
    assert server.stdout is not None
    assert server.stdout.readline().startswith("ready ")
    server.terminate()
    assert server.wait(60) == 0


def test_every_command_says_so() -> None:
    assert cli.explain(OSError(errno.EMFILE, "too many")) == (shortage.sentence(errno.EMFILE, ""), EX_CONFIG)
