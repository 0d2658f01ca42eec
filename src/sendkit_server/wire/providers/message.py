"""A composed mail taken apart again, for APIs that want parts and make the message themselves.

Such a provider signs with its own key and writes its own structure; what the recipient reads stays the same. The API's
recipients are the envelope's: each stands where the mail's header has it, and in `bcc` when no header names it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import formataddr, getaddresses

import msgspec

from sendkit_server.wire.providers.exchange import CannotCarry

_OWN = frozenset(
    {
        "from", "to", "cc", "bcc", "reply-to", "subject", "mime-version", "dkim-signature", "date", "return-path", "received",
        "sender", "content-type", "content-transfer-encoding", "content-disposition", "content-id",
    }
)  # fmt: skip


class Person(msgspec.Struct, frozen=True):
    """A mailbox in a header."""

    address: str
    name: str = ""

    def __str__(self) -> str:
        return formataddr((self.name, self.address), charset="utf-8") if self.name else self.address


class Attached(msgspec.Struct, frozen=True):
    """An attachment. content: base64.  content_id: of an image that the HTML shows, without <>."""

    filename: str
    content_type: str
    content: str
    content_id: str | None = None


class Parts(msgspec.Struct, frozen=True):
    """The mail as such an API takes it. headers: those that the API has no member for."""

    from_: Person
    to: tuple[Person, ...]
    cc: tuple[Person, ...]
    bcc: tuple[Person, ...]
    reply_to: tuple[Person, ...]
    subject: str
    text: str | None
    html: str | None
    headers: tuple[tuple[str, str], ...]
    attachments: tuple[Attached, ...]


def take_apart(raw: bytes, recipients: Sequence[str]) -> Parts:
    """A mail and its envelope's recipients as parts. CannotCarry: it is signed, encrypted, or without a From."""
    message = message_from_bytes(raw, policy=policy.default)
    kind = message.get_content_type()
    if kind in ("multipart/signed", "multipart/encrypted", "multipart/report"):
        raise CannotCarry(f"a message of type {kind} would not be the same any more")
    from_ = _people(message, "from")
    if not from_:
        raise CannotCarry("the message has no From that can be read")
    to, cc, bcc = _placed(message, recipients)
    text, html, attachments = _bodies(message)
    return Parts(
        from_[0],
        to,
        cc,
        bcc,
        _people(message, "reply-to"),
        str(message.get("subject", "")),
        text,
        html,
        tuple((name, str(value)) for name, value in message.items() if name.lower() not in _OWN),
        attachments,
    )


def _people(message: EmailMessage, header: str) -> tuple[Person, ...]:
    found = getaddresses([str(value) for value in message.get_all(header, [])])
    return tuple(Person(address, name) for name, address in found if address)


def _placed(
    message: EmailMessage, recipients: Sequence[str]
) -> tuple[tuple[Person, ...], tuple[Person, ...], tuple[Person, ...]]:
    wanted = {address.lower(): address for address in recipients}
    places: list[tuple[Person, ...]] = []
    for header in ("to", "cc"):
        # One that stands in both headers is named once.
        named = [person for person in _people(message, header) if wanted.pop(person.address.lower(), None) is not None]
        places.append(tuple(named))
    to, cc = places
    bcc = tuple(Person(address) for address in wanted.values())
    if not to:
        # These APIs want somebody in `to`: whoever is named in Cc, else the first whom no header names.
        to, cc, bcc = (cc[:1], cc[1:], bcc) if cc else (bcc[:1], cc, bcc[1:])
    return to, cc, bcc


def _text(part: EmailMessage) -> str:
    try:
        text = str(part.get_content())
    except (LookupError, ValueError):
        # A character set that nobody knows: what is readable of it is better than no mail.
        data = part.get_payload(decode=True)
        text = data.decode("utf-8", "replace") if isinstance(data, bytes) else ""
    return text.replace("\r\n", "\n")


def _bodies(message: EmailMessage) -> tuple[str | None, str | None, tuple[Attached, ...]]:
    texts: dict[str, str] = {}
    attached: list[Attached] = []
    for part in message.walk():
        if part.is_multipart():
            if part.get_content_type() == "message/rfc822":
                raise CannotCarry("a message within the message has no place in this API")
            continue
        kind = part.get_content_type()
        is_body = kind in ("text/plain", "text/html") and part.get_content_disposition() != "attachment"
        if is_body and kind not in texts and part.get_filename() is None:
            texts[kind] = _text(part)
            continue
        data = part.get_payload(decode=True)
        content_id = part.get("content-id")
        attached.append(
            Attached(
                part.get_filename() or f"attachment-{len(attached) + 1}",
                kind,
                base64.b64encode(data if isinstance(data, bytes) else b"").decode(),
                None if content_id is None else str(content_id).strip().strip("<>"),
            )
        )
    return texts.get("text/plain"), texts.get("text/html"), tuple(attached)
