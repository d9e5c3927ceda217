"""The main story, real processes and real TLS: two people meet, write, go away, come back; nothing lost or doubled."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from taube.testing import Person, Server, meet, succeeded, temporary_server
from tests.spec import spec


def texts(person: Person, *words: str) -> list[str]:
    return [record["text"] for record in person.read(*words) if record["kind"] == "text"]


def states(person: Person) -> dict[str, str]:
    return {chat["name"]: chat["state"] for chat in succeeded(person.run("chats", "--json")).json()}


@spec("CNT-12", "CNT-30")
def test_two_people_meet_and_write_to_each_other(taube_server: Server) -> None:
    anna, ben = taube_server.person("anna"), taube_server.person("ben")
    about = succeeded(ben.run("me", "--json")).json()[0]
    assert set(about) == {"id", "name", "server", "contact_link"}
    assert (about["name"], about["server"]) == ("ben", taube_server.origin)
    assert about["contact_link"].startswith(f"{taube_server.origin}/c#")

    assert succeeded(anna.run("add", about["contact_link"])).out == "ben"
    assert succeeded(anna.run("send", "ben", "Hello, Ben. Grüße! 🕊️")).out == ""

    first = ben.read()
    message = next(record for record in first if record["kind"] == "text")
    assert set(message) == {"id", "chat", "from", "sent_at", "kind", "text"}
    assert (message["from"], message["text"]) == ("anna", "Hello, Ben. Grüße! 🕊️")
    assert states(ben) == {"anna": "request"}
    succeeded(ben.run("accept", "anna"))
    assert states(ben) == {"anna": "open"}

    succeeded(ben.run("send", "anna", "Hello, Anna."))
    succeeded(ben.run("send", message["chat"], text="two\nlines\n"))
    assert texts(anna) == ["Hello, Anna.", "two\nlines"]
    assert texts(anna) == [] and texts(ben) == []

    numbers = {"".join(succeeded(p.run("verify", o)).out.split()) for p, o in ((anna, "ben"), (ben, "anna"))}
    assert len(numbers) == 1
    number = numbers.pop()
    assert len(number) == 60 and number.isdigit()


def test_a_request_is_accepted_by_name_though_nothing_was_read_before(alice: Person, bob: Person) -> None:
    succeeded(alice.run("add", bob.contact_link()))
    succeeded(alice.run("send", bob.name, "Are you there?"))
    succeeded(bob.run("accept", alice.name))
    assert states(bob) == {alice.name: "open"}
    assert texts(bob) == ["Are you there?"]


def test_adding_someone_twice_finds_the_chat_there_is(alice: Person, bob: Person) -> None:
    link = bob.contact_link()
    assert succeeded(alice.run("add", link)).out == bob.name
    assert len(succeeded(alice.run("chats", "--json")).json()) == 1


@spec("CNT-20")
def test_messages_wait_for_someone_who_is_away_through_a_restart_and_a_crash(tmp_path: Path) -> None:
    with temporary_server(tmp_path) as server:
        anna, ben = server.person("anna"), server.person("ben")
        meet(anna, ben)
        succeeded(anna.run("send", "ben", "before"))
        assert server.stop() == 0
        server.start()
        succeeded(anna.run("send", "ben", "between"))
        server.kill()
        server.start()
        succeeded(anna.run("send", "ben", "after"))
        assert texts(ben) == ["before", "between", "after"]
        assert texts(ben) == []
        succeeded(ben.run("send", "anna", "all there"))
        assert texts(anna) == ["all there"]


def test_what_is_sent_while_the_server_is_away_is_queued_and_delivered_later_in_order(tmp_path: Path) -> None:
    with temporary_server(tmp_path) as server:
        anna, ben = server.person("anna"), server.person("ben")
        meet(anna, ben)
        server.stop()
        for text in ("one", "two"):
            result = anna.run("send", "ben", text)
            assert result.code == 75
            assert "queued" in result.err and result.err.count("\n") == 0
        server.start()
        succeeded(anna.run("send", "ben", "three"))
        assert texts(ben) == ["one", "two", "three"]


def test_a_queued_message_goes_out_when_one_only_reads(tmp_path: Path) -> None:
    with temporary_server(tmp_path) as server:
        anna, ben = server.person("anna"), server.person("ben")
        meet(anna, ben)
        server.stop()
        assert anna.run("send", "ben", "queued").code == 75
        server.start()
        succeeded(anna.run("read"))
        assert texts(ben) == ["queued"]


def test_a_crash_while_many_send_loses_nothing_and_shows_nothing_twice(tmp_path: Path) -> None:
    with temporary_server(tmp_path) as server:
        anna, ben = server.person("anna"), server.person("ben")
        meet(anna, ben)
        with ThreadPoolExecutor(4) as pool:
            sends = [pool.submit(anna.run, "send", "ben", str(number)) for number in range(16)]
            while not any(send.done() for send in sends):
                time.sleep(0.01)
            server.kill()
            server.start()
            assert {send.result().code for send in sends} <= {0, 75}
        succeeded(anna.run("send", "ben", "last"))
        received = texts(ben)
        assert sorted(received[:-1], key=int) == [str(number) for number in range(16)]
        assert received[-1] == "last"


def test_a_follower_goes_on_after_a_restart_of_the_server(tmp_path: Path) -> None:
    with temporary_server(tmp_path) as server:
        anna, ben = server.person("anna"), server.person("ben")
        meet(anna, ben)
        with ben.start("read", "--follow", "--json") as following:
            for number, end in enumerate((server.stop, server.kill, None)):
                succeeded(anna.run("send", "ben", str(number)))
                assert following.record()["text"] == str(number)
                if end is not None:
                    end()
                    server.start()


def test_fifty_processes_send_from_one_home_while_another_follows_it(alice: Person, bob: Person) -> None:
    with alice.start("read", "--follow", "--json") as alices, bob.start("read", "--follow", "--json") as bobs:
        with ThreadPoolExecutor(50) as pool:
            sends = [pool.submit(alice.run, "send", bob.name, f"a{number}", timeout_s=180) for number in range(50)]
            answers = [bob.run("send", alice.name, f"b{number}") for number in range(5)]
            results = [send.result() for send in sends]
        assert [result.err for result in results + answers if result.code != 0] == []
        received = [bobs.record()["text"] for _ in range(50)]
        assert sorted(received) == sorted(f"a{number}" for number in range(50))
        assert [alices.record()["text"] for _ in range(5)] == [f"b{number}" for number in range(5)]
        for number in range(3):
            succeeded(alice.run("send", bob.name, f"then {number}"))
        assert [bobs.record()["text"] for _ in range(3)] == [f"then {number}" for number in range(3)]
        for running in (alices, bobs):
            ended = running.interrupt()
            assert (ended.code, ended.out, ended.err) == (130, "", "")
    assert texts(alice) == [] and texts(bob) == []


def test_several_readers_of_one_home_print_each_message_once(alice: Person, bob: Person) -> None:
    for number in range(6):
        succeeded(alice.run("send", bob.name, str(number)))
    with ThreadPoolExecutor(4) as pool:
        printed = [text for got in pool.map(lambda _: texts(bob), range(4)) for text in got]
    assert printed == [str(number) for number in range(6)]


def test_wait_returns_as_soon_as_a_message_comes(alice: Person, bob: Person) -> None:
    with bob.start("read", "--json", "--wait", "60") as waiting:
        succeeded(alice.run("send", bob.name, "there"))
        assert waiting.record()["text"] == "there"
        assert waiting.line() == ""
    assert bob.run("read", "--wait", "0.1").code == 0


def test_reading_one_chat_leaves_the_others_unread(taube_server: Server, alice: Person, bob: Person) -> None:
    carol = taube_server.person("carol")
    meet(carol, bob)
    succeeded(carol.run("send", bob.name, "from carol"))
    succeeded(alice.run("send", bob.name, "from alice"))
    assert texts(bob, alice.name) == ["from alice"]
    unread = {chat["name"]: chat["unread"] for chat in succeeded(bob.run("chats", "--json")).json()}
    assert (unread["carol"] >= 1, unread[alice.name]) == (True, 0)
    assert texts(bob) == ["from carol"]


def test_names_that_clash_are_told_apart(taube_server: Server, alice: Person, bob: Person) -> None:
    other = Person(alice.name, taube_server.folder / f"home-other-{alice.name}", taube_server.environment)
    succeeded(other.run("join", taube_server.invite(), "--name", alice.name))
    meet_names = succeeded(other.run("add", bob.contact_link())).out
    assert meet_names == bob.name
    succeeded(other.run("send", bob.name, "I am another"))
    message = next(record for record in bob.read() if record["kind"] == "text")
    assert message["from"] == f"{alice.name}-2"


def test_someone_who_is_blocked_reaches_nobody_and_the_chat_is_shut(alice: Person, bob: Person) -> None:
    succeeded(bob.run("block", alice.name))
    alice.run("send", bob.name, "can you hear me?")
    assert texts(bob) == []
    assert states(bob)[alice.name] == "blocked"


def test_a_deleted_account_is_gone_on_the_server_and_here(taube_server: Server) -> None:
    dora = taube_server.person("dora")
    account = succeeded(dora.run("me", "--json")).json()[0]["id"]
    assert succeeded(taube_server.admin("knows", account)).out
    succeeded(dora.run("delete-account", "--yes"))
    assert taube_server.admin("knows", account).code == 65
    assert dora.run("me").code == 66
    succeeded(dora.run("join", taube_server.invite(), "--name", "dora"))


def test_one_sees_what_the_server_knows_and_the_operator_sees_the_same(taube_server: Server, bob: Person) -> None:
    account = succeeded(bob.run("me", "--json")).json()[0]["id"]
    mine = succeeded(bob.run("me", "--knows", "--json")).json()
    theirs = succeeded(taube_server.admin("knows", account)).json()
    assert {fact["entry"] for fact in mine} == {fact["entry"] for fact in theirs}
    assert mine and bob.name not in str(mine)
