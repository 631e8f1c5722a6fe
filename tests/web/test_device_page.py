"""The page of one device: as a browser without JavaScript gets it, by role, by keyboard, live, lost, and with hostile names."""

from __future__ import annotations

import asyncio
import re
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Page, expect

from gateway.model.device import Bus
from gateway.model.event import DeviceSeen
from gateway.model.sheet import DifferenceRow, Refusal
from gateway.web.server import build, serve
from tests.fakes.console import PASSWORD
from tests.fakes.dossiers import ANCHOR, DIFFERENCE_ID
from tests.web.browsing import CONTRAST, SMALL, WIDE, Opener, accessible, browser, open_, shots, site  # noqa: F401 - fixtures
from tests.web.conftest import Door, Site

PUMP = "/devices/pump-1"
HOSTILE = "<script>alert(1)</script>\u202egnp.exe\u2066 " + "x" * 10_000
CHANGED = (
    DifferenceRow("configuration", "register:104", "0003", "0007"),
    DifferenceRow("configuration", "object:2", "56312e32", "56312e33"),
)


def _in_service(site: Site | Door, opener: str = "bea") -> None:
    site.console.change("pump-1", state="service", service_left_ms=1_500_000)
    site.console.dossiers.difference, site.console.dossiers.opener = CHANGED, opener


def _words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


async def test_without_javascript_the_page_says_everything(door: Door) -> None:
    door.console.put_reading("pump-1", "MDC_FLOW_FLUID_PUMP", "mL/h", 12.5)
    door.console.dossiers.refusals = (Refusal(9, "2026-11-23T10:00:00+00:00", 60_000, "write of register 300 refused", 3),)
    html = await (await (await door.as_("vic")).get(PUMP)).text()
    text = _words(html)
    for said in (
        "Last 24 hours: level 3 for 21 h 0 min, level 1 for 1 h 0 min, level 0 for 1 h 0 min, not known for 1 h 0 min; 3 changes",
        "As expected , 4 s ago", "a token signed with its own key, over its own wired port",
        "Always allowed: write register 10, only 0",
        "checked by the gateway’s proxy", "12 345 readings taken in", "3 lost to a full store", "write of register 300 refused",
        "wardgate verify pump-1.bundle --anchor anchor.pem", "ago, level unknown", "Nothing: it is vital and always on",
    ):  # fmt: skip
        assert said in text, said
    assert re.search(r'<svg[^>]*role="img" aria-labelledby="chart-title chart-desc"', html)
    assert html.count('class="gap"') == 1  # the hour of which nobody knows is drawn, and not as a level
    assert "4 levels" not in text
    assert "tier" not in text.split("How the level came about")[0]  # a user learns six words


async def test_the_week_is_asked_for_by_a_plain_link_and_too_much_is_said(door: Door) -> None:
    ada = await door.as_("admin-1")
    assert "Last 7 days" in await (await ada.get(f"{PUMP}?hours=168")).text()
    door.console.dossiers.complete = False
    assert "what is older counts as not known here" in await (await ada.get(PUMP)).text()
    assert (await ada.get(f"{PUMP}?hours=9999")).status == 400


async def test_buttons_are_those_of_the_role(door: Door) -> None:
    door.console.set_level("pump-1", 1, "it ages")
    expected = {
        "vic": set(),
        "carl": {"attest", "break-glass"},
        "bea": {"attest", "service", "observe", "break-glass", "suspend", "remove"},
    }
    for name, verbs in expected.items():
        html = await (await (await door.as_(name)).get(PUMP)).text()
        assert set(re.findall(r'(?:href|action)="/devices/pump-1/([a-z-]+)"', html)) - {"label"} == verbs, name
    carl = await door.as_("carl")
    assert (await carl.form(f"{PUMP}/remove", {"confirm": "pump-1", "password": PASSWORD})).status == 403
    assert (await carl.get(f"{PUMP}/service")).status == 403
    assert (await carl.form(f"{PUMP}/attest", {"here": "yes"})).headers["Location"] == PUMP
    fields = {"function": "control", "minutes": "5", "reason": "the infusion must go on", "password": PASSWORD}
    assert (await carl.form(f"{PUMP}/break-glass", fields)).status == 303
    assert [c.verb for c in door.console.commands] == ["attest", "break-glass"]


async def test_the_api_and_the_page_refuse_the_same_roles(door: Door) -> None:
    for name, verb, status in (("carl", "attest", 200), ("carl", "remove", 403), ("vic", "attest", 403), ("carl", "nonsense", 403)):
        answer = await (await door.as_(name)).command({"verb": verb, "device_id": "pump-1"})
        assert answer.status == status, (name, verb)


