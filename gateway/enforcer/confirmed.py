"""The confirmed policy: what root keeps on disk, and the acts that change it. Each act is audited, whoever asks.

``confirmed.json`` is what the kernel holds and what the enforcer takes its caps from; ``previous.json`` is the way back.
Order of an act: check, load into the kernel, write the files, append the audit line. It checks no credential (``confirm``
does) and speaks no protocol.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.enforcer.document import EMPTY, Document, canonical, check_document, parse_document
from gateway.enforcer.files import append_durably, write_atomically
from gateway.enforcer.follow import follow
from gateway.enforcer.load import LoadError, apply_document, load_static, open_glass

GLASS_MAX_MINUTES = 240  # one shift's repair; a longer need is a policy change
_REASON_MAX = 500
_LOCK_S = 30.0


class ConfirmedPolicy:
    """One policy directory (root-owned, world-readable where the enforcer must read) and the static text beside it.

    ``network``: the configuration whose ward follows a policy that moves addresses; None: nothing follows.
    """

    def __init__(self, directory: Path, table_file: Path, network: Path | None = None) -> None:
        self.directory, self._table_file, self._network = directory, table_file, network
        self._confirmed, self._previous = directory / "confirmed.json", directory / "previous.json"

    def current(self) -> Document:
        """The confirmed document; the empty one (nothing passes) before the first. Raises DocumentError when broken."""
        return self._read(self._confirmed) or check_document(EMPTY)

    def load(self, actor: str) -> dict[str, Any]:
        """The static text if it is not there, then exactly the confirmed elements. Idempotent."""
        with self._locked():
            static = load_static(self._table_file, self.directory / "static.json")
            document = self.current()
            counts = apply_document(document)
            if static or any(counts.values()):
                self._audit(actor, "load", document=document.document_id, static=static, **counts)
            return {"document": document.document_id, "static_loaded": static, **counts}

    def confirm(self, actor: str, document: Document, act: str = "confirm") -> dict[str, Any]:
        """Load ``document`` and keep it. When the kernel refuses, the old one is loaded again and stays confirmed."""
        with self._locked():
            before = self.current()
            try:
                counts = apply_document(document)
                if before.document_id != document.document_id:
                    write_atomically(self._previous, before.canonical, 0o644)
                    write_atomically(self._confirmed, document.canonical, 0o644)
            except (LoadError, OSError) as e:
                apply_document(before)
                self._audit(actor, f"{act} failed", document=document.document_id, why=str(e)[:_REASON_MAX])
                raise
            self._audit(actor, act, document=document.document_id, previous=before.document_id, **counts)
            answer = {"document": document.document_id, "previous": before.document_id, **counts}
            return {**answer, **self._follow(actor, before, document)}

    def _follow(self, actor: str, before: Document, document: Document) -> dict[str, Any]:
        """The network goes where the devices are. That it could not is told and recorded, and the policy stays."""
        if _places(before) == _places(document):
            return {}
        wrong = follow(self._network, document.canonical)
        if wrong:
            self._audit(actor, "network failed", document=document.document_id, why="; ".join(wrong)[:_REASON_MAX])
        return {"network": wrong} if wrong else {}

    def rollback(self, actor: str) -> dict[str, Any]:
        """Confirm the previous document; doing it twice undoes it."""
        document = self._read(self._previous)
        if document is None:
            raise LoadError("there is no previous policy", "confirm one instead")
        return self.confirm(actor, document, "rollback")

    def break_glass(self, actor: str, device: str, function: str, minutes: int, reason: str) -> dict[str, Any]:
        """Open one function's flows for some minutes, needing no level and no daemon. The kernel closes them by itself."""
        if type(minutes) is not int or not 1 <= minutes <= GLASS_MAX_MINUTES:
            raise LoadError(f"break-glass lasts 1 to {GLASS_MAX_MINUTES} minutes", "choose a shorter time; renew it if need be")
        if not 3 <= len(reason.strip()) <= _REASON_MAX:
            raise LoadError(f"a reason has 3 to {_REASON_MAX} characters", "say why, in a few words")
        with self._locked():
            named = self.current().functions.get(device, {})
            if function not in named:
                possible = ", ".join(sorted(named)) or "none"
                raise LoadError(f"{device} has no function {function} that can be opened", f"it has: {possible}")
            parts = named[function]
            names = {"glass4": "set4", "glass6": "set6", "bypass4": "via4", "bypass6": "via6"}
            self._audit(actor, "break-glass", device=device, function=function, minutes=minutes, reason=reason)
            opened = open_glass({name: parts[part] for name, part in names.items()}, minutes * 60)
            return {"device": device, "function": function, "minutes": minutes, "opened": opened}

    def _read(self, path: Path) -> Document | None:
        try:
            return parse_document(path.read_bytes())
        except FileNotFoundError:
            return None

    def _audit(self, actor: str, act: str, **facts: Any) -> None:
        line = {"at_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "actor": actor, "act": act, **facts}
        append_durably(self.directory / "audit.log", canonical(line), 0o600)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One act at a time. Raises LoadError when another one does not end."""
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + _LOCK_S
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise LoadError("another policy change is under way", "try again when it has ended") from None
                    time.sleep(0.05)
            yield
        finally:
            os.close(descriptor)


def _places(document: Document) -> tuple[frozenset[Any], ...]:
    """What the network depends on: who is where, and whom devices look for by IPv6."""
    flows = ("vital6", *(f"rtl{level}_6" for level in range(4)))
    ends = frozenset(end for name in flows for element in document.sets[name] for end in element[:2])
    return document.sets["port4"], document.sets["port6"], ends


def audit_lines(directory: Path) -> list[dict[str, Any]]:
    """The audit lines of a policy directory, oldest first."""
    path = directory / "audit.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
