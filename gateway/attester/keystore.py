"""Keys that this gateway shares with its devices, in one encrypted file whose own key only this TPM gives back.

A copied disk or backup opens nothing; root on the running gateway, and a thief of the whole machine, can. Device keys
themselves never come here: each gateway holds what was derived for it alone. Refuses to know what a key is used for.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway import codec
from gateway.attester import keys
from gateway.attester.state import write_private
from gateway.attester.tpm import Tpm
from gateway.errors import InputError, MalformedError, UnavailableError

FILE = "shared-keys.json"
_MAX_FILE = 4 * 1024 * 1024  # bytes; a device takes some two hundred
_LABEL = b"wardgate-shared-keys-v1\0"
_REMEDY = "restore it from a backup of this gateway, or add the devices that share a key with it again"
Shared = dict[str, dict[str, bytes]]


class KeyStore:
    """Keys by device and use. Closed until ``open``; while the TPM is gone it stays closed and holds nothing."""

    def __init__(self, tpm: Tpm, state_dir: Path, gateway_id: str) -> None:
        self._tpm, self._path = tpm, state_dir / FILE
        self._label = _LABEL + gateway_id.encode()
        self._lock = asyncio.Lock()
        self._box: tuple[keys.Sealed, AESGCM] | None = None
        self._shared: Shared | None = None

    @property
    def is_open(self) -> bool:
        """Whether the keys are in memory."""
        return self._shared is not None

    @property
    def devices(self) -> int:
        """How many devices have keys here."""
        return len(self._shared or {})

    def of(self, device_id: str) -> Mapping[str, bytes]:
        """A device's keys by use; none while closed."""
        return dict((self._shared or {}).get(device_id, {}))

    async def open(self) -> None:
        """Read the file and unseal its key. Raises UnavailableError (no TPM, no disk) or InputError (damaged, another TPM's)."""
        async with self._lock:
            if self._shared is None:
                await self._open()

    async def keep(self, device_id: str, shared: Mapping[str, bytes]) -> None:
        """Replace a device's keys; none forgets it. Durable when it returns. Raises as ``open``."""
        async with self._lock:
            if self._shared is None:
                await self._open()
            changed = {k: v for k, v in (self._shared or {}).items() if k != device_id}
            if shared:
                changed[device_id] = dict(shared)
            if changed != self._shared:
                await self._save(changed)
                self._shared = changed

    async def _open(self) -> None:
        content = await asyncio.to_thread(self._read)
        if content is None:
            self._shared = {}
            return
        sealed, nonce, box = _parse(content, self._path)
        cipher = AESGCM(await self._tpm.call(lambda c: keys.unseal(c, sealed)))
        try:
            plain = cipher.decrypt(nonce, box, self._label)
            self._shared = _shared(codec.decode(plain, _MAX_FILE))
        except (InvalidTag, MalformedError, ValueError, AttributeError):
            raise InputError(f"{self._path} is damaged, or another gateway's", _REMEDY) from None
        self._box = (sealed, cipher)

    def _read(self) -> bytes | None:
        try:
            with self._path.open("rb") as f:
                return f.read(_MAX_FILE)
        except FileNotFoundError:
            return None
        except OSError as e:
            raise UnavailableError(f"cannot read {self._path}: {e.strerror}", "run as the daemon's user or as root") from None

    async def _save(self, shared: Shared) -> None:
        if self._box is None:
            secret = secrets.token_bytes(32)
            self._box = (await self._tpm.call(lambda c: keys.seal(c, secret)), AESGCM(secret))
        sealed, cipher = self._box
        nonce = secrets.token_bytes(12)  # random: a file written a billion times would still be far from a repeat
        document = {
            "version": 1,
            "srk": sealed.srk_name.hex(),
            "private": sealed.private.hex(),
            "public": sealed.public.hex(),
            "nonce": nonce.hex(),
            "box": cipher.encrypt(nonce, codec.encode(shared), self._label).hex(),
        }
        await asyncio.to_thread(write_private, self._path, json.dumps(document).encode() + b"\n")


def _parse(content: bytes, path: Path) -> tuple[keys.Sealed, bytes, bytes]:
    try:
        d = json.loads(content)
        sealed = keys.Sealed(*(bytes.fromhex(d[k]) for k in ("srk", "private", "public")))
        nonce, box = bytes.fromhex(d["nonce"]), bytes.fromhex(d["box"])
    except (ValueError, TypeError, KeyError) as e:
        raise InputError(f"{path} is damaged ({type(e).__name__})", _REMEDY) from None
    if len(nonce) != 12 or d.get("version") != 1:
        raise InputError(f"{path} is damaged", _REMEDY)
    return sealed, nonce, box


def _shared(value: Any) -> Shared:
    for device_id, uses in value.items():
        if type(device_id) is not str or not all(type(u) is str and type(k) is bytes for u, k in uses.items()):
            raise ValueError("no keys by device and use")
    return {d: dict(uses) for d, uses in value.items()}
