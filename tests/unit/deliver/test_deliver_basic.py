"""The plain way: one mail, many mails, one connection."""

from __future__ import annotations

from delivery_world import mx, world
from sinks import SmtpSink


async def test_a_mail_is_delivered_with_its_transcript():
    async with SmtpSink() as sink, world(mx(), sink.port) as here:
        job = here.send("ann@there.test")
        await here.store.until_settled()
        (completion,) = here.store.completions
        (mail,) = sink.mails
        assert mail.recipients == ["ann@there.test"]
        assert mail.return_path == "bounce-0@out.test"
        assert b"\r\n.a dot at the start" in mail.raw
        assert here.store.events(job) == ["sent", "delivered"]
        attempt = completion.attempt
        assert attempt is not None
        assert (attempt.route, attempt.host, attempt.address) == ("direct", "mx.there.test", "127.0.0.1")
        said = [f"{line.side} {line.text}" for line in attempt.transcript]
        assert said[0].startswith("* connected to mx.there.test [127.0.0.1]")
        assert "> RCPT TO:<ann@there.test>" in said
        assert said[-1] == "< 250 2.0.0 queued as sink"
        assert here.store.update(job).code == 250


async def test_a_foreseen_mail_goes_out_once_when_it_is_offered_and_not_before():
    async with SmtpSink() as sink, world(mx(), sink.port) as here:
        soon, never = here.job("ann@there.test"), here.job("bob@there.test")
        for job in (soon, never):
            here.deliverer.foresee(job)
        # Another mail's whole way: what was foreseen has been composed by then.
        here.send("carl@there.test")
        await here.store.until(lambda: len(sink.mails) == 1)
        here.deliverer.forget(never)
        here.deliverer.offer(soon)
        await here.store.until(lambda: len(sink.mails) == 2)
        here.send("dora@there.test")
        await here.store.until(lambda: len(sink.mails) == 3)
        assert [mail.recipients[0][0] for mail in sink.mails] == ["c", "a", "d"]


async def test_a_foreseen_mail_that_is_offered_before_it_is_composed_goes_out_once():
    async with SmtpSink() as sink, world(mx(), sink.port) as here:
        job = here.job("ann@there.test")
        here.deliverer.foresee(job)
        here.deliverer.offer(job)
        await here.store.until_settled()
        assert [mail.recipients for mail in sink.mails] == [["ann@there.test"]]
