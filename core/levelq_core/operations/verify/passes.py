"""The database's part of a verification, in short snapshots: of a page of ids, or of a range of users.

A short snapshot holds up no VACUUM, and what it loads fits into memory. The snapshots may be of different moments: all
rows of a lane are of one user. Checks that span users (a batch, a command that was never sent) read the ledger in pages
by id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

from levelq_core.database.schema import LEDGER

from . import command_checks as questions
from . import table_checks as tables
from .command_checks import Question
from .ranges import FIRST, LAST, Users, next_id, next_users
from .report import Check
from .rows import (
    FILL_CHANGES,
    FILL_EARLIER_GAPS,
    FILL_GAPS,
    FILL_LANES,
    FILL_LAST_GAPS,
    LANE_ROWS,
    LANES_OF_USER,
    ROWS,
    TOUCHED,
    fill_pairs,
    fill_rows,
)
from .temp_tables import IDS, index

_HISTORY_QUESTIONS = (questions.LOST, questions.RECOVERED, questions.ORDER)
# Sorts of a range stay in memory; plans are made for the given values; tables are read by their indexes, if they exist.
_SETTINGS = (
    "SELECT set_config('work_mem', '64MB', true), set_config('plan_cache_mode', 'force_custom_plan', true), "
    "set_config('jit', 'off', true), set_config('enable_seqscan', 'off', true)"
)
_TOUCH = f"""
    INSERT INTO {TOUCHED} SELECT user_id, count(*) FROM {LEDGER}
    WHERE id > :before AND id <= :upto AND user_id > 0 GROUP BY user_id
"""


@dataclass(frozen=True)
class Scope:
    """What is verified.

    `after`, `last`: the ledger rows with greater ids, up to the greatest id when the lanes had been read. `rows`: how
    many rows a range has. `since`: only users with such ledger rows. `unique`: the ledger's unique constraint exists.
    `history`: sends were recorded. `foreign_writes`, `limit`: see Options.
    """

    after: int
    last: int
    rows: int
    since: bool
    unique: bool
    history: bool
    foreign_writes: bool
    limit: int


class Passes:
    """Asks all questions, range by range, and adds what they find to `checks`."""

    def __init__(self, connection: Connection, scope: Scope) -> None:
        self._connection = connection
        self._scope = scope
        self._checks: dict[str, Check] = {}
        first = (*_HISTORY_QUESTIONS, questions.UNEXPECTED) if scope.history else ()
        for question in (*first, *tables.ROW_QUESTIONS, *tables.RANGE_QUESTIONS, tables.BATCHES):
            self._check(question)

    @property
    def checks(self) -> list[Check]:
        """What was found so far."""
        return list(self._checks.values())

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A transaction that sees one moment, and changes only temporary tables."""
        with self._connection.begin():
            self._connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            self._connection.execute(text(_SETTINGS))
            yield

    def group_history(self, horizon: datetime) -> datetime | None:
        """Group the history by command; returns when it begins."""
        back, horizon_at = None, horizon.timestamp()
        more = True
        while more:
            with self.snapshot():
                page = {"back": back, "rows": self._scope.rows}
                upto = self._connection.execute(text(questions.NEXT_COMMAND), page).scalar_one_or_none()
                values = {"back": back, "upto": upto, "horizon": horizon_at}
                self._connection.execute(text(questions.FILL_IDS), values)
            back, more = upto, upto is not None
        with self._connection.begin():
            index(self._connection, IDS, "user_id", "command_id")
            if self._scope.since:
                self._connection.execute(text(f"INSERT INTO {TOUCHED} SELECT user_id, 1 FROM {IDS}"))
            begun: datetime | None = self._connection.execute(text(questions.BEGUN)).scalar_one()
        return begun

    def by_id(self, partial: bool, begun: datetime | None) -> None:
        """Ask the questions that span users, over the ledger in the order of its ids."""
        scope = self._scope
        back = before = scope.after
        while before < scope.last:
            with self.snapshot():
                upto = next_id(self._connection, before, scope.last, scope.rows)
                page = {"back": back, "before": before, "upto": upto}
                self.ask(tables.BATCHES, **page)
                if scope.history:
                    self.ask(questions.UNEXPECTED, **page, partial=partial or begun is None, begun=begun)
                if scope.since:
                    self._connection.execute(text(_TOUCH), page)
            back, before = before, upto
        if scope.since:
            with self._connection.begin():
                index(self._connection, TOUCHED, "user_id")
        if not scope.unique:
            with self.snapshot():
                self.ask(tables.TWICE_ANYWHERE)

    def by_user(self) -> None:
        """Ask the questions about rows, for a range of users at a time."""
        low = FIRST
        while low < LAST:
            with self.snapshot():
                users = next_users(self._connection, low, self._scope.rows, since=self._scope.since)
                self._ask_about(users)
            low = users.high

    def _ask_about(self, users: Users) -> None:
        since, values = self._scope.since, {"low": users.low, "high": users.high, "after": self._scope.after}
        if users.crowded:
            for (specialization,) in self._connection.execute(text(LANES_OF_USER), values).all():
                self._ask_about_rows(LANE_ROWS, {**values, "user": users.high, "specialization": specialization})
        else:
            self._fill(fill_rows(since), values)
            self._ask_about_rows(ROWS, values)
        self._fill(fill_pairs(since), values)
        if since:
            self._fill(FILL_EARLIER_GAPS, values)
        self._fill(FILL_LAST_GAPS, values)
        for question in tables.RANGE_QUESTIONS:
            self.ask(question, **values)
        if self._scope.history:
            self._fill(questions.FILL_SENT, values)
            for question in _HISTORY_QUESTIONS:
                self.ask(question, **values)

    def _ask_about_rows(self, source: str, values: dict[str, Any]) -> None:
        for fill in (FILL_LANES, FILL_CHANGES, FILL_GAPS):
            self._fill(fill.replace(ROWS, source), values)
        for question in tables.ROW_QUESTIONS:
            if question is not tables.TWICE or self._scope.unique:
                read = question._replace(
                    checked=question.checked.replace(ROWS, source), find=question.find.replace(ROWS, source)
                )
                self.ask(read, **values)

    def _fill(self, statement: str, values: dict[str, Any]) -> None:
        self._connection.execute(text(statement), values)

    def ask(self, question: Question, **values: Any) -> None:
        """Ask one question, and add what it finds to its check."""
        check = self._check(question)
        check.checked += int(self._connection.execute(text(question.checked), values).scalar_one())
        find = text(f"SELECT count(*) OVER (), found.* FROM ({question.find}) AS found LIMIT :limit")
        rows: Sequence[Any] = self._connection.execute(find, {**values, "limit": self._scope.limit}).all()
        before = check.found
        for _, user_id, specialization, command_id, verdict, detail in rows:
            check.add(self._scope.limit, verdict, user_id, specialization, command_id, detail)
        check.found = before + (rows[0][0] if rows else 0)

    def _check(self, question: Question) -> Check:
        note = question.note or (question.foreign and self._scope.foreign_writes)
        made = Check(question.invariant, question.what, note=note, hint=question.hint)
        return self._checks.setdefault(question.what, made)
