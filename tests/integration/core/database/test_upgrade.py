"""`levelq db upgrade`: creates what is absent, changes nothing that is there, also if others upgrade meanwhile."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

from sqlalchemy import Engine, insert, inspect, text
from sqlalchemy.orm import Session

from levelq_core import level_up_atomic
from levelq_core.database.migrations import VERSION_TABLE, upgrade
from levelq_core.database.schema import REQUIRED
from tests.support.db_check import execute, findings, works
from tests.support.fixtures import application

Engines = Callable[..., Engine]

# All that an upgrade could change about a table: columns, defaults, constraints, indexes, options.
_SHAPE = """
    SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull,
           a.attidentity::text, pg_get_expr(d.adbin, d.adrelid)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relname = ANY(:tables) ORDER BY c.relname, a.attnum
"""
_CONSTRAINTS = """
    SELECT oid::bigint, conrelid::regclass::text, conname::text, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE conrelid::regclass::text = ANY(:tables) ORDER BY oid
"""
_INDEXES = "SELECT indexname::text, indexdef FROM pg_indexes WHERE tablename = ANY(:tables) ORDER BY 1"
_STORAGE = "SELECT oid::bigint, relfilenode::bigint, reloptions FROM pg_class WHERE relname = ANY(:tables) ORDER BY 1"


def photograph(engine: Engine, tables: list[str]) -> list[Any]:
    """Everything about these tables, rows with their ctid and version included."""
    with engine.connect() as connection:
        seen: list[Any] = [
            connection.execute(text(query), {"tables": tables}).all()
            for query in (_SHAPE, _CONSTRAINTS, _INDEXES, _STORAGE)
        ]
        seen += [connection.execute(text(f"SELECT ctid, xmin, * FROM {table} ORDER BY id")).all() for table in tables]
    return seen


def tables_of(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names())


def application_tables(engine: Engine) -> list[str]:
    """An application's own tables, as it made them, with rows in them."""
    application.metadata.create_all(engine)
    execute(
        engine,
        "INSERT INTO users (id) VALUES (1), (2)",
        "INSERT INTO specialization_progress (student_id, specialization_id, current_level, total_xp, created_at,"
        " enabled) VALUES (1, 'PLAYER', 3, 2600, now(), false), (2, 'COACH', 1, NULL, now(), true)",
        "INSERT INTO user_licenses (user_id, specialization_type, current_level, started_at) "
        "VALUES (1, 'PLAYER', 3, now())",
        "INSERT INTO license_progressions (user_license_id, from_level, to_level, advancement_reason, advanced_at)"
        " VALUES (1, 1, 3, 'earned', now())",
    )
    return sorted(application.metadata.tables)


def test_a_blank_database_gets_all_tables(engines: Engines, blank_database_url: str) -> None:
    engine = engines(blank_database_url)
    upgrade(engine)
    assert tables_of(engine) == {*REQUIRED, VERSION_TABLE}
    assert findings(engine) == []
    assert works(engine, 7)


def test_an_applications_tables_stay_exactly_as_they_are(engines: Engines, blank_database_url: str) -> None:
    engine = engines(blank_database_url)
    theirs = application_tables(engine)
    before = photograph(engine, theirs)
    upgrade(engine)
    assert photograph(engine, theirs) == before
    assert tables_of(engine) == {*REQUIRED, VERSION_TABLE, "users"}
    with Session(engine) as session:
        result = level_up_atomic(session, 1, "PLAYER", 3000)
        assert result["success"] is True
        assert result["progress"] == {"old_level": 3, "new_level": 4, "total_xp": 5600, "completed_sessions": 0}


def test_an_application_that_has_only_its_licenses_gets_the_rest(engines: Engines, blank_database_url: str) -> None:
    engine = engines(blank_database_url)
    application.users.create(engine)
    application.licenses.create(engine)
    with engine.begin() as connection:
        connection.execute(insert(application.users), [{"id": 1}])
    before = photograph(engine, ["user_licenses", "users"])
    upgrade(engine)
    assert photograph(engine, ["user_licenses", "users"]) == before
    assert works(engine, 1, "COACH", 2500)
    assert findings(engine) == []


def test_a_second_upgrade_changes_nothing(engine: Engine) -> None:
    assert works(engine)
    before = photograph(engine, sorted(REQUIRED))
    upgrade(engine)
    assert photograph(engine, sorted(REQUIRED)) == before


def test_two_upgrades_at_once_wait_for_each_other(engines: Engines, blank_database_url: str) -> None:
    both = [engines(blank_database_url), engines(blank_database_url)]
    together = Barrier(2)

    def run(engine: Engine) -> None:
        together.wait(30)
        upgrade(engine)

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(run, engine) for engine in both]:
            done.result(60)
    assert tables_of(both[0]) == {*REQUIRED, VERSION_TABLE}
    assert works(both[0], 1, "INTERNSHIP", 5000)
