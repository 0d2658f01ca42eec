"""Mails that came in whole: read just as far as needed, and changed only where they could not travel.

The header block is read as bytes. Odd folding is tolerated, a broken block is refused: a mail that two programs read
differently is one that somebody was fooled with. The body stays byte for byte, but for parts with lines over 998
bytes or NUL, and 8-bit parts to a hop without 8BITMIME (RFC 6152 3); those become quoted-printable or base64. Signed
and encrypted parts are never touched (RFC 1847 2.1): where one would have to be, the mail cannot travel.

The walk through the parts is one pass over the lines that begin with `--`, with limits on depth, parts and such
lines, so that the time is linear in the size whatever the mail is made of.

Measured (benchmarks/micro_compose.py): 0.02 ms to prepare a 5 KB mail.
"""

from __future__ import annotations

import contextlib
import re
from binascii import a2b_base64, a2b_qp
from collections.abc import Iterator

import msgspec

from sendkit_server.model.address import Mailbox, parse_mailbox
from sendkit_server.wire import headers, mime

MAX_HEADER_BYTES = 102_400
MAX_DEPTH = 100
MAX_PARTS = 10_000
MAX_DELIMITER_LINES = 500_000
MAX_BOUNDARY_BYTES = 200  # RFC 2046 5.1.1 says 70

# Where encoded words may stand (RFC 2047 5): in text, and in the names beside addresses.
_TEXT_FIELDS = frozenset({b"subject", b"comments"})
_ADDRESS_FIELDS = frozenset({b"from", b"sender", b"reply-to", b"to", b"cc"})

_NEXT_FIELD = re.compile(rb"\r\n(?![ \t])")
_FIELD = re.compile(rb"([!-9;-~]++)[ \t]*+:([^\r\n]*+(?:\r\n[ \t][^\r\n]*+)*+)(?:\r\n|\Z)")
_REMOVED = frozenset({b"bcc", b"resent-bcc", b"return-path", b"idempotency-key", b"resend-idempotency-key"})
_ADDED_IF_MISSING = frozenset({b"date", b"message-id"})
_OWN_PREFIX = b"x-sendkit-"
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_ENCODED_WORD = re.compile(r"=\?([!->@-~]{1,40})\?([bqBQ])\?([!->@-~ ]*+)\?=")
_ADDRESS_SPECIAL = re.compile(r'"(?:[^"\\]|\\.)*+"?|\\.|[(),:;<>]', re.DOTALL)
_COMMENT_SPECIAL = re.compile(r"\\.|[()]", re.DOTALL)
_NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="))
# Python's codecs hold more than charsets, and some of those take quadratic time.
_CHARSETS = (
    "iso-",
    "windows-",
    "cp",
    "koi8",
    "gb",
    "big5",
    "euc",
    "shift",
    "ks_c",
    "utf-16",
    "mac",
    "tis-620",
    "latin",
)
_PROTECTED = frozenset(
    {
        "multipart/signed",
        "multipart/encrypted",
        "application/pkcs7-mime",
        "application/x-pkcs7-mime",
        "application/pgp-encrypted",
        # Its parts are messages even where they do not say so (RFC 2046 5.1.5); too rare to be worth the rule.
        "multipart/digest",
    }
)
_ENCLOSING = frozenset({"message/rfc822", "message/global"})
_UNENCODED = frozenset({"7bit", "8bit", "binary"})


class CannotTravel(Exception):
    """The mail would have to be changed where it must not be (5.6.3); the message says why."""


class RawHeaders(msgspec.Struct, frozen=True):
    """What accept needs to know of a header block. Texts are decoded and unfolded, controls shown as blanks.

    from_, to, cc: the text of each mailbox, for model.address.parse_mailbox.  from_count: how many From fields.
    extensions: name and value of each `X-…` and `…Idempotency-Key` field, in order.
    """

    from_: tuple[str, ...]
    from_count: int
    to: tuple[str, ...]
    cc: tuple[str, ...]
    subject: str
    message_id: str | None
    received_count: int
    extensions: tuple[tuple[str, str], ...]


