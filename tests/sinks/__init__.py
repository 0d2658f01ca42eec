"""Servers to talk to: an SMTP sink that misbehaves as told, DNS with an answer for each name, HTTPS with one for each path,
a certificate authority."""

from sinks.acme import AcmeSink
from sinks.acme import Refusal as AcmeRefusal
from sinks.api import ApiSink, Call
from sinks.certificates import EXPIRED, server_context
from sinks.dns import PATIENT_S, DnsServer, Fault
from sinks.hostile import RawServer
from sinks.https import DRIP, HttpsSink, reply
from sinks.pebble import Pebble, free_ports
from sinks.proxy import proxy_header
from sinks.smtp import DROP, SILENCE, Received, Session, SmtpSink, own_addresses

__all__ = [
    "DRIP",
    "DROP",
    "EXPIRED",
    "PATIENT_S",
    "SILENCE",
    "AcmeRefusal",
    "AcmeSink",
    "ApiSink",
    "Call",
    "DnsServer",
    "Fault",
    "HttpsSink",
    "Pebble",
    "RawServer",
    "Received",
    "Session",
    "SmtpSink",
    "free_ports",
    "own_addresses",
    "proxy_header",
    "reply",
    "server_context",
]
