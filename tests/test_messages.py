"""Messages that are kept aside, as people see and settle them: by role, by number, with a reason, and on the record first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway import codec
from gateway.cli_messages import lines
from gateway.conductor import Conductor
from gateway.config import Config, Gateway
from gateway.console import Console, Counters
from gateway.engine import Engine
from gateway.errors import InputError, RefusedError
from gateway.grants import Grants
from gateway.machine_clock import MachineClock
from gateway.model.event import OperatorCommand
from gateway.store.database import Database
from gateway.store.journal import Journal
from gateway.store.outbox import Outbox
from gateway.way_out import WayOut
from tests.fakes.ports import FakeAudit, FakeCertifier, FakeEnforcer, FakeKeeper

CLOCK = MachineClock()
ROUTE = "monitor-1/results/10.77.0.100:2576"


class Desk:
    """A console over a real journal."""

    def __init__(self, directory: Path) -> None:
        self.database, self.record = Database(directory / "w.sqlite"), list[str]()
        self.journal = Journal(self.database)
        config, outbox = Config(gateway=Gateway(state=directory)), Outbox(self.database, CLOCK)
        self.way = WayOut(
            config, outbox, self.journal, CLOCK, certificate=lambda d, a: None, told=lambda p: None, vouch=lambda s: None
        )

        async def nobody(*_: Any) -> Any:
            raise AssertionError("nobody is asked")

        self.audit = FakeAudit(self.record)
        conductor = Conductor(
            Engine(), CLOCK, audit=self.audit, enforcer=FakeEnforcer(self.record), grants=Grants(), keeper=FakeKeeper(),
            certifier=FakeCertifier(), attest=nobody, draw_nonce=lambda m: bytes(32),
        )  # fmt: skip
        self.conductor = conductor
        unused: Any = None
        self.console = Console(
            config, CLOCK, conductor, Grants(), inventory=unused, keys=unused, accounts=unused, audit=self.audit, profiles={},
            counters=Counters(), confirm=nobody, bundle=nobody, reassign=nobody, way_out=self.way, ak_sha256=str,
        )  # fmt: skip

    async def command(self, verb: str, role: str = "biomed", **arguments: str) -> str:
        return (await self.console.command(OperatorCommand("ann", role, verb, "", tuple(arguments.items())))).text


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    d = Desk(tmp_path)
    await d.database.open()
    tasks = [asyncio.create_task(d.conductor.decide()), asyncio.create_task(d.conductor.carry())]
    for i in range(3):
        now = CLOCK.now()
        await d.journal.keep(ROUTE, i.to_bytes(16, "big") if not i else bytes([i]) * 16, b"DOE^JANE %d" % i, b"AA", now)
    for kept in await d.journal.take(ROUTE, 0, 2):
        d.journal.settle(kept.id, f"the receiver refused ORU^R01 R{kept.id} (AR)")
    await d.journal.keep(ROUTE, b"x" * 16, b"DOE^JANE 3", b"AA", CLOCK.now())  # a commit later
    await d.journal.keep("monitor-2/results/x", b"x" * 16, b"", b"AA", CLOCK.now())
    yield d
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    await d.way.close()
    await d.journal.close()
    await d.database.close()


async def test_they_are_listed_with_their_routes_and_without_their_content(desk: Desk) -> None:
    view = await desk.console.outbox()
    route = view.routes[0]
    assert (route.device_id, route.waiting, route.aside, route.forgotten) == ("monitor-1", 2, 2, 0)
    assert 0 < route.bytes < route.room and route.oldest_s is not None and route.oldest_s < 60
    assert [(m.id, m.device_id, m.route) for m in view.kept_aside] == [(2, "monitor-1", ROUTE), (1, "monitor-1", ROUTE)]
    plain = codec.to_plain(view)
    text = "\n".join(lines(plain))
    assert f"messages {ROUTE}: 2 waiting" in text and "2 kept aside" in text
    assert "kept aside 1: " in text and "refused ORU^R01 R1 (AR)" in text
    assert "JANE" not in str(plain) + text


async def test_one_is_sent_again_and_one_is_let_go_on_the_record(desk: Desk) -> None:
    assert "is sent again" in await desk.command("retry-message", message="1", reason="the receiver was mended")
    assert "is let go" in await desk.command("discard-message", message="2", reason="printed and signed")
    view = await desk.console.outbox()
    assert (view.routes[0].waiting, view.routes[0].aside, view.kept_aside) == (3, 0, ())
    assert [k.body for k in await desk.journal.take(ROUTE, 4, 9)] == [b"DOE^JANE 0"]
    told = [r for _, r in desk.audit.rows]
    commands = [r.text for r in told if r.kind == "command"]
    assert commands == ["ann: retry-message monitor-1", "ann: discard-message monitor-1"]
    assert [w for w in ("the receiver was mended", "printed and signed") if w not in str([r.body for r in told])] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"message": "9", "reason": "a reason"}, "no message 9"),
        ({"message": "3", "reason": "a reason"}, "no message 3"),  # it waits; nobody pulls it out of the way
        ({"message": "-1", "reason": "a reason"}, "no number"),
        ({"message": "1", "reason": ""}, "needs a reason"),
        ({"message": "1", "reason": "x" * 300}, "needs a reason"),
        ({"reason": "a reason"}, "no number"),
    ],
)
async def test_what_cannot_be_settled_changes_nothing(desk: Desk, arguments: dict[str, str], words: str) -> None:
    for verb in ("retry-message", "discard-message"):
        with pytest.raises(InputError, match=words):
            await desk.command(verb, **arguments)
        with pytest.raises(RefusedError, match="may not"):
            await desk.command(verb, "clinical", **arguments)
    assert len((await desk.console.outbox()).kept_aside) == 2
    assert not [r for _, r in desk.audit.rows if r.kind == "command"]
