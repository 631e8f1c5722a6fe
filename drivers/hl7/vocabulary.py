"""PURE. What a bedside device measures, in which unit, and why not: codes as messages carry them -> the product's own names.

Quantities are reference identifiers of ISO/IEEE 11073-10101 (a context-free code is partition * 65536 + term code), units are
UCUM. Only what is known here is read; a code of LOINC that has no exact counterpart is not guessed. Refuses to know messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Lookup = Callable[[bytes, bytes, bytes], str | None]
_MDC_NAME = re.compile(rb"MDC_[A-Z0-9_]{1,48}")
_UCUM_NAME = re.compile(rb"[A-Za-z0-9%/.*^\[\]{}'\"-]{1,24}")

# Codes of ISO/IEEE 11073-10101, where the text beside them is missing or free.
_MDC = {
    147842: "MDC_ECG_HEART_RATE", 149514: "MDC_PULS_RATE", 149530: "MDC_PULS_OXIM_PULS_RATE", 150456: "MDC_PULS_OXIM_SAT_O2",
    151562: "MDC_RESP_RATE", 150033: "MDC_PRESS_BLD_ART_SYS", 150034: "MDC_PRESS_BLD_ART_DIA", 150035: "MDC_PRESS_BLD_ART_MEAN",
    150021: "MDC_PRESS_BLD_NONINV_SYS", 150022: "MDC_PRESS_BLD_NONINV_DIA", 150023: "MDC_PRESS_BLD_NONINV_MEAN",
    150037: "MDC_PRESS_BLD_ART_ABP_SYS", 150038: "MDC_PRESS_BLD_ART_ABP_DIA", 150039: "MDC_PRESS_BLD_ART_ABP_MEAN",
    150301: "MDC_PRESS_CUFF_SYS", 150302: "MDC_PRESS_CUFF_DIA", 150303: "MDC_PRESS_CUFF_MEAN", 150344: "MDC_TEMP",
    150364: "MDC_TEMP_BODY", 151708: "MDC_CONC_AWAY_CO2_ET",
}  # fmt: skip

# LOINC terms that say exactly the same.
_LOINC = {
    b"8867-4": "MDC_ECG_HEART_RATE", b"8889-8": "MDC_PULS_OXIM_PULS_RATE", b"59408-5": "MDC_PULS_OXIM_SAT_O2",
    b"9279-1": "MDC_RESP_RATE", b"8310-5": "MDC_TEMP_BODY", b"61006-3": "MDC_PULS_OXIM_PERF_REL",
    b"76534-7": "MDC_PRESS_BLD_NONINV_SYS", b"76535-4": "MDC_PRESS_BLD_NONINV_DIA", b"76536-2": "MDC_PRESS_BLD_NONINV_MEAN",
    b"76215-3": "MDC_PRESS_BLD_ART_SYS", b"76213-8": "MDC_PRESS_BLD_ART_DIA", b"76214-6": "MDC_PRESS_BLD_ART_MEAN",
}  # fmt: skip

_UNITS = {
    b"MDC_DIM_DIMLESS": "1", b"MDC_DIM_PERCENT": "%", b"MDC_DIM_BEAT_PER_MIN": "/min", b"MDC_DIM_RESP_PER_MIN": "/min",
    b"MDC_DIM_PER_MIN": "/min", b"MDC_DIM_PULS_PER_MIN": "/min", b"MDC_DIM_MMHG": "mm[Hg]", b"MDC_DIM_KILO_PASCAL": "kPa",
    b"MDC_DIM_CM_H2O": "cm[H2O]", b"MDC_DIM_DEGC": "Cel", b"MDC_DIM_FAHR": "[degF]", b"MDC_DIM_MILLI_L": "mL", b"MDC_DIM_X_L": "L",
    b"MDC_DIM_MILLI_L_PER_HR": "mL/h", b"MDC_DIM_MILLI_L_PER_MIN": "mL/min", b"MDC_DIM_X_L_PER_MIN": "L/min",
    b"MDC_DIM_MILLI_SEC": "ms", b"MDC_DIM_SEC": "s", b"MDC_DIM_MIN": "min", b"MDC_DIM_HR": "h", b"MDC_DIM_MILLI_VOLT": "mV",
    b"MDC_DIM_MILLI_M": "mm", b"MDC_DIM_CENTI_M": "cm", b"MDC_DIM_KILO_G": "kg", b"MDC_DIM_X_G": "g", b"MDC_DIM_MILLI_G": "mg",
    b"MDC_DIM_MICRO_G": "ug", b"MDC_DIM_MILLI_MOLE_PER_L": "mmol/L", b"MDC_DIM_MILLI_G_PER_DL": "mg/dL",
}  # fmt: skip
_UNIT_CODES = {
    262656: b"MDC_DIM_DIMLESS", 262688: b"MDC_DIM_PERCENT", 264864: b"MDC_DIM_BEAT_PER_MIN", 264928: b"MDC_DIM_RESP_PER_MIN",
    266016: b"MDC_DIM_MMHG", 265987: b"MDC_DIM_KILO_PASCAL", 268192: b"MDC_DIM_DEGC", 264338: b"MDC_DIM_MILLI_SEC",
    263875: b"MDC_DIM_KILO_G", 265266: b"MDC_DIM_MILLI_L_PER_HR", 266418: b"MDC_DIM_MILLI_VOLT",
}  # fmt: skip

# OBX-8 of a device (the validity flags of IHE PCD-01) -> why there is no value; a test's or a demonstration's is none either.
_ABSENT = {
    b"INV": "invalid", b"NAV": "not available", b"OFF": "switched off", b"CAL": "calibrating", b"ONG": "still measuring",
    b"TEST": "test data", b"DEMO": "demonstration data", b"NaN": "not a number", b"PINF": "above the range",
    b"NINF": "below the range",
}  # fmt: skip
MISSING = "no value"
NO_READING = (b"D", b"W", b"N", b"O", b"I")  # OBX-11: deleted, of the wrong patient, not asked for, ordered only, still to come
UNOBTAINABLE = (b"X",)  # OBX-11: no result can be obtained


def quantity(code: bytes, text: bytes, system: bytes) -> str | None:
    """The reference identifier of one coded element; None: it has none that is known."""
    if system in (b"MDC", b"ISO+"):
        number = int(code) if code.isdigit() and len(code) <= 10 else 0
        return _MDC.get(number) or (text.decode("ascii") if number and _MDC_NAME.fullmatch(text) else None)
    return _LOINC.get(code) if system in (b"LN", b"LOINC") else None


def unit(code: bytes, text: bytes, system: bytes) -> str | None:
    """The UCUM unit of one coded element; None: it has none that is known."""
    if system in (b"MDC", b"ISO+"):
        number = int(code) if code.isdigit() and len(code) <= 10 else 0
        return _UNITS.get(_UNIT_CODES.get(number, text))
    if system == b"UCUM":
        return code.decode("ascii") if _UCUM_NAME.fullmatch(code) else None
    return None


def absence(flags: list[bytes]) -> str | None:
    """Why there is no value, by the flags of OBX-8; None: they say nothing of it."""
    return next((_ABSENT[f] for f in flags if f in _ABSENT), None)
