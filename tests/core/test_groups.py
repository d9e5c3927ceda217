"""Chats as groups: founding, adding, joining, roles, past epochs, order, rejoining; both suites."""

import pytest

from taube.client.e2e import (
    KIND_GROUP,
    SUITE_CLASSIC,
    SUITE_HYBRID,
    CommitPending,
    CoreError,
    CounterOutdated,
    Evicted,
    Expired,
    GroupContext,
    NoKeyPackage,
    NoSuchGroup,
    NotForUs,
    NotLoaded,
    PolicyRefused,
    TooLarge,
    Unverified,
)
from taube.wire.packing import pack
from tests.core.people import (
    CHAT,
    DAY_S,
    NOW_S,
    SUITES,
    Person,
    add,
    chat_of,
    chat_of_two,
    group_of,
    pair_of,
)
from tests.spec import spec


def commit(by: Person, group: bytes, *others: Person, now_s: int = NOW_S, **what: object) -> None:
    """One commit that wins its gate: everyone applies it."""
    staged = by.core.stage(group, k=0, now_s=now_s, **what)  # type: ignore[arg-type]
    by.keep()
    by.confirm(group, now_s)
    for other in others:
        assert other.apply(group, staged, now_s).verdict in ("applied", "removed")


@pytest.mark.parametrize("suite", SUITES)
@spec("GRP-10", "GRP-11", "GRP-20", "GRP-27")
def test_two_people_write_to_each_other(suite: int) -> None:
    alice, bob, group = chat_of_two(suite)
    for sender, receiver in ((alice, bob), (bob, alice)):
        [received] = receiver.hears(group, *sender.says(group, b"hello"))
        assert (received.kind, received.content, received.sender) == ("content", b"hello", sender.who)
    info = bob.core.group(group)
    assert (info.suite, info.epoch, info.context, info.has_pending) == (suite, 1, pair_of(alice, bob), False)
    assert [(member.account_id, member.device_id) for member in info.members] == [alice.who, bob.who]
    assert info.members[info.own_leaf].certificate == bob.certificate
    assert len(group) == 32


@pytest.mark.parametrize("suite", SUITES)
@spec("GRP-22", "GRP-26")
def test_a_group_adds_removes_updates_and_goes_on(suite: int) -> None:
    (alice, bob, carol), group = chat_of("alice", "bob", "carol", suite=suite)
    commit(bob, group, alice, carol, update=True)
    dave = Person("dave")
    staged = alice.core.stage(group, k=0, adds=[dave.package(suite)], removes=[carol.who], now_s=NOW_S)
    applied = bob.apply(group, staged)
    assert (applied.verdict, applied.committer, applied.removed) == ("applied", alice.who, (carol.who,))
    assert [(member.account_id, member.device_id) for member in applied.added] == [dave.who]
    assert carol.apply(group, staged).verdict == "removed"
    alice.confirm(group)
    dave.join(staged)
    for receiver in (alice, bob):
        assert receiver.hears(group, *dave.says(group, b"here"))[0].content == b"here"
    [later] = carol.hears(group, *dave.says(group, b"not for you"))
    assert later.kind == "later"
    for call in (lambda: carol.core.protect(group, [b""]), lambda: carol.core.stage(group, k=0, update=True, now_s=0)):
        with pytest.raises(Evicted):
            call()


@spec("GRP-23")
def test_an_update_changes_address_and_certificate() -> None:
    alice, bob, group = chat_of_two()
    address = bob.address()
    certificate = pack([bob.account.genesis, bob.core.sign_device_list(2, [bob.device])])
    staged = bob.core.stage(group, k=0, address=address, certificate=certificate, now_s=NOW_S)
    [updated] = alice.apply(group, staged).updated
    assert (updated.address, updated.certificate, updated.counter) == (address, certificate, 2)
    bob.confirm(group)
    with pytest.raises(CounterOutdated):
        bob.core.stage(group, k=0, certificate=bob.certificate, now_s=NOW_S)


