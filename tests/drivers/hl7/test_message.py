"""Messages: what is refused, what is read, and that nothing is changed by it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.hl7.ack import Verdict, acknowledge, is_ack, is_due, read_ack
from drivers.hl7.fingerprint import MAX_VALUE, encode_fingerprint, identity
from drivers.hl7.message import CODECS, MAX_SEGMENTS, _separate, _wrong_name, key_of, parse, parse_header
from drivers.hl7.rules import Filter
from gateway.errors import MalformedError
from gateway.model.level import TrustLevel
from gateway.model.profile import Hl7Rule
from gateway.verifier.fingerprint import parse_hl7
from hil.hl7 import malformed
from hil.hl7 import oru as bench_oru
from tests.drivers.hl7.ward import EUI, oru

FRAMED = {
    name: wire
    for name, wire in malformed(oru())
    if wire.startswith(b"\x0b") and wire.count(b"\x0b") == 1 and wire.endswith(b"\x1c\r") and len(wire) < 1 << 20
}


def test_fields_as_they_stand() -> None:
    m = parse(oru(b"ID7"))
    assert (m.control_id, m.kind, m.header(3), m.header(12), m.header(18)) == (
        b"ID7", (b"ORU", b"R01"), b"BEDMON^0257470000000012^EUI-64", b"2.6", b"UNICODE UTF-8",
    )  # fmt: skip
    assert m.header(25) == b""
    obx = m.segments(b"OBX")
    assert len(obx) == 2 and m.field(obx[1], 5) == b"72" and m.field(obx[0], 18) == EUI and m.field(obx[0], 99) == b""
    assert m.raw == oru(b"ID7")


def test_any_five_distinct_separators() -> None:
    other = oru().replace(b"|", b"#").replace(b"^", b"*").replace(b"~", b"!").replace(b"\\", b"?").replace(b"&", b"$")
    m = parse(other)
    assert m.kind == (b"ORU", b"R01") and m.header(4) == b"WARD3"
    assert parse(oru().replace(b"^~\\&", b"^~\\&#", 1)).kind == (b"ORU", b"R01")  # MSH-2 of v2.7: a truncation character


def test_segments_are_bounded() -> None:
    most = oru() + b"NTE|1\r" * (MAX_SEGMENTS - oru().count(b"\r"))
    assert len(parse(most).lines) == MAX_SEGMENTS
    with pytest.raises(MalformedError, match="more than 10000 segments"):
        parse(most + b"NTE|1\r")


@pytest.mark.parametrize("wire", FRAMED.values(), ids=FRAMED)
def test_the_malformed_list(wire: bytes) -> None:
    with pytest.raises(MalformedError):
        parse(wire[1:-2])


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_character_sets_of_the_table(codec: bytes) -> None:
    m = oru().replace(b"UNICODE UTF-8", codec)
    assert parse(m).raw == m
    assert parse(m.replace(codec + b"\r", codec + b"~8859/1\r", 1)).raw if codec else True


@pytest.mark.parametrize(
    "codec",
    [b"UNICODE", b"UNICODE UTF-16", b"UNICODE UTF-32", b"ISO IR87", b"utf-8", b"8859/16", b"8859/1~ISO IR87", b"GB 18030-2000"],
)
def test_other_character_sets_are_refused(codec: bytes) -> None:
    with pytest.raises(MalformedError, match="character set"):
        parse(oru().replace(b"UNICODE UTF-8", codec))


def test_bytes_have_to_be_what_is_said() -> None:
    latin = oru().replace(b"DOE", b"D\xd6E")
    assert parse(latin.replace(b"UNICODE UTF-8", b"8859/1")).raw
    assert parse(latin.replace(b"UNICODE UTF-8", b"")).raw  # nothing is said: the bytes are not judged
    for said in (b"ASCII", b"UNICODE UTF-8"):
        with pytest.raises(MalformedError, match="as MSH-18 says"):
            parse(latin.replace(b"UNICODE UTF-8", said))


@given(st.binary(max_size=400), st.integers(0, 200))
def test_hostile_bytes_raise_one_error_or_parse(data: bytes, cut: int) -> None:
    for raw in (data, oru()[:cut] + data, data + oru()[cut:], oru()[:cut] + data + oru()[cut:]):
        try:
            m = parse(raw)
        except MalformedError:
            continue
        assert m.raw == raw and raw.startswith(b"MSH") and raw.endswith(b"\r")
        assert not set(b"\n\0\x0b\x1c") & set(raw) and b"\rMSH" not in raw
        assert b"\r".join(m.lines) + b"\r" == raw


# --- acknowledgements ---


@pytest.mark.parametrize(
    ("mode", "verdict", "code"),
    [
        (b"", Verdict.ACCEPT, b"AA"), (b"", Verdict.ERROR, b"AE"), (b"", Verdict.REJECT, b"AR"),
        (b"|||AL|NE", Verdict.ACCEPT, b"CA"), (b"|||AL|NE", Verdict.ERROR, b"CE"), (b"|||AL|NE", Verdict.REJECT, b"CR"),
        (b"|||ER|NE", Verdict.ACCEPT, None), (b"|||ER|NE", Verdict.ERROR, b"CE"), (b"|||SU|NE", Verdict.ACCEPT, b"CA"),
        (b"|||SU|NE", Verdict.REJECT, None), (b"|||NE|NE", Verdict.ERROR, None), (b"|||NE|AL", Verdict.ACCEPT, b"AA"),
        (b"|||NE|AL", Verdict.ERROR, b"AE"), (b"||||AL", Verdict.REJECT, b"AR"), (b"|||NE|ER", Verdict.ACCEPT, None),
    ],
)  # fmt: skip
def test_the_code_by_mode(mode: bytes, verdict: Verdict, code: bytes | None) -> None:
    m = parse(oru(b"K9", msh=mode))
    answer = acknowledge(m, verdict, b"why | it ^ failed", b"20261124", b"WG1")
    if code is None:
        assert answer is None
        return
    assert answer is not None
    ack = read_ack(answer)
    assert (ack.code, ack.control_id, ack.verdict) == (code, b"K9", verdict)
    head = parse(answer)
    assert (head.header(3), head.header(5), head.header(9)) == (m.header(5), m.header(3), b"ACK^R01^ACK")
    assert head.segments(b"MSA")[0].count(b"|") == 3  # the text cannot add fields
    assert bool(head.segments(b"ERR")) is (verdict is not Verdict.ACCEPT)
    assert is_ack(head) and not is_ack(m)


def test_an_answer_is_made_with_the_senders_own_separators() -> None:
    m = parse(oru().replace(b"|", b"#").replace(b"^", b"*").replace(b"UNICODE UTF-8", b"").replace(b"2.6", b"2.3"))
    answer = acknowledge(m, Verdict.ERROR, b"a # b * c", b"1", b"W")
    assert answer is not None and answer.startswith(b"MSH#*~\\&#CENTRAL#HOSP#BEDMON*")
    assert b"\rMSA#AE#M1#a   b   c\r" in answer and b"ERR" not in answer


def test_who_waits_for_an_answer() -> None:
    due = {
        mode: is_due(parse(oru(msh=mode)))
        for mode in (b"", b"|||AL|NE", b"|||NE|NE", b"|||ER|AL", b"|||NE|AL", b"||||AL", b"|||SU|NE")
    }
    assert due == {
        b"": True,
        b"|||AL|NE": True,
        b"|||NE|NE": False,
        b"|||ER|AL": False,
        b"|||NE|AL": True,
        b"||||AL": True,
        b"|||SU|NE": False,
    }


def test_a_header_is_enough_for_an_answer() -> None:
    broken = oru(b"H1").replace(b"\rPID", b"\r?ID")
    with pytest.raises(MalformedError):
        parse(broken)
    answer = acknowledge(parse_header(broken), Verdict.REJECT, b"malformed", b"1", b"W")
    assert answer is not None and read_ack(answer).control_id == b"H1"


# --- rules ---


@pytest.mark.parametrize(
    ("application", "facility", "kind", "needed"),
    [
        (b"BEDMON", b"WARD3", b"ORU^R01", 2), (b"BEDMON^1^L", b"WARD3", b"ORU^R01^ORU_R01", 2),
        (b"BEDMON", b"WARD3^2", b"ORU^R01", 2),
        (b"EXACT^1^L", b"W", b"ADT^A01", 3), (b"EXACT", b"W", b"ADT^A01", None), (b"EXACT^1^L^2", b"W", b"ADT^A01", None),
        (b"BEDMO", b"WARD3", b"ORU^R01", None), (b"BEDMON2", b"WARD3", b"ORU^R01", None), (b"bedmon", b"WARD3", b"ORU^R01", None),
        (b"", b"WARD3", b"ORU^R01", None), (b"BEDMON", b"", b"ORU^R01", None), (b"BEDMON", b"WARD3", b"ORU^R02", None),
        (b"BEDMON", b"WARD3", b"ORU", None), (b"BEDMON", b"WARD3", b"ORU~ORU^R01", None),
        (b"BEDMON\\T\\", b"WARD3", b"ORU^R01", None),
    ],
)  # fmt: skip
def test_rules_look_at_application_facility_and_event(application: bytes, facility: bytes, kind: bytes, needed: int | None) -> None:
    rules = (
        Hl7Rule("BEDMON", "WARD3", "ORU^R01", TrustLevel.FULL),
        Hl7Rule("BEDMON", "WARD3", "ORU^R01", TrustLevel.STANDARD),
        Hl7Rule("EXACT^1^L", "W", "ADT^A01", TrustLevel.FULL),
    )
    raw = oru().replace(b"BEDMON^0257470000000012^EUI-64", application, 1).replace(b"|WARD3|", b"|" + facility + b"|")
    m = parse(raw.replace(b"ORU^R01^ORU_R01", kind))
    f = Filter(rules)
    assert f.needs(m) == needed
    assert f.needs(m) == needed  # remembered


def test_what_is_remembered_is_bounded() -> None:
    f = Filter((Hl7Rule("BEDMON", "WARD3", "ORU^R01"),))
    for i in range(500):
        f.needs(parse(oru().replace(b"BEDMON", b"B%d" % i, 1)))
    assert len(f._known) <= 64


# --- fingerprints ---


def test_identity_and_its_evidence() -> None:
    two = oru(observations=3).replace(EUI, b"B", 1).replace(EUI, b"A", 1) + b"PRT|1|UC||EQUIP||||||C^^^X\r"
    said = identity(parse(two))
    assert said["equipment"] == b"~".join(sorted([b"A", b"B", EUI, b"C^^^X"]))
    assert said["software"] == b"4.1" and said["binary"] == b"b1027"
    assert identity(parse(oru(observations=0).replace(b"SFT|", b"NTE|"))).keys() == {"application", "facility"}
    nonce, values = parse_hl7(encode_fingerprint(b"n" * 32, said))
    assert nonce == b"n" * 32 and values == {f"hl7:{k}": v for k, v in said.items()}


def test_a_flood_of_identifiers_is_told_by_its_hash() -> None:
    raw = oru(observations=0) + b"".join(b"OBX|%d|||||||||||||||||ID%d\r" % (i, i) for i in range(2000))
    value = identity(parse(raw))["equipment"]
    assert value.startswith(b"sha256:") and len(value) < MAX_VALUE


def test_a_resend_is_the_same_and_a_reused_number_is_not() -> None:
    first = parse(oru())
    assert key_of(first) == key_of(parse(oru().replace(b"20261124053000+0000", b"20261124053009+0000", 1)))
    others = [oru(b"M2"), oru(observations=3), oru().replace(b"|WARD3|", b"|WARD4|"), oru().replace(b"BEDMON", b"BEDMOM", 1)]
    assert len({key_of(parse(m)) for m in (oru(), *others)}) == 5


def test_the_benchs_monitor_sends_ten_observations() -> None:
    m = parse(bench_oru(b"L1"))
    assert len(m.segments(b"OBX")) == 10 and identity(m)["equipment"] == EUI.replace(b"^^", b"0257470000000012^^", 1)


def test_what_a_sender_chooses_at_length_is_not_remembered() -> None:
    names = _wrong_name.cache_info().currsize
    many = b"".join(b"%04d\r" % i for i in range(9000))
    with pytest.raises(MalformedError, match="a segment called"):
        parse(b"MSH|^~\\&|A|B|C|D|1||ORU^R01|M1|P|2.6\r" + many)
    assert _wrong_name.cache_info().currsize == names
    separators = _separate.cache_info().currsize
    with pytest.raises(MalformedError, match="separators"):
        parse(b"MSH|" + b"!" * 100_000 + b"|A|B|C|D|1||ORU^R01|M1|P|2.6\r")
    assert _separate.cache_info().currsize == separators
    chosen = Filter([Hl7Rule("A", "B", "ORU^R01", TrustLevel.STANDARD)])
    usual = parse(b"MSH|^~\\&|A|B|C|D|1||ORU^R01|M1|P|2.6\r")
    long = parse(b"MSH|^~\\&|A|B|C|D|1||ORU^R01^" + b"x" * 10_000 + b"|M1|P|2.6\r")
    assert chosen.needs(usual) is chosen.needs(long) is TrustLevel.STANDARD
    assert len(chosen._known) == 1
