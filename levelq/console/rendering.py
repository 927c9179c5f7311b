"""Templates: how pages become HTML, and how numbers, times and sizes are written."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse

from levelq_core.operations.wording import count, duration
from levelq_core.untrusted_text import printable

from .access.csrf import csrf_field
from .access.login import may_act
from .access.notices import forget_notice, notice_of
from .problem_pages import page_for
from .runbook import help_for

_USER_IN_WORDS = re.compile(r"\b([Uu]ser )(\d{1,19})\b")
_TIME_IN_WORDS = re.compile(r"\b(\d{4}-[01]\d-[0-3]\d [0-2]\d:[0-5]\d:[0-5]\d) UTC\b")  # as when_utc writes it


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """The page. With `?part=NAME` in the URL, only the template's block of that name, to replace it in an open page.

    Raises HTTPException 400 if it has no such part.
    """
    found = TEMPLATES.get_template(template)
    context = {
        "request": request,
        "path": request.url.path,
        "console": request.app.state.console,
        "login": getattr(request.state, "login", None),
        "has_session": bool(getattr(request.state, "session", "")),
        "may_act": hasattr(request.state, "login") and may_act(request),
        "now": datetime.now(UTC),
        "notice": notice_of(request),
        "csrf_field": lambda: csrf_field(request),
        **values,
    }
    part = request.query_params.get("part")
    if part is not None and status == 200:
        parts = [name for name in found.blocks if name.endswith("_part")]
        if part not in parts:
            raise HTTPException(400, f"part: expected {' or '.join(parts) or 'none'}, got {part!r}")
        return HTMLResponse("".join(found.blocks[part](found.new_context(context))))
    response = HTMLResponse(found.render(context), status)
    forget_notice(request, response)
    return response


@lru_cache
def static_url(name: str) -> str:
    """The URL of a file of static/, with its version: browsers keep it until it changes."""
    content = (files("levelq.console") / "static" / name).read_bytes()
    return f"/static/{name}?v={sha256(content).hexdigest()[:16]}"


def number(value: float | None, places: int = 0) -> str:
    """With thousands separators; a dash for None."""
    return "-" if value is None else f"{value:,.{places}f}"


def moment(value: datetime | None) -> Markup:
    """A time in UTC; console.js writes it in the reader's zone and leaves UTC for the pointer and screen readers."""
    if value is None:
        return Markup("-")
    utc = value.astimezone(UTC)
    shown = f"{utc:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(utc.isoformat(timespec="seconds"), shown, shown)


def minute(value: datetime) -> Markup:
    """The hour and minute of a time, as `moment` has the whole."""
    utc = value.astimezone(UTC)
    return Markup('<time datetime="{}" data-form="minute" title="{}">{}</time>').format(
        utc.isoformat(timespec="seconds"), f"{utc:%Y-%m-%d %H:%M} UTC", f"{utc:%H:%M}"
    )


def lasting(seconds: float | None) -> str:
    """A duration: in ms below a second; a dash for None."""
    if seconds is None:
        return "-"
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else duration(seconds)


def size(value: int | None) -> str:
    """Bytes in MB; a dash for None."""
    return "-" if value is None else f"{value / 1e6:,.0f} MB"


def safe(value: object) -> Markup:
    """Text of users and other programs: on one line, control characters escaped, HTML escaped."""
    return escape(printable(value if isinstance(value, str | bytes) else str(value)))


def numbered(heading: str) -> tuple[str, str]:
    """A column of a confirmation's table and its kind: the one that counts is named Number."""
    return heading, "number" if heading == "Number" else ""


def in_words(line: str) -> Markup:
    """A sentence of levelq: command lines that it names in backticks are marked, times in UTC are as `moment` has them.

    The rest is as in `safe`.
    """
    parts = re.split(r"`((?:levelq|rq) [^`]{1,300})`", printable(line))
    marked = (Markup('<code class="command">{}</code>').format(part) if n % 2 else part for n, part in enumerate(parts))
    escaped = Markup("").join(marked)
    return Markup(_TIME_IN_WORDS.sub(_as_moment, escaped))  # noqa: S704 - it was escaped before


def with_links(line: str) -> Markup:
    """A problem as in `in_words`, with a link to the page of each user that it names."""
    return Markup(_USER_IN_WORDS.sub(r'\1<a href="/users/\2">\2</a>', str(in_words(line))))  # noqa: S704 - escaped before


def _as_moment(found: re.Match[str]) -> str:
    """A time in a text. One that no calendar has, as a reason of others may hold, stays as it is."""
    try:
        return moment(datetime.fromisoformat(f"{found[1]}+00:00"))
    except ValueError:
        return found[0]


def counted(value: int, thing: str) -> str:
    """`1 command`, `1,200 commands`."""
    return count(value, thing)


TEMPLATES = Environment(
    loader=PackageLoader("levelq.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {
    "number": number,
    "moment": moment,
    "minute": minute,
    "lasting": lasting,
    "size": size,
    "safe_text": safe,
    "runbook_link": help_for,
    "in_words": in_words,
    "with_links": with_links,
    "page_link": page_for,
    "with_commands": in_words,
    "counted": counted,
    "numbered": numbered,
}
TEMPLATES.globals["static_url"] = static_url
