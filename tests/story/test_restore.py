"""The drill of an operator: a backup while people write, a crash, a restore, and everyone goes on as before."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path

import pytest

from taube.testing import Person, Server, meet, succeeded
from tests.spec import spec

PATIENCE_S = 60


async def everything_read(person: Person, wanted: set[str]) -> list[str]:
    """The texts that *person* reads, until all *wanted* are there."""
    texts: list[str] = []
    async with person.account() as me, asyncio.timeout(PATIENCE_S):
        while not wanted <= set(texts):
            async for batch in me.read(wait_s=1):
                texts += [message.text for message in batch if message.kind == "text"]
    return texts


async def written(person: Person, to: str, text: str) -> str:
    """Write, and wait until it is kept."""
    async with person.account() as me:
        message = await me.chat(to).send_text(text)
        return str(await me.settle(message, PATIENCE_S))


async def while_online(person: Person, reading: Coroutine[None, None, list[str]]) -> list[str]:
    """What *reading* gives, while *person*'s device is connected."""
    async with person.account():
        return await reading


@spec("GAT-05")
def test_after_a_crash_and_a_restore_both_go_on_and_nothing_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(tmp_path)
    server.start()
    try:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        alice, bob = server.person("alice"), server.person("bob")
        meet(alice, bob)
        assert asyncio.run(written(alice, "bob", "before the backup")) == "kept"
        succeeded(server.admin("backup", str(tmp_path / "taube.backup")))
        assert asyncio.run(everything_read(bob, {"before the backup"})) == ["before the backup"]
        assert asyncio.run(written(bob, "alice", "after the backup")) == "kept"

        succeeded(server.admin("rotate-keys"))
        refused = server.admin("restore", str(tmp_path / "taube.backup"))
        assert refused.code == 75 and "stop it first" in refused.err
        server.kill()
        restored = succeeded(server.admin("restore", str(tmp_path / "taube.backup")))
        assert "replaced-" in restored.out
        server.start()

        assert asyncio.run(written(bob, "alice", "after the restore")) == "kept"
        read = asyncio.run(while_online(bob, everything_read(alice, {"after the backup", "after the restore"})))
        assert sorted(read) == ["after the backup", "after the restore"], "lost with the disk, sent again by its author"
        assert asyncio.run(written(alice, "bob", "and back")) in ("kept", "delivered")
        assert asyncio.run(everything_read(bob, {"and back"})) == ["and back"], (
            "what was read before does not come twice"
        )

        later = server.person("carol")
        meet(later, alice)
        assert asyncio.run(written(later, "alice", "a newcomer")) == "kept"
    finally:
        server.stop()


def test_a_backup_and_a_restore_by_the_command_line_say_what_to_do(taube_server: Server, tmp_path: Path) -> None:
    file = tmp_path / "taube.backup"
    made = succeeded(taube_server.admin("backup", str(file)))
    assert "checked" in made.out and file.stat().st_mode & 0o777 == 0o600
    again = taube_server.admin("backup", str(file))
    assert again.code == 73 and "not overwritten" in again.err and again.err.count("\n") == 0
    nothing = taube_server.admin("restore", str(tmp_path / "nothing"))
    assert nothing.code == 66
