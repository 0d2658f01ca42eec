"""The hot operations on SQLite: accept, claim, complete. Each takes all waiting values of its kind at once.

Hand-written for the raw driver, and with many rows a statement: sqlite3 gives the interpreter's lock away for each step
of a statement, and a busy event loop may keep it for the whole switch interval before it comes back. How often that
happens depends on the machine (benchmarks/README.md). Nothing here decides anything; the rows come ready from `rows`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from typing import Any

from sendkit_server.model.mail import Content, Priority
from sendkit_server.model.status import Status, message_status
from sendkit_server.store import once, rows
from sendkit_server.store.values import Claim, Claimed, Completion, Job, NewMail, Repeat

# One statement for each number of rows up to this; the driver keeps them all prepared.
MAX_ROWS_A_STATEMENT = 64
STATEMENTS = 16 * MAX_ROWS_A_STATEMENT

_CONTENT = "INSERT INTO content (team_id, id, size_bytes, body) VALUES {rows}"
_MESSAGE = (
    "INSERT INTO message (team_id, id, parent_id, content_id, door, key_id, domain_id, capture, protocol, from_mailbox,"
    " to_mailboxes, cc_mailboxes, subject, message_id, tags, metadata, stream, status, recipient_count, size_bytes,"
    " created_at, priority, expires_at, require_tls) VALUES {rows}"
)
_RECIPIENT = (
    "INSERT INTO recipient (team_id, message_id, n, local, site, name, matching, role, status, attempts,"
    " next_attempt_at, owner, fence, updated_at, priority) VALUES {rows}"
)
# Of recipients that are at an end when they are accepted; there are none mostly.
_ENDED_RECIPIENT = (
    "INSERT INTO recipient (team_id, message_id, n, local, site, name, matching, role, status, updated_at, priority,"
    " reason, explanation, attempts, fence) SELECT column1, column2, column3, column4, column5, column6, column7, column8,"
    " column9, column10, column11, column12, column13, 0, 0 FROM (VALUES {rows})"
)
_LABEL = "INSERT OR IGNORE INTO message_label (team_id, kind, name, value, message_id) VALUES {rows}"


# A row that is not kept any longer is as good as none.
_ONCE = (
    "INSERT INTO idempotency (team_id, scope, key, fingerprint, reply, created_at, kept_until) VALUES {rows}"
    " ON CONFLICT (team_id, scope, key) DO UPDATE SET fingerprint = excluded.fingerprint, reply = excluded.reply,"
    " created_at = excluded.created_at, kept_until = excluded.kept_until"
    " WHERE idempotency.kept_until <= excluded.created_at RETURNING team_id, scope, key"
)
_KEPT = "SELECT fingerprint, reply FROM idempotency WHERE team_id = ? AND scope = ? AND key = ?"


def accept_many(connection: sqlite3.Connection, mails: list[NewMail]) -> list[Repeat | None]:
    """Stores each mail's content, messages, recipients, labels and what has happened already, but for repetitions."""
    repeats: list[Repeat | None] = [None] * len(mails)
    if any(mail.once is not None for mail in mails):
        repeats = once.repeats(
            mails,
            lambda found: _execute(connection, _ONCE, found),
            lambda keys: {key: Repeat(*connection.execute(_KEPT, key).fetchone()) for key in keys},
        )
        mails = [mail for mail, repeat in zip(mails, repeats, strict=True) if repeat is None]
    _execute(connection, _CONTENT, [rows.content_row(mail) for mail in mails])
    _execute(connection, _MESSAGE, [row for mail in mails for row in rows.message_rows(mail)])
    _execute(connection, _RECIPIENT, [row for mail in mails for row in rows.recipient_rows(mail)])
    _execute(connection, _LABEL, [row for mail in mails for row in rows.label_rows(mail)])
    ended = [mail for mail in mails if any(new.ended for new in mail.messages)]
    _execute(connection, _ENDED_RECIPIENT, [row for mail in ended for row in rows.ended_recipient_rows(mail)])
    _execute(connection, _EVENT, [row for mail in ended for row in rows.accepted_event_rows(mail)])
    return repeats


