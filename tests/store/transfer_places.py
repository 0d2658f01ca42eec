"""Installations on either engine, filled with some of everything, for the tests of what is carried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import insert, update
from store_mails import completion, new_mail, owned_job

from sendkit_server.model.ids import make_id
from sendkit_server.model.mail import PartsContent, Tag
from sendkit_server.model.status import Status
from sendkit_server.store import schema
from sendkit_server.store.store import Store, open_store
from sendkit_server.store.transfer import source, tables
from sendkit_server.store.values import NewMail

NOW = 1_900_000_000_000
SECRET = "the secret key of the tests"


@dataclass
class Place:
    """Where an installation is, or is to be."""

    data_dir: Path
    url: str | None

    def open(self, secret: str = SECRET) -> Store:
        return open_store(self.data_dir, secret, "tests", self.url)

    def tallies(self) -> dict[str, tables.Tally]:
        """What each table holds."""
        with source.open_snapshot(self.data_dir, self.url, self.data_dir) as found:
            return {table.name: source.tally(found, table) for table in tables.TABLES}

    def rows(self, name: str) -> list[dict[str, Any]]:
        table = tables.BY_NAME[name]
        with source.open_snapshot(self.data_dir, self.url, self.data_dir) as found:
            return [dict(zip(table.columns, row, strict=True)) for batch in found.batches(table) for row in batch]


@dataclass
class Steps:
    """A progress that remembers, and that raises at a step when it is told to."""

    fail_at: str = ""
    begun: list[tuple[str, int]] = field(default_factory=list)
    done: int = 0

    def begin(self, what: str, total: int) -> None:
        self.begun.append((what, total))
        self.done = 0

    def step(self, done: int) -> None:
        self.done += done
        if self.begun[-1][0] == self.fail_at:
            raise KeyboardInterrupt


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Place]]:
    """Makes places; empty: its database is not even migrated."""
    made: list[str] = []

    def make(engine: str, name: str, *, empty: bool = False) -> Place:
        data_dir = tmp_path / name
        data_dir.mkdir()
        if engine == "sqlite":
            return Place(data_dir, None)
        template = None if empty else request.getfixturevalue("migrated_template")
        made.append(request.getfixturevalue("postgres_server").create_database(template))
        return Place(data_dir, made[-1])

    yield make
    for url in made:
        request.getfixturevalue("postgres_server").drop_database(url)


def mail_at(store: Store, at: int, *addresses: str, owned: bool = True, **members: Any) -> NewMail:
    """A mail with ids of that time."""
    mail = new_mail(store.owner, *addresses, owned=owned, at=at, **members)
    (new,) = mail.messages
    entropy = (at % 251).to_bytes(1, "big") * 10
    message = msgspec.structs.replace(
        new.message, id=make_id("msg", at, entropy), content_id=make_id("con", at, entropy)
    )
    return msgspec.structs.replace(mail, messages=(msgspec.structs.replace(new, message=message),))


async def fill(place: Place, mails: int = 40) -> None:
    """A lived-in installation: every table has rows, and of each four mails one waits, unowned or in hand."""
    store = place.open()
    store.start(NOW)
    try:
        for n in range(mails):
            mail = mail_at(
                store, NOW + 60_000 * n, f"Ann{n}@there.test", "bob@elsewhere.test", owned=n % 4 != 0,
                content=PartsContent("Hello", "<p>ä</p>", "text " * 200), tags=(Tag("number", str(n)), Tag("all")),
            )  # fmt: skip
            await store.accept(mail)
            if n % 4 == 2:
                done = completion(owned_job(mail), at=NOW + 60_000 * n + 5)
                await store.complete(msgspec.structs.replace(done, captured=b"Subject: kept\r\n\r\n"))
            elif n % 4 == 3:
                await store.complete(completion(owned_job(mail), Status.DELAYED, next_at=NOW + 9_000_000, at=NOW))
        await store.write(lambda connection: connection.execute(insert(schema.team).values(name="other", created_at=7)))
        await store.write(lambda connection: connection.execute(insert(schema.api_key).values(KEY)))
        await store.write(lambda connection: connection.execute(insert(schema.domain).values(DOMAIN)))
        await store.write(lambda connection: connection.execute(insert(schema.dkim_key).values(DKIM)))
        await store.write(lambda connection: connection.execute(insert(schema.suppression).values(SUPPRESSION)))
        await store.write(
            lambda connection: connection.execute(insert(schema.held_site).values(site="a.test", held_at=7))
        )
        for table, row in OTHERS:
            await store.write(lambda connection, table=table, row=row: connection.execute(insert(table).values(row)))
        # It ends as a killed one does once it has been silent: what it had in hand is still its own.
        await store.write(lambda connection: connection.execute(update(schema.node).values(ended_at=NOW)))
    finally:
        store.close()


KEY = {
    "team_id": 1, "id": "key_1", "name": "tests", "secret_hash": b"\x00hash of a key\xff", "prefix": "sk_live_abc",
    "permissions": "emails:read,emails:send", "test": False, "created_at": NOW, "last_used_at": NOW + 1,
}  # fmt: skip
DOMAIN = {
    "team_id": 1, "id": "dom_1", "name": "sender.test", "status": "verified", "trusted": True, "region": "local",
    "open_tracking": False, "click_tracking": True, "tls": "opportunistic", "record_status": '{"DKIM":"verified"}',
    "created_at": NOW, "updated_at": NOW,
}  # fmt: skip
SUPPRESSION = {
    "team_id": 1, "address": "ann@there.test", "id": "sup_1", "reason": "bounce", "detail": "{}", "created_at": NOW,
    "updated_at": NOW,
}  # fmt: skip
POLICY = {
    "domain": "there.test", "policy_id": "1", "mode": "enforce", "mx": '["*.there.test"]', "fetched_at": NOW,
    "expires_at": NOW + 1,
}  # fmt: skip
OTHERS = (
    (schema.mta_sts, POLICY),
    (
        schema.tls_count,
        {
            "day": NOW, "domain": "there.test", "policy": "sts", "mx_host": "mx.there.test", "result": "success",
            "sessions": 7,
        },
    ),
    (
        schema.report,
        {
            "team_id": 1, "id": "rep_1", "kind": "dmarc", "domain": "sender.test", "organization": "There",
            "report_id": "1", "begins_at": NOW, "ends_at": NOW + 1, "received_at": NOW + 2, "summary": "{}",
        },
    ),
    (schema.warm_up, {"address": "192.0.2.1", "receiver": "google", "day": NOW, "recipients": 40}),
    (
        schema.finding,
        {
            "scope": "sender.test", "name": "spf", "status": "ok", "detail": "{}", "looked_at": NOW, "changed_at": NOW,
        },
    ),
    (
        schema.account,
        {"id": "usr_1", "email": "ann@sender.test", "name": "Ann", "password": "$argon2id$", "created_at": NOW},
    ),
    (schema.membership, {"team_id": 1, "account_id": "usr_1", "role": "owner", "created_at": NOW}),
    (
        schema.session,
        {
            "id": b"\x00s", "account_id": "usr_1", "team_id": 1, "created_at": NOW, "seen_at": NOW, "expires_at": NOW + 1,
        },
    ),
    (
        schema.one_time_link,
        {"id": b"\xffl", "kind": "invite", "team_id": 1, "role": "viewer", "created_at": NOW, "expires_at": NOW + 1},
    ),
    (schema.domain_claim, {"name": "sender.test", "team_id": 1, "domain_id": "dom_1", "claimed_at": NOW}),
    (
        schema.sender,
        {
            "team_id": 1, "id": "snd_1", "name": "Shop", "username": "shop", "domain_id": "dom_1", "created_at": NOW,
            "updated_at": NOW,
        },
    ),
    (
        schema.idempotency,
        {
            "team_id": 1, "scope": "/emails", "key": "order-17", "fingerprint": b"\x00f", "reply": "{}", "created_at": NOW,
            "kept_until": NOW + 1,
        },
    ),
    (schema.usage, {"team_id": 1, "kind": "key", "name": "key_1", "window": NOW, "used": 3}),
    (
        schema.audit,
        {
            "team_id": 1, "id": "aud_1", "at": NOW, "actor": "cli", "action": "keys.create", "target": "key_1",
            "detail": "{}",
        },
    ),
    (
        schema.refusal_log,
        {
            "team_id": 0, "id": "log_1", "at": NOW, "door": "smtp", "address": "192.0.2.1", "step": "AUTH", "reply": "535",
            "detail": "{}",
        },
    ),
    (schema.acme, {"kind": "account", "name": "", "value": b"\x00a", "updated_at": NOW}),
)  # fmt: skip
DKIM = {
    "team_id": 1, "id": "dkm_1", "domain_id": "dom_1", "selector": "s1", "algorithm": "rsa-sha256",
    "private_key": b"\x00sealed private key", "public_record": "v=DKIM1; p=abc", "created_at": NOW,
}  # fmt: skip
