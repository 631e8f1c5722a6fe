"""Where a device's messages go: which function a connection belongs to, how it acknowledges, what the stored ones are called, and
whether its two ends are there.

Refuses to know connections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from drivers.hl7.device import DeviceLink
from drivers.hl7.settings import Settings, Tls
from gateway.model.profile import Acknowledge, Function

Key = tuple[str, str, int]  # who opens it, whom it dials, port
PATIENCE_S = 3.0  # a receiver that is away for less (it restarts, a cable is moved) rings no alarm


@dataclass(slots=True)
class Health:
    """Whether a route's other ends are there: what is wrong with it (empty: nothing), told when it lasts.

    What mends by itself is given some patience; what never does (a wrong certificate) is told at once, unless messages pass all the
    same. ``changed`` is called when there is something to tell.
    """

    changed: Callable[[], None]
    wrong: str = ""
    _since_s: float | None = None
    _worked_s: float = float("-inf")
    _why: str = ""

    def failed(self, why: str, now_s: float, *, at_once: bool = False) -> None:
        """An end was not there, or was not whom it should be."""
        self._why = why
        if self._since_s is None:
            self._since_s = now_s
        if at_once and not self.wrong and now_s - self._worked_s > PATIENCE_S:
            self._tell(why)

    def worked(self, now_s: float) -> None:
        """A message got through."""
        self._since_s, self._worked_s = None, now_s
        if self.wrong:
            self._tell("")

    def tick(self, now_s: float) -> None:
        """Time passes."""
        if not self.wrong and self._since_s is not None and now_s - self._since_s >= PATIENCE_S:
            self._tell(self._why)

    def _tell(self, wrong: str) -> None:
        self.wrong = wrong
        self.changed()


@dataclass(eq=False, slots=True)
class Route:
    """One function of one device toward one receiver. ``endpoint`` is dialled, ``name`` is what the journal calls it."""

    link: DeviceLink
    function: Function
    name: str
    endpoint: tuple[str, int]
    from_device: bool
    client: str  # the address that opens it
    tls: Tls
    health: Health

    @property
    def stored(self) -> bool:
        """Whether we acknowledge ourselves, once it is on disk."""
        return self.function.acknowledge is Acknowledge.STORED


@dataclass(slots=True)
class Routes:
    """Every route by what a redirected connection shows of itself. ``changed`` is called when one has something to tell."""

    changed: Callable[[], None]
    by_key: dict[Key, Route] = field(default_factory=dict)

    def find(self, source: str, destination: tuple[str, int]) -> Route | None:
        """The route of a connection; None: nobody's."""
        return self.by_key.get((source, *destination))

    def add(self, link: DeviceLink, settings: Settings) -> list[Route]:
        """Every route of a device."""
        found: dict[str, Route] = {}
        for function in link.assignment.profile.functions:
            for flow in (f for f in function.flows if f.via):
                for address in link.assignment.device.ip_addresses:
                    if (":" in address) is not (":" in flow.peer):
                        continue
                    source, target = (address, flow.peer) if flow.from_device else (flow.peer, address)
                    name = f"{link.device_id}/{function.name}/{target}:{flow.port}"
                    endpoint = settings.upstream.get(target, (target, flow.port))
                    tls = settings.tls_of(link.device_id, function.name)
                    made = Route(link, function, name, endpoint, flow.from_device, source, tls, Health(self.changed))
                    self.by_key[source, target, flow.port] = found.setdefault(name, made)
        return list(found.values())

    def all(self) -> set[Route]:
        """Every one."""
        return set(self.by_key.values())

    def remove(self, link: DeviceLink) -> None:
        """Forget the routes of a device."""
        self.by_key = {k: r for k, r in self.by_key.items() if r.link is not link}
