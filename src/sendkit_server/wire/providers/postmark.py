"""Postmark (https://postmarkapp.com/developer/api/email-api)."""

from __future__ import annotations

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

# https://postmarkapp.com/developer/api/overview#error-codes
_BROKEN = frozenset({10, 405, 407, 412, 413})  # token; account may not send, is inactive, waits for approval
_NOT_HERE = frozenset({400, 401, 402, 411, 1226, 1235})  # no signature for this sender; stream does not exist
_INACTIVE_RECIPIENT = 406


class Postmark(Account, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A server of an account with Postmark."""

    server_token: str
    message_stream: str = "outbound"
    url: str = "https://api.postmarkapp.com"

    def request(self, mail: Mail, now: Instant) -> ApiRequest:
        """The call that sends a mail. CannotCarry."""
        body = _body(take_apart(mail.raw, mail.recipients)) | {"MessageStream": self.message_stream}
        headers = (
            ("X-Postmark-Server-Token", self.server_token),
            ("Accept", "application/json"),
            ("Content-Type", "application/json"),
        )
        return ApiRequest("POST", f"{self.endpoint.base}/email", headers, msgspec.json.encode(body))

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> Answer:
        """What its answer means. headers: by lower-case name."""
        if status < 300:
            return taken(body, members_of(body).get("MessageID") if _error_code(body) == 0 else None)
        text, code = words(body, "Message"), _error_code(body)
        if code in _BROKEN:
            return Answer(Meaning.BROKEN, text)
        if code in _NOT_HERE:
            return Answer(Meaning.NOT_HERE, text)
        if code == _INACTIVE_RECIPIENT:
            return Answer(Meaning.REFUSED, text, "5.2.1")
        return Answer(meaning_of(status), text)


def _error_code(body: bytes) -> int | None:
    code = members_of(body).get("ErrorCode")
    return code if isinstance(code, int) else None


def _body(parts: Parts) -> dict[str, Any]:
    headers = [{"Name": name, "Value": value} for name, value in parts.headers]
    # Without it Postmark writes a Message-ID of its own, and a reply to the mail would not find it.
    headers.append({"Name": "X-PM-KeepID", "Value": "true"})
    body: dict[str, Any] = {
        "From": str(parts.from_),
        "To": _listed(parts.to),
        "Subject": parts.subject,
        "Headers": headers,
        # Tracking is done, or not done, by whoever composed the mail.
        "TrackOpens": False,
        "TrackLinks": "None",
    }
    optional: dict[str, Any] = {
        "Cc": _listed(parts.cc),
        "Bcc": _listed(parts.bcc),
        "ReplyTo": _listed(parts.reply_to),
        "HtmlBody": parts.html,
        "TextBody": parts.text,
        "Attachments": [
            {
                "Name": each.filename,
                "Content": each.content,
                "ContentType": each.content_type,
                **({"ContentID": f"cid:{each.content_id}"} if each.content_id else {}),
            }
            for each in parts.attachments
        ],
    }
    return body | {name: value for name, value in optional.items() if value}


def _listed(people: Any) -> str:
    return ", ".join(str(person) for person in people)
