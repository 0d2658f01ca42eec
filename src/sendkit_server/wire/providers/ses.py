"""Amazon SES, API version 2 (https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html).

It takes the message as it is, so our DKIM signature stays, and signs each call with AWS Signature Version 4
(https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from sendkit_server.model.instant import Instant
from sendkit_server.wire.providers.exchange import (
    Answer,
    ApiRequest,
    Endpoint,
    Meaning,
    meaning_of,
    members_of,
    taken,
    words,
)
from sendkit_server.wire.smtp_client import Mail

PATH = "/v2/email/outbound-emails"
SERVICE = "ses"
_BROKEN = ("AccountSuspended", "SendingPaused", "UnrecognizedClient", "InvalidClientTokenId", "SignatureDoesNotMatch")
_BUSY = ("TooManyRequests", "LimitExceeded", "Throttling")


class Ses(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An account with Amazon SES in one region. session_token: of temporary credentials."""

    region: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,32}$")]
    access_key_id: str
    secret_access_key: str
    session_token: str | None = None
    configuration_set: str | None = None
    url: str | None = None

    def __post_init__(self) -> None:
        _ = self.endpoint

    def __repr__(self) -> str:
        return f"Ses({self.region!r}, …)"

    @property
    def endpoint(self) -> Endpoint:
        """Where it is."""
        return Endpoint.of(self.url or f"https://email.{self.region}.amazonaws.com")

    def request(self, mail: Mail, now: Instant) -> ApiRequest:
        """The call that sends a mail."""
        content: dict[str, Any] = {
            # SES sends to whom the destination names, whatever the message's headers say.
            "Destination": {"BccAddresses": list(mail.recipients)},
            "Content": {"Raw": {"Data": base64.b64encode(mail.raw).decode()}},
        }
        if self.configuration_set:
            content["ConfigurationSetName"] = self.configuration_set
        body = msgspec.json.encode(content)
        endpoint = self.endpoint
        path = f"{endpoint.base}{PATH}"
        authority = endpoint.host if endpoint.port == 443 else f"{endpoint.host}:{endpoint.port}"
        return ApiRequest("POST", path, self._headers(authority, path, body, now), body)

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> Answer:
        """What its answer means. headers: by lower-case name."""
        if status < 300:
            return taken(body, members_of(body).get("MessageId"))
        name, text = headers.get("x-amzn-errortype", "").partition(":")[0], words(body, "message", "Message")
        if name.startswith(_BROKEN):
            return Answer(Meaning.BROKEN, f"{name}: {text}")
        if name.startswith(_BUSY):
            return Answer(Meaning.BUSY, f"{name}: {text}")
        if name.startswith("MailFromDomainNotVerified") or "not verified" in text:
            return Answer(Meaning.NOT_HERE, text)
        return Answer(meaning_of(status), text)

    def _headers(self, authority: str, path: str, body: bytes, now: Instant) -> tuple[tuple[str, str], ...]:
        stamp = datetime.fromtimestamp(now / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
        signed = {"content-type": "application/json", "host": authority, "x-amz-date": stamp}
        if self.session_token:
            signed["x-amz-security-token"] = self.session_token
        names = ";".join(sorted(signed))
        canonical = "\n".join(
            [
                "POST",
                path,
                "",
                *(f"{name}:{signed[name]}" for name in sorted(signed)),
                "",
                names,
                hashlib.sha256(body).hexdigest(),
            ]
        )
        scope = f"{stamp[:8]}/{self.region}/{SERVICE}/aws4_request"
        wanted = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = f"AWS4{self.secret_access_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, wanted.encode(), "sha256").hex()
        credential = f"AWS4-HMAC-SHA256 Credential={self.access_key_id}/{scope}"
        sent = [(name, value) for name, value in signed.items() if name != "host"]
        return (*sent, ("authorization", f"{credential}, SignedHeaders={names}, Signature={signature}"))
