"""Readings in messages: what is read, how it is named, when it was taken; and that nothing of a patient is among it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.hl7.message import parse
from drivers.hl7.observations import Decoded, decode
from gateway.errors import MalformedError
from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.model.level import TrustLevel
from hil.hl7 import oru as bench_oru
from tests.drivers.hl7.ward import oru

SENT_S = 1_795_498_201  # 2026-11-24 05:30:01 UTC
SENT, TAKEN = b"20261124053001+0000", b"20261124053000+0000"
RECEIVED = Instant("b", 10_000 * NS_PER_S, SENT_S * NS_PER_S, TimeQuality.NETWORK)
SINCE = RECEIVED.plus(-5000)
HEART, BPM = b"147842^MDC_ECG_HEART_RATE^MDC", b"264864^MDC_DIM_BEAT_PER_MIN^MDC"


def obx(
    value: bytes = b"72", *, code: bytes = HEART, unit: bytes = BPM, kind: bytes = b"NM", flags: bytes = b"", status: bytes = b"R",
    taken: bytes = TAKEN,
) -> bytes:  # fmt: skip
    """One OBX as a monitor sends it."""
    return b"OBX|1|%b|%b|1.1|%b|%b||%b|||%b|||%b||||E" % (kind, code, value, unit, flags, status, taken)


def read(*lines: bytes, sent: bytes = SENT, received: Instant = RECEIVED, since: Instant | None = SINCE) -> Decoded:
    """What is read of a message with these lines."""
    head = b"MSH|^~\\&|BEDMON|WARD3|CENTRAL|HOSP|%b||ORU^R01|M1|P|2.6" % sent
    patient = b"PID|1||100012^^^HOSP^MR||DOE^JANE||19700101|F|||ELM STREET 1"
    message = parse(b"\r".join((head, patient, *lines)) + b"\r")
    return decode(message, "monitor-1", TrustLevel.STANDARD, received, since)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (obx(), ("MDC_ECG_HEART_RATE", "/min", 72.0, None)),
        (obx(b"-7.25"), ("MDC_ECG_HEART_RATE", "/min", -7.25, None)),
        (obx(b"+98", kind=b"SN"), None),
        (obx(b"^98", kind=b"SN"), ("MDC_ECG_HEART_RATE", "/min", 98.0, None)),
        (obx(b"=^98", kind=b"SN"), ("MDC_ECG_HEART_RATE", "/min", 98.0, None)),
        (obx(b">^98", kind=b"SN"), None),
        (obx(b"^98^-^99", kind=b"SN"), None),
        (obx(code=b"150456^^MDC", unit=b"262688^^MDC"), ("MDC_PULS_OXIM_SAT_O2", "%", 72.0, None)),
        (obx(code=b"147842^whatever they call it^MDC"), ("MDC_ECG_HEART_RATE", "/min", 72.0, None)),
        (obx(code=b"999999^MDC_VENT_SOMETHING^MDC"), ("MDC_VENT_SOMETHING", "/min", 72.0, None)),
        (obx(code=b"^MDC_VENT_SOMETHING^MDC"), None),
        (obx(code=b"999999^DOE JANE^MDC"), None),
        (obx(code=b"8867-4^Heart rate^LN"), ("MDC_ECG_HEART_RATE", "/min", 72.0, None)),
        (obx(code=b"59408-5^SpO2^LN", unit=b"%^percent^UCUM"), ("MDC_PULS_OXIM_SAT_O2", "%", 72.0, None)),
        (obx(code=b"2708-6^O2 saturation^LN"), None),  # arterial, and often said of a pulse oximeter: not guessed
        (obx(code=b"HR^heart^99LOCAL^8867-4^Heart rate^LN"), ("MDC_ECG_HEART_RATE", "/min", 72.0, None)),
        (obx(code=b"HR^heart^99LOCAL"), None),
        (obx(unit=b"mm[Hg]^^UCUM"), ("MDC_ECG_HEART_RATE", "mm[Hg]", 72.0, None)),
        (obx(unit=b"Jane Doe^^UCUM"), None),
        (obx(unit=b"bpm"), None),
        (obx(unit=b""), None),
        (obx(b"1e9"), None),
        (obx(b"0x10"), None),
        (obx(b"seventy"), None),
        (obx(b"9" * 400), None),
        (obx(b""), ("MDC_ECG_HEART_RATE", "/min", None, "no value")),
        (obx(b'""'), ("MDC_ECG_HEART_RATE", "/min", None, "no value")),
        (obx(b"72", status=b"X"), ("MDC_ECG_HEART_RATE", "/min", None, "cannot be measured")),
        (obx(b"72", flags=b"INV^Invalid"), ("MDC_ECG_HEART_RATE", "/min", None, "invalid")),
        (obx(b"72", flags=b"H~TEST"), ("MDC_ECG_HEART_RATE", "/min", None, "test data")),
        (obx(b"72", flags=b"H~N"), ("MDC_ECG_HEART_RATE", "/min", 72.0, None)),
        (obx(b"", flags=b"NAV"), ("MDC_ECG_HEART_RATE", "/min", None, "not available")),
    ],
)
def test_one_measurement(line: bytes, expected: tuple[str, str, float | None, str | None] | None) -> None:
    found = read(line)
    got = [(o.quantity, o.unit, o.value, o.absent) for o in found.observations]
    assert got == ([expected] if expected else [])
    assert found.unknown == (not expected)
    assert all((o.device_id, o.received_at, o.level) == ("monitor-1", RECEIVED, TrustLevel.STANDARD) for o in found.observations)


@pytest.mark.parametrize(
    "line",
    [obx(status=b"D"), obx(status=b"W"), obx(kind=b"ST"), obx(kind=b"NA"), obx(kind=b"TX"), obx(kind=b""), b"NTE|1||72", b"OBX|1"],
)
def test_what_is_no_reading_is_not_even_counted(line: bytes) -> None:
    assert read(line) == Decoded([], 0)


@pytest.mark.parametrize(
    ("taken", "sent", "age_s", "quality"),
    [
        (TAKEN, SENT, 1.0, TimeQuality.NETWORK),
        (b"20261124053000.25+0000", SENT, 0.75, TimeQuality.NETWORK),
        (b"20261124063000+0100", SENT, 1.0, TimeQuality.NETWORK),
        (b"20261124053000", SENT, 1.0, TimeQuality.NETWORK),  # the zone of MSH-7 holds for all of it
        (b"202611240529", SENT, 61.0, TimeQuality.NETWORK),
        (b"20261124053000", b"20261124053001", 1.0, TimeQuality.NETWORK),  # nobody says which zone: only the distance counts
        (b"20261124053000", b"20261124013001-0400", 0.0, TimeQuality.UNKNOWN),  # four hours to come
        (b"20261124053000+0000", b"20261124053001", 0.0, TimeQuality.UNKNOWN),  # they cannot be compared
        (b"", SENT, 0.0, TimeQuality.UNKNOWN),
        (TAKEN, b"", 0.0, TimeQuality.UNKNOWN),
        (b"2026", SENT, 0.0, TimeQuality.UNKNOWN),
        (b"20261324053000", SENT, 0.0, TimeQuality.UNKNOWN),
        (b"20261124053100+0000", SENT, 0.0, TimeQuality.UNKNOWN),  # a minute to come
        (b"20261124053003+0000", SENT, 0.0, TimeQuality.NETWORK),  # two seconds to come: rounding
        (b"20200101000000+0000", SENT, 0.0, TimeQuality.UNKNOWN),  # a clock that was never set
        # it was sent two minutes ago: it waited in the device, or the device's clock is behind; either way it is no fresh value
        (b"20261124052800+0000", b"20261124052801+0000", 121.0, TimeQuality.NETWORK),
        (b"20270101000000+0000", b"20270101000001+0000", 1.0, TimeQuality.UNKNOWN),  # sent in the future: its clock is wrong
    ],
)
def test_when_it_was_taken(taken: bytes, sent: bytes, age_s: float, quality: TimeQuality) -> None:
    (o,) = read(obx(taken=taken), sent=sent).observations
    assert RECEIVED.seconds_since(o.taken_at) == pytest.approx(age_s)
    assert (RECEIVED.utc_ns - o.taken_at.utc_ns) / NS_PER_S == pytest.approx(age_s)
    assert o.taken_at.quality is quality


def test_the_time_of_the_order_holds_for_its_observations() -> None:
    first, second = b"OBR|1||||||20261124052901+0000", b"OBR|2||||||20261124053001+0000"
    ages = [RECEIVED.seconds_since(o.taken_at) for o in read(first, obx(taken=b""), second, obx(taken=b""), obx()).observations]
    assert ages == [60.0, 0.0, 1.0]


def test_what_our_own_clock_does_not_know_is_not_compared_with_it() -> None:
    doubtful = Instant("b", 10_000 * NS_PER_S, 0, TimeQuality.UNKNOWN)
    (o,) = read(obx(), received=doubtful).observations
    assert doubtful.seconds_since(o.taken_at) == 1.0 and o.taken_at.quality is TimeQuality.UNKNOWN


def test_no_level_for_what_was_taken_before_there_was_evidence() -> None:
    old, new = obx(taken=b"20261124052500+0000"), obx()
    assert [o.level for o in read(old, new, since=RECEIVED.plus(-10)).observations] == [None, TrustLevel.STANDARD]
    assert [o.level for o in read(old, new, since=None).observations] == [None, None]


def test_a_message_holds_a_bounded_number_and_any_separators() -> None:
    many = read(*([obx()] * 1500))
    assert (len(many.observations), many.number, many.too_many) == (1000, 1000, True)
    strange = read(*([obx(code=b"4711^pain^99LOCAL")] * 1500))
    assert (len(strange.observations), strange.unknown, strange.number, strange.too_many) == (0, 1000, 1000, True)
    assert not read(*([obx()] * 1000)).too_many
    other = bench_oru(b"S1").replace(b"|", b"#").replace(b"^", b"*").replace(b"~", b"!")
    found = decode(parse(other), "m", TrustLevel.FULL, RECEIVED, SINCE)
    assert len(found.observations) == 10 and found.unknown == 0


def test_the_benchs_ten_measurements_and_nothing_of_the_patient() -> None:
    found = decode(parse(bench_oru(b"P1")), "monitor-1", TrustLevel.FULL, RECEIVED, SINCE)
    assert {o.quantity for o in found.observations} >= {"MDC_PULS_OXIM_SAT_O2", "MDC_RESP_RATE", "MDC_TEMP"}
    assert len(found.observations) == 10
    text = repr(found)
    assert not [word for word in ("DOE", "JANE", "100012", "0257470000000012") if word in text]


@given(st.lists(st.binary(max_size=60).filter(lambda b: not set(b"\r\n\0\x0b\x1c") & set(b)), max_size=20))
def test_hostile_fields_never_raise(fields: list[bytes]) -> None:
    line = b"OBX|1|NM|" + b"|".join(fields)
    try:
        message = parse(oru().replace(b"UNICODE UTF-8", b"") + line + b"\r")
    except MalformedError:
        return
    for o in decode(message, "m", TrustLevel.FULL, RECEIVED, SINCE).observations:
        assert o.quantity.startswith("MDC_") and o.unit.isascii() and len(o.unit) <= 24