@spec("GRP-26")
def test_messages_arrive_in_any_order_once() -> None:
    alice, bob, group = chat_of_two()
    texts = [b"%d" % number for number in range(128)]
    bodies = alice.says(group, *texts)
    received = bob.hears(group, *reversed(bodies))
    assert [message.content for message in received] == list(reversed(texts))
    assert {message.kind for message in bob.hears(group, *bodies)} == {"duplicate"}


@spec("GRP-26")
def test_a_long_gap_is_stepped_over() -> None:
    alice, bob, group = chat_of_two()
    bodies = alice.says(group, *[b"lost"] * 1500, b"found")
    assert bob.hears(group, bodies[-1])[0].content == b"found"
    assert bob.hears(group, bodies[0])[0].kind == "junk"


@spec("GRP-26")
def test_past_epochs_are_kept_for_a_while() -> None:
    alice, bob, group = chat_of_two()
    kept: dict[int, bytes] = {}
    for number in range(12):
        kept[number + 1] = alice.says(group, b"old")[0]
        commit(bob, group, alice, update=True, now_s=NOW_S + number * DAY_S)
    # Epoch n ended on day n - 1; it is day 11, and the last eight stay in any case.
    for epoch, body in kept.items():
        kind = bob.hears(group, body, now_s=NOW_S + 11 * DAY_S)[0].kind
        assert kind == ("content" if epoch >= 5 else "later"), epoch
    assert bob.core.past_gate_name(group, 5, 0) == alice.core.past_gate_name(group, 5, 0)
    with pytest.raises(CoreError):
        bob.core.past_gate_name(group, 4, 0)


@spec("GRP-26")
def test_at_most_64_past_epochs_are_kept() -> None:
    alice, bob, group = chat_of_two()
    first, second = alice.says(group, b"first"), None
    for number in range(65):
        commit(alice, group, bob, update=True)
        if number == 0:
            second = alice.says(group, b"second")
    assert second is not None
    assert [message.kind for message in bob.hears(group, *first, *second)] == ["later", "content"]


@spec("GRP-13")
def test_a_package_with_less_than_50_days_left_is_not_added() -> None:
    alice, bob = Person("alice"), Person("bob")
    package = bob.package(now_s=NOW_S)
    day_s = NOW_S - NOW_S % DAY_S
    info = alice.core.inspect_key_package(package, bob.certificate, day_s + 34 * DAY_S)
    assert info.expires_at_s == day_s + 84 * DAY_S, "a package tells the day that it was made, and no more"
    group = alice.found(pair_of(alice, bob))
    for now_s in (NOW_S + 35 * DAY_S, NOW_S + 90 * DAY_S, NOW_S - DAY_S):
        with pytest.raises(Expired):
            alice.core.inspect_key_package(package, bob.certificate, now_s)
        with pytest.raises(Expired):
            alice.core.stage(group, k=0, adds=[package], now_s=now_s)


@spec("GRP-13", "GRP-25")
def test_no_one_but_the_adder_looks_at_lifetimes() -> None:
    (alice, bob), group = chat_of("alice", "bob")
    carol = Person("carol")
    staged = alice.core.stage(group, k=0, adds=[carol.package()], now_s=NOW_S)
    assert bob.apply(group, staged, now_s=NOW_S + 400 * DAY_S).verdict == "applied"
    carol.join(staged, now_s=NOW_S - 400 * DAY_S)
    assert carol.core.group(group).epoch == bob.core.group(group).epoch


