"""The page in headless Chromium: what a person sees, hears and can do with a keyboard, with JavaScript and without."""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from gateway.web.server import build, serve
from tests.fakes.console import CLAIM, PASSWORD, FakeAccounts
from tests.web.browsing import CONTRAST, SMALL, Opener, browser, open_, shots, site  # noqa: F401 - fixtures
from tests.web.conftest import Site

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]  # one browser for all of them


def _fill(site: Site) -> None:
    site.console.put_reading("patch-1", "MDC_ECG_HEART_RATE", "/min", 72)
    site.console.put_reading("pump-1", "MDC_FLOW_FLUID_PUMP", "mL/h", 12.5)


async def test_log_in_and_see_a_device_fall_and_recover_live(site: Site, open_: Opener, shots: Path) -> None:
    _fill(site)
    page = await open_("/")
    await expect(page).to_have_url(f"{site.url}/login")
    await page.screenshot(path=shots / "login.png")
    await page.get_by_label("Name").fill("admin-1")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("All 3 devices have what they need")
    pump = page.locator('[data-device="pump-1"]')
    lease = pump.locator(".clocks [data-until]").first
    before = await lease.inner_text()
    await expect(lease).not_to_have_text(before)  # it counts
    await page.screenshot(path=shots / "ward-light-desktop.png")

    site.console.set_level("pump-1", 0, "configuration changed at register 104")
    await expect(pump.locator(".numeral")).to_have_text("Level 0")
    await expect(page.locator(".device").first).to_have_attribute("data-device", "pump-1")
    await expect(page.locator("#announce")).to_contain_text("Infusion pump, bed 4: level 0")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Infusion pump, bed 4 is cut")
    await expect(pump.locator(".function-cut")).to_have_count(2)
    await expect(pump.locator(".function-always")).to_contain_text("monitoring")
    await page.screenshot(path=shots / "ward-fallen.png")

    site.console.set_level("pump-1", 3, "good evidence of configuration and token")
    await expect(pump.locator(".numeral")).to_have_text("Level 3")
    await expect(page.get_by_role("heading", level=1)).to_have_text("All 3 devices have what they need")
    await page.get_by_role("button", name="Log out").click()
    await expect(page).to_have_url(f"{site.url}/login")


async def test_without_javascript_the_page_says_the_same_after_its_reload(site: Site, open_: Opener, shots: Path) -> None:
    _fill(site)
    page = await open_("/", who="vic", script=False)
    pump = page.locator('[data-device="pump-1"]')
    await expect(pump.locator(".numeral")).to_have_text("Level 3")
    site.console.set_level("pump-1", 0, "configuration changed at register 104")
    await expect(pump.locator(".numeral")).to_have_text("Level 0", timeout=8_000)  # it reloads by itself
    await expect(pump).to_contain_text("Configuration changed at register 104")
    site.console.set_level("pump-1", 3, "good evidence of token")
    await page.reload()
    await expect(pump.locator(".numeral")).to_have_text("Level 3")
    await page.screenshot(path=shots / "ward-no-javascript.png")


async def test_a_reading_that_has_grown_old_is_never_shown_as_fresh(site: Site, open_: Opener) -> None:
    site.console.put_reading("patch-1", "MDC_ECG_HEART_RATE", "/min", 72, age_s=1)
    page = await open_("/", who="vic")
    reading = page.locator('[data-device="patch-1"] .reading')
    await expect(reading).to_have_class("reading")
    await expect(reading).to_have_class("reading stale")
    await expect(reading).to_contain_text("last, ")
    site.console.put_reading("patch-1", "MDC_ECG_HEART_RATE", "/min", 75)
    await expect(reading).to_have_class("reading")
    await expect(reading.locator(".r-last")).to_be_hidden()
    site.console.put_reading("patch-1", "MDC_ECG_HEART_RATE", "/min", None, absent="sensor is off the skin")
    await expect(reading).to_contain_text("sensor is off the skin")


