"""The MTA-STS policies of recipients' domains (RFC 8461): found, kept, refreshed.

A domain that announces a policy by a TXT record has it fetched; the policy then binds for its max_age, whatever DNS or
the domain's web server say meanwhile, because whoever can suppress those answers could otherwise switch the policy off.
It is kept in memory and in the store, so that it outlives a restart and serves all nodes.

Who asks waits only when nothing is known, and for WAIT_S at most: a domain never seen before may then be sent to as one
without a policy, as RFC 8461 2 has it. The announcement is looked at again every LOOK_MS while mail flows; the policy is
fetched anew when its id has changed, and ahead of its end at a moment that is hard to foresee (RFC 8461 10.2).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
import structlog

from sendkit_server.deliver.tls_counts import SessionResult
from sendkit_server.model.instant import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Instant
from sendkit_server.net.guard import Guard
from sendkit_server.net.https import HttpsConnection, HttpsReply, HttpsTrouble, open_https
from sendkit_server.net.resolver import DnsProblem, DnsTrouble, Resolver
from sendkit_server.net.tls_client import TlsClient
from sendkit_server.store.errors import StoreError
from sendkit_server.store.queries.tls import StoredPolicy
from sendkit_server.wire.mta_sts import MAX_POLICY_BYTES, Mode, PolicyError, StsPolicy, parse_policy, policy_id

WAIT_S = 10.0  # what the first mail to a domain waits
FETCH_S = 60.0  # a fetch as a whole, RFC 8461 3.3
LOOK_MS = HOUR_MS  # how often a domain's TXT record is asked for
FAILED_MS = 5 * MINUTE_MS  # RFC 8461 3.3
NOT_ASKED_MS = MINUTE_MS  # DNS did not say whether there is one
DOUBT_MS = MINUTE_MS  # how often a policy that keeps mail from being sent is looked at
REFRESH_MS = DAY_MS
ROUND_S = 600.0
KNOWN_DOMAINS = 20_000
PATH = "/.well-known/mta-sts.txt"

log = structlog.get_logger("delivery")


class Binding(msgspec.Struct, frozen=True):
    """A policy that was fetched, and from when until when it counts."""

    domain: str
    policy_id: str
    policy: StsPolicy
    fetched_at: Instant
    expires_at: Instant


class Failure(msgspec.Struct, frozen=True):
    """Why an announced policy could not be had. result: RFC 8460's word.  text: for people."""

    result: SessionResult
    text: str


class Sts(msgspec.Struct, frozen=True):
    """What is known of a domain. binding None: no policy binds.  looked_at, look_at: when DNS was and will be asked."""

    binding: Binding | None
    failure: Failure | None
    looked_at: Instant
    look_at: Instant

    def binds(self, now: Instant) -> bool:
        """Whether there is a policy that has not expired."""
        return self.binding is not None and now < self.binding.expires_at


class PolicyStore(Protocol):
    """Where policies are kept. Both raise StoreError."""

    async def policy(self, domain: str) -> StoredPolicy | None:
        """A domain's policy, expired or not."""

    async def keep_policy(self, policy: StoredPolicy) -> None:
        """Write one down."""


class NotFetched(Exception):
    """A policy that could not be had."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


class PolicyWeb:
    """Where policies are fetched from: `https://mta-sts.<domain>/.well-known/mta-sts.txt`."""

    def __init__(
        self, resolver: Resolver, tls: TlsClient, guard: Guard, port: int, *, deadline_s: float = FETCH_S
    ) -> None:
        self._resolver = resolver
        self._tls = tls
        self._guard = guard
        self._port = port
        self._deadline_s = deadline_s

    async def fetch(self, domain: str) -> StsPolicy:
        """A domain's policy. NotFetched says why there is none."""
        try:
            async with asyncio.timeout(self._deadline_s):
                return _read(await self._get(f"mta-sts.{domain}"))
        except TimeoutError:
            error = f"no whole answer within {self._deadline_s:g} s"
            raise NotFetched(Failure(SessionResult.STS_POLICY_FETCH_ERROR, error)) from None
        except HttpsTrouble as trouble:
            word = SessionResult.STS_WEBPKI_INVALID if trouble.unproved else SessionResult.STS_POLICY_FETCH_ERROR
            raise NotFetched(Failure(word, str(trouble))) from None
        except PolicyError as error:
            raise NotFetched(Failure(SessionResult.STS_POLICY_INVALID, f"the policy is invalid: {error}")) from None

    async def _get(self, host: str) -> HttpsReply:
        connection: HttpsConnection = await open_https(
            host, self._port, resolver=self._resolver, tls=self._tls, guard=self._guard, deadline_s=self._deadline_s
        )
        try:
            return await connection.request("GET", PATH, deadline_s=self._deadline_s, max_body_bytes=MAX_POLICY_BYTES)
        finally:
            connection.close()


def _read(reply: HttpsReply) -> StsPolicy:
    # A redirect is no answer (RFC 8461 3.3): it could lead to what somebody else may write.
    if reply.status != 200:
        raise HttpsTrouble(f"the answer is {reply.status}, and only 200 counts", sent=True)
    kind = (reply.header("content-type") or "").partition(";")[0].strip().lower()
    if kind != "text/plain":
        raise HttpsTrouble(f"the answer's type is {kind[:40] or 'not said'}, and only text/plain counts", sent=True)
    return parse_policy(reply.body)


