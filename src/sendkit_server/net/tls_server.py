"""The TLS context of our own listeners, and which certificate it shows to whom.

Listeners get one context for good. At each handshake it chooses among the certificates that are there now, so a new
one is used from the next handshake on, and sessions that are open go on.
"""

from __future__ import annotations

import contextlib
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

# RFC 8737 6.2: the client of a tls-alpn-01 challenge offers this one protocol and no other.
ACME_PROTOCOL = "acme-tls/1"
# The whole extension as it stands in a ClientHello: type 16, its length, the list's length, the name's, the name.
_ACME_OFFER = b"\x00\x10\x00\x0d\x00\x0b\x0a" + ACME_PROTOCOL.encode()

log = structlog.get_logger("tls")


class CertificateError(Exception):
    """A certificate or key file cannot be used; the message says which and why."""


class ServerTls:
    """The certificate of two files, and beside it those that are shown to clients that ask for a name.

    The files are loaded again when they change; bad new ones are refused. main: the name whose certificate clients see
    that name none, or none that we know; as long as there is no certificate for it, they see the files'.
    """

    def __init__(self, cert: Path, key: Path, main: str | None = None) -> None:
        self._cert, self._key = cert, key
        self._main = main
        self._stamp = self._stamps()
        self._from_files = context_of(cert, key)
        self._by_name: Mapping[str, ssl.SSLContext] = {}
        self._challenges: Mapping[str, ssl.SSLContext] = {}
        self._asking: object = None
        self.context = context_of(cert, key)
        self.context.sni_callback = self._choose

    def reload_if_changed(self) -> bool:
        """Loads changed files: new handshakes use them, open sessions go on. True if so."""
        stamp = self._stamps()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self._from_files = context_of(self._cert, self._key)
        except CertificateError as error:
            log.error("tls.reload_refused", cert=str(self._cert), error=str(error))
            return False
        log.info("tls.reloaded", cert=str(self._cert))
        return True

    def show(self, by_name: Mapping[str, ssl.SSLContext]) -> None:
        """From now on these certificates are shown to who asks for their names (lower case)."""
        self._by_name = by_name

    def challenge(self, by_name: Mapping[str, ssl.SSLContext]) -> None:
        """From now on an authority that challenges (tls-alpn-01) sees these; nobody else does. Empty: there are none."""
        self._challenges = by_name
        # Python's callback for the name does not tell the protocols that a client offers, and on a listener that is
        # in use the name alone would show the challenge's certificate to everybody. So as long as a challenge is
        # open, and only then, the ClientHello is looked at. The attribute has no public name;
        # tests/unit/net/test_net_tls_names.py holds it to what is needed.
        self.context._msg_callback = self._look if by_name else None  # type: ignore[attr-defined]

    def _look(self, connection: object, direction: str, *message: Any) -> None:
        if direction == "read" and _ACME_OFFER in message[-1]:
            self._asking = connection

    def _choose(self, connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        wanted = (name or "").lower()
        challenged = self._challenges.get(wanted) if self._asking is connection else None
        self._asking = None
        connection.context = (
            challenged or self._by_name.get(wanted) or self._by_name.get(self._main or "") or self._from_files
        )

    def _stamps(self) -> tuple[int, ...]:
        stamps = []
        for path in (self._cert, self._key):
            with contextlib.suppress(OSError):
                stamps.append(path.stat().st_mtime_ns)
        return tuple(stamps)


def context_of(cert: Path, key: Path) -> ssl.SSLContext:
    """A server's context with the certificate of two files. CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    try:
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(f"the certificate {cert} with the key {key} cannot be loaded: {error}") from error
    return context


def context_of_pem(pem: bytes, directory: Path) -> ssl.SSLContext:
    """As context_of, of a key and its chain in PEM. CertificateError.

    OpenSSL, as Python has it, reads keys from files alone: for that moment there is one in the directory, which only
    its owner can read.
    """
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        file.write(pem)
        file.flush()
        return context_of(Path(file.name), Path(file.name))


def challenge_context_of(pem: bytes, directory: Path) -> ssl.SSLContext:
    """As context_of_pem, for the certificate that answers a tls-alpn-01 challenge."""
    context = context_of_pem(pem, directory)
    context.set_alpn_protocols([ACME_PROTOCOL])
    return context
