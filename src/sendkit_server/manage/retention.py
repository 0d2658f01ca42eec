"""Removes what is old enough: each kind after its own time, never what a waiting mail still needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection

from sendkit_server.model.instant import DAY_MS, Instant
from sendkit_server.store.once import Key
from sendkit_server.store.queries import guesses, nodes, once, people, reports, usage
from sendkit_server.store.queries import retention as queries
from sendkit_server.store.queries import tls as tls_queries
from sendkit_server.store.store import Store

TLS_COUNTS_MS = 400 * DAY_MS
MINUTE_KINDS = ("rate-team", "rate-key")  # accept/limits.py

log = structlog.get_logger("retention")


class Kept(msgspec.Struct, frozen=True):
    """How long each kind is kept, in milliseconds."""

    captured: int
    bodies: int
    transcripts: int
    events: int

    @classmethod
    def of(cls, settings: Any) -> Kept:
        """From the settings of these names."""
        return cls(
            settings.capture_retention,
            settings.body_retention,
            settings.transcript_retention,
            settings.event_retention,
        )


async def expire(store: Store, kept: Kept, now: Instant) -> int:
    """Removes everything that is older than its time, in slices, so that no accept waits for it; how many rows.

    Whole partitions are dropped first, where there are any.
    """
    removed = 0
    for table, kept_ms in (
        ("captured", kept.captured),
        ("content", kept.bodies),
        ("attempt", kept.transcripts),
        ("event", kept.events),
        ("message_label", kept.events),
        ("recipient", kept.events),
        ("message", kept.events),
    ):
        before = now - kept_ms
        dropped = await store.write_quietly(_dropping(store, table, before))
        if dropped:
            log.info("retention.partitions_dropped", partitions=dropped)
        removed += await _remove(store, table, before)
    removed += await _remove_reports(store, now - kept.events)
    await store.write_quietly(lambda connection: nodes.forget_ended(connection, now))
    while slice_ := await store.write_quietly(
        lambda connection: tls_queries.forget_old(connection, now - TLS_COUNTS_MS, now - DAY_MS)
    ):
        removed += slice_
    await store.write_quietly(lambda connection: usage.forget_old(connection, MINUTE_KINDS, now))
    await store.write_quietly(lambda connection: people.forget_ended(connection, now))
    await store.write_quietly(lambda connection: guesses.forget_old(connection, now))
    return removed + await _forget_answers(store, now)


async def _forget_answers(store: Store, now: Instant) -> int:
    """Removes the answers to calls whose keys are free again."""
    removed, after = 0, None
    while True:
        slice_ = _answers_after(after, now)
        gone, after = await store.write_quietly(slice_)
        removed += gone
        if after is None:
            return removed


def _answers_after(after: Key | None, now: Instant) -> Callable[[Connection], tuple[int, Key | None]]:
    return lambda connection: once.forget_slice(connection, after, now)


async def _remove_reports(store: Store, before: Instant) -> int:
    """Reports of receivers are kept as long as events."""
    removed = 0
    for team_id in await store.read(queries.team_ids):
        while step := await store.write_quietly(_removing_reports(team_id, before)):
            removed += step
    return removed


def _removing_reports(team_id: int, before: Instant) -> Callable[[Connection], int]:
    return lambda connection: reports.remove_slice(connection, team_id, before)


def _dropping(store: Store, table: str, before: Instant) -> Callable[[Connection], list[str]]:
    return lambda connection: store.engine.drop_before(connection, table, before)


async def _remove(store: Store, table: str, before: Instant) -> int:
    removed = 0
    for team_id in await store.read(queries.team_ids):
        after = ""
        while True:
            step = await store.write_quietly(_removing(table, team_id, before, after))
            removed += step.removed
            if step.last is None:
                break
            after = step.last
    if removed:
        log.info("retention.rows_removed", table=table, rows=removed)
    return removed


def _removing(table: str, team_id: int, before: Instant, after: str) -> Callable[[Connection], queries.Step]:
    return lambda connection: queries.remove_slice(connection, table, team_id, before, after)
