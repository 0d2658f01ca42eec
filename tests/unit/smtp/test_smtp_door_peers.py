from __future__ import annotations

import pytest

from sendkit_server.smtp import peers
from sendkit_server.smtp.peers import ConnectionCounts, FailedLogins, address_group, is_loopback


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("somewhere", "somewhere"),
    ],
)
def test_an_ipv6_network_counts_as_one_client(host: str, group: str) -> None:
    assert address_group(host) == group


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.7", False),
        ("x", False),
    ],
)
def test_loopback_is_known_in_every_spelling(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_place_that_was_refused_leaves_nothing_behind() -> None:
    counts = ConnectionCounts(1, 1)
    assert counts.admit("a")
    assert not counts.admit("b")
    counts.release("a")
    assert counts.total == 0
    assert not counts._by_address


def test_the_twenty_first_failure_within_ten_minutes_is_too_many() -> None:
    failed = FailedLogins(20, 600.0)
    assert [failed.record("a", float(second)) for second in range(21)] == [False] * 20 + [True]
    assert not failed.record("b", 21.0)


def test_failures_that_lie_back_further_than_the_window_do_not_count() -> None:
    failed = FailedLogins(2, 600.0)
    assert [failed.record("a", at) for at in (0.0, 1.0, 601.0, 602.0, 603.0)] == [False, False, False, False, True]


def test_the_memory_for_failures_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MAX_REMEMBERED", 3)
    failed = FailedLogins(1, 600.0)
    for address in "abcd":
        failed.record(address, 0.0)
    assert list(failed._by_address) == ["b", "c", "d"]
