"""`make bench`: Sendkit beside Debian's Postfix as a relay, same mails, same sink, same machine, one run.

`python benchmarks/run.py [--quick] [--only accept,idle,start] [--keep]`; see benchmarks/README.md for what is measured
and why so. Exit status 1 when a program fails, not when a goal is missed.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import frame
import instances
import machine
import msgspec
from frame import progress
from instances import HERE, Failed, Postfix, Sendkit, Sink
from load import Job, Result

HTTP_CONNECTIONS = 64
SMTP_SESSIONS = 20
IDLE_WARM_UP = 20
PARTS = ("accept", "idle", "start")


class Amount(msgspec.Struct, frozen=True):
    """How much is measured. Postfix gets fewer mails, so that each phase takes some seconds."""

    rounds: int
    ours: int
    postfix: int
    warm_up: int
    idle: int


FULL = Amount(rounds=2, ours=10_000, postfix=5_000, warm_up=1_000, idle=200)
QUICK = Amount(rounds=1, ours=4_000, postfix=1_500, warm_up=300, idle=50)


class Rate(msgspec.Struct):
    """One way in, over all rounds."""

    mails: int = 0
    accept_s: float = 0.0
    delivered_s: float = 0.0
    cpu_s: float = 0.0
    accept_ms: list[float] = []

    def add(self, result: Result, delivered_at: float, cpu_s: float) -> None:
        """One round more. cpu_s: what our process has worked for it."""
        self.cpu_s += cpu_s
        self.mails += len(result.accept_ms)
        self.accept_s += result.ended - result.began
        self.delivered_s += delivered_at - result.began
        self.accept_ms = sorted(self.accept_ms + result.accept_ms)

    @property
    def accepted(self) -> float:
        """Mails a second, first byte of the load → last acceptance."""
        return self.mails / self.accept_s

    @property
    def delivered(self) -> float:
        """Mails a second, first byte of the load → last dot at the sink."""
        return self.mails / self.delivered_s


class Figure(msgspec.Struct, frozen=True):
    """A line of the table. goal: what the ratio (or our figure alone) must reach; is_met None: there is none."""

    name: str
    unit: str
    sendkit: float
    postfix: float | None = None
    goal: str = ""
    is_met: bool | None = None

    @property
    def ratio(self) -> float | None:
        """Ours to theirs."""
        return self.sendkit / self.postfix if self.postfix else None


def percentile(ordered: list[float], percent: float) -> float:
    """The value that so many percent of a sorted list do not exceed."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def load(job: Job, sink: Sink, count: int | None = None) -> tuple[Result, float]:
    """Runs the load in its process and waits until the sink has all of it: the result, and when that was.

    count: how many of them go to the sink; None for all."""
    expected = sink.mails() + (job.count if count is None else count)
    with _loading(job) as process:
        instances.until(lambda: sink.mails() >= expected or process.poll(), f"{expected} mails at the sink", 180)
        at = perf_counter()
        return _result(process), at


def result_of(job: Job) -> Result:
    """Runs the load in its process: what it found."""
    with _loading(job) as process:
        return _result(process)


