"""The network as a picture: boxes, wires and where they are, computed here so that the page needs no script.

Devices stand on the left, each flow in a row of its own, the gateway in the middle as a bar with one gate a flow, the hospital's
hosts on the right. Refuses to know HTML, colours and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.model.landscape import Host, Landscape, Lane, Passing, Spot

WIDTH = 1240
_LEFT_W, _BAR_X, _BAR_W, _RIGHT_X, _RIGHT_W = 470, 570, 170, 900, 340
_TOP, _HEAD, _ROW, _PAD, _GAP = 44, 62, 30, 10, 16
_HOST_HEAD, _HOST_ROW = 62, 16
_TITLE, _SUB, _ROW_TEXT = 30, 46, 41  # characters that fit; the whole text is in the table
_COUNT = 14  # of a second line, where what was refused is counted at its end
_PROTOCOLS = {"tcp": "TCP", "udp": "UDP", "radio": "Bluetooth"}


@dataclass(frozen=True, slots=True)
class Wire:
    """One flow: its row's texts, its ``wire`` up to and beyond the gate, where the gate and the arrow are."""

    y: int
    name: str
    flow: str
    passing: str
    mark: str
    inner: str
    outer: str
    through: str
    arrow: str
    gate: tuple[int, int]
    proxy: tuple[int, int] | None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Box:
    """A device, a host, or what nobody knows. ``label`` is what a screen reader says of all of it."""

    id: str
    x: int
    y: int
    w: int
    h: int
    title: str
    sub: str
    label: str
    tone: str = ""
    level: int = 0
    refused: int = 0
    wires: tuple[Wire, ...] = ()


@dataclass(frozen=True, slots=True)
class Drawing:
    """Everything, in one coordinate system of ``width`` by ``height``."""

    width: int
    height: int
    bar: tuple[int, int, int, int]
    devices: tuple[Box, ...]
    hosts: tuple[Box, ...]
    own: tuple[Wire, ...]
    strangers: Box | None


