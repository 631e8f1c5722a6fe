"""The bench's TPM: a swtpm made with an EK certificate, powered on with its firmware's measurements, cut off and on again.

``python -m hil.tpm play --port P --log FILE`` is the firmware: it extends the PCRs by the log's events over swtpm's own
command socket. Knows nothing of the gateway and uses no TSS. swtpm has no resource manager and three slots for keys:
programs may take turns by the command, but not each leave keys loaded.
"""

from __future__ import annotations

import argparse
import random
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from hil import firmware
from hil.process import BenchError, Process, start

_PCR_EXTEND = 0x00000182
_SESSIONS = 0x8002
_PASSWORD = 0x40000009


class Swtpm:
    """One machine's TPM. Its state outlives ``kill``; ``power_on`` plays the firmware's log, as each start of a machine does.

    ``directory`` holds ``state/`` (the chip), ``ca/`` (its maker's CA) and ``eventlog`` (what the firmware measured last).
    """

    def __init__(self, directory: Path, port: int, *, log_dir: Path, netns: str | None = None) -> None:
        self.directory, self.port, self.log_dir, self.netns = directory, port, log_dir, netns
        self.process: Process | None = None

    @property
    def tcti(self) -> str:
        """How tpm2-tss reaches it, from inside its namespace."""
        return f"swtpm:host=127.0.0.1,port={self.port}"

    @property
    def eventlog(self) -> Path:
        """The firmware's event log of the last power-on."""
        return self.directory / "eventlog"

    @property
    def maker_root(self) -> Path:
        """The root certificate of the chip's maker; ``maker_issuer`` stands between it and the EK certificate."""
        return self.directory / "ca" / "swtpm-localca-rootca-cert.pem"

    @property
    def maker_issuer(self) -> Path:
        """The certificate that issued the EK certificate."""
        return self.directory / "ca" / "issuercert.pem"

    def manufacture(self) -> None:
        """Make the chip: EKs (RSA 2048, P-384) with certificates, SHA-256 PCR bank. Does nothing when it exists."""
        state, ca = self.directory / "state", self.directory / "ca"
        if (state / "tpm2-00.permall").exists():
            return
        state.mkdir(parents=True, exist_ok=True)
        ca.mkdir(parents=True, exist_ok=True)
        localca, options, setup = (self.directory / n for n in ("localca.conf", "localca.options", "setup.conf"))
        localca.write_text(
            f"statedir={ca}\nsigningkey={ca}/signkey.pem\nissuercert={ca}/issuercert.pem\ncertserial={ca}/certserial\n"
        )
        options.write_text("--platform-manufacturer Wardgate\n--platform-version 1.0\n--platform-model bench\n")
        setup.write_text(
            f"create_certs_tool=/usr/bin/swtpm_localca\ncreate_certs_tool_config={localca}\n"
            f"create_certs_tool_options={options}\nactive_pcr_banks=sha256\n"
        )
        command = ["swtpm_setup", "--tpm2", "--tpmstate", str(state), "--createek", "--ecc", "--create-ek-cert"]
        command += ["--lock-nvram", "--overwrite", "--config", str(setup)]
        made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if made.returncode:
            raise BenchError(f"swtpm_setup failed:\n{made.stdout}{made.stderr}")

    def power_on(self, log: firmware.Log | None = None) -> None:
        """Start the chip and let the firmware measure. Returns when both are done."""
        if self.process and self.process.running:
            raise BenchError("the TPM is on")
        if log is not None or not self.eventlog.exists():
            self.eventlog.write_bytes((log or firmware.boot()).raw)
        # The TCTI finds the control channel one port above the command channel.
        where = [f"type=tcp,port={p},bindaddr=127.0.0.1" for p in (self.port, self.port + 1)]
        argv = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.directory}/state", "--server", where[0], "--ctrl", where[1]]
        argv += ["--flags", "not-need-init,startup-clear"]
        name = f"swtpm-{self.port}"
        self.process = start(name, argv, log_dir=self.log_dir, netns=self.netns, ready=None)
        self._await_listening()
        if self.netns is None:
            replay_eventlog(self.port, self.eventlog.read_bytes())
            return
        play = [sys.executable, "-m", "hil.tpm", "play", "--port", str(self.port), "--log", str(self.eventlog)]
        env = {"PYTHONPATH": str(Path(__file__).parent.parent)}
        start(f"{name}-firmware", play, log_dir=self.log_dir, netns=self.netns, env=env).popen.wait(10)

    def kill(self) -> None:
        """Power cut: no orderly shutdown."""
        if self.process:
            self.process.signal(signal.SIGKILL)
            self.process.popen.wait(5)

    def stop(self) -> None:
        """End it."""
        if self.process:
            self.process.stop()

    def restart(self, log: firmware.Log | None = None) -> None:
        """Power cut, then power on with the same state."""
        self.kill()
        self.power_on(log)

    def _await_listening(self, timeout_s: float = 10.0) -> None:
        """Wait until both ports listen, looked up where the process is (its own namespace), without connecting to them."""
        assert self.process
        table, deadline = Path(f"/proc/{self.process.pid}/net/tcp"), time.monotonic() + timeout_s
        wanted = {f"0100007F:{p:04X}" for p in (self.port, self.port + 1)}
        while time.monotonic() < deadline and self.process.running:
            try:
                rows = [line.split() for line in table.read_text().splitlines()[1:]]
            except OSError:  # it has just ended
                break
            if wanted <= {row[1] for row in rows if row[3] == "0A"}:
                return
            time.sleep(0.01)
        raise BenchError(f"swtpm did not start:\n{self.process.tail()}")