@contextlib.contextmanager
def _loading(job: Job) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, str(HERE / "load.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(job))
            process.stdin.close()
            yield process
        finally:
            process.kill()


def _result(process: subprocess.Popen[bytes]) -> Result:
    assert process.stdout is not None
    printed = process.stdout.read()
    if process.wait():
        raise Failed("the load found a wrong reply; see above")
    return msgspec.json.decode(printed, type=Result)


class Bench:
    """One run, in one directory."""

    def __init__(self, directory: Path, amount: Amount) -> None:
        self.directory = directory
        self.amount = amount
        self.figures: list[Figure] = []
        self._next = 0

    def job(self, kind: str, port: int, count: int, secret: str | None = None) -> Job:
        """A job with mails of its own."""
        first, self._next = self._next, self._next + count
        return Job(kind, (port,), first, count, HTTP_CONNECTIONS if kind == "http" else SMTP_SESSIONS, secret)

    # -- accept and delivery -------------------------------------------------------------------------------------

    def accept(self, server: Sendkit, pid: int, sink: Sink, postfix: Postfix) -> None:
        """Accept and end-to-end rates, round by round, and what memory that took."""
        api, smtp, theirs = Rate(), Rate(), Rate()
        amount = self.amount
        ways = (
            ("http", server.http, server.secret, amount.ours, api),
            ("smtp", server.smtp, server.secret, amount.ours, smtp),
            ("smtp", postfix.port, None, amount.postfix, theirs),
        )
        for kind, port, secret, _, _ in ways:
            load(self.job(kind, port, amount.warm_up, secret), sink)
        for number in range(amount.rounds):
            for kind, port, secret, count, rate in ways:
                progress(f"round {number + 1}: {count} mails by {kind} to {'Postfix' if secret is None else 'Sendkit'}")
                instances.until(lambda: postfix.queued() == 0, "Postfix's empty queue", every_s=0.1)
                before = machine.cpu_s(pid)
                result, delivered_at = load(self.job(kind, port, count, secret), sink)
                rate.add(result, delivered_at, machine.cpu_s(pid) - before)
        self._all_is_settled(server)
        resident, most = machine.resident_mb(pid)
        self.figures += [
            above("API accept, 64 connections", "mails/s", api.accepted, theirs.accepted, 4),
            above("SMTP accept, 20 sessions", "mails/s", smtp.accepted, theirs.accepted, 4),
            above("end to end, by the API", "mails/s", api.delivered, theirs.delivered, 2),
            above("end to end, by SMTP", "mails/s", smtp.delivered, theirs.delivered, 2),
        ]
        for name, rate in (("API", api), ("SMTP", smtp)):
            spent = rate.cpu_s / rate.mails * 1e6
            self.figures.append(Figure(f"CPU of our process a mail, by the {name}, user and kernel", "µs", spent))
        for percent in (50, 95, 99):
            for name, rate in (("API", api), ("SMTP", smtp)):
                wait, their_wait = percentile(rate.accept_ms, percent), percentile(theirs.accept_ms, percent)
                self.figures.append(Figure(f"{name} accept under that load, p{percent}", "ms", wait, their_wait))
        self.figures += [
            Figure(
                "Postfix's accept by its own smtp-source", "mails/s", smtp.accepted, self._smtp_source(postfix, sink)
            ),
            below("resident memory afterwards", "MB", resident, 300),
            Figure("resident memory at its highest", "MB", most),
        ]

    def _all_is_settled(self, server: Sendkit) -> None:
        """Everything that ours took is delivered at the first try and written down."""
        sent = self.amount.ours * 2 * self.amount.rounds + self.amount.warm_up * 2
        instances.until(lambda: server.count("sendkit_delivered_total") >= sent, "all deliveries in our counter")
        server.check_first_tries()

    def _smtp_source(self, postfix: Postfix, sink: Sink) -> float:
        """Postfix's own load program on Postfix, as a check of our client: it connects anew for each mail unless told."""
        expected = sink.mails() + self.amount.postfix
        command = ["/usr/sbin/smtp-source", "-d", "-s", str(SMTP_SESSIONS), "-m", str(self.amount.postfix)]
        command += ["-l", "5120", "-f", "bounces@here.test", "-t", "u@r0.test", f"127.0.0.1:{postfix.port}"]
        began = perf_counter()
        subprocess.run(command, check=True)
        took = perf_counter() - began
        sink.wait_for(expected)
        return self.amount.postfix / took

    # -- one mail alone ------------------------------------------------------------------------------------------

    def idle(self, server: Sendkit, postfix_port: int, sink_port: int) -> None:
        """One mail from the call to the sink's dot, nothing else going on."""
        found = {}
        for name, kind, port, secret in (
            ("api", "http", server.http, server.secret),
            ("postfix", "smtp", postfix_port, None),
            ("smtp", "smtp", server.smtp, server.secret),
        ):
            progress(f"{self.amount.idle} mails, one at a time: {name}")
            # The first ones, thrown away, find cold code and no connection to the sink.
            for count in (IDLE_WARM_UP, self.amount.idle):
                job = self.job(kind, port, count, secret)
                found[name] = result_of(msgspec.structs.replace(job, sink_port=sink_port)).sink_ms
        for percent in (50, 95):
            ours, theirs = (percentile(found[name], percent) for name in ("api", "postfix"))
            goal, is_met = ("< 1×", ours < theirs) if percent == 50 else ("", None)
            self.figures.append(
                Figure(f"one mail, API call → sink's dot, p{percent}", "ms", ours, theirs, goal, is_met)
            )
            self.figures.append(
                Figure(f"one mail, SMTP → sink's dot, p{percent}", "ms", percentile(found["smtp"], percent), theirs)
            )

    # -- the whole -----------------------------------------------------------------------------------------------

    def run(self, parts: frozenset[str]) -> None:
        """All parts that are wanted."""
        data = self.directory / "sendkit"
        with contextlib.ExitStack() as stack:
            dns = stack.enter_context(instances.nameserver())
            sink = stack.enter_context(instances.sink(self.directory))
            server = Sendkit(data, dns, sink.port)
            with instances.serving(server) as first:
                server.prepare()
                if "accept" in parts:
                    with instances.postfix(self.directory / "postfix", sink.port) as postfix:
                        self.accept(server, first.pid, sink, postfix)
            idle_sink = instances.free_port()
            server.environment["SENDKIT_MX_PORT"] = str(idle_sink)
            with instances.serving(server) as second:
                if "idle" in parts:
                    with instances.postfix(self.directory / "postfix-idle", idle_sink) as postfix:
                        self.idle(server, postfix.port, idle_sink)
        if "start" in parts:
            megabytes = sum(path.stat().st_size for path in data.glob("sendkit.db*")) / 2**20
            self.figures += [
                below("start → ready, new database", "s", first.ready_s, 2),
                below(f"start → ready, {megabytes:.0f} MB database", "s", second.ready_s, 2),
            ]


def above(name: str, unit: str, ours: float, theirs: float, times: float) -> Figure:
    """A goal of so many times Postfix's figure."""
    return Figure(name, unit, ours, theirs, f"≥ {times:g}×", ours >= times * theirs)


def below(name: str, unit: str, ours: float, most: float) -> Figure:
    """A goal for our figure alone."""
    return Figure(name, unit, ours, None, f"< {most:g} {unit}", ours < most)


def table(figures: list[Figure]) -> str:
    """For people, and as it stands for the README."""
    lines = ["| figure | Postfix | Sendkit | ratio | goal | met |", "|---|---:|---:|---:|---|---|"]
    for figure in figures:
        theirs = "" if figure.postfix is None else f"{frame.number(figure.postfix)} {figure.unit}"
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}×"
        met = {True: "yes", False: "**no**", None: ""}[figure.is_met]
        ours = f"{frame.number(figure.sendkit)} {figure.unit}"
        lines.append(f"| {figure.name} | {theirs} | {ours} | {ratio} | {figure.goal} | {met} |")
    return "\n".join(lines)


def main() -> None:
    """Run it."""
    options = frame.options("Sendkit beside Postfix, on this machine.", PARTS)
    amount = QUICK if options.quick else FULL
    with frame.files(options.keep) as directory:
        bench = Bench(directory, amount)
        found = machine.describe(directory)
        bench.run(options.parts)
    frame.show(found)
    print(table(bench.figures))
    if options.is_whole:
        figures = [{**msgspec.to_builtins(figure), "ratio": figure.ratio} for figure in bench.figures]
        frame.save("", found, {"amount": amount, "figures": figures})


if __name__ == "__main__":
    main()