def _execute(connection: sqlite3.Connection, statement: str, values: Sequence[rows.Row]) -> list[tuple[Any, ...]]:
    """Runs a statement over rows of values, many at a time; what it returned.

    statement: with {rows} where `(?,…),(?,…)` belongs.
    """
    returned: list[tuple[Any, ...]] = []
    start = 0
    while start < len(values):
        part = values[start : start + MAX_ROWS_A_STATEMENT]
        sql = _with_rows(statement, len(part[0]), len(part))
        returned += connection.execute(sql, tuple(chain.from_iterable(part))).fetchall()
        start += len(part)
    return returned


@cache
def _with_rows(statement: str, columns: int, count: int) -> str:
    row = f"({','.join('?' * columns)})"
    return statement.format(rows=",".join([row] * count))


# The sites behind one, an index seek each whatever waits there, and for each whether something of each priority is due.
_ANY_DUE = (
    ", EXISTS (SELECT 1 FROM recipient INDEXED BY ix_recipient_due WHERE owner IS NULL AND next_attempt_at IS NOT NULL"
    " AND site = round.site AND priority = {priority} AND next_attempt_at <= ?3)"
)
_ROUND = (
    "WITH RECURSIVE round(site) AS ("
    " SELECT (SELECT min(site) FROM recipient INDEXED BY ix_recipient_due"
    "  WHERE owner IS NULL AND next_attempt_at IS NOT NULL AND site > ?1)"
    " UNION ALL"
    " SELECT (SELECT min(site) FROM recipient INDEXED BY ix_recipient_due"
    "  WHERE owner IS NULL AND next_attempt_at IS NOT NULL AND site > round.site)"
    " FROM round WHERE round.site IS NOT NULL LIMIT ?2"
    ") SELECT site{due} FROM round WHERE site IS NOT NULL"
)
_SITES = _ROUND.format(due="".join(_ANY_DUE.format(priority=priority.value) for priority in Priority))
# Joined and not by IN: for that SQLite goes by an index that begins with the team, through all of its recipients.
# A job's bytes count once, with its first recipient, and its recipients stay together: what counts is how large the jobs
# before it are. In RETURNING columns have no type, and without one SQLite would look through all of a team's messages.
_TAKE = (
    "UPDATE recipient SET owner = ?, fence = fence + 1 FROM ("
    " SELECT team_id, message_id, n, total(counted) OVER ("
    "  ORDER BY next_attempt_at, team_id, message_id GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before"
    " FROM ("
    "  SELECT due.*, CASE WHEN lag(due.message_id) OVER ("
    "   ORDER BY due.next_attempt_at, due.team_id, due.message_id, due.n) = due.message_id"
    "   THEN 0 ELSE message.size_bytes END AS counted"
    "  FROM ("
    "   SELECT team_id, message_id, n, next_attempt_at FROM recipient INDEXED BY ix_recipient_due"
    "   WHERE owner IS NULL AND next_attempt_at IS NOT NULL AND site = ? AND priority = ? AND next_attempt_at <= ?"
    "   ORDER BY next_attempt_at LIMIT ?) AS due"
    "  CROSS JOIN message ON message.team_id = due.team_id AND message.id = due.message_id)) AS due"
    " WHERE due.before < ? AND recipient.team_id = due.team_id AND recipient.message_id = due.message_id"
    " AND recipient.n = due.n"
    " RETURNING team_id, message_id, n, local, site, name, role, status, attempts, fence,"
    " (SELECT size_bytes FROM message WHERE message.team_id = recipient.team_id"
    "  AND message.id = CAST(recipient.message_id AS TEXT))"
)
_LOAD = (
    "SELECT id, content_id, door, key_id, from_mailbox, to_mailboxes, cc_mailboxes, subject, message_id, created_at,"
    " domain_id, capture, protocol, size_bytes, recipient_count, team_id, priority,"
    " expires_at, require_tls, stream FROM (VALUES {rows}) AS wanted"
    " CROSS JOIN message WHERE team_id = wanted.column1 AND id = wanted.column2"
)
_BODY = (
    "SELECT team_id, id, body FROM (VALUES {rows}) AS wanted"
    " CROSS JOIN content WHERE team_id = wanted.column1 AND id = wanted.column2"
)


