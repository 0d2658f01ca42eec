"""Names to mail hosts and addresses, against a DNS server that misbehaves as told."""

from __future__ import annotations

import asyncio

import pytest
from sinks import PATIENT_S, DnsServer, Fault

from sendkit_server.net.resolver import (
    MAX_MX,
    DnsProblem,
    DnsTrouble,
    Mx,
    Resolver,
    in_order,
    interleaved,
    parse_server,
)


def trouble(answer: object) -> DnsTrouble:
    assert isinstance(answer, DnsProblem), answer
    return answer.trouble


async def test_mail_hosts_come_by_preference_and_in_lower_case():
    async with DnsServer({"a.test": {"MX": ["20 MX2.a.test.", "10 mx1.a.test."]}}) as dns:
        hosts = await Resolver([dns.address]).mail_hosts("a.test")
        assert hosts == (Mx(10, "mx1.a.test"), Mx(20, "mx2.a.test"))


async def test_each_kind_of_nothing_is_told_apart():
    zone = {
        "null.test": {"MX": ["0 ."]},
        "implicit.test": {"A": ["192.0.2.1"]},
        "nothing.test": {"TXT": ['"x"']},
        "broken.test": Fault.SERVFAIL,
        "silent.test": Fault.SILENT,
        "loop.test": Fault.LOOP,
    }
    async with DnsServer(zone) as dns:
        resolver = Resolver([dns.address], deadline_s=PATIENT_S)
        assert trouble(await resolver.mail_hosts("missing.test")) is DnsTrouble.NO_DOMAIN
        assert trouble(await resolver.mail_hosts("null.test")) is DnsTrouble.NULL_MX
        assert trouble(await resolver.mail_hosts("nothing.test")) is DnsTrouble.NO_ADDRESS
        assert trouble(await resolver.mail_hosts("broken.test")) is DnsTrouble.UNAVAILABLE
        hasty = Resolver([dns.address], deadline_s=0.5)
        assert trouble(await hasty.mail_hosts("silent.test")) is DnsTrouble.UNAVAILABLE
        assert trouble(await resolver.mail_hosts("loop.test")) is DnsTrouble.UNAVAILABLE
        assert await resolver.mail_hosts("implicit.test") == (Mx(0, "implicit.test"),)
        assert len(dns.questions) < 40


async def test_a_null_mx_beside_others_is_ignored():
    async with DnsServer({"a.test": {"MX": ["0 .", "10 mx.a.test."]}}) as dns:
        assert await Resolver([dns.address]).mail_hosts("a.test") == (Mx(10, "mx.a.test"),)


async def test_a_cut_answer_is_asked_for_again_over_tcp_and_a_wrong_id_is_not_believed():
    zone = {
        "cut.test": {"MX": ["10 mx.cut.test."], "!": Fault.TRUNCATED},
        "forged.test": {"MX": ["10 mx.forged.test."], "!": Fault.WRONG_ID},
    }
    async with DnsServer(zone) as dns:
        resolver = Resolver([dns.address])
        assert await resolver.mail_hosts("cut.test") == (Mx(10, "mx.cut.test"),)
        assert await resolver.mail_hosts("forged.test") == (Mx(10, "mx.forged.test"),)


async def test_no_more_than_fifty_hosts_are_considered():
    async with DnsServer({"a.test": {"MX": [f"{n} mx{n}.a.test." for n in range(80)]}}) as dns:
        hosts = await Resolver([dns.address]).mail_hosts("a.test")
        assert not isinstance(hosts, DnsProblem)
        assert [mx.preference for mx in hosts] == list(range(MAX_MX))


async def test_both_families_are_mixed_and_one_alone_is_enough():
    zone = {
        "both.test": {"A": ["192.0.2.1", "192.0.2.2"], "AAAA": ["2001:db8::1"]},
        "four.test": {"A": ["192.0.2.3"]},
    }
    async with DnsServer(zone) as dns:
        resolver = Resolver([dns.address])
        both = await resolver.addresses("both.test")
        assert not isinstance(both, DnsProblem)
        assert both[0] == "2001:db8::1" and set(both[1:]) == {"192.0.2.1", "192.0.2.2"}
        assert await resolver.addresses("four.test") == ("192.0.2.3",)


async def test_many_who_ask_at_once_make_one_question_and_the_answer_is_kept():
    now = 0.0
    async with DnsServer({"a.test": {"MX": ["10 mx.a.test."]}}, ttl_s=60) as dns:
        resolver = Resolver([dns.address], clock=lambda: now)
        await asyncio.gather(*(resolver.mail_hosts("a.test") for _ in range(50)))
        assert len(dns.questions) == 1
        assert resolver.known_mail_hosts("a.test") == (Mx(10, "mx.a.test"),)
        now = 59.0
        await resolver.mail_hosts("a.test")
        assert len(dns.questions) == 1
        now = 61.0
        assert resolver.known_mail_hosts("a.test") is None
        await resolver.mail_hosts("a.test")
        assert len(dns.questions) == 2


