"""Disks that are full, failing, slow, damaged or read-only: refused or degraded in one sentence, back by themselves."""

import asyncio
import contextlib
import ctypes
import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from taube.cli import EX_INTERRUPTED
from taube.exits import EX_IOERR
from taube.testing import CommandFailed, Person, meet, succeeded
from taube.wire import messages as m
from tests.chaos.faults import Machine
from tests.chaos.folk import Folk, memory_kb, metric
from tests.chaos.world import FaultyServer

needs_machine = pytest.mark.skipif(not Machine.possible(), reason="needs Linux and a C compiler")
BODY = bytes(3000)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "machine")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., FaultyServer]]:
    servers: list[FaultyServer] = []

    def start(machine: Machine | None = None, **options: str) -> FaultyServer:
        server = FaultyServer(tmp_path, machine, tls=False, **options)  # type: ignore[arg-type]
        servers.append(server)
        server.begin()
        return server

    yield start
    for server in servers:
        if server.machine is not None:
            server.machine.heal()
        server.kill()


async def until(is_so: Callable[[], bool], timeout_s: float = 15.0) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, "it never came to that"
        await asyncio.sleep(0.01)


def said(server: FaultyServer) -> str:
    """All that the server said; it never shows a traceback."""
    text = server.log.read_text()
    assert "Traceback" not in text, text
    return text


# ---------------------------------------------------------------- slow, full, failing


@needs_machine
async def test_nothing_is_kept_before_it_is_on_the_disk(serve: Callable[..., FaultyServer], machine: Machine) -> None:
    async with Folk(serve(machine)) as folk:
        bob = await folk.member()
        sender = await folk.connect()
        machine.hold_sync = 1
        sending = sender.post(lambda n: m.Send(n, 0, [bob.address], b"x"))
        claiming = sender.post(lambda n: m.ClaimGate(n, b"g" * 32, b"v"))
        await until(lambda: machine.held > 0)
        await asyncio.sleep(0.1)
        assert not sending.done() and not claiming.done()
        machine.hold_sync = 0
        async with asyncio.timeout(15):
            assert (await sending).statuses == bytes([m.STATUS_KEPT])  # type: ignore[union-attr]
            assert isinstance(await claiming, m.GateState)


@needs_machine
@pytest.mark.parametrize(
    ("fault", "value"),
    [("full", 1), ("sync_error", errno.EIO), pytest.param("write_error", errno.EIO, marks=pytest.mark.slow)],
)
async def test_a_disk_that_takes_nothing_is_told_to_senders_and_loses_nothing(
    serve: Callable[..., FaultyServer], machine: Machine, fault: str, value: int
) -> None:
    server = serve(machine)
    async with Folk(server) as folk:
        away, here = await folk.members(2)
        device = await folk.online(here)
        await device.next(m.CaughtUp)
        kept = []
        for n in range(20):
            assert await folk.kept(away, b"before %d" % n)
            kept.append(b"before %d" % n)
        setattr(machine, fault, value)
        refused = 0
        for n in range(60):
            body = b"during %d " % n + BODY
            if await folk.kept(away, body):
                kept.append(body)
            else:
                refused += 1
        assert refused, "a broken disk was not noticed"
        sender = await folk.sender()
        live = sender.post(lambda n: m.Send(n, 0, [here.address], b"live"))
        device.acknowledge((await device.next(m.Deliver)).number)
        assert (await live).statuses == bytes([m.STATUS_KEPT])  # type: ignore[union-attr]
        assert (await folk.read_all(away, acknowledge=False))[:20] == kept[:20], "what is intact can be read"
        claimed = await sender.call(lambda n: m.ClaimGate(n, b"g" * 32, BODY))
        assert isinstance(claimed, m.Failed) and claimed.retry_after_ms
        setattr(machine, fault, 0)
        body = b"after"
        async with asyncio.timeout(20):
            while not await folk.kept(away, body):
                await asyncio.sleep(0.1)
        kept.append(body)
        assert await folk.read_all(away) == kept
        assert await folk.read_all(away) == []
        assert metric(server, "taube_storage_problems_total") > 0
        claimed = await sender.call(lambda n: m.ClaimGate(n, b"g" * 32, b"mine"))
        assert claimed.value == b"mine", "a claim that was refused was not made"
    assert said(server).count("storage") >= 1
    assert server.stop() == 0


