"""Header fields as bytes: encoded, folded, and never more than the one field that was meant.

Lines are folded at 78 characters where the text allows it and never pass 998 bytes (RFC 5322 2.1.1). CR, LF and NUL
in a value raise ValueError: accept has refused them, and nothing behind it may turn one header into two. What is not
plain ASCII becomes encoded words (RFC 2047) or extended parameters (RFC 2231); only the local part of an
international address stands as raw UTF-8, because nothing else can express it (RFC 6532).
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from sendkit_server.model.address import Mailbox

FOLD_AT = 78
MAX_LINE_BYTES = 998
MAX_WORD = 900  # longer plain words are encoded, so that name, colon and word stay under MAX_LINE_BYTES

_ENCODED_WORD_MAX = 75  # RFC 2047 2
_ENCODED_WORD_FRAME = len("=?utf-8?q??=")
_ENCODED_LINE_MAX = 76  # RFC 2047 2: a line that holds an encoded word
_SMALLEST_ROOM = 24  # one character of four bytes, in its frame

_FIELD_NAME = re.compile(r"[!-9;-~]{1,76}")  # RFC 5322 3.6.8: ftext
_FORBIDDEN = re.compile(r"[\r\n\0]")
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ATOMS = re.compile(rf"{_ATEXT}(?: {_ATEXT})*")
# Single blanks only, no quote and no backslash: what readers give back as it was, whether they unescape or not.
_QUOTABLE = re.compile(r"[!#-\[\]-~]+(?: [!#-\[\]-~]+)*")
_PARAMETER_TOKEN = re.compile(r"[A-Za-z0-9!#$&+.^_`{|}~-]{1,60}")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,900}>")
# One parameter: `; name = value`, the value a token or a quoted string. Possessive, so that no input is read twice.
_PARAMETER = re.compile(r';[ \t]*+([^\s=;"]*+)[ \t]*+=[ \t]*+(?:"((?:[^"\\]|\\.)*+)"|([^\s;"]*+))[^;"]*+', re.DOTALL)

# RFC 2047 5 (3): what may stand for itself in a phrase, and therefore everywhere.
_Q = [
    chr(byte) if chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "!*+-/") else f"={byte:02X}"
    for byte in range(256)
]
_Q[ord(" ")] = "_"


def unstructured(name: str, text: str, *, keep_encoded_words: bool = False) -> bytes:
    """A field whose value is text, such as Subject or a user's own header.

    keep_encoded_words: an ASCII value already holds encoded words that are meant as such (mailers hand such headers
    over); otherwise `=?` in the text is protected, so that readers show what was written.
    ValueError: no field name, or CR, LF or NUL in the value.
    """
    if not _FIELD_NAME.fullmatch(name):
        raise ValueError(f"not a header name: {name!r}")
    if _is_plain(text, keep_encoded_words) and len(name) + len(text) <= FOLD_AT - 2 and text == text.strip(" "):
        return f"{name}: {text}\r\n".encode("ascii")
    return _folded(name, _words(text, _ENCODED_LINE_MAX - len(name) - 2, keep_encoded_words))


def mailboxes(name: str, boxes: Sequence[Mailbox]) -> bytes:
    """An address list such as From, To or Reply-To (RFC 5322 3.4); at least one mailbox."""
    tokens: list[str] = []
    for box in boxes:
        tokens += _mailbox_tokens(box)
        tokens[-1] += ","
    tokens[-1] = tokens[-1][:-1]
    return _folded(name, tokens)


def parameterised(name: str, value: str, parameters: Sequence[tuple[str, str]]) -> bytes:
    """`Content-Type: value; name=value; …` (RFC 2045 5.1, RFC 2231)."""
    tokens = [value]
    for key, text in parameters:
        tokens += _parameter_tokens(key, text)
    return _folded(name, [f"{token};" for token in tokens[:-1]] + tokens[-1:])


def message_id(value: str) -> bytes:
    """The Message-ID field. ValueError unless is_message_id(value)."""
    if not is_message_id(value):
        raise ValueError(f"not a Message-ID: {value[:100]!r}")
    return f"Message-ID: {value}\r\n".encode("ascii")


def is_message_id(text: str) -> bool:
    """Whether text can stand in Message-ID: angle brackets around printable ASCII without blanks or brackets.

    More than RFC 5322 3.6.4 allows, because mailers in use write ids without an `@`.
    """
    return _MESSAGE_ID.fullmatch(text) is not None


def parameters_of(value: str) -> Iterator[tuple[str, str]]:
    """The parameters of an unfolded field value in order, names in lower case; stops at the first malformed one."""
    at = value.find(";")
    while at != -1 and (found := _PARAMETER.match(value, at)):
        quoted = found.group(2)
        yield found.group(1).lower(), found.group(3) if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        at = found.end()


def _is_plain(text: str, keep_encoded_words: bool) -> bool:
    return text.isascii() and text.isprintable() and (keep_encoded_words or "=?" not in text)


def _words(text: str, first_room: int, keep_encoded_words: bool) -> list[str]:
    """The words of a text; those from the first to the last that cannot stand plain become encoded words."""
    if _FORBIDDEN.search(text):
        raise ValueError("CR, LF or NUL in a header value")
    # Readers drop the blank between two encoded words, so an encoded word of the user's beside one of ours is text.
    keep = keep_encoded_words and _is_plain(text, True)
    words = text.split(" ")
    odd = [n for n, word in enumerate(words) if not word or len(word) > MAX_WORD or not _is_plain(word, keep)]
    if not odd:
        return words
    first, last = odd[0], odd[-1] + 1
    room = first_room if first == 0 else _ENCODED_WORD_MAX
    return words[:first] + _encoded_words(" ".join(words[first:last]), room) + words[last:]


def _mailbox_tokens(box: Mailbox) -> list[str]:
    address = box.address
    if _FORBIDDEN.search(address) or _FORBIDDEN.search(box.name):
        raise ValueError("CR, LF or NUL in a mailbox")
    name = box.name
    if not name:
        return [address]
    if len(name) <= 60 and "=?" not in name:
        if _ATOMS.fullmatch(name):
            return [name, f"<{address}>"]
        if _QUOTABLE.fullmatch(name):
            return [f'"{name}"', f"<{address}>"]
    return [*_encoded_words(name, _ENCODED_WORD_MAX - len("Reply-To: ")), f"<{address}>"]


def _encoded_words(text: str, first_room: int) -> list[str]:
    """Text as encoded words of at most 75 characters, whole characters in each (RFC 2047 5).

    first_room: what the first word may take, because it follows the field's name.
    """
    raw = text.encode()
    room = max(first_room, _SMALLEST_ROOM) - _ENCODED_WORD_FRAME
    if (len(raw) + 2) // 3 * 4 < sum([len(_Q[byte]) for byte in raw]):
        return _b_words(raw, room)
    return _q_words(text, room)


def _b_words(raw: bytes, room: int) -> list[str]:
    words = []
    start = 0
    while start < len(raw):
        end = start + room // 4 * 3
        # A continuation byte must not begin a word: the character would be cut in two.
        while end < len(raw) and raw[end] & 0xC0 == 0x80:
            end -= 1
        words.append(f"=?utf-8?b?{b2a_base64(raw[start:end], newline=False).decode('ascii')}?=")
        start = end
        room = _ENCODED_WORD_MAX - _ENCODED_WORD_FRAME
    return words


def _q_words(text: str, room: int) -> list[str]:
    words = []
    word = ""
    for character in text:
        encoded = "".join([_Q[byte] for byte in character.encode()])
        if len(word) + len(encoded) > room:
            words.append(f"=?utf-8?q?{word}?=")
            word = ""
            room = _ENCODED_WORD_MAX - _ENCODED_WORD_FRAME
        word += encoded
    words.append(f"=?utf-8?q?{word}?=")
    return words


def _parameter_tokens(key: str, text: str) -> list[str]:
    if _PARAMETER_TOKEN.fullmatch(text):
        return [f"{key}={text}"]
    if len(text) <= 60 and "=?" not in text and _QUOTABLE.fullmatch(text):
        return [f'{key}="{text}"']
    return _extended_parameter(key, text)


def _extended_parameter(key: str, text: str) -> list[str]:
    """RFC 2231 4, in numbered pieces (RFC 2231 3) when one line cannot hold it."""
    if _FORBIDDEN.search(text):
        raise ValueError("CR, LF or NUL in a parameter")
    characters = [quote(character, safe="") for character in text]
    whole = f"{key}*=utf-8''{''.join(characters)}"
    if len(whole) < FOLD_AT - 2:
        return [whole]
    pieces = [f"{key}*0*=utf-8''"]
    for character in characters:
        # Whole characters in each piece: there are readers that decode piece by piece.
        if len(pieces[-1]) + len(character) > FOLD_AT - 2:
            pieces.append(f"{key}*{len(pieces)}*=")
        pieces[-1] += character
    return pieces


def _folded(name: str, tokens: Sequence[str]) -> bytes:
    """`name: tokens…` with a blank between tokens, which becomes a fold where a line would be too long."""
    line = f"{name}: {' '.join(tokens)}"
    if len(line) > FOLD_AT:
        lines = []
        line = f"{name}: {tokens[0]}"
        for token in tokens[1:]:
            if len(line) + 1 + len(token) > FOLD_AT:
                lines.append(line)
                line = f" {token}"
            else:
                line += f" {token}"
        lines.append(line)
        # Beyond ASCII there is at most one address a line, and it has 254 bytes.
        if max(map(len, lines)) > MAX_LINE_BYTES:
            raise ValueError(f"a line of {name} would be longer than {MAX_LINE_BYTES} bytes")
        line = "\r\n".join(lines)
    return f"{line}\r\n".encode()
