"""Wardgate: every device behind the gateway gets exactly as much network as its latest evidence earns."""

import sys
from pathlib import Path

INSTALLED = Path("/opt/wardgate")  # image/install: a folder for each version, `current` and `previous` name two of them
RELEASE = "0.1.0"  # as in pyproject.toml


def version_in(prefix: Path) -> str:
    """The version that runs from ``prefix`` (``sys.prefix``): the installer's whole name for it, with its digest, or the release.

    A link is followed now: what runs keeps its name when ``current`` changes under it.
    """
    folder = prefix.resolve()
    return folder.name if folder.parent == (INSTALLED / "versions").resolve() else RELEASE


__version__ = version_in(Path(sys.prefix))