@needs_machine
async def test_a_mailbox_that_cannot_be_read_is_tried_again_and_the_others_are_served(
    serve: Callable[..., FaultyServer], machine: Machine
) -> None:
    server = serve(machine)
    async with Folk(server) as folk:
        away, here = await folk.members(2)
        device = await folk.online(here)
        await device.next(m.CaughtUp)
        bodies = [b"%d " % n + BODY for n in range(40)]
        await folk.fill(away, bodies)
        server.kill()  # so that nothing is in its cache
        server.begin()
        device = await folk.online(here)
        await device.next(m.CaughtUp)
        machine.read_error = errno.EIO
        with pytest.raises((ConnectionError, AssertionError)):
            await folk.read_all(away)
        live = (await folk.sender()).post(lambda n: m.Send(n, 0, [here.address], b"live"))
        device.acknowledge((await device.next(m.Deliver)).number)
        assert (await live).statuses == bytes([m.STATUS_KEPT])  # type: ignore[union-attr]
        machine.read_error = 0
        assert await folk.read_all(away) == bodies
    said(server)


@needs_machine
async def test_memory_stays_bounded_while_the_disk_hangs_and_whoever_is_refused_is_told_when_to_come_back(
    serve: Callable[..., FaultyServer], machine: Machine
) -> None:
    server = serve(machine, config="[mailboxes]\nbacklog_bytes = 4000000\n")
    async with Folk(server) as folk:
        away, here = await folk.members(2)
        device = await folk.online(here)
        await device.next(m.CaughtUp)
        assert await folk.kept(away, BODY)
        before = memory_kb(server.pid)
        machine.hold_sync = 1
        body = bytes(60_000)
        senders = [await folk.connect() for _ in range(4)]
        waiting = [
            sender.post(lambda n: m.Send(n, 0, [away.address], body)) for _ in range(100) for sender in senders
        ]  # 24 MB
        busy = bytes([m.STATUS_BUSY])
        answered = lambda: [each.result() for each in waiting if each.done()]  # noqa: E731
        await until(lambda: sum(getattr(each, "statuses", b"") == busy for each in answered()) > 100)
        assert memory_kb(server.pid) - before < 40_000
        assert isinstance(await (await folk.connect()).send([here.address], b"live"), m.Sent), "answered at once"
        machine.hold_sync = 0
        async with asyncio.timeout(30):
            replies = await asyncio.gather(*waiting)
        kept = sum(each.statuses == bytes([m.STATUS_KEPT]) for each in replies)  # type: ignore[union-attr]
        assert kept >= 10
        assert len(await folk.read_all(away)) == kept + 1


@needs_machine
async def test_on_a_full_disk_the_server_and_its_administrator_are_told_in_one_sentence(
    serve: Callable[..., FaultyServer], machine: Machine
) -> None:
    server = serve(machine)
    server.stop()
    machine.full = 1
    before = (server.data / "taube.db").read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "taube", "admin", "invite", "--data", str(server.data)],
        env=server.environment | machine.prepare(server.data), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == EX_IOERR and "full" in done.stderr and len(done.stderr.strip().splitlines()) == 1, (
        done.stderr
    )
    with pytest.raises(CommandFailed):
        server.begin()
    told = [line for line in said(server).splitlines() if line and not line.startswith(("ready", "{"))]
    assert len(told) == 1 and "is full. Make room and try again: that is safe" in told[0], told
    assert (server.data / "taube.db").read_bytes() == before
    machine.full = 0
    server.begin()


@needs_machine
def test_who_sends_while_the_servers_disk_is_full_is_told_what_is_waited_for(
    serve: Callable[..., FaultyServer], machine: Machine
) -> None:
    server = serve(machine)
    ann, bob = server.person("ann"), server.person("bob")
    meet(ann, bob)
    machine.write_error = errno.ENOSPC
    with ann.start("send", "bob", "while it was full") as sending:
        assert "cannot keep messages at the moment. Waiting" in sending.error_line()
        machine.write_error = 0
        assert sending.line() == ""  # it ends, in time or not
    succeeded(ann.run("send", "bob", "on"))
    assert [message["text"] for message in bob.read()] == ["while it was full", "on"]


