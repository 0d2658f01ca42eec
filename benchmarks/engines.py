"""SQLite, PostgreSQL with one node, with two, and behind PgBouncer: the whole program, same mails, same sink, one run.

`python benchmarks/engines.py [--quick] [--only load,alone,turns] [--keep]`; see benchmarks/README.md for what is
measured and why so. Exit status 1 when a program fails, not when a goal is missed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import frame
import instances
import machine
import msgspec
from frame import progress
from instances import Failed, Sendkit, Sink
from load import Job, Result
from run import HTTP_CONNECTIONS, IDLE_WARM_UP, SMTP_SESSIONS, load, percentile, result_of

PARTS = ("load", "alone", "turns")
DOORS = {"API": ("http", HTTP_CONNECTIONS), "SMTP": ("smtp", SMTP_SESSIONS)}
TURN_S = 0.01
TURNS = 2
QUIET_MOST_S = 15.0


class Amount(msgspec.Struct, frozen=True):
    """How much is measured: mails by each door in each round, and how many of those that travel alone."""

    rounds: int
    mails: int
    warm_up: int
    alone: int
    turns_rounds: int
    turns_mails: int


FULL = Amount(rounds=3, mails=6_000, warm_up=1_000, alone=60, turns_rounds=2, turns_mails=3_000)
QUICK = Amount(rounds=1, mails=1_500, warm_up=200, alone=20, turns_rounds=1, turns_mails=1_000)


class Spent(msgspec.Struct, frozen=True):
    """Seconds of CPU. rest: of everything else on the machine until the last dot, what its host took with it; in a
    reading it is of all that is on the machine."""

    sendkit: float
    postgres: float
    pgbouncer: float
    sink: float
    load: float
    rest: float

    def since(self, before: Spent) -> Spent:
        """What came in between."""
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(before), strict=True)
        return Spent(*(late - early for late, early in pairs))

    @property
    def ours(self) -> float:
        """What the run is about."""
        return self.sendkit + self.postgres + self.pgbouncer + self.sink + self.load

    def plus(self, other: Spent) -> Spent:
        """Both."""
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return Spent(*(one + another for one, another in pairs))


NOTHING = Spent(0, 0, 0, 0, 0, 0)


class Way(msgspec.Struct):
    """One door of one candidate, over all rounds."""

    mails: int = 0
    commits: int = 0
    accept_s: float = 0.0
    delivered_s: float = 0.0
    spent: Spent = NOTHING
    rounds: list[tuple[float, float]] = []

    def add(self, result: Result, delivered_at: float, commits: int, spent: Spent) -> None:
        """One round more."""
        count = len(result.accept_ms)
        accept_s, delivered_s = result.ended - result.began, delivered_at - result.began
        self.mails += count
        self.commits += commits
        self.accept_s += accept_s
        self.delivered_s += delivered_s
        self.spent = self.spent.plus(spent)
        self.rounds.append((count / accept_s, count / delivered_s))

    @property
    def accepted(self) -> float:
        """Mails a second, first byte of the load → last acceptance."""
        return self.mails / self.accept_s

    @property
    def delivered(self) -> float:
        """Mails a second, first byte of the load → last dot at the sink."""
        return self.mails / self.delivered_s


class Candidate:
    """One or two nodes on one database."""

    def __init__(self, name: str, nodes: Sequence[Sendkit]) -> None:
        self.name = name
        self.nodes = nodes
        self.pids: list[int] = []
        self.ways = {door: Way() for door in DOORS}
        self.alone_ms: dict[str, list[float]] = {door: [] for door in DOORS}

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Runs it until the block ends; the first time it gets its domain and its key."""
        with contextlib.ExitStack() as stack:
            self.pids = [stack.enter_context(instances.serving(node)).pid for node in self.nodes]
            if not self.nodes[0].secret:
                self.nodes[0].prepare()
            yield

    def ports(self, kind: str) -> tuple[int, ...]:
        """Where its doors are."""
        return tuple([node.http if kind == "http" else node.smtp for node in self.nodes])

    def total(self, metric: str) -> int:
        """A counter of all nodes together."""
        return sum(node.count(metric) for node in self.nodes)


