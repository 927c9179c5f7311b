"""Batches in which the database refuses much, against the same commands one by one: the decisions must be the same.

Checks on both tables, on several columns, on what levelq does not set, on rows that broke them before; a trigger; ids
sent twice. Where a lane has several commands, all of them raise what the checks bound: net changes make no difference.
"""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from levelq_core import Command, LevelUp, SetLevel
from levelq_core.coupler import screening
from levelq_core.coupler.apply import group_by_lane
from levelq_core.domain.record import Lane, lane_of
from levelq_worker.draining.context import Runtime
from tests.support.coupler import apply_batch, clear, put_rows, session, tables, wait_until_blocked_by
from tests.support.fixtures.databases import Databases
from tests.support.isolation import apply, execute, level_up

USERS = range(1, 25)
PROGRESS, LICENSES = "specialization_progress", "user_licenses"
# Once broken, these stay broken however much is added.
BOUNDS = (
    (PROGRESS, "total_xp < 1500"),
    (PROGRESS, "completed_sessions < 4"),
    (PROGRESS, "total_xp + 400 * completed_sessions < 2000"),
    (PROGRESS, "enabled OR total_xp < 900"),
    (PROGRESS, "total_xp < 2500 OR student_id % 3 = 0"),
    (PROGRESS, "current_level < 3 AND last_activity >= created_at"),
    (LICENSES, "current_level < 3"),
    (LICENSES, "is_active OR max_achieved_level < 2"),
    ("license_progressions", "to_level - from_level < 2"),
)
OTHERS = (
    (PROGRESS, "total_xp % 7 <> 3"),
    (PROGRESS, "completed_sessions <= current_level"),
    (LICENSES, "max_achieved_level - current_level < 3"),
    (LICENSES, "current_level <> 2"),
)
TRIGGER = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
    CREATE TRIGGER refuse {when} UPDATE ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse()
