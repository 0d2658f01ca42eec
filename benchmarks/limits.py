"""What limits, scopes and idempotency keys cost accepting: three servers alike but for that, by turns, in one run.

`python benchmarks/limits.py [--quick] [--only http,smtp] [--keep]`; see benchmarks/README.md for what is measured and why
so. Exit status 1 when a program fails, not when a goal is missed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import frame
import instances
import machine
import mails
import msgspec
from frame import progress
from instances import Sendkit, Sink
from load import Job
from run import HTTP_CONNECTIONS, SMTP_SESSIONS, load

PARTS = ("http", "smtp")
CONNECTIONS = {"http": HTTP_CONNECTIONS, "smtp": SMTP_SESSIONS}
LEAST = 0.9
QUIET_MOST_S = 10.0

# All of them on, and none reached: a refusal would be cheaper than a mail.
LIMITS = {
    "SENDKIT_RATE_LIMIT": "1000000",
    "SENDKIT_KEY_RATE_LIMIT": "1000000",
    "SENDKIT_MONTHLY_QUOTA": "100000000",
}
SCOPES = (
    *("--permission", "emails:send", "--domain", mails.SENDER_DOMAIN, "--sender", f"*@{mails.SENDER_DOMAIN}"),
    *("--network", "192.0.2.0/24", "--network", "127.0.0.0/8", "--daily-limit", "100000000"),
    *(word for domain in mails.DOMAINS for word in ("--to", domain)),
)


class Amount(msgspec.Struct, frozen=True):
    """How much is measured: rounds, and mails by each door in each."""

    rounds: int
    mails: int
    warm_up: int


FULL = Amount(rounds=12, mails=4_000, warm_up=1_000)
QUICK = Amount(rounds=2, mails=1_500, warm_up=300)


class Turn(msgspec.Struct, frozen=True):
    """One round. accepted: mails a second, first byte of the load → last acceptance.  cpu_us: of our process a mail,
    from silence to silence, so with its delivery."""

    accepted: float
    cpu_us: float


class Candidate:
    """A server with a key. once: each mail has an idempotency key."""

    def __init__(self, name: str, server: Sendkit, scopes: Sequence[str], *, once: bool) -> None:
        self.name = name
        self.server = server
        self.once = once
        self.pid = 0
        self.turns: dict[str, list[Turn]] = {kind: [] for kind in PARTS}
        self._scopes = scopes

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Runs it until the block ends."""
        with instances.serving(self.server) as running:
            self.pid = running.pid
            self.server.prepare()
            if self._scopes:
                self.server.secret = self.server.command("keys", "create", "--name", "scoped", *self._scopes)
            yield


