"""The bench's firmware: its event log is one that Debian's own reader understands and replays to the same PCR values."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hil import firmware
from hil.tpm import events


@pytest.mark.rig
@pytest.mark.parametrize("secure_boot", [True, False])
def test_debians_reader_replays_it_to_the_same_values(tmp_path: Path, secure_boot: bool) -> None:
    log = firmware.boot(secure_boot=secure_boot)
    (tmp_path / "eventlog").write_bytes(log.raw)
    shown = subprocess.run(["tpm2_eventlog", tmp_path / "eventlog"], capture_output=True, text=True, timeout=10, check=True).stdout
    replayed = dict(re.findall(r"^ +(\d+) *: 0x([0-9a-f]{64})$", shown, re.MULTILINE))
    assert {int(n): bytes.fromhex(v) for n, v in replayed.items()} == log.pcrs
    for kind in (
        "EV_S_CRTM_VERSION",
        "EV_EFI_VARIABLE_BOOT",
        "EV_EFI_BOOT_SERVICES_APPLICATION",
        "EV_SEPARATOR",
        "EV_EFI_GPT_EVENT",
    ):
        assert kind in shown
    assert "UnicodeName: SecureBoot" in shown


def test_the_log_is_the_same_each_time_and_says_what_changed() -> None:
    assert firmware.boot().raw == firmware.boot().raw
    old, new, insecure = firmware.boot("1.0").pcrs, firmware.boot("1.1").pcrs, firmware.boot(secure_boot=False).pcrs
    assert [n for n in old if old[n] != new[n]] == [4]
    assert [n for n in old if old[n] != insecure[n]] == [7]


def test_the_player_reads_every_event() -> None:
    log = firmware.boot()
    assert events(bytes(log.raw)) == log.extends
