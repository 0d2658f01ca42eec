"""Which host is asked, over which route, and what one bad site costs the others."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from contextlib import AsyncExitStack

import msgspec
from delivery_world import FAST, LOOPBACK, mx, world
from sinks import SILENCE, DnsServer, Fault, SmtpSink, own_addresses

from sendkit_server.deliver import Capture, Direct, Routing, Smarthost, Timeouts, chain_of, probe
from sendkit_server.deliver.dial import of_this_turn
from sendkit_server.model.status import Status
from sendkit_server.net.guard import Guard
from sendkit_server.net.resolver import Resolver


def closed_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as taken:
        taken.bind((host, 0))
        return int(taken.getsockname()[1])


async def test_many_mails_share_few_connections_and_all_arrive_once():
    async with SmtpSink() as sink, world(mx(), sink.port) as here:
        jobs = [here.send(f"u{n}@there.test") for n in range(300)]
        await here.store.until_settled()
        assert sorted(mail.recipients[0] for mail in sink.mails) == sorted(f"u{n}@there.test" for n in range(300))
        assert sink.most_open <= 20
        assert len(sink.sessions) <= 20
        assert all(here.store.update(job).attempts == 1 for job in jobs)


async def test_two_domains_at_one_site_share_a_lane_and_one_message_to_both_one_transaction():
    zone = {**mx(), "also.test": {"MX": ["10 mx.there.test."]}}
    async with SmtpSink() as sink, world(zone, sink.port) as here:
        first = here.job("ann@there.test")
        second = msgspec.structs.replace(here.job("bob@also.test"), message=first.message)
        second = msgspec.structs.replace(
            second, recipients=(msgspec.structs.replace(second.recipients[0], n=1),), site="also.test"
        )
        here.store.recipients.clear()
        here.store.add(first)
        here.store.add(second)
        await here.resolver.mail_hosts("there.test")
        await here.resolver.mail_hosts("also.test")
        here.deliverer.offer(first)
        here.deliverer.offer(second)
        await here.store.until_settled()
        assert [mail.recipients for mail in sink.mails] == [["ann@there.test", "bob@also.test"]]
        assert sink.mails[0].return_path == "bounce-None@out.test"
        assert len(here.store.completions) == 2
        assert len(here.deliverer.lanes()) == 1


async def test_recipients_at_one_domain_have_a_return_path_that_names_the_first_the_same_at_each_try():
    greeted: set[str] = set()

    def greylist(session: object, argument: str) -> str | None:
        known = argument in greeted
        greeted.add(argument)
        return None if known else "450 4.2.0 later"

    async with SmtpSink(answers={"RCPT": greylist}) as sink, world(mx(), sink.port) as here:
        job = here.send("ann@there.test", "bob@there.test")
        await here.store.until(lambda: here.store.waits(job, 0) and here.store.waits(job, 1))
        here.now += 3_600_000
        here.deliverer.wake()
        await here.store.until_settled()
        senders = [command.split()[1] for command in sink.commands if command.startswith("MAIL")]
        assert senders == ["FROM:<bounce-0@out.test>"] * 2


async def test_a_mail_that_is_composed_before_there_is_a_connection_needs_only_one():
    async with SmtpSink() as sink, world(mx(), sink.port) as here:
        for name in ("ann", "bob"):
            job = here.job(f"{name}@there.test")
            here.deliverer.foresee(job)
            here.deliverer.offer(job)
            await here.store.until_settled()
        assert [mail.recipients for mail in sink.mails] == [["ann@there.test"], ["bob@there.test"]]
        assert len(sink.sessions) == 1


async def test_connections_in_all_are_limited_and_idle_ones_give_way():
    domains = [f"d{n}.test" for n in range(12)]
    zone: dict[str, object] = {}
    for domain, address in zip(domains, own_addresses(), strict=False):
        zone.update(mx(address, domain))
    async with AsyncExitStack() as stack:
        sinks = [await stack.enter_async_context(SmtpSink(next(own_addresses())))]
        port = sinks[0].port
        for address in list(itertools.islice(own_addresses(), 12))[1:]:
            sinks.append(await stack.enter_async_context(SmtpSink(address, port)))
        long_idle = msgspec.structs.replace(FAST, idle_s=60.0)
        here = await stack.enter_async_context(world(zone, port, connections=3, timeouts=long_idle))
        for domain in domains:
            here.send(f"a@{domain}")
            here.send(f"b@{domain}")
        opened: list[int] = []

        def all_arrived() -> bool:
            opened.append(sum(lane.connections for lane in here.deliverer.lanes()))
            return sum(len(sink.mails) for sink in sinks) == 24

        await here.store.until(all_arrived)
        assert max(opened) <= 3


async def test_what_is_logged_names_no_address():
    async with SmtpSink(answers={"RCPT": [None, "550 5.1.1 no", "450 later"]}) as sink, world(mx(), sink.port) as here:
        for name in ("ann", "bob", "eve"):
            here.send(f"{name}@there.test")
            await here.store.until(lambda: all(update for _, _, update in here.store.recipients.values()))
        events = [event for event, _ in here.log.lines]
        assert events == ["delivery.delivered", "delivery.failed", "delivery.deferred"]
        assert {"message", "site", "host", "code", "next_at"} <= here.log.lines[2][1].keys()
        assert not any("@" in str(fields) for _, fields in here.log.lines)


async def test_mail_for_a_paused_route_takes_the_next_one_at_once_and_says_so():
    async with SmtpSink() as relay:
        routing = Routing(chain_of(Direct(), Smarthost("127.0.0.1", relay.port)))
        async with world(mx(), closed_port(), routing=routing) as here:
            here.send("ann@there.test")
            await here.store.until_settled()
            here.send("bob@there.test")
            await here.store.until_settled()
            attempt = here.store.completions[1].attempt
            assert attempt is not None and "route direct is paused" in attempt.transcript[0].text
            assert len(relay.mails) == 2


async def test_a_paused_first_route_does_not_keep_due_mail_from_the_next():
    async with SmtpSink() as relay:
        routing = Routing(chain_of(Direct(), Smarthost("127.0.0.1", relay.port)))
        async with world(mx(), closed_port(), routing=routing) as here:
            here.send("ann@there.test")
            await here.store.until_settled()
            here.store.add(here.job("bob@there.test"), unowned_from=here.now)
            here.deliverer.wake()
            await here.store.until_settled()
            assert len(relay.mails) == 2


async def test_a_resolver_that_fails_delays_the_mail_and_forgets_none():
    async def broken(_domain: str) -> object:
        raise RuntimeError("no more sockets")

    async with world({}) as here:
        here.resolver.mail_hosts = broken
        jobs = [here.send("a@there.test"), here.send("b@there.test")]
        await here.store.until(lambda: len(here.store.completions) == 2)
        assert {here.store.update(job).reason for job in jobs} == {"dns_unavailable"}
        here.log.faults.clear()


async def test_a_dead_first_host_gives_way_to_the_second_in_the_same_try():
    addresses = own_addresses()
    dead, alive = next(addresses), next(addresses)
    zone = {
        "there.test": {"MX": ["10 dead.there.test.", "20 alive.there.test."]},
        "dead.there.test": {"A": [dead]},
        "alive.there.test": {"A": [alive]},
    }
    async with SmtpSink(alive) as sink, world(zone, sink.port) as here:
        job = here.send("ann@there.test")
        await here.store.until_settled()
        attempt = here.store.completions[0].attempt
        assert attempt is not None and attempt.host == "alive.there.test"
        assert any("not connected to dead.there.test" in line.text for line in attempt.transcript)
        assert here.store.update(job).attempts == 1


async def test_a_host_that_refuses_in_its_greeting_gives_way_to_the_second():
    addresses = own_addresses()
    rude, kind = next(addresses), next(addresses)
    zone = {
        "there.test": {"MX": ["10 rude.there.test.", "20 kind.there.test."]},
        "rude.there.test": {"A": [rude]},
        "kind.there.test": {"A": [kind]},
    }
    async with (
        SmtpSink(kind) as sink,
        SmtpSink(rude, sink.port, answers={"greeting": "554 5.3.2 no service"}),
        world(zone, sink.port) as here,
    ):
        here.send("ann@there.test")
        await here.store.until_settled()
        assert len(sink.mails) == 1


async def test_a_dead_site_defers_all_that_waits_and_counts_one_try():
    async with world(mx(), closed_port()) as here:
        jobs = [here.send(f"u{n}@there.test") for n in range(20)]
        await here.store.until(lambda: len(here.store.completions) == 20)
        updates = [here.store.update(job) for job in jobs]
        assert {update.status for update in updates} == {Status.DELAYED}
        assert {update.reason for update in updates} == {"connect_failed"}
        assert sorted(update.attempts for update in updates) == [0] * 19 + [1]
        assert all(update.next_attempt_at and update.next_attempt_at > here.now for update in updates)
        assert all("delivery_delayed" in here.store.events(job) for job in jobs)
        (lane,) = here.deliverer.lanes()
        assert lane.next_attempt_at is not None and "connection refused" in lane.reason


async def test_a_paused_site_is_left_out_of_the_claim_and_asked_again_afterwards():
    port = closed_port()
    async with world(mx(), port) as here:
        job = here.send("ann@there.test")
        await here.store.until(lambda: len(here.store.completions) == 1)
        here.store.claims.clear()
        here.deliverer.wake()
        async with asyncio.timeout(5):
            while not here.store.claims:
                await asyncio.sleep(0.01)
        assert here.store.claims[-1] == frozenset({"there.test"})
        async with SmtpSink(port=port):
            here.move_on(61)
            await here.store.until_settled()
        assert here.store.update(job).status is Status.DELIVERED
        assert here.store.update(job).attempts == 2


async def test_a_slow_site_holds_nobody_else():
    addresses = own_addresses()
    slow_address, quick_address = next(addresses), next(addresses)
    zone = {**mx(slow_address, "slow.test"), **mx(quick_address, "quick.test")}
    async with (
        SmtpSink(quick_address) as quick,
        SmtpSink(slow_address, quick.port, answers={"greeting": SILENCE}) as slow,
        world(zone, quick.port, timeouts=Timeouts()) as here,
    ):
        for n in range(2000):
            here.send(f"u{n}@slow.test")
        job = here.job("ann@quick.test")
        assert not here.deliverer.has_room("slow.test", 1000)
        assert here.deliverer.has_room("quick.test", 1000)
        started = time.monotonic()
        here.deliverer.offer(job)
        await here.store.until(lambda: here.store.recipients[(job.message.id, 0)][2] is not None)
        assert here.store.update(job).status is Status.DELIVERED
        assert time.monotonic() - started < 5
        assert slow.most_open <= 2
        await here.deliverer.drain(0)
        assert len(here.store.completions) >= 2000


async def test_many_slow_sites_leave_room_for_one_that_is_not():
    addresses = own_addresses()
    slow_address, quick_address = next(addresses), next(addresses)
    zone = mx(quick_address, "quick.test")
    for n in range(30):
        zone.update(mx(slow_address, f"slow{n}.test"))
    async with (
        SmtpSink(quick_address) as quick,
        SmtpSink(slow_address, quick.port, answers={"greeting": SILENCE}),
        world(zone, quick.port, timeouts=Timeouts(), room_jobs=400, lane_jobs=100) as here,
    ):
        for n in range(30):
            await here.resolver.mail_hosts(f"slow{n}.test")
            while here.deliverer.has_room(f"slow{n}.test", 1000):
                here.send(f"a@slow{n}.test")
        assert here.deliverer.has_room("quick.test", 1000)
        job = here.send("ann@quick.test")
        await here.store.until(lambda: here.store.recipients[(job.message.id, 0)][2] is not None)
        assert here.store.update(job).status is Status.DELIVERED


async def test_null_mx_and_a_missing_domain_bounce_and_broken_dns_defers():
    zone = {
        "null.test": {"MX": ["0 ."]},
        "empty.test": {"TXT": ['"nothing"']},
        "broken.test": Fault.SERVFAIL,
        "silent.test": Fault.SILENT,
        "lost.test": {"MX": ["10 nowhere.lost.test."]},
    }
    async with world(zone) as here:
        here.resolver._stub.lifetime = 3.0  # for the one that never answers
        jobs = {name: here.send(f"a@{name}.test") for name in ("null", "missing", "empty", "broken", "silent", "lost")}
        await here.store.until(lambda: len(here.store.completions) == len(jobs))
        found = {name: here.store.update(job) for name, job in jobs.items()}
        assert {name: (u.status, u.enhanced) for name, u in found.items()} == {
            "null": (Status.BOUNCED, "5.1.10"),
            "missing": (Status.BOUNCED, "5.1.2"),
            "empty": (Status.BOUNCED, "5.1.2"),
            "broken": (Status.DELAYED, "4.4.3"),
            "silent": (Status.DELAYED, "4.4.3"),
            "lost": (Status.DELAYED, "4.4.4"),
        }


async def test_a_domain_without_mx_is_delivered_to_its_own_address():
    async with SmtpSink() as sink, world({"there.test": {"A": ["127.0.0.1"]}}, sink.port) as here:
        here.send("ann@there.test")
        await here.store.until_settled()
        assert len(sink.mails) == 1


async def test_private_addresses_are_refused_without_a_packet():
    async with SmtpSink() as sink, world(mx(), sink.port, allow_private=()) as here:
        job = here.send("ann@there.test")
        await here.store.until(lambda: len(here.store.completions) == 1)
        update = here.store.update(job)
        assert (update.status, update.reason, update.enhanced) == (Status.DELAYED, "address_refused", "4.4.4")
        assert "loopback" in update.explanation
        assert not sink.sessions


async def test_our_own_listener_is_refused_even_in_an_allowed_network():
    async with SmtpSink() as sink, world(mx(), sink.port, own=frozenset({("127.0.0.1", sink.port)})) as here:
        job = here.send("ann@there.test")
        await here.store.until(lambda: len(here.store.completions) == 1)
        assert here.store.update(job).reason == "address_refused"
        assert not sink.sessions


async def test_mail_hosts_that_are_this_server_are_not_delivered_to():
    zone = {"there.test": {"MX": ["10 out.test.", "20 other.test."]}, "other.test": {"A": ["127.0.0.1"]}}
    async with world(zone) as here:
        job = here.send("ann@there.test")
        await here.store.until(lambda: len(here.store.completions) == 1)
        assert (here.store.update(job).reason, here.store.update(job).enhanced) == ("loops_back", "5.4.6")


async def test_the_next_route_takes_over_when_the_first_cannot_connect():
    async with SmtpSink() as relay:
        routing = Routing(chain_of(Direct(), Smarthost("127.0.0.1", relay.port)))
        async with world(mx(), closed_port(), routing=routing) as here:
            jobs = [here.send(f"u{n}@there.test") for n in range(3)]
            await here.store.until_settled()
            assert len(relay.mails) == 3
            attempts = [completion.attempt for completion in here.store.completions]
            assert {attempt.route for attempt in attempts if attempt} == {"smarthost"}
            lines = [line.text for attempt in attempts if attempt for line in attempt.transcript]
            assert any("not connected to mx.there.test" in line for line in lines)
            assert [here.store.update(job).attempts for job in jobs] == [1, 1, 1]


async def test_a_bounce_by_the_first_route_is_final():
    async with SmtpSink() as relay:
        routing = Routing(chain_of(Direct(), Smarthost("127.0.0.1", relay.port)))
        async with world({}, routing=routing) as here:
            job = here.send("ann@missing.test")
            await here.store.until_settled()
            assert here.store.update(job).status is Status.BOUNCED
            assert not relay.mails


async def test_a_captured_mail_never_leaves_whatever_the_route():
    async with SmtpSink() as sink, world(mx(), sink.port) as here:
        job = here.send("ann@there.test", capture=True)
        await here.store.until_settled()
        (completion,) = here.store.completions
        assert completion.captured is not None and b"Subject: Hello" in completion.captured
        assert completion.attempt is not None and completion.attempt.host == "capture"
        assert here.store.events(job) == ["sent", "delivered"]
        assert not sink.sessions
        assert not here.deliverer.any_delivery
        here.send("ann@there.test")
        await here.store.until_settled()
        assert here.deliverer.any_delivery


async def test_the_capture_route_takes_every_mail():
    async with world({}, routing=Routing(chain_of(Capture()))) as here:
        job = here.send("ann@anywhere.test")
        await here.store.until_settled()
        assert here.store.update(job).status is Status.DELIVERED


async def test_a_mail_without_a_dkim_key_waits_unsigned_mail_never_leaves():
    async with SmtpSink() as sink, world(mx(), sink.port, dkim_required=True) as here:
        job = here.send("ann@there.test")
        captured = here.send("bob@there.test", capture=True)
        await here.store.until(lambda: len(here.store.completions) == 2)
        assert (here.store.update(job).status, here.store.update(job).reason) == (Status.DELAYED, "dkim_key_missing")
        assert here.store.update(captured).status is Status.DELIVERED
        assert not sink.mails


async def test_a_failing_signer_delays_only_its_own_mail():
    def broken(_data: bytes) -> bytes:
        raise RuntimeError("the card is gone")

    from sendkit_server.wire.dkim import DkimKey

    async with SmtpSink() as sink, world(mx(), sink.port) as here:
        here.store.keys = (DkimKey("here.test", "s1", "rsa-sha256", broken),)
        job = here.send("ann@there.test")
        await here.store.until(lambda: len(here.store.completions) == 1)
        assert (here.store.update(job).status, here.store.update(job).reason) == (Status.DELAYED, "compose_failed")
        assert not sink.mails
        assert [event for event, _ in here.log.faults] == ["delivery.compose_failed"]
        here.log.faults.clear()


async def test_unowned_work_is_claimed_when_it_is_due():
    async with SmtpSink() as sink, world(mx(), sink.port) as here:
        job = here.job("ann@there.test")
        here.store.add(job, unowned_from=here.now + 5000)
        here.move_on(5)
        await here.store.until_settled()
        assert len(sink.mails) == 1


async def test_a_backlog_flows_through_a_small_memory_without_a_pause():
    async with SmtpSink() as sink, world(mx(), sink.port, lane_jobs=20, room_jobs=100) as here:
        for n in range(400):
            here.store.add(here.job(f"u{n}@there.test"), unowned_from=here.now)
        most = 0

        def all_there() -> bool:
            nonlocal most
            most = max(most, sum(lane.waiting + lane.in_flight for lane in here.deliverer.lanes()))
            return len(sink.mails) == 400

        started = time.monotonic()
        here.deliverer.wake()
        await here.store.until(all_there)
        # 400 mails in claims of at most 10: a pause of a second after each full lane would take many seconds.
        assert time.monotonic() - started < 5
        assert most <= 30


async def test_there_is_room_for_new_mail_only_while_a_part_of_the_memory_is_free():
    async with (
        SmtpSink(answers={"greeting": SILENCE}) as sink,
        world(mx(), sink.port, room_jobs=40, lane_jobs=40) as here,
    ):
        taken = 0
        while here.deliverer.has_room("there.test", 1000):
            here.send(f"u{taken}@there.test")
            taken += 1
        assert taken < 30
    async with SmtpSink(answers={"greeting": SILENCE}) as sink, world(mx(), sink.port, room_bytes=4000) as here:
        assert here.deliverer.has_room("there.test", 1_000_000)
        here.send("ann@there.test")
        assert not here.deliverer.has_room("else.test", 1_000_000)
        assert here.deliverer.has_room("else.test", 2000)


async def test_an_outcome_that_cannot_be_written_is_written_later_and_the_mail_not_sent_twice():
    async with SmtpSink() as sink, world(mx(), sink.port) as here:
        here.store.fails = 2
        here.send("ann@there.test")
        await here.store.until_settled()
        assert len(sink.mails) == 1
        assert len(here.store.completions) == 1
        assert [event for event, _ in here.log.faults] == ["delivery.complete_failed"] * 2
        here.log.faults.clear()


async def test_draining_hands_back_what_waits_and_finishes_what_is_on_the_wire():
    addresses = own_addresses()
    slow_address, quick_address = next(addresses), next(addresses)
    zone = {**mx(slow_address, "slow.test"), **mx(quick_address, "quick.test")}
    async with (
        SmtpSink(quick_address) as quick,
        SmtpSink(slow_address, quick.port, answers={"greeting": SILENCE}),
        world(zone, quick.port) as here,
    ):
        waiting = [here.send(f"u{n}@slow.test") for n in range(5)]
        delivered = here.send("ann@quick.test")
        await here.store.until(lambda: here.store.recipients[(delivered.message.id, 0)][2] is not None)
        await here.deliverer.drain(0.5)
        for job in waiting:
            update = here.store.update(job)
            assert (update.status, update.attempts, update.next_attempt_at) == (Status.QUEUED, 0, here.now)
            assert here.store.events(job) == []
        assert not here.deliverer.has_room("quick.test", 1)


async def test_draining_does_not_wait_for_a_mail_whose_turn_has_not_come():
    limits = {"there": {"mx": ["there.test"], "rate": 20}}
    async with SmtpSink() as sink, world(mx(), sink.port, timeouts=Timeouts(), receivers=limits) as here:
        first = here.send("ann@there.test")
        await here.store.until_settled()
        second = here.send("bob@there.test")
        await here.until_lanes(lambda lane: lane.connections == 1 and lane.in_flight + lane.waiting == 1)
        started = time.monotonic()
        await here.deliverer.drain(30)
        assert time.monotonic() - started < 1.5
        assert here.store.update(first).status is Status.DELIVERED
        assert here.store.waits(second) and len(sink.mails) == 1


async def test_idle_connections_close_after_a_while():
    quick = msgspec.structs.replace(FAST, idle_s=0.1)
    async with SmtpSink() as sink, world(mx(), sink.port, timeouts=quick) as here:
        here.send("ann@there.test")
        await here.store.until_settled()
        async with asyncio.timeout(5):
            while sink.open_now:
                await asyncio.sleep(0.02)
        assert sink.commands[-1] == "QUIT"


async def test_the_probe_tells_an_open_port_from_a_closed_one_and_from_no_dns():
    zone = {**mx(domain="open.test"), "broken.test": Fault.SERVFAIL}
    async with DnsServer(zone) as dns, SmtpSink() as sink:
        resolver, guard = Resolver([dns.address], deadline_s=1), Guard(LOOPBACK)
        assert (await probe(["open.test"], resolver, guard, sink.port)).reachable is True
        assert (await probe(["open.test"], resolver, guard, closed_port(), timeout_s=1)).reachable is False
        assert (await probe(["broken.test"], resolver, guard, sink.port)).reachable is None


def test_of_many_hosts_each_try_asks_the_best_one_and_others_in_turn():
    hosts = [f"mx{n}" for n in range(12)]
    asked = [of_this_turn(hosts, turn) for turn in range(3)]
    assert asked[0] == hosts[:5] and all(one[0] == "mx0" and len(one) == 5 for one in asked)
    assert set().union(*asked) == set(hosts)
    assert of_this_turn(hosts[:5], 7) == hosts[:5]


async def test_dead_hosts_do_not_hide_for_ever_what_stands_behind_them():
    addresses = own_addresses()
    dead = [next(addresses) for _ in range(6)]
    async with SmtpSink(next(addresses)) as sink:
        zone = {"there.test": {"MX": [f"{n} mx{n}.there.test." for n in range(7)]}}
        zone |= {f"mx{n}.there.test": {"A": [host]} for n, host in enumerate([*dead, sink.host])}
        async with world(zone, sink.port) as here:
            job = here.send("ann@there.test")
            await here.store.until(lambda: len(here.store.completions) == 1)
            assert here.store.update(job).status is Status.DELAYED
            here.move_on(120)
            await here.store.until_settled()
            assert [mail.recipients for mail in sink.mails] == [["ann@there.test"]]


async def test_what_waits_in_memory_says_for_its_turn_and_why():
    limits = {"there": {"mx": ["there.test"], "connections": 1}}
    async with SmtpSink(answers={"dot": SILENCE}) as sink, world(mx(), sink.port, receivers=limits) as here:
        first, second = here.send("ann@there.test"), here.send("bob@there.test")
        async with asyncio.timeout(10):
            while not sink.bodies:
                await asyncio.sleep(0.01)
        assert here.deliverer.turn("there.test", first.message.id) == "It is being delivered now."
        busy = "It waits for its turn at there.test: the only connection is at work."
        assert here.deliverer.turn("there.test", second.message.id) == busy
        assert here.deliverer.turn("else.test", second.message.id) == "It waits for its turn at else.test."


async def test_what_waits_behind_a_rate_or_a_push_back_says_so():
    limits = {"there": {"mx": ["there.test"], "rate": 20}, "busy": {"mx": ["busy.test"]}}
    zone = {**mx(), **mx(domain="busy.test")}
    answers = {"RCPT": lambda session, argument: "421 4.7.0 not now" if "busy" in argument else None}
    async with SmtpSink(answers=answers) as sink, world(zone, sink.port, timeouts=Timeouts(), receivers=limits) as here:
        here.send("ann@there.test")
        here.send("ann@busy.test")
        await here.store.until(lambda: len(here.store.completions) == 2)
        slow, paused = here.send("bob@there.test"), here.send("bob@busy.test")
        await asyncio.sleep(0.1)
        assert here.deliverer.turn("there.test", slow.message.id).endswith(": it gets 20 mails a minute.")
        told = here.deliverer.turn("busy.test", paused.message.id)
        assert "paused until " in told and "The site pushes back: 421 4.7.0 not now" in told
