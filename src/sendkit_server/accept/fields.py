"""The rules of each field, whatever door it came through. Pure: a submission in, checked values or Refused out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from sendkit_server.accept import once, wishes
from sendkit_server.model.address import AddressError, Mailbox, parse_mailbox
from sendkit_server.model.mail import Attachment, Submission, Tag
from sendkit_server.model.refusal import (
    Refused,
    bad_address,
    invalid,
    not_built_yet,
    required,
    too_long,
)

MAX_SUBJECT_CHARACTERS = 998
MAX_ATTACHMENTS = 10
MAX_TAGS = 50
MAX_TAG_CHARACTERS = 256
MAX_METADATA_KEYS = 50
MAX_METADATA_KEY_CHARACTERS = 64
MAX_METADATA_VALUE_CHARACTERS = 500
MAX_CUSTOM_HEADERS = 100
MAX_HEADER_NAME_CHARACTERS = 76
MAX_HEADER_VALUE_CHARACTERS = 16_384

# They are made by us from other members, or would let a caller speak for another sender or signer.
FORBIDDEN_HEADERS = frozenset(
    {
        "from", "sender", "to", "cc", "bcc", "subject", "return-path", "received", "dkim-signature",
        "authentication-results",
    }
)  # fmt: skip
FORBIDDEN_PREFIXES = ("arc-", "content-", "resent-")
DROPPED_HEADERS = frozenset({"date", "mime-version"})
# Headers that mean something to us and are not obeyed yet: refused, so that nobody believes they were.
NOT_BUILT_HEADERS = frozenset(
    {
        "x-tag", "x-pm-tag", "x-mailgun-tag", "x-mailgun-variables", "x-smtpapi", "x-ses-message-tags",
    }
)  # fmt: skip
NOT_BUILT_PREFIXES = ("x-sendkit-", "x-metadata-")

_HEADER_NAME = re.compile(r"[!-9;-~]+")  # RFC 5322 3.6.8: printable US-ASCII but the colon
_FOLD = re.compile(r"\r?\n[ \t]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MESSAGE_ID = re.compile(r"<[^\s<>@\x00-\x20\x7f-\U0010ffff]+@[^\s<>@\x00-\x20\x7f-\U0010ffff]+>")
_CONTENT_ID = re.compile(r"[!-;=?-~]+")
_MIME_TYPE = re.compile(r"[\x20-\x7e\t]*")


class Checked(msgspec.Struct, frozen=True):
    """A submission whose fields are all in order. reply_to, message_id, wishes: also from `headers`; message_id None: ours."""

    from_: Mailbox
    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...]
    bcc: tuple[Mailbox, ...]
    reply_to: tuple[Mailbox, ...]
    subject: str
    html: str | None
    text: str | None
    headers: tuple[tuple[str, str], ...]
    message_id: str | None
    attachments: tuple[Attachment, ...]
    wishes: wishes.Wishes


def checked(submission: Submission, max_recipients: int) -> Checked:
    """The submission's fields, checked in the order in which people write them. Refused at the first wrong one."""
    if not submission.from_:
        raise Refused(required("from"))
    from_ = mailbox("from", submission.from_)
    if not submission.to:
        raise Refused(required("to"))
    to, cc, bcc = recipients(submission, max_recipients)
    reply_to = tuple(mailbox("reply_to", text, f"reply_to[{i}]") for i, text in enumerate(submission.reply_to))
    subject = checked_subject(submission.subject)
    html, text = submission.html or None, submission.text or None
    if html is None and text is None:
        raise Refused(invalid("The html field is required when text is not present.", "html"))
    check_plain("html", html)
    check_plain("text", text)
    headers, special = checked_headers(submission.headers)
    if "reply-to" in special and not reply_to:
        reply_to = _header_reply_to(special["reply-to"])
    check_tags(submission.tags)
    check_metadata(submission.metadata)
    check_attachments(submission.attachments)
    wanted = wishes.Wishes(submission.priority, submission.expires_at, submission.require_tls, submission.stream)
    return Checked(
        from_,
        to,
        cc,
        bcc,
        reply_to,
        subject,
        html,
        text,
        headers,
        special.get("message-id"),
        submission.attachments,
        wishes.with_headers(wanted, special.items()),
    )


