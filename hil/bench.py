"""The whole bench: hospital, ward, devices and a real gateway, each process in its namespace and as its own user.

``Bench`` sets everything up step by step and takes it down again; ``hil.scenarios`` plays on it. It removes only what it
made. Refuses to know what a scenario proves.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hil.ble import BleBench
from hil.broker import Broker, issue
from hil.control import ask
from hil.network import ATTACKER, MONITOR, PUMP, TABLE_FILE, Ward
from hil.process import BenchError, Process, start
from hil.record import Row, lines
from hil.services import start_services
from hil.tpm import Swtpm

TOP = Path(__file__).resolve().parent.parent
BIN = TOP / ".venv" / "bin"
WARDGATE_UID, ENFORCER_UID = 61001, 61002
TPM_PORT, CA_PORT, BROKER_PORT = 24321, 24380, 8883
LIVE_PORT, RESULTS_PORT = 2575, 2576  # where the monitor reports, end to end and stored
PASSWORD = "correct horse battery staple"  # of every account on the bench; a bench has no secrets
PEOPLE = (("biomed-1", "biomed"), ("biomed-2", "biomed"))

Tell = Callable[[int, str, str], None]


class Bench:
    """One bench below ``directory``. ``tell(step, title, detail)`` is called as each step is done.

    ``state_mib``: the gateway's state lies on a disk of its own of this size, so that a test can fill it.
    """

    def __init__(
        self, directory: Path, *, prefix: str = "wg-", port: int = 8443, tell: Tell | None = None, state_mib: int | None = None
    ) -> None:
        self.directory, self.prefix, self.port = directory, prefix, port
        self.tell: Tell = tell or (lambda step, title, detail: None)
        self.rig = tomllib.loads((TOP / "hil" / "rig.toml").read_text())
        self.positions: dict[str, dict[str, Any]] = {p["device"]: p for p in self.rig["position"]}
        self.log, self.run, self.state, self.ctl = (directory / d for d in ("log", "run", "state", "ctl"))
        self.policy_state, self.alarm_dir, self.config = directory / "policy", directory / "alarm", directory / "wardgate.toml"
        self.processes: dict[str, Process] = {}
        self.daemon: Process | None = None
        self.ward: Ward | None = None
        self.ble: BleBench | None = None
        self.broker: Broker | None = None
        self.tpm = Swtpm(directory / "tpm", TPM_PORT, log_dir=self.log, netns=self.ns("gw"))
        self.updated = False  # whether the pump's new firmware was accepted: what "as it should be" means
        self._state_mib, self._mounted = state_mib, False
        self.claim = ""
        self.view_link = ""

    # --- up and down ---

    def ns(self, name: str) -> str:
        """A namespace's full name."""
        return f"{self.prefix}{name}"

    def start(self) -> None:
        """Everything, in numbered steps. On failure what was started is stopped."""
        try:
            for number, step in enumerate(self._steps(), 1):
                title, detail = step()
                self.tell(number, title, detail)
        except BaseException:
            self.stop()
            raise

    def _steps(self) -> tuple[Callable[[], tuple[str, str]], ...]:
        return (
            self._network, self._firewall, self._machine, self._radio, self._equipment, self._uplink, self._initialise,
            self._enforcement, self._enrol, self._daemon, self._people, self._devices,
        )  # fmt: skip

    def stop(self) -> None:
        """End every process and remove every namespace that this bench made."""
        if self.daemon and self.daemon.running:
            self.daemon.signal(signal.SIGCONT)
            self.daemon.stop()
        for process in reversed(list(self.processes.values())):
            process.stop(2.0)
        self.processes.clear()
        if self.broker:
            self.broker.stop()
        if self.ble:
            self.ble.stop()
        self.tpm.stop()
        if self.ward:
            self.ward.close()
            self.ward = None
        if self._mounted:
            subprocess.run(["umount", str(self.state / "gateway")], check=False)
            self._mounted = False

    def _spawn(
        self, name: str, module: str, *argv: str, netns: str | None = None, uid: int | None = None, caps: tuple[str, ...] = ()
    ) -> Process:
        command = [str(BIN / "python"), "-m", module, *argv]
        env = {"PYTHONPATH": str(TOP)}
        process = start(name, command, log_dir=self.log, netns=netns, uid=uid, ambient_caps=caps, env=env)
        self.processes[name] = process
        return process

    # --- the steps ---

    def _network(self) -> tuple[str, str]:
        for name, uid in (("wardgate-bench", WARDGATE_UID), ("wardgate-bench-nf", ENFORCER_UID)):
            bench_user(name, uid)
        for d in (self.directory, self.log, self.run, self.state, self.ctl, self.policy_state, self.alarm_dir):
            d.mkdir(parents=True, exist_ok=True)
            d.chmod(0o755)
        os.chown(self.alarm_dir, ENFORCER_UID, ENFORCER_UID)
        if self._state_mib:
            (self.state / "gateway").mkdir()
            options = f"size={self._state_mib}m,mode=0700"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.state / "gateway")], check=True)
            self._mounted = True
        self.ward = self._make_ward()
        self.ward.build()
        return "a ward and a hospital", "namespaces, a bridge with isolated ports, proxy ARP: devices keep their addresses"

    def _machine(self) -> tuple[str, str]:
        self.tpm.manufacture()
        self.tpm.power_on()
        self._spawn(
            "ca", "hil.ca", "serve", "--dir", str(self.directory / "ca"), "--port", str(CA_PORT),
            "--maker", str(self.tpm.maker_root), "--intermediate", str(self.tpm.maker_issuer), netns=self.ns("gw"),
        )  # fmt: skip
        return (
            "a machine with a TPM 2.0",
            f"its firmware measured its start into PCR 0-7 ({self.tpm.eventlog.stat().st_size} bytes of log)",
        )

    def _radio(self) -> tuple[str, str]:
        self.ble = BleBench(self.directory, self.ns("gw"), patch=False)
        self.ble.start()
        wearables = [p for p in self.positions.values() if p["bus"] == "ble"]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda p: self.ble and self.ble.start_wearable(p["plays"], p["device"], p["passkey"]), wearables))
        return f"{len(wearables)} wearables on the air", "each its own process and secure element; org.bluez on a private D-Bus"

    def _equipment(self) -> tuple[str, str]:
        pump, clients = self.positions["pump-1"], self.rig["hospital"]["clients"]
        address, hospital = pump["address"], self.ns("hosp")
        self._spawn(
            "pump-1", "hil.pump", "--ctl", str(self.ctl / "pump-1.sock"), "--key", str(self.state / "pump-1.pem"),
            "--central", f"{self.rig['hospital']['central'][0]}:6000", netns=self.ns("pump1"),
        )  # fmt: skip
        self._spawn("central", "hil.hospital", "central", "--ctl", str(self.ctl / "central.sock"), "--port", "6000", netns=hospital)
        for role, port in (("maintenance", 7000), ("control", 502)):
            self._spawn(
                role, "hil.hospital", role, "--ctl", str(self.ctl / f"{role}.sock"), "--target", f"{address}:{port}", netns=hospital
            )
        self._hl7()
        return (
            "an infusion pump and its clients, a bedside monitor and its receiver",
            f"control, maintenance and monitoring; clients at {clients[0]} dial the pump's own address; the monitor dials HL7",
        )

    def _hl7(self) -> None:
        central = self.rig["hospital"]["central"][0]
        ports = ["--port", str(LIVE_PORT), "--port", str(RESULTS_PORT)]
        ctl = self.ctl / "hl7-receiver.sock"
        self._spawn("hl7-receiver", "hil.receiver", "--ctl", str(ctl), *ports, netns=self.ns("hosp"))
        where = ["--live", f"{central}:{LIVE_PORT}", "--results", f"{central}:{RESULTS_PORT}"]
        self._spawn("monitor-1", "hil.monitor", "--ctl", str(self.ctl / "monitor-1.sock"), *where, netns=self.ns(MONITOR.name))

    def _uplink(self) -> tuple[str, str]:
        ca, address = self.directory / "ca", self.rig["hospital"]["broker"]
        self.broker = Broker(self.directory / "broker", ca, host=address, port=BROKER_PORT, netns=self.ns("hosp"))
        self.broker.start()
        keys = self.directory / "receiver"
        issue(ca, keys, "receiver")
        files = [x for n, f in (("ca", ca / "ca.pem"), ("cert", keys / "receiver.pem"), ("key", keys / "receiver.key"))
                 for x in (f"--{n}", str(f))]  # fmt: skip
        where = ["--host", address, "--port", str(BROKER_PORT)]
        self._spawn("receiver", "hil.subscriber", "--ctl", str(self.ctl / "receiver.sock"), *where, *files, netns=self.ns("hosp"))
        gateway = self.state / "gateway"
        gateway.mkdir(exist_ok=True)
        shutil.copy(ca / "ca.pem", gateway / "uplink-ca.pem")
        return (
            "the hospital's broker and what listens behind it",
            f"Mosquitto at {address}, TLS with client certificates by the same CA",
        )

    def _firewall(self) -> tuple[str, str]:
        assert self.ward
        self.ward.load()
        return "the static rules, before anything else", "two tables, every set empty: nothing passes"

    def _initialise(self) -> tuple[str, str]:
        network, gateway, hospital = self.rig["gateway"]["addresses"], self.rig["gateway"], self.rig["hospital"]
        extra = self.directory / "extra.toml"
        timing = "\n".join(f"{k} = {v}" for k, v in self.rig["timing"].items())
        files = "\n".join(
            f'{n} = "{self.state}/gateway/uplink{f}"' for n, f in (("ca", "-ca.pem"), ("cert", ".pem"), ("key", ".key"))
        )
        uplink = f'host = "{hospital["broker"]}"\nport = {BROKER_PORT}\nacknowledge = "receiver"\nretry_s = 2.0\n{files}'
        extra.write_text(f"[timing]\n{timing}\n[uplink]\n{uplink}\n[network.services]\nset_clock = false\n{self._drivers()}")
        argv = [
            "init",
            "--state",
            self.state / "gateway",
            "--policy-state",
            self.policy_state,
            "--run",
            self.run,
            "--profiles",
            TOP / "hil/profiles",
        ]
        argv += [
            "--name",
            gateway["name"],
            "--id",
            gateway["id"],
            "--tcti",
            self.tpm.tcti,
            "--owner",
            str(WARDGATE_UID),
            "--extra",
            extra,
        ]
        argv += ["--root-of-measurement", gateway["root_of_measurement"]]
        argv += [x for a in network for x in ("--address", f"{a}/{64 if ':' in a else 24}")]
        argv += ["--management-address", "10.78.0.2/30", *(x for p in self._ports() for x in ("--nic", f"{p}={p}"))]
        argv += [x for n in ("clients", "central") for a in hospital[n] for x in ("--peer", f"{n}={a}")]
        self.run.chmod(0o1777)  # each process makes its own socket there; nobody can replace another's
        answer = self.wardgate(*(str(a) for a in argv))
        self.claim = str(answer["claim"])
        return (
            "wardgate init",
            f"keys in the TPM, owner and lockout authorisation set, wardgate.toml written; claim code {self.claim}",
        )

    def _ports(self) -> list[str]:
        assert self.ward
        return [p.port for p in self.ward.positions]

    def _make_ward(self) -> Ward:
        return Ward(self.prefix, directory=self.policy_state, positions=(PUMP, MONITOR, ATTACKER))

    def _drivers(self) -> str:
        """The drivers' part of wardgate.toml."""
        assert self.ble
        return f'[drivers.ble]\nbus = "{self.ble.bus_address}"\n[drivers.modbus]\nlisten_port = 15502\n[drivers.hl7]\n'

    def _enforcement(self) -> tuple[str, str]:
        gw, table = self.ns("gw"), ["--table-file", TABLE_FILE]
        argv = ["--socket", self.run / "enforcer.sock", "--peer-uid", WARDGATE_UID, *table]
        argv += ["--policy", self.policy_state / "confirmed.json", "--alarm", self.alarm_dir / "alarm.json"]
        words = [str(a) for a in argv]
        self._spawn("enforcer", "gateway.enforcer.server", *words, netns=gw, uid=ENFORCER_UID, caps=("net_admin",))
        argv = ["serve", "--state", self.policy_state, *table, "--socket", self.run / "policy.sock", "--network", self.config]
        self._spawn("policy", "gateway.enforcer.confirm", *(str(a) for a in argv), netns=gw)
        start_services(self)
        detail = f"uid {ENFORCER_UID}; the daemon, uid {WARDGATE_UID}, has no capability at all"
        return "the enforcer, alone with CAP_NET_ADMIN", detail

    def _enrol(self) -> tuple[str, str]:
        answer = self.wardgate("enrol", "--ca", f"http://127.0.0.1:{CA_PORT}", "--anchor", str(self.directory / "ca" / "ca.pem"))
        detail = f"the CA certified the attestation key by credential activation: {answer['subject']}; and the uplink's TLS key"
        return "enrolment", detail

    def _daemon(self) -> tuple[str, str]:
        began = time.monotonic()
        self.start_daemon()
        self._spawn("forward", "hil.forward", "--port", str(self.port), "--to", "127.0.0.1:8443", "--netns", self.ns("gw"))
        return "the gateway runs", f"ready after {time.monotonic() - began:.2f} s; the page: https://127.0.0.1:{self.port}/"

    def start_daemon(self) -> None:
        """Start the daemon as its own user, without capabilities."""
        argv = [str(BIN / "wardgate"), "--config", str(self.config), "run"]
        self.daemon = start("wardgate", argv, log_dir=self.log, netns=self.ns("gw"), uid=WARDGATE_UID, timeout_s=30)

    def revive_daemon(self) -> None:
        """Whatever a scenario left: the daemon runs again."""
        if self.daemon and self.daemon.running:
            self.daemon.signal(signal.SIGCONT)
        else:
            self.start_daemon()

    def _people(self) -> tuple[str, str]:
        self.wardgate("claim", self.claim, "--user", "admin", "--password-file", str(self._password_file()))
        for name, role in PEOPLE:
            self.wardgate("user", "add", name, "--role", role, "--password-file", str(self._password_file()))
        self.view_link = f"https://127.0.0.1:{self.port}{self.api('POST', '/api/v1/view-link', {})['path']}"
        return "claimed", "the first admin by claim code; two biomedical engineers; passwords hashed with Argon2id"

    def _devices(self) -> tuple[str, str]:
        for device_id, p in self.positions.items():
            endorsement = self.state / f"{device_id}.endorsement.json"
            reference = self.reference(device_id)
            endorsement.write_text(json.dumps(reference))
            argv = [
                "device",
                "add",
                device_id,
                "--bus",
                p["bus"],
                "--profile",
                p["profile"],
                "--address",
                p["address"],
                "--name",
                p["label"],
            ]
            argv += ["--endorsement", str(endorsement)] if reference else []
            argv += ["--passkey", str(p["passkey"])] if "passkey" in p else []
            argv += ["--port", p["port"], "--mac", p["mac"]] if "port" in p else []
            argv += [x for a in p.get("addresses", ()) for x in ("--ip", a)]
            self.wardgate(*argv)
        return f"{len(self.positions)} devices are proposed", "they get nothing until somebody accepts them"

    def reference(self, device_id: str) -> dict[str, Any]:
        """What a device's maker says of it; empty: nothing."""
        return dict(ask(self.ctl / f"{device_id}.sock", "reference", gateway=self.rig["gateway"]["id"])["reference"] or {})

    # --- commands ---

    def command(self, verb: str, device_id: str, **arguments: str) -> None:
        """``wardgate device VERB ID``, with ``--name value`` for each argument."""
        self.wardgate("device", verb, device_id, *(x for k, v in arguments.items() for x in (f"--{k}", v)))

    def wardgate(self, *argv: str, code: int | None = 0) -> Any:
        """Run the command in the gateway's namespace, as root on the console; returns its JSON document."""
        command = [str(BIN / "wardgate"), "--json", "--config", str(self.config), *argv]
        done = subprocess.run(
            ["ip", "netns", "exec", self.ns("gw"), *command], capture_output=True, text=True, timeout=60, check=False, cwd=TOP
        )
        if code is not None and done.returncode != code:
            raise BenchError(f"wardgate {' '.join(argv)} → {done.returncode}: {done.stderr.strip()}{done.stdout.strip()[-400:]}")
        return json.loads(done.stdout) if done.stdout.strip() else {"error": done.stderr.strip(), "exit": done.returncode}

    def _in_gateway(self, command: list[str]) -> str:
        done = subprocess.run(
            ["ip", "netns", "exec", self.ns("gw"), *command], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise BenchError(f"{' '.join(command)} → {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout

    def _password_file(self) -> Path:
        path = self.directory / "password"
        path.write_text(PASSWORD + "\n")
        return path

    def as_person(self, user: str) -> list[str]:
        """Options that make a device command act as a named person."""
        return ["--user", user, "--password-file", str(self._password_file())]

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The control API, as root."""
        from gateway.config import read_config
        from gateway.control import Control

        return Control(read_config(self.config)).ask(method, path, body)

    def view(self) -> dict[str, Any]:
        """The gateway's picture."""
        return dict(self.api("GET", "/api/v1/view"))

    def device(self, device_id: str) -> dict[str, Any]:
        """One device of the picture."""
        return next(d for d in self.view()["devices"] if d["id"] == device_id)

    def await_device(
        self, device_id: str, want: Callable[[dict[str, Any]], bool], timeout_s: float, what: str
    ) -> tuple[dict[str, Any], float]:
        """Wait until ``want(device)``; returns the device and the seconds it took. Raises BenchError."""
        began = time.monotonic()
        while True:
            device = self.device(device_id)
            took = time.monotonic() - began
            if want(device):
                return device, took
            if took > timeout_s:
                raise BenchError(
                    f"{device_id}: not {what} after {timeout_s:g} s: level {device['level']}, {device['state']}, {device['reason']}"
                )
            time.sleep(0.05)

    def ask(self, who: str, do: str, timeout_s: float = 10.0, **arguments: object) -> dict[str, Any]:
        """Talk to a simulated device or a hospital client."""
        return ask(self.ctl / f"{who}.sock", do, timeout_s, **arguments)

    def earns(self, device_id: str) -> int:
        """The level that an honest device reaches with the evidence it has."""
        return int(self.positions[device_id].get("level", 3))

    def mend(self, device_id: str) -> None:
        """A device as the hospital accepted it last."""
        self.ask(device_id, "restore")
        if device_id == "pump-1" and self.updated:
            self.ask(device_id, "update")

    # --- what the gateway keeps ---

    def verify(self, device_id: str) -> str:
        """Fetch a device's bundle and check it as a stranger would; returns its sequence and level in words."""
        path = self.directory / f"{device_id}.bundle"
        path.write_bytes(self.bundle(device_id))
        anchor = self.directory / "ca" / "ca.pem"
        done = self.wardgate("verify", str(path), "--anchor", str(anchor))
        return f"seq {done['sequence']} level {done['level']}"

    def bundle(self, device_id: str) -> bytes:
        """The newest complete bundle, waiting for the first epoch's quote if need be."""
        from gateway.config import read_config
        from gateway.control import Control
        from gateway.errors import WardgateError

        control, deadline = Control(read_config(self.config)), time.monotonic() + 15
        while True:
            try:
                return control.bundle(device_id)
            except WardgateError as e:
                if time.monotonic() > deadline:
                    raise BenchError(f"no certificate for {device_id}: {e}") from e
                time.sleep(0.2)

    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.state}/gateway/wardgate.sqlite?mode=ro", uri=True, timeout=5)

    def _stored(self, sql: str, *arguments: object) -> int:
        with contextlib.closing(self._database()) as db:
            return int(db.execute(sql, arguments).fetchone()[0] or 0)

    def readings_after(self, device_id: str, boot_ns: int, level: int) -> int:
        """Readings taken after a moment (boot time) and labelled with at least ``level``."""
        sql = "SELECT id FROM outbox WHERE device_id = ? AND taken_mono_ns > ? AND level >= ?"
        with contextlib.closing(self._database()) as db:
            waiting = {int(r[0]) for r in db.execute(sql, (device_id, boot_ns, level))}
        arrived = self.ask("receiver", "readings", device=device_id, after_ns=boot_ns, level=level)["ids"]
        return len(waiting | set(arrived))

    def last_reading_ns(self, device_id: str, level: int) -> int:
        """When (boot time) the last reading labelled with at least ``level`` was taken."""
        waiting = self._stored("SELECT max(taken_mono_ns) FROM outbox WHERE device_id = ? AND level >= ?", device_id, level)
        return max(waiting, int(self.ask("receiver", "readings", device=device_id, level=level)["last_ns"]))

    def waiting(self) -> int:
        """Readings and messages that have not left yet, from the disk."""
        return self._stored("SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM outbox_messages)")

    def accepted(self) -> int:
        """Readings taken in so far: the newest id, since ids are given without a gap."""
        return self._stored("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'")

    def drained(self, timeout_s: float) -> float:
        """Wait until what waits now has left (new readings come all the time); returns the seconds it took. Raises BenchError."""
        began = time.monotonic()
        newest = self.accepted(), self._stored("SELECT seq FROM sqlite_sequence WHERE name = 'outbox_messages'")
        sql = "SELECT (SELECT count(*) FROM outbox WHERE id <= ?) + (SELECT count(*) FROM outbox_messages WHERE id <= ?)"
        while waiting := self._stored(sql, *newest):
            if time.monotonic() - began > timeout_s:
                state = self.wardgate("outbox")["state"]
                raise BenchError(f"{waiting} readings and messages still wait after {timeout_s:g} s: {state}")
            time.sleep(0.02)
        return time.monotonic() - began

    def missing(self, timeout_s: float = 0.0) -> tuple[int, int]:
        """(readings taken in, how many of exactly these the hospital does not have), waiting for the second to become none."""
        with contextlib.closing(self._database()) as db:
            stream = str(db.execute("SELECT name FROM outbox_stream").fetchone()[0])
        taken, deadline = self.accepted(), time.monotonic() + timeout_s
        while True:
            missing = int(self.ask("receiver", "missing", stream=stream, up_to=taken)["missing"])
            if not missing or time.monotonic() > deadline:
                return taken, missing
            time.sleep(0.05)

    def collected_ns(self, device_id: str, decided_ns: int) -> int:
        """When (boot time) the evidence that was decided on at ``decided_ns`` had been collected by the driver."""
        wanted = ("event", "EvidenceArrived", device_id, decided_ns)
        body = next(row[4] for row in self.record(decided_ns - 1) if row[:4] == wanted)
        return int(body["event"]["evidence"]["collected_at"]["mono_ns"])

    def record(self, after_ns: int) -> list[Row]:
        """The lines of the gateway's record since a moment (boot time)."""
        return lines(self.state / "gateway" / "wardgate.sqlite", after_ns)

    def totals(self) -> dict[str, int]:
        """Readings the gateway took in, readings the hospital has (each once), and the difference once nothing waits any more."""
        taken, lost = self.missing(timeout_s=20)
        return {"observations_in": taken, "observations_delivered": taken - lost, "observations_lost": lost}

    def alarm(self) -> str:
        """What the enforcer rings about; empty: it does not ring."""
        from gateway.status import read_alarm

        return read_alarm(self.alarm_dir / "alarm.json")

    # --- the kernel, as root sees it ---

    def counter(self, prefix: str) -> int:
        """Packets in the named counters that begin with ``prefix`` (``seen``, ``denied_level`` …)."""
        listed = json.loads(self._in_gateway(["nft", "-j", "list", "counters"]))["nftables"]
        return sum(int(e["counter"]["packets"]) for e in listed if "counter" in e and e["counter"]["name"].startswith(prefix))

    def kernel_lease_ms(self, address: str) -> float | None:
        """What is left of an address's lease in the kernel, in ms; None: there is none."""
        name = "lvl6" if ":" in address else "lvl4"
        listed = self._in_gateway(["nft", "list", "map", "inet", "wardgate", name])
        found = re.search(re.escape(address) + r"\s+(?:timeout \S+ )?expires (\S+)", listed)
        return _milliseconds(found[1]) if found else None


def bench_user(name: str, uid: int) -> None:
    """A system user of the bench: D-Bus admits nobody whom the machine does not know. Stays; it can do nothing."""
    nologin = ["--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
    if not _known(uid):
        command = ["useradd", "--system", "--uid", str(uid), "--user-group", *nologin, name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode and not _known(uid):  # another bench may have made it meanwhile
            raise BenchError(f"there is no user {name}: {done.stderr.strip()}")


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _milliseconds(text: str) -> float:
    """An nft time such as ``1m5s996ms`` in ms."""
    units = {"d": 86_400_000.0, "h": 3_600_000.0, "m": 60_000.0, "s": 1000.0, "ms": 1.0}
    return sum(float(n) * units[u] for n, u in re.findall(r"(\d+)(ms|d|h|m|s)", text))


def clean(prefix: str = "wg-") -> list[str]:
    """Remove what an interrupted run left: processes in the bench's namespaces, the namespaces, its directories."""
    from hil.network import clean as clean_network

    removed = clean_network(prefix)
    for d in Path("/tmp").glob("wardgate-bench-*"):
        shutil.rmtree(d, ignore_errors=True)
        removed.append(str(d))
    return removed


if __name__ == "__main__":
    sys.exit("start the bench with hil/demo")
