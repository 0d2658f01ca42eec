"""Refusals: what we say no to, worded once for every door.

A refusal is the user's doing (a wrong field, a foreign domain, a key without the permission) or our own temporary
inability, as one value with the API's error name, the sentence, the HTTP status and the SMTP reply. The doors only
word it. The other two kinds never mix with it: an *outcome* is the remote server's doing (model/outcome.py), a
*fault* is ours, an exception, answered 500 or 451 at the door's outermost edge.
"""

from __future__ import annotations

import msgspec


class Refusal(msgspec.Struct, frozen=True):
    """One structured no.

    field: the member at fault as a path (`to[1]`), None when it is none.  is_missing: it was not given.  retry_after_s:
    seconds, for 429 and 503.  extra, headers: further members of the API's error body, and headers of its response.  smtp:
    code, enhanced code; the text is made by smtp_text unless smtp_fixed stands as the whole reply's text.  is_repeated: the
    same was said before, and is not put on the log of refusals again.
    """

    name: str
    message: str
    http_status: int = 422
    smtp_code: int = 550
    smtp_enhanced: str = "5.6.0"
    field: str | None = None
    retry_after_s: int | None = None
    smtp_fixed: str | None = None
    allow: str | None = None
    extra: tuple[tuple[str, object], ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()
    is_missing: bool = False
    is_repeated: bool = False

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return (
            self.http_status in (408, 429, 500, 503, 507)
            or self is STILL_RUNNING
            or (self.smtp_code < 500 and self.http_status >= 500)
        )

    @property
    def smtp_text(self) -> str:
        """The text behind the SMTP codes: the fixed one, else `name: message`."""
        return self.smtp_fixed or f"{self.name}: {self.message}"


class Refused(Exception):
    """Raised inside a room's own checks to leave with a refusal; never crosses a room's public function."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class NotAllowed(Refused):
    """The key itself may not do this, whatever was answered to another one."""


def invalid(message: str, field: str | None = None) -> Refusal:
    """422 validation_error / 550 5.6.0: what was handed in is wrong."""
    return Refusal("validation_error", message, field=field)


def spoken(field: str) -> str:
    """A member's name as the contract's sentences say it: blanks for underscores."""
    return field.replace("_", " ")


def required(field: str) -> Refusal:
    """`The to field is required.`"""
    return msgspec.structs.replace(invalid(f"The {spoken(field)} field is required.", field), is_missing=True)


def bad_address(field: str, path: str | None = None) -> Refusal:
    """`The 'to' field contains an invalid email address`"""
    return Refusal(
        "validation_error",
        f"The '{field}' field contains an invalid email address",
        smtp_code=553 if field == "to" else 550,
        smtp_enhanced="5.1.3" if field == "to" else "5.6.0",
        smtp_fixed=f"The '{field}' field contains an invalid email address" if field == "to" else None,
        field=path or field,
    )


def wrong_type(field: str, expected: str) -> Refusal:
    """`The subject field must be a string.`"""
    return invalid(f"The {spoken(field)} field must be {expected}.", field)


def too_long(field: str, limit: int) -> Refusal:
    """`The subject field must not be greater than 998 characters.`"""
    return invalid(f"The {spoken(field)} field must not be greater than {limit:,} characters.".replace(",", ""), field)


def not_built_yet(field: str) -> Refusal:
    """A member or header of the contract that this version does not know how to obey: named, never ignored."""
    return invalid(f"'{field}' is not supported yet", field)


def message_too_large(limit_bytes: int) -> Refusal:
    """422 / 552 5.3.4: the composed mail would be over the limit."""
    return Refusal(
        "validation_error",
        f"The email is too large: the limit is {limit_bytes} bytes.",
        smtp_code=552,
        smtp_enhanced="5.3.4",
        smtp_fixed=f"Message too large: the limit is {limit_bytes} bytes",
    )


MISSING_KEY = Refusal(
    "missing_api_key",
    "Missing API key. Send it as 'Authorization: Bearer sk_...'.",
    401,
    530,
    "5.7.0",
    smtp_fixed="Authentication required",
)
INVALID_KEY = Refusal(
    "invalid_api_key", "The API key is invalid.", 401, 535, "5.7.8", smtp_fixed="Authentication failed"
)
NOT_FOUND = Refusal("not_found", "Not found.", 404)


def too_many_wrong_keys(retry_after_s: int, *, is_repeated: bool) -> Refusal:
    """429 rate_limit_exceeded / 421 4.7.0: a wrong key, after too many of them. A right one is never told this."""
    return Refusal(
        "rate_limit_exceeded",
        f"Too many requests with an invalid API key. Please retry after {retry_after_s} seconds.",
        429,
        421,
        "4.7.0",
        retry_after_s=retry_after_s,
        is_repeated=is_repeated,
    )


DOMAIN_NOT_VERIFIED = Refusal(
    "validation_error",
    "The from address domain is not verified.",
    422,
    550,
    "5.7.1",
    field="from",
)
QUOTA_EXCEEDED = Refusal("validation_error", "Monthly email quota exceeded.", 422, 550, "5.7.1")
CANNOT_COMMIT = Refusal(
    "internal_server_error",
    "The server cannot store anything right now; nothing was accepted. Try again.",
    503,
    451,
    "4.3.0",
    retry_after_s=5,
    smtp_fixed="Temporary failure, try again",
)
OUTCOME_UNKNOWN = Refusal(
    "internal_server_error",
    "The database did not answer in time, and it is not known whether this was stored. Sending it again may send it twice.",
    503,
    451,
    "4.3.0",
    retry_after_s=5,
    smtp_fixed="Temporary failure, try again",
)
DISK_FULL = Refusal(
    "internal_server_error",
    "The server is low on disk space; nothing was accepted. Try again later.",
    507,
    452,
    "4.3.1",
    retry_after_s=60,
    smtp_fixed="Insufficient system storage",
)
SHUTTING_DOWN = Refusal(
    "internal_server_error",
    "The server is shutting down; nothing was accepted. Try again.",
    503,
    421,
    "4.3.2",
    retry_after_s=5,
    smtp_fixed="Service shutting down",
)
ENDED_MEANWHILE = Refusal(
    "internal_server_error",
    "The server had to end before this was done, and it is not known whether it was. Asking again may do it twice.",
    503,
    421,
    "4.3.2",
    retry_after_s=5,
    smtp_fixed="Service shutting down",
)
UNEXPECTED = Refusal(
    "internal_server_error",
    "Something went wrong on the server; it has been logged.",
    500,
    451,
    "4.3.0",
    smtp_fixed="Temporary failure, try again",
)


BAD_IDEMPOTENCY_KEY = Refusal(
    "invalid_idempotency_key", "The idempotency key must be 1 to 256 characters.", 400, 550, "5.6.0"
)
OTHER_REQUEST = Refusal(
    "invalid_idempotent_request",
    "The idempotency key was used for another request within the last 24 hours. Use a new key for a new email.",
    409,
    550,
    "5.7.1",
)
STILL_RUNNING = Refusal(
    "concurrent_idempotent_requests",
    "Another request with the same idempotency key is still running. Try again.",
    409,
    451,
    "4.7.1",
    retry_after_s=1,
)


def restricted_to(what: str) -> Refusal:
    """401 restricted_api_key: the key is right, but a restriction of it forbids this. what: a sentence that names it."""
    return Refusal("restricted_api_key", what, 401, 550, "5.7.1")


def paused(reason: str) -> Refusal:
    """422: the account is paused. reason: for people, perhaps empty."""
    more = f" {reason}" if reason else ""
    return Refusal("validation_error", f"Sending is paused for this account.{more}", 422, 550, "5.7.1")


def restricted(permission: str) -> Refusal:
    """401 restricted_api_key: the key is right, but may not do this."""
    return Refusal("restricted_api_key", f"This API key needs the permission {permission}.", 401, 550, "5.7.1")