def with_sender(values: Checked, sender: Mailbox) -> Checked:
    """The same mail from somebody else; who answers, answers whoever it was from before."""
    return msgspec.structs.replace(values, from_=sender, reply_to=values.reply_to or (values.from_,))


def mailbox(field: str, text: str, path: str | None = None) -> Mailbox:
    """One mailbox of a field, or the contract's sentence about it."""
    try:
        return parse_mailbox(text)
    except AddressError:
        raise Refused(bad_address(field, path)) from None


def recipients(
    submission: Submission, max_recipients: int
) -> tuple[tuple[Mailbox, ...], tuple[Mailbox, ...], tuple[Mailbox, ...]]:
    """to, cc and bcc without repetitions: the first place in which an address stands counts."""
    seen: set[str] = set()
    found: list[tuple[Mailbox, ...]] = []
    for field, texts in (("to", submission.to), ("cc", submission.cc), ("bcc", submission.bcc)):
        group = []
        for index, text in enumerate(texts):
            one = mailbox(field, text, f"{field}[{index}]" if len(texts) > 1 else field)
            if one.matching not in seen:
                seen.add(one.matching)
                group.append(one)
        found.append(tuple(group))
    if len(seen) > max_recipients:
        raise Refused(invalid(f"The to, cc and bcc fields must not have more than {max_recipients} recipients.", "to"))
    return found[0], found[1], found[2]


def checked_subject(text: str | None) -> str:
    """The subject, unfolded, without line breaks."""
    if not text:
        raise Refused(required("subject"))
    subject = _FOLD.sub(" ", text)
    check_line("subject", subject)
    if len(subject) > MAX_SUBJECT_CHARACTERS:
        raise Refused(too_long("subject", MAX_SUBJECT_CHARACTERS))
    return subject


def check_plain(field: str, text: str | None) -> None:
    """A body may hold anything that UTF-8 can carry."""
    if text is not None and not text.isascii() and _SURROGATE.search(text):
        raise Refused(invalid(f"The {field} field must be valid Unicode text.", field))


def check_line(field: str, text: str) -> None:
    """One line of text: no CR, LF, NUL or other control characters, no half of a surrogate pair."""
    if _CONTROL.search(text) or _SURROGATE.search(text):
        raise Refused(
            invalid(f"The {field} field must not contain line breaks, NUL or other control characters.", field)
        )


def checked_headers(
    headers: Iterable[tuple[str, str]],
) -> tuple[tuple[tuple[str, str], ...], dict[str, str]]:
    """Custom headers that travel, and by lower-cased name those that we set ourselves (Message-ID, Reply-To)."""
    kept: list[tuple[str, str]] = []
    special: dict[str, str] = {}
    for index, (name, raw_value) in enumerate(headers):
        field = f"headers[{name}]" if _HEADER_NAME.fullmatch(name) else "headers"
        if index >= MAX_CUSTOM_HEADERS:
            raise Refused(invalid(f"The headers field must not have more than {MAX_CUSTOM_HEADERS} items.", "headers"))
        value = _FOLD.sub(" ", raw_value)
        check_header_name(name)
        if _CONTROL.search(value) or _SURROGATE.search(value):
            raise Refused(invalid(f"The header '{name}' must not contain line breaks or control characters.", field))
        if len(value) > MAX_HEADER_VALUE_CHARACTERS:
            raise Refused(
                invalid(
                    f"The header '{name}' must not be greater than {MAX_HEADER_VALUE_CHARACTERS} characters.", field
                )
            )
        lower = name.lower()
        if lower in DROPPED_HEADERS:
            continue
        if lower == "message-id":
            value = value.strip()
            if not is_message_id(value):
                raise Refused(invalid("The header 'Message-ID' must be of the form <something@domain>.", field))
        if lower in ("message-id", "reply-to") or lower in wishes.HEADERS or lower in once.HEADERS:
            if lower in special:
                raise Refused(invalid(f"The header '{name}' must be given only once.", field))
            special[lower] = value
        else:
            kept.append((name, value))
    return tuple(kept), special


