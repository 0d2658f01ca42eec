"""What a try to deliver changes: each recipient's status and plan, and the events that tell of it. Pure.

`sent` comes with the first try's outcome, before it and in the same transaction; `delivery_delayed` once, at the first
deferral; `delivered`, `bounced` and `failed` with the outcome they name. A recipient whose site is being left alone
for a while was not tried: its attempts are not counted, but it is told that the mail is late.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import Recipient
from sendkit_server.model.outcome import Attempt, Outcome, Result
from sendkit_server.model.status import RANK, Status, moved
from sendkit_server.store.values import Completion, Job, NewEvent, RecipientUpdate

_STATUS = {
    Result.DELIVERED: Status.DELIVERED,
    Result.DEFERRED: Status.DELAYED,
    Result.BOUNCED: Status.BOUNCED,
    Result.FAILED: Status.FAILED,
}
_encode = msgspec.json.Encoder().encode


class Detail(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event's detail, as JSON without what is not known."""

    host: str | None = None
    route: str | None = None
    tls: str | None = None
    attempt: int | None = None
    reason: str | None = None
    code: int | None = None
    enhanced: str | None = None
    text: str | None = None
    milliseconds: int | None = None
    possible_duplicate: bool = False
    next_attempt_at: Instant | None = None


def completion(
    job: Job,
    attempt: Attempt | None,
    next_at: Instant | None,
    now: Instant,
    captured: bytes | None = None,
    *,
    waits: Outcome | None = None,
) -> Completion:
    """Everything to write for a job after a try, or, when there was none (attempt None), for its waiting.

    next_at: when deferred recipients are tried again.  waits: why nothing was tried; only with attempt None.
    ValueError when the outcomes do not fit the job's recipients.
    """
    if attempt is None:
        if waits is None:
            raise ValueError("a job that was not tried needs the reason why it waits")
        outcomes: tuple[Outcome, ...] = (waits,) * len(job.recipients)
    else:
        outcomes = attempt.outcomes
    updates = []
    events: list[NewEvent] = []
    for recipient, outcome in zip(job.recipients, outcomes, strict=True):
        status = moved(recipient.status, _STATUS[outcome.result])
        updates.append(
            RecipientUpdate(
                recipient.n,
                status,
                recipient.attempts if attempt is None else recipient.attempts + 1,
                outcome.reason,
                outcome.text,
                outcome.code,
                outcome.enhanced,
                next_at if outcome.result is Result.DEFERRED else None,
            )
        )
        events.extend(_events(recipient, outcome, status, attempt, next_at, now))
    return Completion(job, attempt, tuple(updates), tuple(events), now, captured)


def handed_back(job: Job, now: Instant, why: str) -> Completion:
    """A job that this node gives up untried: due at once, nothing happened to it. why: a sentence."""
    updates = tuple(
        RecipientUpdate(r.n, r.status, r.attempts, "handed_back", why, None, None, now) for r in job.recipients
    )
    return Completion(job, None, updates, (), now)


def _events(
    recipient: Recipient,
    outcome: Outcome,
    status: Status,
    attempt: Attempt | None,
    next_at: Instant | None,
    now: Instant,
) -> Iterator[NewEvent]:
    before = recipient.status
    if before not in RANK:
        return
    if attempt is not None and RANK[before] < RANK[Status.SENT]:
        first = Detail(host=attempt.host, route=attempt.route, tls=attempt.tls, attempt=recipient.attempts + 1)
        yield NewEvent(Status.SENT, recipient.n, now, _encode(first).decode())
    if status is before:
        return
    told = Detail(
        host=attempt.host if attempt else None,
        route=attempt.route if attempt else None,
        tls=attempt.tls if attempt else None,
        attempt=recipient.attempts + 1 if attempt else None,
        reason=outcome.reason,
        code=outcome.code,
        enhanced=outcome.enhanced,
        text=outcome.text,
        milliseconds=attempt.milliseconds if attempt else None,
        possible_duplicate=outcome.possible_duplicate,
        next_attempt_at=next_at if outcome.result is Result.DEFERRED else None,
    )
    yield NewEvent(status, recipient.n, now, _encode(told).decode())
