"""The bench's heart-rate patch, a process of its own (``python -m hil.patch --hci PATH --ctl SOCK --key FILE``).

Heart Rate service (180D) at 1 Hz with RR intervals, Device Information, Battery, and the attestation service with a PSA
token. Its heart is simulated beat by beat, with respiratory sinus arrhythmia and a slow drift.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from argparse import Namespace

from bumble import core, gatt
from bumble.gatt import Characteristic, Service
from bumble.profiles.battery_service import BatteryService
from bumble.profiles.device_information_service import DeviceInformationService

from hil.psa import load_key, signer_of
from hil.wearable import Wearable, arguments, live, open_host

MODEL = "patch"


class Heart:
    """A heart at rest: ``beats_until(t)`` gives the RR intervals (s) of the beats that ended since the last call."""

    def __init__(self, rate: float = 72.0, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._rate, self._next_s, self._rr = rate, 0.8, 0.8
        self.rate = round(rate)

    def beats_until(self, now_s: float) -> list[float]:
        """Advance to ``now_s``."""
        ended: list[float] = []
        while self._next_s <= now_s:
            ended.append(self._rr)
            breath = 3.0 * math.sin(2 * math.pi * self._next_s / 4.2)
            self._rate = min(95.0, max(58.0, self._rate + self._random.gauss(0.0, 0.15)))
            self._rr = 60.0 / (self._rate + breath)
            self._next_s += self._rr
        if ended:
            self.rate = round(60.0 / (sum(ended) / len(ended)))
        return ended


def measurement(rate: int, intervals_s: list[float]) -> bytes:
    """A Heart Rate Measurement (HRS 1.0, 3.1): uint8 rate, contact supported and detected, RR intervals in 1/1024 s."""
    flags = 0b0000_0110 | (0b0001_0000 if intervals_s else 0)
    body = b"".join(round(i * 1024).to_bytes(2, "little") for i in intervals_s)
    return bytes([flags, rate]) + body


async def beat(wearable: Wearable, characteristic: gatt.Characteristic[bytes]) -> None:
    """One notification a second, as long as the process lives."""
    heart, loop = Heart(), asyncio.get_running_loop()
    begin = loop.time()
    for second in range(1, 1 << 30):
        await asyncio.sleep(max(0.0, begin + second - loop.time()))
        value = measurement(heart.rate, heart.beats_until(float(second)))
        try:
            await wearable.notify(characteristic, value)
        except core.BaseBumbleError:
            logging.getLogger(__name__).warning("a notification was lost with its link")


async def run(a: Namespace) -> None:
    """Build the patch and let it live."""
    device, transport = await open_host(a.hci, a.name, a.address, a.key.with_suffix(".bonds"))
    rate: gatt.Characteristic[bytes] = Characteristic(
        gatt.GATT_HEART_RATE_MEASUREMENT_CHARACTERISTIC, Characteristic.Properties.NOTIFY, Characteristic.READABLE, b""
    )
    location: gatt.Characteristic[bytes] = Characteristic(
        gatt.GATT_BODY_SENSOR_LOCATION_CHARACTERISTIC, Characteristic.Properties.READ, Characteristic.READABLE, b"\x01"
    )
    services = [
        Service(gatt.GATT_HEART_RATE_SERVICE, [rate, location]),
        DeviceInformationService(
            manufacturer_name="Corvita", model_number="Patch 2", serial_number="CV2-000117", firmware_revision="1.4.2"
        ),
        BatteryService(lambda _: 87),
    ]
    advertised = [gatt.GATT_HEART_RATE_SERVICE, gatt.GATT_BATTERY_SERVICE]
    wearable = Wearable(device, signer_of(MODEL, load_key(a.key)), a.passkey, services, advertised, a.interval_ms)
    await live(wearable, transport, a.ctl, beat(wearable, rate))


def main() -> None:
    """Command line."""
    a = arguments(__doc__ or "", "C0:00:00:00:00:01", "Patch CV2-000117").parse_args()
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(run(a))


if __name__ == "__main__":
    main()
