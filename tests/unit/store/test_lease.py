"""How long a process may act in the name of its incarnation, by a clock that the test moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sendkit_server.store.lease import LIFETIME_MS, MARGIN_S, Lease

LASTS_S = LIFETIME_MS / 1000 - MARGIN_S


class Elapsed:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


def test_a_lease_that_never_began_does_not_hold() -> None:
    lease = Lease(Elapsed())
    assert (lease.owner, lease.holds()) == (0, False)


def test_a_lease_ends_before_others_may_take_anything() -> None:
    elapsed = Elapsed()
    lease = Lease(elapsed)
    lease.begin(7, lease.elapsed(), for_ever=False)
    elapsed.s += LASTS_S - 0.001
    assert lease.owner == 7 and lease.holds()
    elapsed.s += 0.001
    assert not lease.holds()
    assert LASTS_S < LIFETIME_MS / 1000


def test_a_lease_that_nobody_can_take_holds_for_ever_until_it_is_ended() -> None:
    elapsed = Elapsed()
    lease = Lease(elapsed)
    lease.begin(7, lease.elapsed(), for_ever=True)
    elapsed.s += 1e9
    assert lease.holds()
    lease.end()
    assert (lease.owner, lease.holds()) == (0, False)


def test_a_heartbeat_counts_from_when_it_was_sent_not_from_when_it_was_answered() -> None:
    elapsed = Elapsed()
    lease = Lease(elapsed)
    lease.begin(7, lease.elapsed(), for_ever=False)
    sent_at = elapsed()
    elapsed.s += 20
    lease.prolong(sent_at)
    elapsed.s = sent_at + LASTS_S
    assert not lease.holds()


def test_a_lease_that_had_run_out_holds_again_once_a_heartbeat_was_written() -> None:
    elapsed = Elapsed()
    lease = Lease(elapsed)
    lease.begin(7, lease.elapsed(), for_ever=False)
    elapsed.s += 60
    assert not lease.holds()
    lease.prolong(elapsed())
    assert lease.holds()


@given(st.lists(st.integers(0, 100), min_size=1))
def test_answers_in_any_order_leave_the_lease_of_the_last_one_that_was_sent(sent_at: list[int]) -> None:
    elapsed = Elapsed()
    elapsed.s = -1000
    lease = Lease(elapsed)
    lease.begin(7, lease.elapsed(), for_ever=False)
    for at in sent_at:
        lease.prolong(at)
    elapsed.s = max(sent_at) + LASTS_S - 0.5
    assert lease.holds()
    elapsed.s = max(sent_at) + LASTS_S
    assert not lease.holds()
