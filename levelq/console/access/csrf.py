"""Tokens that show that a form comes from a page of this console."""

from __future__ import annotations

from markupsafe import Markup
from starlette.requests import Request

FIELD = "csrf"


def csrf_field(request: Request) -> Markup:
    """A hidden field for a form."""
    return Markup('<input type="hidden" name="{}" value="{}">').format(FIELD, "")
