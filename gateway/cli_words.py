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


def password_of(user: str, file: str | Path | None, asked: str = "password of") -> str:
    """The first line of ``file`` (``-``: of standard input), or what is typed. Raises InputError when there is nobody to ask."""
    from gateway.errors import InputError

    if file is None:
        import getpass

        try:
            return getpass.getpass(f"{asked} {user}: ")
        except EOFError:
            what = f"there is nobody to ask for the {asked} {user}"
            raise InputError(what, "give --password-file FILE, or --password-file - and the password on standard input") from None
    data = sys.stdin.buffer.readline(4096) if str(file) == "-" else read(file)
    try:
        return data.decode().split("\n", 1)[0].rstrip("\r")
    except UnicodeDecodeError:
        raise InputError(f"the password in {file} is not UTF-8 text", "write it again with another editor") from None
