"""The MTA-STS policies of domains: what makes one known, what does not, and how long it binds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest
import trustme
from sinks import DRIP, EXPIRED, PATIENT_S, SILENCE, DnsServer, Fault, HttpsSink, reply, server_context

from sendkit_server.deliver.mta_sts import DOUBT_MS, FAILED_MS, LOOK_MS, PolicyWeb, StsPolicies
from sendkit_server.model.instant import DAY_MS, SECOND_MS
from sendkit_server.net.guard import Guard
from sendkit_server.net.resolver import Resolver
from sendkit_server.net.tls_client import TlsClient
from sendkit_server.store.errors import StoreUnavailable
from sendkit_server.store.queries.tls import StoredPolicy

AUTHORITY = trustme.CA()
PATH = "/.well-known/mta-sts.txt"
NAME = "mta-sts.there.test"


def policy(mode: str = "enforce", mx: str = "mx.there.test", max_age: int = 604800) -> str:
    return f"version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: {max_age}\r\n"


class Kept:
    """The store's table. away: it cannot be reached."""

    def __init__(self) -> None:
        self.rows: dict[str, StoredPolicy] = {}
        self.away = False

    async def policy(self, domain: str) -> StoredPolicy | None:
        if self.away:
            raise StoreUnavailable("away")
        return self.rows.get(domain)

    async def keep_policy(self, policy: StoredPolicy) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self.rows[policy.domain] = policy


BRIEF_S = 0.4  # for an answer that never comes


class Here:
    """A domain with a policy, and who asks for it. now: the clock."""

    def __init__(self, dns: DnsServer, site: HttpsSink, ca_file: Path) -> None:
        self.now = 1_800_000_000_000
        self.dns = dns
        self.site = site
        self.store = Kept()
        self._tls = TlsClient(ca_file)
        self.policies = self.restarted()

    def restarted(self) -> StsPolicies:
        self.resolver = Resolver([self.dns.address], deadline_s=PATIENT_S)
        guard = Guard((ip_network("127.0.0.0/8"),))
        self.web = PolicyWeb(self.resolver, self._tls, guard, self.site.port, deadline_s=PATIENT_S)
        self.policies = StsPolicies(
            self.resolver, self.web.fetch, self.store, clock=lambda: self.now, random=lambda: 1.0, wait_s=3 * PATIENT_S
        )
        return self.policies

    def announce(self, *texts: str) -> None:
        self.dns.zone["_mta-sts.there.test"] = {"TXT": [f'"{text}"' for text in texts]}

    async def known(self) -> tuple[str | None, str | None]:
        """The id of the policy that binds, and why one could not be had."""
        found = await self.policies.of("there.test")
        binding = found.binding if found.binds(self.now) else None
        return binding.policy_id if binding else None, str(found.failure.result) if found.failure else None

    async def looked(self) -> None:
        """Asks, and waits for what that has begun in the background."""
        await self.policies.of("there.test")
        while self.policies._looking:
            await asyncio.wait(list(self.policies._looking.values()))

    @property
    def fetches(self) -> int:
        return self.site.connections


@asynccontextmanager
async def domain(tmp_path: Path, context: object = None) -> AsyncIterator[Here]:
    ca_file = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(ca_file)
    zone = {NAME: {"A": ["127.0.0.1"]}}
    site = HttpsSink(context or server_context(AUTHORITY, NAME))  # type: ignore[arg-type]
    async with DnsServer(zone) as dns, site:
        here = Here(dns, site, ca_file)
        here.announce("v=STSv1; id=1;")
        site.pages[PATH] = reply(200, policy())
        try:
            yield here
        finally:
            await here.policies.close()