@spec("GRP-12", "GRP-13")
def test_a_package_says_whose_it_is_and_where_it_leads() -> None:
    alice, bob = Person("alice"), Person("bob")
    address = bob.address()
    [made] = bob.core.create_key_packages(SUITE_HYBRID, [address], bob.certificate, NOW_S)
    info = alice.core.inspect_key_package(made.key_package, bob.certificate, NOW_S)
    assert (info.account_id, info.device_id, info.suite, info.address) == (*bob.who, SUITE_HYBRID, address)
    with pytest.raises(Unverified):
        alice.core.inspect_key_package(made.key_package, alice.certificate, NOW_S)
    another = pack([bob.account.genesis, bob.core.sign_device_list(2, [alice.device])])
    with pytest.raises(Unverified):
        alice.core.inspect_key_package(made.key_package, another, NOW_S)


@spec("GRP-14")
def test_an_older_device_list_than_known_is_refused() -> None:
    alice, bob = Person("alice"), Person("bob")
    group = alice.found(pair_of(alice, bob))
    package = bob.package()
    with pytest.raises(CounterOutdated):
        alice.core.stage(group, k=0, adds=[package], known={bob.id: 2}, now_s=NOW_S)
    staged = alice.core.stage(group, k=0, adds=[package], known={bob.id: 1}, now_s=NOW_S)
    with pytest.raises(CounterOutdated):
        bob.core.join(staged.welcomes[0].body, {alice.id: 2}, NOW_S)
    # The refusal changed nothing: the package is still there.
    assert bob.core.join(staged.welcomes[0].body, {alice.id: 1, bob.id: 7}, NOW_S).group_id == group


@spec("GRP-15")
def test_a_package_is_used_once_unless_it_is_the_last_resort() -> None:
    alice, bob = Person("alice"), Person("bob")
    for last_resort in (False, True):
        package = bob.package(last_resort=last_resort)
        first, second = alice.found(pair_of(alice, bob)), alice.found(pair_of(alice, bob))
        welcomes = [alice.core.stage(group, k=0, adds=[package], now_s=NOW_S) for group in (first, second)]
        bob.join(welcomes[0])
        if last_resort:
            bob.join(welcomes[1])
        else:
            with pytest.raises(NoKeyPackage):
                bob.join(welcomes[1])


def test_deleted_packages_cannot_be_used() -> None:
    alice, bob = Person("alice"), Person("bob")
    [made] = bob.core.create_key_packages(SUITE_CLASSIC, [bob.address()], bob.certificate, NOW_S)
    group = alice.found(pair_of(alice, bob))
    staged = alice.core.stage(group, k=0, adds=[made.key_package], now_s=NOW_S)
    bob.core.delete_key_packages([made.ref, bytes(32)])
    with pytest.raises(NoKeyPackage):
        bob.join(staged)


@spec("GRP-21")
def test_a_third_has_no_place_in_a_chat_of_two() -> None:
    alice, bob, group = chat_of_two()
    carol = Person("carol")
    with pytest.raises(PolicyRefused):
        alice.core.stage(group, k=0, adds=[carol.package()], now_s=NOW_S)
    with pytest.raises(PolicyRefused):
        bob.core.stage(group, k=0, adds=[bob.package()], now_s=NOW_S)


@spec("GRP-22")
def test_only_admins_add_remove_and_rule() -> None:
    (alice, bob, carol), group = chat_of("alice", "bob", "carol")
    dave = Person("dave")
    promoted = GroupContext(KIND_GROUP, CHAT, (alice.id, bob.id))
    refused = (
        {"adds": [dave.package()]},
        {"removes": [carol.who]},
        {"removes": [alice.who]},
        {"context": promoted},
    )
    for what in refused:
        with pytest.raises(PolicyRefused):
            bob.core.stage(group, k=0, now_s=NOW_S, **what)  # type: ignore[arg-type]
    commit(alice, group, bob, carol, context=promoted)
    assert bob.core.group(group).context == promoted
    commit(bob, group, alice, carol, removes=[carol.who])


@spec("GRP-22")
def test_kind_chat_and_predecessor_never_change() -> None:
    (alice, _), group = chat_of("alice", "bob")
    context = alice.core.group(group).context
    for other in (context._replace(chat_id=bytes(16)), context._replace(predecessor=(bytes(32), 3))):
        with pytest.raises(PolicyRefused):
            alice.core.stage(group, k=0, context=other, now_s=NOW_S)


