"""Adding a device by page: found, profile, attest, observe, enforce; with JavaScript off, for those who may, with hostile input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import expect

from gateway.model.device import Bus
from gateway.model.event import DeviceSeen
from tests.fakes.console import PASSWORD
from tests.web.browsing import CONTRAST, SMALL, WIDE, Opener, accessible, browser, open_, shots, site  # noqa: F401 - fixtures
from tests.web.conftest import Door, Site

PATCH = DeviceSeen(Bus.BLE, "C0:00:00:00:00:09", "Heart patch 7", "attestation, heart-rate", -48)
HOST = DeviceSeen(None, "02:00:00:00:00:19", "unnamed", port="p-3", mac="02:00:00:00:00:19", addresses=("10.77.0.19", "fd00::19"))
STRANGER = DeviceSeen(Bus.BLE, "C0:00:00:00:00:0A", "unnamed", "attestation", -88)
ENDORSEMENT = json.dumps({"ueid": "01" * 33, "spki": "30" * 40, "implementation-id": "aa" * 32, "components": {"app": "bb" * 32}})
GOOD = {"profile": "heart-rate-patch", "id": "heart-rate-patch-9", "name": "Patch, bed 9", "passkey": "012345"}


async def _propose(who: Door, path: str, fields: dict[str, str], endorsement: bytes | None = None) -> aiohttp.ClientResponse:
    form = aiohttp.FormData()
    for name, value in {"csrf": who.csrf, **fields}.items():
        form.add_field(name, value)
    form.add_field("endorsement", endorsement or b"", filename="e.json" if endorsement else "", content_type="application/json")
    return await who.client.post(path, data=form, headers=who.headers(Origin=who.origin), allow_redirects=False)


async def test_what_was_found_is_shown_with_what_identifies_it(door: Door) -> None:
    door.console.dossiers.see(PATCH)
    bea, vic = await door.as_("bea"), await door.as_("vic")
    text = await (await bea.get("/add")).text()
    for said in ("Heart patch 7", "C0:00:00:00:00:09", "Bluetooth", "-48", "very near", "8 s ago", "Heart-rate patch"):
        assert said in text, said
    assert "/add/new-c0-00-00-00-00-09" in text
    seen = await (await vic.get("/add")).text()
    assert "Heart patch 7" in seen
    assert "/add/new-" not in seen  # a viewer looks, and adds nothing
    for who in ("vic", "carl"):
        assert (await (await door.as_(who)).get("/add/new-c0-00-00-00-00-09")).status == 403
        assert (await (await door.as_(who)).form("/add/new-c0-00-00-00-00-09", GOOD)).status == 403
    found = (await (await vic.get("/api/v1/found")).json())["found"]
    assert found[0]["suggestions"][0]["profile"] == "heart-rate-patch"
    assert {p["id"] for p in (await (await vic.get("/api/v1/profiles")).json())["profiles"]} >= {"infusion-pump"}


async def test_the_profile_is_proposed_with_its_reasons_and_none_without(door: Door) -> None:
    key, stranger = door.console.dossiers.see(PATCH), door.console.dossiers.see(STRANGER)
    bea = await door.as_("bea")
    text = await (await bea.get(f"/add/{key}")).text()
    assert "it offers a heart rate service, which this profile reads" in text
    assert "a name alone proves nothing" in text
    assert text.count("may fit") == 1
    assert 'value="heart-rate-patch" required checked' in text
    assert 'value="heart-rate-patch-1"' in text
    assert "infusion-pump" not in text  # another bus
    unknown = await (await bea.get(f"/add/{stranger}")).text()
    assert "may fit" not in unknown
    assert " checked" not in unknown  # nobody is pushed to a profile that nothing speaks for
    assert (await bea.get("/add/new-ff")).status == 404
    assert (await bea.get(f"/devices/{key}")).headers["Location"] == f"/add/{key}"
    assert (await bea.get(f"/devices/{key}/add")).headers["Location"] == f"/add/{key}"


async def test_a_proposal_becomes_the_command_with_its_endorsement(door: Door) -> None:
    key = door.console.dossiers.see(PATCH)
    bea = await door.as_("bea")
    done = await _propose(bea, f"/add/{key}", GOOD, ENDORSEMENT.encode())
    assert (done.status, done.headers["Location"]) == (303, "/devices/heart-rate-patch-9")
    command = door.console.commands[-1]
    assert (command.verb, command.device_id, command.actor, command.role) == ("add", "heart-rate-patch-9", "bea", "biomed")
    sent = dict(command.arguments)
    assert (
        sent | {"bus": "ble", "address": "C0:00:00:00:00:09", "passkey": "012345", "endorsement": ENDORSEMENT, "port": ""} == sent
    )
    page = await (await bea.get("/devices/heart-rate-patch-9")).text()
    assert "Accept it, and it is asked to prove itself" in page
    assert 'href="/devices/heart-rate-patch-9/accept"' in page


async def test_what_does_not_fit_is_refused_and_the_rest_is_kept(door: Door) -> None:
    key = door.console.dossiers.see(PATCH)
    bea = await door.as_("bea")
    wrong: tuple[dict[str, str], ...] = (
        {"passkey": "12345"}, {"passkey": "abcdef"}, {"profile": "infusion-pump"}, {"profile": ""}, {"id": "Not An Id"},
        {"id": "pump-1"}, {"name": "x" * 81}, {"name": "a\u202eb"}, {"address": "C0:00:00:00:00:FF"},
    )  # fmt: skip
    for fields in wrong[:-1]:
        answer = await _propose(bea, f"/add/{key}", {**GOOD, **fields})
        assert answer.status == 400, fields
        text = await answer.text()
        assert "Patch, bed 9" in text or "name" in fields
        assert "012345" not in text  # a passkey is never given back
    for hostile in (b"\xff\xfe{}", b"{\x00}", b"x" * 5_000):
        assert (await _propose(bea, f"/add/{key}", GOOD, hostile)).status == 400
    assert (await _propose(bea, f"/add/{key}", GOOD, b"x" * 40_000)).status == 413
    assert (await _propose(bea, f"/add/{key}", {**GOOD, "csrf": "f" * 64})).status == 403
    assert [c for c in door.console.commands if c.device_id != "pump-1"] == []
    done = await _propose(bea, f"/add/{key}", {**GOOD, **wrong[-1]})  # what was found decides the address, never the form
    assert done.status == 303
    assert door.console.commands[-1].argument("address") == "C0:00:00:00:00:09"


async def test_a_wired_device_is_added_by_its_port_and_addresses(door: Door) -> None:
    bea = await door.as_("bea")
    fields = {
        "profile": "infusion-pump", "id": "pump-9", "name": "Pump", "bus": "modbus", "address": "10.77.0.19", "port": "p3",
        "mac": "02:00:00:00:00:19", "addresses": "",
    }  # fmt: skip
    assert (await _propose(bea, "/add/other", fields)).status == 303
    assert door.console.commands[-1].argument("addresses") == "10.77.0.19"
    assert (await _propose(bea, "/add/other", {**fields, "id": "pump-10", "addresses": "10.77.0.19, fd00::19"})).status == 303
    assert door.console.commands[-1].argument("addresses") == "10.77.0.19,fd00::19"


async def test_a_host_on_a_port_is_offered_and_a_person_says_what_it_is(door: Door) -> None:
    key, silent = (
        door.console.dossiers.see(HOST),
        door.console.dossiers.see(replace(HOST, address="02:00:00:00:00:20", addresses=())),
    )
    bea = await door.as_("bea")
    text = await (await bea.get("/add")).text()
    for said in ("Device on p-3", "MAC address", "02:00:00:00:00:19", "10.77.0.19", "fd00::19", "cable, port p-3"):
        assert said in text, said
    form = await (await bea.get(f"/add/{key}")).text()
    assert '<h1 class="title">Add the device on p-3</h1>' in form
    assert "Infusion pump" in form and "heart-rate-patch" not in form
    assert " checked" not in form
    for value in ('name="address" required maxlength="45" value="10.77.0.19"', 'value="p-3"', 'value="02:00:00:00:00:19"'):
        assert value in form, value
    assert 'name="name" required maxlength="80" value=""' in form  # nobody is named after a port
    assert "no address yet" in await (await bea.get(f"/add/{silent}")).text()
    fields = {"profile": "infusion-pump", "id": "pump-9", "name": "Pump", "address": "10.77.0.19", "port": "p-3", "mac": HOST.mac}
    assert (await _propose(bea, f"/add/{key}", {**fields, "profile": "heart-rate-patch"})).status == 400
    assert (await _propose(bea, f"/add/{key}", {**fields, "bus": "ble"})).status == 303  # the profile says which bus
    sent = dict(door.console.commands[-1].arguments)
    assert sent | {"bus": "modbus", "address": "10.77.0.19", "addresses": "10.77.0.19", "port": "p-3", "mac": HOST.mac} == sent
    found = (await (await bea.get("/api/v1/found")).json())["found"]
    assert [f["addresses"] for f in found if f["bus"] == "wired"] == [["10.77.0.19", "fd00::19"], []]


async def test_the_steps_say_where_a_device_is(door: Door) -> None:
    key = door.console.dossiers.see(PATCH)
    bea = await door.as_("bea")
    await _propose(bea, f"/add/{key}", GOOD)

    async def current() -> str:
        text = await (await bea.get("/devices/heart-rate-patch-9")).text()
        step = text.split('aria-current="step"', 1)
        return step[1].split("</li>", 1)[0] if len(step) == 2 else ""

    assert "Attest" in await current()
    door.console.change("heart-rate-patch-9", state="observing", would_cut=("readings",))
    assert "there is no evidence of configuration and token yet" in await current()
    door.console.dossiers.no_evidence.clear()
    door.console.dossiers.bad["token"] = "another key"
    assert "Is it the right device" in await current()
    door.console.dossiers.bad.clear()
    assert "Observe" in await current()
    assert "Enforce would cut readings now" in await current()
    door.console.change("heart-rate-patch-9", state="enforced")
    assert await current() == ""


async def test_what_speaks_against_a_device_is_shown_and_ticked_before_it_is_accepted(door: Door) -> None:
    door.console.identity = ("UEID: 01ab, key SHA-256 77…",)
    door.console.change("pump-1", state="proposed")
    bea = await door.as_("bea")
    asked = await (await bea.get("/devices/pump-1/accept")).text()
    assert "UEID: 01ab" in asked
    assert 'name="anyway"' not in asked
    door.console.identity = ("ATTENTION: its port p1 is that of pump-2", *door.console.identity)
    asked = await (await bea.get("/devices/pump-1/accept")).text()
    assert "its port p1 is that of pump-2" in asked
    assert 'name="anyway" value="yes" required' in asked
    assert door.console.commands == []  # looking changes nothing
    assert (await bea.form("/devices/pump-1/accept", {"password": PASSWORD, "anyway": "yes"})).status == 303
    assert dict(door.console.commands[-1].arguments) == {"anyway": "yes"}


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_from_found_to_enforced_without_javascript(site: Site, open_: Opener, shots: Path, tmp_path: Path) -> None:
    site.console.dossiers.see(PATCH)
    (tmp_path / "endorsement.json").write_text(ENDORSEMENT)
    page = await open_("/", who="admin-1", script=False)
    await page.get_by_role("link", name="Add a device").click()
    await page.get_by_role("link", name="Add Heart patch 7").click()
    await page.get_by_label("Name", exact=True).fill("Patch, bed 9")
    await page.get_by_label("Passkey").fill("012345")
    await page.get_by_label("The maker’s endorsement").set_input_files(tmp_path / "endorsement.json")
    await page.get_by_role("button", name="Propose it").click()
    await expect(page.locator(".notice")).to_have_text("heart-rate-patch-1 is proposed")
    await page.get_by_role("link", name="Accept…").click()
    await page.get_by_label("Your password").fill(PASSWORD)
    await page.get_by_role("button", name="Accept").click()
    site.console.dossiers.no_evidence.clear()
    await page.get_by_role("button", name="Attest now").click()
    await expect(page.locator('[aria-current="step"]')).to_contain_text("Observe")
    await page.screenshot(path=shots / "adding-observe.png")
    await page.get_by_role("link", name="Enforce…").click()
    await expect(page.locator(".lead")).to_contain_text("level 0 now")
    await page.get_by_label("Your password").fill(PASSWORD)
    await page.get_by_role("button", name="Enforce").click()
    await expect(page.locator(".steps-in")).to_have_count(0)
    assert [c.verb for c in site.console.commands] == ["add", "accept", "attest", "enforce"]


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 390)])
async def test_accessible_in_both_palettes(site: Site, open_: Opener, shots: Path, scheme: str, width: int) -> None:
    key = site.console.dossiers.see(PATCH)
    site.console.dossiers.see(STRANGER)
    host = site.console.dossiers.see(HOST)
    page = await open_("/add", who="admin-1", scheme=scheme, width=width, height=900)
    for path, name in (("/add", "found"), (f"/add/{key}", "add"), (f"/add/{host}", "add-wired"), ("/add/other", "other")):
        await page.goto(site.url + path)
        await page.screenshot(path=shots / f"{name}-{scheme}.png", full_page=True)
        assert await accessible(page) == [], path
        for measure in (CONTRAST, SMALL, WIDE):
            assert await page.evaluate(measure) == [], path
