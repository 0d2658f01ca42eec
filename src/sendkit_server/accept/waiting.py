"""How long a client is kept waiting for the database: then it is told to come again, and the mail is taken back.

A mail that is at the database already cannot be taken back. If it commits after all it is delivered, and the client,
which was told 503 or 451, may send it once more: a double is the price of never losing one.
"""

from __future__ import annotations

import asyncio

from sendkit_server.store.errors import OutcomeUnknown
from sendkit_server.store.store import PATIENCE_S, Store
from sendkit_server.store.values import Repeat
from sendkit_server.store.writer import Operation

LOOK_S = 0.5

Told = asyncio.Future[Repeat | None]


class Waiting:
    """Mails whose commit is awaited, oldest first; one timer for all of them."""

    def __init__(self, store: Store, patience_s: float = PATIENCE_S) -> None:
        self._store = store
        self._patience_s = patience_s
        self._since: dict[Told, tuple[float, Operation]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, operation: Operation, told: Told) -> None:
        """told: the future that the client's answer hangs on."""
        loop = asyncio.get_running_loop()
        self._since[told] = loop.time(), operation
        if self._timer is None:
            self._timer = loop.call_later(LOOK_S, self._look, loop)

    def remove(self, told: Told) -> None:
        """It has an outcome."""
        self._since.pop(told, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        late = loop.time() - self._patience_s
        for told, (since, operation) in list(self._since.items()):
            if since > late:
                break
            del self._since[told]
            self._store.give_up(operation)
            if not told.done() and not operation.future.done():
                told.set_exception(OutcomeUnknown("the database has not answered in time"))
        if self._since:
            self._timer = loop.call_later(LOOK_S, self._look, loop)