async def test_the_api_tells_what_the_page_tells(door: Door) -> None:
    vic = await door.as_("vic")
    sheet = await (await vic.get("/api/v1/devices/pump-1")).json()
    assert {e["target"]: e["standing"] for e in sheet["evidence"]} == {"configuration": "good", "token": "good"}
    levels = await (await vic.get("/api/v1/devices/pump-1/levels?hours=24")).json()
    assert [s["level"] for s in levels["steps"]] == [3, 1, 3, None, 0, 3]
    assert (await vic.get("/api/v1/devices/pump-1/levels?hours=0")).status == 400
    assert (await (await vic.get("/api/v1/devices/pump-1/verify")).json())["ok"] is True
    label = await (await vic.get("/api/v1/devices/pump-1/label?page=https://ward.example:8443")).json()
    assert label["url"] == f"https://ward.example:8443/devices/pump-1#gateway={'5f' * 16}"
    assert (await vic.get("/api/v1/devices/pump-1/label?page=http://ward.example")).status == 400
    assert (await vic.get("/api/v1/devices/nobody")).status == 404
    body = {"anchor": "no certificate"}
    sent = {"Origin": door.origin, "X-CSRF-Token": vic.csrf}
    failed = await vic.client.post("/api/v1/devices/pump-1/verify", json=body, headers=vic.headers(**sent))
    assert (await failed.json())["rows"][0]["ok"] is False
    without = await vic.client.post("/api/v1/devices/pump-1/verify", json=body, headers=vic.headers(Origin=door.origin))
    assert without.status == 403


async def _examine(who: Door, anchor: bytes | None = None, csrf: bool = True) -> tuple[int, str]:
    form = aiohttp.FormData()
    if csrf:
        form.add_field("csrf", who.csrf)
    form.add_field("anchor", anchor or b"", filename="anchor.pem" if anchor else "", content_type="application/octet-stream")
    answer = await who.client.post(f"{PUMP}/verify", data=form, headers=who.headers(Origin=who.origin), allow_redirects=False)
    return answer.status, _words(await answer.text())


async def test_the_certificate_is_examined_line_by_line(door: Door) -> None:
    vic = await door.as_("vic")
    status, text = await _examine(vic)
    assert (status, text.count("holds:"), "Everything holds." in text) == (200, 6, True)
    assert "level 3 full" in text
    door.console.dossiers.certificate_ok = False
    _, text = await _examine(vic, ANCHOR.encode())
    assert (text.count("holds:"), text.count("fails:"), text.count("not reached:")) == (3, 1, 2)
    assert "do not rely on it" in text
    assert "Everything holds" not in text
    _, text = await _examine(vic, b"garbage")
    assert (text.count("fails:"), text.count("not reached:")) == (1, 5)
    door.console.dossiers.kept_anchor = False
    assert (await _examine(vic))[0] == 400
    for hostile in (b"\xff\xfe", b"CERT\x00", b"x" * 12_400):
        assert (await _examine(vic, hostile))[0] == 400
    assert (await _examine(vic, b"x" * 40_000))[0] == 413
    assert (await _examine(vic, csrf=False))[0] == 403
    assert (await vic.get(f"{PUMP}/verify")).status == 303  # the address of an examination, loaded again


async def test_a_difference_is_accepted_line_by_line_by_a_second_person(door: Door) -> None:
    _in_service(door, opener="bea")
    bea, ada = await door.as_("bea"), await door.as_("admin-1")
    page = await (await ada.get(PUMP)).text()
    assert "3 (0x0003)" in page
    assert "“V1.3” (0x56312e33)" in page
    assert "Accept these changes</button>" not in await (await bea.get(f"{PUMP}/accept")).text()
    assert "You opened this repair" in await (await bea.get(PUMP)).text()
    asked = await (await ada.get(f"{PUMP}/accept")).text()
    assert asked.count('type="checkbox"') == 2
    shown = {"difference": DIFFERENCE_ID, "lines": "2"}
    for missing in ({}, {"line-0": "yes"}, {"line-1": "yes"}, {"line-7": "yes", "line-9": "yes"}):
        answer = await ada.form(f"{PUMP}/accept", {**shown, **missing})
        assert answer.status == 400, missing
    for bad in ({"difference": "zz" * 32}, {"lines": "-1"}, {"lines": ""}):
        assert (await ada.form(f"{PUMP}/accept", {**shown, "line-0": "yes", "line-1": "yes", **bad})).status == 400
    assert door.console.commands == []
    assert (await ada.form(f"{PUMP}/accept", {**shown, "line-0": "yes", "line-1": "yes"})).status == 303
    assert dict(door.console.commands[-1].arguments) == {"difference": DIFFERENCE_ID}


