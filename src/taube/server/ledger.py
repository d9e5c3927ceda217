"""Every fact that the server may hold, named once, with where it lies and how long.

Table columns, metrics, log fields and answers to "what the server knows" refer to an entry of this file;
tests/test_ledger.py fails when one does not. Adding an entry is a decision about people, not a detail: it moves
docs/privacy-ledger.md, which `render_ledger` generates from here, and usually the threat model.

This file knows no engine and no column names; the stores name the entry beside each column.
Source: docs/privacy-ledger.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Entry:
    """One kind of fact: its name (stable, shown to people), what it is, where it lies and how long it is kept."""

    name: str
    fact: str
    where: str
    how_long: str
    about_a_person: bool = True


ACCOUNT: Final = Entry(
    "account",
    "account id, genesis statement, signed device list (public keys) and its counter",
    "directory",
    "until deleted, or 12 months unused (operator's choice)",
)
ACCOUNT_MONTHS: Final = Entry(
    "account months",
    "month of creation, month last used",
    "directory",
    "until the account is deleted",
)
DEVICE: Final = Entry(
    "device",
    "which mailbox belongs to which device (device id, login key, mailbox id, whether it was asked for new addresses;"
    " the number of its queue, which rises with each device that comes to the server)",
    "directory",
    "until replaced or deleted",
)
MARK: Final = Entry(
    "mark",
    "the mark of a device that asks for one: random bytes that it changes when it connects, by which a copy of it is"
    " found",
    "directory",
    "until the device changes it, or is replaced or deleted",
)
PUSH: Final = Entry(
    "push endpoint",
    "the push endpoint of a device that wants to be woken, and the public key and secret that its browser made for it",
    "directory",
    "until the device or its push service takes it back, or the device is replaced or deleted",
)
WAKING: Final = Entry(
    "waking",
    "which devices are to be woken or were and have not come yet, when to try again, and at which push service they"
    " wait for their turn",
    "memory only",
    "until the device comes, at most one day",
)
KEY_PACKAGE: Final = Entry(
    "key packages",
    "key packages (public keys, and between which days each can be used, as its device wrote it), suite, whether"
    " one-time or last resort, order, and the month in which they are forgotten",
    "directory",
    "until claimed or replaced, or the month begins in which their 84 days end",
)
INVITATION: Final = Entry(
    "invitation",
    "SHA-256 of an invitation, uses left, expiry",
    "directory",
    "until 30 days after its expiry, so that who follows an old link is told why it fails",
)
ENVELOPE: Final = Entry(
    "envelope",
    "envelope (ciphertext, padded), serial of the address, place in the queue, arrival hour",
    "mailbox",
    "until acknowledged, at most 30 days",
)
REVOKED_SERIAL: Final = Entry(
    "revoked addresses",
    "revoked address serials of a mailbox",
    "mailbox",
    "while the mailbox id lives",
)
GATE: Final = Entry(
    "gate",
    "gate: name, value (ciphertext) and the day it was claimed; nothing tells whose it is or which belong together",
    "gates",
    "45 days",
)
BLOB: Final = Entry(
    "blob",
    "blob: its name, its bytes (ciphertext) and their padded length, how far its upload is, the day on which it ends;"
    " nothing tells who uploaded it or who reads it",
    "blobs",
    "at most 45 days; an upload that is left, two days",
)
SOURCE: Final = Entry(
    "network address",
    "network address of a connection, for limits",
    "memory only",
    "at most 10 minutes after it was last counted",
)
BUDGET: Final = Entry(
    "budgets",
    "how much of a limit a device, an account, an address serial or a connection has used",
    "memory only",
    "until the budget is full again, at most one day",
)
LIVE_CONNECTION: Final = Entry(
    "live connection",
    "which connection serves which mailbox now, and the envelopes under way on it",
    "memory only",
    "while the connection lives",
)
SERVER: Final = Entry(
    "server",
    "the server's own keys, its origin, generation, clock and schema version; in a backup, that its digest follows",
    "server",
    "while the server lives",
    about_a_person=False,
)
OPERATION: Final = Entry(
    "operation",
    "counts, sums and durations over everyone, and events of the server itself, never of a person",
    "metrics, logs",
    "as long as the operator keeps them",
    about_a_person=False,
)

LEDGER: Final[dict[str, Entry]] = {entry.name: entry for entry in list(globals().values()) if isinstance(entry, Entry)}
"""All entries by name, in the order in which they are told."""


def told(head: str, items: Sequence[str], total: int) -> list[str]:
    """*head* and *items* as values of facts, of 1,900 characters at most; *total* is how many there are in all."""
    values, line = [], head
    for item in (*items, *([f"and {total - len(items)} more"] if total > len(items) else [])):
        if len(line) + len(item) > 1_900:
            values.append(line)
            line = "further:"
        line += f" {item};" if line.endswith((":", ";")) else f": {item};"
    return [*values, line.removesuffix(";")]


def render_ledger() -> str:
    """The whole of docs/privacy-ledger.md, generated."""
    lines = [
        "# Privacy ledger",
        "",
        "*Generated from `src/taube/server/ledger.py`; change it there.*",
        "",
        "Everything that a Taube server may hold. Nothing else: no names, no contacts, no groups, no senders, no",
        "stored network addresses, no last-seen, no log line or metric of a person. Each column of its tables, each",
        "metric and each field of its logs names its entry in the code, and tests fail when one does not.",
        "`taube admin knows` gives an operator, and a person's own client gives that person, what is stored of an",
        "account, filled in. What is in memory only, and what does not tell whose it is, is in no such answer.",
        "",
        "| entry | fact | where | how long | about a person |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.name} | {each.fact} | {each.where} | {each.how_long} | {'yes' if each.about_a_person else 'no'} |"
        for each in LEDGER.values()
    ]
    return "\n".join(lines) + "\n"
