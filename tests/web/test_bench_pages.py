"""The five pages of a real gateway with its devices, TPM, kernel and broker: seen in both palettes, on a desk and in a hand.

Pictures go to the directory named by WARDGATE_SCREENSHOTS, or to a temporary one. Nothing may be said on the browser's console:
neither a script's mistake nor anything that the content security policy refused.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from hil import scenarios
from hil.bench import PASSWORD, Bench
from tests.web.browsing import _ARGUMENTS

pytestmark = [pytest.mark.rig, pytest.mark.browser]
PAGES = {"ward": "/", "device": "/devices/pump-1", "events": "/events", "network": "/network", "gateway": "/gateway"}
SIZES = {"desktop": (1440, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    directory = Path(f"/tmp/wardgate-bench-pg{os.getpid()}")
    directory.mkdir(mode=0o755)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = int(os.environ.get("WARDGATE_BENCH_PORT") or s.getsockname()[1])
    made = Bench(directory, prefix=f"pg{os.getpid() % 10000}-", port=port)
    made.start()
    try:
        for name in ("observed", "trusted-ward"):
            assert scenarios.play(made, name).ok, name
        made.ask("pump-1", "tamper", register=110, value=1)
        made.await_device("pump-1", scenarios.at_level(0), 15, "cut")
        yield made
    finally:
        made.stop()
        subprocess.run(["rm", "-rf", str(directory)], check=False)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def session(bench: Bench, browser: Browser) -> Any:
    """Logged in once as the bench's admin: the cookies of that."""
    context = browser.new_context(ignore_https_errors=True)
    page = context.new_page()
    page.goto(f"https://127.0.0.1:{bench.port}/")
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("is cut")
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("WARDGATE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def opened(browser: Browser, session: Any, scheme: Any, size: str, said: list[str]) -> tuple[BrowserContext, Page]:
    width, height = SIZES[size]
    context = browser.new_context(
        ignore_https_errors=True, viewport={"width": width, "height": height}, color_scheme=scheme, storage_state=session,
        reduced_motion="reduce",
    )  # fmt: skip
    page = context.new_page()
    page.on("console", lambda m: said.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: said.append(str(e)))
    return context, page


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_five_pages_of_one_product(bench: Bench, browser: Browser, session: Any, shots: Path, scheme: str, size: str) -> None:
    said: list[str] = []
    context, page = opened(browser, session, scheme, size, said)
    for name, path in PAGES.items():
        answer = page.goto(f"https://127.0.0.1:{bench.port}{path}")
        assert answer is not None
        assert answer.status == 200, path
        page.wait_for_timeout(400)  # the first live picture is in place
        page.screenshot(path=shots / f"{name}-{scheme}-{size}.png", full_page=size == "desktop")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, size)
        if (scheme, size) in (("light", "desktop"), ("dark", "phone")):
            found = Axe().run(page).response["violations"]
            assert found == [], [(v["id"], [n["html"][:120] for n in v["nodes"]]) for v in found]
    context.close()
    assert said == []


def test_the_pages_say_what_the_gateway_does(bench: Bench, browser: Browser, session: Any) -> None:
    said: list[str] = []
    context, page = opened(browser, session, "light", "desktop", said)
    page.goto(f"https://127.0.0.1:{bench.port}/network")
    flows = page.locator("#flows")
    expect(flows).to_contain_text("shut; open from level 3")
    expect(flows).to_contain_text("always on: it is vital")
    expect(page.locator("#wiring")).to_contain_text("in line")
    expect(page.locator("#refused tbody tr").first).to_be_visible()  # maintenance goes on trying, and is refused
    page.goto(f"https://127.0.0.1:{bench.port}/gateway")
    expect(page.locator("#identity")).to_contain_text(bench.rig["gateway"]["id"])
    expect(page.locator("#offline")).to_contain_text("Certificate of the attestation key")
    expect(page.locator("#people")).to_contain_text("biomed-1")
    page.goto(f"https://127.0.0.1:{bench.port}/events?device=pump-1&severity=alarm")
    expect(page.locator(".proof")).to_contain_text("The record verifies up to line")
    expect(page.locator(".e-text").first).to_contain_text("register 110")
    context.close()
    assert said == []
