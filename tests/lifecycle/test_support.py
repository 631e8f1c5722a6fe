"""The support file: secrets and patients are seeded wherever the gateway keeps or says anything, and looked for in every byte."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.errors import InputError
from gateway.machine_clock import MachineClock
from gateway.model.device import Binding, Bus, Device, DeviceState
from gateway.model.effect import Record
from gateway.model.event import EvidenceArrived
from gateway.model.evidence import Channel, ChannelKind, Evidence, MediaType
from gateway.model.level import TrustLevel
from gateway.model.observation import Observation
from gateway.model.outbox import Letter
from gateway.model.profile import Provenance, References, ReferenceValue
from gateway.model.view import User
from gateway.store.accounts import Accounts
from gateway.store.audit import AuditLog
from gateway.store.database import Database
from gateway.store.inventory import Draft, Inventory
from gateway.store.journal import Journal
from gateway.store.outbox import Outbox
from gateway.support import Source, build, pack, write_support_file
from gateway.support_words import in_own_words, word

KEY = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
RAW = secrets.token_bytes(32)
TEXTS = {
    "password": "Zq7 correct-hörse 91 battery", "claim": "K7QX-P2MV", "token": "pat_9f8sQ2kLmXv31aZ", "passkey": "481516",
    "patient": "Quirrenbach^Theodolinda", "patient id": "MRN-77301942", "ward name": "Rosenzweig-Station",
    "device": "mrs-quirrenbach", "device name": "Pumpe Frau Quirrenbach", "person": "xaver.holzapfel", "reading": "63.7219",
    "register": "41775", "broker": "q7.klinik-quirr.example", "broker user": "brkuser_4417", "peer": "pacs-quirr",
    "peer address": "10.213.77.41", "device address": "10.213.77.99", "mac": "02:57:de:ad:be:9f", "ble": "C0:FF:EE:12:34:56",
    "reason": "Frau Quirrenbach hatte Sturz", "draft": "Zettel fuer Holzapfel", "cookie": "yJx0R-7fQz_k3LmN8pWcA2bV",
    "path": "/srv/quirr/uplink.key", "interface": "qport17",
}  # fmt: skip
BODY = "".join(PEM.splitlines()[1:-1])
BLOBS = {"raw key": RAW, "pem": BODY.encode(), "der": KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())}
HL7 = (
    f"MSH|^~\\&|MON|W7|||20261124||ORU^R01|881|P|2.6\rPID|||{TEXTS['patient id']}||{TEXTS['patient']}\r"
    f"OBX|1|NM|X||{TEXTS['reading']}"
)


def forms(value: bytes) -> Iterator[bytes]:
    """A secret as it may lie in a file: as it is, in hex, in base64 at each alignment, in UTF-16, in a URL, in JSON."""
    yield value
    yield value.hex().encode()
    yield value.hex().upper().encode()
    for shift in range(3):
        whole = base64.b64encode(bytes(shift) + value)
        yield whole[4 * (shift > 0) : -4]
        yield whole.replace(b"+", b"-").replace(b"/", b"_")[4 * (shift > 0) : -4]
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return
    yield text.encode("utf-16-le")
    yield quote(text, safe="").encode()
    yield json.dumps(text)[1:-1].encode()
    yield text.lower().encode()
    for part in text.replace("^", " ").split():
        if len(part) >= 6:
            yield part.encode()


def leaks(content: bytes) -> set[str]:
    """Which secrets are in it; of a long one any piece of twelve bytes counts."""
    found = set()
    for name, secret in [*((n, t.encode()) for n, t in TEXTS.items()), *BLOBS.items()]:
        pieces = [secret] if len(secret) <= 16 else [secret, *(secret[i : i + 12] for i in range(0, len(secret) - 12, 5))]
        if name in ("register", "passkey"):  # as a number of its own: times have many digits
            if re.search(rb"(?<![0-9])" + secret + rb"(?![0-9])", content):
                found.add(name)
            continue
        if any(f in content for p in pieces for f in forms(p) if len(f) >= 5):
            found.add(name)
    return found


def unpacked(file: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(file))) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]


async def _seed(path: Path) -> None:
    t, clock = TEXTS, MachineClock()
    database = Database(path)
    await database.open()
    inventory, audit, outbox, journal = Inventory(database), AuditLog(database), Outbox(database, clock), Journal(database)
    now = clock.now()
    wired = Binding(t["interface"], t["mac"], (t["device address"],))
    await inventory.save_device(
        Device(t["device"], t["device name"], Bus.MODBUS, "infusion-pump", t["device address"], DeviceState.ENFORCED, wired)
    )
    await inventory.save_device(Device("patch-1", "P", Bus.BLE, "heart-rate-patch", t["ble"]), int(t["passkey"]))
    await inventory.save_references(t["device"], References((), (ReferenceValue("f", "k", RAW, Provenance.MAKER),)))
    await inventory.save_draft(Draft("d", t["draft"], t["person"], now))
    await inventory.raise_veto(t["device"], "m", f"register 104 is {t['register']}")
    accounts = Accounts(database, clock, audit)
    await accounts.claim(await accounts.new_claim(), t["person"], t["password"])
    await accounts.start_session(User(t["person"], "admin"))
    accounts.close()
    await outbox.put([Observation(t["device"], "MDC", t["reading"], now, now, TrustLevel.FULL, float(t["reading"]))])
    await outbox.put_letters([Letter(0, 1, f"alarm/{t['device']}", HL7, now, t["device"], 1)])
    await outbox.bury("t", HL7, f"not authorised: {t['broker user']}", letter=Letter(1, 1, "t", HL7, now))
    await journal.keep("live", RAW[:16], HL7.encode(), b"MSA|AA", now)
    evidence = Evidence(t["device"], MediaType.MODBUS, RAW, RAW, Channel(ChannelKind.PORT, t["interface"]), now, "modbus")
    said = [
        Record("event", t["device"], "EvidenceArrived", (("event", EvidenceArrived(evidence)),)),
        Record("decision", t["device"], f"{t['device']}: level 3 → 0: configuration changed at register 104: {t['register']}",
               (("level", 0), ("before", 3), ("functions", ((t["device"], True),)), ("severity", "warning"))),
        Record("command", t["device"], f"{t['person']}: service {t['device']} {t['reason']}",
               (("actor", t["person"]), ("code", t["token"]))),
        *(Record("k", "", f"{n}: {s}", (("secret", s), ("level", s), ("count", 3))) for n, s in {**t, "pem": PEM}.items()),
        *(Record(s, s, s, (("severity", s),)) for s in t.values()),
    ]  # fmt: skip
    await audit.append([(now, r) for r in said])
    for part in (outbox, journal, audit):
        await part.close()
    await database.close()


CONFIG = """[gateway]
id = "{device}"
name = "{ward name}"
state = "{state}"
[network]
ward = "{interface}"
addresses = ["{peer address}"]
[uplink]
host = "{broker}"
addresses = ["{peer address}"]
key = "{path}"
[peers]
{peer} = ["{peer address}"]
[drivers.modbus]
listen_port = 15502
user = "{broker user}"
secret = "{token}"
"""
# What the commands of the machine answer here: secrets wherever they let others choose a text.
FAKES = {
    "journalctl": """
