"""Every route × everyone who may knock: nobody, each role as a person, each role as a token, a stranger on the control socket.

The table must name every route of the applications, or the test fails: a route that nobody thought about is a hole.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from gateway.web import console_only
from gateway.web.contract import entry_of
from gateway.web.server import build, build_control
from tests.fakes.console import FakeAccounts, FakeConsole
from tests.web.conftest import Door

PEOPLE = {"vic": "viewer", "cleo": "clinical", "bea": "biomed", "admin-1": "admin"}
ROLES = ("viewer", "clinical", "biomed", "admin")
CARE, OPERATORS, ADMIN = ROLES[1:], ROLES[2:], ROLES[3:]
TOKENS = ("metrics", *ROLES)
NOBODY = "nobody"


@dataclass(frozen=True)
class Row:
    """A route, one request that it understands, and whom it lets in: people's roles, tokens' roles, and whether nobody is fine."""

    method: str
    route: str
    people: tuple[str, ...] = ROLES
    tokens: tuple[str, ...] = ROLES
    path: str = ""
    json: object = None
    form: dict[str, str] | None = None
    open: bool = False


_TOKEN = {"name": "new", "role": "viewer", "days": 3}
API = (
    Row("GET", "/api/v1/health", open=True, tokens=TOKENS),
    Row("GET", "/api/v1/openapi.json"),
    Row("GET", "/api/v1/session", tokens=TOKENS),
    Row("GET", "/api/v1/view"),
    Row("GET", "/api/v1/events"),
    Row("GET", "/api/v1/events/stream"),
    Row("GET", "/api/v1/outbox"),
    Row("POST", "/api/v1/command", CARE, CARE, json={"verb": "attest", "device_id": "pump-1"}),
    Row("GET", "/api/v1/devices/{id}/bundle", path="/api/v1/devices/pump-1/bundle"),
    Row("GET", "/api/v1/explain/{id}", path="/api/v1/explain/pump-1"),
    Row("POST", "/api/v1/view-link", ADMIN, ()),
    Row("GET", "/api/v1/tokens", ADMIN, ADMIN),
    Row("POST", "/api/v1/tokens", ADMIN, (), json=_TOKEN),
    Row("DELETE", "/api/v1/tokens/{name}", ADMIN, (), path="/api/v1/tokens/old"),
    Row("GET", "/metrics", tokens=TOKENS),
    Row("GET", "/api/v1/policy"),
    Row("POST", "/api/v1/policy/apply", OPERATORS, (), json={"profile": "x", "prepare": True}),
    Row("POST", "/api/v1/policy/confirm", OPERATORS, (), json={"more": 1}),
    Row("POST", "/api/v1/policy/rollback", OPERATORS, (), json={"more": 1}),
    Row("GET", "/api/v1/references", OPERATORS, OPERATORS),
    Row("POST", "/api/v1/references/import", OPERATORS, (), json={"endorsement": "{}"}),
    Row("POST", "/api/v1/references/rollback", OPERATORS, (), json={}),
    Row("GET", "/api/v1/cache", OPERATORS, OPERATORS),
    Row("POST", "/api/v1/cache/import", OPERATORS, (), json={"file": "AAAA"}),
    Row("GET", "/api/v1/devices/{id}/learned", OPERATORS, OPERATORS, path="/api/v1/devices/pump-1/learned"),
    Row("POST", "/api/v1/devices/{id}/assign", OPERATORS, (), path="/api/v1/devices/pump-1/assign", json={"more": 1}),
    Row("GET", "/api/v1/devices/{id}", path="/api/v1/devices/pump-1"),
    Row("GET", "/api/v1/devices/{id}/label", path="/api/v1/devices/pump-1/label"),
    Row("GET", "/api/v1/devices/{id}/levels", path="/api/v1/devices/pump-1/levels"),
    Row("GET", "/api/v1/devices/{id}/verify", path="/api/v1/devices/pump-1/verify"),
    Row("POST", "/api/v1/devices/{id}/verify", path="/api/v1/devices/pump-1/verify", json={"more": 1}),
    Row("GET", "/api/v1/found"),
    Row("GET", "/api/v1/profiles"),
    Row("GET", "/api/v1/events.csv"),
    Row("GET", "/api/v1/events.jsonl"),
    Row("GET", "/api/v1/network"),
    Row("GET", "/api/v1/identity"),
    Row("GET", "/api/v1/offline"),
    Row("GET", "/api/v1/record"),
    Row("GET", "/api/v1/users", ADMIN, ()),
    Row("POST", "/api/v1/users", ADMIN, (), json={"more": 1}),
    Row("POST", "/api/v1/users/{name}/role", ADMIN, (), path="/api/v1/users/vic/role", json={"more": 1}),
    Row("POST", "/api/v1/users/{name}/password", ADMIN, (), path="/api/v1/users/vic/password", json={"more": 1}),
    Row("POST", "/api/v1/users/{name}/remove", ADMIN, (), path="/api/v1/users/vic/remove", json={"more": 1}),
    Row("POST", "/api/v1/password", tokens=(), json={"more": 1}),
    Row("POST", "/api/v1/outbox/{id}/retry", OPERATORS, (), path="/api/v1/outbox/1/retry", json={}),
    Row("POST", "/api/v1/outbox/{id}/discard", OPERATORS, (), path="/api/v1/outbox/1/discard", json={}),
)
PAGES = (
    Row("GET", "/", tokens=()),
    Row("GET", "/live", tokens=()),
    Row("GET", "/events", tokens=()),
    Row("GET", "/devices/{id}", tokens=(), path="/devices/pump-1"),
    Row("GET", "/devices/{id}/{verb}", OPERATORS, (), path="/devices/pump-1/service"),
    Row("POST", "/devices/{id}/{verb}", CARE, (), path="/devices/pump-1/attest", form={}),
    Row("GET", "/devices/{id}/label", tokens=(), path="/devices/pump-1/label"),
    Row("POST", "/devices/{id}/verify", tokens=(), path="/devices/pump-1/verify", form={}),
    Row("GET", "/add", tokens=()),
    Row("GET", "/add/{key}", OPERATORS, (), path="/add/other"),
    Row("POST", "/add/{key}", OPERATORS, (), path="/add/other", form={}),
    Row("GET", "/network", tokens=()),
    Row("GET", "/gateway", tokens=()),
    Row("GET", "/gateway/password", tokens=()),
    Row("POST", "/gateway/password", tokens=(), form={}),
    *(Row(m, "/gateway/people/add", ADMIN, (), form={}) for m in ("GET", "POST")),
    *(
        Row(m, f"/gateway/people/{{name}}/{verb}", ADMIN, (), path=f"/gateway/people/vic/{verb}", form={})
        for m in ("GET", "POST")
        for verb in ("role", "password", "remove")
    ),
    *(Row(m, "/gateway/tokens/add", ADMIN, (), form={}) for m in ("GET", "POST")),
    *(Row(m, "/gateway/tokens/{name}/revoke", ADMIN, (), path="/gateway/tokens/old/revoke", form={}) for m in ("GET", "POST")),
    *(Row(m, f"/gateway/policy/{verb}", OPERATORS, (), form={}) for m in ("GET", "POST") for verb in ("confirm", "rollback")),
    *(
        Row(m, f"/gateway/messages/{{id}}/{verb}", OPERATORS, (), path=f"/gateway/messages/1/{verb}", form={})
        for m in ("GET", "POST")
        for verb in ("retry", "discard")
    ),
    *(Row(m, "/gateway/acknowledge", CARE, (), form={}) for m in ("GET", "POST")),
    Row("POST", "/gateway/outbox/{id}/retry", OPERATORS, (), path="/gateway/outbox/1/retry", form={}),
    *(Row(m, "/gateway/outbox/{id}/discard", OPERATORS, (), path="/gateway/outbox/1/discard", form={}) for m in ("GET", "POST")),
    Row("GET", "/login", tokens=(), open=True),
    Row("POST", "/login", tokens=(), open=True, form={"user": "", "password": ""}),
    Row("POST", "/logout", tokens=(), form={}),
    Row("GET", "/claim", tokens=(), open=True),
    Row("POST", "/claim", tokens=(), open=True, form={"code": ""}),
    Row("GET", "/view/{token}", tokens=(), open=True, path="/view/spent"),
    Row("GET", "/static/{name}", tokens=(), open=True, path="/static/wardgate.css"),
)
CONSOLE_ONLY = ("/api/v1/claim", "/api/v1/users", "/api/v1/outbox/retry")


def _routes(app: web.Application) -> set[tuple[str, str]]:
    return {(r.method, r.resource.canonical) for r in app.router.routes() if r.resource is not None}


def test_the_table_names_every_route_and_no_other() -> None:
    table = {(r.method, r.route) for r in (*API, *PAGES)}
    there = {(m, p) for m, p in _routes(build(FakeConsole(), FakeAccounts())) if m != "HEAD"}
    assert there == table


def test_what_answers_a_head_answers_a_get_by_the_same_guard() -> None:
    app = build(FakeConsole(), FakeAccounts())
    handlers = {(r.method, r.resource.canonical): r.handler for r in app.router.routes() if r.resource is not None}
    for (method, path), handler in handlers.items():
        if method == "HEAD":
            assert handler is handlers["GET", path], path


def test_every_route_of_the_api_is_a_table_entry() -> None:
    for app in (build(FakeConsole(), FakeAccounts()), _control()):
        for route in app.router.routes():
            path = route.resource.canonical if route.resource else ""
            if path.startswith(("/api/", "/metrics")):
                entry = entry_of(route)
                assert entry is not None, f"{path} has no entry in a TABLE"
                assert entry.template == path
                assert entry.changes or route.method in ("GET", "HEAD"), f"{route.method} {path} needs `changes`"


def _control() -> web.Application:
    app = build_control(FakeConsole(), FakeAccounts())
    app.add_routes(console_only.routes())
    return app


async def _knock(door: Door, row: Row, headers: dict[str, str], csrf: str) -> ClientResponse:
    body: dict[str, object] = {}
    if row.json is not None:
        body["json"] = row.json
    if row.form is not None:
        body["data"] = {**row.form, "csrf": csrf}
    return await door.client.request(row.method, row.path or row.route, headers=headers, allow_redirects=False, **body)


def _refused(answer: ClientResponse) -> bool:
    """By who asks; a wrong password or a spent link is told from it by the words."""
    if answer.status == 303:
        return answer.headers["Location"].startswith("/login")
    return answer.status in (401, 403)


def _own_refusal(row: Row) -> bool:
    return row.route == "/view/{token}"  # a spent link is refused to everyone alike


@pytest.mark.parametrize("row", [*API, *PAGES], ids=lambda r: f"{r.method} {r.route}")
async def test_each_route_lets_in_whom_the_table_says(door: Door, row: Row) -> None:
    origin = {"Origin": door.origin}
    answer = await _knock(door, row, origin, "")
    answer.close()
    if not _own_refusal(row):
        assert _refused(answer) is not row.open, NOBODY
    assert answer.status != 500
    for name, role in PEOPLE.items():
        who = await door.as_(name)
        answer = await _knock(door, row, who.headers(**origin, **{"X-CSRF-Token": who.csrf}), who.csrf)
        answer.close()
        allowed = role in row.people
        if row.route == "/logout":
            assert (answer.status, answer.headers["Location"]) == (303, "/login"), role
        elif not _own_refusal(row):
            assert _refused(answer) is not allowed, f"{role}: {answer.status}"
            assert allowed or answer.status == 403, f"{role}: {answer.status}"


@pytest.mark.parametrize("row", [*API, *PAGES], ids=lambda r: f"{r.method} {r.route}")
async def test_each_route_lets_in_those_tokens_that_the_table_says(door: Door, row: Row) -> None:
    admin = await door.accounts.login("admin-1", door.accounts.people["admin-1"][0], "test")
    for role in TOKENS:
        secret = await door.accounts.tokens.add(admin, f"t-{role}", role, 1)
        answer = await _knock(door, row, {"Authorization": f"Bearer {secret}"}, "")
        answer.close()
        allowed = role in row.tokens
        assert _refused(answer) is not allowed, f"{role}: {answer.status}"
        assert allowed or answer.status == 403, f"{role}: {answer.status}"
        if allowed and row.method != "GET":
            assert door.accounts.tokens.uses[-1].startswith(f"token:t-{role}: {row.method}"), "its use is written down"


async def test_a_tokens_header_counts_and_the_cookie_beside_it_does_not(door: Door) -> None:
    ada = await door.as_("admin-1")
    answer = await ada.get("/api/v1/view", Authorization="Bearer wgt_nonsense")
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    for wrong in ("Basic dXNlcjpwYXNz", "Bearer", "Bearer ", "Bearer a b", "Bearer \xff", "bearer", "Bearer " + "a" * 200):
        assert (await ada.get("/api/v1/view", Authorization=wrong)).status == 401, wrong


async def test_too_many_wrong_tokens_wait_and_people_do_not(door: Door) -> None:
    for _ in range(3):
        assert (await door.get("/api/v1/view", Authorization="Bearer wrong")).status == 401
    late = await door.get("/api/v1/view", Authorization="Bearer wrong")
    assert (late.status, late.headers["Retry-After"]) == (429, "2")
    ada = await door.as_("admin-1")
    assert (await ada.get("/api/v1/view")).status == 200


async def test_a_stranger_gets_nothing_at_all_from_the_control_sockets_application() -> None:
    """Over TCP there is no peer's uid: everyone is a stranger."""
    app = _control()
    paths = {r.resource.canonical for r in app.router.routes() if r.resource}
    assert set(CONSOLE_ONLY) <= paths
    assert not any(p in paths for p in ("/", "/login", "/claim", "/view/{token}"))
    async with TestClient(TestServer(app)) as client:
        for method, path in sorted(_routes(app)):
            answer = await client.request(method, path.replace("{id}", "pump-1").replace("{name}", "x"))
            assert answer.status == 403, f"{method} {path}"


