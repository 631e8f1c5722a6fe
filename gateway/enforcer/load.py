"""Brings the kernel to what was confirmed: the static text, then exactly the elements of a document. Runs as root.

One transaction a load, checked afterwards by exact set inclusion both ways. Leases of devices that stay are not touched.
It decides nothing: whether a document may be loaded is ``confirm``'s business. ``nft`` is only started here and in
``check``; the enforcer's fast path never does.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from gateway.enforcer.bounds import NFT_S
from gateway.enforcer.document import SHAPES, Document, Element
from gateway.enforcer.files import write_atomically
from gateway.enforcer.listing import BRIDGE_SETS, DERIVED, LEASES, TABLES, TIMED, Listing, differences, parse_listing, wanted_sets

_INSTALLED = Path("/usr/share/wardgate/wardgate.nft")
_CHECKOUT = Path(__file__).resolve().parents[2] / "image" / "wardgate.nft"
TABLE_FILE = _CHECKOUT if _CHECKOUT.exists() else _INSTALLED
_SYSCTL = Path("/proc/sys/net/bridge")
_CALLS = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables", "bridge-nf-call-arptables")


class LoadError(Exception):
    """The kernel does not hold what it should; nothing half-done stays. ``remedy`` is the next step."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what, self.remedy = what, remedy


def keep_bridge_out_of_ip_hooks(directory: Path = _SYSCTL) -> None:
    """Set bridge-nf-call-* to 0, or raise: with them a bridged frame would pass the IP rules as if it were routed."""
    if not directory.is_dir():
        return  # the kernel has no such feature loaded: bridged frames see the bridge table only
    for name in _CALLS:
        try:
            (directory / name).write_text("0\n")
            value = (directory / name).read_text().strip()
        except OSError as e:
            raise LoadError(f"cannot set net.bridge.{name}: {e.strerror}", "run as root in the gateway's own namespace") from e
        if value != "0":
            raise LoadError(f"net.bridge.{name} stays {value}", "find what sets it and remove that")


def keep_bridges_from_learning(directory: Path = Path("/sys/class/net")) -> None:
    """Stop bridges of this namespace from learning MACs of link-local frames, or raise.

    The kernel hands an LLDP frame to the port past every hook, and would learn its source address: any device could draw
    another one's traffic to its own port with one forged frame. A bridge that is made later is met by the next load.
    """
    for option in directory.glob("*/bridge/no_linklocal_learn"):
        try:
            option.write_text("1\n")
            value = option.read_text().strip()
        except OSError as e:
            raise LoadError(f"cannot set {option}: {e.strerror}", "run as root in the gateway's own namespace") from e
        if value != "1":
            raise LoadError(f"{option} stays {value}", "find what sets it and remove that")


def list_kernel() -> Listing:
    """What the kernel holds now."""
    return parse_listing(_run(["nft", "-j", "list", "ruleset"]))


def expected_digest(text: bytes) -> str:
    """The digest that the kernel's own listing of ``text`` has: loaded in a network namespace that ends with the child."""
    script = "nft -f - && exec nft -j list ruleset"
    return parse_listing(_run(["unshare", "--net", "sh", "-c", script], text)).digest


def load_static(table_file: Path, record: Path) -> bool:
    """Load the static text if the kernel's differs; True when it was loaded. Writes ``record`` for the enforcer.

    The exchange is one transaction and carries over all elements and leases, so no moment is without the default drop.
    """
    keep_bridge_out_of_ip_hooks()
    keep_bridges_from_learning()
    try:
        text = table_file.read_bytes()
    except OSError as e:
        raise LoadError(f"{table_file}: {e.strerror}", "install the appliance again") from e
    digest = expected_digest(text)
    write_atomically(record, json.dumps({"digest": digest, "text": hashlib.sha256(text).hexdigest()}).encode(), 0o644)
    listing = list_kernel()
    if listing.present and listing.digest == digest:
        return False
    script = [f"table {family} {name} {{ }}\ndelete table {family} {name}" for family, name in TABLES]
    script.append(text.decode())
    # Sets of another version's text are left behind: one that this text does not have would undo the exchange.
    known = {*SHAPES, *DERIVED}
    script += [_elements("add", name, elements) for name, elements in listing.sets.items() if elements and name in known]
    script += _carried(listing)
    try:
        _run(["nft", "-f", "-"], "\n".join(script).encode())
    except LoadError:
        # The old elements do not fit the new text (or somebody's): the text alone is still the safe state.
        _run(["nft", "-f", "-"], "\n".join(script[:3]).encode())
    if list_kernel().digest != digest:
        raise LoadError("the kernel lists another text than was loaded", "look at `nft list ruleset`; somebody changes it")
    return True


def _carried(listing: Listing) -> list[str]:
    lines = []
    for address, lease in listing.leases.items():
        name = "lvl6" if ":" in address else "lvl4"
        if lease.expires_s > 0:
            lines.append(f"add element inet wardgate {name} {{ {address} timeout {lease.expires_s}s : {lease.level} }}")
    for name, timed in listing.glass.items():
        lines += [_timed(name, element, left) for element, left in timed.items() if left > 0]
    return lines


