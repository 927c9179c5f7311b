"""How every act goes: first a page that says what will happen, then the act, then the page it came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from levelq.console.access.forms import read_form
from levelq.console.access.hosts import local_path
from levelq.console.access.login import require_operator
from levelq.console.access.notices import with_notice
from levelq.console.console import Console
from levelq.console.rendering import page
from levelq_core.errors import ConfigurationError, InvalidArgument


class Asked(NamedTuple):
    """What an act is asked for: the fields of the URL, over them those of the form, and who asks.

    `ids`: every `id` of the URL, as of marked rows.
    """

    console: Console
    values: Mapping[str, str]
    actor: str
    ids: tuple[str, ...] = ()


class Field(NamedTuple):
    """A field of the confirmation. `choices`: of a list; else a line of text. `help`: what is expected."""

    name: str
    label: str
    value: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    help: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an act will do, found out by a dry run.

    `happens`: sentences. `table`: headings and rows of what it is done to, if that helps; a column named Number is one
    of numbers. `command`: the command line that does the same, empty if none does. `button`: what the button says, such
    as "Retry 12 commands". `back`: the page to return to. `dangerous`: something is lost that cannot be brought back.
    `impossible`: why it cannot be done, no button then. `kept`: hidden fields, such as the ids that the dry run found,
    so that what is done is what was shown. `instead`: links to other ways of the act, and what each says.
    """

    title: str
    happens: tuple[str, ...]
    command: str
    button: str
    back: str
    fields: tuple[Field, ...] = ()
    table: tuple[tuple[str, ...], ...] = field(default=())
    dangerous: bool = False
    impossible: str | None = None
    kept: tuple[tuple[str, str], ...] = ()
    instead: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError if `back`, which may be of a URL, leads elsewhere."""
        if local_path(self.back) is None:
            raise ValueError("back: expected the path of a page of this console")


def act(name: str, plan: Callable[[Asked], Plan], perform: Callable[[Asked], str]) -> Route:
    """`/act/NAME`: GET shows the plan, POST performs it; `perform` returns a sentence that says what was done.

    Both run in a thread. Bad input: they raise InvalidArgument, ConfigurationError or ValueError, shown as it is.
    """

    async def endpoint(request: Request) -> Response:
        actor = require_operator(request)
        form = await read_form(request) if request.method == "POST" else {}
        ids = tuple(request.query_params.getlist("id"))
        asked = Asked(request.app.state.console, {**request.query_params, **form}, actor, ids)
        try:
            planned = await run_in_threadpool(plan, asked)
            if request.method != "POST":
                return page(request, "confirm.html", plan=planned)
            if planned.impossible is not None:
                raise HTTPException(409, planned.impossible)
            done = await run_in_threadpool(perform, asked)
        except (InvalidArgument, ConfigurationError, ValueError) as error:
            is_away = getattr(error, "setting", "").startswith("LEVELQ_")  # a server does not answer
            raise HTTPException(503 if is_away else 400, str(error)) from error
        asked.console.forget()
        return with_notice(request, RedirectResponse(planned.back, 303), done)

    return Route(f"/act/{name}", endpoint, methods=["GET", "POST"], name=name)
