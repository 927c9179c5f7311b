"""docs/how-to/migrate.md: each row of its table is shown by a test, most of them here."""

import importlib
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import Connection, Engine, event, select, text
from sqlalchemy.orm import Session

from levelq import Catalog, LevelUp, ProgressLicenseCoupler, apply_commands, level_up_atomic
from tests.support.coupler import put_license, put_progress, session, tables, wait_until_blocked_by
from tests.support.orm import Progress, User

ROOT = Path(__file__).parents[3]
PAGE, TESTS = ROOT / "docs" / "how-to" / "migrate.md", ROOT / "tests" / "integration"
LONG_AGO = "2001-02-03 04:05:06"

# By row of the table. Other modules by their names: they show more of the same.
SHOWN_BY = {
    "keywords": [
        "test_keywords_of_the_original_are_accepted",
        "test_session_binds.test_session_is_given_once_by_either_name",
    ],
    "several levels at once": ["test_large_gain_rises_several_levels"],
    "where a level-up is decided": ["test_level_up_that_waits_for_a_lock_counts_from_what_the_lock_protected"],
    "two levels that differ": ["test_level_up_starts_from_the_higher_of_two_levels"],
    "negative values": ["test_gains_are_not_negative_and_no_total_goes_below_zero"],
    "hours of other specializations than COACH": ["test_hours_of_a_player_are_refused"],
    "numbers": ["test_what_is_no_whole_number_is_refused"],
    "specialization names": ["test_names_are_folded_and_what_is_no_name_is_refused"],
    "unknown specializations": ["test_direct.test_unknown_specialization_is_refused"],
    "greatest level, requirements": ["test_levels_are_those_of_the_catalog"],
    "a missing row": ["test_missing_row_is_made_at_the_level_of_the_other"],
    "two first calls at once": ["test_two_first_calls_at_once_are_both_applied"],
    "a sync without its source row": ["test_sync_without_its_source_changes_nothing"],
    "`action` of a sync": ["test_direct.test_sync_copies_the_source_and_returns_its_action"],
    "keys of a sync": ["test_results_of_a_sync_have_all_keys"],
    "messages": ["test_messages_are_one_line"],
    "progressions of a sync": ["test_sync_that_changes_the_license_writes_a_progression"],
    "`requirements_met`": ["test_progression_has_the_totals_as_json_and_the_reason_as_given"],
    "`advancement_reason`": ["test_progression_has_the_totals_as_json_and_the_reason_as_given"],
    "who commits": [
        "test_call_commits_unless_the_caller_owns_the_transaction",
        "test_direct_sessions.test_block_of_session_begin_commits_two_learners_and_the_callers_row",
    ],
    "a refused call": ["test_direct.test_pending_work_is_rolled_back_with_a_refusal"],
    "the same call twice": ["test_same_call_counts_once_only_under_one_id"],
    "retries": ["test_lock_that_is_not_had_is_an_answer_and_the_same_id_may_be_sent_again"],
    "objects of the session": [
        "test_direct_sessions.test_objects_of_an_expiring_session_are_expired_by_its_commit",
        "test_session_objects.test_what_was_loaded_can_be_used_after_the_session_was_closed",
    ],
    "`last_advanced_at`": ["test_last_advanced_at_moves_with_the_level"],
    "times": [
        "test_times_of_progress_move_when_the_row_changes",
        "test_extra_times.test_made_rows_have_both_times_in_utc",
    ],
    "hooks, defaults and validators of your models": ["test_hooks_of_the_models_do_not_run_and_triggers_do"],
    "rules of your own before a level-up": ["test_rules_of_the_application_are_checked_before_the_call"],
    "`acquire_locks`": ["test_own_work_goes_into_one_block_with_the_call"],
    "the driver": ["test_direct_engines.test_psycopg2_is_refused_with_the_engine_to_make"],
}


def test_every_row_of_the_table_is_shown_by_a_test() -> None:
    rows = re.findall(r"^\| (.+?) \|", PAGE.read_text(), re.MULTILINE)
    assert set(rows) - {"what"} == set(SHOWN_BY)
    for name in (name for names in SHOWN_BY.values() for name in names):
        module, _, test = name.rpartition(".")
        (path,) = TESTS.rglob(f"{module or 'test_migrate_page'}.py")
        found = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        assert callable(getattr(found, test, None)), name


@pytest.fixture
def engine(application_engine: Engine) -> Engine:
    return application_engine


@pytest.fixture
def db(engine: Engine) -> Any:
    with Session(engine) as made:
        yield made


@pytest.fixture
def coupler(db: Session) -> ProgressLicenseCoupler:
    return ProgressLicenseCoupler(db=db)