class Bench:
    """One run, in one directory."""

    def __init__(self, directory: Path, amount: Amount) -> None:
        self.directory = directory
        self.amount = amount
        self.candidates: list[Candidate] = []
        self._next = 0
        self._sink: Sink

    def measure(self, candidate: Candidate, kind: str, count: int) -> Turn:
        """One round of one door, from silence to silence."""
        server = candidate.server
        self._quiet(candidate)
        before = machine.cpu_s(candidate.pid)
        delivered = server.count("sendkit_delivered_total") + count
        first, self._next = self._next, self._next + count
        port = server.http if kind == "http" else server.smtp
        job = Job(kind, (port,), first, count, CONNECTIONS[kind], server.secret, once=candidate.once)
        result, _ = load(job, self._sink)
        instances.until(lambda: server.count("sendkit_delivered_total") >= delivered, "all deliveries in our counter")
        self._quiet(candidate)
        spent = machine.cpu_s(candidate.pid) - before
        return Turn(count / (result.ended - result.began), spent / count * 1e6)

    def _quiet(self, candidate: Candidate) -> None:
        machine.until_quiet(lambda: machine.cpu_s(candidate.pid), QUIET_MOST_S)

    def run(self, parts: frozenset[str]) -> None:
        """All doors that are wanted."""
        with contextlib.ExitStack() as stack:
            dns = stack.enter_context(instances.nameserver())
            self._sink = stack.enter_context(instances.sink(self.directory))
            self.candidates = self._candidates(dns)
            for candidate in self.candidates:
                stack.enter_context(candidate.serving())
            kinds = [kind for kind in PARTS if kind in parts]
            for candidate in self.candidates:
                for kind in kinds:
                    progress(f"warming up by {kind}: {candidate.name}")
                    self.measure(candidate, kind, self.amount.warm_up)
            for number in range(self.amount.rounds):
                # In each round another one begins: what the machine does besides hits them alike.
                turn = number % len(self.candidates)
                for candidate in (*self.candidates[turn:], *self.candidates[:turn]):
                    for kind in kinds:
                        progress(f"round {number + 1}, {kind}: {candidate.name}")
                        candidate.turns[kind].append(self.measure(candidate, kind, self.amount.mails))
            for candidate in self.candidates:
                candidate.server.check_first_tries(candidate.name)

    def _candidates(self, dns: str) -> list[Candidate]:
        def server(name: str, limits: dict[str, str]) -> Sendkit:
            made = Sendkit(self.directory / name, dns, self._sink.port)
            made.environment |= limits
            return made

        return [
            Candidate(FREE, server("free", {}), (), once=False),
            Candidate(LIMITED, server("limited", LIMITS), SCOPES, once=False),
            Candidate(ONCE, server("once", LIMITS), SCOPES, once=True),
        ]


FREE, LIMITED, ONCE = "neither", "limits and scopes", "idempotency keys, too"


class Line(msgspec.Struct, frozen=True):
    """One door of one candidate: medians of the rounds, and of the rounds' ratios to `neither`."""

    door: str
    name: str
    accepted: float
    cpu_us: float
    ratio: float
    cpu_ratio: float


def lines_of(candidates: Sequence[Candidate]) -> list[Line]:
    """All figures."""
    found = []
    free = candidates[0]
    for kind, door in (("http", "API"), ("smtp", "SMTP")):
        for candidate in candidates:
            turns, others = candidate.turns[kind], free.turns[kind]
            if turns:
                pairs = list(zip(turns, others, strict=True))
                found.append(
                    Line(
                        door,
                        candidate.name,
                        median(turn.accepted for turn in turns),
                        median(turn.cpu_us for turn in turns),
                        median(turn.accepted / other.accepted for turn, other in pairs),
                        median(turn.cpu_us / other.cpu_us for turn, other in pairs),
                    )
                )
    return found


def table(lines: Sequence[Line]) -> str:
    """For people, and as it stands for the README."""
    rows = [
        "| door | with | accepted (mails/s) | CPU a mail (µs) | ratio | of CPU | goal | met |",
        "|---|---|---:|---:|---:|---:|---|---|",
    ]
    for line in lines:
        compared = ["", "", "", ""]
        if line.name != FREE:
            met = "yes" if line.ratio >= LEAST else "**no**"
            compared = [f"{line.ratio:.2f}", f"{line.cpu_ratio:.2f}", f"≥ {LEAST:g}", met]
        cells = [line.door, line.name, frame.number(line.accepted), frame.number(line.cpu_us), *compared]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Run it."""
    options = frame.options("What limits, scopes and idempotency keys cost accepting.", PARTS)
    amount = QUICK if options.quick else FULL
    with frame.files(options.keep) as directory:
        bench = Bench(directory, amount)
        found = machine.describe(directory)
        bench.run(options.parts)
    frame.show(found)
    lines = lines_of(bench.candidates)
    print(table(lines))
    if options.is_whole:
        rounds = {candidate.name: candidate.turns for candidate in bench.candidates}
        frame.save("limits-", found, {"amount": amount, "figures": lines, "rounds": rounds})


if __name__ == "__main__":
    main()
