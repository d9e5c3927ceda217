"""What a server that cheats, a stranger with a chosen name, or a broken link cannot bring about."""

import asyncio
import os
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from taube.client.contacts import ContactLink, clean_name, contact_link, parse_contact_link, skeleton
from taube.client.devices import encode_base64, parse_invitation
from taube.client.e2e import DeviceKeys
from taube.client.errors import Refused, TryLater, WrongInput
from taube.client.home import _birth_ns
from taube.client.store import KEEP_JOURNAL, TRIM_JOURNAL_EVERY
from taube.client.transport import BackOff, refusal
from taube.wire.errors import RATE_LIMITED, WireError
from taube.wire.messages import ClaimKeyPackage, Failed, Send, Sent
from taube.wire.packing import Unpacker
from tests.client.fake_server import DAY_MS, Client, World, friends, three
from tests.spec import spec


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 60))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# ---------------------------------------------------------------- a server that shows another certificate


def list_with(one: Client, counter: int) -> bytes:
    """A device list of this account as it stands, signed, with another counter."""
    with one.vault.work() as core:
        one.vault.use_account()
        (device,) = core.check_certificate(one.vault.certificate).devices
        keys = Unpacker[tuple[bytes, bytes, bytes, bytes]](tuple[bytes, bytes, bytes, bytes]).unpack(
            one.store.meta("device_keys") or b""
        )
        assert device.device_id == keys[0]
        return core.sign_device_list(counter, [DeviceKeys(*keys)])


@spec("DEV-07")
def test_certificate_of_another_account_does_not_move_the_counter_of_ours(world: World) -> None:
    async def story() -> None:
        alice = await world.person("alice").join()
        mallory = await world.person("mallory").join()
        of_alice, genesis = world.accounts[alice.vault.account], mallory.store.meta("genesis") or b""
        world.accounts[alice.vault.account] = (genesis, list_with(mallory, 2**53 - 1), 2**53)
        with alice.store.write():
            alice.store.set_meta("list_due", 1)
        with pytest.raises(Refused, match="another account"):
            await alice.engine.devices.publish_list()
        assert alice.store.meta_int("counter") == 1
        assert alice.store.meta_int("list_due")
        with alice.store.write():
            alice.store.set_meta("counter", 5)
        world.accounts[alice.vault.account] = (genesis, list_with(mallory, 1), 1)
        assert not await alice.engine.devices.restore_list()
        world.accounts[alice.vault.account] = of_alice
        with alice.store.write():
            alice.store.set_meta("counter", 1)
        await alice.engine.devices.publish_list()
        await alice.step()

    run(story())


@spec("DEV-07")
def test_counter_that_leaps_ahead_is_refused_and_one_that_is_a_little_ahead_is_passed(world: World) -> None:
    async def story() -> None:
        alice = await world.person("alice").join()
        genesis = alice.store.meta("genesis") or b""
        for counter in (2**52, 2**53 - 1):
            world.accounts[alice.vault.account] = (genesis, list_with(alice, counter), counter)
            with alice.store.write():
                alice.store.set_meta("list_due", 1)
            with pytest.raises(Refused, match="ask who runs it"):
                await alice.engine.devices.publish_list()
            assert alice.store.meta_int("counter") == 1
        world.accounts[alice.vault.account] = (genesis, list_with(alice, 7), 7)
        await alice.engine.devices.publish_list()
        assert alice.store.meta_int("counter") == 8 == world.accounts[alice.vault.account][2]

    run(story())


# ---------------------------------------------------------------- names that a stranger chose


@spec("DEV-43")
def test_profile_name_that_is_the_id_of_another_chat_gets_nothing_meant_for_it(world: World) -> None:
    async def story() -> None:
        alice, _ = await friends(world, "alice", "bob")
        of_bob = alice.account.chat("bob").id
        for name in (of_bob, of_bob.upper(), "".join(chr(ord(c) + 0xFEE0) for c in of_bob)):
            mallory = await world.person(name, f"mallory{len(world.people)}").join()
            await mallory.account.add(alice.contact_link)
        await world.settle()
        assert alice.account.chat(of_bob).name == "bob"
        assert sorted(c.name for c in alice.account.chats()) == ["bob", "someone", "someone-2", "someone-3"]

    run(story())


@spec("DEV-43")
def test_whoever_a_link_does_not_name_is_called_what_they_say(world: World) -> None:
    async def story() -> None:
        alice, bob = await world.person("alice").join(), await world.person("bob").join()
        await alice.account.add(contact_link(parse_contact_link(bob.contact_link)._replace(name="")))
        await world.settle()
        (chat,) = alice.account.chats()
        assert chat.name == "someone"
        (request,) = bob.account.chats()
        await request.accept()
        await world.settle()
        (chat,) = alice.account.chats()
        assert chat.name == "bob"

    run(story())


