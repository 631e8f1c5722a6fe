"""The bench's bedside monitor: it dials its receiver and reports ten measurements a second, and a result every second, over HL7.

It waits for each acknowledgement, sends again when it is AE or none comes, and raises its own alarm when its central station
is lost. A process of its own; knows no gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hil import hl7
from hil.hospital import endpoint, live

ANSWER_S = 3.0
LOST_S = 5.0  # without an AA for this long the central station counts as lost: the monitor alarms by itself
EVERY_S = 1.0
_RETRY_S = 0.3


class Channel:
    """One connection kept toward one port: message after message, each again until it is accepted or refused for good."""

    def __init__(self, monitor: Monitor, name: str, target: tuple[str, int]) -> None:
        self._monitor, self._name, self._target = monitor, name, target
        self.codes: Counter[str] = Counter()
        self.sent = self.resent = self.connections = self.accepted = 0
        self.last_aa_ns = time.monotonic_ns()
        self.last_code = ""
        self.longest_gap_ms = 0.0
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self) -> None:
        """Report until cancelled."""
        loop, number = asyncio.get_running_loop(), 0
        while True:
            began, number = loop.time(), number + 1
            if self._monitor.plugged:
                await self._report(f"{self._name}{self._monitor.boot}{number:06d}".encode())
            await asyncio.sleep(max(0.02, began + EVERY_S - loop.time()))

    async def _report(self, control_id: bytes) -> None:
        self.sent += 1
        message, of = b"", (b"", b"")
        for attempt in range(1000):
            self.resent += attempt > 0
            if not self._monitor.plugged:
                return
            now = (self._monitor.serial, self._monitor.version)
            if of != now:  # what is sent again is the same bytes, unless the monitor itself is another one by now
                message, of = self._monitor.message(control_id), now
            self.last_code = await self._exchange(message, control_id)
            self.codes[self.last_code] += 1
            if self.last_code in ("AA", "CA"):
                now = time.monotonic_ns()
                self.longest_gap_ms = max(self.longest_gap_ms, (now - self.last_aa_ns) / 1e6)
                self.last_aa_ns = now
                self.accepted += 1
            if self.last_code in ("AA", "CA", "AR", "CR"):
                return
            await asyncio.sleep(_RETRY_S)

    async def _exchange(self, message: bytes, control_id: bytes) -> str:
        """The acknowledgement's code; ``none`` when there was none in time."""
        try:
            async with asyncio.timeout(ANSWER_S):
                if self._connection is None:
                    self._connection = await asyncio.open_connection(*self._target, limit=hl7.LIMIT)
                    self.connections += 1
                reader, writer = self._connection
                writer.write(hl7.frame(message))
                code, of = hl7.msa(await hl7.read(reader))
                if of == control_id:
                    return code.decode()
        except (OSError, TimeoutError, ValueError):
            pass
        self.hang_up()
        return "none"

    def hang_up(self) -> None:
        """The connection is of no use any more."""
        if self._connection is not None:
            self._connection[1].close()
            self._connection = None

    def reset(self) -> None:
        """Count from now on."""
        self.codes.clear()
        self.sent = self.resent = self.accepted = 0
        self.last_aa_ns, self.longest_gap_ms = time.monotonic_ns(), 0.0

    def state(self) -> dict[str, Any]:
        """For the bench."""
        gap = (time.monotonic_ns() - self.last_aa_ns) / 1e6
        return {
            "sent": self.sent, "resent": self.resent, "accepted": self.accepted, "codes": dict(self.codes), "last": self.last_code,
            "connections": self.connections, "gap_ms": gap, "longest_gap_ms": max(gap, self.longest_gap_ms),
            "alarm": gap > LOST_S * 1000,
        }  # fmt: skip


class Monitor:
    """Two channels, one identity."""

    def __init__(self, live_at: tuple[str, int], results_at: tuple[str, int]) -> None:
        self.serial, self.version, self.plugged = hl7.SERIAL, hl7.VERSION, True
        self.boot = f"{time.time_ns() // 1_000_000 % 1_000_000_000:09d}"  # a monitor counts anew after a power cut, from elsewhere
        self._live_at = live_at
        self.channels = {"live": Channel(self, "L", live_at), "results": Channel(self, "R", results_at)}

    async def run(self) -> None:
        """Both channels until cancelled."""
        await asyncio.gather(*(c.run() for c in self.channels.values()))

    def message(self, control_id: bytes) -> bytes:
        """What it reports now."""
        return hl7.oru(control_id, self.serial, self.version)

    async def raw(self, data: bytes, wait_s: float = 1.0) -> dict[str, Any]:
        """Bytes on a connection of their own: the code that came back, and whether the connection was closed."""
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_connection(*self._live_at, limit=hl7.LIMIT)
        except (OSError, TimeoutError):
            return {"code": "", "closed": True, "connected": False}
        code, closed = b"", False
        try:
            writer.write(data)
            async with asyncio.timeout(wait_s):
                code, _ = hl7.msa(await hl7.read(reader))
        except (OSError, ValueError):
            closed = True
        except TimeoutError:
            pass
        finally:
            writer.transport.abort()
        return {"code": code.decode(errors="replace"), "closed": closed, "connected": True}

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """One command of the bench."""
        match request["do"]:
            case "state":
                pass
            case "reference":
                return {"reference": None}
            case "reset":
                for channel in self.channels.values():
                    channel.reset()
            case "tamper":
                self.serial = request.get(
                    "serial", "DEADBEEF00000066" if "version" not in request else self.serial.decode()
                ).encode()
                self.version = request.get("version", self.version.decode()).encode()
            case "update":
                self.version = b"4.2.0"
            case "restore":
                self.serial, self.version = hl7.SERIAL, hl7.VERSION
            case "unplug" | "plug" as what:
                self.plugged = what == "plug"
                for channel in self.channels.values():
                    channel.hang_up()
            case "send":
                control_id = request["id"].encode()
                message = hl7.oru(control_id, self.serial, self.version, request.get("event", "ORU^R01^ORU_R01").encode())
                return await self.raw(hl7.frame(message), request.get("wait_s", ANSWER_S))
            case "raw":
                return await self.raw(bytes.fromhex(request["bytes"]), request.get("wait_s", 1.0))
            case "malformed":
                good = hl7.oru(f"BAD{self.boot}".encode(), self.serial, self.version)
                names, wires = zip(*hl7.malformed(good), strict=True)
                answers = await asyncio.gather(*(self.raw(w, 2.0) for w in wires))
                return {"answers": dict(zip(names, answers, strict=True))}
            case other:
                raise ValueError(f"no such command: {other}")
        return {name: c.state() for name, c in self.channels.items()} | {
            "serial": self.serial.decode(),
            "version": self.version.decode(),
        }


async def run(a: argparse.Namespace) -> None:
    """Build the monitor and let it run until SIGTERM."""
    monitor = Monitor(a.live, a.results)
    with contextlib.suppress(asyncio.CancelledError):
        await live(monitor.run(), monitor.answer, a.ctl)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ctl", type=Path, required=True, help="where the bench sends commands")
    parser.add_argument("--live", type=endpoint, required=True, help="where live vitals go, address:port")
    parser.add_argument("--results", type=endpoint, required=True, help="where results go, address:port")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
