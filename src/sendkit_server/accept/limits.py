"""How much a key, a team and a new domain may send. All off unless the operator says otherwise."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from sendkit_server.model.instant import DAY_MS, MINUTE_MS, SECOND_MS, Instant, day_of, day_start, to_datetime
from sendkit_server.model.mail import ApiKey
from sendkit_server.model.refusal import QUOTA_EXCEEDED, Refusal, Refused, restricted_to
from sendkit_server.store.directory import SendingDomain
from sendkit_server.store.queries.usage import Counted
from sendkit_server.store.usage import Usage

TEAM_RATE, KEY_RATE = "rate-team", "rate-key"
KEY_DAY, TEAM_MONTH, DOMAIN_DAY, DOMAIN_SINCE = "key-day", "team-month", "domain-day", "domain-since"
# Recipients a day of a domain, by its age in days; behind the last there is no limit.
WARM_UP = (50, 50, 100, 200, 500, 1_000, 1_000, 2_000, 2_000, 2_000, 5_000, 5_000, 5_000, 5_000)


class LimitSettings(msgspec.Struct, frozen=True):
    """None: no limit. rates: calls a minute.  monthly_quota: recipients of a team.  warm_up: new domains begin slowly."""

    team_rate: int | None = None
    key_rate: int | None = None
    monthly_quota: int | None = None
    warm_up: bool = False

    @property
    def any_amount(self) -> bool:
        """Whether recipients are counted."""
        return self.monthly_quota is not None or self.warm_up


class Rate(msgspec.Struct, frozen=True):
    """Where a caller stands. reset_s: seconds until the next window.  refused: this call is one too many."""

    limit: int
    remaining: int
    reset_s: int
    refused: bool = False

    @property
    def refusal(self) -> Refusal:
        """429 rate_limit_exceeded / 451 4.7.1."""
        message = f"Rate limit exceeded. Please retry after {self.reset_s} seconds."
        return Refusal("rate_limit_exceeded", message, 429, 451, "4.7.1", retry_after_s=self.reset_s)


class Limits:
    """Asks and counts. Everything raises StoreUnavailable while counts that are not known yet cannot be read."""

    def __init__(self, settings: LimitSettings, usage: Usage) -> None:
        self.settings = settings
        self._usage = usage
        rates = ((KEY_RATE, settings.key_rate), (TEAM_RATE, settings.team_rate))
        self._rates = [(kind, limit) for kind, limit in rates if limit is not None]

    async def call(self, key: ApiKey, now: Instant) -> Rate | None:
        """Counts one call: where its caller stands; None when calls are not limited."""
        if not self._rates:
            return None
        window = now - now % MINUTE_MS
        reset_s = max(1, -(-(window + MINUTE_MS - now) // SECOND_MS))
        closest = least = -1
        for kind, limit in self._rates:
            counted = Counted(key.team_id, kind, key.id if kind is KEY_RATE else "", window)
            fits, used = await self._usage.take(counted, 1, limit, now)
            if not fits:
                return Rate(limit, 0, reset_s, refused=True)
            if least < 0 or limit - used < least:
                closest, least = limit, limit - used
        return Rate(closest, least, reset_s)

    async def take(self, key: ApiKey, domain: SendingDomain | None, recipients: int, now: Instant) -> list[Counted]:
        """Counts a mail's recipients where that is limited: what it was added to. Refused when it would be too many."""
        taken: list[Counted] = []
        try:
            await self._take_all(key, domain, recipients, now, taken)
        except BaseException:
            self.give_back(taken, recipients)
            raise
        return taken

    def give_back(self, taken: list[Counted], recipients: int) -> None:
        """The mail was not stored after all."""
        for counted in taken:
            self._usage.give_back(counted, recipients)

    async def _take_all(
        self, key: ApiKey, domain: SendingDomain | None, recipients: int, now: Instant, taken: list[Counted]
    ) -> None:
        daily = key.restrictions.daily_limit
        if daily is not None:
            counted = Counted(key.team_id, KEY_DAY, key.id, day_of(now))
            fits, used = await self._usage.take(counted, recipients, daily, now)
            if not fits:
                raise Refused(
                    restricted_to(f"This API key may send to {daily} recipients a day, and has sent to {used} today.")
                )
            taken.append(counted)
        if key.test:
            return  # nothing of it leaves
        if self.settings.monthly_quota is not None:
            counted = Counted(key.team_id, TEAM_MONTH, "", _month_of(now))
            if not (await self._usage.take(counted, recipients, self.settings.monthly_quota, now)).fits:
                raise Refused(QUOTA_EXCEEDED)
            taken.append(counted)
        if self.settings.warm_up and domain is not None:
            await self._warm_up(key.team_id, domain, recipients, now, taken)

    async def _warm_up(
        self, team_id: int, domain: SendingDomain, recipients: int, now: Instant, taken: list[Counted]
    ) -> None:
        today = day_of(now)
        # By its name: receivers know nothing of ids, and one that is removed and added again has a new id.
        since = await self._usage.since(team_id, DOMAIN_SINCE, domain.name, today)
        day = (today - since) // DAY_MS
        if day >= len(WARM_UP):
            return
        counted = Counted(team_id, DOMAIN_DAY, domain.name, today)
        fits, used = await self._usage.take(counted, recipients, WARM_UP[day], now)
        if not fits:
            raise Refused(_warming_up(domain.name, day, WARM_UP[day], used, since, now))
        taken.append(counted)


def _warming_up(name: str, day: int, limit: int, used: int, since: Instant, now: Instant) -> Refusal:
    ends = to_datetime(since + len(WARM_UP) * DAY_MS)
    message = (
        f"Domain warmup limit reached for {name}. Daily limit: {limit} emails. Sent today: {used}. "
        f"Warmup completes on {ends:%Y-%m-%d}."
    )
    extra = {
        "domain": name,
        "daily_limit": limit,
        "emails_sent_today": used,
        "warmup_day": day,
        "warmup_ends_at": f"{ends:%Y-%m-%dT%H:%M:%SZ}",
    }
    midnight_s = (day_of(now) + DAY_MS - now) // SECOND_MS + 1
    return Refusal("warmup_limit", message, 429, 451, "4.7.1", retry_after_s=midnight_s, extra=tuple(extra.items()))


def _month_of(now: Instant) -> Instant:
    return _month_of_day(day_of(now))


@lru_cache(maxsize=8)
def _month_of_day(day: Instant) -> Instant:
    return day_start(f"{to_datetime(day):%Y-%m}-01")
