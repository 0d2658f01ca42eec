"""One client of the submission door: who it is, and what becomes of its messages."""

from __future__ import annotations

from collections.abc import Awaitable

import structlog

from sendkit_server.model.mail import Accepted, ApiKey, RawSubmission
from sendkit_server.model.permissions import EMAILS_SEND
from sendkit_server.model.refusal import INVALID_KEY, MISSING_KEY, Refusal
from sendkit_server.smtp.service import Service
from sendkit_server.smtp.shell import Shell, fault
from sendkit_server.wire import smtp_server_replies as say
from sendkit_server.wire.reply import Reply
from sendkit_server.wire.smtp_server import Event, Mail, Message, SubmissionSession
from sendkit_server.wire.smtp_server_auth import AuthAttempt

USERS = frozenset({"sendkit", "resend", "apikey", "api"})

log = structlog.get_logger()


class Connection(Shell):
    """A client that hands mail in."""

    def __init__(self, service: Service, session: SubmissionSession, address: str) -> None:
        super().__init__(service, session, address)
        self.key = service.dev_key
        self._service = service
        self._client = address

    @property
    def is_known(self) -> bool:
        """Whether it has logged in."""
        return self.key is not None

    def forget_client(self) -> None:
        """Nobody is logged in any more."""
        self.key = None

    def decide(self, event: Event) -> None:
        """A sender, a message or credentials."""
        if isinstance(event, Mail):
            self.session.answer(_refused(refusal) if (refusal := self._check_key()) else say.SENDER_OK)
        elif isinstance(event, Message):
            self.start(self._accept(event))
        elif isinstance(event, AuthAttempt):
            self._log_in(event)

    # Messages

    async def _accept(self, message: Message) -> None:
        refusal = self._check_key()
        result = refusal or await self._accepted_or_refused(message)
        if isinstance(result, Refusal):
            log.info("smtp.refused", name=result.name, code=result.smtp_code, key=self.key and self.key.id)
            self._service.on_error(result.name)
            self.finish(_refused(result))
            return
        message_id = result.messages[0].id
        self.finish(Reply(250, "2.0.0", f"Ok: {message_id}"))

    def _check_key(self) -> Refusal | None:
        """The key as it is now: it may have been revoked or paused since AUTH."""
        if self.key is None:
            return MISSING_KEY
        try:
            return self._service.acceptor.check_mail(self.key)
        except Exception:
            return fault("check_mail")

    async def _accepted_or_refused(self, message: Message) -> Accepted | Refusal:
        assert self.key is not None  # _check_key came before
        submission = RawSubmission(
            self.key,
            message.return_path,
            message.recipients,
            message.raw,
            message.protocol,
            capture=self._service.dev_key is not None,
        )
        try:
            return await self._service.acceptor.accept_raw(submission)
        except Exception:
            return fault("accept_raw")

    # Logins

    def _log_in(self, attempt: AuthAttempt) -> None:
        if self._service.dev_key is not None:
            self.session.answer(say.AUTHENTICATED)
            return
        # The key is looked up whatever the user's name is: the time taken tells nothing.
        try:
            found = self._service.keys.lookup(attempt.secret)
        except Exception:
            fault("lookup")
            self.session.answer(say.LOGIN_FAULT)
            return
        if found is None or isinstance(found, ApiKey):
            self.session.answer(self._judge(attempt.user, found))
        else:
            self.start(self._await_key(attempt.user, found))

    async def _await_key(self, user: str, found: Awaitable[ApiKey | None]) -> None:
        try:
            key = await found
        except Exception:
            fault("lookup")
            self.finish(say.LOGIN_FAULT)
        else:
            self.finish(self._judge(user, key))

    def _judge(self, user: str, key: ApiKey | None) -> Reply:
        """A right key is never refused for the failures of others at its address: those count only when it is wrong."""
        if key is None or user.lower() not in USERS:
            self._service.on_error(INVALID_KEY.name)
            too_many = self._service.failed_logins.record(self._client, self.now())
            log.info("smtp.login_failed", peer=self._client, too_many=too_many)
            return say.TOO_MANY_LOGINS if too_many else say.AUTH_FAILED
        if EMAILS_SEND not in key.permissions:
            return say.CANNOT_SEND
        self.key = key
        return say.AUTHENTICATED


def _refused(refusal: Refusal) -> Reply:
    return Reply(refusal.smtp_code, refusal.smtp_enhanced, refusal.smtp_text)
