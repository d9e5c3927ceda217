"""When devices are woken, by the clock of the test, and which endpoints are none."""

from ipaddress import ip_address

import pytest

from taube.server.ports import PushRow, QueueNumber
from taube.server.services.push import Answer, PushSettings, Wakeups, check_endpoint, host_of, is_public
from taube.wire.errors import PUSH_REFUSED, WireError
from tests.spec import spec

ANN, BOB, CAT = QueueNumber(1), QueueNumber(2), QueueNumber(3)
KEY, SECRET = b"\x04" + bytes(64), bytes(16)
SETTINGS = PushSettings()


@pytest.fixture
def wakeups() -> Wakeups:
    return Wakeups(SETTINGS)


@spec("WAK-02")
def test_a_device_is_woken_once_for_all_that_arrives(wakeups: Wakeups) -> None:
    for _ in range(3):
        wakeups.call(ANN, 10.0, is_connected=False)
    assert wakeups.due(10.0) == [ANN]
    wakeups.call(ANN, 10.1, is_connected=False)
    wakeups.answered(ANN, Answer.TAKEN, 10.2)
    wakeups.call(ANN, 11.0, is_connected=False)
    assert wakeups.due(12.0) == [] and wakeups.next_due() is None


@spec("WAK-02")
def test_a_device_that_came_and_went_is_woken_again_at_once(wakeups: Wakeups) -> None:
    wakeups.call(ANN, 10.0, is_connected=False)
    assert wakeups.due(10.0) == [ANN]
    wakeups.answered(ANN, Answer.TAKEN, 10.2)
    wakeups.came(ANN)
    wakeups.call(ANN, 12.0, is_connected=False)
    assert wakeups.due(12.0) == [ANN]


@spec("WAK-02")
def test_a_device_that_does_not_come_is_woken_again_after_a_quarter_of_an_hour(wakeups: Wakeups) -> None:
    wakeups.call(ANN, 10.0, is_connected=False)
    wakeups.due(10.0)
    wakeups.answered(ANN, Answer.TAKEN, 10.0)
    assert not wakeups.wants(ANN, 10.0 + SETTINGS.again_s - 1)
    wakeups.call(ANN, 10.0 + SETTINGS.again_s, is_connected=False)
    assert wakeups.due(10.0 + SETTINGS.again_s) == [ANN]


@spec("WAK-02")
def test_a_device_that_seems_connected_has_time_to_acknowledge(wakeups: Wakeups) -> None:
    wakeups.call(ANN, 10.0, is_connected=True)
    assert wakeups.due(10.0) == [] and wakeups.next_due() == 10.0 + SETTINGS.connected_s
    assert wakeups.due(10.0 + SETTINGS.connected_s) == [ANN]
    wakeups.skipped(ANN)
    assert wakeups.remembered() == 0 and wakeups.wants(ANN, 40.0)


def test_a_device_that_came_while_its_push_was_under_way_is_not_pushed_to_again(wakeups: Wakeups) -> None:
    for answer in (Answer.TAKEN, Answer.LATER):
        wakeups.call(ANN, 10.0, is_connected=False)
        assert wakeups.due(10.0) == [ANN]
        wakeups.came(ANN)
        wakeups.answered(ANN, answer, 10.5)
        assert wakeups.next_due() is None and wakeups.due(99.0) == []


@spec("WAK-02")
def test_a_device_that_came_and_went_while_its_push_was_under_way_is_woken_for_what_came_since(
    wakeups: Wakeups,
) -> None:
    for answer, due_at in ((Answer.TAKEN, 10.2), (Answer.LATER, 10.5 + SETTINGS.first_retry_s)):
        wakeups.call(ANN, 10.0, is_connected=False)
        assert wakeups.due(10.0) == [ANN]
        wakeups.came(ANN)
        wakeups.call(ANN, 10.2, is_connected=False)
        assert wakeups.due(10.3) == [] and not wakeups.wants(ANN, 10.3)
        wakeups.answered(ANN, answer, 10.5)
        assert wakeups.next_due() == due_at and wakeups.due(due_at) == [ANN]
        wakeups.answered(ANN, Answer.TAKEN, due_at)
        assert wakeups.next_due() is None and not wakeups.wants(ANN, due_at + 1)
        wakeups.came(ANN)


