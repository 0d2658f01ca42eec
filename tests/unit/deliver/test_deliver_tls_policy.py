"""MTA-STS and DANE towards mail servers that satisfy them, and towards those that do not."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from delivery_world import World, world
from sinks import EXPIRED, PATIENT_S, Fault, HttpsSink, SmtpSink, own_addresses, reply, server_context

from sendkit_server.deliver import Direct, Routing, Smarthost, chain_of
from sendkit_server.deliver.mta_sts import PolicyWeb, StsPolicies
from sendkit_server.deliver.tls_counts import TlsCounts
from sendkit_server.deliver.tls_policy import TlsPolicies
from sendkit_server.model.status import Status
from sendkit_server.net.dnssec import Dnssec
from sendkit_server.net.guard import Guard
from sendkit_server.net.tls_client import TlsClient
from sendkit_server.store.queries.tls import CountKey, StoredPolicy
from sendkit_server.store.values import Job

AUTHORITY = trustme.CA()
PATH = "/.well-known/mta-sts.txt"
MX = "mx.there.test"


class Kept:
    """Policies in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, StoredPolicy] = {}

    async def policy(self, domain: str) -> StoredPolicy | None:
        return self.rows.get(domain)

    async def keep_policy(self, policy: StoredPolicy) -> None:
        self.rows[policy.domain] = policy


class Tls:
    """What a deliverer of these tests knows of TLS, and what it has counted.

    wait_s: for a policy.  dnssec_s: for an answer with signatures. A test where one never comes sets them lower.
    """

    def __init__(self, site: HttpsSink, ca_file: Path) -> None:
        self.wait_s = self.dnssec_s = PATIENT_S
        self.site = site
        self.ca_file = ca_file
        self.written: Counter[CountKey] = Counter()
        self.counts: TlsCounts
        self.sts: StsPolicies

    def policies(self, here: World) -> TlsPolicies:
        async def write(counts: Mapping[CountKey, int]) -> None:
            self.written.update(counts)

        guard = Guard((ip_network("127.0.0.0/8"),))
        web = PolicyWeb(here.resolver, TlsClient(self.ca_file), guard, self.site.port, deadline_s=PATIENT_S)
        self.counts = TlsCounts(write, lambda: here.now)
        self.sts = StsPolicies(
            here.resolver, web.fetch, Kept(), clock=lambda: here.now, random=lambda: 0.5, wait_s=self.wait_s
        )
        dnssec = Dnssec([here.dns.address], deadline_s=self.dnssec_s)
        return TlsPolicies(self.sts, dnssec, self.counts, clock=lambda: here.now)

    async def counted(self) -> dict[tuple[str, str, str, str], int]:
        """By domain, policy, host and result."""
        await self.counts.flush()
        return {(key.domain, key.policy, key.mx_host, key.result): count for key, count in self.written.items()}


@pytest.fixture
async def tls(tmp_path: Path) -> AsyncIterator[Tls]:
    ca_file = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(ca_file)
    async with HttpsSink(server_context(AUTHORITY, "mta-sts.there.test")) as site:
        yield Tls(site, ca_file)


def zone(tls: Tls, *hosts: str, policy: str | None = None, mx: str | None = None) -> dict[str, object]:
    """there.test with its mail hosts' addresses. policy: mode of its MTA-STS policy.  mx: whom that names."""
    names = [MX, "mx2.there.test", "mx3.there.test"]
    found: dict[str, object] = {
        "there.test": {"MX": [f"{10 * n} {name}." for n, name in enumerate(names[: len(hosts)], 1)]},
        "mta-sts.there.test": {"A": ["127.0.0.1"]},
    }
    found |= {name: {"A": [host]} for name, host in zip(names, hosts, strict=False)}
    if policy is not None:
        found["_mta-sts.there.test"] = {"TXT": ['"v=STSv1; id=7;"']}
        lines = "".join(f"mx: {each}\n" for each in (mx or "*.there.test").split())
        tls.site.pages[PATH] = reply(200, f"version: STSv1\nmode: {policy}\n{lines}max_age: 86400\n")
    return found


