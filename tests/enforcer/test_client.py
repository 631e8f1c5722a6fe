"""The daemon's side of the enforcer's socket, against one that closes connections when it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.enforcer.client import EnforcerClient
from gateway.enforcer.wire import REQUEST_MAX, Framer, frame, parse_json
from gateway.errors import UnavailableError
from gateway.model.decision import Lease
from gateway.model.instant import Instant, TimeQuality
from gateway.model.level import TrustLevel

ADDRESS = "10.77.0.2"


class Closing:
    """Answers, but closes this many connections at their first request instead."""

    def __init__(self, path: Path, closes: int) -> None:
        self._path, self._closes = path, closes
        self.heard: list[dict[str, Any]] = []

    async def __aenter__(self) -> Closing:
        self._server = await asyncio.start_unix_server(self._serve, str(self._path))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        framer = Framer(REQUEST_MAX)
        while data := await reader.read(1 << 16):
            for body in framer.feed(data):
                if self._closes:
                    self._closes -= 1
                    writer.close()
                    return
                self.heard.append(parse_json(body))
                writer.write(frame({"ok": True}))
        writer.close()


def lease(address: str = ADDRESS) -> Lease:
    return Lease("pump-1", (address,), TrustLevel.STANDARD, Instant("b", 20 * 10**9, 0, TimeQuality.RTC))


def told(heard: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    return [(h["do"], h.get("addresses") or [a for one in h["leases"] for a in one["addresses"]]) for h in heard]


@pytest.mark.parametrize("act", ["grant", "drop"])
async def test_what_was_under_way_on_a_connection_that_is_closed_is_asked_once_more(tmp_path: Path, act: str) -> None:
    async with Closing(tmp_path / "e.sock", closes=1) as enforcer:
        client = EnforcerClient(tmp_path / "e.sock", lambda: 0)
        try:
            await (client.grant([lease()]) if act == "grant" else client.drop([ADDRESS]))
        finally:
            await client.close()
    assert told(enforcer.heard) == [(act, [ADDRESS])]


@pytest.mark.parametrize("act", ["grant", "drop"])
async def test_and_no_more_than_once(tmp_path: Path, act: str) -> None:
    async with Closing(tmp_path / "e.sock", closes=3) as enforcer:
        client = EnforcerClient(tmp_path / "e.sock", lambda: 0)
        try:
            with pytest.raises(UnavailableError, match="closed the connection"):
                await (client.grant([lease()]) if act == "grant" else client.drop([ADDRESS]))
        finally:
            await client.close()
    assert enforcer.heard == []


async def test_a_grant_that_is_asked_again_leaves_out_what_was_dropped_meanwhile(tmp_path: Path) -> None:
    """The enforcer went away with the grant; the drop came before it was asked again, and stays."""
    async with Closing(tmp_path / "e.sock", closes=1) as enforcer:
        client = EnforcerClient(tmp_path / "e.sock", lambda: 0)
        try:
            granting = asyncio.create_task(client.grant([lease(), lease("10.77.0.3")]))
            while client._link is None or not client._link._pending:  # noqa: ASYNC110 - in the very turn in which it is under way
                await asyncio.sleep(0)
            with pytest.raises(UnavailableError):
                while True:  # until its connection is gone
                    client.drop_now([ADDRESS])
                    await asyncio.sleep(0)
            await granting
            await client.drop([ADDRESS])
        finally:
            await client.close()
    assert told(enforcer.heard) == [("grant", ["10.77.0.3"]), ("drop", [ADDRESS])]
