"""The shapes of requests and replies, for the OpenAPI description. Tests hold every real reply against them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType


class Shape(msgspec.Struct, forbid_unknown_fields=True):
    """A reply: what is not listed is not in it."""


class TagShape(Shape):
    """A label."""

    name: str
    value: str = ""


class AttachmentInput(msgspec.Struct):
    """A file. content: base64. content_id: makes it an inline part that the HTML names as `cid:…`."""

    content: str
    filename: str | None = None
    content_type: str | None = None
    content_id: str | None = None


class SendEmail(msgspec.Struct):
    """An email. One of html and text is needed. Unknown members are ignored; null and [] count as absent."""

    from_: str = msgspec.field(name="from")
    to: str | list[str]
    subject: str
    html: str | None = None
    text: str | None = None
    cc: str | list[str] | None = None
    bcc: str | list[str] | None = None
    reply_to: str | list[str] | None = None
    headers: dict[str, str] | None = None
    tags: list[TagShape] | None = None
    metadata: dict[str, str] | None = None
    attachments: list[AttachmentInput] | None = None
    priority: Literal["urgent", "normal", "bulk"] | None = None
    expires_at: str | None = None
    require_tls: bool | None = None
    stream: str | None = None
    check_only: bool | None = None


class CheckedRecipientShape(Shape):
    """One address of the call."""

    email: str
    valid: bool
    reasons: list[str]


class ValidationShape(Shape):
    """What was found in the addresses."""

    valid: bool
    recipients: list[CheckedRecipientShape]


class WarningShape(Shape):
    """Accepted, but it will hurt; and how to mend it."""

    name: str
    message: str
    fix: str


class SentShape(Shape):
    """One message of the call: one for each `to` address."""

    id: str
    to: str
    status: str


class SendReply(Shape):
    """id: the first message's; absent with check_only. status: queued, captured, suppressed or checked."""

    status: str
    validation: ValidationShape
    warnings: list[WarningShape]
    data: list[SentShape]
    id: str | UnsetType = UNSET


class DomainName(Shape):
    """The sending domain."""

    id: str
    name: str | None


class BounceShape(Shape):
    """What the recipient's server said, and what that says about the address: hard, soft, block or undetermined."""

    type: str
    subtype: str
    code: int | None
    enhanced: str | None
    diagnostic: str | None
    explanation: str
    action: str


class RecipientShape(Shape):
    """One address with its own status; reason and next_attempt_at tell why it waits and until when."""

    email: str
    role: str
    status: str
    reason: str | None
    next_attempt_at: str | None
    attempts: int
    bounce: BounceShape | None


class EventShape(Shape):
    """Something that happened to one recipient."""

    id: str
    type: str
    metadata: dict[str, Any]
    created_at: str


class EmailShape(Shape):
    """An email and what became of it. Times are UTC."""

    id: str
    from_: str = msgspec.field(name="from")
    to: str
    cc: list[str]
    subject: str
    last_event: str
    status: str
    reason: str | None
    next_attempt_at: str | None
    domain: DomainName | None
    template: None
    tags: list[TagShape]
    metadata: dict[str, str]
    stream: str
    door: str
    message_id: str
    deduplicated: bool
    recipients: list[RecipientShape]
    events: list[EventShape]
    scheduled_at: None
    sent_at: str | None
    created_at: str


class AttemptRecipient(Shape):
    """What one try came to for one recipient."""

    email: str | None
    result: str
    reason: str
    text: str
    code: int | None
    enhanced: str | None
    possible_duplicate: bool


class TranscriptLine(Shape):
    """side: `>` we said, `<` the server said, `*` happened."""

    at_ms: int
    side: str
    text: str


class AttemptShape(Shape):
    """One try over one connection."""

    id: str
    route: str
    host: str | None
    address: str | None
    tls: str | None
    outcome: str
    recipients: list[AttemptRecipient]
    transcript: list[TranscriptLine]
    milliseconds: int
    created_at: str


class ChangedEmail(Shape):
    """recipients: how many of the email's were cancelled, or are due at once."""

    object: str
    id: str
    recipients: int


class LaneShape(Shape):
    """What waits for one destination. in_flight: handed to delivery, on the wire or waiting for its turn.  waits_for: why
    it has not its turn, if the process that is asked knows.  held: the operator has stopped it."""

    site: str
    waiting: int
    in_flight: int
    oldest: str | None
    last_answer: str | None
    next_attempt_at: str | None
    reason: str | None
    waits_for: str | None
    held: bool


class DnsRecordShape(Shape):
    """A record to publish. DKIM, SPF and DMARC are TXT records; names are fully qualified. reason: what is wrong with what DNS has,
    null when nothing is; only in the reply to verify."""

    id: str
    record_type: str
    name: str
    value: str
    ttl: int
    status: str
    priority: int | None
    created_at: str
    updated_at: str
    reason: str | UnsetType | None = UNSET


class RecordShape(Shape):
    """A record to publish as Resend words it: the name relative to the registrable domain, no DMARC. reason: as there."""

    record: str
    name: str
    type: str
    ttl: str
    status: str
    value: str
    priority: int = 0
    reason: str | UnsetType | None = UNSET


