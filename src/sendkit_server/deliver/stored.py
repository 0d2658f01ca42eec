"""The store as delivery sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import structlog

from sendkit_server.compose.signing import Signers
from sendkit_server.deliver.room import Bounds
from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import Content
from sendkit_server.store.queries import tls as queries
from sendkit_server.store.queries import warm_up
from sendkit_server.store.queries.tls import CountKey, StoredPolicy
from sendkit_server.store.store import Store
from sendkit_server.store.values import Claim, Completion, Job
from sendkit_server.wire.dkim import DkimKey

log = structlog.get_logger("delivery")


class DeliveryView:
    """The store as delivery sees it: claims in this node's name, keys to sign with."""

    def __init__(self, store: Store, signers: Signers, clock: Callable[[], Instant]) -> None:
        self._store = store
        self._signers = signers
        self._clock = clock
        self._after_site = ""

    async def claim(self, *, exclude_sites: frozenset[str], urgent_only: frozenset[str], bounds: Bounds) -> list[Job]:
        """Due recipients, now this node's own. Looks round all sites, slice by slice, until it finds some."""
        began_at = self._after_site
        while True:
            claimed = await self._store.claim(
                Claim(
                    self._store.owner,
                    self._clock(),
                    exclude_sites,
                    bounds.per_site,
                    bounds.limit,
                    self._after_site,
                    urgent_only=urgent_only,
                    least=bounds.least,
                    site_bytes=bounds.site_bytes,
                    room_bytes=bounds.room_bytes,
                )
            )
            self._after_site = claimed.reached
            if claimed.jobs or (not claimed.reached and not began_at):
                return claimed.jobs
            if not claimed.reached:
                # What lies before the place where this round began is still to be seen.
                began_at = ""

    async def content(self, team_id: int, content_id: str) -> Content:
        """A content that did not come along with its job."""
        return await self._store.content(team_id, content_id)

    async def signing_keys(self, team_id: int, domain: str) -> tuple[DkimKey, ...]:
        """A domain's DKIM keys."""
        return await self._signers.keys(team_id, domain)

    async def complete(self, completion: Completion) -> None:
        """Writes what a try came to, and what it says about the addresses."""
        if not await self._store.complete(completion):
            log.warning("delivery.lost_ownership", message=completion.job.message.id)
        team_id, suppressed = completion.job.message.team_id, self._store.suppressed
        for new in completion.suppressions:
            suppressed.add(team_id, new.address)
            log.info("address.suppressed", message=completion.job.message.id, reason="bounce")
        for address in completion.soft_bounces:
            judge = partial(suppressed.suppress_soft, team_id=team_id, address=address, now=completion.at)
            await self._store.write_quietly(judge)

    async def add_warm_up(self, sent: Mapping[warm_up.Sent, int], day: Instant) -> dict[warm_up.Sent, int]:
        """Adds to the counts of what new addresses have sent; what all nodes have on this day."""
        if not sent:
            return await self._store.read(lambda connection: warm_up.on_day(connection, day))
        return await self._store.write_quietly(lambda connection: warm_up.add(connection, sent, day))

    async def next_due(self) -> Instant | None:
        """When something unowned is due."""
        return await self._store.next_due()


class TlsView:
    """The store as what knows of TLS sees it: policies that bind, counts of how they were kept."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def policy(self, domain: str) -> StoredPolicy | None:
        """A domain's MTA-STS policy, expired or not."""
        return await self._store.read(lambda connection: queries.find_policy(connection, domain))

    async def keep_policy(self, policy: StoredPolicy) -> None:
        """Writes one down."""
        await self._store.write_quietly(lambda connection: queries.keep_policy(connection, policy))

    async def add_counts(self, counts: Mapping[CountKey, int]) -> None:
        """Adds to what was counted."""
        await self._store.write_quietly(lambda connection: queries.add_counts(connection, counts))
