"""The support file's look at the machine: each value is a number, a truth, or one of a list of states that is written here.

Runs ``systemctl``, ``journalctl`` and ``nft`` with a time limit and keeps of their answers what is named; nothing else.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.config import Config
from gateway.errors import UnavailableError
from gateway.support_words import in_own_words, word

_UNITS = ("wardgate", "wardgate-enforcer", "wardgate-policy", "wardgate-confirm", "wardgate-firewall", "wardgate-eventlog",
          "bluetooth", "dbus")  # fmt: skip
_SAID = ("LoadState", "ActiveState", "SubState", "Result", "UnitFileState")
_COUNTED = ("NRestarts", "ExecMainStatus", "MemoryCurrent")
_PACKAGES = ("aiohttp", "aiomqtt", "argon2-cffi", "bleak", "cattrs", "cbor2", "cryptography", "dbus-fast", "jinja2", "pymodbus",
             "segno", "sqlite-utils", "tpm2-pytss")  # fmt: skip
# systemd's own words for states (its manual pages); what is not among them is not told
_STATES = (
    "loaded not-found bad-setting error masked active reloading inactive failed activating deactivating maintenance running dead",
    "exited start start-pre start-post stop stop-sigterm stop-sigkill auto-restart condition listening waiting success protocol",
    "timeout exit-code signal core-dump watchdog start-limit-hit resources oom-kill exec-condition enabled disabled static",
    "indirect linked generated transient alias",
)
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+~-]{0,40}")
_STATIC = (Path("/usr/share/wardgate/wardgate.nft"), Path(__file__).resolve().parents[1] / "image" / "wardgate.nft")
_LOG_LINES = 400
_PATIENCE_S = 10
_BOARD = re.compile(r"Raspberry Pi [0-9A-Za-z .]{1,40}")


def versions() -> dict[str, Any]:
    """Of everything that runs here."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = _version(metadata.version(name))
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    system = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    return {
        "wardgate": _version(__version__), "python": _version(platform.python_version()), "kernel": _version(platform.release()),
        "machine": platform.machine() if re.fullmatch(r"[a-z0-9_]{1,16}", platform.machine()) else "#",
        "system": [system.get("ID", "") if system.get("ID") in ("debian", "raspbian", "ubuntu") else "other",
                   _version(system.get("VERSION_ID", ""))], "packages": found,
    }  # fmt: skip


def _version(text: str) -> str:
    found = _VERSION.match(text)
    return found[0] if found else "#"


def machine(state: Path, root: Path = Path("/")) -> dict[str, Any]:
    """Memory, disk, clock, radio and TPM device."""
    memory = {}
    for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name in ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree"):
            memory[name] = int(value.split()[0])
    disk = shutil.disk_usage(state if state.exists() else "/")
    board = _text(root / "sys/firmware/devicetree/base/model").rstrip("\0")
    radios = [{"type": word(_text(p / "type")), "soft": _text(p / "soft") == "1", "hard": _text(p / "hard") == "1"}
              for p in sorted((root / "sys/class/rfkill").glob("rfkill*"))]  # fmt: skip
    return {
        "board": board if _BOARD.fullmatch(board) else "other", "cpus": os.cpu_count(), "memory_kib": memory,
        "disk_bytes": {"total": disk.total, "free": disk.free}, "load": list(os.getloadavg()),
        "uptime_s": float(_text(root / "proc/uptime").split()[0] or 0), "rtc": (root / "dev/rtc0").exists(),
        "tpm_device": (root / "dev/tpmrm0").exists(), "tpm_module": (root / "sys/class/tpm/tpm0").exists(), "rfkill": radios,
        "bluetooth_adapters": len(list((root / "sys/class/bluetooth").glob("hci*"))),
    }  # fmt: skip


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def units() -> dict[str, dict[str, str]]:
    """systemd's states of the units, each from its own vocabulary."""
    found = {}
    states = frozenset(" ".join(_STATES).split())
    for unit in _UNITS:
        out = _run("systemctl", "show", f"{unit}.service", f"--property={','.join((*_SAID, *_COUNTED))}")
        pairs = [line.split("=", 1) for line in out.splitlines() if "=" in line]
        found[unit] = {k: v for k, v in pairs if (k in _SAID and v in states) or (k in _COUNTED and v.isdecimal())}
    return found


