"""What happens without the daemon: first boot, enrolment, checking the record, profiles, break-glass on the console.

Like ``app`` it composes adapters, for one command each. Refuses to run next to nothing: every function says what it did.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tomllib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from gateway.config import Config, parse_config, read_config
from gateway.confirmed import applied_profiles
from gateway.errors import InputError, InputErrors, RefusedError
from gateway.model.profile import Profile
from gateway.network.answers import network_toml, pairs

if TYPE_CHECKING:
    from gateway.store.database import Database

_BOOT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")  # there only where firmware measured the boot
T = TypeVar("T")
Answer = tuple[Any, list[str]]


@dataclass(frozen=True, slots=True)
class Answers:
    """What ``init`` was told. ``owner``: uid of the daemon; None: it runs as whoever calls."""

    config: Path
    state: Path
    run: Path
    name: str
    id: str
    tcti: str
    ward: str
    uplink: str
    management: str
    addresses: tuple[str, ...]
    peers: tuple[str, ...]
    policy_state: Path
    owner: int | None
    port: int
    profiles: Path
    extra: Path | None
    new_claim: bool
    interactive: bool
    root_of_measurement: str = ""  # empty: what this machine shows
    management_addresses: tuple[str, ...] = ()
    nics: tuple[str, ...] = ()
    broker: str = ""  # HOST or HOST:PORT; empty: nothing leaves for now
    broker_addresses: tuple[str, ...] = ()  # where HOST is, when it is a name
    broker_ca: Path | None = None
    ca: str = ""


def initialise(a: Answers) -> Answer:
    """First boot, or a new claim code. Idempotent: what exists is kept."""
    if not a.new_claim and a.interactive:
        a = _ask(a)
    if not a.new_claim and not a.config.exists():
        text = _toml(a)
        parse_config(text, str(a.config))
        a.config.parent.mkdir(parents=True, exist_ok=True)
        a.config.write_text(text, encoding="utf-8")
    config = read_config(a.config)
    owner = _owner(config, a.owner)
    for directory, mode in ((config.gateway.state, 0o700), (config.policy.confirmed.parent, 0o755)):
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(mode)
    if owner:
        os.chown(config.gateway.state, *owner)
    done: list[str] = []
    if not a.new_claim:
        done = _provision(config, owner)
    claim = asyncio.run(_new_claim(config))
    _give(config.gateway.state, owner)
    _note_claim(config, claim)
    return _told(a, config, claim, done)


def _told(a: Answers, config: Config, claim: str, done: Sequence[str]) -> Answer:
    from gateway.web.label import claim_label

    url = f"https://{config.web.names[0]}:{config.web.port}/"
    lines = [*done, f"configuration: {a.config}", a.config.read_text(encoding="utf-8")] if not a.new_claim else []
    lines += [f"claim code: {claim}   (once, within 30 minutes, at {url})", claim_label(url, claim)]
    return {"config": str(a.config), "claim": claim, "url": url, "changes": list(done)}, lines


def _ask(a: Answers) -> Answers:
    """Ask on the console for what a first boot needs; an empty answer keeps what is in brackets."""
    from dataclasses import replace

    def ask(question: str, default: str) -> str:
        sys.stdout.write(f"{question} [{default}]: ")
        sys.stdout.flush()
        return sys.stdin.readline().strip() or default

    addresses = ask("this gateway's own addresses, separated by spaces", " ".join(a.addresses)).split()
    peers = ask("hospital hosts as NAME=ADDRESS, separated by spaces", " ".join(a.peers)).split()
    name = ask("what this gateway is called", a.name)
    cards = ask("which network card is what, as hosp0=enp1s0 mgmt0=enp3s0 p-pump-1=enp2s0", " ".join(a.nics)).split()
    page = ask("the page's own addresses on mgmt0, as 10.1.0.2/24", " ".join(a.management_addresses)).split()
    broker = ask("the hospital's MQTT broker as HOST or HOST:PORT, nothing for none", a.broker)
    where = ask("the broker's addresses, nothing if that was one", " ".join(a.broker_addresses)).split() if broker else []
    ca = ask("the hospital's CA for enrolment as https://…, nothing to go by files", a.ca)
    return replace(
        a, name=name, nics=tuple(cards), management_addresses=tuple(page), addresses=tuple(addresses), peers=tuple(peers),
        broker=broker, broker_addresses=tuple(where), ca=ca,
    )  # fmt: skip


def _uplink_toml(a: Answers) -> tuple[str, ...]:
    """The sections ``uplink`` and ``enrolment``, as far as they were told."""
    sections = [f"[enrolment]\nca = {json.dumps(a.ca)}"] if a.ca else []
    if a.broker:
        host, port = _host_and_port(a.broker)
        lines = [f"[uplink]\nhost = {json.dumps(host)}", f"port = {port}" if port else ""]
        lines += [f"addresses = {json.dumps(list(a.broker_addresses))}" if a.broker_addresses else ""]
        lines += [f"ca = {json.dumps(str(a.broker_ca))}" if a.broker_ca else ""]
        files = (("cert", "uplink.pem"), ("key", "uplink.key"))
        lines += [f"{name} = {json.dumps(str(a.state / file))}" for name, file in files]
        sections.append("\n".join(line for line in lines if line))
    return tuple(sections)


def _host_and_port(text: str) -> tuple[str, str]:
    """``HOST``, ``HOST:PORT``, an IPv6 address, or ``[IPV6]:PORT``; no port: empty. Raises InputError."""
    found = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::(\d{1,5}))?|([^\s:\[\]]+)(?::(\d{1,5}))?|([0-9A-Fa-f:.]+)", text)
    if found is None:
        raise InputError(f"the broker {text} is not HOST or HOST:PORT", "write it as broker.hospital.example:8883")
    return found[1] or found[3] or found[5], found[2] or found[4] or ""


def _toml(a: Answers) -> str:
    peers: dict[str, list[str]] = {}
    for name, address in pairs("--peer", a.peers, "central=10.0.0.5"):
        peers.setdefault(name, []).append(address)
    names = (a.ward, a.uplink, a.management)
    q = json.dumps
    extra = a.extra.read_text(encoding="utf-8") if a.extra else "[drivers.ble]\n[drivers.modbus]\n[drivers.hl7]\n"
    measured = a.root_of_measurement or ("uefi" if _BOOT_LOG.exists() else "none")
    return "\n".join(
        (
            "# Written by `wardgate init`; every setting is described in gateway/config.py.",
            f"[gateway]\nid = {q(a.id)}\nname = {q(a.name)}\nstate = {q(str(a.state))}\nrun = {q(str(a.run))}",
            f"root_of_measurement = {q(measured)}",
            network_toml(names, a.addresses, a.management_addresses, a.nics, a.policy_state),
            f"[web]\nport = {a.port}",
            f"[tpm]\ntcti = {q(a.tcti)}",
            f"[policy]\nprofiles = {q(str(a.profiles))}\nconfirmed = {q(str(a.policy_state / 'confirmed.json'))}",
            f"socket = {q(str(a.run / 'policy.sock'))}",
            f"[enforcer]\nsocket = {q(str(a.run / 'enforcer.sock'))}\nalarm = {q(str(_alarm(a)))}",
            *_uplink_toml(a),
            "[peers]",
            *(f"{name} = {q(addresses)}" for name, addresses in peers.items()),
            extra,
        )
    )


def _alarm(a: Answers) -> Path:
    """Where the enforcer leaves its alarm: its own directory, beside the others when they are not the system's."""
    if a.policy_state == Path("/var/lib/wardgate-policy"):
        return Path("/run/wardgate-enforcer/alarm.json")
    return a.policy_state.parent / "alarm" / "alarm.json"


