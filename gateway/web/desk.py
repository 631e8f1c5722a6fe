"""What every handler needs in one place, and who is asking.

Refuses to know how anything is shown.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from gateway.errors import RefusedError
from gateway.model.roles import MAY, OPERATORS
from gateway.model.view import User
from gateway.ports import AccountsPort, ConsolePort

if TYPE_CHECKING:
    from gateway.web.render import Renderer
    from gateway.web.stream import Hub

_NOTICES = 256  # outcomes waiting to be shown once


class ViewLinks(Protocol):
    """One-time links to a read-only view; the accounts hold them."""

    async def one_time_view(self, actor: str = "root") -> str:
        """A new link's token: opaque, 256 bits, single use, short-lived."""
        ...

    async def redeem_view(self, link: str, source: str = "") -> str:
        """Spend a link: the token of a new session with role viewer. Raises RefusedError when unknown, used or expired."""
        ...


class Staff(Protocol):
    """Changes of people, each proven by the actor's own password (``secret``). They raise RefusedError or InputError."""

    async def users(self) -> Sequence[User]:
        """Everyone, by name."""
        ...

    async def admit(self, actor: User, name: str, password: str, role: str, secret: str) -> User:
        """A new person."""
        ...

    async def appoint(self, actor: User, name: str, role: str, secret: str, password: str = "") -> User:
        """Another role; ``password`` is the person's new one where the role needs it."""
        ...

    async def replace_password(self, actor: User, name: str, password: str, secret: str) -> None:
        """A new password for somebody else."""
        ...

    async def change_password(self, actor: User, old: str, new: str, source: str) -> None:
        """One's own."""
        ...

    async def dismiss(self, actor: User, name: str, secret: str) -> None:
        """A person goes."""
        ...


class Accounts(AccountsPort, ViewLinks, Staff, Protocol):
    """Everything the page asks of the accounts."""


@dataclass(frozen=True, slots=True)
class WebSettings:
    """Bounds, each with its reason, and who may use the control socket."""

    body_bytes: int = 16 * 1024  # the largest form or command is a reason of 500 characters
    streams: int = 64  # live views at a time: 20 wall displays and their spares
    streams_each: int = 8  # of one session: a browser opens no more than six connections
    connections: int = 256
    idle_s: float = 75.0  # a connection without a request in progress is closed after this
    body_s: float = 10.0  # a body must be here in this time
    uids: frozenset[int] = frozenset({0})  # who may use the control socket, all as admin


@dataclass(frozen=True, slots=True)
class Notice:
    """How a command ended, shown once on the next page."""

    ok: bool
    text: str


class Notices:
    """One outcome a session, kept until it is shown; bounded, oldest dropped."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Notice] = OrderedDict()

    def leave(self, session: str, notice: Notice) -> None:
        """Keep ``notice`` for the session's next page."""
        self._kept[session] = notice
        self._kept.move_to_end(session)
        while len(self._kept) > _NOTICES:
            self._kept.popitem(last=False)

    def take(self, session: str) -> Notice | None:
        """The notice, once."""
        return self._kept.pop(session, None)


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is asking: the user, and the session (empty on the control socket) with its CSRF token; or the ``token`` that asks."""

    user: User
    session: str = ""
    csrf: str = ""
    token: str = ""

    @property
    def operator(self) -> bool:
        """Whether this role may command."""
        return self.user.role in OPERATORS


@dataclass(slots=True)
class Desk:
    """What the handlers work with."""

    console: ConsolePort
    accounts: Accounts
    settings: WebSettings
    renderer: Renderer
    hub: Hub
    notices: Notices = field(default_factory=Notices)


DESK: web.AppKey[Desk] = web.AppKey("desk", Desk)
VISITOR: web.RequestKey[Visitor] = web.RequestKey("visitor", Visitor)


def visitor(request: web.Request) -> Visitor:
    """Who is asking; raises RefusedError where nobody has logged in (a handler that forgot to be guarded fails closed)."""
    found: Visitor | None = request.get(VISITOR)
    if found is None:
        raise RefusedError("nobody is logged in", "log in first")
    return found


def operator(request: web.Request) -> Visitor:
    """Who is asking, when that role may command; raises RefusedError."""
    found = visitor(request)
    if not found.operator:
        raise RefusedError(f"a {found.user.role} may look, not act", "ask someone with the role biomed or admin")
    return found


def permitted(request: web.Request, verb: str) -> Visitor:
    """Who is asking, when that role may give this command; raises RefusedError. A verb that nobody knows is an operator's."""
    found = visitor(request)
    roles = MAY.get(verb, OPERATORS)
    if found.user.role not in roles:
        raise RefusedError(f"a {found.user.role} may not do this ({verb})", f"ask someone with the role {' or '.join(roles)}")
    return found