def claim_many(connection: sqlite3.Connection, claims: list[Claim]) -> list[Claimed]:
    """Takes due recipients for this node, site by site, so that no site's backlog hides another's mail."""
    return [_claim(connection, claim) for claim in claims]


def _claim(connection: sqlite3.Connection, claim: Claim) -> Claimed:
    sites = connection.execute(_SITES, (claim.after_site, claim.max_sites, claim.now)).fetchall()
    # A full round ends where the sites do; the next one begins anew.
    reached = sites[-1][0] if len(sites) == claim.max_sites else ""
    taken: list[rows.Taken] = []
    room_bytes = claim.room_bytes
    for site, *due in sites:
        if site in claim.exclude_sites:
            continue
        least = Priority.URGENT if site in claim.urgent_only else claim.least
        priorities = [
            priority for priority, any_due in zip(Priority, due, strict=True) if any_due and priority <= least
        ]
        found, size_bytes = _take(connection, claim, site, priorities, claim.limit - len(taken), room_bytes)
        taken += found
        room_bytes -= size_bytes
        if len(taken) >= claim.limit or room_bytes <= 0:
            reached = site
            break
    return Claimed(_jobs(connection, claim, taken), reached)


def _take(
    connection: sqlite3.Connection, claim: Claim, site: str, priorities: Sequence[Priority], room: int, room_bytes: int
) -> tuple[list[rows.Taken], int]:
    """Of one site, in this order; and how many bytes that is. room, room_bytes: what the claim may still take."""
    room, site_bytes = min(claim.per_site, room), min(claim.site_bytes, room_bytes)
    taken: list[rows.Taken] = []
    left = site_bytes
    for priority in priorities:
        if len(taken) >= room or left <= 0:
            break
        asked = (claim.owner, site, priority.value, claim.now, room - len(taken), left)
        found = connection.execute(_TAKE, asked).fetchall()
        taken += [rows.Taken(row[0], row[1], row[4], row[9], rows.recipient_of(row[2:])) for row in found]
        left -= sum({row[:2]: row[-1] for row in found}.values())
    return taken, site_bytes - left


def _jobs(connection: sqlite3.Connection, claim: Claim, taken: Sequence[rows.Taken]) -> list[Job]:
    keys = list(dict.fromkeys((one.team_id, one.message_id) for one in taken))
    loaded = {
        (row[15], row[0]): rows.StoredMessage(rows.message_of(row[15], row, row[16:]), row[13], row[14])
        for row in _execute(connection, _LOAD, keys)
    }
    contents: dict[rows.Key, Content] = {}
    wanted = rows.bodies_that_fit((loaded[key] for key in keys), claim.body_bytes)
    for team_id, content_id, body in _execute(connection, _BODY, wanted):
        # A damaged body must not keep the other mails from being claimed; whoever asks for it alone is told.
        with suppress(ValueError):
            contents[team_id, content_id] = rows.content_of(body)
    return rows.jobs_of(claim.owner, taken, loaded, contents)


