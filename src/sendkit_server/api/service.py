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
from sendkit_server.store.store import Store

T = TypeVar("T")


class Health(Protocol):
    """What `/ready` tells."""

    async def problems(self) -> list[str]:
        """Why this process cannot serve now; empty when it can."""

    def warnings(self) -> list[dict[str, str]]:
        """What an operator should mend, though mail is taken."""


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
    ) -> None:
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

    async def in_thread(self, function: Callable[..., T], *arguments: object) -> T:
        """Runs something long off the loop."""
        return await asyncio.to_thread(function, *arguments)
