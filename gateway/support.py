"""The support file: what someone far away needs to see what is wrong, built field by field from a list of what may be in it.

Nothing is copied and then cleaned: each entry is made of numbers, states and words of our own. No name, address, key,
reading or message can be in it, because no entry has a place for one. Every part is optional: it works with the daemon dead,
the configuration broken, the database damaged. Refuses to change anything, and to send anything anywhere.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.config import Config, read_config
from gateway.errors import InputError, UnavailableError, WardgateError
from gateway.support_machine import firewall, journal, machine, units, versions, wiring
from gateway.support_store import store
from gateway.support_words import in_own_words, numbered, word

_MAX_ENTRY = 512 * 1024
_MTIME = 0  # the same state gives the same bytes
View = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """Where it is built from. ``view``: the daemon's picture, None when it does not answer. ``skip``: checks that are not made."""

    config_path: Path
    view: View | None = None
    skip: tuple[str, ...] = ()


_ABOUT = {
    "versions.json": "versions of Wardgate, Python, the kernel and the packages it uses",
    "machine.json": "model, memory, disk, clock, radio switches, TPM device; sizes and states only",
    "configuration.json": "settings that are numbers or choices; no name, address, path or credential",
    "status.json": "parts of the gateway and how each device stands; devices are numbered, readings are not looked at",
    "check.json": "what `wardgate check` says, in Wardgate's own words",
    "store.json": "the database: version, how many rows of each kind, how far the record reaches; no content",
    "record.jsonl": "the newest lines of the record: time, kind, severity, and the sentence in Wardgate's own words; no evidence",
    "journal.jsonl": "the newest log lines of Wardgate's units in the same way",
    "units.json": "whether each unit runs, and how often it was started",
    "firewall.json": "tables, chains with their counters, how many elements each set has; no address",
    "wiring.json": "network interfaces by role: kind, state, speed; no address",
}


def build(source: Source) -> dict[str, bytes]:
    """The entries by name, MANIFEST.txt first. Never raises for what is broken: the entry says so."""
    trouble = ""
    try:
        config = read_config(source.config_path)
    except InputError as e:
        config, trouble = Config(), in_own_words(e.what)
    devices = numbered(d["id"] for d in (source.view or {}).get("devices", ()))
    kept: dict[str, Callable[[], Any]] = {
        "versions.json": versions,
        "machine.json": lambda: machine(config.gateway.state),
        "configuration.json": lambda: {"broken": trouble} if trouble else configuration(config),
        "status.json": lambda: status(source.view, devices),
        "check.json": lambda: checks(config, source.skip) if not trouble else "the configuration is broken",
        "store.json": lambda: store(config.gateway.state)[0],
        "record.jsonl": lambda: store(config.gateway.state)[1],
        "journal.jsonl": journal,
        "units.json": units,
        "firewall.json": firewall,
        "wiring.json": lambda: wiring(config),
    }
    entries = {name: _entry(name, made) for name, made in kept.items()}
    return {"MANIFEST.txt": _manifest(entries), **entries}


def pack(entries: Mapping[str, bytes]) -> bytes:
    """The entries as a gzipped tar."""
    raw = io.BytesIO()
    with gzip.GzipFile(fileobj=raw, mode="wb", mtime=_MTIME) as z, tarfile.open(fileobj=z, mode="w") as tar:
        for name, content in entries.items():
            header = tarfile.TarInfo(f"wardgate-support/{name}")
            header.size, header.mode = len(content), 0o600
            tar.addfile(header, io.BytesIO(content))
    return raw.getvalue()


def write_support_file(config_path: Path, file: Path, view: View | None) -> list[str]:
    """Write it for its owner only; returns the names of its entries. Raises InputError when the file exists."""
    if file.exists():
        raise InputError(f"{file} exists already", "name a new file")
    entries = build(Source(config_path, view))
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(pack(entries))
    except OSError as e:
        raise UnavailableError(f"{file} cannot be written ({e.strerror})", "name a place with room that you may write to") from None
    return list(entries)


