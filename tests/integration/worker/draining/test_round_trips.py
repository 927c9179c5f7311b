"""A batch takes the same number of statements and calls, whatever its size: this is what makes it fast."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import psycopg
import pytest
from psycopg import Cursor
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from levelq_core import Command, LevelUp, level_up_atomic
from levelq_core.database import schema
from levelq_core.lanes.script_files import load
from levelq_core.redis_client.pool import NodePool, RedisCommand
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.coupler import drain_all, push
from tests.support.isolation import PLAYER, apply, experience, level_up

SIZES = (1, 10, 1_000, 5_000)  # the last two on 1,000 lanes, the default batch's limit

# In the order of levelq_core.coupler.statements and of docs/explanation/the-transaction.md.
STATEMENTS = [
    "SELECT current_setting",
    "SELECT set_config",
    "SAVEPOINT levelq",
    "SELECT p.ctid",
    "SELECT l.ctid",
    "SELECT command_id",
    "UPDATE specialization_progress",
    "COPY levelq_ledger",
    "DELETE FROM levelq_outbox",
    "RELEASE SAVEPOINT",
]
LEVEL_CHANGED = ["UPDATE user_licenses", "INSERT INTO license_progressions"]
NAMES: dict[Any, str] = {load(name).sha: name for name in ("claim", "ack")}


class Traffic:
    """What this thread sent to the servers; those of an earlier test may still be ending."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.thread = threading.get_ident()
        self.statements: list[str] = []
        self.calls: list[str] = []
        for name in ("execute", "copy"):
            monkeypatch.setattr(Cursor, name, self._noting(getattr(Cursor, name)))
        send = NodePool.send

        def noted(connection: Any, commands: Sequence[RedisCommand]) -> None:
            if threading.get_ident() == self.thread:
                self.calls.extend(NAMES.get(command[1], str(command[0])) for command in commands)
            send(connection, commands)

        monkeypatch.setattr(NodePool, "send", staticmethod(noted))

    def _noting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def noted(cursor: psycopg.Cursor[Any], query: Any, *args: Any, **options: Any) -> Any:
            if threading.get_ident() == self.thread:
                self.statements.append(" ".join(str(query).split()))
            return method(cursor, query, *args, **options)

        return noted

    def clear(self) -> None:
        self.statements.clear()
        self.calls.clear()


def one_batch(worker: Runtime, commands: list[Command], traffic: Traffic) -> None:
    push(worker, commands)
    traffic.clear()
    drain = Drain(worker, PLAYER)
    drain.step()
    drain._claims.release_all()


def calls(size: int) -> list[str]:
    """Those of a batch. If it is full, the next one's claim goes out before it is applied."""
    return ["claim", "claim", "ack"] if size >= 1_000 else ["claim", "ack"]


def same(statements: list[str], expected: list[str]) -> bool:
    return len(statements) == len(expected) and all(map(str.startswith, statements, expected))


@pytest.fixture
def worker(
    own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime], monkeypatch: pytest.MonkeyPatch
) -> Runtime:
    """One with a thousand learners, whose batches do not shrink and whose claims do not age on a busy machine.

    Nor does what it knows of the tables, which it would compare with them once more after some seconds.
    """
    monkeypatch.setattr(schema, "COMPARE_SECONDS", 3600.0)
    apply(own_engine, [level_up(user, 1) for user in range(1, 1_001)])
    worker = worker_of(own_database_url, claim_seconds=60, redis_seconds=2, batch_seconds=60)
    push(worker, [level_up(1, 0)])
    drain_all(worker, "PLAYER")  # it has its connections, and the server its scripts
    return worker


@pytest.mark.parametrize(("xp", "changed"), [(1, []), (1_000, LEVEL_CHANGED)], ids=["same level", "new level"])
@pytest.mark.parametrize("size", SIZES)
def test_batch_takes_ten_statements_and_two_more_where_levels_change(
    worker: Runtime, own_engine: Engine, monkeypatch: pytest.MonkeyPatch, size: int, xp: int, changed: list[str]
) -> None:
    traffic = Traffic(monkeypatch)
    one_batch(worker, [level_up(1 + n % 1_000, xp) for n in range(size)], traffic)
    assert same(traffic.statements, [*STATEMENTS[:7], *changed, *STATEMENTS[7:]]), traffic.statements
    assert traffic.calls == calls(size)
    assert sum(experience(own_engine).values()) == 1_000 + size * xp


