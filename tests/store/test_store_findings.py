"""What the doctor found last, and what it says has changed."""

from __future__ import annotations

import pytest

from sendkit_server.model.finding import Finding, FindingStatus, worst
from sendkit_server.store.queries import findings
from sendkit_server.store.store import Store


def found(status: str, name: str = "spf", subject: str | None = None) -> Finding:
    return Finding(name, FindingStatus(status), f"it is {status}", subject=subject)


async def keep(store: Store, now: int, *looked: Finding, scope: str = "dom_1") -> list[tuple[str, str | None, str]]:
    changes = await store.write(lambda connection: findings.keep(connection, scope, looked, now))
    return [(change.finding.key, change.before, str(change.finding.status)) for change in changes]


async def standing(store: Store, name: str = "spf") -> tuple[str, int] | None:
    return await store.read(lambda connection: findings.standing(connection, "dom_1", name))


async def test_a_change_is_told_once_and_its_time_is_kept(store: Store) -> None:
    assert await keep(store, 1, found("ok")) == [("spf", None, "ok")]
    assert await keep(store, 2, found("error")) == [("spf", "ok", "error")]
    assert await keep(store, 3, found("error")) == []
    assert await standing(store) == ("error", 2)
    assert await keep(store, 4, found("ok")) == [("spf", "error", "ok")]
    assert await standing(store) == ("ok", 4)


async def test_what_could_not_be_asked_leaves_what_was_known(store: Store) -> None:
    await keep(store, 1, found("error"))
    assert await keep(store, 2, found("unknown")) == []
    assert await keep(store, 3, found("error")) == []
    assert await standing(store) == ("error", 1)


async def test_what_is_not_looked_at_any_more_is_forgotten_after_a_whole_look(store: Store) -> None:
    lists = [found("ok", "blocklist", f"192.0.2.{n} list.test") for n in (1, 2)]
    await keep(store, 1, *lists)
    await keep(store, 2, lists[0], found("unknown", "hostname"))
    assert await standing(store, "blocklist 192.0.2.2 list.test") == ("ok", 1)
    await keep(store, 3, lists[0])
    assert await standing(store, "blocklist 192.0.2.2 list.test") is None
    assert await standing(store, "blocklist 192.0.2.1 list.test") == ("ok", 1)


async def test_each_scope_is_looked_at_by_itself(store: Store) -> None:
    await keep(store, 5, found("ok"))
    assert await keep(store, 7, found("error"), scope="node-2") == [("spf", None, "error")]
    at = await store.read(lambda connection: findings.looked_at(connection, ["dom_1", "node-2", "dom_3"]))
    assert at == {"dom_1": 5, "node-2": 7}


@pytest.mark.parametrize(
    ("statuses", "together"),
    [
        ("", "ok"),
        ("ok", "ok"),
        ("ok unknown", "unknown"),
        ("warning unknown", "warning"),
        ("ok error warning", "error"),
    ],
)
def test_the_worst_counts(statuses: str, together: str) -> None:
    assert worst([found(status) for status in statuses.split()]) == together
