"""A numbered UDP stream through the bench's gateway, in two processes, with the kernel's own receive times.

For measuring when the last packet arrived: user-space clocks would add the receiver's scheduling. Knows no policy.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import struct
import time
from multiprocessing.sharedctypes import Synchronized
from types import TracebackType

from hil.network import enter

_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33


class Stream:
    """From ``source`` in one namespace to ``target`` in another, until the ``with`` ends."""

    def __init__(self, sender: str, receiver: str, source: str, target: str, port: int, pause_s: float = 5e-5) -> None:
        context = multiprocessing.get_context("fork")
        self._stop: Synchronized[int] = context.Value("b", 0)
        self._last: Synchronized[int] = context.Value("q", 0)
        self._count: Synchronized[int] = context.Value("q", 0)
        receives = (receiver, target, port, self._stop, self._last, self._count)
        self._processes = [
            context.Process(target=_receive, args=receives, name="stream-receiver", daemon=True),
            context.Process(
                target=_send, args=(sender, source, target, port, pause_s, self._stop), name="stream-sender", daemon=True
            ),
        ]

    def __enter__(self) -> Stream:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None) -> None:
        self._stop.value = 1
        for process in self._processes:
            process.join(3)
            if process.is_alive():
                process.kill()
                process.join(3)

    @property
    def last_ns(self) -> int:
        """When the kernel received the newest packet (CLOCK_REALTIME, as ``time.time_ns``)."""
        return self._last.value

    @property
    def count(self) -> int:
        """Packets received so far."""
        return self._count.value

    def flows(self, timeout_s: float = 5.0, packets: int = 50) -> None:
        """Wait until packets arrive. Raises TimeoutError."""
        goal, end = self.count + packets, time.monotonic() + timeout_s
        while self.count < goal:
            if time.monotonic() > end:
                raise TimeoutError("no packets arrive")
            time.sleep(0.001)

    def settled(self, quiet_s: float = 0.03, timeout_s: float = 2.0) -> bool:
        """Wait until nothing has arrived for ``quiet_s``; False when packets go on arriving."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            before = self.count
            time.sleep(quiet_s)
            if self.count == before:
                return True
        return False


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _receive(
    namespace: str, target: str, port: int, stop: Synchronized[int], last: Synchronized[int], count: Synchronized[int]
) -> None:
    enter(namespace)
    with socket.socket(_family(target), socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        s.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
        s.bind((target, port))
        s.settimeout(0.05)
        while not stop.value:
            with contextlib.suppress(TimeoutError):
                _data, ancillary, _flags, _address = s.recvmsg(64, 64)
                seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2][:16])
                last.value = seconds * 1_000_000_000 + nanoseconds
                count.value += 1


def _send(namespace: str, source: str, target: str, port: int, pause_s: float, stop: Synchronized[int]) -> None:
    enter(namespace)
    with socket.socket(_family(target), socket.SOCK_DGRAM) as s:
        s.bind((source, 0))
        s.connect((target, port))
        number = 0
        while not stop.value:
            number += 1
            with contextlib.suppress(OSError):
                s.send(number.to_bytes(8, "big"))
            time.sleep(pause_s)
