"""The connection's state machine: what may cross in which state, what it leads to, and which reply answers what."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.generate_vectors import MESSAGES
from taube.wire import codec, errors
from taube.wire.errors import BAD_FRAME, BUSY, NO_COMMON_VERSION, OUT_OF_ORDER, FrameError, WireError
from taube.wire.messages import (
    Acknowledge,
    AskKnowledge,
    CaughtUp,
    Command,
    Deliver,
    Done,
    Draining,
    Event,
    Failed,
    GateState,
    Hello,
    Knowledge,
    LoggedIn,
    Login,
    Message,
    ReadGate,
    Replaced,
    Reply,
    Send,
    Sent,
    Welcome,
)
from taube.wire.session import ANSWERS, MAX_UNDER_WAY, TRANSITIONS, ClientSession, ServerSession, State
from tests.spec import spec
from tests.wire import strategies

EXAMPLES: dict[type, Message] = {type(message): message for message in reversed(MESSAGES)}
PAIRS = [(state, kind) for state in State for kind in EXAMPLES]
NAMES = [f"{state.name}-{kind.__name__}" for state, kind in PAIRS]
CLOSING = [kind for kind in errors.CATALOGUE.values() if kind.closes]
WELCOME = Welcome(1, b"n" * 32, "https://taube.example", 5, b"g" * 16)


def server_in(state: State) -> ServerSession:
    session = ServerSession(nonce=b"n" * 32, origin="https://taube.example", now_ms=5, generation=b"g" * 16)
    if state is State.NEW:
        return session
    session.receive(codec.encode(Hello([1])))
    session.welcome()
    if state in (State.LOGGING_IN, State.DEVICE):
        session.receive(codec.encode(EXAMPLES[Login]))
    if state is State.DEVICE:
        session.encode(LoggedIn(2, 0, 0))
    if state is State.CLOSED:
        session.close()
    assert session.state is state
    return session


def client_in(state: State) -> ClientSession:
    session = ClientSession()
    if state is State.NEW:
        return session
    session.hello()
    session.receive(codec.encode(WELCOME))
    if state in (State.LOGGING_IN, State.DEVICE):
        session.request(lambda request: Login(request, b"a" * 32, b"d" * 16, b"s" * 64))
    if state is State.DEVICE:
        session.receive(codec.encode(LoggedIn(1, 0, 0)))
    if state is State.CLOSED:
        session.close()
    assert session.state is state
    return session


@spec("CON-20", "CON-22")
@pytest.mark.parametrize(("state", "kind"), PAIRS, ids=NAMES)
def test_a_server_takes_and_gives_only_what_the_table_allows(state: State, kind: type) -> None:
    session, message = server_in(state), EXAMPLES[kind]
    allowed = (state, kind) in TRANSITIONS
    if isinstance(message, get_args(Command)):
        try:
            assert session.receive(codec.encode(message)) == message
        except FrameError as refusal:
            assert not allowed
            assert refusal.kind is OUT_OF_ORDER
            assert refusal.request == getattr(message, "request", 0)
    else:
        try:
            assert session.encode(message) == codec.encode(message)  # type: ignore[arg-type]
        except WireError as refusal:
            assert not allowed
            assert refusal.kind is OUT_OF_ORDER
    assert session.state is (TRANSITIONS[state, kind] if allowed else state)


@spec("CON-20", "CON-31")
@pytest.mark.parametrize(("state", "kind"), PAIRS, ids=NAMES)
def test_a_client_gives_only_what_the_table_allows(state: State, kind: type) -> None:
    session, message = client_in(state), EXAMPLES[kind]
    allowed = (state, kind) in TRANSITIONS
    if isinstance(message, get_args(Command)):
        give = {Hello: session.hello, Acknowledge: lambda: session.acknowledge(0)}.get(
            kind, lambda: session.request(lambda request: message)
        )
        try:
            give()
        except WireError as refusal:
            assert not allowed
            assert refusal.kind is OUT_OF_ORDER
    elif not allowed:
        with pytest.raises(FrameError):
            session.receive(codec.encode(message))
    elif isinstance(message, get_args(Event)):
        assert session.receive(codec.encode(message)) == message
    if not isinstance(message, get_args(Reply)):
        assert session.state is (TRANSITIONS[state, kind] if allowed else state)


@spec("CON-20")
def test_every_message_may_cross_in_some_state_and_every_command_is_answered() -> None:
    assert {kind for _, kind in TRANSITIONS} == set(EXAMPLES)
    assert set(ANSWERS) == set(get_args(Command)) - {Acknowledge}
    assert set(ANSWERS.values()) == set(get_args(Reply)) - {Failed}


@spec("CON-21")
def test_hello_is_answered_with_what_a_login_signs() -> None:
    server, client = server_in(State.NEW), ClientSession()
    server.receive(client.hello())
    assert client.receive(server.welcome()) == WELCOME
    assert client.welcome == WELCOME
    assert server.state is client.state is State.ANONYMOUS


@spec("CON-23")
def test_a_client_of_another_version_is_told_so_and_closed() -> None:
    server = server_in(State.NEW)
    with pytest.raises(FrameError) as refused:
        server.receive(codec.encode(Hello([9, 8])))
    assert refused.value.kind is NO_COMMON_VERSION
    client = ClientSession()
    client.hello()
    assert client.receive(server.failed(0, refused.value)) == Failed(0, NO_COMMON_VERSION.code)
    assert server.state is client.state is State.CLOSED


@spec("CON-23")
def test_a_newer_client_that_also_speaks_this_version_is_welcome() -> None:
    server = server_in(State.NEW)
    server.receive(codec.encode(Hello([7, 1])))
    assert server.state is State.ANONYMOUS
    client = ClientSession()
    client.hello()
    with pytest.raises(FrameError):
        client.receive(codec.encode(Welcome(7, b"n" * 32, "https://taube.example", 5, b"g" * 16)))


@spec("CON-24")
def test_nothing_but_the_answer_to_the_login_moves_a_connection_that_logs_in() -> None:
    server, client = server_in(State.ANONYMOUS), client_in(State.ANONYMOUS)
    earlier, frame = client.request(lambda request: ReadGate(request, b"g" * 32))
    server.receive(frame)
    login, frame = client.request(lambda request: Login(request, b"a" * 32, b"d" * 16, b"s" * 64))
    server.receive(frame)
    for session in (server, client):
        assert session.state is State.LOGGING_IN
    with pytest.raises(FrameError):
        server.receive(codec.encode(Send(9, 0, [b"a" * 41], b"b")))
    client.receive(server.failed(earlier, WireError(errors.INTERNAL)))
    assert server.state is client.state is State.LOGGING_IN
    client.receive(server.failed(login, WireError(errors.LOGIN_REFUSED)))
    assert server.state is client.state is State.ANONYMOUS


@spec("CON-26")
@pytest.mark.parametrize(
    "kind", [kind for kind in errors.CATALOGUE.values() if kind.closes], ids=lambda kind: kind.name
)
def test_an_error_that_closes_closes_both_ends(kind: errors.ErrorKind) -> None:
    server, client = server_in(State.DEVICE), client_in(State.DEVICE)
    client.receive(server.failed(0, WireError(kind)))
    assert server.state is client.state is State.CLOSED


@spec("CON-26")
def test_an_error_that_does_not_close_leaves_the_state() -> None:
    server, client = server_in(State.DEVICE), client_in(State.DEVICE)
    request, frame = client.request(AskKnowledge)
    server.receive(frame)
    failed = client.receive(server.failed(request, WireError(errors.BUSY, retry_after_ms=70, detail="x" * 500)))
    assert failed == Failed(request, BUSY.code, 70, "x" * 200)
    assert server.state is client.state is State.DEVICE


@spec("CON-26")
def test_answers_under_way_may_still_arrive_after_replaced() -> None:
    server, client = server_in(State.DEVICE), client_in(State.DEVICE)
    request, frame = client.request(AskKnowledge)
    server.receive(frame)
    client.receive(server.encode(Replaced()))
    assert client.receive(server.encode(Knowledge(request, []))) == Knowledge(request, [])
    with pytest.raises(WireError):
        client.acknowledge(1)
    with pytest.raises(WireError):
        server.encode(Deliver(1, b"s" * 8, b"b"))


@spec("CON-30")
def test_request_ids_rise_and_are_never_reused() -> None:
    client = client_in(State.ANONYMOUS)
    given = []
    for _ in range(5):
        request, _ = client.request(lambda request: ReadGate(request, b"g" * 32))
        given.append(request)
        client.receive(codec.encode(GateState(request, b"")))
    assert given == [1, 2, 3, 4, 5]
    assert client.under_way == 0


@spec("CON-30")
def test_requests_under_way_are_bounded() -> None:
    client = client_in(State.ANONYMOUS)
    for _ in range(MAX_UNDER_WAY):
        client.request(lambda request: ReadGate(request, b"g" * 32))
    with pytest.raises(WireError) as refused:
        client.request(lambda request: ReadGate(request, b"g" * 32))
    assert refused.value.kind is BUSY
    client.receive(codec.encode(GateState(1, b"")))
    assert client.request(lambda request: ReadGate(request, b"g" * 32))[0] == MAX_UNDER_WAY + 1


@spec("CON-31")
@pytest.mark.parametrize(
    "reply",
    [GateState(2, b"v"), Sent(1, b"\x00"), Done(1), GateState(0xFFFF_FFFF, b"v")],
    ids=["nobody asked", "of another kind", "done instead of a state", "an id never given"],
)
def test_a_reply_that_answers_nothing_is_refused(reply: Reply) -> None:
    client = client_in(State.ANONYMOUS)
    client.request(lambda request: ReadGate(request, b"g" * 32))
    with pytest.raises(FrameError) as refused:
        client.receive(codec.encode(reply))
    assert refused.value.kind is BAD_FRAME
    assert client.under_way == 1


@spec("CON-31")
def test_a_reply_is_matched_once() -> None:
    client = client_in(State.ANONYMOUS)
    request, _ = client.request(lambda request: ReadGate(request, b"g" * 32))
    client.receive(codec.encode(GateState(request, b"v")))
    with pytest.raises(FrameError):
        client.receive(codec.encode(GateState(request, b"v")))


@spec("CON-21")
def test_a_server_that_answers_before_it_welcomes_is_refused() -> None:
    client = ClientSession()
    client.hello()
    client.request(lambda request: ReadGate(request, b"g" * 32))
    with pytest.raises(FrameError):
        client.receive(codec.encode(GateState(1, b"")))
    client.receive(codec.encode(WELCOME))
    with pytest.raises(FrameError):
        client.receive(codec.encode(WELCOME))
    assert client.receive(codec.encode(GateState(1, b""))) == GateState(1, b"")


@spec("CON-33")
def test_delivery_numbers_rise_by_one_from_one() -> None:
    client = client_in(State.DEVICE)
    for number in (1, 0, 2, 0, 3):
        client.receive(codec.encode(Deliver(number, b"s" * 8, b"b")))
    for wrong in (3, 5):
        with pytest.raises(FrameError):
            client.receive(codec.encode(Deliver(wrong, b"s" * 8, b"b")))


@spec("CON-34")
def test_a_drain_is_announced_and_changes_nothing_yet() -> None:
    for state in (State.ANONYMOUS, State.DEVICE):
        server, client = server_in(state), client_in(state)
        assert client.receive(server.encode(Draining(250))) == Draining(250)
        assert server.state is client.state is state


@spec("CON-33")
def test_caught_up_reaches_the_client() -> None:
    client = client_in(State.DEVICE)
    assert client.receive(codec.encode(CaughtUp(0))) == CaughtUp(0)


@spec("CON-13", "CON-20", "CON-22")
@given(st.lists(st.binary(max_size=40) | strategies.any_message().map(codec.encode), max_size=12))
def test_whatever_either_end_receives_is_a_message_or_a_frame_error(frames: list[bytes]) -> None:
    for state in State:
        for session in (server_in(state), client_in(state)):
            for frame in frames:
                before = session.state
                try:
                    session.receive(frame)
                except FrameError:
                    assert session.state is before
                assert session.state in State
