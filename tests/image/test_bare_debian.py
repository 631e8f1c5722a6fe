"""The life of an appliance on a bare Debian, booted by its own systemd, with no network: installed, checked, upgraded, gone.

What is left afterwards is compared file by file with what was there before.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from gateway.attester import enrol
from hil.ca import Ca
from tests.image.conftest import Files
from tests.image.machine import ROOT, Machine, Tree, differences

# Three minutes and more: it fetches packages, boots, upgrades, rolls back, removes and purges.
pytestmark = [pytest.mark.rig, pytest.mark.timeout(600)]
Box = Callable[[], Machine]

# What Debian's own packages and a running system leave when packages come and go. Nothing of it is Wardgate's.
DEBIANS_OWN = (
    "/var/lib/dpkg/", "/var/lib/apt/", "/var/cache/apt/", "/var/log/apt/", "/var/log/dpkg.log", "/var/log/alternatives.log",
    "/var/cache/debconf/", "/var/cache/ldconfig/", "/etc/ld.so.cache", "/var/lib/pam/",  # state, logs and caches of apt and dpkg
    "/var/lib/systemd/", "/var/log/journal/", "/var/log/wtmp", "/var/tmp/systemd-private-",  # what is running
    "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-",  # the copies that userdel makes
    "/etc/xml", "/usr/share/polkit-1/rules.d",  # left, and left with its mode changed, by the packages xml-core and polkitd
)  # fmt: skip
ACCOUNTS = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow")
# System users of Debian's packages, which stay by Debian's custom.
DEBIANS_USERS = {
    "messagebus",
    "polkitd",
    "tss",
    "bluetooth",
    "input",
    "sgx",
    "kvm",
    "render",
    "netdev",
    "systemd-network",
    "dnsmasq",
    "_chrony",
}
KEPT = ("/etc/wardgate", "/var/lib/wardgate", "/var/lib/wardgate-policy", "/var/lib/wardgate-install")


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

    def install(self, *options: str, fails: bool = False) -> str:
        done = self.machine.run("/mnt/usb/image/install", *options, check=not fails)
        assert not fails or done.returncode == 1, done.stdout + done.stderr
        return done.stdout + done.stderr

    def install_and_kill(self, options: tuple[str, ...], reached: Callable[[], bool]) -> None:
        """SIGKILL for the installer and everything it started, as soon as ``reached``."""
        deadline = time.monotonic() + 120
        with self.machine.start("/mnt/usb/image/install", *options) as installer:
            while not reached():
                assert installer.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def version(self) -> str:
        return (self.machine.disk / "opt/wardgate/current").readlink().name.rpartition("-")[0]

    def main_pid(self, unit: str) -> int:
        return int(self.machine.run("systemctl", "show", "-p", "MainPID", "--value", unit).stdout)

    def checks(self) -> set[str]:
        """`wardgate check` finds nothing to mend but the clock and the radio; the names of what it looked at."""
        done = self.machine.run("wardgate", "--json", "check", check=False)
        rows = json.loads(done.stdout)
        # A container has no radio and may not set its host's clock, so chronyd ends at once; nothing else may be wrong.
        wrong = {r["text"] for r in rows if not r["ok"]}
        assert wrong - {"not answering on the ward: ntp (wardgate-ntp)"} == {"there is no Bluetooth adapter"}
        return {r["name"] for r in rows}

    def tables(self) -> str:
        return self.machine.run("nft", "-a", "-s", "list", "ruleset").stdout

    def gap_s(self) -> float:
        """How long the daemon was away in its last restart."""
        names = ("ActiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
        shown = self.machine.run("systemctl", "show", *(f"-p{n}" for n in names), "wardgate").stdout
        at = dict(line.split("=") for line in shown.split())
        return (int(at[names[1]]) - int(at[names[0]])) / 1e6

    def handles(self) -> str:
        """Persistent objects and NV indices of the TPM beside the machine."""
        code = "import asyncio, sys; from gateway.attester.tpm import Tpm; t = Tpm(sys.argv[1])"
        code += "; print(asyncio.run(t.call(lambda c: (sorted(c.handles(0x81000000)), sorted(c.handles(0x1000000))))))"
        command = ["ip", "netns", "exec", self.machine.name, sys.executable, "-c", code, self.machine.tpm.tcti]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, cwd=ROOT).stdout

    def wire(self) -> None:
        """A TPM, a ward with one port, the hospital and the management side."""
        self.machine.tpm.manufacture()
        self.machine.tpm.power_on()
        for line in (
            "link add ward0 type bridge", "link add p-one type veth peer name far-one", "link set p-one master ward0",
            "link add hosp0 type veth peer name far-hosp", "link add mgmt0 type veth peer name far-mgmt",
            "link set ward0 up", "link set p-one up", "link set hosp0 up", "link set mgmt0 up",
            "link set far-one up", "link set far-hosp up", "link set far-mgmt up", "address add 10.0.0.1/24 dev hosp0",
        ):  # fmt: skip
            self.machine.run("ip", *line.split())
        self.machine.run("bridge", "link", "set", "dev", "p-one", "isolated", "on")

    def first_boot(self) -> None:
        """`wardgate init`, enrolment at the bench's CA by files, and the daemon."""
        tpm, run = self.machine.tpm, self.machine.run
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


