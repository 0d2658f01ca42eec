"""What new source addresses have sent to the big receivers today, and whether they may send more.

A receiver that sees thousands of mails from an address which it has never seen takes it for a spammer's; so a new address
sends each of them a few on its first day, and more every day. The counts are kept in the store, added up over all nodes
every few seconds: a restart begins where the day was, and a kill forgets no more than those seconds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

from sendkit_server.deliver.plan import Way
from sendkit_server.model.instant import DAY_MS, Instant, day_of

WRITE_S = 5.0

Sent: TypeAlias = tuple[str, str, Instant]  # address, receiver, the day's first moment


class WarmUpStore(Protocol):
    """Where the counts are kept."""

    async def add_warm_up(self, sent: Mapping[Sent, int], day: Instant) -> dict[Sent, int]:
        """Adds to the counts; what all nodes have sent on this day."""


class WarmUps:
    """Of all addresses that are being warmed up."""

    def __init__(
        self,
        store: WarmUpStore,
        *,
        needed: bool,
        clock: Callable[[], Instant],
        fault: Callable[[str, BaseException], None],
    ) -> None:
        """needed: whether any address is being warmed up."""
        self._store = store
        self._clock = clock
        self._fault = fault
        self._needed = needed
        self._known: dict[Sent, int] = {}
        self._unwritten: Counter[Sent] = Counter()
        self._writing: Counter[Sent] = Counter()
        self.is_ready = not needed

    def take(self, way: Way, receiver: str, recipients: int) -> int | None:
        """Counts a mail to so many recipients. None: it may go; else the day's cap, which it would exceed."""
        warm_up, now = way.source.warm_up, self._clock()
        cap = None if warm_up is None else warm_up.cap(now)
        if cap is None:
            return None
        key = way.source.addresses[0], receiver, day_of(now)
        if self.sent(key) + recipients > cap:
            return cap
        self._unwritten[key] += recipients
        return None

    def sent(self, key: Sent) -> int:
        """How many recipients that is by now."""
        return self._known.get(key, 0) + self._writing[key] + self._unwritten[key]

    def of(self, address: str, day: Instant) -> dict[str, int]:
        """What an address has sent on a day, by receiver."""
        keys = {*self._known, *self._writing, *self._unwritten}
        return {key[1]: self.sent(key) for key in keys if key[0] == address and key[2] == day}

    def next_day(self) -> Instant:
        """When the caps are the next day's."""
        return day_of(self._clock()) + DAY_MS

    async def run(self) -> None:
        """Writes and reads for ever, when there is anything to warm up."""
        while self._needed:
            try:
                await self.write()
                self.is_ready = True
            except Exception as error:
                self._fault("delivery.warm_up_failed", error)
            await asyncio.sleep(WRITE_S)

    async def write(self) -> None:
        """Writes what is not written, and reads what others have."""
        self._writing, self._unwritten = self._unwritten, Counter()
        try:
            self._known = await self._store.add_warm_up(self._writing, day_of(self._clock()))
        except BaseException:
            self._unwritten.update(self._writing)
            raise
        finally:
            self._writing = Counter()

    async def close(self) -> None:
        """What is still to be written, before the end."""
        if self._unwritten:
            await self.write()