class Needs(msgspec.Struct, frozen=True):
    """What a message asks of a hop. unsafe: lines over 998 bytes or NUL in the body, which no hop may be given."""

    eightbit: bool
    unsafe: bool
    smtputf8: bool


def headers_of(raw: bytes) -> RawHeaders:
    """The header block's content. ValueError, with the reason as a sentence, when the block is broken."""
    fields, _ = _fields(raw)
    values: dict[bytes, list[bytes]] = {}
    extensions = []
    for field in fields:
        name, value = _name_and_value(field)
        values.setdefault(name, []).append(value)
        if name.startswith(b"x-") or name.endswith(b"idempotency-key"):
            extensions.append((field.partition(b":")[0].rstrip(b" \t").decode("ascii"), _text(value)))
        if len(field) > mime.MAX_LINE_BYTES:
            # Said now, while it can be refused; prepared() does it.
            _refolded(field)
    return RawHeaders(
        from_=_addresses(values.get(b"from", []), groups=False),
        from_count=len(values.get(b"from", [])),
        to=_addresses(values.get(b"to", [])),
        cc=_addresses(values.get(b"cc", [])),
        subject=decoded(_text(values[b"subject"][0])) if b"subject" in values else "",
        message_id=next(filter(None, map(_text, values.get(b"message-id", []))), None),
        received_count=len(values.get(b"received", [])),
        extensions=tuple(extensions),
    )


def split_addresses(text: str, *, groups: bool = True) -> list[str]:
    """The mailboxes of an unfolded address list as texts (RFC 5322 3.4), without comments.

    groups: `name: a, b;` counts as its members (RFC 5322 allows groups in To and Cc, not in From).
    """
    found = []
    piece = ""
    comments = 0
    angle = False
    at = 0
    while special := (_COMMENT_SPECIAL if comments else _ADDRESS_SPECIAL).search(text, at):
        mark = special.group()
        if not comments:
            piece += text[at : special.start()]
        at = special.end()
        if mark == "(" and not angle:
            comments += 1
        elif comments:
            comments -= mark == ")"
        elif not angle and (mark == "," or (groups and mark == ";")):
            found.append(piece)
            piece = ""
        elif not angle and groups and mark == ":":
            # What stood before it was the group's name.
            piece = ""
        else:
            angle = mark == "<" or (angle and mark != ">")
            piece += mark
    if not comments:
        piece += text[at:]
    found.append(piece)
    return [stripped for stripped in map(str.strip, found) if stripped]


def decoded(text: str) -> str:
    """Text with its encoded words decoded (RFC 2047 6.2) and controls shown as blanks; in linear time."""
    if "=?" not in text:
        return text
    out = []
    charset, pending = "", b""
    at = 0
    for word in _ENCODED_WORD.finditer(text):
        between = text[at : word.start()]
        follows = at > 0 and not between.strip(" ")
        if not follows or word.group(1).lower() != charset:
            # Words that follow each other are joined as bytes: there are mailers that cut a character in two.
            out.append(_in_charset(pending, charset))
            charset, pending = word.group(1).lower(), b""
        if not follows:
            out.append(between)
        pending += _payload(word.group(2), word.group(3))
        at = word.end()
    out += (_in_charset(pending, charset), text[at:])
    return _CONTROLS.sub(" ", "".join(out))


def needs(raw: bytes) -> Needs:
    """What the message asks of a hop, from a few scans that do not look at single lines."""
    head, _, body = raw.partition(b"\r\n\r\n")
    return Needs(
        eightbit=not body.isascii(),
        unsafe=b"\0" in body or mime.has_long_line(body),
        smtputf8=not head.isascii(),
    )


