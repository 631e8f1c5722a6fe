"""What may be said in a support file: words that Wardgate itself uses, and nothing anybody else chose.

A sentence of a log or of the record passes word by word. A word passes if it stands in a text of our own program; every
number, name, address, key and anything with a digit in it becomes ``#``. So nothing has to be recognised to stay out.
Devices are numbered, so that lines about the same one can be told. Refuses to know where the texts come from.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import resources

_TOKEN = re.compile(r"\w+")
_WORD = re.compile(r"[A-Za-z]+")
_MANY = re.compile(r"#(?:[^\sA-Za-z]*#)+")
_MAX_TEXT = 600
_PACKAGES = ("gateway", "drivers")


@lru_cache(maxsize=1)
def own_words() -> frozenset[str]:
    """Every word of every string, and every class, in our own program, in lower case."""
    found: set[str] = set()
    for package in _PACKAGES:
        for text in _sources(resources.files(package)):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.update(w.lower() for w in _WORD.findall(node.value))
                elif isinstance(node, ast.ClassDef):
                    found.add(node.name.lower())
    return frozenset(w for w in found if len(w) > 1) | {"a"}


def _sources(folder: resources.abc.Traversable) -> Iterable[str]:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.name.startswith((".", "__")):
            yield from _sources(entry)
        elif entry.name.endswith(".py"):
            yield entry.read_text(encoding="utf-8")


def in_own_words(text: object, devices: Mapping[str, str] | None = None) -> str:
    """``text`` on one line with every word that is not ours as ``#``; ids of ``devices`` become their numbers."""
    shown = str(text)[:_MAX_TEXT]
    for device_id in sorted(devices or (), key=len, reverse=True):
        shown = re.sub(rf"(?<![\w-]){re.escape(device_id)}(?![\w-])", f"\x00{(devices or {})[device_id]}\x00", shown)
    pieces = shown.split("\x00")
    own = own_words()
    for n in range(0, len(pieces), 2):
        pieces[n] = _TOKEN.sub(lambda m: m[0] if m[0].isascii() and m[0].lower() in own else "#", pieces[n])
        pieces[n] = "".join(c if c.isascii() and c.isprintable() else "#" for c in pieces[n])
    return _MANY.sub("#", "".join(pieces))


def word(value: object) -> str:
    """One word of ours (letters and hyphens), or ``#``: for what should come from a list that we know."""
    text = str(value)
    parts = re.split(r"[-_]", text)
    return text if parts and all(p.isascii() and p.lower() in own_words() for p in parts) else "#"


def numbered(ids: Iterable[str], kind: str = "device") -> dict[str, str]:
    """A number for each id, in their order: what a support file calls it."""
    return {i: f"{kind}-{n}" for n, i in enumerate(sorted(set(ids)), 1)}