@asynccontextmanager
async def delivering(
    tls: Tls, found: dict[str, object], port: int, *, authentic: Iterable[str] = (), **settings: object
) -> AsyncIterator[World]:
    settings.setdefault("ca_file", tls.ca_file)
    async with world(found, port, authentic=authentic, policies=tls.policies, **settings) as here:
        try:
            yield here
        finally:
            await tls.sts.close()


async def outcome(here: World, job: Job) -> tuple[Status, str | None, str | None, str]:
    """What the first try came to: status, reason, enhanced code, text."""
    await here.store.until(lambda: any(each.job.message.id == job.message.id for each in here.store.completions))
    update = here.store.update(job)
    return update.status, update.reason, update.enhanced, update.explanation or ""


def transcript(here: World) -> list[str]:
    attempt = here.store.completions[0].attempt
    assert attempt is not None
    return [line.text for line in attempt.transcript]


BAD: dict[str, tuple[Callable[[], ssl.SSLContext | None], str, str, str]] = {
    "wrong name": (
        lambda: server_context(AUTHORITY, "other.test"),
        "4.7.5",
        "certificate-host-mismatch",
        "not valid for",
    ),
    "expired": (lambda: server_context(AUTHORITY, MX, **EXPIRED), "4.7.5", "certificate-expired", "expired"),
    "unknown authority": (lambda: server_context(trustme.CA(), MX), "4.7.5", "certificate-not-trusted", "issuer"),
    "no STARTTLS": (lambda: None, "4.7.4", "starttls-not-supported", "does not offer STARTTLS"),
}


# MTA-STS


async def test_an_enforced_policy_is_satisfied_by_a_host_that_proves_its_name(tls):
    async with (
        SmtpSink(tls=server_context(AUTHORITY, MX)) as sink,
        delivering(tls, zone(tls, "127.0.0.1", policy="enforce"), sink.port) as here,
    ):
        here.send("ann@there.test")
        await here.store.until_settled()
        here.send("bob@there.test")
        await here.store.until_settled()
        assert [mail.tls for mail in sink.mails] == [True, True]
        assert transcript(here)[0] == "MTA-STS enforce (policy id 7 of there.test, mx *.there.test)"
        assert await tls.counted() == {("there.test", "sts", MX, "success"): len(sink.sessions)}
        assert len(tls.site.requests) == 1


@pytest.mark.parametrize("bad", [*BAD])
async def test_under_an_enforced_policy_nothing_goes_to_a_host_that_does_not(tls, bad):
    context, enhanced, result, why = BAD[bad]
    async with (
        SmtpSink(tls=context()) as sink,
        delivering(tls, zone(tls, "127.0.0.1", policy="enforce"), sink.port) as here,
    ):
        status, reason, code, text = await outcome(here, here.send("ann@there.test"))
        assert (status, reason, code) == (Status.DELAYED, "mta_sts_failed", enhanced)
        assert "policy of there.test (enforce, id 7)" in text and MX in text and why in text
        assert not sink.mails and not any(command.startswith("MAIL") for command in sink.commands)
        assert await tls.counted() == {("there.test", "sts", MX, result): 1}


@pytest.mark.parametrize("bad", [*BAD])
async def test_under_a_policy_in_testing_it_goes_and_is_counted(tls, bad):
    context, _, result, _ = BAD[bad]
    async with (
        SmtpSink(tls=context()) as sink,
        delivering(tls, zone(tls, "127.0.0.1", policy="testing"), sink.port) as here,
    ):
        here.send("ann@there.test")
        await here.store.until_settled()
        assert len(sink.mails) == 1
        assert transcript(here)[0].startswith("MTA-STS testing (policy id 7 of there.test")
        assert await tls.counted() == {("there.test", "sts", MX, result): 1}


@pytest.mark.parametrize("policy", [None, "none"])
async def test_without_a_policy_any_tls_is_a_success(tls, policy):
    found = zone(tls, "127.0.0.1", policy=policy)
    async with SmtpSink(tls=server_context(AUTHORITY, "x.test")) as sink, delivering(tls, found, sink.port) as here:
        here.send("ann@there.test")
        await here.store.until_settled()
        assert sink.mails[0].tls
        assert not any("MTA-STS" in line for line in transcript(here))
        assert await tls.counted() == {("there.test", "no-policy-found", MX, "success"): 1}