async def test_a_ttl_of_zero_does_not_make_each_mail_ask():
    async with DnsServer({"a.test": {"MX": ["10 mx.a.test."]}}, ttl_s=0) as dns:
        resolver = Resolver([dns.address])
        for _ in range(5):
            await resolver.mail_hosts("a.test")
        assert len(dns.questions) == 1


async def test_who_gives_up_waiting_does_not_take_the_answer_from_the_others():
    async with DnsServer({"a.test": {"MX": ["10 mx.a.test."]}}) as dns:
        resolver = Resolver([dns.address])
        first = asyncio.create_task(resolver.mail_hosts("a.test"))
        second = asyncio.create_task(resolver.mail_hosts("a.test"))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == (Mx(10, "mx.a.test"),)
        with pytest.raises(asyncio.CancelledError):
            await first


@pytest.mark.parametrize("name", ["a..test", "x" * 64 + ".test", ".".join(["abcdefgh"] * 40)])
async def test_what_is_no_name_is_no_domain(name: str):
    async with DnsServer({}) as dns:
        assert trouble(await Resolver([dns.address]).mail_hosts(name)) is DnsTrouble.NO_DOMAIN


NOTHING: dict[str, object] = {
    "missing.test": {},
    "null.test": {"null.test": {"MX": ["0 ."]}},
    "nothing.test": {"nothing.test": {"TXT": ['"x"']}},
}


@pytest.mark.parametrize("name", NOTHING)
async def test_that_there_is_nothing_is_believed_of_one_server_when_there_is_only_one(name: str):
    async with DnsServer(NOTHING[name]) as dns:  # type: ignore[arg-type]
        found = trouble(await Resolver([dns.address, dns.address]).mail_hosts(name))
        assert found is not DnsTrouble.UNAVAILABLE


@pytest.mark.parametrize("name", NOTHING)
async def test_that_there_is_nothing_needs_two_servers_to_say_so_when_there_are_more(name: str):
    nothing: dict[str, object] = NOTHING[name]  # type: ignore[assignment]
    knows = {name: {"MX": ["10 mx.there.test."]}}
    async with (
        DnsServer(nothing) as first,  # type: ignore[arg-type]
        DnsServer({name: Fault.SERVFAIL}) as second,
        DnsServer(nothing) as third,  # type: ignore[arg-type]
        DnsServer(knows) as fourth,
    ):

        async def asked(*servers: DnsServer) -> object:
            return await Resolver([server.address for server in servers], deadline_s=PATIENT_S).mail_hosts(name)

        alone = trouble(await asked(first))
        assert trouble(await asked(first, second)) is DnsTrouble.UNAVAILABLE
        assert trouble(await asked(first, second, third)) is alone
        assert await asked(first, second, fourth) == (Mx(10, "mx.there.test"),)
        problem = await asked(first, second)
        assert isinstance(problem, DnsProblem) and name in problem.text and "no other one confirms" in problem.text


async def test_two_servers_that_disagree_why_there_is_nothing_end_no_mail():
    async with DnsServer({}) as first, DnsServer({"a.test": {"MX": ["0 ."]}}) as second:
        found = await Resolver([first.address, second.address]).mail_hosts("a.test")
        assert trouble(found) is DnsTrouble.UNAVAILABLE


def test_equals_are_shuffled_and_preferences_kept():
    hosts = (Mx(10, "a"), Mx(10, "b"), Mx(20, "c"))
    descending = iter([0.9, 0.1, 0.0])
    assert in_order(hosts, lambda: next(descending)) == ["b", "a", "c"]
    ascending = iter([0.1, 0.9, 0.0])
    assert in_order(hosts, lambda: next(ascending)) == ["a", "b", "c"]


def test_lists_are_interleaved():
    assert interleaved([["a", "b", "c"], ["x"]]) == ("a", "x", "b", "c")
    assert interleaved([]) == ()


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.1", "192.0.2.1", 53),
        ("192.0.2.1:5353", "192.0.2.1", 5353),
        ("[::1]:54", "::1", 54),
        ("::1", "::1", 53),
    ],
)
def test_servers_are_read(text: str, address: str, port: int):
    server = parse_server(text)
    assert (server.address, server.port) == (address, port)


@pytest.mark.parametrize("text", ["dns.test", "192.0.2.1:x", "", "[::1"])
def test_what_is_no_server_is_refused(text: str):
    with pytest.raises(ValueError):
        Resolver([text])
