"""What ``wardgate check`` looks at around the gateway: clock, disk, memory, permissions, as the kernel shows them below ``root``.

Each mistake has its own sentence and its own remedy. Looks, changes nothing; refuses to know the gateway's own parts.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from gateway.config import Config
from gateway.machine_clock import BUILD_UTC_NS

FREE_MIB = 512  # an upgrade, and a week of readings of fifty devices that cannot leave
LEAST_MIB = 64  # with less than this a full disk is hours away
MEMORY_MIB = 768  # a board sold with 1 GiB shows less; the daemon may have 320
AVAILABLE_MIB = 128


@dataclass(frozen=True, slots=True)
class Row:
    """One check: ``ok``, what was seen, and what to do about it."""

    name: str
    ok: bool
    text: str
    remedy: str = ""


def clock(utc_ns: int | None = None, root: Path = Path("/")) -> Row:
    """Whether the wall clock can be right, and whether it survives a power cut."""
    now = time.time_ns() if utc_ns is None else utc_ns
    shown = time.strftime("%Y-%m-%d", time.gmtime(now / 1e9))
    rtc, note = root / "sys/class/rtc/rtc0", ""
    if not rtc.exists():
        note = "; no real-time clock: it is lost with each power cut; fit one (on a Raspberry Pi: dtoverlay=i2c-rtc,ds3231)"
    elif (kept := _number(rtc / "since_epoch")) is not None and kept * 10**9 < BUILD_UTC_NS:
        note = "; the real-time clock has lost the time: replace its battery"
    if now < BUILD_UTC_NS:
        text = f"the clock says {shown}, which is before this version was made: it is not set"
        remedy = (
            "timedatectl set-time 'YYYY-MM-DD hh:mm', or let it reach a time server; leases and logins do not mind, times shown do"
        )
        return Row("clock", False, text + note, remedy)
    return Row("clock", True, f"it is {shown}{note}")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def disk(where: Path, seen: os.statvfs_result | None = None) -> Row:
    """Whether the state's disk can be written and has room."""
    where = where if where.exists() else Path("/")
    s = seen or os.statvfs(where)
    free, total = s.f_bavail * s.f_frsize // 2**20, s.f_blocks * s.f_frsize // 2**20
    if s.f_flag & os.ST_RDONLY:
        remedy = "look at `dmesg` for why (a worn-out card is mounted so), then replace it or: mount -o remount,rw"
        return Row("disk", False, f"the disk at {where} is read-only: nothing can be recorded, so nothing new is granted", remedy)
    if s.f_files and not s.f_favail:
        return Row("disk", False, f"the disk at {where} has no inodes left", "remove files that are not Wardgate's")
    text = f"{free} MiB of {total} free at {where}"
    if free < LEAST_MIB:
        return Row(
            "disk",
            False,
            f"{text}: it is full within hours",
            f"free {FREE_MIB} MiB now: journalctl --vacuum-size=100M, apt-get clean",
        )
    if free < FREE_MIB:
        return Row("disk", False, text, f"free at least {FREE_MIB} MiB, or lower keep_mib in [record]")
    return Row("disk", True, text)


def memory(root: Path = Path("/")) -> Row:
    """Whether there is enough of it, and enough left."""
    found = {}
    for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0]) // 1024
    total, left = found["MemTotal"], found.get("MemAvailable", found["MemTotal"])
    text = f"{total} MiB, {left} available"
    if total < MEMORY_MIB:
        return Row("memory", False, text, "use a machine with 1 GiB or more; 2 GiB for fifty devices")
    if left < AVAILABLE_MIB:
        return Row("memory", False, text, "end other programs (ps --sort=-rss aux | head), or use a machine with more")
    return Row("memory", True, text)


def permissions(config: Config, config_path: Path | None) -> Row:
    """That nobody but root changes what the gateway obeys, and nobody but the daemon reads its keys."""
    wrong = [*_changeable(config, config_path), *_readable(config)]
    if not wrong:
        return Row("permissions", True, "configuration is root's, keys are the daemon's")
    return Row("permissions", False, "; ".join(what for what, _ in wrong), "; ".join(dict.fromkeys(remedy for _, remedy in wrong)))


def _changeable(config: Config, config_path: Path | None) -> list[tuple[str, str]]:
    """Files and folders that rule the gateway, and whether somebody else could change them."""
    ruling = [
        config.policy.profiles,
        *config.policy.profiles.glob("*.toml"),
        config.policy.confirmed.parent,
        config.policy.confirmed,
    ]
    ruling += [config_path.parent, config_path] if config_path else []
    found = []
    for path in ruling:
        if (s := _stat(path)) is None:
            continue
        if s.st_mode & stat.S_IWOTH and not s.st_mode & stat.S_ISVTX:
            found.append((f"anybody may change {path}", f"chmod o-w {path}"))
        elif s.st_uid != 0:
            found.append((f"{path} belongs to uid {s.st_uid}, not to root", f"chown root {path}"))
        elif path == config_path and not s.st_mode & stat.S_IROTH:
            found.append((f"the daemon cannot read {path}", f"chmod 644 {path}"))
    return found


def _readable(config: Config) -> list[tuple[str, str]]:
    state, policy = config.gateway.state, config.policy.confirmed.parent
    secret = [state, *(state / n for n in ("tpm.json", "shared-keys.json", "wardgate.sqlite")), policy / "operators.json"]
    secret += [config.uplink.key] if config.uplink.host else []
    found = []
    for path in secret:
        s = _stat(path)
        if s is not None and s.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            mode = "700" if stat.S_ISDIR(s.st_mode) else "600"
            found.append((f"others may read {path}", f"chmod {mode} {path}"))
    return found


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
