"""The bench's pulse oximeter, a process of its own (``python -m hil.oximeter --hci PATH --ctl SOCK --key FILE``).

Pulse Oximeter service (1822): continuous measurement at 1 Hz, a spot check every five seconds; PSA tokens in COSE_Mac0, made with
a key that it derives for each gateway. Its finger is simulated: saturation drifts, the pulse follows a heart at rest.
"""

from __future__ import annotations

import asyncio
import logging
import random
from argparse import Namespace

from bumble import core, gatt
from bumble.core import UUID
from bumble.gatt import Characteristic, Service
from bumble.profiles.device_information_service import DeviceInformationService

from hil.gateways import Gateways
from hil.patch import Heart
from hil.psa import load_device_key, mac_signer_of
from hil.wearable import Wearable, arguments, live, open_host

MODEL = "oximeter"
SPOT_EVERY = 5
NAN = b"\xff\x07"
_VALIDATED = 1 << 7  # Measurement Status: validated data


def sfloat(value: float) -> bytes:
    """An SFLOAT with one decimal (ISO/IEEE 11073-20601, F.8)."""
    return (0xF << 12 | round(value * 10) & 0xFFF).to_bytes(2, "little")


def continuous(spo2: bytes, rate: bytes, status: int = _VALIDATED) -> bytes:
    """PLX Continuous Measurement: normal values and measurement status."""
    return b"\x04" + spo2 + rate + status.to_bytes(2, "little")


def spot_check(spo2: bytes, rate: bytes, amplitude: bytes) -> bytes:
    """PLX Spot-Check Measurement: values, measurement status, pulse amplitude index."""
    return b"\x0a" + spo2 + rate + _VALIDATED.to_bytes(2, "little") + amplitude


async def measure(wearable: Wearable, stream: gatt.Characteristic[bytes], spot: gatt.Characteristic[bytes]) -> None:
    """One continuous measurement a second; when the finger moves, for a moment no number."""
    chance, heart, loop = random.Random(2), Heart(seed=2), asyncio.get_running_loop()
    spo2, begin = 97.0, loop.time()
    for second in range(1, 1 << 30):
        await asyncio.sleep(max(0.0, begin + second - loop.time()))
        spo2 = min(99.5, max(93.0, spo2 + chance.gauss(0.0, 0.2)))
        heart.beats_until(float(second))
        moved = second % 29 == 0
        now = (NAN, NAN) if moved else (sfloat(spo2), sfloat(heart.rate))
        try:
            await wearable.notify(stream, continuous(*now))
            if second % SPOT_EVERY == 0:
                await wearable.notify(spot, spot_check(*now, sfloat(4.2)))
        except (core.BaseBumbleError, TimeoutError):
            logging.getLogger(__name__).warning("a measurement was lost with its link")


async def run(a: Namespace) -> None:
    """Build the oximeter and let it live."""
    device, transport = await open_host(a.hci, a.name, a.address, a.key.with_suffix(".bonds"))
    p = Characteristic.Properties
    stream: gatt.Characteristic[bytes] = Characteristic(UUID.from_16_bits(0x2A5F), p.NOTIFY, Characteristic.READABLE, b"")
    spot: gatt.Characteristic[bytes] = Characteristic(UUID.from_16_bits(0x2A5E), p.INDICATE, Characteristic.READABLE, b"")
    features: gatt.Characteristic[bytes] = Characteristic(UUID.from_16_bits(0x2A60), p.READ, Characteristic.READABLE, b"\x01\x00")
    oximetry = UUID.from_16_bits(0x1822)
    services = [
        Service(oximetry, [stream, spot, features]),
        DeviceInformationService(
            manufacturer_name="Corvita", model_number="Oxi 1", serial_number="CO1-000042", firmware_revision="1.4.2"
        ),
    ]
    signer = mac_signer_of(MODEL, load_device_key(a.key))
    gateways = Gateways(a.key.with_suffix(".gateways"))
    wearable = Wearable(device, signer, a.passkey, services, [oximetry], a.interval_ms, gateways=gateways)
    await live(wearable, transport, a.ctl, measure(wearable, stream, spot))


def main() -> None:
    """Command line."""
    a = arguments(__doc__ or "", "C0:00:00:00:00:02", "Oxi CO1-000042").parse_args()
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(run(a))


if __name__ == "__main__":
    main()
