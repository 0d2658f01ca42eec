"""What the store's hot operations cost, alone and beside a thread that is as busy as an event loop under load.

The second column is about the interpreter's lock, and differs wildly from run to run: `python benchmarks/store.py`.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import mails
import structlog

from sendkit_server.events import completion
from sendkit_server.model.address import Mailbox
from sendkit_server.model.ids import ENTROPY_BYTES, make_id
from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import Door, Message, PartsContent, Recipient, Role
from sendkit_server.model.outcome import Attempt, Outcome, Result
from sendkit_server.store.engine import Mark
from sendkit_server.store.sqlite import hot
from sendkit_server.store.store import open_store
from sendkit_server.store.values import Claim, Completion, Job, NewMail, NewMessage

GROUP = 20
SENDER = Mailbox("shop", mails.SENDER_DOMAIN, "The Shop")


def new_mail(
    n: int, owner: int, *, owned: bool, at: Instant, site: str = mails.DOMAINS[0], text: str | None = None
) -> NewMail:
    """One mail to its own recipient. text: None for the usual size."""
    to = Mailbox(f"u{n}", site, "")
    body = mails.raw_template(n % mails.VARIANTS)[1].decode() if text is None else text
    entropy = n.to_bytes(ENTROPY_BYTES, "big")
    message = Message(
        id=make_id("msg", at, entropy),
        team_id=1,
        content_id=make_id("con", at, entropy),
        door=Door.HTTP,
        key_id="key",
        from_=SENDER,
        to=(to,),
        cc=(),
        subject="Your order",
        message_id=f"<{n}@{mails.SENDER_DOMAIN}>",
        created_at=at,
    )
    sites = frozenset([to.domain]) if owned else frozenset[str]()
    new = NewMessage(message, (Recipient(0, to, Role.TO),), sites)
    return NewMail(f"req_{n}", owner, PartsContent("Your order", None, body), len(body), (new,))


def owned_job(mail: NewMail) -> Job:
    """The job of a mail that was accepted as owned."""
    (new,) = mail.messages
    return Job(
        new.message, new.recipients, new.recipients[0].mailbox.domain, mail.size_bytes, 1, mail.content, mail.owner
    )


def delivered(job: Job, at: Instant) -> Completion:
    """The job's one and good try."""
    outcome = Outcome(Result.DELIVERED, "delivered", "Ok: queued", 250)
    attempt = Attempt("direct", (0,), at, 5, "mx.test", "127.0.0.1", None, (), (outcome,))
    return completion(job, attempt, None, at)


def measure(count: int) -> dict[str, float]:
    """Microseconds a mail, without the fsync, of whole transactions of GROUP mails."""
    with tempfile.TemporaryDirectory() as directory:
        store = open_store(Path(directory), "secret", "benchmark")
        store.start(1_000)
        engine = store.engine
        connection = engine.open_writer()
        connection.exec_driver_sql("PRAGMA synchronous=OFF")
        owner = store.owner
        marks = itertools.count(1)

        def timed(kind: str, groups: list[list[Any]]) -> float:
            started = perf_counter()
            for group in groups:
                engine.transact(connection, [(kind, group)], Mark(owner, next(marks)))
            return (perf_counter() - started) / count * 1e6

        owned = [new_mail(n, owner, owned=True, at=1_000) for n in range(count)]
        waiting = [new_mail(n, owner, owned=False, at=1_000) for n in range(count, 2 * count)]
        claim = Claim(owner, 5_000, frozenset(), count, count)
        found = {
            "accept": timed("accept", _grouped(owned)),
            "complete": timed("complete", _grouped([delivered(owned_job(mail), 2_000) for mail in owned])),
        }
        timed("accept", _grouped(waiting))
        found["claim"] = timed("claim", [[claim]])
        connection.close()
        store.close()
        return found


def _grouped(values: list[Any]) -> list[list[Any]]:
    return [values[start : start + GROUP] for start in range(0, len(values), GROUP)]


def beside_busy_thread(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The same while another thread never gives the interpreter's lock away by itself."""
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        return work()
    finally:
        over.set()
        thread.join()


def main() -> None:
    """Print the table."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    alone, busy = measure(2_000), beside_busy_thread(lambda: measure(200))
    print(f"groups of {GROUP}, up to {hot.MAX_ROWS_A_STATEMENT} rows a statement")
    print(f"{'µs a mail':<12}{'alone':>10}{'beside a busy thread':>24}")
    for name, value in alone.items():
        print(f"{name:<12}{value:>10.0f}{busy[name]:>24.0f}")


if __name__ == "__main__":
    main()
