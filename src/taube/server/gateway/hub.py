"""Which connections are open, and which of them serves which device now; the newest of a device replaces.

What waits and what is under way for a device lives in services/mailboxes.py; the hub only knows who to tell: everyone
that the server is about to stop, a device that its account was deleted, a silent connection that its time is over.
Source: docs/protocol/delivery.md, "Live connections".
"""

from collections.abc import Callable, Iterable, Iterator

from taube.server.gateway.connection import Connection
from taube.server.ports import QueueNumber
from taube.wire.messages import Draining
from taube.wire.session import State


class Hub:
    """All open connections of this process."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._devices: dict[QueueNumber, Connection] = {}
        self.behind_bytes = 0
        """What waited for slow readers at the last `check`."""
        self.frames_bytes = 0
        """What buffers for large or unfinished frames had grown to at the last `check`."""

    def add(self, connection: Connection) -> None:
        self._open.add(connection)

    def serves(self, queue: QueueNumber, connection: Connection) -> None:
        """*connection* is the device connection of *queue* from now on."""
        self._devices[queue] = connection

    def remove(self, connection: Connection) -> None:
        """*connection* is closed."""
        self._open.discard(connection)
        row = connection.device
        if row is not None and self._devices.get(row.queue) is connection:
            del self._devices[row.queue]

    def end(self, queues: Iterable[QueueNumber]) -> None:
        """Close the connections of devices that are no more."""
        for queue in queues:
            connection = self._devices.get(queue)
            if connection is not None:
                connection.ended()

    def check(self, now: float, waiting_bytes: int, frames_bytes: int) -> None:
        """Look after deadlines; let no more than *waiting_bytes* wait for peers that do not read, and no more than
        *frames_bytes* be taken by buffers that have grown."""
        behind: list[tuple[int, Connection]] = []
        grown: list[tuple[int, Connection]] = []
        for connection in list(self._open):
            connection.check(now)
            if waiting := connection.behind:
                behind.append((waiting, connection))
            if held := connection.held:
                grown.append((held, connection))
        self.behind_bytes = sum(waiting for waiting, _ in behind)
        self.frames_bytes = sum(held for held, _ in grown)
        for connection in _largest(behind, self.behind_bytes - waiting_bytes):
            connection.cut_off()
        for connection in _largest(grown, self.frames_bytes - frames_bytes):
            connection.send_away()

    def announce(self, retry_after_ms: Callable[[], int]) -> None:
        """Tell every client to come back later, each after a time of its own."""
        for connection in list(self._open):
            if connection.session.state is not State.CLOSED:
                connection.send(Draining(retry_after_ms()))

    def close_all(self) -> None:
        for connection in list(self._open):
            connection.close(1012)

    def abort_all(self) -> None:
        for connection in list(self._open):
            connection.abort()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def devices(self) -> int:
        """How many device connections there are."""
        return len(self._devices)


def _largest(sizes: list[tuple[int, Connection]], excess: int) -> Iterator[Connection]:
    """The connections with the largest sizes, until these make up *excess*."""
    if excess <= 0:
        return
    for size, connection in sorted(sizes, key=lambda each: -each[0]):
        yield connection
        excess -= size
        if excess <= 0:
            return
