"""The backup's file: what was changed, cut, glued or swapped in it does not open, and says so; sizes are bounded."""

from __future__ import annotations

import hashlib
import io
import struct

import pytest

from gateway import sealed_file
from gateway.errors import InputError
from gateway.sealed_file import MOST, open_sealed, seal

PASSPHRASE = "a passphrase that nobody says"
HEAD = 51 + 16
PIECE = 64 * 1024


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another KDF in scrypt's place: the file is opened thousands of times, and one test keeps the real one."""

    def quick(secret: bytes, *, salt: bytes, n: int, r: int, p: int, maxmem: int, dklen: int) -> bytes:
        return hashlib.sha512(repr((secret, salt, n, r, p, dklen)).encode()).digest()

    monkeypatch.setattr(sealed_file.hashlib, "scrypt", quick)


def sealed(content: bytes) -> bytes:
    return b"".join(seal(content, PASSPHRASE))


def opened(file: bytes, passphrase: str = PASSPHRASE) -> bytes:
    return open_sealed(io.BytesIO(file), passphrase, "b.backup")


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_what_was_sealed_opens(fast: None, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    file = sealed(content)
    assert opened(file) == content
    assert len(file) == HEAD + size + 16 * max(1, -(-size // PIECE))
    if size > 32:
        assert content[:32] not in file
    assert sealed(content) != file, "another salt, another key"


def test_each_changed_byte_is_noticed(fast: None) -> None:
    file = sealed(b"configuration" * 20)
    for at in range(len(file)):
        broken = bytearray(file)
        broken[at] ^= 1
        with pytest.raises(InputError) as told:
            opened(bytes(broken))
        assert "nothing was changed" in str(told.value) or "damaged" in str(told.value)


def test_each_cut_and_each_added_byte_is_noticed(fast: None) -> None:
    file = sealed(b"x" * (PIECE * 2 + 5))
    cuts = [*range(0, HEAD + 40), HEAD + PIECE, HEAD + PIECE + 16, HEAD + 2 * (PIECE + 16), len(file) - 1]
    for end in cuts:
        with pytest.raises(InputError):
            opened(file[:end])
    for more in (b"\0", b"x" * 40, file[HEAD:]):
        with pytest.raises(InputError, match="damaged"):
            opened(file + more)


def test_pieces_cannot_be_swapped_or_come_from_another_file(fast: None) -> None:
    a, b = sealed(b"a" * PIECE * 3), sealed(b"b" * PIECE * 3)
    first, second = slice(HEAD, HEAD + PIECE + 16), slice(HEAD + PIECE + 16, HEAD + 2 * (PIECE + 16))
    swapped = a[:HEAD] + a[second] + a[first] + a[second.stop :]
    mixed = a[:HEAD] + b[first] + a[first.stop :]
    dropped = a[:HEAD] + a[second] + a[second.stop :]
    for broken in (swapped, mixed, dropped):
        with pytest.raises(InputError, match="is damaged after byte 67"):
            opened(broken)


def test_wrong_passphrases_are_told_from_damage_and_keyboards_do_not_matter() -> None:
    file = b"".join(seal(b"x", "pass\u0065\u0301 phrase of mine"))
    assert opened(file, "pass\u00e9 phrase of mine") == b"x", "composed or not, it is the same letter"
    with pytest.raises(InputError, match="the passphrase does not open"):
        opened(file, PASSPHRASE)


@pytest.mark.parametrize("passphrase", ["", "short", "aaaaaaaaaaaaaaaa", "abababababab", "x" * 2000])
def test_a_passphrase_that_protects_nothing_is_refused(passphrase: str) -> None:
    with pytest.raises(InputError, match="passphrase has 12"):
        list(seal(b"x", passphrase))


@pytest.mark.parametrize(
    ("at", "value", "told"),
    [(16, b"\0\2", "has format 2.1"), (18, b"\7", "format 1.7"), (19, b"\x1e", "in its header"), (19, b"\0", "in its header"),
     (20, b"\xff", "in its header"), (21, b"\xff", "in its header"), (22, b"\xff\xff\xff\xff", "in its header"),
     (22, b"\0\0\0\0", "in its header"), (49, b"\1", "in its header")],
)  # fmt: skip
def test_a_header_cannot_ask_for_memory_time_or_a_version_unknown(fast: None, at: int, value: bytes, told: str) -> None:
    file = bytearray(sealed(b"x"))
    file[at : at + len(value)] = value
    with pytest.raises(InputError, match=told):
        opened(bytes(file))


def test_sizes_are_bounded_both_ways(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="more than a backup holds"):
        seal(bytes(MOST + 1), PASSPHRASE)
    file = sealed(bytes(PIECE * 6))
    monkeypatch.setattr(sealed_file, "MOST", PIECE * 4)
    with pytest.raises(InputError, match="larger than a backup can be"):
        opened(file)


def test_other_files_are_not_taken_for_one() -> None:
    for other in (b"", b"PK\3\4" + bytes(100), b"wardgate-backup", struct.pack("100B", *range(100))):
        with pytest.raises(InputError, match="is no Wardgate backup"):
            opened(other)
