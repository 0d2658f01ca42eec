"""What waits, by destination, and the operator's hand on it: hold, release, retry, drop.

A recipient that delivery has in its memory is handed back before it is cancelled: the site, or the one message, is held
for that moment on every node. What is on the wire by then goes its way; it is told how many those were.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

import msgspec
from sqlalchemy import Connection

from sendkit_server.manage.audit import Actor
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.address import AddressError, ascii_domain
from sendkit_server.model.instant import Instant
from sendkit_server.store.queries import emails as email_queries
from sendkit_server.store.queries import queue as queries
from sendkit_server.store.queries.queue import Target
from sendkit_server.store.store import Store

MAX_LANES = 200
HELD = "held by the operator"
HAND_BACK_S = 4.0  # every node has heard of it twice by then
LOOK_S = 0.05


class Waiting(msgspec.Struct, frozen=True):
    """A team's unsettled recipients at one site. in_flight: handed to delivery, on the wire or waiting for its turn;
    waiting: the rest.

    oldest: when the oldest of their mails was accepted.  last_answer: of the last try, None before the first.  reason: a
    word for why they wait.  held: whether the operator has stopped the site; it is then listed even when nothing waits.
    """

    site: str
    waiting: int
    in_flight: int
    oldest: Instant | None
    next_attempt_at: Instant | None
    last_answer: str | None
    reason: str | None
    held: bool


class Why(msgspec.Struct, frozen=True):
    """Why a recipient ended: word and sentence, and what the audit log calls it."""

    reason: str
    words: str
    action: str


DROPPED = Why("dropped", "Cancelled: the operator dropped it from the queue.", "queue.drop")
CANCELLED = Why("cancelled", "Cancelled before it was sent.", "emails.cancel")


class Cancelled(msgspec.Struct, frozen=True):
    """How many recipients were cancelled, and how many could not be any more because they are being delivered."""

    recipients: int
    in_flight: int


async def waiting(store: Store, team_id: int) -> list[Waiting]:
    """The sites with most waiting first, at most MAX_LANES."""
    return await store.read(lambda connection: _read(connection, team_id))


def site_of(text: str) -> str:
    """A destination as the queue names it. ManageError when it is no domain."""
    try:
        return ascii_domain(text.strip())
    except AddressError as error:
        raise ManageError(f"{text!r} is no destination: {error}; `sendkit queue` lists them") from None


def target_of(team_id: int, text: str | None) -> Target:
    """What a command names: a site, a message's id, or (None) all that waits. ManageError when it is none of them."""
    if text is None:
        return Target(team_id)
    return Target(team_id, message_id=text) if text.startswith("msg_") else Target(team_id, site_of(text))


async def count(store: Store, target: Target) -> int:
    """How many recipients wait or are in flight."""
    return await store.read(lambda connection: queries.unsettled(connection, target))


async def hold(store: Store, team_id: int, site: str, by: Actor) -> bool:
    """Stops delivery to a site, every team's, on every node within two seconds. False: it was held already.

    team_id: on whose audit log it stands.
    """
    name = site_of(site)

    def write(connection: Connection) -> bool:
        is_new = queries.hold(connection, name, by.now)
        if is_new:
            by.record(connection, team_id, "queue.hold", name)
        return is_new

    return await store.write(write)


async def release(store: Store, team_id: int, site: str, by: Actor) -> bool:
    """Lets delivery to a site go on. False: it was not held."""
    name = site_of(site)

    def write(connection: Connection) -> bool:
        store.engine.wake(connection)
        was_held = queries.release(connection, name)
        if was_held:
            by.record(connection, team_id, "queue.release", name)
        return was_held

    return await store.write(write)


async def retry(store: Store, target: Target, by: Actor) -> int:
    """Makes what waits due at once, and its site asked though it is paused; how many recipients."""
    found = 0

    def make_due(connection: Connection) -> int:
        changed = queries.retry_slice(connection, target, by.now)
        if changed and not found:
            _note(connection, target, "emails.retry" if target.message_id else "queue.retry", by)
        return changed

    while changed := await store.write_quietly(make_due):
        found += changed
    sites = await _sites(store, target)

    def tell(connection: Connection) -> None:
        for site in sites:
            queries.tell_retried(connection, site, by.now)
        store.engine.wake(connection)

    await store.write(tell)
    return found


async def cancel(store: Store, target: Target, why: Why, by: Actor, clock: Callable[[], Instant]) -> Cancelled:
    """Ends what waits, and what the nodes hand back within HAND_BACK_S."""
    ended = await _cancel_waiting(store, target, why, by, clock(), 0)
    left = await store.read(lambda connection: queries.in_hand(connection, target))
    name = target.site or target.message_id
    if not left or name is None:
        return Cancelled(ended, left)
    await store.write(lambda connection: queries.hold_briefly(connection, name, clock()))
    try:
        until = monotonic() + HAND_BACK_S
        while left and monotonic() < until:
            await asyncio.sleep(LOOK_S)
            left = await store.read(lambda connection: queries.in_hand(connection, target))
            ended = await _cancel_waiting(store, target, why, by, clock(), ended)
    finally:
        await store.write(lambda connection: queries.release_briefly(connection, name, clock()))
    return Cancelled(ended, left)


async def _cancel_waiting(store: Store, target: Target, why: Why, by: Actor, now: Instant, before: int) -> int:
    """before: how many were ended before; the first of all is what stands on the audit log. How many those are now."""
    found, more = before, True

    def end(connection: Connection) -> tuple[int, bool]:
        ended, more = queries.cancel_slice(connection, target, why.reason, why.words, now, store.owner)
        if ended and not found:
            _note(connection, target, why.action, by)
        return ended, more

    while more:
        ended, more = await store.write_quietly(end)
        found += ended
    return found


def _note(connection: Connection, target: Target, action: str, by: Actor) -> None:
    by.record(connection, target.team_id, action, target.message_id or target.site or "everything")


async def _sites(store: Store, target: Target) -> list[str]:
    """The sites of a target; "" for all."""
    if target.message_id is None:
        return [target.site or ""]
    found = await store.read(
        lambda connection: email_queries.find_email(connection, target.team_id, target.message_id or "")
    )
    return [] if found is None else sorted({row.site for row in found.recipients})


def _read(connection: Connection, team_id: int) -> list[Waiting]:
    held = queries.held_sites(connection)
    found = []
    for row in email_queries.waiting_by_site(connection, team_id, MAX_LANES):
        words = email_queries.last_words(connection, team_id, row.site)
        is_held = row.site in held
        found.append(
            Waiting(
                site=row.site,
                waiting=row.recipients - row.owned,
                in_flight=row.owned,
                oldest=email_queries.created_at(connection, team_id, row.oldest_message),
                next_attempt_at=row.next_attempt_at,
                last_answer=words.explanation if words else None,
                reason=HELD if is_held else words.reason if words else None,
                held=is_held,
            )
        )
    listed = {lane.site for lane in found}
    return found + [Waiting(site, 0, 0, None, None, None, HELD, True) for site in held if site not in listed]