for s in SECRETS:
    line = {"MESSAGE": "the broker refused " + s, "_SYSTEMD_UNIT": s, "PRIORITY": "3", "__REALTIME_TIMESTAMP": "1800000000000000"}
    print(json.dumps(line))
""",
    "systemctl": """
print("ActiveState=active", *("Result=" + s for s in SECRETS), "NRestarts=4", sep="\\n")
""",
    "nft": """
found = [{"metainfo": {}}]
for s in SECRETS:
    found.append({"set": {"family": "inet", "table": "wardgate", "name": "lvl4", "elem": [s]}})
    found.append({"chain": {"family": s, "table": s, "name": s}})
    expr = [{"match": {"right": s}}, {"counter": {"packets": 7, "bytes": 1}}]
    found.append({"rule": {"family": "inet", "table": "wardgate", "chain": "forward", "comment": s, "expr": expr}})
print(json.dumps({"nftables": found}))
""",
}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with secrets in every table."""
    path = tmp_path_factory.mktemp("store") / "wardgate.sqlite"
    asyncio.run(_seed(path))
    return path


@pytest.fixture
def seeded(tmp_path: Path, filled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A gateway with secrets everywhere; returns its configuration."""
    state = tmp_path / "state"
    state.mkdir()
    shutil.copy(filled, state / "wardgate.sqlite")
    (state / "tpm.json").write_text(json.dumps({"owner": RAW.hex(), "ak": RAW.hex()}))
    (state / "uplink.key").write_text(PEM)
    config = tmp_path / "wardgate.toml"
    config.write_text(CONFIG.format(state=state, **TEXTS))
    fakes = tmp_path / "bin"
    fakes.mkdir()
    (fakes / "secrets.json").write_text(json.dumps([*TEXTS.values(), PEM, RAW.hex(), HL7]))
    for name, body in FAKES.items():
        start = f"#!{sys.executable}\nimport json\nSECRETS = json.load(open({str(fakes / 'secrets.json')!r}))\n"
        (fakes / name).write_text(start + body)
        (fakes / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{fakes}:{os.environ['PATH']}")
    return config


def view() -> dict[str, Any]:
    """A daemon's picture, full of what must not leave."""
    t = TEXTS
    function = {"name": t["device"], "required": 2, "allowed": False, "on_loss": "cut", "reason": t["reason"]}
    device = {
        "id": t["device"], "name": t["device name"], "bus": "modbus", "address": t["device address"], "state": "enforced",
        "level": 0, "needed": 2, "tier": "contraindicated", "link": "up", "lease_left_ms": None, "certificate_left_ms": 5,
        "reason": f"register 104 is {t['register']} for {t['patient']}", "alarms": [f"{t['device']}: {t['reading']}", t["reason"]],
        "functions": [function], "readings": [{"value": float(t["reading"])}],
    }  # fmt: skip
    parts = [{"name": s, "ok": False, "text": f"the broker says: {s}"} for s in t.values()]
    gateway = {
        "id": t["device"], "name": t["ward name"], "mode": "enforcing", "time_quality": "rtc", "parts": parts, "sequence": 1,
        "certificates": 2, "quotes": 3, "uptime_ms": 4, "outbox_rows": 5,
    }  # fmt: skip
    return {"gateway": gateway, "devices": [device], "events": [{"text": s} for s in t.values()]}


def test_no_secret_and_no_patient_is_in_any_byte_of_it(seeded: Path) -> None:
    naive = b"".join(p.read_bytes() for p in seeded.parent.rglob("*") if p.is_file()) + json.dumps(view()).encode()
    assert leaks(naive) == {*TEXTS, *BLOBS}, "what is looked for is found where it is"
    for picture in (view(), None):
        entries = unpacked(pack(build(Source(seeded, picture))))
        assert leaks(b"\0".join([*entries.values(), *(n.encode() for n in entries)])) == set()
        whole = ("store.json", "record.jsonl", "journal.jsonl", "units.json", "firewall.json", "configuration.json")
        assert not any(b"not available" in entries[f"wardgate-support/{n}"] for n in whole)


def test_what_a_supporter_needs_is_there(seeded: Path) -> None:
    entries = {n.removeprefix("wardgate-support/"): c for n, c in unpacked(pack(build(Source(seeded, view())))).items()}
    assert next(iter(entries)) == "MANIFEST.txt"
    manifest = entries["MANIFEST.txt"].decode()
    assert all(n in manifest for n in list(entries)[1:]) and "read it before you send it" in manifest
    parsed = {n: json.loads(c) for n, c in entries.items() if n.endswith(".json")}
    assert parsed["configuration.json"]["timing"]["lease_s"] == 30
    assert parsed["configuration.json"]["drivers"]["modbus"]["listen_port"] == 15502
    assert parsed["status.json"]["devices"][0]["device"] == "device-1" and parsed["status.json"]["devices"][0]["level"] == 0
    assert parsed["status.json"]["devices"][0]["reason"] == "# # is # for #"
    assert {r["name"] for r in parsed["check.json"]} >= {"tpm", "clock", "disk", "memory"}
    assert parsed["store.json"]["rows"]["outbox"] == 1 and parsed["store.json"]["schema"] >= 4
    assert parsed["firewall.json"]["inet wardgate"]["chains"]["forward"]["packets"][0] == 7
    assert parsed["units.json"]["wardgate"] == {"ActiveState": "active", "NRestarts": "4"}
    lines = [json.loads(x) for x in entries["record.jsonl"].splitlines()]
    decision = next(x for x in lines if x["kind"] == "decision")
    assert decision["device"] == "device-1" and decision["level"] == 0 and decision["before"] == 3
    assert decision["text"].startswith("device-1: level # # #: configuration changed at")
    assert any(x["text"] == "EvidenceArrived" for x in lines)
    assert any("the broker refused" in json.loads(x)["text"] for x in entries["journal.jsonl"].splitlines())


@pytest.mark.parametrize("damage", ["no configuration", "broken configuration", "no database", "a damaged database", "no commands"])
def test_it_is_made_when_everything_is_broken(seeded: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = seeded.parent / "state" / "wardgate.sqlite"
    if damage == "no configuration":
        seeded.unlink()
    elif damage == "broken configuration":
        seeded.write_text(f"[gateway]\nid = 3\n{TEXTS['token']} = 1\n")
    elif damage == "no database":
        database.unlink()
    elif damage == "a damaged database":
        database.write_bytes(os.urandom(60_000))
    else:
        monkeypatch.setenv("PATH", "/nonexistent")
    entries = unpacked(pack(build(Source(seeded))))
    assert len(entries) == 12
    assert leaks(b"\0".join(entries.values())) == set()
    broken = [n for n, c in entries.items() if b"not available" in c]
    assert broken or damage in ("broken configuration", "no configuration")


def test_it_is_for_its_owner_and_replaces_nothing(seeded: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.tar.gz"
    names = write_support_file(seeded, file, None)
    assert "MANIFEST.txt" in names
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(InputError, match="exists already"):
        write_support_file(seeded, file, None)


def test_the_command_makes_one_with_the_daemon_dead(seeded: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gateway", "--config", str(seeded), "support-file", str(tmp_path / "s.tar.gz")]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and "MANIFEST.txt" in done.stdout, done.stderr
    assert time.monotonic() - began < 30
    assert (
        leaks(b"\0".join(unpacked((tmp_path / "s.tar.gz").read_bytes()).values()) + done.stdout.replace(str(tmp_path), "").encode())
        == set()
    )


def test_only_our_own_words_pass() -> None:
    devices = {"pump-1": "device-1", "pump-11": "device-2"}
    assert in_own_words("pump-11: level 3 → 0: register 104 is 41775", devices) == "device-2: level # # #: # # is #"
    assert in_own_words("correct horse battery staple") == "# # # #", "common words, and not said by us beside one another"
    assert in_own_words("pump-1: no evidence: timeout; its trust ages", devices) == "device-1: no evidence: #; its trust ages"
    assert in_own_words("the TPM does not answer at swtpm:host=127.0.0.1,port=24321 (0xa000a)").startswith(
        "the TPM does not answer at"
    )
    for secret in (*TEXTS.values(), PEM, RAW.hex(), base64.b64encode(RAW).decode(), "Müller", "дом", "1" * 40, "a1b2c3d4"):
        assert leaks(in_own_words(f"cannot use {secret}, sorry").encode()) == set(), secret
        assert not any(len(w) > 12 and w in secret for w in in_own_words(secret).split())
    assert word("bad-evidence") == "bad-evidence"
    assert word("Quirrenbach") == word("a8f3") == word("") == "#"
