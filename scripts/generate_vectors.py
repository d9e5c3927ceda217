"""Writes tests/vectors/wire.json: the frames that every implementation of the protocol must write and read alike.

    python scripts/generate_vectors.py           write the file
    python scripts/generate_vectors.py --check   exit 1 if the file is not what would be written

In the file bytes are lower-case hex; fields are given by name, and a field that is bytes is `{"hex": "…"}`.
"""

import json
import sys
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from taube.wire import codec, messages
from taube.wire.errors import FrameError
from taube.wire.packing import Record, pack
from taube.wire.session import login_message

FILE = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "wire.json"


def _bytes(size: int, start: int = 0) -> bytes:
    return bytes((start + at) % 256 for at in range(size))


ACCOUNT, DEVICE, SERIAL = _bytes(32, 1), _bytes(16, 64), _bytes(8, 96)
ADDRESS, NONCE, SIGNATURE = _bytes(41, 128), _bytes(32, 160), _bytes(64, 192)
GATE, GENESIS, SIGNED_LIST = _bytes(32, 7), b"\x01" + _bytes(64, 9), _bytes(70, 11)
PACKAGE, BODY = _bytes(300, 13), _bytes(256, 17)

MESSAGES: tuple[messages.Message, ...] = (
    messages.Hello([1]),
    messages.Hello([65535, 2, 1]),
    messages.Register(1, _bytes(16), GENESIS, SIGNED_LIST),
    messages.Login(2, ACCOUNT, DEVICE, SIGNATURE),
    messages.Send(3, messages.FLAG_URGENT, [ADDRESS], BODY),
    messages.Send(4_294_967_295, messages.FLAG_EPHEMERAL, [ADDRESS, _bytes(41)], b"\x00"),
    messages.Acknowledge(0),
    messages.Acknowledge(2**53),
    messages.MintAddresses(127, 64),
    messages.RevokeAddress(128, SERIAL),
    messages.PublishKeyPackages(256, messages.SUITE_CLASSIC, [PACKAGE, b"\x05"], b"\x06", True),
    messages.PublishKeyPackages(65536, messages.SUITE_HYBRID, []),
    messages.ClaimKeyPackage(7, ADDRESS, messages.SUITE_HYBRID),
    messages.ClaimGate(8, GATE, BODY),
    messages.ReadGate(9, GATE),
    messages.PublishDeviceList(10, ACCOUNT, SIGNED_LIST),
    messages.FetchCertificate(11, ACCOUNT),
    messages.AskKnowledge(12),
    messages.DeleteAccount(13),
    messages.SwapMark(14, b"", DEVICE),
    messages.SwapMark(15, DEVICE, _bytes(16, 5)),
    messages.SetPush(16, "https://push.example/wake/1", b"\x04" + _bytes(64, 3), _bytes(16, 21)),
    messages.SetPush(17, ""),
    messages.Welcome(1, NONCE, "https://taube.example:8443", 1_767_225_600_000, DEVICE),
    messages.Done(1),
    messages.Failed(1, 6, 1500, "too many requests"),
    messages.Failed(0, 1),
    messages.LoggedIn(2, 12, 0, [messages.SUITE_CLASSIC, messages.SUITE_HYBRID], True, True),
    messages.LoggedIn(2, 0, 0),
    messages.Sent(3, bytes((0, 1, 2, 3))),
    messages.Minted(127, [messages.MintedAddress(ADDRESS, SERIAL)]),
    messages.Published(256, 24),
    messages.KeyPackageClaimed(7, PACKAGE, GENESIS, SIGNED_LIST),
    messages.GateState(8, BODY),
    messages.GateState(9, b""),
    messages.Certificate(11, GENESIS, SIGNED_LIST),
    messages.Knowledge(12, [messages.Fact("account", "täglich · 鳩")]),
    messages.Deliver(1, SERIAL, BODY),
    messages.Deliver(0, SERIAL, b"\xff"),
    messages.CaughtUp(0),
    messages.Draining(2000),
    messages.Replaced(),
)

