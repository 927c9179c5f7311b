"""Tables that levelq cannot work on are refused in one line by `db check`, at a worker's start and by direct calls."""

import pytest
from redis import Redis
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from levelq_core import SchemaError, Settings, level_up_atomic
from levelq_worker.rq_adapter.worker import LaneWorker
from levelq_worker.support.preflight import preflight
from tests.support.db_check import execute, findings, fix, works
from tests.support.fixtures.command_line import LevelqWith

VIEWED = "ALTER TABLE user_licenses RENAME TO held; CREATE {} user_licenses AS SELECT * FROM held"

# What breaks a sound database, and how the refusal begins.
REFUSED = {
    "uuid user ids": (
        "ALTER TABLE specialization_progress ALTER student_id TYPE uuid USING gen_random_uuid(); "
        "ALTER TABLE user_licenses ALTER user_id TYPE uuid USING gen_random_uuid()",
        "specialization_progress.student_id is of type uuid, expected int2 or int4 or int8 or numeric",
    ),
    "a domain of uuid": (
        "CREATE DOMAIN account AS uuid; "
        "ALTER TABLE user_licenses DROP COLUMN user_id, ADD COLUMN user_id account, "
        "ADD UNIQUE (user_id, specialization_type)",
        "user_licenses.user_id is of type uuid",
    ),
    "user ids as JSON": (
        "ALTER TABLE user_licenses DROP COLUMN user_id, ADD COLUMN user_id json",
        "user_licenses.user_id is of type json",
    ),
    "license ids as uuid": (
        "ALTER TABLE user_licenses DROP COLUMN id CASCADE, ADD COLUMN id uuid DEFAULT gen_random_uuid()",
        "user_licenses.id is of type uuid",
    ),
    "an enum": (
        "CREATE TYPE kind AS ENUM ('PLAYER', 'COACH', 'INTERNSHIP'); ALTER TABLE specialization_progress "
        "ALTER specialization_id TYPE kind USING specialization_id::kind",
        "specialization_progress.specialization_id is of type kind, expected text or varchar",
    ),
    "char(n)": (
        "ALTER TABLE user_licenses ALTER specialization_type TYPE char(20)",
        "user_licenses.specialization_type is of type bpchar",
    ),
    "citext": (
        "CREATE EXTENSION citext; ALTER TABLE user_licenses ALTER specialization_type TYPE citext",
        "user_licenses.specialization_type is of type citext",
    ),
    "the type name": (
        "ALTER TABLE user_licenses ALTER specialization_type TYPE name",
        "user_licenses.specialization_type is of type name",
    ),
    "an array": (
        "ALTER TABLE user_licenses ALTER specialization_type TYPE text[] USING ARRAY[specialization_type]",
        "user_licenses.specialization_type is of type _text",
    ),
    "names as numbers": (
        "ALTER TABLE user_licenses ALTER specialization_type TYPE integer USING 1",
        "user_licenses.specialization_type is of type int4",
    ),
    "a view": (VIEWED.format("VIEW"), "user_licenses is a view, expected a table"),
    "a materialized view": (VIEWED.format("MATERIALIZED VIEW"), "user_licenses is a materialized view, expected"),
    "a foreign table": (
        "CREATE EXTENSION postgres_fdw; CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw; "
        "ALTER TABLE user_licenses RENAME TO held; CREATE FOREIGN TABLE user_licenses (id bigint, user_id bigint) "
        "SERVER other",
        "user_licenses is a foreign table, expected a table",
    ),
    "a table outside the search path": (
        "CREATE SCHEMA app; ALTER TABLE user_licenses SET SCHEMA app",
        "table user_licenses does not exist: there is one in schema app, outside the search path",
    ),
}
# Of these the printed statement is the whole remedy; of the others a person must decide.
MENDED = {"an enum", "char(n)", "citext", "the type name"}


@pytest.mark.parametrize("fault", REFUSED)
def test_tables_that_levelq_cannot_work_on_are_refused_in_one_line(
    settings: Settings, redis: Redis, own_engine: Engine, fault: str
) -> None:
    breaking, problem = REFUSED[fault]
    execute(own_engine, *breaking.split("; "))
    found = findings(own_engine)
    first = next(finding for finding in found if finding.problem.startswith(problem))
    assert first.severity == "error" and first.fix
    assert all(line.startswith("--") for line in first.fix) == (fault not in MENDED)
    assert not any("CREATE UNIQUE INDEX" in line for finding in found for line in finding.fix)
    for start in (preflight, lambda s: LaneWorker(["levelq.PLAYER"], connection=redis, settings=s).work(burst=True)):
        with pytest.raises(SchemaError) as refused:
            start(settings)
        assert str(refused.value).startswith(problem) and "\n" not in str(refused.value)
    with Session(own_engine) as session:
        answer = level_up_atomic(session, 1, "PLAYER", 10)
    assert not answer["success"]
    assert (answer["error_type"], answer["message"].startswith(problem)) == ("database_error", True)
    if fault in MENDED:
        fix(own_engine, found)
        assert findings(own_engine) == []


@pytest.mark.parametrize("command", [("db", "check"), ("doctor",)], ids=" ".join)
def test_doctor_and_db_check_exit_with_1(
    settings: Settings, own_engine: Engine, levelq_with: LevelqWith, command: tuple[str, ...]
) -> None:
    execute(own_engine, *REFUSED["uuid user ids"][0].split("; "))
    told = levelq_with(settings)(*command)
    assert told.code == 1 and "specialization_progress.student_id is of type uuid" in told.out


def test_numeric_user_ids_and_domains_of_text_are_accepted(own_engine: Engine) -> None:
    execute(
        own_engine,
        "ALTER TABLE specialization_progress ALTER student_id TYPE numeric(12,0)",
        "ALTER TABLE user_licenses ALTER user_id TYPE numeric",
        "CREATE DOMAIN specialization AS varchar(20) CHECK (VALUE <> '')",
        "ALTER TABLE user_licenses ALTER specialization_type TYPE specialization",
    )
    assert findings(own_engine) == []
    assert works(own_engine, xp=5000)
