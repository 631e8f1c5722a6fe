"""PURE. What a machine with an API token may command, whatever the role of its token. Refuses to know how it is known."""

from __future__ import annotations

from collections.abc import Container

from gateway.errors import RefusedError
from gateway.model.event import OperatorCommand

TOKEN_VERBS = ("attest", "add")  # asking for evidence; proposing what then gets nothing until a person accepts it


def within_a_token(command: OperatorCommand, known: Container[str]) -> None:
    """A token never does what needs a person: a password at wardgate-policy, a reason on a repair, a second pair of eyes.

    ``known``: all verbs; others are refused later, by name. Raises RefusedError.
    """
    if command.verb in known and command.verb not in TOKEN_VERBS:
        raise RefusedError(
            f"a token may not {command.verb}: a person answers for it", "log in on the page, or use the command line"
        )
    if command.secret or command.argument("as"):
        raise RefusedError("a token acts for itself and for nobody else", "leave out the secret and the name")
