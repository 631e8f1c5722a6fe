"""Logging for an appliance: one line an event to stderr (the journal adds time and unit), nothing hostile unescaped.

Refuses to know where logs go after stderr. The audit log is another thing: it lives in ``store``.
"""

from __future__ import annotations

import logging
import sys

_MAX_TEXT = 512  # a device chooses parts of our messages; a log line stays a line that a person can read


def clean(text: object, limit: int = _MAX_TEXT) -> str:
    """``text`` on one line, printable, at most ``limit`` characters: for anything a device or the network chose."""
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(text)[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def configure(level: int = logging.INFO) -> None:
    """Send all logging to stderr, one line each; quieten libraries that dump packets."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname).1s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("pymodbus", "asyncio", "aiohttp.access", "bleak", "dbus_fast"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
