"""Values that cross the store's border: what is claimed, and what is written back."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import Content, Message, Priority, Recipient, Tag
from sendkit_server.model.outcome import Attempt
from sendkit_server.model.status import Status
from sendkit_server.model.suppression import NewSuppression

ANY_BYTES = 2**62  # more than all mails together


class Job(msgspec.Struct, frozen=True):
    """Recipients of one message at one domain, owned by this node, due now.

    site: the recipients' domain (A-label); deliver maps it to the set of MX hosts.  content: None means it must be
    read from the store.  size_bytes: of the content as handed in.  owner, fence: the incarnation that owns it, and what
    every write-back must still match.  shared: the message has more recipients than these.
    """

    message: Message
    recipients: tuple[Recipient, ...]
    site: str
    size_bytes: int
    fence: int
    content: Content | None = None
    owner: int = 0
    shared: bool = False


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
    lane was waiting, or the node hands the job back), only the recipients' plan changes.  suppressions: addresses that
    this try has proven to be no good, written whoever owns the recipients.  soft_bounces: addresses (as
    recipient.matching) whose history has now to be looked at.
    """

    job: Job
    attempt: Attempt | None
    updates: tuple[RecipientUpdate, ...]
    events: tuple[NewEvent, ...]
    at: Instant
    captured: bytes | None = None
    suppressions: tuple[NewSuppression, ...] = ()
    soft_bounces: tuple[str, ...] = ()


class Ended(msgspec.Struct, frozen=True):
    """Why a recipient is at its end before anything was tried, and the event that tells it."""

    reason: str
    explanation: str
    event: NewEvent


class NewMessage(msgspec.Struct, frozen=True):
    """A message to be inserted. owned_sites: those whose recipients this node takes at once.

    ended: of each recipient whose status is an end, by its n.
    """

    message: Message
    recipients: tuple[Recipient, ...]
    owned_sites: frozenset[str]
    ended: Mapping[int, Ended] = MappingProxyType({})


class Once(msgspec.Struct, frozen=True):
    """What makes a call one that is obeyed only once.

    scope, key: by which a repetition is known, within a team.  fingerprint: SHA-256 of what was asked for.  reply: JSON, for
    whoever asks again until kept_until.
    """

    scope: str
    key: str
    fingerprint: bytes
    reply: str
    at: Instant
    kept_until: Instant


class Repeat(msgspec.Struct, frozen=True):
    """What `accept` comes to when a call with this scope and key was obeyed before: nothing is stored."""

    fingerprint: bytes
    reply: str


class NewMail(msgspec.Struct, frozen=True):
    """One call's consequence: one content and the messages made from it, stored in one transaction.

    parent_id: the call it came in with.  owner: this node's incarnation.  size_bytes: of the content as handed in.  once:
    None when the same call may come again.
    """

    parent_id: str
    owner: int
    content: Content
    size_bytes: int
    messages: tuple[NewMessage, ...]
    tags: tuple[Tag, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    once: Once | None = None


class Claim(msgspec.Struct, frozen=True):
    """A request for due recipients.

    exclude_sites: nothing of these; urgent_only: of these only urgent mail; least: of no site anything of a lower
    priority.  after_site: where the round over the sites goes on.  per_site, limit: recipients.  site_bytes, room_bytes: of one
    site and in all no further job is taken once those taken are so large, each as Job.size_bytes says: the first one
    always goes, the last one may go beyond.  body_bytes: how much content may be loaded along.  max_sites: how many
    sites are looked at before the claim answers with what it has.
    """

    owner: int
    now: Instant
    exclude_sites: frozenset[str]
    per_site: int
    limit: int
    after_site: str = ""
    body_bytes: int = 16 * 1024 * 1024
    max_sites: int = 1000
    urgent_only: frozenset[str] = frozenset()
    least: Priority = Priority.BULK
    site_bytes: int = ANY_BYTES
    room_bytes: int = ANY_BYTES


class Claimed(msgspec.Struct, frozen=True):
    """What a claim took. reached: the site where the next one goes on; "" when the round is complete."""

    jobs: list[Job]
    reached: str