@spec("GRP-22")
def test_a_member_manages_its_own_devices() -> None:
    (alice, bob), group = chat_of("alice", "bob")
    phone = bob.device
    tablet = Person("bob's tablet")
    tablet.account = bob.account
    both = pack([bob.account.genesis, bob.core.sign_device_list(2, [phone, tablet.device])])
    tablet.certificate = both
    staged = bob.core.stage(group, k=0, adds=[tablet.package()], certificate=both, now_s=NOW_S)
    assert alice.apply(group, staged).verdict == "applied"
    bob.confirm(group)
    tablet.join(staged)
    assert alice.hears(group, *tablet.says(group, b"from the tablet"))[0].sender == (bob.id, tablet.device.device_id)
    commit(tablet, group, alice, bob, removes=[(bob.id, phone.device_id)])


@spec("GRP-20")
@pytest.mark.parametrize(
    "context",
    [
        GroupContext(0, CHAT, (bytes(32),)),
        GroupContext(0, CHAT, (bytes(32), bytes(32))),
        GroupContext(1, CHAT, ()),
        GroupContext(1, CHAT, tuple(bytes([number]) * 32 for number in range(65))),
        GroupContext(2, CHAT, (bytes(32),)),
        GroupContext(1, bytes(15), (bytes(32),)),
        GroupContext(1, CHAT, (bytes(32),), (bytes(31), 1)),
    ],
)
def test_a_context_that_makes_no_sense_is_refused(context: GroupContext) -> None:
    alice = Person("alice")
    with pytest.raises(CoreError):
        alice.core.create_group(SUITE_CLASSIC, context, alice.address(), alice.certificate, NOW_S)


@spec("GRP-27")
def test_whoever_founds_a_group_is_an_admin() -> None:
    alice, bob = Person("alice"), Person("bob")
    with pytest.raises(PolicyRefused):
        alice.core.create_group(SUITE_CLASSIC, group_of(bob), alice.address(), alice.certificate, NOW_S)


@spec("GRP-27")
def test_a_welcome_to_a_pair_of_others_is_refused() -> None:
    alice, bob = Person("alice"), Person("bob")
    group = alice.found(pair_of(alice, Person("carol")))
    with pytest.raises(PolicyRefused):
        alice.core.stage(group, k=0, adds=[bob.package()], now_s=NOW_S)


@spec("GRP-20")
def test_a_successor_names_its_predecessor() -> None:
    alice, bob, old = chat_of_two()
    context = pair_of(alice, bob)._replace(predecessor=(old, alice.core.group(old).epoch))
    group = alice.found(context, SUITE_HYBRID)
    add(alice, group, bob, suite=SUITE_HYBRID)
    assert bob.core.group(group).context == context
    assert bob.core.group(old).context.predecessor is None


@pytest.mark.parametrize("suite", SUITES)
@spec("GRP-30", "GRP-31", "GRP-32", "GRP-22")
def test_any_member_grants_a_rejoin(suite: int) -> None:
    (alice, bob, carol), group = chat_of("alice", "bob", "carol", suite=suite)
    for _ in range(3):
        commit(alice, group, bob, update=True)  # carol misses these
    address, body = carol.core.rejoin_request(group, bob.who, carol.package(suite), NOW_S)
    assert address == carol.core.group(group).members[1].address
    mail = bob.core.open_from_stranger(body)
    assert (mail.kind, mail.account_id, mail.device_id, mail.chat_id, mail.last_epoch) == (
        "rejoin",
        *carol.who,
        CHAT,
        1,
    )
    bob.core.check_rejoin(group, mail, carol.certificate, NOW_S)
    staged = bob.core.stage(group, k=0, adds=[mail.key_package], removes=[carol.who], now_s=NOW_S)
    assert alice.apply(group, staged).verdict == "applied"
    bob.confirm(group)
    carol.join(staged)
    assert carol.core.group(group).epoch == alice.core.group(group).epoch == 5
    assert carol.hears(group, *alice.says(group, b"again"))[0].content == b"again"
    # What was kept of the first membership is gone, in the store too.
    again = carol.reload()
    assert again.group(group) == carol.core.group(group)
    assert len([key for key in carol.rows[group] if key[:1] == b"E"]) == 1


