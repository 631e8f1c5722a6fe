"""The bench's temperature patch, a process of its own (``python -m hil.beacon --hci PATH --ctl SOCK --key FILE``).

Bonded once and told the epoch over the bond, then it only advertises: a beacon with its skin temperature under the MAC, and it
listens for the epoch its gateway announces. A cheap device with a small battery would listen only when the next epoch is due.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress
from typing import Any

from bumble import core, data_types, hci
from bumble.core import UUID, AdvertisingData
from bumble.device import Advertisement, Device

from drivers.ble import attestation
from hil.gateways import Gateways
from hil.oximeter import sfloat
from hil.psa import MacSigner, load_device_key, mac_signer_of
from hil.wearable import Wearable, arguments, live, open_host

MODEL = "temperature-beacon"
COMPANY = 0xFFFF  # "for internal testing" (Assigned Numbers, section 7.1)
TEMPERATURE = 1  # kind of a reading: body temperature, degrees Celsius
PERIOD_S = 0.5
_BROADCAST = UUID(attestation.ANNOUNCEMENT_UUID)


class Beacon:
    """Makes beacons for the gateway it is bonded with, and follows its epochs."""

    def __init__(self, wearable: Wearable, device: Device, signer: MacSigner, gateways: Gateways, interval_ms: float) -> None:
        self._wearable, self._device, self._signer, self._gateways = wearable, device, signer, gateways
        self._interval_ms = interval_ms
        self._counter = 0
        device.on(Device.EVENT_ADVERTISEMENT, self._overheard)

    def _overheard(self, advertisement: Advertisement) -> None:
        for uuid, value in advertisement.data.get_all(AdvertisingData.Type.SERVICE_DATA_128_BIT_UUID):
            if uuid == _BROADCAST:
                for chain in self._gateways.chains.values():
                    chain.follow(bytes(value))

    def _shown(self, temperature: float) -> bytes:
        flags = AdvertisingData.Flags.LE_GENERAL_DISCOVERABLE_MODE | AdvertisingData.Flags.BR_EDR_NOT_SUPPORTED
        shown: list[Any] = [data_types.Flags(flags)]
        for gateway, chain in list(self._gateways.chains.items())[:1]:
            self._counter += 1
            readings = bytes([TEMPERATURE]) + sfloat(temperature)
            payload = self._signer.beacon(gateway, chain.id, chain.number, self._counter, readings)
            shown.append(data_types.ManufacturerSpecificData(COMPANY, payload))
        return bytes(AdvertisingData(shown))

    async def live(self) -> None:
        """A new beacon twice a second, for ever."""
        chance, temperature = random.Random(3), 36.6
        await self._device.start_scanning(legacy=True, filter_duplicates=False)
        while True:
            temperature = min(38.0, max(35.5, temperature + chance.gauss(0.0, 0.02)))
            if self._wearable.present and not self._device.connections:
                with suppress(core.BaseBumbleError, hci.HCI_Error):  # a connection may begin at this very moment
                    await self._show(self._shown(temperature))
            await asyncio.sleep(PERIOD_S)

    async def _show(self, data: bytes) -> None:
        await self._device.send_sync_command(hci.HCI_LE_Set_Advertising_Data_Command(advertising_data=data))


async def run(a: Any) -> None:
    """Build the patch and let it live."""
    device, transport = await open_host(a.hci, a.name, a.address, a.key.with_suffix(".bonds"))
    signer = mac_signer_of(MODEL, load_device_key(a.key))
    gateways = Gateways(a.key.with_suffix(".gateways"))
    wearable = Wearable(device, signer, a.passkey, (), (), a.interval_ms, gateways=gateways)
    await live(wearable, transport, a.ctl, Beacon(wearable, device, signer, gateways, a.interval_ms).live())


def main() -> None:
    """Command line."""
    a = arguments(__doc__ or "", "C0:00:00:00:00:03", "Temp CT1-000007").parse_args()
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(run(a))


if __name__ == "__main__":
    main()
