"""The hot operations on SQLite: accept, claim, complete. Each takes all waiting values of its kind at once.

Hand-written for the raw driver, and with many rows a statement: sqlite3 gives the interpreter's lock away for each step
of a statement, and a busy event loop may keep it for the whole switch interval before it comes back. How often that
happens depends on the machine (benchmarks/README.md). Nothing here decides anything; the rows come ready from `rows`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain
from typing import Any

from sendkit_server.model.mail import Content
from sendkit_server.model.status import Status, message_status
from sendkit_server.store import rows
from sendkit_server.store.values import Claim, Completion, Job, NewMail

# One statement for each number of rows up to this; the driver keeps them all prepared.
MAX_ROWS_A_STATEMENT = 64
STATEMENTS = 16 * MAX_ROWS_A_STATEMENT

_CONTENT = "INSERT INTO content (team_id, id, size_bytes, body) VALUES {rows}"
_MESSAGE = (
    "INSERT INTO message (team_id, id, parent_id, content_id, door, key_id, domain_id, capture, protocol, from_mailbox,"
    " to_mailboxes, cc_mailboxes, subject, message_id, tags, metadata, stream, status, recipient_count, size_bytes,"
    " created_at) VALUES {rows}"
)
_RECIPIENT = (
    "INSERT INTO recipient (team_id, message_id, n, local, site, name, matching, role, status, attempts,"
    " next_attempt_at, owner, fence, updated_at) VALUES {rows}"
)
_LABEL = "INSERT OR IGNORE INTO message_label (team_id, kind, name, value, message_id) VALUES {rows}"


def accept_many(connection: sqlite3.Connection, mails: list[NewMail]) -> list[None]:
    """Stores each mail's content, messages, recipients and labels."""
    _execute(connection, _CONTENT, [rows.content_row(mail) for mail in mails])
    _execute(connection, _MESSAGE, [row for mail in mails for row in rows.message_rows(mail)])
    _execute(connection, _RECIPIENT, [row for mail in mails for row in rows.recipient_rows(mail)])
    _execute(connection, _LABEL, [row for mail in mails for row in rows.label_rows(mail)])
    return [None] * len(mails)


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


_NEXT_SITE = (
    "SELECT site, next_attempt_at FROM recipient INDEXED BY ix_recipient_due"
    " WHERE owner IS NULL AND next_attempt_at IS NOT NULL AND site > ? ORDER BY site, next_attempt_at LIMIT 1"
)
_TAKE = (
    "UPDATE recipient SET owner = ?, fence = fence + 1 WHERE (team_id, message_id, n) IN ("
    " SELECT team_id, message_id, n FROM recipient INDEXED BY ix_recipient_due"
    " WHERE owner IS NULL AND next_attempt_at IS NOT NULL AND site = ? AND next_attempt_at <= ?"
    " ORDER BY next_attempt_at LIMIT ?)"
    " RETURNING team_id, message_id, n, local, site, name, role, status, attempts, fence"
)
_LOAD = (
    "SELECT id, content_id, door, key_id, from_mailbox, to_mailboxes, cc_mailboxes, subject, message_id, created_at,"
    " domain_id, capture, protocol, size_bytes, team_id FROM (VALUES {rows}) AS wanted"
    " CROSS JOIN message WHERE team_id = wanted.column1 AND id = wanted.column2"
)
_BODY = (
    "SELECT team_id, id, body FROM (VALUES {rows}) AS wanted"
    " CROSS JOIN content WHERE team_id = wanted.column1 AND id = wanted.column2"
)

Key = tuple[int, str]  # team and public id


def claim_many(connection: sqlite3.Connection, claims: list[Claim]) -> list[list[Job]]:
    """Takes due recipients for this node, site by site, so that no site's backlog hides another's mail."""
    return [_claim(connection, claim) for claim in claims]


def _claim(connection: sqlite3.Connection, claim: Claim) -> list[Job]:
    taken: list[tuple[Any, ...]] = []
    # Round the sites from where the last claim stopped: each step is one index seek, whatever waits behind the sites.
    site, wrapped = claim.after_site, False
    for _ in range(claim.max_sites):
        if len(taken) >= claim.limit:
            break
        found = connection.execute(_NEXT_SITE, (site,)).fetchone()
        if found is None:
            if wrapped or not claim.after_site:
                break
            site, wrapped = "", True
            continue
        site, earliest = found
        if wrapped and site > claim.after_site:
            break
        if earliest > claim.now or site in claim.exclude_sites:
            continue
        room = min(claim.per_site, claim.limit - len(taken))
        taken += connection.execute(_TAKE, (claim.owner, site, claim.now, room)).fetchall()
    return _jobs(connection, taken, claim.body_bytes)


def _jobs(connection: sqlite3.Connection, taken: Iterable[tuple[Any, ...]], body_bytes: int) -> list[Job]:
    """One job for the recipients of one message at one site with one fence; bodies while they fit into body_bytes."""
    grouped: dict[tuple[int, str, str, int], list[tuple[Any, ...]]] = {}
    for row in taken:
        grouped.setdefault((row[0], row[1], row[4], row[9]), []).append(row)
    keys: list[Key] = list(dict.fromkeys((team_id, message_id) for team_id, message_id, _, _ in grouped))
    stored = {(row[14], row[0]): row for row in _execute(connection, _LOAD, keys)}
    contents = _contents(connection, [stored[key] for key in keys], body_bytes)
    jobs = []
    for (team_id, message_id, site, fence), members in grouped.items():
        message = rows.message_of(team_id, stored[team_id, message_id])
        content = contents.get((team_id, message.content_id))
        recipients = tuple(rows.recipient_of(row[2:]) for row in sorted(members, key=lambda row: row[2]))
        jobs.append(Job(message, recipients, site, stored[team_id, message_id][13], fence, content))
    return jobs