def draw(land: Landscape, tones: Mapping[str, str]) -> Drawing:
    """The picture; ``tones`` are those of the ward, and devices come in their order."""
    order = list(tones)
    spots = sorted(land.spots, key=lambda s: order.index(s.id) if s.id in tones else len(order))
    heights = [_HEAD + _ROW * max(1, len(s.lanes)) + _PAD for s in spots]
    unknown = sum(r.count for r in land.refused if r.device_id not in {s.id for s in spots})
    left = sum(heights) + _GAP * len(heights) + (_HEAD + _GAP if unknown else 0)
    every = [lane for s in spots for lane in s.lanes] + list(land.own)
    right = sum(_host_height(h, every) + _GAP for h in land.hosts)
    own_h = _ROW * len(land.own) + (_GAP if land.own else 0)
    inside = max(left + own_h, right, 120)
    hosts = _host_boxes(land.hosts, every, _TOP + max(0, (inside - right) // 2))
    slots = _Slots(hosts)
    y, boxes = _TOP, []
    for s, h in zip(spots, heights, strict=True):
        boxes.append(_device(s, y, h, tones.get(s.id, "well"), slots, land))
        y += h + _GAP
    strangers = _strangers(unknown, y) if unknown else None
    y += _HEAD + _GAP if unknown else 0
    own = tuple(_wire(lane, y + _ROW * i + _ROW // 2, slots, land, own=True) for i, lane in enumerate(land.own))
    return Drawing(WIDTH, _TOP + inside, (_BAR_X, _TOP, _BAR_W, inside - _GAP), tuple(boxes), tuple(hosts.values()), own, strangers)


class _Slots:
    """Gives each wire its own place at its host."""

    def __init__(self, hosts: Mapping[str, Box]) -> None:
        self._hosts, self._taken = hosts, dict.fromkeys(hosts, 0)

    def place(self, host: str) -> int | None:
        box = self._hosts.get(host)
        if box is None:
            return None
        self._taken[host] += 1
        return box.y + _HOST_HEAD + _HOST_ROW * (self._taken[host] - 1) + _HOST_ROW // 2


def _host_height(host: Host, lanes: Sequence[Lane]) -> int:
    return _HOST_HEAD + _HOST_ROW * sum(lane.peer == host.id for lane in lanes) + _PAD


def _host_boxes(hosts: Sequence[Host], lanes: Sequence[Lane], y: int) -> dict[str, Box]:
    boxes = {}
    for host in hosts:
        h = _host_height(host, lanes)
        title, sub = names_of(host), ", ".join(host.addresses)
        boxes[host.id] = Box(host.id, _RIGHT_X, y, _RIGHT_W, h, _cut(title, _TITLE), _cut(sub, 38), f"{title}, {sub}")
        y += h + _GAP
    return boxes


def names_of(host: Host) -> str:
    """What a host is called."""
    return ", ".join(host.names) or "a host without a name"


def _device(s: Spot, y: int, h: int, tone: str, slots: _Slots, land: Landscape) -> Box:
    wires = tuple(_wire(lane, y + _HEAD + _ROW * i + _ROW // 2, slots, land) for i, lane in enumerate(s.lanes))
    passing = sum(lane.passing is not Passing.SHUT for lane in s.lanes)
    refused = f", {s.refused} refused in the last hour" if s.refused else ""
    broken = sum(lane.passing is Passing.GLASS for lane in s.lanes)
    glass = f", {broken} of them by break-glass" if broken else ""
    label = f"{s.name}: level {s.level}, {passing} of {len(s.lanes)} flows open{glass}{refused}"
    sub = " · ".join((s.place, *s.addresses)) if s.bus != "ble" else f"Bluetooth · {s.place}"
    short = _cut(sub, _SUB - _COUNT if s.refused else _SUB)
    return Box(s.id, 0, y, _LEFT_W, h, _cut(s.name, _TITLE), short, label, tone, s.level, s.refused, wires)


def _strangers(count: int, y: int) -> Box:
    text = f"{count} refused in the last hour"
    return Box("", 0, y, _LEFT_W, _HEAD, "Nobody known on the ward side", text, f"nobody known: {text}", "cut", 0, count)


def _wire(lane: Lane, y: int, slots: _Slots, land: Landscape, *, own: bool = False) -> Wire:
    end, bar = slots.place(lane.peer), _BAR_X + _BAR_W
    inner = "" if own else f"M{_LEFT_W} {y}H{_BAR_X}"
    through = "" if own or end is None else f"M{_BAR_X} {y}H{bar}"
    outer = "" if end is None else f"M{bar} {y}C{bar + 80} {y} {_RIGHT_X - 80} {end} {_RIGHT_X} {end}"
    if lane.from_device and end is not None:
        arrow = f"M{_RIGHT_X} {end}l-11-5v10z"
    elif lane.from_device:
        arrow = f"M{_BAR_X} {y}l-11-5v10z"
    else:
        arrow = f"M{_LEFT_W} {y}l11-5v10z"
    proxy = (_BAR_X + _BAR_W // 2, y) if lane.proxied and end is not None else None
    name, mark = _cut(lane.function, 19), str(lane.passing)
    flow = _cut(flow_of(lane, land), _ROW_TEXT - len(name))
    return Wire(y, name, flow, mark, mark, inner, outer, through, arrow, (_BAR_X, y), proxy, lane.until_ms)


def flow_of(lane: Lane, land: Landscape) -> str:
    """A flow in a few words: ``TCP 502 from clients``."""
    protocol = _PROTOCOLS.get(lane.protocol, lane.protocol)
    port = f" {lane.port}" if lane.port else ""
    if not lane.peer:
        return f"{protocol}{port} to the gateway"
    host = next((h for h in land.hosts if h.id == lane.peer), None)
    return f"{protocol}{port} {'to' if lane.from_device else 'from'} {names_of(host) if host and host.names else lane.peer}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
