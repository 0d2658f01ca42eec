"""One client of the submission door: who it is, and what becomes of its messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

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

Found: TypeAlias = ApiKey | Awaitable[ApiKey | None] | None
"""What a look-up gives: at once, or to be awaited."""

USERS = frozenset({"sendkit", "resend", "apikey", "api"})

log = structlog.get_logger()


class Connection(Shell):
    """A client that hands mail in."""

    def __init__(self, service: Service, session: SubmissionSession, host: str, address: str) -> None:
        super().__init__(service, session, host, address)
        self.key = service.dev_key
        self._service = service
        self._client = address
        self._secret: str | None = None  # of the key: it is looked up again for each mail
        self._tried: ApiKey | None = None  # a right key that did not get in
        self._tried_secret: str | None = None
        self._wrong: tuple[str, Reply] | None = None  # a secret that was none, and what was answered

    def who(self) -> tuple[ApiKey | None, str | None]:
        """Whose session it is on the log: the key's, else of what was given for one."""
        return self.key or self._tried, self._tried_secret

    @property
    def is_known(self) -> bool:
        """Whether it has logged in."""
        return self.key is not None

    def forget_client(self) -> None:
        """Nobody is logged in any more."""
        self.key = self._secret = None

    def decide(self, event: Event) -> None:
        """A sender, a message or credentials."""
        if isinstance(event, Mail):
            self._begin_mail()
        elif isinstance(event, Message):
            self.start(self._accept(event))
        elif isinstance(event, AuthAttempt):
            self._log_in(event)

    # Messages

    def _begin_mail(self) -> None:
        """MAIL: with the key as it is now, for it may have been revoked, restricted or paused since AUTH."""
        self._answer_with(self._looked_up, self._sender_reply)

    def _answer_with(self, look_up: Callable[[], Found], reply: Callable[[ApiKey | None], Reply]) -> None:
        """Answers once the key is known: at once, or by a task when it has to be read."""
        try:
            found = look_up()
        except Exception:
            fault("lookup")
            self.session.answer(say.LOGIN_FAULT)
            return
        if found is None or isinstance(found, ApiKey):
            self.session.answer(reply(found))
        else:
            self.start(self._await_key(found, reply))

    async def _await_key(self, found: Awaitable[ApiKey | None], reply: Callable[[ApiKey | None], Reply]) -> None:
        try:
            key = await found
        except Exception:
            fault("lookup")
            self.finish(say.LOGIN_FAULT)
        else:
            self.finish(reply(key))

    def _sender_reply(self, key: ApiKey | None) -> Reply:
        refusal = self._check_key(key)
        return say.SENDER_OK if refusal is None else self._refused(refusal)

    async def _accept(self, message: Message) -> None:
        try:
            found = self._looked_up()
            key = found if found is None or isinstance(found, ApiKey) else await found
        except Exception:
            result: Accepted | Refusal = fault("lookup")
        else:
            result = self._check_key(key) or await self._accepted_or_refused(message)
        if isinstance(result, Refusal):
            self.finish(self._refused(result))
            return
        message_id = result.messages[0].id
        self.finish(Reply(250, "2.0.0", f"Ok: {message_id}"))

    def _looked_up(self) -> Found:
        """The key as the store has it now; None when it is revoked or expired."""
        if self._secret is None:
            return self._service.dev_key
        return self._service.keys.lookup(self._secret)

    def _check_key(self, key: ApiKey | None) -> Refusal | None:
        if self.key is None:
            return MISSING_KEY
        if key is None:
            return INVALID_KEY
        self.key = key
        try:
            return self._service.acceptor.check_mail(key, self._host)
        except Exception:
            return fault("check_mail")

    def _refused(self, refusal: Refusal) -> Reply:
        log.info("smtp.refused", name=refusal.name, code=refusal.smtp_code, key=self.key and self.key.id)
        self._service.on_error(refusal.name)
        return Reply(refusal.smtp_code, refusal.smtp_enhanced, refusal.smtp_text)

    async def _accepted_or_refused(self, message: Message) -> Accepted | Refusal:
        assert self.key is not None  # _check_key came before
        submission = RawSubmission(
            self.key,
            message.return_path,
            message.recipients,
            message.raw,
            message.protocol,
            capture=self._service.dev_key is not None,
            client=self._host,
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
        self._answer_with(lambda: self._service.keys.lookup(attempt.secret), lambda key: self._judge(attempt, key))

    def _judge(self, attempt: AuthAttempt, key: ApiKey | None) -> Reply:
        """A right key is never refused for the failures of others at its address: those count only when it is wrong."""
        self._tried_secret = attempt.secret
        if key is None or attempt.user.lower() not in USERS:
            self._tried = key
            if self._wrong is not None and self._wrong[0] == attempt.secret:
                return self._wrong[1]  # smtplib says the same again by AUTH LOGIN: that is one guess
            self._service.on_error(INVALID_KEY.name)
            wait = self._service.guesses.wrong_key(self._host, attempt.secret)
            log.info("smtp.login_failed", peer=self._client, too_many=wait is not None)
            self._wrong = attempt.secret, say.AUTH_FAILED if wait is None else say.TOO_MANY_LOGINS
            if wait is not None:
                self.is_repeated = not wait.is_new
            return self._wrong[1]
        if EMAILS_SEND not in key.permissions:
            self._tried = key
            return say.CANNOT_SEND
        self.key, self._secret = key, attempt.secret
        return say.AUTHENTICATED
