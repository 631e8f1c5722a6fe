"""The confirmed policy: what root keeps on disk, and the acts that change it. Each act is audited, whoever asks.

``confirmed.json`` is what the kernel holds and what the enforcer takes its caps from; ``previous.json`` is the way back.
Order of an act: check, load into the kernel, write the files, append the audit line. A change that was only applied waits
beside them (``pending``) and is undone by itself. It checks no credential (``confirm`` does) and speaks no protocol.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.enforcer.bounds import LOCK_S
from gateway.enforcer.document import EMPTY, Document, DocumentError, canonical, check_document, parse_document
from gateway.enforcer.files import append_durably, write_atomically
from gateway.enforcer.follow import follow
from gateway.enforcer.load import LoadError, apply_document, load_static, open_glass
from gateway.enforcer.pending import DEFAULT_MINUTES, MINUTES, Pending, PendingFile
from gateway.enforcer.vital import vital_cut

GLASS_MAX_MINUTES = 240  # one shift's repair; a longer need is a policy change
_REASON_MAX = 500


class ConfirmedPolicy:
    """One policy directory (root-owned, world-readable where the enforcer must read) and the static text beside it.

    ``network``: the configuration whose ward follows a policy that moves addresses; None: nothing follows.
    """

    def __init__(self, directory: Path, table_file: Path, network: Path | None = None) -> None:
        self.directory, self._table_file, self._network = directory, table_file, network
        self._confirmed, self._previous = directory / "confirmed.json", directory / "previous.json"
        self._waiting = PendingFile(directory)

    def current(self) -> Document:
        """The confirmed document; the empty one (nothing passes) before the first. Raises DocumentError when broken."""
        return self._read(self._confirmed) or check_document(EMPTY)

    def load(self, actor: str) -> dict[str, Any]:
        """The static text if it is not there, then exactly the confirmed elements. Idempotent.

        A change that nobody confirmed before the machine was started again, or in its time, is undone first.
        """
        with self._locked():
            static = load_static(self._table_file, self.directory / "static.json")
            self._undo_if_over("nobody confirmed it before the restart, or in its time")
            document = self.current()
            counts = apply_document(document)
            if static or any(counts.values()):
                self._audit(actor, "load", document=document.document_id, static=static, **counts)
            return {"document": document.document_id, "static_loaded": static, **counts}

    def confirm(self, actor: str, document: Document, act: str = "confirm") -> dict[str, Any]:
        """Load ``document`` and keep it. When the kernel refuses, the old one is loaded again and stays confirmed."""
        with self._locked():
            self._refuse_while_pending()
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

    def rollback(self, actor: str, cut_vital: Sequence[str] = ()) -> dict[str, Any]:
        """Undo what waits; else confirm the previous document (doing that twice undoes it). Raises LoadError.

        A vital flow that only the newer document has is cut only when ``cut_vital`` names it; undoing what waits was shown before.
        """
        with self._locked():
            waiting = self._waiting.read()
            if waiting is not None:
                return self._undo(waiting, actor, "rolled back by a person")
        document = self._read(self._previous)
        if document is None:
            raise LoadError("there is no previous policy", "confirm one instead")
        _refuse_cuts(vital_cut(self.current(), document), cut_vital)
        return self.confirm(actor, document, "rollback")

    def apply(
        self, actor: str, document: Document, minutes: object = DEFAULT_MINUTES, cut_vital: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Load ``document`` for some minutes. Unless ``keep`` is called meanwhile, it is undone: by ``expire``, or by ``load``.

        Raises LoadError when a change waits already, nothing would change, or a vital flow would be cut that is not named.
        """
        if not isinstance(minutes, int | float) or isinstance(minutes, bool) or not MINUTES[0] <= minutes <= MINUTES[1]:
            raise LoadError(f"a policy is tried for {MINUTES[0]:g} to {MINUTES[1]:g} minutes", "choose another time")
        with self._locked():
            self._refuse_while_pending()
            before = self.current()
            if before.document_id == document.document_id:
                raise LoadError("this is the confirmed policy already", "there is nothing to apply")
            lost = vital_cut(before, document)
            _refuse_cuts(lost, cut_vital)
            waiting = self._waiting.begin(document, before, actor, float(minutes), lost)
            try:
                counts = apply_document(document)
                write_atomically(self._confirmed, document.canonical, 0o644)
            except (LoadError, OSError) as e:
                self._undo(waiting, actor, f"it could not be loaded: {e}")
                raise
            self._audit(
                actor, "apply", document=document.document_id, previous=before.document_id, minutes=minutes, cut=lost, **counts
            )
            answer = {"document": document.document_id, "previous": before.document_id, **counts}
            return {**answer, **self._follow(actor, before, document), "pending": waiting.shown()}

    def keep(self, actor: str) -> dict[str, Any]:
        """Confirm what waits: from now on it is the policy. Raises LoadError when nothing waits, or its time is over."""
        with self._locked():
            self._undo_if_over("nobody confirmed it in its time")
            waiting = self._waiting.read()
            before = self._waiting.before()
            if waiting is None or before is None:
                raise LoadError(
                    "no policy waits for a confirmation", "apply one first; one that was not confirmed in time is undone"
                )
            write_atomically(self._previous, before.canonical, 0o644)
            self._waiting.end()
            self._audit(actor, "keep", document=waiting.document, previous=waiting.before, applied_by=waiting.actor)
            return {"document": waiting.document, "previous": waiting.before}

    def pending(self) -> Pending | None:
        """What waits for a confirmation."""
        return self._waiting.read()

    def status(self) -> dict[str, Any]:
        """What is active, what waits, and whether there is a way back."""
        waiting = self._waiting.read()
        shown = waiting.shown() if waiting else None
        return {"document": self.current().document_id, "pending": shown, "previous": self._previous.exists()}

    def expire(self) -> bool:
        """Undo what waited too long, or was interrupted half-way; True when that was done. Raises LoadError: try again soon."""
        with self._locked():
            return self._undo_if_over("nobody confirmed it in its time")

    def abandon(self, why: str) -> None:
        """Undo what waits because nobody will be there to undo it later."""
        with self._locked():
            if (waiting := self._waiting.read()) is not None:
                self._undo(waiting, "timer", why)

    def _undo_if_over(self, why: str) -> bool:
        waiting = self._waiting.read()
        active = self._readable()
        if waiting is None or (waiting.left_s() > 0 and active is not None and active.document_id == waiting.document):
            return False
        if self._waiting.before() is None:
            # What it replaced is lost. What is active was an operator's act: keeping it cuts nobody, and is told.
            self._audit(
                "timer", "undo failed", document=waiting.document, why="the document before it is lost; what is active stays"
            )
            self._waiting.end()
            return False
        self._undo(waiting, "timer", why)
        return True

    def _undo(self, waiting: Pending, actor: str, why: str) -> dict[str, Any]:
        before = self._waiting.before()
        if before is None:
            raise LoadError("the policy before this one is lost", "confirm the one that is active, or another one")
        active = self._readable() or before
        counts = apply_document(before)
        write_atomically(self._confirmed, before.canonical, 0o644)
        self._audit(actor, "undo", document=before.document_id, undone=waiting.document, why=why[:_REASON_MAX], **counts)
        self._waiting.end()
        return {"document": before.document_id, "undone": waiting.document, **counts, **self._follow(actor, active, before)}

    def _refuse_while_pending(self) -> None:
        self._undo_if_over("nobody confirmed it in its time")
        if (waiting := self._waiting.read()) is not None:
            raise LoadError(
                f"a policy that {waiting.actor} applied waits for its confirmation ({waiting.left_s():.0f} s left)",
                "first: wardgate policy confirm, or wardgate policy rollback",
            )

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

    def _readable(self) -> Document | None:
        """What is active; None when its file is broken."""
        try:
            return self.current()
        except DocumentError:
            return None

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
            deadline = time.monotonic() + LOCK_S
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


def _refuse_cuts(lost: Sequence[str], named: Sequence[str]) -> None:
    """Raise LoadError unless each vital function that would be cut is named."""
    if missing := [name for name in lost if name not in named]:
        raise LoadError(
            f"this would cut what a patient may depend on: {', '.join(missing[:20])}",
            "keep those vital flows in the policy; or, when that is meant: --cut-vital NAME for each of them",
        )


def _places(document: Document) -> tuple[frozenset[Any], ...]:
    """What the network depends on: who is where, and whom devices look for by IPv6."""
    flows = ("vital6", *(f"rtl{level}_6" for level in range(4)))
    ends = frozenset(end for name in flows for element in document.sets[name] for end in element[:2])
    return document.sets["port4"], document.sets["port6"], ends


def audit_lines(directory: Path) -> list[dict[str, Any]]:
    """The audit lines of a policy directory, oldest first."""
    path = directory / "audit.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
