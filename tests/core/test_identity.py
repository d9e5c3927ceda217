"""Accounts, certificates, successions, login signatures and safety numbers, checked with another library."""

import hashlib
from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from taube.client.e2e import CertificateInfo, Core, Malformed, NotLoaded, Unverified
from taube.wire.packing import pack
from tests.core.people import CACHE, Person
from tests.spec import spec


@pytest.fixture(scope="module")
def alice() -> Person:
    return Person("alice")


@pytest.fixture(scope="module")
def bob() -> Person:
    return Person("bob")


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


class Forge:
    """Makes certificates by hand, right or wrong."""

    def __init__(self) -> None:
        self.keys = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(1, 6)]
        self.account, self.recovery = self.keys[0], self.keys[1]
        self.genesis = b"\x01" + raw(self.account) + raw(self.recovery)

    @property
    def id(self) -> bytes:
        return hashlib.sha256(self.genesis).digest()

    def succession(self, new: Ed25519PrivateKey, by: Ed25519PrivateKey) -> list[bytes]:
        return [raw(new), by.sign(b"taube account key v1" + self.id + raw(new))]

    def certificate(
        self,
        *,
        by: Ed25519PrivateKey | None = None,
        version: int = 1,
        account: bytes | None = None,
        counter: int = 1,
        devices: int = 1,
        successions: Sequence[list[bytes]] = (),
        label: bytes = b"taube device list v1",
    ) -> bytes:
        listed = [[bytes([number]) * 16, b"l" * 32, b"m" * 32, b"h" * 32] for number in range(devices)]
        data = pack([version, account or self.id, counter, listed, list(successions)])
        return pack([self.genesis, (by or self.account).sign(label + data) + data])


@spec("GRP-01", "GRP-02")
def test_a_certificate_proves_account_and_devices(alice: Person, bob: Person) -> None:
    info = bob.core.check_certificate(alice.certificate)
    assert info == CertificateInfo(alice.id, 1, alice.account.genesis[1:33], (alice.device,))
    assert len(alice.account.genesis) == 65


@spec("GRP-01")
def test_certificates_made_by_another_library_are_read_alike(alice: Person) -> None:
    forge = Forge()
    info = alice.core.check_certificate(forge.certificate(counter=2**53, devices=16))
    assert (info.account_id, info.counter, len(info.devices)) == (forge.id, 2**53, 16)


@spec("GRP-02")
def test_an_account_key_is_succeeded_by_its_own_or_the_recovery_key(alice: Person) -> None:
    forge = Forge()
    _, recovery, second, third, _ = forge.keys
    chain = [forge.succession(second, forge.account), forge.succession(third, recovery)]
    assert alice.core.check_certificate(forge.certificate(by=third, successions=chain)).account_key == raw(third)


@spec("GRP-01", "GRP-02")
@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("stranger", Unverified),
        ("old key", Unverified),
        ("wrong label", Unverified),
        ("succession by a stranger", Unverified),
        ("other account", Unverified),
        ("no device", Malformed),
        ("17 devices", Malformed),
        ("17 successions", Malformed),
        ("counter 0", Malformed),
        ("counter too high", Malformed),
        ("version 2", Malformed),
    ],
)
def test_a_wrong_certificate_is_refused(alice: Person, case: str, error: type[Exception]) -> None:
    forge = Forge()
    account, _, second, stranger, _ = forge.keys
    certificate = {
        "stranger": forge.certificate(by=stranger),
        "old key": forge.certificate(by=account, successions=[forge.succession(second, account)]),
        "wrong label": forge.certificate(label=b"taube device list v2"),
        "succession by a stranger": forge.certificate(by=second, successions=[forge.succession(second, stranger)]),
        "other account": forge.certificate(account=bytes(32)),
        "no device": forge.certificate(devices=0),
        "17 devices": forge.certificate(devices=17),
        "17 successions": forge.certificate(by=account, successions=[forge.succession(account, account)] * 17),
        "counter 0": forge.certificate(counter=0),
        "counter too high": forge.certificate(counter=2**53 + 1),
        "version 2": forge.certificate(version=2),
    }[case]
    with pytest.raises(error):
        alice.core.check_certificate(certificate)


def test_a_device_list_that_no_one_would_accept_is_not_signed(alice: Person) -> None:
    with pytest.raises(Malformed):
        alice.core.sign_device_list(1, [])
    with pytest.raises(Malformed):
        alice.core.sign_device_list(1, [alice.device, alice.device])


@spec("GRP-03")
def test_a_login_signature_is_over_origin_device_and_nonce(alice: Person) -> None:
    origin, nonce = "https://taube.example", bytes(range(32))
    signature = alice.core.login_signature(origin, nonce)
    message = b"taube login v1" + len(origin).to_bytes(2, "big") + origin.encode() + alice.device.device_id + nonce
    Ed25519PublicKey.from_public_bytes(alice.device.login_pk).verify(signature, message)


@spec("GRP-04")
def test_both_sides_see_the_same_safety_number(alice: Person, bob: Person) -> None:
    number = alice.core.safety_number(alice.certificate, bob.certificate)
    assert number == bob.core.safety_number(bob.certificate, alice.certificate)
    assert len(number) == 60 and number.isdigit()
    assert number != alice.core.safety_number(alice.certificate, Person("carol").certificate)


@spec("GRP-04")
def test_a_new_account_key_changes_the_safety_number(alice: Person) -> None:
    forge = Forge()
    second = forge.keys[2]
    before, after = (
        forge.certificate(),
        forge.certificate(by=second, successions=[forge.succession(second, forge.account)]),
    )
    numbers = {alice.core.safety_number(alice.certificate, certificate) for certificate in (before, after)}
    assert len(numbers) == 2


def test_without_its_scope_a_call_says_so(alice: Person) -> None:
    core = Core(bytes, CACHE)
    for call in (core.create_account, core.create_device, lambda: core.login_signature("https://x", bytes(32))):
        with pytest.raises(NotLoaded):
            call()
