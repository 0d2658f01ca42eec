"""The TLS context of our own listeners, and how it follows files that change."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path

import structlog

log = structlog.get_logger("tls")


class CertificateError(Exception):
    """A certificate or key file cannot be used; the message says which and why."""


class ServerTls:
    """One context for all listeners; the files are loaded again when they change, bad new ones are refused."""

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert, self._key = cert, key
        self._stamp = self._stamps()
        self.context = _context(cert, key)

    def reload_if_changed(self) -> bool:
        """Loads changed files into the living context: new handshakes use them, open sessions go on. True if so."""
        stamp = self._stamps()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            _context(self._cert, self._key)
            self.context.load_cert_chain(self._cert, self._key)
        except (OSError, CertificateError) as error:
            log.error("tls.reload_refused", cert=str(self._cert), error=str(error))
            return False
        log.info("tls.reloaded", cert=str(self._cert))
        return True

    def _stamps(self) -> tuple[int, ...]:
        stamps = []
        for path in (self._cert, self._key):
            with contextlib.suppress(OSError):
                stamps.append(path.stat().st_mtime_ns)
        return tuple(stamps)


def _context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    try:
        context.load_cert_chain(cert, key)
    except (ssl.SSLError, OSError) as error:
        raise CertificateError(f"the certificate {cert} with the key {key} cannot be loaded: {error}") from error
    return context
