"""Servers to talk to: an SMTP sink that misbehaves as told, DNS with an answer for each name, HTTPS with one for each path."""

from sinks.api import ApiSink, Call
from sinks.certificates import EXPIRED, server_context
from sinks.dns import DnsServer, Fault
from sinks.hostile import RawServer
from sinks.https import DRIP, HttpsSink, reply
from sinks.smtp import DROP, SILENCE, Received, Session, SmtpSink, own_addresses

__all__ = [
    "DRIP",
    "DROP",
    "EXPIRED",
    "SILENCE",
    "ApiSink",
    "Call",
    "DnsServer",
    "Fault",
    "HttpsSink",
    "RawServer",
    "Received",
    "Session",
    "SmtpSink",
    "own_addresses",
    "reply",
    "server_context",
]
