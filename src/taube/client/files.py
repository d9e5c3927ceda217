"""What a media message needs beyond its words: its file sealed and uploaded before it leaves, fetched and opened after.

    seal         file → home/outgoing/NAME, chunk by chunk, durable; the message is held until it is on the server
    upload_due   uploads what is held, in order, in one process at a time, and releases each message
    fetch        home/incoming/NAME ← server; opened chunk by chunk; the file appears whole and right, or not at all

Neither end ever holds a whole file in memory. An upload or a download that was broken off goes on where it was.
Source: docs/protocol/content.md, CNT-19 and CNT-40 .. CNT-44.
"""

import asyncio
import hashlib
import mimetypes
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from taube.client.blobs import Blobs, name_of, sync_file
from taube.client.contacts import one_line
from taube.client.content import MAX_FILE_NAME_BYTES, MAX_MEDIA_BYTES, Media
from taube.client.e2e import CoreError
from taube.client.errors import Refused, UserError, WrongInput
from taube.client.outbox import Outbox
from taube.client.store import DAY_MS, KEEP_SENT_MS, Upload
from taube.client.transport import TransportError
from taube.client.vault import Vault
from taube.exits import EX_CANTCREAT, EX_DATAERR
from taube.wire.errors import BLOB_TOO_LARGE, BLOB_UNKNOWN, Retry, TaubeError, WireError

CHUNK_BYTES: Final = 65_536
TAG_BYTES: Final = 16
RETRY_MS: Final = 2_000
RETRY_MOST_MS: Final = 3_600_000
MAX_END: Final = 12
MAX_SAME_NAMES: Final = 10_000


class Sealed(NamedTuple):
    """A file that lies sealed in the home, ready to be uploaded."""

    secret: bytes
    key: bytes
    hash: bytes
    size: int

    @property
    def name(self) -> bytes:
        """The blob's."""
        return name_of(self.secret)