def journal() -> list[dict[str, Any]]:
    """The newest lines of our units, in our own words."""
    wanted = [x for u in _UNITS if u.startswith("wardgate") for x in ("-u", u)]
    fields = "--output-fields=MESSAGE,_SYSTEMD_UNIT,PRIORITY"
    out = _run("journalctl", "-q", "--no-pager", "-o", "json", fields, "-n", str(_LOG_LINES), *wanted)
    return [line for raw in out.splitlines() if (line := _logged(raw))]


def _logged(raw: str) -> dict[str, Any] | None:
    try:
        d = json.loads(raw)
        unit = str(d.get("_SYSTEMD_UNIT", "")).removesuffix(".service")
        at = int(d["__REALTIME_TIMESTAMP"])
        level = int(d.get("PRIORITY", 6))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return {
        "utc_us": at,
        "unit": unit if unit in _UNITS else "other",
        "priority": level,
        "text": in_own_words(d.get("MESSAGE", "")),
    }


def firewall() -> dict[str, Any]:
    """Tables, chains with the counters of their rules, and how many elements each set has."""
    listed = json.loads(_run("nft", "-j", "list", "ruleset"))["nftables"]
    found: dict[str, Any] = {}
    for entry in listed:
        for kind, body in entry.items():
            if kind in ("chain", "set", "map", "rule"):
                table = found.setdefault(f"{word(body['family'])} {_name(body['table'])}", {"chains": {}, "sets": {}})
                if kind in ("set", "map"):
                    table["sets"][_name(body["name"])] = len(body.get("elem", ()))
                elif kind == "chain":
                    policy = word(body.get("policy", "none"))
                    table["chains"].setdefault(_name(body["name"]), {"policy": policy, "packets": []})
                else:
                    chain = table["chains"].setdefault(_name(body["chain"]), {"policy": "none", "packets": []})
                    chain["packets"] += [int(x["counter"]["packets"]) for x in body["expr"] if isinstance(x.get("counter"), dict)]
    return found


@lru_cache(maxsize=1)
def _own_names() -> frozenset[str]:
    """Names of tables, chains and sets in our static text; another table's are not ours to tell."""
    text = next((p.read_text(encoding="utf-8") for p in _STATIC if p.exists()), "")
    return frozenset(re.findall(r"(?m)^\s*(?:table\s+\w+|chain|set|map)\s+(\w+)", text))


def _name(text: str) -> str:
    return text if text in _own_names() else "#"


def wiring(config: Config, net: Path = Path("/sys/class/net")) -> list[dict[str, Any]]:
    """Interfaces by their role."""
    n = config.network
    roles = {n.ward: "ward", n.uplink: "uplink", n.management: "management"}
    found = []
    others = 0
    for _, name in sorted(socket.if_nameindex()) if net == Path("/sys/class/net") else [(0, p.name) for p in sorted(net.iterdir())]:
        at = net / name
        role = roles.get(name) or ("port" if (at / "brport").exists() else "loopback" if name == "lo" else "other")
        others += role in ("port", "other")
        kind = "bridge" if (at / "bridge").exists() else "wireless" if (at / "wireless").exists() else "wired"
        found.append({
            "role": f"{role}-{others}" if role in ("port", "other") else role, "kind": kind, "state": word(_text(at / "operstate")),
            "speed_mbit": _text(at / "speed") if _text(at / "speed").isdigit() else "unknown", "mtu": int(_text(at / "mtu") or 0),
            "isolated": _text(at / "brport/isolated") == "1",
        })  # fmt: skip
    missing = [role for name, role in roles.items() if not (net / name).exists()]
    return [*found, *({"role": role, "kind": "missing"} for role in missing)]


def _run(*argv: str) -> str:
    command: Sequence[str] = argv
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True, errors="replace")  # noqa: S603
    except FileNotFoundError:
        raise UnavailableError(f"{argv[0]} is not installed", "install it") from None
    except (OSError, subprocess.SubprocessError) as e:
        raise UnavailableError(f"{argv[0]} does not answer ({type(e).__name__})", "run this as root") from None
    return done.stdout
