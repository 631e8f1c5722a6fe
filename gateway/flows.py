"""Which flows the live kernel lets pass now, read from its own tables by root: the elements, and the leases they are held against.

For ``wardgate status --ports``. It refuses to know the policy: what is here is what is enforced.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from gateway.enforcer.listing import Listing
from gateway.enforcer.load import LoadError, list_kernel
from gateway.errors import UnavailableError


@dataclass(frozen=True, slots=True)
class KernelFlow:
    """One element of the kernel's sets. ``needs``: a level, or ``vital``; ``passes``: whether it does at this moment."""

    source: str
    target: str
    protocol: str
    port: int
    needs: str
    passes: bool

    def __str__(self) -> str:
        need = "vital" if self.needs == "vital" else f"needs level {self.needs}"
        return f"{'passes' if self.passes else 'held  '}: {self.source} to {self.target} {self.protocol} {self.port} ({need})"


def kernel_flows() -> list[KernelFlow] | None:
    """Every flow of the kernel's sets; None for who is not root. Raises UnavailableError when the tables cannot be read."""
    if os.geteuid() != 0:
        return None
    try:
        listing = list_kernel()
    except LoadError as e:
        raise UnavailableError(e.what, e.remedy) from None
    if not listing.present:
        raise UnavailableError("the tables are not loaded", "systemctl start wardgate-firewall wardgate-policy")
    return judge(listing)


def judge(listing: Listing) -> list[KernelFlow]:
    """Vital flows pass; the others as their device's lease, or being observed, lets them."""
    bound = {str(e[2]) for family in (4, 6) for e in listing.sets.get(f"bind{family}", ())}
    seen = {str(e[0]) for family in (4, 6) for e in listing.sets.get(f"seen{family}", ())}
    found = []
    for family in (4, 6):
        for name, need in ((f"vital{family}", "vital"), *((f"rtl{level}_{family}", str(level)) for level in range(4))):
            for source, target, protocol, port in listing.sets.get(name, ()):
                device = str(source if source in bound else target)
                lease = listing.leases.get(device)
                level = lease.level if lease else 0
                passes = device in bound and (need == "vital" or device in seen or level >= int(need))
                found.append(KernelFlow(str(source), str(target), str(protocol), int(port), need, passes))
    return sorted(found, key=lambda f: (f.source, f.target, f.protocol, f.port, f.needs))
