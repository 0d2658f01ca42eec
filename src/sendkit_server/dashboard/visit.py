"""One request of a browser: who it is, what its form says, and whether the form is one of ours.

A change needs three things: that the browser says it comes from a page of ours (Sec-Fetch-Site, else Origin), that the form holds
a token made from a cookie, and a POST. The cookie is the session's; before there is one, a random one for the forms.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl

import msgspec

from sendkit_server.manage.sessions import LIFETIME_MS, Visitor

MAX_FORM_BYTES = 65_536
MAX_FIELDS = 50
FORM_COOKIE_BYTES = 16

Header = tuple[bytes, bytes]


class Visit(msgspec.Struct, frozen=True):
    """host: the client's address.  secret: the session's, None when nobody is signed in.

    form_secret: what the token of forms is made from.  form_cookie: to be set with the page, None when the browser has it.
    """

    method: str
    host: str
    secure: bool
    same_site: bool
    visitor: Visitor | None
    secret: str | None
    form_secret: str
    form_cookie: Header | None
    form: Mapping[str, str]

    @property
    def token(self) -> str:
        """For each form that is shown."""
        return token_of(self.secret or self.form_secret)

    @property
    def is_ours(self) -> bool:
        """Whether the form was made by us for this browser."""
        return self.same_site and hmac.compare_digest(self.form.get("token", "").encode(), self.token.encode())


def token_of(secret: str) -> str:
    """The token of the forms that go with a cookie."""
    return hashlib.sha256(f"form:{secret}".encode()).hexdigest()


def session_cookie_name(*, secure: bool) -> str:
    """With the prefix by which browsers hold it to HTTPS, this host and the whole path; plain HTTP cannot have that."""
    return "__Host-sendkit" if secure else "sendkit"


def form_cookie_name(*, secure: bool) -> str:
    """Of the cookie before the sign-in."""
    return "__Host-sendkit-form" if secure else "sendkit-form"


def session_cookie(secret: str, *, secure: bool) -> Header:
    """Sets a session's cookie."""
    return _set(session_cookie_name(secure=secure), secret, LIFETIME_MS // 1000, secure=secure)


def no_session_cookie(*, secure: bool) -> Header:
    """Takes it away."""
    return _set(session_cookie_name(secure=secure), "", 0, secure=secure)


def form_cookie(secret: str, *, secure: bool) -> Header:
    """Sets the cookie of forms, until the browser is closed."""
    return _set(form_cookie_name(secure=secure), secret, None, secure=secure)


def new_form_secret(entropy: bytes) -> str:
    """From FORM_COOKIE_BYTES random bytes."""
    return base64.urlsafe_b64encode(entropy).rstrip(b"=").decode()


def _set(name: str, value: str, max_age_s: int | None, *, secure: bool) -> Header:
    text = f"{name}={value}; Path=/; HttpOnly; SameSite=Lax"
    if max_age_s is not None:
        text += f"; Max-Age={max_age_s}"
    return b"set-cookie", (text + ("; Secure" if secure else "")).encode()


def cookies(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """What the browser sent; nothing when it cannot be read."""
    try:
        return {
            name: morsel.value for name, morsel in SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).items()
        }
    except CookieError:
        return {}


def fields(body: bytes) -> dict[str, str]:
    """A form's fields (application/x-www-form-urlencoded); nothing when it cannot be read. Of a repeated one the last."""
    try:
        found = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        return {}
    return {} if any("\0" in value for _, value in found) else dict(found)
