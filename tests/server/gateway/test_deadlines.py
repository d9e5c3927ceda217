"""A connection's deadlines and bounds by a clock of the test: no socket, no waiting."""

from taube.server.gateway.connection import MANY_WRITES, Connection, ConnectionConfig, Turn
from taube.server.gateway.hub import Hub
from taube.wire import errors as e
from taube.wire import messages as m
from taube.wire.codec import decode_reply_or_event, encode
from taube.wire.session import ServerSession, State


class FakeChannel:
    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.writes = 0
        self.unread = self.left = self.grown = 0
        self.ended = ""
        self.reading = True

    def write(self, payloads):
        self.frames += payloads
        self.writes += 1
        return self.unread

    def waiting(self):
        return self.unread

    def taken(self):
        return self.left

    def held(self):
        return self.grown

    def ping(self):
        self.frames.append(b"ping")

    def pong(self, payload): ...

    def close(self, code):
        self.ended = self.ended or f"closed {code}"

    def abort(self):
        self.ended = self.ended or "aborted"

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True


class FakeHandler:
    def __init__(self) -> None:
        self.cut: list[str] = []
        self.commands: list[object] = []

    def opened(self, connection): ...
    def mistake(self, connection, error): ...
    def bug(self, error):
        raise error

    def spread(self, error):
        return error

    def closed(self, connection): ...
    def cut_off(self, connection, reason):
        self.cut.append(reason)

    def command(self, connection, command):
        self.commands.append(command)


class Bench:
    """One connection, its clock and the turns of its loop."""

    def __init__(self, **config) -> None:
        self.now = 0.0
        self.soon: list = []
        self.channel, self.handler = FakeChannel(), FakeHandler()
        self.turn = Turn(self.soon.append, lambda: None)
        session = ServerSession(nonce=bytes(32), origin="https://x", now_ms=0, generation=bytes(16))
        self.connection = Connection(
            self.channel,
            session,
            self.handler,
            source=None,
            turn=self.turn,
            time=lambda: self.now,
            config=ConnectionConfig(**config),
        )
        self.connection.opened()

    def end_turn(self) -> None:
        soon, self.soon[:] = list(self.soon), []
        for callback in soon:
            callback()

    def receive(self, *commands) -> None:
        for command in commands:
            self.connection.received(memoryview(encode(command)))


def test_everything_of_one_turn_leaves_in_one_write():
    bench = Bench()
    bench.receive(m.Hello([1]))
    for number in range(1, 6):
        bench.connection.send(m.GateState(number, b""))
    assert bench.channel.writes == 0
    bench.end_turn()
    assert bench.channel.writes == 1 and len(bench.channel.frames) == 6


def test_a_turn_with_many_connections_to_write_to_waits_once_for_what_comes_meanwhile():
    turns: list = []
    benches = [Bench() for _ in range(MANY_WRITES)]
    shared = Turn(turns.append, lambda: None)
    for bench in benches:
        bench.connection._turn = shared
        bench.receive(m.Hello([1]))
    turns.pop(0)()
    assert [bench.channel.writes for bench in benches] == [0] * MANY_WRITES
    for bench in benches:
        bench.connection.send(m.GateState(1, b""))
    turns.pop(0)()
    assert [(bench.channel.writes, len(bench.channel.frames)) for bench in benches] == [(1, 2)] * MANY_WRITES
    assert not turns
    benches[0].connection.send(m.GateState(2, b""))
    turns.pop(0)()
    assert benches[0].channel.writes == 2


def test_a_connection_is_read_again_in_the_next_turn_when_it_had_its_share():
    bench = Bench(frames_per_turn=3)
    bench.receive(m.Hello([1]), m.ReadGate(1, bytes(32)))
    assert bench.channel.reading
    bench.receive(m.ReadGate(2, bytes(32)))
    assert not bench.channel.reading
    bench.receive(m.ReadGate(3, bytes(32)))  # was in the buffer already
    bench.end_turn()
    assert bench.channel.reading and len(bench.handler.commands) == 3