_CHANGES = [r for r in (*API, *PAGES) if r.method != "GET"]
_BEFORE_A_SESSION = ("/login", "/claim")  # nobody has a CSRF token yet: their Origin alone is checked


@pytest.mark.parametrize("row", _CHANGES, ids=lambda r: f"{r.method} {r.route}")
async def test_what_changes_something_comes_from_this_page_and_from_this_session(door: Door, row: Row) -> None:
    ada, bea = await door.as_("admin-1"), await door.as_("bea")
    own = {"Origin": door.origin}
    for origin in (
        {},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://"},
    ):
        answer = await _knock(door, row, ada.headers(**origin, **{"X-CSRF-Token": ada.csrf}), ada.csrf)
        assert answer.status == 403, origin
    if row.route not in _BEFORE_A_SESSION:
        for csrf in ("", bea.csrf, ada.csrf[:-1], "\u00e4"):
            sent = {} if csrf == "\u00e4" else {"X-CSRF-Token": csrf}
            answer = await _knock(door, row, ada.headers(**own, **sent), csrf)
            assert answer.status == 403, csrf
    assert door.console.commands == []
    assert door.accounts.tokens.known == {}
    assert door.accounts.links == set()
    assert len(door.accounts.sessions) == 2, "nobody was logged in or out"


