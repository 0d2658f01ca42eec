"""The hot operations on PostgreSQL: accept, claim, complete. Each takes all waiting values of its kind at once.

A group is one statement with its rows as one JSON document, and its bytes as one string that the statement cuts up: of
all ways to hand many rows over, that costs this process least (docs/decisions/0009). The statements of a transaction go
out together (pipeline mode), so an operation returns a function that reads its results once they are there.

Nothing here decides anything; the rows come ready from `rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, LiteralString

import msgspec
from psycopg import Connection

from sendkit_server.model.mail import Content, Priority
from sendkit_server.model.status import MESSAGE_PRECEDENCE
from sendkit_server.store import once, rows
from sendkit_server.store.values import Claim, Claimed, Completion, NewMail, Repeat

Raw = Connection[tuple[Any, ...]]
Results = Callable[[], list[Any]]

WAKE_CHANNEL = "sendkit_due"
MAX_BLOB_BYTES = 16 * 1024 * 1024  # of bodies in one statement

_encode = msgspec.json.Encoder().encode


def _json(columns: Sequence[str], found: Iterable[rows.Row]) -> str:
    return _encode([dict(zip(columns, row, strict=True)) for row in found]).decode()


_CONTENT = ("team_id", "id", "size_bytes", "at", "length")
_MESSAGE = (
    "team_id", "id", "parent_id", "content_id", "door", "key_id", "domain_id", "capture", "protocol", "from_mailbox",
    "to_mailboxes", "cc_mailboxes", "subject", "message_id", "tags", "metadata", "stream", "status", "recipient_count",
    "size_bytes", "created_at", "priority", "expires_at", "require_tls",
)  # fmt: skip
_RECIPIENT = (
    "team_id", "message_id", "n", "local", "site", "name", "matching", "role", "status", "attempts", "next_attempt_at",
    "owner", "fence", "updated_at", "priority",
)  # fmt: skip
_LABEL = ("team_id", "kind", "name", "value", "message_id")

_ACCEPT: LiteralString = """
WITH new_content AS (
    INSERT INTO content (team_id, id, size_bytes, body)
    SELECT team_id, id, size_bytes, substring(%b::bytea FROM at FOR length)
    FROM json_to_recordset(%s::json) AS x(team_id bigint, id text, size_bytes bigint, at int, length int)
), new_message AS (
    INSERT INTO message (team_id, id, parent_id, content_id, door, key_id, domain_id, capture, protocol, from_mailbox,
        to_mailboxes, cc_mailboxes, subject, message_id, tags, metadata, stream, status, recipient_count, size_bytes,
        created_at, priority, expires_at, require_tls)
    SELECT * FROM json_to_recordset(%s::json) AS x(team_id bigint, id text, parent_id text, content_id text, door text,
        key_id text, domain_id text, capture boolean, protocol text, from_mailbox text, to_mailboxes text,
        cc_mailboxes text, subject text, message_id text, tags text, metadata text, stream text, status text,
        recipient_count int, size_bytes bigint, created_at bigint, priority int, expires_at bigint, require_tls boolean)
), new_recipient AS (
    INSERT INTO recipient (team_id, message_id, n, local, site, name, matching, role, status, attempts, next_attempt_at,
        owner, fence, updated_at, priority)
    SELECT * FROM json_to_recordset(%s::json) AS x(team_id bigint, message_id text, n int, local text, site text,
        name text, matching text, role text, status text, attempts int, next_attempt_at bigint, owner bigint, fence int,
        updated_at bigint, priority int)
)
INSERT INTO message_label (team_id, kind, name, value, message_id)
SELECT * FROM json_to_recordset(%s::json) AS x(team_id bigint, kind text, name text, value text, message_id text)
ON CONFLICT DO NOTHING
"""
# Of recipients that are at an end when they are accepted; there are none mostly.
_ENDED_RECIPIENT = (
    "team_id", "message_id", "n", "local", "site", "name", "matching", "role", "status", "updated_at", "priority", "reason",
    "explanation",
)  # fmt: skip
_ACCEPT_ENDED: LiteralString = """
WITH new_recipient AS (
    INSERT INTO recipient (team_id, message_id, n, local, site, name, matching, role, status, updated_at, priority, reason,
        explanation, attempts, fence)
    SELECT *, 0, 0 FROM json_to_recordset(%s::json) AS x(team_id bigint, message_id text, n int, local text, site text,
        name text, matching text, role text, status text, updated_at bigint, priority int, reason text, explanation text)
)
INSERT INTO event (team_id, message_id, id, n, type, at, detail)
SELECT * FROM json_to_recordset(%s::json) AS x(team_id bigint, message_id text, id bigint, n int, type text, at bigint,
    detail text)
