"""The HTTP door with a real store behind it, called as ASGI servers call it; delivery only takes note."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from sendkit_server.accept import Acceptor, AcceptSettings
from sendkit_server.api.door import HttpDoor
from sendkit_server.api.service import Service
from sendkit_server.events.metrics import Metrics
from sendkit_server.events.refusals import RefusalLog
from sendkit_server.manage import commands, domains, keys, people
from sendkit_server.manage.audit import Actor
from sendkit_server.manage.context import Context
from sendkit_server.manage.doctor import Doctor
from sendkit_server.manage.domains import DnsNames
from sendkit_server.manage.guesses import Guesses
from sendkit_server.manage.keys import KeyWish
from sendkit_server.manage.passwords import Passwords
from sendkit_server.manage.surroundings import Surroundings
from sendkit_server.model.mail import Warning_
from sendkit_server.model.roles import Role
from sendkit_server.store import schema
from sendkit_server.store.store import Store, open_store
from sendkit_server.store.values import Job

NAMES = DnsNames("mail.sender.test", ("ip4:192.0.2.1",))
NOW = 1_764_000_000_000
BY = Actor("tests", NOW, os.urandom)


class Noted:
    """A hand-over that has room, for so many jobs, or not, and keeps what it was offered."""

    def __init__(self) -> None:
        self.room = True
        self.most = 1000
        self.jobs: list[Job] = []
        self.foreseen: list[Job] = []
        self.wakes = 0

    def has_room(self, site: str, size_bytes: int, priority: object = None) -> bool:
        return self.room and len(self.foreseen) < self.most

    def foresee(self, job: Job) -> None:
        self.foreseen.append(job)

    def forget(self, job: Job) -> None:
        self.foreseen.remove(job)

    def offer(self, job: Job) -> None:
        self.jobs.append(job)

    def wake(self) -> None:
        self.wakes += 1


class Fine:
    """A process that is well."""

    async def problems(self) -> list[str]:
        return []

    def warnings(self) -> list[dict[str, str]]:
        return []


class Answer:
    """What the door answered."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Api:
    """The door, its store, and a live key that may do everything for sender.test."""

    def __init__(self, store: Store, acceptor: Acceptor, handover: Noted, metrics: Metrics) -> None:
        self.store = store
        self.acceptor = acceptor
        self.handover = handover
        self.metrics = metrics
        self.key = ""
        self.warnings: tuple[Warning_, ...] = ()
        self.refusals = RefusalLog(store, metrics, lambda: NOW, os.urandom, str)

        self.elapsed_s = 1_000.0
        self.guesses = Guesses(lambda: self.elapsed_s)

        async def nothing() -> None:
            return None

        service = Service(
            store, acceptor, metrics, Fine(), public_url="http://api.test", around=Surroundings(NAMES), clock=lambda: NOW,
            used=lambda key: None, refresh_metrics=nothing, guesses=self.guesses, note_refusal=self.refusals.note,
        )  # fmt: skip
        self.door = HttpDoor(service)

    async def make_key(
        self, permission: str = "full", *, test: bool = False, domain: str | None = None, team: int = 1, **more: object
    ) -> str:
        """more: as in KeyWish."""
        wish = KeyWish("k", permission, test, domains=() if domain is None else (domain,), **more)  # type: ignore[arg-type]
        return (await keys.create_key(self.store, team, wish, BY)).secret

    async def make_team(self, name: str = "other") -> int:
        """Another team; its number."""
        new = insert(schema.team).values(name=name, created_at=NOW).returning(schema.team.c.id)
        return int(await self.store.write(lambda connection: connection.execute(new).scalar_one()))

    async def make_member(self, email: str, role: Role, team: int = 1) -> str:
        """Somebody with a new account in a team; its id."""
        passwords = Passwords()
        try:
            return await people.add(self.store, passwords, team, email, role, "correct horse battery", BY)
        finally:
            passwords.close()

    async def command(self, action: str, **arguments: object) -> dict[str, Any]:
        """An action of the command line."""
        doctor = Doctor(self.store, Surroundings(NAMES), lambda: NOW)
        return await commands.run(Context(self.store, doctor, lambda: NOW, os.urandom, list), action, arguments)

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = "",
        headers: dict[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> Answer:
        """key "": the live key; None: none. body: bytes as they are, anything else as JSON."""
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        if key is not None:
            sent.setdefault("authorization", f"Bearer {key or self.key}")
        if body is None:
            raw = b""
        elif isinstance(body, bytes):
            raw = body
        else:
            raw = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()],
            "client": (address, 1),
        }
        answered: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": raw, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            answered.append(message)

        await self.door(scope, receive, send)  # type: ignore[arg-type]
        found = {name.decode(): value.decode() for name, value in answered[0]["headers"]}
        return Answer(answered[0]["status"], found, answered[1]["body"])

    async def send(self, **members: object) -> Answer:
        """POST /emails with MAIL and these members; None leaves one out."""
        whole = {**MAIL, **members}
        return await self.call("POST", "/emails", {name: value for name, value in whole.items() if value is not ...})


MAIL = {"from": "hello@sender.test", "to": "ann@there.test", "subject": "Hello", "text": "It works"}


@asynccontextmanager
async def running_api(data_dir: Path, database_url: str | None, **settings: Any) -> AsyncIterator[Api]:
    """An Api on a fresh store."""
    store = open_store(data_dir, "secret", "tests", database_url)
    store.start(NOW)
    metrics = Metrics()
    handover = Noted()
    acceptor = Acceptor(
        AcceptSettings(**settings), store, handover, metrics, clock=lambda: NOW, entropy=os.urandom,
        warnings=lambda: api.warnings,
    )  # fmt: skip
    api = Api(store, acceptor, handover, metrics)
    await domains.add_domain(store, 1, "sender.test", NAMES, trust=True, by=BY)
    api.key = await api.make_key()
    try:
        yield api
    finally:
        store.close()
