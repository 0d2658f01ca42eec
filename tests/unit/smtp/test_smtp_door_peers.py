from __future__ import annotations

import pytest

from sendkit_server.smtp.peers import ConnectionCounts, is_loopback


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
