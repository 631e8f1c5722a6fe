"""Run benchmarks by name: every module here with ``run() -> Iterable[Figure]``. A table, or one JSON object a line."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import pkgutil
import sys
from pathlib import Path

from tests.benches.figure import Figure


def names() -> list[str]:
    """The benchmarks there are."""
    return sorted(
        m.name.replace("_", "-")
        for m in pkgutil.iter_modules([str(Path(__file__).parent)])
        if m.name not in ("figure", "fleet", "__main__")
    )


def show(f: Figure) -> str:
    """One line for a person."""
    ratio = f"{f.ratio:8.3f} × floor {f.floor:.4g}" if f.ratio is not None else ""
    return f"{f.name:34s} {f.devices:6d} devices {f.value:12.4g} {f.unit:10s} ±{f.spread:.3g}  {ratio}  {f.note}"


def main() -> int:
    """Run what was asked for; exit 1 if a benchmark failed to run."""
    parser = argparse.ArgumentParser(prog="tests/bench")
    parser.add_argument("names", nargs="*", help=f"of: {', '.join(names())}")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(names())
    if unknown:
        parser.error(f"no benchmark called {', '.join(sorted(unknown))}; there are: {', '.join(names())}")
    for name in arguments.names or names():
        module = importlib.import_module(f"tests.benches.{name.replace('-', '_')}")
        for f in module.run():
            line = json.dumps({k: v for k, v in dataclasses.asdict(f).items() if k != "note" or v}) if arguments.json else show(f)
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
