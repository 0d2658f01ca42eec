"""Bounces and complaints, recorded where they belong, on both engines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import Connection, select
from store_mails import completion, new_mail, owned_job

from sendkit_server.events.bounces import Returns, Taken
from sendkit_server.model.status import Status
from sendkit_server.store import schema
from sendkit_server.store.queries import emails, suppressions
from sendkit_server.store.store import Store
from sendkit_server.store.values import NewMail
from sendkit_server.wire import return_path

SECRET = b"secret of the return paths"
NOW = 20_000

DSN = """\
From: MAILER-DAEMON@mx.there.test
Message-ID: <{number}@mx.there.test>
Content-Type: multipart/report; report-type=delivery-status; boundary="b"

--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.there.test

{recipients}
--b--
"""
ARF = """\
From: fbl@provider.test
Message-ID: <{number}@provider.test>
Content-Type: multipart/report; report-type=feedback-report; boundary="b"

--b
Content-Type: message/feedback-report

Feedback-Type: abuse
User-Agent: Provider/1
Original-Rcpt-To: {address}

--b
Content-Type: text/rfc822-headers

Return-Path: <{return_path}>

--b--
"""


def dsn(*told: tuple[str, str, str], number: int = 1) -> bytes:
    """told: address, action, diagnostic."""
    recipients = "\n".join(
        f"Final-Recipient: rfc822; {address}\nAction: {action}\nStatus: 5.0.0\nDiagnostic-Code: smtp; {words}\n"
        for address, action, words in told
    )
    return DSN.format(number=number, recipients=recipients).encode()


GONE = "550 5.1.1 No such user"


class World:
    """A store, and what takes in what comes back to it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.counted: list[str] = []
        self.returns = Returns(store, SECRET, suppressions.add, lambda: NOW, self.counted.append, waits_s=(0.0,))

    async def sent(self, *addresses: str, status: Status = Status.DELIVERED) -> NewMail:
        mail = new_mail(self.store.owner, *addresses)
        await self.store.accept(mail)
        await self.store.complete(completion(owned_job(mail), status))
        return mail

    async def come_back(self, mail: NewMail, raw: bytes, n: int | None = None) -> Taken:
        return await self.returns.take([return_path.make(mail.messages[0].message.id, n, SECRET)], raw)

    async def email(self, mail: NewMail) -> emails.Email:
        found = await self.store.read(lambda c: emails.find_email(c, 1, mail.messages[0].message.id))
        assert found is not None
        return found

    async def statuses(self, mail: NewMail) -> list[str]:
        return [row.status for row in (await self.email(mail)).recipients]

    async def events(self, mail: NewMail) -> list[tuple[str, int, dict[str, Any]]]:
        told = [event for event in (await self.email(mail)).events if event.type != "sent"]
        return [(event.type, event.n, json.loads(event.detail)) for event in told]

    async def suppressed(self) -> list[tuple[str, str]]:
        query = select(schema.suppression.c.address, schema.suppression.c.reason).order_by(schema.suppression.c.address)
        return [(row.address, row.reason) for row in await self.store.read(lambda c: c.execute(query).all())]


@pytest.fixture
def world(store: Store) -> World:
    return World(store)


async def test_a_notification_ends_what_was_delivered_and_suppresses_the_address(world: World):
    mail = await world.sent("Ann@there.test")
    assert await world.come_back(mail, dsn(("ann@there.test", "failed", GONE))) is Taken.BOUNCED
    found = await world.email(mail)
    (ann,) = found.recipients
    assert (ann.status, ann.code, ann.enhanced, ann.reason) == ("bounced", 550, "5.1.1", "no_such_user")
    assert ann.explanation == GONE
    assert found.message.status == "bounced"
    ((type_, n, detail),) = await world.events(mail)
    assert (type_, n) == ("bounced", 0)
    assert detail["bounce"]["type"] == "hard" and detail["reporting_mta"] == "mx.there.test"
    assert await world.suppressed() == [("ann@there.test", "bounce")]


async def test_the_same_notification_again_changes_nothing(world: World):
    mail = await world.sent("ann@there.test")
    for expected in (Taken.BOUNCED, Taken.REPEATED):
        assert await world.come_back(mail, dsn(("ann@there.test", "failed", GONE))) is expected
    assert len(await world.events(mail)) == 1
    assert world.counted == ["bounced", "repeated"]


@pytest.mark.parametrize(
    "words", ["550 5.7.1 blocked", "552 5.2.2 mailbox full", "550 Requested action not taken: mailbox unavailable"]
)
async def test_only_a_hard_bounce_suppresses(world: World, words: str):
    mail = await world.sent("ann@there.test")
    assert await world.come_back(mail, dsn(("ann@there.test", "failed", words))) is Taken.BOUNCED
    assert await world.suppressed() == []


