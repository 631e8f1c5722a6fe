"""Composes adapters for the commands and the page's buttons of a gateway's life: a backup, the support file, how full it is.

Refuses to know formats: ``backup`` and ``support`` do.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway import backup
from gateway.attester.attester import Attester
from gateway.attester.tpm import Tpm
from gateway.clock import Clock
from gateway.config import Config
from gateway.errors import RefusedError
from gateway.housekeeping import accept_state
from gateway.machine_clock import MachineClock
from gateway.restore import DATABASE
from gateway.sealed_file import check_passphrase, seal
from gateway.store.audit import AuditLog, Keeping
from gateway.store.cache import CertificateCache
from gateway.store.database import Database
from gateway.support import Source, build, pack

_TPM_CHECKS = ("tpm", "keys", "record")  # they open the TPM, which the daemon holds; its parts say how it is


class Lifecycle:
    """``gateway.ports.LifecyclePort`` inside the daemon. ``view``: its picture as plain values."""

    def __init__(
        self, config: Config, config_path: Path, database: Database, clock: Clock, keeping: Keeping, view: Callable[[], Any]
    ) -> None:
        self._config, self._path, self._database = config, config_path, database
        self._clock, self._keeping, self._view = clock, keeping, view
        self._one = asyncio.Lock()  # each takes memory for a moment

    async def backup(self, passphrase: str) -> bytes:
        """What the daemon's user can read, encrypted; without root's operators, which a restore then says."""
        check_passphrase(passphrase)
        async with self._one:
            content, _ = await backup.collect(self._config, self._path, self._database, self._clock.now(), "page")
            return await asyncio.to_thread(lambda: b"".join(seal(content, passphrase)))

    async def left_out(self) -> list[str]:
        """As ``LifecyclePort.left_out``."""
        return backup.in_words(await asyncio.to_thread(backup.unreadable, self._config, self._path))

    async def support_file(self) -> bytes:
        """Built beside the event loop, from the same list as the command's."""
        async with self._one:
            source = Source(self._path, self._view(), _TPM_CHECKS)
            return await asyncio.to_thread(lambda: pack(build(source)))

    async def status(self) -> dict[str, object]:
        """As ``LifecyclePort.status``; times in UTC nanoseconds, sizes in bytes."""
        extent = await AuditLog(self._database).extent()
        checkpoint = await CertificateCache(self._database).checkpoint()
        disk, now = shutil.disk_usage(self._config.gateway.state), self._clock.now()
        record = {"first": extent.first, "last": extent.last, "first_utc_ns": extent.first_utc_ns, "trimmed": extent.trimmed,
                  "bytes": extent.packed_bytes, "most_bytes": self._keeping.most_bytes}  # fmt: skip
        return {
            "record": record,
            "checkpoint": {"line": checkpoint.audit_sequence, "utc_ns": checkpoint.utc_floor_ns} if checkpoint else None,
            "disk": {"free": disk.free, "total": disk.total},
            "time": {"utc_ns": now.utc_ns, "quality": now.quality.name.lower()},
        }


def make_backup(config: Config, config_path: Path, file: Path, passphrase: str) -> tuple[int, list[str]]:
    """Write a backup while the daemon runs or not; returns its bytes and what could not be read."""
    check_passphrase(passphrase)

    async def work() -> tuple[bytes, list[str]]:
        database = Database(config.gateway.state / DATABASE, read_only=True)
        await database.open()
        try:
            return await backup.collect(config, config_path, database, MachineClock().now(), "console")
        finally:
            await database.close()

    content, unread = asyncio.run(work())
    return backup.write(file, content, passphrase), unread


def accept(config: Config, reason: str) -> str:
    """Root goes on with the state on disk; returns what was wrong with it, or an empty string. Raises UnavailableError."""
    if os.geteuid() != 0:
        raise RefusedError("only root on the console accepts an older state", "use sudo")

    async def work() -> str:
        database, tpm = Database(config.gateway.state / DATABASE), Tpm(config.tpm.tcti)
        await database.open()
        audit = AuditLog(database)
        try:
            attester = Attester(tpm, config.gateway.state, pcrs=config.tpm.pcrs)
            return await accept_state(audit, CertificateCache(database), attester, MachineClock().now(), reason)
        finally:
            await audit.close()
            await database.close()
            await tpm.close()

    return asyncio.run(work())