@spec("WAK-02")
def test_a_device_that_is_here_when_its_push_is_answered_is_left_alone(wakeups: Wakeups) -> None:
    wakeups.call(ANN, 10.0, is_connected=False)
    assert wakeups.due(10.0) == [ANN]
    wakeups.came(ANN)
    wakeups.call(ANN, 10.2, is_connected=False)
    wakeups.came(ANN)
    wakeups.answered(ANN, Answer.TAKEN, 10.5)
    assert wakeups.remembered() == 0 and wakeups.next_due() is None


@spec("WAK-04")
def test_a_failed_push_is_tried_again_with_growing_waits_and_given_up(wakeups: Wakeups) -> None:
    now, waits = 10.0, []
    wakeups.call(ANN, now, is_connected=False)
    for _ in range(SETTINGS.tries):
        assert wakeups.due(now) == [ANN]
        wakeups.answered(ANN, Answer.LATER, now)
        due = wakeups.next_due()
        if due is not None:
            waits.append(due - now)
            now = due
    assert waits == [10.0 * 2**at for at in range(SETTINGS.tries - 1)]
    assert wakeups.remembered() == 0


@spec("WAK-04")
def test_a_push_service_that_asks_for_time_gets_it_up_to_an_hour(wakeups: Wakeups) -> None:
    for asked_s, given_s in ((120.0, 120.0), (1e9, SETTINGS.most_retry_s)):
        wakeups.call(ANN, 10.0, is_connected=False)
        wakeups.due(10.0)
        wakeups.answered(ANN, Answer.LATER, 10.0, asked_s)
        assert wakeups.next_due() == 10.0 + given_s
        wakeups.came(ANN)


@spec("WAK-04")
def test_an_endpoint_that_is_gone_is_not_tried_again(wakeups: Wakeups) -> None:
    for answer in (Answer.GONE, Answer.REFUSED):
        wakeups.call(ANN, 10.0, is_connected=False)
        wakeups.due(10.0)
        wakeups.answered(ANN, answer, 10.0)
        assert wakeups.next_due() is None and wakeups.remembered() == 0


def test_no_more_are_under_way_at_once_than_may_be_and_none_is_forgotten() -> None:
    wakeups = Wakeups(PushSettings(at_once=1))
    wakeups.call(ANN, 10.0, is_connected=False)
    wakeups.call(BOB, 11.0, is_connected=False)
    assert wakeups.due(12.0) == [ANN] and wakeups.due(12.0) == [] and wakeups.next_due() is None
    wakeups.answered(ANN, Answer.TAKEN, 12.0)
    assert wakeups.due(12.0) == [BOB]


def started(wakeups: Wakeups, now: float, hosts: dict[QueueNumber, str]) -> list[QueueNumber]:
    """Whose push begins now, and at which host."""
    return [queue for queue in wakeups.due(now) if wakeups.begins(queue, hosts[queue])]


@spec("WAK-04")
def test_a_slow_push_service_holds_an_eighth_of_the_pushes_and_its_other_devices_come_in_turn() -> None:
    wakeups = Wakeups(PushSettings(at_once=16))
    slow = [QueueNumber(number) for number in range(100)]
    hosts = dict.fromkeys(slow, "slow.example") | {QueueNumber(200): "push.example"}
    for queue in hosts:
        wakeups.call(queue, 10.0, is_connected=False)
    begun: list[QueueNumber] = []
    while wakeups.next_due() is not None:
        begun += started(wakeups, 11.0, hosts)
    assert begun == [*slow[:2], 200]
    assert not wakeups.wants(slow[50], 99_999.0)
    wakeups.sweep(9_999.0)
    assert wakeups.remembered() == 101 and wakeups.next_due() is None
    under_way, order = slow[:2], list(slow[:2])
    while under_way:
        wakeups.answered(under_way.pop(0), Answer.TAKEN, 12.0)
        next_ones = started(wakeups, 12.0, hosts)
        under_way += next_ones
        order += next_ones
    assert order == slow