def test_a_peer_that_does_not_read_is_no_longer_read_from_until_it_does():
    bench = Bench(frames_per_turn=2)
    bench.receive(m.Hello([1]))
    bench.connection.writing_paused()
    assert not bench.channel.reading
    bench.receive(m.ReadGate(1, bytes(32)))
    bench.end_turn()
    assert not bench.channel.reading
    bench.connection.writing_resumed()
    assert bench.channel.reading


def test_a_peer_that_reads_nothing_is_cut_off_and_one_that_reads_slowly_is_not():
    for reads, ended in [(0, "aborted"), (1, "")]:
        bench = Bench(stalled_s=20, anonymous_idle_s=1000)
        bench.receive(m.Hello([1]))
        bench.connection.writing_paused()
        for _ in range(10):
            bench.now += 5
            bench.channel.left += reads
            bench.connection.check(bench.now)
        assert bench.channel.ended == ended
        assert bench.handler.cut == (["stalled"] if ended else [])


def test_too_much_waiting_cuts_off_at_once():
    bench = Bench(waiting_bytes=1000)
    bench.receive(m.Hello([1]))
    bench.channel.unread = 1001
    bench.end_turn()
    assert bench.channel.ended == "aborted"
    bench.connection.send(m.GateState(1, b""))
    bench.end_turn()


def test_all_who_are_behind_share_one_bound_and_the_furthest_behind_go_first():
    hub, benches = Hub(), [Bench(anonymous_idle_s=1000) for _ in range(3)]
    for waiting, bench in zip((100, 300, 200), benches, strict=True):
        hub.add(bench.connection)
        bench.connection.writing_paused()
        bench.channel.unread = waiting
    hub.check(1.0, 600, 0)
    assert [bench.channel.ended for bench in benches] == ["", "", ""]
    hub.check(1.0, 350, 0)
    assert [bench.channel.ended for bench in benches] == ["", "aborted", ""]


def test_buffers_of_all_share_one_bound_and_whoever_has_the_largest_is_told_to_come_again():
    hub, benches = Hub(), [Bench(anonymous_idle_s=1000) for _ in range(4)]
    for grown, bench in zip((0, 100, 300, 200), benches, strict=True):
        hub.add(bench.connection)
        bench.receive(m.Hello([1]))
        bench.channel.grown = grown
    hub.check(1.0, 0, 600)
    assert [bench.channel.ended for bench in benches] == [""] * 4
    assert hub.frames_bytes == 600
    hub.check(1.0, 0, 250)
    assert [bench.channel.ended for bench in benches] == ["", "", "closed 1013", "closed 1013"]
    told = decode_reply_or_event(benches[2].channel.frames[-1])
    assert told.code == e.BUSY.code and told.retry_after_ms > 0
    assert benches[2].handler.cut == ["buffers"]


def test_an_ephemeral_envelope_is_dropped_for_a_peer_that_is_behind():
    bench = Bench()
    bench.receive(m.Hello([1]))
    bench.connection.session._move(State.DEVICE)
    bench.connection.writing_paused()
    bench.connection.deliver(0, bytes(8), b"typing")
    bench.connection.deliver(1, bytes(8), b"message")
    bench.end_turn()
    delivered = [decode_reply_or_event(frame) for frame in bench.channel.frames[1:]]
    assert [envelope.number for envelope in delivered] == [1]


def test_silence_is_ended_with_a_reason_but_not_while_an_answer_is_due():
    bench = Bench(anonymous_idle_s=90)
    bench.receive(m.Hello([1]))
    bench.connection.under_way = 1
    bench.connection.check(1000.0)
    assert bench.channel.ended == ""
    bench.connection.under_way = 0
    bench.connection.check(1000.0)
    assert bench.channel.ended == "closed 1008"
    failed = decode_reply_or_event(bench.channel.frames[-1])
    assert e.CATALOGUE[failed.code] is e.IDLE
