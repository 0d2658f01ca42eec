"""Resend (https://resend.com/docs/api-reference/emails/send-email)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from sendkit_server.model.instant import Instant
from sendkit_server.wire.providers.exchange import (
    Account,
    Answer,
    ApiRequest,
    Meaning,
    meaning_of,
    members_of,
    taken,
    words,
)
from sendkit_server.wire.providers.message import Parts, take_apart
from sendkit_server.wire.smtp_client import Mail

_NOT_HERE = ("domain is not verified", "only send testing emails", "not authorized to send", "quota")


class Resend(Account, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An account with Resend."""

    api_key: str
    url: str = "https://api.resend.com"

    def request(self, mail: Mail, now: Instant) -> ApiRequest:
        """The call that sends a mail. CannotCarry."""
        body = msgspec.json.encode(_body(take_apart(mail.raw, mail.recipients)))
        # A retry sends the same bytes, so it has the same key, and Resend sends it once (for 24 hours).
        key = hashlib.sha256(mail.raw + "\0".join(mail.recipients).encode()).hexdigest()
        headers = (
            ("Authorization", f"Bearer {self.api_key}"),
            ("Content-Type", "application/json"),
            ("Idempotency-Key", key),
        )
        return ApiRequest("POST", f"{self.endpoint.base}/emails", headers, body)

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> Answer:
        """What its answer means. headers: by lower-case name."""
        if status < 300:
            return taken(body, members_of(body).get("id"))
        text, meaning = words(body, "message"), meaning_of(status)
        if any(each in text.lower() for each in _NOT_HERE):
            # A quota is the account's: what it refuses today another route may take.
            meaning = Meaning.NOT_HERE
        elif status == 409:
            meaning = Meaning.LATER
        return Answer(meaning, text)


def _body(parts: Parts) -> dict[str, Any]:
    body: dict[str, Any] = {
        "from": str(parts.from_),
        "to": [person.address for person in parts.to],
        "subject": parts.subject,
    }
    optional: dict[str, Any] = {
        "cc": [person.address for person in parts.cc],
        "bcc": [person.address for person in parts.bcc],
        "reply_to": [str(person) for person in parts.reply_to],
        "html": parts.html,
        "text": parts.text,
        "headers": dict(parts.headers),
        "attachments": [
            {
                "filename": each.filename,
                "content": each.content,
                "content_type": each.content_type,
                **({"content_id": each.content_id} if each.content_id else {}),
            }
            for each in parts.attachments
        ],
    }
    return body | {name: value for name, value in optional.items() if value}
