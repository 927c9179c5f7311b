"""One verification from beginning to end.

The order is what makes it safe while traffic flows. A command is in its lane from its push until after
the commit that decides it. So: first the history, then the lanes, then one snapshot of the database: what
was acknowledged and is in neither was lost. Then the history's newer lines (what is decided was intended
before) and once more the lanes: what went meanwhile must be decided by now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redis import Redis
from sqlalchemy import Connection, Engine, text

from ..errors import SchemaError
from ..identity import require_bound
from ..lanes import Lanes
from ..schema import REQUIRED, read
from ..settings import Settings
from . import questions, tables
from .history import Reader, Recovery
from .loading import HISTORY, IDS, LANES, LATER, STANDING, index, load_entries, load_history, workspace
from .questions import Question
from .report import Check, Report
from .standing import partitions
from .watching import Watch, again

STEPS = ("history", "lanes", "snapshot", "lanes again")
_PAGE = 10_000  # lanes to look at again, asked for at a time
_BEGINNING = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True)
class Options:
    """How to verify.

    `history`: recorded sends; order is judged within each file. `at_rest`: nothing may wait any more.
    `foreign_writes`: an application's code writes to the tables, too, so what that explains is only noted.
    `partial_history`: others sent, too, without recording it. `horizon`: sends before it are not looked
    for, because the ledger may have been pruned. `limit`: examples kept per check.
    """

    history: Sequence[Path] = ()
    at_rest: bool = False
    foreign_writes: bool = False
    partial_history: bool = False
    horizon: datetime | None = None
    limit: int = 100


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
        _require(connection)
        with connection.begin():
            require_bound(connection, Lanes(redis, settings))
        with workspace(connection):
            return _Verification(connection, redis, settings, options, step).run()


def _require(connection: Connection) -> None:
    """The tables and columns must be there; constraints need not, as what they prevent is looked for."""
    with connection.begin():
        found = read(connection).columns
    lacking = [
        f"{table}.{name}" for table, names in REQUIRED.items() for name in names if name not in found.get(table, ())
    ]
    if lacking:
        raise SchemaError(f"missing: {', '.join(lacking)}. `levelq db check` prints the statements that mend it")


class _Verification:
    def __init__(
        self, connection: Connection, redis: Redis, settings: Settings, options: Options, step: Callable[[str], None]
    ) -> None:
        self._connection = connection
        self._redis = redis
        self._settings = settings
        self._options = options
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
        self._ask_the_snapshot()
        self._step("lanes again")
        self._read_lanes_again()
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

    def _ask_the_snapshot(self) -> None:
        connection, options = self._connection, self._options
        with connection.begin():
            connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            connection.execute(text("SET LOCAL work_mem = '64MB'"))
            connection.execute(text(tables.FILL_LANES))
            connection.execute(text(f"ANALYZE {LANES}"))
            for question in tables.QUESTIONS:
                self._ask(question)
            if options.at_rest:
                self._ask(questions.OUTBOX_EMPTY)
            if options.history:
                self._ask_about_the_history()

    def _ask_about_the_history(self) -> None:
        connection, options = self._connection, self._options
        self._recoveries += load_history(connection, self._reader.new(), late=True)
        horizon = (options.horizon or _BEGINNING).timestamp()
        connection.execute(text(questions.FILL_IDS), {"horizon": horizon})
        connection.execute(text(f"ANALYZE {IDS}"))
        for question in (questions.LOST, questions.RECOVERED, questions.ORDER, questions.STALE):
            self._ask(question)
        self._ask(questions.UNEXPECTED, partial=options.partial_history)

    def _read_lanes_again(self) -> None:
        with self._connection.begin():
            for page in self._undecided():
                load_entries(self._connection, LATER, again(self._redis, self._settings.keys, page))
            index(self._connection, LATER, "sha256")
        with self._connection.begin():
            self._ask(questions.REMOVED)

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

    def _ask(self, question: Question, **parameters: Any) -> None:
        note = question.note or (question.foreign and self._options.foreign_writes)
        check = Check(question.invariant, question.what, note=note)
        check.checked = int(self._connection.execute(text(question.checked)).scalar_one())
        find = text(f"SELECT count(*) OVER (), found.* FROM ({question.find}) AS found LIMIT :limit")
        for total, *rest in self._connection.execute(find, {"limit": self._options.limit, **parameters}):
            user_id, specialization, command_id, verdict, detail = rest
            check.add(self._options.limit, verdict, user_id, specialization, command_id, detail)
            check.found = total
        self._report.extend([check])


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
