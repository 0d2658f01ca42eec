"""Values that cross the store's border: what is claimed, and what is written back."""

from __future__ import annotations

import msgspec

from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import Content, Message, Recipient
from sendkit_server.model.outcome import Attempt
from sendkit_server.model.status import Status


class Job(msgspec.Struct, frozen=True):
    """Recipients of one message at one domain, owned by this node, due now.

    site: the recipients' domain (A-label); deliver maps it to the set of MX hosts.  content: None means it must be
    read from the store.  size_bytes: of the content as handed in.  fence: what every write-back must still match.
    """

    message: Message
    recipients: tuple[Recipient, ...]
    site: str
    size_bytes: int
    fence: int
    content: Content | None = None


class RecipientUpdate(msgspec.Struct, frozen=True):
    """A recipient after a try. next_attempt_at: None once settled."""

    n: int
    status: Status
    attempts: int
    reason: str
    explanation: str
    code: int | None
    enhanced: str | None
    next_attempt_at: Instant | None


class NewEvent(msgspec.Struct, frozen=True):
    """Something that happened to one recipient, to be appended. detail: JSON object as text."""

    type: str
    n: int
    at: Instant
    detail: str


class Completion(msgspec.Struct, frozen=True):
    """One try's whole consequence, written in one transaction: attempt, statuses, events, perhaps a captured copy.

    Applied only to recipients that this node still owns with this fence.  attempt None: nothing was tried (the
    lane was waiting, or the node hands the job back), only the recipients' plan changes.
    """

    job: Job
    attempt: Attempt | None
    updates: tuple[RecipientUpdate, ...]
    events: tuple[NewEvent, ...]
    captured: bytes | None = None
