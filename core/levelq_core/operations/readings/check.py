"""The pairs of levels that are out of step, each with its repair."""

from __future__ import annotations

import sys
from decimal import Decimal
from itertools import islice

from sqlalchemy import Engine

from levelq_core.database.schema import read
from levelq_core.domain.catalog import Catalog
from levelq_core.domain.results import compare
from levelq_core.errors import InvalidArgument
from levelq_core.operations.connections import require_engine
from levelq_core.operations.dbcheck import pair_fixes
from levelq_core.operations.queries import out_of_step
from levelq_core.settings import default_catalog

from .records import Reading

Number = int | Decimal  # an application's column may be numeric


class OutOfStep(Reading):
    """A user's progress and license in one specialization, at different levels. A level of None is a missing row.

    `repair`: the command that repairs it or, after `--`, why no command can. `action`: as in `validate_consistency`.
    """

    user_id: Number | None
    specialization: str | None
    progress_level: Number | None
    license_level: Number | None
    repair: str
    action: str | None


class CheckReport(Reading):
    """How many pairs are out of step, and the first of them, by user.

    `tables_complete`: False if the tables lack what `levelq db check` says. Until that is done, no repair works.
    """

    total: int
    pairs: tuple[OutOfStep, ...]
    tables_complete: bool


def check(engine: Engine, catalog: Catalog | None = None, *, limit: int = 50) -> CheckReport:
    """Find the pairs of levels that are out of step: what `levelq check` prints. Changes nothing.

    It reads both tables whole, in one snapshot: run it from a job rather than for each view of a page. `engine`: a
    SQLAlchemy Engine on psycopg 3. `catalog`: that of LEVELQ_CATALOG unless given. `limit`: how many pairs to describe
    at most (0: only count them). It blocks: on an event loop, run it in a thread.

    Raises TypeError, InvalidArgument, and SQLAlchemy's errors as they are.
    """
    require_engine(engine)
    if type(limit) is not int or limit < 0:
        message = f"limit: expected an integer of at least 0, got {limit!r}"
        raise InvalidArgument(message, field="limit", value=limit)
    with engine.connect() as connection:
        found = out_of_step(connection)
        first = list(islice(found, min(limit, sys.maxsize)))
        total = len(first) + sum(1 for _ in found)
        schema = read(connection)
        fixes = pair_fixes(connection, first, schema, default_catalog() if catalog is None else catalog)
    pairs = []
    for pair, fix in zip(first, fixes, strict=True):
        has_repair = fix.startswith("levelq ")
        action = compare(pair.progress_level, pair.license_level).get("recommended_action") if has_repair else None
        pairs.append(OutOfStep(**pair._asdict(), repair=fix, action=action))
    return CheckReport(total=total, pairs=tuple(pairs), tables_complete=not schema.missing())
