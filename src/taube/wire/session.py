"""One connection's state machine, the same table for both ends: frames in, messages out; messages in, frames out.

The table TRANSITIONS says which message may cross in which state and what the state is afterwards. Both ends follow
it, the server from what it receives and sends, the client from what it sends and receives, so that neither can believe
something about the connection that the other does not.

    NEW ── Hello ──► ANONYMOUS ── Login ──► LOGGING_IN ── LoggedIn ──► DEVICE
                         ▲                      │
                         └── the Login Failed ──┘        any ── Replaced, or Failed that closes ──► CLOSED

A session has no socket, no clock and no randomness: its owner passes what it needs and moves the bytes. It does not
know what a command does, and keeps no more than the requests under way.
Source: docs/protocol/connection.md, CON-20 to CON-34.
"""

from collections.abc import Callable
from enum import Enum
from typing import Final

from taube.wire import codec
from taube.wire.errors import (
    BAD_FRAME,
    BUSY,
    CATALOGUE,
    NO_COMMON_VERSION,
    OUT_OF_ORDER,
    FrameError,
    WireError,
)
from taube.wire.messages import (
    PROTOCOL_VERSION,
    Acknowledge,
    AskKnowledge,
    CaughtUp,
    Certificate,
    ClaimGate,
    ClaimKeyPackage,
    Command,
    DeleteAccount,
    Deliver,
    DeviceId,
    Done,
    Draining,
    Event,
    Failed,
    FetchCertificate,
    GateState,
    Hello,
    KeyPackageClaimed,
    Knowledge,
    LoggedIn,
    Login,
    Message,
    MintAddresses,
    Minted,
    PublishDeviceList,
    Published,
    PublishKeyPackages,
    ReadGate,
    Register,
    Replaced,
    Reply,
    RevokeAddress,
    Send,
    Sent,
    SetPush,
    SwapMark,
    Welcome,
)

MAX_UNDER_WAY: Final = 1024
"""Requests that a client may have under way on one connection; the next is refused with BUSY before it is sent."""

LOGIN_LABEL: Final = b"taube login v1"


class State(Enum):
    """What both ends know about the connection."""

    NEW = "new"
    ANONYMOUS = "anonymous"
    LOGGING_IN = "logging in"
    DEVICE = "device"
    CLOSED = "closed"


_ANONYMOUS_COMMANDS: Final = (
    Register,
    Send,
    ClaimKeyPackage,
    ClaimGate,
    ReadGate,
    PublishDeviceList,
    FetchCertificate,
)
_DEVICE_COMMANDS: Final = (
    Acknowledge,
    MintAddresses,
    RevokeAddress,
    PublishKeyPackages,
    PublishDeviceList,
    AskKnowledge,
    DeleteAccount,
    SwapMark,
    SetPush,
)
_ANONYMOUS_REPLIES: Final = (Done, Failed, Sent, KeyPackageClaimed, GateState, Certificate)
_DEVICE_REPLIES: Final = (Done, Failed, Minted, Published, Knowledge)
_FAREWELLS: Final = (Draining, Replaced)

_A, _L, _D, _X = State.ANONYMOUS, State.LOGGING_IN, State.DEVICE, State.CLOSED

TRANSITIONS: Final[dict[tuple[State, type], State]] = {
    (State.NEW, Hello): _A,
    (State.NEW, Failed): State.NEW,
    (State.NEW, Draining): State.NEW,
    (_A, Welcome): _A,
    **{(_A, kind): _A for kind in _ANONYMOUS_COMMANDS + _ANONYMOUS_REPLIES},
    (_A, Draining): _A,
    (_A, Login): _L,
    **{(_L, kind): _L for kind in (Welcome, *_ANONYMOUS_REPLIES, Draining)},
    (_L, LoggedIn): _D,
    **{(_D, kind): _D for kind in _DEVICE_COMMANDS + _DEVICE_REPLIES + _ANONYMOUS_REPLIES},
    **{(_D, kind): _D for kind in (Deliver, CaughtUp, Draining)},
    (_D, Replaced): _X,
    **{(_X, kind): _X for kind in _ANONYMOUS_REPLIES + _DEVICE_REPLIES + _FAREWELLS},
}
"""State after each message that may cross in a state; what is not in here may not cross.

Failed moves the state further where its meaning says so: an error that closes leads to CLOSED, and the answer to the
Login under way leads back from LOGGING_IN to ANONYMOUS.
"""

