"""The hospital's broker on the bench: Mosquitto with TLS and client certificates, started and ended by hand.

``Broker`` writes its configuration, has its certificate made by the bench's CA and runs it, in a namespace if asked. It is
not a service of the machine. Knows nothing of what passes through it.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from hil.ca import issued
from hil.process import BenchError, Process, start

PORT = 8883
# Who may do what: a gateway writes below its own name and hears acknowledgements; the receiver the other way round.
ACL = """\
user receiver
topic read {prefix}/#
topic write {prefix}/+/acknowledged

pattern write {prefix}/%u/#
pattern read {prefix}/%u/acknowledged
"""


def issue(ca: Path, directory: Path, name: str, *, names: tuple[str, ...] = (), days: int = 365, stem: str = "") -> None:
    """``NAME.key`` and ``NAME.pem`` (or ``STEM``) in ``directory``, by the CA whose ``ca.key`` and ``ca.pem`` are in ``ca``.

    With ``names`` (host names and addresses) a server's certificate, without a client's, whose common name is ``name``.
    """
    stem = stem or name
    signer = load_pem_private_key((ca / "ca.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    anchor = x509.load_pem_x509_certificate((ca / "ca.pem").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    use = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = issued(anchor, key.public_key(), name, use, days)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), False)
    certificate = builder.sign(signer, hashes.SHA256())
    directory.mkdir(parents=True, exist_ok=True)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(directory / f"{stem}.key", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as f:
        f.write(secret)
    (directory / f"{stem}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class Broker:
    """One Mosquitto below ``directory``. ``start`` and ``stop`` any number of times; what it had stored it finds again."""

    def __init__(
        self, directory: Path, ca: Path, *, host: str = "127.0.0.1", port: int = PORT, prefix: str = "wardgate",
        netns: str | None = None, acl: str = ACL, extra: str = "",
    ) -> None:  # fmt: skip
        self.directory, self.host, self.port, self.netns = directory, host, port, netns
        self.process: Process | None = None
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        if program is None:
            raise BenchError("mosquitto is not installed; run image/install --dev")
        self._program = program
        directory.mkdir(parents=True, exist_ok=True)
        issue(ca, directory, "broker", names=(host, "broker.hospital.example"))
        shutil.copy(ca / "ca.pem", directory / "ca.pem")
        (directory / "acl").write_text(acl.format(prefix=prefix))
        (directory / "acl").chmod(0o600)
        (directory / "mosquitto.conf").write_text(self._configuration(extra))

    def _configuration(self, extra: str) -> str:
        d = self.directory
        return (
            f"user root\nper_listener_settings false\nlistener {self.port} {self.host}\n"
            f"cafile {d}/ca.pem\ncertfile {d}/broker.pem\nkeyfile {d}/broker.key\ntls_version tlsv1.2\n"
            f"require_certificate true\nuse_identity_as_username true\nallow_anonymous false\nacl_file {d}/acl\n"
            f"persistence true\npersistence_location {d}/\nautosave_interval 1\nmax_queued_messages 100000\nset_tcp_nodelay true\n"
            f"log_dest stderr\n{extra}"
        )

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        argv = [self._program, "-c", str(self.directory / "mosquitto.conf")]
        self.process = start("broker", argv, log_dir=self.directory, netns=self.netns, ready=None)
        deadline = time.monotonic() + 10
        while not self._listens():
            if not self.process.running or time.monotonic() > deadline:
                raise BenchError(f"the broker does not listen:\n{self.process.tail()}")
            time.sleep(0.02)

    def _listens(self) -> bool:
        if self.netns:
            command = ["ip", "netns", "exec", self.netns, "ss", "-Hltn", f"sport = :{self.port}"]
            return bool(subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip())
        with socket.socket() as s:
            s.settimeout(1)
            return s.connect_ex((self.host, self.port)) == 0

    def stop(self) -> None:
        """End it; what it stored stays."""
        if self.process:
            self.process.stop()
            self.process = None
