"""PURE. A protection profile as TOML (already parsed to a dict) becomes a checked ``Profile``, or every mistake at once.

What a profile says about a patient's safety has no default: a function without ``on_loss`` is refused. What it says about trust
can only be tighter than the house's own table. Refuses to know files, devices and the network; the names of peers come from the
site's configuration. The format is described in this package's README.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from gateway.errors import RefusedError
from gateway.model.device import DEVICE_ID, Bus
from gateway.model.evidence import EvidenceClass
from gateway.model.level import TrustLevel
from gateway.model.profile import (
    Acknowledge,
    Flow,
    Function,
    GattRule,
    Hl7Rule,
    ModbusRule,
    OnLoss,
    Profile,
    Protocol,
    Rule,
)
from gateway.policy.fields import Problems, Table, hint, shown
from gateway.policy.rules import Levels, is_write, read_always_allowed, read_rules
from gateway.policy.targets import ceiling_of, read_references, read_targets
from gateway.policy.trials import Trial, read_trials

Peers = Mapping[str, str | Sequence[str]]

# The house's half-lives (seconds); a profile may only shorten them.
HALF_LIFE_S: Mapping[EvidenceClass, float] = MappingProxyType(
    {c: 3600.0 if c is EvidenceClass.INVENTORY else 600.0 for c in EvidenceClass}
)
OFFLINE_CAP_MAX_S = 7 * 86_400.0  # a certificate older than a week says nothing useful, however slowly trust decays
_STAND_IN = "192.0.2.1"  # RFC 5737: an address of nobody
CLINICAL_CLASSES = ("I", "IIa", "IIb", "III")  # Regulation (EU) 2017/745, Annex VIII

_NO_ON_LOSS = (
    "is missing: say what happens when trust is lost: cut (it stops), read_only (a proxied function keeps its reads) or vital "
    "(a direct flow a patient depends on: it never stops). There is no default"
)


_NO_ACKNOWLEDGE = (
    "is missing: say how this route acknowledges: end_to_end (the receiver's own answer, so that a lost receiver is noticed: "
    "alarms, live vitals) or stored (ours, once it is on disk: results). There is no default"
)
TOO_OLD_S = (1.0, 90 * 86_400.0)  # as long as the appliance lives without a network


def parse_profile(data: Mapping[str, object], peers: Peers | None = None) -> Profile:
    """A profile from its TOML table. ``peers`` maps names used by flows to one or more IP addresses.

    Raises InputErrors with every mistake and its path.
    """
    return parse_with_trials(data, peers)[0]


def parse_with_trials(data: Mapping[str, object], peers: Peers | None = None) -> tuple[Profile, tuple[Trial, ...]]:
    """The same, with the profile's own tests, which only those who check or change policy run."""
    problems = Problems()
    table = Table(data, "", problems)
    identity = _id(table)
    name = table.maybe("name", str, identity)
    bus = table.choice("bus", Bus, tuple(Bus), Bus.MODBUS)
    clinical = table.choice("clinical_class", str, CLINICAL_CLASSES, "I")
    offline = table.maybe("offline_cap_s", float, 86_400.0)
    if not 60 <= offline <= OFFLINE_CAP_MAX_S:
        table.wrong("offline_cap_s", f"{offline:g} is not between 60 and {OFFLINE_CAP_MAX_S:g} seconds")
    half_life = _half_lives(table)
    targets = read_targets(table, bus)
    values = read_references(table, targets)
    named = _peers(peers or {}, problems)
    functions = _functions(table, bus, named)
    trials = read_trials(table, bus, named)
    _undecided(table)
    table.finish()
    if targets:
        _check_reachable(table, functions, max(map(ceiling_of, targets)))
    problems.raise_if_any(f"profile {identity}" if identity else "profile")
    return Profile(identity, name, bus, clinical, functions, targets, values, offline, half_life), trials


def _undecided(table: Table) -> None:
    """What a draft could not take over from where it was made of: refused until a person has decided and deleted it."""
    for row in table.tables("undecided"):
        what, why = row.take("what", str, "something"), row.take("why", str, "it cannot be enforced")
        row.finish()
        row.wrong("", f"{what[:120]}: {why[:160]}; decide what that means for this device, then delete this entry")


def raise_required(profile: Profile, raised: Mapping[str, int]) -> Profile:
    """The profile with some functions needing more. Raises RefusedError below the floor, above 3, or for a vital function."""
    unknown = set(raised) - {f.name for f in profile.functions}
    if unknown:
        raise RefusedError(f"profile {profile.id} has no function {sorted(unknown)[0]}", "name a function of the profile")
    return replace(profile, functions=tuple(_raise_one(f, raised[f.name]) if f.name in raised else f for f in profile.functions))