def _contents(connection: sqlite3.Connection, messages: list[tuple[Any, ...]], body_bytes: int) -> dict[Key, Content]:
    """The contents of messages (rows of _LOAD), in their order while they fit into body_bytes."""
    wanted: dict[Key, None] = {}
    for row in messages:
        if row[13] <= body_bytes:
            wanted[row[14], row[1]] = None
            body_bytes -= row[13]
    contents = {}
    for team_id, content_id, body in _execute(connection, _BODY, list(wanted)):
        # A damaged body must not keep the other mails from being claimed; whoever asks for it alone is told.
        with suppress(ValueError):
            contents[team_id, content_id] = rows.content_of(body)
    return contents


# `+owner` keeps SQLite from going by the index of owned recipients, which this changes, instead of by the key.
_UPDATE = (
    "UPDATE recipient SET status = new.column1, attempts = new.column2, reason = new.column3,"
    " explanation = new.column4, code = new.column5, enhanced = new.column6, next_attempt_at = new.column7,"
    " owner = NULL, updated_at = new.column8 FROM (VALUES {rows}) AS new"
    " WHERE team_id = new.column9 AND message_id = new.column10 AND n = new.column11 AND +owner = new.column12"
    " AND fence = new.column13"
)
_ATTEMPT = (
    "INSERT INTO attempt (team_id, message_id, route, host, address, tls, started_at, milliseconds, outcomes, transcript)"
    " VALUES {rows}"
)
_EVENT = "INSERT INTO event (team_id, message_id, n, type, at, detail) VALUES {rows}"
_CAPTURED = "INSERT OR REPLACE INTO captured (team_id, message_id, captured_at, raw) VALUES {rows}"
# Of a message with several recipients the status depends on all of them; it is set by _STATUS.
_MESSAGE_DONE = (
    "UPDATE message SET status = iif(recipient_count = 1, new.column3, status),"
    " sent_at = coalesce(sent_at, new.column4) FROM (VALUES {rows}) AS new"
    " WHERE team_id = new.column1 AND id = new.column2"
)
_SEVERAL = (
    "SELECT team_id, id FROM (VALUES {rows}) AS new"
    " CROSS JOIN message WHERE team_id = new.column1 AND id = new.column2 AND recipient_count > 1"
)
_STATUSES = "SELECT status FROM recipient WHERE team_id = ? AND message_id = ?"
_STATUS = "UPDATE message SET status = ? WHERE team_id = ? AND id = ?"


class NotAllOwned(Exception):
    """Some completion of a group is not this node's any more; told one by one, each learns whether it was that one."""


def complete_many(connection: sqlite3.Connection, written: list[tuple[int, Completion]]) -> list[bool]:
    """Writes what tries came to. True for each that this node still owned; of the others nothing is written.

    written: (owner, completion).
    """
    owned: list[bool] = []
    for batch in _without_repetition(written):
        owned += _update_recipients(connection, batch)
    completions = [completion for (_, completion), mine in zip(written, owned, strict=True) if mine]
    _execute(connection, _ATTEMPT, [rows.attempt_row(c) for c in completions if c.attempt is not None])
    _execute(connection, _EVENT, [row for c in completions for row in rows.event_rows(c)])
    _execute(connection, _CAPTURED, [rows.captured_row(c) for c in completions if c.captured is not None])
    _update_messages(connection, completions)
    return owned


def _without_repetition(written: list[tuple[int, Completion]]) -> Iterable[list[tuple[int, Completion]]]:
    """In order, in batches that name no recipient twice: of two rows for one, UPDATE … FROM would take either."""
    seen: set[tuple[int, str, int]] = set()
    batch: list[tuple[int, Completion]] = []
    for one in written:
        message = one[1].job.message
        recipients = [(message.team_id, message.id, update.n) for update in one[1].updates]
        if not seen.isdisjoint(recipients):
            yield batch
            seen, batch = set(), []
        seen.update(recipients)
        batch.append(one)
    yield batch


def _update_recipients(connection: sqlite3.Connection, written: list[tuple[int, Completion]]) -> list[bool]:
    """NotAllOwned, unless all or (of a single completion) none is."""
    values = [row for owner, completion in written for row in rows.update_rows(owner, completion)]
    before = connection.total_changes
    _execute(connection, _UPDATE, values)
    changed = connection.total_changes - before
    if changed == len(values):
        return [True] * len(written)
    if len(written) > 1:
        raise NotAllOwned
    if changed:
        # Recipients of one job change hands together; half of it is a fault worth failing loudly for.
        raise RuntimeError(f"{written[0][1].job.message.id}: only a part of the recipients is still owned")
    return [False]


def _update_messages(connection: sqlite3.Connection, completions: list[Completion]) -> None:
    changed: dict[Key, rows.Row] = {}
    for completion in completions:
        key = completion.job.message.team_id, completion.job.message.id
        sent = next((event.at for event in completion.events if event.type == Status.SENT), None)
        if key in changed and changed[key][3] is not None:
            sent = changed[key][3]
        changed[key] = (*key, completion.updates[-1].status, sent)
    _execute(connection, _MESSAGE_DONE, list(changed.values()))
    for team_id, message_id in _execute(connection, _SEVERAL, list(changed)):
        found = connection.execute(_STATUSES, (team_id, message_id)).fetchall()
        connection.execute(_STATUS, (message_status([Status(row[0]) for row in found]), team_id, message_id))
