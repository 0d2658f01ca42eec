"""How a mail wants to travel, by members and by headers."""

from __future__ import annotations

import pytest

from sendkit_server.accept.wishes import Travel, Wishes, checked, with_headers
from sendkit_server.model.mail import Priority
from sendkit_server.model.refusal import Refused

NOW = 1_764_000_000_000  # 2025-11-24T16:00:00Z


def test_nothing_said_is_normal_mail_of_the_transactional_stream():
    assert checked(Wishes(), NOW) == Travel()


@pytest.mark.parametrize(
    ("wishes", "items", "priority"),
    [
        (Wishes(priority="urgent"), 1, Priority.URGENT),
        (Wishes(priority="Bulk"), 1, Priority.BULK),
        (Wishes(), 20, Priority.NORMAL),
        (Wishes(), 21, Priority.BULK),
        (Wishes(priority="normal"), 21, Priority.NORMAL),
        (Wishes(stream="broadcast"), 1, Priority.BULK),
    ],
)
def test_priority(wishes: Wishes, items: int, priority: Priority):
    assert checked(wishes, NOW, items).priority is priority


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2025-11-24T16:00:01Z", NOW + 1000),
        ("2025-11-24T17:00:01+01:00", NOW + 1000),
        ("2025-11-24 16:00:01", NOW + 1000),
    ],
)
def test_a_deadline_in_the_future(text: str, at: int):
    assert checked(Wishes(expires_at=text), NOW).expires_at == at


@pytest.mark.parametrize(
    ("wishes", "field"),
    [
        (Wishes(priority="high"), "priority"),
        (Wishes(expires_at="tomorrow"), "expires_at"),
        (Wishes(expires_at="2025-11-24T16:00:00Z"), "expires_at"),
        (Wishes(expires_at="0001-01-01T00:00:00+14:00"), "expires_at"),
        (Wishes(expires_at="9999-12-31T23:59:59-12:00"), "expires_at"),
        (Wishes(stream="News letters"), "stream"),
        (Wishes(stream="x" * 65), "stream"),
        (Wishes(stream="a\0b"), "stream"),
    ],
)
def test_what_is_wrong_is_refused_by_its_field(wishes: Wishes, field: str):
    with pytest.raises(Refused) as refused:
        checked(wishes, NOW)
    assert refused.value.refusal.field == field


def test_headers_say_what_members_do_not():
    headers = [
        ("X-Sendkit-Priority", " urgent "),
        ("x-sendkit-require-tls", "YES"),
        ("X-Sendkit-Stream", "news"),
        ("X-Other", "1"),
    ]
    assert with_headers(Wishes(), headers) == Wishes("urgent", None, True, "news")
    with pytest.raises(Refused):
        with_headers(Wishes(), [("X-Sendkit-Require-TLS", "perhaps")])


@pytest.mark.parametrize(
    ("wishes", "headers", "field"),
    [
        (Wishes(), [("X-Sendkit-Require-TLS", "yes"), ("x-sendkit-require-tls", "no")], "require_tls"),
        (Wishes(), [("X-Sendkit-Stream", "news"), ("X-Sendkit-Stream", "news2")], "stream"),
        (Wishes(require_tls=False), [("X-Sendkit-Require-TLS", "yes")], "require_tls"),
        (Wishes(require_tls=True), [("X-Sendkit-Require-TLS", "0")], "require_tls"),
        (Wishes(priority="bulk"), [("X-Sendkit-Priority", "urgent")], "priority"),
        (Wishes(stream="mine"), [("X-Sendkit-Stream", "news")], "stream"),
        (Wishes(expires_at="2026-11-24T16:00:01Z"), [("X-Sendkit-Expires-At", "2026-11-24T16:00:02Z")], "expires_at"),
        (Wishes(expires_at="2026-11-24T16:00:01Z"), [("X-Sendkit-Expires-At", "soon")], "expires_at"),
    ],
)
def test_contradictions_are_refused_and_not_resolved(wishes: Wishes, headers: list[tuple[str, str]], field: str):
    with pytest.raises(Refused) as refused:
        with_headers(wishes, headers)
    assert refused.value.refusal.field == field
    assert headers[0][0].lower() in refused.value.refusal.message.lower()


def test_the_same_said_twice_is_no_contradiction():
    member = Wishes("Urgent", "2026-11-24T16:00:01Z", True, "news")
    headers = [
        ("X-Sendkit-Priority", "urgent"),
        ("X-Sendkit-Expires-At", "2026-11-24T17:00:01+01:00"),
        ("X-Sendkit-Require-TLS", "yes"),
        ("X-Sendkit-Require-TLS", "1"),
        ("X-Sendkit-Stream", "news"),
    ]
    assert with_headers(member, headers) == member
    assert with_headers(Wishes(), headers).require_tls is True
