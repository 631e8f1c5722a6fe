"""The figures: what they count, that Prometheus can read them, and that nothing in them names a device or a person."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_plain

from gateway import figures
from gateway.engine import Engine
from gateway.errors import RefusedError
from gateway.machines import within_a_token
from gateway.meters import DENIED, Meters, Spread
from gateway.model.effect import Severity
from gateway.model.event import EvidenceArrived, EvidenceFailed, OperatorCommand
from gateway.model.evidence import Channel, ChannelKind, Evidence, MediaType
from gateway.model.instant import Instant
from gateway.model.metric import Family, Kind, Sample
from gateway.model.outbox import CopyView, DeadLetter, OutboxView
from gateway.model.roles import MAY
from gateway.web.exposition import OPENMETRICS, PLAIN, exposition, negotiate, number
from tests.fakes.ward import Ward

OWN = figures.Own("0.1.0", 7.5, 2, 1, 1024, 0, 12, 8, 900, 3.25)
UNITS = ("_seconds", "_bytes", "_total", "_info")


@pytest.fixture(scope="module")
def ward() -> Ward:
    w = Ward()
    w.link()
    w.attest_all()
    w.registers[103] = 9
    w.fingerprint()  # bad: a veto
    w.feed(EvidenceFailed("patch-1", MediaType.PSA, "no answer"))
    forged = Evidence("patch-1", MediaType.PSA, b"x", b"n", Channel(ChannelKind.OPEN, ""), w.now, "test")
    w.feed(EvidenceArrived(forged))  # nobody asked
    nonce = w.challenge("patch-1", MediaType.PSA)
    w.present("patch-1", MediaType.PSA, b"\xa0", nonce)  # asked, but no token
    return w


def _everything(w: Ward) -> list[Family]:
    letter = DeadLetter(1, "t", "r", Instant("b", 1, 1), "{}")
    waiting = OutboxView(
        "delivers", True, 12, 1, 4096, None, 100, 84, 3, 4, (), (letter,), syslog=CopyView("copies", True, 17, 83.5)
    )
    own = [*figures.own(OWN), *figures.ward(w.engine, [3, 3, 2], [Severity.ALARM]), *figures.outbox(waiting)]
    return [*own, *Meters().families()]


def _values(families: list[Family], name: str) -> dict[tuple[str, ...], float]:
    found = next(f for f in families if f.name == name)
    return {tuple(v for _, v in s.labels): s.value for s in found.samples}


def test_what_is_counted(ward: Ward) -> None:
    found = _everything(ward)
    devices = _values(found, "wardgate_devices")
    assert devices["enforced", "0"] == 1, "the pump, after its bad fingerprint"
    assert sum(devices.values()) == 2
    assert _values(found, "wardgate_leases") == {("1",): 0, ("2",): 1, ("3",): 2}
    evidence = _values(found, "wardgate_evidence")
    assert evidence["fingerprint", "veto"] == 1
    assert evidence["fingerprint", "warning"] == 1
    assert evidence["unknown", "none-came"] == 1
    assert evidence["unknown", "unasked"] == 1
    assert sum(v for (_, o), v in evidence.items() if o == "unauthenticated") == 1
    assert _values(found, "wardgate_alarms") == {("information",): 0, ("warning",): 0, ("alarm",): 1}
    assert _values(found, "wardgate_outbox_oldest_seconds") == {(): 0}
    assert _values(found, "wardgate_syslog_lines") == {(): 17}
    assert _values(found, "wardgate_syslog_oldest_seconds") == {(): 83.5}
    assert _values(found, "wardgate_quote_age_seconds") == {(): 3.25}


@pytest.mark.parametrize(("content_type", "read"), [(PLAIN, read_plain), (OPENMETRICS, read_openmetrics)])
def test_prometheus_reads_them(ward: Ward, content_type: str, read) -> None:
    families = _everything(ward)
    there = {f.name: f for f in read(exposition(families, content_type))}
    assert set(there) == {f.name for f in families}
    for f in families:
        assert there[f.name].type == f.kind
        assert there[f.name].documentation == f.help
        got = {(s.name, tuple(sorted(s.labels.items()))): s.value for s in there[f.name].samples}
        wanted = {
            (f.name + (s.suffix or ("_total" if f.kind is Kind.COUNTER else "")), tuple(sorted(s.labels))): s.value
            for s in f.samples
        }
        assert got == pytest.approx(wanted)


def test_names_and_labels_keep_the_conventions(ward: Ward) -> None:
    families = _everything(ward)
    assert len({f.name for f in families}) == len(families)
    for f in families:
        assert re.fullmatch(r"(wardgate|process)_[a-z_]+", f.name), f.name
        assert f.help.endswith("."), f.name
        assert not re.search(r"_(ms|ns|kb|mb|minutes|milliseconds)(_|$)", f.name), f"{f.name}: base units only"
        for s in f.samples:
            assert len(s.labels) <= 2
            for label, value in s.labels:
                assert re.fullmatch(r"[a-z]+", label)
                assert re.fullmatch(r"[a-z0-9.+eInf-]{1,40}", value), f"{f.name}: {value}"
    text = exposition(families)
    for secret in ("pump-1", "patch-1", "10.77.", "C0:00", "Maker"):
        assert secret not in text


def test_a_stranger_cannot_make_new_labels() -> None:
    meters = Meters()
    for i in range(1000):
        meters.packets({"event": "denied", "reason": f"made-up-{i}", "count": 2})
    meters.packets({"event": "denied", "reason": "lateral"})
    meters.packets({"event": "seen", "reason": "seen", "count": 3})
    found = _values(list(meters.families()), "wardgate_denied_packets")
    assert set(found) == {(r,) for r in DENIED}
    assert (found["other",], found["lateral",], meters.passed_while_observed) == (2000, 1, 3)


def test_a_histogram_is_cumulative() -> None:
    spread = Spread((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 30.0):
        spread.add(value)
    samples = {(s.suffix, dict(s.labels).get("le", "")): s.value for s in spread.samples()}
    assert samples == {("_bucket", "0.1"): 2, ("_bucket", "1.0"): 3, ("_bucket", "+Inf"): 4, ("_sum", ""): 30.65, ("_count", ""): 4}


async def test_a_blocked_loop_is_seen() -> None:
    meters = Meters()
    task = asyncio.create_task(meters.run())
    await asyncio.sleep(0.1)
    time.sleep(0.75)  # noqa: ASYNC251 - the very thing that is measured
    await asyncio.sleep(0.02)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    late = {s.labels: s.value for s in meters.lag.samples()}
    assert late[(("le", "0.1"),)] == 0
    assert late[(("le", "+Inf"),)] == 1


def test_text_that_would_break_a_line_is_escaped() -> None:
    odd = Family("wardgate_odd", Kind.GAUGE, 'a\n"b" \\c', (Sample(float("nan"), (("x", 'q"\n\\'),)), Sample(1e300)))
    for content_type, read in ((PLAIN, read_plain), (OPENMETRICS, read_openmetrics)):
        found = next(iter(read(exposition([odd], content_type))))
        assert found.samples[0].labels == {"x": 'q"\n\\'}
        assert found.documentation == odd.help
    assert [number(x) for x in (3.0, 0.1, float("inf"), float("-inf"), 1e300)] == ["3", "0.1", "+Inf", "-Inf", "1e+300"]
    with pytest.raises(ValueError, match="no name"):
        Family("wardgate_x_total", Kind.COUNTER, "x", ())


def test_a_scraper_gets_the_format_that_it_asks_for() -> None:
    asked = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;q=0.3"
    assert negotiate(asked) == OPENMETRICS
    assert negotiate("") == negotiate("*/*") == negotiate("text/plain") == PLAIN


def test_an_empty_ward_has_figures_too() -> None:
    text = exposition([*figures.own(OWN), *figures.ward(Engine(), [], [])])
    assert 'wardgate_devices{state="proposed",level="0"} 0' in text


@pytest.mark.parametrize("verb", ["accept", "enforce", "observe", "suspend", "remove", "break-glass", "service", "undo"])
def test_a_token_never_does_what_a_person_answers_for(verb: str) -> None:
    with pytest.raises(RefusedError, match="a person answers for it"):
        within_a_token(OperatorCommand("token:ci", "admin", verb, "pump-1", ()), MAY)


def test_a_token_acts_for_itself_alone() -> None:
    within_a_token(OperatorCommand("token:ci", "biomed", "attest", "pump-1", ()), MAY)
    for command in (
        OperatorCommand("token:ci", "admin", "attest", "pump-1", (("as", "anna"),)),
        OperatorCommand("token:ci", "admin", "attest", "pump-1", (), "a password"),
    ):
        with pytest.raises(RefusedError, match="for itself"):
            within_a_token(command, MAY)
