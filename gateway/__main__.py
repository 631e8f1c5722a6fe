"""``python -m gateway`` and the console script ``wardgate``."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; imports nothing heavy before it knows the subcommand."""
    from gateway.cli import run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
