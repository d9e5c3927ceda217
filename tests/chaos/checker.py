"""Decides from a history alone whether promises were broken; written apart from the server, and tested to fail.

    lost        answered *kept* (or durably in an account's outbox), and never arrived although everything healed
    twice       shown twice by an account; a reader that died in the middle of a batch may see that batch again
    reordered   two messages of one sender to one receiver came in the other order, although the first was kept before
                the second was sent, or both were sent exactly once on one connection
    early       answered kept before a receiver acknowledged it and before any sync of the disk that began after it
                was sent, for the last time: each answer is to one try, and what held an earlier one excuses nothing
    strange     arrived, or kept, without ever having been sent
    split       the members of a chat do not hold the same group in the same epoch with the same secret, or not all do

Pure: an iterable of facts in (history.py), findings out.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Message:
    """All that the history says of one message."""

    id: str
    sender: str = ""
    receiver: str = ""
    seq: int = 0
    connection: str = ""
    sent: list[int] = field(default_factory=list)
    intended: int = 0
    queued: int = 0
    kept: int = 0
    arrived: int = 0
    place: int = 0
    acknowledged: list[int] = field(default_factory=list)
    shown: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class Findings:
    """What was broken, by message id, and how much was looked at."""

    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    reordered: list[tuple[str, str]] = field(default_factory=list)
    early: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    chats: int = 0
    sent: int = 0
    kept: int = 0
    arrived: int = 0
    repeated: int = 0
    """Arrivals of a message that had arrived before: allowed, receivers drop them."""

    @property
    def broken(self) -> bool:
        """Whether any promise was."""
        return bool(self.lost or self.twice or self.reordered or self.early or self.strange or self.split)

    def __str__(self) -> str:
        figures = f"sent {self.sent}, kept {self.kept}, arrived {self.arrived}, repeated {self.repeated}"
        figures += f", chats {self.chats}"
        return figures + "".join(
            f", {name} {len(found)} (such as {found[0]})" if found else f", {name} 0"
            for name, found in (
                ("lost", self.lost),
                ("twice", self.twice),
                ("reordered", self.reordered),
                ("early", self.early),
                ("strange", self.strange),
                ("split", self.split),
            )
        )


def check(history: Iterable[dict[str, Any]]) -> Findings:
    """Judge a history that ended after everything had healed and come to rest."""
    messages: dict[str, Message] = {}
    syncs: list[tuple[int, int]] = []
    findings = Findings()
    places: dict[str, int] = defaultdict(int)
    last_batch: dict[tuple[str, str], int] = {}
    views: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for fact in history:
        kind, at = fact["k"], fact["t"]
        if kind == "sync":
            syncs.append((fact["began"], at))
            continue
        if kind == "group":
            views[fact["id"]][fact["of"]] = fact
            continue
        message = messages.setdefault(fact["id"], Message(fact["id"]))
        if kind in ("send", "intent"):
            message.sender, message.receiver, message.seq = fact["from"], fact["to"], fact["seq"]
            if kind == "send":
                message.sent.append(at)
                message.connection = fact.get("on", "")
            else:
                message.intended = at
        elif kind == "queued":
            message.queued = at
        elif kind == "kept":
            message.kept = message.kept or at
        elif kind == "arrive":
            findings.repeated += message.arrived != 0
            if not message.arrived:
                places[fact["to"]] += 1
                message.arrived, message.place = at, places[fact["to"]]
        elif kind == "ack":
            message.acknowledged.append(at)
        elif kind == "shown":
            life = f"{fact['to']} {fact['life']}"
            message.shown.append((life, fact["batch"]))
            last_batch[fact["to"], life] = fact["batch"]
            if not message.arrived:
                places[fact["to"]] += 1
                message.arrived, message.place = at, places[fact["to"]]
    last = {life: batch for (_, life), batch in last_batch.items()}
    for message in messages.values():
        _check_one(message, last, findings)
    _check_order(messages.values(), findings)
    _check_early(messages.values(), sorted(syncs), findings)
    findings.chats = len(views)
    findings.split = sorted(chat for chat, view in views.items() if _is_split(list(view.values())))
    return findings


def _is_split(views: list[dict[str, Any]]) -> bool:
    """Whether what the members said last of one chat differs, or is of no use, or one of them said nothing."""
    states = {(view["group"], view["standing"], view["epoch"], view["secret"]) for view in views}
    return len(states) > 1 or views[0]["standing"] != "current" or len(views) != views[0]["members"]


def _check_one(message: Message, last: dict[str, int], findings: Findings) -> None:
    findings.sent += bool(message.sent or message.intended)
    findings.kept += bool(message.kept)
    findings.arrived += bool(message.arrived)
    if not message.sender:
        findings.strange.append(message.id)
    elif (message.kept or message.queued) and not message.arrived:
        findings.lost.append(message.id)
    for earlier, (life, batch) in enumerate(message.shown[:-1]):
        died_in_it = message.shown[earlier + 1][0] != life and batch == last[life]
        if not died_in_it:
            findings.twice.append(message.id)


def _check_order(messages: Iterable[Message], findings: Findings) -> None:
    pairs: dict[tuple[str, str], list[Message]] = defaultdict(list)
    for message in messages:
        if message.arrived and message.sender:
            pairs[message.sender, message.receiver].append(message)
    for several in pairs.values():
        several.sort(key=lambda message: message.seq)
        latest: Message | None = None  # of all before, the one that arrived last
        for message in several:
            if latest is not None and message.place < latest.place:
                after = (each for each in several if each.seq < message.seq and each.place > message.place)
                wrong = next((each for each in after if _must_precede(each, message)), None)
                if wrong is not None:
                    findings.reordered.append((wrong.id, message.id))
            if latest is None or message.place > latest.place:
                latest = message


def _must_precede(first: Message, second: Message) -> bool:
    began = min(second.sent, default=second.intended)
    if first.kept and first.kept < began:
        return True
    once = len(first.sent) == len(second.sent) == 1 and first.connection == second.connection != ""
    return once and bool(first.kept and second.kept)


def _check_early(messages: Iterable[Message], syncs: list[tuple[int, int]], findings: Findings) -> None:
    """Only where the disk was watched, and only for raw clients, which note when they acknowledge.

    They wait for the answer to their last try only, and the server keeps each try for itself: so what makes *kept*
    true lies between that try and the answer. An acknowledgement in between may be of an earlier try; it excuses, since
    the history cannot tell.
    """
    if not syncs:
        return
    began = [begin for begin, _ in syncs]
    for message in messages:
        if not message.kept or not message.sent:
            continue
        tried = max((at for at in message.sent if at < message.kept), default=message.sent[0])
        if any(tried < at < message.kept for at in message.acknowledged):
            continue
        place = bisect_left(began, tried)
        if place == len(syncs) or syncs[place][1] > message.kept:
            findings.early.append(message.id)