# `+owner` keeps SQLite from going by the index of owned recipients, which this changes, instead of by the key.
_UPDATE = (
    "UPDATE recipient SET status = new.column1, attempts = new.column2, reason = new.column3,"
    " explanation = new.column4, code = new.column5, enhanced = new.column6, next_attempt_at = new.column7,"
    " owner = NULL, updated_at = new.column8 FROM (VALUES {rows}) AS new"
    " WHERE team_id = new.column9 AND message_id = new.column10 AND n = new.column11 AND +owner = new.column12"
    " AND fence = new.column13"
)
_ATTEMPT = (
    "INSERT INTO attempt (team_id, message_id, id, route, host, address, tls, started_at, milliseconds, outcomes,"
    " transcript) VALUES {rows}"
)
_EVENT = "INSERT INTO event (team_id, message_id, id, n, type, at, detail) VALUES {rows}"
# The first evidence stays.
_SUPPRESSION = (
    "INSERT INTO suppression (team_id, address, id, reason, detail, created_at, updated_at)"
    " SELECT column1, column2, column3, column4, column5, column6, column6 FROM (VALUES {rows}) WHERE true"
    " ON CONFLICT (team_id, address) DO UPDATE SET updated_at = excluded.updated_at"
)
_CAPTURED = "INSERT OR REPLACE INTO captured (team_id, message_id, captured_at, raw) VALUES {rows}"
# Of a message with more recipients the status depends on all of them; it is set by _STATUS.
_MESSAGE_DONE = (
    "UPDATE message SET status = coalesce(new.column3, status), sent_at = coalesce(sent_at, new.column4)"
    " FROM (VALUES {rows}) AS new WHERE team_id = new.column1 AND id = new.column2"
)
_STATUSES = "SELECT status FROM recipient WHERE team_id = ? AND message_id = ?"
_STATUS = "UPDATE message SET status = ? WHERE team_id = ? AND id = ?"


class NotAllOwned(Exception):
    """Some completion of a group is not this node's any more; told one by one, each learns whether it was that one."""


def complete_many(connection: sqlite3.Connection, completions: list[Completion]) -> list[bool]:
    """Writes what tries came to. True for each that this node still owned; of the others nothing is written."""
    owned: list[bool] = []
    for batch in rows.without_repetition(completions):
        owned += _update_recipients(connection, batch)
    written = [completion for completion, mine in zip(completions, owned, strict=True) if mine]
    _execute(connection, _ATTEMPT, [rows.attempt_row(one) for one in written if one.attempt is not None])
    _execute(connection, _EVENT, [row for one in written for row in rows.event_rows(one)])
    _execute(connection, _CAPTURED, [rows.captured_row(one) for one in written if one.captured is not None])
    _update_messages(connection, written)
    _execute(connection, _SUPPRESSION, rows.suppression_rows(one for one in completions if one.suppressions))
    return owned


def _update_recipients(connection: sqlite3.Connection, completions: list[Completion]) -> list[bool]:
    """NotAllOwned, unless all or (of a single completion) none is."""
    values = [row for completion in completions for row in rows.update_rows(completion)]
    before = connection.total_changes
    _execute(connection, _UPDATE, values)
    changed = connection.total_changes - before
    if changed == len(values):
        return [True] * len(completions)
    if len(completions) > 1:
        raise NotAllOwned
    if changed:
        # Recipients of one job change hands together; half of it is a fault worth failing loudly for.
        raise RuntimeError(f"{completions[0].job.message.id}: only a part of the recipients is still owned")
    return [False]


def _update_messages(connection: sqlite3.Connection, completions: list[Completion]) -> None:
    changed: dict[rows.Key, rows.Row] = {}
    for completion in completions:
        team_id, message_id, status, sent_at = rows.message_row(completion)
        before = changed.get((team_id, message_id))
        sent_at = before[3] if before and before[3] is not None else sent_at
        changed[team_id, message_id] = team_id, message_id, status, sent_at
    _execute(connection, _MESSAGE_DONE, list(changed.values()))
    shared = (one.job.message for one in completions if one.job.shared)
    for team_id, message_id in dict.fromkeys((message.team_id, message.id) for message in shared):
        found = connection.execute(_STATUSES, (team_id, message_id)).fetchall()
        connection.execute(_STATUS, (message_status([Status(row[0]) for row in found]), team_id, message_id))
