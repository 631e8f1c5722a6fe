"""Who gets in, and what a session is worth."""

from __future__ import annotations

import pytest

from gateway.web.access import COOKIE
from tests.fakes.console import CLAIM, PASSWORD, FakeAccounts
from tests.web.conftest import Door


async def test_nobody_sees_the_ward_without_logging_in(door: Door) -> None:
    page = await door.get("/")
    assert (page.status, page.headers["Location"]) == (303, "/login")
    assert (await door.get("/devices/pump-1")).headers["Location"] == "/login?next=/devices/pump-1"
    for path in ("/api/v1/view", "/api/v1/events", "/api/v1/events/stream", "/live", "/api/v1/devices/pump-1/bundle"):
        answer = await door.get(path)
        assert answer.status == 401, path
        assert (await answer.json())["remedy"]


async def test_a_login_sets_a_cookie_that_scripts_and_other_sites_cannot_use(door: Door) -> None:
    answer = await door.form("/login", {"user": "admin-1", "password": PASSWORD})
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    for word in ("Secure", "HttpOnly", "SameSite=Strict", "Path=/"):
        assert word in cookie
    assert "Domain" not in cookie
    token = cookie.split("=", 1)[1].split(";")[0]
    page = await Door(door.client, door.console, door.accounts, token).get("/")
    assert page.status == 200
    assert "Infusion pump, bed 4" in await page.text()


async def test_a_wrong_password_is_refused_with_a_remedy_and_too_many_with_a_time(door: Door) -> None:
    for _ in range(3):
        answer = await door.form("/login", {"user": "admin-1", "password": "wrong"})
        assert answer.status == 403
        assert "do not fit" in await answer.text()
    answer = await door.form("/login", {"user": "admin-1", "password": PASSWORD})
    assert "Set-Cookie" not in answer.headers
    assert "try again in 30 s" in await answer.text()


@pytest.mark.parametrize(
    ("next_", "location"),
    [("/events", "/events"), ("/devices/pump-1", "/devices/pump-1"), ("//evil.example/", "/"), ("https://evil.example", "/"),
     ("/\\evil", "/"), ("/devices/../x", "/"), ("", "/")],
)  # fmt: skip
async def test_a_login_leads_only_to_our_own_pages(door: Door, next_: str, location: str) -> None:
    answer = await door.form("/login", {"user": "admin-1", "password": PASSWORD, "next": next_})
    assert answer.headers["Location"] == location


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://127.0.0.1"])
async def test_a_post_from_elsewhere_is_refused_even_without_a_session(door: Door, origin: str | None) -> None:
    answer = await door.form("/login", {"user": "admin-1", "password": PASSWORD}, origin=origin)
    assert answer.status == 403
    assert "Set-Cookie" not in answer.headers


async def test_a_form_without_the_sessions_own_token_changes_nothing(door: Door) -> None:
    ada, bea = await door.as_("admin-1"), await door.as_("bea")
    without = await ada.form("/devices/pump-1/attest", {}, csrf=False)
    foreign = await ada.form("/devices/pump-1/attest", {"csrf": bea.csrf}, csrf=False)
    assert (without.status, foreign.status) == (403, 403)
    assert (await ada.command({"verb": "attest", "device_id": "pump-1"}, **{"X-CSRF-Token": bea.csrf})).status == 403
    assert (await ada.command({"verb": "attest", "device_id": "pump-1"}, Origin="https://evil.example")).status == 403
    assert door.console.commands == []


async def test_a_logout_ends_the_session_everywhere(door: Door) -> None:
    ada = await door.as_("admin-1")
    answer = await ada.form("/logout", {})
    assert (answer.status, answer.headers["Location"]) == (303, "/login")
    assert (await ada.get("/api/v1/view")).status == 401


async def test_the_first_person_claims_the_gateway_once(door: Door) -> None:
    fresh = FakeAccounts(claimed=False)
    door.accounts.__dict__.update(fresh.__dict__)
    assert (await door.get("/login")).headers["Location"] == "/claim"
    fields = {"code": "WRONG-ONE", "user": "eve", "password": PASSWORD, "again": PASSWORD}
    wrong = await door.form("/claim", fields)
    assert wrong.status == 403
    assert "4 tries are left" in await wrong.text()
    unequal = await door.form("/claim", {**fields, "code": CLAIM, "again": PASSWORD + "!"})
    assert unequal.status == 400
    short = await door.form("/claim", {**fields, "code": CLAIM, "password": "short", "again": "short"})
    assert short.status == 400
    right = await door.form("/claim", {**fields, "code": CLAIM})
    assert right.status == 303
    assert COOKIE in right.headers["Set-Cookie"]
    assert (await door.form("/claim", {**fields, "code": CLAIM})).status == 403


async def test_what_was_typed_comes_back_escaped_and_passwords_never(door: Door) -> None:
    answer = await door.form("/login", {"user": '"><script>x</script>', "password": "hunter2hunter2"})
    text = await answer.text()
    assert "<script>x" not in text
    assert "hunter2" not in text


async def test_a_view_link_opens_once_and_only_to_look(door: Door) -> None:
    link = f"/view/{await door.accounts.one_time_view()}"
    assert (await door.client.head(link)).status == 405  # a preview must not spend it
    first = await door.get(link)
    assert first.status == 200
    assert 'http-equiv="refresh" content="0; url=/"' in await first.text()
    token = first.headers["Set-Cookie"].split("=", 1)[1].split(";")[0]
    viewer = Door(door.client, door.console, door.accounts, token)
    page = await (await viewer.get("/")).text()
    assert "Infusion pump" in page
    assert "Attest now" not in page
    assert (await viewer.form("/devices/pump-1/attest", {})).status == 403
    assert (await viewer.get("/devices/pump-1/service")).status == 403
    assert (await viewer.command({"verb": "attest", "device_id": "pump-1"})).status == 403
    assert door.console.commands == []
    assert (await door.get(link)).status == 403


async def test_a_viewer_cannot_make_links_and_an_admin_can(door: Door) -> None:
    for name, status in (("vic", 403), ("bea", 403), ("admin-1", 200)):
        who = await door.as_(name)
        headers = who.headers(Origin=who.origin, **{"X-CSRF-Token": who.csrf})
        assert (await door.client.post("/api/v1/view-link", headers=headers)).status == status, name
