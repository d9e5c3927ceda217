"""The inputs that are kept, one small file of base64 lines for each target, and those that the test vectors give.

`corpus/NAME.txt` is what fuzzing found worth keeping, sorted, so that two runs differ in few lines. The seeds are made
anew from tests/vectors and from what a proper client sends, and are not kept in a file.
"""

import base64
import contextlib
import itertools
import json
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from taube.client import contacts
from taube.wire import codec
from taube.wire import messages as m
from taube.wire.packing import changed
from tests.fuzz import files, targets
from tests.fuzz import world as w
from tests.fuzz.targets import ASKS, BLOB, CUT, SECRET_TEXT, UPGRADE, masked
from tests.server.services.people import Person, key, public

FOLDER: Final = Path(__file__).with_name("corpus")
VECTORS: Final = Path(__file__).resolve().parent.parent / "vectors"
MOST_BYTES: Final = 1_000_000


def kept(name: str) -> list[bytes]:
    """The inputs kept for the target *name*."""
    path = FOLDER / f"{name}.txt"
    return [base64.b64decode(line) for line in path.read_text().split()] if path.exists() else []


def keep(name: str, inputs: Iterable[bytes]) -> int:
    """Keep these and no others, the shorter first, as far as there is room; gives how many were left out."""
    lines = sorted({base64.b64encode(data).decode() for data in inputs if data}, key=lambda line: (len(line), line))
    FOLDER.mkdir(exist_ok=True)
    target = FOLDER / f"{name}.txt"
    room = MOST_BYTES - 1 - sum(path.stat().st_size for path in FOLDER.glob("*.txt") if path != target)
    ends = itertools.accumulate(len(line) + 1 for line in lines)
    fitting = [line for line, end in zip(lines, ends, strict=True) if end <= room]
    target.write_text("".join(line + "\n" for line in fitting))
    return len(lines) - len(fitting)


# ---------------------------------------------------------------- seeds


def seeds(name: str) -> list[bytes]:
    """What the target *name* begins with."""
    return _SEEDS[name]()


def _load(name: str) -> Any:
    return json.loads((VECTORS / f"{name}.json").read_text())


def _frames() -> list[bytes]:
    wire = _load("wire")
    return _hex(wire, "frame")


def _hex(value: Any, key: str) -> list[bytes]:
    """Every text of hexadecimal digits that stands under *key* anywhere in *value*."""
    if isinstance(value, dict):
        own = [bytes.fromhex(value[key])] if isinstance(value.get(key), str) else []
        return own + [found for each in value.values() for found in _hex(each, key)]
    return [found for each in value for found in _hex(each, key)] if isinstance(value, list) else []


def _story() -> list[bytes]:
    """The frames of a client that does everything once, in the world that targets run in."""
    person, newcomer = w.PERSON, w.NEWCOMER
    return [
        codec.encode(message)
        for message in (
            m.Hello([1]),
            m.Register(1, w.INVITATION, newcomer.genesis, newcomer.device_list()),
            m.ReadGate(2, bytes(32)),
            m.ClaimGate(3, bytes(32), b"value"),
            m.FetchCertificate(4, person.account),
            m.ClaimKeyPackage(5, w.ADDRESS, 1),
            m.Send(6, 0, [w.ADDRESS, bytes(41)], b"kept"),
            m.Login(7, person.account, person.device_id(0), w.SIGNATURE),
            m.Acknowledge(1),
            m.PublishKeyPackages(8, 1, [b"package"], b"last"),
            m.MintAddresses(9, 2),
            m.Send(10, m.FLAG_EPHEMERAL, [w.ADDRESS], b"gone"),
            m.RevokeAddress(11, w.SERIAL),
            m.PublishDeviceList(12, person.account, person.device_list(2, (0, 1))),
            m.SetPush(15, "https://push.example.org/wake", w.PUSH_KEY.public, bytes(16)),
            m.SwapMark(16, bytes(16), b"\x01" * 16),
            m.AskKnowledge(13),
            m.DeleteAccount(14),
        )
    ]