"""


# A row that is not kept any longer is as good as none. Sorted, so that two nodes never wait for each other in a ring.
_ONCE: LiteralString = """
INSERT INTO idempotency (team_id, scope, key, fingerprint, reply, created_at, kept_until)
SELECT team_id, scope, key, decode(fingerprint, 'hex'), reply, created_at, kept_until
FROM json_to_recordset(%s::json) AS x(team_id bigint, scope text, key text, fingerprint text, reply text,
    created_at bigint, kept_until bigint)
ORDER BY team_id, scope, key
ON CONFLICT (team_id, scope, key) DO UPDATE SET fingerprint = excluded.fingerprint, reply = excluded.reply,
    created_at = excluded.created_at, kept_until = excluded.kept_until
WHERE idempotency.kept_until <= excluded.created_at
RETURNING team_id, scope, key
"""
_KEPT: LiteralString = "SELECT fingerprint, reply FROM idempotency WHERE team_id = %s AND scope = %s AND key = %s"


def _insert_once(connection: Raw, found: list[once.Row]) -> list[once.Key]:
    document = _json(once.COLUMNS, ((*row[:3], row[3].hex(), *row[4:]) for row in found))
    return connection.execute(_ONCE, (document,)).fetchall()


def _kept(connection: Raw, keys: list[once.Key]) -> dict[once.Key, Repeat]:
    # At READ COMMITTED each statement sees what was committed before it, such as the row that the insert waited for.
    found = {key: connection.execute(_KEPT, key).fetchone() for key in keys}
    return {key: Repeat(*row) for key, row in found.items() if row is not None}


def accept_many(connection: Raw, mails: list[NewMail]) -> Results:
    """Stores each mail's content, messages, recipients, labels and what has happened already, but for repetitions; wakes the
    others when something is left to them."""
    repeats: list[Repeat | None] = [None] * len(mails)
    if any(mail.once is not None for mail in mails):
        repeats = once.repeats(
            mails, lambda found: _insert_once(connection, found), lambda keys: _kept(connection, keys)
        )
        mails = [mail for mail, repeat in zip(mails, repeats, strict=True) if repeat is None]
    if mails:
        _store(connection, mails)
    return lambda: repeats


def _store(connection: Raw, mails: list[NewMail]) -> None:
    unowned = False
    for part in _by_size(mails):
        contents = [rows.content_row(mail) for mail in part]
        recipients = [row for mail in part for row in rows.recipient_rows(mail)]
        blob, cuts = _joined([row[3] for row in contents])
        connection.execute(
            _ACCEPT,
            (
                blob,
                _json(_CONTENT, ((*row[:3], *cut) for row, cut in zip(contents, cuts, strict=True))),
                _json(_MESSAGE, (row for mail in part for row in rows.message_rows(mail))),
                _json(_RECIPIENT, recipients),
                _json(_LABEL, (row for mail in part for row in rows.label_rows(mail))),
            ),
        )
        unowned = unowned or any(row[11] is None for row in recipients)
    ended = [mail for mail in mails if any(new.ended for new in mail.messages)]
    if ended:
        connection.execute(
            _ACCEPT_ENDED,
            (
                _json(_ENDED_RECIPIENT, (row for mail in ended for row in rows.ended_recipient_rows(mail))),
                _json(_EVENT, (row for mail in ended for row in rows.accepted_event_rows(mail))),
            ),
        )
    if unowned:
        wake(connection)


def wake(connection: Raw) -> None:
    """Tells every node, once this transaction has committed, that something may be due."""
    connection.execute("SELECT pg_notify(%s, '')", (WAKE_CHANNEL,))


def _by_size(mails: list[NewMail]) -> Iterator[list[NewMail]]:
    """In parts whose contents are about MAX_BLOB_BYTES at most: a statement's parameters are held in memory thrice."""
    part: list[NewMail] = []
    size = 0
    for mail in mails:
        if part and size + mail.size_bytes > MAX_BLOB_BYTES:
            yield part
            part, size = [], 0
        part.append(mail)
        size += mail.size_bytes
    yield part


