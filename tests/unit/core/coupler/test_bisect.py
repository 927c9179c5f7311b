"""Isolation without a database: which commands are rejected, which lanes wait, and what happens to the others.

`couple` is replaced by one that fails as the test chooses, so that every path of the bisection can be taken; the
integration tests run the same paths on PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import log2
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import errors
from psycopg.pq import DiagnosticField

from levelq_core import LevelUp
from levelq_core.coupler import bisect as isolate
from levelq_core.coupler.apply import group_by_lane
from levelq_core.coupler.bisect import ATTEMPTS, PROBES, Isolation
from levelq_core.coupler.lane_batch import BatchInfo, Database, LaneBatch, Parked, RowsVanished, separate_parked
from levelq_core.coupler.screening import BATCHES, Remembered
from levelq_core.domain.rules import Decision
from tests.unit.core.coupler.test_fold import DATABASE

BAD_DATA = UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates")  # about the content, whatever the database
LOCKED = errors.lookup("55P03")("lock timeout")
TAKEN = errors.lookup("23505")("taken")  # without a table: a key of the application's own
RAISED = errors.lookup("P0001")("not this one")
APPLIED = Decision(None, "")


@dataclass
class Cursor:
    """Notes the statements; the connection is open."""

    executed: list[str] = field(default_factory=list)
    connection: Any = field(default_factory=lambda: SimpleNamespace(closed=False))

    def execute(self, statement: str) -> None:
        self.executed.append(statement)


Fails = Callable[[LaneBatch, Any], Exception | None]


@dataclass
class Run:
    """One isolated batch: what each attempt held, what was parked, what was decided."""

    works: list[LaneBatch]
    fails: Fails
    waits: bool = True
    decision: Decision = APPLIED
    attempts: list[list[Any]] = field(default_factory=list)
    parked: list[Parked] = field(default_factory=list)
    cursor: Cursor = field(default_factory=Cursor)

    def couple(self, _: Any, __: Database, works: Sequence[LaneBatch], *___: Any) -> None:
        self.attempts.append([record.xp for work in works for record in work.records])
        for work in works:
            for record in work.records:
                error = self.fails(work, record)
                if error is not None and work.rejection is None:
                    raise error
        for work in works:
            work.decisions = [work.rejection or self.decision for _ in work.records]

    def held(self, _: Any, __: Database, works: Sequence[LaneBatch]) -> list[LaneBatch]:
        return [w for w in works if any(self.fails(w, record) is LOCKED for record in w.records)]

    def go(self) -> Run:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(isolate, "couple", self.couple)
            patch.setattr(isolate, "locked_elsewhere", self.held)
            stamp = BatchInfo(b"", 0, "test")
            Isolation(self.cursor, DATABASE, stamp, parked=self.parked, waits=self.waits).run(self.works)  # type: ignore[arg-type]
        return self

    @property
    def waiting(self) -> list[LaneBatch]:
        return [lane.work for lane in self.parked]

    @property
    def waiting_users(self) -> list[int]:
        return [batch.lane.user_id for batch in self.waiting]

    @property
    def refused(self) -> set[int]:
        return {r.xp for w in self.works for r, d in zip(w.records, w.decisions, strict=False) if d.error is not None}

    @property
    def undecided(self) -> set[int]:
        return {record.xp for work in self.works for record in work.records[len(work.decisions) :]}


def works(*lanes: int) -> list[LaneBatch]:
    """Lanes with these numbers of commands; every command has a number of its own, its xp."""
    users = [user for user, count in enumerate(lanes, 1) for _ in range(count)]
    return group_by_lane(LevelUp(user_id=user, specialization="PLAYER", xp_gained=n) for n, user in enumerate(users))


def these(numbers: set[int], error: Exception) -> Fails:
    return lambda work, record: error if record.xp in numbers else None


def once(error: Exception) -> Fails:
    left = [error]
    return lambda work, record: left.pop() if left else None


def test_batch_without_a_fault_is_one_attempt() -> None:
    run = Run(works(2, 3), these(set(), BAD_DATA)).go()
    assert run.attempts == [[0, 1, 2, 3, 4]]
    assert run.cursor.executed == ["SAVEPOINT levelq", "RELEASE SAVEPOINT levelq"]


def test_lanes_run_in_lock_order_whatever_order_they_come_in() -> None:
    run = Run(list(reversed(works(1, 1, 1))), these(set(), BAD_DATA)).go()
    assert run.attempts == [[0, 1, 2]]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.data())
def test_exactly_the_commands_at_fault_are_refused(lanes: list[int], data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(0, sum(lanes) - 1), max_size=4))
    run = Run(works(*lanes), these(bad, BAD_DATA)).go()
    assert run.refused == bad
    assert not run.undecided
    assert not run.waiting


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_one_fault_is_found_by_bisection(lanes: int, each: int, data: st.DataObject) -> None:
    n = lanes * each
    bad = data.draw(st.integers(0, n - 1))
    run = Run(works(*[each] * lanes), these({bad}, BAD_DATA)).go()
    assert run.refused == {bad}
    assert len(run.attempts) - 2 <= 2 * log2(n)  # but the first attempt, and one to refuse it


def test_later_commands_of_a_lane_never_run_before_its_earlier_ones_are_decided() -> None:
    run = Run(works(8), these({1, 5}, BAD_DATA)).go()
    decided: set[int] = set()
    for attempt in run.attempts:
        assert set(range(attempt[0])) <= decided
        if not set(attempt) & {1, 5} or len(attempt) == 1:
            decided |= set(attempt)


def test_lane_locked_elsewhere_is_parked_and_the_others_go_on() -> None:
    run = Run(works(2, 2, 2), these({2}, LOCKED)).go()
    assert run.waiting_users == [2]
    assert run.undecided == {2, 3}
    assert run.waiting[0] is run.works[1]


@pytest.mark.parametrize("lanes", [(4,), (2, 4, 2)])
@given(data=st.data())
def test_every_lane_with_an_undecided_command_is_parked(lanes: tuple[int, ...], data: st.DataObject) -> None:
    """An acknowledgement must know every lane with undecided commands, or it would remove them."""
    numbers = st.sets(st.integers(0, sum(lanes) - 1), max_size=4)
    bad, held = data.draw(numbers, label="bad"), data.draw(numbers, label="held")

    run = Run(works(*lanes), lambda _, r: BAD_DATA if r.xp in bad else LOCKED if r.xp in held else None).go()
    outside = [work for work in run.works if not any(work is parked for parked in run.waiting)]
    assert all(len(work.decisions) == len(work.records) for work in outside)
    assert all(any(parked is work for work in run.works) for parked in run.waiting)
    for work in run.waiting:
        assert len(work.decisions) < len(work.records)
    for work in run.works:
        for record, decision in zip(work.records, work.decisions, strict=False):
            assert (decision.error is not None) is (record.xp in bad)
            assert record.xp not in held - bad


def test_lane_locked_behind_its_own_bad_command_is_parked() -> None:
    faults: dict[int, Exception] = {0: BAD_DATA, 1: LOCKED}
    run = Run(works(2), lambda _, record: faults.get(record.xp)).go()
    assert [work is run.works[0] for work in run.waiting] == [True]
    assert [decision.error for decision in run.works[0].decisions] == ["database_error"]


def test_lock_timeout_is_raised_where_the_caller_cannot_wait() -> None:
    with pytest.raises(errors.LockNotAvailable):
        Run(works(1, 1), these({1}, LOCKED), waits=False).go()


@pytest.mark.parametrize("state", ["40P01", "40001", "53300", "08006", "57014", "25P04"])
def test_transient_failure_and_timeout_are_raised_after_one_attempt(state: str) -> None:
    run = Run(works(2, 2), these({1}, errors.lookup(state)("?")))
    with pytest.raises(psycopg.Error):
        run.go()
    assert len(run.attempts) == 1
    assert run.cursor.executed == ["SAVEPOINT levelq", "ROLLBACK TO SAVEPOINT levelq"]


def test_nothing_more_is_executed_on_a_lost_connection() -> None:
    run = Run(works(1), these({0}, errors.lookup("57P01")("shutdown")))
    run.cursor.connection.closed = True
    with pytest.raises(errors.AdminShutdown):
        run.go()
    assert run.cursor.executed == ["SAVEPOINT levelq"]


def test_vanished_row_is_tried_again_and_then_raised() -> None:
    assert len(Run(works(1), once(RowsVanished())).go().attempts) == 2
    run = Run(works(1), these({0}, RowsVanished()), waits=False)
    with pytest.raises(RowsVanished):
        run.go()
    assert len(run.attempts) == ATTEMPTS


def test_lane_whose_row_vanishes_at_every_attempt_waits_alone() -> None:
    run = Run(works(1, 1, 1), these({1}, RowsVanished("left out"))).go()
    assert [(lane.work.lane.user_id, lane.reason, lane.locked) for lane in run.parked] == [(2, "left out", False)]
    assert run.undecided == {1}
    assert len(run.attempts) < 2 * ATTEMPTS


@given(st.lists(st.integers(1, 6), min_size=2, max_size=8), st.data())
def test_lanes_with_an_unproven_error_are_parked_from_that_command_on(lanes: list[int], data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(0, sum(lanes) - 1), max_size=4))
    run = Run(works(*lanes), these(bad, RAISED))
    firsts = {min(numbers & bad) for work in run.works if (numbers := {r.xp for r in work.records}) & bad}
    if all(work.records[0].xp in bad for work in run.works):
        with pytest.raises(errors.RaiseException):
            run.go()
        return
    run.go()
    assert {work.records[len(work.decisions)].xp for work in run.waiting} == firsts
    assert run.undecided == {record.xp for work in run.waiting for record in work.records[len(work.decisions) :]}
    assert {(lane.reason, lane.locked) for lane in run.parked} <= {("not this one", False)}
    assert not run.refused


@settings(deadline=None)
@given(st.integers(2, 40), st.integers(1, 40), st.data())
def test_one_parked_lane_is_found_by_bisection(lanes: int, each: int, data: st.DataObject) -> None:
    n = lanes * each
    bad = data.draw(st.integers(0, n - 1))
    run = Run(works(*[each] * lanes), these({bad}, RAISED)).go()
    assert run.waiting_users == [1 + bad // each]
    assert len(run.attempts) - 1 <= 2 * log2(n)


def test_error_of_every_lane_is_raised_after_few_attempts() -> None:
    run = Run(works(*[1] * 1024), these(set(range(1024)), RAISED))
    with pytest.raises(errors.RaiseException):
        run.go()
    assert len(run.attempts) <= 2 * 10 + 1 + 2 * PROBES


def test_only_lane_of_a_batch_is_parked_if_the_caller_can_wait() -> None:
    run = Run(works(3), these({0}, RAISED)).go()
    assert [(lane.work is run.works[0], lane.reason) for lane in run.parked] == [(True, "not this one")]
    with pytest.raises(errors.RaiseException):
        Run(works(3), these({0}, RAISED), waits=False).go()


def test_only_lane_of_a_batch_is_not_to_blame_for_a_missing_table() -> None:
    with pytest.raises(errors.UndefinedTable):
        Run(works(3), these({0, 1, 2}, errors.lookup("42P01")("no such table"))).go()


def test_single_command_is_tried_again_before_its_lane_is_parked() -> None:
    """Its statements may have been prepared for the tables as they were."""
    run = Run(works(1), once(errors.lookup("0A000")("cached plan must not change result type"))).go()
    assert (len(run.attempts), run.parked) == (2, [])


def test_commands_answered_from_the_ledger_do_not_show_that_the_database_works() -> None:
    run = Run(works(1, 1), these({1}, RAISED), decision=APPLIED._replace(duplicate=True))
    with pytest.raises(errors.RaiseException):
        run.go()


def test_unique_constraint_of_the_application_parks_its_lane() -> None:
    run = Run(works(1, 1, 1), these({1}, TAKEN)).go()
    assert [(lane.work.lane.user_id, lane.reason) for lane in run.parked] == [(2, "taken")]


def test_key_that_never_yields_is_retried_once_only() -> None:
    error = errors.lookup("23505")("taken", info={DiagnosticField.TABLE_NAME: b"user_licenses"})
    run = Run(works(*[1] * 64), these({5}, error)).go()
    assert run.waiting_users == [6]
    assert len(run.attempts) <= ATTEMPTS + 2 * 6


# Lanes that were parked before


def parked_before(works: list[LaneBatch], *users: int) -> list[LaneBatch]:
    for work in works:
        work.was_parked = work.lane.user_id in users
    return works


def cut(count: int, *users: int) -> list[list[int]]:
    return [
        [work.lane.user_id for work in part] for part in separate_parked(parked_before(works(*[1] * count), *users))
    ]


def test_lanes_that_were_parked_before_are_parts_of_their_own() -> None:
    assert cut(3) == [[1, 2, 3]]
    assert cut(6, 3, 4) == [[1, 2], [3], [4], [5, 6]]


def test_batch_of_lanes_that_mostly_were_parked_before_is_one_part() -> None:
    assert cut(3, 1, 2) == [[1, 2, 3]]


@given(st.sets(st.integers(1, 30)), st.integers(1, 30))
def test_parts_keep_every_lane_in_lock_order(users: set[int], count: int) -> None:
    assert [user for part in cut(count, *users) for user in part] == list(range(1, count + 1))


def test_lanes_that_were_parked_before_do_not_prove_an_error_of_the_database() -> None:
    """All still fail and no other lane is there to pass: they are parked again, and nothing is raised."""
    run = Run(parked_before(works(*[1] * 64), *range(1, 65)), these(set(range(64)), RAISED)).go()
    assert run.waiting_users == list(range(1, 65))
    assert len(run.attempts) <= 2 * 64


def test_only_lane_that_was_not_parked_before_counts_as_alone_in_its_batch() -> None:
    run = Run(parked_before(works(2, 2, 2), 1, 3), these(set(range(6)), RAISED)).go()
    assert run.waiting_users == [1, 2, 3]


def test_error_of_every_lane_that_was_not_parked_before_is_raised_as_theirs() -> None:
    other = errors.lookup("2200H")("nextval: reached maximum value of sequence")
    run = Run(parked_before(works(1, 1, 1), 1), lambda work, _: RAISED if work.was_parked else other)
    with pytest.raises(errors.SequenceGeneratorLimitExceeded):
        run.go()


def test_one_lane_that_passes_is_found_among_hundreds_that_were_parked_before() -> None:
    run = Run(parked_before(works(*[1] * 512), *range(1, 510)), these(set(range(511)), RAISED)).go()
    assert run.waiting_users == list(range(1, 512))
    assert [d.error for d in run.works[-1].decisions] == [None]


# Checks that refused commands before


def test_check_is_forgotten_after_many_batches_without_a_refusal() -> None:
    remembered, error = Remembered(), errors.CheckViolation("no")
    remembered.note("t.c", error, refused=True)
    for _ in range(BATCHES - 1):
        remembered.note("t.c", error, refused=False)
    assert remembered.errors() == {"t.c": error}
    remembered.note("t.c", error, refused=False)
    assert remembered.errors() == {}
    remembered.note("t.never", error, refused=False)
    assert remembered.errors() == {}