class Bench:
    """One run, in one directory."""

    def __init__(self, directory: Path, amount: Amount) -> None:
        self.directory = directory
        self.amount = amount
        self.candidates: list[Candidate] = []
        self.turns: dict[str, Candidate] = {}
        self._next = 0
        self._spent: Callable[[Candidate], Spent]
        self._sink: Sink

    def job(self, candidate: Candidate, door: str, count: int) -> Job:
        """A job with mails of its own."""
        first, self._next = self._next, self._next + count
        kind, connections = DOORS[door]
        return Job(kind, candidate.ports(kind), first, count, connections, candidate.nodes[0].secret)

    # -- under load ----------------------------------------------------------------------------------------------

    def warm_up(self, candidate: Candidate) -> None:
        """Until each node delivers: one that has just come leaves that to the others for some seconds."""
        progress(f"warming up: {candidate.name}")
        for node in candidate.nodes:
            before = node.count("sendkit_delivered_total")
            deadline = perf_counter() + instances.WAIT_S
            while node.count("sendkit_delivered_total") < before + self.amount.warm_up:
                if perf_counter() > deadline:
                    raise Failed(f"a node of {candidate.name} does not deliver what it accepts")
                for kind, port in (("http", node.http), ("smtp", node.smtp)):
                    first, self._next = self._next, self._next + self.amount.warm_up
                    load(Job(kind, (port,), first, self.amount.warm_up, 10, candidate.nodes[0].secret), self._sink)

    def measure(self, candidate: Candidate, door: str, count: int) -> None:
        """One round of one door, from silence to silence: what is written after the last dot is paid for, too."""
        self._quiet(candidate)
        commits, before = candidate.total("sendkit_store_commits"), self._spent(candidate)
        expected = candidate.total("sendkit_delivered_total") + count
        result, delivered_at = load(self.job(candidate, door, count), self._sink)
        meanwhile = self._spent(candidate).since(before)
        self._quiet(candidate)
        instances.until(lambda: candidate.total("sendkit_delivered_total") >= expected, "all deliveries in our counter")
        for node in candidate.nodes:
            node.check_first_tries(candidate.name)
        commits = candidate.total("sendkit_store_commits") - commits
        rest = meanwhile.rest - meanwhile.ours - result.cpu_s
        spent = msgspec.structs.replace(self._spent(candidate).since(before), load=result.cpu_s, rest=rest)
        candidate.ways[door].add(result, delivered_at, commits, spent)

    def _quiet(self, candidate: Candidate) -> None:
        """Waits until neither the nodes nor PostgreSQL work any more; its vacuum may go on for longer than is waited."""

        def worked_s() -> float:
            spent = self._spent(candidate)
            return spent.sendkit + spent.postgres

        machine.until_quiet(worked_s, QUIET_MOST_S)

    # -- one mail alone ------------------------------------------------------------------------------------------

    def alone(self, candidate: Candidate, door: str, sink_port: int) -> None:
        """One mail from the call to the sink's dot, nothing else going on."""
        for count in (IDLE_WARM_UP, self.amount.alone):
            job = self.job(candidate, door, count)
            found = result_of(msgspec.structs.replace(job, ports=job.ports[:1], sink_port=sink_port))
        candidate.alone_ms[door] = sorted(candidate.alone_ms[door] + found.sink_ms)

    # -- by turns ------------------------------------------------------------------------------------------------

    def by_turns(self, one: Candidate, two: Candidate, others: Sequence[int]) -> None:
        """The nodes have one core, everything else has the others: what a second node brings where cores allow it."""
        first, *rest = sorted(os.sched_getaffinity(0))
        if not rest:
            raise Failed("turns need two cores")
        names = ("one node, a whole core", "one node, half a core", "two nodes, half a core each")
        self.turns = {name: Candidate(name, of.nodes) for name, of in zip(names, (one, one, two), strict=True)}
        for candidate, of in zip(self.turns.values(), (one, one, two), strict=True):
            candidate.pids = of.pids
        for pid in others:
            machine.pin(pid, set(rest))
        for pid in (*one.pids, *two.pids):
            machine.pin(pid, {first})
        # The load and the threads of this process inherit it.
        os.sched_setaffinity(0, set(rest))
        for number in range(self.amount.turns_rounds):
            for candidate in self.turns.values():
                for door in DOORS:
                    progress(f"by turns, round {number + 1}, {door}: {candidate.name}")
                    with by_turns([] if "whole" in candidate.name else candidate.pids):
                        self.measure(candidate, door, self.amount.turns_mails)

    # -- the whole -----------------------------------------------------------------------------------------------

    def run(self, parts: frozenset[str]) -> None:
        """All parts that are wanted."""
        with contextlib.ExitStack() as stack:
            dns = stack.enter_context(instances.nameserver())
            self._sink = stack.enter_context(instances.sink(self.directory))
            server = stack.enter_context(instances.postgres(self.directory))
            bouncer = stack.enter_context(instances.pgbouncer(server))
            self._spent = _spending(server, bouncer, self._sink)
            self.candidates = self._candidates(dns, server, bouncer)
            by_name = {candidate.name: candidate for candidate in self.candidates}
            with contextlib.ExitStack() as running:
                for candidate in self.candidates:
                    running.enter_context(candidate.serving())
                for candidate in self.candidates:
                    self.warm_up(candidate)
                for number in range(self.amount.rounds if "load" in parts else 0):
                    for door in DOORS:
                        for candidate in self.candidates:
                            progress(f"round {number + 1}, {door}: {candidate.name}")
                            self.measure(candidate, door, self.amount.mails)
                if "turns" in parts:
                    others = [server.process.pid, bouncer.process.pid, self._sink.pid]
                    self.by_turns(by_name[ONE_NODE], by_name[TWO_NODES], others)
            if "alone" in parts:
                self._alone_all()

    def _candidates(self, dns: str, server: Any, bouncer: Any) -> list[Candidate]:
        def node(name: str, url: str | None = None) -> Sendkit:
            return Sendkit(self.directory / name, dns, self._sink.port, url)

        one, two, behind = (server.create_database() for _ in range(3))
        return [
            Candidate(SQLITE, [node("sqlite")]),
            Candidate(ONE_NODE, [node("postgres", one)]),
            Candidate(TWO_NODES, [node("postgres-a", two), node("postgres-b", two)]),
            Candidate(POOLED, [node("pgbouncer", bouncer.url(behind))]),
        ]

    def _alone_all(self) -> None:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        sink_port = instances.free_port()
        with contextlib.ExitStack() as running:
            for candidate in self.candidates:
                for node in candidate.nodes:
                    node.environment["SENDKIT_MX_PORT"] = str(sink_port)
                running.enter_context(candidate.serving())
            sleep(2 * machine.QUIET_S)
            for number in range(self.amount.rounds):
                for candidate in self.candidates:
                    for door in DOORS:
                        progress(f"one mail at a time, round {number + 1}, {door}: {candidate.name}")
                        self.alone(candidate, door, sink_port)