async def test_a_gateway_that_is_gone_greys_the_page_and_one_that_returns_heals_it(
    site: Site, open_: Opener, tls: ssl.SSLContext, shots: Path
) -> None:
    page = await open_("/", who="vic")
    await expect(page.locator("#state-at")).to_be_visible()
    await asyncio.sleep(0.6)
    port = site.served.port
    await site.served.close()
    await expect(page.locator("#lost")).to_be_visible(timeout=8_000)
    await expect(page.locator("#lost p").first).to_have_text(re.compile(r"^Live view lost, showing the state of \d\d:\d\d:\d\d$"))
    await expect(page.locator("body")).to_have_attribute("data-lost", "")
    frozen = await page.locator("[data-until]").first.inner_text()
    await asyncio.sleep(1.2)
    assert await page.locator("[data-until]").first.inner_text() == frozen  # nothing pretends to run on
    await page.screenshot(path=shots / "ward-lost.png")
    async with await serve(build(site.console, site.accounts), "127.0.0.1", port, tls):
        site.console.set_level("pump-1", 1, "the daemon is back")
        await expect(page.locator("#lost")).to_be_hidden(timeout=10_000)
        await expect(page.locator('[data-device="pump-1"] .numeral')).to_have_text("Level 1")
        site.accounts.sessions.clear()
    async with await serve(build(site.console, site.accounts), "127.0.0.1", port, tls):
        await expect(page).to_have_url(f"{site.url}/login", timeout=10_000)  # a session that ended leads to the door


async def test_a_hung_picture_is_noticed_too(site: Site, open_: Opener) -> None:
    page = await open_("/", who="vic")
    await expect(page.locator("#lost")).to_be_hidden()
    await asyncio.sleep(0.6)

    def hang() -> Any:
        raise RuntimeError("the engine hangs")

    view, site.console.view = site.console.view, hang  # type: ignore[method-assign]
    await expect(page.locator("#lost")).to_be_visible(timeout=9_000)
    site.console.view = view  # type: ignore[method-assign]
    await expect(page.locator("#lost")).to_be_hidden()


async def test_a_new_device_appears_and_a_removed_one_goes_without_a_reload(site: Site, open_: Opener) -> None:
    page = await open_("/", who="admin-1")
    await expect(page.locator(".device")).to_have_count(3)
    patch = site.console.devices.pop("patch-1")
    site.console.tell()
    await expect(page.locator(".device")).to_have_count(2)
    site.console.devices["patch-1"] = patch
    site.console.tell()
    await expect(page.locator(".device")).to_have_count(3)
    await expect(page.locator('[data-device="patch-1"]')).to_contain_text("Heart-rate patch, bed 4")


async def test_everything_can_be_done_with_a_keyboard_and_focus_survives_updates(site: Site, open_: Opener) -> None:
    page = await open_("/", who="admin-1")
    await asyncio.sleep(0.6)
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.className") == "skip"
    await page.keyboard.press("Enter")
    summary = page.locator('[data-device="pump-1"] summary')
    for _ in range(20):
        await page.keyboard.press("Tab")
        if await summary.evaluate("n => n === document.activeElement"):
            break
    await page.keyboard.press("Enter")
    attest = page.locator('[data-device="pump-1"]').get_by_role("button", name="Attest now")
    await expect(attest).to_be_visible()
    await page.keyboard.press("Tab")
    await expect(attest).to_be_focused()
    site.console.set_level("pump-1", 1, "it ages")  # the card moves to the top, its parts are replaced
    await expect(page.locator(".device").first).to_have_attribute("data-device", "pump-1")
    await expect(attest).to_be_focused()
    outline = await attest.evaluate("n => getComputedStyle(n).outlineStyle + getComputedStyle(n).outlineWidth")
    assert outline == "solid3px"
    await page.keyboard.press("Enter")
    await expect(page.locator(".notice")).to_have_text("Infusion pump, bed 4: attest is done")
    assert site.console.commands[-1].verb == "attest"


