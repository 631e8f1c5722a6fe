"""The pages as a browser without JavaScript gets them, and the actions that start there."""

from __future__ import annotations

import re

import pytest

from gateway.errors import UnavailableError
from tests.fakes.console import PASSWORD
from tests.web.conftest import Door

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
_EVERYWHERE = (
    "/", "/events", "/devices/pump-1", "/devices/nobody", "/devices/pump-1/enforce", "/devices/pump-1/service", "/login",
    "/claim", "/view/none", "/static/ward.css", "/static/ward.js", "/static/../server.py", "/nowhere", "/api/v1/view",
    "/api/v1/health", "/api/v1/nowhere", "/api/v1/explain/pump-1", "/api/v1/devices/pump-1/bundle",
    "/api/v1/events?limit=x", "/%00", "/devices/%2e%2e/x",
)  # fmt: skip


@pytest.mark.parametrize("name", ["", "admin-1"])
async def test_every_response_is_strict_about_what_a_browser_may_do(door: Door, name: str) -> None:
    who = await door.as_(name) if name else door
    for path in _EVERYWHERE:
        answer = await who.get(path)
        assert answer.headers["Content-Security-Policy"] == _CSP, path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Strict-Transport-Security"].startswith("max-age=")
        assert answer.headers["Server"] == "wardgate"
        if not path.startswith("/static/ward"):
            assert answer.headers["Cache-Control"] == "no-store", path
        assert answer.status < 500


async def test_pages_carry_no_inline_script_style_or_foreign_address(door: Door) -> None:
    ada = await door.as_("admin-1")
    for path in ("/", "/events", "/devices/pump-1", "/devices/pump-1/break-glass", "/devices/pump-1/service"):
        text = await (await ada.get(path)).text()
        assert not re.search(r"<script(?![^>]*src=)|\sstyle=|\son\w+=|javascript:", text), path
        assert not re.search(r'(?:src|href|action)="(?:https?:)?//', text), path


async def test_the_ward_is_complete_without_javascript(door: Door) -> None:
    door.console.put_reading("patch-1", "MDC_ECG_HEART_RATE", "/min", 72)
    door.console.put_reading("pump-1", "MDC_FLOW_FLUID_PUMP", "mL/h", 12.5, age_s=60)
    door.console.set_level("pump-1", 0, "register 104 is 7 where 3 is confirmed")
    text = await (await (await door.as_("vic")).get("/")).text()
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in text
    for word in (
        "Infusion pump, bed 4 is cut",
        "register 104 is 7",
        "always on",
        "Heart rate",
        ">72<",
        "12:40",
        "not a medical alarm system",
    ):
        assert word.lower() in text.lower(), word
    stale, fresh = re.findall(r'<p class="(reading[^"]*)"', text)
    assert (stale, fresh) == ("reading stale", "reading")  # pump-1 comes first, its reading is a minute old


async def test_what_a_device_chose_is_escaped(door: Door) -> None:
    door.console.change("patch-1", name="<b onclick=x>&", reason="<script>alert(1)</script>")
    door.console.say("patch-1", "alarm", "<img src=x>")
    ada = await door.as_("admin-1")
    for path in ("/", "/events", "/devices/patch-1", "/devices/patch-1/service"):
        text = await (await ada.get(path)).text()
        assert not re.search(r"<b onclick|<script>alert|<img", text), path


async def test_actions_are_offered_by_role_and_state(door: Door) -> None:
    ada, vic = await door.as_("admin-1"), await door.as_("vic")
    assert "Service mode…" in await (await ada.get("/devices/pump-1")).text()
    assert "Service mode…" not in await (await vic.get("/devices/pump-1")).text()
    door.console.change("pump-1", state="observing")
    text = await (await ada.get("/devices/pump-1")).text()
    assert "Enforce…" in text
    assert "Service mode…" not in text
    assert (await ada.get("/devices/pump-1/service")).status == 400


