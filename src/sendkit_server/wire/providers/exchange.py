"""What goes to a provider and what comes back, whichever it is."""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import msgspec

MOST_WORDS = 300


class CannotCarry(Exception):
    """The provider's API has no place for what this mail is made of; the text says what."""


class ApiRequest(msgspec.Struct, frozen=True):
    """One call. path: with its query.  headers: without Host and Content-Length."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Meaning(StrEnum):
    """taken: it is the provider's now.  unclear: it may be, but nothing in the answer proves it.  refused: this mail or its
    recipient, for good.  later: try again.  busy: try again, and slower.  not_here: not through this provider as it is set
    up; another route may take it.  broken: nothing goes through this provider as it is set up."""

    TAKEN = "taken"
    UNCLEAR = "unclear"
    REFUSED = "refused"
    LATER = "later"
    BUSY = "busy"
    NOT_HERE = "not_here"
    BROKEN = "broken"


class Answer(msgspec.Struct, frozen=True):
    """What an answer means. text: the provider's words.  enhanced: of a refusal, the class and subject it stands for (RFC 3463)."""

    meaning: Meaning
    text: str
    enhanced: str = "5.6.0"


class Endpoint(msgspec.Struct, frozen=True):
    """Where an API is: host, port and what stands before each path."""

    host: str
    port: int
    base: str

    @classmethod
    def of(cls, url: str) -> Endpoint:
        """From an https:// URL. ValueError when it is none."""
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ValueError(f"url must be like https://api.example.com, without user and query; it is {url!r}")
        return cls(parts.hostname, parts.port or 443, parts.path.rstrip("/"))


class Account(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an account with any provider has. url: of its API, only https."""

    url: str

    def __post_init__(self) -> None:
        _ = self.endpoint  # ValueError: url leads nowhere

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, …)"  # and no secret

    @property
    def endpoint(self) -> Endpoint:
        """Where it is."""
        return Endpoint.of(self.url)


def taken(body: bytes, mail_id: object) -> Answer:
    """What a 2xx means. mail_id: what the documented success calls the mail. Without it anybody may have answered: a proxy,
    a page to log in."""
    if isinstance(mail_id, str) and mail_id:
        return Answer(Meaning.TAKEN, printable(mail_id))
    said = printable(body.decode("utf-8", "replace")) or "nothing"
    return Answer(Meaning.UNCLEAR, f"an answer without the id of a mail: {said}")


def members_of(body: bytes) -> dict[str, Any]:
    """The members of a JSON object; none when the body is something else."""
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def words(body: bytes, *members: str) -> str:
    """What an error body says: the first of these members that it has, else its beginning."""
    found = members_of(body)
    for member in members:
        value = found.get(member)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = value[0].get("message")
        if isinstance(value, str) and value:
            return printable(value)
    return printable(body.decode("utf-8", "replace"))


def printable(text: str) -> str:
    """One line, without control characters, at most MOST_WORDS characters."""
    return " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * MOST_WORDS]).split())[
        :MOST_WORDS
    ]


def meaning_of(status: int) -> Meaning:
    """What an HTTP status says where the body says no more."""
    if status < 300:
        return Meaning.UNCLEAR
    if status == 429:
        return Meaning.BUSY
    if status in (401, 403):
        return Meaning.BROKEN
    if status in (400, 413, 422):
        return Meaning.REFUSED
    return Meaning.LATER
