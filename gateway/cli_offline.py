"""Commands that need no daemon: first boot, enrolment, checks, verification, the record. Refuses to know how anything is done."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from gateway.cli_words import hex_of, read, say, time_of


def _init(o: argparse.Namespace) -> int:
    from gateway.bootstrap import Answers, initialise

    answers = Answers(
        config=o.config, state=o.state, run=o.run, name=o.name, id=o.id, tcti=o.tcti, ward=o.ward, uplink=o.uplink,
        management=o.management, addresses=tuple(o.address), peers=tuple(o.peer), policy_state=o.policy_state, owner=o.owner,
        port=o.port, profiles=o.profiles, extra=o.extra, new_claim=o.new_claim, interactive=not o.json and sys.stdin.isatty(),
        root_of_measurement=o.root_of_measurement, management_addresses=tuple(o.management_address), nics=tuple(o.nic),
        broker=o.broker, broker_addresses=tuple(o.broker_address),
        broker_ca=o.broker_ca, ca=o.ca,
    )  # fmt: skip
    document, lines = initialise(answers)
    say(o, document, lines)
    return 0


def _enrol(o: argparse.Namespace) -> int:
    from gateway.bootstrap import enrol
    from gateway.config import read_config

    document, lines = enrol(read_config(o.config), ca=o.ca, request=o.request, response=o.response, anchor=o.anchor)
    say(o, document, lines)
    return 0


def _check(o: argparse.Namespace) -> int:
    from gateway.check import run_checks
    from gateway.config import read_config

    rows = run_checks(read_config(o.config), config_path=o.config)
    say(
        o,
        [{"name": r.name, "ok": r.ok, "text": r.text, "remedy": r.remedy} for r in rows],
        [f"{'ok  ' if r.ok else 'no  '} {r.name:12s} {r.text}" + ("" if r.ok else f"\n     {'':12s} → {r.remedy}") for r in rows],
    )
    return 0 if all(r.ok for r in rows) else 1


def _run(o: argparse.Namespace) -> int:
    from gateway.app import serve
    from gateway.config import read_config

    return serve(read_config(o.config), o.config)


def _verify(o: argparse.Namespace) -> int:
    from gateway.relying import as_json, report, verify_bundle

    at = time_of(o.at)
    verified = verify_bundle(read(o.file), read(o.anchor), at, nonce=hex_of(o.nonce) if o.nonce else None, min_seq=o.min_seq)
    say(o, as_json(verified), report(verified))
    return 0


def _appraise(o: argparse.Namespace) -> int:
    from gateway.appraise_file import appraise_file

    document, lines, code = appraise_file(
        read(o.file), o.type, read(o.profile), read(o.key) if o.key else b"", hex_of(o.nonce) if o.nonce else b"", time_of(o.at)
    )
    say(o, document, lines)
    return code


def audit_verify(o: argparse.Namespace) -> int:
    from gateway.bootstrap import verify_audit
    from gateway.config import read_config

    document, lines = verify_audit(read_config(o.config))
    say(o, document, lines)
    return 0


def audit_export(o: argparse.Namespace) -> int:
    from gateway.bootstrap import export_audit
    from gateway.config import read_config

    export_audit(read_config(o.config), sys.stdout)
    return 0


# --- through the daemon ---


def register(add: Callable[..., argparse.ArgumentParser]) -> None:
    from gateway.cli_forget import register as register_forget

    p = add("init", _init, "first boot: keys, identity, wardgate.toml, a claim code")
    p.add_argument("--new-claim", action="store_true", help="a new claim code after a lost password; nothing else changes")
    p.add_argument("--state", type=Path, default=Path("/var/lib/wardgate"))
    p.add_argument("--policy-state", type=Path, default=Path("/var/lib/wardgate-policy"))
    p.add_argument("--run", type=Path, default=Path("/run/wardgate"))
    p.add_argument("--profiles", type=Path, default=Path("/etc/wardgate/profiles"))
    p.add_argument("--name", default="Wardgate")
    p.add_argument("--id", default="gateway")
    p.add_argument("--tcti", default="device:/dev/tpmrm0")
    p.add_argument(
        "--root-of-measurement", choices=("uefi", "none"), default="", help="who measured the boot; default: what is seen"
    )
    p.add_argument("--ward", default="ward0")
    p.add_argument("--uplink", default="hosp0")
    p.add_argument("--management", default="mgmt0")
    p.add_argument("--port", type=int, default=8443)
    p.add_argument("--address", action="append", default=[], help="this gateway's own address/LENGTH; repeat for IPv6")
    p.add_argument("--management-address", action="append", default=[], metavar="ADDRESS/LENGTH", help="where the page is; repeat")
    p.add_argument("--nic", action="append", default=[], metavar="NAME=CARD", help="which card is what: hosp0=enp1s0; repeat")
    p.add_argument("--peer", action="append", default=[], metavar="NAME=ADDRESS", help="a hospital host that profiles name; repeat")
    p.add_argument("--broker", default="", metavar="HOST[:PORT]", help="the hospital's MQTT broker; default: none, all waits here")
    p.add_argument("--broker-address", action="append", default=[], metavar="IP", help="where the broker is, if HOST is a name")
    p.add_argument("--broker-ca", type=Path, default=None, metavar="FILE", help="the CA (PEM) of the broker's certificate")
    p.add_argument("--ca", default="", metavar="URL", help="where the hospital's CA takes enrolment requests")
    p.add_argument("--owner", type=int, default=None, help="uid that the daemon runs as")
    p.add_argument("--extra", type=Path, default=None, help="TOML to append to the written wardgate.toml")
    p = add("enrol", _enrol, "credential activation: a CA certifies this gateway's attestation key")
    p.add_argument("--anchor", type=Path, metavar="FILE", help="keep the CA's certificate (PEM): the page then verifies against it")
    way = p.add_mutually_exclusive_group()
    way.add_argument("--ca", metavar="URL")
    way.add_argument("--request", type=Path, metavar="FILE")
    way.add_argument("--response", type=Path, metavar="FILE")
    register_forget(add, say)
    add("check", _check, "everything that must be right, each ok or what to do")
    add("run", _run, "the daemon")
    p = add("verify", _verify, "check a conformity certificate bundle, offline, on any machine")
    p.add_argument("file")
    p.add_argument("--anchor", required=True, help="the CA certificate (PEM) that you trust")
    p.add_argument("--nonce", metavar="HEX")
    p.add_argument("--at", metavar="TIME", help="ISO 8601; default now")
    p.add_argument("--min-seq", type=int, metavar="N")
    p = add("appraise", _appraise, "evidence in, EAR claims out")
    p.add_argument("file")
    p.add_argument("--type", required=True, metavar="MEDIATYPE")
    p.add_argument("--profile", required=True, metavar="PROFILE.toml")
    p.add_argument("--key", metavar="FILE", help="the device's public key (PEM), or its endorsement (JSON) with shared keys")
    p.add_argument("--nonce", metavar="HEX")
    p.add_argument("--at", metavar="TIME")