@spec("CNT-14")
def test_a_contact_who_goes_by_another_name_is_called_so_on_both_sides(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")  # alice has the name from a link, bob from a profile
        for one, other, before, name in ((bob, alice, "bob", "Robert"), (alice, bob, "alice", "Alicia")):
            (chat,) = one.account.chats()
            with one.store.write():
                one.store.set_meta("name", name)
                one.engine.contacts._greet(bytes.fromhex(chat.id))  # pyright: ignore[reportPrivateUsage]
            await one.account.chat(chat.id).send_text(f"I am no longer {before}")
            await world.settle()
            (chat,) = other.account.chats()
            assert chat.name == name
            assert {message.sender for message in chat.messages() if message.kind == "text" and not message.mine} == {
                name
            }

    run(story())


@spec("DEV-43")
@pytest.mark.parametrize("name", ["bob\u3164", "b\u034fob", "\u200bBob", "ｂｏｂ", "bo\ufe01b", "BOB", "bob\u2800"])
def test_name_that_looks_like_a_known_one_is_told_apart_and_noticed(world: World, name: str) -> None:
    async def story() -> None:
        alice, _ = await friends(world, "alice", "bob")
        mallory = await world.person(name, "mallory").join()
        await mallory.account.add(alice.contact_link)
        await world.settle()
        (stranger,) = [c for c in alice.account.chats() if c.state == "request"]
        assert stranger.name.endswith("-2") and skeleton(stranger.name) == "bob-2"
        assert alice.notices() == ["This is another account than the bob whom you know: check who it is."]

    run(story())


def test_names_keep_their_letters_and_lose_what_nobody_sees() -> None:
    assert [clean_name(name) for name in ("Zoë Groß", "李小龍", "שלום", "a\x1b[2Jb\tc")] == [
        "Zoë Groß",
        "李小龍",
        "שלום",
        "a [2Jb c",
    ]
    assert [clean_name(name) for name in ("\u3164", "\u200b \u034f", "0" * 32, "F" * 32)] == ["", "", "", ""]
    assert clean_name("f" * 31) == "f" * 31


# ---------------------------------------------------------------- answers that cannot be right


@spec("DEV-12")
def test_wait_of_a_hundred_years_that_a_server_asks_for_counts_as_an_hour(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        await alice.account.chat("bob").send_text("hello")
        asked = True

        def fault(command: Any) -> None:
            if asked and isinstance(command, Send):
                raise WireError(RATE_LIMITED, retry_after_ms=100 * 365 * DAY_MS)

        world.fault = fault
        await alice.engine.send()
        asked = False
        world.now_ms += 3_600_000
        await world.settle()
        assert bob.texts("alice") == ["hello"]

    run(story())


@spec("DEV-12")
def test_reconnecting_waits_an_hour_at_most() -> None:
    assert BackOff(lambda: 0.0).next_s(2**53 - 1) == 3600
    assert refusal(Failed(1, RATE_LIMITED.code, 2**53 - 1)).retry_after_ms == 3_600_000


@spec("DEV-12")
@pytest.mark.parametrize("statuses", [b"\x00", b"\x00\x00\x00"])
def test_wrong_number_of_statuses_is_no_answer(world: World, statuses: bytes) -> None:
    async def story() -> None:
        alice, bob, carol = await three(world)
        honest = world._send
        world._send = lambda c, _: Sent(c.request, statuses)  # type: ignore[method-assign]
        await alice.account.chat("group").send_text("to two")
        await alice.engine.send()
        assert alice.states("group") == ["queued"]
        world._send = honest  # type: ignore[method-assign]
        world.now_ms += 60_000
        await world.settle()
        assert alice.states("group") != ["queued"]
        assert bob.texts("group") == carol.texts("group") == ["to two"]

    run(story())


# ---------------------------------------------------------------- links

INVITATION = "https://chat.example/i#" + encode_base64(b"i" * 16)
CONTACT = contact_link(ContactLink("https://chat.example", b"a" * 32, b"b" * 41, "bob"))


def test_links_are_read_whole_with_blanks_around_them() -> None:
    assert parse_invitation(f" {INVITATION}\r\n") == ("https://chat.example", b"i" * 16)
    assert parse_contact_link(f"\t{CONTACT}\n") == ("https://chat.example", b"a" * 32, b"b" * 41, "bob")


@pytest.mark.parametrize(
    "break_it",
    [
        lambda link: link.replace("chat", "ch\tat"),
        lambda link: "\x1b" + link,
        lambda link: link + "\0",
        lambda link: link + "\x1c",
        lambda link: link + "=",
        lambda link: link + "?",
        lambda link: link + "#",
        lambda link: link[:-1],
        lambda link: link[:-1] + "_",
        lambda link: link.replace("example/", "example?/"),
        lambda link: link.replace("example/", "example#/"),
        lambda link: link.replace("chat.example", "[::1"),
        lambda link: link.replace("chat.example", "chät.example"),
        lambda link: link[link.index("/i#" if "/i#" in link else "/c#") :],
    ],
)
def test_link_that_was_broken_is_refused_in_one_sentence(break_it: Callable[[str], str]) -> None:
    with pytest.raises(WrongInput, match="That is not an invitation link: copy it whole"):
        parse_invitation(break_it(INVITATION))
    with pytest.raises(WrongInput, match="That is not a contact link: copy it whole"):
        parse_contact_link(break_it(CONTACT))


@spec("DEV-44")
def test_contact_link_whose_packages_were_drained_works_by_the_last_resort(world: World) -> None:
    async def story() -> None:
        alice = await world.person("alice").join()
        bob = await world.person("bob").join()
        address = parse_contact_link(bob.contact_link).address
        for _ in range(19):
            await alice.engine.contacts.claim(address)
        chat = await alice.account.add(bob.contact_link)
        await chat.send_text("hello")
        await world.settle()
        assert bob.texts("alice") == ["hello"]

    run(story())


def test_contact_link_at_its_limit_says_when_to_try_again(world: World) -> None:
    async def story() -> None:
        alice = await world.person("alice").join()
        bob = await world.person("bob").join()

        def fault(command: Any) -> None:
            if isinstance(command, ClaimKeyPackage):
                raise WireError(RATE_LIMITED, retry_after_ms=863_000)

        world.fault = fault
        with pytest.raises(TryLater, match="try again in 15 minutes, or ask for another"):
            await alice.account.add(bob.contact_link)

    run(story())


# ---------------------------------------------------------------- a server whose clock jumped


@spec("DEV-27")
@pytest.mark.parametrize("is_back_before", [True, False])
def test_clock_that_was_a_year_ahead_once_hides_no_absence(world: World, is_back_before: bool) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        world.server_ahead_ms = 365 * DAY_MS
        for one in (alice, bob):
            one.link.is_open = False
        await world.settle()
        await bob.account.chat("alice").send_text("after the jump")
        await world.settle()
        assert alice.texts("bob") == ["after the jump"]
        if is_back_before:
            world.server_ahead_ms = 0
            bob.link.is_open = False
            await bob.step()
            assert bob.group("alice").standing == "current"
        world.now_ms += 31 * DAY_MS
        world.server_ahead_ms = 0
        bob.link.is_open = False
        await bob.engine.connect()
        assert bob.group("alice").standing == "rejoin"

    run(story())


# ---------------------------------------------------------------- a journal that does not grow


def test_any_number_of_typing_events_is_one_line_of_the_journal(world: World) -> None:
    async def story() -> None:
        alice, bob = await friends(world, "alice", "bob")
        before = len(bob.store.journal_after(0))
        for n in range(9):
            await alice.account.chat("bob").typing(n % 2 == 0)
        await bob.step()
        lines = bob.store.journal_after(0)
        assert len(lines) == before + 1
        assert (lines[-1].kind, lines[-1].text) == ("typing", "1")

    run(story())


def test_journal_keeps_its_newest_lines_without_waiting_for_housekeeping(world: World) -> None:
    store = world.person("alice").store
    with store.write():
        for n in range(KEEP_JOURNAL + 3 * TRIM_JOURNAL_EVERY):
            store.note("chat", b"c" * 16, text=str(n))
    assert store.journal_after(0)[0].n > TRIM_JOURNAL_EVERY
    newest = store.journal_after(store.journal_end() - 1)
    assert [line.text for line in newest] == [str(KEEP_JOURNAL + 3 * TRIM_JOURNAL_EVERY - 1)]


# ---------------------------------------------------------------- what is a copy of a home, and what is not

knows_births = pytest.mark.skipif(not _birth_ns(Path(__file__)), reason="this file system knows no births")


@knows_births
@spec("DEV-05")
def test_home_whose_permissions_were_changed_is_no_copy(world: World) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        for path in (*bob.folder.iterdir(), bob.folder):
            path.chmod(path.stat().st_mode & 0o700)
        assert not bob.engine.devices.is_copy()
        bob.engine.devices.renew_stamp()
        assert not bob.engine.devices.is_copy()

    run(story())


@knows_births
@spec("DEV-05")
def test_backup_written_over_the_same_files_with_their_times_is_a_copy(world: World) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        bob.store.close()
        shutil.copytree(bob.folder, world.folder / "backup")
        bob._start()
        bob.engine.devices.renew_stamp()
        bob.store.close()
        shutil.copytree(world.folder / "backup", bob.folder, dirs_exist_ok=True)
        bob._start()
        assert bob.engine.devices.is_copy()

    run(story())


@knows_births
@spec("DEV-05")
def test_process_that_dies_between_two_stamps_leaves_a_home_that_is_no_copy(world: World) -> None:
    async def story() -> None:
        bob = await world.person("bob").join()
        home, store = bob.store.home, bob.store
        assert home.write_next_stamp(os.urandom)  # died before the database knew
        assert not bob.engine.devices.is_copy()
        with store.write():
            store.set_meta("stamp", home.write_next_stamp(os.urandom))
        assert store.meta("stamp") != home.stamp()  # died before the file was in its place
        assert not bob.engine.devices.is_copy()
        assert store.meta("stamp") == home.stamp()

    run(story())