class PlainDomainShape(Shape):
    """A sending domain without its records. region: one of the other dialect's four there; sendkit_region: the word that was
    given."""

    id: str
    name: str
    status: str
    trusted: bool
    region: str
    sendkit_region: str
    open_tracking: bool
    click_tracking: bool
    tls: str
    custom_return_path: str
    tracking_subdomain: str | None
    capabilities: dict[str, str]
    sending_enabled: bool
    created_at: str
    createdAt: str
    updated_at: str


class DomainShape(PlainDomainShape):
    """A sending domain. reason: why it is not verified though its records are."""

    object: str
    reason: str | None
    dns_records: list[DnsRecordShape]
    records: list[RecordShape]
    warnings: list[WarningShape]


class SenderShape(Shape):
    """Who mail is sent as."""

    id: str
    name: str
    username: str
    email: str
    reply_to: str | None
    domain: PlainDomainShape
    created_at: str
    updated_at: str


class CreateSender(msgspec.Struct):
    """username: what stands before the @; domain_id: a domain's id or name, which may send."""

    name: str
    username: str
    domain_id: str
    reply_to: str | None = None


class ChangeSender(msgspec.Struct):
    """What is left out stays as it is; reply_to null or "" takes it away."""

    name: str | None = None
    username: str | None = None
    domain_id: str | None = None
    reply_to: str | None = None


class AddDomain(msgspec.Struct):
    """region: a word that is kept and told. tls enforced: its mail leaves only over TLS to hosts that prove their names."""

    name: str
    region: str
    tls: Literal["opportunistic", "enforced"] | None = None
    open_tracking: bool | None = None
    click_tracking: bool | None = None
    custom_return_path: str | None = None
    tracking_subdomain: str | None = None
    capabilities: dict[str, str] | None = None


class ChangeDomain(msgspec.Struct):
    """What is left out stays as it is. custom_return_path: the label that bounces come to.  tracking_subdomain: the label of the
    host of tracking links; "" takes it away."""

    tls: Literal["opportunistic", "enforced"] | None = None
    open_tracking: bool | None = None
    click_tracking: bool | None = None
    custom_return_path: str | None = None
    tracking_subdomain: str | None = None
    capabilities: dict[str, str] | None = None


class KeyShape(Shape):
    """An API key, without its secret. permission: the preset that its permissions are, else `custom`."""

    id: str
    name: str
    prefix: str
    permission: Literal["full", "send", "read", "custom"]
    permissions: list[str]
    test: bool
    domain_id: str | None
    domain_ids: list[str]
    senders: list[str]
    recipient_domains: list[str]
    networks: list[str]
    daily_limit: int | None
    rewrite_from: bool
    shadow: bool
    status: Literal["active", "expired"]
    expires_at: str | None
    last_used_at: str | None
    created_at: str


class NewKeyShape(KeyShape):
    """A new key. token: its secret, which no other reply has."""

    token: str
    warnings: list[WarningShape]


class RenamedKeyShape(KeyShape):
    """As it is now."""

    object: str


class DeletedShape(Shape):
    """It is gone; a key is dead on every connection."""

    object: str
    id: str
    deleted: bool


class CreateKey(msgspec.Struct):
    """permission or permissions; the rest restricts the key. networks: CIDR.  daily_limit: recipients a UTC day."""

    name: str
    permission: str | None = None
    permissions: list[str] | None = None
    domain_id: str | None = None
    domain_ids: list[str] | None = None
    senders: list[str] | None = None
    recipient_domains: list[str] | None = None
    networks: list[str] | None = None
    daily_limit: int | None = None
    rewrite_from: bool | None = None
    shadow: bool | None = None
    test: bool | None = None
    expires_at: str | None = None


class RenameKey(msgspec.Struct):
    """Another name. All else a key keeps for ever: to name it here is refused."""

    name: str


class RotateKey(msgspec.Struct):
    """overlap: how long the old key still works, such as 24h (the default), 30m or 7d; 0s: not at all."""

    overlap: str | None = None


class LinksShape(Shape):
    """Absolute URLs of other pages."""

    first: str
    last: str | None
    prev: str | None
    next: str | None


class MetaShape(Shape):
    """Where this page is; without numbers where `limit`, `after` or `before` was asked for. total is a lower bound from 10,000
    on."""

    current_page: int | None
    from_: int | None = msgspec.field(name="from")
    last_page: int | None
    per_page: int
    to: int | None
    total: int
    path: str


class EmailList(Shape):
    """Newest first."""

    object: str
    has_more: bool
    data: list[EmailShape]
    links: LinksShape
    meta: MetaShape


class KeyList(Shape):
    """Newest first."""

    object: str
    has_more: bool
    data: list[KeyShape]
    links: LinksShape
    meta: MetaShape


class DomainList(Shape):
    """Newest first."""

    object: str
    has_more: bool
    data: list[DomainShape]
    links: LinksShape
    meta: MetaShape


