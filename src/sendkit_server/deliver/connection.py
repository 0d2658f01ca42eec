"""One connection to a mail server: an asyncio protocol around the sans-IO client, reused from mail to mail.

Streams would cost two switches between tasks for each reply; here a reply is parsed where it arrives and the next bytes
leave in the same call. All of delivery but composing takes about 100 µs a mail, most of it in the kernel
(benchmarks/deliverer.py).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol, cast

import msgspec

from sendkit_server.deliver.settings import Timeouts
from sendkit_server.deliver.tls_counts import Session
from sendkit_server.model.instant import Instant
from sendkit_server.model.outcome import Exchange, Outcome
from sendkit_server.net.connect import Target
from sendkit_server.net.dane import dane_problem
from sendkit_server.net.dnssec import HostTlsa
from sendkit_server.net.tls_client import (
    CertificateProblem,
    TlsClient,
    chain_of,
    cipher_of,
    described,
    handshake_problem,
)
from sendkit_server.wire.smtp_client import (
    Capabilities,
    Login,
    Mail,
    Opening,
    ProtocolError,
    ReplyReader,
    Step,
    TlsWish,
    Transaction,
    Trouble,
    Verdict,
)

AT_ONCE_BYTES = 64 * 1024
HELD_LOOK_S = 0.01
END_BYTES = 5  # CR LF . CR LF, or the last bytes of a BDAT chunk


class Greeter(msgspec.Struct, frozen=True):
    """How a connection begins. verified: the certificate must prove the host's name.  dane: it must be as these records say."""

    hostname: str
    wish: TlsWish
    login: Login | None = None
    tls_from_start: bool = False
    verified: bool = False
    dane: HostTlsa | None = None


class Carried(msgspec.Struct, frozen=True):
    """What one transaction came to. untouched: the server answered nothing of it, or only that it closes.

    withheld: the end of the message was not sent, because another node may be delivering it by now.  passed_on: this route is
    not the one for this mail, and why; is_broken: nor for any other.
    """

    verdicts: tuple[Verdict, ...]
    transcript: tuple[Exchange, ...]
    started_at: Instant
    milliseconds: int
    untouched: bool
    withheld: bool = False
    passed_on: Outcome | None = None
    is_broken: bool = False


class Connection(Protocol):
    """What a lane carries mail over. sessions: how it and those before it were secured, counted_for: already of whom."""

    target: Target | None
    sessions: tuple[Session, ...]
    counted_for: set[str]
    tls: str | None
    capabilities: Capabilities
    mails: int
    on_lost: Callable[[], None] | None

    @property
    def usable(self) -> bool:
        """Whether another mail may go over it."""

    @property
    def transcript(self) -> tuple[Exchange, ...]:
        """What was said until the connection was open, or was not."""

    async def carry(self, mail: Mail) -> Carried:
        """One mail, to its end or to the connection's."""

    def quit(self) -> None:
        """Take leave without waiting for an answer."""

    def abort(self, why: str = "") -> None:
        """Close now, whatever is in flight; why: for its transcript."""


