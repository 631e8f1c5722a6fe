"""Every message that leaves follows its schema, and what comes in is exactly an acknowledgement or nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import MalformedError
from gateway.judgement import announcements
from gateway.model.certificate import CertificateId
from gateway.model.effect import Alarm, Record, Send, Severity
from gateway.model.instant import NS_PER_S, Instant, TimeQuality
from gateway.model.level import TrustLevel
from gateway.model.observation import Observation
from gateway.model.outbox import Letter, Waiting
from gateway.uplink.messages import (
    event_body,
    letter_message,
    parse_receipt,
    readings_key,
    readings_message,
    state_message,
)

NOW = Instant("boot-1", 1000 * NS_PER_S, 1_800_000_000 * NS_PER_S, TimeQuality.RTC)
STREAM = "0123456789abcdef"


def follows(name: str, text: str) -> dict[str, object]:
    """Parse and check against the schema we publish."""
    schema = json.loads((resources.files("gateway.uplink") / "schema" / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    body: dict[str, object] = json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    jsonschema.Draft202012Validator(schema).validate(body)
    return body


def one(**changes: object) -> Waiting:
    o = Observation("patch-1", "MDC_ECG_HEART_RATE", "/min", NOW, NOW, TrustLevel.FULL, 72.0)
    return Waiting(5, replace(o, **changes))  # type: ignore[arg-type]


times = st.integers(0, 2**62)
instants = st.builds(Instant, st.text(max_size=40), times, st.integers(-(2**40), 2**62), st.sampled_from(TimeQuality))
certificates = st.none() | st.builds(CertificateId, st.integers(0, 2**40), st.binary(min_size=32, max_size=32))


@st.composite
def waiting(draw: st.DrawFn) -> Waiting:
    value = draw(st.none() | st.floats(allow_nan=False, allow_infinity=False))
    absent = draw(st.text(max_size=20)) if value is None else None
    level = draw(st.none() | st.sampled_from(TrustLevel))
    o = Observation("a-1", draw(st.text(max_size=30)), draw(st.text(max_size=9)), draw(instants), draw(instants), level, value,
                    absent, draw(certificates))  # fmt: skip
    return Waiting(draw(st.integers(1, 2**40)), o)


@settings(max_examples=40, deadline=None)
@given(batch=st.lists(waiting(), min_size=1, max_size=20), now=instants)
def test_any_readings_follow_the_schema(batch: list[Waiting], now: Instant) -> None:
    body = follows("observations", readings_message("gw", STREAM, batch, now))
    assert body["message"] == readings_key(batch)


def test_a_reading_says_level_certificate_and_time() -> None:
    text = readings_message("gw", STREAM, [one(certificate=CertificateId(41, bytes(range(32))))], NOW)
    (reading,) = follows("observations", text)["observations"]  # type: ignore[misc]
    assert reading == {
        "id": 5, "quantity": "MDC_ECG_HEART_RATE", "unit": "/min", "value": 72.0, "level": 3,
        "certificate": {"sequence": 41, "ear_sha256": bytes(range(32)).hex()},
        "taken_at": {"utc": "2027-01-15T08:00:00.000000Z", "quality": "rtc", "boot": "boot-1", "boot_ns": 1000 * NS_PER_S},
        "received_at": {"utc": "2027-01-15T08:00:00.000000Z", "quality": "rtc", "boot": "boot-1", "boot_ns": 1000 * NS_PER_S},
        "is_historical": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("later_s", "boot", "historical"),
    [(9.9, "boot-1", False), (10.1, "boot-1", True), (0.0, "boot-2", True), (-5.0, "boot-1", False)],
)
def test_what_was_delayed_says_so(later_s: float, boot: str, historical: bool) -> None:
    now = replace(NOW.plus(later_s), boot_id=boot)
    (reading,) = follows("observations", readings_message("gw", STREAM, [one()], now))["observations"]  # type: ignore[misc]
    assert reading["is_historical"] is historical


@pytest.mark.parametrize(
    "damage", [{"level": 4}, {"certificate": "x"}, {"value": "72"}, {"absent": "both"}, {"extra": 1}, {"id": 0}]
)
def test_the_schema_refuses_what_is_not_one(damage: dict[str, object]) -> None:
    body = json.loads(readings_message("gw", STREAM, [one()], NOW))
    body["observations"][0] |= damage
    with pytest.raises(jsonschema.ValidationError):
        follows("observations", json.dumps(body))


def test_alarms_and_decisions_follow_the_schema() -> None:
    decided = (("level", 0), ("before", 3), ("functions", (("control", False),)), ("policy", "ab"), ("severity", "warning"))
    revoked = tuple(x for x in decided if x[0] != "functions")
    sends = announcements([
        Record("decision", "pump-1", "pump-1: level 3 → 0", decided),
        Alarm("", "part-tpm", Severity.ALARM, "tpm is gone"),
        Record("seen", "", "not for the hospital"),
        Alarm("pump-1", "link-down", Severity.WARNING, "no link", raised=False),
        Record("decision", "pump-1", "pump-1: level 3 → 0", revoked),
    ])  # fmt: skip
    assert [(s.topic, s.priority) for s in sends if isinstance(s, Send)] == [
        ("decision", 1), ("alarm", 0), ("alarm", 0), ("decision", 1),
    ]  # fmt: skip
    for number, send in enumerate(sends, 1):
        assert isinstance(send, Send)
        letter = Letter(number, send.priority, send.topic, event_body(send, NOW), NOW)
        name, text = letter_message("gw", STREAM, letter, NOW.plus(60))
        body = follows("event", text)
        assert (body["message"], body["is_historical"], body["kind"]) == (name, True, send.topic)
    over = json.loads(letter_message("gw", STREAM, Letter(9, 0, "alarm", event_body(sends[2], NOW), NOW), NOW)[1])  # type: ignore[arg-type]
    assert (over["raised"], over["severity"]) == (False, "information")


def test_a_dead_letter_goes_again_as_it_was() -> None:
    sent = readings_message("gw", STREAM, [one()], NOW)
    letter = Letter(3, 9, "readings/patch-1", sent, NOW, "patch-1", 1)
    assert letter_message("gw", STREAM, letter, NOW.plus(999)) == ("r5-5-1", sent)


def test_birth_and_will_follow_the_schema() -> None:
    for online in (True, False):
        assert follows("state", state_message("gw", STREAM, "s1", online, NOW))["state"] == ("online" if online else "offline")


def receipt(**changes: object) -> bytes:
    return json.dumps({"schema": "wardgate/acknowledgement/1", "stream": STREAM, "messages": ["r1-2-2"], **changes}).encode()


def test_an_acknowledgement_is_read() -> None:
    follows("acknowledgement", receipt().decode())
    assert parse_receipt(receipt(), STREAM) == ("r1-2-2",)
    assert parse_receipt(receipt(messages=[]), STREAM) == ()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema": "wardgate/acknowledgement/1"}',
        receipt(schema="wardgate/command/1"), receipt(stream="f" * 16), receipt(messages="r1"), receipt(messages=[1]),
        receipt(messages=["x" * 65]), receipt(messages=["x"] * 1001), receipt(command="stop"), receipt(messages=["x"] * 20_000),
    ],
)  # fmt: skip
def test_anything_else_from_the_network_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_receipt(data, STREAM)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_bytes_from_the_network_are_an_acknowledgement_or_malformed(data: bytes) -> None:
    try:
        parse_receipt(data, STREAM)
    except MalformedError:
        return
    pytest.fail("random bytes passed for an acknowledgement")
