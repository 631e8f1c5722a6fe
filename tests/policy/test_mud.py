"""MUD files: what becomes a flow, what is refused and why, and that a draft leaves open what a person must say."""

from __future__ import annotations

import contextlib
import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InputErrors
from gateway.policy.draft import DraftFlow, Undecided, profile_draft
from gateway.policy.mud import MAX_BYTES, MudDraft, import_mud
from gateway.policy.profile import parse_profile

URL = "https://maker.example/pump.json"


def ace(name: str, action: str = "accept", **matches: Any) -> dict[str, Any]:
    return {"name": name, "matches": matches, "actions": {"forwarding": action}}


def tcp(side: str, port: Any, opened: str = "") -> dict[str, Any]:
    value = {"operator": "eq", "port": port} if isinstance(port, int) else port
    return {f"{side}-port": value} | ({"ietf-mud:direction-initiated": opened} if opened else {})


def name_of(end: str, host: str) -> dict[str, Any]:
    return {"protocol": 6, f"ietf-acldns:{end}-dnsname": host}


def mud(from_device: list[Any], to_device: list[Any] | None = None, **head: Any) -> dict[str, Any]:
    lists = [{"name": "from", "type": "ipv4-acl-type", "aces": {"ace": from_device}}]
    lists += [{"name": "to", "type": "ipv4-acl-type", "aces": {"ace": to_device or []}}]
    policies = {f"{way}-device-policy": {"access-lists": {"access-list": [{"name": way}]}} for way in ("from", "to")}
    top = {"mud-version": 1, "mud-url": URL, "last-update": "2026-01-01T00:00:00+00:00", "cache-validity": 48, "is-supported": True,
           "systeminfo": "an infusion pump", "mfg-name": "Maker", "model-name": "P1", **policies, **head}  # fmt: skip
    return {"ietf-mud:mud": top, "ietf-access-control-list:acls": {"acl": lists}}


def read(*args: Any, **head: Any) -> MudDraft:
    return import_mud(json.dumps(mud(*args, **head)).encode(), "unsigned")


def flows(draft: MudDraft) -> list[tuple[str, str, str, int]]:
    functions = tomllib.loads(draft.toml).get("function", [])
    return [(f["peer"], f["opened_by"], f["protocol"], f["port"]) for fn in functions for f in fn["flow"]]


def test_the_direction_and_the_side_of_the_port_say_who_opens() -> None:
    draft = read(
        [
            ace("out", ipv4=name_of("dst", "Cloud.Maker.example."), tcp=tcp("destination", 443, "from-device")),
            ace("answer", ipv4=name_of("dst", "ehr.example"), tcp=tcp("source", 7000, "to-device")),
        ],
        [
            ace("back", ipv4=name_of("src", "cloud.maker.example"), tcp=tcp("source", 443, "from-device")),
            ace("in", ipv4=name_of("src", "ehr.example"), tcp=tcp("destination", 7000, "to-device")),
            ace("six", ipv6={"protocol": 17, "source-ipv6-network": "fd00::5/128"}, udp=tcp("destination", 161)),
        ],
    )
    assert flows(draft) == [
        ("cloud.maker.example", "device", "tcp", 443),
        ("ehr.example", "peer", "tcp", 7000),
        ("fd00::5", "peer", "udp", 161),
    ]  # each once, though both lists speak of it
    assert draft.peers == ("cloud.maker.example", "ehr.example")
    assert not draft.undecided


def test_controllers_and_local_networks_become_names_that_the_site_has_to_map() -> None:
    draft = read(
        [
            ace("a", **{"ietf-mud:mud": {"controller": "https://maker.example/hub"}, "tcp": tcp("destination", 443)}),
            ace("b", **{"ietf-mud:mud": {"my-controller": [None]}, "tcp": tcp("destination", 8443)}),
            ace("c", **{"ietf-mud:mud": {"local-networks": [None]}, "ipv4": {"protocol": 17}, "udp": tcp("destination", 123)}),
        ]
    )
    assert draft.peers == ("https://maker.example/hub", "my-controller", "local-networks")
    with pytest.raises(InputErrors) as e:
        parse_profile(tomllib.loads(draft.toml), {})
    assert sum(path.endswith(".peer") for path, _ in e.value.problems) == 3


OUT = name_of("dst", "a.example")


