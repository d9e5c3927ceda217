"""What chaos, or thinking about it, has found: each a small test of its own beside the code's."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taube.server.ports import EnvelopeRow, MailboxId, QueueNumber
from taube.server.stores.sqlite import SqliteSettings, SqliteStore
from taube.wire.messages import Serial

MAILBOX = MailboxId(b"m" * 16)


def row(queue: int, sequence: int, size: int = 10) -> EnvelopeRow:
    return EnvelopeRow(QueueNumber(queue), sequence, Serial(b"s" * 8), 1, bytes(size))


async def test_deleting_what_never_came_to_the_disk_does_not_delete_what_comes_after_it(tmp_path: Path) -> None:
    """Delivered and acknowledged while its commit failed; the mailbox's state was forgotten before the next batch."""
    loop = asyncio.get_running_loop()
    settings = SqliteSettings(delete_pause_s=0.0)
    store = SqliteStore(tmp_path / "t.db", later=loop.call_soon_threadsafe, soon=loop.call_soon, settings=settings)

    async def answer(begin: Callable[[Callable[..., None]], None]) -> tuple[Any, ...]:
        future: asyncio.Future[tuple[Any, ...]] = loop.create_future()
        begin(lambda *values: future.set_result(values))
        async with asyncio.timeout(20):
            return await future

    try:
        await answer(lambda done: store.write(lambda t: t.add_device(b"a" * 32, b"d" * 16, b"k" * 32, MAILBOX), done))  # type: ignore[arg-type]
        ([found],) = await answer(lambda done: store.load([MAILBOX], done))
        queue = found.queue
        writing = store._writing
        writing.pragma("max_page_count", writing.pragma("page_count"))
        lost = [row(queue, n, 50_000) for n in (1, 2, 3)]
        assert await answer(lambda done: store.submit(lost, [(queue, 3)], done)) == (False,)
        writing.pragma("max_page_count", 1_000_000)
        ([found],) = await answer(lambda done: store.load([MAILBOX], done))
        assert await answer(lambda done: store.submit([row(queue, found.top + 1)], [], done)) == (True,)
        envelopes, _ = await answer(lambda done: store.fetch(queue, 0, 10, 1 << 20, done))
        assert len(envelopes) == 1, "it was answered as kept"
    finally:
        store.close()
