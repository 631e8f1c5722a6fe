"""The import rules hold, and each of them would notice: a copy of the tree with one violation a rule breaks all of them."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
VIOLATIONS = {
    "gateway/model/level.py": "import gateway.errors",
    "gateway/trust/__init__.py": "import os\nimport gateway.policy",
    "gateway/conductor.py": "import gateway.store.audit",
    "gateway/store/group.py": "import drivers\nimport bumble",
    "drivers/ble/heart_rate.py": "import drivers.modbus\nimport gateway.codec",
    "gateway/enforcer/wire.py": "import cbor2",
    "gateway/web/__init__.py": "import sqlite3",
    "gateway/relying.py": "import gateway.config",
}
CLIENT_SIDE = {"client.py", "confirm_client.py"}


def _lint(where: Path) -> str:
    lint = Path(sysconfig.get_path("scripts")) / "lint-imports"
    env = {**os.environ, "PYTHONPATH": str(where)}
    done = subprocess.run([str(lint), "--no-cache"], cwd=where, env=env, capture_output=True, text=True, timeout=60)
    return " ".join(done.stdout.split())


def _contracts() -> list[str]:
    read = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [" ".join(c["name"].split()) for c in read["tool"]["importlinter"]["contracts"]]


def test_every_rule_notices_a_violation(tmp_path: Path) -> None:
    for name in ("gateway", "drivers"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, line in VIOLATIONS.items():
        path = tmp_path / file
        path.write_text(f"{path.read_text()}\n{line}\n")
    said = _lint(tmp_path)
    assert [name for name in _contracts() if f"{name} BROKEN" not in said] == []


def test_every_rule_holds() -> None:
    said = _lint(ROOT)
    assert [name for name in _contracts() if f"{name} KEPT" not in said] == []


def test_the_enforcer_imports_the_standard_library_and_itself() -> None:
    """The rule in pyproject.toml names what is forbidden; this one names what is allowed."""
    files = [p for p in (ROOT / "gateway/enforcer").glob("*.py") if p.name not in CLIENT_SIDE]
    assert len(files) > 3
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in sys.stdlib_module_names or name.startswith("gateway.enforcer"), f"{path.name}: {name}"
