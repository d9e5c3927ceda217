"""What each client command does: opens the account, calls the SDK, prints what was asked for.

Output for scripts (ids, links, names, JSON) goes to standard output and nothing else does. `cli.py` parsed the options
and turns errors into sentences; the SDK (`client/account.py`) does the work. Source: docs/sdk.md, "The command line".
"""

import argparse
import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from taube.client.account import Account, Chat
from taube.client.content import MAX_TEXT_BYTES
from taube.client.errors import DeviceReplaced, TryLater, UserError
from taube.client.events import Connected, Disconnected, Media, Message
from taube.exits import EX_DATAERR, EX_NOINPUT, EX_NOPERM, EX_TEMPFAIL, EX_USAGE
from taube.terminal import Progress, Terminal, qr_code, safe_line, safe_text

SEND_TIMEOUT_S: Final = 20.0
"""How long `taube send` waits until the message is kept, before it says that it is queued."""
TELL_AFTER_S: Final = 3.0
"""After how long `taube send` says what it waits for."""
TELL_POLL_S: Final = 0.2
MOST_AGAIN: Final = 10_000
"""How many messages `taube read --again` prints at most."""
LOOK_TIMEOUT_S: Final = 5.0
"""How long a command looks into the mailbox for a chat that may have just begun."""
NOT_KEPT: Final = ("queued", "failed")


def run(name: str, options: argparse.Namespace, terminal: Terminal) -> int:
    """Run the client command *name*; returns its exit code."""
    return asyncio.run(_COMMANDS[name](options, terminal))


def home_folder(options: argparse.Namespace) -> Path:
    """The account's folder: --home, else TAUBE_HOME, else the user's usual place."""
    if options.home is not None:
        return Path(options.home).expanduser()
    named = os.environ.get("TAUBE_HOME")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "taube" / "home"


# ---------------------------------------------------------------- the account


async def _join(options: argparse.Namespace, terminal: Terminal) -> int:
    folder = home_folder(options)
    passphrase = _new_passphrase(options, terminal)
    with terminal.progress("making the account"):
        async with await Account.join(folder, options.link, name=options.name, passphrase=passphrase) as me:
            account = me.id
    terminal.line(account)
    terminal.hint("This is your account. `taube me` shows the link that others add you by.")
    return 0


async def _me(options: argparse.Namespace, terminal: Terminal) -> int:
    if options.knows:
        return await _knows(options, terminal)
    async with _open(options, terminal, live=False) as me:
        link = me.contact_link()
        if options.json:
            terminal.json({"id": me.id, "name": me.name, "server": me.server, "contact_link": link})
            return 0
        terminal.line(f"name          {terminal.bold(safe_line(me.name))}")
        terminal.line(f"server        {safe_line(me.server)}")
        terminal.line(f"id            {me.id}")
        terminal.line(f"contact link  {link}")
    if terminal.is_out_terminal and not terminal.plain:
        terminal.line()
        terminal.line(qr_code(link))
    return 0


async def _knows(options: argparse.Namespace, terminal: Terminal) -> int:
    async with _open(options, terminal) as me:
        with terminal.progress("asking the server"):
            facts = await me.knows()
    for fact in facts:
        if options.json:
            terminal.json({"entry": fact.entry, "value": fact.value})
        else:
            terminal.line(f"{terminal.bold(safe_line(fact.entry))}: {safe_line(fact.value)}")
    terminal.hint("A queue is where envelopes wait for a device; its number rises with each device that comes.")
    return 0


async def _delete_account(options: argparse.Namespace, terminal: Terminal) -> int:
    if not options.yes and not terminal.can_ask:
        raise UserError("There is nobody to ask, and nothing was deleted: add --yes to delete the account.", EX_USAGE)
    async with _open(options, terminal) as me:
        if not options.yes:
            name = safe_line(me.name)
            answer = terminal.ask(f"Delete the account “{name}” for ever, with all messages here? Type its name:")
            if safe_line(answer) != name:
                raise UserError("Nothing was deleted.", EX_USAGE)
        with terminal.progress("deleting the account"):
            await me.delete()
    terminal.hint("The account is gone.")
    return 0


# ---------------------------------------------------------------- chats


async def _find(me: Account, name: str) -> Chat:
    """The chat with this name or id; one that is not known yet may wait in the mailbox. Raises NoAccount."""
    if all(name not in (chat.name, chat.id) for chat in me.chats()):
        await me.synchronise(LOOK_TIMEOUT_S)
    return me.chat(name)


async def _add(options: argparse.Namespace, terminal: Terminal) -> int:
    async with _open(options, terminal) as me:
        with terminal.progress("starting the chat"):
            chat = await me.add(options.link)
            await me.wait_settled(SEND_TIMEOUT_S)
    terminal.line(safe_line(chat.name))
    return 0


