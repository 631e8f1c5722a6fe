"""The hospital's HL7 receiver on the bench: it acknowledges, and keeps what it saw, from whom and when, port by port.

It can be told to answer AE or AR, to be silent, and to go away. Knows no gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections import Counter, deque
from pathlib import Path
from typing import Any

from hil import hl7
from hil.hospital import Arrivals, live

SEEN = 100_000  # control ids remembered


class Port:
    """One listening port."""

    def __init__(self, number: int) -> None:
        self.number, self.answer = number, "AA"
        self.arrivals, self.connections = Arrivals(), 0
        self.ids: deque[str] = deque(maxlen=SEEN)
        self.serials: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.newest = b""
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def come(self) -> None:
        """Listen."""
        if self._server is None:
            self._server = await asyncio.start_server(self._receive, None, self.number, limit=hl7.LIMIT)

    async def go(self) -> None:
        """Connections break, nothing listens."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, ValueError, IndexError):
            while True:
                message = await hl7.read(reader)
                self._note(message)
                if self.answer != "silent":
                    writer.write(hl7.frame(self._acknowledge(message)))
        self._writers.discard(writer)
        writer.close()

    def _note(self, message: bytes) -> None:
        self.newest = message
        head = message.split(b"\r", 1)[0].split(b"|")
        if not message.startswith(b"MSH|") or message.count(b"\rMSH") or b"\n" in message:
            self.wrong.append(message[:200].hex())
        self.arrivals.note()
        self.ids.append(head[9].decode())
        self.serials[head[2].split(b"^")[1].decode()] += 1

    def _acknowledge(self, message: bytes) -> bytes:
        h = message.split(b"\r", 1)[0].split(b"|")
        event = h[8].split(b"^")[1]
        head = b"|".join((b"MSH|^~\\&", h[4], h[5], h[2], h[3], hl7.stamp(), b"", b"ACK^%b^ACK" % event, b"C" + h[9], h[10], h[11]))
        return head + b"\rMSA|" + self.answer.encode() + b"|" + h[9] + b"\r"

    def reset(self) -> None:
        """Count from now on."""
        self.arrivals.reset()
        self.ids.clear()
        self.serials.clear()
        self.wrong.clear()

    def state(self) -> dict[str, Any]:
        """For the bench."""
        counted = Counter(self.ids)
        ordered = [i for n, i in enumerate(self.ids) if i not in list(self.ids)[max(0, n - 1) : n]]
        return self.arrivals.state() | {
            "connections": self.connections, "listens": self._server is not None, "ids": list(self.ids)[-500:],
            "duplicates": sum(n - 1 for n in counted.values()), "in_order": ordered == sorted(ordered), "distinct": len(counted),
            "serials": dict(self.serials), "wrong": self.wrong[:10], "answer": self.answer,
        }  # fmt: skip


class Receiver:
    """All its ports."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = {str(n): Port(n) for n in ports}

    async def run(self) -> None:
        """Listen until cancelled."""
        for port in self.ports.values():
            await port.come()
        await asyncio.Event().wait()

    async def command(self, request: dict[str, Any]) -> dict[str, Any]:
        """One command of the bench, for one ``port`` or all."""
        chosen = [self.ports[str(request["port"])]] if "port" in request else list(self.ports.values())
        for port in chosen:
            match request["do"]:
                case "state":
                    pass
                case "reset":
                    port.reset()
                case "answer":
                    port.answer = request["code"]
                case "away":
                    await port.go()
                case "back":
                    await port.come()
                case other:
                    raise ValueError(f"no such command: {other}")
        first = chosen[0].state()
        return {"ports": {n: p.state() for n, p in self.ports.items()}, "received": first["received"], "last_ns": first["last_ns"]}


async def run(a: argparse.Namespace) -> None:
    """Receive until SIGTERM."""
    receiver = Receiver(a.port)
    await live(receiver.run(), receiver.command, a.ctl)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ctl", type=Path, required=True, help="where the bench sends commands")
    parser.add_argument("--port", type=int, action="append", required=True, help="listen here; may be given again")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