@spec("WAK-04")
def test_a_device_that_came_leaves_the_line_of_its_push_service() -> None:
    wakeups, hosts = Wakeups(PushSettings(at_once=1)), {ANN: "a.example", BOB: "a.example", CAT: "a.example"}
    for _ in range(3):
        for queue in hosts:
            wakeups.call(queue, 10.0, is_connected=False)
        assert started(wakeups, 10.0, hosts) == [ANN]
        assert started(wakeups, 10.0, hosts) == [] and started(wakeups, 10.0, hosts) == []
        wakeups.came(BOB)
        wakeups.answered(ANN, Answer.GONE, 11.0)
        wakeups.call(BOB, 11.0, is_connected=False)
        assert wakeups.due(11.0) == [CAT]
        wakeups.came(CAT)
        hosts[CAT] = "b.example"
        assert wakeups.begins(CAT, hosts[CAT])
        wakeups.answered(CAT, Answer.TAKEN, 12.0)
        assert started(wakeups, 12.0, hosts) == [BOB]
        hosts[CAT] = "a.example"
        wakeups.skipped(BOB)
        assert wakeups.remembered() == 0 and wakeups.next_due() is None


@spec("WAK-04")
def test_a_device_that_came_while_its_endpoint_was_read_waits_in_no_line() -> None:
    for called_s in (None, 30.0):
        wakeups, hosts = Wakeups(PushSettings(at_once=8)), {ANN: "a.example", BOB: "a.example"}
        for queue in hosts:
            wakeups.call(queue, 10.0, is_connected=False)
        assert wakeups.due(10.0) == [ANN, BOB] and wakeups.begins(ANN, hosts[ANN])
        wakeups.came(BOB)
        if called_s is not None:
            wakeups.call(BOB, called_s - SETTINGS.connected_s, is_connected=True)
        assert not wakeups.begins(BOB, hosts[BOB])
        wakeups.answered(ANN, Answer.GONE, 11.0)
        assert wakeups.next_due() == called_s


@spec("WAK-06")
def test_who_waits_in_a_line_that_does_not_move_is_forgotten_after_a_day() -> None:
    wakeups, hosts = Wakeups(PushSettings(at_once=8)), {ANN: "a.example", BOB: "a.example", CAT: "a.example"}
    for queue in hosts:
        wakeups.call(queue, 10.0, is_connected=False)
    assert started(wakeups, 10.0, hosts) == [ANN]
    wakeups.sweep(86_500.0)
    assert wakeups.remembered() == 1 and wakeups.wants(BOB, 86_500.0)
    wakeups.answered(ANN, Answer.GONE, 86_500.0)
    assert wakeups.remembered() == 0 and wakeups.next_due() is None


@pytest.mark.parametrize("url", ["https://Push.Example.org/1", "https://push.example.org.:8443/2"])
def test_the_host_of_an_endpoint_has_one_spelling(url: str) -> None:
    assert host_of(endpoint(url)) == "push.example.org"


@spec("WAK-04")
def test_a_device_that_comes_and_goes_does_not_have_a_failing_push_service_tried_more_often(wakeups: Wakeups) -> None:
    """Else a few devices with push services that never answer would keep all others asleep."""
    now, tried = 0.0, 0
    while now < 1_000.0:
        wakeups.call(ANN, now, is_connected=False)
        for _ in wakeups.due(now):
            tried += 1
            wakeups.came(ANN)
            wakeups.answered(ANN, Answer.LATER, now)
        wakeups.came(ANN)
        now += 1.0
    assert tried <= 8
    now += 3_600.0
    wakeups.sweep(now)
    assert wakeups.remembered() == 0
    wakeups.call(ANN, now, is_connected=False)
    assert wakeups.due(now) == [ANN]


@spec("WAK-04")
def test_a_push_service_that_asked_for_time_gets_it_though_the_device_came_and_went(wakeups: Wakeups) -> None:
    wakeups.call(ANN, 10.0, is_connected=False)
    assert wakeups.due(10.0) == [ANN]
    wakeups.answered(ANN, Answer.LATER, 10.0, after_s=600.0)
    wakeups.came(ANN)
    wakeups.call(ANN, 20.0, is_connected=False)
    assert wakeups.due(609.0) == [] and wakeups.due(610.0) == [ANN]
    wakeups.answered(ANN, Answer.TAKEN, 611.0)
    wakeups.came(ANN)
    assert wakeups.remembered() == 0
    wakeups.call(ANN, 612.0, is_connected=False)
    assert wakeups.due(612.0) == [ANN]