def check_header_name(name: str) -> None:
    """Refuses a name that is none, that a caller may not set, or that is not obeyed yet."""
    if not _HEADER_NAME.fullmatch(name) or len(name) > MAX_HEADER_NAME_CHARACTERS:
        raise Refused(invalid("The headers field contains an invalid header name.", "headers"))
    lower = name.lower()
    if is_not_built(lower):
        raise Refused(not_built_yet(name))
    if lower in FORBIDDEN_HEADERS or lower.startswith(FORBIDDEN_PREFIXES):
        raise Refused(invalid(f"The header '{name}' cannot be set in headers.", f"headers[{name}]"))


def is_not_built(lower_name: str) -> bool:
    """Whether a header means something to us that this version does not obey."""
    ours = lower_name in NOT_BUILT_HEADERS or lower_name.startswith(NOT_BUILT_PREFIXES)
    return ours and lower_name not in wishes.HEADERS and lower_name not in once.HEADERS


def is_message_id(value: str) -> bool:
    """`<left@right>` of printable ASCII, short enough for one line (RFC 5322 3.6.4)."""
    return len(value) <= 900 and _MESSAGE_ID.fullmatch(value) is not None


def check_tags(tags: Sequence[Tag]) -> None:
    """Names and values of one line each."""
    if len(tags) > MAX_TAGS:
        raise Refused(invalid(f"The tags field must not have more than {MAX_TAGS} items.", "tags"))
    for index, tag in enumerate(tags):
        for part, text in (("name", tag.name), ("value", tag.value)):
            field = f"tags[{index}].{part}"
            check_line(field, text)
            if len(text) > MAX_TAG_CHARACTERS:
                raise Refused(too_long(field, MAX_TAG_CHARACTERS))
        if not tag.name:
            raise Refused(required(f"tags[{index}].name"))


def check_metadata(metadata: Sequence[tuple[str, str]]) -> None:
    """≤ 50 keys of ≤ 64 characters, values ≤ 500."""
    if len(metadata) > MAX_METADATA_KEYS:
        raise Refused(invalid(f"The metadata field must not have more than {MAX_METADATA_KEYS} keys.", "metadata"))
    for key, value in metadata:
        field = f"metadata[{key[:MAX_METADATA_KEY_CHARACTERS]}]"
        if not key or len(key) > MAX_METADATA_KEY_CHARACTERS:
            raise Refused(
                invalid(
                    f"The keys of the metadata field must have 1 to {MAX_METADATA_KEY_CHARACTERS} characters.", field
                )
            )
        if len(value) > MAX_METADATA_VALUE_CHARACTERS:
            raise Refused(too_long(field, MAX_METADATA_VALUE_CHARACTERS))
        for text in (key, value):
            if "\0" in text or _SURROGATE.search(text):
                raise Refused(invalid(f"The {field} field must be valid text without NUL.", field))


def check_attachments(attachments: Sequence[Attachment]) -> None:
    """Names, types and content ids that can stand in a header. The name is made safe later, not refused."""
    if len(attachments) > MAX_ATTACHMENTS:
        raise Refused(invalid(f"The attachments field must not have more than {MAX_ATTACHMENTS} items.", "attachments"))
    for index, attachment in enumerate(attachments):
        field = f"attachments[{index}]"
        check_line(f"{field}.filename", attachment.filename)
        if not _MIME_TYPE.fullmatch(attachment.content_type):
            raise Refused(
                invalid(
                    f"The {field}.content_type field must be a MIME type such as image/png.", f"{field}.content_type"
                )
            )
        if attachment.content_id is not None and not _CONTENT_ID.fullmatch(attachment.content_id):
            raise Refused(
                invalid(
                    f"The {field}.content_id field must be printable ASCII without blanks or angle brackets.",
                    f"{field}.content_id",
                )
            )


def _header_reply_to(value: str) -> tuple[Mailbox, ...]:
    """A Reply-To given among the headers: one mailbox, or several between commas outside quotes."""
    parts = re.findall(r'(?:"(?:[^"\\]|\\.)*"|[^,"])+', value)
    return tuple(mailbox("reply_to", part, "headers[Reply-To]") for part in parts if part.strip())
