"""Totals with fractions, NULLs and narrow types: a command rewrites nothing that it does not change."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from levelq_core import LevelUp, SchemaError, SetLevel, Settings, level_up_atomic
from levelq_core.coupler.statements import Statements
from levelq_core.database.schema import forget, schema_of
from levelq_core.operations.verify import Options, verify
from levelq_worker.support.preflight import preflight
from tests.support.coupler import drain_all, push, put_rows, runtime
from tests.support.db_check import execute, findings, fix
from tests.support.isolation import apply

TOTALS = "total_xp, completed_sessions, completed_projects, theory_hours_completed, practice_hours_completed"
PROGRESS = "specialization_progress"


def retype(engine: Engine, **types: str) -> None:
    """Give columns of the progress table other types, as an old application may have chosen them."""
    for name, type_ in types.items():
        execute(engine, f"ALTER TABLE {PROGRESS} ALTER COLUMN {name} TYPE {type_}")
    forget(engine)


def put(engine: Engine, user: int, level: int, **totals: Any) -> None:
    put_rows(engine, (user, "COACH"), level, **totals)


def totals(engine: Engine, user: int) -> list[str | None]:
    """The totals as the server prints them, so that their scale shows."""
    with engine.connect() as connection:
        columns = ", ".join(f"{name}::text" for name in TOTALS.split(", "))
        return list(connection.execute(text(f"SELECT {columns} FROM {PROGRESS} WHERE student_id = {user}")).one())


@pytest.fixture
def old(engine: Engine) -> Engine:
    """Tables whose totals may have fractions; hours are numeric(6,1), and one is below a domain."""
    execute(engine, "CREATE DOMAIN hours AS numeric(6,1)", "CREATE DOMAIN practice AS hours CHECK (VALUE >= 0)")
    retype(
        engine,
        total_xp="numeric(12,2)",
        completed_projects="numeric",
        theory_hours_completed="numeric(6,1)",
        practice_hours_completed="practice",
    )
    return engine


def test_level_up_keeps_every_fraction_and_gains_no_level_by_rounding(old: Engine) -> None:
    values = {"total_xp": "989.60", "completed_projects": "0.125", "theory_hours": "7.5", "practice_hours": "0.5"}
    put(old, 1, 1, completed_sessions=3, **{name: Decimal(value) for name, value in values.items()})
    with Session(old) as session:
        answer = level_up_atomic(session, 1, "COACH", 10)
    assert answer["success"]
    assert answer["progress"] == {"old_level": 1, "new_level": 1, "total_xp": 999, "completed_sessions": 3}
    assert totals(old, 1) == ["999.60", "3", "0.125", "7.5", "0.5"]
    with Session(old) as session:
        answer = level_up_atomic(session, 1, "COACH", 1)
    assert answer["success"]
    assert answer["progress"]["new_level"] == 2
    assert totals(old, 1) == ["1000.60", "3", "0.125", "7.5", "0.5"]


def test_totals_that_change_keep_their_fraction_up_and_down(old: Engine) -> None:
    put(old, 1, 1, total_xp=Decimal("989.60"), theory_hours=Decimal("7.5"), completed_projects=Decimal("2.75"))
    coach: Any = {"user_id": 1, "specialization": "COACH"}
    changes: Any = {"xp_change": -9, "theory_hours_change": 2, "projects_change": -2, "practice_hours_change": 1}
    commands = [
        SetLevel(**coach, new_level=2, **changes),
        SetLevel(**coach, new_level=3, xp_change=100, theory_hours_change=-9),
    ]
    assert [outcome.status for outcome in apply(old, commands)] == ["applied", "applied"]
    assert totals(old, 1) == ["1080.60", "0", "0.75", "0.5", "1.0"]
    (outcome,) = apply(old, [SetLevel(**coach, new_level=3, theory_hours_change=-1)])
    assert outcome.message == "theory_hours: 0 -1 would go below zero"


def test_null_totals_stay_null_until_a_command_changes_them(application_engine: Engine) -> None:
    engine = application_engine
    retype(engine, theory_hours_completed="numeric(6,1)")
    put(
        engine, 1, 1, total_xp=5, completed_sessions=None, completed_projects=None, theory_hours=None,
        practice_hours=None,
    )  # fmt: skip
    with Session(engine) as session:
        assert level_up_atomic(session, 1, "COACH", 10, sessions_completed=2)["success"]
    assert totals(engine, 1) == ["15", "2", None, None, None]
    apply(engine, [LevelUp(user_id=1, specialization="COACH", theory_hours=3)])
    assert totals(engine, 1) == ["15", "2", None, "3.0", None]


def test_bounds_follow_precision_and_scale(old: Engine) -> None:
    put(old, 1, 1, theory_hours=Decimal("99998.9"))
    commands = [LevelUp(user_id=1, specialization="COACH", theory_hours=1, reason=str(n)) for n in range(2)]
    fits, overflows = apply(old, commands)
    assert fits.status == "applied"
    assert overflows.message == "theory_hours: 99999 +1 would overflow its column (at most 99999)"
    assert totals(old, 1)[3] == "99999.9"
    with old.connect() as connection:
        limits = schema_of(connection).limits.totals
    assert limits == (10**10 - 1, limits[1], 2**63 - 1, 99_999, 99_999)


def test_smallint_levels_and_totals_are_bounded(engine: Engine) -> None:
    retype(engine, completed_sessions="smallint", current_level="smallint")
    put(engine, 1, 1, completed_sessions=32_766)
    commands = [LevelUp(user_id=1, specialization="COACH", sessions_completed=1, xp_gained=n) for n in (1, 2)]
    outcomes = apply(engine, commands)
    assert [outcome.status for outcome in outcomes] == ["applied", "rejected"]
    assert outcomes[1].message == "completed_sessions: 32767 +1 would overflow its column (at most 32767)"


def test_worker_and_verify_are_right_on_totals_with_fractions(
    settings: Settings, redis: Redis, own_engine: Engine, tmp_path: Path
) -> None:
    retype(own_engine, total_xp="numeric(12,2)", theory_hours_completed="numeric(6,1)")
    put(own_engine, 1, 1, total_xp=Decimal("989.60"), theory_hours=Decimal("7.5"))
    with runtime(settings) as worker:
        push(worker, [LevelUp(user_id=user, specialization="COACH", xp_gained=10, theory_hours=1) for user in (1, 2)])
        drain_all(worker, "COACH")
    assert totals(own_engine, 1) == ["999.60", "0", "0", "8.5", "0"]
    assert totals(own_engine, 2) == ["10.00", "0", "0", "1.0", "0"]
    assert verify(own_engine, redis, settings, Options(at_rest=True)).examples == []
    execute(own_engine, f"UPDATE {PROGRESS} SET total_xp = total_xp + 1 WHERE student_id = 1")
    report = verify(own_engine, redis, settings, Options(at_rest=True))
    assert [example.user_id for example in report.examples] == [1]


def test_integer_columns_that_are_not_null_keep_the_plain_statement(own_engine: Engine) -> None:
    with own_engine.connect() as connection:
        statements = Statements.of(schema_of(connection))
    update = " ".join(statements.update_progress.by_ctid.split())
    assert "SET current_level = k.level, total_xp = k.xp, completed_sessions = k.sessions, completed_projects" in update
    assert "floor" not in statements.lock_progress


# Columns that levelq cannot write: how they come about, and the one finding they must give.
UNFIT = {
    "a level with a fraction": (
        "ALTER TABLE specialization_progress ALTER current_level TYPE numeric(3,1)",
        "specialization_progress.current_level is of type numeric(3,1), expected an integer type: "
        "a level has no fraction",
    ),
    "a level without a scale": (
        "ALTER TABLE user_licenses ALTER current_level TYPE numeric",
        "user_licenses.current_level is of type numeric, expected an integer type: a level has no fraction",
    ),
    "a level in floating point": (
        "ALTER TABLE user_licenses ALTER max_achieved_level TYPE double precision",
        "user_licenses.max_achieved_level is of type float8, expected int2 or int4 or int8 or numeric",
    ),
    "hours in floating point": (
        "ALTER TABLE specialization_progress ALTER theory_hours_completed TYPE real",
        "specialization_progress.theory_hours_completed is of type float4, expected int2 or int4 or int8 or numeric",
    ),
    "experience in double precision": (
        "ALTER TABLE specialization_progress ALTER total_xp TYPE double precision",
        "specialization_progress.total_xp is of type float8, expected int2 or int4 or int8 or numeric",
    ),
    "a domain over floating point": (
        "CREATE DOMAIN points AS real; ALTER TABLE specialization_progress ALTER total_xp TYPE points",
        "specialization_progress.total_xp is of type float4, expected int2 or int4 or int8 or numeric",
    ),
    "hundreds": (
        "ALTER TABLE specialization_progress ALTER total_xp TYPE numeric(6,-2)",
        "specialization_progress.total_xp is of type numeric(6,-2), which cannot count by one",
    ),
    "only a fraction": (
        "ALTER TABLE specialization_progress ALTER practice_hours_completed TYPE numeric(2,2)",
        "specialization_progress.practice_hours_completed is of type numeric(2,2), which cannot count by one",
    ),
    "padding": (
        "ALTER TABLE specialization_progress ALTER specialization_id TYPE char(12)",
        "specialization_progress.specialization_id is of type bpchar, expected text or varchar",
    ),
    "a column that always counts by itself": (
        "ALTER TABLE specialization_progress ALTER completed_sessions DROP DEFAULT, "
        "ALTER completed_sessions SET NOT NULL, ALTER completed_sessions ADD GENERATED ALWAYS AS IDENTITY",
        "specialization_progress.completed_sessions is GENERATED ALWAYS AS IDENTITY: levelq must write it",
    ),
    "a generated total": (
        "ALTER TABLE specialization_progress DROP COLUMN total_xp, "
        "ADD COLUMN total_xp integer GENERATED ALWAYS AS (completed_sessions * 10) STORED",
        "specialization_progress.total_xp is generated from other columns: levelq must write it",
    ),
}


@pytest.mark.parametrize("fault", UNFIT)
def test_unfit_column_is_refused_until_the_printed_statement_is_run(own_engine: Engine, fault: str) -> None:
    engine = own_engine
    breaking, problem = UNFIT[fault]
    execute(engine, *breaking.split("; "))
    found = findings(engine)
    assert [(finding.severity, finding.problem) for finding in found] == [("error", problem)]
    forget(engine)
    with Session(engine) as session:
        answer = level_up_atomic(session, 1, "PLAYER", 1000)
    assert (answer["success"], answer.get("error_type")) == (False, "database_error")
    assert problem in answer["message"]
    fix(engine, found)
    assert findings(engine) == []
    with Session(engine) as session:
        assert level_up_atomic(session, 1, "PLAYER", 1000)["success"]


def test_worker_does_not_start_on_an_unfit_column(settings: Settings, own_engine: Engine) -> None:
    retype(own_engine, theory_hours_completed="real")
    with pytest.raises(SchemaError, match=r"theory_hours_completed is of type float4.*`levelq db check`") as refused:
        preflight(settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("type_", ["real", "double precision"])
def test_fix_of_a_float_keeps_its_digits(own_engine: Engine, type_: str) -> None:
    engine = own_engine
    retype(engine, total_xp=type_, theory_hours_completed=type_)
    put(engine, 1, 2, total_xp=1_234_567, theory_hours=7.5)
    fix(engine, findings(engine))
    assert totals(engine, 1)[0] == "1234567"
    assert totals(engine, 1)[3] == "7.5"


def test_user_ids_that_are_uuids_are_refused_with_what_to_do(
    blank_database_url: str, engines: Callable[..., Engine]
) -> None:
    engine = engines(blank_database_url)
    execute(
        engine,
        "CREATE TABLE user_licenses (id serial PRIMARY KEY, user_id uuid, specialization_type text, current_level int, "
        "max_achieved_level int, started_at timestamptz, last_advanced_at timestamptz, "
        "UNIQUE (user_id, specialization_type))",
    )
    (absent, uuids) = findings(engine)
    assert absent.fix == ("levelq db upgrade",)
    assert uuids.problem.startswith("user_licenses.user_id is of type uuid")
    assert uuids.fix == ("-- user_licenses.user_id: uuid has no cast to bigint; add a column of that type and fill it",)