def _joined(parts: Sequence[bytes]) -> tuple[bytes, list[tuple[int, int]]]:
    """All bytes in one, and where each part lies (from 1, as SQL counts) and how long it is."""
    cuts = []
    at = 1
    for part in parts:
        cuts.append((at, len(part)))
        at += len(part)
    return b"".join(parts), cuts


# The sites behind one, an index seek each whatever waits there, and whether anything is due of each priority.
_SITES: LiteralString = """
WITH RECURSIVE round AS (
    (SELECT site FROM recipient WHERE owner IS NULL AND next_attempt_at IS NOT NULL AND site > %(after)s
        ORDER BY site LIMIT 1)
    UNION ALL
    SELECT (SELECT site FROM recipient WHERE owner IS NULL AND next_attempt_at IS NOT NULL AND site > round.site
        ORDER BY site LIMIT 1)
    FROM round WHERE round.site IS NOT NULL
)
SELECT site, ARRAY(
    SELECT priority FROM unnest(%(priorities)s::int[]) AS priority WHERE EXISTS (
        SELECT 1 FROM recipient AS r WHERE owner IS NULL AND next_attempt_at IS NOT NULL AND r.site = round.site
            AND r.priority = priority.priority AND next_attempt_at <= %(now)s
    )
)
FROM round WHERE site IS NOT NULL LIMIT %(max_sites)s
"""
# Of each site and priority the rows that no other node is taking, in the order of `wanted`. A job's bytes count once, with
# its first recipient, and its recipients stay together: what counts is how large the jobs before it are. What goes beyond a
# bound keeps nothing of this but a lock until the commit. The last column: where the round goes on when it is not complete.
_CLAIM: LiteralString = """
WITH due AS (
    SELECT wanted.place, waiting.* FROM unnest(%(sites)s::text[], %(most_urgent)s::int[])
        WITH ORDINALITY AS wanted(site, urgent, place)
    CROSS JOIN LATERAL (
        SELECT ready.* FROM unnest(%(priorities)s::int[]) AS p(priority) CROSS JOIN LATERAL (
            SELECT team_id, message_id, n, priority, next_attempt_at FROM recipient
            WHERE owner IS NULL AND next_attempt_at IS NOT NULL AND recipient.site = wanted.site
                AND recipient.priority = p.priority AND next_attempt_at <= %(now)s AND p.priority <= wanted.urgent
            ORDER BY next_attempt_at LIMIT %(per_site)s FOR UPDATE SKIP LOCKED
        ) AS ready LIMIT %(per_site)s
    ) AS waiting LIMIT %(limit)s
), sized AS (
    SELECT due.place, due.n, due.next_attempt_at, m.team_id, m.id, m.content_id, m.door, m.key_id, m.from_mailbox,
        m.to_mailboxes, m.cc_mailboxes, m.subject, m.message_id, m.created_at, m.domain_id, m.capture, m.protocol,
        m.priority, m.expires_at, m.require_tls, m.stream, m.size_bytes, m.recipient_count,
        CASE WHEN lag(m.id) OVER (
            PARTITION BY due.place ORDER BY m.priority, due.next_attempt_at, m.team_id, m.id, due.n
        ) = m.id THEN 0 ELSE m.size_bytes END AS counted
    FROM due JOIN message AS m ON m.team_id = due.team_id AND m.id = due.message_id
), of_sites AS (
    SELECT *, sum(counted) OVER (
        PARTITION BY place ORDER BY priority, next_attempt_at, team_id, id GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS before FROM sized
), m AS (
    SELECT *, sum(counted) OVER (
        ORDER BY place, priority, next_attempt_at, team_id, id GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS before_in_all FROM of_sites WHERE coalesce(before, 0) < %(site_bytes)s
)
UPDATE recipient AS r SET owner = %(owner)s, fence = r.fence + 1
FROM m WHERE coalesce(m.before_in_all, 0) < %(room_bytes)s
    AND r.team_id = m.team_id AND r.message_id = m.id AND r.n = m.n
RETURNING r.team_id, r.message_id, r.n, r.local, r.site, r.name, r.role, r.status, r.attempts, r.fence,
    m.id, m.content_id, m.door, m.key_id, m.from_mailbox, m.to_mailboxes, m.cc_mailboxes, m.subject, m.message_id,
    m.created_at, m.domain_id, m.capture, m.protocol, m.priority, m.expires_at, m.require_tls, m.stream,
    m.size_bytes, m.recipient_count,
    (SELECT CASE WHEN count(*) >= %(limit)s THEN max(place) END FROM due)
"""
# Where the message's columns begin, those that say how it wants to travel, and those beside it.
_MESSAGE_AT, _WISHES_AT, _SIZE_AT = 10, 23, 27
_PRIORITIES = [priority.value for priority in Priority]
_BODY: LiteralString = """
SELECT content.team_id, content.id, content.body
FROM json_to_recordset(%s::json) AS wanted(team_id bigint, id text)
JOIN content ON content.team_id = wanted.team_id AND content.id = wanted.id
"""