async def test_a_policy_that_cannot_be_had_is_told_and_counted_and_the_mail_goes(tls):
    found = zone(tls, "127.0.0.1", policy="enforce")
    tls.site.pages.clear()
    async with SmtpSink() as sink, delivering(tls, found, sink.port) as here:
        here.send("ann@there.test")
        await here.store.until_settled()
        assert len(sink.mails) == 1
        assert "the answer is 404" in transcript(here)[0]
        assert await tls.counted() == {("there.test", "sts", MX, "sts-policy-fetch-error"): 1}


async def test_hosts_that_the_policy_does_not_name_are_passed_by_however_many_there_are(tls):
    good, addresses = server_context(AUTHORITY, MX, "last.good.test"), own_addresses()
    evil = [f"evil{n}.test" for n in range(8)]
    found = zone(tls, policy="enforce", mx="*.good.test") | {
        "there.test": {"MX": [*(f"1 {name}." for name in evil), "90 last.good.test."]},
        "last.good.test": {"A": [next(addresses)]},
    }
    found |= {name: {"A": [found["last.good.test"]["A"][0]]} for name in evil}
    async with (
        SmtpSink(found["last.good.test"]["A"][0], tls=good) as sink,
        delivering(tls, found, sink.port) as here,
    ):
        here.send("ann@there.test")
        await here.store.until_settled()
        assert [mail.tls for mail in sink.mails] == [True]
        attempt = here.store.completions[0].attempt
        assert attempt is not None and attempt.host == "last.good.test"
        assert any("MTA-STS does not allow evil" in line for line in transcript(here))


async def test_no_host_that_the_policy_names_means_none(tls):
    found = zone(tls, "127.0.0.1", policy="enforce", mx="mx.elsewhere.test *.a.there.test")
    async with SmtpSink(tls=server_context(AUTHORITY, MX)) as sink, delivering(tls, found, sink.port) as here:
        status, reason, code, text = await outcome(here, here.send("ann@there.test"))
        assert (status, reason, code) == (Status.DELAYED, "mta_sts_failed", "4.7.0")
        assert f"does not allow {MX}: the policy does not name it" in text
        assert not sink.sessions
        assert await tls.counted() == {("there.test", "sts", MX, "validation-failure"): 1}


async def test_the_next_host_serves_when_the_first_does_not_satisfy(tls):
    addresses = own_addresses()
    first, second = next(addresses), next(addresses)
    async with AsyncExitStack() as stack:
        bad = await stack.enter_async_context(SmtpSink(first))
        good = SmtpSink(second, bad.port, tls=server_context(AUTHORITY, "mx2.there.test"))
        await stack.enter_async_context(good)
        found = zone(tls, first, second, policy="enforce")
        here = await stack.enter_async_context(delivering(tls, found, bad.port))
        here.send("ann@there.test")
        await here.store.until_settled()
        assert len(good.mails) == 1 and not bad.mails
        assert await tls.counted() == {
            ("there.test", "sts", MX, "starttls-not-supported"): 1,
            ("there.test", "sts", "mx2.there.test", "success"): 1,
        }


async def test_what_a_policy_keeps_back_no_other_route_takes_over_and_the_window_ends_it(tls):
    async with SmtpSink() as sink, SmtpSink() as relay:
        routing = Routing(chain_of(Direct(), Smarthost("localhost", relay.port)))
        found = zone(tls, "127.0.0.1", policy="enforce")
        async with delivering(tls, found, sink.port, routing=routing) as here:
            job = here.send("ann@there.test")
            assert (await outcome(here, job))[1] == "mta_sts_failed"
            here.move_on(3601)
            await here.store.until_settled()
            update = here.store.update(job)
            assert (update.status, update.reason) == (Status.FAILED, "mta_sts_failed")
            assert not sink.mails and not relay.sessions


