"""The table of bus drivers. An appliance loads no code because it happens to be installed: a driver is imported when configured."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from gateway.errors import InputError

if TYPE_CHECKING:
    from gateway.driver import Driver

# bus -> module:class. Everything a driver needs beyond the core is imported with it, not here.
DRIVERS: dict[str, str] = {
    "ble": "drivers.ble.driver:BleDriver",
    "hl7": "drivers.hl7.driver:Hl7Driver",
    "modbus": "drivers.modbus.driver:ModbusDriver",
}


def load(name: str) -> type[Driver]:
    """The class of the driver ``name``; raises InputError for a name not in the table."""
    if name not in DRIVERS:
        raise InputError(f"there is no driver {name!r}", f"the drivers are: {', '.join(sorted(DRIVERS))}")
    module, _, cls = DRIVERS[name].partition(":")
    found: type[Driver] = getattr(importlib.import_module(module), cls)
    return found
