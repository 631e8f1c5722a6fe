"""``wardgate check``: everything that must be right, each *ok* or what to do. Looks, changes nothing."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gateway import surroundings
from gateway.config import Config
from gateway.errors import WardgateError
from gateway.surroundings import Row

__all__ = ["Row", "run_checks"]

_SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
_NTP_SOCKET = Path("/var/lib/wardgate-ntp/chronyd.sock")


def run_checks(config: Config, skip: Sequence[str] = (), config_path: Path | None = None) -> list[Row]:
    """All checks but those to ``skip``, in the order in which an engineer would mend them."""
    checks: tuple[tuple[str, Callable[[Config], Row | list[Row]]], ...] = (
        ("profiles", _profiles), ("tpm", _tpm), ("keys", _keys), ("enrolment", _enrolment), ("bluetooth", _bluetooth),
        ("wiring", _wiring), ("listeners", _listening), ("services", _services), ("bridge", _bridge), ("enforcer", _enforcer),
        ("clock", lambda c: surroundings.clock()), ("broker", _broker), ("syslog", _syslog),
        ("disk", lambda c: surroundings.disk(c.gateway.state)),
        ("memory", lambda c: surroundings.memory()), ("permissions", lambda c: surroundings.permissions(c, config_path)),
        ("record", _record),
    )  # fmt: skip
    rows: list[Row] = []
    for name, check in checks:
        if name in skip:
            continue
        try:
            found = check(config)
            rows += found if isinstance(found, list) else [found]
        except WardgateError as e:
            rows.append(Row(name, False, e.what, e.remedy))
        except OSError as e:
            rows.append(Row(name, False, f"{e.strerror or e} ({e.filename or 'no file'})", "run it as root"))
        except Exception as e:  # noqa: BLE001 - the other checks are needed most when one meets what nobody expected
            rows.append(Row(name, False, f"this could not be checked ({type(e).__name__}: {e})", "please report it with this line"))
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
    bus = str(config.drivers["ble"].get("bus") or _SYSTEM_BUS)
    if bus == _SYSTEM_BUS:
        from drivers.ble.radio import why_no_daemon, why_no_radio

        if why := why_no_radio():
            return Row("bluetooth", False, *why)
    path = bus.partition("path=")[2]
    if not Path(path).exists():
        return Row("bluetooth", False, f"there is no D-Bus at {path}", "systemctl enable --now dbus")
    if bus == _SYSTEM_BUS and (why := why_no_daemon()):
        return Row("bluetooth", False, *why)
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
    from gateway.wiring import places_of
    from gateway.wiring_reader import confirmed

    somebody = bool(places_of(confirmed(config)))  # chronyd opens its port for the first one who may ask
    services, there = config.network.services, {(row.protocol, row.port) for row in listeners(config) if row.toward_ward}
    wanted = {
        "dhcp": (services.dhcp, 67, "dhcp"),
        "dns": (services.dns, 53, "dhcp"),
        "ntp": (services.ntp and somebody, 123, "ntp"),
    }
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


def _broker(config: Config) -> Row:
    from gateway.uplink.probe import probe

    if not config.uplink.host:
        return Row("broker", True, "none is configured: readings wait on this gateway")
    return Row("broker", True, probe(config.uplink))


def _syslog(config: Config) -> Row:
    from gateway.uplink.probe import probe_syslog

    if not config.syslog.host:
        return Row("syslog", True, "none is configured: the record's only copies are what is exported")
    return Row("syslog", True, probe_syslog(config.syslog))


def _record(config: Config) -> Row:
    """How far the record reaches, and whether it is the one that the TPM remembers."""
    from gateway.attester.attester import Attester
    from gateway.attester.tpm import Tpm
    from gateway.housekeeping import compare
    from gateway.store.audit import AuditLog, Extent
    from gateway.store.cache import CertificateCache
    from gateway.store.database import Database

    async def look() -> Extent:
        database, tpm = Database(config.gateway.state / "wardgate.sqlite", read_only=True), Tpm(config.tpm.tcti)
        try:
            await database.open()
            audit = AuditLog(database)
            await compare(audit, CertificateCache(database), Attester(tpm, config.gateway.state, pcrs=config.tpm.pcrs))
            return await audit.extent()
        finally:
            await tpm.close()
            await database.close()

    found = asyncio.run(look())
    since = "nothing is recorded yet"
    if found.first_utc_ns is not None:
        since = f"lines {found.first} to {found.last}, back to {time.strftime('%Y-%m-%d', time.gmtime(found.first_utc_ns / 1e9))}"
    trimmed = f"; {found.trimmed} older ones were trimmed: export them in time (wardgate audit export)" if found.trimmed else ""
    return Row("record", True, f"{since}, {found.packed_bytes // 2**20} MiB packed{trimmed}")
