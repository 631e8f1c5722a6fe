"""The units as systemd itself reads them: valid, sandboxed, calling programs and options that exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "systemd"
SERVICES = sorted(UNITS.glob("*.service"))
# systemd's exposure, 0 (none) to 10; 2.5 leaves no room for a sandbox that was switched off.
MOST_EXPOSURE = {
    "wardgate.service": 1.7,
    "wardgate-confirm.service": 2.3,  # root, to load tables in a network namespace of its own
    "wardgate-enforcer.service": 1.5,
    "wardgate-eventlog.service": 1.4,
    "wardgate-firewall.service": 1.9,  # root, switches routing on
    "wardgate-policy.service": 2.3,
    "wardgate-network.service": 1.8,  # root, makes links and routes
    "wardgate-dhcp.service": 1.8,
    "wardgate-ntp.service": 2.3,  # sets the clock
}
NOT_INSTALLED = re.compile(r".*: Command /opt/wardgate/current/bin/[a-z-]+ is not executable: No such file or directory")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def _lines(path: Path, key: str) -> list[str]:
    return [line.partition("=")[2] for line in path.read_text().splitlines() if line.startswith(f"{key}=")]


@pytest.mark.parametrize("unit", sorted([*SERVICES, *UNITS.glob("*.socket")]), ids=lambda p: p.name)
def test_systemd_finds_nothing_wrong(unit: Path, tmp_path: Path) -> None:
    """Units of other packages may be absent where the tests run; only ours are looked at, all of them together."""
    for path in [*SERVICES, *UNITS.glob("*.socket")]:
        shutil.copy(path, tmp_path)
    said = _run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / unit.name)).stderr.splitlines()
    assert [line for line in said if not NOT_INSTALLED.fullmatch(line)] == []


@pytest.mark.parametrize("unit", SERVICES, ids=lambda p: p.name)
def test_exposure(unit: Path) -> None:
    done = _run("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=25", str(unit))
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stderr
    print(f"{unit.name}: exposure {found[1]} of 10")
    assert done.returncode == 0
    assert float(found[1]) <= MOST_EXPOSURE[unit.name]


def _commands() -> list[tuple[str, list[str]]]:
    found = []
    for unit in SERVICES:
        for line in _lines(unit, "ExecStart"):
            words = shlex.split(line)
            if words[0] == "/bin/sh":
                words = shlex.split(words[-1].replace("$$(id -u wardgate)", "61001").replace("exec ", "", 1))
            found.append((unit.name, words))
    return [(name, words) for name, words in found if words[0].startswith("/opt/wardgate")]


def test_every_program_and_option_exists() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    commands = _commands()
    programs = {"wardgate", "wardgate-policy", "wardgate-enforcer", "wardgate-network"}
    assert {Path(words[0]).name for _, words in commands} == programs
    for name, words in commands:
        program = Path(words[0])
        assert program.parent == Path("/opt/wardgate/current/bin")
        assert program.name in scripts
        mine = Path(sysconfig.get_path("scripts")) / program.name
        done = _run(str(mine), *words[1:], "--help")
        assert done.returncode == 0, f"{name}: {done.stderr}"
        unknown = _run(str(mine), *words[1:], "--no-such-option")
        assert "--no-such-option" in unknown.stderr  # and nothing before it was unknown
        assert unknown.returncode == 2


def test_the_daemon_and_the_enforcer_have_what_they_need_and_no_more() -> None:
    daemon, enforcer = UNITS / "wardgate.service", UNITS / "wardgate-enforcer.service"
    assert _lines(daemon, "CapabilityBoundingSet") == [""]
    assert _lines(daemon, "AmbientCapabilities") == [""]
    assert _lines(enforcer, "CapabilityBoundingSet") == _lines(enforcer, "AmbientCapabilities") == ["CAP_NET_ADMIN"]
    assert _lines(daemon, "User") != _lines(enforcer, "User")
    assert float(_lines(daemon, "TimeoutStopSec")[0]) < 10  # a planned restart costs no packet
    assert "wardgate-enforcer.service" not in " ".join(_lines(daemon, "Requires"))  # its death must not take the daemon along
    assert "AF_INET" not in " ".join(_lines(enforcer, "RestrictAddressFamilies"))


def test_users_and_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for name, line in (("passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("group", "root:x:0:\ndialout:x:20:\n")):
        (tmp_path / "etc" / name).write_text(line)
    for tool, *options in (("systemd-sysusers",), ("systemd-tmpfiles", "--create")):
        conf = shutil.copy(UNITS / f"{tool.removeprefix('systemd-')}.conf", tmp_path)
        done = _run(tool, f"--root={tmp_path}", *options, str(conf))
        assert done.returncode == 0, done.stderr
    ids = {line.split(":")[0]: line.split(":")[2] for line in (tmp_path / "etc/passwd").read_text().splitlines()}
    assert ids["wardgate"] != ids["wardgate-enforcer"]
    groups = {line.split(":")[0]: line.split(":")[3] for line in (tmp_path / "etc/group").read_text().splitlines()}
    assert all("wardgate" in groups[g] for g in ("tss", "dialout", "bluetooth"))
    run = (tmp_path / "run/wardgate").stat()
    assert run.st_mode & 0o7777 == 0o1775  # sticky: the daemon cannot replace the sockets of root
    assert run.st_uid == 0
    state = (tmp_path / "var/lib/wardgate").stat()
    assert state.st_mode & 0o777 == 0o700
    assert str(state.st_uid) == ids["wardgate"]
    assert (tmp_path / "var/lib/wardgate-policy").stat().st_uid == 0


def test_kernel_settings_exist() -> None:
    for line in (UNITS / "sysctl.conf").read_text().splitlines():
        if line and not line.startswith("#"):
            assert (Path("/proc/sys") / line.split(" = ")[0].replace(".", "/")).exists()


def test_the_installer_knows_every_file() -> None:
    lists = (ROOT / "image/lib/lists.sh").read_text()
    for path in UNITS.iterdir():
        if path.name != "README.md":
            assert path.name in lists, f"image/install does not install {path.name}"
    for script in (ROOT / "image/install", *(ROOT / "image/lib").glob("*.sh")):
        assert subprocess.run(["sh", "-n", str(script)], timeout=10).returncode == 0, script