def claim_many(connection: Raw, claims: list[Claim]) -> Results:
    """Takes due recipients for this node, site by site, so that no site's backlog hides another's mail."""
    claimed = [_claim(connection, claim) for claim in claims]
    return lambda: claimed


def _claim(connection: Raw, claim: Claim) -> Claimed:
    priorities = [priority.value for priority in Priority if priority <= claim.least]
    asked = {"after": claim.after_site, "now": claim.now, "max_sites": claim.max_sites, "priorities": priorities}
    sites = connection.execute(_SITES, asked).fetchall()
    # A full round ends where the sites do; the next one begins anew.
    reached = sites[-1][0] if len(sites) == claim.max_sites else ""
    wanted = [
        (site, Priority.URGENT.value if site in claim.urgent_only else claim.least.value)
        for site, due in sites
        if due and site not in claim.exclude_sites and (site not in claim.urgent_only or due[0] == Priority.URGENT)
    ]
    found = _take(connection, claim, wanted) if wanted else []
    taken = [rows.Taken(row[0], row[1], row[4], row[9], rows.recipient_of(row[2:])) for row in found]
    taken.sort(key=lambda one: one.site)
    messages: dict[rows.Key, rows.StoredMessage] = {}
    for row in found:
        if (row[0], row[1]) not in messages:
            message = rows.message_of(row[0], row[_MESSAGE_AT:], row[_WISHES_AT:])
            messages[row[0], row[1]] = rows.StoredMessage(message, row[_SIZE_AT], row[_SIZE_AT + 1])
    in_order = [messages[key] for key in dict.fromkeys((one.team_id, one.message_id) for one in taken)]
    contents: dict[rows.Key, Content] = {}
    bodies = rows.bodies_that_fit(in_order, claim.body_bytes)
    if bodies:
        for team_id, content_id, body in connection.execute(_BODY, (_json(("team_id", "id"), bodies),), binary=True):
            # A damaged body must not keep the other mails from being claimed; whoever asks for it alone is told.
            with suppress(ValueError):
                contents[team_id, content_id] = rows.content_of(body)
    jobs = rows.jobs_of(claim.owner, taken, messages, contents)
    if found and found[0][-1] is not None:
        # Perhaps a site was seen that had more than fits, and no place was left for those behind it.
        reached = wanted[found[0][-1] - 1][0]
    if found and sum(job.size_bytes for job in jobs) >= claim.room_bytes:
        reached = taken[-1].site
    return Claimed(jobs, reached)


