"""What a gateway must remember of its TPM: authorisations, which AK is its own, and the AK's certificate.

One JSON file, readable by the daemon alone (mode 0600), replaced atomically and synced: it is written *before* an
authorisation is set in the TPM, so that a power cut can never leave a TPM whose authorisation nobody knows. The
lockout authorisation is not in it: it lives in a file of its own, which the operator moves into escrow and the daemon never reads.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from gateway.errors import InputError, UnavailableError

STATE_FILE = "tpm.json"
LOCKOUT_FILE = "tpm-lockout-authorisation"
_MAX_STATE = 256 * 1024  # bytes; a chain of three certificates is a few thousand


def _new_authorisation() -> str:
    return secrets.token_hex(32)  # as long as a SHA-256 name allows; guessing is hopeless, so no lockout is needed


@dataclass(frozen=True, slots=True)
class State:
    """The remembered facts; bytes as hex. ``ak_public`` is a TPMT_PUBLIC, empty until the AK was made."""

    gateway_id: str
    owner: str = field(default_factory=_new_authorisation, repr=False)
    ak: str = field(default_factory=_new_authorisation, repr=False)
    counter: str = field(default_factory=_new_authorisation, repr=False)
    lockout_set: bool = False
    ek_handle: int = 0
    ek_certificate: str = ""
    ak_public: str = ""
    ak_chain: tuple[str, ...] = ()
    made: tuple[int, ...] = ()  # persistent handles that were empty before this gateway; what it made it may take away


def load(state_dir: Path) -> State:
    """Read the state. Raises InputError when there is none or it does not hold together, UnavailableError when unreadable."""
    path = state_dir / STATE_FILE
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"this gateway has no TPM state at {path}", "run `wardgate init`") from None
    except OSError as e:
        raise UnavailableError(f"cannot read {path}: {e.strerror}", "run as the daemon's user or as root") from None
    return parse(raw, str(path))


def parse(raw: bytes, where: str = STATE_FILE) -> State:
    """The state in a file's bytes. Raises InputError when they do not hold together."""
    try:
        return _state(json.loads(raw[:_MAX_STATE]))
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise InputError(
            f"{where} is damaged ({e})", "restore it from a backup, or clear the TPM and run `wardgate init`"
        ) from None


def _state(document: dict[str, Any]) -> State:
    if document.pop("version") != 1:
        raise ValueError("unknown version")
    for f in fields(State):
        if f.type in ("str", "int", "bool") and type(document[f.name]).__name__ != f.type:
            raise ValueError(f"{f.name} is not of type {f.type}")
    state = State(**{**document, "ak_chain": tuple(document["ak_chain"]), "made": tuple(map(int, document.get("made", ())))})
    for text in (state.owner, state.ak, state.counter, state.ek_certificate, state.ak_public, *state.ak_chain):
        bytes.fromhex(text)
    return state


def save(state_dir: Path, state: State, owner: tuple[int, int] | None = None) -> None:
    """Replace the state file and sync it; ``owner`` (uid, gid) if the daemon is another user than the caller."""
    _write(state_dir / STATE_FILE, json.dumps({"version": 1, **asdict(state)}, indent=1).encode() + b"\n", owner)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file that its owner alone may read, and sync it; root leaves it to whom it, or its folder, belonged."""
    _write(path, content, None)


def lockout_authorisation(path: Path) -> bytes:
    """The lockout authorisation in ``path``, made and written there first if the file does not exist."""
    if not path.exists():
        _write(path, _new_authorisation().encode() + b"\n", None)
    try:
        return bytes.fromhex(path.read_text().strip())
    except ValueError:
        raise InputError(f"{path} is damaged", "put the escrowed copy back, or remove it and clear the TPM") from None


def _write(path: Path, content: bytes, owner: tuple[int, int] | None) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        if owner is None and os.geteuid() == 0:
            before = (path if path.exists() else path.parent).stat()
            owner = (before.st_uid, before.st_gid)
        part.unlink(missing_ok=True)
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as f:
            if owner is not None:
                os.fchown(fd, *owner)
            f.write(content)
            f.flush()
            os.fsync(fd)
        part.rename(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as e:
        raise UnavailableError(f"cannot write {path}: {e.strerror}", "check the disk and the folder's owner") from None