def test_plans_that_were_given_up_are_forgotten_with_the_next_sweep(wakeups: Wakeups) -> None:
    for _ in range(100):
        wakeups.call(ANN, 10.0, is_connected=True)
        wakeups.came(ANN)
    wakeups.call(BOB, 10.0, is_connected=True)
    wakeups.sweep(11.0)
    assert len(wakeups._heap) == 1 and wakeups.due(30.0) == [BOB]


def test_memory_is_bounded_and_left_in_a_day() -> None:
    wakeups = Wakeups(PushSettings(remembered=1))
    wakeups.call(ANN, 10.0, is_connected=False)
    wakeups.call(BOB, 10.0, is_connected=False)
    assert wakeups.due(10.0) == [ANN]
    wakeups.answered(ANN, Answer.TAKEN, 10.0)
    wakeups.sweep(10.0 + 86_399)
    assert wakeups.remembered() == 1
    wakeups.sweep(10.0 + 86_401)
    assert wakeups.remembered() == 0


def endpoint(url: str) -> PushRow:
    return PushRow(url, KEY, SECRET)


@spec("WAK-03")
@pytest.mark.parametrize(
    "url",
    [
        "", "ftp://push.example.org/1", "http://push.example.org/1", "https:///1", "https://push.example.org:99999/",
        "https://user@push.example.org/", "https://push.example.org/ü", "https://push.example.org/\r\nX: y",
        "https://127.0.0.1/", "https://[::1]/", "https://10.1.2.3/", "https://192.168.0.1:8443/", "https://169.254.169.254/",
        "https://[::ffff:10.0.0.1]/", "https://[fd00::1]/", "https://0.0.0.0/", "https://localhost/", "https://localhost./",
        "https://printer.local/", "https://metadata.google.internal/", "https://router/", "https://100.64.0.1/",
        "https://[64:ff9b::a00:1]/", "https://[2002:a00:1::]/", "https://a..b.example/", f"https://{'a' * 64}.example/",
    ],
)  # fmt: skip
def test_an_endpoint_that_is_not_of_the_internet_is_refused(url: str) -> None:
    with pytest.raises(WireError) as error:
        check_endpoint(endpoint(url), allow_private=False)
    assert error.value.kind is PUSH_REFUSED and error.value.detail


@spec("WAK-01")
def test_an_endpoint_without_the_key_of_its_browser_is_refused() -> None:
    for row in (
        PushRow("https://push.example.org/1", b"", SECRET),
        PushRow("https://push.example.org/1", b"\x02" + bytes(64), SECRET),
        PushRow("https://push.example.org/1", KEY, b"short"),
    ):
        with pytest.raises(WireError):
            check_endpoint(row, allow_private=False)


def test_an_endpoint_of_the_internet_is_taken() -> None:
    assert check_endpoint(endpoint("https://push.example.org/wake/1"), False) == ("push.example.org", 443)
    assert check_endpoint(endpoint("https://9.9.9.9:8443/1"), False) == ("9.9.9.9", 8443)
    assert check_endpoint(endpoint("http://127.0.0.1:81/1"), True) == ("127.0.0.1", 81)


@pytest.mark.parametrize("address", ["9.9.9.9", "2620:fe::fe", "::ffff:9.9.9.9"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@spec("WAK-03")
@pytest.mark.parametrize(
    "address",
    [
        "224.0.0.1", "ff02::1", "::", "fe80::1", "172.16.0.1", "240.0.0.1", "192.0.2.1", "192.0.0.192", "192.88.99.1",
        "::127.0.0.1", "::ffff:0:10.0.0.1", "fec0::1", "64:ff9b:1::a00:1", "5f00::1", "3fff::1", "4000::1", "fe80::1%1",
    ],
)  # fmt: skip
def test_addresses_of_special_ranges_are_not(address: str) -> None:
    assert not is_public(ip_address(address))
