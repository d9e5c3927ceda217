"""What is fuzzed: for each target one function that takes any bytes, and raises only if something is broken.

Each gives a set of short texts that say what came of the input. The parsers below it are native and show no coverage,
so that the runner takes every new text as progress. An input that means several things in a row is cut at `CUT`: 0xC1
is the one byte that MessagePack never uses.

It knows no fuzzer: `python -m tests.fuzz` drives it, and `test_corpus.py` replays what was found; table.py says what
each is about.
"""

import base64
import contextlib
import functools
import hashlib
import re
import socket
import tempfile
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any, Final

import httpcore

from taube import terminal
from taube.client import contacts, content, devices, e2e, transport
from taube.client.e2e import SUITE_CLASSIC
from taube.client.errors import WrongInput
from taube.server import admin, backup, clock, config, folder, secrets
from taube.server.config import OperatorError
from taube.server.ports import PushRow, StoreUnusable
from taube.server.providers.web_push import WebPush
from taube.server.services import accounts, identity
from taube.server.services.push import PushSettings, check_endpoint
from taube.server.stores import sqlite
from taube.wire import codec, errors, session
from taube.wire import messages as m
from taube.wire.errors import FrameError, WireError
from taube.wire.packing import Unpacker, pack
from tests.fuzz import files
from tests.fuzz import world as w
from tests.fuzz.lines import Lines
from tests.fuzz.port import Another, Port, Reads, Step, Waits, outcomes
from tests.fuzz.service import AnyService

CUT: Final = b"\xc1\xc1"
Outcomes = Set[str]


def pieces(data: bytes) -> list[bytes]:
    return data.split(CUT)


def expect(truth: object, sentence: str) -> None:
    if not truth:
        raise w.Broken(sentence)


# ---------------------------------------------------------------- frames


def frames(data: bytes) -> Outcomes:
    """A frame as either end decodes it; what was decoded is encoded and decoded to the same again."""
    return {"command " + _frame(codec.decode_command, data), "reply " + _frame(codec.decode_reply_or_event, data)}


def _frame(decode: Callable[[bytes], Any], data: bytes) -> str:
    try:
        message = decode(data)
    except FrameError as error:
        expect(error.kind.code in errors.CATALOGUE and 0 <= error.request < 2**32, "a refusal that cannot be sent")
        return f"{error.kind.name} {bool(error.request)} {w.plain(error.detail)}"
    again = codec.encode(message)
    expect(decode(again) == message, "another message after encoding and decoding")
    expect(decode(memoryview(again)) == message, "another message from a view")
    return f"{type(message).__name__} {len(again) == len(data)}"


SAYS: Final[tuple[Callable[[int], Any], ...]] = (
    lambda n: m.Failed(n, 20, 0, ""),
    lambda n: m.Failed(n, 8, 1, ""),
    lambda n: m.LoggedIn(n, 1, 1),
    lambda n: m.Done(n),
    lambda n: m.Replaced(),
    lambda n: m.Draining(5),
    lambda n: m.Deliver(1, bytes(8), b"x"),
    lambda n: m.Welcome(1, bytes(32), "https://taube.example", 1, bytes(16)),
)


def server_session(data: bytes) -> Outcomes:
    """Frames to a server's session; the first byte of each piece says what the server answers to it."""
    end = session.ServerSession(nonce=bytes(32), origin="https://taube.example", now_ms=1, generation=bytes(16))
    came: set[str] = set()
    for piece in pieces(data)[:64]:
        before = end.state
        request = 0
        try:
            command = end.receive(piece[1:])
            request = getattr(command, "request", 0)
            came.add(f"{before.value}: {type(command).__name__} → {end.state.value}")
        except FrameError as error:
            expect(end.state is before, "a refused frame changed the state")
            came.add(f"{before.value}: {error.kind.name}")
            end.failed(error.request, error)
        if piece and piece[0] < len(SAYS):
            say = SAYS[piece[0]](request)
            try:
                codec.decode_reply_or_event(end.encode(say))
                came.add(f"{type(say).__name__} → {end.state.value}")
            except WireError:
                pass
    return came


