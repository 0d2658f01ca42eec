"""Mailboxes: what people write into from, to, cc, bcc and reply_to.

One parser serves every door and every check (RFC 5322 3.4, RFC 6531, RFC 5891), so that the address that was
checked is the address that is put into the envelope and the header. Tolerant where people are: a display name
may be quoted, bare, or an RFC 2047 encoded word. Strict where it matters: exactly one address, no comments, no
source routes, no groups, no address literals.
"""

from __future__ import annotations

import re
from email.errors import HeaderParseError
from email.header import decode_header, make_header

import idna
import msgspec
from email_validator import EmailNotValidError, validate_email

MAX_LOCAL_BYTES = 64  # RFC 5321 4.5.3.1.1
MAX_DOMAIN_BYTES = 253  # RFC 1035 2.3.4, without the root's dot
MAX_ADDRESS_BYTES = 254  # RFC 5321 4.5.3.1.3 less the angle brackets

_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_PLAIN = re.compile(
    r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    rf"@(?:{_LABEL}\.)+(?:[a-zA-Z](?:[a-zA-Z0-9-]{{0,61}}[a-zA-Z0-9])?)"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_QUOTED_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"')


class AddressError(ValueError):
    """The text is not exactly one valid mailbox; the message says why."""


class Mailbox(msgspec.Struct, frozen=True, array_like=True):
    """One mailbox: the name people see and the address mail goes to.

    domain is in its ASCII form (A-labels, lower case, no trailing dot); local is as written.
    name is decoded text, "" when there is none.
    """

    local: str
    domain: str
    name: str = ""

    @property
    def address(self) -> str:
        """`local@domain`, as it stands in the envelope."""
        return f"{self.local}@{self.domain}"

    @property
    def is_ascii(self) -> bool:
        """Whether the envelope can carry it without SMTPUTF8 (RFC 6531)."""
        return self.local.isascii()

    @property
    def matching(self) -> str:
        """The form in which two spellings of one address are equal: lower-cased, for look-ups only."""
        return f"{self.local.lower()}@{self.domain}"

    def display(self) -> str:
        """`Name <local@domain>` for people, quoted where RFC 5322 asks for it; the bare address without a name."""
        if not self.name:
            return self.address
        if re.search(r'[()<>\[\]:;@\\,."]', self.name):
            quoted = self.name.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{quoted}" <{self.address}>'
        return f"{self.name} <{self.address}>"


def parse_address(text: str) -> Mailbox:
    """A bare addr-spec. AddressError unless it is exactly one valid address."""
    # `xn--` labels take the slow way: only it looks whether they decode.
    if (
        _PLAIN.fullmatch(text)
        and len(text) <= MAX_ADDRESS_BYTES
        and text.index("@") <= MAX_LOCAL_BYTES
        and "xn--" not in text.lower()
    ):
        local, _, domain = text.rpartition("@")
        if len(domain) <= MAX_DOMAIN_BYTES:
            return Mailbox(local, domain.lower())
    return _parse_unusual(text)


def parse_mailbox(text: str) -> Mailbox:
    """`a@b`, `<a@b>`, `Name <a@b>`, `"Na, me" <a@b>` or an encoded-word name. AddressError otherwise."""
    text = text.strip(" \t")
    if _CONTROL.search(text):
        raise AddressError("it holds a control character")
    if not text.endswith(">"):
        return parse_address(text)
    display, found, spec = text[:-1].rpartition("<")
    if not found:
        raise AddressError("a '>' without its '<'")
    mailbox = parse_address(spec.strip(" \t"))
    name = _display_name(display.strip(" \t"))
    return Mailbox(mailbox.local, mailbox.domain, name) if name else mailbox


def ascii_domain(text: str) -> str:
    """A domain name in its A-label form, lower case, without a trailing dot. AddressError when it is none."""
    domain = text.removesuffix(".")
    try:
        if domain.isascii():
            domain = domain.lower()
            if any(label.startswith("xn--") for label in domain.split(".")):
                idna.decode(domain, strict=False)
        else:
            domain = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise AddressError(f"the domain is not valid: {error}") from None
    labels = domain.split(".")
    if len(domain) > MAX_DOMAIN_BYTES or not all(re.fullmatch(_LABEL, label) for label in labels):
        raise AddressError("the domain is not valid")
    if domain != "localhost" and (len(labels) < 2 or labels[-1].isdigit()):
        raise AddressError("the domain is not a fully qualified name")
    return domain


def _parse_unusual(text: str) -> Mailbox:
    """Quoted local parts, international addresses, and every wrong one."""
    local, found, domain_text = text.rpartition("@")
    if not found or not local:
        raise AddressError("there is no '@' with something on both sides")
    domain = ascii_domain(domain_text)
    try:
        # The domain is judged above, special-use names (.test, .local, localhost) being ours to allow.
        checked = validate_email(f"{local}@example.com", check_deliverability=False, allow_quoted_local=True)
    except EmailNotValidError as error:
        raise AddressError(str(error)) from None
    if len(checked.local_part.encode()) > MAX_LOCAL_BYTES:
        raise AddressError("the part before the '@' is longer than 64 bytes")
    if len(checked.local_part.encode()) + 1 + len(domain) > MAX_ADDRESS_BYTES:
        raise AddressError("the address is longer than 254 bytes")
    return Mailbox(checked.local_part, domain)


def _display_name(raw: str) -> str:
    if not raw:
        return ""
    quoted = _QUOTED_NAME.fullmatch(raw)
    if quoted:
        return _decoded(re.sub(r"\\(.)", r"\1", quoted.group(1)))
    # `a@x, b@y <c@z>` and `Name <x> <a@b>` are two mailboxes written as one: which one was meant is anybody's guess.
    if re.search(r'[<>";]', raw) or ("," in raw and "@" in raw):
        raise AddressError("there is more than one mailbox, or a quote that is not closed")
    return _decoded(raw)


def _decoded(name: str) -> str:
    if "=?" not in name:
        return name
    try:
        decoded = str(make_header(decode_header(name)))
    except (HeaderParseError, LookupError, ValueError):
        return name
    # An encoded word may hide line breaks that the raw text was checked for.
    if _CONTROL.search(decoded):
        raise AddressError("the name holds a control character")
    return decoded