async def test_an_announced_policy_is_fetched_once_and_kept(tmp_path):
    async with domain(tmp_path) as here:
        assert await asyncio.gather(*(here.known() for _ in range(20))) == [("1", None)] * 20
        assert here.site.requests == [(f"{NAME}:{here.site.port}", PATH)]
        assert here.dns.questions.count(("_mta-sts.there.test", "TXT")) == 1
        kept = here.store.rows["there.test"]
        assert (kept.mode, kept.mx, kept.expires_at - kept.fetched_at) == ("enforce", ("mx.there.test",), 604800_000)


@pytest.mark.parametrize("texts", [(), ("v=STSv1; id=1;", "v=STSv1; id=2;"), ("v=STSv1; id=a_b",), ("other",)])
async def test_without_exactly_one_record_nothing_is_fetched_and_that_is_known_for_an_hour(tmp_path, texts):
    async with domain(tmp_path) as here:
        here.announce(*texts)
        assert await here.known() == (None, None)
        here.now += LOOK_MS - 1
        assert await here.known() == (None, None)
        assert len(here.dns.questions) == 1 and not here.fetches
        here.announce("v=STSv1; id=3;")
        here.now += 1
        assert await here.known() == ("3", None)


@pytest.mark.parametrize(
    ("page", "word"),
    [
        (reply(301, policy(), more="Location: https://mta-sts.there.test/.well-known/mta-sts.txt\r\n"), "fetch-error"),
        (reply(404, policy()), "fetch-error"),
        (reply(206, policy()), "fetch-error"),
        (reply(200, policy(), kind="text/html"), "fetch-error"),
        (reply(200, policy(), kind=None), "fetch-error"),
        (reply(200, policy() + "x: " + "y" * 65536), "fetch-error"),
        (reply(200, "<html>"), "invalid"),
        (reply(200, policy(mode="strict")), "invalid"),
        (DRIP, "fetch-error"),
        (SILENCE, "fetch-error"),
    ],
    ids=["redirect", "404", "206", "html", "no type", "too long", "no policy", "no mode", "slow drip", "silence"],
)
async def test_an_answer_that_does_not_count_is_remembered_for_five_minutes(tmp_path, page, word):
    async with domain(tmp_path) as here:
        if page in (DRIP, SILENCE):
            here.web._deadline_s = BRIEF_S
        here.site.pages[PATH] = page
        assert await here.known() == (None, f"sts-policy-{word}")
        here.web._deadline_s = PATIENT_S
        here.site.pages[PATH] = reply(200, policy(), kind="text/plain; charset=utf-8")
        here.now += FAILED_MS - 1
        assert await here.known() == (None, f"sts-policy-{word}")
        assert here.fetches == 1
        here.now += 1
        assert await here.known() == ("1", None)


@pytest.mark.parametrize(
    "context",
    [
        server_context(AUTHORITY, NAME, **EXPIRED),
        server_context(AUTHORITY, "there.test"),
        server_context(trustme.CA(), NAME),
    ],
    ids=["expired", "wrong name", "unknown authority"],
)
async def test_a_web_server_that_does_not_prove_its_name_has_no_policy(tmp_path, context):
    async with domain(tmp_path, context) as here:
        assert await here.known() == (None, "sts-webpki-invalid")
        assert not here.site.requests


@pytest.mark.parametrize("what", ["record gone", "dns silent", "web gone", "web says otherwise"])
async def test_what_was_fetched_binds_whatever_is_said_later(tmp_path, what):
    async with domain(tmp_path) as here:
        assert await here.known() == ("1", None)
        match what:
            case "record gone":
                del here.dns.zone["_mta-sts.there.test"]
            case "dns silent":
                here.dns.zone["_mta-sts.there.test"] = Fault.SILENT
                here.resolver._stub.lifetime = here.resolver._stub.timeout = BRIEF_S
            case "web gone":
                here.announce("v=STSv1; id=2;")
                here.site.pages.clear()
            case _:
                here.announce("v=STSv1; id=2;")
                here.site.pages[PATH] = reply(200, "<html>")
        for _ in range(3):
            here.now += 2 * DAY_MS
            await here.looked()
            assert (await here.known())[0] == "1"
        here.now += 2 * DAY_MS
        assert (await here.known())[0] is None


