"""The driver's settings, checked: ``[drivers.modbus]`` of ``wardgate.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from drivers.equipment import EVERYWHERE, Reading
from drivers.modbus.waiting import Limits


@dataclass(frozen=True, slots=True)
class Settings:
    """``listen_port``: where redirected clients arrive, on every address of ``listen``. ``unit``: the unit id of our own requests
    (``units``: by device id). ``upstream``: address -> (host, port) to dial instead, for a bench without namespaces.
    ``request_s``, ``wait_s``: see ``Limits``; ``attest_s``: for one piece of evidence.
    """

    listen_port: int = 15502
    listen: tuple[str, ...] = EVERYWHERE
    unit: int = 1
    units: Mapping[str, int] = field(default_factory=dict)
    upstream: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    attest_s: float = 8.0

    @classmethod
    def parse(cls, settings: Mapping[str, object]) -> Settings:
        """Check everything; raises InputErrors with every mistake."""
        r = Reading("drivers.modbus", settings)
        port, listen = r.port(15502), r.hosts()
        unit = r.take("unit", 1, _is_unit, "a unit id, 0 to 255")
        units = r.take("units", {}, lambda v: isinstance(v, dict) and all(map(_is_unit, v.values())), "device ids with unit ids")
        upstream, seconds = r.upstream(), r.seconds({"request_s": 3.0, "wait_s": 2.0, "attest_s": 8.0})
        r.done("Modbus")
        limits = Limits(seconds["request_s"], seconds["wait_s"])
        return cls(port, listen, unit, dict(units), upstream, limits, seconds["attest_s"])


def _is_unit(value: object) -> bool:
    return type(value) is int and 0 <= value <= 255
