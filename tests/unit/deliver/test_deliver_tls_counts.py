"""Counts of how connections were secured: as what each counts, and what becomes of those that cannot be written."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

import pytest

from sendkit_server.deliver import tls_counts
from sendkit_server.deliver.mta_sts import Binding, Failure, Sts
from sendkit_server.deliver.tls_counts import PolicyKind, Session, SessionResult, TlsCounts, counted_as
from sendkit_server.deliver.tls_policy import NO_POLICY, Policy
from sendkit_server.model.instant import DAY_MS
from sendkit_server.net.tls_client import Trouble
from sendkit_server.store.errors import OutcomeUnknown, StoreUnavailable
from sendkit_server.store.queries.tls import CountKey
from sendkit_server.wire.mta_sts import Mode, StsPolicy

NOW = 20_000 * DAY_MS + 5
GOOD = Session("mx.a.test", SessionResult.SUCCESS, encrypted=True)
UNPROVED = Session("mx.a.test", Trouble.EXPIRED, encrypted=True)
CLEAR = Session("mx.a.test", SessionResult.STARTTLS_NOT_SUPPORTED)


def sts(mode: Mode, *mx: str) -> Policy:
    return Policy(sts=Sts(Binding("a.test", "1", StsPolicy(mode, mx, 60), 0, 60_000), None, 0, 0))


FAILED = Policy(sts=Sts(None, Failure(SessionResult.STS_POLICY_INVALID, "no"), 0, 0))


@pytest.mark.parametrize(
    ("policy", "session", "expected"),
    [
        (NO_POLICY, GOOD, (PolicyKind.NONE, "success")),
        (NO_POLICY, UNPROVED, (PolicyKind.NONE, "success")),
        (NO_POLICY, CLEAR, (PolicyKind.NONE, "starttls-not-supported")),
        (sts(Mode.NONE), UNPROVED, (PolicyKind.NONE, "success")),
        (sts(Mode.ENFORCE, "mx.a.test"), GOOD, (PolicyKind.STS, "success")),
        (sts(Mode.TESTING, "mx.a.test"), UNPROVED, (PolicyKind.STS, "certificate-expired")),
        (sts(Mode.TESTING, "mx.b.test"), GOOD, (PolicyKind.STS, "validation-failure")),
        (FAILED, GOOD, (PolicyKind.STS, "sts-policy-invalid")),
        (FAILED, Session("mx.a.test", SessionResult.SUCCESS, True, True), (PolicyKind.TLSA, "success")),
    ],
)
def test_a_session_counts_as_what_its_policy_makes_of_it(policy, session, expected):
    assert counted_as(policy, session) == expected


class Written:
    """What was written. errors: raised one by one before anything is taken."""

    def __init__(self, *errors: Exception) -> None:
        self.counts: Counter[CountKey] = Counter()
        self.errors = list(errors)

    async def __call__(self, counts: Mapping[CountKey, int]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.counts.update(counts)


async def test_what_could_not_be_written_is_written_later_and_what_may_have_been_is_not():
    written = Written(StoreUnavailable("away"), OutcomeUnknown("perhaps"))
    counts = TlsCounts(written, lambda: NOW)
    key = CountKey(NOW - 5, "a.test", "no-policy-found", "mx.a.test", "success")
    counts.add(NO_POLICY, "a.test", [GOOD, UNPROVED])
    await counts.flush()
    counts.add(NO_POLICY, "a.test", [GOOD])
    await counts.flush()
    assert not written.counts
    counts.add(NO_POLICY, "a.test", [GOOD])
    await counts.flush()
    await counts.flush()
    assert written.counts == {key: 1}


async def test_memory_is_bounded_and_everything_goes_in_slices(monkeypatch):
    monkeypatch.setattr(tls_counts, "MOST_KEYS", 450)
    written = Written()
    counts = TlsCounts(written, lambda: NOW)
    for number in range(500):
        counts.add(NO_POLICY, f"{number}.test", [GOOD])
    counts.add(NO_POLICY, "0.test", [GOOD])
    await counts.flush()
    assert len(written.counts) == 450 and sum(written.counts.values()) == 451


async def test_they_are_written_while_it_runs(monkeypatch):
    monkeypatch.setattr(tls_counts, "WRITE_S", 0.001)
    written = Written()
    counts = TlsCounts(written, lambda: NOW)
    running = asyncio.create_task(counts.run())
    counts.add(NO_POLICY, "a.test", [GOOD])
    while not written.counts:
        await asyncio.sleep(0.002)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert sum(written.counts.values()) == 1