SQLITE, ONE_NODE, TWO_NODES, POOLED = "SQLite", "PostgreSQL", "two nodes", "PgBouncer"


def _spending(server: Any, bouncer: Any, sink: Sink) -> Callable[[Candidate], Spent]:
    postmaster, pooler = server.process.pid, bouncer.process.pid

    def spent(candidate: Candidate) -> Spent:
        return Spent(
            sum(machine.cpu_s(pid) for pid in candidate.pids),
            machine.family_cpu_s(postmaster),
            machine.cpu_s(pooler),
            machine.cpu_s(sink.pid),
            0.0,
            machine.busy_s(),
        )

    return spent


@contextlib.contextmanager
def by_turns(pids: Sequence[int]) -> Iterator[None]:
    """Lets each of these processes run for TURN_S, then the next, TURNS turns in all; a turn that is nobody's is idle.

    So one process gets half of the time, and two get half each and never run at the same time. [] is no limit.
    """
    over = threading.Event()

    def go_round() -> None:
        for turn in cycle(range(TURNS)):
            if over.is_set():
                return
            if turn < len(pids):
                os.kill(pids[turn], signal.SIGCONT)
            sleep(TURN_S)
            if turn < len(pids):
                os.kill(pids[turn], signal.SIGSTOP)

    thread = threading.Thread(target=go_round)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        if pids:
            thread.start()
        yield
    finally:
        over.set()
        if pids:
            thread.join()
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


# -- what is shown ---------------------------------------------------------------------------------------------------


class Line(msgspec.Struct, frozen=True):
    """A line of the table, a value a candidate."""

    name: str
    unit: str
    values: dict[str, float]


