"""Mails and completions for the store's tests."""

from __future__ import annotations

import itertools
from typing import Any

from sendkit_server.model.address import parse_mailbox
from sendkit_server.model.mail import Content, Door, Message, PartsContent, Recipient, Role, Tag
from sendkit_server.model.outcome import Attempt, Exchange, Outcome, Result
from sendkit_server.model.status import Status
from sendkit_server.store.values import Completion, Job, NewEvent, NewMail, NewMessage, RecipientUpdate

_numbers = itertools.count(1)
SENDER = parse_mailbox("Acme <hello@sender.test>")


def new_mail(
    owner: int,
    *addresses: str,
    owned: bool = True,
    at: int = 5_000,
    content: Content | None = None,
    size_bytes: int = 100,
    tags: tuple[Tag, ...] = (),
    **wishes: Any,
) -> NewMail:
    """One message to these addresses (default: one). wishes: how it wants to travel, as Message has it."""
    boxes = tuple(parse_mailbox(address) for address in addresses or ("ann@there.test",))
    number = next(_numbers)
    message = Message(
        id=f"msg_{number:026d}", team_id=1, content_id=f"con_{number:026d}", door=Door.HTTP, key_id="key_1", from_=SENDER,
        to=boxes, cc=(), subject="Hello", message_id=f"<{number}@sender.test>", created_at=at, **wishes,
    )  # fmt: skip
    recipients = tuple(Recipient(n, box, Role.TO) for n, box in enumerate(boxes))
    sites = frozenset(box.domain for box in boxes) if owned else frozenset()
    return NewMail(
        parent_id="req_1", owner=owner, content=content or PartsContent("Hello", None, "text"), size_bytes=size_bytes,
        messages=(NewMessage(message, recipients, sites),), tags=tags,
    )  # fmt: skip


def owned_job(mail: NewMail) -> Job:
    """The job of a mail that was inserted as owned, all at one site."""
    new = mail.messages[0]
    return Job(
        new.message, new.recipients, new.recipients[0].mailbox.domain, mail.size_bytes, 1, mail.content, mail.owner
    )


def completion(job: Job, status: Status = Status.DELIVERED, next_at: int | None = None, at: int = 9_000) -> Completion:
    """A try of the whole job with one outcome."""
    deferred = next_at is not None
    outcome = Outcome(
        Result.DEFERRED if deferred else Result.DELIVERED, "greylisted" if deferred else "delivered", "words", 450
    )
    attempt = Attempt(
        "direct", tuple(recipient.n for recipient in job.recipients), at, 12, "mx.there.test", "127.0.0.1", None,
        (Exchange(0, "<", "220 hi"),), tuple(outcome for _ in job.recipients),
    )  # fmt: skip
    updates = tuple(
        RecipientUpdate(recipient.n, status, recipient.attempts + 1, outcome.reason, outcome.text, 450, None, next_at)
        for recipient in job.recipients
    )
    events = tuple(NewEvent(Status.SENT, recipient.n, at, "{}") for recipient in job.recipients)
    return Completion(job, attempt, updates, events, at)