def _owner(config: Config, uid: int | None) -> tuple[int, int] | None:
    if uid is not None:
        return uid, uid
    if os.geteuid() != 0 or not config.gateway.state.exists():
        return None
    import pwd

    try:
        entry = pwd.getpwnam("wardgate")
    except KeyError:
        return None
    return entry.pw_uid, entry.pw_gid


def _provision(config: Config, owner: tuple[int, int] | None) -> list[str]:
    from gateway.attester.attester import provision
    from gateway.attester.tpm import Tpm

    async def work() -> list[str]:
        tpm = Tpm(config.tpm.tcti)
        try:
            made = await provision(tpm, config.gateway.state, config.gateway.id, owner=owner)
        finally:
            await tpm.close()
        escrow = (
            [f"move {made.lockout_file} into escrow: it ends a TPM lockout, and nothing else does"] if made.lockout_file else []
        )
        return [*made.changes, *escrow]

    return asyncio.run(work())


def _give(directory: Path, owner: tuple[int, int] | None) -> None:
    """What root wrote belongs to the daemon, but the lockout authorisation, which is root's."""
    if owner:
        for path in directory.iterdir():
            if path.name != "tpm-lockout-authorisation":
                os.chown(path, *owner)


async def _with_store(config: Config, work: Callable[[Database], Awaitable[T]]) -> T:
    from gateway.store.database import Database

    database = Database(config.gateway.state / "wardgate.sqlite")
    await database.open()
    try:
        return await work(database)
    finally:
        await database.close()


