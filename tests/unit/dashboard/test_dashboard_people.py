"""Signing in, and who may do what on the pages."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

sys.path.insert(0, str(Path(__file__).parent))

from browser import Browser

from sendkit_server.dashboard.door import Pages
from sendkit_server.events.refusals import Entry
from sendkit_server.manage import invitations, people, teams
from sendkit_server.manage.audit import Actor, list_changes
from sendkit_server.manage.guesses import Guesses
from sendkit_server.manage.keys import ManageError
from sendkit_server.model.instant import DAY_MS
from sendkit_server.model.roles import Role
from sendkit_server.store import schema
from sendkit_server.store.store import Store, open_store

PASSWORD = "correct horse battery"
OTHER = "another fine password"
EVIL = '"><img src=x onerror=alert(1)>'


class World:
    """The pages on a fresh store, and hands on its clocks."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = 1_764_000_000_000
        self.elapsed_s = 1_000.0
        self.noted: list[Entry] = []
        self.guesses = Guesses(lambda: self.elapsed_s)
        self.pages = self.make()

    def make(self, public_url: str = "http://127.0.0.1:8080") -> Pages:
        async def api(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

        return Pages(
            api, self.store, dev=False, clock=lambda: self.now, public_url=public_url, guesses=self.guesses,
            note_refusal=self.noted.append,
        )  # fmt: skip

    @property
    def by(self) -> Actor:
        return Actor("cli", self.now, os.urandom)

    async def set_up(self) -> Browser:
        """Ann, the owner, signed in."""
        link = await people.setup_link(self.store, self.by)
        assert link is not None
        ann = Browser(self.pages)
        await ann.get(link.path)
        answer = await ann.post(link.path, email="Ann@Sender.test", name="Ann", password=PASSWORD)
        assert (answer.status, answer.headers["location"]) == (303, "/ui")
        await ann.get("/ui")
        return ann

    async def joined(self, email: str, role: Role, address: str = "192.0.2.8", team_id: int = 1) -> Browser:
        """Somebody who took an invitation, signed in."""
        link = await people.invite(self.store, team_id, email, role, self.by)
        browser = Browser(self.pages, address)
        await browser.get(link.path)
        answer = await browser.post(link.path, name="", password=PASSWORD)
        assert answer.status == 303, answer.text
        await browser.get("/ui")
        return browser

    async def id_of(self, email: str) -> str:
        return next(row.id for row in (await people.members(self.store, 1))[0] if row.email == email)


@pytest.fixture
async def world(tmp_path: Path, database_url: str | None) -> AsyncIterator[World]:
    store = open_store(tmp_path, "s", "tests", database_url)
    store.start(1)
    made = World(store)
    yield made
    made.pages.close()
    store.close()


async def sign_in(browser: Browser, email: str = "ann@sender.test", password: str = PASSWORD) -> int:
    await browser.get("/ui/sign-in")
    return (await browser.post("/ui/sign-in", email=email, password=password)).status


async def test_the_set_up_link_makes_the_owner_once_and_nothing_else_does(world: World) -> None:
    assert "Nobody can sign in yet" in (await Browser(world.pages).get("/ui")).text
    second = await people.setup_link(world.store, world.by)
    assert second is not None
    ann = await world.set_up()
    assert "You are owner here" in (await ann.get("/ui")).text
    assert (await Browser(world.pages).get(second.path)).status == 404
    assert await people.setup_link(world.store, world.by) is None
    assert "Sign in" in (await Browser(world.pages).get("/ui")).text


async def test_a_set_up_link_lasts_a_day_and_opening_it_does_not_use_it_up(world: World) -> None:
    link = await people.setup_link(world.store, world.by)
    assert link is not None
    world.now += DAY_MS - 1
    for _ in range(3):
        assert (await Browser(world.pages).get(link.path)).status == 200
    world.now += 1
    assert (await Browser(world.pages).get(link.path)).status == 404


async def test_what_is_wrong_with_a_new_account_is_said_and_the_link_stays(world: World) -> None:
    link = await people.setup_link(world.store, world.by)
    assert link is not None
    browser = Browser(world.pages)
    await browser.get(link.path)
    for fields, words in (
        ({"email": "ann@sender.test", "password": "short"}, "A password needs 12 to 1000 characters."),
        ({"email": "ann@sender.test,eve@evil.test", "password": PASSWORD}, "is no email address"),
        ({"email": "ann@sender.test", "password": PASSWORD, "name": "x" * 256}, "A name has at most 255"),
        ({}, "A password needs"),
    ):
        answer = await browser.post(link.path, **fields)
        assert answer.status == 422 and words in answer.text, fields
    assert "<img" not in (await browser.post(link.path, email=EVIL, password=PASSWORD)).raw
    assert (await browser.post(link.path, email="ann@sender.test", password=PASSWORD)).status == 303


async def test_address_and_password_sign_in_and_a_wrong_one_and_an_unknown_one_get_the_same_answer(
    world: World,
) -> None:
    await world.set_up()
    browser = Browser(world.pages)
    assert await sign_in(browser, "ANN@sender.test") == 303
    answers = []
    for email, password in (
        ("ann@sender.test", "not the password"), ("eve@sender.test", PASSWORD), ("ann@sender.test,eve@evil.test", PASSWORD),
    ):  # fmt: skip
        other = Browser(world.pages)
        await other.get("/ui/sign-in")
        answer = await other.post("/ui/sign-in", email=email, password=password)
        answers.append((answer.status, answer.text.replace(email, "").replace(other.token, "")))
    assert answers[0][0] == 401 and "The address or the password is wrong." in answers[0][1]
    assert answers[1] == answers[0] and answers[2] == answers[0]
    assert world.noted[-1].step == "POST /ui/sign-in" and PASSWORD not in repr(world.noted)


async def test_the_cookie_is_for_us_alone_and_its_secret_is_not_in_the_database(world: World) -> None:
    ann = await world.set_up()
    secret = ann.cookies["sendkit"]
    rows = await world.store.read(lambda connection: connection.execute(select(schema.session)).all())
    assert len(rows) == 1 and secret.encode() not in repr(rows).encode()
    link = await people.reset_link(world.store, "ann@sender.test", world.by)
    for pages, scheme, name in (
        (world.pages, "http", "sendkit"), (world.pages, "https", "__Host-sendkit"),
        (world.make("https://mail.test"), "http", "__Host-sendkit"),
    ):  # fmt: skip
        browser = Browser(pages, scheme=scheme)
        await browser.get("/ui/sign-in")
        [cookie] = (await browser.post("/ui/sign-in", email="ann@sender.test", password=PASSWORD)).cookies
        parts = cookie.split("; ")
        assert parts[0].startswith(f"{name}=") and {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(parts)
        assert ("Secure" in parts) == name.startswith("__Host-") and "Domain" not in cookie
    assert link.path.count("/") == 3


async def test_a_session_begins_anew_at_sign_in_and_ends_at_sign_out_and_after_thirty_quiet_days(world: World) -> None:
    ann = await world.set_up()
    fixed = dict(ann.cookies)
    await ann.get("/ui/sign-in")
    assert (await ann.post("/ui/sign-in", email="ann@sender.test", password=PASSWORD)).status == 303
    assert ann.cookies["sendkit"] != fixed["sendkit"]
    thief = Browser(world.pages)
    thief.cookies = fixed
    assert "Sign in" in (await thief.get("/ui")).text
    for _ in range(3):
        world.now += 20 * DAY_MS
        assert "You are owner" in (await ann.get("/ui")).text
    kept = dict(ann.cookies)
    assert (await ann.post("/ui/sign-out")).status == 303 and "sendkit" not in ann.cookies
    thief.cookies = kept
    assert "You are owner" not in (await thief.get("/ui")).text
    assert await sign_in(ann) == 303
    world.now += 30 * DAY_MS
    assert "You are owner" not in (await ann.get("/ui")).text


async def test_a_new_password_ends_every_session_but_the_one_that_set_it(world: World) -> None:
    ann, elsewhere = await world.set_up(), Browser(world.pages, "192.0.2.9")
    await sign_in(elsewhere)
    wrong = await ann.post("/ui/password", old="not the password", new=OTHER)
    assert wrong.status == 422 and "The old password is wrong." in wrong.text
    assert "A password needs" in (await ann.post("/ui/password", old=PASSWORD, new="short")).text
    assert (await ann.post("/ui/password", old=PASSWORD, new=OTHER)).status == 303
    assert "You are owner" in (await ann.get("/ui")).text
    assert "You are owner" not in (await elsewhere.get("/ui")).text
    assert (await sign_in(elsewhere), await sign_in(elsewhere, password=OTHER)) == (401, 303)


async def test_a_reset_link_sets_a_password_once_and_the_newest_one_alone_works(world: World) -> None:
    ann = await world.set_up()
    old = await people.reset_link(world.store, "ANN@sender.test", world.by)
    new = await people.reset_link(world.store, "ann@sender.test", world.by)
    browser = Browser(world.pages)
    assert (await browser.get(old.path)).status == 404
    await browser.get(new.path)
    assert (await browser.post(new.path, password=OTHER)).status == 303
    assert "You are owner" in (await browser.get("/ui")).text and "You are owner" not in (await ann.get("/ui")).text
    assert (await browser.post(new.path, password=OTHER)).status == 404
    with pytest.raises(ManageError, match="there is no user"):
        await people.reset_link(world.store, "eve@sender.test", world.by)
    with pytest.raises(ManageError, match="is no email address"):
        await people.reset_link(world.store, "ann@sender.test,eve@evil.test", world.by)


async def test_guessing_is_slowed_by_address_and_by_account_and_locks_nobody_else_out(world: World) -> None:
    await world.set_up()
    guesser = Browser(world.pages, "192.0.2.66")
    assert {await sign_in(guesser, password=f"guess number {n}") for n in range(10)} == {401}
    await guesser.get("/ui/sign-in")
    answer = await guesser.post("/ui/sign-in", email="ann@sender.test", password=PASSWORD)
    assert (
        answer.status == 429 and "Try again in 10 minutes" in answer.text and int(answer.headers["retry-after"]) > 500
    )
    assert await sign_in(guesser, "eve@sender.test") == 429
    assert [entry.detail["status"] for entry in world.noted].count(429) == 1, "it is not said of every try"
    assert await sign_in(Browser(world.pages, "192.0.2.67")) == 303
    world.elapsed_s += 601
    assert await sign_in(guesser) == 303
    for n in range(12):
        await sign_in(Browser(world.pages, f"198.51.100.{n}"), password="a botnet's guess")
    assert await sign_in(Browser(world.pages, "198.51.100.3"), password="again a guess") == 429
    assert await sign_in(Browser(world.pages, "192.0.2.67")) == 303


async def test_who_asks_many_times_at_once_is_answered_no_more_often(world: World) -> None:
    await world.set_up()
    guesser = Browser(world.pages, "192.0.2.66")
    await guesser.get("/ui/sign-in")
    tries = [guesser.post("/ui/sign-in", email="ann@sender.test", password=f"guess number {n}") for n in range(16)]
    statuses = [answer.status for answer in await asyncio.gather(*tries)]
    assert (statuses.count(401), statuses.count(429)) == (10, 6)


async def test_the_old_password_is_no_easier_to_guess_than_a_sign_in(world: World) -> None:
    ann = await world.set_up()
    for n in range(10):
        assert (await ann.post("/ui/password", old=f"guess number {n}", new=OTHER)).status == 422
    answer = await ann.post("/ui/password", old=PASSWORD, new=OTHER)
    assert answer.status == 429 and int(answer.headers["retry-after"]) > 500
    assert await sign_in(Browser(world.pages, "192.0.2.9")) == 303


async def test_a_form_counts_only_from_our_page_and_with_its_token(world: World) -> None:
    ann = await world.set_up()
    token = ann.token
    for headers, given in (
        ({"sec-fetch-site": "cross-site"}, token), ({"sec-fetch-site": "same-site"}, token), ({}, ""), ({}, "0" * 64),
    ):  # fmt: skip
        answer = await ann.post("/ui/invite", headers, token=given, email="bob@sender.test", role="owner")
        assert (answer.status, "did not come from here" in answer.text) == (403, True)
        assert (await ann.post("/ui/sign-out", headers, token=given)).status == 403
    other = Browser(world.pages)
    other.cookies = dict(ann.cookies)
    for origin, status in (("http://evil.test", 403), ("null", 403), ("http://mail.test", 200)):
        other.token = token
        answer = await other._ask(
            "POST", "/ui/invite", f"token={token}&email=bob@sender.test&role=member".encode(), {"origin": origin}
        )
        assert answer.status == status, origin
    assert (await ann.get("/ui/invite")).status == 404
    assert "You are owner" in (await ann.get("/ui")).text
    stranger = Browser(world.pages)
    await stranger.get("/ui/sign-in")
    assert (await stranger.post("/ui/sign-in", token=token, email="ann@sender.test", password=PASSWORD)).status == 403


async def test_an_invitation_joins_a_newcomer_and_somebody_who_has_an_account(world: World) -> None:
    ann = await world.set_up()
    shown = await ann.post("/ui/invite", email="Bob@there.test", role="member")
    assert shown.status == 200 and "http://127.0.0.1:8080/ui/invite/" in shown.text
    path = shown.text.split("http://127.0.0.1:8080")[1].split("<")[0]
    bob = Browser(world.pages, "192.0.2.8")
    assert "bob@there.test" in (await bob.get(path)).text
    assert (await bob.post(path, name=EVIL, password=PASSWORD)).status == 303
    page = await bob.get("/ui")
    assert "You are member here" in page.text
    assert (await bob.post(path, name="", password=PASSWORD)).status == 404
    assert "belongs to this team already" in (await ann.post("/ui/invite", email="bob@there.test", role="viewer")).text
    other = await teams.create_team(world.store, "other", world.by)
    link = await people.invite(world.store, other, "bob@there.test", Role.OWNER, world.by)
    at_work = Browser(world.pages, "192.0.2.10")
    assert "Sign in and join" in (await at_work.get(link.path)).text
    assert (await at_work.post(link.path, password="a wrong password")).status == 401
    assert (await at_work.post(link.path, password=PASSWORD)).status == 303
    assert "You are owner here" in (await at_work.get("/ui")).text
    assert (await at_work.post("/ui/team", team="1")).status == 303
    assert "You are member here" in (await at_work.get("/ui")).text
    assert (await at_work.post("/ui/team", team="999")).status == 422


async def test_rights_follow_the_role_at_once(world: World) -> None:
    ann = await world.set_up()
    admin = await world.joined("admin@there.test", Role.ADMIN, "192.0.2.11")
    viewer = await world.joined("viewer@there.test", Role.VIEWER, "192.0.2.12")
    ann_id, admin_id = await world.id_of("ann@sender.test"), await world.id_of("admin@there.test")
    viewer_id = await world.id_of("viewer@there.test")
    assert (await admin.post("/ui/invite", email="x@there.test", role="admin")).status == 422
    assert (await admin.post("/ui/invite", email="x@there.test", role="viewer")).status == 200
    assert (await admin.post(f"/ui/members/{ann_id}/remove")).status == 422
    assert (await admin.post(f"/ui/members/{viewer_id}/role", role="admin")).status == 422
    assert (await viewer.post("/ui/invite", email="y@there.test", role="viewer")).status == 422
    assert (await viewer.post(f"/ui/members/{admin_id}/remove")).status == 422
    assert (await viewer.post(f"/ui/members/{viewer_id}/role", role="owner")).status == 422
    assert (await ann.post(f"/ui/members/{viewer_id}/role", role="king")).status == 422
    await ann.get("/ui")
    assert (await ann.post(f"/ui/members/{admin_id}/role", role="viewer")).status == 303
    demoted = await admin.post("/ui/invite", email="z@there.test", role="viewer")
    assert demoted.status == 422 and "One who is viewer cannot invite" in demoted.text
    assert (await ann.post(f"/ui/members/{admin_id}/remove")).status == 303
    assert "Sign in" in (await admin.get("/ui")).text
    assert await sign_in(admin, "admin@there.test") == 401
    assert (await ann.post(f"/ui/members/{admin_id}/remove")).status == 404


async def test_the_last_owner_stays_one_and_who_leaves_is_gone(world: World) -> None:
    ann = await world.set_up()
    ann_id = await world.id_of("ann@sender.test")
    assert people.LAST_OWNER in (await ann.post(f"/ui/members/{ann_id}/remove")).text
    assert people.LAST_OWNER in (await ann.post(f"/ui/members/{ann_id}/role", role="viewer")).text
    bob = await world.joined("bob@there.test", Role.OWNER)
    assert (await ann.post(f"/ui/members/{ann_id}/remove")).status == 303
    assert "You are owner" in (await bob.get("/ui")).text
    assert await sign_in(ann) == 401


async def test_what_would_be_refused_is_not_offered(world: World) -> None:
    ann = await world.set_up()
    ann_id = await world.id_of("ann@sender.test")
    page = (await ann.get("/ui")).text
    assert ">Leave<" not in page and f"/ui/members/{ann_id}/" not in page
    bob = await world.joined("bob@there.test", Role.MEMBER)
    page = (await ann.get("/ui")).text
    assert ">Leave<" not in page and page.count(">Remove<") == 1
    assert (await bob.get("/ui")).text.count(">Leave<") == 1
    bob_id = await world.id_of("bob@there.test")
    assert (await ann.post(f"/ui/members/{bob_id}/role", role="owner")).status == 303
    for owner in (ann, bob):
        page = (await owner.get("/ui")).text
        assert page.count(">Leave<") == page.count(">Remove<") == 1 and page.count(">Change<") == 3


async def test_open_invitations_are_shown_to_who_invites_and_withdrawn_by_who_may(world: World) -> None:
    ann = await world.set_up()
    admin = await world.joined("admin@there.test", Role.ADMIN, "192.0.2.11")
    member = await world.joined("member@there.test", Role.MEMBER, "192.0.2.12")
    await ann.post("/ui/invite", email="boss@there.test", role="owner")
    shown = await ann.post("/ui/invite", email=EVIL + "@there.test", role="viewer")
    assert shown.status == 422
    link = (await ann.post("/ui/invite", email="eve@there.test", role="viewer")).text
    path = link.split("http://127.0.0.1:8080")[1].split("<")[0]
    assert "eve@there.test" not in (await member.get("/ui")).text
    page = (await admin.get("/ui")).text
    assert "boss@there.test" in page and page.count(">Withdraw<") == 1 and "/ui/invite/" not in page
    assert (await ann.get("/ui")).text.count(">Withdraw<") == 2
    [boss], [eve] = [
        [row for row in (await invitations.invitations(world.store, 1, world.now))[0] if row.email == email]
        for email in ("boss@there.test", "eve@there.test")
    ]
    refused = await admin.post(f"/ui/invitations/{invitations.worded(boss)['id']}/withdraw")
    assert refused.status == 422 and "cannot withdraw the invitation of one who is to be owner" in refused.text
    assert (await member.post(f"/ui/invitations/{invitations.worded(eve)['id']}/withdraw")).status == 422
    for _ in range(2):
        assert (await admin.post(f"/ui/invitations/{invitations.worded(eve)['id']}/withdraw")).status == 303
    assert (await Browser(world.pages).get(path)).status == 404
    assert (await Browser(world.pages).post("/ui/invitations/x/withdraw")).headers["location"] == "/ui/sign-in"


async def test_a_person_reads_that_there_is_no_such_page_and_a_program_gets_the_api_s_answer(world: World) -> None:
    ann = await world.set_up()
    for path in ("/ui/nope", "/ui/static/nope.css", "/ui/nope/<img>", "/ui/setup"):
        for browser in (ann, Browser(world.pages)):
            page = await browser.get(path, accept="text/html,*/*;q=0.8")
            assert page.status == 404 and "There is no such page" in page.text and 'href="/ui"' in page.text, path
            assert "<img" not in page.raw and page.headers["content-type"].startswith("text/html")
            assert (await browser.get(path, accept="application/json")).raw == "{}", path
    assert (await Browser(world.pages).get("/uix", accept="text/html")).raw == "{}"
    assert world.noted[-1].step == "GET /ui/setup/[hidden]"


async def test_another_team_s_people_cannot_be_seen_or_changed(world: World) -> None:
    await world.set_up()
    other = await teams.create_team(world.store, "other", world.by)
    eve = await world.joined("eve@there.test", Role.OWNER, team_id=other)
    ann_id = await world.id_of("ann@sender.test")
    assert "ann@sender.test" not in (await eve.get("/ui")).text
    for path, fields in ((f"/ui/members/{ann_id}/remove", {}), (f"/ui/members/{ann_id}/role", {"role": "viewer"})):
        assert (await eve.post(path, **fields)).status == 404


async def test_a_viewer_sees_the_inbox_of_the_team_and_does_not_clear_it(world: World) -> None:
    await world.set_up()
    viewer = await world.joined("viewer@there.test", Role.VIEWER)
    assert (await viewer.get("/ui/inbox")).status == 200
    assert (await viewer.post("/ui/inbox/clear")).status == 403
    member = await world.joined("member@there.test", Role.MEMBER, "192.0.2.13")
    assert (await member.get("/ui/inbox")).status == 200
    assert (await member.post("/ui/inbox/clear", token="")).status == 403
    assert (await member.post("/ui/inbox/clear")).status == 303


async def test_what_people_are_called_is_text_and_pages_cannot_be_framed_or_leak_links(world: World) -> None:
    await world.set_up()
    link = await people.invite(world.store, 1, "bob@there.test", Role.OWNER, world.by)
    bob = Browser(world.pages, "192.0.2.8")
    page = await bob.get(link.path)
    assert page.headers["referrer-policy"] == "same-origin" and page.headers["cache-control"] == "no-store"
    assert "'unsafe-inline'" not in page.headers["content-security-policy"]
    assert "script" not in page.headers["content-security-policy"]
    assert (await bob.post(link.path, name=EVIL, password=PASSWORD)).status == 303
    page = await bob.get("/ui")
    assert EVIL in page.text and "<img" not in page.raw
    gone = await bob.get(link.path)
    assert gone.status == 404
    assert world.noted[-1].step == "GET /ui/invite/[hidden]"


async def test_garbage_is_an_answer_and_never_a_fault(world: World) -> None:
    ann = await world.set_up()
    stranger = Browser(world.pages)
    await stranger.get("/ui/sign-in")
    for fields in ({"email": "a\0@b.test"}, {"email": "x" * 100_000}, {"email": "\u202e@b.test"}, {}):
        assert (await stranger.post("/ui/sign-in", **fields)).status in (401, 403)
    for path in (
        "/ui/setup/x",
        "/ui/invite/" + "x" * 5000,
        "/ui/reset/%00",
        "/ui/setup/\0",
        "/ui/setup/a/b",
        "/ui/setup",
        "/ui/nope",
    ):
        assert (await stranger.get(path)).status == 404, path
    for path in ("/ui/members/\0/remove", "/ui/members/nope/remove", "/ui/members/nope/role/x", "/ui/nope"):
        assert (await ann.post(path)).status == 404, path
    for cookie in ("sendkit", "sendkit=", "sendkit=\xff\xff", 'a=b; sendkit="', "=;=;"):
        assert (await Browser(world.pages).get("/ui", cookie=cookie)).status == 200
    assert not [entry for entry in world.noted if entry.detail["status"] >= 500]


async def test_what_happens_to_people_is_on_the_audit_log(world: World) -> None:
    ann = await world.set_up()
    await ann.post("/ui/invite", email="bob@there.test", role="member")
    await ann.post("/ui/password", old=PASSWORD, new=OTHER)
    rows, _ = await list_changes(world.store, 1, 0, 100)
    ann_id = await world.id_of("ann@sender.test")
    assert {(row.action, row.actor) for row in rows} == {
        ("users.create", ann_id), ("members.join", ann_id), ("members.invite", ann_id), ("users.password", ann_id),
    }  # fmt: skip
    assert "argon2" not in repr(rows) and OTHER not in repr(rows)
