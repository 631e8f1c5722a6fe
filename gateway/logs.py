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


class _NobodyWaited(logging.Filter):
    """A connection of a library that ended while nobody waited for it: one line. Whoever used it has told of its end.

    dbus-fast sets the error of a bus that dies on a future of its own, too; asyncio would print it with a traceback.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OSError | EOFError) and record.getMessage().startswith("Future exception was never retrieved"):
            record.msg, record.args = f"a connection ended while nobody waited for it: {clean(repr(error))}", ()
            record.exc_info = record.exc_text = None
        return True


_nobody_waited = _NobodyWaited()


def configure(level: int = logging.INFO) -> None:
    """Send all logging to stderr, one line each; quieten libraries that dump packets."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname).1s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("pymodbus", "asyncio", "aiohttp.access", "bleak", "dbus_fast"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    logging.getLogger("asyncio").addFilter(_nobody_waited)  # added once, however often
