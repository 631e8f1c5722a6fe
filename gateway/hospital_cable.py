"""Watches whether the hospital's side has a link, and says so at once: who talks over it notices half a minute later.

Reads one file of the kernel's, twice a second. Refuses to know what goes over the cable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from gateway.model.event import PartChanged

PART = "hospital-cable"
_LOOK_S = 0.5
_SURE = 2  # looks that must agree: a link that is made again for a moment is nobody's alarm


class HospitalCable:
    """``run`` never ends. ``told`` gets ``PartChanged``; ``uplink`` gets the trouble, empty when it is over."""

    def __init__(
        self, interface: str, told: Callable[[PartChanged], None], uplink: Callable[[str], None], root: Path = Path("/")
    ) -> None:
        self._interface, self._told, self._uplink = interface, told, uplink
        self._carrier = root / "sys/class/net" / interface / "carrier"
        self._trouble, self._seen, self._times = "", "", 0

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            self.judge(self._look())
            await asyncio.sleep(_LOOK_S)

    def judge(self, trouble: str) -> None:
        """One look; told when it is the second of its kind and something else than was told before."""
        self._times = self._times + 1 if trouble == self._seen else 1
        self._seen = trouble
        if self._times < _SURE or trouble == self._trouble:
            return
        self._trouble = trouble
        self._uplink(trouble)
        self._told(PartChanged(PART, up=not trouble, detail=trouble or f"{self._interface} has a link"))

    def _look(self) -> str:
        try:
            if self._carrier.read_text(encoding="ascii").strip() == "1":
                return ""
        except FileNotFoundError:
            return f"there is no interface {self._interface}, the hospital's side; name it in [network.nics], then restart"
        except OSError:
            pass  # it is switched off (EINVAL): no link either
        where = f"no cable or no link on {self._interface}, the hospital's side"
        return f"{where}: nothing of the ward gets there, and nothing from there gets here; look at the cable and the switch"