@needs_machine
def test_on_a_full_disk_a_person_is_told_in_one_sentence_and_loses_nothing(
    serve: Callable[..., FaultyServer], machine: Machine, tmp_path: Path
) -> None:
    server = serve()
    bob, home, photo = server.person("bob"), tmp_path / "ann", tmp_path / "file.bin"
    ann = Person("ann", home, server.environment | machine.prepare(home))
    photo.write_bytes(os.urandom(100_000))

    def told(*command: str) -> None:
        done = ann.run(*command)
        assert done.code == EX_IOERR and done.err.startswith("taube: ") and done.err.endswith((".", "?")), done
        assert len(done.err.splitlines()) == 1 and "bug" not in done.err and ("full" in done.err or "room" in done.err)
        assert not done.out

    join = ("join", server.invite(), "--name", "ann")
    machine.full = 1
    told(*join)
    assert not list(home.glob(".key*"))
    machine.full = 0
    succeeded(ann.run(*join))
    meet(ann, bob)
    with ann.start("read", "--follow", "--json") as following:
        succeeded(bob.run("send", "ann", "before"))
        assert following.record()["text"] == "before"
        machine.full = 1
        succeeded(bob.run("send", "ann", "while it was full"))
        told("send", "bob", "--file", str(photo))
        machine.full = 0
        assert following.record()["text"] == "while it was full"
        assert following.interrupt().code == EX_INTERRUPTED  # not before it wrote down what it had shown
    machine.full = 1
    for command in (("send", "bob", "lost"), ("send", "bob", "--file", str(photo)), ("read",), ("chats",)):
        told(*command)
    succeeded(bob.run("send", "ann", "still full"))
    machine.full = 0
    assert [message["text"] for message in ann.read()] == ["still full"]
    succeeded(ann.run("send", "bob", "here again"))
    assert [message["text"] for message in bob.read()] == ["here again"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_who_reads_into_a_full_file_is_told_and_reads_it_again(serve: Callable[..., FaultyServer]) -> None:
    server = serve()
    ann, bob = server.person("ann"), server.person("bob")
    meet(ann, bob)
    succeeded(bob.run("send", "ann", "hello"))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "taube", "read", "--home", str(ann.home)],
            env=server.environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == EX_IOERR and "make room" in done.stderr and len(done.stderr.splitlines()) == 1, done
    assert [message["text"] for message in ann.read()] == ["hello"]


# ---------------------------------------------------------------- damaged, truncated, read-only


async def filled(
    serve: Callable[..., FaultyServer], **options: str
) -> tuple[FaultyServer, Folk, list[tuple[object, list[bytes]]]]:
    server = serve(**options)
    folk = Folk(server)
    people = []
    for member in await folk.members(3):
        bodies = [b"%d " % n + os.urandom(2500) for n in range(30)]
        await folk.fill(member, bodies)
        people.append((member, bodies))
    return server, folk, people  # type: ignore[return-value]


