"""The AUTH exchange: from the command to credentials (RFC 4954).

PLAIN is RFC 4616. LOGIN is an old draft, and still what many clients try first.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable

import msgspec

from sendkit_server.wire import smtp_server_replies as say
from sendkit_server.wire.reply import ProtocolError, Reply

BAD_ENCODING = Reply(501, "5.5.2", "Not valid base64")
BAD_CREDENTIALS = Reply(501, "5.5.2", "AUTH PLAIN wants <identity> NUL <user> NUL <password>, in UTF-8")


class AuthAttempt(msgspec.Struct, frozen=True):
    """Credentials to be judged: 235 lets in, anything else does not."""

    user: str
    secret: str

    def __repr__(self) -> str:
        return f"AuthAttempt(user={self.user!r})"  # a secret never gets into a log by way of a traceback


class AuthExchange:
    """One AUTH command. Each step gives credentials, or a prompt for one more line; ProtocolError when it is over."""

    def __init__(self) -> None:
        self._user = ""
        self._next: Callable[[str], AuthAttempt | Reply] = self._plain

    def begin(self, argument: str) -> AuthAttempt | Reply:
        """The command's argument: mechanism [initial-response]."""
        mechanism, _, initial = argument.partition(" ")
        match mechanism.upper():
            case "PLAIN":
                prompt = say.GO_ON
            case "LOGIN":
                prompt, self._next = say.USER_PROMPT, self._login_user
            case "":
                raise ProtocolError(say.AUTH_SYNTAX)
            case _:
                raise ProtocolError(say.UNKNOWN_MECHANISM)
        return self.respond(initial) if initial else prompt

    def respond(self, line: str) -> AuthAttempt | Reply:
        """The client's next line."""
        if line == "*":
            raise ProtocolError(say.AUTH_CANCELLED)
        return self._next(line)

    def _plain(self, line: str) -> AuthAttempt:
        identity, user, secret = parse_plain(decode_base64(line))
        if identity and identity != user:
            raise ProtocolError(say.AUTH_FAILED)  # nobody acts for somebody else; no key was tried
        return AuthAttempt(user, secret)

    def _login_user(self, line: str) -> Reply:
        self._user = decode_text(decode_base64(line))
        self._next = self._login_secret
        return say.SECRET_PROMPT

    def _login_secret(self, line: str) -> AuthAttempt:
        return AuthAttempt(self._user, decode_text(decode_base64(line)))


def decode_base64(text: str) -> bytes:
    """One base64 response of AUTH (RFC 4954 4); `=` alone is the empty one."""
    if text == "=":
        return b""
    try:
        return binascii.a2b_base64(text.encode(), strict_mode=True)
    except binascii.Error:
        raise ProtocolError(BAD_ENCODING) from None


def decode_text(raw: bytes) -> str:
    """A user name or secret: UTF-8 without NUL (RFC 4616 2)."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ProtocolError(BAD_CREDENTIALS) from None
    if "\0" in text:
        raise ProtocolError(BAD_CREDENTIALS)
    return text


def parse_plain(raw: bytes) -> tuple[str, str, str]:
    """RFC 4616 message = [authzid] NUL authcid NUL passwd, as those three."""
    parts = raw.split(b"\0")
    if len(parts) != 3:
        raise ProtocolError(BAD_CREDENTIALS)
    identity, user, secret = (decode_text(part) for part in parts)
    return identity, user, secret