OTHER_FORMS: tuple[tuple[str, messages.Message, bytes], ...] = (
    ("a field that a newer peer appended", messages.MintAddresses(5, 3), pack([6, 5, 3, "new"])),
    ("a nested field that a newer peer appended", messages.AskKnowledge(5), pack([14, 5, [[1], b"x", None]])),
    ("an appended field as deep as one may be", messages.AskKnowledge(5), b"\x93\x0e\x05" + 63 * b"\x91" + b"\xc0"),
    ("trailing fields that have a default are missing", messages.Failed(5, 9), pack([66, 5, 9])),
    ("a number written longer than need be", messages.MintAddresses(5, 3), b"\x93\x06\xce\x00\x00\x00\x05\x03"),
    ("an array header written longer than need be", messages.AskKnowledge(5), b"\xdc\x00\x02\x0e\x05"),
)

MALFORMED: tuple[tuple[str, bytes], ...] = (
    ("nothing", b""),
    ("an empty array", b"\x90"),
    ("a number instead of an array", b"\x05"),
    ("a map instead of an array", b"\x81\x01\x02"),
    ("an opcode that MessagePack never uses", b"\xc1"),
    ("text as message number", pack(["hello"])),
    ("a message number that nobody has given out", pack([63, 5])),
    ("the number of a reply, sent by a client", pack([65, 5])),
    ("the number of an event, sent by a client", pack([129, 5])),
    ("cut off after the request id", pack([4, 77])),
    ("cut off inside a field", pack([6, 5, 3])[:-1]),
    ("bytes behind the message", pack([14, 5]) + b"\x00"),
    ("a request id of zero", pack([14, 0])),
    ("a negative request id", pack([14, -1])),
    ("a request id above 32 bits", pack([14, 2**32])),
    ("a fraction where a whole number belongs", b"\x93\x06\x05\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00"),
    ("text where bytes belong", pack([7, 5, "aaaaaaaa"])),
    ("an address one byte too short", pack([9, 5, _bytes(40), 1])),
    ("an address one byte too long", pack([9, 5, _bytes(42), 1])),
    ("no addresses", pack([4, 5, 0, [], b"b"])),
    ("an empty body", pack([4, 5, 0, [ADDRESS], b""])),
    ("none where bytes belong", pack([7, 5, None])),
    ("one address too many to mint", pack([6, 5, 65])),
    ("no versions", pack([1, []])),
)


def kind_named(name: str) -> type[Record]:
    """The message of that name."""
    kind: type[Record] = getattr(messages, name)
    return kind


def to_json(value: Any) -> Any:
    """Fields as JSON."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, list):
        return [to_json(item) for item in value]
    if isinstance(value, Record):
        return {name: to_json(getattr(value, name)) for name in value.__struct_fields__}
    return value


def from_json(name: str, fields: dict[str, Any]) -> Any:
    """The message *name* with *fields* as `to_json` wrote them."""
    return _record(kind_named(name), fields)


def _record(kind: type[Record], fields: dict[str, Any]) -> Record:
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value) for name, value in fields.items()})


def _value(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        item = get_args(hint)[0] if get_origin(hint) is list else None
        return [_value(item, each) for each in value]
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"]) if set(value) == {"hex"} else _record(hint, value)
    return value


def _malformed(why: str, frame: bytes) -> dict[str, Any]:
    try:
        codec.decode_command(frame)
    except FrameError as error:
        return {"why": why, "frame": frame.hex(), "error": error.kind.code, "request": error.request}
    raise SystemExit(f"not malformed after all: {why}")


def vectors() -> dict[str, Any]:
    """Everything that stands in the file."""
    origin = "https://taube.example:8443"
    return {
        "about": "Written by scripts/generate_vectors.py; bytes are hex; see docs/protocol/connection.md.",
        "messages": [
            {"message": type(message).__name__, "fields": to_json(message), "frame": codec.encode(message).hex()}
            for message in MESSAGES
        ],
        "other_forms": [
            {"why": why, "message": type(message).__name__, "fields": to_json(message), "frame": frame.hex()}
            for why, message, frame in OTHER_FORMS
        ],
        "malformed": [_malformed(why, frame) for why, frame in MALFORMED],
        "login_message": {
            "origin": origin,
            "device": DEVICE.hex(),
            "nonce": NONCE.hex(),
            "bytes": login_message(origin, DEVICE, NONCE).hex(),
        },
    }


def text() -> str:
    """The file."""
    return json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """Write or check."""
    if arguments == ["--check"]:
        current = FILE.exists() and FILE.read_text() == text()
        if not current:
            print("tests/vectors/wire.json is not current: run `python scripts/generate_vectors.py`", file=sys.stderr)
        return 0 if current else 1
    FILE.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
