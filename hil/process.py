"""Processes of the bench: started in a namespace, as a user, with a log and a readiness line; ended by their own id.

Knows nothing of what it runs. Every process prints one line that begins with ``ready`` when it can be used.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class BenchError(Exception):
    """A part of the bench did not come up; the text carries the end of its log."""


class Process:
    """One process of the bench. ``stop`` is SIGTERM then SIGKILL; ``signal`` sends anything else to its own id."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.popen, self.log = name, popen, log

    @property
    def pid(self) -> int:
        """The id of the started process itself (no wrapper stays in between)."""
        return self.popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this process only."""
        self.popen.send_signal(number)

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, timeout_s: float = 5.0) -> int:
        """End it and return its exit code."""
        if self.running:
            self.popen.terminate()
            try:
                self.popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        return self.popen.wait()


def start(
    name: str,
    argv: Sequence[str],
    *,
    log_dir: Path,
    netns: str | None = None,
    uid: int | None = None,
    groups: Sequence[int] = (),
    ambient_caps: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    ready: str | None = "ready",
    timeout_s: float = 20.0,
) -> Process:
    """Start ``argv`` and wait for its readiness line (``ready=None``: do not wait). Raises BenchError with its log's end.

    ``uid``: run as that user and group with no capabilities but ``ambient_caps`` (for example ``net_admin``), no new privileges.
    """
    command: list[str] = []
    if netns:
        command += ["ip", "netns", "exec", netns]
    if uid is not None:
        caps = ",".join(f"+{c}" for c in ambient_caps)
        command += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--no-new-privs"]
        command += [f"--groups={','.join(str(g) for g in groups)}"] if groups else ["--clear-groups"]
        command += [
            f"--inh-caps=-all{',' + caps if caps else ''}",
            f"--ambient-caps=-all{',' + caps if caps else ''}",
            "--bounding-set=-all" + (f",{caps}" if caps else ""),
        ]
    log = log_dir / f"{name}.log"
    start_at = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        popen = subprocess.Popen(
            [*command, *argv],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            start_new_session=True,
        )
    process = Process(name, popen, log)
    deadline = time.monotonic() + timeout_s
    while ready is not None:
        with log.open("rb") as f:
            f.seek(start_at)
            if any(line.startswith(ready.encode()) for line in f.read().splitlines()):
                break
        if not process.running or time.monotonic() > deadline:
            process.stop(1.0)
            raise BenchError(f"{name} did not become ready:\n{process.tail()}")
        time.sleep(0.02)
    return process
