"""Files to take away: who may, with what, and what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import TestClient, TestServer

from gateway.errors import InputError
from gateway.web.lifecycle import install
from gateway.web.server import build
from tests.fakes.console import PASSWORD, FakeAccounts, FakeConsole
from tests.web.conftest import Door

PASSPHRASE = "a passphrase that nobody says"


class FakeLife:
    """A backup that shows its passphrase was taken, a support file, a status."""

    def __init__(self) -> None:
        self.made: list[str] = []

    async def backup(self, passphrase: str) -> bytes:
        if len(passphrase) < 12:
            raise InputError("a passphrase has 12 to 1024 characters", "take a sentence nobody else says")
        self.made.append(passphrase)
        return b"wardgate-backup\n" + bytes(8)

    async def left_out(self) -> list[str]:
        return ["who may confirm what may pass"]

    async def support_file(self) -> bytes:
        self.made.append("support")
        return b"\x1f\x8b\x08"

    async def status(self) -> dict[str, object]:
        return {"record": {"first": 1, "last": 9}, "disk": {"free": 5}}


@pytest.fixture
async def life() -> FakeLife:
    return FakeLife()


@pytest.fixture
async def door(life: FakeLife) -> AsyncIterator[Door]:
    console, accounts = FakeConsole(), FakeAccounts()
    app = build(console, accounts)
    install(app, life)
    async with TestClient(TestServer(app)) as client:
        yield Door(client, console, accounts)


def headers(who: Door, **more: str) -> dict[str, str]:
    return who.headers(**{"Origin": who.origin, "X-CSRF-Token": who.csrf, **more})


async def test_an_admin_takes_a_backup_away_with_the_password_once_more(door: Door, life: FakeLife) -> None:
    ada = await door.as_("admin-1")
    body = {"passphrase": PASSPHRASE, "password": PASSWORD}
    answer = await door.client.post("/api/v1/backup", json=body, headers=headers(ada))
    assert answer.status == 200
    assert answer.headers["Content-Disposition"] == 'attachment; filename="wardgate.backup"'
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await answer.read()).startswith(b"wardgate-backup")
    assert life.made == [PASSPHRASE]


@pytest.mark.parametrize(
    ("name", "body", "more", "status"),
    [
        ("bea", {"passphrase": PASSPHRASE, "password": PASSWORD}, {}, 403),
        ("vic", {"passphrase": PASSPHRASE, "password": PASSWORD}, {}, 403),
        ("admin-1", {"passphrase": PASSPHRASE, "password": "wrong"}, {}, 403),
        ("admin-1", {"passphrase": PASSPHRASE}, {}, 403),
        ("admin-1", {"passphrase": "short", "password": PASSWORD}, {}, 400),
        ("admin-1", {"passphrase": 7, "password": PASSWORD}, {}, 400),
        ("admin-1", {"passphrase": PASSPHRASE, "password": PASSWORD, "path": "/etc/shadow"}, {}, 400),
        ("admin-1", {"passphrase": "x" * 2000, "password": PASSWORD}, {}, 400),
        ("admin-1", {"passphrase": PASSPHRASE, "password": PASSWORD}, {"X-CSRF-Token": "x"}, 403),
        ("admin-1", {"passphrase": PASSPHRASE, "password": PASSWORD}, {"Origin": "https://evil.example"}, 403),
    ],
)
async def test_nobody_else_and_nothing_else_does(
    door: Door, life: FakeLife, name: str, body: dict[str, object], more: dict[str, str], status: int
) -> None:
    who = await door.as_(name)
    answer = await door.client.post("/api/v1/backup", json=body, headers=headers(who, **more))
    told = await answer.json()
    assert (answer.status, bool(told["error"]), bool(told["remedy"])) == (status, True, True)
    assert life.made == []


async def test_operators_fetch_the_support_file_and_everyone_sees_how_full_it_is(door: Door, life: FakeLife) -> None:
    for name, status in (("vic", 403), ("bea", 200), ("admin-1", 200)):
        who = await door.as_(name)
        answer = await door.client.post("/api/v1/support-file", headers=headers(who))
        assert answer.status == status, name
        assert (await who.get("/api/v1/status")).status == 200
    assert life.made == ["support", "support"]
    assert answer.content_type == "application/gzip"
    assert (await door.client.post("/api/v1/support-file", headers={"Origin": door.origin})).status == 401
    assert (await door.get("/api/v1/status")).status == 401
    bea = await door.as_("bea")
    assert (await door.client.post("/api/v1/support-file", headers=headers(bea, **{"X-CSRF-Token": ""}))).status == 403