class Goal(msgspec.Struct, frozen=True):
    """A ratio of two candidates, and what it is to reach."""

    name: str
    ratio: float
    least: float

    @property
    def is_met(self) -> bool:
        """Whether it does."""
        return self.ratio >= self.least


def lines_of(candidates: Sequence[Candidate]) -> list[Line]:
    """All figures."""
    found = []
    for door in DOORS:
        ways = {candidate.name: candidate.ways[door] for candidate in candidates if candidate.ways[door].mails}
        if ways:
            found += [
                Line(f"{door} accept", "mails/s", {name: way.accepted for name, way in ways.items()}),
                Line(f"end to end, by {door}", "mails/s", {name: way.delivered for name, way in ways.items()}),
                Line(f"mails a transaction, {door}", "", {name: way.mails / way.commits for name, way in ways.items()}),
            ]
            for part in Spent.__struct_fields__:
                per_mail = {name: getattr(way.spent, part) / way.mails * 1e6 for name, way in ways.items()}
                found.append(Line(f"CPU a mail by {door}: {part}", "µs", per_mail))
        alone = {candidate.name: candidate.alone_ms[door] for candidate in candidates if candidate.alone_ms[door]}
        if alone:
            for percent in (50, 95):
                values = {name: percentile(ms, percent) for name, ms in alone.items()}
                found.append(Line(f"one mail, {door} → sink's dot, p{percent}", "ms", values))
    return found


def goals_of(bench: Bench) -> list[Goal]:
    """The ratios that were promised."""
    named = {candidate.name: candidate.ways for candidate in bench.candidates}
    found = []
    for door in DOORS:
        sqlite, one, two = (named[name][door] for name in (SQLITE, ONE_NODE, TWO_NODES))
        if sqlite.mails:
            found += [
                Goal(f"{door} accept, PostgreSQL to SQLite", one.accepted / sqlite.accepted, 0.7),
                Goal(f"end to end by {door}, PostgreSQL to SQLite", one.delivered / sqlite.delivered, 0.7),
                Goal(f"end to end by {door}, two nodes to one, all on these cores", two.delivered / one.delivered, 1.5),
            ]
        if bench.turns:
            _, one, two = (candidate.ways[door] for candidate in bench.turns.values())
            name = f"end to end by {door}, two nodes with half a core each to one with half a core"
            found.append(Goal(name, two.delivered / one.delivered, 1.5))
    return found


def table(candidates: Sequence[Candidate]) -> str:
    """For people, and as it stands for the README."""
    names = [candidate.name for candidate in candidates]
    rows = [f"| figure | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for line in lines_of(candidates):
        unit = f" ({line.unit})" if line.unit else ""
        values = [frame.number(line.values[name]) if name in line.values else "" for name in names]
        rows.append(f"| {line.name}{unit} | {' | '.join(values)} |")
    return "\n".join(rows)


def goals_table(goals: Sequence[Goal]) -> str:
    """As table."""
    rows = ["| ratio | measured | goal | met |", "|---|---:|---:|---|"]
    for goal in goals:
        rows.append(f"| {goal.name} | {goal.ratio:.2f} | ≥ {goal.least:g} | {'yes' if goal.is_met else '**no**'} |")
    return "\n".join(rows)


def content(bench: Bench) -> dict[str, Any]:
    """All that was found, for JSON."""
    return {
        "amount": bench.amount,
        "figures": lines_of(bench.candidates),
        "by turns": lines_of(list(bench.turns.values())),
        "goals": [{"name": goal.name, "ratio": goal.ratio, "least": goal.least} for goal in goals_of(bench)],
        "rounds, accepted and delivered a second": {
            candidate.name: {door: way.rounds for door, way in candidate.ways.items()}
            for candidate in (*bench.candidates, *bench.turns.values())
        },
    }


def main() -> None:
    """Run it."""
    options = frame.options("Sendkit on its two database engines, on this machine.", PARTS)
    with frame.files(options.keep) as directory:
        bench = Bench(directory, QUICK if options.quick else FULL)
        found = machine.describe(directory)
        bench.run(options.parts)
    frame.show(found)
    for shown in (bench.candidates, list(bench.turns.values())):
        if shown and lines_of(shown):
            print(f"{table(shown)}\n")
    print(goals_table(goals_of(bench)))
    if options.is_whole:
        frame.save("engines-", found, content(bench))


if __name__ == "__main__":
    main()
