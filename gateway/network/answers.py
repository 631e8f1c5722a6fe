"""PURE. What ``init`` was told about the network, as the ``[network]`` part of wardgate.toml. It refuses to look at the machine."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path

from gateway.errors import InputError


def pairs(flag: str, given: Sequence[str], example: str) -> list[tuple[str, str]]:
    """``NAME=VALUE`` of a repeated flag. Raises InputError."""
    found = []
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name or not value:
            raise InputError(f"{flag} {pair} is not NAME=VALUE", f"write it as {example}")
        found.append((name, value))
    return found


def network_toml(
    names: tuple[str, str, str], addresses: Sequence[str], management: Sequence[str], nics: Sequence[str], policy_state: Path
) -> str:
    """``names``: ward, uplink, management. An address may come with its length, which says its subnet.

    What the ward's servers read is written by root beside its policy, where the daemon cannot write.
    """
    system = policy_state == Path("/var/lib/wardgate-policy")
    run = Path("/run/wardgate-network") if system else policy_state.parent / "network"
    cards = pairs("--nic", nics, "hosp0=enp1s0")
    q = json.dumps
    return "\n".join(
        (
            f"[network]\nward = {q(names[0])}\nuplink = {q(names[1])}\nmanagement = {q(names[2])}",
            f"addresses = {q([a.partition('/')[0] for a in addresses])}\nsubnets = {q(_subnets(addresses))}",
            f"management_addresses = {q(list(management))}\nrun = {q(str(run))}",
            *(("[network.nics]", *(f"{q(name)} = {q(card)}" for name, card in cards)) if cards else ()),
        )
    )


def _subnets(addresses: Sequence[str]) -> list[str]:
    try:
        return sorted({str(ipaddress.ip_interface(a).network) for a in addresses if "/" in a})
    except ValueError as e:
        raise InputError(f"--address: {e}", "write it as 10.0.0.1/24") from None
