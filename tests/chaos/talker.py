"""One account of the SDK as a process that may be killed at any moment: it writes, reads, and notes what it saw.

    python -m tests.chaos.talker HOME NAME HISTORY LIFE RATE SEED

It writes to every chat that it has, RATE times a second, a text that names itself; it reads everything with
`Account.read`. LIFE counts its starts; with SEED it decides the pauses. SIGUSR1 ends the writing, and from then on it
notes what it holds of each chat's group; SIGTERM ends the process. Keys and messages are real: this is the end-to-end
part of the history.
"""

import asyncio
import contextlib
import itertools
import random
import signal
import sys
from pathlib import Path
from typing import Any

from taube.client.account import Account
from taube.client.errors import UserError
from taube.client.events import MessageChanged
from tests.chaos.history import History

GROUPS_S = 1.0
"""How often it notes what it holds of its groups."""


async def write(
    me: Account, name: str, life: str, history: History, rate: float, seed: str, end: asyncio.Event
) -> None:
    dice = random.Random(f"{seed} {name} {life}")
    counter = itertools.count(1)
    while not end.is_set():
        for chat in me.chats():
            seq = next(counter)
            text = f"{name}-{life}-{seq}"
            facts = {"id": text, "from": f"{name}-{life}", "to": chat.name, "seq": seq}
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


async def tell_groups(me: Account, name: str, history: History, quiet: asyncio.Event) -> None:
    """Note the group of each chat, again and again: what was noted last counts."""
    await quiet.wait()
    while True:
        history.note_all([("group", {"of": name, **each}) for each in groups(me)])
        await asyncio.sleep(GROUPS_S)


def groups(me: Account) -> list[dict[str, Any]]:
    """Of each chat: the group in use, its epoch, and a secret that only members in the same epoch can export."""
    vault = me._vault
    found = []
    with vault.work() as core:
        for chat in vault.store.chats():
            for group in vault.store.groups_of_chat(chat.id)[:1]:
                vault.use(group.id)
                info = core.group(group.id)
                found.append(
                    {
                        "id": group.mls_chat.hex(),
                        "group": group.id.hex(),
                        "standing": group.standing,
                        "epoch": info.epoch,
                        "secret": core.export(group.id, "chaos", b"", 16).hex(),
                        "members": len({member.account_id for member in info.members}),
                    }
                )
    return found


async def run(home: str, name: str, history: History, life: str, rate: float, seed: str) -> None:
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
            asyncio.create_task(write(me, name, life, history, rate, seed, quiet)),
            asyncio.create_task(hear(me, history)),
            asyncio.create_task(read(me, name, life, history)),
            asyncio.create_task(tell_groups(me, name, history, quiet)),
        ]
        ended = asyncio.create_task(end.wait())
        await asyncio.wait((*tasks[1:], ended), return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result


def main() -> None:
    home, name, history, life, rate, seed = sys.argv[1:7]
    try:
        asyncio.run(run(home, name, History(Path(history)), life, float(rate), seed))
    except UserError as error:
        sys.exit(f"{name}: {error}")


if __name__ == "__main__":
    main()
