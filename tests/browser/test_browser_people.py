"""The pages for people, in real Chromium: the first account, invitations, roles, a forgotten password, wide and narrow."""

from __future__ import annotations

import re

from conftest import NARROW, Opens
from playwright.async_api import Page, expect
from server import Server

PASSWORD, NEW_PASSWORD = "correct horse battery", "another fine password"


async def fits(page: Page) -> None:
    """Nothing of the page stands outside the window, and it says what it is."""
    await page.wait_for_load_state()  # before its style sheet has come it is of any width
    width = await page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width[0] <= width[1], f"{page.url} is {width[0]} px wide in a window of {width[1]}"
    assert await page.title() and await page.locator("h1").count() == 1
    assert await page.locator("html").get_attribute("lang")


async def set_up(page: Page, server: Server) -> None:
    found = re.search(r"http://[^ ]*/ui/setup/\S+", server.banner)
    assert found is not None, server.banner
    await page.goto(found[0])
    await page.get_by_label("Email address").fill("ann@sender.test")
    await page.get_by_label("Your name").fill("Ann <b>of</b> Acme & Söhne")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Make the account").click()
    await expect(page.get_by_text("You are owner here")).to_be_visible()


async def invited(page: Page, email: str, role: str) -> str:
    """The link that the team page makes."""
    form = page.locator("form[action='/ui/invite']")
    await form.get_by_label("Email address").fill(email)
    await form.get_by_label("Role").select_option(role)
    await form.get_by_role("button").click()
    found = re.search(r"http://\S*/ui/invite/[A-Za-z0-9_-]+", await page.locator("main").inner_text())
    assert found is not None
    return found[0]


async def test_a_team_comes_together(server: Server, person: Opens) -> None:
    ann, bob = await person(), await person(scripts=False)
    await set_up(ann, server)
    await fits(ann)
    # What a name holds is text, whatever it looks like.
    await expect(ann.get_by_role("cell", name="Ann <b>of</b> Acme & Söhne")).to_be_visible()
    link = await invited(ann, "bob@sender.test", "member")
    await fits(ann)
    await bob.goto(link)
    await bob.get_by_label("Your name").fill("Bob")
    await bob.get_by_label("Password").fill(PASSWORD)
    await bob.get_by_role("button").click()
    await expect(bob.get_by_text("You are member here")).to_be_visible()
    await expect(bob.get_by_text("Invite somebody")).to_have_count(0)
    # A link that was used leads nobody in.
    late = await person()
    await late.goto(link)
    await expect(late.get_by_role("heading", level=1)).to_be_visible()
    await expect(late.get_by_label("Password")).to_have_count(0)
    # A changed role counts with the next click, also in a browser that is signed in.
    await ann.goto(server.url + "/ui")
    row = ann.get_by_role("row", name="bob@sender.test")
    await row.get_by_label("Role of bob@sender.test").select_option("admin")
    await row.get_by_role("button", name="Change").click()
    await bob.reload()
    await expect(bob.get_by_text("You are admin here")).to_be_visible()
    await ann.get_by_role("row", name="bob@sender.test").get_by_role("button", name="Remove").click()
    await bob.reload()
    await expect(bob.get_by_text("You are admin here")).to_have_count(0)


async def test_an_invitation_is_withdrawn_and_nothing_is_offered_that_would_be_refused(
    server: Server, person: Opens
) -> None:
    ann = await person(width=NARROW)
    await set_up(ann, server)
    await expect(ann.get_by_role("button", name="Leave")).to_have_count(0)
    link = await invited(ann, "somebody.with.a.long.name@sender.test", "viewer")
    await ann.get_by_role("link", name="Back to the team").click()
    await fits(ann)
    await ann.get_by_role("button", name="Withdraw").click()
    await expect(ann.get_by_text("You are owner here")).to_be_visible()
    await expect(ann.get_by_text("somebody.with.a.long.name@sender.test")).to_have_count(0)
    eve = await person()
    await eve.goto(link)
    await expect(eve.get_by_role("heading", name="This link does not work (any more)")).to_be_visible()


async def test_a_page_that_does_not_exist_is_a_page_that_says_so(server: Server, person: Opens) -> None:
    lost = await person(width=NARROW)
    answer = await lost.goto(server.url + "/ui/nope")
    assert answer is not None and answer.status == 404
    await fits(lost)
    await expect(lost.get_by_role("heading", name="There is no such page")).to_be_visible()
    await lost.get_by_role("link", name="To the first page").click()
    await lost.wait_for_url(f"{server.url}/ui")


async def test_signing_in_and_out_and_a_forgotten_password(server: Server, person: Opens) -> None:
    ann = await person(width=NARROW)
    await set_up(ann, server)
    await fits(ann)
    await ann.get_by_role("button", name="Sign out").click()
    await ann.goto(server.url + "/ui")
    await fits(ann)
    await ann.get_by_label("Email address").fill("ann@sender.test")
    await ann.get_by_label("Password").fill("not the password")
    await ann.keyboard.press("Enter")
    await expect(ann.get_by_role("alert")).to_be_visible()
    await expect(ann.get_by_label("Email address")).to_have_value("ann@sender.test")
    await fits(ann)
    status, out, _ = await server.command("users", "reset", "ann@sender.test")
    assert status == 0
    await ann.goto(out.split()[-1])
    await ann.get_by_label("New password").fill(NEW_PASSWORD)
    await ann.get_by_role("button", name="Set the password").click()
    await expect(ann.get_by_text("You are owner here")).to_be_visible()
    other = await person()
    await other.goto(server.url + "/ui")
    await other.get_by_label("Email address").fill("ann@sender.test")
    await other.get_by_label("Password").fill(PASSWORD)
    await other.get_by_role("button", name="Sign in").click()
    await expect(other.get_by_role("alert")).to_be_visible()
    await other.get_by_label("Password").fill(NEW_PASSWORD)
    await other.get_by_role("button", name="Sign in").click()
    await expect(other.get_by_text("You are owner here")).to_be_visible()


async def test_a_page_of_somebody_else_s_cannot_act_for_who_is_signed_in(server: Server, person: Opens) -> None:
    ann = await person()
    await set_up(ann, server)
    port = server.url.rpartition(":")[2]
    # Another site in the same browser: 127.0.0.1 and localhost are two.
    await ann.goto(f"http://localhost:{port}/health")
    form = f"<form method=post action='{server.url}/ui/invite'><input name=email value=eve@evil.test><input name=role value=owner></form>"
    await ann.set_content(form)
    await ann.evaluate("document.forms[0].submit()")
    await ann.wait_for_url(f"{server.url}/**")
    assert "/ui/invite/" not in await ann.content()
    await ann.goto(server.url + "/ui")
    await expect(ann.get_by_text("You are owner here")).to_be_visible()
