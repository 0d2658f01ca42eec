"""What delivery can be told: routes, limits, deadlines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from sendkit_server.deliver.route import Direct
from sendkit_server.deliver.routing import Routing, chain_of
from sendkit_server.model.retry import RetryPolicy
from sendkit_server.net.guard import Network


class Timeouts(msgspec.Struct, frozen=True):
    """Deadlines in seconds, each for a phase as a whole: one byte now and then does not extend it.

    After RFC 5321 4.5.3.2, but that an envelope has one deadline and not one for each command.
    """

    connect_s: float = 30.0
    opening_s: float = 300.0  # greeting, EHLO, STARTTLS, AUTH
    handshake_s: float = 60.0
    envelope_s: float = 300.0
    message_s: float = 600.0
    idle_s: float = 8.0  # a connection that has nothing to carry is closed

    def message_deadline_s(self, size_bytes: int) -> float:
        """For the message and the reply to it: a big mail on a slow line is given 16 KiB/s."""
        return self.message_s + size_bytes / 16384


class DeliverySettings(msgspec.Struct, frozen=True):
    """hostname: our name in EHLO.  own: our listeners as (address, port), never delivered to.

    lane_jobs, room_jobs, room_bytes: how much waits in memory, for one site and in all; the rest stays in the store.
    dkim_required: a mail that is not captured never leaves unsigned.  own_addresses: which of the routes' source addresses this
    machine has; None: all.
    """

    hostname: str
    routing: Routing = Routing(chain_of(Direct()))
    own_addresses: tuple[str, ...] | None = None
    mx_port: int = 25
    allow_private: tuple[Network, ...] = ()
    own: frozenset[tuple[str, int]] = frozenset()
    retry: RetryPolicy = RetryPolicy()
    timeouts: Timeouts = Timeouts()
    ca_file: Path | None = None
    dkim_required: bool = True
    connections: int = 4000  # in all; each is a file descriptor
    connections_per_site: int = 20
    messages_per_connection: int = 1000
    receivers: Mapping[str, Any] = MappingProxyType({})  # instead of what receivers.toml says, by name
    recipients_per_transaction: int = 100  # RFC 5321 4.5.3.1.8: every server takes as many
    lane_jobs: int = 2000
    room_jobs: int = 20_000
    room_bytes: int = 64 * 1024 * 1024
    unwritten_completions: int = 512
    longest_lane_pause_ms: int = 15 * 60 * 1000
    composers: int = 3
