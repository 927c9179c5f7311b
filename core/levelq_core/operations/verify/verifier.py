"""One verification from beginning to end.

The order of the steps makes it safe while traffic flows. A command is in its lane from its push until after the commit
that decides it. So the history is read first, then the lanes, then the database, in any number of snapshots: what was
acknowledged and is in neither was lost. The history's newer lines are read before the ledger (what is decided was
intended before), and the ledger up to the greatest id when the lanes had been read. Then the lanes are read once more:
what left them must be decided by now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from redis import Redis
from sqlalchemy import Connection, Engine, text

from levelq_core.database.schema import LEDGER, REQUIRED, Schema, read
from levelq_core.errors import SchemaError
from levelq_core.lanes.client import Lanes
from levelq_core.operations.identity import require_bound
from levelq_core.settings import Settings

from . import command_checks
from .lane_checks import Watch, again
from .passes import Passes
from .ranges import BEGINNING, scope_of
from .report import Check, Report
from .send_log import Reader, Recovery
from .temp_tables import HISTORY, LATER, STANDING, index, load_entries, load_history, workspace

STEPS = ("history", "lanes", "snapshot", "lanes again")
_PAGE = 10_000  # lanes that are read again in one go


@dataclass(frozen=True)
class Options:
    """How to verify.

    `history`: recorded sends; order is judged within each file. `at_rest`: nothing may wait any more.
    `foreign_writes`: an application's code writes to the tables, too, so what that explains is only noted.
    `partial_history`: others sent, too, without recording it. `horizon`: sends before it are ignored, because the
    ledger may have been pruned. `limit`: examples kept per check. `since`: only ledger rows decided since then, and
    the rows of the users they touched; None for all. `range_rows`: rows of each table that one snapshot reads.
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
    """The tables and columns must exist. Constraints need not: the checks find what they would prevent."""
    with connection.begin():
        schema = read(connection)
    required = [(table, name) for table, names in REQUIRED.items() for name in names]
    lacking = [f"{table}.{name}" for table, name in required if name not in schema.columns.get(table, ())]
    if lacking:
        raise SchemaError(f"missing: {', '.join(lacking)}. `levelq db check` prints the statements that fix it")
    return schema


@dataclass
class _Verification:
    connection: Connection
    redis: Redis
    settings: Settings
    options: Options
    schema: Schema
    step: Callable[[str], None]
    report: Report = field(default_factory=Report)
    recoveries: list[Recovery] = field(default_factory=list)

    def run(self) -> Report:
        """All steps, in the order that the module's docstring explains."""
        reader = Reader(self.options.history)
        self.step("history")
        self._read_history(reader, late=False)
        self.step("lanes")
        self._read_lanes()
        self.step("snapshot")
        passes = self._passes()
        self._read_database(passes, reader)
        self.step("lanes again")
        self._read_lanes_again(passes)
        self.report.extend(passes.checks)
        if self.options.history:
            self.report.extend([_bounded(self.recoveries, self.settings, self.options.limit)])
        return self.report

    def _read_history(self, reader: Reader, *, late: bool) -> None:
        with self.connection.begin():
            self.recoveries += load_history(self.connection, reader.new(), late=late)
            if not late:
                index(self.connection, HISTORY, "command_id")

    def _read_lanes(self) -> None:
        watch = Watch(Lanes(self.redis, self.settings), self.settings, self.options.limit)
        with self.connection.begin():
            load_entries(self.connection, STANDING, watch.entries())
            index(self.connection, STANDING, "command_id")
        self.report.extend(watch.checks(at_rest=self.options.at_rest))

    def _passes(self) -> Passes:
        """What to check, as the database is now that the lanes have been read."""
        options = self.options
        with self.connection.begin():
            unique = self.schema.has_key(LEDGER)
            scope = scope_of(self.connection, options.since, options.range_rows, unique=unique)
        slow = "an index is missing, so users were read in a few large ranges, with temporary files"
        self.report.remarks += [f"{slow}: {statement}" for statement in scope.slow]
        history, foreign = bool(options.history), options.foreign_writes
        return Passes(self.connection, scope, history=history, foreign_writes=foreign, limit=options.limit)

    def _read_database(self, passes: Passes, reader: Reader) -> None:
        options = self.options
        begun = None
        if options.history:
            self._read_history(reader, late=True)
            begun = passes.group_history(max(options.horizon or BEGINNING, options.since or BEGINNING))
        passes.by_id(options.partial_history, begun)
        passes.by_user()
        with passes.snapshot():
            if options.at_rest:
                passes.run(command_checks.OUTBOX_EMPTY)
            if options.history:
                passes.run(command_checks.STALE)

    def _read_lanes_again(self, passes: Passes) -> None:
        with self.connection.begin():
            for page in self._undecided():
                load_entries(self.connection, LATER, again(self.redis, self.settings.keys, page))
            index(self.connection, LATER, "sha256")
        with passes.snapshot():
            passes.run(command_checks.REMOVED)

    def _undecided(self) -> Iterator[list[tuple[str, bytes]]]:
        """The lanes that held something undecided, page by page."""
        partition, lane = "", b""
        while True:
            after = {"partition": partition, "lane": lane, "page": _PAGE}
            page = [(row[0], row[1]) for row in self.connection.execute(text(command_checks.UNDECIDED), after)]
            if not page:
                return
            partition, lane = page[-1]
            yield page


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
