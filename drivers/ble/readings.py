"""One device's readings: decoded from notifications, labelled with the level they were taken at, and delivered. Knows no link."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from drivers.ble import heart_rate, plx
from drivers.ble.heart_rate import Quantity
from drivers.delivery import Delivery
from gateway.errors import WardgateError
from gateway.model.instant import Instant
from gateway.model.level import TrustLevel
from gateway.model.observation import Observation

Parser = Callable[[bytes], Sequence[Quantity]]
# characteristic -> its parser; what is not here cannot be subscribed to
PARSERS: dict[str, Parser] = {
    heart_rate.MEASUREMENT_UUID: lambda data: heart_rate.parse_heart_rate(data).quantities,
    plx.CONTINUOUS_UUID: lambda data: plx.parse_continuous(data).quantities,
    plx.SPOT_CHECK_UUID: lambda data: plx.parse_spot_check(data).quantities,
}


class Readings(Delivery):
    """Take notifications with ``take``; ``deliver`` runs as long as the device is served."""

    def take(self, characteristic: str, data: bytes, level: TrustLevel | None, now: Instant) -> None:
        """Decode a notification and queue its observations; one that does not parse is counted."""
        try:
            quantities = PARSERS[characteristic](data)
        except WardgateError as e:
            self.count_malformed(e)
            return
        self.take_quantities(quantities, level, now)

    def take_quantities(self, quantities: Sequence[Quantity], level: TrustLevel | None, now: Instant) -> None:
        """Queue values that were decoded elsewhere."""
        self.put([Observation(self._device_id, q.code, q.unit, now, now, level, q.value, q.absent) for q in quantities])
