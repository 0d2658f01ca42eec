"""Bounces: what a server's refusal says about the address, in one of four types.

hard          the address or its domain does not exist, or takes no mail any more. Only this suppresses an address.
soft          the address is good, but could not be reached or had no room.
block         the refusal is about us: our address, reputation, content, authentication, rate, or a policy.
undetermined  the words do not tell. Nobody is suppressed on a guess.

The words go before the codes, because servers say 5.1.1 of spam and 5.7.1 of unknown users. Among the words those about
us go before those about the mailbox: a wrong `block` costs one more bounce, a wrong `hard` costs a customer. Then comes
the enhanced code (RFC 3463, RFC 7505, RFC 7372), then the reply code (RFC 5321 4.2.3). What is said with 4 at the
beginning is never hard.

Names are no words: an address, the recipient's domain and the host that was talked to may be called anything. Other
names count, because a block list that refuses us is told by its name. What Sendkit itself finds out about a domain is
not judged by words at all.

Hot path: once a refusal. Measured (benchmarks/micro_bounces.py): 13 µs for a usual refusal, 21 µs for words
that no phrase fits, 3 µs for codes alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from sendkit_server.model.bounce_words import ABOUT_THE_MAILBOX, ABOUT_US, HINTS_ABOUT_US, Groups

MAX_DIAGNOSTIC_CHARACTERS = 1_000


class BounceType(StrEnum):
    """What a bounce says about the address."""

    HARD = "hard"
    SOFT = "soft"
    BLOCK = "block"
    UNDETERMINED = "undetermined"


class Bounce(msgspec.Struct, frozen=True):
    """A refusal, judged. subtype: a stable word.  explanation, action: sentences for the developer who sent the mail."""

    type: BounceType
    subtype: str
    explanation: str
    action: str

    @property
    def suppresses(self) -> bool:
        """Whether the address must not be sent to again."""
        return self.type is BounceType.HARD


def judge(reason: str, code: int | None, enhanced: str | None, explanation: str, domain: str) -> Bounce:
    """What a recipient's end says about the address.

    reason, code, enhanced, explanation: as its outcome has them.  domain: the recipient's.
    """
    found = _FOUND_BY_US.get(reason)
    if found is not None and not _TOLD_BY_US.match(explanation.lower()):
        return BOUNCES[found]
    return classify(code, enhanced, explanation, domain)


def classify(code: int | None, enhanced: str | None, diagnostic: str, domain: str = "") -> Bounce:
    """What a refusal says about the address.

    code, enhanced: the deciding reply's; None when unknown, then those in the diagnostic count.  diagnostic: the
    server's words, with or without the codes, and with or without our own words in front (`mx.test said after RCPT: `).
    domain: the recipient's, as far as known.
    """
    text = diagnostic[:MAX_DIAGNOSTIC_CHARACTERS].lower()
    said = _said(text, domain)
    if code is None or enhanced is None:
        found_code, found_enhanced = codes_in(said)
        code = found_code if code is None else code
        enhanced = found_enhanced if enhanced is None else enhanced
    temporary = enhanced[:1] == "4" if enhanced else code is not None and code < 500
    # With blanks in front and single ones between: that is how phrases and codes are looked for.
    words = _CODES.sub(" ", " " + " ".join(_SUMMARIES.sub("", said).split()))
    bounce = BOUNCES[_subtype_of_words(words, enhanced) or _subtype_of_codes(code, enhanced)]
    if temporary and bounce.type in (BounceType.HARD, BounceType.UNDETERMINED):
        return BOUNCES["temporary_refusal"]
    if bounce.type is BounceType.HARD and _is_about_sender(text, enhanced):
        return BOUNCES["sender_refused"]
    return bounce


def codes_in(text: str) -> tuple[int | None, str | None]:
    """The reply code and the enhanced code in a server's words; None for what is not there."""
    enhanced = _ENHANCED.search(text)
    code = _REPLY_CODE.search(text)
    return int(code[1]) if code else None, enhanced[1] if enhanced else None


