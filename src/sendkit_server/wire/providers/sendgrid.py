"""SendGrid (https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sendkit_server.model.instant import Instant
from sendkit_server.wire.providers.exchange import Account, Answer, ApiRequest, Meaning, meaning_of, taken, words
from sendkit_server.wire.providers.message import Parts, Person, take_apart
from sendkit_server.wire.smtp_client import Mail


class SendGrid(Account, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An account with SendGrid."""

    api_key: str
    url: str = "https://api.sendgrid.com"

    def request(self, mail: Mail, now: Instant) -> ApiRequest:
        """The call that sends a mail. CannotCarry."""
        body = msgspec.json.encode(_body(take_apart(mail.raw, mail.recipients)))
        headers = (("Authorization", f"Bearer {self.api_key}"), ("Content-Type", "application/json"))
        return ApiRequest("POST", f"{self.endpoint.base}/v3/mail/send", headers, body)

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> Answer:
        """What its answer means. headers: by lower-case name."""
        if status < 300:
            # Its success is 202 with nothing in it; the id stands in a header.
            mail_id = headers.get("x-message-id") or ("HTTP 202" if status == 202 and not body else None)
            return taken(body, mail_id)
        text = words(body, "errors", "message") or f"HTTP {status}"
        if "verified Sender Identity" in text:
            return Answer(Meaning.NOT_HERE, text)
        if "Maximum credits exceeded" in text:
            return Answer(Meaning.BROKEN, text)
        return Answer(meaning_of(status), text)


def _body(parts: Parts) -> dict[str, Any]:
    places = {"to": parts.to, "cc": parts.cc, "bcc": parts.bcc}
    # It wants something in each body; a text that is empty is a space to it.
    texts = [("text/plain", parts.text), ("text/html", parts.html)]
    content = [{"type": kind, "value": value} for kind, value in texts if value]
    body: dict[str, Any] = {
        "personalizations": [{name: [_person(one) for one in people] for name, people in places.items() if people}],
        "from": _person(parts.from_),
        "subject": parts.subject or " ",
        "content": content or [{"type": "text/plain", "value": " "}],
        # Tracking is done, or not done, by whoever composed the mail.
        "tracking_settings": {
            "click_tracking": {"enable": False, "enable_text": False},
            "open_tracking": {"enable": False},
        },
    }
    optional: dict[str, Any] = {
        "reply_to_list": [_person(one) for one in parts.reply_to],
        "headers": dict(parts.headers),
        "attachments": [
            {
                "filename": each.filename,
                "content": each.content,
                "type": each.content_type,
                "disposition": "inline" if each.content_id else "attachment",
                **({"content_id": each.content_id} if each.content_id else {}),
            }
            for each in parts.attachments
        ],
    }
    return body | {name: value for name, value in optional.items() if value}


def _person(person: Person) -> dict[str, str]:
    return {"email": person.address, **({"name": person.name} if person.name else {})}
