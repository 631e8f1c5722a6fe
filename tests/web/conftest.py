"""A ward, people, and the page in front of them: over plain HTTP for the handlers, over TLS for a browser."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from gateway.web.access import COOKIE, csrf_token
from gateway.web.server import Served, build, serve
from gateway.web.tls import self_signed
from tests.fakes.console import FakeAccounts, FakeConsole


@dataclass
class Door:
    """The application behind a test client, and who knocks: ``as_`` starts a session for a person."""

    client: TestClient
    console: FakeConsole
    accounts: FakeAccounts
    session: str = ""

    @property
    def origin(self) -> str:
        return str(self.client.make_url("")).rstrip("/")

    async def as_(self, name: str) -> Door:
        user = await self.accounts.login(name, self.accounts.people[name][0], "test")
        return Door(self.client, self.console, self.accounts, await self.accounts.start_session(user))

    @property
    def csrf(self) -> str:
        return csrf_token(self.session)

    def headers(self, **more: str) -> dict[str, str]:
        cookie = {"Cookie": f"{COOKIE}={self.session}"} if self.session else {}
        return {**cookie, **more}

    async def get(self, path: str, **headers: str) -> ClientResponse:
        return await self.client.get(path, headers=self.headers(**headers), allow_redirects=False)

    async def form(self, path: str, fields: dict[str, str], *, origin: str | None = "", csrf: bool = True) -> ClientResponse:
        """POST a form as the page would; ``origin`` None leaves the header out, any other text replaces it."""
        sent = {"Origin": origin or self.origin} if origin is not None else {}
        body = {**fields, "csrf": self.csrf} if csrf and self.session else fields
        return await self.client.post(path, data=body, headers=self.headers(**sent), allow_redirects=False)

    async def command(self, body: object, **headers: str) -> ClientResponse:
        """POST a command as the page's script would."""
        sent = {"Origin": self.origin, "X-CSRF-Token": self.csrf, **headers}
        return await self.client.post("/api/v1/command", json=body, headers=self.headers(**sent))


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    console, accounts = FakeConsole(), FakeAccounts()
    async with TestClient(TestServer(build(console, accounts))) as client:
        yield Door(client, console, accounts)


@pytest.fixture(scope="session")
def tls_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, certificate, _ = self_signed(["localhost", "127.0.0.1"])
    (folder / "key.pem").write_bytes(key)
    (folder / "certificate.pem").write_bytes(certificate)
    return folder / "certificate.pem", folder / "key.pem"


@pytest.fixture
def tls(tls_files: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*tls_files)
    return context


@dataclass
class Site:
    """The page on a real port with TLS."""

    served: Served
    console: FakeConsole
    accounts: FakeAccounts

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.served.port}"


@pytest.fixture
async def site(tls: ssl.SSLContext) -> AsyncIterator[Site]:
    console, accounts = FakeConsole(), FakeAccounts()
    async with await serve(build(console, accounts), "127.0.0.1", 0, tls) as served:
        yield Site(served, console, accounts)
