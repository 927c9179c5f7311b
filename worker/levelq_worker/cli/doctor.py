"""`levelq doctor`: is everything levelq stands on as it must be?"""

from __future__ import annotations

from collections.abc import Iterator

import typer
from rich.table import Table
from rich.text import Text

from levelq_core.errors import LevelqError

from .connecting import load
from .examining import FAIL, OK, WARN, Result, database_results, namespace_results, redis_results, rq_results
from .screen import one_line, out

_STYLES = {OK: "green", WARN: "bold yellow", FAIL: "bold red"}


def doctor() -> None:
    """Examine Redis, the database and the settings.

    Each line is ok, warn or FAIL, with what to do. Exit code 1 on any FAIL. Without LEVELQ_DATABASE_URL only
    what a producer needs is looked at.
    """
    shown = Table.grid(padding=(0, 2))
    shown.add_column(no_wrap=True)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    worst = {OK: 0, WARN: 0, FAIL: 0}
    for result in _results():
        worst[result.verdict] += 1
        shown.add_row(Text(result.verdict, style=_STYLES[result.verdict]), result.what, Text(one_line(result.found)))
    out.print(shown)
    if worst[FAIL]:
        raise typer.Exit(1)


def _results() -> Iterator[Result]:
    settings = load()
    try:
        names = ", ".join(settings.tracks)
        yield Result(
            OK, "settings", f"namespace {settings.namespace}, catalog {settings.catalog or 'built in'}: {names}"
        )
    except LevelqError as error:
        yield Result(FAIL, "settings", str(error))
    yield from redis_results(settings)
    yield from rq_results(settings)
    yield from database_results(settings)
    yield from namespace_results(settings)
