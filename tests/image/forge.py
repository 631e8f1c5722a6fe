"""Offline files made by hand, well or badly: what image/pack would never make, signed as if it had."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def this_machine() -> tuple[str, str]:
    """Debian release and architecture, as the installer compares them."""
    release = subprocess.run(["sh", "-c", ". /etc/os-release; echo $VERSION_CODENAME"], capture_output=True, text=True, check=True)
    machine = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
    return release.stdout.strip(), machine.stdout.strip()


def public_pem(key: Ed25519PrivateKey, file: Path) -> Path:
    file.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return file


def raw_public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


@dataclass
class Forgery:
    """A file in the making. ``listed`` and ``members`` agree unless a test makes them differ."""

    key: Ed25519PrivateKey
    says: dict[str, str] = field(default_factory=dict)
    members: list[tuple[tarfile.TarInfo, bytes]] = field(default_factory=list)
    listed: list[tuple[str, bytes]] = field(default_factory=list)

    def add(self, name: str, content: bytes, *, listed: bool = True, kind: bytes = tarfile.REGTYPE, link: str = "") -> Forgery:
        info = tarfile.TarInfo(name)
        info.size, info.type, info.linkname, info.mode = (len(content) if kind == tarfile.REGTYPE else 0), kind, link, 0o644
        self.members.append((info, content))
        if listed:
            self.listed.append((name, content))
        return self

    def payload(self) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for info, content in self.members:
                tar.addfile(info, io.BytesIO(content))
        return out.getvalue()

    def manifest(self, payload: bytes) -> bytes:
        release, machine = this_machine()
        says = {
            "key": raw_public(self.key).hex(), "version": "8.0.0-00000000", "built": "1700000000", "debian": release,
            "architecture": machine, "python": "3.11", "payload": f"{len(payload)} {hashlib.sha256(payload).hexdigest()}",
            **self.says,
        }  # fmt: skip
        lines = [f"{k} {v}" for k, v in says.items()]
        lines += [f"file {hashlib.sha256(content).hexdigest()} {len(content)} {name}" for name, content in self.listed]
        return ("\n".join(lines) + "\n").encode()

    def bytes(self) -> bytes:
        payload = self.payload()
        manifest = self.manifest(payload)
        return f"wardgate-offline-1 {len(manifest)} {self.key.sign(manifest).hex()}\n".encode() + manifest + payload


def plain(key: Ed25519PrivateKey, marker: Path) -> Forgery:
    """A whole, well-signed file; its installer leaves a marker, so that its having run can be seen."""
    script = f"#!/bin/sh\necho \"$@\" >>'{marker}'\n".encode()
    return Forgery(key).add("debs/Packages", b"").add("tree/image/install", script).add("wheels/a.whl", bytes(range(256)) * 8)