async def test_removing_asks_for_the_id_and_the_password(door: Door) -> None:
    ada = await door.as_("admin-1")
    assert "monitoring, which a patient may depend on" in await (await ada.get(f"{PUMP}/remove")).text()
    assert (await ada.form(f"{PUMP}/remove", {"confirm": "pump-2", "password": PASSWORD})).status == 400
    assert (await ada.form(f"{PUMP}/remove", {"confirm": "pump-1", "password": "wrong"})).status == 403
    done = await ada.form(f"{PUMP}/remove", {"confirm": "pump-1", "password": PASSWORD})
    assert (done.status, done.headers["Location"]) == (303, "/")
    assert door.console.commands[-1].arguments == ()


async def test_what_a_device_calls_itself_cannot_harm_the_page(door: Door) -> None:
    door.console.change("pump-1", name=HOSTILE, reason=f"{HOSTILE} is not known")
    key = door.console.dossiers.see(DeviceSeen(Bus.BLE, "C0:00:00:00:00:09", HOSTILE, "heart-rate", -60))
    ada = await door.as_("admin-1")
    for path in (PUMP, f"{PUMP}/label", f"{PUMP}/service", f"{PUMP}/remove", "/add", f"/add/{key}", "/"):
        text = await (await ada.get(path)).text()
        assert "<script>alert" not in text, path
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", text), path
        assert not re.search(r"\sstyle=|\son\w+=", text), path


async def test_a_background_look_does_not_use_up_what_is_said_once(door: Door) -> None:
    ada = await door.as_("admin-1")
    await ada.form(f"{PUMP}/attest", {"here": "yes"})
    assert "attest is done" not in await (await ada.get(PUMP, **{"Sec-Fetch-Dest": "empty"})).text()
    assert "attest is done" in await (await ada.get(PUMP, **{"Sec-Fetch-Dest": "document"})).text()


async def test_the_label_has_the_page_and_the_fingerprint_and_nothing_secret(door: Door) -> None:
    html = await (await (await door.as_("vic")).get(f"{PUMP}/label")).text()
    label = html[html.index('<article class="device-label"') :]
    assert "<svg" in label
    assert "5f5f 5f5f" in label
    assert "csrf" not in label
    hostile = await door.client.get(f"{PUMP}/label", headers=(await door.as_("vic")).headers(Host='x"><script>'))
    assert hostile.status == 400


# --- in a browser ---


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_accessible_and_large_enough_on_desktop_and_phone(site: Site, open_: Opener, shots: Path, scheme: str) -> None:
    site.console.put_reading("pump-1", "MDC_FLOW_FLUID_PUMP", "mL/h", 12.5)
    site.console.dossiers.refusals = (Refusal(9, "2026-11-23T10:00:00+00:00", 60_000, "write of register 300 refused", 3),)
    site.console.dossiers.bad["token"] = "the firmware measures differently"
    page = await open_(PUMP, who="admin-1", scheme=scheme)
    await page.get_by_role("button", name="Verify here").click()
    await expect(page.locator(".verdict-line")).to_contain_text("Everything holds")
    for summary in await page.locator("main details > summary").all():
        await summary.click()
    for width, height, name in ((1440, 900, "desktop"), (390, 844, "phone")):
        await page.set_viewport_size({"width": width, "height": height})
        await page.screenshot(path=shots / f"device-{scheme}-{name}.png", full_page=True)
        await _sound(page, (scheme, name), axe=name == "desktop" or scheme == "light")
    _in_service(site)
    for path in (f"{PUMP}/accept", f"{PUMP}/label") if scheme == "light" else (f"{PUMP}/accept", f"{PUMP}/remove"):
        await page.goto(site.url + path)
        await page.screenshot(path=shots / f"{path.rpartition('/')[2]}-{scheme}.png")
        await _sound(page, (scheme, path))


