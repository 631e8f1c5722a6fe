"""A change of policy that waits for its confirmation: who made it, what it replaced, and until when. Kept on disk.

The end is in boot time with the boot's id, so that no clock that is set moves it and a restart ends it. The document that
comes back is written before the change is, and both before the kernel is touched. It changes no kernel and checks no person.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.enforcer.document import Document, DocumentError, canonical, parse_document
from gateway.enforcer.files import write_atomically

MINUTES = (0.05, 240.0)  # three seconds, to try it out; a shift's half, or nobody remembers what was tried
DEFAULT_MINUTES = 10.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot() -> tuple[str, int]:
    """This boot's id and the nanoseconds since it began, sleep included."""
    return _BOOT_ID.read_text(encoding="ascii").strip(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Pending:
    """What waits. ``document`` is active, ``before`` comes back unless somebody confirms; ids. ``until_ns`` in boot time."""

    document: str
    before: str
    actor: str
    minutes: float
    boot_id: str
    until_ns: int
    at_utc: str
    vital_cut: tuple[str, ...] = ()

    def left_s(self) -> float:
        """Seconds until it is rolled back; 0 when it is over, as it is after a restart of the machine."""
        boot_id, now = boot()
        return max(0.0, (self.until_ns - now) / 1e9) if boot_id == self.boot_id else 0.0

    def shown(self) -> dict[str, Any]:
        """For a person: without the boot's numbers, with the seconds left."""
        return {
            "document": self.document, "before": self.before, "actor": self.actor, "minutes": self.minutes,
            "at_utc": self.at_utc, "vital_cut": list(self.vital_cut), "left_s": round(self.left_s(), 1),
        }  # fmt: skip


BROKEN = Pending("", "", "somebody", 0.0, "", 0, "")  # a file that cannot be read: over, whoever made it


class PendingFile:
    """``pending.json`` and, beside it, ``before.json`` in one policy directory. Its removal is what confirms a change."""

    def __init__(self, directory: Path) -> None:
        self.path, self._before = directory / "pending.json", directory / "before.json"

    def read(self) -> Pending | None:
        """What waits; None when nothing does. A broken file waits for nothing but its end (``BROKEN``)."""
        try:
            value = json.loads(self.path.read_bytes())
            return Pending(**{**value, "vital_cut": tuple(value["vital_cut"])})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):
            return BROKEN

    def begin(self, document: Document, before: Document, actor: str, minutes: float, cut: list[str]) -> Pending:
        """Write down what comes back, then that something waits. Raises OSError; then nothing waits."""
        boot_id, now = boot()
        at_utc = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        until_ns = now + round(minutes * 60e9)
        made = Pending(document.document_id, before.document_id, actor, minutes, boot_id, until_ns, at_utc, tuple(cut))
        write_atomically(self._before, before.canonical, 0o644)
        write_atomically(self.path, canonical(asdict(made)), 0o644)
        return made

    def before(self) -> Document | None:
        """The document that comes back; None when it is lost or is not the one that was replaced."""
        try:
            found = parse_document(self._before.read_bytes())
        except (OSError, DocumentError):
            return None
        waiting = self.read()
        return found if waiting is not None and waiting.before in ("", found.document_id) else None

    def end(self) -> None:
        """Nothing waits any more: durable when this returns."""
        with suppress(FileNotFoundError):
            self.path.unlink()
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        with suppress(FileNotFoundError):
            self._before.unlink()
