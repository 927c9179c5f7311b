"""Every table that grows, in partitions: the learners' by user, the ledger by command id. The whole path works."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis
from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session

from levelq_core import LevelUp, SetLevel, apply_commands, level_up_atomic
from levelq_core.operations.verify import Options, verify
from levelq_producer import Outbox
from levelq_worker.draining.context import Runtime
from levelq_worker.process.worker_main import drain_until_empty
from tests.support.coupler import push
from tests.support.isolation import experience

PARTS = 3
USERS = range(1, 61)
LEARNERS = {
    "specialization_progress": ("student_id", "student_id, specialization_id"),
    "user_licenses": ("user_id", "user_id, specialization_type"),
}


def in_partitions(connection: Connection, table: str, method: str, column: str, unique: str) -> None:
    """Replace it by an empty table of the same columns."""
    connection.execute(text(f"ALTER TABLE {table} RENAME TO {table}_flat"))
    made = f"CREATE TABLE {table} (LIKE {table}_flat INCLUDING DEFAULTS INCLUDING IDENTITY)"
    connection.execute(text(f"{made} PARTITION BY {method} ({column})"))
    connection.execute(text(f"ALTER TABLE {table} ADD UNIQUE ({unique})"))


def by_hash(connection: Connection, table: str, column: str, unique: str) -> None:
    in_partitions(connection, table, "HASH", column, unique)
    for n in range(PARTS):
        of = f"PARTITION OF {table} FOR VALUES WITH (MODULUS {PARTS}, REMAINDER {n})"
        connection.execute(text(f"CREATE TABLE {table}_{n} {of}"))


def ledger_by_hash(connection: Connection) -> None:
    by_hash(connection, "levelq_ledger", "command_id", "command_id")


def ledger_by_time(connection: Connection) -> None:
    """A UUIDv7 begins with its time: ids made before tomorrow in one partition, later and foreign ones in another."""
    in_partitions(connection, "levelq_ledger", "RANGE", "command_id", "command_id")
    tomorrow = int((datetime.now(UTC) + timedelta(days=1)).timestamp() * 1000)
    bound = f"{tomorrow:012x}00000000000000000000"
    until = f"FOR VALUES FROM (MINVALUE) TO ('{bound}')"
    connection.execute(text(f"CREATE TABLE levelq_ledger_today PARTITION OF levelq_ledger {until}"))
    connection.execute(text("CREATE TABLE levelq_ledger_rest PARTITION OF levelq_ledger DEFAULT"))


@pytest.mark.parametrize("ledger", [ledger_by_hash, ledger_by_time])
def test_the_whole_path_on_partitioned_tables(
    ledger: Callable[[Connection], None],
    own_engine: Engine,
    own_database_url: str,
    redis: Redis,
    worker_of: Callable[..., Runtime],
) -> None:
    with own_engine.begin() as connection:
        # What refers to a license would have to name the partition's column, too.
        connection.execute(
            text("ALTER TABLE license_progressions DROP CONSTRAINT license_progressions_user_license_id_fkey")
        )
        for table, (column, unique) in LEARNERS.items():
            by_hash(connection, table, column, unique)
        ledger(connection)
    worker = worker_of(own_database_url)
    settings = worker.settings
    first = [LevelUp(user_id=user, specialization="PLAYER", xp_gained=1000) for user in USERS]
    bad = [SetLevel(user_id=user, specialization="PLAYER", new_level=1, xp_change=-5000) for user in USERS]
    for _ in range(2):  # the second time all of it is known
        push(worker, [*first, *bad])
        drain_until_empty(settings, ["PLAYER"])
    with Session(own_engine) as session:
        Outbox(session, settings=settings).send_many(
            [LevelUp(user_id=user, specialization="PLAYER", xp_gained=500) for user in USERS]
        )
        session.commit()
    drain_until_empty(settings, ["PLAYER"])
    with Session(own_engine) as session:
        assert level_up_atomic(session, 1, "PLAYER", 7)["success"]
    assert experience(own_engine) == {user: 1507 if user == 1 else 1500 for user in USERS}
    with own_engine.connect() as connection:
        found = connection.execute(text("SELECT status, count(*) FROM levelq_ledger GROUP BY 1 ORDER BY 1")).all()
        used = connection.execute(text("SELECT count(DISTINCT tableoid) FROM user_licenses")).scalar_one()
        apart = connection.execute(
            text("""
                SELECT count(*) FROM specialization_progress p JOIN user_licenses l ON l.user_id = p.student_id
                WHERE p.current_level <> l.current_level OR l.current_level <> 2
            """)
        ).scalar_one()
    assert [tuple(row) for row in found] == [("applied", 2 * len(USERS) + 1), ("rejected", len(USERS))]
    assert (used, apart) == (PARTS, 0)
    assert verify(own_engine, redis, settings, Options(at_rest=True)).violations == 0


USERS_IN_PARTITIONS = (
    "CREATE TABLE users (id bigint PRIMARY KEY) PARTITION BY HASH (id)",
    "CREATE TABLE users_0 PARTITION OF users FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
    "CREATE TABLE users_1 PARTITION OF users FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    "INSERT INTO users SELECT generate_series(1, 9)",
)
USERS_OF = {"specialization_progress": "student_id", "user_licenses": "user_id", "license_progressions": "advanced_by"}


def test_users_in_partitions_are_found_in_any_of_them(own_engine: Engine) -> None:
    with own_engine.begin() as connection:
        for statement in USERS_IN_PARTITIONS:
            connection.execute(text(statement))
        for table, column in USERS_OF.items():
            connection.execute(text(f"ALTER TABLE {table} ADD FOREIGN KEY ({column}) REFERENCES users"))
        commands = [LevelUp(user_id=u, specialization="PLAYER", xp_gained=1000, advanced_by=5) for u in range(1, 12)]
        outcomes = apply_commands(connection, commands)
    refused = {outcome.user_id: outcome.message for outcome in outcomes if outcome.error}
    assert {10, 11} == refused.keys()
    assert refused[10].startswith("user 10 is not in users: ")