def _commands() -> list[bytes]:
    story, person = _story(), w.PERSON
    device = [story[0], story[7]]
    second = [b"\xc0\x01", story[0], story[6], b"\xc0\x00"]
    alone = [CUT.join([story[0], frame]) for frame in story] + [CUT.join([*device, frame]) for frame in story]
    lists = [CUT.join([*device, codec.encode(m.PublishDeviceList(12, person.account, each))]) for each in _lists_of()]
    meanwhile = [CUT.join([*device, b"\xc0" + bytes([number]) + b"\x10", *second, story[8]]) for number in range(16)]
    flood = [[b"\xc0\x06\x50" + frame] for frame in (story[0], story[2], story[3], story[6], b"\x90")]
    return [
        CUT.join(story),
        *alone,
        *lists,
        *meanwhile,
        *(CUT.join([*device, *second[:2], *each]) for each in flood),
        CUT.join([*device, *second, b"\xc0\x03\x08", b"\xc0\x02", *device, story[8]]),
        CUT.join([*device, b"\xc0\x01", *device, *second]),
        CUT.join([b"\xc0\x09", *device, *second, b"\xc0\x0a", *second]),
        CUT.join([b"\xc0\x04", *story, b"\xc0\x05"]),
        CUT.join([*device, b"\xc0\x07", b"\xc0\x01", story[0], b"\xc0\x06\x40" + story[6], b"\xc0\x03\x50"]),
        CUT.join([b"\xc0\x0f", *story]),
    ]


def _lists_of() -> list[bytes]:
    """Device lists of the person, good ones and such as are refused."""
    person, other = Person(1), Person(1)
    other.change_account_key(key(9))
    stolen = changed(person.listed(0), login_key=public(key(8)))
    twice = person.sign(person.packed(4, [person.listed(0), person.listed(0)]))
    return [
        *(person.device_list(counter, numbers) for counter, numbers in ((1, (0,)), (1, (1,)), (2, (0, 1)), (3, (1,)))),
        twice,
        other.device_list(5, (0, 2)),
        person.sign(person.packed(6, [stolen])),
    ]


def _server_session() -> list[bytes]:
    story = _story()
    return [CUT.join(bytes([number]) + frame for frame in (story[0], story[7], *story)) for number in range(9)]


def _client_session() -> list[bytes]:
    welcome = codec.encode(m.Welcome(1, bytes(32), "https://taube.example", 1, bytes(16)))
    found = [b"\x7f" + welcome + CUT + bytes([ask]) + CUT + b"\x7f" + reply
             for ask in range(len(ASKS)) for reply in _replies()]  # fmt: skip
    device = [b"\x7f" + welcome, b"\x01" + codec.encode(m.LoggedIn(1, 1, 1))]
    rest = [b"\x7f" + codec.encode(each) for each in (m.Deliver(1, bytes(8), b"x"), m.CaughtUp(1), m.Replaced())]
    return [*found, CUT.join(device + rest)]


def _replies() -> list[bytes]:
    return [
        codec.encode(message)
        for message in (m.Done(1), m.Failed(1, 20), m.LoggedIn(1, 1, 1), m.Sent(1, b"\0"), m.GateState(1, b"x"))
    ]


