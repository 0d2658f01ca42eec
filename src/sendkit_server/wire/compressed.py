"""Attachments that may be compressed, opened with a bound on what they become: gzip (RFC 1952) and zip, one file each.

Every piece is handed on as it is made, so that a bomb of ten megabytes never lies in memory, and one of gigabytes is
left after the first ten.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK\x03\x04"
PIECE_BYTES = 64 * 1024
_GZIP_WINDOW = 31
_RAW_WINDOW = -15
_ZIP_HEADER = struct.Struct("<4sHHHHHLLLHH")  # APPNOTE.TXT 4.3.7
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _SIZE_COMES_LATER = 0x0001, 0x0008


class CannotOpen(ValueError):
    """It is damaged, encrypted, or becomes too large; the text says which."""


def pieces(data: bytes, most_bytes: int) -> Iterator[bytes]:
    """What gzip or zip data holds, or the data itself when it is neither. CannotOpen, at the latest after most_bytes."""
    if data.startswith(GZIP_MAGIC):
        yield from _inflated(data, _GZIP_WINDOW, most_bytes)
    elif data.startswith(ZIP_MAGIC):
        yield from _first_of_zip(data, most_bytes)
    elif len(data) > most_bytes:
        raise CannotOpen(f"it is larger than {most_bytes} bytes")
    else:
        yield from _cut(data)


def _cut(data: bytes) -> Iterator[bytes]:
    return (data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES))


def _first_of_zip(data: bytes, most_bytes: int) -> Iterator[bytes]:
    """The first file of an archive, by its own header: reports have one."""
    if len(data) < _ZIP_HEADER.size:
        raise CannotOpen("the zip archive is cut short")
    _, _, flags, method, _, _, _, packed, _, name_bytes, extra_bytes = _ZIP_HEADER.unpack_from(data)
    start = _ZIP_HEADER.size + name_bytes + extra_bytes
    if flags & _ENCRYPTED:
        raise CannotOpen("the zip archive is encrypted")
    if method == _DEFLATED:
        yield from _inflated(data[start:], _RAW_WINDOW, most_bytes)
    elif method == _STORED and not flags & _SIZE_COMES_LATER:
        if packed > most_bytes or start + packed > len(data):
            raise CannotOpen("the zip archive is cut short, or too large")
        yield from _cut(data[start : start + packed])
    else:
        raise CannotOpen("the zip archive is compressed in a way that reports are not")


def _inflated(data: bytes, window: int, most_bytes: int) -> Iterator[bytes]:
    inflater = zlib.decompressobj(window)
    made = 0
    while not inflater.eof:
        try:
            piece = inflater.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            raise CannotOpen(f"it is damaged: {error}") from None
        data = inflater.unconsumed_tail
        made += len(piece)
        if made > most_bytes:
            raise CannotOpen(f"it becomes larger than {most_bytes} bytes")
        if piece:
            yield piece
        elif not data and not inflater.eof:
            raise CannotOpen("it is cut short")
