"""``wardgate check``: everything that must be right, each *ok* or what to do. Looks, changes nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.config import Config
from gateway.errors import WardgateError

_FREE_MIB = 512  # ninety days of records and readings of fifty devices fit, with room for an upgrade
_MEMORY_MIB = 512
_BUILD_YEAR = 2026
_NTP_SOCKET = Path("/var/lib/wardgate-ntp/chronyd.sock")


@dataclass(frozen=True, slots=True)
class Row:
    """One check: ``ok``, what was seen, and what to do about it."""

    name: str
    ok: bool
    text: str
    remedy: str = ""


def run_checks(config: Config) -> list[Row]:
    """All checks, in the order in which an engineer would mend them."""
    checks: tuple[tuple[str, Callable[[Config], Row | list[Row]]], ...] = (
        ("profiles", _profiles), ("tpm", _tpm), ("keys", _keys), ("enrolment", _enrolment), ("bluetooth", _bluetooth),
        ("wiring", _wiring), ("listeners", _listening), ("services", _services), ("bridge", _bridge), ("enforcer", _enforcer),
        ("clock", _clock), ("broker", _broker), ("disk", _disk), ("memory", _memory),
    )  # fmt: skip
    rows: list[Row] = []
    for name, check in checks:
        try:
            found = check(config)
            rows += found if isinstance(found, list) else [found]
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

    device = Path(config.tpm.tcti.partition("device:")[2])
    if config.tpm.tcti.startswith("device:") and not device.exists():
        return Row("tpm", False, f"there is no {device}", _missing_tpm())

    async def look() -> str:
        tpm = Tpm(config.tpm.tcti)
        try:
            await tpm.probe()
            return tpm.health.detail
        finally:
            await tpm.close()

    return Row("tpm", True, asyncio.run(look()) or f"answers on {config.tpm.tcti}")


def _missing_tpm(boot: tuple[Path, ...] = (Path("/boot/firmware/config.txt"), Path("/boot/config.txt"))) -> str:
    """What to do: a Raspberry Pi has no firmware set-up, and its overlay is the owner's to choose."""
    for file in boot:
        if file.exists():
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            if any(line.strip().startswith("dtoverlay=tpm") for line in lines):
                return f"{file} has the overlay: start the machine again, and look at how the module sits"
            return f"add dtparam=spi=on and the overlay (dtoverlay=tpm-slb9670 for most modules) to {file}, then start again"
    return "switch the TPM 2.0 on in the firmware set-up"


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


def _wiring(config: Config) -> list[Row]:
    from gateway.wiring_reader import rows

    return [Row(*row) for row in rows(config)]


def _listening(config: Config) -> Row:
    from gateway.listening import listeners

    found = listeners(config)
    wrong = [f"{row.protocol} {row.address} port {row.port}" for row in found if row.unexpected]
    if wrong:
        text = f"{', '.join(wrong)} would answer the ward, and no policy says so (the tables refuse it)"
        return Row("listeners", False, text, "stop it, or bind it to the management address")
    return Row("listeners", True, f"{sum(row.toward_ward for row in found)} toward the ward, each by the policy or the static text")


def _services(config: Config) -> Row:
    """Whether the ward's servers listen, and what the time that they give is worth."""
    from gateway.listening import listeners

    services, there = config.network.services, {(row.protocol, row.port) for row in listeners(config) if row.toward_ward}
    wanted = {"dhcp": (services.dhcp, 67, "dhcp"), "dns": (services.dns, 53, "dhcp"), "ntp": (services.ntp, 123, "ntp")}
    dead = [f"{name} (wardgate-{unit})" for name, (on, port, unit) in wanted.items() if on and ("udp", port) not in there]
    if dead and config.network.addresses:
        return Row(
            "services", False, f"not answering on the ward: {', '.join(dead)}", "systemctl status wardgate-dhcp wardgate-ntp"
        )
    return Row("services", True, f"{', '.join(n for n, w in wanted.items() if w[0]) or 'none'} on the ward; {_time_told(config)}")


def _time_told(config: Config) -> str:
    """What the ward's time is worth, by chronyd's own word where it can be asked (root)."""
    import subprocess

    services = config.network.services
    try:
        argv = ["chronyc", "-h", str(_NTP_SOCKET), "-c", "tracking"]
        said = subprocess.run(argv, capture_output=True, text=True, timeout=5, check=False).stdout.strip().split(",")  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        said = []
    if len(said) > 13:
        good = said[13] in ("Normal", "Insert second", "Delete second")
        return f"the time is synchronised, stratum {said[2]}" if good else "the time says of itself that it is unsynchronised"
    if services.local_stratum:
        return f"its own clock, said to be of stratum {services.local_stratum}"
    servers = ", ".join(services.time_servers)
    return f"time from {servers}" if servers else "no time server is configured, so its time says that it is unsynchronised"


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