async def _chats(options: argparse.Namespace, terminal: Terminal) -> int:
    async with _open(options, terminal) as me:
        await me.synchronise(LOOK_TIMEOUT_S)
        if not (chats := me.chats()):
            terminal.hint("No chats yet: `taube add CONTACT_LINK` starts one.")
        for chat in chats:
            last_at = _iso(chat.last_at_ms) if chat.last_at_ms else None
            if options.json:
                record: dict[str, object] = {"chat": chat.id, "name": chat.name, "kind": chat.kind}
                record |= {"state": chat.state, "unread": chat.unread, "last_at": last_at}
                terminal.json(record)
                continue
            notes: list[str] = [chat.state] if chat.state != "open" else []
            notes += [f"{chat.unread} unread"] if chat.unread else []
            notes += [f"{chat.queued} queued"] if chat.queued else []
            name = terminal.colour_of(safe_line(chat.name))
            when = _local(chat.last_at_ms) if chat.last_at_ms else "–"
            terminal.line("  ".join([name, terminal.dim(when), *notes]))
    return 0


async def _accept(options: argparse.Namespace, terminal: Terminal) -> int:
    async with _open(options, terminal) as me:
        chat = await _find(me, options.chat)
        with terminal.progress("opening the chat"):
            await chat.accept()
            await me.wait_settled(SEND_TIMEOUT_S)
    terminal.hint(f"You and {safe_line(chat.name)} can write to each other now.")
    return 0


async def _block(options: argparse.Namespace, terminal: Terminal) -> int:
    async with _open(options, terminal) as me:
        chat = await _find(me, options.chat)
        with terminal.progress("revoking the address"):
            await chat.block()
    terminal.hint(f"Nothing from {safe_line(chat.name)} arrives any more.")
    return 0


async def _unblock(options: argparse.Namespace, terminal: Terminal) -> int:
    async with _open(options, terminal) as me:
        chat = await _find(me, options.chat)
        with terminal.progress("unblocking"):
            await chat.unblock()
            await me.wait_settled(SEND_TIMEOUT_S)
    name = safe_line(chat.name)
    if chat.state == "request":
        terminal.hint(f"{name} is a request again: `taube accept` lets them in.")
    else:
        terminal.hint(f"You and {name} can write to each other now.")
    return 0


async def _verify(options: argparse.Namespace, terminal: Terminal) -> int:
    async with _open(options, terminal) as me:
        chat = await _find(me, options.chat)
        number = "".join((await chat.verify()).split())
        name = safe_line(chat.name)
    groups = [number[start : start + 5] for start in range(0, len(number), 5)]
    for start in range(0, len(groups), 4):
        terminal.line(terminal.bold(" ".join(groups[start : start + 4])))
    terminal.hint(
        f"Compare it with {name} by voice or side by side: the same number there means that nobody stands in between; "
        "another one means that you are not writing to each other."
    )
    return 0


# ---------------------------------------------------------------- messages


async def _send(options: argparse.Namespace, terminal: Terminal) -> int:
    if options.file is not None:
        text = options.text or ""
    else:
        text = options.text if options.text is not None else _text_from_input(terminal)
    if not text.strip() and options.file is None:
        raise UserError("There is no text to send: give it behind the chat, or on standard input.", EX_DATAERR)
    async with _open(options, terminal) as me:
        chat = await _find(me, options.chat)
        name = safe_line(chat.name)
        with terminal.progress("sending") as progress:
            telling = asyncio.create_task(_tell_delay(me, progress))
            try:
                if options.file is None:
                    message = await chat.send_text(_as_unicode(text))
                else:
                    message = await chat.send_file(options.file, _as_unicode(text), as_is=options.as_is)
                state = await me.settle(message, LOOK_TIMEOUT_S if chat.is_waiting else SEND_TIMEOUT_S)
            finally:
                telling.cancel()
        if state not in NOT_KEPT:
            return 0
        problem = me.problem
        if isinstance(problem, DeviceReplaced):
            raise problem
        if state == "failed" and options.file is not None and problem is not None:
            raise problem
        if state == "failed":
            terminal.warn(
                f"This did not reach anybody: {name} may not use this account any more. The message is kept here and"
                " goes out if that changes."
            )
        elif problem is None and me.chat(chat.id).is_waiting:
            terminal.warn(
                f"The message is queued and goes out once {name}’s device has let this one into the chat: that happens"
                " by itself when both are online."
            )
        else:
            reason = problem or me.delay or f"{me.server} did not answer in time."
            terminal.warn(f"The message is queued and goes out the next time Taube runs. {reason}")
    return EX_TEMPFAIL


async def _tell_delay(me: Account, progress: Progress) -> None:
    """Say once what is waited for, when the server answers for some seconds that it does not keep the message."""
    await asyncio.sleep(TELL_AFTER_S)
    while not me.delay:
        await asyncio.sleep(TELL_POLL_S)
    progress.tell(f"{me.delay} Waiting and trying again.")