def prepared(raw: bytes, *, date: str, message_id: str, received: bytes) -> bytes:
    """The message as it may leave: Received on top, Date and Message-ID if missing (RFC 6409 8), and without Bcc,
    Return-Path and what was meant for us. Header lines over 998 bytes are folded, and text beyond ASCII in a field that
    encoded words can stand in becomes such words; all else stays byte for byte.

    received: a whole field with its CRLF.  ValueError when the header block is broken.
    """
    fields, body_at = _fields(raw)
    kept = [received]
    has_date = has_message_id = False
    for field in fields:
        name = field.partition(b":")[0].rstrip(b" \t").lower()
        if name in _REMOVED or name.startswith(_OWN_PREFIX):
            continue
        if name in _ADDED_IF_MISSING:
            if not field.partition(b":")[2].strip():
                # An empty one is as good as none, and some receivers refuse it.
                continue
            has_date = has_date or name == b"date"
            has_message_id = has_message_id or name == b"message-id"
        kept.append(field + b"\r\n" if len(field) <= mime.MAX_LINE_BYTES and field.isascii() else _mended(name, field))
    if not has_message_id:
        kept.insert(1, headers.message_id(message_id))
    if not has_date:
        kept.insert(1, f"Date: {date}\r\n".encode("ascii"))
    body = raw[body_at:]
    kept += (b"\r\n", body)
    if body and not body.endswith(b"\r\n"):
        kept.append(b"\r\n")
    return b"".join(kept)


def with_sender(raw: bytes, sender: Mailbox) -> bytes:
    """The message from somebody else: From becomes this mailbox, and the original goes to Reply-To where there is none.

    A Sender field, which spoke of the original, is left out.  ValueError when the header block is broken.
    """
    fields, body_at = _fields(raw)
    named = {_name_and_value(field)[0] for field in fields}
    kept: list[bytes] = []
    for field in fields:
        name = _name_and_value(field)[0]
        if name == b"from":
            kept.append(headers.mailboxes("From", [sender]))
            if b"reply-to" not in named:
                kept.append(b"Reply-To" + field[field.index(b":") :])
        elif name != b"sender":
            kept.append(field)
    return b"".join([*(field.removesuffix(b"\r\n") + b"\r\n" for field in kept), b"\r\n", raw[body_at:]])


def made_safe(raw: bytes) -> bytes:
    """The message with its unsafe parts encoded (see Needs). CannotTravel when that is not allowed."""
    return _Repair(raw, seven_bit=False).run()


def made_7bit(raw: bytes) -> bytes:
    """As made_safe, with its 8-bit parts encoded as well."""
    return _Repair(raw, seven_bit=True).run()


def _fields(raw: bytes) -> tuple[list[bytes], int]:
    """The header fields, each with its folds and without the last CRLF, and where the body begins."""
    end = raw.find(b"\r\n\r\n", 0, MAX_HEADER_BYTES + 4)
    body_at = end + 4
    if end == -1:
        end = body_at = len(raw)
    if end > MAX_HEADER_BYTES:
        raise ValueError(f"The header is larger than {MAX_HEADER_BYTES} bytes.")
    head = raw[:end].removesuffix(b"\r\n")
    ends = head.count(b"\r\n")
    if b"\0" in head or head.count(b"\r") != ends or head.count(b"\n") != ends:
        raise ValueError("The header holds NUL, or CR or LF that does not end a line.")
    fields = _NEXT_FIELD.split(head)
    for field in fields:
        if not _FIELD.match(field):
            raise ValueError(f"This line of the header is no header field: {_shown(field)}")
    return fields, body_at


def _shown(field: bytes) -> str:
    return _CONTROLS.sub(" ", field[:60].decode("utf-8", "replace"))


def _name_and_value(field: bytes) -> tuple[bytes, bytes]:
    """The name in lower case, and the value unfolded."""
    name, _, value = field.partition(b":")
    return name.rstrip(b" \t").lower(), value.replace(b"\r\n", b"")


def _text(value: bytes) -> str:
    return _CONTROLS.sub(" ", value.decode("utf-8", "replace")).strip()


def _addresses(values: list[bytes], *, groups: bool = True) -> tuple[str, ...]:
    return tuple([address for value in values for address in split_addresses(_text(value), groups=groups)])