async def test_enforce_first_shows_what_would_be_cut_and_passes_the_password_on(door: Door) -> None:
    ada = await door.as_("admin-1")
    door.console.change("pump-1", state="observing", level=2, would_cut=("maintenance",))
    text = await (await ada.get("/devices/pump-1/enforce")).text()
    assert "maintenance: cut as soon as you press Enforce" in text
    assert "monitoring: always on" in text
    wrong = await ada.form("/devices/pump-1/enforce", {"password": "not it"})
    assert wrong.status == 403
    assert "the password is wrong" in await wrong.text()
    assert "not it" not in await wrong.text()
    right = await ada.form("/devices/pump-1/enforce", {"password": PASSWORD})
    assert (right.status, right.headers["Location"]) == (303, "/devices/pump-1")
    command = door.console.commands[-1]
    assert (command.actor, command.role, command.verb, command.device_id) == ("admin-1", "admin", "enforce", "pump-1")
    assert command.secret == PASSWORD
    assert command.arguments == ()
    assert PASSWORD not in repr(command)
    assert "enforce is done" in await (await ada.get("/devices/pump-1")).text()
    assert "enforce is done" not in await (await ada.get("/devices/pump-1")).text()  # said once


async def test_service_mode_needs_minutes_and_a_reason(door: Door) -> None:
    bea = await door.as_("bea")
    wrong = ({}, {"minutes": "30"}, *({"minutes": m, "reason": "r"} for m in ("0", "9999", "३", "1.5")))
    for fields in wrong:
        assert (await bea.form("/devices/pump-1/service", fields)).status == 400, fields
    assert door.console.commands == []
    assert (await bea.form("/devices/pump-1/service", {"minutes": "45", "reason": "new firmware"})).status == 303
    assert dict(door.console.commands[-1].arguments) == {"minutes": "45", "reason": "new firmware"}


async def test_attest_now_is_one_press_and_comes_back_to_the_ward(door: Door) -> None:
    bea = await door.as_("bea")
    answer = await bea.form("/devices/patch-1/attest", {})
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    assert door.console.commands[-1].verb == "attest"


async def test_break_glass_names_only_functions_that_are_cut(door: Door) -> None:
    ada = await door.as_("admin-1")
    assert (await ada.get("/devices/pump-1/break-glass")).status == 400  # nothing is cut
    door.console.set_level("pump-1", 0, "it was changed")
    fields = {"minutes": "10", "reason": "infusion must go on", "password": PASSWORD}
    assert (await ada.form("/devices/pump-1/break-glass", {**fields, "function": "monitoring"})).status == 400
    assert (await ada.form("/devices/pump-1/break-glass", {**fields, "function": "control"})).status == 303
    assert door.console.commands[-1].argument("function") == "control"


async def test_a_gateway_that_cannot_explain_still_shows_its_device(door: Door) -> None:
    async def gone(device_id: str, function: str | None) -> dict[str, object]:
        raise UnavailableError("the audit log is not there", "wait for the disk")

    door.console.explain = gone  # type: ignore[method-assign]
    answer = await (await door.as_("admin-1")).get("/devices/pump-1")
    assert answer.status == 200
    assert "the audit log is not there" in await answer.text()


async def test_a_mistake_of_ours_is_a_sentence_and_not_a_traceback(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(*_: object) -> object:
        raise ZeroDivisionError("secret detail")

    door.console.house.find = broken  # type: ignore[method-assign, assignment]
    ada = await door.as_("admin-1")
    for path in ("/events", "/api/v1/events"):
        answer = await ada.get(path)
        assert answer.status == 500
        assert "secret detail" not in await answer.text()
    assert "secret detail" in caplog.text  # but the journal has it


async def test_events_are_paged(door: Door) -> None:
    for i in range(150):
        door.console.say("pump-1", "information", f"line {i}")
    ada = await door.as_("admin-1")
    first = await (await ada.get("/events")).text()
    older = re.search(r'href="(/events\?before=\d+)"', first)
    assert older
    second = await (await ada.get(older[1])).text()
    assert "line 149" in first
    assert "line 149" not in second
    assert "line 10<" in second


async def test_static_files_may_be_kept_only_under_the_name_of_their_content(door: Door) -> None:
    page = await (await door.get("/login")).text()
    url = re.search(r'href="(/static/ward\.css\?v=\w+)"', page)
    assert url
    kept = await door.get(url[1])
    assert "immutable" in kept.headers["Cache-Control"]
    assert (await door.get("/static/ward.css")).headers["Cache-Control"] == "no-cache"
    assert (await door.get(url[1], **{"If-None-Match": kept.headers["ETag"]})).status == 304
