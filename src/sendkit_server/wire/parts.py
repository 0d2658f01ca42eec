"""The parts of a mail that came in, found in one pass and with limits on everything, whatever it is made of.

Only the beginning of a mail is looked at (MAX_READ_BYTES): what a report has to say stands before the mail that it
returns. A part that is a mail itself is not opened beyond its header. Any line end is taken, since mail also comes by
pipes and files.
"""

from __future__ import annotations

import re
from binascii import Error as BadBase64
from binascii import a2b_base64, a2b_qp
from collections.abc import Iterator

import msgspec

from sendkit_server.wire import headers

MAX_READ_BYTES = 1_048_576
MAX_HEADER_BYTES = 131_072
MAX_FIELDS = 2_000
MAX_FIELD_CHARACTERS = 8_192
MAX_PARTS = 100
MAX_DEPTH = 10
MAX_TEXT_BYTES = 65_536
MAX_BOUNDARY_BYTES = 200
MAX_BORDER_LINES = 20_000  # that look like a border and are none, one after the other

_FOLD = re.compile(r"\n[ \t]+")
_NAME = re.compile(r"[!-9;-~]{1,80}")
_NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))
_CHARSETS = ("iso-", "windows-", "cp", "koi8", "gb", "big5", "euc", "shift", "ks_c", "latin")
_TAG = re.compile(r"<(?:br|/p|/div|/tr|/li|/h\d)\b[^<>]{0,500}>", re.IGNORECASE)
_ANY_TAG = re.compile(r"<[^<>]{0,2000}>")
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&nbsp;": " ", "&quot;": '"', "&#64;": "@", "&amp;": "&"}

Fields = tuple[tuple[str, str], ...]


class Part(msgspec.Struct, frozen=True):
    """One part, or the whole mail. fields: names in lower case, values unfolded.  encoded: the body as it stands.

    depth: 0 for the mail itself.  parameters: of Content-Type.
    """

    media_type: str
    parameters: dict[str, str]
    fields: Fields
    encoded: bytes
    depth: int

    def field(self, name: str) -> str:
        """The first field of this name; "" for none."""
        return next((value for found, value in self.fields if found == name), "")

    def data(self) -> bytes:
        """The whole body without its transfer encoding."""
        encoding = self.field("content-transfer-encoding").strip().lower()
        if encoding == "base64":
            return _from_base64(self.encoded)
        return a2b_qp(self.encoded) if encoding == "quoted-printable" else self.encoded

    def text(self) -> str:
        """The body as text, `\\n` between lines; HTML without its tags. At most MAX_TEXT_BYTES of it."""
        raw = self.encoded[: MAX_TEXT_BYTES * 2]
        encoding = self.field("content-transfer-encoding").strip().lower()
        if encoding == "base64":
            raw = _from_base64(raw)
        elif encoding == "quoted-printable":
            raw = a2b_qp(raw)
        text = _decoded(raw[:MAX_TEXT_BYTES], self.parameters.get("charset", "")).replace("\r\n", "\n")
        return _without_tags(text) if self.media_type == "text/html" else text


def parts_of(raw: bytes, most_bytes: int = MAX_READ_BYTES) -> list[Part]:
    """The mail and its parts in order, the mail first; at most MAX_PARTS, none deeper than MAX_DEPTH.

    most_bytes: of the mail that are looked at.
    """
    raw = raw[:most_bytes].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return list(_walk(raw))


def fields_of(text: str) -> Fields:
    """The header fields of a block of lines; what is no field is left out."""
    found = []
    for line in _FOLD.sub(" ", text[:MAX_HEADER_BYTES]).split("\n")[:MAX_FIELDS]:
        name, colon, value = line.partition(":")
        name = name.rstrip(" \t")
        if colon and _NAME.fullmatch(name):
            found.append((name.lower(), value[:MAX_FIELD_CHARACTERS].strip()))
    return tuple(found)