def _raise_one(function: Function, level: int) -> Function:
    if function.on_loss is OnLoss.VITAL:
        raise RefusedError(f"function {function.name} is vital and needs no level", "change the profile if it is not vital")
    if not function.required <= level <= TrustLevel.FULL:
        raise RefusedError(
            f"function {function.name} cannot need level {level}", f"choose a level from {int(function.required)} to 3"
        )
    new = TrustLevel(level)
    levels = Levels.of(new, function.on_loss)

    def lifted(rule: Rule) -> Rule:
        # An HL7 message is no read: it needs all that its function needs.
        floor = levels.writes if is_write(rule) or isinstance(rule, Hl7Rule) else levels.reads
        return replace(rule, level=max(rule.level, floor))

    return replace(function, required=new, rules=tuple(lifted(r) for r in function.rules))


def _id(table: Table) -> str:
    identity = table.take("id", str, "")
    if identity and not DEVICE_ID.fullmatch(identity):
        table.wrong("id", f"{shown(identity)} is not of the form [a-z0-9-], 1 to 63 characters")
    return identity[:63]


def _half_lives(table: Table) -> Mapping[EvidenceClass, float]:
    result: dict[EvidenceClass, float] = {}
    if table.has("half_life_s"):
        inner = Table(table.raw("half_life_s"), table.at("half_life_s"), table.problems)
        for kind in EvidenceClass:
            value = inner.maybe(kind, float, 0.0)
            if inner.has(kind):
                if not 1 <= value <= HALF_LIFE_S[kind]:
                    inner.wrong(
                        kind, f"{value:g} is not between 1 and the house's {HALF_LIFE_S[kind]:g} seconds; it can only be shorter"
                    )
                result[kind] = value
        inner.finish()
    return result


def _peers(peers: Peers, problems: Problems) -> dict[str, tuple[str, ...]]:
    resolved: dict[str, tuple[str, ...]] = {}
    for name, value in peers.items():
        addresses = [value] if isinstance(value, str) else list(value)
        good = [c for a in addresses if (c := _canonical(a)) is not None]
        if len(good) != len(addresses) or not good:
            problems.add(f"peers.{name}", f"{shown(value)} is not one or more IP addresses")
        resolved[name] = tuple(good)
    return resolved


def _canonical(address: object) -> str | None:
    try:
        return str(ipaddress.ip_address(address)) if isinstance(address, str) else None
    except ValueError:
        return None


def _functions(table: Table, bus: Bus, peers: Mapping[str, tuple[str, ...]]) -> tuple[Function, ...]:
    rows = table.tables("function")
    if not rows:
        table.wrong("function", "a profile needs at least one function")
    functions: list[Function] = []
    for row in rows:
        function = _function(row, bus, peers)
        if function is not None:
            if any(f.name == function.name for f in functions):
                row.wrong("name", f"function {function.name!r} is there twice")
            functions.append(function)
    return tuple(functions)


def _function(row: Table, bus: Bus, peers: Mapping[str, tuple[str, ...]]) -> Function | None:
    before = len(row.problems.found)
    name = row.take("name", str, "-")
    if not DEVICE_ID.fullmatch(name):
        row.wrong("name", f"{shown(name)} is not of the form [a-z0-9-], 1 to 63 characters")
    on_loss = row.choice("on_loss", OnLoss, tuple(OnLoss), OnLoss.CUT, missing=_NO_ON_LOSS)
    required = _required(row, on_loss)
    flows = tuple(f for flow in row.tables("flow") for f in _flows(flow, peers))
    rules = read_rules(row, Levels.of(required, on_loss))
    always = read_always_allowed(row)
    acknowledge, too_old_s = _acknowledge(row, rules)
    row.finish()
    _check_function(row, bus, flows, rules, always, on_loss)
    clean = len(row.problems.found) == before
    # A vital function is built even beside other mistakes: "vital through a proxy" must be among what is reported.
    if not clean and on_loss is not OnLoss.VITAL:
        return None
    function = row.build(lambda: Function(name, required, on_loss, flows, rules, always, acknowledge, too_old_s), "on_loss")
    return function if clean else None


def _acknowledge(row: Table, rules: tuple[Rule, ...]) -> tuple[Acknowledge | None, float]:
    """How an HL7 function acknowledges, and when a stored message is too old."""
    if not any(isinstance(r, Hl7Rule) for r in rules):
        for key in ("acknowledge", "too_old_s"):
            if row.has(key):
                row.wrong(key, "is for functions with HL7 rules")
        return None, 86_400.0
    mode = row.choice("acknowledge", Acknowledge, tuple(Acknowledge), Acknowledge.END_TO_END, missing=_NO_ACKNOWLEDGE)
    if row.has("too_old_s") and mode is not Acknowledge.STORED:
        row.wrong("too_old_s", "is for stored messages: nothing of an end_to_end route ever waits")
    too_old_s = row.maybe("too_old_s", float, 86_400.0)
    if not TOO_OLD_S[0] <= too_old_s <= TOO_OLD_S[1]:
        row.wrong("too_old_s", f"{too_old_s:g} is not between {TOO_OLD_S[0]:g} and {TOO_OLD_S[1]:g} seconds")
        too_old_s = 86_400.0
    return mode, too_old_s


