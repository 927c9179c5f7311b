"""One verification from beginning to end.

The order is what makes it safe while traffic flows. A command is in its lane from its push until after
the commit that decides it. So: first the history, then the lanes, then the database, in any number of snapshots: what
was acknowledged and is in neither was lost. The history's newer lines are read before the ledger (what is decided was
intended before), and the ledger up to the greatest id when the lanes had been read. Then the lanes once more: what left
them must be decided by now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from redis import Redis
from sqlalchemy import Connection, Engine, text

from levelq_core.database.schema import LEDGER, PAIR_KEYS, REQUIRED, Schema, read
from levelq_core.errors import SchemaError
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.scan import partitions
from levelq_core.operations.identity import require_bound
from levelq_core.settings import Settings

from . import command_checks as questions
from .lane_checks import Watch, again
from .passes import Passes, Scope
from .ranges import BEGINNING, first_id, missing_indexes, size
from .report import Check, Report
from .send_log import Reader, Recovery
from .temp_tables import HISTORY, LATER, STANDING, index, load_entries, load_history, workspace

STEPS = ("history", "lanes", "snapshot", "lanes again")
_PAGE = 10_000  # lanes to look at again, asked for at a time


@dataclass(frozen=True)
class Options:
    """How to verify.

    `history`: recorded sends; order is judged within each file. `at_rest`: nothing may wait any more.
    `foreign_writes`: an application's code writes to the tables, too, so what that explains is only noted.
    `partial_history`: others sent, too, without recording it. `horizon`: sends before it are not looked
    for, because the ledger may have been pruned. `limit`: examples kept per check. `since`: only ledger rows decided
    since then, and the rows of the users they touched; None for all. `range_rows`: rows of each table that are looked
    at in one snapshot.
    """

    history: Sequence[Path] = ()
    at_rest: bool = False
    foreign_writes: bool = False
    partial_history: bool = False
    horizon: datetime | None = None
    limit: int = 100
    since: datetime | None = None
    range_rows: int = 20_000


def verify(
    engine: Engine,
    redis: Redis,
    settings: Settings,
    options: Options = Options(),
    *,
    step: Callable[[str], None] = lambda name: None,
) -> Report:
    """Verify I1 to I9. `step` is called with each of STEPS as it begins.

    Changes nothing but temporary tables of its own. Raises SchemaError, WrongDatabase, ConfigurationError for a
    history that cannot be read, RedisError and SQLAlchemy's DBAPIError.
    """
    with engine.connect() as connection:
        schema = _require(connection)
        with connection.begin():
            require_bound(connection, Lanes(redis, settings))
        with workspace(connection):
            return _Verification(connection, redis, settings, options, schema, step).run()


def _require(connection: Connection) -> Schema:
    """The tables and columns must be there; constraints need not, as what they prevent is looked for."""
    with connection.begin():
        schema = read(connection)
    found = schema.columns
    lacking = [
        f"{table}.{name}" for table, names in REQUIRED.items() for name in names if name not in found.get(table, ())
    ]
    if lacking:
        raise SchemaError(f"missing: {', '.join(lacking)}. `levelq db check` prints the statements that fix it")
    return schema


class _Verification:
    def __init__(
        self,
        connection: Connection,
        redis: Redis,
        settings: Settings,
        options: Options,
        schema: Schema,
        step: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._redis = redis
        self._settings = settings
        self._options = options
        self._schema = schema
        self._step = step
        self._reader = Reader(options.history)
        self._report = Report()
        self._recoveries: list[Recovery] = []

    def run(self) -> Report:
        """All steps, in the order that the module's docstring explains."""
        self._step("history")
        with self._connection.begin():
            self._recoveries += load_history(self._connection, self._reader.new(), late=False)
            index(self._connection, HISTORY, "command_id")
        self._step("lanes")
        self._read_lanes()
        self._step("snapshot")
        passes = self._passes()
        self._ask_the_database(passes)
        self._step("lanes again")
        self._read_lanes_again(passes)
        self._report.extend(passes.checks)
        if self._options.history:
            self._report.extend([_bounded(self._recoveries, self._settings, self._options.limit)])
        return self._report

    def _read_lanes(self) -> None:
        watch = Watch(
            Lanes(self._redis, self._settings),
            partitions(self._redis, self._settings),
            claim_ms=int(self._settings.claim_seconds * 1000),
            partition_limit=self._settings.partition_limit,
            at_rest=self._options.at_rest,
            limit=self._options.limit,
        )
        with self._connection.begin():
            load_entries(self._connection, STANDING, watch.entries())
            index(self._connection, STANDING, "command_id")
        self._report.extend(watch.checks)

    def _ask_the_database(self, passes: Passes) -> None:
        options = self._options
        begun = None
        if options.history:
            with self._connection.begin():
                self._recoveries += load_history(self._connection, self._reader.new(), late=True)
            begun = passes.group_history(max(options.horizon or BEGINNING, options.since or BEGINNING))
        passes.by_id(options.partial_history, begun)
        passes.by_user()
        with passes.snapshot():
            if options.at_rest:
                passes.ask(questions.OUTBOX_EMPTY)
            if options.history:
                passes.ask(questions.STALE)

    def _passes(self) -> Passes:
        """What to look at, as the database is now that the lanes have been read."""
        connection, options = self._connection, self._options
        with connection.begin():
            missing = missing_indexes(connection)
            rows = size(connection, options.range_rows, missing)
            if rows > options.range_rows:
                self._report.remarks += [_slow(statement) for statement in missing]
            last = connection.execute(text(f"SELECT max(id) FROM {LEDGER}")).scalar_one()
            scope = Scope(
                after=first_id(connection, options.since, missing),
                last=0 if last is None else last,
                rows=rows,
                since=options.since is not None,
                unique=PAIR_KEYS[LEDGER] in self._schema.unique.get(LEDGER, frozenset()),
                history=bool(options.history),
                foreign_writes=options.foreign_writes,
                limit=options.limit,
            )
        return Passes(connection, scope)

    def _read_lanes_again(self, passes: Passes) -> None:
        with self._connection.begin():
            for page in self._undecided():
                load_entries(self._connection, LATER, again(self._redis, self._settings.keys, page))
            index(self._connection, LATER, "sha256")
        with passes.snapshot():
            passes.ask(questions.REMOVED)

    def _undecided(self) -> Iterator[list[tuple[str, bytes]]]:
        """The lanes that held something undecided, page by page."""
        partition, lane = "", b""
        while True:
            after = {"partition": partition, "lane": lane, "page": _PAGE}
            page = [(row[0], row[1]) for row in self._connection.execute(text(questions.UNDECIDED), after)]
            if not page:
                return
            partition, lane = page[-1]
            yield page


def _slow(statement: str) -> str:
    return f"an index is missing, so users were read in a few large ranges, with temporary files: {statement}"


def _bounded(recoveries: Sequence[Recovery], settings: Settings, limit: int) -> Check:
    """I9: after each fault the backlog drained within claim + sweep + work."""
    check = Check("I9", "recorded recoveries took at most claim + sweep + work", len(recoveries))
    for sample in recoveries:
        claim = settings.claim_seconds if sample.claim_seconds is None else sample.claim_seconds
        sweep = settings.sweep_seconds if sample.sweep_seconds is None else sample.sweep_seconds
        allowed = claim + sweep + sample.work_seconds
        took = None if sample.drained_at is None else sample.drained_at - sample.ended_at
        if took is None or took > allowed:
            found = "the backlog never drained" if took is None else f"the backlog took {took:.1f} s"
            detail = f"after {sample.fault}: {found}, expected at most {allowed:.1f} s"
            check.add(limit, "late", None, None, None, detail)
    return check
