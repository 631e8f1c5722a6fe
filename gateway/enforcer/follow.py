"""After a policy change the ward's network follows: routes and neighbour entries of the devices, and what the servers read.

Starts ``gateway.network`` as a child, because that reads the configuration and this process imports the standard library only.
A network that cannot follow undoes no policy: it is told, and the record holds it. It knows nothing of routes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gateway.enforcer.bounds import NETWORK_S


def follow(config: Path | None, document: bytes) -> list[str]:
    """Bring the network to ``document`` (canonical bytes); returns what went wrong, a line each. ``None``: nothing to do."""
    if config is None:
        return []
    argv = [sys.executable, "-I", "-m", "gateway.network", "apply", "--config", str(config), "--policy", "-"]
    try:
        done = subprocess.run(argv, input=document, capture_output=True, timeout=NETWORK_S, check=False)  # noqa: S603 - our own module
    except (OSError, subprocess.TimeoutExpired) as e:
        return [f"wardgate-network did not run: {e}"[:300]]
    if not done.returncode:
        return []
    said = done.stderr.decode(errors="replace").strip().splitlines()[-20:]
    return [line.removeprefix("wardgate-network: ")[:300] for line in said] or [f"wardgate-network ended with {done.returncode}"]