_SUPPRESSED = "Remove the address; it is suppressed from now on."
_TRY_LATER = "Nothing is wrong with the address: send again later."
_KEPT = "The address is not suppressed."

BOUNCES = {
    subtype: Bounce(type_, subtype, explanation, action)
    for subtype, type_, explanation, action in (
        ("no_such_user", BounceType.HARD, "There is no such mailbox.", _SUPPRESSED),
        (
            "no_such_domain",
            BounceType.HARD,
            "The domain does not exist, or no mail server is known for it.",
            "Look for a typing error in the domain; the address is suppressed from now on.",
        ),
        ("mailbox_disabled", BounceType.HARD, "The mailbox has been closed, or takes no mail any more.", _SUPPRESSED),
        (
            "mailbox_moved",
            BounceType.HARD,
            "The mailbox has moved to another address.",
            "Ask the recipient for the new address; the old one is suppressed from now on.",
        ),
        (
            "bad_address",
            BounceType.HARD,
            "The recipient's server says that this cannot be an address.",
            "Look for a typing error; the address is suppressed from now on.",
        ),
        ("null_mx", BounceType.HARD, "The domain says that it takes no mail at all.", _SUPPRESSED),
        (
            "mailbox_full",
            BounceType.SOFT,
            "The mailbox is full.",
            "The recipient has to make room: send again later.",
        ),
        (
            "not_reached",
            BounceType.SOFT,
            "The recipient's server could not be reached for as long as it was tried.",
            _TRY_LATER,
        ),
        (
            "greylisted",
            BounceType.SOFT,
            "The server takes mail from a sender it does not know only at the second try.",
            _TRY_LATER,
        ),
        (
            "system_trouble",
            BounceType.SOFT,
            "The recipient's mail system is out of order or badly set up.",
            "Send again later; if it lasts, tell the recipient's postmaster by other means.",
        ),
        (
            "mail_loop",
            BounceType.SOFT,
            "The mail went round in circles at the recipient's side, mostly because of a forwarding.",
            "The recipient has to mend the forwarding; send again then.",
        ),
        ("temporary_refusal", BounceType.SOFT, "The recipient's server refused the mail for the moment.", _TRY_LATER),
        (
            "listed",
            BounceType.BLOCK,
            "The sending address has a bad reputation there, or stands on a block list.",
            "Look the sending address up in the list that is named, mend the cause and ask to be taken off.",
        ),
        (
            "spam",
            BounceType.BLOCK,
            "The recipient's server took the mail for spam.",
            "Look at subject, links and wording, and whether the recipient has asked for such mail. " + _KEPT,
        ),
        (
            "content_refused",
            BounceType.BLOCK,
            "The recipient's server does not take what is in the mail, such as an attachment or a link.",
            "Send it without the attachment or link that is named. " + _KEPT,
        ),
        (
            "message_too_large",
            BounceType.BLOCK,
            "The mail is larger than the recipient's server allows.",
            "Send a smaller mail, with a link in place of the attachment. " + _KEPT,
        ),
        (
            "authentication",
            BounceType.BLOCK,
            "The mail did not pass SPF, DKIM or DMARC there, or the server wants them and found none.",
            "Publish the records that `sendkit domains dns` prints, and look whether the From domain fits them.",
        ),
        (
            "rate_limited",
            BounceType.BLOCK,
            "The server takes no more mail from this sender, or for this recipient, in such a short time.",
            "Send more slowly to this destination. " + _KEPT,
        ),
        (
            "sender_refused",
            BounceType.BLOCK,
            "The server does not take mail from this sender's address or domain.",
            "Look whether the From domain and the return path exist and take mail. " + _KEPT,
        ),
        (
            "reverse_dns",
            BounceType.BLOCK,
            "The sending address has no name in DNS, or one that does not lead back to it.",
            "Let the provider of the address set a PTR record that names SENDKIT_HOSTNAME.",
        ),
        (
            "recipient_restricted",
            BounceType.BLOCK,
            "The mailbox takes mail only from chosen senders.",
            "Ask the recipient to allow this sender. " + _KEPT,
        ),
        (
            "relay_denied",
            BounceType.BLOCK,
            "The server says that it is not responsible for this domain.",
            "The domain's MX records may point to the wrong server; ask the recipient's side. " + _KEPT,
        ),
        (
            "tls_required",
            BounceType.BLOCK,
            "The server takes mail only over a better secured connection.",
            "Look at the attempt's transcript for what TLS was used. " + _KEPT,
        ),
        (
            "policy",
            BounceType.BLOCK,
            "The recipient's server refuses the mail by a rule of its own.",
            "Its words may say which rule; ask the recipient's postmaster. " + _KEPT,
        ),
        (
            "protocol_error",
            BounceType.UNDETERMINED,
            "The server did not like how the mail was handed over.",
            "Look at the attempt's transcript. " + _KEPT,
        ),
        (
            "undetermined",
            BounceType.UNDETERMINED,
            "The server refused the mail without saying why.",
            "It may be the address or the mail itself: look whether the address is right. " + _KEPT,
        ),
    )
}

