"""The policy of deliver/outcome.py as tables."""

from __future__ import annotations

import pytest

from sendkit_server.deliver.outcome import (
    classify,
    domain_trouble,
    gave_up,
    host_trouble,
    obstacles,
    unreachable,
)
from sendkit_server.model.outcome import Outcome, Result
from sendkit_server.net.resolver import DnsProblem, DnsTrouble
from sendkit_server.wire.smtp_client import Capabilities, Reply, Step, Trouble, Verdict


@pytest.mark.parametrize(
    ("step", "code", "text", "result", "reason"),
    [
        (Step.MESSAGE, 250, "2.0.0 queued", Result.DELIVERED, "delivered"),
        (Step.MAIL, 550, "no", Result.BOUNCED, "sender_refused"),
        (Step.MAIL, 451, "later", Result.DEFERRED, "temporary_refusal"),
        (Step.RCPT, 550, "5.1.1 no such user", Result.BOUNCED, "mailbox_unavailable"),
        (Step.RCPT, 550, "5.1.10 null mx", Result.BOUNCED, "null_mx"),
        (Step.RCPT, 550, "Requested action not taken: mailbox unavailable", Result.BOUNCED, "recipient_refused"),
        (Step.RCPT, 550, "5.7.1 blocked", Result.BOUNCED, "policy"),
        (Step.RCPT, 550, "5.2.1 disabled", Result.BOUNCED, "mailbox_disabled"),
        (Step.RCPT, 552, "5.2.2 full", Result.BOUNCED, "mailbox_full"),
        (Step.RCPT, 552, "full", Result.BOUNCED, "mailbox_full"),
        (Step.RCPT, 452, "4.2.2 full", Result.DEFERRED, "mailbox_full"),
        (Step.RCPT, 450, "busy", Result.DEFERRED, "mailbox_busy"),
        (Step.RCPT, 452, "4.5.3 too many", Result.DEFERRED, "too_many_recipients"),
        (Step.DATA, 554, "no", Result.BOUNCED, "message_refused"),
        (Step.MESSAGE, 552, "5.3.4 too big", Result.BOUNCED, "message_too_large"),
        (Step.MESSAGE, 421, "bye", Result.DEFERRED, "service_unavailable"),
        (Step.MESSAGE, 550, "4.7.1 class does not agree", Result.BOUNCED, "message_refused"),
    ],
)
def test_a_reply_decides(step: Step, code: int, text: str, result: Result, reason: str):
    outcome = classify(Verdict(step, Reply(code, (text,))), "mx.test")
    assert (outcome.result, outcome.reason, outcome.code) == (result, reason, code)
    assert text in outcome.text and "mx.test" in outcome.text
    assert not outcome.possible_duplicate


@pytest.mark.parametrize(
    ("step", "trouble", "reason", "duplicate"),
    [
        (Step.MAIL, Trouble.LOST, "connection_lost", False),
        (Step.RCPT, Trouble.TIMEOUT, "timeout", False),
        (Step.DATA, Trouble.PROTOCOL, "protocol_error", False),
        (Step.MESSAGE, Trouble.LOST, "no_reply_after_dot", True),
        (Step.MESSAGE, Trouble.TIMEOUT, "no_reply_after_dot", True),
        (Step.MESSAGE, Trouble.PROTOCOL, "protocol_error", True),
    ],
)
def test_without_a_reply_it_is_deferred(step: Step, trouble: Trouble, reason: str, duplicate: bool):
    outcome = classify(Verdict(step, None, trouble, "gone"), "mx.test")
    assert (outcome.result, outcome.reason, outcome.possible_duplicate) == (Result.DEFERRED, reason, duplicate)