async def test_a_policy_that_was_withdrawn_lets_go_what_it_kept_back(tls):
    async with (
        SmtpSink() as sink,
        delivering(tls, zone(tls, "127.0.0.1", policy="enforce"), sink.port) as here,
    ):
        here.now += 120_000
        await here.deliverer._policies.of("there.test")
        here.now += 120_000
        job = here.send("ann@there.test")
        here.dns.zone["_mta-sts.there.test"] = {"TXT": ['"v=STSv1; id=8;"']}
        tls.site.pages[PATH] = reply(200, "version: STSv1\nmode: none\nmax_age: 86400\n")
        assert (await outcome(here, job))[1] == "mta_sts_failed"
        while tls.sts._looking:
            await asyncio.wait(list(tls.sts._looking.values()))
        here.move_on(120)
        await here.store.until_settled()
        assert len(sink.mails) == 1


async def test_a_domain_whose_policy_is_slow_holds_up_no_other(tls):
    found = zone(tls, "127.0.0.1") | {"_mta-sts.there.test": Fault.SILENT, "fast.test": {"MX": [f"1 {MX}."]}}
    tls.wait_s = 2.0
    async with SmtpSink() as sink, delivering(tls, found, sink.port) as here:
        slow, fast = here.send("ann@there.test"), here.send("bob@fast.test")
        await outcome(here, fast)
        assert len(here.store.completions) == 1
        assert (await outcome(here, slow))[0] is Status.DELIVERED
        assert [mail.recipients for mail in sink.mails] == [["bob@fast.test"], ["ann@there.test"]]


async def test_domains_with_the_same_hosts_and_demands_share_connections_and_are_counted_each(tls):
    found = zone(tls, "127.0.0.1") | {"other.test": {"MX": [f"10 {MX}."]}}
    async with SmtpSink() as sink, delivering(tls, found, sink.port) as here:
        for address in ("ann@there.test", "bob@other.test", "cat@there.test", "dan@other.test"):
            here.send(address)
            await here.store.until_settled()
        assert len(sink.sessions) == 1
        assert await tls.counted() == {
            ("there.test", "no-policy-found", MX, "starttls-not-supported"): 1,
            ("other.test", "no-policy-found", MX, "starttls-not-supported"): 1,
        }


# DANE


def certificates(context_authority: trustme.CA, *names: str, **dates: object) -> tuple[ssl.SSLContext, bytes, bytes]:
    """A server's context, its certificate's key, and its authority's certificate, DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf = context_authority.issue_cert(*names, **dates)  # type: ignore[arg-type]
    leaf.configure_cert(context)
    certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    root = x509.load_pem_x509_certificate(context_authority.cert_pem.bytes()).public_bytes(Encoding.DER)
    return context, key, root


def record(usage: int, selector: int, matching: int, raw: bytes) -> str:
    data = raw if matching == 0 else hashlib.sha256(raw).digest() if matching == 1 else hashlib.sha512(raw).digest()
    return f"{usage} {selector} {matching} {data.hex()}"


def signed(tls: Tls, records: object, port: int, *hosts: str, **policy: str) -> dict[str, object]:
    found = zone(tls, *(hosts or ("127.0.0.1",)), **policy)
    found[f"_{port}._tcp.{MX}"] = records if isinstance(records, Fault) else {"TLSA": records}
    return found


async def test_the_servers_own_record_needs_neither_name_nor_date_nor_authority(tls):
    context, key, _ = certificates(trustme.CA(), "whatever.test", **EXPIRED)
    async with SmtpSink(tls=context) as sink:
        found = signed(tls, [record(3, 1, 1, key), record(3, 1, 1, b"the next key")], sink.port)
        async with delivering(tls, found, sink.port, authentic=found) as here:
            here.send("ann@there.test")
            await here.store.until_settled()
            attempt = here.store.completions[0].attempt
            assert sink.mails[0].tls
            assert attempt is not None and attempt.tls is not None and attempt.tls.endswith(" DANE verified")
            assert f"TLS {attempt.tls}" in transcript(here)
            assert await tls.counted() == {("there.test", "tlsa", MX, "success"): 1}


@pytest.mark.parametrize("policy", [None, "enforce"])
@pytest.mark.parametrize("bad", ["other key", "no STARTTLS", "STARTTLS refused"])
async def test_a_server_that_is_not_as_its_records_say_gets_nothing(tls, bad, policy):
    """Not even when it satisfies the domain's MTA-STS policy."""
    context, key, _ = certificates(AUTHORITY, MX)
    records = [record(3, 1, 1, b"another key" if bad == "other key" else key)]
    answers = {"STARTTLS": "454 4.7.0 not now"} if bad == "STARTTLS refused" else {}
    async with SmtpSink(tls=None if bad == "no STARTTLS" else context, answers=answers) as sink:
        found = signed(tls, records, sink.port, **({"policy": policy} if policy else {}))
        async with delivering(tls, found, sink.port, authentic=found) as here:
            status, reason, code, text = await outcome(here, here.send("ann@there.test"))
            assert (status, reason) == (Status.DELAYED, "dane_failed")
            assert code == ("4.7.5" if bad == "other key" else "4.7.4") and f"DANE does not allow {MX}" in text
            assert not sink.mails and not any(command.startswith("MAIL") for command in sink.commands)
            assert len(sink.sessions) == 1
            result = "validation-failure" if bad == "other key" else "starttls-not-supported"
            assert await tls.counted() == {("there.test", "tlsa", MX, result): 1}


