"""Reads what ``wiring`` describes from the live kernel, and who else configures our interfaces. Changes nothing, decides nothing.

Any user may read links, learned MACs and neighbours; who was refused on the ports is read by root, or comes from the enforcer.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from gateway.config import Config
from gateway.confirmed import confirmed_document
from gateway.enforcer.listing import MET, parse_listing
from gateway.errors import WardgateError
from gateway.network.kernel import ip_json
from gateway.wiring import Kernel, Names, Wiring, describe, hospital_of, places_of

_NFT_S = 10.0


def look(config: Config, refused: Sequence[Sequence[Any]] | None = None, root: Path = Path("/")) -> Wiring:
    """The wiring now. ``refused``: what the enforcer's dump calls ``met``; None: asked from the kernel, which takes root.

    Raises UnavailableError without iproute2.
    """
    document = confirmed(config)
    network = config.network
    links = ip_json("-d", "link")
    kernel = Kernel(
        links=links,
        fdb=ip_json("fdb", "show", program="bridge"),
        neighbours=ip_json("neigh", "show"),
        refused=_refused() if refused is None else [(str(e[0]), str(e[1]), str(e[2])) for e in refused if len(e) == 3],
        managers=managers(_ours(config, links), root),
    )
    own = frozenset(str(ip_address(a)) for a in network.addresses)
    names = Names(network.ward, network.uplink, network.management, hospital(config, document), own)
    return describe(kernel, places_of(document), names)


def hospital(config: Config, document: Mapping[str, Any] | None = None) -> frozenset[str]:
    """Every address of the hospital's side that the configuration or the confirmed policy names."""
    return hospital_of(confirmed(config) if document is None else document, config.peers) | set(config.network.routers)


def confirmed(config: Config) -> dict[str, Any]:
    """The confirmed policy as root wrote it; the empty one before the first, and when it is broken."""
    document = confirmed_document(config.policy.confirmed)
    try:
        places_of(document)
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"devices": {}, "sets": {}}
    return document


def _refused() -> list[tuple[str, str, str]] | None:
    """(port, MAC, address) that the bridge refused in the last minutes; None when the kernel does not say."""
    items: list[Any] = []
    for name in MET:
        argv = ["nft", "-j", "list", "set", "bridge", "wardgate_l2", name]
        try:
            done = subprocess.run(argv, capture_output=True, timeout=_NFT_S, check=False)  # noqa: S603 - a fixed program
            items += json.loads(done.stdout)["nftables"] if done.returncode == 0 else []
        except (OSError, ValueError, KeyError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return None
    return [(str(e[0]), str(e[1]), str(e[2])) for e in parse_listing(json.dumps({"nftables": items})).met]


def _ours(config: Config, links: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Our interfaces and their indices."""
    network = config.network
    names = {network.ward, network.uplink, network.management, network.trunk, *network.nics}
    return {str(r["ifname"]): int(r["ifindex"]) for r in links if r.get("ifname") in names or r.get("master") == network.ward}


def managers(interfaces: Mapping[str, int], root: Path = Path("/")) -> dict[str, str]:
    """interface -> the other program that configures it, from what those programs leave in /run and /etc."""
    found: dict[str, str] = {}
    for name, index in interfaces.items():
        network_manager = _text(root / f"run/NetworkManager/devices/{index}")
        networkd = _text(root / f"run/systemd/netif/links/{index}")
        if re.search(r"^managed=(true|1)$", network_manager, re.MULTILINE):
            found[name] = "NetworkManager"
        elif (state := re.search(r"^ADMIN_STATE=(\S+)$", networkd, re.MULTILINE)) and state[1] != "unmanaged":
            found[name] = "systemd-networkd"
        elif re.search(rf"^{re.escape(name)}(=|$)", _text(root / "run/network/ifstate"), re.MULTILINE) or re.search(
            rf"^\s*iface\s+{re.escape(name)}\s", _text(root / "etc/network/interfaces"), re.MULTILINE
        ):
            found[name] = "ifupdown"
        elif any(root.glob(f"run/dhcpcd/{name}.pid")) or any(root.glob(f"run/dhcpcd/hook-state/*{name}*")):
            found[name] = "dhcpcd"
    return found


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as f:
            return f.read(65536)
    except OSError:
        return ""


def rows(config: Config) -> list[tuple[str, bool, str, str]]:
    """For ``wardgate check``: (name, ok, text, remedy), the wiring first, then a row a finding."""
    try:
        wiring = look(config)
    except WardgateError as e:
        return [("wiring", False, e.what, e.remedy)]
    wired = {"modbus", "hl7"} & set(config.drivers)
    alone = not wiring.ports and not wired
    text = f"{wiring.summary}. Controls {'; '.join(wiring.controls)}. Does not control {'; '.join(wiring.leaves)}"
    ok = bool(wiring.ports) or alone
    found = [("wiring", ok, text, "name the ward's cards in [network.nics], then systemctl restart wardgate-network")]
    return found + [("wiring", f.severity != "wrong", f.text, f.remedy) for f in wiring.findings]