@pytest.mark.parametrize(
    ("code", "text", "too_many"),
    [
        (552, "no more", True),
        (552, "5.5.3 too many recipients", True),
        (550, "5.5.3 no more", True),
        (554, "5.5.3 no more", True),
        (552, "5.3.0 Too many rcpts", True),
        (550, "Too many recipients in this message", True),
        (552, "5.2.2 full", False),
        (552, "5.3.4 too big", False),
        (550, "no more", False),
        (550, "5.7.1 too many invalid recipients", False),
        (553, "5.5.3 no more", False),
    ],
)
def test_too_many_recipients_is_for_now_after_others_were_taken(code: int, text: str, too_many: bool):
    verdict = Verdict(Step.RCPT, Reply(code, (text,)))
    outcome = classify(verdict, "mx", others_taken=True)
    assert (outcome.result is Result.DEFERRED) == too_many
    assert (outcome.reason == "too_many_recipients") == (too_many or text.startswith("5.5.3"))
    assert classify(verdict, "mx").result is Result.BOUNCED


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (Verdict(Step.GREETING, Reply(554, ("no",))), "host_refused"),
        (Verdict(Step.EHLO, Reply(550, ("no",))), "host_refused"),
        (Verdict(Step.STARTTLS, Reply(454, ("no",))), "tls_refused"),
        (Verdict(Step.STARTTLS, None, Trouble.POLICY, "failed"), "tls_failed"),
        (Verdict(Step.STARTTLS, None, Trouble.PROTOCOL, "injected"), "protocol_error"),
        (Verdict(Step.AUTH, Reply(535, ("wrong",))), "smarthost_auth_failed"),
        (Verdict(Step.AUTH, None, Trouble.POLICY, "in clear"), "smarthost_auth_failed"),
        (Verdict(Step.GREETING, None, Trouble.TIMEOUT, "silent"), "timeout"),
    ],
)
def test_what_is_said_before_mail_only_ever_defers(verdict: Verdict, reason: str):
    outcome = host_trouble(verdict, "mx.test")
    assert (outcome.result, outcome.reason) == (Result.DEFERRED, reason)


@pytest.mark.parametrize(
    ("trouble", "result", "enhanced"),
    [
        (DnsTrouble.NO_DOMAIN, Result.BOUNCED, "5.1.2"),
        (DnsTrouble.NULL_MX, Result.BOUNCED, "5.1.10"),
        (DnsTrouble.NO_ADDRESS, Result.BOUNCED, "5.1.2"),
        (DnsTrouble.UNAVAILABLE, Result.DEFERRED, "4.4.3"),
    ],
)
def test_dns_decides(trouble: DnsTrouble, result: Result, enhanced: str):
    outcome = domain_trouble(DnsProblem(trouble, "x"))
    assert (outcome.result, outcome.enhanced) == (result, enhanced)


def test_unreachable_hosts_and_forbidden_addresses_defer():
    assert unreachable("x", refused_by_us=False).reason == "connect_failed"
    assert unreachable("x", refused_by_us=True).reason == "address_refused"


@pytest.mark.parametrize(
    ("capabilities", "eightbit", "smtputf8", "failed"),
    [
        (Capabilities(), False, False, [None, "5.6.7"]),
        (Capabilities(smtputf8=True), False, True, [None, None]),
        (Capabilities(), False, True, ["5.6.7", "5.6.7"]),
        (Capabilities(size_bytes=99), False, False, ["5.3.4", "5.3.4"]),
        (Capabilities(size_bytes=100, smtputf8=True), False, False, [None, None]),
        (Capabilities(smtputf8=True), True, False, ["5.6.1", "5.6.1"]),
        (Capabilities(smtputf8=True, eightbit=True), True, False, [None, None]),
    ],
)
def test_what_a_server_cannot_take_fails_before_it_is_sent(capabilities, eightbit, smtputf8, failed):
    found = obstacles(
        capabilities, ["ann@x.test", "jörg@x.test"], "b@out.test", 100, eightbit=eightbit, smtputf8=smtputf8
    )
    assert [outcome.enhanced if outcome else None for outcome in found] == failed
    assert all(outcome is None or outcome.result is Result.FAILED for outcome in found)


def test_giving_up_keeps_why_and_the_doubt():
    last = Outcome(Result.DEFERRED, "no_reply_after_dot", "mx was silent.", possible_duplicate=True)
    end = gave_up(last, 48 * 3_600_000)
    assert (end.result, end.reason, end.possible_duplicate) == (Result.FAILED, "no_reply_after_dot", True)
    assert end.text == "Given up after 48 h. The last try: mx was silent."
