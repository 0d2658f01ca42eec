"""Pools of source addresses, their warm-up, routes that are down, and providers as routes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from delivery_world import World, mx, said, world
from sinks import DROP, SILENCE, ApiSink, SmtpSink
from sinks.smtp import EXTENSIONS

from sendkit_server.deliver import Direct, Routing, Smarthost, chain_of
from sendkit_server.deliver.health import SITES
from sendkit_server.deliver.route import Hosted, Source, WarmUp
from sendkit_server.deliver.routing import Rule
from sendkit_server.model.instant import DAY_MS
from sendkit_server.model.retry import RetryPolicy
from sendkit_server.model.status import Status
from sendkit_server.store.values import Job
from sendkit_server.wire.providers.resend import Resend
from sendkit_server.wire.providers.ses import Ses
from sendkit_server.wire.smtp_client import Login

DAY = 1_800_000_000_000 - 1_800_000_000_000 % DAY_MS  # of World.now
QUICK = RetryPolicy((1000,), 10 * DAY_MS)
BIG = {"receivers": {"big": {"mx": ["there.test"]}}}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@asynccontextmanager
async def provider_api(authority: trustme.CA, *answers: object) -> AsyncIterator[ApiSink]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    async with ApiSink(context, answers=answers) as api:
        yield api


def route_of(here: World, job: Job) -> str:
    return next(
        done.attempt.route for done in here.store.completions if done.job.message.id == job.message.id and done.attempt
    )


def lines(here: World, job: Job) -> list[str]:
    return [
        line.text
        for done in here.store.completions
        if done.job.message.id == job.message.id and done.attempt
        for line in done.attempt.transcript
    ]


# Source addresses.


async def test_a_pool_connects_from_its_addresses_each_with_its_own_name():
    pool = Direct("own", (Source(("127.0.0.21",), "one.test"), Source(("127.0.0.22",), "two.test", weight=3)))
    async with SmtpSink() as sink, world(mx(), sink.port, routing=Routing(chain_of(pool))) as here:
        for n in range(40):
            here.send(f"ann{n}@there.test")
        await here.store.until_settled()
        greeted = {
            session.number: command
            for session in sink.sessions
            for command in session.commands
            if command.startswith("EHLO")
        }
        assert {greeted[mail.session] for mail in sink.mails} == {"EHLO one.test", "EHLO two.test"}


async def test_an_address_that_this_machine_does_not_have_is_named_and_the_next_route_taken():
    async with SmtpSink() as sink, SmtpSink() as relay:
        pool = Direct("own", (Source(("203.0.113.77",)),))
        routing = Routing(chain_of(pool, Smarthost("127.0.0.1", relay.port)))
        async with world(mx(), sink.port, routing=routing) as here:
            job = here.send("ann@there.test")
            await here.store.until_settled()
            assert len(relay.mails) == 1 and not sink.mails
            assert said(lines(here, job), "this machine has no address 203.0.113.77")


async def test_a_site_without_an_address_of_the_route_s_family_is_told_so():
    async with SmtpSink() as sink:
        routing = Routing(chain_of(Direct("six", (Source(("::1",)),))))
        async with world(mx(), sink.port, routing=routing) as here:
            job = here.send("ann@there.test")
            await here.store.until(lambda: bool(here.store.completions))
            assert said(lines(here, job), "no address of the kind that this route connects from (::1)")


# Rules.


async def test_a_rule_sends_a_stream_its_own_way():
    async with SmtpSink() as sink, SmtpSink() as relay:
        other = chain_of(Smarthost("127.0.0.1", relay.port))
        routing = Routing(chain_of(Direct()), (Rule(other, streams=("broadcast",)),))
        async with world(mx(), sink.port, routing=routing) as here:
            here.send("ann@there.test")
            here.deliverer.offer(here.job("bob@there.test", stream="broadcast"))
            await here.store.until_settled()
            assert [mail.recipients for mail in sink.mails] == [["ann@there.test"]]
            assert [mail.recipients for mail in relay.mails] == [["bob@there.test"]]


# TLS towards a relay.


async def test_mail_that_wants_verified_tls_never_reaches_a_relay_without_it(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    async with (
        SmtpSink(tls=context) as relay,
        world({}, routing=Routing(chain_of(Smarthost("localhost", relay.port)))) as here,
    ):
        strict = here.job("ann@there.test", require_tls=True)
        here.deliverer.offer(strict)
        here.send("bob@there.test")
        await here.store.until(lambda: len(here.store.completions) == 2)
        assert [mail.recipients for mail in relay.mails] == [["bob@there.test"]]
        assert here.store.update(strict).reason == "tls_failed"


# Warm-up.


def warming(*caps: int, since: int = DAY) -> Direct:
    return Direct("own", (Source(("127.0.0.31",), "new.test", warm_up=WarmUp(since, caps)),))


async def test_what_is_over_the_cap_takes_the_next_route_and_the_next_day_has_a_higher_one():
    async with SmtpSink() as sink, SmtpSink() as relay:
        routing = Routing(chain_of(warming(3, 5), Smarthost("127.0.0.1", relay.port)))
        async with world(mx(), sink.port, routing=routing, **BIG) as here:
            for n in range(8):
                last = here.send(f"ann{n}@there.test")
            await here.store.until_settled()
            assert (len(sink.mails), len(relay.mails)) == (3, 5)
            assert said(lines(here, last), "127.0.0.31 is being warmed up: today it sends big at most 3 mails")
            here.now += DAY_MS
            for n in range(8):
                here.send(f"bob{n}@there.test")
            await here.store.until_settled()
            assert (len(sink.mails), len(relay.mails)) == (3 + 5, 5 + 3)
            here.now += DAY_MS
            for n in range(8):
                here.send(f"cid{n}@there.test")
            await here.store.until_settled()
            assert len(sink.mails) == 3 + 5 + 8, "behind the last day there is no cap"


async def test_without_another_route_what_is_over_the_cap_waits_for_the_next_day_and_says_why():
    async with SmtpSink() as sink, world(mx(), sink.port, routing=Routing(chain_of(warming(1, 9))), **BIG) as here:
        here.send("ann@there.test")
        second = here.send("bob@there.test")
        await here.store.until(lambda: len(here.store.completions) == 2)
        update = here.store.update(second)
        assert (update.status, update.reason, update.next_attempt_at) == (Status.DELAYED, "warm_up_cap", DAY + DAY_MS)
        here.now = DAY + DAY_MS
        here.deliverer.wake()
        await here.store.until_settled()
        assert len(sink.mails) == 2


async def test_a_pool_s_other_address_takes_what_a_new_one_may_not_send_yet():
    pool = Direct(
        "own", (Source(("127.0.0.31",), "new.test", 1000, WarmUp(DAY, (2,))), Source(("127.0.0.32",), "old.test"))
    )
    async with SmtpSink() as sink, world(mx(), sink.port, routing=Routing(chain_of(pool)), **BIG) as here:
        for n in range(6):
            here.send(f"ann{n}@there.test")
        await here.store.until_settled()
        greeted = [command for session in sink.sessions for command in session.commands if command.startswith("EHLO")]
        assert set(greeted) == {"EHLO new.test", "EHLO old.test"}
        assert len(sink.mails) == 6


async def test_receivers_that_are_not_big_have_no_cap():
    async with SmtpSink() as sink, world(mx(), sink.port, routing=Routing(chain_of(warming(1)))) as here:
        for n in range(4):
            here.send(f"ann{n}@there.test")
        await here.store.until_settled()
        assert len(sink.mails) == 4


async def test_the_counts_are_kept_and_what_other_nodes_have_sent_counts():
    async with SmtpSink() as sink, world(mx(), sink.port, routing=Routing(chain_of(warming(3))), **BIG) as here:
        here.store.warm_up["127.0.0.31", "big", DAY] = 2
        await here.deliverer._warm_up.write()
        here.send("ann@there.test")
        here.send("bob@there.test")
        await here.store.until(lambda: len(here.store.completions) == 2)
        assert len(sink.mails) == 1
        await here.deliverer._warm_up.close()
        assert here.store.warm_up["127.0.0.31", "big", DAY] == 3


# A way that leads nowhere.


async def test_when_several_sites_cannot_be_connected_the_next_route_takes_everything_at_once():
    zone = {name: value for n in range(SITES + 2) for name, value in mx(domain=f"s{n}.test").items()}
    async with SmtpSink() as relay:
        routing = Routing(chain_of(Direct(), Smarthost("127.0.0.1", relay.port)))
        async with world(zone, 9, routing=routing) as here:
            for n in range(SITES):
                here.send(f"ann@s{n}.test")
                await here.store.until_settled()
            job = here.send("ann@s3.test")
            await here.store.until_settled()
            assert said(lines(here, job), "route direct is down: No connection")
            assert ("route.down") in [event for event, _ in here.log.lines]
            here.now += 61_000
            look = here.send("ann@s4.test")
            await here.store.until_settled()
            assert not said(lines(here, look), "is down"), "one mail now and then looks again"
            assert len(relay.mails) == SITES + 2


async def test_one_dead_site_does_not_bring_a_route_down():
    zone = {**mx(domain="dead.test", address="127.0.0.99"), **mx(domain="there.test")}
    async with SmtpSink() as sink, SmtpSink() as relay:
        routing = Routing(chain_of(Direct(), Smarthost("127.0.0.1", relay.port)))
        async with world(zone, sink.port, routing=routing) as here:
            for n in range(6):
                here.send(f"ann{n}@dead.test")
            await here.store.until_settled()
            here.send("ann@there.test")
            await here.store.until_settled()
            assert (len(sink.mails), len(relay.mails)) == (1, 6)


def states(here: World) -> list[str]:
    return [way["status"] for way in here.deliverer.ways()]


async def test_a_relay_that_cannot_be_connected_again_and_again_is_down_until_it_answers():
    relay = SmtpSink()
    async with relay:
        port = relay.port
    async with world({}, routing=Routing(chain_of(Smarthost("127.0.0.1", port))), retry=QUICK) as here:
        job = here.send("ann@there.test")
        for n in range(SITES):
            assert states(here) == ["up"]
            await here.store.until(lambda n=n: len(here.store.completions) > n)
            here.move_on(600)
        await here.store.until(lambda: states(here) == ["down"])
        assert [event for event, _ in here.log.lines].count("route.down") == 1
        async with SmtpSink(port=port):
            here.move_on(600)
            await here.store.until(lambda: here.store.update(job).status is Status.DELIVERED)
            assert states(here) == ["up"]


async def test_a_relay_that_refuses_the_password_is_down_at_once(authority, ca_file):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    extensions = (*EXTENSIONS, "AUTH PLAIN LOGIN")
    async with SmtpSink(tls=context, extensions=extensions, answers={"AUTH": "535 5.7.8 no"}) as relay:
        route = Smarthost("localhost", relay.port, Login("user", "secret"))
        async with world({}, routing=Routing(chain_of(route)), ca_file=ca_file) as here:
            here.send("ann@there.test")
            await here.store.until(lambda: bool(here.store.completions))
            (way,) = here.deliverer.ways()
            assert (way["status"], way["to"]) == ("down", f"localhost:{relay.port}")
            assert "535 5.7.8 no" in way["reason"] and "secret" not in str(way)


async def test_what_one_mail_asks_for_does_not_bring_its_relay_down():
    async with (
        SmtpSink() as relay,
        world({}, routing=Routing(chain_of(Smarthost("127.0.0.1", relay.port))), retry=QUICK) as here,
    ):
        here.send("ann@there.test", require_tls=True)
        for n in range(SITES + 1):
            await here.store.until(lambda n=n: len(here.store.completions) > n)
            here.move_on(600)
        assert states(here) == ["up"]


async def test_a_relay_that_is_not_found_is_named_as_the_route_s():
    async with world({}, routing=Routing(chain_of(Smarthost("relay.test", 587)))) as here:
        job = here.send("ann@there.test")
        await here.store.until(lambda: bool(here.store.completions))
        update = here.store.update(job)
        assert update.explanation is not None
        assert update.explanation.startswith("The relay of this route, relay.test:587, is not found: ")


# Providers.


def hosted(api: ApiSink) -> Hosted:
    return Hosted("resend", Resend(api_key="re_secret", url=f"https://localhost:{api.port}"))


async def test_a_provider_takes_mail_over_a_kept_connection_and_its_answer_is_on_record(authority, ca_file):
    async with (
        provider_api(authority, (200, {"id": "49a3999c"})) as api,
        world({}, routing=Routing(chain_of(hosted(api))), ca_file=ca_file) as here,
    ):
        first = here.send("ann@there.test")
        await here.store.until_settled()
        here.send("bob@else.test")
        await here.store.until_settled()
        assert [call.json["to"] for call in api.calls] == [["ann@there.test"], ["bob@else.test"]]
        assert api.connections == 1
        assert route_of(here, first) == "resend"
        done = here.store.completions[0].attempt
        assert done is not None and done.tls is not None and done.tls.endswith("verified")
        assert done.outcomes[0].text == "localhost said: 250 2.0.0 49a3999c"
        assert not any("re_secret" in line for line in lines(here, first))


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        ((200, {"message": "Please log in"}), Status.DELAYED, "protocol_error"),
        ((422, {"message": "Invalid `to` field."}), Status.BOUNCED, None),
        ((429, {"message": "Too many requests."}), Status.DELAYED, None),
        ((500, {"message": "Internal"}), Status.DELAYED, None),
        ((401, {"message": "API key is invalid"}), Status.DELAYED, "provider_refuses"),
        ((403, {"message": "The here.test domain is not verified."}), Status.DELAYED, "provider_refuses"),
    ],
)
async def test_what_a_provider_refuses_ends_or_waits_as_its_answer_says(authority, ca_file, answer, status, reason):
    async with (
        provider_api(authority, answer) as api,
        world({}, routing=Routing(chain_of(hosted(api))), ca_file=ca_file) as here,
    ):
        job = here.send("ann@there.test")
        await here.store.until(lambda: bool(here.store.completions))
        update = here.store.update(job)
        assert update.status is status
        assert reason is None or update.reason == reason
        assert said(lines(here, job), answer[1]["message"])
        done = here.store.completions[0].attempt
        assert done is not None and done.outcomes[0].possible_duplicate is (answer[0] == 200)


@pytest.mark.parametrize(
    "answer", [(401, {"message": "API key is invalid"}), (403, {"message": "domain is not verified"})]
)
async def test_another_route_takes_what_a_provider_does_not_as_it_is_set_up(authority, ca_file, answer):
    async with provider_api(authority, answer) as api, SmtpSink() as relay:
        routing = Routing(chain_of(hosted(api), Smarthost("127.0.0.1", relay.port)))
        async with world({}, routing=routing, ca_file=ca_file) as here:
            for n in range(3):
                here.send(f"ann{n}@there.test")
                await here.store.until_settled()
            assert len(relay.mails) == 3
            broken = answer[0] == 401
            assert len(api.calls) == (1 if broken else 3), "a provider that takes nothing is not asked for each mail"


async def test_an_answer_that_does_not_come_may_be_a_duplicate_and_is_tried_again(authority, ca_file):
    async with (
        provider_api(authority, DROP, (200, {"id": "1"})) as api,
        world({}, routing=Routing(chain_of(hosted(api))), ca_file=ca_file) as here,
    ):
        job = here.send("ann@there.test")
        await here.store.until(lambda: bool(here.store.completions))
        done = here.store.completions[0].attempt
        assert done is not None and done.outcomes[0].possible_duplicate
        here.move_on(120)
        await here.store.until_settled()
        assert here.store.update(job).status is Status.DELIVERED
        keys = {call.headers["idempotency-key"] for call in api.calls}
        assert len(keys) == 1, "by the same key the provider sends it once"


async def test_a_provider_that_cannot_be_reached_or_proved_gives_way_to_the_next_route(authority, ca_file):
    async with provider_api(authority, (200, {})) as api, SmtpSink() as relay:
        routing = Routing(chain_of(hosted(api), Smarthost("127.0.0.1", relay.port)))
        async with world({}, routing=routing) as here:
            job = here.send("ann@there.test")
            await here.store.until_settled()
            assert len(relay.mails) == 1 and not api.calls
            assert said(lines(here, job), "no TLS with localhost")


async def test_ses_gets_the_signed_message_as_it_is(authority, ca_file):
    async with provider_api(authority, (200, {"MessageId": "0100"})) as api:
        route = Hosted("amazon", Ses("eu-west-1", "AK", "secret", url=f"https://localhost:{api.port}"))
        async with world({}, routing=Routing(chain_of(route)), ca_file=ca_file) as here:
            here.send("ann@there.test", "bob@there.test")
            await here.store.until_settled()
            (call,) = api.calls
            assert call.path == "/v2/email/outbound-emails"
            assert call.json["Destination"]["BccAddresses"] == ["ann@there.test", "bob@there.test"]
            assert call.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AK/")


async def test_a_shutdown_cuts_a_provider_that_does_not_answer(authority, ca_file):
    async with (
        provider_api(authority, SILENCE) as api,
        world({}, routing=Routing(chain_of(hosted(api))), ca_file=ca_file) as here,
    ):
        here.send("ann@there.test")
        async with asyncio.timeout(5):
            while not api.calls:
                await asyncio.sleep(0.01)
            await here.deliverer.drain(0.1)
        assert here.store.completions, "what was cut is written down"
