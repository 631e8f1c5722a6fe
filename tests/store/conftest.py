"""A clock that a test moves by hand, and a database in a directory of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from gateway.store.history import History


class HandClock:
    """Time passes only when the test says so."""

    def __init__(self) -> None:
        self.at = Instant("boot-1", 1000 * NS_PER_S, 1_800_000_000 * NS_PER_S, TimeQuality.RTC)

    def now(self) -> Instant:
        return self.at

    def forward(self, seconds: float) -> None:
        self.at = self.at.plus(seconds)

    def reboot(self, boot: str = "boot-2") -> None:
        self.at = Instant(boot, 5 * NS_PER_S, self.at.utc_ns, self.at.quality)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    db = Database(tmp_path / "wardgate.sqlite")
    assert await db.open() == ""
    yield db
    await db.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[tuple[AuditLog, History, Database]]:
    """A record, the history that reads it, and their file."""
    db = Database(tmp_path / "w.sqlite")
    await db.open()
    log = AuditLog(db)
    yield log, History(db), db
    await log.close()
    await db.close()