@pytest.mark.parametrize("owned", [False, True])
def test_direct_call_takes_as_few_statements(own_engine: Engine, monkeypatch: pytest.MonkeyPatch, owned: bool) -> None:
    """Those of a batch without the worker's limits; in the caller's block, those of one SAVEPOINT more."""
    with Session(own_engine) as session:
        level_up_atomic(session, 1, "PLAYER", 1)
        traffic = Traffic(monkeypatch)
        with session.begin() if owned else nullcontext():
            level_up_atomic(session, 1, "PLAYER", 1)
    batch = [STATEMENTS[0], *STATEMENTS[2:]]
    expected = ["SAVEPOINT sa_", *batch, "RELEASE SAVEPOINT sa_"] if owned else batch
    assert same(traffic.statements, expected), traffic.statements


@pytest.mark.parametrize("size", (1, 10, 1_000))
def test_new_learners_take_five_statements_more(
    worker: Runtime, own_engine: Engine, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The locks are released, the missing rows inserted, and all rows locked again, in order."""
    traffic = Traffic(monkeypatch)
    one_batch(worker, [level_up(1_001 + n, 1) for n in range(size)], traffic)
    begun = [" ".join(statement.split()[:3]) for statement in traffic.statements]
    assert Counter(begun)["ROLLBACK TO SAVEPOINT"] == 1
    assert len(traffic.statements) == len(STATEMENTS) + 5  # that, the missing, two inserts, the progress again
    assert traffic.calls == calls(size)
    assert len(experience(own_engine)) == 1_000 + size


def test_row_that_a_trigger_moved_is_updated(own_engine: Engine) -> None:
    """Rows are updated by the ctid they had when they were locked; the application's trigger has changed one since."""
    apply(own_engine, [level_up(user, 900) for user in (1, 2, 3)])
    with own_engine.begin() as connection:
        connection.execute(text("ALTER TABLE user_licenses ADD COLUMN seen int NOT NULL DEFAULT 0"))
        connection.execute(
            text("""
                CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    UPDATE user_licenses SET seen = seen + 1 WHERE user_id = NEW.student_id AND user_id = 2;
                    RETURN NEW;
                END $$
            """)
        )
        connection.execute(
            text("CREATE TRIGGER look AFTER UPDATE ON specialization_progress FOR EACH ROW EXECUTE FUNCTION look()")
        )
    outcomes = apply(own_engine, [level_up(user, 200) for user in (1, 2, 3)])
    assert [outcome.to_level for outcome in outcomes] == [2, 2, 2]
    with own_engine.connect() as connection:
        found = connection.execute(
            text("""
                SELECT p.current_level, l.current_level, l.seen FROM specialization_progress p
                JOIN user_licenses l ON l.user_id = p.student_id ORDER BY p.student_id
            """)
        ).all()
    assert [tuple(row) for row in found] == [(2, 2, 0), (2, 2, 1), (2, 2, 0)]


def test_rows_of_a_partitioned_table_may_have_the_same_ctid(own_engine: Engine) -> None:
    """Each partition has a row at (0,1): a ctid alone would name several."""
    with own_engine.begin() as connection:
        connection.execute(text("ALTER TABLE specialization_progress RENAME TO flat"))
        connection.execute(
            text("""
                CREATE TABLE specialization_progress (
                    id bigint GENERATED BY DEFAULT AS IDENTITY,
                    student_id bigint NOT NULL, specialization_id text NOT NULL, current_level int, total_xp bigint,
                    completed_sessions bigint, completed_projects bigint, theory_hours_completed bigint,
                    practice_hours_completed bigint, last_activity timestamptz, created_at timestamptz,
                    updated_at timestamptz, UNIQUE (student_id, specialization_id)
                ) PARTITION BY HASH (student_id)
            """)
        )
        for number in range(3):
            connection.execute(
                text(
                    f"CREATE TABLE part_{number} PARTITION OF specialization_progress "
                    f"FOR VALUES WITH (MODULUS 3, REMAINDER {number})"
                )
            )
    users = range(1, 31)
    for _ in range(2):
        apply(own_engine, [LevelUp(user_id=user, specialization="PLAYER", xp_gained=user) for user in users])
    assert experience(own_engine) == {user: 2 * user for user in users}
