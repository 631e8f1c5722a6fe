"""The network as people see it: devices on one side, the hospital's hosts on the other, each named flow open or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Passing(StrEnum):
    """Whether a flow passes now."""

    ALWAYS = "always"  # vital: it needs no level
    OPEN = "allowed"
    WATCHED = "would"  # it passes because the device is only observed
    HELD = "readonly"  # it reaches the proxy, which lets a part of it through, or answers it itself
    SHUT = "cut"
    GLASS = "glass"  # break-glass: it passes at any level, and past the proxy, for some minutes


@dataclass(frozen=True, slots=True)
class Lane:
    """One flow of one function. ``peer`` is a host's id, empty for what ends at the gateway; ``word`` says how it passes.

    ``port`` 0: it has none (a radio link). ``families``: IPv4, IPv6, or the bus. ``until_ms``: boot time at which an opening by
    break-glass closes by itself.
    """

    device_id: str
    function: str
    peer: str
    protocol: str
    port: int
    from_device: bool
    proxied: bool
    needs: int
    passing: Passing
    word: str
    families: tuple[str, ...]
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Spot:
    """One device in the picture. ``place``: its port and addresses, or its radio address; ``tone`` as on the ward."""

    id: str
    name: str
    bus: str
    place: str
    addresses: tuple[str, ...]
    level: int
    state: str
    lanes: tuple[Lane, ...]
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Host:
    """One host of the hospital: what the configuration calls it, and its addresses."""

    id: str
    names: tuple[str, ...]
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that was refused: of which device (empty: of nobody known), what, how often, when last (boot time, ms)."""

    device_id: str
    text: str
    count: int
    last_ms: int


@dataclass(frozen=True, slots=True)
class Landscape:
    """Everything on the Network page. ``trouble``: why the policy could not be read, empty when it could.

    ``asked``: whether the kernel said which flows are open by break-glass.
    ``wiring`` is the document of ``gateway.wiring`` as JSON has it; None: nobody has looked.
    """

    ward: str
    uplink: str
    management: str
    addresses: tuple[str, ...]
    spots: tuple[Spot, ...]
    hosts: tuple[Host, ...]
    own: tuple[Lane, ...]
    refused: tuple[Refused, ...]
    since_ms: int
    trouble: str = ""
    wiring: Mapping[str, object] | None = None
    asked: bool = True
