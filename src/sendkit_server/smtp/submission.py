"""What the submission door is given: its settings, the keys, and who accepts what it took in."""

from __future__ import annotations

from collections.abc import Awaitable
from enum import StrEnum
from typing import Protocol

import msgspec

from sendkit_server.model.mail import Accepted, ApiKey, RawSubmission
from sendkit_server.model.refusal import Refusal
from sendkit_server.net.proxied import NO_PROXIES, Proxies


class Mode(StrEnum):
    """How a listener speaks: TLS after STARTTLS, TLS from the first byte, or plainly for development."""

    STARTTLS = "starttls"
    TLS = "tls"
    DEV = "dev"


class SubmissionSettings(msgspec.Struct, frozen=True):
    """Limits and clocks of one listener.

    idle_s: without a whole command.  crowded_idle_s: the same for clients without a login, once four fifths of
    max_connections are taken.  command_s: from a command's first byte to its last.  A message must bring
    data_rate_bytes per data_rate_s on average once data_grace_s have passed, may pause for data_stall_s, and must be
    over after message_s.  linger_s: for a client to read the last reply and hang up.  proxies: who may say for whom they
    come; one that has said nothing for proxy_s is the client itself.
    """

    hostname: str
    max_message_bytes: int = 41_943_040
    max_recipients: int = 50
    max_errors: int = 10
    idle_s: float = 300.0
    crowded_idle_s: float = 10.0
    command_s: float = 60.0
    data_rate_bytes: int = 1_024
    data_rate_s: float = 10.0
    data_grace_s: float = 60.0
    data_stall_s: float = 180.0
    message_s: float = 3_600.0
    handshake_s: float = 30.0
    linger_s: float = 2.0
    max_connections: int = 1_000
    max_connections_per_address: int = 250
    proxies: Proxies = NO_PROXIES
    proxy_s: float = 0.5


class KeyRing(Protocol):
    """Finds keys by their secret."""

    def lookup(self, secret: str) -> ApiKey | Awaitable[ApiKey | None] | None:
        """The key; None when it is unknown, revoked or expired. At once when that is known, else to be awaited."""


class Acceptor(Protocol):
    """Takes mail in, or refuses it."""

    def check_mail(self, key: ApiKey, client: str) -> Refusal | None:
        """Whether the key may (still) begin or finish a mail; None when it may."""

    async def accept_raw(self, submission: RawSubmission) -> Accepted | Refusal:
        """Durable once it returns Accepted."""
