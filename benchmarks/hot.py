"""What the store's hot operations cost on each engine, by the size of a group, with and without the fsync.

Whole transactions as the writer runs them. "off" is a server (a file) that does not sync: what is left is work. The second
figure is the CPU of the thread that writes; on SQLite that is all of the work, on PostgreSQL the rest is the server's and
the way to it. `python benchmarks/hot.py`
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time, time_ns
from typing import Any

import instances
import structlog
from store import delivered, new_mail, owned_job

from sendkit_server.store.engine import Mark
from sendkit_server.store.store import Store, open_store
from sendkit_server.store.values import Claim, Job

SIZES = (1, 8, 64)
ROUNDS = 5
MAILS = 320  # of each size in each round

Key = tuple[str, str, int, str]  # engine, fsync, size, operation
Cost = tuple[float, float]  # microseconds a mail: in all, and of this thread's CPU


class Bed:
    """A store with a writing connection."""

    def __init__(self, engine: str, fsync: str, store: Store) -> None:
        self.engine, self.fsync, self.store = engine, fsync, store
        self.connection = store.engine.open_writer()
        if engine == "SQLite" and fsync == "off":
            self.connection.exec_driver_sql("PRAGMA synchronous=OFF")
        self._marks = itertools.count(1)
        self._numbers = itertools.count()

    def round(self, size: int) -> dict[Key, Cost]:
        """Each operation on MAILS mails in groups of a size."""
        at = time_ns() // 1_000_000
        owner = self.store.owner
        new = [new_mail(n, owner, owned=True, at=at) for n in itertools.islice(self._numbers, MAILS)]
        done = [delivered(owned_job(mail), at) for mail in new]
        waiting = [new_mail(n, owner, owned=False, at=at) for n in itertools.islice(self._numbers, MAILS)]
        found = {
            "accept": self._timed("accept", _grouped(new, size)),
            "complete": self._timed("complete", _grouped(done, size)),
        }
        self._transact("accept", waiting)
        claim = Claim(owner, at + 1000, frozenset(), size, size)
        jobs: list[Job] = []
        found["claim"] = self._timed("claim", [[claim]] * (MAILS // size), jobs)
        assert len(jobs) == MAILS, "a claim did not find what waits"
        self._transact("complete", [delivered(job, at) for job in jobs])
        return {(self.engine, self.fsync, size, operation): cost for operation, cost in found.items()}

    def _timed(self, kind: str, groups: list[list[Any]], results: list[Any] | None = None) -> Cost:
        began, worked = perf_counter(), thread_time()
        for group in groups:
            (found,) = self._transact(kind, group)
            if results is not None:
                results += [job for claimed in found for job in claimed.jobs]
        return (perf_counter() - began) / MAILS * 1e6, (thread_time() - worked) / MAILS * 1e6

    def _transact(self, kind: str, group: list[Any]) -> list[list[Any]]:
        mark = Mark(self.store.owner, next(self._marks))
        return self.store.engine.transact(self.connection, [(kind, group)], mark)


def _grouped(values: list[Any], size: int) -> list[list[Any]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


@contextlib.contextmanager
def beds(directory: Path) -> Iterator[list[Bed]]:
    """Each engine with and without fsync."""
    found = []
    with contextlib.ExitStack() as stack:
        for engine, fsync in itertools.product(("SQLite", "PostgreSQL"), ("on", "off")):
            url = None
            if engine == "PostgreSQL":
                server = stack.enter_context(instances.postgres(directory, durable=fsync == "on"))
                url = server.create_database()
            data = directory / f"{engine}-{fsync}"
            data.mkdir()
            store = open_store(data, instances.SECRET_KEY, "benchmark", url)
            stack.callback(store.close)
            store.start(0)
            found.append(Bed(engine, fsync, store))
            stack.callback(found[-1].connection.close)
        yield found


def measure(beds: Sequence[Bed]) -> dict[Key, Cost]:
    """The medians of some rounds, in which all take turns."""
    rounds: dict[Key, list[Cost]] = {}
    for _ in range(ROUNDS):
        for size in SIZES:
            for bed in beds:
                for key, cost in bed.round(size).items():
                    rounds.setdefault(key, []).append(cost)
    return {
        key: (median(cost[0] for cost in costs), median(cost[1] for cost in costs)) for key, costs in rounds.items()
    }


def main() -> None:
    """Print the table."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with (
        tempfile.TemporaryDirectory(prefix="sendkit-bench-", dir="/var/tmp") as directory,
        beds(Path(directory)) as found,
    ):
        costs = measure(found)
    columns = [(bed.engine, bed.fsync) for bed in found]
    print("µs a mail, in all / CPU of the writing thread\n")
    print(f"| operation, mails a group | {' | '.join(f'{engine}, fsync {fsync}' for engine, fsync in columns)} |")
    print(f"|---|{'---:|' * len(columns)}")
    for operation in ("accept", "claim", "complete"):
        for size in SIZES:
            cells = [costs[(*column, size, operation)] for column in columns]
            shown = " | ".join(f"{in_all:.0f} / {cpu:.0f}" for in_all, cpu in cells)
            print(f"| {operation}, {size} | {shown} |")


if __name__ == "__main__":
    main()
