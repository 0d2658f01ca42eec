"""What became of each parcel, written down: attempts, plans and counts, and how much is in memory until then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from sendkit_server.deliver.office import Tried
from sendkit_server.deliver.outcome import TOO_MANY_RECIPIENTS, gave_up
from sendkit_server.deliver.parcel import Parcel
from sendkit_server.deliver.plan import Way
from sendkit_server.deliver.room import Room, weight_of
from sendkit_server.deliver.route import Capture
from sendkit_server.deliver.settings import DeliverySettings
from sendkit_server.events import completion, handed_back
from sendkit_server.model.instant import Instant
from sendkit_server.model.outcome import Attempt, Outcome, Result
from sendkit_server.model.retry import next_attempt
from sendkit_server.store.errors import StoreUnavailable
from sendkit_server.store.values import Completion, Job

WRITE_RETRY_S = (0.1, 0.5, 2.0, 5.0)  # the last repeats


class Writer(Protocol):
    """What the ledger needs of the store."""

    async def complete(self, completion: Completion) -> object:
        """Write it; durable when it returns, whatever that is."""


class Ledger:
    """Counts jobs in when they come and out when their outcome is durable.

    planned: told each time at which something is tried again, once that is written.  eased: told when more may be
    fetched than before.
    """

    def __init__(
        self,
        settings: DeliverySettings,
        room: Room,
        writer: Writer,
        *,
        clock: Callable[[], Instant],
        random: Callable[[], float],
        log: FilteringBoundLogger,
        start: Callable[[Coroutine[None, None, None]], object],
        planned: Callable[[Instant], None],
        eased: Callable[[], None],
        on_attempt: Callable[[Job, Attempt], None] | None,
    ) -> None:
        self.delivered = 0
        self.has_left = False  # whether any mail was taken by another server
        self.deferred = 0
        self.failed = 0
        self._settings = settings
        self._room = room
        self._writer = writer
        self._clock = clock
        self._random = random
        self._log = log
        self._start = start
        self._planned = planned
        self._eased = eased
        self._on_attempt = on_attempt
        self._unwritten = 0
        self._writable = asyncio.Event()
        self._empty = asyncio.Event()

    @property
    def jobs(self) -> int:
        """How many are in memory."""
        return self._room.in_memory.jobs

    @property
    def size_bytes(self) -> int:
        """Of all of them."""
        return self._room.in_memory.size_bytes

    def take_in(self, job: Job) -> None:
        """A job is in memory from now on."""
        self._room.in_memory.add(weight_of(job))

    def recount(self, before: Sequence[Job], after: Sequence[Job]) -> None:
        """Jobs in memory have been parted."""
        for job in before:
            self._room.in_memory.remove(weight_of(job))
        for job in after:
            self._room.in_memory.add(weight_of(job))

    def settle(
        self,
        parcel: Parcel,
        way: Way,
        tried: Tried,
        outcomes: list[Outcome],
        *,
        captured: bytes | None = None,
        not_before: Instant = 0,
    ) -> None:
        """Write down a try. outcomes: for parcel.addresses.  not_before: when its site can be asked again."""
        now = self._clock()
        transcript = parcel.before + parcel.notes + tried.transcript
        start = 0
        # What a receiver's limit of recipients kept out goes with the next transaction, now (RFC 5321 4.5.3.1.10).
        some_went = any(outcome.result is Result.DELIVERED for outcome in outcomes)
        for job in parcel.jobs:
            count = len(job.recipients)
            mine = outcomes[start : start + count]
            start += count
            next_at: Instant | None = None
            if any(outcome.result is Result.DEFERRED for outcome in mine):
                next_at, mine = (
                    (now, mine) if some_went and _only_many(mine) else self._plan(job, mine, now, not_before)
                )
            attempt = Attempt(
                way.name,
                tuple([recipient.n for recipient in job.recipients]),
                tried.started_at,
                tried.milliseconds,
                tried.host,
                tried.address,
                tried.tls,
                transcript,
                tuple(mine),
            )
            self._count(job, attempt, next_at)
            self._write(completion(job, attempt, next_at, now, captured))

    def let_wait(self, parcel: Parcel, why: Outcome, until: Instant) -> None:
        """Write down that nothing was tried, why, and until when."""
        for job in parcel.jobs:
            self._write(completion(job, None, until, self._clock(), waits=why))

    def drop(self, parcel: Parcel) -> None:
        """Forget it without a word to the store: it is not ours any more."""
        for job in parcel.jobs:
            self._take_out(job)

    def hand_back(self, parcel: Parcel, why: str) -> None:
        """Give it up untried, for whoever takes it next."""
        self.hand_back_jobs(parcel.jobs, why)

    def hand_back_jobs(self, jobs: Sequence[Job], why: str, at: Instant | None = None) -> None:
        """As hand_back. at: when they are due again; None: at once."""
        for job in jobs:
            self._write(handed_back(job, self._clock(), why, at))

    def end(self, job: Job, outcome: Outcome) -> None:
        """Write down that its recipients are at their end, though nothing was tried."""
        self._log.info(f"delivery.{outcome.result.value}", message=job.message.id, site=job.site, reason=outcome.reason)
        self._write(completion(job, None, None, self._clock(), waits=outcome))

    async def may_go_on(self) -> None:
        """Wait while too many outcomes are not written yet: what is delivered and unwritten may go twice."""
        while self._unwritten >= self._settings.unwritten_completions:
            self._writable.clear()
            await self._writable.wait()

    async def until_empty(self) -> None:
        """Wait until nothing is in memory."""
        while self.jobs:
            self._empty.clear()
            await self._empty.wait()

    def _plan(
        self, job: Job, outcomes: list[Outcome], now: Instant, not_before: Instant
    ) -> tuple[Instant | None, list[Outcome]]:
        """When the deferred ones are tried again; when that is never, they have failed."""
        tries = 1 + max(recipient.attempts for recipient in job.recipients)
        at = next_attempt(self._settings.retry, tries, job.message.created_at, now, self._random())
        if at is not None:
            # A mail with a deadline of its own is looked at once more when that is over, and ends then.
            at = max(at, not_before)
            return at if job.message.expires_at is None else min(at, max(job.message.expires_at, now)), outcomes
        window_ms = self._settings.retry.window_ms
        return None, [gave_up(each, window_ms) if each.result is Result.DEFERRED else each for each in outcomes]

    def _count(self, job: Job, attempt: Attempt, next_at: Instant | None) -> None:
        if self._on_attempt is not None:
            self._on_attempt(job, attempt)
        for outcome in attempt.outcomes:
            if outcome.result is Result.DELIVERED:
                self.delivered += 1
                self.has_left = self.has_left or attempt.route != Capture().name
            elif outcome.result is Result.DEFERRED:
                self.deferred += 1
            else:
                self.failed += 1
        # Asked before the fields are put together: at full speed a line a mail is a tenth of the time.
        if not self._log.is_enabled_for(logging.INFO):
            return
        outcome = attempt.outcomes[0]
        event = "failed" if outcome.result is Result.BOUNCED else outcome.result.value
        self._log.info(
            f"delivery.{event}",
            message=job.message.id,
            site=job.site,
            host=attempt.host,
            code=outcome.code,
            reason=outcome.reason,
            next_at=next_at,
        )

    def _write(self, written: Completion) -> None:
        self._unwritten += 1
        self._start(self._write_durably(written))

    async def _write_durably(self, written: Completion) -> None:
        tries = 0
        while True:
            try:
                await self._writer.complete(written)
                break
            except Exception as error:
                # The mail has gone; if nobody writes that down it goes twice. So again, until the store is back.
                trace = None if isinstance(error, StoreUnavailable) else error
                self._log.error("delivery.complete_failed", error=str(error), exc_info=trace)
                await asyncio.sleep(WRITE_RETRY_S[min(tries, len(WRITE_RETRY_S) - 1)])
                tries += 1
        self._unwritten -= 1
        self._writable.set()
        self._take_out(written.job)
        # Not before it is written: who looks for it would not find it.
        for update in written.updates:
            if update.next_attempt_at is not None:
                self._planned(update.next_attempt_at)

    def _take_out(self, job: Job) -> None:
        before = self._room.least
        self._room.in_memory.remove(weight_of(job))
        if before is not self._room.least:
            self._eased()
        if not self.jobs:
            self._empty.set()


def _only_many(outcomes: Sequence[Outcome]) -> bool:
    """Whether those that were deferred were only too many for one transaction."""
    return all(each.reason == TOO_MANY_RECIPIENTS for each in outcomes if each.result is Result.DEFERRED)
