"""Folders and files for targets that read files: a data folder to restore into, and a sound backup to spoil.

All of it lies in memory where the system has such a place, and goes with the process.
"""

import functools
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from taube.server import backup, folder, secrets
from taube.server.ports import StoreUnusable
from taube.server.services import accounts, identity, registration
from taube.server.stores import sqlite
from tests.fuzz import world as w

_IN_MEMORY: Final = Path("/dev/shm")
_kept: Final[list[tempfile.TemporaryDirectory[str]]] = []


@functools.cache
def place() -> Path:
    """A folder of this process."""
    made = tempfile.TemporaryDirectory(prefix="taube-fuzz-", dir=_IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None)
    _kept.append(made)
    return Path(made.name)


def written(name: str, data: bytes) -> Path:
    """The file *name* with these bytes."""
    file = place() / name
    file.write_bytes(data)
    return file


@functools.cache
def sound_backup() -> bytes:
    """The backup of a server with one account, without a digest, so that what is behind that check is reached."""
    data = place() / "whole"
    folder.prepare(data)
    folder.keep(data, "origin", w.ORIGIN)
    with sqlite.transaction(data / backup.DATABASE) as tables:
        identity.start_clock(tables, w.NOW_MS, 0.0)
        identity.establish(tables, w.fixed_random, w.NOW_MS)
        new = accounts.check_new(w.PERSON.genesis, w.PERSON.device_list(), secrets.verify)
        accounts.create(tables, new, 202609, w.fixed_random)
        registration.invite(tables, 3, 30, w.NOW_MS, w.fixed_random)
    file = place() / "sound"
    file.write_bytes(b"")
    sqlite.copy(data / backup.DATABASE, file, {backup.ORIGIN: w.ORIGIN.encode()})
    return file.read_bytes()


def with_fact(data: bytes, name: str, value: bytes) -> bytes:
    """The database *data* with one fact changed; as it is if it cannot be written."""
    file = written("changed", data)
    try:
        with sqlite.transaction(file) as tables:
            tables.set_fact(name, value)
        sqlite.join_log(file)
    except StoreUnusable:
        return data
    return file.read_bytes()


def empty_folder() -> Path:
    """A data folder in which nothing is."""
    data = place() / "data"
    shutil.rmtree(data, ignore_errors=True)
    return data


@functools.cache
def app_folder() -> Path:
    """A small build of the phone app: a page, a script in three forms that is sent in pieces, and something empty."""
    made = place() / "app"
    (made / "assets").mkdir(parents=True)
    found = {"index.html": b"<!doctype html>", "assets/app.js": b"//" * 40_000, "empty.webmanifest": b""}
    for name, content in found.items():
        (made / name).write_bytes(content)
    for ending in (".br", ".gz"):
        (made / f"assets/app.js{ending}").write_bytes(b"packed")
    tags = {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    (made / "build.json").write_text(json.dumps({"hash": "0" * 64, "files": tags}))
    return made