async def test_it_binds_after_a_restart_with_the_web_server_and_dns_gone(tmp_path):
    async with domain(tmp_path) as here:
        await here.known()
        here.dns.zone.clear()
        here.site.pages.clear()
        here.restarted()
        here.now += DAY_MS
        assert await here.known() == ("1", None)


async def test_what_another_node_has_fetched_binds_here_too(tmp_path):
    async with domain(tmp_path) as here:
        there = here.policies
        here.announce()
        assert await here.known() == (None, None)
        here.announce("v=STSv1; id=1;")
        here.restarted()
        assert await here.known() == ("1", None)
        here.announce()
        here.now += LOOK_MS
        here.policies = there
        assert await here.known() == ("1", None)
        await here.looked()
        assert here.fetches == 1


async def test_a_new_id_is_noticed_within_an_hour_and_nobody_waits_for_it(tmp_path):
    async with domain(tmp_path) as here:
        await here.known()
        here.announce("v=STSv1; id=2;")
        here.site.pages[PATH] = reply(200, policy("none"))
        here.now += LOOK_MS - 1
        assert await here.known() == ("1", None)
        here.now += 1
        assert await here.known() == ("1", None)
        await here.looked()
        found = await here.policies.of("there.test")
        assert found.binding is not None and (found.binding.policy_id, found.binding.policy.mode) == ("2", "none")
        assert here.store.rows["there.test"].policy_id == "2"


async def test_it_is_fetched_anew_each_day_and_then_binds_longer(tmp_path):
    async with domain(tmp_path) as here:
        for day in range(20):
            await here.looked()
            assert here.fetches == day + 1
            assert (await here.known())[0] == "1"
            here.now += DAY_MS


async def test_a_short_policy_is_fetched_anew_before_it_ends(tmp_path):
    async with domain(tmp_path) as here:
        here.site.pages[PATH] = reply(200, policy(max_age=10 * 3600))
        for _ in range(30):
            await here.looked()
            assert (await here.known())[0] == "1"
            here.now += LOOK_MS
        assert here.fetches <= 7


async def test_a_policy_of_no_age_is_over_at_once(tmp_path):
    async with domain(tmp_path) as here:
        here.site.pages[PATH] = reply(200, policy(max_age=0))
        assert await here.known() == (None, None)


async def test_a_policy_that_keeps_mail_back_is_looked_at_but_not_all_the_time(tmp_path):
    async with domain(tmp_path) as here:
        await here.known()
        here.now += DOUBT_MS
        here.policies.doubt("there.test")
        here.policies.doubt("there.test")
        await here.looked()
        here.policies.doubt("there.test")
        await here.looked()
        assert len([kind for _, kind in here.dns.questions if kind == "TXT"]) == 2
        here.policies.doubt("unknown.test")


async def test_nobody_waits_long_for_what_is_not_known_and_the_late_answer_counts(tmp_path):
    async with domain(tmp_path) as here:
        here.policies._wait_s, here.web._deadline_s = 0.05, BRIEF_S
        here.site.pages[PATH] = SILENCE
        assert await here.known() == (None, None)
        while here.policies._looking:
            await asyncio.wait(list(here.policies._looking.values()))
        assert await here.known() == (None, "sts-policy-fetch-error")


async def test_a_store_that_is_away_costs_only_memory_of_it(tmp_path):
    async with domain(tmp_path) as here:
        here.store.away = True
        assert await here.known() == ("1", None)
        assert await here.known() == ("1", None)
        assert here.fetches == 1


async def test_what_is_in_use_is_refreshed_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("sendkit_server.deliver.mta_sts.ROUND_S", 0.01)
    async with domain(tmp_path) as here:
        await here.known()
        here.now += DAY_MS + SECOND_MS
        running = asyncio.create_task(here.policies.run())
        while here.fetches < 2:
            await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert here.fetches == 2
