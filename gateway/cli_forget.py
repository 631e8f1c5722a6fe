"""``wardgate forget``: takes this gateway's keys out of its TPM, before it is given away. Refuses while the daemon runs."""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gateway.errors import InputError, RefusedError

_FORGET_S = 120.0  # a discrete TPM takes seconds for each key


def register(add: Callable[..., argparse.ArgumentParser], say: Callable[[argparse.Namespace, Any, Sequence[str]], int]) -> None:
    """Add the subcommand; ``say`` prints one document or its lines."""

    def command(o: argparse.Namespace) -> int:
        changes = _forget(o)
        say(o, {"changes": changes}, changes or ["the TPM holds nothing of this gateway"])
        return 0

    p = add("forget", command, "take this gateway's keys out of the TPM; it has to be made and enrolled anew afterwards")
    p.add_argument("--yes", action="store_true", help="they cannot be brought back")
    p.add_argument("--lockout-file", type=Path, help="the lockout authorisation from escrow; default: where `init` left it")


def _forget(o: argparse.Namespace) -> list[str]:
    from gateway.attester import state
    from gateway.attester.forget import forget, stays
    from gateway.attester.tpm import Tpm
    from gateway.config import read_config

    config = read_config(o.config)
    if not o.yes:
        raise InputError("the keys in the TPM cannot be brought back", "add --yes if that is meant")
    if _daemon_runs(config.gateway.run / "control.sock"):
        raise RefusedError("the daemon is running and uses these keys", "systemctl stop wardgate")
    known = state.load(config.gateway.state)
    file = o.lockout_file or config.gateway.state / state.LOCKOUT_FILE
    if o.lockout_file and not file.exists():
        raise InputError(f"there is no {file}", "give the file that `wardgate init` told you to move into escrow")
    lockout = state.lockout_authorisation(file) if file.exists() else None

    async def work() -> list[str]:
        tpm = Tpm(config.tpm.tcti)
        try:
            changes = await tpm.call(lambda c: forget(c, known, lockout), limit_s=_FORGET_S)
            if await tpm.call(stays):
                changes.append("the lockout authorisation stays set: give --lockout-file, or clear the TPM in the firmware set-up")
            return changes
        finally:
            await tpm.close()

    return asyncio.run(work())


def _daemon_runs(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(2)
        try:
            s.connect(str(path))
        except OSError:
            return False
    return True
