"""PURE. JSON Schema (2020-12, the dialect of OpenAPI 3.1) for what the API takes and gives: by hand, or from a dataclass.

``of`` says exactly what ``codec.to_plain`` makes of a value, so that documentation cannot drift from the model. Refuses to
know routes.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

Schema = dict[str, Any]

ANY: Schema = {}
FLAG: Schema = {"type": "boolean"}
WORDS: Schema = {"type": "string"}
OBJECT: Schema = {"type": "object"}  # whose fields are told elsewhere
PLACE: Schema = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}


def text(most: int, least: int = 1, pattern: str = "") -> Schema:
    """A string with bounds; ``pattern`` as ECMA 262 reads it."""
    return {"type": "string", "minLength": least, "maxLength": most, **({"pattern": pattern} if pattern else {})}


def whole(low: int, high: int) -> Schema:
    """A whole number."""
    return {"type": "integer", "minimum": low, "maximum": high}


def choice(*words: str) -> Schema:
    """One of these."""
    return {"type": "string", "enum": list(words)}


def many(item: Schema) -> Schema:
    """A list."""
    return {"type": "array", "items": item}


def record(needed: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "properties": {**needed, **(optional or {})},
        "required": list(needed),
        "additionalProperties": False,
    }


def named(kind: type) -> Schema:
    """A reference to a dataclass's schema among the document's components."""
    return {"$ref": f"#/components/schemas/{kind.__name__}", "_kind": kind}


def of(kind: Any) -> Schema:
    """The plain form of an annotation. Raises TypeError for one that has none."""
    if kind in (object, Any):
        return dict(ANY)
    simple = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
    if kind in simple:
        return {"type": simple[kind]}
    if kind is bytes:
        return record({"hex": text(2**31, 0, "^([0-9a-f]{2})*$")})
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [of(a) for a in arguments]}
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        return {
            "type": "array",
            "prefixItems": [of(a) for a in arguments],
            "minItems": len(arguments),
            "maxItems": len(arguments),
            "items": False,
        }
    if origin in (tuple, list, Sequence, set, frozenset):
        return many(of(arguments[0]))
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": of(arguments[1])}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return named(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [m.value for m in kind]}
    raise TypeError(f"{kind} has no schema")


def body_of(kind: type) -> Schema:
    """A dataclass's own schema: what ``codec.to_plain`` makes of one."""
    hints = typing.get_type_hints(kind)
    fields = {f.name: of(hints[f.name]) for f in dataclasses.fields(kind) if f.repr}
    schema = record({"type": {"const": kind.__name__}, **fields})
    doc = (kind.__doc__ or "").split("\n\n")[0].strip()
    return {"description": doc, **schema} if doc else schema


ERROR = record({"error": WORDS, "remedy": WORDS})
