"""The table of drivers: explicit, lazy, and true."""

from __future__ import annotations

import subprocess
import sys

import pytest

from drivers import DRIVERS, load
from gateway.errors import InputError


def test_the_ble_driver_is_what_the_table_says() -> None:
    assert load("ble").__name__ == "BleDriver"


def test_an_unknown_driver_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="the drivers are: ble, hl7, modbus"):
        load("os:system")


def test_the_table_imports_nothing_by_itself() -> None:
    heavy = "{'bleak', 'dbus_fast', 'pymodbus', 'asyncio'}"
    code = f"import sys, drivers; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=20).returncode == 0
    assert set(DRIVERS) == {"ble", "hl7", "modbus"}
