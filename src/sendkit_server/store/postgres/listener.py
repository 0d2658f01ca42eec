"""Hears that something is due: a thread that waits on LISTEN, and connects again when it was cut off.

Missing a notification costs a moment and never a mail: every node looks by itself, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import structlog

from sendkit_server.store.postgres.hot import WAKE_CHANNEL

AGAIN_S = 1.0
LOOK_S = 0.5  # how often a quiet connection looks whether it is to stop

log = structlog.get_logger("store")


class Listener:
    """Calls `wake` for each notification, and once for each new connection: something may have been missed."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], wake: Callable[[], None]) -> None:
        self._connect = connect
        self._wake = wake
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-listener", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        self._thread.join(timeout=5 * LOOK_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._connect() as connection:
                    connection.execute(f"LISTEN {WAKE_CHANNEL}")
                    self._wake()
                    self._hear(connection)
            except psycopg.Error as error:
                log.warning("store.not_listening", error=str(error))
                self._stopping.wait(AGAIN_S)

    def _hear(self, connection: psycopg.Connection[Any]) -> None:
        while not self._stopping.is_set():
            for _ in connection.notifies(timeout=LOOK_S, stop_after=1):
                self._wake()
