"""How the run before ended, live and packed: with a word, without, or as an older version always did."""

from __future__ import annotations

import pytest

from gateway.model.effect import Record
from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from gateway.store.history import START, History
from gateway.store.runs import SAYS_ITS_END, STOP, Runs
from gateway.store.segments import Keeping

T0 = Instant("boot-1", 10**12, 1_800_000_000 * NS_PER_S, TimeQuality.RTC)
Lines = list[tuple[Instant, Record]]
BEGAN = (T0, Record(START, "", "Wardgate starts", (SAYS_ITS_END,)))
STOPPED = (T0.plus(500), Record(STOP, "", "Wardgate stops"))


def noise(number: int) -> Lines:
    return [(T0.plus(n), Record("event" if n % 2 else "part", "", "something", (("event", None),))) for n in range(1, number + 1)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("lines", "heard"),
    [
        ([BEGAN, *noise(60)], T0.plus(60)),
        ([BEGAN, *noise(60), STOPPED], None),
        ([BEGAN, *noise(30), STOPPED, (T0.plus(600), BEGAN[1]), (T0.plus(700), Record("part", "", "x"))], T0.plus(700)),
        ([(T0, Record(START, "", "an older version starts")), *noise(60)], None),
        ([BEGAN, *noise(60), (T0.plus(900), Record("restored-backup", "", "root restored a backup"))], None),
        ([], None),
    ],
)
async def test_only_a_run_that_would_have_said_its_end_and_did_not_is_told(
    store: tuple[AuditLog, History, Database], packed: bool, lines: Lines, heard: Instant | None
) -> None:
    log, _, database = store
    for line in lines:
        await log.append([line])
    if packed:
        while await log.close_segment(Keeping(lines=8, live=0), T0.plus(10**6)):
            pass
    found = await Runs(database, log).unfinished()
    assert (found.heard if found else None) == heard
