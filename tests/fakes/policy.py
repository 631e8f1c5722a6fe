"""Policy and holdings with behaviour: one profile that can be tried, confirmed and undone; one device with references.

They answer in the product's shapes, so that a page or a script sees what it would see. Knows no kernel and no disk.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from gateway.errors import EvidenceError, InputError, InputErrors, RefusedError
from gateway.model.view import User

VITAL = "pump-1.monitoring"


class FakePolicy:
    """``PolicyPort``: a text that says ``wrong`` has a mistake, one that says ``cuts`` would cut a vital flow."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.pending: dict[str, Any] | None = None
        self.previous = False
        self._until_ms = 0

    def waiting(self) -> tuple[str, int] | None:
        """Who, and until when."""
        if self.pending is None:
            return None
        return self.pending["actor"], self._until_ms

    async def state(self) -> dict[str, Any]:
        """One profile."""
        row = {"id": "infusion-pump", "name": "Infusion pump", "digest": "9c" * 32, "applied": self.pending is not None}
        return {"profiles": [row], "pending": self.pending, "previous": self.previous}

    async def prepare(self, text: str) -> dict[str, Any]:
        """What it would change."""
        if "wrong" in text:
            raise InputErrors("profile infusion-pump", (("function[0].on_loss", "is missing"),))
        cut = [VITAL] if "cuts" in text else []
        lines = ["10.77.0.100 to 10.77.0.11, tcp port 7001: needs level 3"]
        document = {"version": 1, "devices": {}, "sets": {}}
        return {"profile": "infusion-pump", "difference": lines, "vital_cut": cut, "document": document}

    async def apply(self, who: User, secret: str, text: str, minutes: float, cut_vital: Sequence[str]) -> dict[str, Any]:
        """It waits from now on."""
        prepared = await self.prepare(text)
        self._check(secret)
        if self.pending:
            raise RefusedError("a policy waits for its confirmation", "confirm it, or roll it back")
        if not set(prepared["vital_cut"]) <= set(cut_vital):
            raise RefusedError(f"this would cut what a patient may depend on: {VITAL}", "name it in cut_vital")
        self._until_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 + int(minutes * 60_000)
        self.pending = {"document": "aa" * 32, "before": "bb" * 32, "actor": who.name, "minutes": minutes, "left_s": minutes * 60,
                        "at_utc": "2026-11-24T08:00:00Z", "vital_cut": prepared["vital_cut"]}  # fmt: skip
        del prepared["document"]
        return {**prepared, "pending": self.pending}

    async def confirm(self, who: User, secret: str) -> dict[str, Any]:
        """It stays."""
        self._check(secret)
        if not self.pending:
            raise RefusedError("no policy waits for a confirmation", "apply one first")
        self.pending, self.previous = None, True
        return {"document": "aa" * 32, "previous": "bb" * 32}

    async def rollback(self, who: User, secret: str, cut_vital: Sequence[str]) -> dict[str, Any]:
        """It goes."""
        self._check(secret)
        if not self.pending and not self.previous:
            raise RefusedError("there is no previous policy", "apply one first")
        self.pending, self.previous = None, False
        return {"document": "bb" * 32, "undone": "aa" * 32, "added": 0, "deleted": 1}

    def _check(self, secret: str) -> None:
        if secret != self.password:
            raise RefusedError("user or password is wrong", "try again")


class FakeHoldings:
    """``HoldingsPort`` with one device, one import that can be taken back, one certificate."""

    def __init__(self) -> None:
        self.imports = 0

    async def references(self) -> dict[str, Any]:
        """One device."""
        anchor = {"ueid": "01" * 33, "provenance": "maker", "kind": "public key"}
        back = [{"by": "bea", "at_utc": "2026-11-24T08:00:00Z"}] * self.imports
        return {"devices": [{"device": "pump-1", "anchors": [anchor], "values": [], "replaced": back}]}

    async def import_references(self, who: User, text: str, device_id: str) -> dict[str, Any]:
        """Anything that begins as JSON does."""
        if not text.startswith("{"):
            raise InputError("the endorsement does not parse", "give the JSON file that the maker sent")
        self.imports += 1
        return {"device": device_id or "pump-1", "changed": ["new: c component:FW = 00"], "text": "1 change"}

    async def rollback_references(self, who: User, device_id: str) -> dict[str, Any]:
        """The newest one."""
        if not self.imports:
            raise InputError("no reference values were imported that could be taken back", "see reference list")
        self.imports -= 1
        return {"device": device_id or "pump-1", "changed": ["gone: c component:FW = 00"], "text": "1 change"}

    async def learned(self, device_id: str) -> dict[str, Any]:
        """One flow."""
        if device_id != "pump-1":
            raise InputError(f"there is no device {device_id}", "see device list")
        flow = {"peer": "central", "protocol": "tcp", "port": 443, "opened_by": "device", "note": "12 packets"}
        return {
            "device": device_id,
            "flows": [flow],
            "others": 0,
            "notes": ["1 flows are proposed"],
            "draft": 'id = "pump-1-learned"\n',
        }

    async def assign(self, who: User, device_id: str, token: str) -> dict[str, Any]:
        """Anything without a space."""
        if " " in token:
            raise InputError("a token is 1 to 32 letters, digits, . _ or -", "take a number of your own")
        return {"device": device_id, "token": token, "text": "from now on"}

    async def cached(self) -> dict[str, Any]:
        """One certificate."""
        row = {
            "kind": "certificate",
            "name": "pump-1",
            "good_until_utc": "2026-11-24T09:00:00Z",
            "left_s": 600,
            "text": "sequence 7",
        }
        return {"rows": [row], "revoked": []}

    async def import_cached(self, who: User, data: bytes) -> dict[str, Any]:
        """Nothing proves itself here."""
        raise EvidenceError("nobody here trusts its issuer", "bring that CA's certificate first")
