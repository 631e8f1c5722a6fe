"""PURE. L7 rules in a profile file, and what of them is a read and what a write.

Reads come in under ``reads``, writes under ``writes``, so that a file cannot hide a write among reads; ``gatt`` and ``hl7`` say it
themselves. Knows the numbers of Modbus functions, not their bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gateway.model.level import TrustLevel
from gateway.model.profile import GattRule, Hl7Rule, ModbusRule, OnLoss, Rule
from gateway.policy.fields import Table, shown

# Modbus Application Protocol 1.1b3: public functions that change nothing in the device. All others count as writes.
READ_CODES = frozenset({1, 2, 3, 4, 7, 11, 12, 17, 20, 24, 43})
REGISTER_WRITES = frozenset({5, 6, 15, 16})  # writes whose values a rule can limit
_READ_WRITE_MULTIPLE = 23
_SHORT_UUID = re.compile(r"[0-9a-fA-F]{4}")
_LONG_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MESSAGE = re.compile(r"[A-Z0-9]{3}\^[A-Z0-9]{3}")


def is_write(rule: Rule) -> bool:
    """Whether a request under this rule changes something in the device."""
    if isinstance(rule, ModbusRule):
        return rule.function_code not in READ_CODES
    return isinstance(rule, GattRule) and rule.access == "write"


@dataclass(frozen=True, slots=True)
class Levels:
    """From which level on a function's reads and writes pass."""

    reads: TrustLevel
    writes: TrustLevel

    @staticmethod
    def of(required: TrustLevel, on_loss: OnLoss) -> Levels:
        """``read_only`` lets reads pass from level 1 on; otherwise all of a function needs its required level."""
        return Levels(TrustLevel.LIMITED if on_loss is OnLoss.READ_ONLY else required, required)


def read_rules(table: Table, levels: Levels) -> tuple[Rule, ...]:
    """All rules of a function's table: ``reads``, ``writes``, ``gatt``, ``hl7``."""
    rules: list[Rule] = []
    for row in table.tables("reads"):
        rules += _modbus(row, levels.reads, writes=False)
    for row in table.tables("writes"):
        rules += _modbus(row, levels.writes, writes=True)
    for row in table.tables("gatt"):
        rules += _gatt(row, levels)
    for row in table.tables("hl7"):
        rules += _hl7(row, levels.writes)
    return tuple(rules)


def read_always_allowed(table: Table) -> tuple[ModbusRule, ...]:
    """``always_allowed_writes``: stop, pause, silence. Each must say which value of which register it is."""
    rules: list[ModbusRule] = []
    for row in table.tables("always_allowed_writes"):
        if not row.has("values"):
            row.wrong("values", "is missing: a write that is always allowed must name the values that stop, pause or silence")
        codes = row.raw("function_code")
        if isinstance(codes, int) and codes not in REGISTER_WRITES:
            row.wrong("function_code", f"{codes} cannot always be allowed: only writes of registers and coils (5, 6, 15, 16) can")
        rules += _modbus(row, TrustLevel.NONE, writes=True, raisable=False)
    return tuple(rules)


def _modbus(row: Table, level: TrustLevel, *, writes: bool, raisable: bool = True) -> list[ModbusRule]:
    codes = _codes(row, writes)
    first, last = span(row, "span", default=(0, 0xFFFF))
    values = row.raw("values")
    if values is not None and not (isinstance(values, list) and values and all(type(v) is int for v in values)):
        row.wrong("values", f"expected a list of whole numbers, got {shown(values)}")
        values = None
    if values is not None and not writes:
        row.wrong("values", "only a write can be limited to values")
    unit = row.maybe("unit", int, 0) if row.has("unit") else None
    level = _raised(row, level) if raisable else level
    row.finish()
    built = [
        row.build(
            lambda code=code: ModbusRule(  # type: ignore[misc]
                code, first, last, level, None if values is None else tuple(values), unit
            )
        )
        for code in codes or [1]  # even without a function code, the rest of the rule is checked
    ]
    return [b for b in built if b is not None] if codes else []


def _codes(row: Table, writes: bool) -> list[int]:
    value = row.raw("function_code")
    codes = value if isinstance(value, list) else [value]
    if value is None or not codes or not all(type(c) is int for c in codes):
        row.wrong("function_code", "a Modbus function code, or a list of them, is needed here")
        return []
    for code in codes:
        if code == _READ_WRITE_MULTIPLE:
            row.wrong("function_code", "23 reads and writes: give its read span under 3 and its write span under 16")
        elif writes and code in READ_CODES:
            row.wrong("function_code", f"{code} is a read: move it under reads")
        elif not writes and code not in READ_CODES:
            row.wrong("function_code", f"{code} is not known to be a read: move it under writes")
    return codes


def span(row: Table, key: str, default: tuple[int, int]) -> tuple[int, int]:
    """An inclusive span ``[first, last]`` of addresses 0 to 65535."""
    value = row.raw(key)
    if value is None:
        return default
    if not is_span(value):
        row.wrong(key, f"expected [first, last] with 0 <= first <= last <= 65535, got {shown(value)}")
        return default
    return value[0], value[1]


def is_span(value: object) -> bool:
    """Whether ``value`` is a list [first, last] of register addresses."""
    return (
        isinstance(value, list) and len(value) == 2 and all(type(v) is int for v in value) and 0 <= value[0] <= value[1] <= 0xFFFF
    )


def _raised(row: Table, level: TrustLevel) -> TrustLevel:
    """A rule may ask for more than its function, never for less."""
    wanted = row.maybe("level", int, int(level))
    if not level <= wanted <= TrustLevel.FULL:
        row.wrong("level", f"{wanted} is not between {int(level)}, which the function needs here, and 3")
        return level
    return TrustLevel(wanted)


def _gatt(row: Table, levels: Levels) -> list[Rule]:
    uuid = row.take("characteristic", str, "0000")
    access = row.choice("access", str, ("read", "write", "notify"), "read")
    if _SHORT_UUID.fullmatch(uuid):
        uuid = uuid.upper()
    elif _LONG_UUID.fullmatch(uuid):
        uuid = uuid.lower()
    else:
        row.wrong("characteristic", f"{shown(uuid)} is no UUID of 4 hex digits or of the form 8-4-4-4-12")
    level = _raised(row, levels.writes if access == "write" else levels.reads)
    row.finish()
    return [GattRule(uuid, access, level)]


def _hl7(row: Table, level: TrustLevel) -> list[Rule]:
    application = row.take("application", str, "-")
    facility = row.take("facility", str, "-")
    message = row.take("message", str, "ORU^R01")
    if not _MESSAGE.fullmatch(message):
        row.wrong("message", f"{shown(message)} is no message^event such as ORU^R01")
    level = _raised(row, level)
    row.finish()
    return [Hl7Rule(application, facility, message, level)]
