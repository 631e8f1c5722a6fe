"""What the bench and the benchmarks import from the product, in functions too, is there: mypy reads the product alone."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
OURS = ("gateway", "drivers", "hil", "tests")
FILES = sorted(p for place in ("hil", "tests/benches") for p in (TOP / place).rglob("*.py"))


def names(path: Path) -> list[tuple[str, str]]:
    """(module, name) of everything it imports of ours."""
    found: list[tuple[str, str]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] in OURS:
            found += [(node.module or "", a.name) for a in node.names]
        elif isinstance(node, ast.Import):
            found += [(a.name, "") for a in node.names if a.name.split(".")[0] in OURS]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(TOP)))
def test_everything_that_is_imported_is_there(path: Path) -> None:
    for module, name in names(path):
        if name and not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")
        elif not name:
            importlib.import_module(module)


def test_a_name_that_is_not_there_is_found(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("def f():\n    from gateway.console import nothing_like_it\n")
    ((module, name),) = names(tmp_path / "x.py")
    assert not hasattr(importlib.import_module(module), name)
