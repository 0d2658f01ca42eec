"""What the settings say about routes, and which of them a mail takes."""

from __future__ import annotations

import datetime
from collections import Counter
from typing import Any

import msgspec
import pytest

from sendkit_server.deliver.plan import Plans, Way
from sendkit_server.deliver.route import Capture, Direct, Hosted, Smarthost, Source, WarmUp
from sendkit_server.deliver.routing import Routing, parse_routing
from sendkit_server.model.address import parse_address
from sendkit_server.model.instant import DAY_MS
from sendkit_server.model.mail import Door, Message
from sendkit_server.wire.providers import Ses

MESSAGE = Message(
    id="msg_1", team_id=1, content_id="cnt_1", door=Door.HTTP, key_id="key_1", from_=parse_address("shop@here.test"),
    to=(), cc=(), subject="", message_id="<1@here.test>", created_at=0,
)  # fmt: skip


def mail(number: int = 1, sender: str = "shop@here.test", stream: str = "transactional") -> Message:
    return msgspec.structs.replace(MESSAGE, id=f"msg_{number:026d}", from_=parse_address(sender), stream=stream)


def names(ways: tuple[Way, ...]) -> list[str]:
    return [way.name for way in ways]


def test_a_chain_of_urls_is_read():
    routing = parse_routing("direct, smarthosts://u%2Cser:p%40ss@relay.test, capture", {}, [])
    first, second, third = routing.routes
    assert first == Direct()
    assert isinstance(second, Smarthost) and second.login is not None
    assert (second.host, second.port, second.login.user, second.login.password, second.tls_from_start) == (
        "relay.test", 465, "u,ser", "p@ss", True,
    )  # fmt: skip
    assert third == Capture()
    assert parse_routing("smarthost://[::1]:2525", {}, []).routes == (Smarthost("::1", 2525),)
    assert "p@ss" not in repr(second)


def test_named_routes_and_rules_are_read():
    named = {
        "own": {
            "kind": "direct",
            "ehlo": "mail.here.test",
            "addresses": [
                "192.0.2.10",
                {"ip": ["192.0.2.11", "2001:db8::11"], "ehlo": "mx2.here.test", "weight": 3, "warm_up": datetime.date(2026, 11, 20)},
            ],
        },
        "relay": {"kind": "smarthost", "url": "smarthost://u:p@relay.test:587", "address": "192.0.2.10"},
        "amazon": {"kind": "ses", "region": "eu-west-1", "access_key_id": "AK", "secret_access_key": "secret"},
    }  # fmt: skip
    routing = parse_routing(
        "own*9 | relay, amazon", named, [{"domain": "*.news.test", "stream": "broadcast", "route": "amazon"}]
    )
    own, relay, amazon = routing.routes
    start = int(datetime.datetime(2026, 11, 20, tzinfo=datetime.UTC).timestamp() * 1000)
    assert own == Direct(
        "own",
        (
            Source(("192.0.2.10",), "mail.here.test"),
            Source(("192.0.2.11", "2001:db8::11"), "mx2.here.test", 3, WarmUp(start)),
        ),
    )
    assert isinstance(relay, Smarthost) and (relay.name, relay.source.addresses) == ("relay", ("192.0.2.10",))
    assert isinstance(amazon, Hosted) and isinstance(amazon.provider, Ses) and "secret" not in repr(amazon)
    assert [(choice.route.name, choice.weight) for choice in routing.default[0]] == [("own", 9), ("relay", 1)]
    assert routing.rules[0].fits("a.news.test", "there.test", "broadcast")
    assert not routing.rules[0].fits("news.test", "there.test", "broadcast")
    assert not routing.rules[0].fits("a.news.test", "there.test", "transactional")


