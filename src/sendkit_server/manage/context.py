"""What the command line's actions work with, and what they answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from sendkit_server.manage.audit import Actor
from sendkit_server.manage.certificate_view import Wanted
from sendkit_server.manage.doctor import Doctor
from sendkit_server.manage.domains import DnsNames
from sendkit_server.model.instant import Instant
from sendkit_server.store.store import Store

Json = dict[str, Any]


class Context(msgspec.Struct, frozen=True):
    """What actions work with. entropy: n random bytes.  routes: how each way that mail can take is.  delay: why mail for a site
    waits in delivery's memory.  count_inbound: told what became of a mail that came back.  public_url: where links lead.
    certificates: which ones our listeners should have."""

    store: Store
    doctor: Doctor
    clock: Callable[[], Instant]
    entropy: Callable[[int], bytes]
    routes: Callable[[], list[Json]]
    delay: Callable[[str], str | None] = lambda site: None
    count_inbound: Callable[[str], None] = lambda kind: None
    public_url: str = ""
    certificates: Wanted = Wanted()

    @property
    def dns_names(self) -> DnsNames:
        """What records depend on."""
        return self.doctor.around.names

    def actor(self) -> Actor:
        """Whoever may use the command line."""
        return Actor("cli", self.clock(), self.entropy)
