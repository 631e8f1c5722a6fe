"""The document's checks, the listing's comparison, the wire's bounds and the lease book: pure, no kernel."""

from __future__ import annotations

import copy
import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.enforcer.document import PROBLEMS_MAX, SHAPES, DocumentError, canonical, check_document, parse_document
from gateway.enforcer.leases import LeaseBook
from gateway.enforcer.listing import KernelLease as Kept
from gateway.enforcer.listing import Listing, differences, parse_listing, wanted_sets
from gateway.enforcer.told import parse_headers
from gateway.enforcer.wire import DropRequest, Framer, GrantRequest, ViolationError, frame, parse_request
from tests.enforcer.ward import PUMP4, document


def problems(change: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(DocumentError) as caught:
        check_document(change)
    return dict(caught.value.problems)


def test_the_rigs_document_is_right_and_its_id_is_the_hash_of_its_canonical_bytes() -> None:
    made = check_document(document())
    assert set(made.sets) == set(SHAPES)
    assert parse_document(made.canonical).document_id == made.document_id
    assert parse_document(json.dumps(document(), indent=3).encode()).document_id == made.document_id
    assert made.cap_of()[PUMP4] == ("pump-1", 3)


def test_all_mistakes_are_reported_together_with_their_paths() -> None:
    wrong = document()
    wrong["version"] = 2
    wrong["sets"]["vital4"].append(["10.77.0.11", "10.77.0.100", "sctp", 70000])
    wrong["sets"]["lvl4"] = [["10.77.0.11"]]
    wrong["devices"]["pump-1"]["cap"] = True
    wrong["extra"] = 1
    found = problems(wrong)
    assert set(found) == {"version", "sets.vital4[2]", "sets.lvl4", "devices.pump-1.cap", "extra"}
    assert found["sets.vital4[2]"] == "field 2, 3 is wrong"


BAD: dict[str, tuple[list[Any], Any]] = {
    "an address of nobody is bound": (["sets", "bind4"], [["ward0", "02:57:47:00:00:11", "10.77.0.12"]]),
    "nft syntax in a port's name": (["sets", "port4"], [['p" . x }; flush ruleset', "02:57:47:00:00:11", "10.77.0.11"]]),
    "capital MAC": (["sets", "port4"], [["p", "02:57:47:00:00:AA", "10.77.0.11"]]),
    "a flow without a device": (["sets", "rtl1_4"], [["10.77.0.100", "10.77.0.101", "tcp", 1]]),
    "IPv6 in an IPv4 set": (["sets", "seen4"], [["fd77::11"]]),
    "not canonical": (["sets", "seen6"], [["fd77:0::11"]]),
    "a zone": (["devices", "pump-1", "addresses"], ["fe80::1%eth0"]),
    "a proxied vital flow": (["sets", "vital4"], [["10.77.0.100", "10.77.0.11", "tcp", 502]]),
    "one port to two proxies": (["sets", "via4"], [["10.77.0.11", "tcp", 502, 15502], ["10.77.0.11", "tcp", 502, 15503]]),
    "a privileged proxy": (["sets", "via4"], [["10.77.0.11", "tcp", 502, 22]]),
    "UDP to a proxy": (["sets", "via4"], [["10.77.0.11", "udp", 502, 15502]]),
    "an ICMP redirect": (["sets", "icmp4"], [["10.77.0.100", "10.77.0.11", 5]]),
    "an advertisement": (["sets", "icmp6"], [["fd77::11", "fd77::100", 134]]),
    "a port as a text": (["sets", "uplink4"], [["10.77.0.100", "tcp", "8883"]]),
    "an element twice": (["sets", "seen4"], [["10.77.0.11"], ["10.77.0.11"]]),
    "glass outside the profile": (["functions", "pump-1", "maintenance", "set4"], [["10.77.0.100", "10.77.0.11", "tcp", 22]]),
    "functions of nobody": (["functions", "pump-9"], {}),
    "a device's name": (["devices", "Pump 1"], {"cap": 1, "addresses": []}),
    "not a list": (["sets", "seen4"], {"10.77.0.11": 1}),
    "devices as a list": (["devices"], []),
}


@pytest.mark.parametrize("what", BAD)
def test_a_wrong_document_is_refused(what: str) -> None:
    path, value = BAD[what]
    wrong = document()
    inner = wrong
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert problems(wrong)


def test_two_devices_with_one_address_and_device_to_device_flows_are_refused() -> None:
    wrong = document()
    wrong["devices"]["other"] = {"cap": 1, "addresses": [PUMP4, "10.77.0.66"]}
    wrong["sets"]["rtl1_4"].append(["10.77.0.66", PUMP4, "tcp", 1])
    with pytest.raises(DocumentError) as caught:
        check_document(wrong)
    assert "belongs to pump-1 too" in str(caught.value)
    wrong["devices"]["other"]["addresses"] = ["10.77.0.66"]
    assert "two devices" in problems(wrong)["sets.rtl1_4"]


def test_problems_are_bounded() -> None:
    wrong = document()
    wrong["sets"]["seen4"] = [["x"]] * 5000
    with pytest.raises(DocumentError) as caught:
        check_document(wrong)
    assert len(caught.value.problems) == PROBLEMS_MAX


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff", b'{"version":1,"version":1}', b"[" * 100_000, b'{"version":NaN}'])
def test_broken_bytes_are_a_document_error(data: bytes) -> None:
    with pytest.raises(DocumentError):
        parse_document(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3), max_leaves=6
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([["version"], ["devices"], ["sets"], ["functions"], ["sets", "port4"], ["devices", "pump-1"]]), json_values)
def test_any_value_anywhere_is_judged_and_never_crashes(path: list[str], value: Any) -> None:
    changed = copy.deepcopy(document())
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    try:
        made = check_document(changed)
    except DocumentError as e:
        assert e.problems
    else:
        assert json.loads(made.canonical) == changed


def test_differences_are_found_both_ways_and_leases_are_held_against_caps() -> None:
    made = check_document(document())
    held = dict(wanted_sets(made))
    assert differences(Listing(True, "", held, {PUMP4: Kept(3, 10)}, {}, {}), made) == []
    extra, missing = ("10.9.9.9", PUMP4, "tcp", 22), next(iter(held["vital4"]))
    held["rtl1_4"] |= {extra}
    held["vital4"] -= {missing}
    held["l7_4"] = frozenset()
    found = differences(Listing(True, "", held, {"10.9.9.9": Kept(1, 10)}, {}, {}), made)
    assert len(found) == 4
    assert any(line.startswith("rtl1_4: 10.9.9.9") and "not in the policy" in line for line in found)
    assert any(line.startswith("vital4") and "not in the kernel" in line for line in found)
    assert any(line.startswith("lease: 10.9.9.9") for line in found)


def test_the_digest_sees_rules_and_not_counters_handles_or_elements() -> None:
    def listing(rules: list[Any], **other: Any) -> str:
        chain = {"family": "inet", "table": "wardgate", "name": "forward", "handle": 1, "policy": other.get("policy", "drop")}
        counter = {
            "family": "inet",
            "table": "wardgate",
            "name": "seen",
            "handle": 9,
            "packets": other.get("packets", 0),
            "bytes": 0,
        }
        elements = {"elem": ["10.77.0.11"]} if other.get("elem") else {}
        made = {"family": "inet", "table": "wardgate", "name": "seen4", "type": "ipv4_addr", "handle": 3, **elements}
        items: list[Any] = [{"metainfo": {"version": "1.0.6"}}, {"chain": chain}, {"counter": counter}, {"set": made}]
        items += [
            {"rule": {"family": "inet", "table": "wardgate", "chain": "forward", "handle": other.get("handle", 5), "expr": [r]}}
            for r in rules
        ]
        return parse_listing(json.dumps({"nftables": items})).digest

    one, two = {"drop": None}, {"accept": None}
    same = listing([one, two])
    assert listing([one, two], packets=5, handle=77, elem=True) == same
    assert len({same, listing([two, one]), listing([one]), listing([one, two], policy="accept")}) == 4


@given(st.binary(max_size=60), st.sampled_from([0, 0x0806, 0x0800, 0x86DD, 0x1234]))
def test_headers_of_any_bytes_are_read_without_a_fault(packet: bytes, ether: int) -> None:
    saddr, daddr, protocol, sport, dport = parse_headers(ether, packet)
    assert isinstance(saddr + daddr + protocol, str)
    assert 0 <= sport <= 65535
    assert 0 <= dport <= 65535


def test_headers_of_a_udp_packet() -> None:
    ip4 = bytes([0x46, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 100, 10, 77, 0, 11, 1, 1, 1, 1]) + struct.pack(">HH", 5, 7000)
    assert parse_headers(0x0800, ip4) == ("10.77.0.100", "10.77.0.11", "udp", 5, 7000)  # options shift the ports
    assert parse_headers(0, ip4)[4] == 7000


@given(st.lists(st.sampled_from([{"do": "dump"}, {"do": "watch"}]), min_size=1, max_size=5), st.data())
def test_any_split_of_the_bytes_gives_the_same_frames(requests: list[dict[str, str]], data: st.DataObject) -> None:
    stream = b"".join(frame(request) for request in requests)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    framer, got = Framer(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += [json.loads(body) for body in framer.feed(stream[start:end])]
    assert got == requests


@given(st.binary(max_size=200))
def test_a_request_of_any_bytes_is_a_request_or_a_violation(body: bytes) -> None:
    with pytest.raises(ViolationError):
        parse_request(body)


def test_requests_as_written() -> None:
    grant = parse_request(b'{"do":"grant","leases":[{"addresses":["10.77.0.11","fd77::11"],"level":3,"ms":30000}]}')
    assert isinstance(grant, GrantRequest)
    assert grant.leases[0].addresses == ("10.77.0.11", "fd77::11")
    assert parse_request(b'{"do":"drop","addresses":["10.77.0.11"]}') == DropRequest(("10.77.0.11",))


@pytest.mark.parametrize("length", [0, 1, 65_537, 0xFFFFFFFF])
def test_a_length_out_of_bounds_is_refused_before_its_bytes_come(length: int) -> None:
    with pytest.raises(ViolationError):
        list(Framer().feed(struct.pack(">I", length)))


def test_the_lease_book_tells_a_stop_of_renewals_from_one_silent_device() -> None:
    book = LeaseBook()
    book.grant(["a", "b"], 2, 30.0, 0.0)
    for now in (10.0, 20.0):
        book.grant(["b"], 2, 30.0, now)
    lapse = book.lapse(30.0)
    assert lapse.addresses == ("a",)
    assert not lapse.renewals_stopped  # b was renewed ten seconds ago
    assert book.lapse(49.9).addresses == ()
    lapse = book.lapse(50.0)
    assert lapse.addresses == ("b",)
    assert lapse.renewals_stopped
    assert len(book) == 0


def test_dropped_leases_do_not_lapse_and_adopted_ones_do() -> None:
    book = LeaseBook()
    book.grant(["a"], 2, 30.0, 0.0)
    book.drop(["a"])
    assert book.lapse(100.0).addresses == ()
    book.adopt({"a": (1, 5.0)}, 100.0)
    assert book.level_of("a") == 1
    assert book.next_end() <= 105.0
    assert book.lapse(105.0).renewals_stopped


def test_canonical_bytes_are_sorted_and_compact() -> None:
    assert canonical({"b": 1, "a": ["é"]}) == '{"a":["é"],"b":1}'.encode()
