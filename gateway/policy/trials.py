"""PURE. A profile's own tests: packets and requests that must pass at a level, and those that must not.

They are tried on the compiled document as the kernel would look it up (the device bound, enforced, its lease at that level),
and for a proxied flow on the rules that its driver gets then. Refuses to send anything and to look at a kernel.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.errors import InputErrors
from gateway.model.device import Binding, Bus, Device, DeviceState
from gateway.model.level import TrustLevel
from gateway.model.profile import GattRule, Hl7Rule, ModbusRule, Profile, Protocol, Rule
from gateway.policy.compile import compile_document
from gateway.policy.decide import rules_for
from gateway.policy.fields import Table, hint, shown

MAX_TRIALS = 200  # a profile with more is no profile that anybody reads
# RFC 5737 and RFC 3849: addresses of nobody, for the device and the gateway of a trial.
_DEVICE, _GATEWAY = ("198.51.100.77", "2001:db8:77::77"), ("198.51.100.1", "2001:db8:77::1")
_BINDING = Binding("p-trial", "02:00:00:00:00:77", _DEVICE)


@dataclass(frozen=True, slots=True)
class Trial:
    """One test: at ``level``, what ``peers`` and the device try passes or does not. ``request`` None: the connection alone."""

    what: str
    level: TrustLevel
    passes: bool
    peers: tuple[str, ...] = ()
    protocol: Protocol = Protocol.TCP
    port: int = 0
    from_device: bool = False
    request: Rule | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """How a test went, in words."""

    what: str
    ok: bool
    text: str


def read_trials(table: Table, bus: Bus, peers: Mapping[str, tuple[str, ...]]) -> tuple[Trial, ...]:
    """All ``[[test]]`` tables of a profile; mistakes go to the table's problems."""
    rows = table.tables("test")
    if len(rows) > MAX_TRIALS:
        table.wrong("test", f"more than {MAX_TRIALS} tests")
        rows = rows[:MAX_TRIALS]
    return tuple(_trial(row, bus, peers) for row in rows)


def try_profile(profile: Profile, trials: Sequence[Trial]) -> tuple[Tried, ...]:
    """Each test's outcome. Raises InputErrors when the profile cannot be enforced for any device of its kind."""
    document = _document(profile)
    return tuple(_try(profile, document, trial) for trial in trials)


def _trial(row: Table, bus: Bus, peers: Mapping[str, tuple[str, ...]]) -> Trial:
    what = row.take("what", str, "-", missing="is missing: say in a few words what this test is about")
    if not 1 <= len(what) <= 120 or not what.isprintable():
        row.wrong("what", "is 1 to 120 printable characters")
    level = row.take("level", int, 0, missing="is missing: the level the device holds meanwhile, 0 to 3")
    if not 0 <= level <= 3:
        row.wrong("level", f"a level is 0 to 3, got {level}")
        level = 0
    passes = row.choice("expect", str, ("pass", "refuse"), "refuse") == "pass"
    if bus is Bus.BLE:
        trial = Trial(what, TrustLevel(level), passes, request=_gatt(row))
    else:
        addresses = _addresses(row, peers)
        protocol = row.choice("protocol", Protocol, tuple(Protocol), Protocol.TCP)
        port = row.take("port", int, 1)
        from_device = row.choice("opened_by", str, ("device", "peer"), "peer") == "device"
        request = _modbus(row) if bus is Bus.MODBUS else _hl7(row)
        trial = Trial(what, TrustLevel(level), passes, addresses, protocol, port, from_device, request)
    row.finish()
    return trial