def _walk(raw: bytes) -> Iterator[Part]:
    open_boundaries: dict[bytes, int] = {}  # boundary → depth of the multipart it belongs to, in order
    header, body_at = _header(raw, 0)
    count = 0
    depth = 0
    while True:
        media_type, parameters, fields = header
        boundary = parameters.get("boundary", "").rstrip().encode("latin-1", "replace")
        opens = media_type.startswith("multipart/") and 0 < len(boundary) <= MAX_BOUNDARY_BYTES and depth < MAX_DEPTH
        if opens and boundary not in open_boundaries:
            open_boundaries[boundary] = depth
        delimiter = _next_delimiter(raw, max(body_at - 1, 0), open_boundaries)
        end = len(raw) if delimiter is None else delimiter[0]
        yield Part(media_type, parameters, fields, raw[body_at : max(end, body_at)], depth)
        count += 1
        # What follows a multipart's end, up to the next delimiter, is filler.
        while delimiter is not None and delimiter[3]:
            _close(open_boundaries, delimiter[2], itself=True)
            delimiter = _next_delimiter(raw, delimiter[1] - 1, open_boundaries)
        if delimiter is None or count == MAX_PARTS:
            return
        _close(open_boundaries, delimiter[2], itself=False)
        depth = open_boundaries[delimiter[2]] + 1
        header, body_at = _header(raw, delimiter[1])


def _next_delimiter(raw: bytes, at: int, known: dict[bytes, int]) -> tuple[int, int, bytes, bool] | None:
    """Start, end, boundary and whether it closes, of the next delimiter line of an open multipart."""
    for _ in range(MAX_BORDER_LINES if known else 0):
        if (at := raw.find(b"\n--", at)) == -1:
            return None
        line_end = raw.find(b"\n", at + 3, at + MAX_BOUNDARY_BYTES + 100)
        line_end = min(at + MAX_BOUNDARY_BYTES + 100, len(raw)) if line_end == -1 else line_end
        line = raw[at + 3 : line_end].rstrip(b" \t")
        if line in known:
            return at, line_end + 1, line, False
        if line.endswith(b"--") and line[:-2] in known:
            return at, line_end + 1, line[:-2], True
        at += 3
    return None


def _close(known: dict[bytes, int], boundary: bytes, *, itself: bool) -> None:
    """Forgets the multiparts inside the one with this boundary (RFC 2046 5.1.2)."""
    for name in reversed(list(known)):
        if name == boundary:
            if itself:
                del known[name]
            return
        del known[name]


def _header(raw: bytes, at: int) -> tuple[tuple[str, dict[str, str], Fields], int]:
    """(media type, parameters, fields) of the header that begins here, and where the body does."""
    if raw.startswith(b"\n", at):
        return ("text/plain", {}, ()), at + 1
    end = raw.find(b"\n\n", at)
    end = len(raw) if end == -1 else end
    fields = fields_of(raw[at : min(end, at + MAX_HEADER_BYTES)].decode("utf-8", "replace"))
    content_type = next((value for name, value in fields if name == "content-type"), "text/plain")
    media_type = content_type.partition(";")[0].strip().lower() or "text/plain"
    return (media_type, dict(headers.parameters_of(content_type)), fields), min(end + 2, len(raw))


def _from_base64(raw: bytes) -> bytes:
    raw = raw.translate(None, _NOT_BASE64)
    try:
        # One character beyond a group of four is no byte.
        raw = raw[:-1] if len(raw) % 4 == 1 else raw
        return a2b_base64(raw + b"=" * (-len(raw) % 4))
    except BadBase64:
        return b""


def _decoded(raw: bytes, charset: str) -> str:
    charset = charset.lower()
    if charset.startswith(_CHARSETS):
        try:
            return raw.decode(charset, "replace")
        except (LookupError, ValueError):
            return raw.decode("utf-8", "replace")
    return raw.decode("utf-8", "replace")


def _without_tags(text: str) -> str:
    text = _ANY_TAG.sub("", _TAG.sub("\n", text))
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    return text
