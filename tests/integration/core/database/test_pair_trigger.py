"""The triggers of `levelq db enforce`: in every order of two transactions' steps, no drift is committed."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import combinations

import psycopg
import pytest
from psycopg import AsyncConnection
from sqlalchemy import Engine

from levelq_core.operations.enforcement import enforce
from tests.support.db_check import execute, query

DRIFT, SERIALIZE, DEADLOCK = "23514", "40001", "40P01"
RC, RR, SERIALIZABLE = "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"


def progress(level: int) -> str:
    return f"UPDATE specialization_progress SET current_level = {level} WHERE student_id = 1"


def license_(level: int) -> str:
    return f"UPDATE user_licenses SET current_level = {level} WHERE user_id = 1"


def new_progress(level: int, user: int = 1) -> str:
    return (
        "INSERT INTO specialization_progress (student_id, specialization_id, current_level)"
        f" VALUES ({user}, 'PLAYER', {level})"
    )


def new_license(level: int, user: int = 1) -> str:
    return f"INSERT INTO user_licenses (user_id, specialization_type, current_level) VALUES ({user}, 'PLAYER', {level})"


MOVE = "UPDATE specialization_progress SET student_id = 1 WHERE student_id = 2"
# As levelq does: both rows are locked before one is written.
LOCKS = (
    "SELECT FROM specialization_progress WHERE student_id = 1 FOR NO KEY UPDATE",
    "SELECT FROM user_licenses WHERE user_id = 1 FOR NO KEY UPDATE",
)

# The rows before, then the statements of both transactions.
Race = tuple[Sequence[str], Sequence[str], Sequence[str]]
RACES: dict[str, Race] = {
    "each heals to its own side": ([new_progress(1), new_license(2)], [progress(2)], [license_(1)]),
    "each writes one side": ([new_progress(1), new_license(1)], [progress(2)], [license_(2)]),
    "both insert": ([], [new_progress(3)], [new_license(5)]),
    "license is inserted, progress changes": ([new_progress(3)], [progress(4)], [new_license(3)]),
    "progress is inserted, license changes": ([new_license(3)], [new_progress(3)], [license_(4)]),
    "key changes, license changes": ([new_license(3), new_progress(3, user=2)], [MOVE], [license_(4)]),
    "levelq heals": ([new_progress(1), new_license(2)], [*LOCKS, progress(2)], [license_(1)]),
    "levelq raises": ([new_progress(1), new_license(1)], [*LOCKS, progress(2), license_(2)], [license_(2)]),
    "savepoint": ([new_progress(1), new_license(2)], ["SAVEPOINT a", progress(2), "RELEASE a"], [license_(1)]),
}


@pytest.fixture
def enforced(own_engine: Engine) -> Iterator[Engine]:
    """A database with the triggers; without them again, it serves the next test."""
    enforce(own_engine)
    yield own_engine
    enforce(own_engine, on=False)


def test_rows_are_found_by_index_though_the_plans_were_made_for_empty_tables(
    enforced: Engine, own_database_url: str
) -> None:
    tables = "('specialization_progress', 'user_licenses')"
    read = f"SELECT sum(seq_scan) FROM pg_stat_xact_user_tables WHERE relname IN {tables}"
    with psycopg.connect(own_database_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE specialization_progress")
        connection.execute("VACUUM ANALYZE user_licenses")
        for user in range(1, 12):  # from the sixth on, a plan is kept
            with connection.transaction():
                connection.execute(new_progress(1, user))
                connection.execute(new_license(1, user))
                connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                assert connection.execute(read).fetchone() == (0,)


class Transaction:
    """One of the two: its steps, the one under way, and how it ended ("ok", or the SQLSTATE that ended it)."""

    def __init__(self, connection: AsyncConnection, observer: AsyncConnection, steps: Sequence[str]) -> None:
        self._connection, self._observer, self._steps = connection, observer, list(steps)
        self._under_way: asyncio.Task[object] | None = None
        self.ended = ""

    async def step(self) -> None:
        """Begin the next step, unless one is under way; return when it is done or waits for the other transaction."""
        if self.ended:
            return
        if self._under_way is None:
            statement = self._steps.pop(0)
            self._under_way = asyncio.create_task(self._connection.execute(statement))
        while not self._under_way.done():
            if await self._is_blocked():
                return
            await asyncio.sleep(0)
        error, self._under_way = self._under_way.exception(), None
        if isinstance(error, psycopg.Error):
            self.ended = error.sqlstate or "none"
            await self._connection.rollback()
        elif not self._steps:
            self.ended = "ok"

    async def _is_blocked(self) -> bool:
        query = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
        return await (await self._observer.execute(query, (self._connection.info.backend_pid,))).fetchone() == (True,)


@asynccontextmanager
async def connections(url: str) -> AsyncIterator[list[AsyncConnection]]:
    """An observer, and two for the transactions."""
    made = [await AsyncConnection.connect(url, autocommit=True) for _ in range(3)]
    try:
        for connection in made:
            await connection.execute("SET deadlock_timeout = '20ms'; SET synchronous_commit = off")
        yield made
    finally:
        for connection in made:
            await connection.close()


async def outcomes(url: str, race: Race, levels: tuple[str, str]) -> set[tuple[str, str, bool]]:
    """How both transactions end, and whether the pair is out of step then, over every order of their steps.

    A transaction's last two steps are the check, as at COMMIT, and the COMMIT: others run in between.
    """
    before, *writes = race
    programs = [
        [*begin(level, statements), "SET CONSTRAINTS ALL IMMEDIATE", "COMMIT"]
        for level, statements in zip(levels, writes, strict=True)
    ]
    found = set()
    async with connections(url) as (observer, *pair):
        for order in orders(*map(len, programs)):
            await observer.execute("; ".join([*EMPTIED, *before, "RESET session_replication_role"]))
            both = [Transaction(c, observer, program) for c, program in zip(pair, programs, strict=True)]
            for number in order:
                await both[number].step()
            while not all(transaction.ended for transaction in both):
                for transaction in both:
                    await transaction.step()
            rows = await (await observer.execute(DIFFERENT)).fetchall()
            found.add((both[0].ended, both[1].ended, bool(rows)))
    return found


def begin(level: str, statements: Sequence[str]) -> list[str]:
    """The first steps: one that takes the snapshot, if the whole transaction has only one, and each statement."""
    if level == RC:
        return [f"BEGIN; {statements[0]}", *statements[1:]]
    return [f"BEGIN ISOLATION LEVEL {level}; SELECT FROM user_licenses", *statements]


EMPTIED = (
    "SET session_replication_role = replica", "DELETE FROM specialization_progress", "DELETE FROM user_licenses",
)  # fmt: skip
DIFFERENT = """
    SELECT FROM specialization_progress p JOIN user_licenses l ON l.user_id = p.student_id
    WHERE p.student_id = 1 AND p.current_level <> l.current_level
