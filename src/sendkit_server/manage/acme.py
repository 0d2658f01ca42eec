"""Orders certificates, renews them in time, and shows them on our listeners.

One certificate a name, not one for all: when a customer's tracking host does not lead here any more, the mail server's
own certificate must still be renewed; and customers' names do not stand side by side in a public certificate. At the
handshake the name that a client asks for decides which it sees; the host name's is for those that name none.

Several nodes share the account, the certificates and the answers to challenges by the database. One orders at a time
(a lease); the others look every few seconds and show what has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from sendkit_server.manage import certificate_book as kept
from sendkit_server.manage.certificate_book import Book
from sendkit_server.manage.certificate_view import Wanted, given_names, ordered_names, standing, warning_of
from sendkit_server.model.certificate import (
    TLS_ALPN_01,
    Account,
    Certificate,
    Challenge,
    covers,
    due_at,
    failed,
)
from sendkit_server.model.instant import DAY_MS, MINUTE_MS, Instant, api_time
from sendkit_server.model.mail import Warning_
from sendkit_server.net.acme import AcmeTrouble, Authority, challenge_certificate, new_key
from sendkit_server.net.tls_server import CertificateError, ServerTls, challenge_context_of, context_of_pem
from sendkit_server.store.errors import StoreError
from sendkit_server.store.queries import acme as queries
from sendkit_server.store.store import Store

LOOK_ALONE_S = 60.0
LOOK_AMONG_OTHERS_S = 10.0
SHORTEST_LOOK_S = 1.0
# A challenge by TLS is answered from memory: before the authority may come, every node has looked.
OTHERS_KNOW_S = LOOK_AMONG_OTHERS_S + 2.0
RATE_LIMITED = "rateLimited"
AFTER_FAULT_S = 3_600.0
CALM_MS = MINUTE_MS  # between names, once an authority has named a limit: which names it counts is not told
LEASE_MS = 10 * MINUTE_MS
STALE_CHALLENGE_MS = 15 * MINUTE_MS  # no order takes so long
KEPT_AFTER_END_MS = 30 * DAY_MS

log = structlog.get_logger("acme")


class Certifier:
    """The ordered certificates of a running server. tls: its listeners'.  directory: where a key may stand in a file for
    the moment that loading takes."""

    def __init__(
        self,
        store: Store,
        wanted: Wanted,
        authority: Authority,
        tls: ServerTls,
        directory: Path,
        clock: Callable[[], Instant],
    ) -> None:
        self._store = store
        self._wanted = wanted
        self._authority = authority
        self._tls = tls
        self._directory = directory
        self._clock = clock
        self._alone = store.engine.exclusive
        self._shown: dict[str, tuple[Certificate, ssl.SSLContext]] = {}
        self._challenged: list[Challenge] = []
        self._calm_until: Instant = 0
        self._warnings: list[Warning_] = []
        self._asked = asyncio.Event()
        store.on_forget.append(self._asked.set)

    async def show(self) -> Book:
        """Reads what is kept and shows it on the listeners. StoreUnavailable."""
        book = await kept.read(self._store)
        now = self._clock()
        standings = [standing(self._wanted, book, name, now) for name in ordered_names(self._wanted, book.hosts)]
        self._warnings = [warning for one in standings if (warning := warning_of(one)) is not None]
        self._show_certificates(book)
        # One that was left behind by a node that was killed is not shown for ever.
        self._show_challenges([one for at, one in book.challenges if at > now - STALE_CHALLENGE_MS])
        return book

    def warnings(self) -> list[Warning_]:
        """What an operator should mend."""
        return self._warnings

    async def run(self) -> None:
        """For ever."""
        while True:
            self._asked.clear()
            wait_s = LOOK_ALONE_S if self._alone else LOOK_AMONG_OTHERS_S
            try:
                wait_s = min(wait_s, max(SHORTEST_LOOK_S, (await self._round() - self._clock()) / 1000))
            except StoreError as error:
                log.warning("acme.store_unavailable", error=str(error))
            except Exception:
                # Mail does not depend on it. But what fails without having been written down must not be tried again and
                # again: the authority would count it.
                log.exception("acme.fault")
                await asyncio.sleep(AFTER_FAULT_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._asked.wait()

    def close(self) -> None:
        """Waits for nothing."""
        self._authority.close()

    async def _round(self) -> Instant:
        """Orders what is due; when something will be next."""
        first = self._next(await self.show())
        if first > self._clock():
            return first
        if not await self._lead():
            return self._clock() + DAY_MS  # whoever leads orders it
        try:
            await self._order_all()
        finally:
            await self._step_down()
        return self._next(await self.show())

    def _next(self, book: Book) -> Instant:
        due = self._due(book)
        return due[0][0] if due else self._clock() + DAY_MS

    def _due(self, book: Book) -> list[tuple[Instant, str]]:
        """When each name's certificate is to be ordered, the first first; of those that are due at once our own name."""
        wanted, due = self._wanted, []
        for name in ordered_names(wanted, book.hosts):
            tries = book.tries.get(name)
            at = due_at(book.certificates.get(name), tries, wanted.setup, wanted.directory)
            is_wanted_now = tries is not None and tries.wanted_now
            due.append((at if is_wanted_now else max(at, self._calm_until), name))
        return sorted(due, key=lambda one: one[0])

    async def _lead(self) -> bool:
        """Whether this node is the one that orders now."""
        if self._alone:
            return True
        owner, now = self._owner(), self._clock()
        return await self._store.write_quietly(
            lambda connection: queries.claim_lease(connection, owner, now, now + LEASE_MS)
        )

    async def _step_down(self) -> None:
        if self._alone:
            return
        owner = self._owner()
        # A lease that is not given back ends by itself.
        with contextlib.suppress(StoreError):
            await self._store.write_quietly(lambda connection: queries.release_lease(connection, owner))

    def _owner(self) -> bytes:
        return str(self._store.owner).encode()

    async def _order_all(self) -> None:
        """Orders all that is due. What would be the same for each name ends it for all; a limit ends it for now."""
        book = await self.show()  # another node may just have ordered
        await self._tidy(book)
        due = [name for at, name in self._due(book) if at <= self._clock()]
        for name in due:
            try:
                await self._order(name)
            except AcmeTrouble as trouble:
                hit = due[due.index(name) :] if trouble.is_general else [name]
                await self._note_failure(hit, trouble)
                if trouble.code == RATE_LIMITED:
                    self._calm_until = self._clock() + CALM_MS
                if trouble.is_general or trouble.code == RATE_LIMITED:
                    return

    async def _order(self, name: str) -> None:
        log.info("acme.ordering", name=name, directory=self._wanted.directory, challenge=self._wanted.challenge)
        try:
            certificate = await self._issued(name)
        except AcmeTrouble as trouble:
            if trouble.code != "accountDoesNotExist":
                raise
            # The authority has forgotten us: we introduce ourselves again, once.
            await kept.remove(self._store, kept.ACCOUNT, [self._wanted.directory])
            certificate = await self._issued(name)
        await kept.keep_issued(self._store, certificate, self._clock())
        await self.show()
        log.info("acme.issued", name=name, issuer=certificate.issuer, until=api_time(certificate.not_after))

    async def _issued(self, name: str) -> Certificate:
        account = await self._account()
        key = new_key()
        order = await self._authority.order(account, name, key, self._wanted.challenge)
        try:
            await self._answer(order.challenges)
            chain = await order.certificate()
        finally:
            await self._withdraw(order.challenges)
        try:
            certificate = kept.certificate_of(name, chain, key, self._wanted.directory)
            context_of_pem((key + chain).encode(), self._directory)
        except (ValueError, CertificateError) as error:
            raise AcmeTrouble(f"what the authority issued cannot be used: {error}") from error
        return certificate

    async def _account(self) -> Account:
        wanted = self._wanted
        account = (await kept.read(self._store)).accounts.get(wanted.directory)
        if account is None or not account.serves(wanted.email, wanted.binding):
            account = await self._authority.registered(Account(new_key(), wanted.email), wanted.binding)
            await kept.keep(self._store, [(kept.ACCOUNT, wanted.directory, account)], self._clock())
            log.info("acme.registered", directory=wanted.directory, account=account.uri)
        return account

    async def _answer(self, challenges: Sequence[Challenge]) -> None:
        """Puts the answers where the authority will look, whichever node it comes to."""
        await kept.keep(self._store, [(kept.CHALLENGE, one.token, one) for one in challenges], self._clock())
        self._show_challenges(challenges)
        if self._wanted.challenge == TLS_ALPN_01 and not self._alone:
            await asyncio.sleep(OTHERS_KNOW_S)

    async def _withdraw(self, challenges: Sequence[Challenge]) -> None:
        self._show_challenges([])
        # What stays because the database is away answers a question that nobody will ask, and is tidied up later.
        with contextlib.suppress(StoreError):
            await kept.remove(self._store, kept.CHALLENGE, [one.token for one in challenges])

    async def _note_failure(self, names: Sequence[str], trouble: AcmeTrouble) -> None:
        book, now = await kept.read(self._store), self._clock()
        retry_after_ms = int(trouble.retry_after_s * 1000)
        noted = {
            name: failed(book.tries.get(name), self._wanted.setup, str(trouble), retry_after_ms, now) for name in names
        }
        await kept.keep(self._store, [(kept.TRIES, name, tries) for name, tries in noted.items()], now)
        await self.show()
        log.error(
            "acme.failed",
            names=list(noted),
            error=str(trouble),
            next_at=api_time(max(tries.next_at for tries in noted.values())),
            fix=_advice(self._wanted, trouble, names[0]),
        )

    async def _tidy(self, book: Book) -> None:
        """Removes answers that were left behind, and certificates that ended long ago and nobody renews."""
        now = self._clock()
        await self._store.write_quietly(
            lambda connection: queries.remove_older(connection, kept.CHALLENGE, now - STALE_CHALLENGE_MS)
        )
        ended = [name for name, one in book.certificates.items() if one.not_after < now - KEPT_AFTER_END_MS]
        if gone := [name for name in ended if name not in ordered_names(self._wanted, book.hosts)]:
            await kept.remove(self._store, kept.CERTIFICATE, gone)
            await kept.remove(self._store, kept.TRIES, gone)

    def _show_certificates(self, book: Book) -> None:
        given = given_names(self._wanted)
        chosen = {name: one for name, one in book.certificates.items() if not covers(given, name)}
        shown = {name: pair for name, pair in self._shown.items() if chosen.get(name) == pair[0]}
        for name in chosen.keys() - shown.keys():
            one = chosen[name]
            try:
                shown[name] = one, context_of_pem((one.key + one.chain).encode(), self._directory)
            except CertificateError as error:
                log.error("acme.certificate_unusable", name=name, error=str(error))
        if shown.keys() != self._shown.keys() or any(shown[name] != self._shown[name] for name in shown):
            log.info("tls.certificates", names=sorted(shown))
        self._shown = shown
        self._tls.show({name: context for name, (_, context) in shown.items()})

    def _show_challenges(self, challenges: Sequence[Challenge]) -> None:
        by_tls = [one for one in challenges if one.kind == TLS_ALPN_01]
        if by_tls != self._challenged:
            self._challenged = by_tls
            self._tls.challenge(
                {one.name: challenge_context_of(challenge_certificate(one), self._directory) for one in by_tls}
            )


def _advice(wanted: Wanted, trouble: AcmeTrouble, name: str) -> str:
    """What an operator can do about a failed order."""
    again = "then `sendkit certificates renew` tries at once."
    if trouble.code == RATE_LIMITED:
        return f"{wanted.directory} limits orders, and more of them would not help: it is tried again by itself."
    if trouble.is_general:
        return f"It is about {wanted.directory} or our account there, not about a name: do as the error says, {again}"
    if wanted.challenge == TLS_ALPN_01:
        return f"{name} must resolve to this server, and port 443 there lead to SENDKIT_HTTPS_BIND with TLS unbroken; {again}"
    return (
        f"{name} must resolve to this server, and http://{name}/.well-known/acme-challenge/ lead to SENDKIT_HTTP_BIND or "
        f"SENDKIT_ACME_HTTP_BIND; {again}"
    )