async def _new_claim(config: Config) -> str:
    from gateway.machine_clock import MachineClock
    from gateway.store.accounts import Accounts
    from gateway.store.audit import AuditLog

    async def work(database: Database) -> str:
        audit = AuditLog(database)
        accounts = Accounts(database, MachineClock(), audit)
        try:
            return await accounts.new_claim()
        finally:
            accounts.close()
            await audit.close()

    return await _with_store(config, work)


def _note_claim(config: Config, claim: str) -> None:
    """Root's own loader keeps a hash of the code: with it the first operator's credential is made."""
    if os.geteuid() == 0:
        from gateway.enforcer.credentials import Operators

        Operators(config.policy.confirmed.parent).write_claim(claim)


def enrol(config: Config, *, ca: str | None, request: Path | None, response: Path | None, anchor: Path | None = None) -> Answer:
    """Credential activation, over HTTPS or by two files. With none of them: at the configured CA.

    ``anchor`` is kept for the page, once it vouches for the key.
    """
    if not (ca or request or response):
        ca = config.enrolment.ca
        if not ca:
            raise InputError("no CA is configured", "give --ca URL, or --request FILE and later --response FILE")
    from gateway.attester import anchors, client_key
    from gateway.attester import enrol as wire
    from gateway.attester.attester import Attester
    from gateway.attester.tpm import Tpm

    given, uplink = response.read_bytes() if response else b"", config.uplink

    async def work() -> Answer:
        tpm = Tpm(config.tpm.tcti)
        try:
            attester = Attester(tpm, config.gateway.state, pcrs=config.tpm.pcrs)
            wanted = client_key.make_request(uplink.key, config.gateway.id) if uplink.host and not response else b""
            asked = attester.make_request(wanted)
            if request:
                return asked.to_json(), [f"give {request} to the CA, then: wardgate enrol --response FILE"]
            answer = wire.Answer.from_json(wire.parse(given)) if response else await asyncio.to_thread(wire.ask, str(ca), asked)
            done = await attester.accept_answer(answer)
            if anchor:
                anchors.keep(anchor, attester.ak_chain(), config.gateway.state)
        finally:
            await tpm.close()
        words = [f"the attestation key is certified: {done.subject}, by {done.issuer}, until {done.not_after:%Y-%m-%d}"]
        told = {"subject": done.subject, "issuer": done.issuer, "not_after": done.not_after.isoformat()}
        if uplink.host:
            until = client_key.accept(uplink.key, uplink.cert, done.client, config.gateway.id)
            words.append(f"the uplink's key is certified, until {until:%Y-%m-%d}")
            told["uplink_not_after"] = until.isoformat()
        return told, words

    document, lines = asyncio.run(work())
    if request:
        request.write_text(json.dumps(document), encoding="utf-8")
    return document, lines


