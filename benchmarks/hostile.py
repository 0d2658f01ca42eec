"""What hostile, dead and waiting destinations cost the healthy ones: `python benchmarks/hostile.py [--quick] [--only …]`.

Two servers are alive at a time, alike but for what is measured, and get the same load by turns; see benchmarks/README.md.
"""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import sleep, time_ns

import farm
import frame
import instances
import machine
import msgspec
import structlog
from frame import progress
from instances import HERE, Failed, Sendkit, Sink
from load import Job
from million import GROUP, Queue
from run import HTTP_CONNECTIONS, load, result_of

from sendkit_server.manage import installation
from sendkit_server.store.store import open_store

HEALTHY_SITES = 50
GOAL = 0.9
BAD_EVERY = 10  # of the sites of the second part, one in so many
BETWEEN = 40  # healthy mails between two that go to the farm
WAITING_SITES = 10_000
STANDING_S = 5.0  # for the hostile mail to be where it stays: tried, hanging, or put off
DUE_IN_MS = 3 * 3_600_000


class Amount(msgspec.Struct, frozen=True):
    """How much is measured. mails: of the load, a round and server.  standing: hostile mails that are there before.
    waiting: mails that are put off to later."""

    rounds: int
    mails: int
    warm_up: int
    standing: int
    waiting: int


FULL = Amount(rounds=12, mails=3_000, warm_up=1_000, standing=2_000, waiting=1_000_000)
QUICK = Amount(rounds=2, mails=2_000, warm_up=500, standing=300, waiting=50_000)


class Round(msgspec.Struct, frozen=True):
    """One server's part of a round. rate: healthy mails a second, first byte of the load → last dot at the sink.
    cpu_us: what the server worked for each of them."""

    rate: float
    cpu_us: float


class Part(msgspec.Struct, frozen=True):
    """One comparison, round by round."""

    name: str
    alone: list[Round]
    beside: list[Round]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios: what else the machine does hits both servers of a round alike."""
        return median(b.rate / a.rate for a, b in zip(self.alone, self.beside, strict=True))

    @property
    def cpu_ratio(self) -> float:
        """As ratio, by the CPU that the server takes for a healthy mail."""
        return median(a.cpu_us / b.cpu_us for a, b in zip(self.alone, self.beside, strict=True))


def site(number: int, address: str) -> str:
    """The name of a site at an address (nameserver.py)."""
    return f"n{number:02d}.a-{address.replace('.', '-')}.site.test"


# All names are of one length, as the load wants it: hence the 01.
HEALTHY = tuple(site(n, "127.0.0.01") for n in range(HEALTHY_SITES))
FARM = tuple(site(0, f"127.1.0.{place}") for place in farm.SITES)
NO_DNS = ".silent.site.test"
# One more has no DNS that answers.
HOSTILE = (*FARM, "n" * (len(FARM[0]) - len(NO_DNS)) + NO_DNS)
DEAD_OR_SLOW = tuple(site(n, f"127.1.0.{place}") for n, place in enumerate((11, 12, 13, 14, 18)))


class Running(msgspec.Struct):
    """A server and its process."""

    server: Sendkit
    pid: int


class Turns:
    """Two running servers that get the same load by turns."""

    def __init__(self, sink: Sink, amount: Amount, alone: Running, beside: Running) -> None:
        self.sink = sink
        self.amount = amount
        self.alone = alone
        self.beside = beside
        self._next = 0

    def job(self, server: Sendkit, count: int, domains: tuple[str, ...]) -> Job:
        """Mails of its own."""
        first, self._next = self._next, self._next + count
        return Job("http", (server.http,), first, count, HTTP_CONNECTIONS, server.secret, domains=domains)

    def part(self, name: str, domains: tuple[str, ...] = HEALTHY, more: int = 0) -> Part:
        """All rounds. domains: where the load of the second server goes.  more: so much bigger is that load."""
        amount = self.amount
        part = Part(name, [], [])
        for running in (self.alone, self.beside):
            load(self.job(running.server, amount.warm_up, HEALTHY), self.sink)
        for number in range(amount.rounds):
            turns: list[Callable[[], None]] = [
                lambda: part.alone.append(self.round(self.alone, amount.mails, HEALTHY)),
                lambda: part.beside.append(self.round(self.beside, amount.mails + more, domains)),
            ]
            for turn in turns if number % 2 else reversed(turns):
                turn()
            before, after = part.alone[-1], part.beside[-1]
            progress(f"{name}, round {number + 1}: {before.rate:,.0f} and {after.rate:,.0f} mails/s")
        return part

    def round(self, running: Running, mails: int, domains: tuple[str, ...]) -> Round:
        """One server's turn."""
        job = self.job(running.server, mails, domains)
        numbers = range(job.first, job.first + job.count)
        healthy = sum(domains[n % len(domains)] in HEALTHY for n in numbers)
        worked = machine.cpu_s(running.pid)
        result, delivered_at = load(job, self.sink, healthy)
        worked = machine.cpu_s(running.pid) - worked
        return Round(healthy / (delivered_at - result.began), worked / healthy * 1e6)


