"""The database's part of a verification, in short snapshots: of a page of ids, or of a range of users.

A short snapshot holds up no VACUUM, and what it loads fits into memory. The snapshots may be of different moments: all
rows of a lane are of one user. Checks that span users (a batch, a command that was never sent) read the ledger in pages
by id.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from . import command_checks as commands
from . import table_checks as tables
from . import temp_tables as temp
from .ranges import FIRST, LAST, Scope, Users, next_id, next_users
from .report import Check, Query

# Sorts of a range stay in memory; plans are made for the given values; tables are read by their indexes, if they exist.
_SETTINGS = (
    "SELECT set_config('work_mem', '64MB', true), set_config('plan_cache_mode', 'force_custom_plan', true), "
    "set_config('jit', 'off', true), set_config('enable_seqscan', 'off', true)"
)


class Passes:
    """Runs all queries, range by range, and adds what they find to `checks`.

    `history`: sends were recorded. `foreign_writes`, `limit`: see Options.
    """

    def __init__(
        self, connection: Connection, scope: Scope, *, history: bool, foreign_writes: bool, limit: int
    ) -> None:
        self._connection = connection
        self._scope = scope
        self._history = history
        self._foreign_writes = foreign_writes
        self._limit = limit
        self._checks: dict[str, Check] = {}
        first = (*commands.SENT_CHECKS, commands.UNEXPECTED) if history else ()
        for query in (*first, *tables.ROW_CHECKS, *tables.RANGE_CHECKS, tables.BATCHES):
            self._check(query)

    @property
    def checks(self) -> list[Check]:
        """What was found so far."""
        return list(self._checks.values())

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A transaction that sees one moment, and changes only temporary tables."""
        with self._connection.begin():
            self._execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            self._execute(_SETTINGS)
            yield

    def group_history(self, horizon: datetime) -> datetime | None:
        """Group the history by command; returns when it begins."""
        back, more = None, True
        while more:
            with self.snapshot():
                upto = self._execute(temp.NEXT_COMMAND, back=back, rows=self._scope.rows).scalar_one_or_none()
                self._execute(temp.FILL_IDS, back=back, upto=upto, horizon=horizon.timestamp())
            back, more = upto, upto is not None
        with self._connection.begin():
            temp.index(self._connection, temp.IDS, "user_id", "command_id")
            if self._scope.since:
                self._execute(f"INSERT INTO {temp.TOUCHED} SELECT user_id, 1 FROM {temp.IDS}")
            begun: datetime | None = self._execute(temp.BEGUN).scalar_one()
        return begun

    def by_id(self, partial: bool, begun: datetime | None) -> None:
        """Run the checks that span users, over the ledger in the order of its ids."""
        scope = self._scope
        back = before = scope.after
        while before < scope.last:
            with self.snapshot():
                upto = next_id(self._connection, before, scope)
                page = {"back": back, "before": before, "upto": upto}
                self.run(tables.BATCHES, **page)
                if self._history:
                    self.run(commands.UNEXPECTED, **page, partial=partial or begun is None, begun=begun)
                if scope.since:
                    self._execute(temp.TOUCH, **page)
            back, before = before, upto
        if scope.since:
            with self._connection.begin():
                temp.index(self._connection, temp.TOUCHED, "user_id")
        if not scope.unique:
            with self.snapshot():
                self.run(tables.TWICE_ANYWHERE)

    def by_user(self) -> None:
        """Run the checks of rows, for a range of users at a time."""
        low = FIRST
        while low < LAST:
            with self.snapshot():
                users = next_users(self._connection, low, self._scope)
                self._check_users(users)
            low = users.high

    def _check_users(self, users: Users) -> None:
        since, values = self._scope.since, {"low": users.low, "high": users.high, "after": self._scope.after}
        if users.crowded:
            for (specialization,) in self._execute(temp.LANES_OF_USER, **values).all():
                self._check_rows(temp.LANE_ROWS, {**values, "user": users.high, "specialization": specialization})
        else:
            self._execute(temp.fill_rows(since), **values)
            self._check_rows(temp.ROWS, values)
        self._execute(temp.fill_pairs(since), **values)
        if since:
            self._execute(temp.FILL_EARLIER_GAPS, **values)
        self._execute(temp.FILL_LAST_GAPS, **values)
        if self._history:
            self._execute(temp.FILL_SENT, **values)
        for query in (*tables.RANGE_CHECKS, *(commands.SENT_CHECKS if self._history else ())):
            self.run(query, **values)

    def _check_rows(self, source: str, values: dict[str, Any]) -> None:
        for fill in (temp.FILL_LANES, temp.FILL_CHANGES, temp.FILL_GAPS):
            self._execute(fill.replace(temp.ROWS, source), **values)
        for query in tables.ROW_CHECKS:
            if query is not tables.TWICE or self._scope.unique:
                cases, wrong = (sql.replace(temp.ROWS, source) for sql in (query.cases, query.wrong))
                self.run(query._replace(cases=cases, wrong=wrong), **values)

    def run(self, query: Query, **values: Any) -> None:
        """Run one query, and add what it finds to its check."""
        check = self._check(query)
        check.checked += int(self._execute(query.cases, **values).scalar_one())
        wrong = f"SELECT count(*) OVER (), found.* FROM ({query.wrong}) AS found LIMIT :limit"
        rows = self._execute(wrong, **values, limit=self._limit).all()
        before = check.found
        for _, user_id, specialization, command_id, verdict, detail in rows:
            check.add(self._limit, verdict, user_id, specialization, command_id, detail)
        check.found = before + (rows[0][0] if rows else 0)

    def _execute(self, statement: str, **values: Any) -> Any:
        return self._connection.execute(text(statement), values)

    def _check(self, query: Query) -> Check:
        note = query.note or (query.foreign and self._foreign_writes)
        return self._checks.setdefault(query.what, Check(query.invariant, query.what, note=note, hint=query.hint))