# Amazon SES and Zoho sum a status up in words of their own, in front of what the server said.
_SUMMARIES = re.compile("unknown address error|invalid address, error_code")
# What deliver/outcome.py finds without a server.
_FOUND_BY_US = {"no_such_domain": "no_such_domain", "no_mail_host": "no_such_domain", "null_mx": "null_mx"}
# What deliver/outcome.py puts in front of a server's words.
_TOLD_BY_US = re.compile(r"(?:given up after \S+ h\. the last try: )?(\S+) said (?:after|at) [a-z ]+: ")
# In brackets as RFC 5321 spells it, quotes and all; elsewhere one word, also at the end of a URL, whose host counts.
_ADDRESS = re.compile(r"(?<=<)[^<>]*@[^<>]*(?=>)|(?<![^\s:(</])[^\s:(</]+@[^\s:)>,]+")
_NAMED_HOST = re.compile(r"\b(host |name=)[\w-]+(?:\.[\w-]+)+")
_HOST_NAME = re.compile(r"(?<![\w-])[\w-]+(?:\.[\w-]+)+")
_NAME = "@"  # stands where a name stood
# Nobody can refuse a recipient before he is named.
_AFTER_MAIL = ("after mail from", "reply to mail from", "said after mail:", "response to mail from")
_REPLY_CODE = re.compile(r"(?<![\d.#-])([45][0-57]\d)(?=[\s,:;)-]|\Z)")
_ENHANCED = re.compile(r"(?<![\d.])([45]\.\d{1,2}\.\d{1,3})(?![\d.]*\d)")
# Codes at the beginning of the second and further lines stand between the words of a phrase.
_CODES = re.compile(r" [245]\d\d[- ](?:[245]\.\d{1,3}\.\d{1,3}[- ])?")
_START_CHARACTERS = 4
_WORD_STARTS = re.compile(r"([^\W_]{1,4})[^\W_]*")
_NAMES = re.compile(r"https?://\S+|\b[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}\b")
_USER_UNKNOWN = (
    "user unknown",
    "unknown user",
    "no such user",
    "user not found",
    "recipient unknown",
    "unknown recipient",
    "no such recipient",
    "recipient not found",
    "no such mailbox",
    "mailbox not found",
)
# One word is enough for these, and a word may be somebody's name.
_ONE_WORD = frozenset({"authentication", "listed", "spam", "content_refused", "reverse_dns", "greylisted"})