"""


def orders(first: int, second: int) -> Iterator[list[int]]:
    """Every order of so many steps of two transactions, by number."""
    for chosen in combinations(range(first + second), first):
        yield [0 if n in chosen else 1 for n in range(first + second)]


def drifts(found: set[tuple[str, str, bool]]) -> set[tuple[str, str, bool]]:
    """Those in which a transaction was committed and left the pair out of step."""
    return {outcome for outcome in found if outcome[2] and "ok" in outcome}


@pytest.mark.parametrize("race", RACES)
def test_no_order_of_two_transactions_commits_a_drift_or_deadlocks(
    race: str, enforced: Engine, own_database_url: str
) -> None:
    found = asyncio.run(outcomes(own_database_url, RACES[race], (RC, RC)))
    assert drifts(found) == set()
    assert not any(DEADLOCK in outcome for outcome in found)
    assert all({first, second} <= {"ok", DRIFT} for first, second, _ in found)


@pytest.mark.parametrize(
    ("race", "levels"),
    [
        ("each heals to its own side", (RR, RC)),
        ("each heals to its own side", (RC, RR)),
        ("both insert", (RR, RR)),
        ("license is inserted, progress changes", (RR, RC)),
        ("progress is inserted, license changes", (RC, RR)),
        ("each heals to its own side", (SERIALIZABLE, RC)),
    ],
    ids=lambda value: value if isinstance(value, str) else " and ".join(value),
)
def test_no_order_with_an_old_snapshot_commits_a_drift(
    race: str, levels: tuple[str, str], enforced: Engine, own_database_url: str
) -> None:
    found = asyncio.run(outcomes(own_database_url, RACES[race], levels))
    assert drifts(found) == set()
    assert all({first, second} <= {"ok", DRIFT, SERIALIZE} for first, second, _ in found)


@pytest.mark.parametrize(
    ("guard", "without", "race", "levels"),
    [
        ("FOR SHARE;", ";", "each heals to its own side", (RC, RC)),
        ("PERFORM pg_advisory_xact_lock", "PERFORM abs", "both insert", (RC, RC)),
        ("FOR SHARE SKIP LOCKED", "", "license is inserted, progress changes", (RC, RC)),
        ("ELSIF blind THEN", "ELSIF false THEN", "both insert", (RR, RC)),
    ],
)
def test_without_one_guard_some_order_commits_a_drift(
    guard: str, without: str, race: str, levels: tuple[str, str], enforced: Engine, own_database_url: str
) -> None:
    ((definition,),) = query(enforced, "SELECT pg_get_functiondef('levelq_pair_in_step'::regproc)")
    assert guard in definition
    execute(enforced, definition.replace(guard, without))
    assert drifts(asyncio.run(outcomes(own_database_url, RACES[race], levels)))
