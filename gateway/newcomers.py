"""Hosts on the ward's ports that nobody accepted: told, so that they can be added by a person who knows what they are.

The bridge refuses whatever they send. The enforcer tells of the first packets of a flow; which port, MAC and addresses they came
from, the kernel remembers for two minutes. Nothing is asked while nobody new speaks. A host can send any number of MACs: only so
many of a port are told in an hour, so that made-up ones fill no list and no record. Refuses to guess what a host is: it says where
it is and what it calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from gateway.errors import WardgateError
from gateway.model.device import Device
from gateway.model.event import DeviceSeen
from gateway.own_address import macs_of
from gateway.ports import EnforcerPort
from gateway.sightings import MOST_OF_A_PORT

_FORGOTTEN_S = 3600.0  # who was not heard for so long makes room for another
_REST_S, _LONG_REST_S = 5.0, 20.0  # between two questions; it grows while those who speak are known already
_AGAIN_S = 60.0  # how often one that still speaks is told again, so that the list says that it is there
_CALLS = _ADDRESSES = 8  # of a host, that are remembered
_HOSTS = 256  # whose calls are remembered between two looks
log = logging.getLogger("wardgate.newcomers")

Refused = Mapping[tuple[str, str], tuple[str, ...]]  # (port, MAC) -> its addresses


@dataclass(slots=True)
class _Host:
    seen: DeviceSeen
    heard_s: float
    told_s: float = float("-inf")
    calls: dict[str, None] = field(default_factory=dict)


class Newcomers:
    """``heard`` gets what the enforcer tells of denied packets; ``run`` never ends. ``tell`` gets ``DeviceSeen``.

    ``devices``: those that are known; ``hospital``: addresses of the hospital's side, where a port that has one is a wrong cable.
    """

    def __init__(
        self,
        devices: Callable[[], Collection[Device]],
        hospital: Callable[[], Collection[str]],
        enforcer: EnforcerPort,
        tell: Callable[[DeviceSeen], Awaitable[None]],
        own_macs: Callable[[], Collection[str]] = macs_of,
    ) -> None:
        self._devices, self._hospital, self._enforcer, self._tell, self._macs = devices, hospital, enforcer, tell, own_macs
        self._hosts: dict[tuple[str, str], _Host] = {}
        self._calls: dict[str, dict[str, None]] = {}  # by address: what it tried to reach since the last look
        self._wake = asyncio.Event()

    def heard(self, event: Mapping[str, Any]) -> None:
        """One ``denied`` event."""
        if event.get("reason") != "unbound":
            return
        source, call = str(event.get("source", "")), _call(event)
        if call and (source in self._calls or len(self._calls) < _HOSTS):
            calls = self._calls.setdefault(source, {})
            if len(calls) < _CALLS:
                calls[call] = None
        self._wake.set()

    async def run(self) -> None:
        """Look who it was, tell the new ones, rest."""
        loop, rest_s = asyncio.get_running_loop(), _REST_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                rest_s = _REST_S if await self._look(loop.time()) else min(_LONG_REST_S, 2 * rest_s)
            except WardgateError as e:
                log.info("who is new on the ward cannot be asked: %s", e)
                self._wake.set()
            await asyncio.sleep(rest_s)

    async def _look(self, now_s: float) -> bool:
        """Whether anybody was told."""
        met = (await self._enforcer.dump()).get("met")
        rows = [(str(e[0]), str(e[1]), str(e[2])) for e in met if len(e) == 3] if isinstance(met, Sequence) else []
        (calls, self._calls), told = (self._calls, {}), False
        hospital, own = await asyncio.to_thread(lambda: (frozenset(self._hospital()), frozenset(self._macs())))
        for (port, mac), addresses in strangers(rows, self._devices(), hospital, own).items():
            host = self._host(port, mac, now_s)
            if host is None:
                continue
            for address in addresses:
                host.calls |= dict.fromkeys(list(calls.get(address, ()))[: max(0, _CALLS - len(host.calls))])
            seen = DeviceSeen(None, mac, "unnamed", ", ".join(host.calls), port=port, mac=mac, addresses=addresses)
            if now_s - host.told_s >= _AGAIN_S or (addresses and not host.seen.addresses):
                host.seen, host.told_s, told = seen, now_s, True
                await self._tell(seen)
        return told

    def _host(self, port: str, mac: str, now_s: float) -> _Host | None:
        """The one at this place; None: there is no room for another on this port."""
        found = self._hosts.get((port, mac))
        if found is not None:
            found.heard_s = now_s
            return found
        there = [key for key in self._hosts if key[0] == port]
        if len(there) >= MOST_OF_A_PORT:
            oldest = min(there, key=lambda key: self._hosts[key].heard_s)
            if now_s - self._hosts[oldest].heard_s < _FORGOTTEN_S:
                return None
            del self._hosts[oldest]
        self._hosts[port, mac] = made = _Host(DeviceSeen(None, mac, ""), now_s)
        return made


def _call(event: Mapping[str, Any]) -> str:
    """Whom it calls, or looks for: nobody answers a stranger's ARP, so most calls go no further."""
    protocol, destination = event.get("protocol"), event.get("destination")
    if protocol == "arp":
        return f"arp {destination}" if destination != event.get("source") else ""
    return f"{protocol} {destination} {event.get('port')}" if event.get("opens") else ""


def strangers(
    refused: Sequence[tuple[str, str, str]], devices: Collection[Device], hospital: Collection[str], own_macs: Collection[str]
) -> Refused:
    """Who of those refused (port, MAC, address) is nobody we know, with the addresses that it could keep.

    A known device on a wrong port and an address used twice are mistakes, told elsewhere; so is a cable to the hospital.
    """
    bound = [d.binding for d in devices if d.binding is not None]
    macs, taken = {b.mac for b in bound} | set(own_macs), {a for b in bound for a in b.addresses}
    swapped = {port for port, mac, a in refused if a in hospital or mac in own_macs}
    found: dict[tuple[str, str], set[str]] = {}
    for port, mac, address in refused:
        if mac not in macs and port not in swapped and address not in taken:
            found.setdefault((port, mac), set()).update([address] if _lasting(address) else [])
    return {key: tuple(sorted(found[key], key=lambda a: (":" in a, a))[:_ADDRESSES]) for key in sorted(found)}


def _lasting(address: str) -> bool:
    """Whether a device can be bound to it: not what a host without an address says, nor what only its own cable knows."""
    a = ip_address(address)
    return not (a.is_unspecified or a.is_link_local or a.is_multicast or a.is_loopback)