def _payload(encoding: str, payload: str) -> bytes:
    raw = payload.encode("ascii")
    if encoding in "qQ":
        return a2b_qp(raw, header=True)
    raw = raw.translate(None, _NOT_BASE64 + b"=")
    # One character beyond a group of four is no byte.
    raw = raw[:-1] if len(raw) % 4 == 1 else raw
    return a2b_base64(raw + b"=" * (-len(raw) % 4))


def _in_charset(raw: bytes, charset: str) -> str:
    # RFC 2231 5: a language may follow the charset.
    charset = charset.partition("*")[0]
    if charset.startswith(_CHARSETS):
        try:
            return raw.decode(charset, "replace")
        except (LookupError, ValueError):
            return raw.decode("ascii", "replace")
    return raw.decode("utf-8", "replace")


def _mended(name: bytes, field: bytes) -> bytes:
    """A field that is long or not ASCII, with its CRLF, so that servers without SMTPUTF8 can be given it."""
    if not field.isascii():
        # Many mailers write UTF-8 (or older charsets) plainly without asking for SMTPUTF8 (RFC 6532 3).
        _, value = _name_and_value(field)
        spelled = field.partition(b":")[0].rstrip(b" \t").decode("ascii")
        # What cannot be read with certainty stays as it is, and SMTPUTF8 is asked of the hop.
        with contextlib.suppress(ValueError):
            if name in _TEXT_FIELDS or name.startswith(b"x-"):
                return headers.unstructured(spelled, _in_any_charset(value).strip(" \t"), keep_encoded_words=True)
            # With a comment it stays: rebuilt, it would lose it.
            if name in _ADDRESS_FIELDS and b"(" not in value:
                texts = split_addresses(_in_any_charset(value), groups=False)
                return headers.mailboxes(spelled, [parse_mailbox(text) for text in texts])
    return (_refolded(field) if len(field) > mime.MAX_LINE_BYTES else field) + b"\r\n"


