"""The clock that plans: it follows the wall clock, and no jump of it."""

from __future__ import annotations

import pytest

from sendkit_server.model.clock import SteadyClock

MS = 1_000_000
YEAR_MS = 365 * 24 * 3_600_000


class Time:
    """A wall clock that can be set, and what really passes."""

    def __init__(self) -> None:
        self.wall = 1_000_000 * MS
        self.elapsed = 77 * MS
        self.clock = SteadyClock(lambda: self.wall, lambda: self.elapsed)

    def passes(self, milliseconds: int) -> int:
        self.wall += milliseconds * MS
        self.elapsed += milliseconds * MS
        return self.clock.now()


def test_it_tells_the_wall_clocks_time() -> None:
    time = Time()
    assert time.clock.now() == 1_000_000
    assert time.passes(5) == 1_000_005


@pytest.mark.parametrize("jump", [YEAR_MS, -YEAR_MS])
def test_a_jump_of_a_year_moves_no_plan_by_more_than_a_tenth(jump: int) -> None:
    time = Time()
    time.wall += jump * MS
    assert time.passes(0) == 1_000_000
    passed = time.passes(60_000) - 1_000_000
    assert passed == (66_000 if jump > 0 else 54_000)
    assert abs(time.clock.behind_ms() - jump) < 10_000


@pytest.mark.parametrize("jump", [3_000, -3_000])
def test_a_jump_of_seconds_is_made_up_for_bit_by_bit(jump: int) -> None:
    time = Time()
    time.wall += jump * MS
    before = time.clock.now()
    for _ in range(300):
        now = time.passes(100)
        assert 90 <= now - before <= 110
        before = now
    assert time.clock.behind_ms() == 0
    assert time.passes(100) == time.wall // MS


def test_a_clock_that_is_asked_often_follows_as_well() -> None:
    time = Time()
    time.wall += 5 * MS
    for _ in range(1_000):
        time.wall += MS // 10
        time.elapsed += MS // 10
        time.clock.now()
    assert time.clock.behind_ms() == 0
