"""The short-lived child that reads the whole kernel listing, so that the enforcer's loop never waits for it.

``python -m gateway.enforcer.check --policy FILE`` prints one JSON object: the digests, what differs from the confirmed
policy, the leases, the elements, the counters. It changes nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from gateway.enforcer.document import EMPTY, Document, DocumentError, check_document, parse_document
from gateway.enforcer.listing import differences
from gateway.enforcer.load import LoadError, list_kernel

_DIFFERENCES_MAX = 100


def survey(policy: Path, table_file: Path | None) -> dict[str, Any]:
    """What the kernel holds and how it differs from what was confirmed. Raises LoadError when nft does not answer."""
    listing = list_kernel()
    expected, text = _expected(policy.parent / "static.json")
    different = [] if listing.present else ["the static tables are not loaded"]
    if listing.present and listing.digest != expected:
        different.append("the static text differs from the one that was loaded")
    if table_file is not None and text != _sha256(table_file):
        different.append(f"{table_file} is not the text that was loaded")
    try:
        document = _document(policy)
        different += differences(listing, document, _DIFFERENCES_MAX)
        document_id = document.document_id
    except DocumentError as e:
        different.append(f"the confirmed policy is broken: {e.problems[0][1]}")
        document_id = ""
    return {
        "present": listing.present,
        "digest": listing.digest,
        "expected_digest": expected,
        "document": document_id,
        "differences": different[:_DIFFERENCES_MAX],
        "leases": {address: {"level": lease.level, "expires_s": lease.expires_s} for address, lease in listing.leases.items()},
        "counters": dict(listing.counters),
        "glass": {name: [[*element, left] for element, left in timed.items()] for name, timed in listing.glass.items()},
        "met": [list(element) for element in listing.met],
        "elements": {name: [list(element) for element in sorted(elements, key=str)] for name, elements in listing.sets.items()},
    }


def _document(policy: Path) -> Document:
    try:
        return parse_document(policy.read_bytes())
    except FileNotFoundError:
        return check_document(EMPTY)
    except OSError as e:
        raise DocumentError([("", f"{policy}: {e.strerror}")]) from e


def _expected(record: Path) -> tuple[str, str]:
    """What the loader wrote down: the digest of the kernel's listing, and of the text; ("", "") when it wrote nothing."""
    try:
        value = json.loads(record.read_bytes())
        return str(value["digest"]), str(value["text"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as e:
        return f"unreadable: {e.strerror}"


def main() -> int:
    """Print the survey. Exit 1 when nft does not answer."""
    parser = argparse.ArgumentParser(prog="check")
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--table-file", type=Path)
    arguments = parser.parse_args()
    try:
        sys.stdout.write(json.dumps(survey(arguments.policy, arguments.table_file), separators=(",", ":")))
    except LoadError as e:
        sys.stderr.write(f"{e}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
