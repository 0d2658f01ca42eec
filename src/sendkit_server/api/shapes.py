"""How stored rows are worded in the API's replies."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache

import msgspec
from publicsuffixlist import PublicSuffixList

from sendkit_server.api.dialect import REGIONS, Dialect, time_in
from sendkit_server.manage import suppressions
from sendkit_server.manage.dns_checks import RecordCheck, Verdict
from sendkit_server.manage.domains import RECORD_TTL_S, DnsRecord, Domain
from sendkit_server.manage.queue import HELD, Waiting
from sendkit_server.manage.senders import Sender
from sendkit_server.model.address import Mailbox
from sendkit_server.model.instant import api_time
from sendkit_server.model.mail import Accepted, Warning_
from sendkit_server.model.status import UNSETTLED, Status, last_event
from sendkit_server.store.queries.bounces import judged
from sendkit_server.store.queries.emails import Email
from sendkit_server.store.queries.once import DEDUPLICATED
from sendkit_server.store.queries.rows import AnyRow

_mailbox: msgspec.json.Decoder[Mailbox] = msgspec.json.Decoder(Mailbox)
_mailboxes: msgspec.json.Decoder[list[Mailbox]] = msgspec.json.Decoder(list[Mailbox])

Shape = dict[str, object]
Turn = Callable[[AnyRow], str]

_NOT_STARTED = "not_started"
_NEVER_LOOKED = "{}"  # domain.record_status
_TRACKING_LATER = [
    {
        "name": "tracking_not_built",
        "message": "This version keeps the setting, but does not track opens and clicks yet.",
        "fix": "Nothing to do: mail is sent as it is; a later version obeys the setting.",
    }
]


def accepted(result: Accepted) -> Shape:
    """The reply to a send. Several messages: the first one's id, and all in `data`."""
    body: Shape = {}
    if result.messages:
        body["id"] = result.messages[0].id
    body["status"] = "checked" if result.checked_only else result.messages[0].status
    body["validation"] = {
        "valid": all(recipient.valid for recipient in result.recipients),
        "recipients": [
            {"email": recipient.email, "valid": recipient.valid, "reasons": recipient.reasons}
            for recipient in result.recipients
        ],
    }
    body["warnings"] = warnings(result.warnings)
    body["data"] = [{"id": message.id, "to": message.to, "status": message.status} for message in result.messages]
    return body


def warnings(found: Iterable[Warning_]) -> list[Shape]:
    """What was done all the same, and how to mend it."""
    return [{"name": warning.name, "message": warning.message, "fix": warning.fix} for warning in found]


def email(found: Email, turn: Turn) -> Shape:
    """One mail, in a list and alone. turn: how it stands with a recipient that is handed to delivery."""
    row = found.message
    status = Status(row.status)
    waiting = [recipient for recipient in found.recipients if recipient.next_attempt_at is not None]
    plan = min(waiting, key=lambda recipient: recipient.next_attempt_at, default=None)
    told = next((recipient for recipient in found.recipients if recipient.explanation), None)
    return {
        "id": row.id,
        "from": _mailbox.decode(row.from_mailbox).display(),
        "to": ", ".join(mailbox.display() for mailbox in _mailboxes.decode(row.to_mailboxes)),
        "cc": [mailbox.display() for mailbox in _mailboxes.decode(row.cc_mailboxes)],
        "subject": row.subject,
        "last_event": last_event(status),
        "status": status,
        "reason": _reason(plan, found.held, turn) if plan is not None else told and told.explanation,
        "next_attempt_at": api_time(plan.next_attempt_at) if plan is not None else None,
        "domain": {"id": row.domain_id, "name": found.domain_name} if row.domain_id else None,
        "template": None,
        "tags": json.loads(row.tags),
        "metadata": json.loads(row.metadata),
        "stream": row.stream,
        "door": row.door,
        "message_id": row.message_id,
        "deduplicated": any(one.type == DEDUPLICATED for one in found.events),
        "recipients": [recipient(one, found.held, turn) for one in found.recipients],
        "events": [event(one, found) for one in found.events],
        "scheduled_at": None,
        "sent_at": api_time(row.sent_at),
        "created_at": api_time(row.created_at),
    }


def changed(found: Email, recipients: int) -> Shape:
    """The answer to a cancel or a retry: of how many recipients."""
    return {"object": "email", "id": found.message.id, "recipients": recipients}


def recipient(row: AnyRow, held: Collection[str], turn: Turn) -> Shape:
    """One recipient with its own status, and why it waits until when. held: sites that the operator has stopped."""
    status = Status(row.status)
    return {
        "email": f"{row.local}@{row.site}",
        "role": row.role,
        "status": status,
        "reason": _reason(row, held, turn) if status in UNSETTLED else row.explanation,
        "next_attempt_at": api_time(row.next_attempt_at),
        "attempts": row.attempts,
        "bounce": bounce(row) if status is Status.BOUNCED else None,
    }


def bounce(row: AnyRow) -> Shape:
    """What the refusal says about the address, judged by today's rules."""
    found = judged(row)
    return {
        "type": found.type,
        "subtype": found.subtype,
        "code": row.code,
        "enhanced": row.enhanced,
        "diagnostic": row.explanation,
        "explanation": found.explanation,
        "action": found.action,
    }


def event(row: AnyRow, found: Email) -> Shape:
    """One thing that happened; its metadata names the recipient."""
    address = next((f"{one.local}@{one.site}" for one in found.recipients if one.n == row.n), None)
    return {
        "id": f"evt_{row.id}",
        "type": row.type,
        "metadata": {"recipient": address, **json.loads(row.detail)},
        "created_at": api_time(row.at),
    }