async def test_of_several_recipients_the_report_tells_which(world: World):
    mail = await world.sent("ann@there.test", "bob@there.test", "cid@there.test")
    report = dsn(("bob@there.test", "failed", GONE), ("cid@there.test", "delayed", "450 4.2.0 busy"))
    assert await world.come_back(mail, report) is Taken.BOUNCED
    found = await world.email(mail)
    assert [row.status for row in found.recipients] == ["delivered", "bounced", "delivered"]
    assert found.message.status == "bounced"
    assert [(type_, n) for type_, n, _ in await world.events(mail)] == [("bounced", 1), ("delivery_delayed", 2)]
    assert await world.suppressed() == [("bob@there.test", "bounce")]


async def test_a_report_about_somebody_else_changes_nothing(world: World):
    mail = await world.sent("ann@there.test", "bob@there.test")
    assert await world.come_back(mail, dsn(("eve@there.test", "failed", GONE))) is Taken.NOBODY
    assert await world.statuses(mail) == ["delivered", "delivered"]
    assert await world.suppressed() == []


async def test_with_a_single_recipient_an_alias_in_the_report_does_no_harm(world: World):
    mail = await world.sent("ann@there.test")
    assert await world.come_back(mail, dsn(("ann.real@inside.test", "failed", GONE))) is Taken.BOUNCED
    assert await world.statuses(mail) == ["bounced"]


async def test_a_return_path_that_names_the_only_recipient_at_his_domain_needs_no_address(world: World):
    mail = await world.sent("ann@there.test", "bob@elsewhere.test")
    assert await world.come_back(mail, dsn(("who@inside.test", "failed", GONE)), n=1) is Taken.BOUNCED
    assert await world.statuses(mail) == ["delivered", "bounced"]


async def test_a_return_path_that_names_a_recipient_counts_for_all_at_his_domain(world: World):
    mail = await world.sent("ann@there.test", "bob@there.test", "eve@elsewhere.test")
    assert await world.come_back(mail, dsn(("who@inside.test", "failed", GONE)), n=0) is Taken.NOBODY
    assert await world.come_back(mail, dsn(("bob@there.test", "failed", GONE), number=2), n=0) is Taken.BOUNCED
    assert await world.statuses(mail) == ["delivered", "bounced", "delivered"]


async def test_nobody_reports_on_recipients_at_other_domains(world: World):
    mail = await world.sent("ann@there.test", "bob@there.test", "eve@elsewhere.test")
    both = dsn(("ann@there.test", "failed", GONE), ("bob@there.test", "failed", GONE))
    assert await world.come_back(mail, both, n=2) is Taken.NOBODY
    assert await world.statuses(mail) == ["delivered"] * 3
    assert await world.suppressed() == []
    assert await world.come_back(mail, arf("ann@there.test"), n=2) is Taken.COMPLAINED
    assert await world.statuses(mail) == ["delivered", "delivered", "complained"]


async def test_a_delay_is_told_once_and_changes_no_status(world: World):
    mail = await world.sent("ann@there.test")
    late = ("ann@there.test", "delayed", "450 4.4.1 no route")
    assert await world.come_back(mail, dsn(late)) is Taken.DELAYED
    assert await world.come_back(mail, dsn(late)) is Taken.REPEATED
    assert await world.come_back(mail, dsn(late, number=2)) is Taken.DELAYED
    assert await world.statuses(mail) == ["delivered"]
    assert [type_ for type_, _, _ in await world.events(mail)] == ["delivery_delayed", "delivery_delayed"]


@pytest.mark.parametrize("action", ["delivered", "relayed", "expanded"])
async def test_good_news_is_no_news(world: World, action: str):
    mail = await world.sent("ann@there.test")
    assert await world.come_back(mail, dsn(("ann@there.test", action, "250 ok"))) is Taken.IGNORED
    assert await world.events(mail) == []


async def test_a_bounce_ends_what_still_waits_and_it_is_not_tried_again(world: World):
    mail = new_mail(world.store.owner, "ann@there.test")
    await world.store.accept(mail)
    await world.store.complete(completion(owned_job(mail), Status.DELAYED, next_at=30_000))
    assert await world.come_back(mail, dsn(("ann@there.test", "failed", GONE))) is Taken.BOUNCED
    (ann,) = (await world.email(mail)).recipients
    assert (ann.status, ann.next_attempt_at) == ("bounced", None)


async def test_what_is_being_delivered_at_this_moment_is_asked_for_again(world: World):
    mail = new_mail(world.store.owner, "ann@there.test")
    await world.store.accept(mail)
    assert await world.come_back(mail, dsn(("ann@there.test", "failed", GONE))) is Taken.BUSY
    assert await world.statuses(mail) == ["queued"]
    assert not Taken.BUSY.is_final
    assert await world.store.complete(completion(owned_job(mail)))
    assert await world.come_back(mail, dsn(("ann@there.test", "failed", GONE))) is Taken.BOUNCED


def arf(address: str, number: int = 1, return_path: str = "") -> bytes:
    return ARF.format(number=number, address=address, return_path=return_path).encode()