ASKS: Final[tuple[Callable[[int], m.Command], ...]] = (
    lambda n: m.Register(n, bytes(16), bytes(65), bytes(70)),
    lambda n: m.Login(n, bytes(32), bytes(16), bytes(64)),
    lambda n: m.Send(n, 0, [bytes(41)], b"x"),
    lambda n: m.MintAddresses(n, 1),
    lambda n: m.RevokeAddress(n, bytes(8)),
    lambda n: m.PublishKeyPackages(n, 1, [b"x"]),
    lambda n: m.ClaimKeyPackage(n, bytes(41), 1),
    lambda n: m.ClaimGate(n, bytes(32), b"x"),
    lambda n: m.ReadGate(n, bytes(32)),
    lambda n: m.PublishDeviceList(n, bytes(32), bytes(70)),
    lambda n: m.FetchCertificate(n, bytes(32)),
    lambda n: m.AskKnowledge(n),
    lambda n: m.DeleteAccount(n),
)


def client_session(data: bytes) -> Outcomes:
    """Frames to a client's session; the first byte of each piece says what the client asks before it."""
    end = session.ClientSession()
    came: set[str] = set()
    end.hello()
    for piece in pieces(data)[:64]:
        before, under_way = end.state, end.under_way
        if piece and piece[0] <= len(ASKS):
            try:
                frame = end.acknowledge(1) if piece[0] == len(ASKS) else end.request(ASKS[piece[0]])[1]
                codec.decode_command(frame)
            except WireError as error:
                expect(
                    (end.state, end.under_way) == (before, under_way), "a request that was refused changed something"
                )
                came.add(f"{before.value}: may not ask {piece[0]}: {error.kind.name}")
        if len(piece) < 2:
            continue
        before = end.state
        try:
            message = end.receive(piece[1:])
            came.add(f"{before.value}: {w.said(message)} → {end.state.value}")
        except FrameError as error:
            came.add(f"{before.value}: {error.kind.name} {w.plain(error.detail)}")
    return came


def commands(data: bytes) -> Outcomes:
    """Frames to two connections with everything behind them, and what else may happen meanwhile (see `lines`)."""
    stage = Lines()
    for piece in pieces(data)[:64]:
        stage.happen(piece)
    said = [codec.decode_reply_or_event(frame) for frame in stage.hang_up()]
    return {w.said(message) for message in said} | {str(min(len(said), 20))}


# ---------------------------------------------------------------- the port


@functools.cache
def _port() -> Port:
    return Port()


@functools.cache
def _tls_port() -> Port:
    from taube.server.gateway.listener import tls_context
    from taube.testing import make_certificate

    with tempfile.TemporaryDirectory() as name:
        return Port(tls_context(*make_certificate(Path(name))))


def port(data: bytes) -> Outcomes:
    """Any bytes, in pieces, to the port that speaks plain HTTP (on loopback)."""
    return outcomes(_port().play(pieces(data)[:64]))


