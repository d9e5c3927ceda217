"""Pumps one WebSocket through one wire session: frames in, commands to dispatch, replies out, within limits.

Everything that one turn of the event loop sends on a connection leaves in one write at the end of the turn (`Turn`).
A peer that does not read is first no longer read from, and cut off when it goes on or when too much waits for it.
A peer that sends faster than its share is read again in the next turn. A bug while serving one command closes this
connection and no other.

It knows no service and no socket: a `Channel` carries bytes, a `Handler` does what commands say.
Source: docs/protocol/connection.md, "Limits of a connection".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from taube.wire.errors import BAD_FRAME, BUSY, DEVICE_REVOKED, DRAINING, IDLE, INTERNAL, STORAGE, FrameError, WireError
from taube.wire.messages import CaughtUp, Command, Deliver, Event, Hello, Replaced, Reply, Sent
from taube.wire.session import ServerSession, State

MANY_WRITES: Final = 32
"""Connections to write to from which on a turn is prolonged, once."""


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """What one connection may cost."""

    hello_timeout_s: float = 10.0
    """Time from the upgrade to the Hello."""
    anonymous_idle_s: float = 90.0
    """Silence after which an anonymous connection is closed."""
    device_ping_s: float = 240.0
    """Silence after which a device connection is asked whether it is still there; no more than `device_idle_s`."""
    device_idle_s: float = 300.0
    """Silence after which a device connection is closed."""
    stalled_s: float = 20.0
    """Time in which a peer that is behind has to read something."""
    waiting_bytes: int = 4 * 1024 * 1024
    """Bytes that may wait for a peer that does not read; more cut it off (above a mailbox's window)."""
    waiting_bytes_of_all: int = 256 * 1024 * 1024
    """Bytes that may wait for all peers; above it, those that are furthest behind are cut off."""
    frames_bytes_of_all: int = 256 * 1024 * 1024
    """Bytes of buffers that hold unfinished frames, or have grown for large ones; above it the largest are closed."""
    frames_per_turn: int = 64
    """Frames of one connection handled in one turn of the loop."""


class Channel(Protocol):
    """What a connection needs of the WebSocket below it."""

    def write(self, payloads: list[bytes]) -> int:
        """Send each as one frame, joined; gives the bytes that wait for a slow reader."""

    def waiting(self) -> int:
        """Bytes that wait for a slow reader."""

    def taken(self) -> int:
        """Bytes that have left since the connection began; only its growth means something."""

    def held(self) -> int:
        """Bytes of buffers grown for large frames, or for one that has not come to its end."""

    def ping(self) -> None: ...
    def pong(self, payload: bytes) -> None: ...
    def close(self, code: int) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Handler(Protocol):
    """What a connection tells those above it."""

    def opened(self, connection: "Connection") -> None: ...
    def command(self, connection: "Connection", command: Command) -> None: ...
    def mistake(self, connection: "Connection", error: WireError) -> None:
        """A frame that is no command, already answered. Raises WireError when it was one too many."""

    def bug(self, error: Exception) -> None: ...
    def spread(self, error: WireError) -> WireError:
        """*error* with its time to try again spread, so that those who are refused together do not come together."""

    def cut_off(self, connection: "Connection", reason: str) -> None: ...
    def closed(self, connection: "Connection") -> None: ...


class Turn:
    """Collects what is to be done at the end of a turn of the loop: *finish*, then write joined, then read on.

    A turn that has many connections to write to lasts for one more look at the sockets: a write costs more than all
    else that is done for an envelope, and while so many were made, others came that go to the same connections.
    """

    __slots__ = ("_armed", "_call_soon", "_finish", "_prolonged", "_reading", "_writing")

    def __init__(self, call_soon: Callable[[Callable[[], None]], Any], finish: Callable[[], None]) -> None:
        self._call_soon = call_soon
        self._finish = finish
        self._armed = False
        self._prolonged = False
        self._writing: list[Connection] = []
        self._reading: list[Connection] = []

    def arm(self) -> None:
        """See to it that this turn is finished."""
        if not self._armed:
            self._armed = True
            self._call_soon(self._end)

    def writes(self, connection: "Connection") -> None:
        self._writing.append(connection)
        self.arm()

    def reads_on(self, connection: "Connection") -> None:
        self._reading.append(connection)
        self.arm()

    def _end(self) -> None:
        if len(self._writing) >= MANY_WRITES and not self._prolonged:
            self._prolonged = True
            self._call_soon(self._end)
            return
        self._finish()
        self._armed = self._prolonged = False
        writing, self._writing = self._writing, []
        for connection in writing:
            connection.flush()
        if self._reading:
            reading, self._reading = self._reading, []
            for connection in reading:
                connection.next_turn()


class Connection:
    """One client's connection, anonymous until its session says otherwise.

    `device` is set by the handler at login to whatever it keeps about a device connection; `budgets` and what is
    `paid` are the handler's, too.
    """

    __slots__ = (
        "_channel", "_config", "_frames", "_handler", "_out", "_read_paused", "_stalled_since", "_taken", "_time",
        "_turn", "budgets", "device", "heard_at", "is_open", "opened_at", "paid_addresses", "paid_ahead", "paid_bytes",
        "pinged_at", "session", "source", "under_way",
    )  # fmt: skip

    def __init__(
        self,
        channel: Channel,
        session: ServerSession,
        handler: Handler,
        *,
        source: str | None,
        turn: Turn,
        time: Callable[[], float],
        config: ConnectionConfig,
    ) -> None:
        self._channel = channel
        self.session = session
        self._handler = handler
        self.source = source
        self._turn = turn
        self._time = time
        self._config = config
        self._out: list[bytes] = []
        self._frames = 0
        self._read_paused = False
        self._stalled_since: float | None = None
        self._taken = 0
        self.opened_at = self.heard_at = time()
        self.pinged_at = 0.0
        self.is_open = False
        self.under_way = 0
        self.device: Any = None
        self.budgets: dict[str, float] = {}
        self.paid_addresses = 0
        self.paid_bytes = 0
        self.paid_ahead = 0

    # ------------------------------------------------------------ from the channel

    def opened(self) -> None:
        self.is_open = True
        self._handler.opened(self)

    def received(self, frame: memoryview) -> None:
        """One binary frame; *frame* is valid during this call only."""
        if not self.is_open:
            return
        try:
            self._hear()
            command = self.session.receive(frame)
            if type(command) is Hello:
                self.send_frame(self.session.welcome())
            else:
                self._handler.command(self, command)
        except FrameError as error:
            self._mistaken(error)
        except WireError as error:
            self.refuse(0, error)
        except Exception as error:  # a bug of ours: it ends here, with this connection
            self.bug(error)

    def received_text(self) -> None:
        if self.is_open:
            self._mistaken(FrameError(BAD_FRAME, detail="frames are binary"))

    def pinged(self, payload: bytes) -> None:
        self._hear()
        self._channel.pong(payload)

    def ponged(self) -> None:
        self._hear()

    def writing_paused(self) -> None:
        """The peer does not read: read no more from it until it does."""
        self._stalled_since = self._time()
        self._taken = self._channel.taken()
        self._pause()

    def writing_resumed(self) -> None:
        self._stalled_since = None
        self._resume()

    def lost(self) -> None:
        """The socket is gone, whoever closed it."""
        self.is_open = False
        self.session.close()
        self._out.clear()
        self._handler.closed(self)

    # ------------------------------------------------------------ for the handler

    def send(self, message: Reply | Event) -> None:
        """Send *message* at the end of this turn. Does nothing if the connection has ended."""
        if self.is_open:
            self.send_frame(self.session.encode(message))

    def send_frame(self, frame: bytes) -> None:
        if not self.is_open:
            return
        if not self._out:
            self._turn.writes(self)
        self._out.append(frame)

    def refuse(self, request: int, error: WireError) -> None:
        """Answer *request* with *error*, and end the connection if that is what the error means.

        While draining it stays until the end of the drain: answers that are under way shall arrive.
        """
        if not self.is_open:
            return
        self.send_frame(self.session.failed(request, self._handler.spread(error)))
        if error.kind is DRAINING:
            return
        if error.kind.closes or self.session.state is State.CLOSED:
            self.close(1008)

    def bug(self, error: Exception) -> None:
        """An error that nobody foresaw: say so and close this connection."""
        self._handler.bug(error)
        if self.is_open:
            self.refuse(0, WireError(INTERNAL))
            self.close(1011)

    def close(self, code: int = 1000) -> None:
        """Send what waits, then close."""
        if self.is_open:
            self.flush()
            self.is_open = False
            self.session.close()
            self._channel.close(code)

    def abort(self) -> None:
        """Cut the peer off at once."""
        self.is_open = False
        self._out.clear()
        self._channel.abort()

    def cut_off(self) -> None:
        """The peer does not read: end it before it costs memory."""
        self._handler.cut_off(self, "stalled")
        self.abort()

    def send_away(self) -> None:
        """Its buffers are needed: the peer may come again, with small ones."""
        self._handler.cut_off(self, "buffers")
        self.refuse(0, WireError(BUSY, retry_after_ms=1_000))
        self.close(1013)

    @property
    def held(self) -> int:
        """Bytes of buffers that large or unfinished frames have grown."""
        return self._channel.held() if self.is_open else 0

    @property
    def behind(self) -> int:
        """Bytes that the peer leaves unread; 0 if it reads well."""
        return self._channel.waiting() if self._stalled_since is not None and self.is_open else 0

    # ------------------------------------------------------------ for the mailboxes (ports.Link, ports.Sender)

    def deliver(self, number: int, serial: bytes, body: bytes) -> None:
        """Send an envelope. An ephemeral one (number 0) is dropped if the peer leaves unread what was sent before."""
        if number == 0 and self._stalled_since is not None:
            return
        self.send(Deliver(number, serial, body))

    def caught_up(self, upto: int) -> None:
        self.send(CaughtUp(upto))

    def replaced(self) -> None:
        """A newer connection of the device took over."""
        self.send(Replaced())
        self.close(1008)

    def ended(self) -> None:
        """The device is no more."""
        self.refuse(0, WireError(DEVICE_REVOKED))
        self.close(1008)

    def unavailable(self) -> None:
        """The mailbox cannot be read at the moment."""
        self.refuse(0, WireError(STORAGE, retry_after_ms=2_000))
        self.close(1013)

    def sent(self, request: int, statuses: bytes) -> None:
        self.under_way -= 1
        self.send(Sent(request, statuses))

    def send_failed(self, request: int, error: WireError) -> None:
        self.under_way -= 1
        self.refuse(request, error)

    # ------------------------------------------------------------ turns and time

    def flush(self) -> None:
        if not self._out or not self.is_open:
            return
        out, self._out = self._out, []
        if self._channel.write(out) > self._config.waiting_bytes:
            self.cut_off()

    def next_turn(self) -> None:
        self._frames = 0
        if self._read_paused and self._stalled_since is None:
            self._resume()

    def check(self, now: float) -> None:
        """Close a connection that has been silent, or stalled, for too long. Called every few seconds."""
        if not self.is_open:
            return
        config, silence = self._config, now - self.heard_at
        if self._stalled_since is not None and self._is_stuck(now, self._stalled_since):
            self.cut_off()
        elif self._is_idle(now, silence):
            self._handler.cut_off(self, "idle")
            self.refuse(0, WireError(IDLE))
        elif self.device is not None and silence > config.device_ping_s and self.pinged_at < self.heard_at:
            self.pinged_at = now
            self._channel.ping()

    def _is_stuck(self, now: float, since: float) -> bool:
        """Whether a peer that is behind has read nothing for too long; a slow one that reads on may go on."""
        taken = self._channel.taken()
        if taken > self._taken:
            self._taken, self._stalled_since = taken, now
            return False
        return now - since > self._config.stalled_s

    def _is_idle(self, now: float, silence: float) -> bool:
        if self.session.state is State.NEW:
            return now - self.opened_at > self._config.hello_timeout_s
        if self.device is not None:
            return silence > self._config.device_idle_s
        return silence > self._config.anonymous_idle_s and not self.under_way

    def _hear(self) -> None:
        """Note a frame; a peer that has had its share of this turn is read again in the next.

        The loop's clock stands still during a turn (uvloop), so that a new time means a new turn.
        """
        now = self._time()
        if now != self.heard_at:
            self.heard_at = now
            self._frames = 0
        self._frames += 1
        if self._frames == self._config.frames_per_turn:
            self._pause()
            self._turn.reads_on(self)

    def _pause(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            self._channel.pause_reading()

    def _resume(self) -> None:
        if self._read_paused:
            self._read_paused = False
            self._channel.resume_reading()

    def _mistaken(self, error: FrameError) -> None:
        self.refuse(error.request, error)
        try:
            self._handler.mistake(self, error)
        except WireError as enough:
            self.refuse(0, enough)
            self.close(1008)