_BY_DETAIL = {
    "1.1": "no_such_user",
    "1.2": "no_such_domain",
    "1.3": "bad_address",
    "1.6": "mailbox_moved",
    "1.7": "sender_refused",
    "1.8": "sender_refused",
    "1.10": "null_mx",
    "2.1": "mailbox_disabled",
    "2.2": "mailbox_full",
    "2.3": "message_too_large",
    "3.4": "message_too_large",
    "5.0": "undetermined",
    "4.6": "mail_loop",
    "4.14": "mail_loop",
    "4.310": "no_such_domain",
    "7.10": "tls_required",
    "7.20": "authentication",
    "7.21": "authentication",
    "7.22": "authentication",
    "7.23": "authentication",
    "7.24": "authentication",
    "7.25": "reverse_dns",
    "7.26": "authentication",
    "7.27": "sender_refused",
    "7.28": "rate_limited",
}
_BY_SUBJECT = {
    "3": "system_trouble",
    "4": "not_reached",
    "5": "protocol_error",
    "6": "content_refused",
    "7": "policy",
}
_BY_CODE = {552: "mailbox_full", 556: "null_mx", 571: "policy"}


def _is_about_sender(text: str, enhanced: str | None) -> bool:
    return (enhanced is not None and enhanced[1:] in (".1.7", ".1.8")) or any(step in text for step in _AFTER_MAIL)


def _said(text: str, domain: str) -> str:
    """The server's words alone, without names that say nothing."""
    told = _TOLD_BY_US.match(text)
    host = told[1] if told else ""
    text = text[told.end() :] if told else text
    if "@" in text:
        text = _ADDRESS.sub(_NAME, text)
    if "host " in text or "name=" in text:
        text = _NAMED_HOST.sub(rf"\1{_NAME}", text)
    # A site's other mail hosts are called alike.
    names = [name for name in (domain.lower(), host.partition(".")[2] if host.count(".") > 1 else host) if "." in name]
    if not any(name in text for name in names):
        return text
    return _HOST_NAME.sub(lambda found: _NAME if _is_below(found[0], names) else found[0], text)


def _is_below(host: str, names: Sequence[str]) -> bool:
    return any(host == name or host.endswith(f".{name}") for name in names)


def _subtype_of_words(words: str, enhanced: str | None) -> str | None:
    best = len(_GROUPS)
    for start in set(_WORD_STARTS.findall(words)):
        for rank, phrase in _PHRASES.get(start, ()):
            if rank < best and phrase in words:
                best = rank
    if best < len(_GROUPS):
        subtype = _GROUPS[best][0]
        if enhanced == "5.1.1" and subtype in _ONE_WORD and any(phrase in words for phrase in _USER_UNKNOWN):
            return "no_such_user"
        return subtype
    # Weak words may stand in the name of any host just as well.
    bare = _NAMES.sub(" ", words)
    return next((subtype for subtype, hints in HINTS_ABOUT_US if any(hint in bare for hint in hints)), None)


def _by_rarest_word(groups: Groups) -> dict[str, list[tuple[int, str]]]:
    """Each phrase with its group's rank, by the start of the word in it that the fewest phrases share.

    A few phrases are looked for in a text then, not hundreds.
    """
    ranked = [(rank, phrase) for rank, (_, phrases) in enumerate(groups) for phrase in phrases]
    frequency = Counter(start for _, phrase in ranked for start in set(_WORD_STARTS.findall(phrase)))
    found: dict[str, list[tuple[int, str]]] = {}
    for rank, phrase in ranked:
        # The last word may go on in the text, and a short start would not be that of the longer word then.
        *whole, last = _WORD_STARTS.findall(phrase)
        starts = [*whole, last] if len(last) == _START_CHARACTERS or not whole else whole
        found.setdefault(min(starts, key=frequency.__getitem__), []).append((rank, phrase))
    return found


def _subtype_of_codes(code: int | None, enhanced: str | None) -> str:
    if enhanced is not None:
        _, subject, detail = enhanced.split(".", 2)
        found = _BY_DETAIL.get(f"{subject}.{detail}") or _BY_SUBJECT.get(subject)
        if found is not None:
            return found
    return _BY_CODE.get(code, "undetermined") if code is not None else "undetermined"


_GROUPS = ABOUT_US + ABOUT_THE_MAILBOX
_PHRASES = _by_rarest_word(_GROUPS)