@pytest.mark.parametrize(
    ("route", "named", "rules", "words"),
    [
        ("", {}, [], "no route"),
        ("directly", {}, [], "unknown route 'directly': known are direct, capture"),
        ("own", {"other": {"kind": "direct"}}, [], "other"),
        ("capture, direct", {}, [], "nothing can follow 'capture'"),
        ("a | a", {"a": {"kind": "direct"}}, [], "names a route twice"),
        ("a*0", {"a": {"kind": "direct"}}, [], "at least 1"),
        ("a b", {"a": {"kind": "direct"}}, [], "cannot read 'a b'"),
        ("ftp://u:hidden@x", {}, [], "unknown route 'ftp://'"),
        ("direct", {"direct": {"kind": "direct"}}, [], "[routes.direct]"),
        ("direct", {"A": {"kind": "direct"}}, [], "lower-case"),
        ("direct", {"a": {"kind": "pigeon"}}, [], 'kind = "…", one of direct, smarthost, postmark'),
        ("direct", {"a": "direct"}, [], "needs kind"),
        ("direct", {"a": {"kind": "direct", "adresses": []}}, [], "adresses"),
        ("direct", {"a": {"kind": "direct", "addresses": ["mx.test"]}}, [], "does not appear to be an IPv4 or IPv6"),
        ("direct", {"a": {"kind": "direct", "addresses": [{"ip": ["192.0.2.1", "192.0.2.2"]}]}}, [], "one of each"),
        ("direct", {"a": {"kind": "direct", "addresses": ["192.0.2.1", "192.0.2.1"]}}, [], "twice"),
        ("direct", {"a": {"kind": "direct", "addresses": [{"ip": "192.0.2.1", "warm_up": "soon"}]}}, [], "[routes.a]"),
        ("direct", {"a": {"kind": "direct", "addresses": [{"ip": "192.0.2.1", "warm_up_caps": [5]}]}}, [], "needs warm_up"),
        ("direct", {"a": {"kind": "direct", "ehlo": "not a name"}}, [], "ehlo"),
        ("direct", {"a": {"kind": "resend", "key": "x"}}, [], "[routes.a]"),
        ("direct", {"a": {"kind": "resend", "api_key": "x", "url": "http://api.test"}}, [], "https://"),
        ("direct", {}, [{"stream": "BROADCAST", "route": "direct"}], "routing[0]: 'BROADCAST' is no stream: write it in lower"),
        ("direct", {}, [{"route": "direct"}], "routing[0]: a rule needs domain, to or stream"),
        ("direct", {}, [{"route": "nowhere", "to": "x.test"}], "routing[0]: unknown route 'nowhere'"),
        ("direct", {}, [{"route": "direct", "to": "not a domain"}], "routing[0]: 'not a domain'"),
        ("direct", {}, ["direct"], "routing[0]"),
    ],
)  # fmt: skip
def test_what_cannot_be_obeyed_is_refused_with_the_place_and_without_secrets(
    route: str, named: dict[str, Any], rules: list[Any], words: str
):
    with pytest.raises(ValueError) as raised:
        parse_routing(route, named, rules)
    assert words in str(raised.value)
    assert "hidden" not in str(raised.value)


def test_alternatives_share_the_mail_by_weight_and_a_mail_keeps_its_own():
    named = {"own": {"kind": "direct"}, "new": {"kind": "direct", "ehlo": "new.test"}}
    plans = Plans(parse_routing("own*9 | new*1, capture", named, []))
    found = Counter(names(plans.of(mail(n), "there.test"))[0] for n in range(5000))
    assert 400 < found["new"] < 600
    ways = plans.of(mail(7), "there.test")
    assert sorted(names(ways)[:2]) == ["new", "own"] and names(ways)[2] == "capture"
    assert plans.of(mail(7), "there.test") == ways


def test_a_pool_s_addresses_share_the_mail_by_weight_and_those_of_other_machines_are_left_out():
    named = {"own": {"kind": "direct", "addresses": ["192.0.2.1", {"ip": "192.0.2.2", "weight": 3}, "192.0.2.3"]}}
    routing = parse_routing("own", named, [])
    plans = Plans(routing, usable=("192.0.2.1", "192.0.2.2"))
    found = Counter(plans.of(mail(n), "there.test")[0].source.addresses[0] for n in range(4000))
    assert set(found) == {"192.0.2.1", "192.0.2.2"}
    assert 2800 < found["192.0.2.2"] < 3200
    assert len(Plans(routing, usable=()).ways) == 3, "with none of its addresses each try says which one is missing"


def test_the_first_rule_that_fits_decides_by_sender_recipient_or_stream():
    named = {name: {"kind": "direct", "ehlo": f"{name}.test"} for name in ("a", "b", "c")}
    rules = [
        {"domain": ["shop.test", "*.shop.test"], "route": "a"},
        {"to": "there.test", "route": "b"},
        {"stream": "broadcast", "route": "c, direct"},
    ]
    plans = Plans(parse_routing("direct", named, rules))
    assert names(plans.of(mail(sender="x@eu.shop.test"), "there.test")) == ["a"]
    assert names(plans.of(mail(), "there.test")) == ["b"]
    assert names(plans.of(mail(stream="broadcast"), "else.test")) == ["c", "direct"]
    assert names(plans.of(mail(), "else.test")) == ["direct"]
    assert names(plans.of(msgspec.structs.replace(mail(), capture=True), "there.test")) == ["capture"]


def test_mail_without_a_choice_has_one_plan_for_all():
    plans = Plans(Routing(parse_routing("direct, capture", {}, []).default))
    assert plans.of(mail(1), "a.test") is plans.of(mail(2), "b.test")


def test_a_warm_up_ends_with_its_caps_and_has_not_begun_before_its_day():
    warm_up = WarmUp(10 * DAY_MS, (5, 10))
    assert [warm_up.cap(day * DAY_MS) for day in (9, 10, 11, 12)] == [0, 5, 10, None]