def put(engine: Engine, progress: int | None = None, license_: int | None = None, name: str = "PLAYER") -> None:
    if progress is not None:
        put_progress(engine, (1, name), progress)
    if license_ is not None:
        put_license(engine, (1, name), license_, license_)


def levels(engine: Engine, name: str = "PLAYER") -> tuple[int | None, int | None]:
    found = tables(engine)
    rows = found.progress.get((1, name)), found.licenses.get((1, name))
    return tuple(row["level"] if row else None for row in rows)  # type: ignore[return-value]


def total_xp(engine: Engine) -> int:
    return int(tables(engine).progress[1, "PLAYER"]["total_xp"])


def run(engine: Engine, *statements: str) -> Any:
    with engine.begin() as connection:
        results = [connection.execute(text(statement)) for statement in statements]
        return results[-1].one() if results[-1].returns_rows else None


def driver_of(connection: Connection) -> psycopg.Connection[Any]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver


def is_invalid(result: Any) -> bool:
    return (result.get("success"), result.get("error_type")) == (False, "validation_error")


def test_keywords_of_the_original_are_accepted(db: Session) -> None:
    coupler = ProgressLicenseCoupler(db=db)
    fields = {"xp_change": 1, "sessions_change": 1, "projects_change": 1, "advanced_by": 2, "reason": "exam"}
    hours = {"theory_hours_change": 1, "practice_hours_change": 1}
    calls: list[Callable[[], Any]] = [
        lambda: level_up_atomic(db=db, user_id=1, specialization="COACH", xp_gained=5, sessions_completed=1),
        lambda: coupler.update_level_atomic(user_id=1, specialization="COACH", new_level=2, **fields, **hours),  # type: ignore[arg-type]
        lambda: coupler.sync_existing_records_atomic(user_id=1, specialization="COACH", source="license"),
    ]
    assert [call()["success"] for call in calls] == [True] * 3
    assert coupler.validate_consistency(user_id=1, specialization="COACH").get("consistent") is True


def test_large_gain_rises_several_levels(db: Session) -> None:
    result = level_up_atomic(db, 1, "PLAYER", 6000)
    assert result["success"] and (result["progress"]["old_level"], result["progress"]["new_level"]) == (1, 4)


def test_level_up_that_waits_for_a_lock_counts_from_what_the_lock_protected(
    engine: Engine, application_database_url: str
) -> None:
    put(engine, 1, 1)
    with session(application_database_url) as other, ThreadPoolExecutor(1) as threads:
        other.execute("UPDATE specialization_progress SET total_xp = total_xp + 999")
        waiting = threads.submit(level_up, engine, 1)
        wait_until_blocked_by(application_database_url, other)
        other.commit()
        result = waiting.result(timeout=20)
    assert (result["progress"]["total_xp"], result["progress"]["new_level"]) == (1000, 2)


def level_up(engine: Engine, xp: int, **fields: Any) -> Any:
    with Session(engine) as session_:
        return level_up_atomic(session_, 1, "PLAYER", xp, **fields)


def test_level_up_starts_from_the_higher_of_two_levels(engine: Engine, db: Session) -> None:
    put(engine, 2, 4)
    assert level_up_atomic(db, 1, "PLAYER", 1)["success"]
    assert levels(engine) == (4, 4)


def test_gains_are_not_negative_and_no_total_goes_below_zero(db: Session, coupler: ProgressLicenseCoupler) -> None:
    assert is_invalid(level_up_atomic(db, 1, "COACH", -1))
    assert coupler.update_level_atomic(1, "COACH", 1, xp_change=100, projects_change=2)["success"]
    assert coupler.update_level_atomic(1, "COACH", 1, xp_change=-100, projects_change=-2)["success"]
    for total in ("xp", "sessions", "projects", "theory_hours", "practice_hours"):
        result = coupler.update_level_atomic(1, "COACH", 1, **{f"{total}_change": -1})  # type: ignore[arg-type]
        assert is_invalid(result) and "would go below zero" in result["message"]


def test_hours_of_a_player_are_refused(coupler: ProgressLicenseCoupler) -> None:
    result = coupler.update_level_atomic(1, "PLAYER", 1, theory_hours_change=1)
    assert is_invalid(result) and "PLAYER does not track hours" in result["message"]


@pytest.mark.parametrize("xp", ["5", 5.0, True, None])
def test_what_is_no_whole_number_is_refused(db: Session, xp: Any) -> None:
    assert is_invalid(level_up_atomic(db, 1, "PLAYER", xp))


def test_names_are_folded_and_what_is_no_name_is_refused(engine: Engine, db: Session) -> None:
    assert level_up_atomic(db, 1, "player", 5)["success"] and level_up_atomic(db, 1, "Player", 5)["success"]
    assert total_xp(engine) == 10
    for name in ("PLAYER ", " player", "", "P" * 33, "PLAYER-1"):
        assert is_invalid(level_up_atomic(db, 1, name, 5))
        assert ProgressLicenseCoupler(db).validate_consistency(1, name).get("error_type") == "validation_error"