def _take(connection: Raw, claim: Claim, wanted: Sequence[tuple[str, int]]) -> list[tuple[Any, ...]]:
    """wanted: sites, in their order, and up to which priority."""
    asked = {
        "sites": [site for site, _ in wanted],
        "most_urgent": [priority for _, priority in wanted],
        "priorities": _PRIORITIES,
        "now": claim.now,
        "per_site": claim.per_site,
        "limit": claim.limit,
        "site_bytes": claim.site_bytes,
        "room_bytes": claim.room_bytes,
        "owner": claim.owner,
    }
    return connection.execute(_CLAIM, asked).fetchall()


_UPDATE = (
    "status", "attempts", "reason", "explanation", "code", "enhanced", "next_attempt_at", "at", "team_id",
    "message_id", "n", "owner", "fence",
)  # fmt: skip
_ATTEMPT = (
    "team_id", "message_id", "id", "route", "host", "address", "tls", "started_at", "milliseconds", "outcomes", "transcript",
)  # fmt: skip
_EVENT = ("team_id", "message_id", "id", "n", "type", "at", "detail")

# What belongs to a job as a whole (attempt, events, …) travels with its first recipient: so each part that is written
# follows from a recipient that was still owned, without a join. `coalesce` keeps the index of what this
# node owns out of it, which finds all of that for each row.
_COMPLETE: LiteralString = """
WITH changed AS (
    UPDATE recipient AS r SET status = x.status, attempts = x.attempts, reason = x.reason, explanation = x.explanation,
        code = x.code, enhanced = x.enhanced, next_attempt_at = x.next_attempt_at, owner = NULL, updated_at = x.at
    FROM json_to_recordset(%s::json) AS x(job int, status text, attempts int, reason text, explanation text, code int,
        enhanced text, next_attempt_at bigint, at bigint, team_id bigint, message_id text, n int, owner bigint, fence int,
        attempt json, events json, message_status text, sent_at bigint, cut_at int, cut_length int)
    WHERE r.team_id = x.team_id AND r.message_id = x.message_id AND r.n = x.n AND coalesce(r.owner, -1) = x.owner
        AND r.fence = x.fence
    RETURNING x.job, x.team_id, x.message_id, x.at, x.attempt, x.events, x.message_status, x.sent_at, x.cut_at, x.cut_length
), new_attempt AS (
    INSERT INTO attempt (team_id, message_id, id, route, host, address, tls, started_at, milliseconds, outcomes,
        transcript)
    SELECT c.team_id, c.message_id, a.id, a.route, a.host, a.address, a.tls, a.started_at, a.milliseconds, a.outcomes,
        a.transcript
    FROM changed AS c CROSS JOIN json_to_record(c.attempt) AS a(id bigint, route text, host text, address text, tls text,
        started_at bigint, milliseconds int, outcomes text, transcript text)
    WHERE c.attempt IS NOT NULL
), new_event AS (
    INSERT INTO event (team_id, message_id, id, n, type, at, detail)
    SELECT c.team_id, c.message_id, e.id, e.n, e.type, e.at, e.detail
    FROM changed AS c CROSS JOIN json_to_recordset(c.events) AS e(id bigint, n int, type text, at bigint, detail text)
), new_captured AS (
    INSERT INTO captured (team_id, message_id, captured_at, raw)
    SELECT DISTINCT ON (team_id, message_id) team_id, message_id, at, substring(%b::bytea FROM cut_at FOR cut_length)
    FROM changed WHERE cut_length IS NOT NULL
    ON CONFLICT (team_id, message_id) DO UPDATE SET captured_at = excluded.captured_at, raw = excluded.raw
), done AS (
    UPDATE message AS m SET status = coalesce(x.status, m.status), sent_at = coalesce(m.sent_at, x.sent_at)
    FROM (
        SELECT team_id, message_id, max(message_status) AS status, min(sent_at) AS sent_at
        FROM changed GROUP BY team_id, message_id
    ) AS x
    WHERE m.team_id = x.team_id AND m.id = x.message_id
)
SELECT DISTINCT job FROM changed
"""
# Another node may be at the other recipients of the same messages: they are locked first, in one order on all nodes, so
# that whoever is second sees what the first has written before it says what has become of the whole.
_LOCK: LiteralString = """
SELECT 1 FROM json_to_recordset(%s::json) AS k(team_id bigint, id text)
JOIN message AS m ON m.team_id = k.team_id AND m.id = k.id
ORDER BY m.team_id, m.id FOR UPDATE OF m
"""
_SHARED: LiteralString = """
UPDATE message AS m SET status = x.status
FROM (
    SELECT k.team_id, k.id, (%(precedence)s::text[])[min(array_position(%(precedence)s::text[], r.status))] AS status
    FROM json_to_recordset(%(keys)s::json) AS k(team_id bigint, id text)
    JOIN recipient AS r ON r.team_id = k.team_id AND r.message_id = k.id
    GROUP BY k.team_id, k.id
) AS x
WHERE m.team_id = x.team_id AND m.id = x.id
"""
# The first evidence stays.
_SUPPRESSION = ("team_id", "address", "id", "reason", "detail", "at")
_SUPPRESS: LiteralString = """
INSERT INTO suppression (team_id, address, id, reason, detail, created_at, updated_at)
SELECT team_id, address, id, reason, detail, at, at
FROM json_to_recordset(%s::json) AS x(team_id bigint, address text, id text, reason text, detail text, at bigint)
ON CONFLICT (team_id, address) DO UPDATE SET updated_at = excluded.updated_at
"""
_PRECEDENCE = [status.value for status in MESSAGE_PRECEDENCE]


