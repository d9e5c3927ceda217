"""The core against a second implementation: ts-mls in Node, suite 0x0001, from certificates to gates and envelopes."""

import fcntl
import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from scripts import node
from taube.client.e2e import KIND_GROUP, KIND_PAIR, SUITE_CLASSIC, DeviceKeys, GroupContext
from taube.wire.packing import pack
from tests.core.people import NOW_S, Person
from tests.spec import spec

HERE = Path(__file__).resolve().parent
CHAT = bytes(16)


@pytest.fixture(scope="session")
def installed() -> str:
    """The path of Node; what the lock file names is installed beside it, once."""
    cache = HERE.parents[1] / ".cache"
    cache.mkdir(exist_ok=True)
    with (cache / "interop.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        node.install_packages(HERE, "the interop test", development=True)
    return node.node()


def freeze(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$": value.hex()}
    if isinstance(value, list | tuple):
        return [freeze(part) for part in value]
    return value


def revive(value: Any) -> Any:
    return bytes.fromhex(value["$"]) if set(value) == {"$"} else value


class Peer:
    """A device that runs on the other implementation."""

    def __init__(self, binary: str) -> None:
        self.process = subprocess.Popen(
            [binary, str(HERE / "peer.mjs")], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        me = self("me")
        self.id, self.device, self.certificate = me["account"], me["device"], me["certificate"]
        self.who = (self.id, self.device)

    def __call__(self, call: str, **given: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(
            json.dumps({"call": call} | {key: freeze(value) for key, value in given.items()}) + "\n"
        )
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline(), object_hook=revive)
        assert "error" not in answer, answer["error"]
        return answer

    def address(self, number: int = 0) -> bytes:
        return bytes([number]) + self.id + self.device[:8]

    def package(self) -> bytes:
        made: bytes = self("package", address=self.address(), now_s=NOW_S)["package"]
        return made


@pytest.fixture
def peer(installed: str) -> Iterator[Peer]:
    peer = Peer(installed)
    yield peer
    peer.process.kill()
    peer.process.wait()


def same_epoch(person: Person, group: bytes, peer: Peer) -> None:
    state = peer("state")
    assert state["epoch"] == person.core.group(group).epoch
    assert state["secret"] == person.core.export(group, "same", b"", 32)
    assert state["gate"] == person.core.gate_name(group, 3)


def talk(person: Person, group: bytes, peer: Peer) -> None:
    """Messages both ways, and out of order."""
    for text in (b"hello", b"x" * 5000):
        assert peer("receive", body=person.says(group, text)[0])["text"] == text
        assert person.hears(group, peer("protect", text=text)["body"])[0].content == text
    texts = [b"%d" % number for number in range(12)]
    bodies = list(zip(texts, person.says(group, *texts), strict=True))
    for text, body in reversed(bodies):
        assert peer("receive", body=body)["text"] == text
    bodies = [(text, peer("protect", text=text)["body"]) for text in texts]
    for text, body in reversed(bodies):
        [received] = person.hears(group, body)
        assert (received.content, received.sender) == (text, peer.who)


@spec("GRP-01", "GRP-02", "GRP-03")
def test_identities_are_understood_both_ways(peer: Peer) -> None:
    alice = Person("alice")
    info = alice.core.check_certificate(peer.certificate)
    assert (info.account_id, info.devices[0].device_id) == peer.who
    nonce = bytes(range(32))
    message = b"taube login v1\x00\x0fhttps://example" + peer.device + nonce
    signature = peer("login", origin="https://example", nonce=nonce)["signature"]
    Ed25519PublicKey.from_public_bytes(info.devices[0].login_pk).verify(signature, message)


@spec("GRP-11", "GRP-12", "GRP-20", "GRP-24", "GRP-51", "GRP-52", "ENV-01", "ENV-02", "ENV-06")
def test_the_core_founds_and_adds_the_peer(peer: Peer) -> None:
    alice = Person("alice")
    package = peer.package()
    assert alice.core.inspect_key_package(package, peer.certificate, NOW_S).address == peer.address()
    group = alice.found(GroupContext(KIND_PAIR, CHAT, (alice.id, peer.id)))
    staged = alice.core.stage(group, k=0, adds=[package], now_s=NOW_S)
    alice.confirm(group)
    assert peer("join", body=staged.welcomes[0].body)["group"] == group
    same_epoch(alice, group, peer)
    talk(alice, group, peer)


@spec("GRP-11", "GRP-20", "GRP-27", "GRP-51", "GRP-52")
def test_the_peer_founds_and_adds_the_core(peer: Peer) -> None:
    alice = Person("alice")
    group = hashlib.sha256(peer.id).digest()
    context = pack([1, KIND_PAIR, CHAT, [peer.id, alice.id], None])
    peer("found", group=group, context=context, address=peer.address(), now_s=NOW_S)
    made = peer("commit", k=0, adds=[(alice.package(), alice.device.hpke_pk)], removes=[], now_s=NOW_S)
    joined = alice.core.join(made["welcomes"][0], {}, NOW_S)
    alice.keep()
    assert (joined.group_id, joined.sender, joined.context.admins) == (group, peer.who, (peer.id, alice.id))
    same_epoch(alice, group, peer)
    talk(alice, group, peer)


@spec("GRP-22", "GRP-24", "GRP-51", "GRP-52", "GRP-53")
def test_updates_adds_and_removes_both_ways(peer: Peer) -> None:
    alice, bob, carol = Person("alice"), Person("bob"), Person("carol")
    group = alice.found(GroupContext(KIND_GROUP, CHAT, (alice.id, peer.id)))
    staged = alice.core.stage(group, k=0, adds=[peer.package(), bob.package()], now_s=NOW_S)
    alice.confirm(group)
    peer("join", body=staged.welcomes[0].body)
    bob.join(staged)

    def core_commits(**what: Any) -> Any:
        staged = alice.core.stage(group, k=0, now_s=NOW_S, **what)
        read = peer("read_commit", body=staged.commit_body)
        assert (read["tag"], read["k"], read["value"]) == (1, 0, staged.gate_value)
        assert peer("apply", k=0, value=staged.gate_value)["active"] == "active"
        if bob.core.group(group).epoch == staged.epoch:
            bob.apply(group, staged)
        alice.confirm(group)
        same_epoch(alice, group, peer)
        return staged

    def peer_commits(*who: Person, adds: Any = (), removes: Any = ()) -> Any:
        made = peer("commit", k=0, adds=list(adds), removes=list(removes), now_s=NOW_S)
        for person in who:
            applied = person.core.apply_gate_value(group, 0, made["value"], {}, NOW_S)
            person.keep()
            assert (applied.verdict, applied.committer) == ("applied", peer.who)
            same_epoch(person, group, peer)
        return made

    core_commits(update=True)
    peer_commits(alice, bob)
    core_commits(adds=[carol.package()], update=True)
    peer_commits(
        alice, removes=[1 + [member.account_id for member in alice.core.group(group).members[1:]].index(bob.id)]
    )
    made = peer_commits(alice, adds=[(bob.package(), bob.device.hpke_pk)])
    bob.core.join(made["welcomes"][0], {}, NOW_S)
    bob.keep()
    core_commits(removes=[carol.who])
    peer_commits(alice, bob)
    talk(alice, group, peer)
    talk(bob, group, peer)
    staged = alice.core.stage(group, k=0, removes=[peer.who], now_s=NOW_S)
    assert peer("apply", k=0, value=staged.gate_value)["active"] == "removedFromGroup"


@spec("GRP-23", "GRP-53")
def test_what_the_peer_may_not_do_is_void(peer: Peer) -> None:
    alice, bob = Person("alice"), Person("bob")
    group = alice.found(GroupContext(KIND_PAIR, CHAT, (alice.id, peer.id)))
    staged = alice.core.stage(group, k=0, adds=[peer.package()], now_s=NOW_S)
    alice.confirm(group)
    peer("join", body=staged.welcomes[0].body)
    made = peer("commit", k=0, adds=[(bob.package(), bob.device.hpke_pk)], removes=[], now_s=NOW_S)
    assert alice.core.apply_gate_value(group, 0, made["value"], {}, NOW_S).verdict == "void"
    assert alice.core.group(group).epoch == 1
    assert isinstance(alice.device, DeviceKeys) and alice.core.group(group).suite == SUITE_CLASSIC
