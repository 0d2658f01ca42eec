"""When certificates are due, what waits how long after failures, and for which names there can be one."""

from __future__ import annotations

import msgspec
import pytest

from sendkit_server.model.certificate import Certificate, Tries, certifiable, covers, due_at, failed, warn_at
from sendkit_server.model.instant import DAY_MS, HOUR_MS

NOW = 20_000 * DAY_MS
HERE, SETUP = "https://ca.test/dir", "https://ca.test/dir http-01 ops@sender.test"
CERTIFICATE = Certificate("mail.sender.test", "", "", HERE, "CA", NOW, NOW + 90 * DAY_MS)


def test_a_certificate_is_due_at_two_thirds_of_its_life_or_at_once_from_another_authority() -> None:
    assert due_at(None, None, SETUP, HERE) == 0
    assert due_at(CERTIFICATE, None, SETUP, HERE) == NOW + 60 * DAY_MS
    assert due_at(CERTIFICATE, None, SETUP, "https://other.test/dir") == 0


def test_failures_put_it_off_until_the_settings_change_or_somebody_wants_it_now() -> None:
    tries = failed(None, SETUP, "no", 0, NOW)
    assert due_at(None, tries, SETUP, HERE) == NOW + HOUR_MS
    assert due_at(None, tries, "other settings", HERE) == 0
    assert due_at(CERTIFICATE, msgspec.structs.replace(tries, wanted_now=True), SETUP, HERE) == 0
    late = failed(None, SETUP, "no", 0, NOW + 60 * DAY_MS)
    assert due_at(CERTIFICATE, late, SETUP, HERE) == NOW + 60 * DAY_MS + HOUR_MS


def test_the_waits_double_to_a_day_and_are_longer_where_the_authority_says_so() -> None:
    tries, hours = None, []
    for _ in range(7):
        tries = failed(tries, SETUP, "no", 0, NOW)
        hours.append((tries.next_at - NOW) // HOUR_MS)
    assert hours == [1, 2, 4, 8, 16, 24, 24]
    assert failed(None, SETUP, "no", 3 * DAY_MS, NOW).next_at == NOW + 3 * DAY_MS
    assert failed(tries, "other settings", "no", 0, NOW).failures == 1


def test_what_was_wanted_now_and_failed_waits_again() -> None:
    assert not failed(Tries(SETUP, wanted_now=True), SETUP, "no", 0, NOW).wanted_now


def test_people_are_warned_two_weeks_before_the_end_but_not_of_short_ones_before_their_renewal() -> None:
    assert warn_at(NOW, NOW + 90 * DAY_MS) == NOW + 76 * DAY_MS
    assert warn_at(NOW, NOW + 6 * DAY_MS) == NOW + 4 * DAY_MS


def test_only_dns_names_with_a_dot_can_be_certified_and_each_once() -> None:
    asked = [
        "Mail.Sender.test.",
        None,
        "mail.sender.test",
        "localhost",
        "a.localhost",
        "127.0.0.1",
        "[::1]",
        "b..c",
        "bücher.test",
    ]
    assert certifiable(asked) == ["mail.sender.test", "xn--bcher-kva.test"]


@pytest.mark.parametrize(
    ("pattern", "name", "good"),
    [
        ("mail.sender.test", "mail.sender.test", True),
        ("*.sender.test", "mail.sender.test", True),
        ("*.sender.test", "sender.test", False),
        ("*.sender.test", "a.mail.sender.test", False),
        ("other.test", "mail.sender.test", False),
    ],
)
def test_a_wildcard_covers_one_label(pattern: str, name: str, good: bool) -> None:
    assert covers([pattern], name) is good
