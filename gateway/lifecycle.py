"""Composes adapters for the commands and the page's buttons of a gateway's life: a backup, the support file, how full it is.

Refuses to know formats: ``backup`` and ``support`` do.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from gateway import backup
from gateway.attester.attester import Attester
from gateway.attester.tpm import Tpm
from gateway.config import Config
from gateway.errors import RefusedError
from gateway.housekeeping import accept_state
from gateway.machine_clock import MachineClock
from gateway.restore import DATABASE
from gateway.sealed_file import check_passphrase
from gateway.store.audit import AuditLog
from gateway.store.cache import CertificateCache
from gateway.store.database import Database


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
