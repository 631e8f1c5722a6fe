"""Mistakes people make, each with its own sentence and its own remedy: what the kernel shows is a tree of files made here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drivers.ble.radio import why_no_daemon, why_no_radio
from gateway import surroundings
from gateway.attester.hardware import board, is_raspberry_pi, why_no_tpm
from gateway.check import run_checks
from gateway.config import Config, parse_config
from gateway.machine_clock import BUILD_UTC_NS

Tree = dict[str, str]
PI = {"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5\0"}
OVERLAY = {"boot/firmware/config.txt": "arm_64bit=1\ndtparam=spi=on\ndtoverlay=tpm-slb9670\n"}
CHIP = {"sys/class/tpm/tpm0/tpm_version_major": "2\n"}
ADAPTER = {"sys/class/bluetooth/hci0/address": ""}


def plant(root: Path, *trees: Tree) -> Path:
    for tree in trees:
        for name, text in tree.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("trees", "what", "remedy"),
    [
        ([PI], "overlay is missing", "add dtoverlay=tpm-slb9670 to /boot/firmware/config.txt and reboot"),
        ([PI, {"boot/firmware/config.txt": "#dtoverlay=tpm-slb9670\n"}], "overlay is missing", "add dtoverlay=tpm-slb9670"),
        ([PI, {"boot/config.txt": "arm_64bit=1\n"}], "overlay is missing", "to /boot/config.txt and reboot"),
        ([PI, OVERLAY], "not loaded", "reboot"),
        ([PI, OVERLAY, {"sys/module/tpm_tis_spi/refcnt": "0"}], "the chip does not answer", "pins 1 to 26"),
        ([PI, OVERLAY, {"sys/bus/spi/drivers/tpm_tis_spi/bind": ""}], "the chip does not answer", "pins 1 to 26"),
        ([{"sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B\0"}], "overlay is missing", "dtoverlay=tpm-slb9670"),
        ([{}], "the kernel shows no TPM", "firmware set-up"),
        ([{"proc/device-tree/model": "Another Board\0"}], "the kernel shows no TPM", "firmware set-up"),
        ([{"sys/class/tpm/tpm0/tpm_version_major": "1\n"}], "is a TPM 1.2", "TPM 2.0"),
        ([CHIP], "no /dev/tpmrm0", "resource manager"),
    ],
)
def test_each_reason_for_no_tpm_has_its_own_remedy(tmp_path: Path, trees: list[Tree], what: str, remedy: str) -> None:
    told = why_no_tpm("device:/dev/tpmrm0", plant(tmp_path, *trees))
    assert told is not None
    assert what in told[0] and remedy in told[1]


def test_a_tpm_that_is_there_is_not_explained_away(tmp_path: Path) -> None:
    plant(tmp_path, PI, OVERLAY, CHIP, {"dev/tpmrm0": ""})
    assert why_no_tpm("device:/dev/tpmrm0", tmp_path) is None
    assert why_no_tpm("swtpm:host=127.0.0.1,port=1", tmp_path / "nowhere") is None
    assert is_raspberry_pi(tmp_path) and board(tmp_path) == "Raspberry Pi 4 Model B Rev 1.5"
    assert board(tmp_path / "nowhere") == ""


def test_a_tpm_that_this_user_may_not_use_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, CHIP, {"dev/tpmrm0": ""})
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may use everything
    told = why_no_tpm("device:/dev/tpmrm0", tmp_path)
    assert told and "may not be used by this user" in told[0] and "usermod -aG tss wardgate" in told[1]


@pytest.mark.rig
@pytest.mark.skipif(Path("/dev/tpmrm0").exists(), reason="this machine has a TPM")
async def test_it_is_said_where_it_bites() -> None:
    from gateway.attester.faults import TpmGoneError
    from gateway.attester.tpm import Tpm

    tpm = Tpm("device:/dev/tpmrm0")
    with pytest.raises(TpmGoneError) as told:
        await tpm.probe()
    await tpm.close()
    assert (told.value.what, told.value.remedy) == why_no_tpm("device:/dev/tpmrm0")


def radio(soft: int, hard: int, kind: str = "bluetooth") -> Tree:
    return {f"sys/class/rfkill/rfkill0/{n}": f"{v}\n" for n, v in (("type", kind), ("soft", soft), ("hard", hard), ("state", 1))}


@pytest.mark.parametrize(
    ("trees", "what", "remedy"),
    [
        ([ADAPTER, radio(1, 0)], "soft blocked", "rfkill unblock bluetooth"),
        ([ADAPTER, radio(0, 1)], "hardware switch", "flip the switch"),
        ([ADAPTER, radio(1, 1)], "hardware switch", "software cannot"),
        ([radio(0, 0)], "no Bluetooth adapter", "plug one in"),
        ([{}], "no Bluetooth adapter", "plug one in"),
        ([{"sys/firmware/devicetree/base/model": "Raspberry Pi 4", "boot/firmware/config.txt": "dtoverlay = disable-bt\n"}],
         "no Bluetooth adapter", "take dtoverlay=disable-bt out"),
    ],
)  # fmt: skip
def test_each_reason_for_no_radio_has_its_own_remedy(tmp_path: Path, trees: list[Tree], what: str, remedy: str) -> None:
    told = why_no_radio(plant(tmp_path, *trees))
    assert told is not None
    assert what in told[0] and remedy in told[1]


def test_a_radio_that_may_be_used_is_none_of_these(tmp_path: Path) -> None:
    assert why_no_radio(plant(tmp_path, ADAPTER, radio(1, 1, "wlan"))) is None
    plant(tmp_path, {"proc/1/comm": "systemd\n", "proc/7/comm": "dbus-daemon\n"})
    told = why_no_daemon(tmp_path)
    assert told and "systemctl enable --now bluetooth" in told[1]
    assert why_no_daemon(plant(tmp_path, {"proc/9/comm": "bluetoothd\n"})) is None
    assert why_no_daemon(plant(tmp_path / "hidden", {"proc/3/comm": "wardgate\n"})) is None, "what is hidden is not missing"


RTC = {"sys/class/rtc/rtc0/since_epoch": f"{BUILD_UTC_NS // 10**9 + 100}\n"}


@pytest.mark.parametrize(
    ("trees", "utc_ns", "ok", "words"),
    [
        ([RTC], BUILD_UTC_NS + 10**9, True, ["it is 2026-11-24"]),
        ([RTC], 0, False, ["the clock says 1970-01-01", "it is not set", "timedatectl set-time", "logins do not mind"]),
        ([RTC], BUILD_UTC_NS - 10**9, False, ["before this version was made"]),
        ([{}], BUILD_UTC_NS + 10**9, True, ["no real-time clock", "dtoverlay=i2c-rtc"]),
        ([{}], 10**9, False, ["no real-time clock", "timedatectl"]),
        ([{"sys/class/rtc/rtc0/since_epoch": "12\n"}], BUILD_UTC_NS + 10**9, True, ["replace its battery"]),
    ],
)
def test_the_clock(tmp_path: Path, trees: list[Tree], utc_ns: int, ok: bool, words: list[str]) -> None:
    row = surroundings.clock(utc_ns, plant(tmp_path, *trees))
    assert row.ok is ok and bool(row.remedy) is not ok
    assert all(w in f"{row.text} {row.remedy}" for w in words)


def filesystem(free_mib: int, flags: int = 0, inodes: int = 1000) -> os.statvfs_result:
    blocks = free_mib * 256
    return os.statvfs_result((4096, 4096, 30_000 * 256, blocks, blocks, 10**6, inodes, inodes, flags, 255))


@pytest.mark.parametrize(
    ("seen", "ok", "words"),
    [
        (filesystem(5000), True, ["5000 MiB of 30000 free"]),
        (filesystem(400), False, ["free at least 512 MiB", "keep_mib"]),
        (filesystem(40), False, ["full within hours", "journalctl --vacuum-size"]),
        (filesystem(5000, os.ST_RDONLY), False, ["read-only", "remount,rw"]),
        (filesystem(5000, inodes=0), False, ["no inodes left"]),
    ],
)
def test_the_disk(tmp_path: Path, seen: os.statvfs_result, ok: bool, words: list[str]) -> None:
    row = surroundings.disk(tmp_path, seen)
    assert row.ok is ok and bool(row.remedy) is not ok
    assert all(w in f"{row.text} {row.remedy}" for w in words)


@pytest.mark.parametrize(("total", "left", "ok"), [(2000, 900, True), (2000, 60, False), (500, 400, False)])
def test_memory(tmp_path: Path, total: int, left: int, ok: bool) -> None:
    text = f"MemTotal: {total * 1024} kB\nMemFree: 1 kB\nMemAvailable: {left * 1024} kB\n"
    row = surroundings.memory(plant(tmp_path, {"proc/meminfo": text}))
    assert row.ok is ok and bool(row.remedy) is not ok


def settled(root: Path) -> tuple[Config, Path]:
    """A gateway's folders with the permissions that they should have."""
    plant(root, {"etc/profiles/p.toml": "", "state/tpm.json": "{}", "state/wardgate.sqlite": "", "policy/operators.json": "{}",
                 "policy/confirmed.json": "{}", "state/uplink.key": ""})  # fmt: skip
    config = root / "etc" / "wardgate.toml"
    config.write_text(
        f'[gateway]\nstate = "{root}/state"\n[policy]\nprofiles = "{root}/etc/profiles"\n'
        f'confirmed = "{root}/policy/confirmed.json"\n'
        f'[uplink]\nhost = "10.0.0.9"\nkey = "{root}/state/uplink.key"\n'
    )
    (root / "state").chmod(0o700)
    for path in (*(root / "state").iterdir(), root / "policy" / "operators.json"):
        path.chmod(0o600)
    for path in (config, root / "etc/profiles/p.toml", root / "policy/confirmed.json"):
        path.chmod(0o644)
    return parse_config(config.read_text()), config


