"""Two lines without sockets to the server of world.py, and what can happen to them besides frames.

`Lines.happen` takes one piece of an input: a frame for the line that is in use, or, after 0xC0, the number of one of
`HAPPENINGS` and its arguments. It knows no byte of a frame.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from taube.server.gateway.connection import Connection
from taube.server.ports import MailboxId
from tests.fuzz.world import MAILBOX, Broken, World


class Line:
    """A channel that keeps what was written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False
        self.is_slow = False
        self.behind_bytes = 0

    def write(self, payloads: list[bytes]) -> int:
        self.written += payloads
        if self.is_slow:
            self.behind_bytes += sum(map(len, payloads)) << 8
        return self.behind_bytes

    def waiting(self) -> int:
        return self.behind_bytes

    def held(self) -> int:
        return self.behind_bytes

    def taken(self) -> int:
        return len(self.written)

    def ping(self) -> None: ...
    def pong(self, payload: bytes) -> None: ...

    def close(self, code: int) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class End(NamedTuple):
    """A line and the connection behind it."""

    line: Line
    connection: Connection


class Lines:
    """Two lines and their world. *used*: which of them frames come on; *holds*: the turn of the loop does not end."""

    def __init__(self) -> None:
        self.world = World()
        self.ends: list[End] = []
        self.both = [self._open(), self._open()]
        self.used = 0
        self.holds = False

    def _open(self) -> End:
        line = Line()
        end = End(line, self.world.connect(line))
        self.ends.append(end)
        end.connection.opened()
        return end

    @property
    def end(self) -> End:
        return self.both[self.used]

    def happen(self, piece: bytes) -> None:
        if piece[:1] == b"\xc0":
            HAPPENINGS[(piece[1:2] or b"\0")[0] % len(HAPPENINGS)](self, piece[2:])
        elif piece:
            self.end.connection.received(memoryview(piece))
        if not self.holds:
            self.world.run()

    def hang_up(self) -> list[bytes]:
        """Everyone goes, and the server has to forget them; every frame that it wrote to anyone."""
        self.world.store.failing = False
        self.world.later(1)
        for end in self.ends:
            end.connection.lost()
        self.world.later(400)
        if len(self.world.hub) or self.world.mailboxes.counts()["links"] or self.world.mailboxes.counts()["live_bytes"]:
            raise Broken("the server remembers connections that are lost")
        return [frame for end in self.ends for frame in end.line.written]

    # what may happen besides frames

    def first(self, rest: bytes) -> None:
        self.used = 0

    def second(self, rest: bytes) -> None:
        self.used = 1

    def again(self, rest: bytes) -> None:
        """The line is lost, and its client connects anew."""
        self.end.connection.lost()
        self.both[self.used] = self._open()

    def wait(self, rest: bytes) -> None:
        self.world.later((rest[:1] or b"\1")[0] ** 2 / 64)

    def hold(self, rest: bytes) -> None:
        """What comes now comes in one turn of the loop."""
        self.holds = True

    def release(self, rest: bytes) -> None:
        self.holds = False

    def repeat(self, rest: bytes) -> None:
        """The same frame many times in one turn."""
        for _ in range((rest[:1] or b"\0")[0]):
            self.end.connection.received(memoryview(rest[1:]))

    def slow(self, rest: bytes) -> None:
        """The client reads no more."""
        line, connection = self.end
        if not line.is_slow:
            line.is_slow, line.behind_bytes = True, 1
            connection.writing_paused()

    def fast(self, rest: bytes) -> None:
        line, connection = self.end
        if line.is_slow:
            line.is_slow, line.behind_bytes = False, 0
            connection.writing_resumed()

    def fail(self, rest: bytes) -> None:
        """The disk is full."""
        self.world.store.failing = True

    def recover(self, rest: bytes) -> None:
        self.world.store.failing = False

    def strain(self, rest: bytes) -> None:
        self.world.dispatch.is_strained = self.world.mailboxes.is_strained = not self.world.dispatch.is_strained

    def drain(self, rest: bytes) -> None:
        self.world.dispatch.drain(1_000)
        self.world.hub.announce(lambda: 500)

    def other_frames(self, rest: bytes) -> None:
        """Text, ping and pong."""
        self.end.connection.received_text()
        self.end.connection.pinged(rest[:125])
        self.end.connection.ponged()

    def expire(self, rest: bytes) -> None:
        """All that can lapse has, and the mailboxes are told as the workers tell them."""
        tables = self.world.store.tables
        gone = tables.expire_envelopes(10**9, 100)
        tables.expire_gates(10**9)
        tables.expire_packages(999_999)
        self.world.mailboxes.stale([queue for queue, _ in gone])
        self.world.limits.sweep(self.world.now)

    def renew(self, rest: bytes) -> None:
        """The mailbox gets a new id, as after thousands of revocations, and the device is asked to mint anew."""
        tables = self.world.store.tables
        for queue in list(tables.device_rows):
            tables.renew_mailbox(queue, MailboxId(b"another 16 bytes"))
            self.world.mailboxes.renewed(MAILBOX, MailboxId(b"another 16 bytes"))


HAPPENINGS: Final[tuple[Callable[[Lines, bytes], None], ...]] = (
    Lines.first,
    Lines.second,
    Lines.again,
    Lines.wait,
    Lines.hold,
    Lines.release,
    Lines.repeat,
    Lines.slow,
    Lines.fast,
    Lines.fail,
    Lines.recover,
    Lines.strain,
    Lines.drain,
    Lines.other_frames,
    Lines.expire,
    Lines.renew,
)
