"""Who listens toward the ward, from the live kernel, and whether the policy or the static text says so.

A listener is *toward the ward* when a packet that comes in there could reach its address: a wildcard, or an address of the ward's
interface. What is expected is computed from the confirmed policy and the configuration; the rest is told, and closed by the tables
in any case. It refuses to know which process it is.
"""

from __future__ import annotations

import ipaddress
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.config import Config
from gateway.errors import UnavailableError
from gateway.policy.compile import PROXY_PORTS
from gateway.wiring_reader import confirmed

_PAGE = "the page; admitted from the management interface only"
_WILDCARDS = ("0.0.0.0", "::", "*")  # noqa: S104 - how ss writes them


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening socket. ``toward_ward``; ``why``: what allows it there, empty when nothing does."""

    protocol: str
    address: str
    interface: str
    port: int
    toward_ward: bool
    why: str = ""

    @property
    def unexpected(self) -> bool:
        """It listens toward the ward, and neither the policy nor the static text knows of it."""
        return self.toward_ward and not self.why


def listeners(config: Config) -> list[Listener]:
    """Every listening socket of this network namespace, judged. Raises UnavailableError without iproute2."""
    try:
        out = subprocess.run(["ss", "-Hlntu"], capture_output=True, text=True, check=True, timeout=5).stdout  # noqa: S607
    except (OSError, subprocess.SubprocessError) as e:
        raise UnavailableError(f"the kernel's listeners cannot be read ({type(e).__name__})", "install iproute2") from None
    return judge(out.splitlines(), config, confirmed(config))


def judge(lines: Sequence[str], config: Config, document: dict[str, Any]) -> list[Listener]:
    """Lines of ``ss -Hlntu`` against what the document and the configuration say."""
    expected = _expected(config, document)
    found = []
    for line in lines:
        fields = line.split()
        if len(fields) < 5 or not (m := re.fullmatch(r"(.+):(\d+)", fields[4])):
            continue
        address, _, interface = m[1].partition("%")
        address, interface = _bare(address), interface.strip("[]")
        toward = _toward(config, address, interface)
        why = expected.get((fields[0], int(m[2])), "") if toward else ""
        found.append(Listener(fields[0], address, interface, int(m[2]), toward, why))
    return sorted(found, key=lambda row: (not row.unexpected, row.protocol, row.port, row.address))


def _bare(text: str) -> str:
    return text.strip("[]")


def _toward(config: Config, address: str, interface: str) -> bool:
    network = config.network
    if interface and interface != network.ward:
        return False
    if address in _WILDCARDS or interface == network.ward:
        return True
    own = {str(ipaddress.ip_address(a)) for a in network.addresses}
    return address.removeprefix("::ffff:") in own


def _expected(config: Config, document: dict[str, Any]) -> dict[tuple[str, int], str]:
    """(protocol, port) -> what says that something listens there."""
    sets, own = document.get("sets", {}), {str(ipaddress.ip_address(a)) for a in config.network.addresses}
    found: dict[tuple[str, int], str] = {("tcp", config.web.port): _PAGE}
    for name, elements in sets.items():
        if name.startswith("via"):
            found |= {("tcp", int(e[3])): "a proxy; reached by the redirect of a device's flow only" for e in elements}
    for bus, port in PROXY_PORTS.items():
        if bus.value in config.drivers:
            listen = int(config.drivers[bus.value].get("listen_port", port))
            found.setdefault(("tcp", listen), "a proxy; no device's flow is redirected to it")
    services = config.network.services
    offered = [*services.offers, *([("udp", 67, 0)] if services.dhcp else [])]
    names = {53: "names, for bound devices", 67: "addresses, for bound devices", 123: "time, for bound devices"}
    found |= {(protocol, port): names[port] for protocol, port, _ in offered}
    for name, elements in sets.items():
        if name.startswith(("rtl", "vital")):
            found |= {(str(e[2]), int(e[3])): "a flow of the policy" for e in elements if e[1] in own and int(e[3]) not in names}
    return found
