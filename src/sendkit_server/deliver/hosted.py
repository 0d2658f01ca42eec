"""Mail through a provider's HTTP API: a kept connection to it takes one call after the other, as one to a mail server does.

What it answers is put into the words of SMTP, so that everything behind it (outcomes, retries, back-off) is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sendkit_server.deliver.connection import Carried
from sendkit_server.deliver.dial import NoConnection, Site
from sendkit_server.deliver.outcome import provider_refuses, unreachable
from sendkit_server.deliver.settings import Timeouts
from sendkit_server.deliver.tls_counts import Session
from sendkit_server.model.instant import Instant
from sendkit_server.model.outcome import Exchange, Outcome
from sendkit_server.net.connect import Target
from sendkit_server.net.guard import Guard
from sendkit_server.net.https import HttpsConnection, HttpsTrouble, open_https
from sendkit_server.net.resolver import Resolver
from sendkit_server.net.tls_client import TlsClient
from sendkit_server.wire.providers import Answer, ApiRequest, CannotCarry, Meaning, Provider
from sendkit_server.wire.smtp_client import Capabilities, Mail, Reply, Step, Trouble, Verdict

# What SMTP would have said.
_CODES = {Meaning.TAKEN: 250, Meaning.REFUSED: 554, Meaning.LATER: 451, Meaning.BUSY: 421}
_ENHANCED = {Meaning.TAKEN: "2.0.0", Meaning.LATER: "4.3.0", Meaning.BUSY: "4.3.2"}


class HostedDialer:
    """Opens connections to one provider."""

    def __init__(
        self,
        provider: Provider,
        resolver: Resolver,
        tls: TlsClient,
        timeouts: Timeouts,
        clock: Callable[[], Instant],
        may_send: Callable[[], bool],
    ) -> None:
        self._provider = provider
        self._resolver = resolver
        self._tls = tls
        self._timeouts = timeouts
        self._clock = clock
        self._may_send = may_send

    async def dial(self, site: Site, guard: Guard) -> HostedConnection | NoConnection:
        """A connection that takes mail."""
        started_at, endpoint = self._clock(), self._provider.endpoint
        try:
            https = await open_https(
                endpoint.host,
                endpoint.port,
                resolver=self._resolver,
                tls=self._tls,
                guard=guard,
                deadline_s=self._timeouts.connect_s,
            )
        except HttpsTrouble as trouble:
            spent = self._clock() - started_at
            outcome = unreachable(str(trouble), refused_by_us=False)
            return NoConnection(outcome, (Exchange(spent, "*", outcome.text),), started_at, spent)
        return HostedConnection(self._provider, https, self._timeouts, self._clock, self._may_send)


class HostedConnection:
    """One kept connection to a provider; as MailConnection to a lane."""

    def __init__(
        self,
        provider: Provider,
        https: HttpsConnection,
        timeouts: Timeouts,
        clock: Callable[[], Instant],
        may_send: Callable[[], bool],
    ) -> None:
        self.target: Target | None = https.target
        self.tls: str | None = https.tls
        self.capabilities = Capabilities(eightbit=True, smtputf8=True)
        self.mails = 0
        self.sessions: tuple[Session, ...] = ()  # what a provider does with its own connections is its affair
        self.counted_for: set[str] = set()
        self.on_lost: Callable[[], None] | None = None
        self._provider = provider
        self._https = https
        self._timeouts = timeouts
        self._clock = clock
        self._may_send = may_send
        at = f"{https.target.host} [{https.target.address}]:{https.target.port}"
        self.transcript = (Exchange(0, "*", f"connected to {at}, TLS {https.tls}"),)

    @property
    def usable(self) -> bool:
        """Whether another mail may go over it."""
        return self._https.is_open

    async def carry(self, mail: Mail) -> Carried:
        """One mail, to its end or to the connection's. Never raises but when cancelled, which cuts the connection."""
        talk = _Talk(self._clock)
        if self.mails:
            talk.note("*", f"connection kept open, mails before: {self.mails}")
        reused = self.mails > 0
        self.mails += 1
        try:
            request = self._provider.request(mail, self._clock())
        except CannotCarry as cannot:
            text = f"this provider cannot carry it: {cannot}"
            talk.note("*", text)
            return self._carried(mail, talk, _passed(text), passed_on=provider_refuses(text))
        if not self._may_send():
            return self._carried(mail, talk, _passed("not sent: this server's lease has run out"), withheld=True)
        talk.note(">", f"{request.method} {request.path} ({len(request.body)} bytes)")
        try:
            answer = await self._call(request, len(mail.raw), talk)
        except HttpsTrouble as trouble:
            talk.note("*", str(trouble))
            # Once the whole call was written it may have been obeyed, as after the dot of a message.
            step = Step.MESSAGE if trouble.sent else Step.MAIL
            verdict = Verdict(step, None, Trouble.LOST, str(trouble))
            return self._carried(mail, talk, verdict, untouched=reused and not trouble.sent)
        if answer.meaning in (Meaning.NOT_HERE, Meaning.BROKEN):
            is_broken = answer.meaning is Meaning.BROKEN
            outcome = provider_refuses(f"{self._https.target.host}: {answer.text}")
            return self._carried(mail, talk, _passed(outcome.text), passed_on=outcome, is_broken=is_broken)
        if answer.meaning is Meaning.UNCLEAR:
            return self._carried(mail, talk, Verdict(Step.MESSAGE, None, Trouble.PROTOCOL, answer.text))
        enhanced = _ENHANCED.get(answer.meaning, answer.enhanced)
        reply = Reply(_CODES[answer.meaning], (f"{enhanced} {answer.text}",))
        return self._carried(mail, talk, Verdict(Step.MESSAGE, reply))

    async def _call(self, request: ApiRequest, size_bytes: int, talk: _Talk) -> Answer:
        reply = await self._https.request(
            request.method,
            request.path,
            headers=request.headers,
            body=request.body,
            deadline_s=self._timeouts.message_deadline_s(size_bytes),
        )
        answer = self._provider.answer(reply.status, reply.body, dict(reply.headers))
        talk.note("<", f"HTTP {reply.status} {answer.text}")
        return answer

    def quit(self) -> None:
        """Take leave."""
        self._https.close()

    def abort(self, why: str = "the connection was given up") -> None:
        """Close now, whatever is in flight."""
        self._https.close()

    def _carried(
        self,
        mail: Mail,
        talk: _Talk,
        verdict: Verdict,
        *,
        untouched: bool = False,
        withheld: bool = False,
        passed_on: Outcome | None = None,
        is_broken: bool = False,
    ) -> Carried:
        lines = talk.lines if self.mails > 1 else [*self.transcript, *talk.lines]
        return Carried(
            (verdict,) * len(mail.recipients),
            tuple(lines),
            talk.started_at,
            talk.spent_ms,
            untouched,
            withheld,
            passed_on,
            is_broken,
        )


class _Talk:
    """A transcript as it grows."""

    def __init__(self, clock: Callable[[], Instant]) -> None:
        self.lines: list[Exchange] = []
        self.started_at = clock()
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()

    @property
    def spent_ms(self) -> int:
        return int((self._loop.time() - self._started) * 1000)

    def note(self, side: str, text: str) -> None:
        self.lines.append(Exchange(self.spent_ms, side, text))


def _passed(text: str) -> Verdict:
    return Verdict(Step.MAIL, None, Trouble.POLICY, text)
