"""Headless Chromium in front of the page: fixtures for every test that looks through a browser, and what such a look measures.

Screenshots go to the directory named by WARDGATE_SCREENSHOTS, or to a temporary one.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from gateway.model.view import User
from gateway.web.access import COOKIE
from gateway.web.server import build, serve
from tests.fakes.console import FakeAccounts, FakeConsole
from tests.web.conftest import Site

_ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
_WAIT_MS = 5_000
expect.set_options(timeout=_WAIT_MS)
Opener = Callable[..., Awaitable[Page]]

# WCAG 2.2: contrast of text with what is behind it; sizes of what can be pressed. Returns what fails.
CONTRAST = """() => {
  const parse = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return {r: m[0], g: m[1], b: m[2], a: m[3] ?? 1}; };
  const lum = ({r, g, b}) => { const f = (v) => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
    return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
  const ground = (n) => {
    for (; n; n = n.parentElement) { const c = parse(getComputedStyle(n).backgroundColor); if (c.a === 1) return c; }
    return {r: 255, g: 255, b: 255}; };
  const bad = [];
  for (const n of document.querySelectorAll("body *")) {
    const own = [...n.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim());
    if (!own || !n.checkVisibility() || n.closest(".unseen, template, .skip")) continue;
    const s = getComputedStyle(n), a = lum(parse(s.color)), b = lum(ground(n));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const large = parseFloat(s.fontSize) >= 24 || (parseFloat(s.fontSize) >= 18.66 && Number(s.fontWeight) >= 700);
    const who = `${n.className || n.tagName} "${n.textContent.trim().slice(0, 30)}"`;
    if (ratio < (large ? 3 : 4.5)) bad.push(`${who} ${ratio.toFixed(2)}`);
  }
  return bad;
}"""
SMALL = """() => [...document.querySelectorAll("button, summary, .button, nav a, .brand, .more, input:not([type=hidden]), select")]
  .filter((n) => n.checkVisibility())
  .map((n) => [n.textContent.trim() || n.name, (n.closest("label") ?? n).getBoundingClientRect()])
  .filter(([, r]) => r.height < 43.5 || r.width < 43.5).map(([t, r]) => `${t} ${r.width}x${r.height}`)"""

# What makes the page scroll sideways: the first elements that stick out, unless nothing scrolls.
WIDE = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
  [...document.querySelectorAll("body *")].filter((n) => n.checkVisibility() && n.getBoundingClientRect().right > innerWidth + 1)
  .slice(0, 4).map((n) => `${n.tagName}.${n.className.baseVal ?? n.className} ${Math.round(n.getBoundingClientRect().right)}`)
  .concat(`the page ${document.documentElement.scrollWidth} > ${innerWidth}`)"""


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("WARDGATE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path="/usr/bin/chromium", args=_ARGUMENTS)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def site(tls: ssl.SSLContext) -> AsyncIterator[Site]:
    console, accounts = FakeConsole(), FakeAccounts()
    async with await serve(build(console, accounts), "127.0.0.1", 0, tls) as served:
        yield Site(served, console, accounts)


@pytest_asyncio.fixture(loop_scope="module")
async def open_(browser: Browser, site: Site) -> AsyncIterator[Opener]:
    """Open a page as a person: ``await open_("/", who="admin-1", width=…, scheme="dark", script=False)``."""
    troubles: list[str] = []
    contexts: list[BrowserContext] = []

    async def opener(
        path: str, who: str = "", width: int = 1440, height: int = 900, scheme: Any = "light", script: bool = True
    ) -> Page:
        context = await browser.new_context(
            ignore_https_errors=True,
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            java_script_enabled=script,
            reduced_motion="reduce",
        )
        contexts.append(context)
        if who:
            token = await site.accounts.start_session(User(who, site.accounts.people[who][1]))
            cookie: Any = {"name": COOKIE, "value": token, "url": site.url, "secure": True, "httpOnly": True, "sameSite": "Strict"}
            await context.add_cookies([cookie])
        page = await context.new_page()
        page.set_default_timeout(4 * _WAIT_MS)
        page.on("pageerror", lambda e: troubles.append(str(e)))
        page.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
        await page.goto(site.url + path)
        return page

    yield opener
    for context in contexts:
        await context.close()
    # what the content security policy refuses, or a script gets wrong, is on the console; a refused request may be intended
    assert not [t for t in troubles if "Failed to load resource" not in t], troubles


_AXE_RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


async def accessible(page: Page) -> list[str]:
    """What axe-core finds: an empty list, or a line for each violation with the first element it is about."""
    found = await Axe().run(page, options=_AXE_RULES)
    return [f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:160]}" for v in found.response["violations"]]