def _requests() -> list[bytes]:
    hello = masked(0x82, codec.encode(m.Hello([1])))
    paths = [b"/", b"/i", b"/c", b"/v1/socket", b"/.well-known/taube", b"/none", b"http://x/", b"*"]
    paths += [b"/assets/app.js", b"/build.json", b"/empty.webmanifest", b"/assets/../build.json"]
    asks = [b"Accept-Encoding: br, gzip\r\n", b'If-None-Match: "x"\r\n', b"Accept-Encoding: gzip;q=0\r\n"]
    plain = [b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths]
    more = [
        UPGRADE + hello,
        UPGRADE + CUT + hello,
        UPGRADE[:50] + CUT + UPGRADE[50:] + hello[:3] + CUT + hello[3:],
        b"HEAD / HTTP/1.0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n" + CUT + b"hello",
        plain[0] + plain[1],
        plain[0][:10] + CUT + plain[0][10:],
        b"GET / HTTP/1.1\r\nX: " + b"y" * 9000,
        b"\x16\x03\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    app = [b"GET /assets/app.js HTTP/1.1\r\nHost: x\r\n" + ask + b"\r\n" for ask in asks]
    return plain + more + app


def _blob_requests() -> list[bytes]:
    secret = b"Upload-Secret: " + SECRET_TEXT + b"\r\n"

    def ask(method: bytes, *fields: bytes, body: bytes = b"", path: bytes = BLOB) -> bytes:
        return (
            method + b" " + path + b" HTTP/1.1\r\nHost: x\r\n" + b"".join(f + b"\r\n" for f in fields) + b"\r\n" + body
        )

    def append(offset: int, size: int) -> bytes:
        given = (secret[:-2], b"Upload-Offset: %d" % offset, b"Content-Length: %d" % size)
        return ask(b"PATCH", *given, body=b"b" * size)

    begin = ask(b"POST", secret[:-2], b"Upload-Length: 600", b"Upload-Days: 3", b"Content-Length: 0")
    whole = [begin, append(0, 600)]
    ranges = [b"bytes=0-0", b"bytes=-5", b"bytes=599-", b"bytes=600-", b"bytes=5-2", b"bytes=0-1,3-4", b"x"]
    stories = [
        [*whole, ask(b"GET"), ask(b"HEAD")],
        [begin, append(0, 300), ask(b"HEAD", secret[:-2]), append(300, 300), append(600, 0)],
        [begin, append(0, 300)[:200], append(0, 600)],
        [
            begin,
            begin.replace(b"600", b"601"),
            append(5, 5),
            append(0, 700),
            append(0, 10).replace(b"Content-Length", b"X"),
        ],
        *([*whole, ask(b"GET", b"Range: " + each)] for each in ranges),
        [
            ask(b"POST", secret[:-2], b"Upload-Length: 99999"),
            ask(b"PUT"),
            ask(b"GET"),
            ask(b"GET", path=b"/v1/blobs/x"),
        ],
        [ask(b"POST", secret[:-2], b"Upload-Length: x"), ask(b"POST", b"Upload-Secret: x"), ask(b"HEAD", secret[:-2])],
        [ask(b"POST", b"Upload-Secret: " + b"A" * 43, b"Upload-Length: 600"), ask(b"PATCH", secret[:-2])],
    ]
    return [(CUT + b"\xc0").join(story) for story in stories]


def _websocket() -> list[bytes]:
    story = _story()
    hello, gate = b"\x82" + story[0], codec.encode(m.ClaimGate(3, bytes(32), b"v" * 3_000))
    whole = CUT.join(b"\x82" + frame for frame in story)
    split = [
        b"\x02" + story[0][:2],
        b"\x80" + story[0][2:],
        b"\x89ping",
        b"\x8apong",
        b"\x82" + story[2],
        b"\x88\x03\xe8",
    ]
    odd = [
        b"\x81text",
        b"\x83what",
        b"\x88",
        b"\x89" + b"x" * 126,
        b"\x00",
        b"\x70\x82\x05hello",
        b"\x70\x82\xff" + b"\x7f" * 8,
    ]
    large = [b"\x7c\x82" + bytes([times]) + b"\x90" * 8 for times in (90, 140, 200)] + [b"\x7c\x02\xc8" + b"x" * 8]
    slow = [hello, b"\x82" + gate, b"\x7f", b"\x7b\x60" + story[2], b"\x7d\x02"]
    device = [hello, b"\x82" + story[7]]
    return [
        whole,
        CUT.join(split),
        *(CUT.join([hello, each]) for each in odd + large),
        *odd,
        CUT.join(slow),
        CUT.join([*slow, b"\x7e", b"\x82" + story[2]]),
        CUT.join([*slow, b"\x7d\x40"]),
        *(CUT.join([*device, b"\x7d" + bytes([wait])]) for wait in (20, 62, 90)),
        *(CUT.join([hello, b"\x7d" + bytes([wait])]) for wait in (2, 30)),
        CUT.join([b"\x7b\xff" + story[0]]),
        CUT.join([*device, b"\x7b\x80" + story[8]]),
    ]


def _inside_tls() -> list[bytes]:
    return [*_requests(), *(b"\x01" + each for each in _websocket())]


def _tls() -> list[bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    hello = out.read()
    return [
        hello,
        hello[:20] + CUT + hello[20:],
        b"\x16",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x80\x2e\x01",
    ]


def _links() -> list[bytes]:
    link = contacts.contact_link(contacts.ContactLink(w.ORIGIN, w.PERSON.account, w.ADDRESS, "Alice Müller"))
    texts = [
        link,
        "https://taube.example/i#MDEyMzQ1Njc4OWFiY2RlZg",
        "https://taube.example:8443/",
        "http://[::1]:80",
        "ab" * 32,
    ]
    return [text.encode() for text in texts]


def _names() -> list[bytes]:
    return [
        text.encode()
        for text in (
            "Alice",
            "Ａｌｉｃｅ",
            "a\u202eb\u200d",
            "ﬁ ǅ İ",
            "0" * 32,
            "🕊️" * 40,
            "a\tb\nc\u2028d",
            "e\u0301" * 70,
        )
    ]


def _settings() -> list[bytes]:
    return [
        b"unused_months = 3\n[listener]\nconnections = 3\nhead_timeout_s = 1.5\n[mailboxes]\ncapacity_bytes = 1_000\n",
        b"[limits]\nkeys = 5\nlimits = 3\n[sqlite]\n[drain]\nflush_s = 1\n[connection]\ndevice_ping_s = true\n",
        b"listener = 4\nnothing = 'x'\n",
    ]


def _lists() -> list[bytes]:
    core = _load("core")
    made = [
        person.genesis + person.device_list(numbers=numbers)
        for person in (w.PERSON, w.NEWCOMER)
        for numbers in ((0,), (0, 1, 2))
    ]
    return made + [_unpacked(found) for found in _hex(core, "certificate")]


def _unpacked(certificate: bytes) -> bytes:
    """Genesis statement and list of a certificate: an array of two byte strings."""
    at = 1 + 2 + 65
    return certificate[3:at] + certificate[at + (2 if certificate[at] == 0xC4 else 3) :]


def _backups() -> list[bytes]:
    """Overwrites something in the head of every page, and whatever of the server's own facts can be found."""
    sound = files.sound_backup()
    heads = [at.to_bytes(3, "big") + bytes(8) for at in range(0, len(sound), 4096)]
    known = [w.ORIGIN.encode(), b"address key", b"generation", b"CREATE TABLE", b"clock"]
    facts = [(sound.index(text)).to_bytes(3, "big") + b"?" * 4 for text in known if text in sound]
    fields = [at.to_bytes(3, "big") + b"\xff\xff\xff\xff" for at in (16, 18, 28, 44, 56, 60, 68)]
    own = [
        b"\xff\xff\xfe" + bytes([number]) + b"?" * size for number in range(len(targets.FACTS)) for size in (0, 1, 72)
    ]
    return [b"\x00\x00\x00", *own, *heads, *facts, *fields, b"\xff\xff\xff" + sound[:100], b"\xff\xff\xff"]


def _push_answers() -> list[bytes]:
    heads = [b"201 Created", b"404 Not Found", b"410 Gone", b"429 Slow", b"503 Busy", b"301 Elsewhere", b"400 Bad"]
    ends = [b"", b"Content-Length: 2\r\n", b"Retry-After: 120\r\n", b"Retry-After: Fri, 31 Dec 2027 23:59:59 GMT\r\n"]
    return [b"HTTP/1.1 " + head + b"\r\n" + end + b"\r\n{}" for head in heads for end in ends]


def _push_rows() -> list[bytes]:
    urls = [
        "https://push.example.org/wake",
        "https://10.0.0.1/",
        "https://[2001:db8::1]:8443/x",
        "https://a..b.example/",
    ]
    good = [CUT.join([url.encode(), w.PUSH_KEY.public, bytes(16)]) for url in urls]
    return [*good, CUT.join([b"https://push.example.org/", b"\x04" * 65, bytes(16)]), b"nonsense"]


def _core() -> list[bytes]:
    return [bytes([number]) + data for number, (data, _) in enumerate(targets._chat().calls())]


_SEEDS: Final = {
    "frames": _frames,
    "server_session": _server_session,
    "client_session": _client_session,
    "commands": _commands,
    "port": _requests,
    "websocket": _websocket,
    "blob_requests": _blob_requests,
    "inside_tls": _inside_tls,
    "tls_port": _tls,
    "links": _links,
    "names": _names,
    "contents": lambda: _hex(_load("content"), "bytes"),
    "device_lists": _lists,
    "settings": _settings,
    "backups": _backups,
    "core": _core,
    "push_answers": _push_answers,
    "push_rows": _push_rows,
}
