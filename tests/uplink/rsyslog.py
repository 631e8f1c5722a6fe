"""A real rsyslog that receives over TLS and writes what it understood as JSON lines."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

_FIELDS = ("pri", "timereported", "hostname", "app-name", "procid", "msgid", "structured-data", "msg", "protocol-version")


class Rsyslog:
    """``start`` and ``stop`` it; ``lines`` is what it has received. ``client_certificates``: whether it asks who sends."""

    def __init__(self, directory: Path, ca: Path, port: int, *, client_certificates: bool = True) -> None:
        self.directory, self.port = directory, port
        directory.mkdir(exist_ok=True)
        self._out, self._config = directory / "received.jsonl", directory / "rsyslog.conf"
        self._process: subprocess.Popen[bytes] | None = None
        mode = "x509/certvalid" if client_certificates else "anon"
        fields = "\n".join(f'  property(outname="{n}" name="{n}" format="jsonf"{_more(n)})\n  constant(value=",")' for n in _FIELDS)
        self._config.write_text(f"""
global(workDirectory="{directory}" maxMessageSize="8k" defaultNetstreamDriver="ossl"
  defaultNetstreamDriverCAFile="{ca / "ca.pem"}"
  defaultNetstreamDriverCertFile="{ca / "syslog.pem"}" defaultNetstreamDriverKeyFile="{ca / "syslog.key"}")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="{mode}")
template(name="told" type="list") {{
  constant(value="{{")
{fields}
  constant(value="\\"end\\":1}}\\n")
}}
ruleset(name="all") {{ action(type="omfile" file="{self._out}" template="told" asyncWriting="off" flushOnTXEnd="on") }}
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="all")
""")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Every message as rsyslog parsed it."""
        return [json.loads(x) for x in self._out.read_text().splitlines()] if self._out.exists() else []

    def start(self) -> None:
        """Run it until it listens."""
        log = (self.directory / "log").open("ab")
        pid = self.directory / "pid"
        pid.unlink(missing_ok=True)
        command = ["/usr/sbin/rsyslogd", "-n", "-f", str(self._config), "-i", str(pid)]
        self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while f":{self.port:04X}" not in Path("/proc/net/tcp").read_text():
            assert self._process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < deadline, "rsyslog does not listen"
            time.sleep(0.02)

    def stop(self, kill: bool = False) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill() if kill else self._process.terminate()
            self._process.wait(10)
            self._process = None


def _more(name: str) -> str:
    return ' dateFormat="rfc3339"' if name == "timereported" else ""
