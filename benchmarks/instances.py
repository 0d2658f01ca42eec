"""The programs of a run, each started for it and stopped at its end: DNS, sink, Postfix, PostgreSQL, Sendkit."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mails
import pytest

HERE = Path(__file__).parent
# Their servers obey, and are gone however this process ends.
sys.path.insert(0, str(HERE.parent / "tests"))
from databases import PgBouncer, PostgresServer  # type: ignore[import-not-found]  # noqa: E402  # of the tests

SENDKIT = Path(sys.executable).with_name("sendkit")
SECRET_KEY = "the same for all nodes of a benchmark's database"
WAIT_S = 60.0
SINK_BACKLOG = "200"
SINK_CONNECTIONS = "4000"
AS_ROOT: list[str] = [] if os.getuid() == 0 else ["sudo", "-n"]

_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Failed(Exception):
    """A program that does not do what the run needs; the message says which and why."""


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def until(condition: Callable[[], object], what: str, seconds: float = WAIT_S, every_s: float = 0.005) -> None:
    """Waits for a condition; Failed when it does not come true."""
    deadline = time.perf_counter() + seconds
    while not condition():
        if time.perf_counter() > deadline:
            raise Failed(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(every_s)


def listens(port: int) -> bool:
    """Whether a loopback port takes connections."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A child that does not outlive the block."""
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def nameserver() -> Iterator[str]:
    """The DNS process; its address."""
    command = [sys.executable, str(HERE / "nameserver.py")]
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE)) as process:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
        process.stdout.close()


class Sink:
    """Postfix's smtp-sink, which takes and forgets; its counter of mails, kept in a file, is read by both measures."""

    def __init__(self, port: int, counters: Path, pid: int) -> None:
        self.port = port
        self.pid = pid
        self._counters = counters

    def mails(self) -> int:
        """Mails whose dot it has answered, since it started."""
        with self._counters.open("rb") as file:
            file.seek(max(0, self._counters.stat().st_size - 200))
            found = re.findall(rb"mesg=(\d+)", file.read())
        return int(found[-1]) if found else 0

    def wait_for(self, count: int) -> float:
        """Waits until that many mails have come; when (perf_counter)."""
        until(lambda: self.mails() >= count, f"{count} mails at the sink (there are {self.mails()})", 120)
        return time.perf_counter()


@contextlib.contextmanager
def sink(directory: Path) -> Iterator[Sink]:
    """A running sink."""
    port = free_port()
    counters = directory / "sink-counters"
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    command = ["/usr/sbin/smtp-sink", *user, "-c", "-m", SINK_CONNECTIONS, f"127.0.0.1:{port}", SINK_BACKLOG]
    with (
        counters.open("wb") as output,
        ended(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)) as process,
    ):
        until(lambda: listens(port), "smtp-sink")
        yield Sink(port, counters, process.pid)


MAIN_CF = """\
# A relay that is as fast as settings make it. What Debian's own main.cf would add (TLS, chroot, local delivery) only
# costs time here. in_flow_delay = 0: else smtpd pauses as soon as mail comes faster than it goes.
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
daemon_directory = /usr/lib/postfix/sbin
command_directory = /usr/sbin
maillog_file_prefixes = {directory}
maillog_file = {directory}/postfix.log
myhostname = relay.test
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions =
smtpd_tls_security_level = none
smtpd_peername_lookup = no
smtp_tls_security_level = none
smtp_host_lookup = native
disable_dns_lookups = yes
relayhost = [127.0.0.1]:{sink}
in_flow_delay = 0
default_process_limit = 100
default_destination_concurrency_limit = 50
initial_destination_concurrency = 50
"""
# service type private unpriv chroot wakeup maxproc command
MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """Debian's Postfix as a relay to the sink, in an instance of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()

    def start(self, sink_port: int) -> None:
        """Starts it. Failed when it does not come up."""
        etc = self.directory / "etc"
        etc.mkdir(exist_ok=True)
        (etc / "main.cf").write_text(MAIN_CF.format(directory=self.directory, sink=sink_port))
        (etc / "master.cf").write_text(MASTER_CF.format(port=self.port))
        for name in ("queue", "data"):
            (self.directory / name).mkdir(exist_ok=True)
        subprocess.run([*AS_ROOT, "chown", "-R", "root", str(etc), str(self.directory / "queue")], check=True)
        subprocess.run([*AS_ROOT, "chown", "-R", "postfix", str(self.directory / "data")], check=True)
        self._do("start")
        until(lambda: listens(self.port), "Postfix")

    def stop(self) -> None:
        """Stops it and takes the directory back."""
        self._do("stop")
        subprocess.run([*AS_ROOT, "chown", "-R", str(os.getuid()), str(self.directory)], check=True)

    def queued(self) -> int:
        """Mails in the queue, whatever for."""
        names = [str(self.directory / "queue" / name) for name in ("maildrop", "incoming", "active", "deferred")]
        found = subprocess.run([*AS_ROOT, "find", *names, "-type", "f"], capture_output=True, text=True, check=True)
        return len(found.stdout.splitlines())

    def _do(self, what: str) -> None:
        command = [*AS_ROOT, "/usr/sbin/postfix", "-c", str(self.directory / "etc"), what]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode and what == "start":
            raise Failed(f"postfix {what}: {found.stderr}")


@contextlib.contextmanager
def postfix(directory: Path, sink_port: int) -> Iterator[Postfix]:
    """A running Postfix. Its directory must be one that the user postfix can enter."""
    directory.mkdir(mode=0o755, exist_ok=True)
    running = Postfix(directory)
    try:
        running.start(sink_port)
        yield running
    finally:
        running.stop()


@contextlib.contextmanager
def postgres(directory: Path, *, durable: bool = True) -> Iterator[PostgresServer]:
    """A running PostgreSQL with its settings as they come, but for fsync; its log is left in the run's directory."""
    server = _made(PostgresServer)
    try:
        yield server.start(durable)
    finally:
        shutil.copyfile(server.log, directory / f"postgres-{server.process.pid if server.process else 0}.log")
        server.cleanup()


