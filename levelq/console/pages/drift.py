"""Levels out of step: what the last audit of the workers found, the repairs, and whether the database forbids it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from urllib.parse import urlencode

from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from levelq.console.console import Console
from levelq.console.rendering import page
from levelq_core.database.schema import schema_of
from levelq_core.errors import ConfigurationError
from levelq_core.lanes import drift_report
from levelq_core.lanes.drift_report import DriftedPair, DriftReport
from levelq_core.operations.connections import redis_of
from levelq_core.operations.readings.enforcement import SENTENCES, Enforcement, read_enforcement
from levelq_core.operations.readings.levels import Levels, rows_of
from levelq_core.operations.wording import one_line, time_of
from levelq_core.settings import Settings

from .listing import from_database

POLICIES = {
    "report": "workers only count and show them",
    "higher": "workers repair them with the higher level",
    "progress": "workers repair them with the level of the progress",
    "license": "workers repair them with the level of the license",
}


class Audits(NamedTuple):
    """The last audit and the one under way; `problem`: why they cannot be read."""

    last: DriftReport | None = None
    under_way: DriftReport | None = None
    problem: str | None = None


class Row(NamedTuple):
    """A pair that the audit found. `now`: its rows as they are, None where there are none, or it is unknown, which
    `absence` says. `sync`: the repair."""

    pair: DriftedPair
    now: Levels | None
    absence: str
    sync: str

    @property
    def is_repaired(self) -> bool:
        """Whether it is in step by now."""
        return self.now is not None and self.now.in_step


def drift(request: Request) -> Response:
    """`/drift`."""
    console: Console = request.app.state.console
    audits = _audits(console.settings)
    pairs = audits.last.examples if audits.last is not None else ()
    levels, database_problem = from_database(console, lambda engine: _levels(engine, pairs))
    enforced, enforcement_problem = _enforcement(console)
    return page(
        request, "drift.html", audits=audits, rows=[_row(pair, levels) for pair in pairs], enforced=enforced,
        problems=list(dict.fromkeys(filter(None, (audits.problem, database_problem, enforcement_problem)))),
        sentences=SENTENCES, policies=POLICIES, at=_at, every=console.settings.drift_seconds,
    )  # fmt: skip


def _audits(settings: Settings) -> Audits:
    try:
        with redis_of(settings) as redis:
            return Audits(drift_report.read(redis, settings.keys), drift_report.read_under_way(redis, settings.keys))
    except ConfigurationError as error:
        return Audits(problem=one_line(str(error)))


def _levels(engine: Engine, pairs: Sequence[DriftedPair]) -> dict[tuple[int, str], Levels]:
    """The rows of these users, of whom there are five at most."""
    if not pairs:
        return {}
    with engine.connect() as connection:
        return {
            (user, row.levels.specialization): row.levels
            for user in {pair.user_id for pair in pairs}
            for row in rows_of(connection, user)
        }


def _row(pair: DriftedPair, levels: dict[tuple[int, str], Levels] | None) -> Row:
    now = None if levels is None else levels.get((pair.user_id, pair.specialization))
    named = urlencode({"user": pair.user_id, "specialization": pair.specialization})
    return Row(pair, now, "unknown" if levels is None else "no rows", f"/act/sync?{named}")


def _enforcement(console: Console) -> tuple[Enforcement | None, str | None]:
    def read(engine: Engine) -> Enforcement:
        with engine.connect() as connection:
            return read_enforcement(connection, schema_of(connection), pairs=False)

    return from_database(console, read)


def _at(ms: int) -> datetime | None:
    """A time of Redis; None where there is none."""
    return time_of(ms) if ms else None


routes = [Route("/drift", drift, name="drift")]
