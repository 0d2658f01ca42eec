"""Servers to deliver to: an SMTP sink that misbehaves as told, and a DNS server with an answer for each name."""

from sinks.dns import DnsServer, Fault
from sinks.hostile import RawServer
from sinks.smtp import DROP, SILENCE, Received, Session, SmtpSink, own_addresses

__all__ = ["DROP", "SILENCE", "DnsServer", "Fault", "RawServer", "Received", "Session", "SmtpSink", "own_addresses"]