def _addresses(row: Table, peers: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    name = row.take("peer", str, "")
    if name in peers:
        return peers[name]
    try:
        return (str(ipaddress.ip_address(name)),)
    except ValueError:
        row.wrong("peer", f"{shown(name)} is neither an IP address nor a peer of the site{hint(name, tuple(peers))}")
        return ()


def _inner(row: Table, key: str) -> Table | None:
    return Table(row.raw(key), row.at(key), row.problems) if row.has(key) else None


def _modbus(row: Table) -> Rule | None:
    if (inner := _inner(row, "request")) is None:
        return None
    code, address, count = inner.take("function_code", int, 1), inner.maybe("address", int, 0), inner.maybe("count", int, 1)
    values, unit = inner.raw("values"), inner.maybe("unit", int, 0) if inner.has("unit") else None
    if values is not None and not (isinstance(values, list) and all(type(v) is int for v in values)):
        inner.wrong("values", f"expected a list of whole numbers, got {shown(values)}")
        values = None
    inner.finish()
    wanted = None if values is None else tuple(values)
    return inner.build(lambda: ModbusRule(code, address, address + count - 1, TrustLevel.NONE, wanted, unit))


def _hl7(row: Table) -> Rule | None:
    if (inner := _inner(row, "request")) is None:
        return None
    texts = [inner.take(key, str, "-") for key in ("application", "facility", "message")]
    inner.finish()
    return Hl7Rule(texts[0], texts[1], texts[2], TrustLevel.NONE)


def _gatt(row: Table) -> Rule | None:
    uuid, access = row.take("characteristic", str, "0000"), row.choice("access", str, ("read", "write", "notify"), "read")
    return GattRule(uuid.upper() if len(uuid) == 4 else uuid.lower(), access, TrustLevel.NONE)


def _document(profile: Profile) -> dict[str, Any]:
    if profile.bus is Bus.BLE:
        device = Device("trial", "trial", Bus.BLE, profile.id, "C0:00:00:00:00:77", DeviceState.ENFORCED)
    else:
        device = Device("trial", "trial", profile.bus, profile.id, _DEVICE[0], DeviceState.ENFORCED, _BINDING)
    try:
        return compile_document([device], {profile.id: profile}, _GATEWAY)
    except InputErrors as e:
        found = tuple((path.removeprefix("devices.trial").lstrip("."), what) for path, what in e.problems)
        raise InputErrors(f"profile {profile.id} cannot be enforced", found) from None


def _try(profile: Profile, document: Mapping[str, Any], trial: Trial) -> Tried:
    if profile.bus is Bus.BLE:
        outcomes = [(_allowed(profile, trial), "its characteristic")]
    else:
        outcomes = [(_packet(profile, document, trial, peer), peer) for peer in trial.peers]
    wrong = [whom for passes, whom in outcomes if passes is not trial.passes]
    if not outcomes:
        return Tried(trial.what, False, "there is nobody to try it with")
    if not wrong:
        return Tried(trial.what, True, f"{'passes' if trial.passes else 'is refused'} at level {int(trial.level)}, as it must")
    verb = "is refused" if trial.passes else "passes"
    return Tried(trial.what, False, f"{verb} at level {int(trial.level)} with {', '.join(wrong[:4])}, and must not")


def _packet(profile: Profile, document: Mapping[str, Any], trial: Trial, peer: str) -> bool:
    """As the static rules look a first packet up: vital, then the sets of the levels up to the lease's; then the proxy."""
    family = ipaddress.ip_address(peer).version
    own = _DEVICE[0 if family == 4 else 1]
    key = [own, peer, str(trial.protocol), trial.port] if trial.from_device else [peer, own, str(trial.protocol), trial.port]
    sets = document["sets"]
    if key in sets[f"vital{family}"]:
        return True
    if not any(key in sets[f"rtl{level}_{family}"] for level in range(int(trial.level) + 1)):
        return False
    proxied = any(e[:3] == [own, *key[2:]] for e in sets[f"via{family}"])
    return not proxied or trial.request is None or _allowed(profile, trial)


def _allowed(profile: Profile, trial: Trial) -> bool:
    rules = [r for r in rules_for(profile, trial.level, DeviceState.ENFORCED) if r.level <= trial.level]
    return trial.request is not None and any(_covers(rule, trial.request) for rule in rules)


def _covers(rule: Rule, wanted: Rule) -> bool:
    """Whether one rule lets the request through; a request that two rules cover half each is refused, as the drivers do."""
    if isinstance(rule, ModbusRule) and isinstance(wanted, ModbusRule):
        place = rule.function_code == wanted.function_code and rule.first <= wanted.first <= wanted.last <= rule.last
        valued = rule.values is None or (wanted.values is not None and set(wanted.values) <= set(rule.values))
        return place and valued and rule.unit in (None, wanted.unit)
    if isinstance(rule, Hl7Rule) and isinstance(wanted, Hl7Rule):
        return (rule.application, rule.facility, rule.message) == (wanted.application, wanted.facility, wanted.message)
    if isinstance(rule, GattRule) and isinstance(wanted, GattRule):
        return (rule.characteristic, rule.access) == (wanted.characteristic, wanted.access)
    return False
