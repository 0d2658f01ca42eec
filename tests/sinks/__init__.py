"""Servers to deliver to: an SMTP sink that misbehaves as told, and a DNS server with an answer for each name."""

from sinks.api import ApiSink, Call
from sinks.dns import DnsServer, Fault
from sinks.smtp import DROP, SILENCE, Received, Session, SmtpSink, own_addresses

__all__ = [
    "DROP",
    "SILENCE",
    "ApiSink",
    "Call",
    "DnsServer",
    "Fault",
    "Received",
    "Session",
    "SmtpSink",
    "own_addresses",
]
