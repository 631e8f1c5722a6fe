"""Which vital flows a new document would cut. A patient hangs on them, so a person has to name each one first.

Pure, over checked documents. A flow is as good as gone when it leaves the vital sets, and when its device may no longer
speak from its place (port, MAC and address). Refuses to know why anybody would want that.
"""

from __future__ import annotations

from gateway.enforcer.document import Document, Element

_Place = frozenset[tuple[str | int, ...]]


def vital_cut(before: Document, after: Document) -> list[str]:
    """``device.function`` of every vital flow that passes under ``before`` and would not under ``after``, sorted."""
    held, kept = _passing(before), _passing(after)
    lost = {flow for flow, places in held.items() if places - kept.get(flow, frozenset())}
    return sorted({name for flow in lost for name in _names(before, flow)})


def _passing(document: Document) -> dict[Element, _Place]:
    """Every vital flow with the places that its device may speak from; a flow of an unbound device does not pass at all."""
    found: dict[Element, _Place] = {}
    for family in (4, 6):
        bound = {(e[1], e[2]) for e in document.sets[f"bind{family}"]}
        places: dict[str | int, set[Element]] = {}
        for element in document.sets[f"port{family}"]:
            if (element[1], element[2]) in bound:
                places.setdefault(element[2], set()).add(element)
        for flow in document.sets[f"vital{family}"]:
            where = places.get(flow[0], set()) | places.get(flow[1], set())
            if where:
                found[flow] = frozenset(where)
    return found


def _names(document: Document, flow: Element) -> set[str]:
    """Who it belongs to: the functions that name it, else the device with its address."""
    named = {
        f"{device}.{function}"
        for device, functions in document.functions.items()
        for function, parts in functions.items()
        if flow in parts["set4"] or flow in parts["set6"]
    }
    if named:
        return named
    owners = document.cap_of()
    return {owners[str(end)][0] for end in flow[:2] if str(end) in owners}