@pytest.mark.parametrize(
    ("name", "mode", "told"),
    [
        ("etc/wardgate.toml", 0o666, "anybody may change"),
        ("etc/wardgate.toml", 0o600, "the daemon cannot read"),
        ("etc", 0o777, "anybody may change"),
        ("etc/profiles/p.toml", 0o646, "anybody may change"),
        ("policy/confirmed.json", 0o666, "anybody may change"),
        ("state", 0o755, "others may read"),
        ("state/tpm.json", 0o644, "others may read"),
        ("state/wardgate.sqlite", 0o640, "others may read"),
        ("state/uplink.key", 0o644, "others may read"),
        ("policy/operators.json", 0o644, "others may read"),
    ],
)
def test_permissions(tmp_path: Path, name: str, mode: int, told: str) -> None:
    config, path = settled(tmp_path)
    assert surroundings.permissions(config, path).ok, surroundings.permissions(config, path)
    (tmp_path / name).chmod(mode)
    row = surroundings.permissions(config, path)
    assert not row.ok and told in row.text and str(tmp_path / name) in row.text
    assert row.remedy.startswith("chmod") and row.remedy.endswith(str(tmp_path / name))


@pytest.mark.rig
def test_a_configuration_that_belongs_to_somebody_is_told(tmp_path: Path) -> None:
    config, path = settled(tmp_path)
    os.chown(path, 61001, 61001)
    row = surroundings.permissions(config, path)
    assert not row.ok and "belongs to uid 61001" in row.text and row.remedy == f"chown root {path}"


def test_check_has_a_row_for_each_and_skips_what_it_is_told_to(tmp_path: Path) -> None:
    config, path = settled(tmp_path)
    rows = {r.name: r for r in run_checks(config, ("broker",), path)}
    assert {"tpm", "bluetooth", "clock", "disk", "memory", "permissions", "record"} <= rows.keys()
    assert "broker" not in rows
    assert rows["permissions"].ok
    assert all(r.remedy for r in rows.values() if not r.ok), rows
