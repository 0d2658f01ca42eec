"""What all connections of one door share."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from sendkit_server.model.mail import ApiKey
from sendkit_server.smtp.peers import ConnectionCounts, FailedLogins
from sendkit_server.smtp.submission import Acceptor, KeyRing, SubmissionSettings

if TYPE_CHECKING:
    from sendkit_server.smtp.connection import Connection


class Service:
    """Settings, keys and acceptance, who is connected, and whether the door is closing. empty: nobody is connected."""

    def __init__(
        self,
        settings: SubmissionSettings,
        keys: KeyRing,
        acceptor: Acceptor,
        *,
        tls: Callable[[], ssl.SSLContext] | None,
        dev_key: ApiKey | None,
        on_error: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self.keys = keys
        self.acceptor = acceptor
        self.tls = tls
        self.dev_key = dev_key
        self.on_error = on_error
        self.counts = ConnectionCounts(settings.max_connections, settings.max_connections_per_address)
        self.failed_logins = FailedLogins(settings.max_failed_logins, settings.failed_logins_window_s)
        self.connections: set[Connection] = set()
        self.draining = False
        self.empty = asyncio.Event()
        self.empty.set()
