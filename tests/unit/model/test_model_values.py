"""Values: addresses, ids, statuses, retries, permissions."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendkit_server.model.address import AddressError, ascii_domain, parse_address, parse_mailbox
from sendkit_server.model.ids import make_id
from sendkit_server.model.instant import DAY_MS, HOUR_MS, LAST, MINUTE_MS, api_time, day_start, from_text, header_date
from sendkit_server.model.permissions import ALL, PRESETS, parse_permission, preset_of
from sendkit_server.model.retry import RetryPolicy, next_attempt
from sendkit_server.model.status import ENDS_WORST_FIRST, RANK, Status, is_settled, last_event, message_status, moved


@pytest.mark.parametrize(
    ("text", "address", "name"),
    [
        ("a@b.com", "a@b.com", ""),
        ("<a@b.com>", "a@b.com", ""),
        ("  Jane <a@B.Com>  ", "a@b.com", "Jane"),
        ('"Doe, Jane" <a@b.com>', "a@b.com", "Doe, Jane"),
        ('"Jane \\"JD\\" Doe" <a@b.com>', "a@b.com", 'Jane "JD" Doe'),
        ("Doe, Jane <a@b.com>", "a@b.com", "Doe, Jane"),
        ("=?utf-8?B?w4Q=?= <a@b.com>", "a@b.com", "Ä"),
        ("=?nope?Q?x?= <a@b.com>", "a@b.com", "=?nope?Q?x?="),
        ('"a@evil.com" <u@own.com>', "u@own.com", "a@evil.com"),
        ("用户@例え.jp", "用户@xn--r8jz45g.jp", ""),
        ("ü@bücher.example", "ü@xn--bcher-kva.example", ""),
        ("u@XN--BCHER-KVA.example.", "u@xn--bcher-kva.example", ""),
        ('"a b"@x.com', '"a b"@x.com', ""),
        ("a@localhost", "a@localhost", ""),
        ("a@mail.internal", "a@mail.internal", ""),
        ("o'brien+tag@x-y.test", "o'brien+tag@x-y.test", ""),
    ],
)
def test_mailboxes_as_people_write_them(text: str, address: str, name: str) -> None:
    mailbox = parse_mailbox(text)
    assert (mailbox.address, mailbox.name) == (address, name)
    assert parse_mailbox(mailbox.display()) == mailbox


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "@", "a@", "@b.com", "a@b", "a@@b.com", "a@b..com", ".a@b.com", "a.@b.com", "a b@c.com", "a@b.com,c@d.com",
        "a@b.com; c@d.com", "<a@b.com>c@own.com", "x <@r1:u@x.com>", "a@[127.0.0.1]", "a@b.123", "a@-b.com", "a@b-.com", "group: a@b.com;",
        "a@b.com)c@d.com", "alice@own.com)bob@evil.com", "a@evil.com, b <c@d.com>", "a <x> <c@d.com>", '"open <a@b.com>', "a@b.com\r\nBcc: x@y.z",
        "Na\x00me <a@b.com>", "a@b\u2028.com", "=?utf-8?Q?a=0D=0ABcc:_x?= <a@b.com>", "a@xn---.com", "a" * 65 + "@b.com", "a@" + "b" * 64 + ".com",
        "a@" + "b." * 130 + "com", "a\ud800@b.com", "a(comment)@b.com", "a@b.com (comment)", ":;" * 1000,
    ],
)  # fmt: skip
def test_what_is_no_mailbox_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        parse_mailbox(text)


@given(st.text(max_size=80))
def test_no_text_makes_the_parser_fail_otherwise(text: str) -> None:
    for parse in (parse_mailbox, parse_address, ascii_domain):
        try:
            found = parse(text)
        except AddressError:
            continue
        shown = found if isinstance(found, str) else found.address
        assert "\r" not in shown and "\n" not in shown and "\0" not in shown


def test_ids_sort_by_time_and_differ() -> None:
    entropy = random.Random(1)
    instants = sorted(entropy.randrange(2**41) for _ in range(500))
    ids = [make_id("msg", at, entropy.randbytes(10)) for at in instants]
    assert ids == sorted(ids) and len(set(ids)) == 500
    assert all(len(one) == 30 and one.count("_") == 1 for one in ids)


def test_instants_in_every_spelling() -> None:
    at = 1_773_239_405_678
    assert api_time(at) == "2026-03-11 14:30:05"
    assert header_date(at) == "Wed, 11 Mar 2026 14:30:05 +0000"
    assert api_time(None) is None
    assert day_start("2026-03-11") == 1_773_187_200_000
    for wrong in ("2026-3-1", "2026-02-30", "x", "", "2026-03-11T00:00"):
        with pytest.raises(ValueError):
            day_start(wrong)


def test_only_times_that_can_be_worded_are_read() -> None:
    assert from_text("9999-12-31T11:59:59.999-12:00") == LAST and api_time(LAST) == "9999-12-31 23:59:59"
    for wrong in ("9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59.9999Z", "0001-01-01T00:00:00+00:01", "soon"):
        with pytest.raises(ValueError):
            from_text(wrong)


def test_a_status_never_moves_back_and_an_end_is_an_end() -> None:
    for current, to in itertools.product(Status, Status):
        after = moved(current, to)
        assert after in (current, to)
        if current in RANK and to in RANK:
            assert RANK[after] == max(RANK[current], RANK[to])
        if current not in RANK and to is not Status.COMPLAINED:
            assert after is current
    assert moved(Status.DELIVERED, Status.BOUNCED) is Status.BOUNCED
    assert moved(Status.DELIVERED, Status.FAILED) is Status.DELIVERED
    assert moved(Status.OPENED, Status.COMPLAINED) is Status.COMPLAINED
    assert moved(Status.FAILED, Status.COMPLAINED) is Status.FAILED


@pytest.mark.parametrize(
    ("recipients", "expected"),
    [
        ([Status.DELIVERED, Status.QUEUED, Status.DELAYED], Status.QUEUED),
        ([Status.DELIVERED, Status.BOUNCED], Status.BOUNCED),
        ([Status.FAILED, Status.BOUNCED, Status.COMPLAINED], Status.COMPLAINED),
        ([Status.DELIVERED, Status.CLICKED], Status.CLICKED),
        ([Status.SUPPRESSED, Status.CANCELLED], Status.SUPPRESSED),
    ],
)
def test_a_messages_status_is_the_least_settled_then_the_worst(recipients: list[Status], expected: Status) -> None:
    for order in itertools.permutations(recipients):
        assert message_status(order) is expected


def test_every_status_is_ranked_or_an_end_and_expired_reads_as_failed() -> None:
    assert set(RANK) | set(ENDS_WORST_FIRST) == set(Status)
    assert all(is_settled(end) for end in ENDS_WORST_FIRST)
    assert last_event(Status.EXPIRED) == "failed" and last_event(Status.BOUNCED) == "bounced"


def test_retries_follow_the_schedule_with_jitter_until_the_window_ends() -> None:
    policy = RetryPolicy()
    for tries, delay in ((1, MINUTE_MS), (2, 5 * MINUTE_MS), (7, 4 * HOUR_MS), (50, 4 * HOUR_MS)):
        assert next_attempt(policy, tries, 0, 0, 0.5) == delay
        assert next_attempt(policy, tries, 0, 0, 0.0) == round(delay * 0.9)
        assert next_attempt(policy, tries, 0, 0, 1.0) == round(delay * 1.1)
    assert next_attempt(policy, 20, 0, 2 * DAY_MS - 1, 0.5) == 2 * DAY_MS
    assert next_attempt(policy, 20, 0, 2 * DAY_MS, 0.5) is None
    assert max(next_attempt(policy, tries, 0, 0, 1.0) or 0 for tries in range(1, 9)) == policy.longest_ms


def test_a_mail_from_the_future_is_given_up_once_its_delays_fill_the_retry_window() -> None:
    policy = RetryPolicy((MINUTE_MS, HOUR_MS), window_ms=5 * HOUR_MS)
    year = 365 * DAY_MS
    planned = [next_attempt(policy, tries, year, tries, 0.5) for tries in range(1, 8)]
    # After 1 min and 4 × 1 h it is tried for the last time, at the window's end.
    assert planned[:5] == [1 + MINUTE_MS, *(tries + HOUR_MS for tries in range(2, 6))]
    assert planned[5:] == [6 + HOUR_MS - MINUTE_MS, None]


def test_permissions_are_presets_or_lists() -> None:
    assert parse_permission("full") == ALL
    assert parse_permission("send") == {"emails:send"}
    assert "emails:content" not in PRESETS["read"] and "analytics:read" in PRESETS["read"]
    assert parse_permission("emails:send, domains:read") == {"emails:send", "domains:read"}
    assert preset_of(parse_permission("read")) == "read"
    assert preset_of(frozenset({"emails:send", "emails:read"})) == "custom"
    for wrong in ("", "emails", "emails:send,nope:read", "fullest"):
        with pytest.raises(ValueError, match="known are"):
            parse_permission(wrong)