async def test_enforce_is_asked_for_shown_and_done(site: Site, open_: Opener, shots: Path) -> None:
    site.console.set_level("pump-1", 2, "good evidence of configuration; none of token")
    site.console.change("pump-1", state="observing", would_cut=("maintenance",))
    page = await open_("/", who="admin-1")
    await expect(page.locator(".banner")).to_contain_text("Observing 1 of 3")
    await page.screenshot(path=shots / "ward-observing.png")
    await page.get_by_role("link", name="Infusion pump, bed 4").click()
    await page.get_by_role("link", name="Enforce…").click()
    await expect(page.locator(".consequences")).to_contain_text("maintenance: cut as soon as you press Enforce")
    await page.get_by_label("Your password").fill("wrong")
    await page.screenshot(path=shots / "enforce.png")
    await page.get_by_role("button", name="Enforce").click()
    await expect(page.get_by_role("alert")).to_contain_text("the password is wrong")
    await page.get_by_label("Your password").fill(PASSWORD)
    await page.get_by_role("button", name="Enforce").click()
    await expect(page.locator(".notice")).to_have_text("Infusion pump, bed 4: enforce is done")
    await expect(page.locator("#fn")).to_contain_text("level 3 full")
    site.console.set_level("pump-1", 0, "it was changed")  # the sections no stream carries follow too
    await expect(page.locator("#fn .function-cut")).to_have_count(2)
    await page.screenshot(path=shots / "device.png", full_page=True)


async def test_a_gateway_is_claimed_from_its_label(site: Site, open_: Opener, shots: Path) -> None:
    site.accounts.__dict__.update(FakeAccounts(claimed=False).__dict__)
    page = await open_(f"/claim#{CLAIM}")
    await expect(page.get_by_label("Claim code")).to_have_value(CLAIM)
    assert "#" not in page.url
    await page.get_by_label("Your name here").fill("eve")
    await page.get_by_label("Password", exact=True).fill(PASSWORD)
    await page.get_by_label("Password, once more").fill(PASSWORD)
    await page.screenshot(path=shots / "claim.png")
    await page.get_by_role("button", name="Claim").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("All 3 devices have what they need")


async def test_a_view_link_leads_to_the_ward(site: Site, open_: Opener) -> None:
    page = await open_(f"/view/{await site.accounts.one_time_view()}")
    await expect(page.locator(".device")).to_have_count(3)
    await expect(page.locator("summary")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_contrast_and_targets_in_both_palettes_on_desktop_and_phone(
    site: Site, open_: Opener, shots: Path, scheme: str
) -> None:
    _fill(site)
    site.console.set_level("pump-1", 0, "configuration changed at register 104")
    site.console.set_level("monitor-1", 1, "the evidence of identity has grown too old")
    site.console.change("patch-1", state="service", service_left_ms=1_500_000)
    site.console.parts["uplink"] = (False, "the broker has not answered for 2 min; 318 readings wait")
    for width, height, name in ((1440, 900, "desktop"), (390, 844, "phone")):
        page = await open_("/", who="admin-1", width=width, height=height, scheme=scheme)
        await asyncio.sleep(0.6)
        await page.screenshot(path=shots / f"ward-mixed-{scheme}-{name}.png", full_page=name == "phone")
        for path in ("/", "/devices/pump-1", "/devices/pump-1/break-glass", "/events")[: 4 if name == "desktop" else 2]:
            if path != "/":
                await page.goto(site.url + path)
            assert await page.evaluate(CONTRAST) == [], (path, scheme, name)
            assert await page.evaluate(SMALL) == [], (path, scheme, name)
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, name)


async def test_numerals_and_names_are_legible_at_three_metres(site: Site, open_: Opener) -> None:
    page = await open_("/", who="vic", width=1920, height=1080)
    sizes = await page.evaluate(
        "() => ['.numeral', '.name'].map((s) => parseFloat(getComputedStyle(document.querySelector(s)).fontSize))"
    )
    # a capital is 0.7 of the size; on a 24-inch 1920 px screen (0.277 mm a pixel) 3 m ask for 15 mm (1/200) and 7 mm (1/430)
    assert sizes[0] * 0.7 * 0.277 >= 15
    assert sizes[1] * 0.7 * 0.277 >= 7
