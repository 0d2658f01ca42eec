"""What stands behind a command's name: paths and parameters of MAIL and RCPT, BDAT's count.

Each function returns a value or raises ProtocolError with the reply; none guesses. Tolerated beyond RFC 5321:
blanks between `FROM:` and `<`, which several old mailers write. The syntax of the address itself is
model.address's business, so that every door takes and refuses the same addresses.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

from sendkit_server.model.address import AddressError, Mailbox, parse_address
from sendkit_server.wire.reply import ProtocolError, Reply

BAD_SENDER = Reply(501, "5.1.7", "The sender's address is not valid")
BAD_RECIPIENT = Reply(553, "5.1.3", "The 'to' field contains an invalid email address")
NEEDS_SMTPUTF8 = Reply(553, "5.6.7", "An address with non-ASCII characters needs the SMTPUTF8 parameter")

MAIL_PARAMETERS = ("SIZE", "BODY", "SMTPUTF8", "AUTH")

# Path = "<" [ A-d-l ":" ] Mailbox ">": up to the first ">" that is in no quoted string. Possessive: linear time.
_PATH = re.compile(r'<((?:[^"<>]++|"(?:[^"\\]|\\.)*+")*+)>(?: +(.*))?')
_CHUNK = re.compile(r"([0-9]{1,19})(?: +(LAST))?", re.IGNORECASE)


class MailCommand(msgspec.Struct, frozen=True):
    """MAIL's argument. return_path: None for `<>`.  size_bytes: None when not announced."""

    return_path: Mailbox | None
    smtputf8: bool = False
    size_bytes: int | None = None


def parse_mail(argument: str) -> MailCommand:
    """`FROM:<path> [SIZE=…] [BODY=…] [SMTPUTF8] [AUTH=…]` (RFC 5321 4.1.1.2, 1870, 6152, 6531, 4954)."""
    if argument[:5].upper() != "FROM:":
        raise _syntax("Syntax: MAIL FROM:<address>")
    path, parameters_text = _split_path(argument[5:], BAD_SENDER, "Syntax: MAIL FROM:<address>")
    if not parameters_text:
        return MailCommand(_mailbox(path, False, BAD_SENDER) if path else None)
    parameters = _parameters(parameters_text, MAIL_PARAMETERS)
    if parameters.get("BODY", "7BIT").upper() not in ("7BIT", "8BITMIME"):
        raise _syntax("BODY is 7BIT or 8BITMIME")
    if parameters.get("SMTPUTF8"):
        raise _syntax("SMTPUTF8 takes no value")
    smtputf8 = "SMTPUTF8" in parameters
    size = parse_size(parameters["SIZE"]) if "SIZE" in parameters else None
    return MailCommand(_mailbox(path, smtputf8, BAD_SENDER) if path else None, smtputf8, size)


def parse_recipient(argument: str, smtputf8: bool) -> Mailbox:
    """`TO:<path>` (RFC 5321 4.1.1.3); no parameter is known, DSN (RFC 3461) not being offered."""
    if argument[:3].upper() != "TO:":
        raise _syntax("Syntax: RCPT TO:<address>")
    path, parameters_text = _split_path(argument[3:], BAD_RECIPIENT, "Syntax: RCPT TO:<address>")
    if parameters_text:
        _parameters(parameters_text, ())
    return _mailbox(path, smtputf8, BAD_RECIPIENT)


def parse_size(text: str) -> int:
    """RFC 1870 size-value = 1*20DIGIT. int() alone would also take `+5`, `1_000` and other scripts' digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise _syntax("SIZE is a number of bytes, 1 to 20 digits")
    return int(text)


def parse_chunk(argument: str) -> tuple[int, bool] | None:
    """BDAT's size and whether it is the last (RFC 3030 2). None: nobody can tell where the chunk ends."""
    match = _CHUNK.fullmatch(argument)
    return None if match is None else (int(match[1]), match[2] is not None)


def _syntax(text: str) -> ProtocolError:
    return ProtocolError(Reply(501, "5.5.4", text))


def _split_path(text: str, bad_address: Reply, usage: str) -> tuple[str, str]:
    text = text.lstrip(" ")
    match = _PATH.fullmatch(text)
    if match is None:
        raise ProtocolError(bad_address) if text.startswith("<") else _syntax(usage)
    return match[1], match[2] or ""


def _mailbox(path: str, smtputf8: bool, bad_address: Reply) -> Mailbox:
    if not (smtputf8 or path.isascii()):
        raise ProtocolError(NEEDS_SMTPUTF8)
    try:
        return parse_address(path)
    except AddressError:
        raise ProtocolError(bad_address) from None


def _parameters(text: str, known: Collection[str]) -> dict[str, str]:
    """esmtp-param = esmtp-keyword ["=" esmtp-value], separated by blanks. A missing value is ""."""
    found: dict[str, str] = {}
    for part in text.split():
        keyword, _, value = part.partition("=")
        keyword = keyword.upper()
        if keyword not in known:
            raise ProtocolError(Reply(555, "5.5.4", "Parameter not recognized or not implemented"))
        if keyword in found:
            raise _syntax(f"{keyword} is given twice")
        found[keyword] = value
    return found
