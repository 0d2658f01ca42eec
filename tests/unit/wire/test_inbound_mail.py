"""What a mail that came back says: notifications, bounces in words, complaints, and what only looks like one."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sendkit_server.model.bounce import classify
from sendkit_server.wire.dsn import Action
from sendkit_server.wire.inbound_mail import Kind, Report, read
from sendkit_server.wire.parts import MAX_PARTS, parts_of

DSN = b"""\
From: MAILER-DAEMON@mx.there.test
To: b-1-all-x@mail.here.test
Subject: Undelivered Mail Returned to Sender
Message-ID: <1@mx.there.test>
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="=_b"
Auto-Submitted: auto-replied

--=_b
Content-Type: text/plain

This is the mail system at host mx.there.test.
<ann@there.test>: host [192.0.2.1] said: 550 5.1.1 No such user

--=_b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.there.test
Arrival-Date: Tue, 1 Dec 2026 10:00:00 +0000

%s

--=_b
Content-Type: message/rfc822

From: hello@here.test
To: ann@there.test
Subject: Undeliverable: Hello

--=_b--
"""
ANN = b"""\
Final-Recipient: rfc822; Ann@there.test
Original-Recipient: rfc822;ann@elsewhere.test
Action: failed
Status: 5.1.1
Remote-MTA: dns; mx2.there.test
Diagnostic-Code: smtp; 550 5.1.1 <ann@there.test>: Recipient address
    rejected: User unknown"""


def dsn(*recipients: bytes) -> Report:
    return read(DSN % b"\n\n".join(recipients))


def test_a_notification_tells_whom_what_and_who_says_so():
    report = dsn(ANN)
    assert (report.kind, report.reason, report.reporting_mta) == (Kind.BOUNCE, "dsn", "mx.there.test")
    (ann,) = report.recipients
    assert ann.action is Action.FAILED
    assert ann.addresses == ("ann@there.test", "ann@elsewhere.test")
    assert (ann.code, ann.enhanced, ann.remote_mta) == (550, "5.1.1", "mx2.there.test")
    assert ann.diagnostic == "550 5.1.1 <ann@there.test>: Recipient address rejected: User unknown"


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_line_ends_do_not_matter(line_end: bytes):
    assert read((DSN % ANN).replace(b"\n", line_end)).recipients == dsn(ANN).recipients


def test_several_recipients_each_have_their_own_action():
    delayed = b"Final-Recipient: rfc822; bob@there.test\nAction: delayed\nStatus: 4.4.1"
    relayed = b"Final-Recipient: rfc822; cid@there.test\nAction: relayed (to non-DSN mailer)\nStatus: 2.0.0"
    expanded = b"Final-Recipient: rfc822; all@there.test\nAction: expanded\nStatus: 2.0.0"
    delivered = b"Final-Recipient: rfc822; dan@there.test\nAction: delivered\nStatus: 2.0.0"
    report = dsn(ANN, delayed, relayed, expanded, delivered)
    assert [one.action for one in report.recipients] == [
        Action.FAILED, Action.DELAYED, Action.RELAYED, Action.EXPANDED, Action.DELIVERED,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "action"),
    [
        (b"Action: Failure\nStatus: 5.0.0", Action.FAILED),
        (b"Action: error\nStatus: 5.0.0", Action.FAILED),
        (b"Status: 5.1.1", Action.FAILED),
        (b"Status: 4.4.7 (time)", Action.DELAYED),
        (b"Action: failed\nStatus: 4.4.7", Action.FAILED),
        (b"action : FAILED", Action.FAILED),
    ],
)
def test_broken_fields_are_read_as_they_are_meant(fields: bytes, action: Action):
    (ann,) = dsn(b"Final-Recipient: ann@there.test\n" + fields).recipients
    assert (ann.action, ann.addresses) == (action, ("ann@there.test",))


def test_recipients_without_a_blank_line_between_them_are_told_apart():
    bob = ANN.replace(b"Ann@there.test", b"bob@there.test")
    assert [one.addresses[0] for one in read(DSN % (ANN + b"\n" + bob)).recipients] == [
        "ann@there.test",
        "bob@there.test",
    ]


def test_the_refusing_servers_code_counts_more_than_the_status_made_from_it():
    said = b"Final-Recipient: rfc822; ann@there.test\nAction: failed\nStatus: 5.0.0\nDiagnostic-Code: smtp; 550 5.7.1 blocked"
    (ann,) = dsn(said).recipients
    assert (ann.code, ann.enhanced) == (550, "5.7.1")


def test_where_the_fields_give_no_words_the_text_does():
    (ann,) = dsn(b"Final-Recipient: rfc822; ann@there.test\nAction: failed\nStatus: 5.0.0").recipients
    assert "550 5.1.1 No such user" in ann.diagnostic
    assert (ann.code, ann.enhanced) == (550, "5.1.1")


def test_a_notification_whose_borders_are_lost_is_still_read():
    broken = (DSN % ANN).replace(b"--=_b\n", b"\n").replace(b"--=_b--\n", b"")
    assert read(broken).recipients == dsn(ANN).recipients


def test_an_encoded_notification_is_decoded():
    from base64 import encodebytes

    fields = encodebytes(b"Reporting-MTA: dns; mx\n\n" + ANN)
    raw = DSN.replace(
        b"Content-Type: message/delivery-status\n\n",
        b"Content-Type: message/delivery-status\nContent-Transfer-Encoding: base64\n\n",
    )
    raw = raw.replace(b"Reporting-MTA: dns; mx.there.test\nArrival-Date: Tue, 1 Dec 2026 10:00:00 +0000\n\n", b"")
    assert read(raw % fields).recipients[0].addresses == ("ann@there.test", "ann@elsewhere.test")


QMAIL = b"""\
From: MAILER-DAEMON@there.test
Subject: failure notice
Message-ID: <2@there.test>