def unexplained(before: Tree, after: Tree) -> list[str]:
    """Differences that are neither Debian's own nor the test's medium."""
    return [line for line in differences(before, after) if not line[2:].startswith((*DEBIANS_OWN, "/mnt/usb", *ACCOUNTS))]


def accounts(machine: Machine) -> set[str]:
    return {line.partition(":")[0] for name in ACCOUNTS for line in (machine.disk / name[1:]).read_text().splitlines()}


class Story:
    """One appliance's life, chapter by chapter; each chapter's time is printed."""

    def __init__(self, appliance: Appliance, files: Files) -> None:
        self.appliance, self.box, self.files = appliance, appliance.machine, files
        self.before, self.people = self.box.tree(), accounts(self.box)

    def installs_without_a_network(self) -> None:
        assert "eth" not in self.box.run("cat", "/proc/net/dev").stdout  # lo and nothing else
        said = self.appliance.install("--from", self.appliance.carry(self.files.first))
        assert "trusted from now on" in said
        assert self.appliance.version() == "7.0.0"

    def says_and_changes_nothing_the_second_time(self) -> None:
        for copy in (
            ("/mnt/usb/image/install", "--from", "/mnt/usb/first.wardgate"),
            ("/opt/wardgate/current/share/image/install",),
        ):
            stamp = time.time_ns()
            done = self.box.run(*copy)
            assert (done.stdout, done.stderr) == ("", "")
            changed = [f for f in self.box.changed_since(stamp) if not f.startswith("/var/lib/systemd")]
            assert [f for f in changed if f != "/opt/wardgate"] == []  # the folder itself: where a file to be checked lay

    def begins(self) -> None:
        self.appliance.wire()
        self.held = self.appliance.handles()
        self.appliance.first_boot()
        assert {"tpm", "enrolment", "enforcer", "wiring"} <= self.appliance.checks()

    def an_upgrade_may_be_killed_anywhere(self) -> None:
        """SIGKILL while it unpacks, while it builds, and in the middle of the switch: what runs is a whole version."""
        opt = self.box.disk / "opt/wardgate"
        moments: tuple[Callable[[], bool], ...] = (
            lambda: any(opt.glob("incoming.*/debs")),
            lambda: any(opt.glob("versions/7.0.1-*/lib/python3*/site-packages/aiohttp")),
            lambda: (opt / "trial").exists(),
        )
        for reached in moments:
            self.appliance.install_and_kill(("--from", self.appliance.carry(self.files.second)), reached)
            assert self.appliance.version() in ("7.0.0", "7.0.1")
            assert (opt / "current/share/complete").exists()
            self.appliance.checks()

    def upgrades(self) -> None:
        tables, enforcer = self.appliance.tables(), self.appliance.main_pid("wardgate-enforcer")
        self.appliance.install("--from", self.appliance.carry(self.files.second))
        assert self.appliance.version() == "7.0.1"
        running = self.box.run("cat", f"/proc/{self.appliance.main_pid('wardgate')}/cmdline").stdout
        assert "/versions/7.0.1-" in running
        shown = json.loads(self.box.run("wardgate", "--json", "status", check=False).stdout)
        assert shown["gateway"]["version"].startswith("7.0.1-")
        assert self.appliance.main_pid("wardgate-enforcer") == enforcer  # its part is the same
        assert self.appliance.tables() == tables  # not even loaded anew: the handles are the same
        print(f"the daemon was away for {self.appliance.gap_s():.1f} s")
        assert self.appliance.gap_s() < 20  # leases live 30 s and are renewed every 10: until then no packet is lost
        left = {f.name.rpartition("-")[0] for f in (self.box.disk / "opt/wardgate/versions").iterdir()}
        assert left == {"7.0.0", "7.0.1"}
        assert sorted(f.name for f in (self.box.disk / "opt/wardgate").iterdir()) == ["current", "previous", "versions"]

    def a_version_that_does_not_start_goes_back_by_itself(self) -> None:
        tables = self.appliance.tables()
        said = self.appliance.install("--from", self.appliance.carry(self.files.broken), fails=True)
        assert "7.0.1" in said
        assert "is running again" in said
        assert self.appliance.version() == "7.0.1"
        self.appliance.checks()
        assert self.appliance.tables() == tables

    def a_full_disk_changes_nothing(self) -> None:
        """Full before it begins, and full in the middle of it."""
        versions, run = "/opt/wardgate/versions", self.box.run
        file = self.appliance.carry(self.files.broken)
        run("mkdir", "-p", "/mnt/disk")
        run("mount", "-t", "tmpfs", "-o", "size=200m", "disk", "/mnt/disk")
        run("cp", "-a", f"{versions}/.", "/mnt/disk")
        run("mount", "--bind", "/mnt/disk", versions)
        said = self.appliance.install("--from", file, fails=True)
        assert "the disk is full" in said
        run("mount", "-o", "remount,size=450m", "/mnt/disk")
        filler = f"until [ -d {versions}/7.0.2-*/lib ]; do sleep 0.05; done; head -c 1G /dev/zero >/mnt/disk/filler"
        with self.box.start("sh", "-c", filler):
            said = self.appliance.install("--from", file, fails=True)
        assert "No space left" in said
        assert "nothing was changed" in said
        names = {f.split("-")[0] for f in run("ls", versions).stdout.split()}
        assert names == {"7.0.0", "7.0.1", "filler"}
        run("sh", "-ec", f"umount {versions}; umount /mnt/disk; rmdir /mnt/disk")
        self.appliance.checks()

    def rolls_back(self) -> None:
        self.appliance.install("--rollback")
        assert self.appliance.version() == "7.0.0"
        self.appliance.checks()
        said = self.appliance.install("--from", self.appliance.carry(self.files.first), "--check")
        assert "is whole: version 7.0.0" in said

    def is_removed_and_keeps_its_data(self) -> None:
        self.appliance.install("--remove")
        left = [p for p in self.box.tree() if "wardgate" in p and not p.startswith(("/mnt/usb", *KEPT, "/var/log"))]
        assert [p for p in left if not p.startswith(DEBIANS_OWN)] == []
        assert "wardgate" not in self.box.run("systemctl", "list-unit-files", check=False).stdout
        assert "wardgate" not in self.box.run("systemctl", "list-units", "--state=active,failed", check=False).stdout
        assert (self.box.disk / "var/lib/wardgate/tpm.json").exists()
        said = self.appliance.install("--purge", "--yes", fails=True)  # the program that empties the TPM is gone
        assert "nothing was destroyed" in said

    def comes_back_as_itself(self) -> None:
        self.appliance.install("--from", self.appliance.carry(self.files.second), "--key", self.appliance.carry(self.files.key))
        self.appliance.checks()  # enrolled as it was

    def is_purged_keys_first(self) -> None:
        self.box.tpm.kill()
        said = self.appliance.install("--purge", "--yes", fails=True)
        assert "nothing was destroyed" in said
        assert (self.box.disk / "var/lib/wardgate/tpm.json").exists()
        self.box.tpm.power_on()
        said = self.appliance.install("--purge", fails=True)  # nobody there to ask
        assert "nothing was changed" in said
        said = self.appliance.install("--purge", "--yes")
        assert said.index("0x81010020 is gone") < said.index("taking away packages")
        assert self.appliance.handles() == self.held
        assert unexplained(self.before, self.box.tree()) == []
        assert accounts(self.box) - self.people <= DEBIANS_USERS


def test_the_life_of_an_appliance(appliance: Appliance, files: Files) -> None:
    story = Story(appliance, files)
    for chapter in (
        story.installs_without_a_network, story.says_and_changes_nothing_the_second_time, story.begins,
        story.an_upgrade_may_be_killed_anywhere, story.upgrades, story.a_version_that_does_not_start_goes_back_by_itself,
        story.a_full_disk_changes_nothing, story.rolls_back, story.is_removed_and_keeps_its_data, story.comes_back_as_itself,
        story.is_purged_keys_first,
    ):  # fmt: skip
        begin = time.monotonic()
        chapter()
        print(f"{time.monotonic() - begin:6.1f} s  {chapter.__name__.replace('_', ' ')}")
