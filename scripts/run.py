"""`make run`: a server and an echo contact on this machine, and what to open or type to be writing in one minute.

Everything lies in `.taube/` in the checkout (or in the folder given as argument) and is there again the next time;
`make clean` forgets it. The server is a process of its own, `taube serve`; the echo contact is an account like any
other, run here with the SDK. Ctrl-C stops both in good order.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from shlex import quote

from taube.client.account import Account
from taube.client.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else ROOT / ".taube"
DATA, ECHO, PORT, LOG = FOLDER / "server", FOLDER / "echo", FOLDER / "port", FOLDER / "server.log"
TAUBE = [sys.executable, "-m", "taube"]
FIRST_PORT = 8580
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0


class CannotRun(Exception):
    """The sentence for the user."""


def choose_port() -> int:
    """The port of the last time, since the server's links name it; the first time one that is free."""
    if PORT.exists():
        return int(PORT.read_text())
    for port in range(FIRST_PORT, FIRST_PORT + 20):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            PORT.write_text(str(port))
            return port
    raise CannotRun(f"None of the ports {FIRST_PORT} to {FIRST_PORT + 19} is free: stop what uses them.")


async def start_server(port: int) -> tuple[asyncio.subprocess.Process, str]:
    """`taube serve`, once it accepts, and the URL it said. It is stopped by us alone, not by the terminal's Ctrl-C."""
    with LOG.open("ab") as log:
        begin = log.tell()
        server = await asyncio.create_subprocess_exec(
            *TAUBE, "serve", "--data", str(DATA), "--listen", f"127.0.0.1:{port}",
            stdout=asyncio.subprocess.PIPE, stderr=log, start_new_session=True,
        )  # fmt: skip
    assert server.stdout is not None
    try:
        line = (await asyncio.wait_for(server.stdout.readline(), START_TIMEOUT_S)).decode().strip()
    except TimeoutError:
        line = ""
    if not line.startswith("ready "):
        await stop_server(server)
        said = LOG.read_bytes()[begin:].decode(errors="replace").strip().splitlines()
        raise CannotRun(said[-1] if said else f"The server did not start; it may have said why in {LOG}.")
    return server, line.removeprefix("ready ")


async def stop_server(server: asyncio.subprocess.Process) -> None:
    """Ask it to drain and wait; it gets no longer than STOP_TIMEOUT_S."""
    if server.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(server.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            server.kill()
            await server.wait()


def invite(uses: int) -> str:
    """A fresh invitation link."""
    command = [*TAUBE, "admin", "invite", "--data", str(DATA), "--uses", str(uses), "--days", "30"]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode != 0:
        raise CannotRun(made.stderr.strip())
    return made.stdout.strip()


async def open_echo() -> Account:
    """The echo contact's account, made the first time."""
    if ECHO.exists():
        return Account.open(ECHO)
    return await Account.join(ECHO, invite(1), name="echo")


async def echo(me: Account) -> None:
    """Answer every text with the same text, for as long as we run, strangers' too."""
    async for batch in me.read(follow=True):
        for message in batch:
            if message.kind == "text":
                chat = me.chat(message.chat)
                await chat.accept()
                await chat.send_text(message.text)


def guide(url: str, invitation: str, contact_link: str) -> str:
    """What to type."""
    shown = FOLDER.relative_to(ROOT) if FOLDER.is_relative_to(ROOT) else FOLDER
    alice, bob = shown / "alice", shown / "bob"
    joined = {home: (ROOT / home / "taube.db").exists() for home in (alice, bob)}
    lines = [
        "",
        f"Taube runs at {url}. Be writing in one minute: open this invitation in a browser,",
        "",
        f"  {invitation}",
        "",
        "and in another browser or another profile once more, for a second person. (A phone's width: Ctrl-Shift-M in",
        "Firefox, Ctrl-Shift-I and then Ctrl-Shift-M in Chrome.) The link of a contact that repeats every text to you:",
        "",
        f"  {contact_link}",
        "",
        "Or write on the command line: open a second terminal and type",
        "",
        f"  cd {quote(str(ROOT))}",
        f"  export TAUBE_HOME={quote(str(alice))}",
        *([] if joined[alice] else [f"  .venv/bin/taube join '{invitation}' --name alice"]),
        f"  .venv/bin/taube add '{contact_link}'",
        "  .venv/bin/taube send echo 'Hello, pigeon!'",
        "  .venv/bin/taube read --wait 10",
        "",
        "For two people, open a third terminal; there `taube me` shows bob's contact link:",
        "",
        f"  cd {quote(str(ROOT))}",
        f"  export TAUBE_HOME={quote(str(bob))}",
        *([] if joined[bob] else [f"  .venv/bin/taube join '{invitation}' --name bob"]),
        "  .venv/bin/taube me",
        "  .venv/bin/taube read --follow",
        "",
        "and in the second terminal, with that link:",
        "",
        "  .venv/bin/taube add 'THE CONTACT LINK'",
        "  .venv/bin/taube send bob 'Can you hear me? The server cannot.'",
        "",
        f"Bob answers after `.venv/bin/taube accept alice`. All lies in {shown}/; Ctrl-C here stops everything.",
    ]
    return "\n".join(lines)


async def run() -> None:
    """Run until a signal, or until the server ends by itself."""
    loop = asyncio.get_running_loop()
    told_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told_to_stop.set)
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    print("Starting the server …", flush=True)
    server, url = await start_server(choose_port())
    try:
        print("Starting the echo contact …", flush=True)
        async with await open_echo() as me:
            waits = {
                asyncio.create_task(work, name=name)
                for name, work in (("stop", told_to_stop.wait()), ("server", server.wait()), ("echo", echo(me)))
            }
            print(guide(url, invite(100), me.contact_link()), flush=True)
            done, rest = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)
            for task in done:
                task.result()
                if task.get_name() == "server":
                    raise CannotRun(f"The server has ended by itself; what it said is in {LOG}.")
        print("\nStopping …", flush=True)
    finally:
        await stop_server(server)


def main() -> int:
    """Run; an exit code."""
    try:
        asyncio.run(run())
    except (CannotRun, UserError) as failure:
        print(failure, file=sys.stderr)
        return 1
    print(f"Stopped; everything is kept in {FOLDER}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
