"""Certificates for servers that tests run."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

import trustme

EXPIRED = {"not_before": datetime(2020, 1, 1, tzinfo=UTC), "not_after": datetime(2020, 2, 1, tzinfo=UTC)}


def server_context(authority: trustme.CA, *names: str, **dates: datetime) -> ssl.SSLContext:
    """A server that shows a certificate for these names. dates: not_before, not_after."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **dates).configure_cert(context)
    return context