class Bench:
    """One run, in one directory."""

    def __init__(self, directory: Path, amount: Amount) -> None:
        self.directory = directory
        self.amount = amount
        self.parts: list[Part] = []

    def run(self, wanted: frozenset[str]) -> None:
        """The parts that are wanted, one after the other."""
        with contextlib.ExitStack() as stack:
            self.dns = stack.enter_context(instances.nameserver())
            self.sink = stack.enter_context(instances.sink(self.directory))
            stack.enter_context(farming(self.sink.port))
            for name in PARTS:
                if name in wanted:
                    progress(name)
                    self.parts.append(PARTS[name](self))

    @contextlib.contextmanager
    def turns(self, name: str, prepare: Callable[[Path], None] | None = None) -> Iterator[Turns]:
        """Two new servers. prepare: what the second one's data directory needs before it starts."""
        with contextlib.ExitStack() as stack:
            running = []
            for which in ("alone", "beside"):
                data = self.directory / f"{name}-{which}"
                if which == "beside" and prepare is not None:
                    prepare(data)
                server = Sendkit(data, self.dns, self.sink.port)
                pid = stack.enter_context(instances.serving(server)).pid
                server.prepare()
                running.append(Running(server, pid))
            yield Turns(self.sink, self.amount, *running)

    def farm(self) -> Part:
        """Healthy mail beside a farm that is at work: hanging, dripping, refusing, and getting new mail."""
        with self.turns("farm") as turns:
            server = turns.beside.server
            result_of(turns.job(server, self.amount.standing, HOSTILE))
            sleep(STANDING_S)
            if not server.count("sendkit_deferred_total"):
                raise Failed("the farm has deferred nothing: it does not do what it should")
            domains = tuple(name for bad in HOSTILE for name in (*HEALTHY[:BETWEEN], bad))
            name = f"beside a farm of {len(HOSTILE)} hostile sites"
            return turns.part(name, domains, more=self.amount.mails // BETWEEN)

    def one_in_ten(self) -> Part:
        """As many mails to as many sites, some of which are dead or slow."""
        domains = list(HEALTHY)
        domains[::BAD_EVERY] = DEAD_OR_SLOW
        with self.turns("tenth") as turns:
            return turns.part(f"{HEALTHY_SITES} sites, one in {BAD_EVERY} dead or slow", tuple(domains))

    def full_queue(self) -> Part:
        """Healthy mail while many others wait for a later day."""

        def fill(data: Path) -> None:
            put_off(data, self.amount.waiting)

        with self.turns("full", fill) as turns:
            return turns.part(f"{self.amount.waiting:,} mails waiting")


PARTS: dict[str, Callable[[Bench], Part]] = {"farm": Bench.farm, "tenth": Bench.one_in_ten, "full": Bench.full_queue}


@contextlib.contextmanager
def farming(port: int) -> Iterator[None]:
    """The farm's process."""
    command = [sys.executable, str(HERE / "farm.py"), str(port)]
    with instances.ended(subprocess.Popen(command, stdout=subprocess.PIPE)) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise Failed("the farm did not start")
        yield
        process.stdout.close()


def put_off(data: Path, count: int) -> None:
    """A database in which so many mails were tried once and wait for hours, made in bulk."""
    installation.prepare_data_dir(data)
    store = open_store(data, installation.secret_key(data, None), "benchmark")
    store.start(time_ns() // 1_000_000)
    queue = Queue(store, dict)
    for _ in range(count // GROUP):
        queue.accept(GROUP, WAITING_SITES)
    queue.close()
    with contextlib.closing(sqlite3.connect(data / "sendkit.db")) as connection:
        due = time_ns() // 1_000_000 + DUE_IN_MS
        with connection:
            connection.execute(_PUT_OFF, (due, DUE_IN_MS // 6))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


# With some spread: a wave of a million in one millisecond is no queue that anybody has.
_PUT_OFF = """
UPDATE recipient SET status = 'delivery_delayed', attempts = 1, reason = 'mailbox_busy', code = 450,
    explanation = 'greylisted', next_attempt_at = ? + abs(random()) % ?
"""


def table(parts: list[Part]) -> str:
    """For people, and as it stands for the README."""
    lines = ["| healthy mail | alone (mails/s) | so (mails/s) | ratio | of CPU a mail | goal | met |"]
    lines.append("|---|---:|---:|---:|---:|---|---|")
    for part in parts:
        alone, beside = (median(each.rate for each in rounds) for rounds in (part.alone, part.beside))
        met = "yes" if part.ratio >= GOAL else "**no**"
        rates = f"{alone:,.0f} | {beside:,.0f} | {part.ratio:.2f} | {part.cpu_ratio:.2f}"
        lines.append(f"| {part.name} | {rates} | ≥ {GOAL} | {met} |")
    return "\n".join(lines)


def main() -> None:
    """Run it."""
    options = frame.options("What bad destinations cost the good ones.", PARTS)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    amount = QUICK if options.quick else FULL
    with frame.files(options.keep) as directory:
        bench = Bench(directory, amount)
        found = machine.describe(directory)
        bench.run(options.parts)
    print(table(bench.parts))
    if not options.quick:
        parts = [
            {**msgspec.to_builtins(part), "ratio": part.ratio, "ratio of CPU a mail": part.cpu_ratio}
            for part in bench.parts
        ]
        frame.save("hostile-", found, {"amount": amount, "parts": parts})


if __name__ == "__main__":
    main()
