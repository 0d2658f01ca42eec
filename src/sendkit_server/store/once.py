"""Calls that are obeyed only once: which mails of a group are repetitions, the same on both engines.

The key's row is written in the transaction of its mail, so that there is never one without the other; the row's primary key
is what keeps two nodes from obeying the same call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from sendkit_server.store.values import NewMail, Once, Repeat

Key: TypeAlias = tuple[int, str, str]  # team, scope, key
Row: TypeAlias = tuple[int, str, str, bytes, str, int, int]

COLUMNS = ("team_id", "scope", "key", "fingerprint", "reply", "created_at", "kept_until")


def key_of(mail: NewMail) -> Key | None:
    """By which a repetition is known; None when it may come again."""
    return None if mail.once is None else (mail.messages[0].message.team_id, mail.once.scope, mail.once.key)


def repeats(
    mails: Sequence[NewMail],
    insert: Callable[[list[Row]], Iterable[Key]],
    stored: Callable[[list[Key]], Mapping[Key, Repeat]],
) -> list[Repeat | None]:
    """For each mail the earlier call that it repeats, or None.

    insert: writes rows where there is none, or one that is not kept any longer; the keys it wrote.  stored: what is kept.
    """
    first: dict[Key, Once] = {}
    for mail in mails:
        key = key_of(mail)
        if key is not None and mail.once is not None:
            first.setdefault(key, mail.once)
    if not first:
        return [None] * len(mails)
    written = set(insert([_row(key, once) for key, once in first.items()]))
    known: dict[Key, Repeat] = {
        key: Repeat(once.fingerprint, once.reply) for key, once in first.items() if key in written
    }
    if len(written) < len(first):
        known.update(stored([key for key in first if key not in written]))
    found: list[Repeat | None] = []
    for mail in mails:
        key = key_of(mail)
        is_first = key is None or (key in written and mail.once is first[key])
        found.append(None if is_first or key is None else known[key])
    return found


def _row(key: Key, once: Once) -> Row:
    return (*key, once.fingerprint, once.reply, once.at, once.kept_until)
