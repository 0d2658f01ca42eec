"""The DNS of the benchmark, a process of its own: every name ending in .test has mx.test as its MX, mx.test is 127.0.0.1.

A name such as `n07.a-127-1-0-5.site.test` is a site of its own, whose MX has the address that it spells; to one that
spells `silent` there is no answer. Prints its port once it serves, on UDP and TCP.
"""

from __future__ import annotations

import re
import socketserver
import sys
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

_SITE = re.compile(r"(mx\.)?[a-z0-9]+\.a-(\d+)-(\d+)-(\d+)-(\d+)\.site\.test\.")


def answer(packet: bytes) -> bytes:
    """The reply to a question; nothing when there is to be none."""
    asked = dns.message.from_wire(packet)
    question = asked.question[0]
    name = question.name.to_text().lower()
    reply = dns.message.make_response(asked)
    reply.flags |= dns.flags.RA
    if ".silent." in name:
        return b""
    if site := _SITE.fullmatch(name):
        mx, *numbers = site.groups()
        if mx is None and question.rdtype == dns.rdatatype.MX:
            reply.answer.append(dns.rrset.from_text(question.name, 300, "IN", "MX", f"10 mx.{name}"))
        elif mx is not None and question.rdtype == dns.rdatatype.A:
            address = ".".join(str(int(number)) for number in numbers)
            reply.answer.append(dns.rrset.from_text(question.name, 300, "IN", "A", address))
    elif not name.endswith(".test."):
        reply.set_rcode(dns.rcode.NXDOMAIN)
    elif question.rdtype == dns.rdatatype.A and name == "mx.test.":
        reply.answer.append(dns.rrset.from_text(question.name, 300, "IN", "A", "127.0.0.1"))
    elif question.rdtype == dns.rdatatype.MX:
        reply.answer.append(dns.rrset.from_text(question.name, 300, "IN", "MX", "10 mx.test."))
    return reply.to_wire()


class Udp(socketserver.BaseRequestHandler):
    """One datagram."""

    def handle(self) -> None:
        """Answer it."""
        packet, sock = self.request
        if reply := answer(packet):
            sock.sendto(reply, self.client_address)


class Tcp(socketserver.StreamRequestHandler):
    """One connection, questions with their length before them."""

    def handle(self) -> None:
        """Answer each."""
        while size := self.rfile.read(2):
            if reply := answer(self.rfile.read(int.from_bytes(size, "big"))):
                self.wfile.write(len(reply).to_bytes(2, "big") + reply)


def main() -> None:
    """Serve until killed."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tcp) as tcp:
        port = tcp.server_address[1]
        with socketserver.UDPServer(("127.0.0.1", port), Udp) as udp:
            threading.Thread(target=tcp.serve_forever, daemon=True).start()
            print(port)
            sys.stdout.flush()
            udp.serve_forever()


if __name__ == "__main__":
    main()
