"""Accounts for the load: made through real registration with an invitation, sixteen devices each, kept for all runs.

One account may have sixteen devices, and each has a mailbox and a login of its own, so that ten thousand clients need
625 registrations: the server makes a hundred at once and then ten a second, and this waits for it.
"""

import asyncio
import base64
import os
import pickle
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.load import Device, Line, connect, gathered
from bench.served import Served
from taube.wire import messages as m
from taube.wire.packing import pack

DEVICES_PER_ACCOUNT = 16
ADDRESSES = 4


def make_account() -> tuple[bytes, bytes, list[Device]]:
    """Genesis statement, signed device list and devices of a new account."""
    account_key, recovery_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    genesis = b"\x01" + account_key.public_key().public_bytes_raw() + recovery_key.public_key().public_bytes_raw()
    account = sha256(genesis).digest()
    devices, listed = [], []
    for _ in range(DEVICES_PER_ACCOUNT):
        key, name = Ed25519PrivateKey.generate(), os.urandom(16)
        devices.append(Device(account, name, key.private_bytes_raw()))
        listed.append([name, key.public_key().public_bytes_raw(), bytes(32), bytes(32)])
    packed = pack([1, account, 1, listed, []])
    return genesis, account_key.sign(b"taube device list v1" + packed) + packed, devices


def invitation(folder: Path, uses: int) -> bytes:
    """A new invitation by `taube admin invite`."""
    command = [sys.executable, "-m", "taube", "admin", "invite", "--data", str(folder / "data"), "--uses", str(uses)]
    link = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().rpartition("#")[2]
    return base64.urlsafe_b64decode(link + "=" * (-len(link) % 4))


async def register(served: Served, devices: int, addressed: int) -> list[Device]:
    """At least *devices* new devices, the first *addressed* of them with addresses."""
    accounts = -(-devices // DEVICES_PER_ACCOUNT)
    code = await asyncio.to_thread(invitation, served.folder, accounts)
    line = await connect(Line(), served.port, served.tls)
    made: list[Device] = []
    for _ in range(accounts):
        genesis, listed, mine = make_account()
        while True:
            answer = await line.call(lambda n, g=genesis, d=listed: m.Register(n, code, g, d))
            if isinstance(answer, m.Done):
                break
            if not 0 < answer.retry_after_ms < 60_000:
                raise RuntimeError(f"registration was refused: {answer}")
            await asyncio.sleep(answer.retry_after_ms / 1000)
        made += mine
    line.transport.close()

    async def mint(device: Device) -> Device:
        one = await connect(Line(), served.port, served.tls)
        await one.log_in(device)
        minted = await one.call(lambda n: m.MintAddresses(n, ADDRESSES))
        one.transport.close()
        return device._replace(addresses=tuple(each.address for each in minted.addresses))

    return await gathered([mint(device) for device in made[:addressed]]) + made[addressed:]


def keep(path: Path, devices: list[Device]) -> None:
    path.write_bytes(pickle.dumps([tuple(each) for each in devices]))


def kept(path: Path) -> list[Device]:
    return [Device(*each) for each in pickle.loads(path.read_bytes())]
