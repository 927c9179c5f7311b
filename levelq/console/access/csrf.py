"""Tokens that show that a form comes from a page of this console, shown to this login in this session."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request

FIELD = "csrf"
SECONDS = 12 * 3600
_PURPOSE = "form"


def csrf_field(request: Request) -> Markup:
    """A hidden field for a form."""
    token = request.app.state.guard.signatures.sign(_PURPOSE, *viewer(request))
    return Markup('<input type="hidden" name="{}" value="{}">').format(FIELD, token)


def check_csrf(request: Request, form: Mapping[str, str]) -> None:
    """Raise HTTPException 403 unless the form has the token of a page that was shown to the same viewer."""
    found = request.app.state.guard.signatures.read(_PURPOSE, form.get(FIELD, ""), SECONDS)
    if found is None or not hmac.compare_digest("\n".join(found).encode(), "\n".join(viewer(request)).encode()):
        raise HTTPException(403, "this form is too old, or of another login: open its page again and retry")


def viewer(request: Request) -> tuple[str, str]:
    """Who sees a page: the login's name and the session; both empty where there is none."""
    login = getattr(request.state, "login", None)
    return ("" if login is None else login.name), getattr(request.state, "session", "")