def _entry(name: str, made: Callable[[], Any]) -> bytes:
    try:
        value = made()
    except Exception as e:  # noqa: BLE001 - a support file is made when things are broken; what failed is itself a finding
        value = {"not available": type(e).__name__, "why": in_own_words(e.what if isinstance(e, WardgateError) else e)}
    if name.endswith(".jsonl") and isinstance(value, list):
        lines = [json.dumps(v, sort_keys=True) for v in value]
        while lines and sum(map(len, lines)) + len(lines) > _MAX_ENTRY:
            lines = lines[len(lines) // 10 + 1 :]
        return "".join(f"{line}\n" for line in lines).encode("ascii")
    return json.dumps(value, indent=1, sort_keys=True).encode("ascii")[:_MAX_ENTRY] + b"\n"


def _manifest(entries: Mapping[str, bytes]) -> bytes:
    lines = [
        f"Support file of Wardgate {__version__}. Every entry is text: read it before you send it.",
        "",
        "What is in it:",
        *(f"  {name:20s} {len(content):7d} bytes  {_ABOUT[name]}" for name, content in entries.items()),
        "",
        "What is not, because no entry has a place for it: passwords, claim codes, tokens, sessions, keys, certificates, passkeys,",
        "credentials; names of people, devices, places and the gateway; addresses; readings, HL7 messages, evidence, reasons.",
        "",
        "In sentences only what Wardgate itself says passes, word beside word; all else is shown as #. Devices are numbered in",
        "the order of their ids, as `wardgate device list` shows them.",
    ]
    return ("\n".join(lines) + "\n").encode("ascii")


# --- entries from the configuration, the daemon and the checks ---


def configuration(c: Config) -> dict[str, Any]:
    """Numbers and choices."""
    t, u = c.timing, c.uplink
    timing = {n: getattr(t, n) for n in ("epoch_s", "lease_s", "renew_s", "nonce_s", "dwell_s", "certificate_s", "attest_s")}
    uplink = {"configured": bool(u.host), "port": u.port, "addresses": len(u.addresses), "acknowledge": word(u.acknowledge),
              "retry_s": u.retry_s}  # fmt: skip
    drivers = {word(n): _settings(s) for n, s in c.drivers.items()}
    return {
        "root_of_measurement": word(c.gateway.root_of_measurement), "addresses": len(c.network.addresses), "page_port": c.web.port,
        "page_names": len(c.web.names), "tpm": word(c.tpm.tcti.partition(":")[0]), "pcrs": list(c.tpm.pcrs), "timing": timing,
        "uplink": uplink, "record_keep_mib": c.record.keep_mib, "peers": len(c.peers), "drivers": drivers,
    }  # fmt: skip


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A driver's settings: truth values and ports as they are, of anything else only that it is there."""
    plain = {k: v for k, v in settings.items() if word(k) == k}
    return {k: v if type(v) is bool or (type(v) is int and k.endswith("port")) else "set" for k, v in plain.items()}


def status(view: View | None, devices: Mapping[str, str]) -> Any:
    """Parts and standings, by number."""
    if view is None:
        return "the daemon does not answer"
    g = view["gateway"]
    parts = [{"name": word(p["name"]), "ok": bool(p["ok"]), "text": in_own_words(p["text"], devices)} for p in g["parts"]]
    numbers = {n: int(g[n]) for n in ("sequence", "certificates", "quotes", "uptime_ms", "outbox_rows")}
    mode, quality = word(g["mode"]), word(g["time_quality"])
    return {
        "mode": mode,
        "time_quality": quality,
        "parts": parts,
        **numbers,
        "devices": [_device(d, devices) for d in view["devices"]],
    }


def _device(d: Mapping[str, Any], devices: Mapping[str, str]) -> dict[str, Any]:
    functions = [
        {"name": word(f["name"]), "required": int(f["required"]), "allowed": bool(f["allowed"]), "on_loss": word(f["on_loss"])}
        for f in d["functions"]
    ]
    words = {n: word(d[n]) for n in ("bus", "state", "tier", "link")}
    numbers = {n: None if d[n] is None else int(d[n]) for n in ("level", "needed", "lease_left_ms", "certificate_left_ms")}
    told = [in_own_words(a, devices) for a in d["alarms"]]
    return {"device": devices[d["id"]], **words, **numbers, "reason": in_own_words(d["reason"], devices), "alarms": told,
            "functions": functions}  # fmt: skip


def checks(config: Config, skip: Sequence[str]) -> list[dict[str, Any]]:
    """What ``wardgate check`` says."""
    from gateway.check import run_checks

    return [
        {"name": word(r.name), "ok": r.ok, "text": in_own_words(r.text), "remedy": in_own_words(r.remedy)}
        for r in run_checks(config, skip)
    ]