def pages_of(path: Path, table: str) -> list[int]:
    """Where the rows of a table lie: pages, counted from 0."""
    db = apsw.Connection(str(path))
    rows = db.execute("SELECT pageno - 1 FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (table,)).fetchall()
    db.close()
    return [row[0] for row in rows]


async def test_a_damaged_page_is_reported_and_the_rest_stays_readable(serve: Callable[..., FaultyServer]) -> None:
    server, folk, people = await filled(serve)
    server.stop()
    path = server.data / "taube.db"
    whole = path.read_bytes()
    dice = random.Random(3)
    mail = pages_of(path, "envelope")
    served = 0
    for page in [0, 1, *dice.sample(mail, 2)]:
        damaged = bytearray(whole)
        damaged[page * 4096 : page * 4096 + 4096] = dice.randbytes(4096)
        path.write_bytes(damaged)
        server.log.write_text("")
        try:
            server.begin()
        except CommandFailed:
            assert "damaged" in said(server), (page, said(server))
            assert path.read_bytes() == damaged, "nothing was overwritten"
            continue
        served += 1
        intact = 0
        for member, bodies in people:
            try:
                read = await folk.read_all(member, acknowledge=False)  # type: ignore[arg-type]
            except (ConnectionError, AssertionError):
                continue
            assert read == bodies, (page, "who is told that this is all has all of it")
            intact += 1
        assert intact or page not in mail, page  # a page between two queues may be needed by both
        said(server)
        server.kill()
        assert path.read_bytes()[page * 4096 :][:4096] == damaged[page * 4096 :][:4096]
    assert served
    async with folk:
        pass


@pytest.mark.parametrize("place", [0, 2, 15, 29])
async def test_a_damaged_page_of_one_mailbox_stops_nobody_else(serve: Callable[..., FaultyServer], place: int) -> None:
    server, folk, people = await filled(serve, config="[mailboxes]\nwindow_envelopes = 4\n")
    server.stop()
    path = server.data / "taube.db"
    whole = bytearray(path.read_bytes())
    (alice, _), (bob, bodies), (carol, _) = people
    page = whole.index(bodies[place][5:200]) // 4096
    whole[page * 4096 : page * 4096 + 4096] = random.Random(6).randbytes(4096)
    path.write_bytes(whole)
    server.begin()
    async with folk:
        with contextlib.suppress(ConnectionError):
            reader = await folk.online(bob)  # type: ignore[arg-type]
            while isinstance(event := await folk.event(reader), m.Deliver):
                reader.acknowledge(event.number)
        await asyncio.sleep(0.1)
        sender = await folk.sender()
        for _ in range(5):
            posts = [
                sender.post(lambda n, to=to: m.Send(n, 0, [to.address], b"more"))  # type: ignore[misc]
                for to in (bob, alice, bob, carol)
            ]
            async with asyncio.timeout(15):
                replies = await asyncio.gather(*posts)
            # who lies just before a damaged page needs it to find its own end
            for reply in replies[3:] if place == 0 else replies[1::2]:
                assert isinstance(reply, m.Sent) and reply.statuses == bytes([m.STATUS_KEPT]), reply
    said(server)


async def test_a_log_that_was_cut_off_or_overwritten_at_its_end_gives_back_what_came_before(
    serve: Callable[..., FaultyServer],
) -> None:
    server, folk, people = await filled(serve)
    server.kill()
    log = server.data / "taube.db-wal"
    whole = log.read_bytes()
    before = (server.data / "taube.db").read_bytes()
    assert len(whole) > 100_000
    dice = random.Random(4)
    found: list[int] = []
    for size in [10, *sorted(dice.sample(range(33, len(whole)), 3)), len(whole)]:
        (server.data / "taube.db").write_bytes(before)
        log.write_bytes(whole[:size] + dice.randbytes(dice.choice((0, 5000))))
        (server.data / "taube.db-shm").unlink(missing_ok=True)
        server.log.write_text("")
        server.begin()
        found.append(0)
        for member, bodies in people:
            client = await folk.connect()
            if isinstance(await client.log_in(member.person), m.Failed):  # type: ignore[attr-defined]
                continue  # made after the point that was cut
            read = await folk.read_all(member, acknowledge=False)  # type: ignore[arg-type]
            assert read == bodies[: len(read)], "a prefix, in order"
            found[-1] += 1 + len(read)
        said(server)
        server.kill()
    assert found == sorted(found), "the later the cut, the more is there"
    assert found[-1] == sum(1 + len(bodies) for _, bodies in people), "what was whole gives back everything"
    async with folk:
        pass


def bound_by_permissions() -> None:
    """Root without the right to write everywhere: PR_CAPBSET_DROP, CAP_DAC_OVERRIDE."""
    assert ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) == 0


def test_a_read_only_data_folder_is_told_in_one_sentence_and_left_alone() -> None:
    folder = Path(tempfile.mkdtemp(prefix="taube-"))
    try:
        server = FaultyServer(folder, tls=False)
        server.begin()
        server.stop()
        contents = {path.name: path.read_bytes() for path in server.data.iterdir()}
        folder.chmod(0o755)
        server.data.chmod(0o555)
        for path in server.data.iterdir():
            path.chmod(0o444)

        def run(*command: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                command, env=server.environment, capture_output=True, text=True, timeout=30, check=False,
                preexec_fn=bound_by_permissions if os.geteuid() == 0 else None,
            )  # fmt: skip

        done = run(*server.command())
        assert done.returncode not in (0, 1), done
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1 and "cannot be written" in done.stderr, done.stderr
        taube, saved = (sys.executable, "-m", "taube"), folder / "saved"
        done = run(*taube, "admin", "backup", "--data", str(server.data), str(saved))
        assert done.returncode == EX_IOERR and "copy its folder" in done.stderr, done
        assert len(done.stderr.strip().splitlines()) == 1 and not saved.exists()
        assert "copy its folder" in run(*taube, "doctor", "--data", str(server.data)).stdout
        shutil.copytree(server.data, folder / "copy")
        for path in (folder / "copy", *(folder / "copy").iterdir()):
            path.chmod(0o700)
        assert run(*taube, "admin", "backup", "--data", str(folder / "copy"), str(saved)).returncode == 0
        assert {path.name: path.read_bytes() for path in server.data.iterdir()} == contents
    finally:
        server.data.chmod(0o700)
        shutil.rmtree(folder)
