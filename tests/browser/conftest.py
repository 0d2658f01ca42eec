"""Real Chromium before the real program: a browser a test, and a watch on what its pages complain about."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright, expect

sys.path.insert(0, str(Path(__file__).parents[1] / "journeys"))

from conftest_world import dns, key, make_server, server, sink

__all__ = ["dns", "key", "make_server", "server", "sink"]

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
NARROW, WIDE = 360, 1200  # CSS pixels
PATIENCE_MS = 20_000  # of a machine that has other things to do

expect.set_options(timeout=PATIENCE_MS)

Opens = Callable[..., Awaitable[Page]]


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    """Debian's Chromium, in which nobody is signed in."""
    path = shutil.which("chromium")
    if path is None:
        message = "not run: chromium is not installed (sh scripts/peers.sh installs it)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture
async def person(chromium: Browser) -> AsyncIterator[Opens]:
    """Opens a page for somebody new. At the end no page of anybody may have complained about anything."""
    complaints: list[str] = []
    contexts: list[BrowserContext] = []

    def said(message: ConsoleMessage) -> None:
        # That an answer was a refusal is no complaint of the page's.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    async def open_page(*, scripts: bool = True, width: int = WIDE) -> Page:
        context = await chromium.new_context(java_script_enabled=scripts, viewport={"width": width, "height": 800})
        contexts.append(context)
        page = await context.new_page()
        page.on("console", said)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.set_default_timeout(PATIENCE_MS)
        return page

    yield open_page
    for context in contexts:
        await context.close()
    assert complaints == []
