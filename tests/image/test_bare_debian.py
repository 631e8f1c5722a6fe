"""The life of an appliance on a bare Debian, booted by its own systemd, with no network: installed, checked, upgraded, gone.

What is left afterwards is compared file by file with what was there before.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from gateway.attester import enrol
from hil.ca import Ca
from tests.image.conftest import Files
from tests.image.machine import ROOT, Machine, differences

pytestmark = [pytest.mark.rig, pytest.mark.timeout(600)]
Box = Callable[[], Machine]

# What Debian itself leaves when packages come and go, and what a running system writes on its own.
DEBIANS_OWN = (
    "/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/apt/", "/var/cache/debconf/", "/var/log/apt/", "/var/log/dpkg.log",
    "/var/log/alternatives.log", "/var/lib/systemd/", "/var/log/journal/", "/var/log/wtmp", "/etc/ld.so.cache", "/var/cache/ldconfig/",
)  # fmt: skip


class Appliance:
    """What a person does with one, in words."""

    def __init__(self, machine: Machine, tmp_path: Path) -> None:
        self.machine, self.tmp = machine, tmp_path
        self.usb = machine.disk / "mnt/usb"
        shutil.copytree(ROOT / "image", self.usb / "image")

    def carry(self, file: Path) -> str:
        target = self.usb / file.name
        if not target.exists():
            shutil.copy(file, target)
        return f"/mnt/usb/{file.name}"

    def install(self, *options: str, check: bool = True) -> str:
        done = self.machine.run("/mnt/usb/image/install", *options, check=check)
        return done.stdout + done.stderr

    def version(self) -> str:
        return (self.machine.disk / "opt/wardgate/current").readlink().name.rpartition("-")[0]

    def main_pid(self, unit: str) -> int:
        return int(self.machine.run("systemctl", "show", "-p", "MainPID", "--value", unit).stdout)

    def wire(self) -> None:
        """A ward with one port, the hospital and the management side."""
        for line in (
            "link add ward0 type bridge", "link add p-one type veth peer name far-one", "link set p-one master ward0",
            "link add hosp0 type veth peer name far-hosp", "link add mgmt0 type veth peer name far-mgmt",
            "link set ward0 up", "link set p-one up", "link set hosp0 up", "link set mgmt0 up", "address add 10.0.0.1/24 dev hosp0",
        ):  # fmt: skip
            self.machine.run("ip", *line.split())
        self.machine.run("bridge", "link", "set", "dev", "p-one", "isolated", "on")

    def first_boot(self) -> None:
        """`wardgate init`, enrolment at the bench's CA by files, and the daemon."""
        tpm, run = self.machine.tpm, self.machine.run
        tpm.manufacture()
        tpm.power_on()
        run("wardgate", "init", "--tcti", tpm.tcti, "--address", "10.0.0.1", "--peer", "central=10.0.0.5",
            "--peer", "clients=10.0.0.5", "--peer", "receiver=10.0.0.6")  # fmt: skip
        run("wardgate", "enrol", "--request", "/mnt/usb/request")
        known = [x509.load_pem_x509_certificate(p.read_bytes()) for p in (tpm.maker_root, tpm.maker_issuer)]
        (self.tmp / "ca").mkdir()
        ca = Ca(self.tmp / "ca", known[:1], known[1:])
        request = enrol.Request.from_json(json.loads((self.usb / "request").read_text()))
        (self.usb / "response").write_text(json.dumps(ca.answer(request).to_json()))
        run("wardgate", "enrol", "--response", "/mnt/usb/response")
        run("systemctl", "start", "wardgate")


@pytest.fixture
def appliance(machine: Box, tmp_path: Path) -> Appliance:
    return Appliance(machine(), tmp_path)


def _residue(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [line for line in differences(before, after) if not line[2:].startswith((*DEBIANS_OWN, "/mnt/usb"))]


def test_installed_checked_upgraded_rolled_back_and_gone(appliance: Appliance, files: Files) -> None:
    box, begin = appliance.machine, time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {what}")

    before = box.tree()
    said = appliance.install("--from", appliance.carry(files.first))
    say("installed")
    assert "trusted from now on" in said
    assert appliance.version() == "7.0.0"
    for again in (("--from", appliance.carry(files.first)),):
        stamp = time.time_ns()
        assert appliance.install(*again) == ""
        assert [f for f in box.changed_since(stamp) if f != "/opt/wardgate"] == []
    say("again")

    appliance.wire()
    appliance.first_boot()
    say("first boot")
    checked = box.run("wardgate", "check")
    print(checked.stdout)
    enforcer, daemon = appliance.main_pid("wardgate-enforcer"), appliance.main_pid("wardgate")
    tables = box.run("nft", "-a", "list", "ruleset").stdout
    said = appliance.install("--from", appliance.carry(files.second))
    say("upgraded")
    print(said)
    assert appliance.version() == "7.0.1"
    assert appliance.main_pid("wardgate") != daemon
    assert appliance.main_pid("wardgate-enforcer") == enforcer
    box.run("wardgate", "check")
    said = appliance.install("--from", appliance.carry(files.broken), check=False)
    say("broken")
    print(said)
    assert appliance.version() == "7.0.1"
    box.run("wardgate", "check")
    print(appliance.install("--rollback"))
    say("rollback")
    assert appliance.version() == "7.0.0"
    assert tables == box.run("nft", "-a", "list", "ruleset").stdout
    print(appliance.install("--remove"))
    say("removed")
    left = _residue(before, box.tree())
    print("\n".join(left))
    print(appliance.install("--from", appliance.carry(files.second), "--key", appliance.carry(files.key)))
    say("again")
    box.run("wardgate", "check")
    print(appliance.install("--purge", "--yes"))
    say("purged")
    left = differences(before, box.tree())
    print("\n".join(left))
    assert _residue(before, box.tree()) == []