def apply_document(document: Document) -> dict[str, int]:
    """Make the kernel's elements equal to the document's, in one transaction; returns how many were added and deleted.

    Leases above a new cap, of addresses that are gone, and break-glass openings that are no flow any more end; others stay.
    """
    before = list_kernel()
    if not before.present:
        raise LoadError("the static tables are not loaded", "run wardgate-policy load")
    wanted = wanted_sets(document)
    script: list[str] = []
    counts = {"added": 0, "deleted": 0}
    for name, elements in wanted.items():
        held = before.sets.get(name, frozenset())
        gone, new = held - elements, elements - held
        counts["deleted"] += len(gone)
        counts["added"] += len(new)
        script += [_elements("delete", name, gone)] if gone else []
        script += [_elements("add", name, new)] if new else []
    if script:
        _run(["nft", "-f", "-"], "\n".join(script).encode())
    end_leases(over_cap(before, document))
    _close_glass(before, document)
    if wrong := differences(list_kernel(), document):
        raise LoadError(
            f"the kernel differs from the policy after loading: {wrong[0]}", "load again; somebody else changes the tables"
        )
    return counts


def over_cap(listing: Listing, document: Document) -> list[str]:
    """Addresses whose lease is more than the document allows them."""
    caps = document.cap_of()
    return [address for address, lease in listing.leases.items() if lease.level > caps.get(address, ("", 0))[1]]


def end_leases(addresses: Iterable[str]) -> None:
    """Take these addresses' leases away; one that lapsed meanwhile is no fault."""
    for address in addresses:
        name = "lvl6" if ":" in address else "lvl4"
        try:
            _run(["nft", "delete", "element", "inet", "wardgate", name, f"{{ {address} }}"])
        except LoadError:
            if address in list_kernel().leases:
                raise


def open_glass(flows: dict[str, Iterable[Element]], seconds: int) -> int:
    """Add break-glass elements (``glass4``…, ``bypass4``…) for ``seconds``, replacing earlier ones; returns how many."""
    held = list_kernel().glass
    script = []
    count = 0
    for name, elements in flows.items():
        if name not in TIMED:
            raise ValueError(f"{name} is not a break-glass set")
        for element in elements:
            if element in held.get(name, {}):
                script.append(_elements("delete", name, [element]))
            script.append(_timed(name, element, seconds))
            count += 1
    if script:
        _run(["nft", "-f", "-"], "\n".join(script).encode())
    return count


def _close_glass(listing: Listing, document: Document) -> None:
    """End break-glass openings that no function of the document names any more."""
    flows = {"glass4": "set4", "glass6": "set6", "bypass4": "via4", "bypass6": "via6"}
    for name, part in flows.items():
        allowed = frozenset().union(*(f[part] for named in document.functions.values() for f in named.values()))
        for element in set(listing.glass.get(name, {})) - allowed:
            try:
                _run(["nft", "-f", "-"], _elements("delete", name, [element]).encode())
            except LoadError:
                if element in list_kernel().glass.get(name, {}):
                    raise


def _timed(name: str, element: Element, seconds: int) -> str:
    return f"add element inet wardgate {name} {{ {_key(name, element)} timeout {seconds}s }}"


def _elements(verb: str, name: str, elements: Iterable[Element]) -> str:
    if name not in (*DERIVED, *TIMED, *LEASES) and not name.isidentifier():
        raise ValueError(f"not a set: {name!r}")
    table = "bridge wardgate_l2" if name in BRIDGE_SETS else "inet wardgate"
    return f"{verb} element {table} {name} {{ {', '.join(_key(name, element) for element in sorted(elements, key=str))} }}"


def _key(name: str, element: Element) -> str:
    """An element as nft reads it. The fields were checked by ``document``: no character of nft's syntax is in them."""
    fields: Sequence[object] = element
    tail = ""
    if name in ("via4", "via6"):
        fields, tail = element[:-1], f" : {element[-1]}"
    shown = [str(field) for field in fields]
    if name in (*BRIDGE_SETS, "bind4", "bind6", "dhcp_bind"):
        shown[0] = f'"{shown[0]}"'
    if name == "nd6":
        shown[2] = f"0x{int(shown[2]):032x}"
    return " . ".join(shown) + tail


def _run(argv: Sequence[str], text: bytes | None = None) -> bytes:
    """Run a short-lived child and return its output. Raises LoadError with the first line of what it said."""
    try:
        done = subprocess.run(argv, input=text, capture_output=True, timeout=NFT_S, check=False)  # noqa: S603 - fixed programs
    except (OSError, subprocess.TimeoutExpired) as e:
        raise LoadError(f"{argv[0]} did not run: {e}", "install nftables, and run as root") from e
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines() or ["no message"]
        raise LoadError(f"{argv[0]}: {said[0][:300]!a}", "run as root; see `nft list ruleset`")
    return done.stdout
