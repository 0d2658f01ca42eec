"""One client's connection: the shell around a session of wire.smtp_server, whatever the door is for.

Hot path. Measured under uvloop with 5 KB messages over 20 connections, one command at a time: 66 µs of CPU a message in
all, 26 µs of them the session. So there is no task and no future for a command: what comes is handed to the session,
what the session says is written. Only a message, STARTTLS and a key that is not cached cost a task. While one runs, a further
packet is kept and reading pauses; it also pauses while the client does not read our replies, so that no client can
make us hold more than a packet and an outbox.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import traceback
from collections.abc import Coroutine
from typing import cast

import structlog

from sendkit_server.events.refusals import Entry
from sendkit_server.model.mail import ApiKey
from sendkit_server.model.refusal import UNEXPECTED, Refusal
from sendkit_server.smtp.service import Door
from sendkit_server.store.errors import StoreUnavailable
from sendkit_server.wire import smtp_server_replies as say
from sendkit_server.wire.reply import Reply
from sendkit_server.wire.smtp_server import Event, StartTls, SubmissionSession

log = structlog.get_logger()


class Shell(asyncio.Protocol):
    """A client between accept(2) and its last byte. What a door decides on is its own kind's to say: `decide`."""

    def __init__(self, door: Door, session: SubmissionSession, host: str, address: str) -> None:
        """host: the client's address.  address: what counts as one client, which may be a whole network."""
        self.session = session
        self.is_repeated = False  # the last refusal was said before, to whoever this is
        self.task: asyncio.Task[None] | None = None
        self._door = door
        self._host = host
        self._address = address
        self._handshake_error: Exception | None = None
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._writing_paused = False
        self._reading_paused = False
        self._held_back: bytes | None = None
        self._heard_at = self._quiet_since = self._loop.time()
        self._line_since: float | None = None
        door.connections.add(self)
        door.empty.clear()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has the methods, but not the base class
        self._quiet_since = self._loop.time()
        self._go_on()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        if self._held_back is not None:
            self._held_back += data
            return
        self.session.receive(data)
        if self.task or self._writing_paused:
            self._pause_reading()
        else:
            self._go_on()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if not self.task:
            self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.forget()

    # What the door calls

    def forget(self) -> None:
        """Give the place free; once, however often it is called."""
        if self in self._door.connections:
            self._door.connections.remove(self)
            self._door.counts.release(self._address)
            if self._is_worth_noting():
                self._note_refusal()
            if not self._door.connections:
                self._door.empty.set()

    def handshake_failed(self, error: Exception) -> None:
        """TLS did not come about, and why."""
        log.info("smtp.handshake_failed", peer=self._address, error=type(error).__name__)
        self._handshake_error = error

    def who(self) -> tuple[ApiKey | None, str | None]:
        """Whose session it is on the log of refusals: a key, else the secret that was given for one."""
        return None, None

    def _is_worth_noting(self) -> bool:
        told_before = 1 if self.is_repeated else 0
        return self.session.transcript.refusals > told_before or self._handshake_error is not None

    def _note_refusal(self) -> None:
        transcript, error = self.session.transcript, self._handshake_error
        key, secret = self.who()
        if transcript.step is not None and transcript.reply is not None:
            reply = transcript.reply
            step, words, code = (
                transcript.step,
                f"{reply.code} {reply.enhanced} {reply.text}".replace("  ", " "),
                reply.code,
            )
        else:
            step, words, code = "TLS handshake", f"The TLS handshake failed: {error or type(error).__name__}", None
        detail = {"status": code, "refusals": transcript.refusals or 1, "transcript": transcript.lines}
        self._door.note_refusal(Entry(self._door.name, self._host, step, words, detail, key, secret))

    def drain(self) -> None:
        """The door closes: say so now, or after the message that is being taken in."""
        if not self.task:
            self._go_on()

    def abort(self) -> None:
        """No more patience."""
        if self.task:
            self.task.cancel()
        if self._transport:
            self._transport.abort()

    def check_clocks(self, now: float) -> None:
        """Time out a client that is too slow. While we owe the answer, no clock runs."""
        if self._transport is None or self.task:
            return
        quiet_s = now - self._quiet_since
        if self.session.closed or self._writing_paused:
            # It does not read what we say, so there is no point in saying more.
            if quiet_s > (self._door.settings.linger_s if self.session.closed else self._door.settings.idle_s):
                self._transport.abort()
        elif self._is_overdue(now, quiet_s):
            self._door.on_error("timeout")
            self.session.end(say.TIMEOUT)
            self._go_on()

    def now(self) -> float:
        """The loop's clock."""
        return self._loop.time()

    # The session's events

    def _go_on(self) -> None:
        """Let the session work off what has come, until it needs more, or somebody to wait for."""
        session, transport = self.session, self._transport
        if transport is None:
            return
        while True:
            event = session.next_event()
            if event is not None:
                self._handle(event)
                if not self.task and not session.closed:
                    continue
            elif self._door.draining and not session.closed and session.content_bytes is None:
                session.end(say.SHUTTING_DOWN)
            said = session.bytes_to_send()
            if not said:
                break
            self._quiet_since = self._loop.time()
            self._line_since = None
            transport.write(said)
            if self.task or self._writing_paused or session.closed:
                break
        if session.closed and not self.task:
            self._hang_up(transport)
            return
        if session.in_mid_command and self._line_since is None:
            self._line_since = self._loop.time()
        if self._reading_paused and not (self.task or self._writing_paused):
            self._reading_paused = False
            transport.resume_reading()

    def _hang_up(self, transport: asyncio.Transport) -> None:
        # Closing a socket with unread input resets it, and the client may lose our last reply: so only our half is
        # closed, the client's is read until it closes it or linger_s is over.
        if transport.can_write_eof() and not self._door.draining:
            transport.write_eof()
        else:
            transport.close()

    def decide(self, event: Event) -> None:
        """Answer an event other than STARTTLS, at once or by a task."""
        raise NotImplementedError

    @property
    def is_known(self) -> bool:
        """Whether the client has shown who it is: others have to hurry when the door is crowded."""
        return False

    def _handle(self, event: Event) -> None:
        if isinstance(event, StartTls):
            self._begin_tls()
        else:
            self.decide(event)

    def start(self, work: Coroutine[None, None, None]) -> None:
        self.task = self._loop.create_task(work)

    def finish(self, reply: Reply) -> None:
        """A task's last act: its answer, and on with what came meanwhile."""
        self.task = None
        self.session.answer(reply)
        self._go_on()

    def forget_client(self) -> None:
        """TLS has begun: what was said before it counts no more (RFC 3207 4.2)."""

    # STARTTLS

    def _begin_tls(self) -> None:
        assert self._door.tls is not None and self._transport is not None  # the session offers it only then
        try:
            context = self._door.tls()
        except (OSError, ValueError):
            fault("tls")
            self.session.answer(say.TLS_FAULT)
            return
        # Reading rests until start_tls has taken the transport over, so no byte in clear can come any more. What does
        # come was said under TLS, perhaps before start_tls returns: it is held back until the session knows of it.
        self._transport.pause_reading()
        self._held_back = b""
        self.session.answer(say.READY_FOR_TLS)
        self.start(self._secure(self._transport, context))

    async def _secure(self, plain: asyncio.Transport, context: ssl.SSLContext) -> None:
        try:
            transport = await self._loop.start_tls(
                plain,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._door.settings.handshake_s,
                ssl_shutdown_timeout=self._door.settings.linger_s,
            )
        except OSError as error:  # ssl.SSLError and the time-out are among them
            self.handshake_failed(error)
            transport = None
        self.task = None
        if transport is None:
            plain.abort()
            self.forget()
            return
        self._transport = transport
        self.forget_client()
        self.session.secured()
        if self._held_back:
            self.session.receive(self._held_back)
        self._held_back = None
        self._quiet_since = self._loop.time()
        self._go_on()

    # Small change

    def _pause_reading(self) -> None:
        if self._transport and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _is_overdue(self, now: float, quiet_s: float) -> bool:
        settings = self._door.settings
        received = self.session.content_bytes
        if received is None:
            crowded = self._door.counts.crowded and not self.is_known
            idle_s = settings.crowded_idle_s if crowded else settings.idle_s
            return quiet_s > idle_s or (self._line_since is not None and now - self._line_since > settings.command_s)
        wanted = max(0.0, quiet_s - settings.data_grace_s) / settings.data_rate_s * settings.data_rate_bytes
        return received < wanted or now - self._heard_at > settings.data_stall_s or quiet_s > settings.message_s


def fault(where: str) -> Refusal:
    """Called while an exception is handled: the log gets it, the client the same as always."""
    error = sys.exception()
    if isinstance(error, StoreUnavailable):
        log.warning("smtp.store_unavailable", where=where, error=str(error))
        return UNEXPECTED
    # As text: a renderer that prints the frames' variables would print secrets and bodies.
    log.error("smtp.fault", where=where, exception=traceback.format_exc())
    return UNEXPECTED
