"""PURE. Reads tables of a parsed TOML file, collecting every mistake with its path instead of stopping at the first.

A reader takes keys one by one and hands back a usable stand-in for a wrong one, so that later mistakes are found too; what is
built from stand-ins is thrown away when ``Problems.raise_if_any`` raises. Knows nothing of profiles.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from gateway.errors import InputErrors

T = TypeVar("T")
MAX_PROBLEMS = 50  # a file with more mistakes than a person reads in one go is reported in part
MAX_SHOWN = 40  # characters of a wrong value that a message repeats

_KINDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "a table"}


class Problems:
    """Mistakes found so far, each ``(path, what)``."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def add(self, path: str, what: str) -> None:
        """Note a mistake, once."""
        if len(self.found) < MAX_PROBLEMS and (path, what) not in self.found:
            self.found.append((path, what))

    def raise_if_any(self, where: str) -> None:
        """Raise InputErrors with all of them, in the order of the file."""
        if self.found:
            raise InputErrors(where, tuple(self.found))


def shown(value: object) -> str:
    """A wrong value as a message repeats it: short, printable."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


class Table:
    """One table of the file. Call ``finish`` when all known keys are taken: what is left is unknown and refused."""

    def __init__(self, data: object, path: str, problems: Problems) -> None:
        self.path = path
        self.problems = problems
        self._known: list[str] = []
        if not isinstance(data, Mapping):
            self.wrong("", f"expected a table, got {shown(data)}")
            data = {}
        self._data: Mapping[str, Any] = data

    def at(self, key: str) -> str:
        """The path of ``key`` in this table."""
        return f"{self.path}.{key}" if self.path and key else self.path or key

    def wrong(self, key: str, what: str) -> None:
        """Note a mistake at ``key``."""
        self.problems.add(self.at(key), what)

    def has(self, key: str) -> bool:
        """Whether the file sets ``key``; marks it known."""
        self._known.append(key)
        return key in self._data

    def raw(self, key: str) -> Any:
        """The value as it stands, None when absent; marks it known."""
        self._known.append(key)
        return self._data.get(key)

    def take(self, key: str, kind: type[T], stand_in: T, missing: str = "") -> T:
        """A mandatory value of ``kind``; on a mistake it is noted and ``stand_in`` returned. ``missing`` says why it is needed."""
        value = self.raw(key)
        if value is None:
            self.wrong(key, missing or f"is missing: {_KINDS.get(kind, kind.__name__)} is needed here")
            return stand_in
        return self._typed(key, value, kind, stand_in)

    def maybe(self, key: str, kind: type[T], default: T) -> T:
        """An optional value of ``kind``."""
        value = self.raw(key)
        return default if value is None else self._typed(key, value, kind, default)

    def _typed(self, key: str, value: Any, kind: type[T], stand_in: T) -> T:
        if kind is float and type(value) is int:
            return kind(value)  # type: ignore[call-arg]
        if type(value) is not kind:  # exactly: a bool is no number here
            self.wrong(key, f"expected {_KINDS.get(kind, kind.__name__)}, got {shown(value)}")
            return stand_in
        return value

    def choice(self, key: str, kind: Callable[[str], T], options: tuple[str, ...], stand_in: T, missing: str = "") -> T:
        """A mandatory value out of ``options``, turned into ``kind``; a near miss gets a hint."""
        value = self.raw(key)
        listed = ", ".join(options)
        if value is None:
            self.wrong(key, missing or f"is missing: one of {listed}")
            return stand_in
        if not isinstance(value, str) or value not in options:
            self.wrong(key, f"{shown(value)} is none of {listed}{hint(value, options)}")
            return stand_in
        return kind(value)

    def tables(self, key: str) -> list[Table]:
        """A list of tables, empty when absent."""
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.wrong(key, f"expected a list of tables ([[{key}]]), got {shown(value)}")
            return []
        return [Table(v, f"{self.at(key)}[{i}]", self.problems) for i, v in enumerate(value)]

    def build(self, make: Callable[[], T], key: str = "") -> T | None:
        """Build a value whose constructor checks itself; its ValueError becomes a mistake at ``key``."""
        try:
            return make()
        except ValueError as e:
            self.wrong(key, str(e))
            return None

    def finish(self) -> None:
        """Refuse every key that nobody asked for, with the nearest known name."""
        for key in self._data:
            if key not in self._known:
                self.wrong(str(key)[:MAX_SHOWN], f"is unknown here{hint(key, tuple(self._known))}")


def hint(value: object, options: tuple[str, ...]) -> str:
    """`` (did you mean …?)`` when one option is near, else nothing."""
    near = difflib.get_close_matches(str(value)[:100], options, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
