"""Words and numbers for people: durations, countdowns, quantities, sentences.

Pure functions from values to text. Refuses to know HTML and what a device is.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

LEVEL_WORDS = ("none", "limited", "standard", "full")
BUS_WORDS = {"ble": "Bluetooth", "modbus": "Modbus", "hl7": "HL7", "wired": "cable"}
PART_WORDS = {
    "tpm": "TPM",
    "bluetooth": "Bluetooth",
    "bluetooth-announcing": "Beacon epochs",
    "enforcer": "Enforcer",
    "disk": "Disk",
    "uplink": "Uplink",
    "clock": "Clock",
    "own-address": "Own address",
    "free-space": "Free space",
    "hospital-cable": "Hospital cable",
    "last-run": "Last run",
    "standstill": "Standstill",
}
LINK_WORDS = {"up": "link up", "down": "link down", "unknown": "link not known yet"}
STATE_WORDS = {
    "proposed": "new",
    "observing": "observed",
    "enforced": "enforced",
    "service": "in service",
    "suspended": "suspended",
    "retired": "retired",
}
_TIME_QUALITIES = {
    "unknown": ("time not known", False),
    "floor": ("time is a lower bound", False),
    "rtc": ("time of the clock chip", True),
    "network": ("network time, not authenticated", True),
    "authenticated": ("authenticated time", True),
}
FRESH_MS = 5_000  # a reading older than this is shown as the last one, greyed, with its age
_QUANTITIES = {
    "MDC_ECG_HEART_RATE": "Heart rate",
    "MDC_ECG_TIME_PD_RR_GL": "RR interval",
    "MDC_PULS_RATE": "Pulse rate",
    "MDC_PULS_OXIM_SAT_O2": "SpO₂",
    "MDC_PULS_OXIM_PULS_RATE": "Pulse rate",
    "MDC_PULS_OXIM_PERF_REL": "Perfusion index",
    "MDC_FLOW_FLUID_PUMP": "Infusion rate",
    "MDC_TEMP_BODY": "Temperature",
    "MDC_PRESS_BLD_NONINV_SYS": "Systolic",
    "MDC_PRESS_BLD_NONINV_DIA": "Diastolic",
    "MDC_RESP_RATE": "Breathing rate",
    "MDC_TEMP": "Temperature",
    "MDC_CONC_AWAY_CO2_ET": "End-tidal CO₂",
    "MDC_PRESS_BLD_ART_ABP_SYS": "Arterial systolic",
    "MDC_PRESS_BLD_ART_ABP_DIA": "Arterial diastolic",
    "MDC_PRESS_BLD_ART_ABP_MEAN": "Arterial mean",
    "MDC_PRESS_CUFF_SYS": "Cuff systolic",
}
_UNITS = {"/min": "/min", "{beats}/min": "bpm", "mL/h": "ml/h", "Cel": "°C", "mm[Hg]": "mmHg", "1": ""}


def duration(ms: int) -> str:
    """How long something has lasted: ``8 s``, ``3 min``, ``2 h 13 min``, ``4 d 2 h``."""
    seconds = max(0, ms) // 1000
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes < 60:
        return f"{minutes} min"
    if hours < 24:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def countdown(ms: int) -> str:
    """How long is left: ``0:24``, ``12:40``, ``1:02:03``; ``over`` once nothing is."""
    seconds = -(-ms // 1000)
    if seconds <= 0:
        return "over"
    hours, minutes, rest = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def time_quality(name: str) -> tuple[str, bool]:
    """How far the wall time can be believed, in words, and whether it can be believed at all."""
    return _TIME_QUALITIES.get(name, ("time not known", False))


def quantity(code: str) -> str:
    """A person's name for an MDC code; an unknown code in lower case without its prefix."""
    return _QUANTITIES.get(code) or code.removeprefix("MDC_").replace("_", " ").strip().capitalize() or "Reading"


def unit(ucum: str) -> str:
    """A person's form of a UCUM unit."""
    return _UNITS.get(ucum, ucum)


def number(value: float) -> str:
    """A measured value to four digits, its whole part whole: nobody reads more from across a room."""
    whole = len(str(int(abs(value))))
    return f"{value:.{max(0, 4 - whole)}f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def sentence(text: str) -> str:
    """``text`` with a capital and a full stop, once each. A name of a device at its start keeps its small letter."""
    text = text.strip()
    if not text:
        return ""
    head = text.split(" ", 1)[0]
    if not head.endswith(":") or head[:-1].isalpha():
        text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else text + "."


def short(text: str, most: int = 120) -> str:
    """``text``, cut where nobody reads on."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def listing(names: list[str], limit: int = 3) -> str:
    """``a``, ``a and b``, ``a, b and c``, ``a, b, c and 4 more``."""
    if len(names) > limit:
        return f"{', '.join(names[:limit])} and {len(names) - limit} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def day(text: str) -> str:
    """``Tuesday, 24 November 2026`` from ISO 8601; the text itself when it is no date."""
    at = moment(text)
    return text if at is None else f"{at:%A}, {at.day} {at:%B %Y}"


def size(number: int) -> str:
    """Bytes for people: ``812 bytes``, ``3.4 MiB``."""
    value = float(number)
    for word in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024 or word == "GiB":
            break
        value /= 1024
    return f"{number} bytes" if word == "bytes" else f"{value:.1f} {word}"


def count(number: int) -> str:
    """``12 345``: a thin space between thousands."""
    return f"{number:,}".replace(",", "\u202f")


def moment(text: str) -> datetime | None:
    """An aware UTC time from ISO 8601 text; None when it is none."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def earlier(text: str, ms: int) -> str:
    """ISO 8601, ``ms`` milliseconds before the ISO time ``text``, to the second; empty when ``text`` is no time."""
    at = moment(text)
    return "" if at is None else (at - timedelta(milliseconds=ms)).strftime("%Y-%m-%dT%H:%M:%SZ")