async def _sound(page: Page, where: object, axe: bool = True) -> None:
    assert not axe or await accessible(page) == [], where
    assert await page.evaluate(CONTRAST) == [], where
    assert await page.evaluate(SMALL) == [], where
    assert await page.evaluate(WIDE) == [], where


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_nothing_scrolls_sideways_at_320_pixels_with_long_words(site: Site, open_: Opener) -> None:
    long = "Intensivstationsüberwachungsmonitorverbindungskabelbezeichnung"
    site.console.change(
        "pump-1", name=f"{long} {long}"[:80], reason=f"die {long} ist nicht bekannt", address="fd00:0:0:0:aaaa:bbbb:cccc:dddd"
    )
    _in_service(site)
    site.console.dossiers.difference = (DifferenceRow("configuration", "object:2", "aa" * 200, "bb" * 200),)
    page = await open_(PUMP, who="admin-1", width=320, height=640)  # 1280 pixels at a zoom of 400 %
    for path in (PUMP, f"{PUMP}/accept", f"{PUMP}/label", "/add"):
        await page.goto(site.url + path)
        assert await page.evaluate(WIDE) == [], path
    await page.set_viewport_size({"width": 640, "height": 400})  # 1280 pixels at 200 %
    await page.goto(site.url + PUMP)
    assert await page.evaluate(WIDE) == []


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_the_sections_follow_and_say_when_they_cannot(site: Site, open_: Opener, tls: ssl.SSLContext, shots: Path) -> None:
    site.console.put_reading("pump-1", "MDC_FLOW_FLUID_PUMP", "mL/h", 12.5, age_s=2)
    page = await open_(PUMP, who="admin-1")
    age = page.locator("#proof [data-since]").first
    before = await age.inner_text()
    await expect(age).not_to_have_text(before)  # ages run without a reload
    await expect(page.locator(".reading")).to_have_class("reading stale", timeout=6_000)
    await page.locator("#why summary").focus()
    site.console.set_level("pump-1", 0, "register 104 is 7 where 3 is confirmed")
    await expect(page.locator("#fn .function-cut")).to_have_count(2)
    await expect(page.locator("#why summary")).to_be_focused()  # what follows does not take the focus away
    port = site.served.port
    await site.served.close()
    await expect(page.locator("#lost")).to_be_visible(timeout=8_000)
    grey = await page.locator("#proof").evaluate("n => getComputedStyle(n).filter + getComputedStyle(n).borderStyle")
    assert grey == "grayscale(1)dashed"
    frozen = await age.inner_text()
    await asyncio.sleep(1.2)
    assert await age.inner_text() == frozen
    await page.screenshot(path=shots / "device-lost.png", full_page=True)
    async with await serve(build(site.console, site.accounts), "127.0.0.1", port, tls):
        await expect(page.locator("#lost")).to_be_hidden(timeout=10_000)


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_sections_that_are_not_renewed_are_said_to_be_old(site: Site, open_: Opener) -> None:
    page = await open_(PUMP, who="vic")
    await page.clock.install()
    await page.route(lambda url: url.endswith("?hours=24"), lambda route: route.abort())
    await page.reload()
    await expect(page.locator("#old")).to_be_hidden()
    for _ in range(20):
        await page.clock.run_for(1_000)
    await expect(page.locator("body")).to_have_attribute("data-old", "")
    await page.unroute_all()
    await page.clock.run_for(6_000)
    await expect(page.locator("#old")).to_be_hidden()


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_by_keyboard_alone_from_the_ward_to_an_accepted_repair(site: Site, open_: Opener) -> None:
    _in_service(site)
    page = await open_(PUMP, who="admin-1")

    async def tab_to(role: Any, name: str) -> None:
        wanted = page.get_by_role(role, name=name, exact=True)
        for _ in range(60):
            await page.keyboard.press("Tab")
            if await wanted.evaluate("n => n === document.activeElement"):
                break
        await expect(wanted).to_be_focused()
        ring = await wanted.evaluate("n => getComputedStyle(n).outlineWidth")
        assert ring == "3px", name

    await tab_to("link", "Accept changes…")
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(f"{site.url}{PUMP}/accept")
    for name in ("configuration register 104 is compared", "configuration object 2 is compared"):
        await tab_to("checkbox", name)
        await page.keyboard.press("Space")
    await tab_to("button", "Accept these changes")
    await page.keyboard.press("Enter")
    await expect(page.locator(".notice")).to_have_text("Infusion pump, bed 4: accept is done")
    assert site.console.commands[-1].argument("difference") == DIFFERENCE_ID


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_the_label_prints_alone_and_in_its_size(site: Site, open_: Opener, shots: Path) -> None:
    page = await open_(f"{PUMP}/label", who="vic")
    await page.emulate_media(media="print")
    size = await page.locator(".device-label").evaluate("n => [n.offsetWidth, n.offsetHeight]")
    assert [round(v / 96 * 25.4) for v in size] == [62, 29]
    await expect(page.locator(".bar")).to_be_hidden()
    await page.locator(".device-label").screenshot(path=shots / "label-print.png")
    pdf = await page.pdf(prefer_css_page_size=True)
    box = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert box
    assert [round(float(v) / 72 * 25.4) for v in box.groups()] == [62, 29]
    assert len(re.findall(rb"/Type /Page\b", pdf)) == 1


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_nothing_moves_for_those_who_asked_for_stillness(site: Site, open_: Opener) -> None:
    page = await open_(PUMP, who="vic")  # the context asks for reduced motion
    moving = await page.evaluate(
        "() => [...document.querySelectorAll('*')].filter((n) => { const s = getComputedStyle(n);"
        " return s.animationName !== 'none' || s.transitionDuration !== '0s'; }).length"
    )
    assert moving == 0
