"""The file of a backup, the same whichever engine it was made on.

    b"SENDKIT\\x01"                       this format's first version
    one zstd frame of                    so everything below is compressed
        frame*                           kind (1 byte), length (4 bytes, big-endian), that many bytes of MessagePack
    SHA-256                              of all bytes before it: 32 bytes, the end of the file

The first frame is the Header (H). Each table is a frame with its name and columns (T) and frames with its rows, each an
array of arrays (R). The last frame is the Footer (F). A file that was cut off or changed anywhere fails its digest; a
reader looks at that, and at each table's own digest, before it believes any of the rows.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from sendkit_server.model.instant import Instant
from sendkit_server.store.transfer.errors import ArchiveDamaged, TransferRefused
from sendkit_server.store.transfer.tables import BY_NAME, Batch, Carried, Counting, Row, Tally

MAGIC = b"SENDKIT"
FORMAT = 1
DIGEST_BYTES = 32
READ_BYTES = 1024 * 1024
LEVEL = 3  # bodies are compressed already; of the rest a higher one saves little

_pack = msgspec.msgpack.Encoder().encode


class Header(msgspec.Struct, frozen=True):
    """Where a backup comes from. It holds the secret key: the file is as secret as the data directory.

    oldest: when the oldest mail was accepted.
    """

    revision: str
    engine: str
    created_at: Instant
    version: str
    secret_key: str
    secret_fingerprint: str
    oldest: Instant | None


class Footer(msgspec.Struct, frozen=True):
    """What a backup holds. tables: by name.  waiting: recipients that were still to be delivered to."""

    tables: dict[str, Tally]
    waiting: int


class Contents(msgspec.Struct, frozen=True):
    """A whole backup's first and last frame, once the file is known to be sound."""

    header: Header
    footer: Footer


class _TableHead(msgspec.Struct, frozen=True):
    name: str
    columns: tuple[str, ...]


class ArchiveWriter:
    """Writes an archive to a file that is open for writing; `finish` ends it."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._compressor = zstd.ZstdCompressor(
            options={
                zstd.CompressionParameter.compression_level: LEVEL,
                zstd.CompressionParameter.checksum_flag: 1,
            }
        )
        self._tallies: dict[str, Tally] = {}
        self._emit(MAGIC + bytes([FORMAT]))
        self._frame(b"H", _pack(header))

    def table(self, table: Carried, found: Iterator[Batch]) -> Iterator[Batch]:
        """Writes a table as its rows pass through; the caller has to take them all."""
        counting = Counting()
        self._frame(b"T", _pack(_TableHead(table.name, table.columns)))
        for batch in found:
            self._frame(b"R", counting.add(batch))
            yield batch
        self._tallies[table.name] = counting.tally()

    def finish(self, waiting: int) -> Footer:
        """Writes the end."""
        footer = Footer(self._tallies, waiting)
        self._frame(b"F", _pack(footer))
        self._emit(self._compressor.flush())
        self._file.write(self._digest.digest())
        return footer

    def _frame(self, kind: bytes, packed: bytes) -> None:
        self._emit(self._compressor.compress(kind + len(packed).to_bytes(4, "big")))
        self._emit(self._compressor.compress(packed))

    def _emit(self, raw: bytes) -> None:
        if raw:
            self._digest.update(raw)
            self._file.write(raw)


def read_header(path: Path) -> Header:
    """The header alone, of a file that nobody has examined yet. ArchiveDamaged, TransferRefused."""
    with _opened(path) as frames:
        return _header(next(frames, (b"", b"")))


def examine(path: Path, step: Callable[[int], None] | None = None) -> Contents:
    """Reads the whole file and makes sure that it is what was written. ArchiveDamaged, TransferRefused.

    step: told how many bytes of the file were looked at, now and then.
    """
    _check_digest(path, step)
    tallies: dict[str, Tally] = {}
    with _opened(path) as frames:
        header = _header(next(frames, (b"", b"")))
        for table, counting, kind, packed in _by_table(frames):
            if kind == b"F":
                footer = msgspec.msgpack.decode(packed, type=Footer)
                if footer.tables != tallies:
                    raise ArchiveDamaged(f"{path} is damaged: its tables are not what its end says they are")
                return Contents(header, footer)
            if kind == b"R":
                counting.add_packed(packed)
            tallies[table] = counting.tally()
    raise ArchiveDamaged(f"{path} is damaged: it has no end")


def rows(path: Path) -> Iterator[tuple[Carried, Batch]]:
    """All rows of a file that was examined, a batch at a time."""
    decode = msgspec.msgpack.Decoder(list[Row]).decode
    with _opened(path) as frames:
        for table, _, kind, packed in _by_table(frames):
            if kind == b"R":
                yield BY_NAME[table], decode(packed)


def _by_table(frames: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[str, Counting, bytes, bytes]]:
    """Each frame behind the header with the name of the table that it belongs to, and that table's counting."""
    name, counting = "", Counting()
    for kind, packed in frames:
        if kind == b"T":
            head = msgspec.msgpack.decode(packed, type=_TableHead)
            if head.name not in BY_NAME or BY_NAME[head.name].columns != head.columns:
                raise TransferRefused(
                    f"the backup has a table {head.name!r} with columns that this program does not know"
                )
            name, counting = head.name, Counting()
        yield name, counting, kind, packed


def _header(frame: tuple[bytes, bytes]) -> Header:
    kind, packed = frame
    if kind != b"H":
        raise ArchiveDamaged("the backup is damaged: it does not begin with a header")
    return msgspec.msgpack.decode(packed, type=Header)


def _check_digest(path: Path, step: Callable[[int], None] | None) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        left = path.stat().st_size - DIGEST_BYTES
        while left > 0 and (raw := file.read(min(READ_BYTES, left))):
            digest.update(raw)
            left -= len(raw)
            if step is not None:
                step(len(raw))
        if file.read() != digest.digest():
            raise ArchiveDamaged(
                f"{path} is damaged: it was cut off or changed since it was made; nothing was restored"
            )


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[tuple[bytes, bytes]]]:
    """The file's frames. What the file's bytes make go wrong while they are read is ArchiveDamaged."""
    with path.open("rb") as file:
        start = file.read(len(MAGIC) + 1)
        if start[: len(MAGIC)] != MAGIC or len(start) <= len(MAGIC):
            raise ArchiveDamaged(f"{path} is no backup of Sendkit")
        if start[-1] != FORMAT:
            raise TransferRefused(
                f"{path} has format {start[-1]}, this program knows {FORMAT}; restore it with a newer one"
            )
        part = _Part(file, path.stat().st_size - DIGEST_BYTES - len(start))
        try:
            with zstd.ZstdFile(io.BufferedReader(part, READ_BYTES)) as stream:
                yield _frames(stream)
        except (zstd.ZstdError, EOFError, ValueError, msgspec.MsgspecError) as error:
            raise ArchiveDamaged(f"{path} is damaged: {error}") from error


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _frames(stream: _Readable) -> Iterator[tuple[bytes, bytes]]:
    while start := stream.read(5):
        length = int.from_bytes(start[1:], "big")
        packed = stream.read(length)
        if len(start) < 5 or len(packed) < length:
            raise EOFError("it ends within a frame")
        yield start[:1], packed


class _Part(io.RawIOBase):
    """The next so many bytes of a file."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self._file = file
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # the one kind that we are given
        raw = self._file.read(min(len(buffer), max(self._left, 0)))
        buffer[: len(raw)] = raw
        self._left -= len(raw)
        return len(raw)
