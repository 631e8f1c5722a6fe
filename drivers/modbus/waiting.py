"""Requests on their way to a device, who sent them, and how long they may take. Knows no connection."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from drivers.modbus.pdu import Request


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds in seconds: a device's answer, a request's wait for its turn (below clients' usual 3 s), a connection.

    A stop waits longer than its client may: past a device that answers nothing, for the connection after.
    """

    request_s: float = 3.0
    wait_s: float = 2.0
    stop_s: float = 10.0
    connect_s: float = 3.0


class Waiting:
    """One request on its way, and who gets the answer."""

    __slots__ = ("origin", "request", "since", "transaction", "unit", "urgent")

    def __init__(self, origin: Origin, transaction: int, unit: int, request: Request) -> None:
        self.origin, self.transaction, self.unit, self.request = origin, transaction, unit, request
        self.since, self.urgent = 0.0, False


class Origin(Protocol):
    """Who sends requests. ``queue`` belongs to the link; so does ``turn``: the line it stands in."""

    queue: deque[Waiting]
    turn: deque[Origin] | None

    def answer(self, waiting: Waiting, pdu: bytes) -> None:
        """The answer to one request: the device's, or an exception of ours."""
        ...


class Own:
    """The driver itself as an origin: its requests are evidence collection and pass at any level.

    An empty answer is ours and says that there was none.
    """

    def __init__(self) -> None:
        self.queue: deque[Waiting] = deque()
        self.turn: deque[Origin] | None = None
        self._futures: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0

    def ask(self, unit: int, request: Request) -> tuple[Waiting, asyncio.Future[bytes]]:
        """A request to submit, and where its answer will be."""
        self._number += 1
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._futures[self._number] = future
        return Waiting(self, self._number, unit, request), future

    def answer(self, waiting: Waiting, pdu: bytes) -> None:
        """See ``Origin``."""
        future = self._futures.pop(waiting.transaction, None)
        if future is not None and not future.done():
            future.set_result(pdu)
