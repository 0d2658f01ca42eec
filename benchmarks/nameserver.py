"""The DNS of the benchmark, a process of its own: every name ending in .test has mx.test as its MX, mx.test is 127.0.0.1.

Prints its port once it serves, on UDP and TCP.
"""

from __future__ import annotations

import socketserver
import sys
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


def answer(packet: bytes) -> bytes:
    """The reply to a question."""
    asked = dns.message.from_wire(packet)
    question = asked.question[0]
    name = question.name.to_text().lower()
    reply = dns.message.make_response(asked)
    reply.flags |= dns.flags.RA
    if not name.endswith(".test."):
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
        sock.sendto(answer(packet), self.client_address)


class Tcp(socketserver.StreamRequestHandler):
    """One connection, questions with their length before them."""

    def handle(self) -> None:
        """Answer each."""
        while size := self.rfile.read(2):
            reply = answer(self.rfile.read(int.from_bytes(size, "big")))
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
