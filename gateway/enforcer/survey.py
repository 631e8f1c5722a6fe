"""Starts ``check`` as a child and collects what it prints, without the loop ever waiting for it. Draws no conclusion."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_CHILD_S = 30.0  # 1 s for 10,000 devices on a PC; a child that hangs is ended
_OUTPUT_MAX = 64 << 20


class Survey:
    """At most one child at a time. ``first`` is true until the first result was taken."""

    def __init__(self, policy: Path, table_file: Path | None, selector: selectors.BaseSelector) -> None:
        self._argv = [sys.executable, "-I", "-m", "gateway.enforcer.check", "--policy", str(policy)]
        self._argv += ["--table-file", str(table_file)] if table_file else []
        self._selector = selector
        self._child: subprocess.Popen[bytes] | None = None
        self._output = bytearray()
        self._done: dict[str, Any] | None = None
        self._deadline = 0.0
        self._taken = 0

    @property
    def running(self) -> bool:
        """Whether a child is at work, or its result was not taken yet."""
        return self._child is not None or self._done is not None

    @property
    def first(self) -> bool:
        """Whether the result that is being judged is the first one."""
        return self._taken == 1

    def begin(self) -> None:
        """Start the child."""
        self._output.clear()
        self._deadline = time.monotonic() + _CHILD_S
        try:
            self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                self._argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as e:
            self._done = {"ok": False, "error": f"the child did not start: {e.strerror}", "remedy": "free memory, then ask again"}
            return
        assert self._child.stdout is not None  # noqa: S101 - PIPE above
        os.set_blocking(self._child.stdout.fileno(), False)
        self._selector.register(self._child.stdout, selectors.EVENT_READ, self._read)

    def result(self) -> dict[str, Any] | None:
        """The result, once; None while there is none."""
        if self._child is not None and time.monotonic() > self._deadline:
            self._child.kill()
        done, self._done = self._done, None
        self._taken += done is not None
        return done

    def wait(self, timeout_s: float) -> dict[str, Any]:
        """Run one survey to its end, for the start, when there is no loop yet."""
        self.begin()
        self._deadline = min(self._deadline, time.monotonic() + timeout_s)
        while True:
            for key, _ in self._selector.select(0.2):
                if key.data == self._read:
                    self._read()
            if (result := self.result()) is not None:
                return result

    def _read(self) -> None:
        child = self._child
        if child is None or child.stdout is None:
            return
        with contextlib.suppress(BlockingIOError):
            part = os.read(child.stdout.fileno(), 1 << 20)
            self._output += part
            if part and len(self._output) <= _OUTPUT_MAX:
                return
            self._finish(child)

    def _finish(self, child: subprocess.Popen[bytes]) -> None:
        self._selector.unregister(child.stdout)  # type: ignore[arg-type]
        if len(self._output) > _OUTPUT_MAX:
            child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=5.0)
        self._child = None
        try:
            self._done = {"ok": True, **json.loads(bytes(self._output))}
        except ValueError:
            remedy = "as root: nft list ruleset"
            self._done = {"ok": False, "error": f"nft did not answer (exit {child.returncode})", "remedy": remedy}
        self._output.clear()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            if self._child.stdout is not None:
                self._child.stdout.close()
