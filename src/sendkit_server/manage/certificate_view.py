"""Which certificates our listeners should have, how each stands, and ordering one now: what `sendkit certificates` and
`/ready` tell."""

from __future__ import annotations

from pathlib import Path

import msgspec

from sendkit_server.manage import certificate_book as kept
from sendkit_server.manage.certificate_book import Book
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.certificate import Binding, Tries, certifiable, covers, due_at, warn_at
from sendkit_server.model.instant import Instant, api_time
from sendkit_server.model.mail import Warning_
from sendkit_server.store.store import Store


class Wanted(msgspec.Struct, frozen=True):
    """What the settings ask for. email: empty: nothing is ordered.  web: hosts of pages and links are served with TLS here,
    so they need certificates, too.  binding: None: the account is ours alone.  cert: the file that is shown where nothing
    else fits.  given: it is the operator's."""

    hostname: str = ""
    public_host: str | None = None
    web: bool = False
    email: str = ""
    directory: str = ""
    challenge: str = ""
    binding: Binding | None = None
    cert: Path = Path()
    given: bool = False

    @property
    def setup(self) -> str:
        """Tells whether what failed was tried with these settings."""
        bound = f" {self.binding.mark}" if self.binding else ""
        return f"{self.directory} {self.challenge} {self.email}{bound}"


class Standing(msgspec.Struct, frozen=True):
    """How a certificate stands. source: `acme`, `file` (the operator's) or `local` (self-made).  status: `ok`; `expiring` (it
    should have been renewed), `expired`, or `missing`.  issuer, not_before, not_after: None while there is none.
    next_at: of the next order; None: nobody orders it.  error, failed_at: of the last one, if it failed."""

    name: str
    source: str
    status: str
    issuer: str | None
    not_before: Instant | None
    not_after: Instant | None
    next_at: Instant | None = None
    error: str | None = None
    failed_at: Instant | None = None


def ordered_names(wanted: Wanted, hosts: list[str]) -> list[str]:
    """The names that are ordered for: those that have no certificate by the operator's file. hosts: of tracking links."""
    if not wanted.email:
        return []
    names = certifiable([wanted.hostname, *([wanted.public_host, *hosts] if wanted.web else [])])
    given = given_names(wanted)
    return [name for name in names if not covers(given, name)]


def given_names(wanted: Wanted) -> list[str]:
    """The names that the operator's own certificate is for."""
    try:
        return kept.dns_names_of(kept.leaf_of(wanted.cert.read_bytes())) if wanted.given else []
    except (OSError, ValueError):
        return []  # the log tells that it cannot be loaded


async def standings(store: Store, wanted: Wanted, now: Instant) -> list[Standing]:
    """The file's certificate first, as long as somebody sees it, then the ordered ones. StoreUnavailable."""
    book = await kept.read(store)
    names = ordered_names(wanted, book.hosts)
    ordered = [standing(wanted, book, name, now) for name in names]
    replaced = not wanted.given and any(name in book.certificates for name in certifiable([wanted.hostname]))
    of_file = None if replaced else file_standing(wanted, now)
    return ordered if of_file is None else [of_file, *ordered]


def standing(wanted: Wanted, book: Book, name: str, now: Instant) -> Standing:
    """How the ordered certificate of a name stands."""
    certificate, tries = book.certificates.get(name), book.tries.get(name)
    has_failed = tries is not None and tries.failures > 0
    return Standing(
        name,
        "acme",
        "missing" if certificate is None else _status(certificate.not_before, certificate.not_after, now),
        None if certificate is None else certificate.issuer,
        None if certificate is None else certificate.not_before,
        None if certificate is None else certificate.not_after,
        max(now, due_at(certificate, tries, wanted.setup, wanted.directory)),
        tries.text if tries is not None and has_failed else None,
        tries.at if tries is not None and has_failed else None,
    )


def file_standing(wanted: Wanted, now: Instant) -> Standing | None:
    """How the file's certificate stands; None when it cannot be read (a server that never started has made none)."""
    try:
        leaf = kept.leaf_of(wanted.cert.read_bytes())
    except (OSError, ValueError):
        return None
    not_before = int(leaf.not_valid_before_utc.timestamp() * 1000)
    not_after = int(leaf.not_valid_after_utc.timestamp() * 1000)
    names = ", ".join(kept.dns_names_of(leaf)) or leaf.subject.rfc4514_string()
    source = "file" if wanted.given else "local"
    # The local one is made anew at a start, and clients that trust its CA are few: nobody is to be woken for it.
    status = _status(not_before, not_after, now) if wanted.given else "ok"
    return Standing(names, source, status, kept.issuer_of(leaf), not_before, not_after)


async def renew(store: Store, wanted: Wanted, name: str | None, now: Instant) -> list[str]:
    """Makes a running server order the certificate of a name, or all, now; the names. ManageError: it is none of ours."""
    if not wanted.email:
        raise ManageError(
            "no certificates are ordered here: set SENDKIT_ACME_EMAIL to an address of yours, and restart the server"
        )
    book = await kept.read(store)
    names = ordered_names(wanted, book.hosts)
    if name is not None and name.lower() not in names:
        raise ManageError(
            f"{name} is none of the names that certificates are ordered for: {', '.join(names) or 'none'}"
        )
    chosen = names if name is None else [name.lower()]
    asked = []
    for one in chosen:
        tries = book.tries.get(one) or Tries(wanted.setup)
        asked.append((kept.TRIES, one, msgspec.structs.replace(tries, wanted_now=True)))
    await kept.keep(store, asked, now)
    store.forget()  # which wakes whoever orders
    return chosen


def worded(one: Standing) -> dict[str, str | None]:
    """As the command line gives it."""
    return {
        "name": one.name,
        "source": one.source,
        "status": one.status,
        "issuer": one.issuer,
        "issued_at": api_time(one.not_before),
        "expires_at": api_time(one.not_after),
        "next_order_at": api_time(one.next_at),
        "error": one.error,
        "failed_at": api_time(one.failed_at),
    }


def warning_of(one: Standing) -> Warning_ | None:
    """What an operator should mend about it; None: nothing."""
    if one.status == "ok" or (one.status == "missing" and one.error is None):
        return None
    if one.source == "file":
        fix = "Put a new one in the files of SENDKIT_TLS_CERT and SENDKIT_TLS_KEY; they are loaded when they change."
    else:
        why = f"The last order failed: {one.error}. Mend that, then run" if one.error else "No order was tried: run"
        fix = f"{why} `sendkit certificates renew`, and `sendkit certificates` to see what comes of it."
    if one.status == "missing":
        return Warning_("certificate_missing", f"There is no certificate for {one.name} yet.", fix)
    verb = "has ended on" if one.status == "expired" else "ends on"
    return Warning_("certificate_expires", f"The certificate of {one.name} {verb} {api_time(one.not_after)} UTC.", fix)


def _status(not_before: Instant, not_after: Instant, now: Instant) -> str:
    if now >= not_after:
        return "expired"
    return "expiring" if now >= warn_at(not_before, not_after) else "ok"