def attempt(row: AnyRow, found: Email) -> Shape:
    """One try with its transcript; in one line of it `>` is what we said, `<` the server, `*` what happened."""
    addresses = {one.n: f"{one.local}@{one.site}" for one in found.recipients}
    outcomes = [
        {"email": addresses.get(outcome["n"]), **{name: value for name, value in outcome.items() if name != "n"}}
        for outcome in json.loads(row.outcomes)
    ]
    results = {outcome["result"] for outcome in outcomes}
    return {
        "id": f"att_{row.id}",
        "route": row.route,
        "host": row.host,
        "address": row.address,
        "tls": row.tls,
        "outcome": results.pop() if len(results) == 1 else "mixed",
        "recipients": outcomes,
        "transcript": [{"at_ms": at, "side": side, "text": text} for at, side, text in json.loads(row.transcript)],
        "milliseconds": row.milliseconds,
        "created_at": api_time(row.started_at),
    }


def suppression(row: AnyRow) -> Shape:
    """A suppressed address, in the words of both dialects."""
    told = suppressions.worded(row)
    evidence = told["evidence"]
    return {
        "object": "suppression",
        **told,
        "origin": row.reason,
        "source_id": evidence["message_id"] if isinstance(evidence, dict) else None,
    }


def removed(kind: str, removed_id: str) -> Shape:
    """The answer to a DELETE."""
    return {"object": kind, "id": removed_id, "deleted": True}


def lane(found: Waiting, waits_for: str | None) -> Shape:
    """What waits for one destination. waits_for: why what is handed to delivery has not its turn."""
    return {
        "site": found.site,
        "waiting": found.waiting,
        "in_flight": found.in_flight,
        "oldest": api_time(found.oldest),
        "last_answer": found.last_answer,
        "next_attempt_at": api_time(found.next_attempt_at),
        "reason": found.reason,
        "waits_for": waits_for,
        "held": found.held,
    }


def domain(found: Domain, dialect: Dialect, checks: Sequence[RecordCheck] | None = None) -> Shape:
    """A domain with the records to publish, in both dialects' lists of them. checks: what DNS was just seen to have, which is
    told as each record's `reason`."""
    row = found.row
    wrong = {check.record.key: check.found for check in checks or () if check.verdict is not Verdict.OK}
    told = {record.key: {} if checks is None else {"reason": wrong.get(record.key)} for record in found.records}
    created, updated = time_in(dialect, row.created_at), time_in(dialect, row.updated_at)
    return {
        "object": "domain",
        **_domain(row, dialect),
        "reason": found.reason,
        "dns_records": [
            {
                "id": f"{row.id}_{record.kind.lower()}_{index}",
                "record_type": record.type if record.kind == "Tracking" else record.kind,
                "name": record.name,
                "value": record.value,
                "ttl": RECORD_TTL_S,
                "status": record.status,
                "priority": record.priority,
                "created_at": created,
                "updated_at": updated,
                **told[record.key],
            }
            for index, record in enumerate(found.records)
        ],
        "records": [
            {**_relative(record, row), **told[record.key]} for record in found.records if record.kind != "DMARC"
        ],
        "warnings": _TRACKING_LATER if row.open_tracking or row.click_tracking else [],
    }


def sender(found: Sender, dialect: Dialect) -> Shape:
    """A sender with its domain."""
    row = found.row
    return {
        "id": row.id,
        "name": row.name,
        "username": row.username,
        "email": found.email,
        "reply_to": row.reply_to,
        "domain": _domain(found.domain, dialect),
        "created_at": time_in(dialect, row.created_at),
        "updated_at": time_in(dialect, row.updated_at),
    }


def _domain(row: AnyRow, dialect: Dialect) -> Shape:
    is_resend = dialect is Dialect.RESEND
    created = time_in(dialect, row.created_at)
    return {
        "id": row.id,
        "name": row.name,
        # What has never been looked for has a word of its own there.
        "status": _NOT_STARTED
        if is_resend and row.status == "pending" and row.record_status == _NEVER_LOOKED
        else row.status,
        "trusted": row.trusted,
        # A client of Resend's in Rust knows four names, and no other.
        "region": REGIONS[0] if is_resend and row.region not in REGIONS else row.region,
        "sendkit_region": row.region,
        "open_tracking": row.open_tracking,
        "click_tracking": row.click_tracking,
        "tls": row.tls,
        "custom_return_path": row.return_path,
        "tracking_subdomain": None if row.tracking_host is None else row.tracking_host.removesuffix(f".{row.name}"),
        "capabilities": {"sending": "enabled", "receiving": "disabled"},
        "sending_enabled": row.trusted or row.status == "verified",
        "created_at": created,
        "createdAt": created,
        "updated_at": time_in(dialect, row.updated_at),
    }


def _relative(record: DnsRecord, domain: AnyRow) -> Shape:
    """As Resend has it: the name relative to the registrable domain (`send.mail` of send.mail.example.com)."""
    whole = public_suffixes().privatesuffix(domain.name) or domain.name
    shape: Shape = {
        "record": "SPF" if record.kind == "MX" else record.kind,
        "name": record.name.removesuffix(f".{whole}"),
        "type": record.type,
        "ttl": "Auto",
        "status": _NOT_STARTED if domain.record_status == _NEVER_LOOKED else record.status,
        "value": record.value,
    }
    return shape if record.priority is None else {**shape, "priority": record.priority}


@cache
def public_suffixes() -> PublicSuffixList:
    """Mozilla's list, read when it is first asked: some milliseconds."""
    return PublicSuffixList()


def _reason(row: AnyRow, held: Collection[str], turn: Turn) -> str:
    """Why an unsettled recipient waits."""
    if row.site in held and row.owner is None:
        return HELD
    if row.explanation:
        return str(row.explanation)
    return turn(row) if row.owner is not None else "It waits for its first attempt."
