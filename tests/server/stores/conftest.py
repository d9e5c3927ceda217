"""Both engines behind one synchronous handle, so that every store test runs against each."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taube.server.ports import EnvelopeRow, MailboxId, MailboxRow, QueueNumber, Store, StoredEnvelope, Tables
from taube.server.stores.memory import MemoryStore
from taube.server.stores.sqlite import SqliteSettings, SqliteStore
from taube.wire.errors import WireError

WAIT_S = 20.0


class Engine:
    """A store, called synchronously: each method waits for the answer, and raises the error."""

    name = ""
    store: Store

    def wait(self, begin: Callable[[Callable[..., None]], None]) -> Any:
        raise NotImplementedError

    def reopen(self) -> None:
        """Close and open again, as a restart of the server does."""

    def close(self) -> None:
        self.store.close()

    def write(self, job: Callable[[Tables], Any]) -> Any:
        return _result(self.wait(lambda done: self.store.write(job, done)))

    def read(self, job: Callable[[Tables], Any]) -> Any:
        return _result(self.wait(lambda done: self.store.read(job, done)))

    def submit(self, rows: list[EnvelopeRow], deletes: list[tuple[QueueNumber, int]] | None = None) -> bool:
        return bool(self.wait(lambda done: self.store.submit(rows, deletes or [], done))[0])

    def load(self, *mailboxes: MailboxId) -> list[MailboxRow | None]:
        found = self.wait(lambda done: self.store.load(mailboxes, done))[0]
        assert isinstance(found, list)
        return found

    def fetch(
        self, queue: QueueNumber, after: int = 0, count: int = 1000, size_bytes: int = 1 << 30
    ) -> tuple[list[StoredEnvelope], bool]:
        found, more = self.wait(lambda done: self.store.fetch(queue, after, count, size_bytes, done))
        return found, more


def _result(answer: tuple[Any, WireError | None]) -> Any:
    result, error = answer
    if error is not None:
        raise error
    return result


class MemoryEngine(Engine):
    name = "memory"

    def __init__(self) -> None:
        self.store: MemoryStore = MemoryStore()

    def wait(self, begin: Callable[[Callable[..., None]], None]) -> Any:
        answers: list[Any] = []
        begin(lambda *answer: answers.append(answer))
        self.store.run()
        return answers[0]


class SqliteEngine(Engine):
    name = "sqlite"

    def __init__(self, path: Path, settings: SqliteSettings | None = None) -> None:
        self.path = path
        self.settings = settings or SqliteSettings(delete_pause_s=0.0)
        self.loop = asyncio.new_event_loop()
        self.problems: list[tuple[str, BaseException]] = []
        self.foreign = 0
        self._open()

    def _open(self) -> None:
        self.store: SqliteStore = SqliteStore(
            self.path,
            later=self.loop.call_soon_threadsafe,
            soon=self.loop.call_soon,
            problem=lambda what, error: self.problems.append((what, error)),
            foreign=self._noticed,
            settings=self.settings,
        )

    def _noticed(self) -> None:
        self.foreign += 1

    def wait(self, begin: Callable[[Callable[..., None]], None]) -> Any:
        answer = self.loop.create_future()
        begin(lambda *values: answer.set_result(values))
        return self.loop.run_until_complete(asyncio.wait_for(answer, WAIT_S))

    def reopen(self) -> None:
        self.store.close()
        self._open()

    def close(self) -> None:
        self.store.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()


@pytest.fixture(params=["memory", "sqlite"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    made: Engine = MemoryEngine() if request.param == "memory" else SqliteEngine(tmp_path / "taube.db")
    yield made
    made.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SqliteEngine]:
    made = SqliteEngine(tmp_path / "taube.db")
    yield made
    made.close()
