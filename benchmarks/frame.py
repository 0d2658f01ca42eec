"""What a benchmark's program is beside its measuring: options, a directory for its files, a result as JSON."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import signal
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import instances
import msgspec
from instances import HERE, Failed


class Options(msgspec.Struct, frozen=True):
    """What was asked for. is_whole: neither fewer mails nor fewer parts, so that its figures may be kept."""

    quick: bool
    keep: bool
    parts: frozenset[str]
    is_whole: bool


def options(description: str, parts: Collection[str]) -> Options:
    """From the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer mails and rounds: to see that it works")
    parser.add_argument("--only", default=",".join(parts), help=f"a comma list of {', '.join(parts)}")
    parser.add_argument("--keep", action="store_true", help="leave the run's files, to look at logs and data")
    arguments = parser.parse_args()
    wanted = frozenset(arguments.only.split(","))
    if wanted - set(parts):
        parser.error(f"--only knows {', '.join(parts)}")
    return Options(arguments.quick, arguments.keep, wanted, not arguments.quick and wanted == set(parts))


def end_at_sigterm() -> None:
    """As for Ctrl-C: everything that was started is stopped on the way out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@contextlib.contextmanager
def files(keep: bool) -> Iterator[Path]:
    """The run's directory, deleted afterwards; what a program that Failed has left stays, to be looked at."""
    end_at_sigterm()
    # /tmp may be memory, where an fsync costs nothing; and Postfix's user must be able to enter.
    directory = Path(tempfile.mkdtemp(prefix="sendkit-bench-", dir="/var/tmp"))
    directory.chmod(0o755)
    try:
        yield directory
    except Failed as failed:
        sys.exit(f"{failed} (files: {directory})")
    except BaseException:
        instances.remove(directory)
        raise
    if not keep:
        instances.remove(directory)


def progress(what: str) -> None:
    """To stderr, so that stdout is the table."""
    print(f"… {what}", file=sys.stderr)


def number(value: float) -> str:
    """For a cell: three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show(machine: Mapping[str, str]) -> None:
    """What a run ran on, in front of its table."""
    for name, value in machine.items():
        print(f"{name + ':':<16}{value}")
    print()


def save(prefix: str, machine: Mapping[str, str], content: Mapping[str, Any]) -> None:
    """A run as JSON, and where it is. Names of machines do not belong into a repository."""
    now = datetime.datetime.now(datetime.UTC)
    path = HERE / "results" / f"{prefix}{now:%Y-%m-%d-%H%M}.json"
    path.parent.mkdir(exist_ok=True)
    whole = msgspec.to_builtins({"at": f"{now:%Y-%m-%dT%H:%MZ}", "machine": machine, **content})
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    print(f"\n{path.relative_to(HERE.parent)}")