Hi. This is the qmail-send program at there.test.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<ann@there.test>:
Sorry, no mailbox here by that name. (#5.1.1)

<bob@there.test>:
The users mailfolder is over the allowed quota (size). (#5.2.2)

--- Below this line is a copy of the message.

Return-Path: <b-1@mail.here.test>
To: <cid@there.test>
"""
EXIM = b"""\
From: Mail Delivery System <Mailer-Daemon@there.test>
X-Failed-Recipients: ann@there.test
Auto-Submitted: auto-replied
Subject: Mail delivery failed: returning message to sender

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error.

  ann@there.test
    host mx.there.test [192.0.2.1]
    SMTP error from remote mail server after RCPT TO:<ann@there.test>:
    550 5.7.1 blocked using zen.spamhaus.org

------ This is a copy of the message, including all the headers. ------
"""


def test_a_bounce_in_words_tells_each_address_its_own():
    report = read(QMAIL)
    assert (report.kind, report.reason) == (Kind.BOUNCE, "text")
    ann, bob = report.recipients
    assert (ann.addresses, ann.enhanced) == (("ann@there.test",), "5.1.1")
    assert (bob.addresses, bob.enhanced) == (("bob@there.test",), "5.2.2")
    assert classify(ann.code, ann.enhanced, ann.diagnostic).subtype == "no_such_user"
    assert classify(bob.code, bob.enhanced, bob.diagnostic).subtype == "mailbox_full"


def test_exims_header_names_the_address_though_it_says_auto_replied():
    (ann,) = read(EXIM).recipients
    assert ann.addresses == ("ann@there.test",)
    assert classify(ann.code, ann.enhanced, ann.diagnostic).subtype == "listed"


def test_an_html_bounce_is_read_without_its_tags():
    raw = b"From: postmaster@there.test\nSubject: Undeliverable: Hi\nContent-Type: text/html\n\n<p>Delivery failed</p><p>&lt;ann@there.test&gt;<br>550 5.1.1 User unknown</p>"
    (ann,) = read(raw).recipients
    assert (ann.addresses, ann.enhanced) == (("ann@there.test",), "5.1.1")


def test_a_warning_in_words_is_a_delay():
    raw = b"From: mailer-daemon@there.test\nSubject: Warning: message delayed 24 hours\n\nYour mail to\n\n  ann@there.test\n\nhas not yet been delivered: Connection timed out. Attempts will continue.\n"
    (ann,) = read(raw).recipients
    assert ann.action is Action.DELAYED


def test_what_only_flufl_bounce_knows_is_read_as_well():
    raw = b"From: someone@there.test\nSubject: Hm\n\n   ----- The following addresses had permanent fatal errors -----\n<ann@there.test>\n\n   ----- Transcript of session follows -----\n550 no\n"
    (ann,) = read(raw).recipients
    assert (ann.action, ann.addresses) == (Action.FAILED, ("ann@there.test",))


ARF = b"""\
From: fbl@provider.test
To: b-1-all-x@mail.here.test
Subject: FW: Earn money
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary="b"

--b
Content-Type: text/plain

This is an email abuse report.

--b
Content-Type: message/feedback-report

%s

--b
Content-Type: %s

Return-Path: <b-1-all-y@mail.here.test>
From: hello@here.test
To: ann@there.test
Subject: Earn money

body
--b--
"""
FIELDS = b"Feedback-Type: abuse\nUser-Agent: Provider/1.0\nVersion: 1\nOriginal-Mail-From: <b-1-all-x@mail.here.test>\nOriginal-Rcpt-To: <Ann@There.test>\nReporting-MTA: dns; provider.test"


@pytest.mark.parametrize("returned", [b"message/rfc822", b"text/rfc822-headers"])
def test_a_complaint_tells_who_complains_and_about_what(returned: bytes):
    report = read(ARF % (FIELDS, returned))
    assert (report.kind, report.reason, report.reporting_mta) == (Kind.COMPLAINT, "arf", "provider.test")
    complaint = report.complaint
    assert complaint is not None
    assert (complaint.feedback_type, complaint.user_agent) == ("abuse", "Provider/1.0")
    assert complaint.addresses == ("ann@there.test",)
    assert complaint.return_paths == ("b-1-all-x@mail.here.test", "b-1-all-y@mail.here.test")


def test_a_complaint_with_redacted_addresses_keeps_the_return_path():
    redacted = b"Feedback-Type: abuse\nUser-Agent: P/1\nVersion: 1\nOriginal-Rcpt-To: [redacted]"
    complaint = read(ARF.replace(b"To: ann@there.test", b"To: undisclosed") % (redacted, b"message/rfc822")).complaint
    assert complaint is not None
    assert (complaint.addresses, complaint.return_paths) == ((), ("b-1-all-y@mail.here.test",))


@pytest.mark.parametrize("kind", [b"not-spam", b"auth-failure", b"dkim"])
def test_feedback_that_is_no_complaint_is_ignored(kind: bytes):
    report = read(ARF % (FIELDS.replace(b"abuse", kind), b"message/rfc822"))
    assert (report.kind, report.reason) == (Kind.IGNORED, "feedback_of_another_kind")


GONE = b"ann@there.test does not exist here any more: 550 5.1.1 user unknown"
IGNORED = [
    (b"From: Ann <ann@there.test>\nSubject: Automatic reply: Hello", "auto_reply"),
    (b"From: Ann <ann@there.test>\nSubject: Out of Office: Hello\nAuto-Submitted: auto-replied", "auto_reply"),
    (b"From: Ann <ann@there.test>\nSubject: Re: Hello\nAuto-Submitted: auto-replied", "auto_reply"),
    (b"From: Ann <ann@there.test>\nSubject: Abwesenheitsnotiz", "auto_reply"),
    (b"From: Ann <ann@there.test>\nSubject: =?utf-8?q?R=C3=A9ponse_automatique_=3A_Hello?=", "auto_reply"),
    (b"From: Ann <ann@there.test>\nSubject: Re: Hello\nX-Auto-Response-Suppress: All", "auto_reply"),
    (b"From: Ann <ann@there.test>\nSubject: Re: Hello\nX-Autoreply: yes", "auto_reply"),
    (b"From: Ann <ann@there.test>\nSubject: Re: Hello\nPrecedence: auto_reply", "auto_reply"),
    (b"From: postmaster@there.test\nSubject: Out of the office until Monday", "auto_reply"),
    (b"From: filter@there.test\nSubject: Please confirm your message to ann@there.test", "challenge"),
    (b"From: Ann <ann@there.test>\nSubject: Read: Hello", "read_receipt"),
    (b"From: Ann <ann@there.test>\nSubject: Hello\nContent-Type: multipart/report; report-type=disposition-notification; boundary=b", "read_receipt"),
    (b"From: list@there.test\nSubject: [list] Hello\nList-Id: <list.there.test>", "list_mail"),
    (b"From: Ann <ann@there.test>\nSubject: unsubscribe", "unsubscribe"),
    (b"From: Ann <ann@there.test>\nSubject: Re: Hello", "not_understood"),
]  # fmt: skip


@pytest.mark.parametrize(("head", "reason"), IGNORED)
def test_what_is_no_bounce_is_ignored_and_says_why_whatever_its_text(head: bytes, reason: str):
    report = read(head + b"\n\n" + GONE + b"\n")
    assert (report.kind, report.reason, report.recipients) == (Kind.IGNORED, reason, ())


def test_the_same_mail_has_the_same_digest_and_another_has_another():
    assert dsn(ANN).digest == read((DSN % ANN).replace(b"\n", b"\r\n")).digest
    assert dsn(ANN).digest != read((DSN % ANN).replace(b"<1@", b"<2@")).digest


def nested(depth: int) -> bytes:
    head = b"From: mailer-daemon@there.test\nSubject: Undeliverable\n"
    for n in range(depth):
        head += b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (n, n)
    return head + b"Content-Type: text/plain\n\n550 5.1.1 user unknown <ann@there.test>\n"


WORST = {
    "50 MB of lines": DSN % ANN + b"A line of the original mail that is returned.\n" * 1_100_000,
    "50 MB in one line": b"Subject: Undeliverable\n\n" + b"x" * 50_000_000,
    "1,000 nested parts": nested(1_000),
    "10,000 fields": b"Subject: Undeliverable\n" + b"X-Filler: something or other\n" * 10_000 + b"\nbody",
    "a field of 10 MB": b"Subject: " + b"returned mail failure delay " * 400_000 + b"\n\nbody",
    "100,000 recipients": DSN % (b"Final-Recipient: rfc822; a@there.test\nAction: failed\nStatus: 5.1.1\n\n" * 100_000),
    "lines like borders": b'Subject: Undeliverable\nContent-Type: multipart/mixed; boundary="b"\n\n' + b"--\n--b \n" * 150_000,
    "addresses without end": b"From: mailer-daemon@a.test\nSubject: Undeliverable\n\n" + b"a@b.test 550 " * 80_000,
    "at signs": b"From: mailer-daemon@a.test\nSubject: Undeliverable\n\n" + b"@" * 1_000_000,
    "dashes": b"From: mailer-daemon@a.test\nSubject: Undeliverable\n\n" + b"-" * 1_000_000,
    "blanks": b"From: mailer-daemon@a.test\nSubject: Undeliverable\n\n" + b" \n" * 500_000,
    "open tags": b"From: mailer-daemon@a.test\nSubject: Undeliverable\nContent-Type: text/html\n\n" + b"<" * 1_000_000,
    "words without end": b"From: mailer-daemon@a.test\nSubject: Undeliverable\n\n" + b"user " * 200_000,
}  # fmt: skip


@pytest.mark.parametrize("name", WORST)
def test_the_worst_mails_take_less_than_a_second(name: str):
    started = time.process_time()
    read(WORST[name])
    assert time.process_time() - started < 1.0


def test_parts_are_counted_and_depth_is_limited():
    assert len(parts_of(nested(1_000))) <= MAX_PARTS
    many = b'Content-Type: multipart/mixed; boundary="b"\n\n' + b"--b\n\nx\n" * 10_000
    assert len(parts_of(many)) == MAX_PARTS


@given(st.binary(max_size=3_000))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_bytes_raise(raw: bytes):
    read(raw)


PIECES = [
    b"From: mailer-daemon@a.test\n", b"Subject: Undeliverable\n", b"Content-Type: multipart/report; boundary=b\n", b"\n", b"--b\n",
    b"--b--\n", b"Content-Type: message/delivery-status\n", b"Content-Type: message/feedback-report\n", b"Content-Type: message/rfc822\n",
    b"Content-Transfer-Encoding: base64\n", b"Content-Transfer-Encoding: quoted-printable\n", b"Content-Type: text/plain; charset=utf-7\n",
    b"Final-Recipient: rfc822; ann@there.test\n", b"Action: failed\n", b"Status: 5.1.1\n", b"Diagnostic-Code: smtp; 550 no\n", b"\xff\x00\r",
    b"Content-Type: text/plain; charset=iso-2022-jp\n", b"=\n", b"Feedback-Type: abuse\n", b"550 5.1.1 <ann@there.test> user unknown\n",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))
@settings(deadline=None)
def test_no_shuffled_report_raises(raw: bytes):
    read(raw)
