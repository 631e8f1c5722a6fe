"""What may be said in a support file: what Wardgate itself says, and nothing anybody else chose.

A sentence of a log or of the record passes word by word. A word passes if it stands in our own program beside the word that
it stands beside here; every number, name, address, key and anything else becomes ``#``. So nothing has to be recognised to
stay out, and a passphrase made of common words does not pass either. Devices are numbered, so that lines about the same one
can be told. Refuses to know where the texts come from.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import resources
from itertools import pairwise

_TOKEN = re.compile(r"\w+")
_WORD = re.compile(r"[A-Za-z]+")
_NUMBERED = re.compile(r"[a-z]{2,8}[0-9]")  # a whole text of ours such as hl7
_MANY = re.compile(r"#(?:[^\sA-Za-z]*#)+")
_MAX_TEXT = 600
_PACKAGES = ("gateway", "drivers")
_ALONE = frozenset(
    ("a", "an", "and", "are", "at", "by", "for", "from", "has", "in", "is", "it", "its", "level", "line", "no", "not", "of", "on",
     "or", "port", "s", "that", "the", "this", "to", "was", "with")
)  # fmt: skip


@lru_cache(maxsize=1)
def _own() -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
    """(words, neighbours) of every string, and the name of every class, in our own program; in lower case."""
    words: set[str] = set()
    pairs: set[tuple[str, str]] = set()
    for package in _PACKAGES:
        for text in _sources(resources.files(package)):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found = [t.lower() for t in _TOKEN.findall(node.value)]
                    pairs.update(p for p in pairwise(found) if p[0].isalpha() and p[1].isalpha())
                    words.update(w.lower() for w in _WORD.findall(node.value))
                    words.update([node.value] if _NUMBERED.fullmatch(node.value) else ())
                elif isinstance(node, ast.ClassDef):
                    words.add(node.name.lower())
    return frozenset(w for w in words if len(w) > 1), frozenset(pairs)


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
    for n in range(0, len(pieces), 2):
        pieces[n] = _passed(pieces[n])
    return _MANY.sub("#", "".join(pieces))


def _passed(text: str) -> str:
    found = list(_TOKEN.finditer(text))
    said = [m[0].lower() for m in found]
    pairs = _own()[1]
    beside = [False, *(p in pairs for p in pairwise(said)), False]
    shown, at = [], 0
    for n, m in enumerate(found):
        ours = m[0].isascii() and (said[n] in _ALONE or beside[n] or beside[n + 1])
        shown += [text[at : m.start()], m[0] if ours else "#"]
        at = m.end()
    joined = "".join([*shown, text[at:]])
    return "".join(c if c.isascii() and c.isprintable() else "#" for c in joined)


def word(value: object) -> str:
    """One word of ours (letters and hyphens), or ``#``: for what should come from a list that we know."""
    text = str(value)
    parts = re.split(r"[-_]", text)
    return text if parts and all(p.isascii() and p.lower() in _own()[0] for p in parts) else "#"


def numbered(ids: Iterable[str], kind: str = "device") -> dict[str, str]:
    """A number for each id, in their order: what a support file calls it."""
    return {i: f"{kind}-{n}" for n, i in enumerate(sorted(set(ids)), 1)}