@spec("GRP-31")
def test_a_removed_member_is_not_let_in_again() -> None:
    (alice, bob, carol), group = chat_of("alice", "bob", "carol")
    staged = alice.core.stage(group, k=0, removes=[carol.who], now_s=NOW_S)
    assert bob.apply(group, staged).verdict == "applied"
    _, body = carol.core.rejoin_request(group, bob.who, carol.package(), NOW_S)
    with pytest.raises(PolicyRefused):
        bob.core.check_rejoin(group, bob.core.open_from_stranger(body), carol.certificate, NOW_S)
    # One who knows that it was removed does not even ask.
    assert carol.apply(group, staged).verdict == "removed"
    with pytest.raises(Evicted):
        carol.core.rejoin_request(group, bob.who, carol.package(), NOW_S)


@spec("GRP-30", "GRP-31")
def test_a_rejoin_request_is_for_one_peer_by_a_listed_device_and_fresh() -> None:
    (alice, bob, carol), group = chat_of("alice", "bob", "carol")
    _, body = carol.core.rejoin_request(group, bob.who, carol.package(), NOW_S)
    mail = bob.core.open_from_stranger(body)
    with pytest.raises(NotForUs):
        alice.core.open_from_stranger(body)
    with pytest.raises(Unverified):  # forwarded to another
        alice.core.check_rejoin(group, mail, carol.certificate, NOW_S)
    with pytest.raises(Expired):
        bob.core.check_rejoin(group, mail, carol.certificate, NOW_S + 31 * DAY_S)
    with pytest.raises(Expired):
        bob.core.check_rejoin(group, mail, carol.certificate, NOW_S - 2 * DAY_S)
    revoked = pack([carol.account.genesis, carol.core.sign_device_list(2, [alice.device])])
    with pytest.raises(Unverified):
        bob.core.check_rejoin(group, mail, revoked, NOW_S)
    with pytest.raises(Unverified):
        bob.core.check_rejoin(group, mail, bob.certificate, NOW_S)
    wrong_suite = carol.core.rejoin_request(group, bob.who, carol.package(SUITE_HYBRID), NOW_S)[1]
    with pytest.raises(PolicyRefused):
        bob.core.check_rejoin(group, bob.core.open_from_stranger(wrong_suite), carol.certificate, NOW_S)


@spec("GRP-42")
def test_exports_are_the_same_for_all_and_keep_off_our_labels() -> None:
    alice, bob, group = chat_of_two()
    assert alice.core.export(group, "call", b"7", 48) == bob.core.export(group, "call", b"7", 48)
    with pytest.raises(PolicyRefused):
        alice.core.export(group, "taube seal", b"", 16)


def test_errors_have_types() -> None:
    alice, bob, group = chat_of_two()
    with pytest.raises(NotLoaded):
        alice.core.group(bytes(32))
    alice.core.load(bytes(32), [])
    with pytest.raises(NoSuchGroup):
        alice.core.group(bytes(32))
    alice.core.stage(group, k=0, update=True, now_s=NOW_S)
    with pytest.raises(CommitPending):
        alice.core.stage(group, k=0, update=True, now_s=NOW_S)
    with pytest.raises(TooLarge):
        bob.core.protect(group, [bytes(64 * 1024)])


def test_a_forgotten_group_leaves_nothing() -> None:
    alice, _, group = chat_of_two()
    alice.core.forget_group(group)
    alice.keep()
    assert alice.rows[group] == {}
    with pytest.raises(NoSuchGroup):
        alice.core.group(group)