@pytest.mark.parametrize(
    ("names", "dates", "kind", "expected"),
    [
        ((MX,), {}, (2, 0, 1), "success"),
        ((MX,), {}, (2, 1, 2), "success"),
        (("*.there.test",), {}, (2, 0, 1), "success"),
        (("there.test",), {}, (2, 0, 1), "certificate-host-mismatch"),
        ((MX,), EXPIRED, (2, 0, 1), "certificate-expired"),
    ],
    ids=["certificate", "key", "wildcard", "wrong name", "expired"],
)
async def test_an_issuers_record_needs_a_certificate_of_its_for_the_host(tls, names, dates, kind, expected):
    authority = trustme.CA().create_child_ca()
    context, _, root = certificates(authority, *names, **dates)
    certificate = x509.load_der_x509_certificate(root)
    raw = (
        root if kind[1] == 0 else certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    async with SmtpSink(tls=context) as sink:
        found = signed(tls, [record(*kind, raw)], sink.port)
        async with delivering(tls, found, sink.port, authentic=found) as here:
            status, reason, _, _ = await outcome(here, here.send("ann@there.test"))
            good = expected == "success"
            assert (status, reason) == ((Status.DELIVERED, "delivered") if good else (Status.DELAYED, "dane_failed"))
            assert len(sink.mails) == good
            assert await tls.counted() == {("there.test", "tlsa", MX, expected): 1}


@pytest.mark.parametrize("whole", [True, False])
async def test_an_issuer_that_the_server_does_not_send_must_stand_whole_in_dns(tls, whole):
    context, _, root = certificates(AUTHORITY, MX)
    async with SmtpSink(tls=context) as sink:
        found = signed(tls, [record(2, 0, 0 if whole else 1, root)], sink.port)
        async with delivering(tls, found, sink.port, authentic=found) as here:
            _, reason, _, text = await outcome(here, here.send("ann@there.test"))
            assert reason == ("delivered" if whole else "dane_failed")
            assert whole or "no certificate that it has sent is one in its TLSA records" in text


@pytest.mark.parametrize("offered", [True, False])
async def test_records_that_nobody_can_use_still_demand_tls(tls, offered):
    context, key, _ = certificates(trustme.CA(), "whatever.test")
    async with SmtpSink(tls=context if offered else None) as sink:
        found = signed(tls, [record(1, 1, 1, key), "3 1 9 abcd", "3 7 1 " + "ab" * 32], sink.port)
        async with delivering(tls, found, sink.port, authentic=found) as here:
            status, reason, _, _ = await outcome(here, here.send("ann@there.test"))
            assert (status, reason) == ((Status.DELIVERED, "delivered") if offered else (Status.DELAYED, "dane_failed"))
            assert [mail.tls for mail in sink.mails] == [True] * offered
            result = "tlsa-invalid" if offered else "starttls-not-supported"
            assert await tls.counted() == {("there.test", "tlsa", MX, result): 1}


@pytest.mark.parametrize("fault", [Fault.SERVFAIL, Fault.SILENT])
async def test_a_host_whose_records_are_kept_back_is_not_used_but_the_next_one_is(tls, fault):
    addresses = own_addresses()
    first, second = next(addresses), next(addresses)
    if fault is Fault.SILENT:
        tls.dnssec_s = 1.0
    async with SmtpSink(first) as bad, SmtpSink(second, bad.port) as good:
        found = signed(tls, fault, bad.port, first, second)
        async with delivering(tls, found, bad.port, authentic=found) as here:
            here.send("ann@there.test")
            await here.store.until_settled()
            assert len(good.mails) == 1 and not bad.sessions
            assert await tls.counted() == {
                ("there.test", "tlsa", MX, "dnssec-invalid"): 1,
                ("there.test", "no-policy-found", "mx2.there.test", "starttls-not-supported"): 1,
            }


async def test_without_another_host_the_mail_waits_and_says_so(tls):
    async with SmtpSink() as sink:
        found = signed(tls, Fault.SERVFAIL, sink.port)
        async with delivering(tls, found, sink.port, authentic=found) as here:
            status, reason, code, text = await outcome(here, here.send("ann@there.test"))
            assert (status, reason, code) == (Status.DELAYED, "dane_failed", "4.7.0")
            assert f"_{sink.port}._tcp.{MX}" in text
            assert not sink.sessions


@pytest.mark.parametrize("missing", ["there.test", MX, "tlsa"])
async def test_records_that_nobody_vouches_for_mean_nothing(tls, missing):
    context, _, _ = certificates(trustme.CA(), "whatever.test")
    async with SmtpSink(tls=context) as sink:
        found = signed(tls, [record(3, 1, 1, b"another key")], sink.port)
        authentic = set(found) - {f"_{sink.port}._tcp.{MX}" if missing == "tlsa" else missing}
        async with delivering(tls, found, sink.port, authentic=authentic) as here:
            here.send("ann@there.test")
            await here.store.until_settled()
            assert sink.mails[0].tls
            assert await tls.counted() == {("there.test", "no-policy-found", MX, "success"): 1}


async def test_a_host_with_records_is_used_though_the_enforced_policy_does_not_name_it(tls):
    context, key, _ = certificates(trustme.CA(), "whatever.test")
    async with SmtpSink(tls=context) as sink:
        found = signed(tls, [record(3, 1, 1, key)], sink.port, policy="enforce", mx="mx.elsewhere.test")
        async with delivering(tls, found, sink.port, authentic=found) as here:
            here.send("ann@there.test")
            await here.store.until_settled()
            assert sink.mails[0].tls


async def test_a_mail_that_requires_tls_goes_by_the_records_too(tls):
    context, key, _ = certificates(trustme.CA(), "whatever.test")
    async with SmtpSink(tls=context) as sink:
        found = signed(tls, [record(3, 1, 1, key)], sink.port)
        async with delivering(tls, found, sink.port, authentic=found) as here:
            here.deliverer.offer(strictly(here, "ann@there.test"))
            await here.store.until_settled()
            assert sink.mails[0].tls


def strictly(here: World, address: str) -> Job:
    """A job whose mail asks for TLS to a host that proves its name."""
    job = here.job(address)
    made = msgspec.structs.replace(job, message=msgspec.structs.replace(job.message, require_tls=True))
    return here.store.add(made)


async def test_mx_records_that_are_kept_back_keep_the_mail_back(tls):
    found = zone(tls, "127.0.0.1")
    async with SmtpSink() as sink, delivering(tls, found, sink.port) as here:
        await here.resolver.mail_hosts("there.test")
        here.dns.zone["there.test"] = Fault.SERVFAIL
        status, reason, _, text = await outcome(here, here.send("ann@there.test"))
        assert (status, reason) == (Status.DELAYED, "dane_failed")
        assert "Whether there.test has DANE could not be asked" in text
        assert not sink.sessions