ANSWERS: Final[dict[type, type]] = {
    Hello: Welcome,
    Register: Done,
    Login: LoggedIn,
    Send: Sent,
    MintAddresses: Minted,
    RevokeAddress: Done,
    PublishKeyPackages: Published,
    ClaimKeyPackage: KeyPackageClaimed,
    ClaimGate: GateState,
    ReadGate: GateState,
    PublishDeviceList: Done,
    FetchCertificate: Certificate,
    AskKnowledge: Knowledge,
    DeleteAccount: Done,
    SwapMark: Done,
    SetPush: Done,
}
"""The reply that carries out each command; Failed may stand in its place. Acknowledge is not answered."""

_FROM: Final[dict[State, dict[type, State]]] = {
    state: {kind: after for (before, kind), after in TRANSITIONS.items() if before is state} for state in State
}


def login_message(origin: str, device: DeviceId | bytes, nonce: bytes) -> bytes:
    """The bytes that a Login's signature is over: label, length of the origin in 2 bytes, origin, device, nonce.

    *origin* is the server's as its Welcome names it, *nonce* the 32 bytes of the same Welcome. Source: CON-25.
    """
    name = origin.encode()
    return b"".join((LOGIN_LABEL, len(name).to_bytes(2, "big"), name, device, nonce))


class _Session:
    """What both ends share: the state, and the one place that moves it."""

    __slots__ = ("_allowed", "_login", "_state")

    def __init__(self) -> None:
        self._login = 0
        self._move(State.NEW)

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._state

    def close(self) -> None:
        """The transport has ended, or is about to: nothing but answers still under way may cross any more."""
        self._move(State.CLOSED)

    def _move(self, state: State) -> None:
        self._state = state
        self._allowed = _FROM[state]

    def _crossed(self, message: Message) -> None:
        """Follow *message*, which the table allows."""
        after = self._allowed[type(message)]
        if type(message) is Failed:
            kind = CATALOGUE.get(message.code)
            if kind is not None and kind.closes:
                after = State.CLOSED
            elif self._state is State.LOGGING_IN and message.request == self._login:
                after = State.ANONYMOUS
        elif type(message) is Login:
            self._login = message.request
        if after is not self._state:
            self._move(after)


class ServerSession(_Session):
    """The server's end: commands come out of `receive`, everything to be sent goes through `encode` or `failed`.

    *nonce*: 32 random bytes, new for each connection. *origin*: the server's name that logins sign. *now_ms*: the
    server's clock when the connection began. *generation*: 16 bytes, new whenever the server was restored.
    """

    __slots__ = ("_generation", "_now_ms", "_origin", "nonce")

    def __init__(self, *, nonce: bytes, origin: str, now_ms: int, generation: bytes) -> None:
        super().__init__()
        self.nonce = nonce
        self._origin = origin
        self._now_ms = now_ms
        self._generation = generation

    def receive(self, frame: bytes | bytearray | memoryview) -> Command:
        """The command in *frame*, if this state allows it. Answer a Hello by `welcome()` before anything else.

        Raises FrameError, to be answered by `failed(error.request, error)`: what the codec raises, OUT_OF_ORDER, or
        NO_COMMON_VERSION. The state is then as before. Source: CON-20 to CON-24.
        """
        command = codec.decode_command(frame)
        after = self._allowed.get(type(command))
        if after is None:
            raise FrameError(OUT_OF_ORDER, request=getattr(command, "request", 0))
        if after is not self._state:
            if type(command) is Hello and PROTOCOL_VERSION not in command.versions:
                raise FrameError(NO_COMMON_VERSION)
            self._crossed(command)
        return command

    def welcome(self) -> bytes:
        """The frame that answers Hello."""
        return self.encode(Welcome(PROTOCOL_VERSION, self.nonce, self._origin, self._now_ms, self._generation))

    def encode(self, message: Reply | Event) -> bytes:
        """The frame of *message*, which is taken as sent: a LoggedIn makes this a device connection.

        Raises WireError OUT_OF_ORDER if the state does not allow *message*: a mistake of the caller, nothing changed.
        """
        self.sent(message)
        return codec.encode(message)

    def sent(self, message: Reply | Event) -> None:
        """Follow *message* without encoding it, for a caller that has its bytes already. Raises like `encode`."""
        after = self._allowed.get(type(message))
        if after is None:
            raise WireError(OUT_OF_ORDER, detail=f"{type(message).__name__} while {self._state.value}")
        if after is not self._state or type(message) is Failed:
            self._crossed(message)

    def failed(self, request: int, error: WireError) -> bytes:
        """The frame that refuses *request* (0: it could not be read); the connection ends if `error.kind.closes`."""
        return self.encode(Failed(request, error.kind.code, error.retry_after_ms, error.detail[:200]))