def test_levels_are_those_of_the_catalog(db: Session) -> None:
    assert is_invalid(ProgressLicenseCoupler(db).update_level_atomic(1, "INTERNSHIP", 4))
    own = Catalog.of({"INTERNSHIP": {"levels": [0, 10, 20, 30]}})
    assert ProgressLicenseCoupler(db, catalog=own).update_level_atomic(1, "INTERNSHIP", 4)["success"]


@pytest.mark.parametrize(("progress", "license_"), [(5, None), (None, 5)])
def test_missing_row_is_made_at_the_level_of_the_other(
    engine: Engine, db: Session, progress: int | None, license_: int | None
) -> None:
    put(engine, progress, license_)
    assert level_up_atomic(db, 1, "PLAYER", 1)["success"]
    assert levels(engine) == (5, 5)
    level_up_atomic(db, 1, "COACH", 1)
    assert levels(engine, "COACH") == (1, 1)


def test_two_first_calls_at_once_are_both_applied(engine: Engine, application_database_url: str) -> None:
    with engine.connect() as first, ThreadPoolExecutor(1) as threads:
        apply_commands(first, [LevelUp(user_id=1, specialization="PLAYER", xp_gained=5)])
        waiting = threads.submit(level_up, engine, 5)
        wait_until_blocked_by(application_database_url, driver_of(first))
        first.commit()
        assert waiting.result(timeout=20)["success"]
    assert total_xp(engine) == 10


@pytest.mark.parametrize(("progress", "license_", "source"), [(5, None, "license"), (None, 5, "progress")])
def test_sync_without_its_source_changes_nothing(
    engine: Engine, coupler: ProgressLicenseCoupler, progress: int | None, license_: int | None, source: Any
) -> None:
    put(engine, progress, license_)
    assert is_invalid(coupler.sync_existing_records_atomic(1, "PLAYER", source))
    assert levels(engine) == (progress, license_)


def test_results_of_a_sync_have_all_keys(engine: Engine, coupler: ProgressLicenseCoupler) -> None:
    put(engine, 3, 3)
    done = coupler.sync_existing_records_atomic(1, "PLAYER")
    assert done.keys() == {"success", "message", "action", "final_level"}
    failed = coupler.sync_existing_records_atomic(1, "PLAYER", "neither")  # type: ignore[arg-type]
    assert failed.keys() == {"success", "message", "error_type"}


def test_messages_are_one_line(engine: Engine, db: Session) -> None:
    assert level_up_atomic(db, 1, "PLAYER", 2500)["message"] == "level 1 -> 3"
    run(engine, "ALTER TABLE specialization_progress ADD CONSTRAINT few CHECK (total_xp < 3000)")
    message = level_up_atomic(db, 1, "PLAYER", 2500)["message"]
    assert "few" in message and message.endswith("(SQLSTATE 23514)") and "\n" not in message


def test_sync_that_changes_the_license_writes_a_progression(engine: Engine, coupler: ProgressLicenseCoupler) -> None:
    put(engine, 5, 3)
    assert coupler.sync_existing_records_atomic(1, "PLAYER")["success"]
    assert tuple(run(engine, "SELECT from_level, to_level FROM license_progressions")) == (3, 5)


def test_progression_has_the_totals_as_json_and_the_reason_as_given(
    engine: Engine, db: Session, coupler: ProgressLicenseCoupler
) -> None:
    level_up_atomic(db, 1, "PLAYER", 1000)
    found = run(engine, "SELECT advancement_reason, requirements_met FROM license_progressions")
    assert found[0] == "Level up"
    assert json.loads(found[1]) == {
        "total_xp": 1000, "completed_sessions": 0, "completed_projects": 0, "theory_hours": 0, "practice_hours": 0
    }  # fmt: skip
    for reason in ("", "exam"):
        coupler.update_level_atomic(1, "PLAYER", 3 if reason else 4, reason=reason)
        assert run(engine, "SELECT advancement_reason FROM license_progressions ORDER BY id DESC LIMIT 1")[0] == reason


def test_call_commits_unless_the_caller_owns_the_transaction(engine: Engine, db: Session) -> None:
    assert "committed" not in level_up_atomic(db, 1, "PLAYER", 5)
    with db.begin() as block:
        assert level_up_atomic(db, 1, "PLAYER", 5).get("committed") is False
        block.rollback()
    assert total_xp(engine) == 5


