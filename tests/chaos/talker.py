"""One account of the SDK as a process that may be killed at any moment: it writes, reads, and notes what it saw.

    python -m tests.chaos.talker HOME NAME HISTORY LIFE RATE

It writes to every chat that it has, RATE times a second, a text that names itself; it reads everything with
`Account.read`. SIGUSR1 ends the writing; SIGTERM ends the process. Keys and messages are real: this is the end-to-end
part of the history.
"""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import sys
from pathlib import Path

from taube.client.account import Account
from taube.client.errors import UserError
from taube.client.events import MessageChanged
from tests.chaos.history import History


async def write(me: Account, name: str, history: History, rate: float, end: asyncio.Event) -> None:
    dice = random.Random(f"{name} {os.getpid()}")
    counter = itertools.count(1)
    while not end.is_set():
        for chat in me.chats():
            seq = next(counter)
            text = f"{name}-{os.getpid()}-{seq}"
            facts = {"id": text, "from": f"{name}-{os.getpid()}", "to": chat.name, "seq": seq}
            history.note("intent", **facts)
            await chat.send_text(text)
            history.note("queued", id=text)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(dice.uniform(0.2, 1.8) / rate):
                await end.wait()


async def hear(me: Account, history: History) -> None:
    told = set()
    async for event in me.events():
        if not isinstance(event, MessageChanged) or not event.message.mine:
            continue
        if event.message.state not in ("queued", "failed") and event.message.text not in told:
            told.add(event.message.text)
            history.note("kept", id=event.message.text)


async def read(me: Account, name: str, life: str, history: History) -> None:
    number = 0
    async for batch in me.read(follow=True):
        number += 1
        history.note_all(
            [
                ("shown", {"id": message.text, "to": name, "life": life, "batch": number})
                for message in batch
                if message.kind == "text"
            ]
        )


async def run(home: str, name: str, history: History, life: str, rate: float) -> None:
    quiet, end = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, quiet.set)
    loop.add_signal_handler(signal.SIGTERM, end.set)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    async with Account.open(home) as me:
        for chat in me.chats():
            if chat.state == "request":
                await chat.accept()
        tasks = [
            asyncio.create_task(write(me, name, history, rate, quiet)),
            asyncio.create_task(hear(me, history)),
            asyncio.create_task(read(me, name, life, history)),
        ]
        ended = asyncio.create_task(end.wait())
        await asyncio.wait((*tasks[1:], ended), return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


def main() -> None:
    home, name, history, life, rate = sys.argv[1:6]
    try:
        asyncio.run(run(home, name, History(Path(history)), life, float(rate)))
    except UserError as error:
        sys.exit(f"{name}: {error}")


if __name__ == "__main__":
    main()
