"""The file that a backup is: encrypted under a passphrase, authenticated piece by piece, bounded, nothing in it compressed.

Layout, numbers big-endian. Header, 51 bytes: ``wardgate-backup\\n`` (16) · version 2 · KDF 1 (1: scrypt) · log2 N 1 · r 1 · p 1 ·
piece 4 · salt 16 · nonce prefix 7 · zero 2; then 16 bytes HMAC-SHA256(key 2, header), cut: it tells a wrong passphrase
from a damaged file. Then pieces of ``piece`` bytes, the last one shorter or equal, each AES-256-GCM(key 1) with 16 bytes of
tag, nonce = prefix ‖ number 4 ‖ (1 for the last, else 0), the header as associated data: pieces cannot be dropped, added,
swapped or cut off. key 1 ‖ key 2 = scrypt(passphrase in NFKC, salt), 32 bytes each. Refuses to know what is inside.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
import unicodedata
from collections.abc import Iterator
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import InputError

SHORTEST = 12  # characters of a passphrase: it may be tried offline for years, by whoever finds the file
LONGEST = 1024
MOST = 128 * 1024 * 1024  # bytes of content: 10,000 devices take a third of it
_MAGIC, _VERSION, _SCRYPT = b"wardgate-backup\n", 1, 1
_HEADER = struct.Struct(">16sHBBBBI16s7s2s")
_TAG, _CHECK = 16, 16
_LOG_N, _R, _P = 15, 8, 3  # 32 MiB and 0.3 s a try: as strong as N = 2^17 with p = 1, in a quarter of its memory
_PIECE = 64 * 1024
_UNCHANGED = "nothing was changed"


def seal(content: bytes, passphrase: str) -> Iterator[bytes]:
    """The file, in pieces. Raises InputError for a passphrase or a content that cannot be."""
    check_passphrase(passphrase)
    if len(content) > MOST:
        raise InputError(f"{len(content)} bytes are more than a backup holds ({MOST})", "retire devices that are gone")
    return _seal(content, passphrase)


def _seal(content: bytes, passphrase: str) -> Iterator[bytes]:
    salt, prefix = secrets.token_bytes(16), secrets.token_bytes(7)
    header = _HEADER.pack(_MAGIC, _VERSION, _SCRYPT, _LOG_N, _R, _P, _PIECE, salt, prefix, bytes(2))
    cipher, check = _keys(passphrase, salt, _LOG_N, _R, _P, header)
    yield header + check
    last = max(0, len(content) - 1) // _PIECE
    for number in range(last + 1):
        piece = content[number * _PIECE : (number + 1) * _PIECE]
        yield cipher.encrypt(_nonce(prefix, number, number == last), piece, header)


def open_sealed(file: BinaryIO, passphrase: str, name: str) -> bytes:
    """What is inside. Raises InputError: no such file, another version, a wrong passphrase, damage; then nothing is returned."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise InputError(f"{name} is no Wardgate backup", f"name the right file; {_UNCHANGED}")
    _, version, kdf, log_n, r, p, piece, salt, prefix, zero = _HEADER.unpack(header)
    if version != _VERSION or kdf != _SCRYPT:
        what = f"{name} has format {version}.{kdf}, and this wardgate knows {_VERSION}.{_SCRYPT}"
        raise InputError(what, f"install the version that made it; {_UNCHANGED}")
    if not 14 <= log_n <= 17 or r != 8 or not 1 <= p <= 8 or not 1024 <= piece <= 2**20 or zero != bytes(2):
        raise InputError(f"{name} is damaged in its header", f"use another copy; {_UNCHANGED}")
    cipher, check = _keys(passphrase, salt, log_n, r, p, header)
    if not hmac.compare_digest(file.read(_CHECK), check):
        raise InputError(f"the passphrase does not open {name}, or its first bytes were changed", f"try again; {_UNCHANGED}")
    return b"".join(_pieces(file, cipher, header, prefix, piece, name))


def _pieces(file: BinaryIO, cipher: AESGCM, header: bytes, prefix: bytes, size: int, name: str) -> Iterator[bytes]:
    number, ahead = 0, file.read(size + _TAG)
    while True:
        sealed, ahead = ahead, file.read(size + _TAG)
        try:
            yield cipher.decrypt(_nonce(prefix, number, not ahead), sealed, header)
        except (InvalidTag, ValueError):
            at = _HEADER.size + _CHECK + number * (size + _TAG)
            why = "is damaged" if ahead else "is damaged or cut short"
            raise InputError(f"{name} {why} after byte {at}", f"use another copy; {_UNCHANGED}") from None
        if not ahead:
            return
        number += 1
        if number * size > MOST:
            raise InputError(f"{name} is larger than a backup can be", f"name the right file; {_UNCHANGED}")


def check_passphrase(passphrase: str) -> None:
    """Raises InputError unless it can protect a file that others may get hold of."""
    if not SHORTEST <= len(passphrase) <= LONGEST or len(set(passphrase)) < 5:
        raise InputError(f"a passphrase has {SHORTEST} to {LONGEST} characters, not all alike", "take a sentence nobody else says")


def _keys(passphrase: str, salt: bytes, log_n: int, r: int, p: int, header: bytes) -> tuple[AESGCM, bytes]:
    secret = unicodedata.normalize("NFKC", passphrase[:LONGEST]).encode("utf-8", "replace")
    made = hashlib.scrypt(secret, salt=salt, n=1 << log_n, r=r, p=p, maxmem=(256 << log_n) * r, dklen=64)
    return AESGCM(made[:32]), hmac.digest(made[32:], header, "sha256")[:_CHECK]


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    return prefix + number.to_bytes(4) + bytes((last,))
