"""People with real keys, for tests of accounts: genesis statements, device lists and logins as a client makes them."""

from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from taube.server.services.accounts import KEY_LABEL, LIST_LABEL, DeviceList, ListedDevice, Succession
from taube.wire.messages import AccountId, DeviceId
from taube.wire.packing import pack


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def key(seed: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


class Person:
    """An account with its secret keys. Deterministic by *seed*."""

    def __init__(self, seed: int = 1) -> None:
        self.account_key = key(seed)
        self.recovery_key = key(seed + 100)
        self.login_keys = {number: key(seed + 10 * (number + 1)) for number in range(3)}
        self.genesis = b"\x01" + public(self.account_key) + public(self.recovery_key)
        self.account = AccountId(sha256(self.genesis).digest())
        self.successions: list[Succession] = []

    def device_id(self, number: int) -> DeviceId:
        return DeviceId(self.account[:15] + bytes([number]))

    def listed(self, number: int) -> ListedDevice:
        return ListedDevice(self.device_id(number), public(self.login_keys[number]), b"m" * 32, b"h" * 32)

    def packed(self, counter: int, devices: list[ListedDevice], version: int = 1, account: bytes = b"") -> bytes:
        return pack(DeviceList(version, account or self.account, counter, devices, self.successions))

    def sign(self, packed: bytes) -> bytes:
        return self.account_key.sign(LIST_LABEL + packed) + packed

    def device_list(self, counter: int = 1, numbers: tuple[int, ...] = (0,)) -> bytes:
        return self.sign(self.packed(counter, [self.listed(number) for number in numbers]))

    def change_account_key(self, new: Ed25519PrivateKey, by: Ed25519PrivateKey | None = None) -> None:
        statement = KEY_LABEL + self.account + public(new)
        self.successions.append(Succession(public(new), (by or self.account_key).sign(statement)))
        self.account_key = new