def test_same_call_counts_once_only_under_one_id(engine: Engine, db: Session) -> None:
    one = uuid4()
    for command_id in (None, None, one, one):
        assert level_up_atomic(db, 1, "PLAYER", 5, command_id=command_id)["success"]
    assert total_xp(engine) == 15


def test_lock_that_is_not_had_is_an_answer_and_the_same_id_may_be_sent_again(
    engine: Engine, db: Session, application_database_url: str
) -> None:
    put(engine, 1, 1)
    command_id = uuid4()
    with session(application_database_url) as other:
        other.execute("SELECT FROM specialization_progress FOR UPDATE")
        db.execute(text("SET lock_timeout = '50ms'"))
        db.commit()
        refused = level_up_atomic(db, 1, "PLAYER", 5, command_id=command_id)
        assert (refused["success"], refused.get("error_type")) == (False, "database_error")
    assert level_up_atomic(db, 1, "PLAYER", 5, command_id=command_id)["success"]


def test_last_advanced_at_moves_with_the_level(engine: Engine, db: Session) -> None:
    level_up_atomic(db, 1, "PLAYER", 5)
    run(engine, f"UPDATE user_licenses SET last_advanced_at = '{LONG_AGO}'")
    for xp, moved in ((5, False), (1000, True)):
        level_up_atomic(db, 1, "PLAYER", xp)
        assert (str(run(engine, "SELECT last_advanced_at FROM user_licenses")[0]) != LONG_AGO) is moved


def test_times_of_progress_move_when_the_row_changes(engine: Engine, db: Session) -> None:
    level_up_atomic(db, 1, "PLAYER", 5)
    run(engine, *(f"UPDATE specialization_progress SET {n} = '{LONG_AGO}'" for n in ("created_at", "updated_at")))
    begun = run(engine, "SELECT clock_timestamp() AT TIME ZONE 'UTC'")[0]
    level_up_atomic(db, 1, "PLAYER", 5)
    made, changed, active = run(engine, "SELECT created_at, updated_at, last_activity FROM specialization_progress")
    assert str(made) == LONG_AGO and isinstance(changed, datetime) and begun <= changed == active


def test_hooks_of_the_models_do_not_run_and_triggers_do(engine: Engine, db: Session) -> None:
    ran: list[object] = []
    run(
        engine,
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN UPDATE users SET name = 'noted' WHERE id = NEW.student_id; RETURN NULL; END $$",
        "CREATE TRIGGER note AFTER UPDATE ON specialization_progress FOR EACH ROW EXECUTE FUNCTION note()",
    )

    def hook(mapper: object, connection: object, target: object) -> None:
        ran.append(target)

    event.listen(Progress, "before_update", hook)
    try:
        level_up_atomic(db, 1, "PLAYER", 5)
        db.scalars(select(Progress)).one()
        level_up_atomic(db, 1, "PLAYER", 5)
    finally:
        event.remove(Progress, "before_update", hook)
    assert ran == [] and run(engine, "SELECT name FROM users WHERE id = 1")[0] == "noted"


def test_rules_of_the_application_are_checked_before_the_call(engine: Engine, db: Session) -> None:
    """A rule about a user, checked in the transaction that the call then commits."""
    with db.begin():
        user = db.get_one(User, 1, with_for_update={"read": True})
        if user.name != "banned":
            level_up_atomic(db, 1, "PLAYER", 5)
    assert total_xp(engine) == 5


def test_own_work_goes_into_one_block_with_the_call(engine: Engine, db: Session) -> None:
    with db.begin():
        db.add(User(id=4000, name="new"))
        result = level_up_atomic(db, 4000, "PLAYER", 1000)
        assert result["success"]
        db.get_one(User, 4000).name = f"level {result['license']['new_level']}"
    assert run(engine, "SELECT name FROM users WHERE id = 4000")[0] == "level 2"


# Old code beside levelq


@pytest.mark.parametrize("way", ["reads, adds and writes", "adds in SQL", "reads under the lock"])
def test_old_code_loses_what_levelq_added_unless_it_adds_in_sql_or_reads_under_the_lock(
    engine: Engine, application_database_url: str, way: str
) -> None:
    put(engine, 1, 1)
    with Session(engine) as old, ThreadPoolExecutor(1) as threads:
        statement = select(Progress).where(Progress.student_id == 1)
        row = old.scalars(statement.with_for_update() if way == "reads under the lock" else statement).one()
        new = threads.submit(level_up, engine, 100)
        if way == "reads under the lock":
            wait_until_blocked_by(application_database_url, driver_of(old.connection()))
        else:
            assert new.result(timeout=20)["success"]
        row.total_xp = Progress.total_xp + 25 if way == "adds in SQL" else row.total_xp + 25
        old.commit()
        assert new.result(timeout=20)["success"]
    assert total_xp(engine) == (25 if way == "reads, adds and writes" else 125)