class Files:
    """The files of one home, on their way out and in."""

    def __init__(self, vault: Vault, outbox: Outbox, blobs: Blobs) -> None:
        self._vault = vault
        self._store = vault.store
        self._outbox = outbox
        self._blobs = blobs
        self._outgoing = vault.store.home.folder / "outgoing"
        self._incoming = vault.store.home.folder / "incoming"
        self.problem: TaubeError | None = None
        """Why the last upload failed; None when it did not."""

    @property
    def moved_bytes(self) -> int:
        """Rises while a transfer of this process gets on."""
        return self._blobs.moved_bytes

    # ---------------------------------------------------------------- out

    async def seal(self, source: BinaryIO, size: int) -> Sealed:
        """Seal all *size* bytes of *source* into the home. Raises WrongInput if it changes meanwhile; OSError."""
        if size > MAX_MEDIA_BYTES:
            raise WrongInput("A file of more than 1 GiB cannot be sent.")
        core, secret, key = self._vault.core, self._vault.random(32), self._vault.random(32)
        digest = hashlib.sha256()
        path = self._sealed_file(secret)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        draft = path.with_suffix(".new")
        try:
            with open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:  # noqa: PTH123
                for index in range(self._chunks(size)):
                    piece = source.read(min(CHUNK_BYTES, max(size - index * CHUNK_BYTES, 0)))
                    try:
                        chunk = core.seal_blob(key, size, index, piece)
                    except CoreError as error:
                        raise WrongInput("The file became shorter while it was read: send it again.") from error
                    digest.update(chunk)
                    file.write(chunk)
                    await asyncio.sleep(0)
            if source.read(1):
                raise WrongInput("The file became longer while it was read: send it again.")
            draft.replace(path)
            sync_file(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return Sealed(secret, key, digest.digest(), size)

    def discard(self, secret: bytes) -> None:
        """A sealed file that will not be uploaded, or is."""
        self._sealed_file(secret).unlink(missing_ok=True)

    async def upload_due(self) -> None:
        """Upload what is due, if no other process is at it. Raises TransportError, WireError that waiting may mend."""
        lock = self._store.home.try_lock("uploads")
        if lock is None:
            return
        with lock:
            self._tidy()
            for upload in self._store.uploads():
                if upload.due_ms <= self._vault.now_ms():
                    await self._upload(upload)

    async def _upload(self, upload: Upload) -> None:
        path = self._sealed_file(upload.secret)
        if upload.made_ms + KEEP_SENT_MS < self._vault.now_ms() or not path.exists():
            self._outbox.abandon(upload)
            self.discard(upload.secret)
            return
        try:
            await self._blobs.upload(upload.secret, path)
        except TransportError as error:
            self._postpone(upload, error, 0)
            raise
        except WireError as error:
            if error.kind.retry is Retry.LATER:
                self._postpone(upload, error, error.retry_after_ms)
                raise
            self.problem = UserError(_why_not(error), EX_DATAERR)
            self._outbox.abandon(upload)
        except Exception:  # a bug, which is reported; those behind this one go on
            self._postpone(upload, self.problem, 0)
            raise
        else:
            self.problem = None
            self._outbox.release(upload)
        self.discard(upload.secret)

    def _postpone(self, upload: Upload, error: TaubeError | None, least_ms: int) -> None:
        self.problem = error
        wait_ms = max(min(RETRY_MS << min(upload.tries, 12), RETRY_MOST_MS), least_ms)
        with self._store.write():
            self._store.postpone_upload(upload.n, self._vault.now_ms() + wait_ms, upload.tries + 1)

    def _tidy(self) -> None:
        """Remove files that nothing names: what a crash left, once it is a day old."""
        kept = {name_of(upload.secret).hex() for upload in self._store.uploads()}
        for path in (*self._outgoing.glob("*"), *self._incoming.glob("*")):
            with suppress(OSError):
                if path.stem not in kept and path.stat().st_mtime < time.time() - DAY_MS / 1000:
                    path.unlink()

    # ---------------------------------------------------------------- in

    async def fetch(self, media: Media, target: Path, sender: str) -> None:
        """Bring the file of *media* to *target*, which must not be there yet.

        Raises TransportError, WireError, UserError (gone, altered, *target* is there), OSError.
        """
        with await self._store.home.lock("fetch"):
            part = self._incoming / media.blob.hex()
            part.parent.mkdir(mode=0o700, exist_ok=True)
            size = self._vault.core.padded_size(media.size) + TAG_BYTES * self._chunks(media.size)
            try:
                await self._blobs.download(media.blob, part, size)
            except WireError as error:
                if error.kind is BLOB_UNKNOWN:
                    raise Refused(
                        f"The file is no longer on the server, which keeps each for 45 days at most: ask {sender} to"
                        " send it again."
                    ) from error
                raise
            try:
                await self._open(media, part, target, sender)
            finally:
                part.unlink(missing_ok=True)

    async def _open(self, media: Media, part: Path, target: Path, sender: str) -> None:
        core, digest = self._vault.core, hashlib.sha256()
        draft = target.with_name(f".{media.blob.hex()[:16]}.part")
        draft.unlink(missing_ok=True)
        try:
            with (
                part.open("rb") as sealed,
                open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file,  # noqa: PTH123
            ):
                for index in range(self._chunks(media.size)):
                    chunk = sealed.read(CHUNK_BYTES + TAG_BYTES)
                    digest.update(chunk)
                    file.write(core.open_blob(media.key, media.size, index, chunk))
                    await asyncio.sleep(0)
                if sealed.read(1) or digest.digest() != media.hash:
                    raise _altered(sender)
            sync_file(draft)
            try:
                os.link(draft, target)
            except FileExistsError as error:
                raise UserError(f"{target} is there already and was not overwritten.", EX_CANTCREAT) from error
            sync_file(target)
        except CoreError as error:
            raise _altered(sender) from error
        finally:
            draft.unlink(missing_ok=True)

    # ---------------------------------------------------------------- helpers

    def _sealed_file(self, secret: bytes) -> Path:
        return self._outgoing / name_of(secret).hex()

    def _chunks(self, size: int) -> int:
        return -(-self._vault.core.padded_size(size) // CHUNK_BYTES)


def _altered(sender: str) -> UserError:
    return UserError(
        f"The file is not the one that {sender} sealed, and was not saved: ask {sender} to send it again.", EX_DATAERR
    )


def _why_not(error: WireError) -> str:
    if error.kind is BLOB_TOO_LARGE:
        return "The file is larger than this server takes: send a smaller one."
    return f"The server did not take the file: {error.kind.meaning}"


def media_type_of(name: str) -> str:
    """What a file of this name probably is."""
    found = (mimetypes.guess_type(name)[0] or "").lower()
    return found if re.fullmatch(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*", found) else _ANY_TYPE


def shortened(name: str) -> str:
    """A file's own name as a content may carry it: its end stays."""
    raw = name.encode("utf-8", "replace")
    while len(raw) > MAX_FILE_NAME_BYTES:
        name = name[1:]
        raw = name.encode("utf-8", "replace")
    return raw.decode()


_ANY_TYPE: Final = "application/octet-stream"
_NOT_IN_NAMES: Final = re.compile(r'[<>:"|?*\x00-\x1f\x7f]')


def clean_file_name(claimed: str, media_type: str) -> str:
    """A name for a file that a stranger named: one part, plain characters, no leading dot. Source: CNT-44."""
    stem, dot, end = re.split(r"[/\\]", claimed)[-1].rpartition(".")
    if not dot:
        stem, end = end, ""
    stem, end = (_NOT_IN_NAMES.sub("_", one_line(part)).strip(" .") for part in (stem, end))
    if not stem:
        stem = "photo" if media_type.startswith("image/") else "file"
    if len(end) > MAX_END:
        stem, end = one_line(f"{stem}.{end}"), ""
    if not end and media_type != _ANY_TYPE:
        end = (mimetypes.guess_extension(media_type) or "").removeprefix(".")
    return f"{stem}.{end}" if end else stem


def numbered(folder: Path, name: str) -> Path:
    """The first of NAME, NAME-2, NAME-3, … in *folder* that is not there yet."""
    stem, dot, end = name.rpartition(".")
    if not stem:
        stem, dot, end = name, "", ""
    for number in range(1, MAX_SAME_NAMES):
        path = folder / (name if number == 1 else f"{stem}-{number}{dot}{end}")
        if not path.exists() and not path.is_symlink():
            return path
    raise UserError(f"{folder} has too many files called {name}: name another folder.", EX_CANTCREAT)
