"""The clock says 1970 at the first login: claim, login and sessions work, the page's certificate is of today, and it is said.

Everything here is the product's own: accounts in SQLite, the machine's clock with another wall time, TLS on a real port.
"""

from __future__ import annotations

import datetime
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import ClientSession, CookieJar, TCPConnector
from cryptography import x509

from gateway import machine_clock
from gateway.config import Config
from gateway.doors import Doors
from gateway.machine_clock import BUILD_UTC_NS, MachineClock
from gateway.people import People
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from gateway.web.access import COOKIE
from tests.fakes.console import FakeConsole
from tests.web.test_lifecycle import FakeLife

PASSWORD = "a sentence to remember"


@dataclass
class Wall:
    """The machine's wall clock, which this test sets; boot time is the machine's own."""

    ns: int = 0  # 1 January 1970

    def time_ns(self) -> int:
        return self.ns


@dataclass
class Keys:
    """What the doors need of the attester: a place for the hash of their key."""

    registered: list[bytes] = field(default_factory=list)

    def register_software_key(self, purpose: str, spki: bytes) -> None:
        self.registered.append(spki)


class Gateway:
    """People and doors on a machine without a time."""

    def __init__(self, directory: Path, wall: Wall) -> None:
        self.wall, self.clock, self.keys = wall, MachineClock(), Keys()
        self.database = Database(directory / "w.sqlite")
        self.audit = AuditLog(self.database)
        self.people = People(self.database, self.clock, self.audit)

        async def known(_: Any) -> dict[str, Any]:
            return {"ok": True}

        self.people.ask_policy = known
        console = FakeConsole()
        quality = console.view

        def view() -> Any:
            from dataclasses import replace

            now = self.clock.now()
            seen = quality()
            return replace(
                seen, gateway=replace(seen.gateway, time_quality=now.quality.name.lower(), time_utc=now.utc().isoformat())
            )

        console.view = view  # type: ignore[method-assign]
        config = cast(Config, SimpleNamespace(web=SimpleNamespace(names=("localhost", "127.0.0.1"), host="127.0.0.1", port=0),
                                              gateway=SimpleNamespace(run=directory)))  # fmt: skip
        self.doors = Doors(config, console, self.people, cast(Any, self.keys), self.clock, FakeLife())

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.doors._open[1].port}"

    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(
            ssl.get_server_certificate(("127.0.0.1", self.doors._open[1].port)).encode()  # a new connection
        )


@pytest.fixture
async def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    wall = Wall()
    fake = SimpleNamespace(time_ns=wall.time_ns, clock_gettime_ns=time.clock_gettime_ns, CLOCK_BOOTTIME=time.CLOCK_BOOTTIME)
    monkeypatch.setattr(machine_clock, "time", fake)
    made = Gateway(tmp_path, wall)
    await made.database.open()
    await made.doors.open()
    yield made
    for served in made.doors._open:
        await served.close()
    made.people.close()
    await made.database.close()


def browser() -> ClientSession:
    return ClientSession(connector=TCPConnector(ssl=False), cookie_jar=CookieJar(unsafe=True))


async def login_page(url: str) -> str:
    async with browser() as somebody:
        return await (await somebody.get(f"{url}/login")).text()


async def test_claim_login_and_session_work_at_1970_and_go_on_when_the_clock_is_set(gateway: Gateway) -> None:
    import asyncio

    code, url = await gateway.people.new_claim(), gateway.url
    async with browser() as b:
        form = await b.get(f"{url}/claim")
        assert "clock is not set" in await form.text()
        fields = {"code": code, "user": "ada", "password": PASSWORD, "again": PASSWORD}
        claimed = await b.post(f"{url}/claim", data=fields, headers={"Origin": url}, allow_redirects=False)
        assert (claimed.status, claimed.headers["Location"]) == (303, "/")
        assert "expires" not in claimed.headers["Set-Cookie"].lower(), "a browser with another clock must not drop it"
        session = claimed.cookies[COOKIE].value
        b.cookie_jar.clear()
        wrong = await b.post(f"{url}/login", data={"user": "ada", "password": "wrong"}, headers={"Origin": url})
        assert wrong.status == 403
        assert "init --new-claim" in await wrong.text() and "ask an admin" in await wrong.text()
        entered = await b.post(
            f"{url}/login", data={"user": "ada", "password": PASSWORD}, headers={"Origin": url}, allow_redirects=False
        )
        assert entered.status == 303
        assert "clock is not set" in await login_page(url)
        gateway.wall.ns = BUILD_UTC_NS + 90 * 86_400 * 10**9  # a time server was reached
        for token in (session, entered.cookies[COOKIE].value):
            assert (await gateway.people.session(token)) is not None, "sessions run on boot time"
        page = await b.get(f"{url}/api/v1/view", headers={"Cookie": f"{COOKIE}={session}"})
        assert page.status == 200
        assert "clock is not set" not in await login_page(url)
    await asyncio.sleep(0)
    head = await gateway.audit.verify()
    assert head.sequence >= 4


async def test_the_pages_certificate_begins_with_this_version_and_is_renewed_when_its_time_is_over(gateway: Gateway) -> None:
    import asyncio

    first = await asyncio.to_thread(gateway.certificate)
    floor = datetime.datetime.fromtimestamp(BUILD_UTC_NS / 1e9, tz=datetime.UTC)
    assert first.not_valid_before_utc <= floor < first.not_valid_after_utc
    stopping = asyncio.Event()
    gateway.wall.ns = BUILD_UTC_NS + 400 * 86_400 * 10**9
    import gateway.doors as doors

    doors_look = doors._LOOK_S
    doors._LOOK_S = 0.02
    task = asyncio.create_task(gateway.doors.until(stopping))
    try:
        async with asyncio.timeout(5):
            while len(gateway.keys.registered) < 2:  # noqa: ASYNC110 - a test polls, bounded above
                await asyncio.sleep(0.01)
        second = await asyncio.to_thread(gateway.certificate)
        assert second.not_valid_before_utc > first.not_valid_before_utc
        assert second.not_valid_after_utc > gateway.clock.now().utc()
    finally:
        doors._LOOK_S = doors_look
        stopping.set()
        await task


async def test_a_claim_code_from_before_a_power_cut_is_void_without_a_clock(gateway: Gateway) -> None:
    from gateway.errors import RefusedError

    code = await gateway.people.new_claim()
    gateway.clock._boot_id = "the next boot"
    with pytest.raises(RefusedError, match="expired") as told:
        await gateway.people.claim(code, "ada", PASSWORD)
    assert "init --new-claim" in told.value.remedy
