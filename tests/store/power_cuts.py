"""What a disk holds after a power cut: file writes and syncs as they were recorded, and disks rebuilt from them.

A write that no finished sync covers may be there, may be missing, and may be there in part: each sector of 512 bytes on
its own, in any order. Truncations count as writes. That a file was removed is safe with the next sync of whatever file,
as file systems with a journal have it; before that the old file may be back, and then the new one of its name is not
there. What a sync covers is there.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

SECTOR = 512
CALLS = "pwrite64,fsync,fdatasync,ftruncate,unlink,write"
_CALL = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?: resumed>|\()(.*)$")
_HEX = re.compile(rb"\\x([0-9a-f]{2})")


@dataclass(frozen=True)
class Write:
    """Bytes at an offset of a file. raw None: the file is cut off there."""

    file: str
    offset: int
    raw: bytes | None


@dataclass(frozen=True)
class Removal:
    """The file is no more."""

    file: str


@dataclass(frozen=True)
class SyncBegun:
    """From here on the sync covers nothing more."""

    file: str
    thread: str


@dataclass(frozen=True)
class SyncDone:
    """What was written before the sync began is safe."""

    file: str
    thread: str


@dataclass(frozen=True)
class Said:
    """The program told somebody outside."""

    text: str


Change = Write | Removal
Event = Change | SyncBegun | SyncDone | Said


class Kept(Enum):
    """What becomes of the writes that no sync covers."""

    NONE = "none"
    ALL = "all"
    FIRST = "the first few"
    SOME = "some, in any order"
    SECTORS = "some sectors"


def recorded(log: Path, folder: str, names: frozenset[str]) -> list[Event]:
    """The events of these files of a folder, and what was written to the standard output, from `strace -f -y -xx`."""
    files = names | {folder}
    events: list[Event] = []
    open_syncs: dict[str, str] = {}
    with log.open(encoding="ascii") as lines:
        for line in lines:
            found = _CALL.match(line)
            if found is None:
                continue
            thread, call, rest = found.groups()
            if call in ("fsync", "fdatasync"):
                if "resumed>" in line:
                    file = open_syncs.pop(thread, "")
                else:
                    file = open_syncs[thread] = _file(rest)
                    if file in files:
                        events.append(SyncBegun(file, thread))
                if file in files and rest.rstrip().endswith("= 0"):
                    events.append(SyncDone(file, thread))
            elif "resumed>" not in line:
                events += _written(call, rest, files)
    return events


def _file(rest: str) -> str:
    """The name of the file in `4<\\x2f…>`."""
    found = re.match(r"\d+<([^>]*)>", rest)
    return _bytes(found[1]).decode().rpartition("/")[2] if found else ""


def _bytes(text: str) -> bytes:
    return _HEX.sub(lambda found: bytes([int(found[1], 16)]), text.encode())


def _written(call: str, rest: str, files: frozenset[str]) -> Iterator[Event]:
    file = _file(rest)
    if call == "pwrite64" and file in files:
        found = re.search(r', "([^"]*)", (\d+), (\d+)', rest)
        assert found is not None, rest[:200]
        raw = _bytes(found[1])
        assert len(raw) == int(found[2]), "strace has shortened what it shows"
        yield Write(file, int(found[3]), raw)
    elif call == "ftruncate" and file in files:
        found = re.search(r">, (\d+)", rest)
        assert found is not None, rest
        yield Write(file, int(found[1]), None)
    elif call == "unlink" and (name := _bytes(rest.split('"')[1]).decode().rpartition("/")[2]) in files:
        if ") = 0" in rest.replace("  ", ""):
            yield Removal(name)
    elif call == "write" and rest.startswith("1<"):
        found = re.search(r', "([^"]*)"', rest)
        assert found is not None, rest
        yield Said(_bytes(found[1]).decode())


@dataclass
class Disk:
    """The disk as the events go by."""

    safe: dict[str, bytearray] = field(default_factory=dict)
    unsafe: list[Change] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    _covered: dict[str, list[Change]] = field(default_factory=dict)

    def see(self, event: Event) -> None:
        """The next event."""
        match event:
            case Write() | Removal():
                self.unsafe.append(event)
            case Said():
                self.said += [word for word in event.text.split() if word.startswith("msg_")]
            case SyncBegun():
                self._covered[event.thread] = [
                    change for change in self.unsafe if change.file == event.file or isinstance(change, Removal)
                ]
            case SyncDone():
                covered = {id(write) for write in self._covered.pop(event.thread)}
                for write in self.unsafe:
                    if id(write) in covered:
                        _apply(self.safe, write)
                self.unsafe = [write for write in self.unsafe if id(write) not in covered]

    def after_a_cut(self, kept: Kept, chance: random.Random) -> dict[str, bytes]:
        """The files as they may be found if the power goes now."""
        files = {name: bytearray(raw) for name, raw in self.safe.items()}
        writes: list[Write] = []
        back: set[str] = set()
        for change in self.unsafe:
            if change.file in back:
                continue
            if isinstance(change, Write):
                writes.append(change)
            elif kept is Kept.NONE or (kept is not Kept.ALL and chance.random() < 0.5):
                back.add(change.file)
            else:
                files.pop(change.file, None)
                writes = [write for write in writes if write.file != change.file]
        for write in _survivors(writes, kept, chance):
            _apply(files, write)
        return {name: bytes(raw) for name, raw in files.items()}


def _survivors(unsafe: list[Write], kept: Kept, chance: random.Random) -> list[Write]:
    match kept:
        case Kept.NONE:
            return []
        case Kept.ALL:
            return unsafe
        case Kept.FIRST:
            return unsafe[: chance.randint(0, len(unsafe))]
        case Kept.SOME:
            return chance.sample(unsafe, chance.randint(0, len(unsafe)))
        case Kept.SECTORS:
            sectors = [sector for write in unsafe for sector in _sectors(write)]
            return chance.sample(sectors, chance.randint(0, len(sectors)))


def _sectors(write: Write) -> Iterator[Write]:
    if write.raw is None:
        yield write
        return
    start = 0
    while start < len(write.raw):
        end = start + SECTOR - (write.offset + start) % SECTOR
        yield Write(write.file, write.offset + start, write.raw[start:end])
        start = end


def _apply(files: dict[str, bytearray], change: Change) -> None:
    if isinstance(change, Removal):
        files.pop(change.file, None)
        return
    content = files.setdefault(change.file, bytearray())
    if change.raw is None:
        del content[change.offset :]
        content.extend(bytes(change.offset - len(content)))
        return
    end = change.offset + len(change.raw)
    content.extend(bytes(max(0, end - len(content))))
    content[change.offset : end] = change.raw
