"""Notices that somebody on the ward uses this gateway's own address, and says so until it has stopped.

The bridge refuses such a frame on every port, ARP too, so nothing is led astray through this gateway; but whoever shares a switch
with that station may talk to it instead, and believe it. The enforcer tells of a refused frame at once; who sent it, the kernel
remembers for two minutes. Nothing is asked while nobody does it. Refuses to act: it cuts nobody and moves no address.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from gateway.errors import UnavailableError, WardgateError
from gateway.model.event import PartChanged
from gateway.ports import EnforcerPort

PART = "own-address"
_AGAIN_S = 30.0  # how often the kernel is asked while it lasts; what it remembers ends two minutes after the last frame
_REST_S = 10.0  # the least between two questions: a flood of frames costs one process every so often
_FULL = 1000  # the kernel remembers 1024 refused senders: with so many, the one may be among those that it could not keep
_SHOWN = 3
log = logging.getLogger("wardgate.own-address")


class OwnAddress:
    """``heard`` gets what the enforcer tells of denied packets; ``run`` never ends. ``told`` gets ``PartChanged``."""

    def __init__(
        self,
        addresses: Collection[str],
        enforcer: EnforcerPort,
        told: Callable[[PartChanged], None],
        own_macs: Callable[[], Collection[str]] | None = None,
    ) -> None:
        self._own = frozenset(str(ip_address(a)) for a in addresses)
        self._enforcer, self._told, self._macs = enforcer, told, own_macs or macs_of
        self._heard: dict[str, str] = {}  # address -> the port it was last heard on
        self._wake = asyncio.Event()
        self._trouble = ""

    def heard(self, event: Mapping[str, Any]) -> None:
        """One ``denied`` event. Costs a look into a set."""
        address = str(event.get("source", ""))
        if event.get("reason") == "unbound" and address in self._own:
            self._heard[address] = str(event.get("link", ""))
            self._wake.set()

    async def run(self) -> None:
        """Ask the kernel who it was, tell it, and ask again until it has stopped."""
        while True:
            if not self._trouble:
                await self._wake.wait()
            self._wake.clear()
            heard, self._heard = self._heard, {}
            try:
                self._tell(await self._look(heard))
            except WardgateError as e:
                log.info("who uses this gateway's address cannot be asked: %s", e)
                self._heard = {**heard, **self._heard}
                self._wake.set()
            await asyncio.sleep(_REST_S)
            if self._trouble and not self._wake.is_set():
                await asyncio.sleep(_AGAIN_S - _REST_S)

    async def _look(self, heard: Mapping[str, str]) -> str:
        """Who uses which of our addresses, in a sentence; empty: nobody. Raises UnavailableError."""
        met = (await self._enforcer.dump()).get("met")
        if not isinstance(met, Sequence):
            raise UnavailableError("the enforcer does not say whom it refused", "update it: its version is not the daemon's")
        rows = [(str(e[0]), str(e[1]), str(e[2])) for e in met if len(e) == 3]
        ours = await asyncio.to_thread(self._macs)
        found = sorted((a, f"{mac} behind {port}") for port, mac, a in rows if a in self._own and mac not in ours)
        if not found and len(rows) >= _FULL:
            found = sorted((a, f"a station behind {port}") for a, port in heard.items())
        if not found:
            return ""
        address = found[0][0]
        who = [w for a, w in found if a == address]
        more = f" and {len(who) - _SHOWN} more" if len(who) > _SHOWN else ""
        return (
            f"{address} is this gateway's own, and {', '.join(who[:_SHOWN])}{more} uses it too; "
            "give that station another address, or unplug it: devices that share a switch with it may take it for the gateway"
        )

    def _tell(self, trouble: str) -> None:
        if trouble == self._trouble:
            return
        self._trouble = trouble
        self._told(PartChanged(PART, up=not trouble, detail=trouble or "nobody else uses this gateway's address any more"))


def macs_of(root: Path = Path("/")) -> frozenset[str]:
    """Our own cards' MACs: a frame of ours that a loop in the cabling brings back is no other station."""
    found = set()
    for path in root.glob("sys/class/net/*/address"):
        try:
            found.add(path.read_text(encoding="ascii").strip())
        except (OSError, UnicodeDecodeError):
            continue
    return frozenset(found)
