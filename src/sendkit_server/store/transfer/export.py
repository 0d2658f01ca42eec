"""`sendkit export`: what is stored, as JSON lines for other programs: no keys' hashes, no private keys.

Every object says what it is in `object`. Times are ISO 8601 in UTC; columns that hold JSON stand as JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sendkit_server.model.address import Mailbox
from sendkit_server.model.ids import id_floor
from sendkit_server.model.instant import Instant, to_datetime
from sendkit_server.store.rows import content_of
from sendkit_server.store.transfer.backup import check_readable
from sendkit_server.store.transfer.source import Source, open_snapshot
from sendkit_server.store.transfer.tables import BY_NAME, Batch, Carried, Row

KINDS = ("emails", "events", "attempts", "domains", "keys")
CONTENTS_AT_ONCE = 64

# By kind: the table, the word for one object, and the column that `--since` is about.
_KIND = {
    "emails": ("message", "email", "created_at"),
    "events": ("event", "event", "at"),
    "attempts": ("attempt", "attempt", "started_at"),
    "domains": ("domain", "domain", "created_at"),
    "keys": ("api_key", "key", "created_at"),
}
_SECRET = frozenset({"secret_hash", "private_key"})
# Of a recipient: what it shares with its email, and what only the server needs.
_OURS = frozenset({"team_id", "message_id", "owner", "fence", "matching"})
_JSON = frozenset({"record_status", "tags", "metadata", "outcomes", "transcript", "detail"})
_MAILBOXES = frozenset({"to_mailboxes", "cc_mailboxes"})
_NAMED = {
    ("message", "from_mailbox"): "from",
    ("message", "to_mailboxes"): "to",
    ("message", "cc_mailboxes"): "cc",
    ("message", "message_id"): "message_id_header",
}

_encode = msgspec.json.Encoder().encode
_decode_mailbox = msgspec.json.Decoder(Mailbox).decode
_decode_mailboxes = msgspec.json.Decoder(tuple[Mailbox, ...]).decode


def export(
    data_dir: Path,
    database_url: str | None,
    kinds: Sequence[str],
    since: Instant | None,
    write: Callable[[bytes], object],
    *,
    bodies: bool = False,
) -> int:
    """Writes one line an object, of one state of the database; how many. since: only what happened from then on.

    bodies: emails come with their content, as it was handed in: parts, or `raw` in base64.
    """
    lines = 0
    with open_snapshot(data_dir, database_url, data_dir) as source:
        check_readable(source, None)
        for kind in kinds:
            for objects in _objects(source, kind, since, bodies):
                write(b"".join([_encode(one) + b"\n" for one in objects]))
                lines += len(objects)
    return lines


def _objects(source: Source, kind: str, since: Instant | None, bodies: bool) -> Iterator[list[dict[str, Any]]]:
    name, word, at = _KIND[kind]
    table = BY_NAME[name]
    where = f'"{at}" >= {source.placeholder}' if since is not None else ""
    found = source.batches(table, where=where, parameters=() if since is None else (since,))
    if kind == "emails":
        yield from _emails(source, table, found, since, bodies)
        return
    worded = _wording(table)
    for batch in found:
        yield [{"object": word, **worded(row)} for row in batch]


def _emails(
    source: Source, table: Carried, found: Iterator[Batch], since: Instant | None, bodies: bool
) -> Iterator[list[dict[str, Any]]]:
    """Messages with their recipients: both come in the same order, so one pass over each is enough."""
    recipients = BY_NAME["recipient"]
    worded, recipient_worded = _wording(table), _recipient_wording(recipients)
    content_id = table.columns.index("content_id")
    where = f"message_id >= {source.placeholder}" if since is not None else ""
    # Ids tell when they were made; a day's room for what a clock that was set may have done.
    least = () if since is None else (id_floor("msg", max(0, since - 86_400_000)),)
    waiting = _Rows(source.batches(recipients, where=where, parameters=least))
    for batch in found:
        emails = []
        for row in batch:
            own = [recipient_worded(one) for one in waiting.of((row[0], row[1]))]
            emails.append({"object": "email", **worded(row), "recipients": own})
        if bodies:
            for start in range(0, len(emails), CONTENTS_AT_ONCE):
                part = emails[start : start + CONTENTS_AT_ONCE]
                _add_contents(source, batch[start : start + CONTENTS_AT_ONCE], content_id, part)
                yield part
        else:
            yield emails


class _Rows:
    """Rows in the order of their keys, to be taken by the first two columns of the key, in that order."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._rows = (row for batch in batches for row in batch)
        self._next: Row | None = next(self._rows, None)

    def of(self, key: tuple[Any, Any]) -> Iterator[Row]:
        """The rows of this key; those of lesser ones are passed over."""
        while self._next is not None and (self._next[0], self._next[1]) <= key:
            row, self._next = self._next, next(self._rows, None)
            if (row[0], row[1]) == key:
                yield row


def _add_contents(source: Source, batch: Batch, position: int, emails: list[dict[str, Any]]) -> None:
    for team_id in {row[0] for row in batch}:
        wanted = sorted({row[position] for row in batch if row[0] == team_id})
        marks = ", ".join([source.placeholder] * len(wanted))
        statement = f"SELECT id, body FROM content WHERE team_id = {source.placeholder} AND id IN ({marks})"  # noqa: S608
        found = dict(map(tuple, source.values(statement, team_id, *wanted)))
        for email in emails:
            if email["team_id"] == team_id:
                body = found.get(email["content_id"])
                # None: its time was over, and it was removed.
                email["content"] = None if body is None else content_of(body)


def _recipient_wording(table: Carried) -> Callable[[Row], dict[str, Any]]:
    worded = _wording(table, _OURS | {"local", "site", "name"})
    local, site, name = (table.columns.index(column) for column in ("local", "site", "name"))
    return lambda row: {**_mailbox(Mailbox(row[local], row[site], row[name])), **worded(row)}


def _wording(table: Carried, left_out: frozenset[str] = _SECRET) -> Callable[[Row], dict[str, Any]]:
    """How a row becomes an object's members."""
    members = [
        (n, _NAMED.get((table.name, column), column), _reader(table, n, column))
        for n, column in enumerate(table.columns)
        if column not in left_out
    ]
    return lambda row: {name: None if row[n] is None else read(row[n]) for n, name, read in members}


def _reader(table: Carried, position: int, column: str) -> Callable[[Any], Any]:
    if position in table.switches:
        return bool
    if column.endswith("_at") or column == "at":
        return _iso
    if column in _JSON:
        return lambda text: msgspec.Raw(text.encode())
    if column in _MAILBOXES:
        return lambda text: [_mailbox(one) for one in _decode_mailboxes(text)]
    if column == "from_mailbox":
        return lambda text: _mailbox(_decode_mailbox(text))
    if column == "permissions":
        return lambda text: text.split(",")
    return lambda value: value


def _mailbox(mailbox: Mailbox) -> dict[str, str]:
    return {"address": mailbox.address, "name": mailbox.name}


def _iso(at: Instant) -> str:
    return to_datetime(at).isoformat(timespec="milliseconds").replace("+00:00", "Z")
