"""PURE. What a new policy document, or a new profile, changes, in sentences for the person who is asked to confirm it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.model.profile import Function, Profile

_PLACES = {"port": "may speak from port", "bind": "may speak with MAC"}
MAX_LINES = 500  # more than anybody reads; the rest is counted


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What ``new`` changes against ``old`` (``{}``: nothing was confirmed yet), one sentence a change; empty when nothing does."""
    lines = [*_devices(old.get("devices", {}), new.get("devices", {})), *_sets(old.get("sets", {}), new.get("sets", {}))]
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"and {len(lines) - MAX_LINES} more changes"]
    return lines


def profile_difference(old: Profile | None, new: Profile) -> list[str]:
    """What a profile says anew that no packet filter shows: levels, what a loss does, rules, targets, reference values."""
    if old is None:
        return [f"{new.id} is a new profile with the functions {', '.join(f.name for f in new.functions)}"]
    before, after = {f.name: f for f in old.functions}, {f.name: f for f in new.functions}
    lines = [f"{new.id}: function {name} is gone" for name in before if name not in after]
    for name, function in after.items():
        lines += [f"{new.id}.{name}: {text}" for text in _function_change(before.get(name), function)]
    for what, was, now in (("targets", old.targets, new.targets), ("reference values", old.values, new.values)):
        if was != now:
            lines.append(f"{new.id}: its {what} are others ({len(was)} before, {len(now)} now)")
    for what, one, other in (("clinical class", old.clinical_class, new.clinical_class), ("bus", old.bus, new.bus)):
        if one != other:
            lines.append(f"{new.id}: its {what} is {other}, before: {one}")
    return lines[:MAX_LINES]


def _function_change(old: Function | None, new: Function) -> Iterator[str]:
    if old is None:
        yield f"new, needs level {int(new.required)}, on loss {new.on_loss}"
        return
    if old.required is not new.required:
        yield f"needs level {int(new.required)}, before: {int(old.required)}"
    if old.on_loss is not new.on_loss:
        yield f"on loss {new.on_loss}, before: {old.on_loss}"
    if (old.acknowledge, old.too_old_s) != (new.acknowledge, new.too_old_s):
        yield "it acknowledges in another way"
    for verb, rules, others in (("allows", new.rules, old.rules), ("no longer allows", old.rules, new.rules)):
        yield from (f"{verb} {rule}" for rule in rules if rule not in others)
    for verb, stops, rest in (
        ("always allows", new.always_allowed_writes, old.always_allowed_writes),
        ("no longer always allows", old.always_allowed_writes, new.always_allowed_writes),
    ):
        yield from (f"{verb} {rule}" for rule in stops if rule not in rest)


def _devices(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(set(old) | set(new)):
        if name not in new:
            yield f"{name} is no longer let onto the network"
        elif name not in old:
            yield f"{name} is let onto the network, at level {new[name]['cap']} at most"
        else:
            if old[name]["cap"] != new[name]["cap"]:
                yield f"{name} can reach level {new[name]['cap']} at most, before it was {old[name]['cap']}"
            if old[name]["addresses"] != new[name]["addresses"]:
                yield f"{name} has the addresses {', '.join(new[name]['addresses']) or 'none'}"


def _sets(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    before, after = _flat(old), _flat(new)
    moved = _levels(before), _levels(after)
    proxied = {e[1:4] for e in after if e[0] == "via"}
    for key in sorted(set(moved[0]) | set(moved[1]), key=str):
        for line in _flow_change(key, moved[0].get(key), moved[1].get(key)):
            through = key in moved[1] and (key[1:4] in proxied or (key[0], *key[2:4]) in proxied)
            yield f"{line} (the proxy checks what passes)" if through else line
    for element in sorted(after - before, key=str):
        yield from _sentence(element, added=True)
    for element in sorted(before - after, key=str):
        yield from _sentence(element, added=False)


def _flat(sets: Mapping[str, Any]) -> set[tuple[Any, ...]]:
    return {(_base(name), *element) for name, elements in sets.items() for element in elements}


def _base(name: str) -> str:
    return name[:4] if name.startswith("rtl") else name.rstrip("46")


def _levels(elements: set[tuple[Any, ...]]) -> dict[tuple[Any, ...], str]:
    return {e[1:]: e[0] for e in elements if e[0] == "vital" or e[0].startswith("rtl")}


def _flow_change(key: tuple[Any, ...], old: str | None, new: str | None) -> Iterator[str]:
    if old == new:
        return
    flow = f"{key[0]} to {key[1]}, {key[2]} port {key[3]}"
    if new is None:
        yield f"{flow}: no longer a flow of the policy ({_need(old)} before)"
    elif old is None:
        yield f"{flow}: {_need(new)}"
    else:
        yield f"{flow}: {_need(new)}, before: {_need(old)}"


def _need(base: str | None) -> str:
    if base == "vital":
        return "vital, needs no level"
    return "open at any level" if base == "rtl0" else f"needs level {str(base)[3:]}"


def _sentence(element: tuple[Any, ...], *, added: bool) -> Iterator[str]:
    kind, rest = element[0], element[1:]
    if kind == "seen":
        yield f"{rest[0]} is {'observed: nothing is cut' if added else 'enforced: it gets what its level earns'}"
    elif kind == "via":
        verb = "goes through" if added else "no longer goes through"
        yield f"{rest[1]} port {rest[2]} of {rest[0]} {verb} the proxy on port {rest[3]}"
    elif kind == "uplink":
        yield f"the gateway itself {'may' if added else 'may no longer'} dial {rest[0]}, {rest[1]} port {rest[2]}"
    elif kind == "dhcp_port":
        yield f"{rest[1]} {'may' if added else 'may no longer'} ask this gateway for its address, on port {rest[0]}"
    elif kind in _PLACES:
        where = rest[0] if kind == "port" else rest[1]
        yield f"{rest[2]} {'' if added else 'no longer '}{_PLACES[kind]} {where}"
