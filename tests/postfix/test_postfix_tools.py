"""Postfix's own tools for load: smtp-source at our door, smtp-sink as the recipients' server. All arrive, and once."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clients import needs, run
from databases.children import Home
from instance import needs_root
from load import Load
from server import Server, until
from sinks import own_addresses

pytestmark = pytest.mark.engine("sqlite")
MAILS = 2000
PLAIN = "SMTP, no TLS, everything captured"
SOURCE, SINK = "/usr/sbin/smtp-source", "/usr/sbin/smtp-sink"


class Dump:
    """What smtp-sink has taken, as it writes it down: one line for each recipient of each mail."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def recipients(self) -> list[str]:
        text = self._path.read_text(errors="replace") if self._path.exists() else ""
        return re.findall(r"^X-Rcpt-Args: <([^>]*)>", text, re.MULTILINE)


@pytest.fixture
def smtp_sink() -> Iterator[tuple[str, Dump]]:
    """A running smtp-sink: its address, with port 25, and what it takes."""
    program = needs(SINK)
    needs_root("smtp-sink at port 25")
    host = list(own_addresses())[242]
    home = Home("sink", as_root=True)
    home.path.chmod(0o777)  # it becomes nobody
    dump = home.path / "mails"
    process = home.popen([program, "-u", "nobody", "-D", str(dump), f"{host}:25", "100"], home.path / "said")
    yield host, Dump(dump)
    process.terminate()
    process.wait(10)
    home.close()


async def test_what_smtp_source_sends_is_all_taken_once(make_server: Callable[..., Server]) -> None:
    program = needs(SOURCE)
    server = await make_server(SENDKIT_DEV_SMTP_BIND="127.0.0.1:0").start("--dev")
    door = f"127.0.0.1:{server.port(PLAIN)}"
    ran = await run(
        program,
        "-d",
        "-N",
        "-s",
        "20",
        "-m",
        str(MAILS),
        "-l",
        "2048",
        "-f",
        "a@sender.test",
        "-t",
        "u@there.test",
        door,
    )
    assert ran.status == 0, ran.err
    found: list[dict[str, object]] = []
    async with asyncio.timeout(30):
        while len(found) < MAILS:
            found = (await server.act("inbox.list", limit=2 * MAILS))["data"]
    assert Counter(str(mail["to"]) for mail in found) == Counter(f"['{n}u@there.test']" for n in range(1, MAILS + 1))
    metrics = (await server.call("GET", "/metrics")).raw.decode()
    assert f"sendkit_delivered_total {MAILS}.0" in metrics


async def test_what_both_doors_took_arrives_at_smtp_sink_once(
    make_server: Callable[..., Server], dns: object, smtp_sink: tuple[str, Dump]
) -> None:
    host, dump = smtp_sink
    dns.zone["mx.there.test"] = {"A": [host]}  # type: ignore[attr-defined]
    server = await make_server(SENDKIT_MX_PORT="25", SENDKIT_PROBE_DOMAINS="none").start()
    load = Load(server, await server.live_key(), most=MAILS)
    load.start()
    await until(lambda: len(load.acknowledged) == MAILS, 60, f"{MAILS} acknowledgements")
    await asyncio.to_thread(load.stop)
    wanted = Counter(f"{token}@there.test" for token in load.acknowledged)
    await until(lambda: len(dump.recipients()) >= MAILS, 30, "all of them at smtp-sink")
    assert await server.stop() == 0
    assert Counter(dump.recipients()) == wanted
