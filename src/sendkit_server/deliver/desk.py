"""Where mails get their bytes: a parcel's content and keys are fetched, and it is composed and signed in the pool.

An RSA signature costs more than all the rest and releases the GIL, so it belongs into threads; but each hop to a
thread and back costs the loop some 60 µs, so parcels that wait together go together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Executor
from typing import Protocol

import msgspec

from sendkit_server.compose import CannotCompose, Composed, compose
from sendkit_server.deliver.line import Line
from sendkit_server.deliver.outcome import COMPOSE_FAILED, DKIM_KEY_MISSING
from sendkit_server.deliver.parcel import Parcel
from sendkit_server.model.mail import Content, Message
from sendkit_server.model.outcome import Outcome, Result
from sendkit_server.wire.dkim import DkimKey
from sendkit_server.wire.smtp_client import has_bare_line_end

BATCH = 8
# While this many accepted mails wait for their commit, composing makes way for the doors: a client waits for its
# answer, a mail can leave a moment later. But never for longer than a moment, or a load that never ends would stop delivery.
BUSY_DOORS = 3
STEP_S = 0.01
MOST_STEPS = 10


class Sources(Protocol):
    """What the desk needs of the store."""

    async def content(self, team_id: int, content_id: str) -> Content:
        """A message's content."""

    async def signing_keys(self, team_id: int, domain: str) -> tuple[DkimKey, ...]:
        """The keys of a From domain, empty when there are none."""


class _Work(msgspec.Struct, frozen=True):
    message: Message
    content: Content
    keys: Sequence[DkimKey]
    eightbit_allowed: bool


class Desk:
    """Composes what it is given and passes it on: `ready(parcel)`, or `refused(parcel, outcome)`."""

    def __init__(
        self,
        sources: Sources,
        pool: Executor,
        hostname: str,
        *,
        workers: int,
        dkim_required: Callable[[Parcel], bool],
        start: Callable[[Coroutine[None, None, None]], object],
        fault: Callable[[str, BaseException], None],
        doors: Callable[[], int],
    ) -> None:
        self._doors = doors
        self._sources = sources
        self._pool = pool
        self._hostname = hostname
        self._workers = workers
        self._dkim_required = dkim_required
        self._start = start
        self._fault = fault
        self._working = 0
        self._waiting = Line()

    def add(self, parcel: Parcel, then: Callable[[Parcel, Outcome | None], None]) -> None:
        """Compose it; then(parcel, None) when parcel.composed stands, else then(parcel, why not)."""
        parcel.then = then
        self._waiting.append(parcel)
        if self._working < self._workers:
            self._working += 1
            self._start(self._work())

    async def seven_bit(self, parcel: Parcel) -> Outcome | None:
        """Compose it once more for a server without 8BITMIME; why not, when that cannot be."""
        content = await self._content(parcel)
        work = _Work(parcel.message, content, parcel.keys, eightbit_allowed=False)
        loop = asyncio.get_running_loop()
        return self._settle(parcel, (await loop.run_in_executor(self._pool, _compose_all, [work], self._hostname))[0])

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._make_way()
                if not self._waiting:
                    return
                # A fair share each: two workers with four parcels each are done before one with eight.
                size = min(BATCH, -(-len(self._waiting) // self._workers))
                await self._compose([self._waiting.popleft() for _ in range(size)])
        finally:
            self._working -= 1

    async def _make_way(self) -> None:
        for _ in range(MOST_STEPS):
            if self._doors() < BUSY_DOORS:
                return
            await asyncio.sleep(STEP_S)

    async def _compose(self, batch: list[Parcel]) -> None:
        work: list[_Work] = []
        prepared: list[Parcel] = []
        for parcel in batch:
            try:
                found = await self._prepare(parcel)
            except Exception as error:
                # The store's fault or a sealed key that does not open: the mail waits, somebody is told.
                self._fault("delivery.compose_failed", error)
                found = COMPOSE_FAILED
            if isinstance(found, Outcome):
                parcel.then(parcel, found)
            else:
                work.append(found)
                prepared.append(parcel)
        if not work:
            return
        loop = asyncio.get_running_loop()
        composed: list[Composed | Exception]
        try:
            composed = await loop.run_in_executor(self._pool, _compose_all, work, self._hostname)
        except Exception as error:
            composed = [error] * len(work)
        for parcel, made in zip(prepared, composed, strict=True):
            parcel.then(parcel, self._settle(parcel, made))

    async def _prepare(self, parcel: Parcel) -> _Work | Outcome:
        message = parcel.message
        parcel.keys = await self._sources.signing_keys(message.team_id, message.from_.domain)
        if not parcel.keys and self._dkim_required(parcel):
            return DKIM_KEY_MISSING
        return _Work(message, await self._content(parcel), parcel.keys, eightbit_allowed=True)

    async def _content(self, parcel: Parcel) -> Content:
        job = parcel.jobs[0]
        if job.content is not None:
            return job.content
        return await self._sources.content(parcel.message.team_id, parcel.message.content_id)

    def _settle(self, parcel: Parcel, made: Composed | Exception) -> Outcome | None:
        if isinstance(made, Composed):
            parcel.composed = made
            return None
        if isinstance(made, CannotCompose):
            return Outcome(Result.FAILED, made.reason, made.text, enhanced=made.enhanced)
        self._fault("delivery.compose_failed", made)
        return COMPOSE_FAILED


def _compose_all(work: Iterable[_Work], hostname: str) -> list[Composed | Exception]:
    """In a thread of the pool. An error is a result of its own mail, not of those beside it."""
    results: list[Composed | Exception] = []
    for item in work:
        try:
            results.append(_compose_one(item, hostname))
        except Exception as error:
            results.append(error)
    return results


def _compose_one(work: _Work, hostname: str) -> Composed:
    composed = compose(work.message, work.content, work.keys, hostname=hostname, eightbit_allowed=work.eightbit_allowed)
    # Never let out what another server might take for the end of the message, whoever let it in.
    if has_bare_line_end(composed.raw):
        raise ValueError("the composed message holds a bare CR or LF")
    return composed
