"""The bench's TPM and CA where they live: in a namespace, reached by an unprivileged user who has only the state."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hil import firmware, process
from hil.tpm import Swtpm, free_ports

pytestmark = pytest.mark.rig
ROOT = Path(__file__).parent.parent.parent
GATEWAY = """
import asyncio, sys
from pathlib import Path
from gateway.attester import enrol
from gateway.attester.attester import Attester, provision
from gateway.attester.tpm import Tpm

async def main(tcti, state_dir, ca):
    tpm = Tpm(tcti)
    await provision(tpm, state_dir, "gw-1")
    attester = Attester(tpm, state_dir)
    print(await attester.accept_answer(await asyncio.to_thread(enrol.ask, ca, attester.make_request())))
    print("pcr4", dict((await attester.quote(bytes(32))).pcrs)[4].hex())
    await tpm.close()
    print("ready")

asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
"""


@pytest.fixture
def netns() -> Iterator[str]:
    """A namespace with a loopback of its own."""
    name = f"wgtpm{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A folder that others than root can enter, which pytest's own are not."""
    made = Path(tempfile.mkdtemp(prefix="wgtpm"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_a_gateway_in_a_namespace_is_provisioned_and_enrolled(netns: str, directory: Path) -> None:
    (directory / "state").mkdir(mode=0o700)
    os.chown(directory / "state", 61001, 61001)
    swtpm = Swtpm(directory / "tpm", 2321, log_dir=directory, netns=netns)
    swtpm.manufacture()
    swtpm.power_on()
    env, running = {"PYTHONPATH": str(ROOT)}, []
    try:
        serve = [sys.executable, "-m", "hil.ca", "serve", "--dir", str(directory / "ca"), "--port", "8080"]
        serve += ["--maker", str(swtpm.maker_root), "--intermediate", str(swtpm.maker_issuer)]
        running.append(process.start("ca", serve, log_dir=directory, netns=netns, env=env))
        argv = [sys.executable, "-c", GATEWAY, swtpm.tcti, str(directory / "state"), "http://127.0.0.1:8080/"]
        running.append(process.start("gateway", argv, log_dir=directory, netns=netns, uid=61001, env=env))
        said = running[1].log.read_text()
        assert "Enrolled(subject='CN=gw-1', issuer='CN=Wardgate bench CA'" in said
        assert f"pcr4 {firmware.boot().pcrs[4].hex()}" in said
        state = directory / "state" / "tpm.json"
        assert (state.stat().st_mode & 0o777, state.stat().st_uid) == (0o600, 61001)
    finally:
        for one in running:
            one.stop()
        swtpm.stop()


def test_another_boot_loader_shows_after_the_next_power_on(tmp_path: Path) -> None:
    swtpm = Swtpm(tmp_path, free_ports(), log_dir=tmp_path)
    swtpm.manufacture()
    try:
        swtpm.power_on()
        assert pcr4(swtpm) == firmware.boot().pcrs[4]
        swtpm.restart(firmware.boot("6.6.6-evil"))
        assert pcr4(swtpm) == firmware.boot("6.6.6-evil").pcrs[4]
        assert swtpm.eventlog.read_bytes() == bytes(firmware.boot("6.6.6-evil").raw)
        with pytest.raises(process.BenchError, match="is on"):
            swtpm.power_on()
    finally:
        swtpm.stop()


def pcr4(swtpm: Swtpm) -> bytes:
    """PCR 4, as Debian's tool reads it."""
    command = ["tpm2_pcrread", "-T", swtpm.tcti, "sha256:4"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    return bytes.fromhex(shown.rsplit("0x", 1)[1].strip())