@pytest.mark.parametrize("row", [r for r in (*API, *PAGES) if not r.open], ids=lambda r: f"{r.method} {r.route}")
async def test_a_session_that_has_ended_opens_nothing(door: Door, row: Row) -> None:
    ada = await door.as_("admin-1")
    door.accounts.sessions.clear()  # idle for too long, or the role changed; tests/store has the times
    answer = await _knock(door, row, ada.headers(Origin=door.origin, **{"X-CSRF-Token": ada.csrf}), ada.csrf)
    answer.close()
    if row.route.startswith(("/api/", "/live", "/metrics")):
        assert answer.status == 401
    else:
        assert answer.status == 303
        assert answer.headers["Location"].startswith("/login")
    assert door.console.commands == []


async def test_a_live_view_ends_with_its_session(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.web.stream._CHECK_S", 0.1)
    for path, name in (("/live", "vic"), ("/api/v1/events/stream", "bea")):
        answer = await (await door.as_(name)).get(path)
        assert answer.status == 200
        door.accounts.sessions.clear()
        async with asyncio.timeout(10):
            while await answer.content.readline():
                pass


async def test_a_live_view_ends_with_its_token(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.web.stream._CHECK_S", 0.1)
    secret = await door.accounts.tokens.add(
        await door.accounts.login("admin-1", door.accounts.people["admin-1"][0], "t"), "t", "viewer", 1
    )
    answer = await door.get("/api/v1/events/stream", Authorization=f"Bearer {secret}")
    assert answer.status == 200
    door.accounts.tokens.known.clear()
    async with asyncio.timeout(10):
        while await answer.content.readline():
            pass