def complete_many(connection: Raw, completions: list[Completion]) -> Results:
    """Writes what tries came to. True for each that this node still owned; of the others nothing is written."""
    results = [_complete(connection, batch) for batch in rows.without_repetition(completions)]
    # Last, and in one order on all nodes: two that suppress the same address then wait for each other in one direction only.
    suppressions = rows.suppression_rows(one for one in completions if one.suppressions)
    if suppressions:
        connection.execute(_SUPPRESS, (_json(_SUPPRESSION, suppressions),))
    return lambda: [owned for each in results for owned in each()]


def _complete(connection: Raw, completions: Sequence[Completion]) -> Results:
    captured = [None if one.captured is None else rows.captured_row(one)[3] for one in completions]
    blob, cuts = _joined([raw or b"" for raw in captured])
    told: list[dict[str, Any]] = []
    for job, (one, raw, cut) in enumerate(zip(completions, captured, cuts, strict=True)):
        first = len(told)
        told += [{"job": job, **dict(zip(_UPDATE, row, strict=True))} for row in rows.update_rows(one)]
        _, _, status, sent_at = rows.message_row(one)
        told[first].update(
            attempt=None if one.attempt is None else dict(zip(_ATTEMPT, rows.attempt_row(one), strict=True)),
            events=[dict(zip(_EVENT, row, strict=True)) for row in rows.event_rows(one)],
            message_status=status,
            sent_at=sent_at,
            cut_at=None if raw is None else cut[0],
            cut_length=None if raw is None else cut[1],
        )
    shared = {(one.job.message.team_id, one.job.message.id): None for one in completions if one.job.shared}
    keys = _json(("team_id", "id"), shared)
    if shared:
        connection.execute(_LOCK, (keys,))
    cursor = connection.execute(_COMPLETE, (_encode(told).decode(), blob))
    if shared:
        connection.execute(_SHARED, {"precedence": _PRECEDENCE, "keys": keys})
    if any(update.next_attempt_at == one.at for one in completions for update in one.updates):
        wake(connection)

    def owned() -> list[bool]:
        mine = {job for (job,) in cursor.fetchall()}
        return [n in mine for n in range(len(completions))]

    return owned