class StsPolicies:
    """What is known of domains; asks for what is not.

    changed: told a domain of which something else is known now.
    """

    def __init__(
        self,
        resolver: Resolver,
        web: Callable[[str], Awaitable[StsPolicy]],
        store: PolicyStore,
        *,
        clock: Callable[[], Instant],
        random: Callable[[], float],
        wait_s: float = WAIT_S,
    ) -> None:
        self.changed: Callable[[str], None] = lambda domain: None
        self._resolver = resolver
        self._web = web
        self._store = store
        self._clock = clock
        self._random = random
        self._wait_s = wait_s
        self._known: OrderedDict[str, Sts] = OrderedDict()
        self._looking: dict[str, asyncio.Task[Sts]] = {}

    async def of(self, domain: str) -> Sts:
        """What is known of a domain. It is asked for when nothing is, and in the background when it is old."""
        known, now = self._known.get(domain), self._clock()
        if known is not None and now < known.look_at:
            return known
        if known is None or not known.binds(now):
            # Perhaps another node, or this one before it was started anew, knows of a policy that binds.
            known = await self._from_store(domain)
        if known is not None:
            self._look(domain, known)
            return known
        task = self._look(domain, None)
        done, _ = await asyncio.wait([task], timeout=self._wait_s)
        if done:
            return task.result()
        # The answer may come yet; it then takes the place of this one.
        return self._keep(domain, Sts(None, None, now, now + FAILED_MS))

    def doubt(self, domain: str) -> None:
        """A policy keeps mail from being sent: look whether there is a newer one (RFC 8461 5.1)."""
        known = self._known.get(domain)
        if known is not None and self._clock() >= known.looked_at + DOUBT_MS:
            self._look(domain, known)

    async def run(self) -> None:
        """Refreshes for ever what is in use, ahead of its end."""
        while True:
            await asyncio.sleep(ROUND_S * (0.5 + self._random()))
            for domain, known in list(self._known.items()):
                if known.binds(self._clock()) and self._is_old(known.binding):
                    await asyncio.wait([self._look(domain, known)])

    async def close(self) -> None:
        """Gives up what is being asked."""
        tasks = list(self._looking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _from_store(self, domain: str) -> Sts | None:
        try:
            stored = await self._store.policy(domain)
        except StoreError as error:
            log.warning("mta_sts.not_read", domain=domain, error=str(error))
            return None
        if stored is None or stored.expires_at <= self._clock():
            return None
        # Whether the announcement has changed since is asked in the background, at once.
        return self._keep(domain, Sts(_binding(stored), None, 0, 0))

    def _look(self, domain: str, known: Sts | None) -> asyncio.Task[Sts]:
        task = self._looking.get(domain)
        if task is None:
            task = self._looking[domain] = asyncio.create_task(self._found(domain, known))
        return task

    async def _found(self, domain: str, known: Sts | None) -> Sts:
        now = self._clock()
        binding = known.binding if known is not None and known.binds(now) else None
        try:
            found = await self._ask(domain, binding, now)
        except Exception as error:
            log.error("mta_sts.fault", domain=domain, exc_info=error)
            found = Sts(binding, None, now, now + FAILED_MS)
        finally:
            del self._looking[domain]
        kept = self._keep(domain, found)
        self.changed(domain)
        return kept

    async def _ask(self, domain: str, binding: Binding | None, now: Instant) -> Sts:
        texts = await self._resolver.texts(f"_mta-sts.{domain}")
        if isinstance(texts, DnsProblem):
            unasked = texts.trouble is DnsTrouble.UNAVAILABLE
            return Sts(binding, None, now, now + (NOT_ASKED_MS if unasked else LOOK_MS))
        announced = policy_id(texts)
        if announced is None or (binding is not None and announced == binding.policy_id and not self._is_old(binding)):
            return Sts(binding, None, now, now + LOOK_MS)
        try:
            policy = await self._web(domain)
        except NotFetched as error:
            log.warning("mta_sts.not_fetched", domain=domain, result=str(error.failure.result), why=str(error))
            return Sts(binding, error.failure, now, now + FAILED_MS)
        fetched_at = self._clock()
        found = Binding(domain, announced, policy, fetched_at, fetched_at + policy.max_age_s * SECOND_MS)
        await self._write(found)
        return Sts(found, None, now, now + LOOK_MS)

    async def _write(self, found: Binding) -> None:
        policy = found.policy
        stored = StoredPolicy(
            found.domain, found.policy_id, str(policy.mode), policy.mx, found.fetched_at, found.expires_at
        )
        try:
            await self._store.keep_policy(stored)
        except StoreError as error:
            log.warning("mta_sts.not_written", domain=found.domain, error=str(error))

    def _is_old(self, binding: Binding | None) -> bool:
        if binding is None:
            return True
        after_ms = min(REFRESH_MS, (binding.expires_at - binding.fetched_at) // 2)
        return self._clock() >= binding.fetched_at + round(after_ms * (0.8 + 0.2 * self._random()))

    def _keep(self, domain: str, found: Sts) -> Sts:
        self._known[domain] = found
        self._known.move_to_end(domain)
        if len(self._known) > KNOWN_DOMAINS:
            self._known.popitem(last=False)
        return found


def _binding(stored: StoredPolicy) -> Binding:
    policy = StsPolicy(Mode(stored.mode), stored.mx, (stored.expires_at - stored.fetched_at) // SECOND_MS)
    return Binding(stored.domain, stored.policy_id, policy, stored.fetched_at, stored.expires_at)
