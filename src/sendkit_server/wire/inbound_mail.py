"""A mail that came back, read: a bounce, a complaint, or something that changes nothing, and why.

What came to a return path is most often a notification (RFC 3464), else a bounce in words, an abuse report (RFC 5965),
or what machines answer: absences, challenges, read receipts (RFC 8098), list mail. Those say nothing of whether the mail
arrived, so they are told apart first (RFC 3834), and only what looks like a server's own message can be a bounce in words.

Bounded: see parts. Measured (benchmarks/micro_bounces.py): 0.04 ms for a notification; the worst mails that
the tests know take 0.3 s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from hashlib import sha256

import msgspec

from sendkit_server.model.bounce import classify
from sendkit_server.wire import dsn, feedback, text_bounce
from sendkit_server.wire.dsn import RecipientReport
from sendkit_server.wire.parts import Part, parts_of
from sendkit_server.wire.raw_message import decoded

DIGEST_CHARACTERS = 20


class Kind(StrEnum):
    """What came back."""

    BOUNCE = "bounce"
    COMPLAINT = "complaint"
    IGNORED = "ignored"


class Report(msgspec.Struct, frozen=True):
    """What a mail says. reason: why it is ignored, a stable word; else how it was read (`dsn`, `text`, `arf`).

    recipients: of a bounce.  complaint: of a complaint.  digest: the same for the same mail, however it came.
    """

    kind: Kind
    reason: str
    digest: str
    recipients: tuple[RecipientReport, ...] = ()
    reporting_mta: str | None = None
    complaint: feedback.Complaint | None = None


_FROM_SERVER = re.compile(
    r"mailer[-_ ]?daemon|post[-_ ]?master|mail[-_ ]?daemon|mail delivery|delivery (?:sub)?system"
    r"|maildelivery|mdaemon|<>|bounce"
    r"|mail ?system|mail server|system administrator|undeliver|microsoft exchange|administrator@"
    r"|mailadmin|no-?reply@",
    re.IGNORECASE,
)
_BOUNCE_SUBJECT = re.compile(
    r"undeliver|undelivrable|returned (?:mail|to sender|message)|return(?:ed)? to sender|deliver[a-z]* (?:fail"
    r"|error|prob|status|report)|failure notice"
    r"|mail delivery|delivery notif|could ?n[o']t be delivered|not delivered|non[- ]?deliver"
    r"|nondeliver|mail (?:system )?error|mail fail|failed mail"
    r"|failed delivery|message (?:delivery )?fail|bounce|rejected|user unknown|unzustellbar|non remis"
    r"|no entregado|no se puede entregar|unable to deliver"
    r"|can(?:not| ?'?t) (?:be )?deliver|warning: (?:message|could not send)|delayed|warning message"
    r"|ndn:|dsn:|mail could not|returned e?mail"
    r"|unknown (?:user|address)|mail not delivered|not deliverable|dead letter|postmaster notify"
    r"|no such|mailbox (?:full|unavailable)|e?mail error",
    re.IGNORECASE,
)
_AUTO_SUBJECT = re.compile(
    r"^(?:re: ?|aw: ?)*(?:auto(?:mat(?:ic|ed))?[ -]?(?:re(?:ply|sponse)|antwort|generated)|automatisch"
    r"|out of (?:the )?office|away from|on vacation"
    r"|vacation|holiday|abwesen|absence|absent|r[ée]ponse automatique|respuesta autom|risposta automatica"
    r"|fuori sede|autosvar|auto:|i am away|i'm away|not in the office)",
    re.IGNORECASE,
)
_CHALLENGE = re.compile(
    r"(?:please )?confirm (?:your|you)|verification required|verify your (?:email|message)|challenge"
    r"|boxbe|spamarrest|is waiting for your|human verification|action required.*deliver",
    re.IGNORECASE,
)
_RECEIPT = re.compile(
    r"^(?:read|gelesen|lu|leído|letto|not read|ungelesen)\s*:|read receipt|lesebestätigung", re.IGNORECASE
)
_STILL_TRYING = re.compile(
    r"still being retried|will (?:be )?(?:continue|keep|retr|try)|not yet been delivered|no action is required"
    r"|do not need to resend|attempts will continue|only a temporary failure|will be (?:retried|attempted)|delayed for",
    re.IGNORECASE,
)
_MAYBE_DELAYED = re.compile(r"warning|delay", re.IGNORECASE)
_OVER = re.compile(
    r"permanent|fatal|undeliverable|returned to sender|will not be retried|fail(?:ed|ure)\b", re.IGNORECASE
)


def read(raw: bytes) -> Report:
    """What a mail of any content says. Never raises, whatever it is made of."""
    parts = parts_of(raw)
    head = parts[0]
    digest = _digest(head, raw)
    complaint = feedback.read_complaint(parts)
    if complaint is not None:
        return _complaint(complaint, digest)
    fields = dsn.status_of(parts)
    status = None if fields is None else dsn.read_status(fields)
    if status is not None and status.recipients:
        return Report(Kind.BOUNCE, "dsn", digest, _explained(status.recipients, parts), status.reporting_mta)
    reason = _why_ignored(head, parts, has_status=fields is not None)
    recipients = () if reason else _in_words(raw, head, parts)
    if recipients:
        return Report(Kind.BOUNCE, "text", digest, recipients)
    return Report(Kind.IGNORED, reason or "not_understood", digest)


def _complaint(complaint: feedback.Complaint, digest: str) -> Report:
    if complaint.is_complaint:
        return Report(Kind.COMPLAINT, "arf", digest, reporting_mta=complaint.reporting_mta, complaint=complaint)
    return Report(Kind.IGNORED, "feedback_of_another_kind", digest, complaint=complaint)


def _digest(head: Part, raw: bytes) -> str:
    """By Message-ID where there is one: a mail that came twice, by two ways, is one."""
    named = head.field("message-id")
    return sha256(named.encode() if named else raw).hexdigest()[:DIGEST_CHARACTERS]


def _explained(recipients: tuple[RecipientReport, ...], parts: Sequence[Part]) -> tuple[RecipientReport, ...]:
    """Where the fields give no words of the server that refused, the text in front of them may."""
    if all(recipient.diagnostic for recipient in recipients):
        return recipients
    text = text_bounce.explanation_of(parts)
    everybody = [address for recipient in recipients for address in recipient.addresses]
    return tuple(
        recipient if recipient.diagnostic else _with_words(recipient, text, everybody) for recipient in recipients
    )


def _with_words(recipient: RecipientReport, text: str, everybody: Sequence[str]) -> RecipientReport:
    address = recipient.addresses[0] if recipient.addresses else ""
    words = text_bounce.words_about(address, text, everybody)
    code, enhanced = dsn.better_enhanced(recipient.enhanced, words)
    return msgspec.structs.replace(recipient, code=code, enhanced=enhanced, diagnostic=words)


def _why_ignored(head: Part, parts: Sequence[Part], *, has_status: bool) -> str | None:
    """Why a mail without a usable notification cannot be a bounce; None when it can."""
    subject = decoded(head.field("subject"))
    report_type = head.parameters.get("report-type", "").lower()
    if report_type == "disposition-notification" or any(
        part.media_type == "message/disposition-notification" for part in parts
    ):
        return "read_receipt"
    if has_status or report_type == "delivery-status" or head.field("x-failed-recipients"):
        return None
    if _RECEIPT.search(subject):
        return "read_receipt"
    if subject.strip().lower().startswith("unsubscribe"):
        return "unsubscribe"
    if _AUTO_SUBJECT.search(subject):
        return "auto_reply"
    if _CHALLENGE.search(subject):
        return "challenge"
    if _BOUNCE_SUBJECT.search(subject) or _FROM_SERVER.search(decoded(head.field("from"))):
        return None
    if head.field("list-id") or head.field("list-post") or head.field("precedence").lower() == "list":
        return "list_mail"
    return "auto_reply" if _is_automatic(head) else None


def _is_automatic(head: Part) -> bool:
    """Whether a program wrote it that answers mail (RFC 3834)."""
    submitted = head.field("auto-submitted").lower()
    return bool(
        (submitted and not submitted.startswith("no"))
        or head.field("x-autoreply")
        or head.field("x-autorespond")
        or head.field("x-auto-response-suppress")
        or head.field("precedence").lower() in ("auto_reply", "bulk", "junk")
    )


def _in_words(raw: bytes, head: Part, parts: Sequence[Part]) -> tuple[RecipientReport, ...]:
    subject, sender = decoded(head.field("subject")), decoded(head.field("from"))
    text = text_bounce.explanation_of(parts)
    failed = dsn.addresses_in(head.field("x-failed-recipients"))
    by_subject = _BOUNCE_SUBJECT.search(subject) is not None
    by_sender = not sender or _FROM_SERVER.search(sender) is not None
    temporary = _is_delay(subject, text)
    certain = bool(failed) or (by_subject and by_sender)
    found: tuple[RecipientReport, ...] = ()
    if certain or by_subject or by_sender:
        found = text_bounce.read_text(text, failed, temporary=temporary, certain=certain)
    return found or text_bounce.read_unknown(raw, text)


def _is_delay(subject: str, text: str) -> bool:
    """Whether the server goes on trying. A subject alone does not say so, when the text gives a reason that stays."""
    if _STILL_TRYING.search(text):
        return True
    return bool(
        _MAYBE_DELAYED.search(subject)
        and not _OVER.search(f"{subject}\n{text}")
        and not classify(None, None, f"{subject} {text}").suppresses
    )
