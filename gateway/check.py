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


def run_checks(config: Config, skip: Sequence[str] = (), config_path: Path | None = None) -> list[Row]:
    """All checks but those to ``skip``, in the order in which an engineer would mend them."""
    checks: tuple[tuple[str, Callable[[Config], Row]], ...] = (
        ("profiles", _profiles), ("tpm", _tpm), ("keys", _keys), ("enrolment", _enrolment), ("bluetooth", _bluetooth),
        ("wiring", _wiring), ("bridge", _bridge), ("enforcer", _enforcer), ("clock", lambda c: surroundings.clock()),
        ("broker", _broker), ("disk", lambda c: surroundings.disk(c.gateway.state)), ("memory", lambda c: surroundings.memory()),
        ("permissions", lambda c: surroundings.permissions(c, config_path)), ("record", _record),
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


def _broker(config: Config) -> Row:
    from gateway.uplink.probe import probe

    if not config.uplink.host:
        return Row("broker", True, "none is configured: readings wait on this gateway")
    return Row("broker", True, probe(config.uplink))


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
