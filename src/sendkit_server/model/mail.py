"""One mail as a value, at each step of its way: submission, content, message, recipient.

A *submission* is what a door took in, still in the user's words. accept turns it into one *content* (what was handed
in, stored once) and one or more *messages* made from it, each with its *recipients*.
"""

from __future__ import annotations

import re
from enum import IntEnum, StrEnum

import msgspec

from sendkit_server.model.address import Mailbox
from sendkit_server.model.instant import Instant
from sendkit_server.model.status import Status


class Door(StrEnum):
    """Which way a mail came in."""

    HTTP = "http"
    SMTP = "smtp"


class Role(StrEnum):
    """Which header a recipient stands in; an SMTP envelope's recipients that stand in none are bcc."""

    TO = "to"
    CC = "cc"
    BCC = "bcc"


class Priority(IntEnum):
    """A mail's place in its lane; the lowest number goes first."""

    URGENT = 0
    NORMAL = 1
    BULK = 2


DEFAULT_STREAM = "transactional"
STREAM = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class Restrictions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a key may not do though its permissions allow it; also as it is stored, as JSON. Empty: no restriction.

    domain_ids: it may send from.  senders: From addresses, `*@example.com` for all of a domain.  recipient_domains: it may
    send to.  networks: CIDR it may be used from.  daily_limit: recipients a UTC day.  rewrite_from: a From that it may not
    use becomes the first of senders, and the original Reply-To.  shadow: everything is done but the delivery.
    """

    domain_ids: tuple[str, ...] = ()
    senders: tuple[str, ...] = ()
    recipient_domains: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    daily_limit: int | None = None
    rewrite_from: bool = False
    shadow: bool = False


NO_RESTRICTIONS = Restrictions()


class ApiKey(msgspec.Struct, frozen=True):
    """A key as the doors see it: never the secret itself. team_paused: why its team may not send, None when it may."""

    id: str
    team_id: int
    name: str
    prefix: str
    permissions: frozenset[str]
    test: bool
    domain_id: str | None = None
    expires_at: Instant | None = None
    restrictions: Restrictions = NO_RESTRICTIONS
    team_paused: str | None = None

    @property
    def captures(self) -> bool:
        """Whether its mail is taken and reported on, but never delivered."""
        return self.test or self.restrictions.shadow


class Attachment(msgspec.Struct, frozen=True):
    """One file, decoded. content_id set: an inline part that HTML names as `cid:…`."""

    filename: str
    content_type: str
    content: bytes
    content_id: str | None = None


class Tag(msgspec.Struct, frozen=True):
    """A label that filters and analytics group by. value is "" for a bare tag."""

    name: str
    value: str = ""


class Submission(msgspec.Struct, frozen=True):
    """What the HTTP door took in: types are checked, nothing else is. Addresses are still text.

    None or empty means not given. check_only: everything is checked, nothing stored.  idempotency_key: the same call with
    the same key is obeyed once.  path: what it came to.  client: the caller's address.
    """

    key: ApiKey
    from_: str | None = None
    to: tuple[str, ...] = ()
    cc: tuple[str, ...] = ()
    bcc: tuple[str, ...] = ()
    reply_to: tuple[str, ...] = ()
    subject: str | None = None
    html: str | None = None
    text: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    attachments: tuple[Attachment, ...] = ()
    tags: tuple[Tag, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    check_only: bool = False
    priority: str | None = None
    expires_at: str | None = None
    require_tls: bool | None = None
    stream: str | None = None
    idempotency_key: str | None = None
    path: str = "/emails"
    client: str = ""


class RawSubmission(msgspec.Struct, frozen=True):
    """What the SMTP door took in: an envelope and RFC 5322 bytes with CRLF line ends, dots unstuffed.

    recipients: already parsed one by one at RCPT.  tls: how the session was secured, for the Received line.
    capture: everything from the development listener is captured, whatever the key.  client: the client's address.
    """

    key: ApiKey
    return_path: str
    recipients: tuple[Mailbox, ...]
    raw: bytes
    protocol: str = "ESMTPSA"
    capture: bool = False
    client: str = ""


class PartsContent(msgspec.Struct, frozen=True, tag="parts"):
    """Content as the API gives it: compose makes the MIME message."""

    subject: str
    html: str | None
    text: str | None
    reply_to: tuple[Mailbox, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    attachments: tuple[Attachment, ...] = ()


class RawContent(msgspec.Struct, frozen=True, tag="raw"):
    """Content as SMTP gives it: a whole RFC 5322 message, kept as it came but for Bcc and our own headers."""

    raw: bytes


Content = PartsContent | RawContent


class Message(msgspec.Struct, frozen=True):
    """One accepted mail with its public id. to and cc are what its headers show, not the envelope.

    message_id: the Message-ID header with its angle brackets.  capture: never leaves, whatever the route.  expires_at: it
    is never sent after that.  require_tls: deferred rather than sent in clear or to a host that is not verified.
    """

    id: str
    team_id: int
    content_id: str
    door: Door
    key_id: str
    from_: Mailbox
    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...]
    subject: str
    message_id: str
    created_at: Instant
    domain_id: str | None = None
    capture: bool = False
    protocol: str = ""
    priority: Priority = Priority.NORMAL
    expires_at: Instant | None = None
    require_tls: bool = False
    stream: str = DEFAULT_STREAM


class Recipient(msgspec.Struct, frozen=True):
    """One address of a message. n: its place in the message, from 0."""

    n: int
    mailbox: Mailbox
    role: Role
    status: Status = Status.QUEUED
    attempts: int = 0


class Accepted(msgspec.Struct, frozen=True):
    """accept's yes: durable once it is returned. messages is empty for check_only. replayed: an earlier call's answer."""

    messages: tuple[AcceptedMessage, ...]
    recipients: tuple[CheckedRecipient, ...]
    warnings: tuple[Warning_, ...] = ()
    checked_only: bool = False
    replayed: bool = False


class AcceptedMessage(msgspec.Struct, frozen=True):
    """What the reply tells of one message. status: `queued`, `captured`, …"""

    id: str
    to: str
    status: str


class CheckedRecipient(msgspec.Struct, frozen=True):
    """The reply's `validation.recipients[]`."""

    email: str
    valid: bool = True
    reasons: tuple[str, ...] = ()


class Warning_(msgspec.Struct, frozen=True):
    """Something that was accepted but will hurt, and how to mend it."""

    name: str
    message: str
    fix: str
