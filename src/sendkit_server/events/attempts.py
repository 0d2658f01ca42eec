"""What a try to deliver changes: each recipient's status and plan, and the events that tell of it. Pure.

`sent` comes with the first try's outcome, before it and in the same transaction; `delivery_delayed` once, at the first
deferral; `delivered`, `bounced` and `failed` with the outcome they name. A recipient whose site is being left alone
for a while was not tried: its attempts are not counted, but it is told that the mail is late. A hard bounce suppresses
its address; a soft one has its history looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from sendkit_server.model.bounce import Bounce, BounceType, judge
from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import Recipient
from sendkit_server.model.outcome import Attempt, Outcome, Result
from sendkit_server.model.status import RANK, Status, moved
from sendkit_server.model.suppression import NewSuppression, explanation
from sendkit_server.store.values import Completion, Ended, Job, NewEvent, RecipientUpdate

_STATUS = {
    Result.DELIVERED: Status.DELIVERED,
    Result.DEFERRED: Status.DELAYED,
    Result.BOUNCED: Status.BOUNCED,
    Result.FAILED: Status.FAILED,
    Result.EXPIRED: Status.EXPIRED,
    Result.SUPPRESSED: Status.SUPPRESSED,
}
_REFUSED = (Result.BOUNCED, Result.FAILED)
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
    bounce: Bounce | None = None


class Evidence(msgspec.Struct, frozen=True):
    """Why an address is suppressed: which mail, and the words of its server."""

    message_id: str
    subtype: str
    code: int | None
    enhanced: str | None
    text: str


def completion(
    job: Job,
    attempt: Attempt | None,
    next_at: Instant | None,
    now: Instant,
    captured: bytes | None = None,
    *,
    waits: Outcome | None = None,
) -> Completion:
    """Everything to write for a job after a try, or, when there was none (attempt None), for its waiting or its end.

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
    if attempt is None or not any(outcome.result in _REFUSED for outcome in outcomes):
        return Completion(job, attempt, tuple(updates), tuple(events), now, captured)
    hard, soft = _judged(job, outcomes)
    return Completion(job, attempt, tuple(updates), tuple(events), now, captured, hard, soft)


def suppressed_at_accept(n: int, reason: str, now: Instant) -> Ended:
    """The end of a recipient that was suppressed before the mail came. reason: bounce, complaint or manual."""
    text = explanation(reason)
    told = Detail(reason=reason, text=text)
    return Ended(reason, text, NewEvent(Status.SUPPRESSED, n, now, _encode(told).decode()))


def suppressed_meanwhile(reason: str) -> Outcome:
    """The outcome of a recipient whose address was suppressed while its mail waited."""
    return Outcome(Result.SUPPRESSED, reason, explanation(reason))


def handed_back(job: Job, now: Instant, why: str, at: Instant | None = None) -> Completion:
    """A job that this node gives up untried: nothing happened to it. why: a sentence.  at: when it is due; None: at once."""
    due = now if at is None else at
    updates = tuple(
        RecipientUpdate(r.n, r.status, r.attempts, "handed_back", why, None, None, due) for r in job.recipients
    )
    return Completion(job, None, updates, (), now)


def _judged(job: Job, outcomes: Sequence[Outcome]) -> tuple[tuple[NewSuppression, ...], tuple[str, ...]]:
    """Which addresses a try has proven to be no good, and which have bounced softly.

    Only the recipient's own server counts for soft ones: that we reached nobody for two days may be our own fault.
    A captured mail has met no server at all.
    """
    hard: list[NewSuppression] = []
    soft: list[str] = []
    for recipient, outcome in zip(job.recipients, outcomes, strict=True):
        if outcome.result not in _REFUSED or outcome.code is None or job.message.capture:
            continue
        bounce = _judge(recipient, outcome)
        if outcome.result is Result.BOUNCED and bounce.suppresses:
            evidence = Evidence(job.message.id, bounce.subtype, outcome.code, outcome.enhanced, outcome.text)
            hard.append(NewSuppression(recipient.mailbox.matching, _encode(evidence).decode()))
        elif bounce.type is BounceType.SOFT:
            soft.append(recipient.mailbox.matching)
    return tuple(hard), tuple(soft)


def _judge(recipient: Recipient, outcome: Outcome) -> Bounce:
    return judge(outcome.reason, outcome.code, outcome.enhanced, outcome.text, recipient.mailbox.domain)


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
    if attempt is not None and outcome.result is not Result.EXPIRED and RANK[before] < RANK[Status.SENT]:
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
        bounce=_judge(recipient, outcome) if outcome.result is Result.BOUNCED else None,
    )
    yield NewEvent(status, recipient.n, now, _encode(told).decode())
