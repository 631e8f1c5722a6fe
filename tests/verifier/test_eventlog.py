"""TCG event logs: replay gives what a TPM would hold; anything else is malformed, and nothing but that is raised."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import EvidenceError, MalformedError
from gateway.verifier.eventlog import EV_NO_ACTION, parse_eventlog
from hil import firmware
from tests.verifier.eventlogs import IPL, NO_ACTION, SEPARATOR, Writer


def written(**more: object) -> Writer:
    log = Writer(**more)  # type: ignore[arg-type]
    log.add(0, 8, b"firmware 1.0")
    log.add(4, IPL, b"boot loader")
    log.add(4, IPL, b"kernel")
    log.add(0, NO_ACTION, b"a note")
    for pcr in (0, 4, 7):
        log.add(pcr, SEPARATOR, bytes(4))
    log.add(17, IPL, b"launch")
    return log


@pytest.mark.parametrize("banks", [("sha256",), ("sha1", "sha256"), ("sha1", "sha256", "sha384", "sha512")])
@pytest.mark.parametrize("locality", [None, 0, 3, 4])
def test_replay(banks: tuple[str, ...], locality: int | None) -> None:
    log = written(banks=banks, locality=locality)
    parsed = parse_eventlog(bytes(log.raw))
    assert parsed.algorithms == banks
    assert parsed.startup_locality == (locality or 0)
    for bank in banks:
        assert parsed.replay(bank) == log.pcrs[bank]
    assert set(parsed.replay()) == {0, 4, 7, 17}


def test_events_are_told() -> None:
    first, *_, last = parse_eventlog(bytes(written().raw)).events
    assert (first.pcr, first.type, first.data[:15]) == (0, EV_NO_ACTION, b"Spec ID Event03")
    assert (last.pcr, last.type, last.data, sorted(last.digests)) == (17, IPL, b"launch", ["sha1", "sha256"])
    with pytest.raises(TypeError):
        last.digests["sha1"] = b""  # type: ignore[index]


def test_the_older_format() -> None:
    log = written(agile=False)
    parsed = parse_eventlog(bytes(log.raw))
    assert parsed.algorithms == ("sha1",)
    assert parsed.replay("sha1") == log.pcrs["sha1"]
    with pytest.raises(EvidenceError, match="no sha256"):
        parsed.replay()


def test_the_benchs_firmware() -> None:
    log = firmware.boot()
    assert parse_eventlog(bytes(log.raw)).replay() == {n: v for n, v in log.pcrs.items() if any(v)}


@pytest.mark.parametrize("agile", [True, False])
def test_a_cut_log_is_malformed_or_shorter(agile: bool) -> None:
    """A log cut between two events is a shorter log; its replay gives other values. Cut anywhere else it is none."""
    raw = bytes(written(agile=agile).raw)
    whole = parse_eventlog(raw)
    lengths = set()
    for end in range(len(raw)):
        try:
            lengths.add(len(parse_eventlog(raw[:end]).events))
        except MalformedError:
            continue
    assert lengths == set(range(1, len(whole.events)))


def header(data: bytes, pcr: int = 0, digest: bytes = bytes(20)) -> bytes:
    return struct.pack("<II20sI", pcr, NO_ACTION, digest, len(data)) + data


SPEC = Writer(("sha256",)).spec()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        header(SPEC[:-1]),
        header(SPEC + b"\0"),
        header(SPEC, pcr=1),
        header(SPEC, digest=b"\1" * 20),
        header(SPEC[:24] + struct.pack("<I", 0) + b"\0"),
        header(SPEC[:24] + struct.pack("<I", 0xFFFFFFFF) + SPEC[28:]),
        header(SPEC[:28] + struct.pack("<HH", 0x0077, 32) + b"\0"),
        header(SPEC[:28] + struct.pack("<HH", 0x000B, 20) + b"\0"),
        header(SPEC[:24] + struct.pack("<IHHHH", 2, 0x000B, 32, 0x000B, 32) + b"\0"),
        header(SPEC) + struct.pack("<III", 24, IPL, 1) + b"\x0b\0" + bytes(32) + bytes(4),
        header(SPEC) + struct.pack("<III", 0, IPL, 0) + bytes(4),
        header(SPEC) + struct.pack("<III", 0, IPL, 2) + (b"\x0b\0" + bytes(32)) * 2 + bytes(4),
        header(SPEC) + struct.pack("<III", 0, IPL, 1) + b"\x04\0" + bytes(20) + bytes(4),
        header(SPEC) + struct.pack("<III", 0, IPL, 1) + b"\x0b\0" + bytes(32) + struct.pack("<I", 0xFFFFFFF0),
        bytes(Writer().raw) + b"\0" * 1024 * 1024,
    ],
)
def test_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_eventlog(raw)


def test_a_locality_that_cannot_be() -> None:
    late, twice = Writer(), Writer(locality=3)
    late.add(0, SEPARATOR, bytes(4))
    late.add(0, NO_ACTION, b"StartupLocality\0\3")
    twice.add(0, NO_ACTION, b"StartupLocality\0\3")
    for log in (late, twice, Writer(locality=1)):
        with pytest.raises(MalformedError, match="locality"):
            parse_eventlog(bytes(log.raw))


def test_too_many_events() -> None:
    log = Writer(("sha1",), agile=False)
    for _ in range(4097):
        log.add(0, SEPARATOR, b"")
    with pytest.raises(MalformedError, match="4096"):
        parse_eventlog(bytes(log.raw))


@given(st.binary(max_size=400), st.integers(0, 2000))
def test_garbage_raises_malformed_only(garbage: bytes, at: int) -> None:
    raw = bytes(written().raw)
    for data in (garbage, raw[:at] + garbage, raw[:at] + garbage + raw[at + len(garbage) :]):
        try:
            parse_eventlog(data).replay("sha1")
        except EvidenceError:
            continue
