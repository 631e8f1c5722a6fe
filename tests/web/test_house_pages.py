"""Events, Network and Gateway as a browser without JavaScript gets them, their files, and the actions that start there."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from aiohttp.test_utils import TestClient, TestServer

from gateway.errors import InputError
from gateway.model.view import EventView
from gateway.web.drawing import draw
from gateway.web.exporting import csv_line, guarded, json_line
from gateway.web.lifecycle import install
from gateway.web.server import build
from tests.fakes.console import PASSWORD, FakeAccounts, FakeConsole
from tests.web.conftest import Door

_TURNED = "\u202e\u2066\u200f"


# --- events ---


async def test_a_question_is_in_the_address_and_stays_in_the_form_the_pages_and_the_files(door: Door) -> None:
    for i in range(250):
        door.console.say("pump-1", "warning" if i % 2 else "information", f"pump-1: line {i} & more")
    vic = await door.as_("vic")
    text = await (await vic.get("/events?device=pump-1&severity=warning&text=line")).text()
    assert "line 249" in text
    assert "line 248" not in text
    assert 'value="line"' in text
    assert '<option value="pump-1" selected>' in text
    assert "/api/v1/events.csv?device=pump-1&amp;severity=warning&amp;text=line" in text
    older = re.search(r'href="(/events\?device=pump-1&amp;severity=warning&amp;text=line&amp;before=\d+)"', text)
    assert older
    second = await (await vic.get(older[1].replace("&amp;", "&"))).text()
    assert "line 49 &amp; more" in second
    assert "Newest" in second


@pytest.mark.parametrize(
    "query",
    ["device=..%2F", "severity=loud", "kind=everything", "from=yesterday", "to=9999-99-99T00:00", "text=" + "x" * 101, "before=-1",
     "from=2027-01-02T00:00&to=2027-01-01T00:00", "from=1900-01-01T00:00"],
)  # fmt: skip
async def test_a_question_that_is_none_is_told_on_the_page_and_in_the_api(door: Door, query: str) -> None:
    vic = await door.as_("vic")
    page = await vic.get(f"/events?{query}")
    assert page.status == 400
    assert 'role="alert"' in await page.text()
    for path in ("/api/v1/events", "/api/v1/events.csv", "/api/v1/events.jsonl"):
        if "before" not in query or path == "/api/v1/events":
            answer = await vic.get(f"{path}?{query}")
            assert answer.status == 400, path
            assert (await answer.json())["remedy"]


async def test_the_files_hold_every_line_and_compute_nothing(door: Door) -> None:
    for i in range(3000):
        door.console.say("pump-1", "information", f"line {i}")
    door.console.say("patch-1", "alarm", '=HYPERLINK("http://x","y"), "quoted"')
    vic = await door.as_("vic")
    answer = await vic.get("/api/v1/events.csv")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="ward-7-east-events.csv"'
    rows = list(csv.reader(io.StringIO(await answer.text())))
    assert rows[0] == ["sequence", "time_utc", "kind", "severity", "device_id", "text"]
    assert len(rows) == 3006
    assert rows[1][5] == '\'=HYPERLINK("http://x","y"), "quoted"'
    lines = (await (await vic.get("/api/v1/events.jsonl?device=patch-1&severity=alarm")).text()).splitlines()
    assert [json.loads(x)["text"] for x in lines] == ['=HYPERLINK("http://x","y"), "quoted"']


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "  =1", "\n=1"])
def test_a_cell_that_a_spreadsheet_computes_is_made_text(cell: str) -> None:
    assert guarded(cell) == f"'{cell}"
    assert csv_line([cell, 7, "plain"]).rstrip("\r\n").endswith(",7,plain")
    assert guarded("10.77.0.11 → x") == "10.77.0.11 → x"


def test_a_json_line_is_one_line_of_ascii() -> None:
    line = json_line(EventView(1, "2027-01-01T00:00:00Z", 0, "alarm", "alarm", "pump-1", f"a\nb \u2028 {_TURNED} ü"))
    assert line.isascii()
    assert line.count("\n") == 1


async def test_a_record_that_does_not_hold_is_said_loudly(door: Door) -> None:
    vic = await door.as_("vic")
    assert "verifies up to line 4" in await (await vic.get("/events")).text()
    door.console.house.trouble = "audit line 3 was changed"
    for path in ("/events", "/gateway"):
        text = await (await vic.get(path)).text()
        assert '<p class="proof" data-ok="no">' in text, path
        assert "audit line 3 was changed" in text


# --- network ---


async def test_the_network_says_in_words_and_in_a_picture_who_may_talk(door: Door) -> None:
    door.console.set_level("pump-1", 0, "configuration changed")
    door.console.house.refuse("pump-1", "a flow that is not allowed", 14)
    door.console.house.refuse("", "a stranger", 3)
    text = await (await (await door.as_("vic")).get("/network")).text()
    for words in (
        "shut; open from level 3", "always on: it is vital", "only what is always allowed; open from level 2", "14 refused",
        "a flow that is not allowed", "Nobody known on the ward side", "Wiring: in line",
        "a device that is plugged in somewhere else",
        "level 0, 2 of 3 flows open, 14 refused in the last hour",
    ):  # fmt: skip
        assert words in text, words
    picture = text[text.index('<svg class="map"') : text.index("</svg>\n<ul class")]
    assert picture.count('class="wire wire-cut"') == 2  # maintenance, and the stranger
    assert picture.count('class="wire wire-always"') == 2


async def test_nothing_in_the_picture_overlaps_and_all_of_it_is_inside() -> None:
    console = FakeConsole()
    for i in range(30):
        console.devices[f"pump-{i + 2}"] = replace(console.devices["pump-1"], id=f"pump-{i + 2}", name="x" * 80)
        console.renew(f"pump-{i + 2}")
    land = await console.house.network()
    d = draw(land, dict.fromkeys(console.devices, "well"))
    for boxes in (d.devices, d.hosts):
        for upper, lower in pairwise(boxes):
            assert upper.y + upper.h < lower.y
        assert all(b.y >= 0 and b.y + b.h <= d.height and b.x + b.w <= d.width for b in boxes)
    assert all(b.y < w.y < b.y + b.h for b in d.devices for w in b.wires)
    assert all(len(b.title) <= 30 for b in d.devices)


# --- the gateway ---


async def test_the_gateway_says_who_it_is_what_ends_and_what_waits(door: Door) -> None:
    text = await (await (await door.as_("vic")).get("/gateway")).text()
    for words in ("5f" * 32, "CN=Hospital CA", "Does not prove", "12 days", "over", "no end", "not authorized (0x87)", "4.0 KiB"):
        assert words in text, words
    assert "Send again" not in text
    assert "Add a person" not in text
    assert "API tokens" not in text


async def test_an_opening_by_break_glass_is_drawn_dashed_and_said_with_its_end(door: Door) -> None:
    """In the page as it comes, so it needs no script."""
    vic = await door.as_("vic")
    before = await (await vic.get("/network")).text()
    assert 'class="wire wire-glass"' not in before
    assert "closes by itself" not in before
    now_ms = door.console.view().now_ms
    door.console.house.glass = {("10.77.0.101", "10.77.0.11", "tcp", 7000): now_ms + 754_000}
    text = await (await vic.get("/network")).text()
    (wire,) = re.findall(r'<g class="wire wire-glass">.*?</g>', text, re.DOTALL)
    assert re.search(r'break-glass <tspan class="num" data-until="\d+">12:3\d</tspan>', wire)
    row = re.sub(r"<[^>]+>", "", text[text.index("Every flow") :])
    assert re.search(r"maintenance.*?open by break-glass; it closes by itself in 12:3\d", row, re.DOTALL)
    assert "1 of them by break-glass" in text
    found = await (await vic.get("/api/v1/network")).json()
    lanes = [lane for s in found["spots"] for lane in s["lanes"] if lane["passing"] == "glass"]
    assert [(x["function"], x["until_ms"]) for x in lanes] == [("maintenance", now_ms + 754_000)]
    door.console.house.glass = None
    assert "The kernel could not be asked whether glass is broken" in await (await vic.get("/network")).text()


async def test_how_far_the_copy_of_the_record_is_behind_is_shown(door: Door) -> None:
    vic = await door.as_("vic")
    text = re.sub(r"<[^>]+>", "", await (await vic.get("/gateway")).text())
    assert "The record’s copy: copies the audit log to siem.hospital. 7 lines are not confirmed, the oldest for 41 s." in text
    found = (await (await vic.get("/api/v1/outbox")).json())["syslog"]
    assert found == {
        "type": "CopyView", "state": "copies the audit log to siem.hospital", "up": True, "lines": 7, "oldest_s": 41.5,
    }  # fmt: skip


async def test_a_message_that_was_kept_aside_is_sent_again_or_let_go_by_operators(door: Door) -> None:
    vic, bea = await door.as_("vic"), await door.as_("bea")
    assert (await vic.form("/gateway/outbox/1/retry", {})).status == 403
    assert (await bea.form("/gateway/outbox/1/retry", {}, csrf=False)).status == 403
    assert (await bea.form("/gateway/outbox/1/retry", {}, origin="https://elsewhere")).status == 403
    assert (await bea.form("/gateway/outbox/1/retry", {})).status == 303
    assert "retry is done" in await (await bea.get("/gateway")).text()
    asked = await (await bea.get("/gateway/outbox/1/discard")).text()
    assert "4 readings are in it; they count as lost then." in asked
    assert (await bea.form("/gateway/outbox/1/discard", {})).status == 303
    assert door.console.house.aside == [("retry", "bea", 1), ("discard", "bea", 1)]
    assert (await bea.get("/gateway/outbox/7/discard")).status == 404
    assert (await bea.get("/gateway/outbox/x/discard")).status == 404


async def test_people_are_added_changed_and_removed_by_an_admin_who_shows_the_password(door: Door) -> None:
    ada = await door.as_("admin-1")
    fields = {"name": "eve", "role": "biomed", "password": "quite another sentence", "secret": PASSWORD}
    assert (await ada.form("/gateway/people/add", {**fields, "secret": ""})).status == 400
    assert (await ada.form("/gateway/people/add", {**fields, "role": "emperor"})).status == 400
    wrong = await ada.form("/gateway/people/add", {**fields, "secret": "not it"})
    assert wrong.status == 403
    assert "quite another sentence" not in await wrong.text()
    assert (await ada.form("/gateway/people/add", fields)).status == 303
    assert door.accounts.people["eve"] == ("quite another sentence", "biomed")
    assert "eve is biomed now." in await (await ada.get("/gateway")).text()
    assert (await ada.form("/gateway/people/eve/role", {"role": "viewer", "secret": PASSWORD})).status == 303
    assert door.accounts.people["eve"][1] == "viewer"
    assert (await ada.form("/gateway/people/eve/password", {"password": "a third sentence", "secret": PASSWORD})).status == 303
    assert (await ada.form("/gateway/people/eve/remove", {"secret": PASSWORD})).status == 303
    assert "eve" not in door.accounts.people
    assert (await ada.form("/gateway/people/admin-1/remove", {"secret": PASSWORD})).status == 403
    assert (await ada.get("/gateway/people/nobody/role")).status == 404


async def test_ones_own_password_ends_the_session(door: Door) -> None:
    vic = await door.as_("vic")
    new = {"old": PASSWORD, "password": "quite another sentence", "again": "quite another sentence"}
    assert (await vic.form("/gateway/password", {**new, "again": "something else"})).status == 400
    assert (await vic.form("/gateway/password", {**new, "old": "not it"})).status == 403
    done = await vic.form("/gateway/password", new)
    assert (done.status, done.headers["Location"]) == (303, "/login")
    assert (await vic.get("/gateway")).headers["Location"].startswith("/login")


async def test_a_policy_that_is_tried_is_told_on_every_page_and_kept_or_undone(door: Door) -> None:
    ada, vic = await door.as_("admin-1"), await door.as_("vic")
    assert (await ada.get("/gateway/policy/confirm")).status == 400
    await door.console.policy.apply(await door.accounts.login("bea", PASSWORD, "x"), PASSWORD, "text", 10, ())
    for path in ("/", "/events", "/network", "/gateway"):
        text = await (await vic.get(path)).text()
        assert "A policy is being tried." in text, path
        assert "bea applied it" in text
    assert "Keep it…" not in await (await vic.get("/gateway")).text()
    assert (await ada.form("/gateway/policy/confirm", {"secret": "not it"})).status == 403
    assert (await ada.form("/gateway/policy/confirm", {"secret": PASSWORD})).status == 303
    assert "A policy is being tried." not in await (await vic.get("/")).text()
    assert (await ada.form("/gateway/policy/rollback", {"secret": PASSWORD})).status == 303


async def test_a_token_is_shown_once_and_ended(door: Door) -> None:
    ada = await door.as_("admin-1")
    fields = {"name": "scraper", "role": "metrics", "days": "30", "secret": PASSWORD}
    for wrong in ({"days": "x"}, {"days": "0"}, {"role": "root"}, {"name": "A b"}):
        assert (await ada.form("/gateway/tokens/add", {**fields, **wrong})).status == 400, wrong
    assert (await ada.form("/gateway/tokens/add", {**fields, "secret": "not it"})).status == 403
    shown = await (await ada.form("/gateway/tokens/add", fields)).text()
    (secret,) = door.accounts.tokens.known
    assert secret in shown
    listed = await (await ada.get("/gateway")).text()
    assert "scraper" in listed
    assert secret not in listed
    assert (await ada.form("/gateway/tokens/scraper/revoke", {})).status == 303
    assert door.accounts.tokens.known == {}


class _Life:
    """``LifecyclePort`` whose files say what they were asked with."""

    async def backup(self, passphrase: str) -> bytes:
        if len(passphrase) < 12:
            raise InputError("that passphrase protects nothing", "take a sentence")
        return f"backup {passphrase}".encode()

    async def left_out(self) -> list[str]:
        return ["who may confirm what may pass (operators.json, which only root reads)"]

    async def support_file(self) -> bytes:
        return b"support"

    async def status(self) -> dict[str, object]:
        return {}


async def test_files_are_taken_away_by_those_who_may() -> None:
    console, accounts = FakeConsole(), FakeAccounts()
    app = build(console, accounts)
    install(app, _Life())
    async with TestClient(TestServer(app)) as client:
        door = Door(client, console, accounts)
        ada, bea, vic = [await door.as_(n) for n in ("admin-1", "bea", "vic")]
        assert "Take a backup…" in await (await ada.get("/gateway")).text()
        assert "Take a backup…" not in await (await bea.get("/gateway")).text()
        assert "Download the support file" not in await (await vic.get("/gateway")).text()
        sheet = await (await ada.get("/gateway/backup")).text()
        assert "Not in it: who may confirm what may pass (operators.json, which only root reads)." in sheet
        assert "sudo wardgate backup FILE" in sheet
        fields = {"passphrase": "a long passphrase", "again": "a long passphrase", "secret": PASSWORD}
        assert (await bea.form("/gateway/backup", fields)).status == 403
        for wrong, status in (({"again": "x"}, 400), ({"passphrase": "short", "again": "short"}, 400), ({"secret": "no"}, 403)):
            assert (await ada.form("/gateway/backup", {**fields, **wrong})).status == status, wrong
        done = await ada.form("/gateway/backup", fields)
        assert await done.read() == b"backup a long passphrase"
        assert (await vic.form("/gateway/support-file", {})).status == 403
        assert await (await bea.form("/gateway/support-file", {})).read() == b"support"
        token = await accounts.tokens.add(await accounts.login("admin-1", PASSWORD, "x"), "t", "admin", 1)
        for path in ("/api/v1/backup", "/api/v1/support-file"):
            refused = await client.post(path, json={"passphrase": "x"}, headers={"Authorization": f"Bearer {token}"})
            assert refused.status == 403, "a token carries nothing away"


# --- what befell the gateway itself ---


async def test_somebody_of_the_ward_has_looked_at_what_befell_the_gateway(door: Door) -> None:
    door.console.parts["last-run"] = (False, "Wardgate ended without saying so")
    vic, cleo = await door.as_("vic"), await door.as_("cleo")
    assert "/gateway/acknowledge" not in await (await vic.get("/gateway")).text()
    assert "/gateway/acknowledge" in await (await cleo.get("/gateway")).text()
    text = await (await cleo.get("/gateway/acknowledge")).text()
    assert "Wardgate ended without saying so." in text
    assert (await cleo.form("/gateway/acknowledge", {})).status == 303
    page = await (await cleo.get("/gateway")).text()
    assert "/gateway/acknowledge" not in page and "last-run: looked at by cleo" in page.lower()
    assert (await cleo.get("/gateway/acknowledge")).status == 404


# --- hostile words ---


async def test_hostile_words_are_escaped_and_turn_nothing_on_every_page(door: Door) -> None:
    evil = f"<img src=x onerror=alert(1)>{_TURNED}\"'&"
    door.console.change("pump-1", name=evil, reason=evil, address=evil, alarms=(evil,))
    door.console.say("pump-1", "alarm", evil)
    door.console.house.refuse("pump-1", evil)
    door.console.house.refuse(evil, evil)
    door.console.parts["uplink"] = (False, evil)
    ada = await door.as_("admin-1")
    for path in ("/", "/events", "/network", "/gateway", "/events?text=%3Cimg%20src=x%3E%E2%80%AE"):
        text = await (await ada.get(path)).text()
        assert "<img" not in text, path
        assert not set(text) & set(_TURNED), path
        assert not re.search(r"<script(?![^>]*src=)|\sstyle=|\son\w+=\"|javascript:", text), path


async def test_pages_survive_a_picture_that_cannot_be_made(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    ada = await door.as_("admin-1")

    def hang() -> object:
        raise RuntimeError("the engine hangs")

    door.console.view = hang  # type: ignore[method-assign, assignment]
    answer = await ada.get("/nowhere")
    assert answer.status == 404
    assert "The state of the ward cannot be read" in await answer.text()
