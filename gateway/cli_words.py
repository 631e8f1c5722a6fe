"""Small things that every command needs: how an answer is written, how files, hex, times and passwords are read.

Refuses to know any command.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def say(options: argparse.Namespace, document: Any, lines: Sequence[str]) -> int:
    """One JSON document, or lines for a person; returns 0, the exit code of a command that did it."""
    text = json.dumps(document, indent=2, default=str) if options.json else "\n".join(lines)
    sys.stdout.write(text + "\n")
    return 0


def read(path: str | Path) -> bytes:
    from gateway.errors import InputError

    try:
        with Path(path).open("rb") as f:
            return f.read(4 * 1024 * 1024)
    except OSError as e:
        raise InputError(f"{path} cannot be read ({e.strerror})", "check the path") from None


def hex_of(text: str) -> bytes:
    from gateway.errors import InputError

    try:
        return bytes.fromhex(text)
    except ValueError:
        raise InputError(f"{text!r} is not hexadecimal", "give an even number of hex digits") from None


def time_of(text: str | None) -> int:
    """Nanoseconds since 1970 of an ISO 8601 time, or now."""
    import time
    from datetime import UTC, datetime

    from gateway.errors import InputError

    if text is None:
        return time.time_ns()
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is no ISO 8601 time", "write it as 2027-01-31T12:00:00Z") from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000_000)


def password_of(user: str, file: Path | None) -> str:
    if file:
        return read(file).decode().rstrip("\n")
    import getpass

    return getpass.getpass(f"password of {user}: ")