@contextlib.contextmanager
def pgbouncer(server: PostgresServer) -> Iterator[PgBouncer]:
    """PgBouncer in front of it, pooling by transaction."""
    bouncer = _made(PgBouncer, server)
    try:
        yield bouncer.start()
    finally:
        bouncer.cleanup()


def _made(make: Callable[..., Any], *arguments: object) -> Any:
    """What tests would report as not run."""
    try:
        return make(*arguments)
    except pytest.skip.Exception as skipped:
        raise Failed(str(skipped)) from None


class Sendkit:
    """Our server on a data directory. database_url: None for SQLite in there."""

    def __init__(self, directory: Path, dns: str, sink_port: int, database_url: str | None = None) -> None:
        self.directory = directory
        self.http, self.smtp = free_port(), free_port()
        self.secret = ""
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SENDKIT_")},
            "SENDKIT_CONFIG": "",
            "SENDKIT_DATA_DIR": str(directory),
            "SENDKIT_HTTP_BIND": f"127.0.0.1:{self.http}",
            "SENDKIT_SMTP_BIND": f"127.0.0.1:{self.smtp}",
            "SENDKIT_SMTPS_BIND": "none",
            "SENDKIT_INBOUND_BIND": "none",
            "SENDKIT_SMTP_PLAIN_AUTH": "loopback",
            "SENDKIT_HOSTNAME": "mail.here.test",
            "SENDKIT_ROUTE": "direct",
            "SENDKIT_DNS_SERVERS": dns,
            "SENDKIT_MX_PORT": str(sink_port),
            "SENDKIT_ALLOW_PRIVATE_NETWORKS": "127.0.0.0/8",
            "SENDKIT_LOG_FORMAT": "json",
            "SENDKIT_LOG_LEVEL": os.environ.get("SENDKIT_LOG_LEVEL", "info"),
        }
        if database_url is not None:
            self.environment |= {"SENDKIT_DATABASE_URL": database_url, "SENDKIT_SECRET_KEY": SECRET_KEY}

    def command(self, *arguments: str) -> str:
        """Runs a sendkit command; what it printed."""
        found = subprocess.run([SENDKIT, *arguments], env=self.environment, capture_output=True, text=True, check=False)
        if found.returncode:
            raise Failed(f"sendkit {' '.join(arguments)}: {found.stderr}")
        return found.stdout.strip()

    def call(self, path: str) -> bytes:
        """GET from the HTTP door. OSError when there is no good answer."""
        with _LOCAL.open(f"http://127.0.0.1:{self.http}{path}", timeout=10) as response:
            return bytes(response.read())

    def is_ready(self) -> bool:
        """Whether it says that it can serve."""
        try:
            return bool(json.loads(self.call("/ready")))
        except OSError:
            return False

    def count(self, metric: str) -> int:
        """A counter of /metrics."""
        found = re.search(rb"^" + metric.encode() + rb" ([0-9.e+]+)$", self.call("/metrics"), re.MULTILINE)
        return int(float(found[1])) if found else 0

    def check_first_tries(self, name: str = "Sendkit") -> None:
        """Failed when anything was not delivered at its first try."""
        for metric in ("sendkit_deferred_total", "sendkit_failed_total"):
            if self.count(metric):
                raise Failed(f"{metric} of {name} is not 0: the run did not measure what it should")

    def prepare(self) -> None:
        """A domain with its RSA-2048 key and an API key, on the running server."""
        self.command("domains", "add", mails.SENDER_DOMAIN, "--trust")
        self.secret = self.command("keys", "create", "--name", "benchmark")


class Running:
    """A started server: its process, and how long it took until it was ready."""

    def __init__(self, process: subprocess.Popen[bytes], ready_s: float) -> None:
        self.pid = process.pid
        self.ready_s = ready_s


@contextlib.contextmanager
def serving(server: Sendkit) -> Iterator[Running]:
    """Runs it in a process of its own until the block ends; its log is beside its data."""
    with server.directory.with_suffix(".log").open("ab") as log:
        started = time.perf_counter()
        process = subprocess.Popen([SENDKIT, "serve"], env=server.environment, stdout=log, stderr=log)
        with ended(process):
            until(lambda: process.poll() is not None or listens(server.http), "sendkit serve", every_s=0.002)
            until(lambda: process.poll() is not None or server.is_ready(), "GET /ready", every_s=0.002)
            if process.poll() is not None:
                raise Failed(f"sendkit serve ended at once; see {log.name}")
            yield Running(process, time.perf_counter() - started)


def remove(directory: Path) -> None:
    """Deletes a run's files, Postfix's as well."""
    shutil.rmtree(directory, ignore_errors=True)