class ClientSession(_Session):
    """The client's end: `hello` first, then requests; `receive` matches every reply to the request it answers.

    `welcome` is what the server said about itself, None until it has.
    """

    __slots__ = ("_delivered", "_next", "_under_way", "welcome")

    def __init__(self) -> None:
        super().__init__()
        self.welcome: Welcome | None = None
        self._next = 1
        self._under_way: dict[int, type] = {}
        self._delivered = 0

    @property
    def under_way(self) -> int:
        """Requests that wait for their reply."""
        return len(self._under_way)

    def hello(self) -> bytes:
        """The first frame. Requests may follow at once; a Login needs the nonce of `welcome`."""
        return self._sent(Hello([PROTOCOL_VERSION]))

    def request(self, build: Callable[[int], Command]) -> tuple[int, bytes]:
        """Build a command with the next request id; gives that id and the frame to send.

        Raises WireError: OUT_OF_ORDER if the state does not allow the command, BUSY if MAX_UNDER_WAY are under way.
        Nothing has changed then. A request that its caller no longer waits for stays under way until it is answered
        or the connection ends. Source: CON-30.
        """
        if len(self._under_way) >= MAX_UNDER_WAY:
            raise WireError(BUSY, retry_after_ms=1000, detail="too many requests under way on this connection")
        number = self._next
        command = build(number)
        frame = self._sent(command)
        self._under_way[number] = ANSWERS[type(command)]
        self._next = number + 1
        return number, frame

    def acknowledge(self, upto: int) -> bytes:
        """The frame that acknowledges every envelope delivered on this connection up to *upto*; it has no answer."""
        return self._sent(Acknowledge(upto))

    def receive(self, frame: bytes | bytearray | memoryview) -> Reply | Event:
        """The reply or event in *frame*. Raises FrameError for anything that a correct server would not send now.

        After an error the connection is of no more use: close it. Source: CON-31 to CON-34.
        """
        message = codec.decode_reply_or_event(frame)
        if type(message) not in self._allowed:
            raise FrameError(OUT_OF_ORDER, detail=f"{type(message).__name__} while {self._state.value}")
        if isinstance(message, Deliver):
            self._count(message)
        elif isinstance(message, Welcome):
            self._greet(message)
        elif isinstance(message, Failed) and message.request == 0:
            pass
        elif not isinstance(message, CaughtUp | Draining | Replaced):
            self._match(message)
        self._crossed(message)
        return message

    def _sent(self, command: Command) -> bytes:
        if type(command) not in self._allowed:
            raise WireError(OUT_OF_ORDER, detail=f"{type(command).__name__} while {self._state.value}")
        frame = codec.encode(command)
        self._crossed(command)
        return frame

    def _greet(self, welcome: Welcome) -> None:
        if self.welcome is not None:
            raise FrameError(OUT_OF_ORDER, detail="a second Welcome")
        if welcome.version != PROTOCOL_VERSION:
            raise FrameError(NO_COMMON_VERSION)
        self.welcome = welcome

    def _match(self, reply: Reply) -> None:
        request: int = getattr(reply, "request", 0)
        expected = self._under_way.get(request)
        if self.welcome is None or expected is None or type(reply) not in (expected, Failed):
            raise FrameError(BAD_FRAME, detail=f"{type(reply).__name__} answers no request under way")
        del self._under_way[request]

    def _count(self, envelope: Deliver) -> None:
        if envelope.number == 0:
            return
        if envelope.number != self._delivered + 1:
            raise FrameError(BAD_FRAME, detail="delivery numbers do not rise by one")
        self._delivered = envelope.number