def _text_from_input(terminal: Terminal) -> str:
    if terminal.can_ask:
        terminal.hint("Write the text; Ctrl-D ends it.")
    try:
        text = terminal.read_text(MAX_TEXT_BYTES + 2)
    except UnicodeDecodeError:
        raise UserError("The text is not valid UTF-8.", EX_DATAERR) from None
    if len(text) > MAX_TEXT_BYTES + 1:  # how much more there is was not read
        raise UserError(f"A message has 1 to {MAX_TEXT_BYTES} bytes of text; this one has more.", EX_DATAERR)
    return text.removesuffix("\n")


def _as_unicode(text: str) -> str:
    """*text* as it was typed, or an error if the terminal's bytes were no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError("The text is not valid UTF-8.", EX_DATAERR) from None
    return text


async def _read(options: argparse.Namespace, terminal: Terminal) -> int:
    if options.again is not None and (options.follow or options.wait):
        raise UserError("--again prints what came before: leave out --follow and --wait.", EX_USAGE)
    if options.again is not None and not 1 <= options.again <= MOST_AGAIN:
        raise UserError(f"--again takes 1 to {MOST_AGAIN} messages.", EX_USAGE)
    async with _open(options, terminal) as me:
        chat = await _find(me, options.chat) if options.chat is not None else None
        show = _print_json if options.json else _print_message
        saver = Saver(me, options.save, terminal) if options.save is not None else None
        telling = asyncio.create_task(_tell_connection(me, terminal)) if options.follow and terminal.can_ask else None
        if options.follow:
            terminal.hint("Waiting for messages; Ctrl-C ends.")
        seen = files = 0
        try:
            async for batch in _batches(me, chat, options):
                saved = await saver.save(batch) if saver is not None else {}
                for message in batch:
                    show(message, terminal, saved.get(message.id))
                seen += len(batch)
                if not files and saver is None and (files := sum(message.media is not None for message in batch)):
                    terminal.hint("Files are saved with --save DIR; those printed before with --again N, too.")
        finally:
            if telling is not None:
                telling.cancel()
        if saver is not None and not seen and options.again is None:
            terminal.hint("Nothing new came. Files of messages that were printed before are saved with --again N, too.")
        if saver is not None and saver.problem is not None:
            return saver.problem.exit_code
        if not await me.synchronise(0) and me.problem is not None:
            raise me.problem
    return 0


async def _batches(me: Account, chat: Chat | None, options: argparse.Namespace) -> AsyncIterator[list[Message]]:
    """What `taube read` prints: what no reader had, or the newest once more."""
    if options.again is None:
        async for batch in me.read(chat, wait_s=options.wait, follow=options.follow):
            yield batch
        return
    await me.synchronise(LOOK_TIMEOUT_S)
    for message in me.received(chat, options.again):
        yield [message]


class Saver:
    """Saves the files of messages into a folder. What cannot be had any more is told in one sentence, once, and the
    others go on; what may be had later stops the reading, so that its message is read again."""

    def __init__(self, me: Account, folder: Path, terminal: Terminal) -> None:
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder} to save files in. Make it, or name another.", EX_NOINPUT)
        self._me = me
        self._folder = folder
        self._terminal = terminal
        self.problem: UserError | None = None

    async def save(self, batch: list[Message]) -> dict[str, str]:
        """Message id -> where its file is now, or nothing where it could not be saved. Raises TryLater."""
        saved: dict[str, str] = {}
        try:
            for message in batch:
                if message.media is not None and not message.mine:
                    await self._save(message, saved)
        except BaseException:
            for path in saved.values():  # they are saved when their messages are read again
                Path(path).unlink(missing_ok=True)
            raise
        return saved

    async def _save(self, message: Message, saved: dict[str, str]) -> None:
        try:
            with self._terminal.progress("fetching a file"):
                saved[message.id] = str(await self._me.fetch(message, self._folder))
        except TryLater:
            raise
        except UserError as error:
            self._terminal.warn(str(error))
            self.problem = error


async def _tell_connection(me: Account, terminal: Terminal) -> None:
    """Tell a person who follows that messages cannot come at the moment, and when they can again."""
    away = False
    async for event in me.events():
        if isinstance(event, Disconnected):
            if not away:
                terminal.hint(f"{safe_line(event.reason)} Trying again.")
            away = True
        elif isinstance(event, Connected) and away:
            terminal.hint("Connected again.")
            away = False


def _print_json(message: Message, terminal: Terminal, saved: str | None) -> None:
    record: dict[str, object] = {"id": message.id, "chat": message.chat, "from": message.sender}
    record |= {"sent_at": _iso(message.sent_at_ms), "kind": message.kind, "text": message.text}
    if message.reply_to:
        record["reply_to"] = message.reply_to
    if (media := message.media) is not None:
        record |= {"media_type": media.media_type, "size": media.size, "name": media.name}
        record |= {"width": media.width, "height": media.height} if media.width and media.height else {}
        record |= {"saved": saved} if saved is not None else {}
    terminal.json(record)


def _print_message(message: Message, terminal: Terminal, saved: str | None) -> None:
    sender, chat = safe_line(message.sender), safe_line(message.chat_name)
    where = sender if chat in (sender, "") else f"{chat} · {sender}"
    when = terminal.dim(_local(message.sent_at_ms))
    text = safe_text(message.text, "    ")
    if message.media is not None:
        words = f"[{_media_in_words(message.media)}{f', saved as {safe_line(saved)}' if saved else ''}]"
        text = f"{terminal.dim(words)} {text}".rstrip()
    elif message.kind != "text":
        text = terminal.dim(text)
    terminal.line(f"{when}  {terminal.colour_of(where)}  {text}")


def _media_in_words(media: Media) -> str:
    """Such as “photo pigeon.jpg, 1536 x 2048, 183 kB”."""
    kinds = {"image": "photo", "video": "film", "audio": "sound"}
    parts = [f"{kinds.get(media.media_type.partition('/')[0], 'file')} {safe_line(media.name)}".rstrip()]
    parts += [f"{media.width} x {media.height}"] if media.width and media.height else []
    size = float(media.size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            parts.append(f"{size:.0f} {unit}" if unit == "bytes" or size >= 10 else f"{size:.1f} {unit}")
            break
        size /= 1000
    return ", ".join(parts)


# ---------------------------------------------------------------- helpers


def _open(options: argparse.Namespace, terminal: Terminal, live: bool = True) -> Account:
    folder = home_folder(options)
    me = Account.open(folder, passphrase=_passphrase(folder, terminal), live=live)
    if me.is_new_device:
        terminal.warn(
            "This is a copy of the account’s folder: it becomes the account’s device, the original ends, and each chat"
            " waits until the other person’s device lets this one in."
        )
    return me


def _passphrase(folder: Path, terminal: Terminal) -> str | None:
    """The passphrase of a home that needs one; None if it has a key file, or is not there at all."""
    if (folder / "key").exists() or not (folder / "taube.db").exists():
        if (folder / "key").exists() and os.environ.get("TAUBE_PASSPHRASE_FILE"):
            terminal.hint(f"{folder} has no passphrase: TAUBE_PASSPHRASE_FILE is not used.")
        return None
    given = _passphrase_from_file()
    if given is not None:
        return given
    if terminal.can_ask:
        return terminal.ask_secret("Passphrase:")
    raise UserError(f"{folder} is protected by a passphrase: name its file in TAUBE_PASSPHRASE_FILE.", EX_NOPERM)


def _new_passphrase(options: argparse.Namespace, terminal: Terminal) -> str | None:
    """The passphrase for a new home, or None for a key file."""
    given = _passphrase_from_file()
    if given is not None or not options.passphrase:
        return given
    if not terminal.can_ask:
        raise UserError("There is nobody to ask for a passphrase: name its file in TAUBE_PASSPHRASE_FILE.", EX_USAGE)
    first = terminal.ask_secret("New passphrase:")
    if not first or first != terminal.ask_secret("The same again:"):
        raise UserError("The two passphrases differ, or are empty: nothing was made.", EX_DATAERR)
    return first


def _passphrase_from_file() -> str | None:
    name = os.environ.get("TAUBE_PASSPHRASE_FILE")
    if not name:
        return None
    try:
        lines = Path(name).expanduser().read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{name} is not valid UTF-8: its first line should be the passphrase.", EX_DATAERR) from None
    if not lines or not lines[0]:
        raise UserError(f"The first line of {name} is empty: it should be the passphrase.", EX_DATAERR)
    return lines[0]


def _iso(time_ms: int) -> str:
    moment = datetime.fromtimestamp(_sane(time_ms) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _local(time_ms: int) -> str:
    return datetime.fromtimestamp(_sane(time_ms) / 1000).astimezone().strftime("%Y-%m-%d %H:%M")


def _sane(time_ms: int) -> int:
    """A sender's clock may say anything up to 2^53 ms; calendars end with the year 9999."""
    return min(max(time_ms, 0), 253_402_214_400_000)


_COMMANDS: Final[dict[str, Callable[[argparse.Namespace, Terminal], Coroutine[None, None, int]]]] = {
    "join": _join,
    "me": _me,
    "add": _add,
    "chats": _chats,
    "accept": _accept,
    "block": _block,
    "unblock": _unblock,
    "verify": _verify,
    "send": _send,
    "read": _read,
    "delete-account": _delete_account,
}