@pytest.mark.parametrize(
    ("matches", "why"),
    [
        ({"ipv4": OUT, "tcp": tcp("destination", {"lower-port": 1, "upper-port": 9})}, "a range of ports"),
        ({"ipv4": OUT, "tcp": tcp("destination", {"operator": "neq", "port": 9})}, "a range of ports"),
        ({"ipv4": OUT, "tcp": {}}, "no port"),
        ({"ipv4": OUT, "tcp": {**tcp("destination", 1), **tcp("source", 2)}}, "both ports"),
        ({"ipv4": OUT, "tcp": tcp("destination", 443, "to-device")}, "contradicts"),
        ({"ipv4": OUT, "tcp": {**tcp("destination", 443), "flags": "syn"}}, "flags"),
        ({"ipv4": {"ietf-acldns:dst-dnsname": "a.example"}}, "no protocol"),
        ({"ipv4": {**OUT, "protocol": 1}, "icmp": {"type": 8}}, "icmp"),
        ({"ipv4": {**OUT, "protocol": 1}}, "protocol 1"),
        ({"ipv4": {**OUT, "protocol": [6]}, "tcp": tcp("destination", 1)}, "no number"),
        ({"ipv4": {**OUT, "protocol": 17}, "tcp": tcp("destination", 1)}, "contradicts itself"),
        ({"ipv4": {**OUT, "dscp": 3}, "tcp": tcp("destination", 1)}, "dscp"),
        ({"ipv4": {"protocol": 6, "ietf-acldns:src-dnsname": "a.example"}, "tcp": tcp("destination", 1)}, "src-dnsname"),
        ({"ipv4": {"protocol": 6, "ietf-acldns:dst-dnsname": "*.example"}, "tcp": tcp("destination", 1)}, "no host name"),
        ({"ipv4": {"protocol": 6, "destination-ipv4-network": "10.0.0.0/8"}, "tcp": tcp("destination", 1)}, "more than one host"),
        ({"ipv4": {"protocol": 6}, "tcp": tcp("destination", 1)}, "any address"),
        ({"ietf-mud:mud": {"same-manufacturer": [None]}, "tcp": tcp("destination", 1)}, "never talk to each other"),
        ({"ietf-mud:mud": {"manufacturer": "maker.example"}, "tcp": tcp("destination", 1)}, "never talk to each other"),
        ({"ietf-mud:mud": {"model": "https://m.example/x"}, "tcp": tcp("destination", 1)}, "never talk to each other"),
        ({"ietf-mud:mud": {"quarantine": 1}, "tcp": tcp("destination", 1)}, "quarantine"),
        ({"eth": {"ethertype": 2048}}, "eth"),
        ({"ipv4": "any"}, "in a form"),
    ],
)
def test_what_these_rules_cannot_hold_is_refused_with_its_reason(matches: dict[str, Any], why: str) -> None:
    draft = read([ace("odd", **matches)])
    assert flows(draft) == []
    assert [u.what for u in draft.undecided] == ["from/odd"] and why in draft.undecided[0].why
    with pytest.raises(InputErrors, match="from/odd"):  # and the draft cannot be used before a person has decided
        parse_profile(tomllib.loads(draft.toml), {})


def test_an_entry_that_refuses_before_others_accept_is_not_passed_over() -> None:
    good = ace("good", ipv4=OUT, tcp=tcp("destination", 443))
    assert not read([good, {"name": "rest", "actions": {"forwarding": "drop"}}]).undecided
    assert read([ace("not-this", "drop", ipv4=OUT), good]).undecided[0].what == "from/not-this"
    assert read([{"name": "all", "actions": {"forwarding": "accept"}}]).undecided[0].why == "it accepts everything"
    assert "extension" in read([good], extensions=["modbus"]).undecided[0].what


def test_a_draft_says_neither_on_loss_nor_level_and_is_refused_for_that() -> None:
    draft = read([ace("out", ipv4=OUT, tcp=tcp("destination", 443))])
    assert "# Signature: unsigned" in draft.toml
    with pytest.raises(InputErrors) as e:
        parse_profile(tomllib.loads(draft.toml), {"a.example": ["10.0.0.9"]})
    paths = {path for path, _ in e.value.problems}
    assert paths == {"bus", "clinical_class", "target", "function[0].on_loss", "function[0].required"}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"mud-version": 2}, "mud-version"),
        ({"mud-url": "http://maker.example/x"}, "mud-url"),
        ({"cache-validity": 169}, "cache-validity"),
        ({"is-supported": "yes"}, "is-supported"),
        ({"surprise": 1}, "surprise"),
        ({"from-device-policy": {"access-lists": {"access-list": [{"name": "missing"}]}}}, "from-device-policy"),
    ],
)
def test_a_file_that_is_not_rfc_8520_is_refused_with_its_path(change: dict[str, Any], path: str) -> None:
    with pytest.raises(InputErrors) as e:
        read([], **change)
    assert any(path in where for where, _ in e.value.problems)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"[" * 100_000, b"\xff", b'{"a":1,"a":2}', b" " * (MAX_BYTES + 1), b"null"])
def test_broken_bytes_are_a_mistake_and_nothing_else(data: bytes) -> None:
    with pytest.raises(InputErrors):
        import_mud(data, "")


_KEYS = ["ipv4", "tcp", "protocol", "source-port", "ietf-mud:mud", "name", "matches", "actions", "forwarding", "ace", "port"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, JSON, JSON)
def test_nothing_that_a_maker_may_write_breaks_it(entry: Any, policy: Any, aces: Any) -> None:
    value = mud([entry] if not isinstance(entry, list) else entry)
    value["ietf-access-control-list:acls"]["acl"].append({"name": "x", "aces": aces})
    value["ietf-mud:mud"]["to-device-policy"] = policy
    with contextlib.suppress(InputErrors):
        tomllib.loads(import_mud(json.dumps(value).encode(), "x").toml)


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_whatever_a_draft_is_given_it_is_toml_with_just_that(name: str, peer: str, why: str) -> None:
    text = profile_draft("p", name, [why], [DraftFlow(peer, "tcp", 1, True, why)], [Undecided(why, name)])
    found = tomllib.loads(text)
    assert set(found) == {"id", "name", "function", "undecided"}
    assert len(found["function"]) == 1 and found["function"][0]["flow"][0]["port"] == 1
