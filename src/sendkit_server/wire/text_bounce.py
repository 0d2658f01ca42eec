"""Bounces in words: what servers without RFC 3464 write, and the words that go with a notification.

The text ends where the returned mail begins. What is said of an address stands behind it, up to the next address.
Formats that this does not know are left to flufl.bounce, which has a detector for each of many old servers.
"""

from __future__ import annotations

import email
import logging
import re
from collections.abc import Sequence
from email import policy

from sendkit_server.model.bounce import classify, codes_in
from sendkit_server.wire.dsn import MAX_DIAGNOSTIC_CHARACTERS, Action, RecipientReport, addresses_in
from sendkit_server.wire.feedback import RETURNED_TYPES
from sendkit_server.wire.parts import Part

MAX_WORDS = 16_384  # the explanation; beyond it there is only the returned mail
MAX_ADDRESSES = 20
MAX_BORDER_CHARACTERS = 160
MAX_FALLBACK_PARTS = 50  # the standard library goes down into each by recursion
FALLBACK_BYTES = 24_576

_RETURNED = re.compile(
    r"(?:[-= >_*|]{2,}+.*(?:copy of (?:the|your) (?:message|mail)|original (?:message|mail)|returned (?:message|mail)"
    r"|message (?:header|text|body)|header of|headers follow|undelivered message|unsent message).*"
    r"|(?:received|return-path|dkim-signature): .*"
    r"|.*(?:original message|message headers?|returned message|unsent message)[^\n]{0,40}\b(?:follows?|below|reads)\b.{0,20}"
    r"|.*\b(?:below is|this is|here is|included is) (?:a copy|the copy) of .{0,40}(?:message|mail)\b.*)",
    re.IGNORECASE,
)
_OURS = re.compile(r"^(?:mailer-daemon|postmaster|mail-daemon|mailerdaemon|b-[0-9a-z]{26}-)", re.IGNORECASE)
_BLANKS = re.compile(r"\s+")
_UNSURE = frozenset({"undetermined", "protocol_error"})

# flufl.bounce tells each detector that it tries.
logging.getLogger("flufl.bounce").setLevel(logging.WARNING)


def explanation_of(parts: Sequence[Part]) -> str:
    """The words in front of the returned mail, from the first part that people are to read."""
    readable = [part for part in parts if part.media_type.startswith("text/") and part.media_type not in RETURNED_TYPES]
    # A multipart whose borders cannot be found is its own text.
    readable += [part for part in parts if part.media_type.startswith("multipart/")]
    text = next((text for part in readable if (text := part.text().strip())), "")[:MAX_WORDS]
    at = 0
    for line in text.split("\n"):
        # A text that begins with what looks like the returned mail has nothing else to say.
        if _RETURNED.match(line[:MAX_BORDER_CHARACTERS]) and text[:at].strip():
            return text[:at]
        at += len(line) + 1
    return text


def words_about(address: str, text: str, others: Sequence[str]) -> str:
    """What a text says of an address, in one line: from there to the next of the others, else the whole text."""
    lowered = text.lower()
    at = lowered.find(address) if address else -1
    if at == -1:
        return _short(text)
    at += len(address)
    ends = [end for other in others if other != address and (end := lowered.find(other, at)) != -1]
    behind = text[at : min(ends, default=len(text))].lstrip(">:)]\"' \t\r\n")
    return _short(behind) if _says_why(behind) else _short(text)


def read_text(
    text: str, failed_recipients: Sequence[str], *, temporary: bool, certain: bool
) -> tuple[RecipientReport, ...]:
    """One report for each address that the text or the header (X-Failed-Recipients) names, one without an address when
    none is named; nothing when the text does not say why.

    temporary: the server goes on trying.  certain: it is a bounce, whatever the text says.
    """
    named = [address for address in addresses_in(text) if not _OURS.match(address)][:MAX_ADDRESSES]
    chosen = list(dict.fromkeys(address.lower() for address in failed_recipients)) or named
    if not (_says_why(text) or (certain and chosen)):
        return ()
    found = []
    for address in chosen or [""]:
        words = words_about(address, text, chosen)
        code, enhanced = codes_in(words)
        action = Action.DELAYED if temporary else Action.FAILED
        found.append(RecipientReport(action, (address,) if address else (), code, enhanced, words))
    return tuple(found)


def read_unknown(raw: bytes, text: str) -> tuple[RecipientReport, ...]:
    """What flufl.bounce finds in a mail; its words are the text's."""
    # Its detectors' patterns take 30 ms to make, which each start and each command would pay for.
    from flufl.bounce import all_failures

    raw = raw[:FALLBACK_BYTES]
    if raw.lower().count(b"content-type:") > MAX_FALLBACK_PARTS:
        return ()
    message = email.message_from_bytes(raw, policy=policy.compat32)
    try:
        temporary, permanent = all_failures(message)
    except Exception:
        # Its detectors are written for mail that servers sent; whatever else one of them meets is no bounce it knows.
        return ()
    found = []
    for action, raw_addresses in ((Action.FAILED, permanent), (Action.DELAYED, temporary - permanent)):
        for raw_address in sorted(raw_addresses)[:MAX_ADDRESSES]:
            address = raw_address.decode("utf-8", "replace").lower()
            words = words_about(address, text, ())
            found.append(RecipientReport(action, (address,), *codes_in(words), words))
    return tuple(found)


def _says_why(text: str) -> bool:
    code, enhanced = codes_in(text[:MAX_WORDS])
    return code is not None or enhanced is not None or classify(None, None, _short(text)).subtype not in _UNSURE


def _short(text: str) -> str:
    return _BLANKS.sub(" ", text[: MAX_DIAGNOSTIC_CHARACTERS * 3]).strip()[:MAX_DIAGNOSTIC_CHARACTERS]