async def test_a_complaint_is_recorded_once_and_suppresses(world: World):
    mail = await world.sent("ann@there.test")
    assert await world.come_back(mail, arf("[redacted]")) is Taken.COMPLAINED
    assert await world.come_back(mail, arf("[redacted]", number=2)) is Taken.REPEATED
    found = await world.email(mail)
    assert ([row.status for row in found.recipients], found.message.status) == (["complained"], "complained")
    told = "The recipient complained (abuse); Provider/1 told it at 1970-01-01 00:00:20 UTC."
    assert found.recipients[0].explanation == told
    ((type_, _, detail),) = await world.events(mail)
    assert (type_, detail["feedback_type"], detail["user_agent"]) == ("complained", "abuse", "Provider/1")
    assert await world.suppressed() == [("ann@there.test", "complaint")]


async def test_a_complaint_after_a_bounce_is_recorded(world: World):
    mail = await world.sent("ann@there.test")
    await world.come_back(mail, dsn(("ann@there.test", "failed", "550 5.7.1 no")))
    assert await world.come_back(mail, arf("ann@there.test")) is Taken.COMPLAINED
    assert await world.statuses(mail) == ["complained"]


async def test_a_redacted_complaint_about_a_mail_to_several_is_nobodys(world: World):
    mail = await world.sent("ann@there.test", "bob@there.test")
    assert await world.come_back(mail, arf("[redacted]")) is Taken.NOBODY
    assert await world.come_back(mail, arf("bob@there.test")) is Taken.COMPLAINED
    assert await world.statuses(mail) == ["delivered", "complained"]


async def test_a_redacted_complaint_to_a_return_path_that_names_the_only_one_at_his_domain_is_his(world: World):
    mail = await world.sent("ann@there.test", "bob@elsewhere.test")
    assert await world.come_back(mail, arf("redacted"), n=1) is Taken.COMPLAINED
    assert await world.statuses(mail) == ["delivered", "complained"]


async def test_a_complaint_may_name_its_return_path_itself(world: World):
    mail = await world.sent("ann@there.test")
    named = f"{return_path.make(mail.messages[0].message.id, None, SECRET)}@mail.here.test"
    assert await world.returns.take(["fbl"], arf("ann@there.test", return_path=named)) is Taken.COMPLAINED


async def test_a_notification_may_not(world: World):
    mail = await world.sent("ann@there.test")
    named = f"{return_path.make(mail.messages[0].message.id, None, SECRET)}@mail.here.test".encode()
    raw = dsn(("ann@there.test", "failed", GONE)) + b"\nReturn-Path: <" + named + b">\n"
    assert await world.returns.take(["bounces"], raw) is Taken.FORGED
    assert await world.statuses(mail) == ["delivered"]


async def test_a_forged_return_path_changes_nothing(world: World):
    mail = await world.sent("ann@there.test")
    forged = return_path.make(mail.messages[0].message.id, None, b"another secret")
    for raw in (dsn(("ann@there.test", "failed", GONE)), arf("ann@there.test")):
        assert await world.returns.take([forged], raw) is Taken.FORGED
    assert await world.statuses(mail) == ["delivered"]
    assert (await world.suppressed(), await world.events(mail)) == ([], [])


async def test_a_right_return_path_of_a_mail_that_is_gone_is_nobodys(world: World):
    token = return_path.make(f"msg_{'z' * 26}", None, SECRET)
    assert await world.returns.take([token], dsn(("ann@there.test", "failed", GONE))) is Taken.NOBODY


async def test_an_answering_machine_changes_nothing(world: World):
    mail = await world.sent("ann@there.test")
    raw = b"From: ann@there.test\nSubject: Automatic reply: Hello\n\n550 5.1.1 no such user\n"
    assert await world.come_back(mail, raw) is Taken.IGNORED
    assert await world.statuses(mail) == ["delivered"]


async def test_when_the_suppression_fails_nothing_is_recorded(world: World):
    mail = await world.sent("ann@there.test")

    def fails(
        connection: Connection, team_id: int, address: str, reason: str, detail: Mapping[str, object], now: int
    ) -> bool:
        raise RuntimeError("no")

    broken = Returns(world.store, SECRET, fails, lambda: NOW, world.counted.append)
    with pytest.raises(RuntimeError):
        await broken.take(
            [return_path.make(mail.messages[0].message.id, None, SECRET)], dsn(("ann@there.test", "failed", GONE))
        )
    assert await world.statuses(mail) == ["delivered"]


async def test_a_nul_in_the_words_is_kept_out_of_the_database(world: World):
    mail = await world.sent("ann@there.test")
    assert await world.come_back(mail, dsn(("ann@there.test", "failed", "550 5.1.1 no\0such user"))) is Taken.BOUNCED
    assert "\0" not in (await world.email(mail)).recipients[0].explanation


async def test_the_third_soft_bounce_by_mail_suppresses(world: World):
    for number in range(1, 4):
        mail = await world.sent("ann@there.test")
        full = dsn(("ann@there.test", "failed", "552 5.2.2 Mailbox full"), number=number)
        assert await world.come_back(mail, full) is Taken.BOUNCED
        assert bool(await world.suppressed()) is (number == 3)
