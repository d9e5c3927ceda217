"""Two sessions over a link that loses, cuts and repeats: every answer fits its question, and nothing ever crashes."""

from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from taube.wire.errors import INTERNAL, FrameError, WireError
from taube.wire.messages import (
    AskKnowledge,
    Command,
    Deliver,
    Draining,
    Fact,
    Failed,
    GateState,
    Hello,
    Knowledge,
    LoggedIn,
    Login,
    MintAddresses,
    Minted,
    ReadGate,
    Replaced,
    Reply,
    Send,
    Sent,
)
from taube.wire.session import ClientSession, ServerSession, State
from tests.spec import spec

QUESTIONS = (
    lambda word: lambda request: ReadGate(request, word * 32),
    lambda word: lambda request: Send(request, 0, [b"a" * 41], word),
    lambda word: lambda request: AskKnowledge(request),
    lambda word: lambda request: MintAddresses(request, 1 + word[0] % 9),
    lambda word: lambda request: Login(request, word * 32, b"d" * 16, b"s" * 64),
)


def answer(command: Command) -> Reply:
    """What the server of this test answers: derived from the question, so that a mix-up is seen."""
    match command:
        case ReadGate(request=request, name=name):
            return GateState(request, name)
        case Send(request=request, body=body):
            return Sent(request, body)
        case AskKnowledge(request=request):
            return Knowledge(request, [Fact("request", str(request))])
        case MintAddresses(request=request):
            return Minted(request, [])
        case Login(request=request):
            return LoggedIn(request, 0, 0)
    raise AssertionError(command)


class Link(RuleBasedStateMachine):
    """A client that asks and, after each cut, asks again what was not answered; a server that answers in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.unanswered: dict[int, Any] = {}
        self.questions = 0
        self.connect()

    def connect(self) -> None:
        self.client = ClientSession()
        self.server = ServerSession(nonce=b"n" * 32, origin="https://taube.example", now_ms=1, generation=b"g" * 16)
        self.to_server: deque[bytes] = deque()
        self.to_client: deque[bytes] = deque()
        self.asked: dict[int, tuple[int, Command]] = {}
        self.to_answer: list[Command] = []
        self.delivered = 0
        self.altered = False
        self.to_server.append(self.client.hello())
        for question, build in list(self.unanswered.items()):
            self.send(question, build)

    def send(self, question: int, build: Any) -> None:
        built: list[Command] = []

        def remember(request: int) -> Command:
            built.append(build(request))
            return built[0]

        try:
            request, frame = self.client.request(remember)
        except WireError:
            return
        self.asked[request] = (question, built[0])
        self.to_server.append(frame)

    @rule(which=st.integers(0, len(QUESTIONS) - 1), word=st.binary(min_size=1, max_size=1))
    def ask(self, which: int, word: bytes) -> None:
        self.questions += 1
        build = QUESTIONS[which](word)
        self.unanswered[self.questions] = build
        self.send(self.questions, build)

    @precondition(lambda self: self.to_server)
    @rule()
    def server_reads(self) -> None:
        frame = self.to_server.popleft()
        try:
            command = self.server.receive(frame)
        except FrameError as error:
            replaced = self.server.state is State.CLOSED  # and the client had not read it yet
            assert self.altered or replaced, "a correct client was refused"
            self.to_client.append(self.server.failed(error.request, error))
            return
        if isinstance(command, Hello):
            self.to_client.append(self.server.welcome())
        else:
            self.to_answer.append(command)

    @precondition(lambda self: self.to_answer)
    @rule(data=st.data(), refuse=st.booleans())
    def server_answers_any(self, data: st.DataObject, refuse: bool) -> None:
        command = self.to_answer.pop(data.draw(st.integers(0, len(self.to_answer) - 1)))
        try:
            if refuse:
                self.to_client.append(self.server.failed(getattr(command, "request", 0), WireError(INTERNAL)))
            else:
                self.to_client.append(self.server.encode(answer(command)))
        except WireError:
            assert self.altered or self.server.state is State.DEVICE or self.server.state is State.CLOSED

    @precondition(lambda self: self.server.state is State.DEVICE)
    @rule(ephemeral=st.booleans())
    def server_delivers(self, ephemeral: bool) -> None:
        self.delivered += not ephemeral
        self.to_client.append(self.server.encode(Deliver(0 if ephemeral else self.delivered, b"s" * 8, b"b")))

    @precondition(lambda self: self.server.state is State.DEVICE)
    @rule(replaced=st.booleans())
    def server_says_goodbye(self, replaced: bool) -> None:
        self.to_client.append(self.server.encode(Replaced() if replaced else Draining(5)))

    @precondition(lambda self: self.to_client)
    @rule()
    def client_reads(self) -> None:
        frame = self.to_client.popleft()
        try:
            message = self.client.receive(frame)
        except FrameError:
            assert self.altered, "a correct server was refused"
            self.connect()
            return
        request = getattr(message, "request", 0)
        if not request:
            return
        question, command = self.asked.pop(request)
        assert isinstance(message, Failed) or message == answer(command)
        self.unanswered.pop(question, None)

    @precondition(lambda self: self.to_client or self.to_server)
    @rule(to_client=st.booleans(), what=st.sampled_from(["lose", "repeat", "swap"]))
    def link_misbehaves(self, to_client: bool, what: str) -> None:
        way = self.to_client if to_client else self.to_server
        if not way:
            return
        self.altered = True
        if what == "lose":
            way.popleft()
        elif what == "repeat":
            way.appendleft(way[0])
        else:
            way.rotate(1)

    @rule()
    def link_is_cut(self) -> None:
        self.server.close()
        self.client.close()
        self.connect()

    @invariant()
    def a_state_is_never_ahead_of_the_other_end(self) -> None:
        if not self.altered and not self.to_client and not self.to_server:
            assert self.client.state is self.server.state


@spec("CON-31", "CON-32")
def test_answers_fit_their_questions_over_any_link() -> None:
    machine = Link.TestCase()
    machine.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
    machine.runTest()


@pytest.mark.slow
@spec("CON-31", "CON-32")
def test_answers_fit_their_questions_over_any_link_for_long() -> None:
    machine = Link.TestCase()
    machine.settings = settings(max_examples=4000, stateful_step_count=80, deadline=None, derandomize=False)
    machine.runTest()
