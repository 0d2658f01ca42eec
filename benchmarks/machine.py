"""What a run ran on: without that, its figures mean nothing."""

from __future__ import annotations

import contextlib
import os
import platform
import sqlite3
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter, sleep

FSYNCS = 200
QUIET_S, QUIET_CPU_S = 0.25, 0.04


def describe(directory: Path) -> dict[str, str]:
    """Machine, versions, and what making 4 KB durable costs in this directory."""
    fsyncs = sorted(fsync_ms(directory))
    return {
        "cpu": f"{_cpu()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "cryptography": version("cryptography"),
        "sendkit": version("sendkit-server"),
        "postfix": _postfix(),
        "postgresql": _postgres(),
        # Beside other work on the machine Postfix's many processes get a bigger share of it than our one.
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "fsync of 4 KB": f"p50 {median(fsyncs):.2f} ms, p99 {fsyncs[-len(fsyncs) // 100 - 1]:.2f} ms",
    }


def fsync_ms(directory: Path) -> list[float]:
    """How long appended 4 KB take to be on the disk, each time."""
    path = directory / "fsync"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(FSYNCS):
            file.write(bytes(4096))
            started = perf_counter()
            os.fdatasync(file.fileno())
            times.append((perf_counter() - started) * 1000)
    path.unlink()
    return times


def resident_mb(pid: int | str) -> tuple[float, float]:
    """A process's resident memory now, and the most it ever had. pid: "self" is one, too."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return tuple(int(found[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]  # two names, two values


def until_quiet(worked_s: Callable[[], float], most_s: float) -> None:
    """Waits until what is watched hardly works any more. worked_s: its seconds of CPU so far.  most_s: for so long at most."""
    deadline = perf_counter() + most_s
    spent = worked_s()
    while perf_counter() < deadline:
        sleep(QUIET_S)
        before, spent = spent, worked_s()
        if spent - before < QUIET_CPU_S:
            return


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used, in all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def family_cpu_s(pid: int) -> float:
    """Seconds of CPU of a process and its descendants, also of those that have ended."""
    ticks = 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def busy_s() -> float:
    """Seconds in which any core of the machine was not idle, or not to be had: whoever took them."""
    fields = Path("/proc/stat").read_text().split(maxsplit=10)[1:9]
    user, nice, system, _idle, _io_wait, irq, soft_irq, steal = (int(field) for field in fields)
    return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")


def pin(pid: int, cores: set[int]) -> None:
    """Keeps all threads of a process and its descendants, and those that they start, on some cores."""
    for one in family(pid):
        for thread in Path(f"/proc/{one}/task").glob("*"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(thread.name), cores)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _postgres() -> str:
    program = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), reverse=True)), "postgres")
    try:
        found = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "none"
    return found.stdout.split()[2]


def _postfix() -> str:
    found = subprocess.run(
        ["/usr/sbin/postconf", "-d", "-h", "mail_version"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "none"
