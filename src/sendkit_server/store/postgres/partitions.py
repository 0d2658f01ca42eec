"""Tables that grow with every mail are cut by time: their keys begin with the milliseconds of the public id.

Contents, attempts and captured mails are kept for weeks and cut by the week; messages, recipients, labels and events are
kept for a year and cut by four weeks. What fits no partition (a clock that was far off, mail carried over from another
database) lies in the table's default partition.
"""

from __future__ import annotations

from typing import NamedTuple

import structlog
from psycopg import sql
from psycopg.errors import LockNotAvailable, UndefinedTable

from sendkit_server.model.ids import id_floor
from sendkit_server.model.instant import DAY_MS, Instant
from sendkit_server.store.postgres.hot import Raw

WEEK_MS = 7 * DAY_MS
AHEAD = 2  # partitions that stand ready beside the current one
LOCK_TIMEOUT_MS = 500
log = structlog.get_logger("store")
LOCK_KEY = 0x53656E646B6974  # "Sendkit": one process at a time changes the schema

# Queue rows change twice in a mail's life, and a dead row is one more step of every claim: vacuum early and at full speed.
_BUSY = "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0"


class Cut(NamedTuple):
    """How one table is cut. prefix: of the id that is its partition key.  options: storage parameters of each part.

    compressed: the column whose bytes are compressed already, so that the server need not try.
    """

    table: str
    prefix: str
    span_ms: int
    options: str
    compressed: str | None = None


CUTS = (
    Cut("content", "con", WEEK_MS, "", "body"),
    Cut("attempt", "msg", WEEK_MS, ""),
    Cut("captured", "msg", WEEK_MS, "", "raw"),
    Cut("message", "msg", 4 * WEEK_MS, f"fillfactor = 80, {_BUSY}"),
    Cut("recipient", "msg", 4 * WEEK_MS, f"fillfactor = 80, {_BUSY}"),
    Cut("message_label", "msg", 4 * WEEK_MS, ""),
    Cut("event", "msg", 4 * WEEK_MS, ""),
)


class Part(NamedTuple):
    """One partition: ids from its start until before its end."""

    cut: Cut
    number: int

    @property
    def name(self) -> str:
        """Such as content_p2947."""
        return f"{self.cut.table}_p{self.number}"

    @property
    def start(self) -> Instant:
        """The first millisecond of its ids."""
        return self.number * self.cut.span_ms

    @property
    def end(self) -> Instant:
        """The first millisecond that is not its own any more."""
        return self.start + self.cut.span_ms


def ensure(connection: Raw, now: Instant, since: Instant | None = None) -> list[str]:
    """Makes what is missing of the partitions from `since` (default: now) until a few spans ahead; their names.

    One table at a time, and none for whose lock it would have to wait for long: everybody who writes would wait behind it.
    It is tried again tomorrow, and until then the default partition takes what has no place.
    """
    made: list[str] = []
    for cut in CUTS:
        try:
            with connection.transaction():
                connection.execute("SELECT set_config('lock_timeout', %s, true)", (str(LOCK_TIMEOUT_MS),))
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
                made += _ensure_table(connection, cut, now, now if since is None else since)
        except LockNotAvailable:
            log.warning("partitions.busy", table=cut.table)
    return made


def _ensure_table(connection: Raw, cut: Cut, now: Instant, since: Instant) -> list[str]:
    made: list[str] = []
    known = existing(connection)
    default = f"{cut.table}_other"
    if default not in known:
        _make(connection, cut, default, sql.SQL("DEFAULT"))
    for number in range(since // cut.span_ms, now // cut.span_ms + AHEAD + 1):
        part = Part(cut, number)
        if part.name not in known and _is_free(connection, part, default):
            bounds = (id_floor(cut.prefix, part.start), id_floor(cut.prefix, part.end))
            _make(connection, cut, part.name, sql.SQL("FROM ({}) TO ({})").format(*bounds))
            made.append(part.name)
    return made


def drop_before(connection: Raw, table: str, before: Instant) -> list[str]:
    """Drops a table's partitions that end before then and that hold nothing of a waiting mail; their names.

    A partition that somebody reads just now is left for the next time: waiting for it would hold up every accept. One node
    drops at a time: PostgreSQL faults when two drop the same partition ("could not find tuple for parent of relation").
    """
    dropped = []
    for part in parts(connection):
        if part.cut.table == table and part.end <= before and not _is_needed(connection, part):
            try:
                with connection.transaction():
                    connection.execute("SELECT set_config('lock_timeout', %s, true)", (str(LOCK_TIMEOUT_MS),))
                    connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
                    connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(part.name)))
                dropped.append(part.name)
            except (LockNotAvailable, UndefinedTable):
                continue  # busy, or dropped by another node just now
    return dropped


def _is_needed(connection: Raw, part: Part) -> bool:
    """Whether a recipient of that time still waits: what is made in one call has ids of one millisecond."""
    query = "SELECT 1 FROM recipient WHERE message_id >= %s AND message_id < %s AND next_attempt_at IS NOT NULL LIMIT 1"
    bounds = (id_floor("msg", part.start), id_floor("msg", part.end))
    return connection.execute(query, bounds).fetchone() is not None


def existing(connection: Raw) -> set[str]:
    """The names of all partitions."""
    found = connection.execute(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent"
        " WHERE p.relkind = 'p' AND c.relkind = 'r'"
    )
    return {str(name) for (name,) in found}


def parts(connection: Raw) -> list[Part]:
    """Every partition that has bounds, oldest first."""
    known = existing(connection)
    found = []
    for cut in CUTS:
        prefix = f"{cut.table}_p"
        numbers = (name[len(prefix) :] for name in known if name.startswith(prefix))
        found += [Part(cut, int(number)) for number in numbers if number.isdigit()]
    return sorted(found, key=lambda part: part.start)


def _is_free(connection: Raw, part: Part, default: str) -> bool:
    """Whether the default partition holds nothing that would belong here: then it must stay there."""
    key = "id" if part.cut.table in ("content", "message") else "message_id"
    query = sql.SQL("SELECT 1 FROM {} WHERE {} >= %s AND {} < %s LIMIT 1").format(
        sql.Identifier(default), sql.Identifier(key), sql.Identifier(key)
    )
    bounds = (id_floor(part.cut.prefix, part.start), id_floor(part.cut.prefix, part.end))
    return connection.execute(query, bounds).fetchone() is None


def _make(connection: Raw, cut: Cut, name: str, bounds: sql.Composable) -> None:
    statement = sql.SQL("CREATE TABLE {} PARTITION OF {} {} {}").format(
        sql.Identifier(name),
        sql.Identifier(cut.table),
        bounds if bounds == sql.SQL("DEFAULT") else sql.SQL("FOR VALUES ") + bounds,
        sql.SQL(f"WITH ({cut.options})" if cut.options else ""),
    )
    connection.execute(statement)
    if cut.compressed is not None:
        plain = sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET STORAGE EXTERNAL")
        connection.execute(plain.format(sql.Identifier(name), sql.Identifier(cut.compressed)))
