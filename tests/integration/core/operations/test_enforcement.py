"""`levelq db enforce`: what the database then refuses, what it does not, and how it is switched on and off."""

from collections.abc import Iterator

import psycopg
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Engine
from sqlalchemy.exc import IntegrityError

from levelq_core import ConfigurationError, Settings
from levelq_core.operations.enforcement import enforce, enforcement_sql
from levelq_core.operations.readings.enforcement import read_enforcement
from tests.support.db_check import execute, findings, query, role
from tests.support.fixtures.command_line import Levelq, LevelqWith
from tests.support.isolation import apply, level_up, raising
from tests.support.system import PLAYER, System, up

PROGRESS = "INSERT INTO specialization_progress (student_id, specialization_id, current_level, created_at) VALUES "
LICENSE = "INSERT INTO user_licenses (user_id, specialization_type, current_level, started_at) VALUES "
DRIFTED = (
    "SET session_replication_role = replica",
    f"{PROGRESS} (1, 'PLAYER', 1, now())",
    f"{LICENSE} (1, 'PLAYER', 2, now())",
)


@pytest.fixture
def enforced(engine: Engine) -> Iterator[Engine]:
    """A database of each kind with the triggers, and users 2 and 3 at level 3; user 3 has no license."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"{PROGRESS} (2, 'PLAYER', 3, now()), (3, 'PLAYER', 3, now())")
        connection.exec_driver_sql(f"{LICENSE} (2, 'PLAYER', 3, now())")
    assert enforce(engine).state == "on"
    yield engine
    enforce(engine, on=False)


@pytest.mark.parametrize(
    ("transaction", "refused"),
    [
        ("UPDATE specialization_progress SET current_level = 4 WHERE student_id = 2", True),
        ("UPDATE user_licenses SET current_level = 2", True),
        ("UPDATE user_licenses SET current_level = 4;"
         "UPDATE specialization_progress SET current_level = 4 WHERE student_id = 2", False),
        ("UPDATE user_licenses SET current_level = 4; UPDATE user_licenses SET current_level = 3", False),
        ("UPDATE specialization_progress SET total_xp = 5", False),
        ("UPDATE specialization_progress SET current_level = 5 WHERE student_id = 3", False),
        (f"{LICENSE} (3, 'PLAYER', 3, now())", False),
        (f"{LICENSE} (3, 'PLAYER', 1, now())", True),
        (f"{LICENSE} (3, 'PLAYER', 1, now()); UPDATE user_licenses SET current_level = 3", False),
        (f"{LICENSE} (3, 'player', 1, now())", True),
        (f"{LICENSE} (3, 'COACH', 1, now())", False),
        (f"{PROGRESS} (1, 'COACH', 7, now()), (1, 'PLAYER', 7, now())", False),
        ("UPDATE specialization_progress SET current_level = 4 WHERE student_id = 3;"
         "DELETE FROM specialization_progress WHERE student_id = 2;"
         "UPDATE specialization_progress SET student_id = 2", True),
        ("UPDATE user_licenses SET user_id = 3, current_level = 1", True),
        ("DELETE FROM user_licenses", False),
    ],
)  # fmt: skip
def test_commit_of_two_levels_that_differ_is_refused(enforced: Engine, transaction: str, refused: bool) -> None:
    if not refused:
        with enforced.begin() as connection:
            connection.exec_driver_sql(transaction)
    else:
        connection = enforced.connect()
        connection.exec_driver_sql(transaction)  # within the transaction the levels may differ
        with connection, pytest.raises(IntegrityError) as caught:
            connection.commit()
        error = caught.value.orig
        assert isinstance(error, psycopg.errors.CheckViolation)
        assert error.diag.constraint_name == "levelq_pair_in_step"
        assert error.diag.table_name in ("specialization_progress", "user_licenses")
        assert "progress is at level " in (error.diag.message_detail or "") and error.diag.message_hint


def test_levelqs_own_transactions_go_on(enforced: Engine) -> None:
    """New rows, several levels at once, one side missing, levels out of step from before, in one batch."""
    execute(enforced, *DRIFTED)
    outcomes = apply(enforced, [level_up(user, xp) for user in (1, 2, 3, 4) for xp in (1200, 30_000)])
    assert {outcome.status for outcome in outcomes} == {"applied"}
    assert query(enforced, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
    levels = "SELECT p.current_level, l.current_level FROM specialization_progress p"
    pairs = query(enforced, f"{levels} JOIN user_licenses l ON l.user_id = p.student_id")
    assert len(pairs) == 4 and all(progress == license_ for progress, license_ in pairs)


def test_application_without_rights_on_the_other_table_is_checked_all_the_same(enforced: Engine) -> None:
    with role(enforced, "old_service", "GRANT SELECT, UPDATE ON user_licenses TO old_service"):
        for level, refused in ((3, False), (4, True)):
            with enforced.connect() as connection:
                connection.exec_driver_sql(
                    f"SET LOCAL ROLE old_service; UPDATE user_licenses SET current_level = {level}"
                )
                if refused:
                    with pytest.raises(IntegrityError, match="at different levels"):
                        connection.commit()
                else:
                    connection.commit()


def test_trigger_that_makes_levels_differ_parks_its_lane_and_no_other(system: System) -> None:
    """The first COMMIT is refused; the next attempt checks before it, and finds the lane."""
    enforce(system.engine)
    system.sql(raising("user_licenses", "UPDATE", "NEW.user_id = 2", does="NEW.current_level := 1"))
    system.push(*(up(user, 1500) for user in (1, 2, 3)))
    system.run_drains(PLAYER, PLAYER)
    levels = "SELECT student_id, current_level FROM specialization_progress ORDER BY 1"
    assert system.rows(levels) == [(1, 2), (3, 2)]
    assert system.status().parked == 1 and system.status().waiting == 1


def test_check_constraint_of_licenses_is_evaluated_beforehand_as_without_it(system: System) -> None:
    enforce(system.engine)
    system.sql("ALTER TABLE user_licenses ADD CONSTRAINT low CHECK (current_level < 3)")
    system.push(*(up(user, 3000 if user % 5 == 0 else 1500) for user in range(1, 21)))
    system.drain()
    assert list(system.worker.transactions.checks.errors()) == ["user_licenses.low"]
    assert system.rows("SELECT count(*) FROM levelq_ledger WHERE status = 'rejected'") == [(4,)]


def test_report_tells_each_state_and_enforcing_again_makes_it_whole(
    enforced: Engine, settings: Settings, levelq_with: LevelqWith, database_url: str
) -> None:
    levelq = levelq_with(settings.model_copy(update={"database_url": database_url}), columns=80)
    assert levelq("db", "enforce", "--report").out.splitlines() == [
        "on: the database refuses levels out of step",
        "  specialization_progress   on",
        "  user_licenses             on",
        "0 pairs out of step",
    ]
    assert "levelq db enforce is on: the database refuses levels out of step.\n" in levelq("db", "check").out
    for damage, state in (
        ("ALTER TABLE user_licenses DISABLE TRIGGER levelq_pair_in_step", "disabled"),
        ("DROP TRIGGER levelq_pair_in_step_insert ON user_licenses", "half there"),
        ("CREATE OR REPLACE FUNCTION levelq_pair_in_step() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
         "outdated"),
    ):  # fmt: skip
        execute(enforced, damage)
        code, out, _ = levelq("db", "enforce", "--report")
        assert code == 1 and f"  user_licenses             {state}\n" in out
        assert [found.fix for found in findings(enforced) if "levelq_pair_in_step" in found.problem] == [
            ("levelq db enforce",)
        ]
        assert levelq("db", "enforce", "--yes").code == 0
    with enforced.connect() as connection:
        assert read_enforcement(connection).state == "on"


def test_switching_asks_says_does_it_once_and_is_audited(levelq_here: Levelq, own_engine: Engine) -> None:
    for options, state in (((), "on"), (("--off",), "off")):
        assert "no terminal" in levelq_here("db", "enforce", *options).err
        code, out, _ = levelq_here("db", "enforce", *options, "--dry-run")
        assert code == 0 and "\\n" not in out
        for _ in range(2):
            code, out, _ = levelq_here("db", "enforce", *options, "--yes")
            assert code == 0 and f"  user_licenses             {state}\n" in out
    lines = query(own_engine, "SELECT action, target, detail->>'state' FROM levelq_audit ORDER BY id")
    assert lines == [("db enforce", "specialization_progress, user_licenses", state) for state in ("on", "off")]
    assert "--report: expected" in levelq_here.refused("db", "enforce", "--report", "--off")


def test_it_is_refused_while_pairs_are_out_of_step(levelq_here: Levelq, own_engine: Engine) -> None:
    execute(own_engine, *DRIFTED)
    refusal = levelq_here.refused("db", "enforce", "--yes")
    assert "nothing was changed: 1 pair out of step" in refusal and "levelq adopt" in refusal
    assert levelq_here("db", "enforce", "--report").code == 1


def test_transaction_that_holds_a_table_is_named_and_nothing_is_changed(own_engine: Engine) -> None:
    with own_engine.begin() as holder:
        holder.exec_driver_sql("UPDATE user_licenses SET current_level = 1")
        with pytest.raises(ConfigurationError, match=r"within 500ms: session \d+ .+ Nothing was changed; run it again"):
            enforce(own_engine)
    with own_engine.connect() as connection:
        assert read_enforcement(connection).state == "off"


def test_role_that_may_not_lock_both_tables_cannot_put_it_in_force(
    application_engine: Engine, application_database_url: str, engines: object
) -> None:
    grants = "GRANT SELECT, TRIGGER ON specialization_progress, user_licenses TO changer"
    with role(application_engine, "changer", grants), pytest.raises(ConfigurationError, match="role changer: expected"):
        enforce(engines(application_database_url.replace("//postgres@", "//changer@")))  # type: ignore[operator]


def test_printed_statements_run_as_a_migration_of_alembic(own_engine: Engine) -> None:
    for on, state in ((True, "on"), (False, "off")):
        with own_engine.begin() as connection:
            script = enforcement_sql(connection, on=on)
            Operations(MigrationContext.configure(connection)).execute(script)
        with own_engine.connect() as connection:
            assert read_enforcement(connection).state == state
            assert enforcement_sql(connection, on=on) == ""
    assert query(own_engine, "SELECT detail->>'state' FROM levelq_audit ORDER BY id") == [("on",), ("off",)]


@pytest.mark.parametrize(
    "change",
    [
        ("CREATE SCHEMA \"it's\"", "ALTER TABLE specialization_progress SET SCHEMA \"it's\"",
         "ALTER TABLE user_licenses SET SCHEMA \"it's\""),
        ("DROP TABLE license_progressions, user_licenses", """
            CREATE TABLE user_licenses (id bigint GENERATED BY DEFAULT AS IDENTITY, user_id int, specialization_type
            varchar(20), current_level int, UNIQUE (user_id, specialization_type)) PARTITION BY HASH (user_id)""",
         "CREATE TABLE half PARTITION OF user_licenses FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
         "CREATE TABLE other_half PARTITION OF user_licenses FOR VALUES WITH (MODULUS 2, REMAINDER 1)"),
    ],
    ids=["another schema", "partitioned"],
)  # fmt: skip
def test_tables_of_other_shapes_are_enforced(own_engine: Engine, change: tuple[str, ...]) -> None:
    execute(own_engine, *change)
    execute(own_engine, f'ALTER DATABASE {own_engine.url.database} SET search_path = "it\'s", public')
    own_engine.dispose()
    assert enforce(own_engine).state == "on"
    for statement in (PROGRESS, LICENSE):
        execute(own_engine, statement.rpartition(", ")[0] + f") {_NINE}")
    for user in range(1, 5):
        with pytest.raises(IntegrityError, match="at different levels"):
            execute(own_engine, f"UPDATE user_licenses SET current_level = 2 WHERE user_id = {user}")


_NINE = "SELECT n, 'PLAYER', 1 FROM generate_series(1, 9) AS n"
