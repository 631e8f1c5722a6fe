"""One owner of a state directory at a time: the daemon while it runs, or a restore. A lock of the kernel's, gone with its process.

The lock is on the directory itself, so no file of the wrong owner is left behind. Refuses to know what is in the directory.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.errors import UnavailableError

UNFINISHED = "restore-unfinished"  # there while a restore is under way; a daemon does not run on half a state


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Hold a state directory. Raises UnavailableError when another process does, or it cannot be opened."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise UnavailableError(f"{directory} cannot be used ({e.strerror})", "run `wardgate init`, or check its owner") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError(f"a wardgate is running on {directory}", "systemctl stop wardgate, then try again") from None
        yield
    finally:
        os.close(descriptor)


def refuse_half_restored(directory: Path) -> None:
    """Raises UnavailableError while a restore on this directory was begun and not ended."""
    if (directory / UNFINISHED).exists():
        raise UnavailableError(
            f"a restore was interrupted, so {directory} is half old and half new",
            "run `wardgate restore FILE` again, or restore the file before-restore-… that lies there",
        )
