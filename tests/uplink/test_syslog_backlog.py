"""How far the copy of the record is behind: counted from what a server confirmed, over packed and unpacked lines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.machine_clock import MachineClock
from gateway.model.effect import Record
from gateway.store import audit as audit_log
from gateway.store.audit import AuditLog, Keeping
from gateway.store.positions import AuditSpool
from gateway.uplink import syslog
from gateway.uplink.rfc5424 import Sender
from gateway.uplink.syslog import SyslogSender
from hil.broker import issue
from tests.uplink.conftest import free_port, until
from tests.uplink.test_syslog import Receiver, running, say, settings_for

CLOCK = MachineClock()
AGE_S = 3600


async def an_hour_ago(audit: AuditLog, lines: int) -> None:
    then = CLOCK.now()
    then = replace(then, utc_ns=then.utc_ns - AGE_S * 10**9)
    await audit.append([(then, r) for n in range(lines) for r in (Record("event", "", "x"), Record("decision", "p", f"{n}"))])


async def test_lines_for_people_wait_whether_they_are_packed_or_not(audit: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await audit.behind(0) == (0, None)
    await an_hour_ago(audit, 30)
    keeping = Keeping(live=10, lines=20)
    while await audit.close_segment(keeping, CLOCK.now()):
        pass
    assert (await audit.extent()).packed_bytes
    await say(audit, 1, 5)
    number, oldest = await audit.behind(0)
    shown = list(await audit.since(0))
    assert number == len(shown) == 35
    assert AGE_S - 1 < (CLOCK.now().utc_ns - oldest) / 1e9 < AGE_S + 60
    for after in (shown[3].sequence, shown[28].sequence, shown[32].sequence):
        assert (await audit.behind(after))[0] == len(await audit.since(after))
    assert await audit.behind(shown[-1].sequence) == (0, None)
    monkeypatch.setattr(audit_log, "MOST_BEHIND", 7)
    assert (await audit.behind(0))[0] == 7


async def test_the_sender_says_how_far_behind_it_is(ca: Path, audit: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CONFIRM_S": 0.3, "_LOOK_S": 0.05, "_FIRST_S": 0.05, "_DOWN_S": 0.1, "_END_S": 0.5}.items():
        monkeypatch.setattr(syslog, name, value)
    issue(ca, ca, "syslog", names=("127.0.0.1",))
    await an_hour_ago(audit, 4)
    spool = AuditSpool(audit.database, audit, "syslog")  # type: ignore[attr-defined]
    idle = SyslogSender(settings_for(ca, free_port()), Sender("gw", "1"), spool, CLOCK, told=lambda _: None)
    seen = await idle.look()
    assert (seen.state, seen.up, seen.lines) == ("not connected yet", False, 4)
    assert AGE_S - 1 < (seen.oldest_s or 0) < AGE_S + 60
    async with Receiver(ca) as there, running(settings_for(ca, there.port), audit) as run:
        await until(lambda: run.sender.delivered == 8, "all", 10)
        await until(lambda: run.told, "told", 10)
        seen = await run.sender.look()
        assert (seen.up, seen.lines, seen.oldest_s) == (True, 0, None)
        assert json.dumps(seen.state) == '"copies the audit log to 127.0.0.1"'
    await say(audit, 1, 2)
    assert (await idle.look()).lines == 2, "what is delivered is remembered on the disk"
