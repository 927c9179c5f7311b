"""Repair a whole database: in small transactions, at a bounded rate, resumably.

Nothing is remembered between two runs: what is repaired is no longer found. Levels and missing rows go through the
coupler as SyncLevels commands, which compare the pair again under its locks, write the ledger and the progressions, and
keep `max_achieved_level`. Workers and other code may run meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from levelq_core.coupler.apply import Decided, decide
from levelq_core.database.schema import forget, read
from levelq_core.database.sqlstate import (
    ErrorClass,
    classify,
    driver_error,
    in_words,
    names_what_is_not_there,
    sqlstate_of,
)
from levelq_core.domain.commands import SyncLevels
from levelq_core.domain.record import SOURCES
from levelq_core.lanes.parked import cause_of
from levelq_core.operations import audit
from levelq_core.operations.connections import limit_act
from levelq_core.settings import Settings

from . import table_repairs
from .plan import Planner, RepairPlan
from .repairs import Policy
from .table_repairs import Faulty, TableRepair

BATCH = 500  # pairs or users in one transaction
RATE = 2_000  # pairs or rows repaired in a second, unless another rate is given

T = TypeVar("T")
_NO_RIGHT, _MADE_ALREADY = "42501", "42P07"
Step = Callable[[int], None]  # told after each transaction how many pairs or rows were repaired in it

# As in a worker's batch: pairs are found by index, where the planner might read a whole table.
_BY_INDEX = text("SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)")


@dataclass
class Repaired:
    """What a run did: how many of each kind, how many failed for each reason, and how long it took."""

    repaired: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """How many pairs and rows were repaired."""
        return sum(self.repaired.values())

    def detail(self) -> dict[str, Any]:
        """For the audit: numbers only, because a message of the database may name a user."""
        return {**self.repaired, "failed": sum(self.failed.values())}


class Adoption:
    """Plans and repairs. `names`: only pairs of these specializations; then rows of the tables are left as they are.

    `rate`: how many pairs or rows are repaired in a second, at most. `rows`: whether to repair misspelt rows and
    several rows of a pair, too. `audited`: the action and the target of the line in the audit; `actor`: who acts,
    unless it is the account of this process. Raises DBAPIError, SchemaError.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        source: Policy = "higher",
        *,
        names: Sequence[str] | None = None,
        rate: int = RATE,
        rows: bool = True,
        audited: tuple[str, str] = ("adopt", "everything"),
        actor: str | None = None,
    ) -> None:
        self._engine, self._settings, self._policy, self._rows = engine, settings, source, rows
        self._planner = Planner(engine, settings.tracks, source, names)
        self._rate, self._batch = rate, max(1, min(BATCH, rate // 2))
        self._source, self._line = audited[0], audit.RunLine(*audited, actor=actor)
        self._written = False

    def plan(self) -> RepairPlan:
        """What there is to repair. Changes nothing."""
        return self._planner.plan(rows=self._rows)

    def run(self, step: Step = lambda repaired: None) -> Repaired:
        """Repair it. What was committed before an error stays, and the next run goes on there."""
        self._done, self._step, begun = Repaired(), step, time.monotonic()
        if self._rows:
            self._repair_tables()
        with self._engine.connect() as connection:
            missing = read(connection).missing()
        if missing:  # without its unique constraints a table takes no commands
            self._fail(f"{'; '.join(missing)}: `levelq db check` prints the statements that fix it", 1)
        else:
            self._repair_pairs()
        if self._written and self._done.failed:
            with self._engine.begin() as connection:
                self._line.write(connection, self._done.detail())
        self._done.seconds = time.monotonic() - begun
        return self._done

    def _repair_tables(self) -> None:
        with self._engine.connect() as connection:
            schema = read(connection)
            found = list(table_repairs.find(connection, schema, self._settings.tracks))
        for repair in found:
            for some in _parts(repair.faulty, self._batch):
                self._repair_rows(repair, some)
        with self._engine.connect() as connection:
            indexes = table_repairs.index_statements(connection, read(connection))
        for statements in indexes.values():
            if not statements[-1].startswith("--"):
                self._make_index(statements)
        forget(self._engine)

    def _repair_rows(self, repair: TableRepair, some: Sequence[Faulty]) -> None:
        """In one transaction; if that fails, each half by itself, so that only the rows at fault are left."""
        failed = dict(self._done.failed)
        with self._transaction(repair.kind, sum(faulty.rows for faulty in some), by_index=False) as connection:
            repair.run(connection, [faulty.user_id for faulty in some])
        if self._done.failed != failed and len(some) > 1:
            self._done.failed = failed
            for half in _parts(some, (len(some) + 1) // 2):
                self._repair_rows(repair, half)

    def _make_index(self, statements: Sequence[str]) -> None:
        """Run these outside a transaction, unless writers wait for it: then it waits for them as briefly as a batch."""
        blocks = table_repairs.blocks_writers(statements)
        connected = self._engine.begin() if blocks else self._engine.connect()
        try:
            with connected as connection:
                if blocks:
                    limit_act(connection, lock_ms=self._settings.lock_ms, statement_ms=0)
                else:
                    connection.execution_options(isolation_level="AUTOCOMMIT")
                for statement in statements:
                    connection.exec_driver_sql(statement)
        except DBAPIError as error:
            self._failed(error, 1, _NO_RIGHT, _MADE_ALREADY)  # only the owner may; another adoption may have done it
        else:
            with self._transaction("no_constraint", 1):
                pass

    def _repair_pairs(self) -> None:
        with self._engine.connect() as connection:
            schema = read(connection)
        for _, differing in self._planner.differing(schema):
            commands = [repair.command for _, repair in differing if repair.command is not None]
            for some in _parts(commands, self._batch):
                self._apply(some)

    def _apply(self, commands: Sequence[SyncLevels]) -> None:
        """Apply these in one transaction; what cannot be applied is counted by its reason, and left."""
        with self._transaction("pairs", len(commands)) as connection:
            decided = self._decide(connection, commands)
            refused = [each.outcome.message for each in decided if each.outcome.error is not None]
            for message in refused:
                self._fail(cause_of(message), 1)
            self._count("pairs", -len(refused))

    def _decide(self, connection: Connection, commands: Sequence[SyncLevels]) -> list[Decided]:
        """Decide these, `higher` under the locks, too: other code may have raised the other side since."""
        while True:
            compared = connection.begin_nested()
            decided = decide(connection, commands, catalog=self._settings.tracks, source=self._source, waits=True)
            lowered = {each.outcome.command_id for each in decided if self._policy == "higher" and _lowers(each)}
            if not lowered:
                compared.commit()
                return decided
            compared.rollback()  # which releases the locks as well, so look again
            commands = [_other_side(each) if each.command_id in lowered else each for each in commands]

    @contextmanager
    def _transaction(self, kind: str, number: int, *, by_index: bool = True) -> Iterator[Connection]:
        """A transaction that repairs this many, and writes that into the audit; then a rest, for the rate.

        An error rolls it back and is counted, unless every transaction would get it.
        """
        begun = time.monotonic()
        before = self._done.repaired.get(kind, 0), dict(self._done.failed)
        try:
            with self._engine.begin() as connection:
                self._limit(connection, by_index)
                self._count(kind, number)
                yield connection
                self._line.write(connection, self._done.detail())
        except DBAPIError as error:
            self._done.repaired[kind], self._done.failed = before
            self._failed(error, number)
        else:
            self._written = True
        done = self._done.repaired.get(kind, 0) - before[0]
        self._step(done)
        time.sleep(max(0.0, number / self._rate - (time.monotonic() - begun)))

    def _limit(self, connection: Connection, by_index: bool) -> None:
        """What other code has locked is left for the next run."""
        settings = self._settings
        limit_act(connection, lock_ms=settings.lock_ms, statement_ms=settings.statement_ms if by_index else 0)
        if by_index:
            connection.execute(_BY_INDEX)

    def _count(self, kind: str, number: int) -> None:
        self._done.repaired[kind] = self._done.repaired.get(kind, 0) + number

    def _fail(self, why: str, number: int) -> None:
        self._done.failed[why] = self._done.failed.get(why, 0) + number

    def _failed(self, error: DBAPIError, number: int, *states: str) -> None:
        """Count an error of these rows, or with one of these states; raise what every transaction would get."""
        state, cause = sqlstate_of(error) or "", driver_error(error)
        transient = classify(error) is ErrorClass.TRANSIENT and not state.startswith("40")  # not of a deadlock
        if state not in states and (transient or names_what_is_not_there(cause)):
            raise error
        self._fail(in_words(error), number)


def _lowers(decided: Decided) -> bool:
    """Whether it lowered a level."""
    before, to_level = decided.outcome.before, decided.outcome.to_level
    return before is not None and to_level is not None and to_level < max(before.progress_level, before.license_level)


def _other_side(command: SyncLevels) -> SyncLevels:
    return command.model_copy(update={"source": SOURCES[1 - SOURCES.index(command.source)]})


def _parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[begin : begin + size] for begin in range(0, len(items), size))
