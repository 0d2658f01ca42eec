"""The store's keys as the SMTP door asks for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import ApiKey
from sendkit_server.store.store import Store


class StoredKeys:
    """The store's keys as the SMTP door asks for them."""

    def __init__(self, store: Store, used: Callable[[ApiKey], None], clock: Callable[[], Instant]) -> None:
        self._store = store
        self._used = used
        self._clock = clock

    def lookup(self, secret: str) -> ApiKey | Awaitable[ApiKey | None] | None:
        """At once when it is known, else by reading."""
        cached = self._store.cached_key(secret, self._clock())
        if cached is None:
            return self._store.key(secret, self._clock())
        if cached[0] is not None:
            self._used(cached[0])
        return cached[0]
