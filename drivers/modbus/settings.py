"""The driver's settings, checked: ``[drivers.modbus]`` of ``wardgate.toml``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from drivers.modbus.waiting import Limits
from gateway.errors import InputErrors


@dataclass(frozen=True, slots=True)
class Settings:
    """``listen_port``: where redirected clients arrive, on every address of ``listen``. ``unit``: the unit id of our own requests
    (``units``: by device id). ``upstream``: address -> (host, port) to dial instead, for a bench without namespaces.
    ``request_s``, ``wait_s``: see ``Limits``; ``attest_s``: for one piece of evidence.
    """

    listen_port: int = 15502
    listen: tuple[str, ...] = ("0.0.0.0", "::")  # noqa: S104 - the static rules let only redirected connections in
    unit: int = 1
    units: Mapping[str, int] = field(default_factory=dict)
    upstream: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    attest_s: float = 8.0

    @classmethod
    def parse(cls, settings: Mapping[str, object]) -> Settings:
        """Check everything; raises InputErrors with every mistake."""
        taken, problems = dict(settings), []

        def take(key: str, default: Any, right: Callable[[Any], bool], expected: str) -> Any:
            value = taken.pop(key, default)
            if not right(value):
                problems.append((key, f"expected {expected}, got {str(value)[:40]!r}"))
                return default
            return value

        port = take("listen_port", 15502, _is_port, "a port")
        listen = take("listen", ["0.0.0.0", "::"], _is_hosts, "a list of addresses")  # noqa: S104 - see above
        unit = take("unit", 1, _is_unit, "a unit id, 0 to 255")
        units = take("units", {}, lambda v: isinstance(v, dict) and all(map(_is_unit, v.values())), "device ids with unit ids")
        upstream = take("upstream", {}, _is_upstream, "addresses with [host, port]")
        seconds = [
            take(k, d, _is_seconds, "seconds, more than 0") for k, d in (("request_s", 3.0), ("wait_s", 2.0), ("attest_s", 8.0))
        ]
        problems += [(key, "is no setting of the Modbus driver") for key in taken]
        if problems:
            raise InputErrors("drivers.modbus", tuple(problems))
        request_s, wait_s, attest_s = (float(s) for s in seconds)
        where = {a: (str(h), int(p)) for a, (h, p) in upstream.items()}
        limits = Limits(request_s, wait_s)
        return cls(port, tuple(listen), unit, dict(units), where, limits, attest_s)


def _is_port(value: object) -> bool:
    return type(value) is int and 0 <= value <= 65535


def _is_unit(value: object) -> bool:
    return type(value) is int and 0 <= value <= 255


def _is_hosts(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(v, str) for v in value)


def _is_seconds(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < 3600  # type: ignore[operator]


def _is_upstream(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(v, list | tuple) and len(v) == 2 and _is_port(v[1]) for v in value.values())
