"""Tells systemd that the daemon is ready and still turning (sd_notify, sd_watchdog_enabled). Says nothing elsewhere.

The beat comes from the event loop itself: a loop that hangs misses it, systemd starts the daemon again, and leases
outlive that. Refuses to know what "ready" means.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping


class Notify:
    """Speaks to the service manager named in ``environment``; without one every method does nothing."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        found = os.environ if environment is None else environment
        self._address = found.get("NOTIFY_SOCKET", "")
        meant_for_us = found.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog_s = int(found.get("WATCHDOG_USEC", "0")) / 1e6 if meant_for_us else 0.0

    def ready(self, status: str = "") -> None:
        """The daemon can be used; ``status`` is what ``systemctl status`` shows."""
        self._send(f"READY=1\nSTATUS={' '.join(status.split())}")

    def stopping(self) -> None:
        """The daemon is on its way out."""
        self._send("STOPPING=1")

    async def beat(self) -> None:
        """Three beats in each watchdog period, for ever; returns at once when nobody watches."""
        while self._watchdog_s > 0:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 3)

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # A service manager that does not listen is no reason to stop serving a ward.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as s:
            s.setblocking(False)
            s.sendto(text.encode(), address)