UPGRADE: Final = (
    b"GET /v1/socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def websocket(data: bytes) -> Outcomes:
    """Frames to an upgraded connection, and a peer that stops reading or does nothing for a while."""
    return outcomes(_port().play([UPGRADE, *map(_step, pieces(data)[:64])]))


def _step(piece: bytes) -> Step:
    """A frame by its first byte and its content; what is no WebSocket frame (its reserved bits stand) is more."""
    first, rest = piece[:1], piece[1:]
    if first == b"\x7d":
        return Waits((rest[:1] or b"\1")[0] * 4.0)
    if first in (b"\x7e", b"\x7f"):
        return Reads(first == b"\x7e")
    if first == b"\x7c":  # a frame with the same thing in it again and again
        return masked((rest[:1] or b"\x82")[0], rest[2:] * (1 + (rest[1:2] or b"\0")[0] ** 2))
    if first == b"\x7b":  # the same frame again and again
        return masked(0x82, rest[1:]) * (rest[:1] or b"\0")[0]
    if first and first[0] & 0x70 == 0x70:
        return rest
    return masked(first[0], rest) if first else b""


def masked(first: int, payload: bytes) -> bytes:
    """A client's WebSocket frame, with the mask of four zeros."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 65_536:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes([first]) + length + bytes(4) + payload


SECRET: Final = bytes(range(32))
SECRET_TEXT: Final = base64.urlsafe_b64encode(SECRET).rstrip(b"=")
BLOB: Final = b"/v1/blobs/" + base64.urlsafe_b64encode(hashlib.sha256(SECRET).digest()).rstrip(b"=")


def blob_requests(data: bytes) -> Outcomes:
    """Any bytes, in pieces, on several connections: a piece that begins with 0xC0 goes on with the next one."""
    steps: list[Step] = []
    for piece in pieces(data)[:64]:
        steps += [Another(), piece[1:]] if piece[:1] == b"\xc0" else [piece]
    return {found for answer in _port().converse(steps) for found in outcomes(answer)}


def inside_tls(data: bytes) -> Outcomes:
    """What `port` gets, or, after 0x01, what `websocket` gets, over the transport that the public port has."""
    steps = [UPGRADE, *map(_step, pieces(data[1:])[:64])] if data[:1] == b"\x01" else pieces(data)[:64]
    return outcomes(_tls_port().play(steps, in_tls=True))


def tls_port(data: bytes) -> Outcomes:
    """Any bytes, in pieces, to the port that speaks TLS."""
    answer = _tls_port().play(pieces(data)[:64])
    if answer[:4] == b"HTTP":
        return outcomes(answer)
    return {"TLS " + answer[:1].hex() + answer[5:7].hex()} if answer else {"nothing"}


# ---------------------------------------------------------------- texts


def _text(data: bytes) -> str:
    """Bytes as a command line brings them: what is no UTF-8 becomes lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def links(data: bytes) -> Outcomes:
    """A text as contact link, invitation link and origin."""
    text = _text(data)
    came = set()
    try:
        link = contacts.parse_contact_link(text)
        expect(
            contacts.parse_contact_link(contacts.contact_link(link)) == link, "another link after writing and reading"
        )
        name = contacts.clean_name(link.name)
        expect(name == contacts.clean_name(name), "a name that cleans further")
        came.add(f"contact {bool(name)} {name == link.name}")
    except WrongInput as error:
        came.add(f"no contact: {w.plain(str(error))}")
    try:
        origin, _ = devices.parse_invitation(text)
        came.add(f"invitation {bool(origin)}")
    except WrongInput as error:
        came.add(f"no invitation: {w.plain(str(error))}")
    for number, parse in enumerate((folder.check_origin, _admin_invitation, admin._account, _socket_url)):
        try:
            parse(text)
            came.add(f"{number} is one")
        except OperatorError as error:
            came.add(f"{number}: {w.plain(error.sentence)}")
    return came


def _socket_url(text: str) -> str:
    try:
        return transport.socket_url(text)
    except transport.NotTaube as error:
        raise OperatorError(str(error)) from error


def _admin_invitation(text: str) -> bytes:
    return admin._invitation(Path("/nowhere"), text)


def names(data: bytes) -> Outcomes:
    """A text that somebody else chose, as a name and as it reaches a terminal."""
    text = _text(data)
    line = contacts.one_line(text)
    expect(
        len(line) <= contacts.MAX_NAME and len(line.encode("utf-8", "surrogatepass")) <= content.MAX_NAME_BYTES, "long"
    )
    expect(line.isprintable(), "a name that is not printable")
    expect(contacts.skeleton(line) == contacts.skeleton(contacts.skeleton(line)), "a skeleton of a skeleton")
    contacts.clean_name(text)
    for safe in (
        terminal.safe_line(text),
        terminal.safe_text(text, "  ").replace("\n", " "),
        terminal.json_line({"a": text}),
    ):
        expect(not any(terminal.is_harmful(c) for c in safe), "a harmful character reaches the terminal")
    return {f"{min(len(line), 3)} {line == text} {contacts.clean_name(text) == line}"}


def contents(data: bytes) -> Outcomes:
    """What stands inside the encryption; what was decoded is encoded and decoded to the same again."""
    try:
        found = content.decode(data)
    except content.ContentError as error:
        return {w.plain(str(error))}
    expect(content.decode(content.encode(found)) == found, "another content after encoding and decoding")
    return {type(found).__name__}


_list: Final = Unpacker(accounts.DeviceList)


def device_lists(data: bytes) -> Outcomes:
    """A genesis statement and a signed list, as a server checks them: with real signatures, and as if all were good."""
    came = set()
    for verify in (secrets.verify, lambda key, signature, message: True):
        try:
            new = accounts.check_new(data[:65], data[65:], verify)
            expect(pack(_list.unpack(pack(new.device_list))) == pack(new.device_list), "another list")
            came.add("good")
        except WireError as error:
            came.add(error.kind.name + w.plain(error.detail))
    return came


# ---------------------------------------------------------------- push services


@functools.cache
def _push() -> tuple[WebPush, AnyService]:
    push = WebPush(
        PushSettings(allow_private=1, timeout_s=2.0),
        subject=w.ORIGIN,
        authorize=w.PUSH_KEY.authorization,
        encrypt=lambda content, key, secret: secrets.encrypt_push(content, key, secret, bytes(16), bytes(31) + b"\x09"),
        now_s=lambda: w.NOW_MS / 1000,
    )
    return push, AnyService()


def push_answers(data: bytes) -> Outcomes:
    """What a push service answers, as any device may name one of its own."""
    push, service = _push()
    service.answer = data
    row = PushRow(service.origin + "/wake", w.PUSH_KEY.public, bytes(16))
    answer, after_s = push._post(row, "vapid")
    expect(after_s >= 0, "a time in the past")
    return {f"{answer.value} {min(len(str(int(after_s))), 12)}"}


def push_rows(data: bytes) -> Outcomes:
    """What a device subscribes with: endpoint, key and secret. What is accepted can be looked up and encrypted for."""
    endpoint, key, secret = (*pieces(data), b"", b"", b"")[:3]
    row = PushRow(endpoint.decode("utf-8", "replace"), key, secret)
    came = set()
    for allow_private in (True, False):
        try:
            host, port = check_endpoint(row, allow_private)
            came.add(f"{allow_private} accepted {'[' in row.endpoint} {port in (80, 443)}")
        except WireError as error:
            came.add(f"{allow_private} {error.detail}")
            continue
        with contextlib.suppress(OSError):
            socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST)
        _push()[0]._authorization(row.endpoint)
        httpcore.Request("POST", row.endpoint)
    with contextlib.suppress(ValueError):
        secrets.encrypt_push(b"taube", key, secret, bytes(16), bytes(31) + b"\x09")
        came.add("encrypted")
    return came