def _in_any_charset(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("cp1252", "replace")


def _refolded(field: bytes) -> bytes:
    """The field with lines over 998 bytes folded at their blanks. ValueError where there is none to fold at."""
    lines = []
    for line in field.split(b"\r\n"):
        start = 0
        while len(line) - start > mime.MAX_LINE_BYTES:
            window = line[start : start + mime.MAX_LINE_BYTES + 1]
            at = max(window.rfind(b" "), window.rfind(b"\t"))
            # A line of blanks alone would end the header for some readers.
            if not window[:at].strip(b" \t") or not line[start + at :].strip(b" \t"):
                raise ValueError(f"A line of the header is longer than {mime.MAX_LINE_BYTES} bytes: {_shown(field)}")
            lines.append(window[:at])
            start += at
        lines.append(line[start:])
    return b"\r\n".join(lines)


class _Entity(msgspec.Struct):
    """One part's header: where its body begins, what it says. media_type: "" when it does not say.

    needs_version: it is a message's and has no MIME-Version.  broken: it has no end, or says a thing twice.
    """

    body_at: int
    needs_version: bool
    media_type: str = ""
    boundary: bytes = b""
    encoding: str = "7bit"
    encoding_span: tuple[int, int] | None = None
    broken: bool = False


class _Repair:
    """One walk through the tree of parts, collecting edits.

    The open multiparts are a stack of boundaries; a line that closes or continues an outer one ends all inside it
    (RFC 2046 5.1.2). What lies between two such lines is a *region*: a leaf's body, or the filler before the first
    and after the last part, which readers skip.
    """

    def __init__(self, raw: bytes, *, seven_bit: bool) -> None:
        self._raw = raw
        self._seven_bit = seven_bit
        # By start and end; a later edit of the same field replaces the earlier one.
        self._edits: dict[tuple[int, int], bytes] = {}
        self._boundaries: list[bytes] = []
        self._depths: dict[bytes, int] = {}
        self._parts = 0
        self._region_at = 0
        self._leaf: _Entity | None = None
        self._preamble_of: bytes | None = None

    def run(self) -> bytes:
        self._enter(0)
        for start, end, boundary, closing in self._delimiters():
            self._finish(start, boundary)
            self._close_to(self._depths[boundary] + (0 if closing else 1))
            if closing:
                self._region_at, self._leaf, self._preamble_of = end, None, None
            else:
                self._enter(end)
        self._finish(len(self._raw), None)
        return self._edited()

    def _delimiters(self) -> Iterator[tuple[int, int, bytes, bool]]:
        """Start (with the CRLF before it), end, boundary, and whether it closes, of each delimiter line."""
        raw = self._raw
        at = 0
        for _ in range(MAX_DELIMITER_LINES):
            if not self._depths:
                return
            # From the CRLF on that ends the part's header: a part may be empty.
            at = raw.find(b"\r\n--", max(at, self._region_at - 2))
            if at == -1:
                return
            line_end = raw.find(b"\r\n", at + 4, at + 4 + MAX_BOUNDARY_BYTES + 100)
            line_end = len(raw) if line_end == -1 and len(raw) - at < MAX_BOUNDARY_BYTES + 100 else line_end
            text = raw[at + 4 : line_end].rstrip(b" \t") if line_end != -1 else b""
            start, at = at, at + 4 if line_end == -1 else line_end
            if text in self._depths:
                yield start, min(line_end + 2, len(raw)), text, False
            elif text.endswith(b"--") and text[:-2] in self._depths:
                yield start, min(line_end + 2, len(raw)), text[:-2], True
        raise CannotTravel("it has too many lines that look like the border of a part")

    def _enter(self, at: int) -> None:
        """Begin the part whose header starts here, and the messages enclosed in it."""
        entity = self._entity(at, is_message=at == 0)
        while entity.media_type in _ENCLOSING and entity.encoding in _UNENCODED and not entity.broken:
            self._relabel(entity)
            entity = self._entity(entity.body_at, is_message=True)
        self._region_at, self._leaf, self._preamble_of = entity.body_at, entity, None
        container = entity.boundary and entity.media_type not in _PROTECTED and not entity.broken
        if container and entity.encoding in _UNENCODED:
            if entity.boundary in self._depths or len(self._boundaries) == MAX_DEPTH:
                raise CannotTravel("its parts are nested too deeply, or one repeats another's boundary")
            self._relabel(entity)
            self._depths[entity.boundary] = len(self._boundaries)
            self._boundaries.append(entity.boundary)
            self._leaf, self._preamble_of = None, entity.boundary

    def _close_to(self, depth: int) -> None:
        while len(self._boundaries) > depth:
            del self._depths[self._boundaries.pop()]

    def _entity(self, start: int, *, is_message: bool) -> _Entity:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise CannotTravel(f"it has more than {MAX_PARTS} parts")
        raw = self._raw
        entity = _Entity(start, is_message)
        while field := _FIELD.match(raw, entity.body_at):
            name = field.group(1).lower()
            if name == b"content-type":
                entity.broken = entity.broken or entity.media_type != ""
                entity.media_type, entity.boundary = _media_type(field.group(2))
            elif name == b"content-transfer-encoding":
                entity.broken = entity.broken or entity.encoding_span is not None
                entity.encoding = _text(field.group(2)).lower()
                entity.encoding_span = field.span()
            elif name == b"mime-version":
                entity.needs_version = False
            entity.body_at = field.end()
            if entity.body_at - start > MAX_HEADER_BYTES + 4_096:
                raise CannotTravel("the header of a part is too large")
            if start and field.end() - field.start() > mime.MAX_LINE_BYTES:
                self._refold(field.start(), field.end())
        if start and self._is_bad(raw[start : entity.body_at], lines_too=False):
            raise CannotTravel("the header of a part holds NUL or 8-bit text")
        if raw.startswith(b"\r\n", entity.body_at):
            entity.body_at += 2
        else:
            entity.broken = True
        return entity

    def _refold(self, start: int, end: int) -> None:
        field = self._raw[start:end]
        try:
            refolded = _refolded(field.removesuffix(b"\r\n")) + b"\r\n"
        except ValueError as error:
            raise CannotTravel(str(error)) from None
        self._edits[start, end] = refolded

    def _relabel(self, entity: _Entity) -> None:
        """A container whose parts all become 7-bit may not call itself 8bit (RFC 2045 6.4)."""
        if self._seven_bit and entity.encoding_span and entity.encoding != "7bit":
            self._edits[entity.encoding_span] = b"Content-Transfer-Encoding: 7bit\r\n"

    def _is_bad(self, region: bytes, *, lines_too: bool = True) -> bool:
        return (
            b"\0" in region or (self._seven_bit and not region.isascii()) or (lines_too and mime.has_long_line(region))
        )

    def _finish(self, end: int, boundary: bytes | None) -> None:
        """End the current region at the delimiter of this boundary, or at the end of the message (None)."""
        start = self._region_at
        region = self._raw[start:end]
        if not region or not self._is_bad(region):
            return
        if self._leaf is not None:
            self._encode(self._leaf, start, end, region)
        elif self._preamble_of in (None, boundary):
            self._edits[start, end] = b""
        else:
            # Not one part was found: dropping this would drop what people are to read.
            raise CannotTravel("a multipart has no part")

    def _encode(self, leaf: _Entity, start: int, end: int, body: bytes) -> None:
        kind = leaf.media_type
        if leaf.broken or kind in _PROTECTED or kind.startswith(("multipart/", "message/")):
            raise CannotTravel(f"its part of type {kind or 'unknown'} must not be changed")
        if leaf.encoding == "base64":
            rewrapped = body.translate(None, _NOT_BASE64)
            lines = [rewrapped[at : at + 76] for at in range(0, len(rewrapped), 76)]
            self._edits[start, end] = b"\r\n".join(lines) + (b"\r\n" if end == len(self._raw) else b"")
            return
        if leaf.encoding == "quoted-printable":
            body = a2b_qp(body)
        elif leaf.encoding not in _UNENCODED:
            raise CannotTravel(f"its content transfer encoding {leaf.encoding[:40]!r} is not known")
        encoding, encoded = mime.shortest_encoded(body)
        if end == len(self._raw) and not encoded.endswith(b"\r\n"):
            encoded += b"\r\n"
        self._label(leaf, encoding, body)
        self._edits[start, end] = encoded

    def _label(self, leaf: _Entity, encoding: bytes, body: bytes) -> None:
        fields = b"Content-Transfer-Encoding: " + encoding + b"\r\n"
        if leaf.encoding_span:
            self._edits[leaf.encoding_span] = fields
            fields = b""
        if not leaf.media_type:
            fields += b"Content-Type: text/plain; charset=" + _charset_of(body) + b"\r\n"
        if leaf.needs_version:
            fields += b"MIME-Version: 1.0\r\n"
        if fields:
            at = leaf.body_at - 2
            self._edits[at, at] = fields

    def _edited(self) -> bytes:
        pieces: list[bytes] = []
        at = 0
        for (start, end), replacement in sorted(self._edits.items()):
            pieces += (self._raw[at:start], replacement)
            at = end
        pieces.append(self._raw[at:])
        return b"".join(pieces)


def _media_type(value: bytes) -> tuple[str, bytes]:
    """`type/subtype` in lower case, and a multipart's boundary; b"" where it has none that can be used."""
    text = value.replace(b"\r\n", b"").decode("latin-1")
    kind = text.partition(";")[0].strip().lower()
    if not kind.startswith("multipart/"):
        return kind, b""
    boundary = next((found for name, found in headers.parameters_of(text) if name == "boundary"), "").rstrip()
    usable = len(boundary) <= MAX_BOUNDARY_BYTES and not _CONTROLS.search(boundary)
    return kind, boundary.encode("latin-1") if usable else b""


def _charset_of(body: bytes) -> bytes:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return b"unknown-8bit"  # RFC 1428 4
    return b"utf-8"