def _required(row: Table, on_loss: OnLoss) -> TrustLevel:
    if on_loss is OnLoss.VITAL:
        if row.maybe("required", int, 0) != 0:
            row.wrong("required", "a vital function needs no level: leave it out")
        return TrustLevel.NONE
    value = row.take("required", int, 1, missing="is missing: the level this function needs, 1 to 3")
    if not 1 <= value <= 3:
        row.wrong("required", f"a required level is 1 to 3, got {value}")
        return TrustLevel.LIMITED
    return TrustLevel(value)


def _flows(row: Table, peers: Mapping[str, tuple[str, ...]]) -> list[Flow]:
    addresses = _flow_peers(row, peers)
    protocol = row.choice("protocol", Protocol, tuple(Protocol), Protocol.TCP)
    port = row.take("port", int, 1)
    from_device = row.choice("opened_by", str, ("device", "peer"), "peer") == "device"
    via = row.maybe("via", bool, False)
    row.finish()
    built: list[Flow] = []
    if not 1 <= port <= 65535:
        row.wrong("port", f"a port is 1 to 65535, got {port}")
        port = 1
    for address in addresses or [_STAND_IN]:  # even without a peer, the rest of the flow is checked
        flow = row.build(lambda address=address: Flow(address, protocol, port, from_device, via))  # type: ignore[misc]
        if flow is None:
            return []
        built.append(flow)
    return built if addresses else []


def _flow_peers(row: Table, peers: Mapping[str, tuple[str, ...]]) -> list[str]:
    value = row.raw("peer")
    names = value if isinstance(value, list) else [value]
    if value is None or not names:
        row.wrong("peer", "is missing: an IP address, the name of a peer of the site, or a list of them")
        return []
    found: list[str] = []
    for name in names:
        address = _canonical(name)
        if address is not None:
            found.append(address)
        elif isinstance(name, str) and name in peers:
            found += peers[name]
        else:
            known = f"; the site knows {', '.join(sorted(peers))}" if peers else "; the site's configuration names no peers"
            row.wrong("peer", f"{shown(name)} is neither an IP address nor a peer of the site{hint(name, tuple(peers))}{known}")
    return list(dict.fromkeys(found))


def _check_function(
    row: Table, bus: Bus, flows: tuple[Flow, ...], rules: tuple[Rule, ...], always: tuple[ModbusRule, ...], on_loss: OnLoss
) -> None:
    proxied = any(f.via for f in flows)
    fitting: dict[Bus, type[Rule]] = {Bus.MODBUS: ModbusRule, Bus.BLE: GattRule, Bus.HL7: Hl7Rule}
    if any(not isinstance(r, fitting[bus]) for r in (*rules, *always)):
        row.wrong("", f"has rules of another bus than {bus}")
    if bus is Bus.BLE:
        if flows:
            row.wrong("flow", "a wireless device has no network flows")
        if not rules:
            row.wrong("gatt", "is missing: a wireless function is made of characteristics")
        return
    if not flows and not row.has("flow"):
        row.wrong("flow", "is missing: a wired function needs at least one flow")
    if proxied and not rules:
        row.wrong("reads", "a flow through the proxy needs rules, or nothing would pass")
    if flows and rules and not proxied:
        row.wrong("flow", "rules are enforced by the proxy only: set via = true, or take the rules away")
    if proxied and not all(f.via for f in flows):
        row.wrong("flow", "has direct and proxied flows: make two functions, or the direct flow goes around the rules")
    if bus is not Bus.HL7 and any(f.via and f.from_device for f in flows):
        row.wrong("flow", f"a flow that the device opens cannot go through the {bus} proxy")
    if always and not proxied:
        row.wrong("always_allowed_writes", "needs a flow through the proxy (via = true)")
    if on_loss is OnLoss.READ_ONLY and any(isinstance(r, Hl7Rule) for r in rules):
        row.wrong("on_loss", "read_only is for registers and characteristics; HL7 messages are allowed or not")


def _check_reachable(table: Table, functions: tuple[Function, ...], ceiling: TrustLevel) -> None:
    for function in functions:
        if function.required > ceiling:
            table.wrong(
                f"function.{function.name}",
                f"needs level {int(function.required)}, but the targets of this profile can prove level {int(ceiling)} at most",
            )
