"""Where a device's messages go: which function a connection belongs to, how it acknowledges, what the stored ones are called.

Refuses to know connections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from drivers.hl7.device import DeviceLink
from drivers.hl7.message import Message
from gateway.model.profile import Acknowledge, Function

Key = tuple[str, str, int]  # who opens it, whom it dials, port


@dataclass(eq=False, slots=True)
class Route:
    """One function of one device toward one receiver. ``endpoint`` is dialled, ``name`` is what the journal calls it."""

    link: DeviceLink
    function: Function
    name: str
    endpoint: tuple[str, int]
    from_device: bool

    @property
    def stored(self) -> bool:
        """Whether we acknowledge ourselves, once it is on disk."""
        return self.function.acknowledge is Acknowledge.STORED


@dataclass(slots=True)
class Routes:
    """Every route by what a redirected connection shows of itself."""

    by_key: dict[Key, Route] = field(default_factory=dict)

    def find(self, source: str, destination: tuple[str, int]) -> Route | None:
        """The route of a connection; None: nobody's."""
        return self.by_key.get((source, *destination))

    def add(self, link: DeviceLink, upstream: Mapping[str, tuple[str, int]]) -> list[Route]:
        """Every route of a device; returns those that are stored."""
        found: dict[str, Route] = {}
        for function in link.assignment.profile.functions:
            for flow in (f for f in function.flows if f.via):
                for address in link.assignment.device.ip_addresses:
                    if (":" in address) is not (":" in flow.peer):
                        continue
                    source, target = (address, flow.peer) if flow.from_device else (flow.peer, address)
                    name = f"{link.device_id}/{function.name}/{target}:{flow.port}"
                    endpoint = upstream.get(target, (target, flow.port))
                    route = found.setdefault(name, Route(link, function, name, endpoint, flow.from_device))
                    self.by_key[source, target, flow.port] = route
        return [r for r in found.values() if r.stored]

    def remove(self, links: Sequence[DeviceLink]) -> None:
        """Forget the routes of these devices."""
        self.by_key = {k: r for k, r in self.by_key.items() if r.link not in links}


def duplicate_key(message: Message) -> bytes:
    """What makes two messages the same: MSH-3, MSH-4, MSH-10, and all that follows the MSH.

    A sender that starts to count anew after a power cut says something else under an old number, and must not be answered
    with the acknowledgement of another message; a resend may carry a new time in its MSH.
    """
    digest = sha256()
    for part in (message.msh[2], message.msh[3], message.control_id):
        digest.update(len(part).to_bytes(4, "big") + part)
    digest.update(message.raw[len(message.lines[0]) :])
    return digest.digest()
