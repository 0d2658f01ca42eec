"""How fast a site is served: the line's order, the pace and what it learns, limits by receiver. Pure."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendkit_server.deliver.line import TURN, Line
from sendkit_server.deliver.pace import AGAIN_AND_AGAIN, FIRST_CONNECTIONS, Limits, Pace
from sendkit_server.deliver.parcel import Parcel
from sendkit_server.deliver.plan import Way
from sendkit_server.deliver.receivers import Receivers
from sendkit_server.deliver.route import Direct
from sendkit_server.model.address import Mailbox
from sendkit_server.model.mail import Door, Message, Priority, Recipient, Role
from sendkit_server.store.values import Job

BOX = Mailbox("u", "there.test", "")


def parcel(priority: Priority, n: int = 0) -> Parcel:
    message = Message(f"msg_{n}", 1, "con", Door.HTTP, "key", BOX, (BOX,), (), "s", "<m@x>", 0, priority=priority)
    return Parcel(Job(message, (Recipient(0, BOX, Role.TO),), "there.test", 1, 1), (Way(Direct()),))


def test_the_urgent_go_first_and_each_priority_in_its_order():
    line = Line()
    for n, priority in enumerate((Priority.BULK, Priority.NORMAL, Priority.URGENT, Priority.NORMAL)):
        line.append(parcel(priority, n))
    assert [line.popleft().message.id for _ in range(4)] == ["msg_2", "msg_1", "msg_3", "msg_0"]
    assert not line and len(line) == 0


def test_a_flood_of_urgent_mail_starves_nobody():
    line = Line()
    for priority, count in ((Priority.URGENT, 1000), (Priority.NORMAL, 20), (Priority.BULK, 20)):
        for _ in range(count):
            line.append(parcel(priority))
    first = Counter(line.popleft().message.priority for _ in range(10 * (TURN + 1)))
    assert first[Priority.NORMAL] >= 8 and first[Priority.BULK] >= 8
    assert first[Priority.URGENT] >= 7 * 10


@given(st.lists(st.sampled_from(list(Priority))))
def test_a_line_gives_back_what_was_put_in(priorities: list[Priority]):
    line = Line()
    for n, priority in enumerate(priorities):
        line.append(parcel(priority, n))
    assert len(line) == len(list(line)) == line.load.jobs == len(priorities)
    out = [line.popleft().message.id for _ in priorities]
    assert sorted(out) == sorted(f"msg_{n}" for n in range(len(priorities)))
    assert line.load.amount(urgent=False) == line.load.amount(urgent=True) == (0, 0)


def test_a_site_gets_a_connection_more_for_each_mail_it_takes():
    pace = Pace(Limits(connections=20))
    assert pace.connections(20) == FIRST_CONNECTIONS
    for _ in range(40):
        pace.took(0.0)
    assert pace.connections(20) == 20
    assert pace.connections(7) == 7 and pace.connections(0) == 0


def test_a_421_halves_the_connections_and_pauses_longer_each_time():
    pace = Pace(Limits(connections=20))
    for _ in range(40):
        pace.took(0.0)
    assert pace.refused(10.0, leave=True)
    assert (pace.connections(20), pace.wait_s(10.0)) == (10, 1.0)
    # The other connections hear it too: that is one push, not ten.
    assert pace.refused(10.1, leave=True)
    assert pace.connections(20) == 10
    assert pace.refused(11.5, leave=True)
    assert (pace.connections(20), pace.wait_s(11.5)) == (5, 2.0)
    for second in range(12, 40):
        pace.refused(second * 400.0, leave=True)
    assert pace.connections(20) == 1 and pace.wait_s(39 * 400.0) == 300.0


def test_one_refused_mail_is_no_push_back_but_one_after_the_other_is():
    pace = Pace(Limits())
    for _ in range(AGAIN_AND_AGAIN - 1):
        assert not pace.refused(0.0, leave=False)
    pace.took(0.0)
    for _ in range(AGAIN_AND_AGAIN - 1):
        assert not pace.refused(0.0, leave=False)
    assert pace.refused(0.0, leave=False)


def test_the_way_up_is_slower_after_a_push_until_it_is_forgotten():
    pace = Pace(Limits(connections=20))
    pace.refused(0.0, leave=True)
    before = pace.connections(20)
    for _ in range(9):
        pace.took(2.0)
    assert pace.connections(20) == before
    pace.took(700.0)
    for _ in range(40):
        pace.took(701.0)
    assert pace.connections(20) == 20


@pytest.mark.parametrize(("rate", "nodes", "gap"), [(60, 1, 1.0), (60, 3, 3.0), (600, 1, 0.1)])
def test_a_rate_lets_so_many_through_a_minute_shared_among_the_nodes(rate: int, nodes: int, gap: float):
    pace = Pace(Limits(rate=rate))
    now, went = 1000.0, 0
    while now < 1060.0:
        if pace.wait_s(now) <= 0:
            pace.goes(now, nodes)
            went += 1
        now += 0.01
    allowed = 60.0 / gap
    assert allowed - 1 <= went <= allowed + 1 / gap + 2


def test_the_longest_named_domain_of_a_host_gives_its_limits():
    receivers = Receivers({}, Limits(connections=20))
    assert receivers.of("gmail-smtp-in.l.google.com").messages_per_connection == 100
    assert receivers.of("mx.unknown.test") == Limits(connections=20)
    own = Receivers({"gmail": {"connections": 3}, "mine": {"mx": ["there.test"], "rate": 60}}, Limits())
    assert own.of("aspmx.l.google.com").connections == 3
    assert own.of("mx1.there.test").rate == 60


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"gmail": {"connections": 0}}, "receivers.gmail"),
        ({"gmail": {"speed": 1}}, "receivers.gmail.*speed"),
        ({"mine": {"connections": 1}}, "names no mx"),
        ({"mine": 5}, "must be a table"),
        ({"mine": {"mx": ["*.a.test"]}}, "receivers.mine: .*write 'a.test'"),
    ],
)
def test_wrong_overrides_are_told(overrides: dict[str, object], words: str):
    with pytest.raises(ValueError, match=words):
        Receivers(overrides, Limits())
