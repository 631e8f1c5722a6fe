"""``wardgate check``: everything that must be right, each *ok* or what to do. Looks, changes nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.config import Config
from gateway.errors import WardgateError

_FREE_MIB = 512  # ninety days of records and readings of fifty devices fit, with room for an upgrade
_MEMORY_MIB = 512
_BUILD_YEAR = 2026


@dataclass(frozen=True, slots=True)
class Row:
    """One check: ``ok``, what was seen, and what to do about it."""

    name: str
    ok: bool
    text: str
    remedy: str = ""


def run_checks(config: Config, skip: Sequence[str] = ()) -> list[Row]:
    """All checks but those to ``skip``, in the order in which an engineer would mend them."""
    checks: tuple[tuple[str, Callable[[Config], Row]], ...] = (
        ("profiles", _profiles), ("tpm", _tpm), ("keys", _keys), ("enrolment", _enrolment), ("bluetooth", _bluetooth),
        ("wiring", _wiring), ("bridge", _bridge), ("enforcer", _enforcer), ("clock", _clock), ("broker", _broker),
        ("disk", _disk), ("memory", _memory),
    )  # fmt: skip
    rows = []
    for name, check in checks:
        if name in skip:
            continue
        try:
            rows.append(check(config))
        except WardgateError as e:
            rows.append(Row(name, False, e.what, e.remedy))
        except OSError as e:
            rows.append(Row(name, False, f"{e.strerror or e} ({e.filename or 'no file'})", "run it as root"))
    return rows


def _profiles(config: Config) -> Row:
    from gateway.bootstrap import load_profiles

    found = load_profiles(config)
    return Row(
        "profiles", bool(found), f"{len(found)} profiles in {config.policy.profiles}", "copy a profile there; see image/profiles"
    )


def _tpm(config: Config) -> Row:
    from gateway.attester.tpm import Tpm

    async def look() -> str:
        tpm = Tpm(config.tpm.tcti)
        try:
            await tpm.probe()
            return tpm.health.detail
        finally:
            await tpm.close()

    return Row("tpm", True, asyncio.run(look()) or f"answers on {config.tpm.tcti}")


def _keys(config: Config) -> Row:
    from gateway.attester.keystore import FILE, KeyStore
    from gateway.attester.tpm import Tpm

    async def look() -> int:
        tpm = Tpm(config.tpm.tcti)
        try:
            store = KeyStore(tpm, config.gateway.state, config.gateway.id)
            await store.open()
            return store.devices
        finally:
            await tpm.close()

    if not (config.gateway.state / FILE).exists():
        return Row("keys", True, "no device shares a key with this gateway")
    return Row("keys", True, f"the key store opens: {asyncio.run(look())} devices")


def _enrolment(config: Config) -> Row:
    from gateway.attester.state import load

    chain = load(config.gateway.state).ak_chain
    return Row(
        "enrolment",
        bool(chain),
        "a CA certified this gateway's key" if chain else "no CA certified this gateway's key",
        "run `wardgate enrol`",
    )


def _bluetooth(config: Config) -> Row:
    if "ble" not in config.drivers:
        return Row("bluetooth", True, "not used")
    blocked = [
        p for p in Path("/sys/class/rfkill").glob("rfkill*") if _says(p / "type", "bluetooth") and not _says(p / "state", "1")
    ]
    if blocked:
        return Row("bluetooth", False, "the radio is switched off (rfkill)", "rfkill unblock bluetooth")
    bus = str(config.drivers["ble"].get("bus") or "unix:path=/run/dbus/system_bus_socket")
    path = bus.partition("path=")[2]
    if not Path(path).exists():
        return Row("bluetooth", False, f"there is no D-Bus at {path}", "start dbus and bluetooth.service")
    return Row("bluetooth", True, f"D-Bus at {path}")


def _says(path: Path, word: str) -> bool:
    return path.exists() and path.read_text(encoding="ascii").strip() == word


def _wiring(config: Config) -> Row:
    have = {name for _, name in socket.if_nameindex()}
    ward, uplink = config.network.ward, config.network.uplink
    if ward not in have and uplink not in have:
        return Row(
            "wiring",
            "ble" in config.drivers and "modbus" not in config.drivers,
            "wireless only: no wired side",
            "plug in the ward's network",
        )
    missing = [n for n in (ward, uplink) if n not in have]
    if missing:
        return Row(
            "wiring", False, f"there is no interface {', '.join(missing)}", "name the right ones in [network], or make the bridge"
        )
    ports = sorted(p.name for p in Path(f"/sys/class/net/{ward}/brif").glob("*"))
    shared = [p for p in ports if not _says(Path(f"/sys/class/net/{ward}/brif/{p}/isolated"), "1")]
    if shared:
        return Row(
            "wiring",
            False,
            f"ports {', '.join(shared)} of {ward} are not isolated: devices reach each other",
            "bridge link set dev PORT isolated on",
        )
    return Row("wiring", True, f"in line: {len(ports)} isolated ports on {ward}, the hospital on {uplink}")


def _bridge(_: Config) -> Row:
    on = [n for n in ("iptables", "ip6tables", "arptables") if _says(Path(f"/proc/sys/net/bridge/bridge-nf-call-{n}"), "1")]
    return Row(
        "bridge",
        not on,
        f"bridged frames pass the inet tables too ({', '.join(on)})" if on else "tables are apart",
        "wardgate-policy load",
    )


def _enforcer(config: Config) -> Row:
    path = config.enforcer.socket
    if not path.exists():
        return Row("enforcer", False, f"nobody listens on {path}", "systemctl start wardgate-enforcer")
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(2)
        s.connect(str(path))
    return Row("enforcer", True, f"listens on {path}")


def _clock(_: Config) -> Row:
    year = time.gmtime().tm_year
    ok = year >= _BUILD_YEAR
    return Row(
        "clock", ok, f"the year is {year}" + ("" if Path("/dev/rtc0").exists() else "; no RTC"), "set the time, and fit an RTC"
    )


def _broker(config: Config) -> Row:
    from gateway.uplink.probe import probe

    if not config.uplink.host:
        return Row("broker", True, "none is configured: readings wait on this gateway")
    return Row("broker", True, probe(config.uplink))


def _disk(config: Config) -> Row:
    where = config.gateway.state if config.gateway.state.exists() else Path("/")
    free = shutil.disk_usage(where).free // 2**20
    return Row("disk", free >= _FREE_MIB, f"{free} MiB free at {where}", f"free at least {_FREE_MIB} MiB")


def _memory(_: Config) -> Row:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return Row("memory", total >= _MEMORY_MIB, f"{total} MiB", f"at least {_MEMORY_MIB} MiB")
