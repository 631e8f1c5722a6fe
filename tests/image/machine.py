"""A Debian machine for the installer's tests: a bare root made by mmdebstrap, booted by its own systemd in a container.

It has a network of its own with no way out, so whatever works there needs none. A TPM stands beside it (swtpm in the
machine's network namespace). Knows nothing of what is installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hil.tpm import Swtpm, free_ports

ROOT = Path(__file__).parents[2]
Tree = dict[str, str]


def debian_sources(suite: str) -> str:
    """apt's own sources of this machine, for a suite."""
    done = subprocess.run(["sh", str(ROOT / "image/lib/debian.sh"), suite], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def bare_root(suite: str, archive: Path) -> None:
    """Make a minimal root with an init as a tar archive: what a person finds on a machine with nothing but Debian on it."""
    sources = archive.with_suffix(".list")
    sources.write_text(debian_sources(suite))
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=systemd-sysv,openssl", suite, str(archive), str(sources)]
    # The tests' machine may lose its disk: no fsync for each unpacked file.
    command[1:1] = ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"']
    subprocess.run(command, check=True, timeout=300, capture_output=True)


class Machine:
    """One machine. ``folder`` holds its disk (``root/``) and its TPM; ``name`` is its host name and network namespace."""

    def __init__(self, folder: Path, archive: Path, name: str) -> None:
        self.name, self.disk = name, folder / "root"
        self.disk.mkdir()
        subprocess.run(["tar", "-C", str(self.disk), "-xf", str(archive), "--exclude=./dev/*"], check=True, timeout=120)
        self._folder, self._leader = folder, 0
        self._container: subprocess.Popen[bytes] | None = None
        self.tpm = Swtpm(folder / "tpm", free_ports(), log_dir=folder, netns=name)
        (folder / "tpm").mkdir()

    def boot(self, timeout_s: float = 60) -> None:
        """Switch on and wait until systemd says that it is up."""
        command = [
            "systemd-nspawn",
            "-q",
            "-D",
            str(self.disk),
            "-M",
            self.name,
            "--register=no",
            "--keep-unit",
            "--private-network",
        ]
        command += ["--console=pipe", "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--boot"]
        log = (self._folder / "console.log").open("ab")
        self._container = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        pid, deadline = self._container.pid, time.monotonic() + timeout_s
        state = ""
        while time.monotonic() < deadline:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if self._container.poll() is None else []
            self._leader = int(children[0]) if children else 0
            if self._leader:
                state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
            if state in ("running", "degraded"):
                break
            time.sleep(0.2)
        else:
            raise AssertionError(f"{self.name} did not boot ({state}):\n{(self._folder / 'console.log').read_text()[-2000:]}")
        # A container's sysfs is read-only; a machine's is not, and the bridge's options are there.
        self.run("mount", "-o", "remount,rw", "/sys/devices")
        subprocess.run(["ip", "netns", "attach", self.name, str(self._leader)], check=True, timeout=10)

    def halt(self) -> None:
        """Power cut: nothing in the machine is asked."""
        if self._container is not None:
            if self._leader:
                with suppress(ProcessLookupError):
                    os.kill(self._leader, signal.SIGKILL)  # the first process of its own world: all others go with it
            try:
                self._container.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._container.pid, signal.SIGKILL)
                self._container.wait(10)
            self._container, self._leader = None, 0
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True, timeout=10)

    def destroy(self) -> None:
        """Switch off and throw the disk away."""
        self.tpm.kill()
        self.halt()
        shutil.rmtree(self.disk, ignore_errors=True)

    def argv(self, *command: str) -> list[str]:
        """The command as it is started from outside."""
        inside = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"]
        return ["nsenter", "-t", str(self._leader), "-a", *inside, *command]

    def run(self, *command: str, check: bool = True, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Run as root in the machine; with ``check`` a failure shows what it said."""
        done = subprocess.run(
            self.argv(*command), capture_output=True, text=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL
        )
        if check and done.returncode:
            journal = self.run("journalctl", "--no-pager", "-n", "40", check=False).stdout if command[0] != "journalctl" else ""
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}\n{journal}")
        return done

    @contextmanager
    def start(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command that goes on meanwhile; it and what it started end with the block."""
        log = (self._folder / "commands.log").open("ab")
        going = subprocess.Popen(self.argv(*command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            yield going
        finally:
            with suppress(ProcessLookupError):
                os.killpg(going.pid, signal.SIGKILL)
            going.wait(10)

    def tree(self) -> Tree:
        """Every file of the disk: path to what can be told of it (times left out)."""
        return tree_of(self.disk)

    def changed_since(self, stamp_ns: int) -> list[str]:
        """Files of the disk whose inode or content changed after a moment, the system's own journal left out."""
        found = []
        for folder, folders, files in os.walk(self.disk):
            for name in (*folders, *files):
                path = Path(folder, name)
                with suppress(FileNotFoundError):
                    if path.lstat().st_ctime_ns > stamp_ns:
                        found.append("/" + str(path.relative_to(self.disk)))
        return [f for f in sorted(found) if not f.startswith(("/var/log/journal", "/run", "/tmp"))]


def tree_of(disk: Path) -> Tree:
    """Path to kind, mode, owner and content of everything below a folder."""
    tree: Tree = {}
    for folder, folders, files in os.walk(disk):
        for name in (*folders, *files):
            path = Path(folder, name)
            try:
                st = path.lstat()
                if path.is_symlink():
                    what = f"link {path.readlink()}"
                elif path.is_dir():
                    what = "folder"
                elif path.is_file():
                    what = hashlib.sha256(path.read_bytes()).hexdigest()
                else:
                    what = "special"
            except FileNotFoundError:
                continue
            tree["/" + str(path.relative_to(disk))] = f"{what} {st.st_mode & 0o7777:o} {st.st_uid}:{st.st_gid}"
    return tree


def differences(before: Tree, after: Tree) -> list[str]:
    """One line a path that came, went or changed."""
    lines = [f"+ {p} {after[p]}" for p in sorted(after.keys() - before.keys())]
    lines += [f"- {p} {before[p]}" for p in sorted(before.keys() - after.keys())]
    return lines + [f"~ {p} {before[p]} -> {after[p]}" for p in sorted(before.keys() & after.keys()) if before[p] != after[p]]
