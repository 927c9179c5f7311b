"""Who looks at a page, and whether they may act."""

from __future__ import annotations

from typing import Literal, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request

Role = Literal["reader", "operator"]


class Login(NamedTuple):
    """`name`: as the audit table has it when they act."""

    name: str
    role: Role


def may_act(request: Request) -> bool:
    """Whether this login may change anything here."""
    login: Login = request.state.login
    return login.role == "operator" and not request.app.state.console.read_only


def require_operator(request: Request) -> str:
    """The login's name for the audit table. Raises HTTPException 403 if it may not act."""
    if not may_act(request):
        raise HTTPException(403, "this console is read-only" if request.app.state.console.read_only else
                            "your login may look, but not act: its role is reader, expected operator")  # fmt: skip
    return str(request.state.login.name)
