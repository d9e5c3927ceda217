"""What clients saw, one line per fact, in files that survive kill -9; the checker reads nothing else.

A line is a JSON object: `k` says what happened, `id` names a message, `t` is monotonic nanoseconds of this machine.

    send    from, seq, to, try    a sender is about to hand the message over (try 1: for the first time)
    intent  from, seq, to         an account is about to put it in its outbox
    queued                        it is there, durably (`send_text` returned)
    kept                          the server, or the account, said that it is kept
    arrive  to                    a receiver has it, before it acknowledged
    ack                           a receiver is about to acknowledge it
    shown   to, life, batch       an account gave it to its reader; *life*: which process it was
    group   of, group, standing, epoch, secret, members
                                  an account holds this group of chat *id* in this epoch, with so many accounts in it;
                                  *secret* is exported from the epoch: the same only for those who are in the same one
    sync    began                 the server's write-ahead log is on the disk (said by the disk, not by the server)

Every line leaves with one write(2) before whatever follows it: what was written stays if the process dies. A line that
was cut off by a crash of the machine, at the end of a file, is ignored.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class History:
    """An append-only file of facts."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(self, kind: str, **facts: Any) -> None:
        """Write one fact."""
        self.note_all([(kind, facts)])

    def note_all(self, facts: list[tuple[str, dict[str, Any]]]) -> None:
        """Write several facts at once."""
        now = time.monotonic_ns()
        lines = "".join(json.dumps({"k": kind, "t": now, **each}) + "\n" for kind, each in facts)
        os.write(self._descriptor, lines.encode())


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """All facts of all files in a folder, each file in its own order."""
    for path in sorted(folder.glob("*.history")):
        with path.open() as lines:
            for line in lines:
                if line.endswith("\n"):
                    yield json.loads(line)