class MailConnection(asyncio.Protocol):
    """From connect to QUIT. `usable` says whether another mail may go over it."""

    def __init__(
        self, clock: Callable[[], Instant], timeouts: Timeouts, may_send: Callable[[], bool] = lambda: True
    ) -> None:
        """may_send: asked before the end of each message, without which the server keeps none of it."""
        self.target: Target | None = None
        self.tls: str | None = None
        self.handshake_failed = False
        self.certificate: CertificateProblem | None = None  # what is wrong with it, or with the handshake
        self.sessions: tuple[Session, ...] = ()  # this one last; before it those with hosts that did not satisfy
        self.counted_for: set[str] = set()  # domains
        self.capabilities = Capabilities()
        self.usable = False
        self.mails = 0
        self.before: tuple[Exchange, ...] = ()  # what came of the hosts that were tried before this one
        self.on_lost: Callable[[], None] | None = None
        self._clock = clock
        self._timeouts = timeouts
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = ReplyReader()
        self._machine: Opening | Transaction | None = None
        self._finished: asyncio.Future[None] | None = None
        self._started = self._loop.time()
        self._started_at = clock()
        self._opening_log: list[Exchange] = []
        self._needs_reset = False
        self._closed: str | None = None
        self._aborted: str | None = None
        self._deadline = 0.0
        self._plain: asyncio.Transport | None = None  # below TLS, when there is TLS
        self._may_send = may_send
        self._held = b""  # the end of a message whose beginning is not through yet
        self._withheld = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # What the lane asks for.

    async def open(self, target: Target, greeter: Greeter, tls: TlsClient) -> Verdict | None:
        """Greeting to AUTH. None once mail may go, else why this host is of no use; then the connection is closed."""
        self.target = target
        opening = Opening(greeter.hostname, greeter.wish, greeter.login, encrypted=greeter.tls_from_start)
        opening.log.append(Exchange(0, "*", f"connected to {target.host} [{target.address}]:{target.port}"))
        self._opening_log = opening.log
        context = tls.verified if greeter.verified else tls.opportunistic
        try:
            if greeter.tls_from_start and await self._handshake(opening, context, tls, greeter.dane):
                opening.log.append(Exchange(self._at_ms(), "*", f"TLS {self.tls}"))
            while not opening.done:
                await self._run(opening, self._timeouts.opening_s)
                if opening.wants_tls and await self._handshake(opening, context, tls, greeter.dane):
                    self._write(opening.secured(self.tls or "", self._at_ms()))
        except BaseException:
            self.abort()
            raise
        if opening.refused is not None:
            self.quit()
            return opening.refused
        self.capabilities = opening.capabilities
        self.usable = self._closed is None
        return None

    async def carry(self, mail: Mail) -> Carried:
        """One mail, to its end or to the connection's. Never raises but when cancelled, which cuts the connection."""
        transaction = Transaction(self.capabilities, mail, reset=self._needs_reset)
        if self.mails:
            self._started = self._loop.time()
            self._started_at = self._clock()
            transaction.log.append(Exchange(0, "*", f"connection kept open, mails before: {self.mails}"))
        at_ms = self._at_ms()
        self._write(transaction.start(at_ms))
        try:
            await self._run(transaction, self._timeouts.envelope_s)
        except BaseException:
            self.abort()
            raise
        transcript = transaction.log if self.mails else [*self.before, *self._opening_log, *transaction.log]
        self.mails += 1
        self._needs_reset = not transaction.clean
        verdicts = cast("list[Verdict]", transaction.verdicts)
        # An answer too many would be taken for the next mail's: such a connection is out of step.
        if transaction.hung_up or self._reader.pending:
            self.quit()
        return Carried(
            tuple(verdicts),
            tuple(transcript),
            self._started_at,
            self._at_ms(),
            untouched=transaction.untouched,
            withheld=self._withheld,
        )

    @property
    def transcript(self) -> tuple[Exchange, ...]:
        """What was said until the connection was open, or was not."""
        return tuple(self._opening_log)

    def quit(self) -> None:
        """Take leave without waiting for an answer."""
        self.usable = False
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(b"QUIT\r\n")
            transport.close()
            # A peer that never reads would keep what is buffered, and the socket, for ever.
            self._loop.call_later(5.0, transport.abort)

    def abort(self, why: str = "the connection was given up") -> None:
        """Close now, whatever is in flight; why: for its transcript."""
        self.usable = False
        self._aborted = why
        if self._transport is not None:
            self._transport.abort()

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TCP connection stands."""
        self._set_transport(cast("asyncio.Transport", transport))

    def resume_writing(self) -> None:
        """Everything may be through: then what was held back may follow."""
        self._look_at_held()

    def data_received(self, data: bytes) -> None:
        """Bytes of the server; between mails they can only mean that it wants to leave."""
        self._reader.feed(data)
        if self._machine is None or self._machine.done:
            if self.mails or self.usable:
                self.quit()
                self._tell_lost()
            return
        self._advance(self._machine)

    def eof_received(self) -> bool:
        """The server has sent its last byte: nothing more can be answered, so close."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone, by either side's doing."""
        self.usable = False
        closed = f"the connection was lost ({error})" if error else "the server closed the connection"
        self._closed = self._aborted or closed
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._fail(Trouble.LOST, self._closed)
        self._tell_lost()

    # The conversation.

    async def _run(self, machine: Opening | Transaction, deadline_s: float) -> None:
        self._machine = machine
        if self._closed is None:
            self._arm(deadline_s)
        # A host that says why it will not have us, and goes, may have gone before we listen: its words count first.
        if self._reader.pending and (self._closed is None or isinstance(machine, Opening)):
            self._advance(machine)
        if self._closed is not None and not machine.done:
            machine.lost(Trouble.LOST, self._closed, self._at_ms())
        if not machine.done and not (isinstance(machine, Opening) and machine.wants_tls):
            self._finished = self._loop.create_future()
            try:
                await self._finished
            finally:
                self._finished = None
        self._deadline = 0.0

    def _advance(self, machine: Opening | Transaction) -> None:
        at_ms = self._at_ms()
        reader = self._reader
        try:
            while not machine.done and (reply := reader.next_reply()) is not None:
                if machine.step is Step.MESSAGE and reply.code < 300 and self._unsent():
                    raise ProtocolError(f"{reply.code} before the message was sent whole")
                answer = machine.take(reply, at_ms)
                if isinstance(machine, Opening) and machine.wants_tls:
                    if reader.pending:
                        # Said in clear to be read as the first words under TLS: somebody injects (RFC 3207 4.2).
                        raise ProtocolError("more bytes in clear after the answer to STARTTLS")
                    if self._closed is None:
                        cast("asyncio.Transport", self._transport).pause_reading()
                    self._finish()
                    return
                if not answer:
                    continue
                if machine.step is not Step.MESSAGE:
                    self._write(answer)
                    continue
                if reader.pending:
                    raise ProtocolError("an answer to the message before it was sent")
                self._arm(self._timeouts.message_deadline_s(len(answer)))
                self._write_message(answer)
        except ProtocolError as error:
            self._fail(Trouble.PROTOCOL, str(error))
        if machine.done:
            self._finish()

    async def _handshake(
        self, opening: Opening, context: ssl.SSLContext, tls: TlsClient, dane: HostTlsa | None
    ) -> bool:
        target = cast("Target", self.target)
        transport = cast("asyncio.Transport", self._transport)
        try:
            if self._closed is not None:
                raise ConnectionResetError(self._closed)
            secured = await self._loop.start_tls(
                transport,
                self,
                context,
                # SNI: of several certificates the server shows the one for the records' place (RFC 7672 8.1).
                server_hostname=dane.names[0] if dane is not None else target.host,
                ssl_handshake_timeout=self._timeouts.handshake_s,
            )
        except (ssl.SSLError, OSError, TimeoutError) as error:
            self._unproved(opening, "the TLS handshake failed", handshake_problem(error))
            return False
        assert secured is not None
        self._set_transport(secured)
        shown: ssl.SSLObject = secured.get_extra_info("ssl_object")
        if dane is None:
            self.certificate = tls.problem(shown, target.host)
            self.tls = described(shown, self.certificate)
            return True
        problem = dane_problem(dane.records, chain_of(shown), dane.names, datetime.now(UTC))
        if problem is not None:
            self._unproved(opening, "DANE", problem)
            return False
        self.tls = f"{cipher_of(shown)} DANE verified"
        return True

    def _unproved(self, opening: Opening, what: str, problem: CertificateProblem) -> None:
        opening.step = Step.STARTTLS
        self.handshake_failed = True
        self.certificate = problem
        opening.lost(Trouble.POLICY, f"{what}: {problem.text}", self._at_ms())
        self.abort()

    def _write_message(self, message: bytes) -> None:
        """What goes through at once is asked about once; of a longer one the end waits until the rest is through."""
        if len(message) <= AT_ONCE_BYTES:
            self._held = message
            self._finish_message()
            return
        self._held = message[-END_BYTES:]
        self._write(message[:-END_BYTES])
        self._look_at_held()

    def _look_at_held(self) -> None:
        if not self._held or self._closed is not None:
            return
        if not self._buffered():
            self._finish_message()
        elif self._plain is not None:
            # A TLS transport tells of its own buffer only, and what matters lies below it.
            self._loop.call_later(HELD_LOOK_S, self._look_at_held)

    def _finish_message(self) -> None:
        end, self._held = self._held, b""
        if self._may_send():
            self._write(end)
            return
        self._withheld = True
        why = "not sent: this server has lost touch with its database, and another one may be delivering this mail"
        self._fail(Trouble.LOST, why)
        self.abort(why)

    def _fail(self, trouble: Trouble, text: str) -> None:
        machine = self._machine
        if machine is not None and not machine.done:
            machine.lost(trouble, text, self._at_ms())
            self._finish()

    def _finish(self) -> None:
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and self._closed is None:
            self._transport.write(data)

    def _unsent(self) -> bool:
        return bool(self._held) or self._buffered()

    def _buffered(self) -> bool:
        transports = (self._transport, self._plain)
        return any(transport is not None and transport.get_write_buffer_size() > 0 for transport in transports)

    def _set_transport(self, transport: asyncio.Transport) -> None:
        # So that resume_writing tells of an empty buffer, not of one that has some room again.
        transport.set_write_buffer_limits(high=0)
        self._plain, self._transport = self._transport, transport

    def _tell_lost(self) -> None:
        if self.on_lost is not None:
            self.on_lost()

    def _at_ms(self) -> int:
        return int((self._loop.time() - self._started) * 1000)

    # One timer for all phases: moving a deadline later only writes a number.

    def _arm(self, seconds: float) -> None:
        self._deadline = self._loop.time() + seconds
        if self._timer is not None and self._timer_at <= self._deadline:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = self._deadline
        self._timer = self._loop.call_at(self._deadline, self._look_at_deadline)

    def _look_at_deadline(self) -> None:
        self._timer = None
        if not self._deadline:
            return
        if self._deadline > self._loop.time():
            self._timer_at = self._deadline
            self._timer = self._loop.call_at(self._deadline, self._look_at_deadline)
            return
        self._fail(Trouble.TIMEOUT, "no answer within the deadline")
        self.abort()