# ---------------------------------------------------------------- files


def settings(data: bytes) -> Outcomes:
    """A server's configuration file."""
    file = files.written("taube.toml", data)
    try:
        return {"read" + str(config.read_config(file) == config.ServerConfig())}
    except OperatorError as error:
        return {w.plain(error.sentence.replace(str(files.place()), ""))}


FACTS: Final = (
    identity.GENERATION,
    identity.CURRENT_KEY,
    identity.PUSH_KEY,
    clock.FACT,
    backup.ORIGIN,
    *(identity.KEY_PREFIX + name for name in ("0", "1", "255", "256", "x", "")),
)


def backups(data: bytes) -> Outcomes:
    """A backup to restore from, and what a server and `taube admin` read of it at once.

    Each piece overwrites a part of a sound one: three bytes that say where, then what. 0xFFFFFF: it is all there is;
    0xFFFFFE: it is a fact, whose name the next byte says.
    """
    spoiled = bytearray(files.sound_backup())
    for piece in pieces(data)[:64]:
        if piece[:3] == b"\xff\xff\xff":
            spoiled = bytearray(piece[3:])
        elif piece[:3] == b"\xff\xff\xfe" and len(piece) > 3:
            spoiled = bytearray(files.with_fact(bytes(spoiled), FACTS[piece[3] % len(FACTS)], piece[4:]))
        else:
            at = int.from_bytes(piece[:3], "big") % (len(spoiled) + 1)
            spoiled[at : at + len(piece) - 3] = piece[3:]
    into = files.empty_folder()
    try:
        backup.restore(into, files.written("spoiled", bytes(spoiled)))
    except OperatorError as error:
        return {re.sub(r"\(.*\)|facts?: .*", "", w.plain(error.sentence.replace(str(files.place()), "")))}
    try:
        with sqlite.transaction(into / backup.DATABASE) as tables:
            identity.start_clock(tables, w.NOW_MS, 0.0)
            own = identity.establish(tables, w.fixed_random, w.NOW_MS)
            secrets.PushKey(identity.push_key(tables, secrets.PushKey.make))
            secrets.AddressKeys(own.address_keys, own.current_key)
            accounts.certificate(tables, w.PERSON.account)
    except (StoreUnusable, WireError) as error:
        return {"restored, but " + w.plain(str(error))}
    return {"restored"}


# ---------------------------------------------------------------- the core


@functools.cache
def _chat() -> Any:
    from tests.core.test_mutation import Sealed

    return Sealed(SUITE_CLASSIC)


def core(data: bytes) -> Outcomes:
    """What other people send to the cryptographic core. The first byte says which call gets the rest."""
    sealed = _chat()
    bob, calls = sealed.target.bob, sealed.calls()
    try:
        result = calls[data[0] % len(calls)][1](data[1:]) if data else None
    except e2e.CoreTrapped as error:
        raise w.Broken("the core trapped") from error
    except e2e.CoreError as error:
        return {f"{data[0] % len(calls)} {error.name} {w.plain(str(error))}"}
    for person in (bob, sealed.target.carol):
        person.core.unload_all()
        for scope, rows in person.rows.items():
            person.core.load(scope, rows.items())
    kinds = [getattr(each, "kind", "") for each in result] if isinstance(result, list) else []
    return {f"{data[:1].hex()} {type(result).__name__} {getattr(result, 'verdict', '')} {kinds}"}