def free_ports() -> int:
    """A port of this namespace that is free together with the one above it, outside the range from which the kernel picks."""
    for _ in range(100):
        port = random.randrange(20_000, 30_000, 2)
        with socket.socket() as a, socket.socket() as b:
            try:
                a.bind(("127.0.0.1", port))
                b.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise BenchError("no free pair of ports")


def events(raw: bytes) -> list[tuple[int, bytes]]:
    """The (PCR, SHA-256 digest) extends of a crypto-agile log that ``hil.firmware`` wrote."""
    (size,) = struct.unpack_from("<I", raw, 28)
    at, found = 32 + size, []
    while at < len(raw):
        pcr, kind, count, algorithm, digest, length = struct.unpack_from("<IIIH32sI", raw, at)
        if (count, algorithm) != (1, firmware.SHA256):
            raise ValueError("the bench's firmware measures in SHA-256 only")
        at += 50 + length
        if kind != firmware.EV_NO_ACTION:
            found.append((pcr, digest))
    return found


def replay_eventlog(port: int, raw: bytes) -> None:
    """Extend the PCRs of the TPM on this port as the firmware that wrote ``raw`` did."""
    with socket.create_connection(("127.0.0.1", port), 5.0) as s:
        for pcr, digest in events(raw):
            # TPM2_PCR_Extend (Part 3, 22.2): handle, one empty password session, TPML_DIGEST_VALUES
            body = (
                struct.pack(">II", pcr, 9)
                + struct.pack(">IHBH", _PASSWORD, 0, 0, 0)
                + struct.pack(">IH", 1, firmware.SHA256)
                + digest
            )
            s.sendall(struct.pack(">HII", _SESSIONS, 10 + len(body), _PCR_EXTEND) + body)
            header = _exactly(s, 10)
            _, size, code = struct.unpack(">HII", header)
            _exactly(s, size - 10)
            if code:
                raise BenchError(f"the TPM refused to extend PCR {pcr}: {code:#x}")


def _exactly(s: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        if not (part := s.recv(count - len(received))):
            raise BenchError("the TPM hung up")
        received += part
    return received


def main() -> None:
    """The firmware's command."""
    parser = argparse.ArgumentParser(prog="hil.tpm")
    play = parser.add_subparsers(required=True).add_parser("play", help="extend the PCRs by an event log")
    play.add_argument("--port", type=int, required=True)
    play.add_argument("--log", type=Path, required=True)
    arguments = parser.parse_args()
    replay_eventlog(arguments.port, arguments.log.read_bytes())
    print("ready", flush=True)


if __name__ == "__main__":
    main()
