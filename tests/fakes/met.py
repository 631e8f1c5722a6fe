"""An enforcer's dump, as far as it says whom the kernel refused lately."""

from __future__ import annotations

from gateway.errors import UnavailableError


class Met:
    """``met``: rows of (port, MAC, address), None: it does not say. ``away``: it does not answer."""

    def __init__(self) -> None:
        self.met: list[list[str]] | None = []
        self.asked, self.away = 0, False

    async def dump(self) -> dict[str, object]:
        """See ``EnforcerPort``."""
        self.asked += 1
        if self.away:
            raise UnavailableError("away", "start it")
        return {"met": self.met}
