"""A million messages through the queue of each engine: does the tenth hundred thousand cost more than the first?

Accepted for nobody in groups, claimed and written back as delivered in groups as large, while a backlog waits at many
sites. PostgreSQL does what it always does meanwhile: autovacuum, checkpoints. Then the queue is filled to the brim, and
claims and the look for the next due time are timed in front of it.

`python benchmarks/million.py [--engine sqlite|postgres] [--messages N] [--waiting N]`; a million take ten minutes each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter, time_ns
from typing import Any

import frame
import instances
import machine
import structlog
from run import percentile
from store import delivered, new_mail

from sendkit_server.store.engine import Mark
from sendkit_server.store.store import Store, open_store
from sendkit_server.store.values import Claim, Job

GROUP = 200
SLICE = 100_000
BACKLOG, BACKLOG_SITES = 20_000, 1_000
FULL_SITES = 10_000
PER_SITE = 8
CLAIMS = 100
TEXT = "Your order is on its way. " * 20

Facts = dict[str, float]


class Queue:
    """A store that is written to by this thread alone. facts: what its engine says of its tables."""

    def __init__(self, store: Store, facts: Callable[[], Facts]) -> None:
        self.store = store
        self.facts = facts
        self._connection = store.engine.open_writer()
        self._marks = itertools.count(1)
        self._numbers = itertools.count()
        self._after_site = ""

    def close(self) -> None:
        """Ends it."""
        self._connection.close()
        self.store.close()

    def transact(self, kind: str, values: list[Any]) -> tuple[list[Any], float]:
        """One transaction: its results, and how many milliseconds it took."""
        mark = Mark(self.store.owner, next(self._marks))
        began = perf_counter()
        (results,) = self.store.engine.transact(self._connection, [(kind, values)], mark)
        return results, (perf_counter() - began) * 1000

    def accept(self, count: int, sites: int) -> float:
        """Mails for nobody, spread over the sites."""
        at = time_ns() // 1_000_000
        numbers = itertools.islice(self._numbers, count)
        new = [new_mail(n, self.store.owner, owned=False, at=at, site=f"s{n % sites}.test", text=TEXT) for n in numbers]
        return self.transact("accept", new)[1]

    def claim(self, limit: int) -> tuple[list[Job], float]:
        """As a deliverer claims, round the sites."""
        now = time_ns() // 1_000_000
        wanted = Claim(self.store.owner, now, frozenset(), PER_SITE, limit, self._after_site)
        (claimed,), took_ms = self.transact("claim", [wanted])
        self._after_site = claimed.reached
        if not claimed.jobs and claimed.reached == "" and wanted.after_site:
            # The round is complete; the next one begins anew.
            return self.claim(limit)
        return claimed.jobs, took_ms

    def complete(self, jobs: list[Job]) -> float:
        """All delivered."""
        return self.transact("complete", [delivered(job, time_ns() // 1_000_000) for job in jobs])[1]

    def next_due(self) -> float:
        """How long the look for the earliest waiting one takes."""
        began = perf_counter()
        asyncio.run(self.store.next_due())
        return (perf_counter() - began) * 1000


@contextlib.contextmanager
def sqlite(directory: Path) -> Iterator[Queue]:
    """A queue in a file."""
    store = open_store(directory / "sqlite", "secret", "benchmark")
    store.start(0)

    def facts() -> Facts:
        sizes = [path.stat().st_size for path in (directory / "sqlite").glob("sendkit.db*")]
        return {"files (MB)": sum(sizes) / 2**20, "memory of this process (MB)": machine.resident_mb("self")[0]}

    queue = Queue(store, facts)
    try:
        yield queue
    finally:
        queue.close()


@contextlib.contextmanager
def postgres(directory: Path) -> Iterator[Queue]:
    """A queue in a durable server."""
    with instances.postgres(directory) as server:
        url = server.create_database()
        store = open_store(directory / "postgres", instances.SECRET_KEY, "benchmark", url)
        store.start(0)

        def facts() -> Facts:
            ((heap, indexes, dead, vacuums),) = server.execute(url, _TABLES)
            return {
                "recipient (MB)": heap / 2**20,
                "its indexes (MB)": indexes / 2**20,
                "its dead rows": dead,
                "its autovacuums": vacuums,
                "memory of this process (MB)": machine.resident_mb("self")[0],
            }

        queue = Queue(store, facts)
        try:
            yield queue
        finally:
            queue.close()


_TABLES = """
SELECT sum(pg_relation_size(relid))::float, sum(pg_indexes_size(relid))::float, sum(n_dead_tup)::float,
    sum(autovacuum_count)::float
FROM pg_stat_user_tables WHERE relname LIKE 'recipient\\_%'
"""
ENGINES = {"sqlite": sqlite, "postgres": postgres}


def through(queue: Queue, messages: int) -> list[Facts]:
    """So many messages, in at one end and out at the other: what each slice cost."""
    for _ in range(BACKLOG // GROUP):
        queue.accept(GROUP, BACKLOG_SITES)
    found: list[Facts] = []
    for _ in range(messages // SLICE):
        times: dict[str, list[float]] = {"accept": [], "claim": [], "complete": []}
        done = 0
        began = perf_counter()
        while done < SLICE:
            times["accept"].append(queue.accept(GROUP, BACKLOG_SITES))
            jobs, took_ms = queue.claim(GROUP)
            times["claim"].append(took_ms)
            times["complete"].append(queue.complete(jobs))
            done += len(jobs)
        facts = {f"{name} (µs a mail)": sum(took) / done * 1000 for name, took in times.items()}
        facts |= {f"{name} of {GROUP}, p99 (ms)": percentile(sorted(took), 99) for name, took in times.items()}
        found.append(facts | {"all (s)": perf_counter() - began} | queue.facts())
        print(json.dumps({name: round(value, 2) for name, value in found[-1].items()}), flush=True)
    return found


def before_many(queue: Queue, waiting: int) -> Facts:
    """What a claim, and the look for the next due time, cost before a queue that is full."""
    for _ in range(waiting // GROUP):
        queue.accept(GROUP, FULL_SITES)
    claims = sorted(queue.claim(GROUP)[1] for _ in range(CLAIMS))
    looks = sorted(queue.next_due() for _ in range(CLAIMS))
    facts = {f"claim of {GROUP} (ms)": claims, "next_due (ms)": looks}
    found = {f"{name}, p{percent}": percentile(times, percent) for name, times in facts.items() for percent in (50, 99)}
    found |= queue.facts()
    print(json.dumps({name: round(value, 2) for name, value in found.items()}), flush=True)
    return found


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description="Many messages through each engine's queue.")
    parser.add_argument("--engine", choices=ENGINES, help="one of them; default: one after the other")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--waiting", type=int, default=1_000_000)
    arguments = parser.parse_args()
    frame.end_at_sigterm()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    for name in [arguments.engine] if arguments.engine else ENGINES:
        with tempfile.TemporaryDirectory(prefix="sendkit-bench-", dir="/var/tmp") as directory:
            (Path(directory) / name).mkdir()
            found = machine.describe(Path(directory))
            print(name, flush=True)
            with ENGINES[name](Path(directory)) as queue:
                slices = through(queue, arguments.messages)
                content = {f"each {SLICE:,}": slices, "full queue": before_many(queue, arguments.waiting)}
                frame.save(f"million-{name}-", found, content)


if __name__ == "__main__":
    main()