"""
TRIGGERS = {PROGRESS: "NEW.student_id % 7 = 5 AND NEW.total_xp > 700", LICENSES: "NEW.user_id % 7 = 5"}


def shape(connection: Connection, chance: random.Random, *, several: bool) -> None:
    """Other constraints, and rows that were there before and may break them."""
    clear(connection)
    known = "SELECT conrelid::regclass, conname FROM pg_constraint WHERE conname LIKE 'generated%'"
    for table, name in connection.execute(text(known)).all():
        connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {name}"))
    connection.execute(text("DROP FUNCTION IF EXISTS refuse CASCADE"))
    for user in chance.sample(USERS, 16):
        xp, sessions, level = chance.choice([0, 0, 800, 3000]), chance.choice([0, 0, 5]), chance.choice([1, 1, 2, 4])
        put_rows(connection, (user, "PLAYER"), level, total_xp=xp, completed_sessions=sessions)
    for table, flag, column in ((PROGRESS, "enabled", "student_id"), (LICENSES, "is_active", "user_id")):
        connection.execute(text(f"UPDATE {table} SET {flag} = {column} % 5 <> {chance.randrange(5)}"))
    checks = chance.sample(BOUNDS if several else BOUNDS + OTHERS, chance.choice([1, 3]))
    for n, (table, condition) in enumerate(checks):
        # Else the first check that a row breaks decides who is to blame.
        if len(checks) > 1 and table in (PROGRESS, LICENSES):
            connection.execute(text(f"DELETE FROM {table} WHERE NOT ({condition})"))
        connection.execute(text(f"ALTER TABLE {table} ADD CONSTRAINT generated_{n} CHECK ({condition}) NOT VALID"))
    if chance.random() < 0.5:
        table = LICENSES if any(table == LICENSES for table, _ in checks) else PROGRESS
        condition = TRIGGERS[table]
        when = chance.choice(["BEFORE", "AFTER"])
        connection.execute(text(TRIGGER.format(when=when, table=table, condition=condition)))


def some_commands(chance: random.Random, *, several: bool) -> list[Command]:
    """For some of the users; some ids are sent again, with the same content or with another."""
    sent: list[Command] = [LevelUp(user_id=99, specialization="PLAYER", xp_gained=1)]  # which everything lets pass
    for user in [user for user in USERS for _ in range(chance.randrange(1, 5) if several else 1)]:
        command_id = UUID(int=chance.getrandbits(128))
        fields: dict[str, Any] = {"user_id": user, "specialization": "PLAYER", "command_id": command_id}
        if several or chance.random() < 0.7:
            gains = chance.choice([1, 3, 300, 700, 1200, 6000])
            sent.append(LevelUp(**fields, xp_gained=gains, sessions_completed=chance.choice([0, 0, 1, 2])))
        else:
            change = chance.choice([0, 10, -300])
            sent.append(SetLevel(**fields, new_level=chance.randrange(1, 6), xp_change=change))
        if several and chance.random() < 0.2:
            sent.append(sent[-1].model_copy(update=chance.choice([{}, {"reason": "another"}])))
    chance.shuffle(sent)
    return sent


Decided = tuple[str | None, bool, Any, Any]


def one_by_one(engine: Engine, commands: Sequence[Command]) -> dict[Lane, list[Decided]]:
    """Each in a transaction of its own; of a lane in which one cannot be decided, nothing more."""
    found: dict[Lane, list[Decided]] = {}
    stuck: set[Lane] = set()
    for command in commands:
        lane = lane_of(command)
        decided = found.setdefault(lane, [])
        if lane in stuck:
            continue
        try:
            (outcome,) = apply(engine, [command])
        except DBAPIError:
            stuck.add(lane)
        else:
            before, after = (t and tuple(t.model_dump().values()) for t in (outcome.before, outcome.after))
            decided.append((outcome.error, outcome.duplicate, before, after))
    return found


def in_one_batch(worker: Runtime, commands: Sequence[Command]) -> dict[Lane, list[Decided]]:
    works = group_by_lane(commands)
    apply_batch(worker.transactions, works)
    return {work.lane: [(d.error, d.duplicate, d.before, d.after) for d in work.decisions] for work in works}


@pytest.fixture
def database_url(application_database_url: str) -> str:
    return application_database_url


@pytest.fixture
def worker(database_url: str, worker_of: Callable[..., Runtime]) -> Runtime:
    return worker_of(database_url, claim_seconds=60)


@pytest.mark.parametrize("several", [False, True])
def test_batch_decides_as_the_same_commands_one_by_one(
    worker: Runtime, engines: Callable[..., Engine], databases: Databases, several: bool
) -> None:
    name = databases.take("application")
    reference = engines(databases.url(name))
    for seed in (13, 11):
        for engine in (worker.engine, reference):
            with engine.begin() as connection:
                shape(connection, random.Random(seed), several=several)
        chance = random.Random(seed)
        for _ in range(2):
            commands = some_commands(chance, several=several)
            assert in_one_batch(worker, commands) == one_by_one(reference, commands), f"seed {seed}"
            with worker.engine.connect() as one, reference.connect() as other:
                assert tables(one) == tables(other), f"seed {seed}"
    reference.dispose()
    databases.give_back("application", name)


def errors_of(worker: Runtime, *commands: Command) -> list[str | None]:
    """One batch, which must decide all of these."""
    works = group_by_lane(commands)
    apply_batch(worker.transactions, works)
    return [decision.error for work in works for decision in work.decisions]


REFUSED = "database_error"


def test_command_is_taken_once_the_one_before_it_is_refused_by_another_check(engine: Engine, worker: Runtime) -> None:
    execute(
        engine,
        f"ALTER TABLE {PROGRESS} ADD CONSTRAINT a CHECK (total_xp < 1000)",
        f"ALTER TABLE {PROGRESS} ADD CONSTRAINT b CHECK (completed_sessions < 5)",
    )
    known = errors_of(worker, level_up(1, 1), level_up(2, 1000), level_up(3, 1, sessions_completed=5))
    assert known == [None, REFUSED, REFUSED]
    found = errors_of(worker, level_up(1, 1), level_up(4, 900, sessions_completed=5), level_up(4, 500))
    assert found == [None, REFUSED, None]


# What an UPDATE of progress does to the license row, or what a condition is about beyond the columns it names.
NOT_FORETOLD = {
    "a trigger on progress that changes the license": (
        "ALTER TABLE user_licenses ADD CONSTRAINT refuses CHECK (is_active OR current_level < 2)",
        "CREATE FUNCTION activate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE user_licenses "
        "SET is_active = true WHERE user_id = NEW.student_id AND NEW.completed_sessions = 1; RETURN NULL; END $$",
        f"CREATE TRIGGER activate AFTER UPDATE ON {PROGRESS} FOR EACH ROW EXECUTE FUNCTION activate()",
    ),
    "a condition on the whole row": (
        f"ALTER TABLE {PROGRESS} ADD CONSTRAINT refuses CHECK (total_xp < 1000"
        f" OR coalesce((to_jsonb({PROGRESS}) ->> 'completed_sessions')::int = 1, false))",
    ),
}


@pytest.mark.parametrize("how", NOT_FORETOLD)
def test_check_that_cannot_be_predicted_refuses_what_the_database_refuses(
    engine: Engine, worker: Runtime, how: str
) -> None:
    for user in (1, 2, 3):
        put_rows(engine, (user, "PLAYER"), 1)
    execute(engine, "UPDATE user_licenses SET is_active = false", *NOT_FORETOLD[how])
    commands = level_up(1, 1), level_up(2, 1000), level_up(3, 1000, sessions_completed=1)
    assert errors_of(worker, *commands) == [None, REFUSED, None]


def test_check_that_is_dropped_while_a_batch_waits_for_its_table_refuses_nothing(
    engine: Engine, worker: Runtime, database_url: str
) -> None:
    execute(engine, f"ALTER TABLE {PROGRESS} ADD CONSTRAINT most CHECK (total_xp < 1000)")
    assert errors_of(worker, level_up(1, 1000), level_up(2, 1)) == [REFUSED, None]
    with ThreadPoolExecutor(1) as pool, session(database_url) as owner:
        owner.execute(f"ALTER TABLE {PROGRESS} DROP CONSTRAINT most")
        found = pool.submit(errors_of, worker, level_up(1, 1000), level_up(2, 1))
        wait_until_blocked_by(database_url, owner)
        owner.commit()
        assert found.result() == [None, None]


def test_check_that_is_gone_is_forgotten(engine: Engine, worker: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "BATCHES", 2)
    execute(engine, f"ALTER TABLE {PROGRESS} ADD CONSTRAINT most CHECK (total_xp < 1000)")
    assert errors_of(worker, level_up(1, 1000), level_up(2, 1)) == [REFUSED, None]
    execute(engine, f"ALTER TABLE {PROGRESS} DROP CONSTRAINT most")
    remembered = worker.transactions.checks
    assert list(remembered.errors()) == [f"{PROGRESS}.most"]
    for _ in range(2):
        assert errors_of(worker, level_up(1, 1000)) == [None]
    assert remembered.errors() == {}