def verify_audit(config: Config) -> Answer:
    """Walk the hash chain, up to and beyond the newest checkpoint; raises EvidenceError naming the first broken line."""
    from gateway.store.audit import AuditLog, Extent, Head
    from gateway.store.cache import CertificateCache

    async def work(database: Database) -> tuple[Head, Extent]:
        audit, kept = AuditLog(database), await CertificateCache(database).checkpoint()
        try:
            head = await audit.verify(Head(kept.audit_sequence, kept.audit_hash) if kept else None)
            return head, await audit.extent()
        finally:
            await audit.close()

    head, extent = asyncio.run(_with_store(config, work))
    since = ""
    if extent.first_utc_ns is not None:
        since = f" from line {extent.first} of {datetime.fromtimestamp(extent.first_utc_ns / 1e9, tz=UTC):%Y-%m-%d %H:%M} UTC on"
    lines = [f"the audit log holds{since}: {head.sequence} lines, each bound to the one before; the last is {head.hash.hex()}"]
    if extent.trimmed:
        lines.append(f"lines 1 to {extent.trimmed} were trimmed to keep it within bounds, and a line of the chain says so")
    document = {"ok": True, "lines": head.sequence, "head": head.hash.hex(), "first": extent.first, "trimmed": extent.trimmed}
    return document, lines


def export_audit(config: Config, out: TextIO) -> None:
    """The whole log as JSON lines."""
    from gateway.store.audit import AuditLog

    async def work(database: Database) -> None:
        audit = AuditLog(database)
        async for line in audit.export():
            out.write(line.rstrip("\n") + "\n")
        await audit.close()

    asyncio.run(_with_store(config, work))


def load_profiles(config: Config, *, applied: bool = True) -> dict[str, Profile]:
    """Every profile of the configuration's folder, by id; one that was applied counts before the folder's of that id.

    Raises InputErrors with every file's mistakes.
    """
    from gateway.policy.profile import parse_profile

    profiles: dict[str, Profile] = {}
    problems: list[tuple[str, str]] = []
    texts: list[tuple[str, Path | str]] = [(p.name, p) for p in sorted(config.policy.profiles.glob("*.toml"))]
    texts += [(f"applied {i}", text) for i, text in sorted(applied_profiles(config.policy.confirmed).items())] if applied else []
    for name, text in texts:
        try:
            table = _toml_of(text) if isinstance(text, Path) else _parsed_toml(text, name)
            profile = parse_profile(table, config.peers)
            profiles[profile.id] = profile
        except InputErrors as e:
            problems += [(f"{name}: {where}", what) for where, what in e.problems]
        except InputError as e:
            problems.append((name, e.what))
    if problems:
        raise InputErrors(str(config.policy.profiles), tuple(problems))
    return profiles


def _toml_of(path: Path) -> dict[str, Any]:
    try:
        return _parsed_toml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path} cannot be read ({e})", "mend it") from None


def _parsed_toml(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        raise InputError(f"{where} is no TOML ({e})", "mend it") from None


def failures(config: Config) -> Answer:
    """The failure table of every profile."""
    from gateway.policy.failures import failure_table

    document, lines = [], []
    for profile in load_profiles(config).values():
        for row in failure_table(profile):
            document.append({"profile": profile.id, **asdict(row)})
            lines.append("  ".join(str(v) for v in (profile.id, *asdict(row).values())))
    return document, lines


def break_glass(config: Config, device: str, function: str, reason: str, minutes: int) -> Answer:
    """Root on the console opens one function's flows; needs no daemon."""
    from gateway.enforcer.confirm_client import confirm_sync

    if os.geteuid() != 0:
        raise RefusedError("break-glass without the daemon is for root on the console", "use the page, or sudo")
    body = {"do": "break-glass", "device": device, "function": function, "minutes": minutes, "reason": reason}
    answer = confirm_sync(config.policy.socket, body)
    return answer, [f"{device} {function} is open for {minutes} min: {reason}; written to the record"]
