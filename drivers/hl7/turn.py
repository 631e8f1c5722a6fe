"""Messages that leave together, when this turn of the event loop is over.

A turn takes in what all the links sent meanwhile; each write in between would wake its reader, which costs as much as judging a
message: a fifth of what one takes end to end. Nothing waits longer than the turn. Refuses to know what is written.
"""

from __future__ import annotations

import asyncio


class Turn:
    """``write`` in order."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[tuple[asyncio.WriteTransport, bytes]] = []

    def write(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """Bytes for a connection; dropped if it is closed by the end of the turn."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append((transport, data))

    def flush(self) -> None:
        """Now, before something that must not overtake it."""
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                transport.write(data)
