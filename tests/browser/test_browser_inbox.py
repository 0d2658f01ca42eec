"""The captured mail, in real Chromium: the empty page, a mail in full, and the way back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import NARROW, WIDE, Opens
from playwright.async_api import expect
from server import Server
from test_browser_people import fits


@pytest.mark.parametrize("width", [NARROW, WIDE])
async def test_a_captured_mail_is_looked_at(make_server: Callable[..., Server], person: Opens, width: int) -> None:
    server = await make_server().start("--dev")
    page = await person(width=width)
    await page.goto(server.url + "/ui/inbox")
    await fits(page)
    await expect(page.locator(".empty")).to_be_visible()
    key = (await server.act("keys.create", name="tests", permission="full", test=True))["token"]
    subject = "Grüße <i>aus</i> Köln, ein Betreff, der länger ist als jedes Telefon breit"
    sent = await server.call(
        "POST", "/emails", key,
        {"from": "app@sender.test", "to": "ann@there.test", "subject": subject, "html": "<h2>Hallo Ann</h2>", "text": "Hallo Ann, als Text"},
    )  # fmt: skip
    assert sent.status == 200, sent.raw
    await page.reload()
    await fits(page)
    await page.get_by_role("link", name=subject).click()
    await expect(page.get_by_role("heading", name=subject)).to_be_visible()
    await expect(page.frame_locator("iframe").get_by_role("heading", name="Hallo Ann")).to_be_visible()
    await expect(page.get_by_text("Hallo Ann, als Text")).to_be_visible()
    await fits(page)
    await page.get_by_role("link", name="Inbox").click()
    await page.get_by_role("button", name="Clear").click()
    await expect(page.locator(".empty")).to_be_visible()
