"""Who may ask for what: each command and the roles that may give it. One table for page, API and command line."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

OPERATORS = ("biomed", "admin")
CARE = ("clinical", *OPERATORS)
MAY: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "acknowledge": CARE, "attest": CARE, "break-glass": CARE,
    "add": OPERATORS, "accept": OPERATORS, "enforce": OPERATORS, "observe": OPERATORS,
    "service": OPERATORS, "undo": OPERATORS, "remove": OPERATORS, "suspend": OPERATORS,
    "retry-message": OPERATORS, "discard-message": OPERATORS,
})  # fmt: skip
