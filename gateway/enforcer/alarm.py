"""The alarm that rings without the daemon: a file, the log, syslog, the console's bell, and every watcher.

Every way is tried and none is relied on; a way that fails is passed over, since the others must still ring. It does not
know why it rings.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.enforcer.files import write_atomically

_REPEAT_S = 30.0  # the bell again, so that somebody who was away hears it
_ALERT = "<1>"  # the journal's priority prefix: alert
_SYSLOG_ALERT = "<9>"  # facility user, severity alert

Send = Callable[[dict[str, Any]], None]


class Alarm:
    """What rings now, by reason. ``ring`` and ``clear`` are idempotent; ``repeat`` is called now and then."""

    def __init__(self, file: Path | None, console: Path | None, syslog: Path | None, send: Send) -> None:
        self._file, self._console, self._syslog, self._send = file, console, syslog, send
        self._ringing: dict[str, dict[str, Any]] = {}
        self._repeat_at = 0.0

    def rings(self, reason: str) -> bool:
        """Whether it rings for this reason."""
        return reason in self._ringing

    def reasons(self) -> dict[str, dict[str, Any]]:
        """What rings now: reason -> since when, a sentence, facts."""
        return dict(self._ringing)

    def ring(self, reason: str, text: str, **facts: Any) -> None:
        """Ring for ``reason`` and tell the watchers ``{"event": reason, …}``; ringing already, only the facts are renewed."""
        new = reason not in self._ringing
        since = time.time() if new else self._ringing[reason]["since_utc"]
        self._ringing[reason] = {"since_utc": since, "text": text, **facts}
        self._write()
        if new:
            self._send({"event": reason, "text": text, **facts})
            self._shout(f"ALARM: {text}")

    def clear(self, reason: str, event: str, text: str) -> None:
        """Stop ringing for ``reason`` and tell the watchers ``{"event": event}``."""
        if self._ringing.pop(reason, None) is None:
            return
        self._write()
        self._send({"event": event, "text": text})
        self._line(f"<5>wardgate-enforcer: {text}")

    def repeat(self, now: float) -> None:
        """Ring the bell again when it is time."""
        if self._ringing and now >= self._repeat_at:
            self._repeat_at = now + _REPEAT_S
            for ringing in list(self._ringing.values()):
                self._bell(f"ALARM: {ringing['text']}")

    def _shout(self, text: str) -> None:
        self._line(f"{_ALERT}wardgate-enforcer: {text}")
        self._repeat_at = time.monotonic() + _REPEAT_S
        self._bell(text)
        if self._syslog is not None:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as log:
                log.sendto(f"{_SYSLOG_ALERT}wardgate-enforcer: {text}".encode(), str(self._syslog))

    @staticmethod
    def _line(text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def _bell(self, text: str) -> None:
        if self._console is None:
            return
        with contextlib.suppress(OSError):
            console = os.open(self._console, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                os.write(console, f"\a\r\nwardgate-enforcer: {text}\r\n".encode())
            finally:
                os.close(console)

    def _write(self) -> None:
        if self._file is None:
            return
        state = {"state": "ringing" if self._ringing else "clear", "at_utc": time.time(), "reasons": self._ringing}
        try:
            write_atomically(self._file, json.dumps(state, sort_keys=True).encode() + b"\n", 0o644)
        except OSError as e:
            self._line(f"<3>wardgate-enforcer: the alarm file cannot be written: {e.strerror}")
