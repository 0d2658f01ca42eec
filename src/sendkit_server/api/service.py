"""What the API's handlers work with, put together by app."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from sendkit_server.accept import Acceptor
from sendkit_server.api.http import Request
from sendkit_server.events.metrics import Metrics
from sendkit_server.events.refusals import Note
from sendkit_server.manage.audit import Actor
from sendkit_server.manage.guesses import Guesses
from sendkit_server.manage.surroundings import Surroundings
from sendkit_server.model.instant import Instant
from sendkit_server.model.mail import ApiKey
from sendkit_server.store.queries.rows import AnyRow
from sendkit_server.store.store import Store

T = TypeVar("T")


class Health(Protocol):
    """What `/ready` tells."""

    async def problems(self) -> list[str]:
        """Why this process cannot serve now; empty when it can."""

    def warnings(self) -> list[dict[str, str]]:
        """What an operator should mend, though mail is taken."""


IN_DELIVERY = "It is in delivery: on its way, or waiting for its turn."


class InDelivery(Protocol):
    """What this process's delivery knows of mail in its memory."""

    def turn(self, site: str, message_id: str) -> str:
        """How it stands with a mail."""

    def delay(self, site: str) -> str | None:
        """Why mail for a site waits; None: nothing is known to keep it."""


class Service:
    """The rooms behind the API, and who used which key when."""

    def __init__(
        self,
        store: Store,
        acceptor: Acceptor,
        metrics: Metrics,
        health: Health,
        *,
        public_url: str,
        around: Surroundings,
        clock: Callable[[], Instant],
        used: Callable[[ApiKey], None],
        refresh_metrics: Callable[[], Awaitable[None]],
        guesses: Guesses,
        note_refusal: Note = lambda entry: None,
        delivery: InDelivery | None = None,
    ) -> None:
        """delivery: None when nothing is delivered here."""
        self.delivery = delivery
        self.store = store
        self.acceptor = acceptor
        self.metrics = metrics
        self.health = health
        self.public_url = public_url
        self.around = around
        self.dns_names = around.names
        self.clock = clock
        self.used = used
        self.refresh_metrics = refresh_metrics
        self.guesses = guesses
        self.note_refusal = note_refusal
        self.routes: Sequence[Any] = ()

    def actor(self, request: Request) -> Actor:
        """Who asks for a change."""
        assert request.key is not None
        return Actor(request.key.id, self.clock(), os.urandom)

    def turn(self, recipient: AnyRow) -> str:
        """How it stands with a recipient that is handed to delivery, here or in another process."""
        if self.delivery is None or recipient.owner != self.store.owner:
            return IN_DELIVERY
        return self.delivery.turn(recipient.site, recipient.message_id)

    def delay(self, site: str) -> str | None:
        """Why mail for a site waits in this process's memory, if that is known."""
        return self.delivery.delay(site) if self.delivery is not None else None

    async def in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Runs something long off the loop."""
        return await asyncio.to_thread(function, *arguments)
