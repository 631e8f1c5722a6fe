"""What was seen in the air: who of ours is near, and which unknown devices are worth a proposal. No IO, no clock of its own.

Anyone can fill the air with addresses, so what is remembered is bounded and what is reported is rate-limited.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from drivers.ble import attestation, heart_rate, plx
from gateway.model.device import Bus
from gateway.model.event import DeviceSeen

KNOWN_SERVICES = {
    heart_rate.SERVICE_UUID: "heart-rate",
    plx.SERVICE_UUID: "pulse-oximeter",
    attestation.SERVICE_UUID: "attestation",
}
AGAIN_S = 600.0  # an unknown device is reported once in this time
PER_MINUTE = 10  # reports of unknown devices, all together
MAX_REMEMBERED = 256  # unknown addresses
MAX_NAME = 40  # a device's own name, as shown
APART_S = 2.0  # not seen for this long and seen again: it came back


@dataclass
class _Ours:
    appeared: asyncio.Event = field(default_factory=asyncio.Event)
    last_s: float | None = None


class Sightings:
    """Fed with every advertisement; ``now_s`` is boot time in seconds."""

    def __init__(self) -> None:
        self._ours: dict[str, _Ours] = {}
        self._reported: OrderedDict[str, float] = OrderedDict()
        self._recent: deque[float] = deque(maxlen=PER_MINUTE)

    def expect(self, addresses: Iterable[str]) -> None:
        """Our devices; others are unknown."""
        self._ours = {a: self._ours.get(a) or _Ours() for a in addresses}

    def appeared(self, address: str) -> asyncio.Event:
        """Set when one of our devices is seen after it was not for ``APART_S``; whoever waits for it clears it first."""
        return self._ours.setdefault(address, _Ours()).appeared

    def seen_within(self, address: str, seconds: float, now_s: float) -> bool:
        """Whether one of our devices was seen lately."""
        ours = self._ours.get(address)
        return ours is not None and ours.last_s is not None and now_s - ours.last_s <= seconds

    def saw(
        self, address: str, name: str | None, services: Iterable[str], now_s: float, rssi: int | None = None
    ) -> DeviceSeen | None:
        """Take an advertisement (``rssi`` in dBm); the event to report, if it is worth one."""
        ours = self._ours.get(address)
        if ours is not None:
            if ours.last_s is None or now_s - ours.last_s > APART_S:
                ours.appeared.set()
            ours.last_s = now_s
            return None
        hints = sorted(KNOWN_SERVICES[s] for s in services if s in KNOWN_SERVICES)
        if not hints or now_s - self._reported.get(address, -AGAIN_S) < AGAIN_S:
            return None
        if len(self._recent) == PER_MINUTE and now_s - self._recent[0] < 60.0:
            return None
        self._recent.append(now_s)
        self._reported[address] = now_s
        self._reported.move_to_end(address)
        while len(self._reported) > MAX_REMEMBERED:
            self._reported.popitem(last=False)
        signal = rssi if rssi is not None and -127 <= rssi <= 20 else None  # the range a controller may report; 127 means unknown
        return DeviceSeen(Bus.BLE, address, shown_name(name), ", ".join(hints), signal)


def shown_name(name: str | None) -> str:
    """A name that a device chose for itself, on one line, printable and short."""
    text = "".join(c for c in (name or "") if c.isprintable())[:MAX_NAME].strip()
    return text or "unnamed"
