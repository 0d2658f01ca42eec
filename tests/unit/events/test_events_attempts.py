"""What a try changes: statuses, plans, events."""

from __future__ import annotations

import msgspec
import pytest

from sendkit_server.events import completion, handed_back
from sendkit_server.model.address import parse_address
from sendkit_server.model.mail import Door, Message, Recipient, Role
from sendkit_server.model.outcome import Attempt, Outcome, Result
from sendkit_server.model.status import Status
from sendkit_server.store.values import Job

NOW = 1_800_000_000_000
DELIVERED = Outcome(Result.DELIVERED, "delivered", "mx said: 250 ok", 250, "2.0.0")
DEFERRED = Outcome(Result.DEFERRED, "mailbox_busy", "mx said: 450 busy", 450)
BOUNCED = Outcome(Result.BOUNCED, "mailbox_unavailable", "mx said: 550 no", 550, "5.1.1")
FAILED = Outcome(Result.FAILED, "gave_up", "Given up")


def job(*statuses: Status, attempts: int = 0, address: str = "ann@there.test") -> Job:
    mailbox = parse_address(address)
    recipients = tuple(Recipient(n, mailbox, Role.TO, status, attempts) for n, status in enumerate(statuses))
    message = Message(
        "msg_1", 1, "cnt_1", Door.HTTP, "key_1", parse_address("a@here.test"), (mailbox,), (), "x", "<1@here.test>", NOW
    )
    return Job(message, recipients, mailbox.domain, 10, 7)


def attempt(*outcomes: Outcome) -> Attempt:
    return Attempt("direct", tuple(range(len(outcomes))), NOW - 5, 5, "mx.test", "192.0.2.1", None, (), outcomes)


@pytest.mark.parametrize(
    ("before", "outcome", "status", "events"),
    [
        (Status.QUEUED, DELIVERED, Status.DELIVERED, ["sent", "delivered"]),
        (Status.SCHEDULED, DELIVERED, Status.DELIVERED, ["sent", "delivered"]),
        (Status.QUEUED, DEFERRED, Status.DELAYED, ["sent", "delivery_delayed"]),
        (Status.QUEUED, BOUNCED, Status.BOUNCED, ["sent", "bounced"]),
        (Status.QUEUED, FAILED, Status.FAILED, ["sent", "failed"]),
        (Status.DELAYED, DEFERRED, Status.DELAYED, []),
        (Status.DELAYED, DELIVERED, Status.DELIVERED, ["delivered"]),
        (Status.DELAYED, BOUNCED, Status.BOUNCED, ["bounced"]),
        (Status.CANCELLED, DELIVERED, Status.CANCELLED, []),
        (Status.BOUNCED, FAILED, Status.BOUNCED, []),
    ],
)
def test_each_outcome_moves_the_status_and_is_told_once(before, outcome, status, events):
    done = completion(job(before, attempts=2), attempt(outcome), NOW + 60_000, NOW)
    (update,) = done.updates
    assert (update.status, update.attempts, update.reason) == (status, 3, outcome.reason)
    assert [event.type for event in done.events] == events
    assert update.next_attempt_at == (NOW + 60_000 if outcome is DEFERRED else None)


@pytest.mark.parametrize("name", ["greylist", "rbl", "spamhaus"])
@pytest.mark.parametrize(
    ("outcome", "subtype"),
    [
        (
            Outcome(Result.BOUNCED, "x", "mx.{}.test said after RCPT: 550 5.1.1 User unknown", 550, "5.1.1"),
            "no_such_user",
        ),
        (Outcome(Result.BOUNCED, "no_such_domain", "{}.test does not exist.", 550, "5.1.2"), "no_such_domain"),
    ],
)
def test_an_unknown_address_is_suppressed_whatever_its_domain_is_called(outcome: Outcome, subtype: str, name: str):
    ended = msgspec.structs.replace(outcome, text=outcome.text.format(name))
    done = completion(job(Status.QUEUED, address=f"joe@{name}.test"), attempt(ended), None, NOW)
    assert msgspec.json.decode(done.events[-1].detail)["bounce"]["subtype"] == subtype
    assert [one.address for one in done.suppressions] == [f"joe@{name}.test"]


def test_recipients_are_told_apart():
    done = completion(job(*[Status.QUEUED] * 3), attempt(DELIVERED, BOUNCED, DEFERRED), NOW + 1, NOW)
    assert [update.status for update in done.updates] == [Status.DELIVERED, Status.BOUNCED, Status.DELAYED]
    assert [(event.n, str(event.type)) for event in done.events] == [
        (0, "sent"),
        (0, "delivered"),
        (1, "sent"),
        (1, "bounced"),
        (2, "sent"),
        (2, "delivery_delayed"),
    ]


def test_the_detail_says_who_said_what_and_what_is_next():
    doubt = msgspec.structs.replace(DEFERRED, possible_duplicate=True)
    done = completion(job(Status.QUEUED), attempt(doubt), NOW + 60_000, NOW)
    assert msgspec.json.decode(done.events[1].detail) == {
        "host": "mx.test",
        "route": "direct",
        "attempt": 1,
        "reason": "mailbox_busy",
        "code": 450,
        "text": "mx said: 450 busy",
        "milliseconds": 5,
        "possible_duplicate": True,
        "next_attempt_at": NOW + 60_000,
    }


def test_waiting_counts_no_attempt_but_is_told_once():
    first = completion(job(Status.QUEUED), None, NOW + 60_000, NOW, waits=DEFERRED)
    assert first.attempt is None
    assert (first.updates[0].status, first.updates[0].attempts) == (Status.DELAYED, 0)
    assert [event.type for event in first.events] == ["delivery_delayed"]
    again = completion(job(Status.DELAYED), None, NOW + 60_000, NOW, waits=DEFERRED)
    assert again.events == ()
    assert again.updates[0].next_attempt_at == NOW + 60_000


def test_waiting_needs_a_reason():
    with pytest.raises(ValueError, match="reason"):
        completion(job(Status.QUEUED), None, NOW, NOW)


def test_outcomes_must_fit_the_recipients():
    with pytest.raises(ValueError):
        completion(job(Status.QUEUED, Status.QUEUED), attempt(DELIVERED), None, NOW)


def test_what_is_handed_back_is_due_at_once_and_unchanged():
    done = handed_back(job(Status.QUEUED, Status.DELAYED, attempts=1), NOW, "Why.")
    assert [(u.status, u.attempts, u.explanation, u.next_attempt_at) for u in done.updates] == [
        (Status.QUEUED, 1, "Why.", NOW),
        (Status.DELAYED, 1, "Why.", NOW),
    ]
    assert done.events == ()