class SenderList(Shape):
    """Newest first."""

    object: str
    has_more: bool
    data: list[SenderShape]
    links: LinksShape
    meta: MetaShape


class AttemptList(Shape):
    """Oldest first."""

    object: str
    has_more: bool
    data: list[AttemptShape]


class LaneList(Shape):
    """Most waiting first."""

    object: str
    has_more: bool
    data: list[LaneShape]


class EvidenceShape(Shape):
    """Which mail bounced or was complained about, the server's words, and what they mean."""

    message_id: str | None
    subtype: str | None
    code: int | None
    enhanced: str | None
    text: str | None
    feedback_type: str | None
    soft_bounces: int | None
    at: str | None


class SuppressionShape(Shape):
    """An address that is not sent to. reason and origin: bounce, complaint or manual; evidence: null when manual."""

    object: str
    id: str
    email: str
    reason: str
    origin: str
    source_id: str | None
    evidence: EvidenceShape | None
    created_at: str
    updated_at: str


class SuppressionList(Shape):
    """Newest first."""

    object: str
    has_more: bool
    data: list[SuppressionShape]
    links: LinksShape
    meta: MetaShape


class Suppress(msgspec.Struct):
    """The address, in any spelling."""

    email: str


class SuppressMany(msgspec.Struct):
    """1 to 100 addresses."""

    emails: list[str]


class ReleaseMany(msgspec.Struct):
    """1 to 100 addresses, or ids."""

    emails: list[str] | None = None
    ids: list[str] | None = None


class NamedShape(Shape):
    """What it is, and its id."""

    object: str
    id: str


class NamedList(Shape):
    """In the order of the call."""

    data: list[NamedShape]


class RemovedShape(Shape):
    """It is no more."""

    object: str
    id: str
    deleted: bool


class RemovedList(Shape):
    """In the order of the call, without what was not there."""

    data: list[RemovedShape]


class RoleCounts(Shape):
    """How many people have each role."""

    owner: int
    admin: int
    member: int
    viewer: int


class TeamShape(Shape):
    """A team. paused: nothing more of it is accepted; paused_reason: why."""

    object: str
    id: str
    name: str
    paused: bool
    paused_at: str | None
    paused_reason: str | None
    members: RoleCounts
    created_at: str | None


class RenameTeam(msgspec.Struct):
    """Another name."""

    name: str


class MemberShape(Shape):
    """A person in the team."""

    object: str
    id: str
    email: str
    name: str
    team: str
    role: Literal["owner", "admin", "member", "viewer"]
    joined_at: str
    last_seen_at: str | None


class MemberList(Shape):
    """In the order in which they came."""

    object: str
    has_more: bool
    data: list[MemberShape]
    links: LinksShape
    meta: MetaShape


class SetRole(msgspec.Struct):
    """Another role. Owners are made and changed by owners, on the page."""

    role: Literal["admin", "member", "viewer"]


class InvitationShape(Shape):
    """An invitation that nobody has taken yet."""

    object: str
    id: str
    email: str
    role: Literal["owner", "admin", "member", "viewer"]
    created_at: str
    expires_at: str


class NewInvitationShape(InvitationShape):
    """A new invitation. link: who opens it joins; it works once, and no other reply has it."""

    link: str


class InvitationList(Shape):
    """Newest first."""

    object: str
    has_more: bool
    data: list[InvitationShape]
    links: LinksShape
    meta: MetaShape


class Invite(msgspec.Struct):
    """Whom, and as what."""

    email: str
    role: Literal["admin", "member", "viewer"]


class AuditShape(Shape):
    """A change: who (a key's or a person's id, cli, server), what, to what, and what it became."""

    object: str
    id: str
    created_at: str
    actor: str
    action: str
    target: str
    detail: dict[str, Any]


class AuditList(Shape):
    """Newest first."""

    object: str
    has_more: bool
    data: list[AuditShape]
    links: LinksShape
    meta: MetaShape


class LogShape(Shape):
    """A refused or failed request or SMTP session. step: request or command; reply: what we said; transcript: of SMTP, as
    [`C` or `S`, text], without secrets and messages; refusals: how many the session had."""

    object: str
    id: str
    created_at: str
    door: str | None
    address: str
    key_prefix: str | None
    step: str
    reply: str
    method: str | None
    endpoint: str
    response_status: int | None
    user_agent: str | None
    name: str | None
    message: str | None
    refusals: int
    transcript: list[list[str]] | None


class LogList(Shape):
    """Newest first."""

    object: str
    has_more: bool
    data: list[LogShape]
    links: LinksShape
    meta: MetaShape


class HealthShape(Shape):
    """The process lives."""

    status: str


class ReadyShape(Shape):
    """problems: why it cannot serve (then 503). warnings: what to mend, though it serves."""

    status: str
    problems: list[str]
    warnings: list[WarningShape]


class ErrorShape(Shape):
    """Every error has this shape. field: the member at fault, such as `to[1]`."""

    name: str
    message: str
    statusCode: int
    status_code: int
    retryable: bool
    doc_url: str
    field: str | UnsetType = UNSET
