"""The direct coupler's calls, on both kinds of schema: every documented shape of their results."""

from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from levelq_core import LevelUp, ProgressLicenseCoupler, apply_commands, level_up_atomic
from levelq_core.operations.queries import outcome_of
from tests.support.coupler import put_license, put_progress, tables
from tests.support.isolation import apply
from tests.support.orm import ID, REFUSED, Progress, User, new_users, recorded

LANE = (1, "COACH")
BOTH = {"progress_exists": True, "license_exists": True}
UNKNOWN = "specialization: expected one of PLAYER, COACH, INTERNSHIP, got 'WIZARD'"


def put(engine: Engine, progress: int | None, license_: int | None, **totals: int) -> None:
    if progress is not None:
        put_progress(engine, LANE, progress, **totals)
    if license_ is not None:
        put_license(engine, LANE, license_, license_)


def is_empty(engine: Engine) -> bool:
    return tables(engine) == ({}, {}, {})


# The shapes


def test_level_up_creates_and_raises_both_rows(session: Session) -> None:
    assert level_up_atomic(session, 1, "player", 2600, 3) == {
        "success": True,
        "message": "level 1 -> 3",
        "progress": {"old_level": 1, "new_level": 3, "total_xp": 2600, "completed_sessions": 3},
        "license": {"old_level": 1, "new_level": 3, "max_achieved_level": 3},
        "progression_created": True,
        "xp_change": 2600,
        "sessions_change": 3,
    }
    chain = session.execute(text("SELECT from_level, to_level, advancement_reason FROM license_progressions"))
    assert [tuple(row) for row in chain] == [(1, 3, "Level up")]


def test_update_lowers_both_levels_and_keeps_the_highest(engine: Engine, coupler: ProgressLicenseCoupler) -> None:
    put(engine, 5, 5, total_xp=10000, completed_sessions=9)
    result = coupler.update_level_atomic(
        1, "COACH", 2, xp_change=-9000, sessions_change=-2, projects_change=1, theory_hours_change=4, advanced_by=7
    )
    assert result == {
        "success": True,
        "message": "level 5 -> 2",
        "progress": {"old_level": 5, "new_level": 2, "total_xp": 1000, "completed_sessions": 7},
        "license": {"old_level": 5, "new_level": 2, "max_achieved_level": 5},
        "progression_created": True,
        "xp_change": -9000,
        "sessions_change": -2,
    }
    (step,) = tables(engine).progressions[LANE]
    assert (step["from"], step["to"], step["by"], step["why"]) == (5, 2, 7, "")


def test_update_to_the_current_level_writes_no_progression(engine: Engine, coupler: ProgressLicenseCoupler) -> None:
    put(engine, 2, 2)
    result = coupler.update_level_atomic(1, "COACH", 2)
    assert result["success"] is True
    assert (result["message"], result["progression_created"]) == ("level stays 2", False)
    assert tables(engine).progressions == {}


def test_refused_update_changes_nothing(session: Session, coupler: ProgressLicenseCoupler) -> None:
    level_up_atomic(session, 1, "COACH", 100)
    message = refused(coupler.update_level_atomic(1, "COACH", 2, xp_change=-101))
    assert message == "total_xp: 100 -101 would go below zero"
    assert coupler.validate_consistency(1, "COACH").get("level") == 1


@pytest.mark.parametrize(
    ("before", "source", "action", "level", "audit"),
    [
        ((3, 3), "progress", "none", 3, []),
        ((3, 3), "license", "none", 3, []),
        ((5, 3), "progress", "updated_license", 5, [(3, 5)]),
        ((5, 3), "license", "updated_progress", 3, []),
        ((12, None), "progress", "created_license", 12, []),
        ((None, 4), "license", "created_progress", 4, []),
    ],
)
def test_sync_copies_the_source_and_returns_its_action(
    engine: Engine, coupler: ProgressLicenseCoupler, before: Any, source: Any, action: str, level: int, audit: Any
) -> None:
    put(engine, *before)
    result = coupler.sync_existing_records_atomic(1, "COACH", source, command_id=ID)
    message = f"{action}: both at level {level}"
    assert result == {"success": True, "message": message, "action": action, "final_level": level}
    found = tables(engine)
    assert found.progress[LANE]["level"] == level
    assert found.licenses[LANE] == {"level": level, "highest": level}
    assert [(row["from"], row["to"]) for row in found.progressions.get(LANE, [])] == audit
    assert coupler.sync_existing_records_atomic(1, "COACH", source, command_id=ID) == result
    both = {"consistent": True, "message": f"Both at level {level}", "level": level, **BOTH}
    assert coupler.validate_consistency(1, "coach") == both


def test_sync_without_its_source_is_refused(coupler: ProgressLicenseCoupler) -> None:
    message = refused(coupler.sync_existing_records_atomic(1, "COACH"))
    assert message == "source: there is no progress row with a level to copy"


@pytest.mark.parametrize(
    ("progress", "license_", "found"),
    [
        (None, None, {"consistent": True, "progress_exists": False, "license_exists": False}),
        (4, 4, {"consistent": True, **BOTH, "level": 4}),
        (
            5, 3,
            {"consistent": False, "message": "Desync detected: Progress=5, License=3", **BOTH, "progress_level": 5,
             "license_level": 3, "difference": 2, "recommended_action": "sync_to_higher_level"},
        ),
        (
            5, None,
            {"consistent": False, "progress_exists": True, "license_exists": False, "progress_level": 5,
             "recommended_action": "create_license_from_progress"},
        ),
        (
            None, 3,
            {"consistent": False, "progress_exists": False, "license_exists": True, "license_level": 3,
             "recommended_action": "create_progress_from_license"},
        ),
    ],
)  # fmt: skip
def test_validate_compares_the_two_rows(
    engine: Engine, coupler: ProgressLicenseCoupler, progress: Any, license_: Any, found: dict[str, Any]
) -> None:
    put(engine, progress, license_)
    result = dict(coupler.validate_consistency(1, "Coach"))
    assert result["message"]
    assert {"message": result["message"], **found} == result


# Bad input


def refused(result: Any) -> str:
    assert result == {"success": False, "message": result["message"], "error_type": "validation_error"}
    assert "\n" not in result["message"]
    return str(result["message"])


def is_untouched(engine: Engine) -> bool:
    return is_empty(engine) and recorded(engine) == []


@pytest.mark.parametrize("user_id", [0, -1, "1", "one", None, 1.0, True, 2**63])
def test_invalid_user_id_is_refused(own_engine: Engine, own_coupler: ProgressLicenseCoupler, user_id: Any) -> None:
    for result in (
        own_coupler.update_level_atomic(user_id, "PLAYER", 2),
        own_coupler.level_up_atomic(user_id, "PLAYER", 5),
        own_coupler.sync_existing_records_atomic(user_id, "PLAYER"),
    ):
        message = refused(result)
        assert message.startswith("user_id: ") and message.endswith(f", got {user_id!r}")
    assert is_untouched(own_engine)


@pytest.mark.parametrize(
    ("field", "lane"),
    [
        *(("user_id", (user_id, "PLAYER")) for user_id in (0, "one", None, 1.5, True, 2**63)),
        *(("specialization", (1, name)) for name in (None, 7, "", "no spaces", "nul\0")),
    ],
)
def test_validate_refuses_an_invalid_lane(own_coupler: ProgressLicenseCoupler, field: str, lane: Any) -> None:
    assert refused(own_coupler.validate_consistency(*lane)).startswith(f"{field}: ")


@pytest.mark.parametrize("xp", [-1, 2**31, 5.0, float("nan"), float("inf"), True, "5", None])
def test_invalid_gain_is_refused(own_engine: Engine, own_coupler: ProgressLicenseCoupler, xp: Any) -> None:
    assert refused(own_coupler.level_up_atomic(1, "PLAYER", xp)).startswith("xp_gained: ")
    assert refused(own_coupler.level_up_atomic(1, "PLAYER", 5, xp)).startswith("sessions_completed: ")
    assert is_untouched(own_engine)


@pytest.mark.parametrize("level", [0, -1, 9, 999])
def test_level_outside_the_catalog_is_refused(engine: Engine, coupler: ProgressLicenseCoupler, level: int) -> None:
    message = refused(coupler.update_level_atomic(1, "PLAYER", level))
    assert message == f"new_level: expected 1 to 8 for PLAYER, got {level}"
    assert is_empty(engine)


@pytest.mark.parametrize("level", [2.0, True, "2", None, float("nan"), 2**31])
def test_level_that_is_no_number_is_refused(
    own_engine: Engine, own_coupler: ProgressLicenseCoupler, level: Any
) -> None:
    assert refused(own_coupler.update_level_atomic(1, "PLAYER", level)).startswith("new_level: ")
    assert is_untouched(own_engine)


def test_unknown_specialization_is_refused(engine: Engine, session: Session, coupler: ProgressLicenseCoupler) -> None:
    assert refused(level_up_atomic(session, 1, "wizard", 5)) == UNKNOWN
    assert refused(coupler.update_level_atomic(1, "WIZARD", 1)) == UNKNOWN
    assert refused(coupler.sync_existing_records_atomic(1, "Wizard")) == UNKNOWN
    assert refused(level_up_atomic(session, 1, "no spaces", 5)).startswith("specialization: ")
    assert is_empty(engine)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"theory_hours_change": 3}, "theory_hours_change: PLAYER does not track hours, expected 0, got 3"),
        ({"reason": "r" * 501}, "reason: "),
        ({"reason": "a\0b"}, "reason: "),
        ({"reason": None}, "reason: "),
        ({"advanced_by": 0}, "advanced_by: "),
        ({"advanced_by": "me"}, "advanced_by: "),
        ({"command_id": "not a uuid"}, "command_id: "),
        ({"xp_change": 0.5}, "xp_change: "),
    ],
)
def test_invalid_field_is_refused(
    own_engine: Engine, own_coupler: ProgressLicenseCoupler, fields: dict[str, Any], field: str
) -> None:
    assert refused(own_coupler.update_level_atomic(1, "PLAYER", 2, **fields)).startswith(field)
    assert is_empty(own_engine)


def test_unknown_source_is_refused(coupler: ProgressLicenseCoupler) -> None:
    assert refused(coupler.sync_existing_records_atomic(1, "PLAYER", "both")).startswith("source: ")  # type: ignore[arg-type]


def test_refusal_of_the_database_names_the_constraint(application_engine: Engine, application_session: Session) -> None:
    for user, xp, constraint in (
        (1, REFUSED, "ck_not_the_beast"),
        (5000, 1, "specialization_progress_student_id_fkey"),
    ):
        result = level_up_atomic(application_session, user, "PLAYER", xp)
        assert result["success"] is False and result["error_type"] == "database_error"
        assert constraint in result["message"]
    assert is_empty(application_engine)
    assert recorded(application_engine) == [("rejected", "database_error")] * 2


def test_unreachable_database_is_a_database_error(engines: Any, own_database_url: str) -> None:
    with Session(engines(own_database_url.replace("/test_", "/gone_"))) as session:
        coupler = ProgressLicenseCoupler(session)
        for result in (
            level_up_atomic(session, 1, "PLAYER", 5),
            coupler.update_level_atomic(1, "PLAYER", 2),
            coupler.sync_existing_records_atomic(1, "PLAYER"),
            coupler.validate_consistency(1, "PLAYER"),
        ):
            assert result.get("error_type") == "database_error"
            assert "does not exist" in result["message"] and "\n" not in result["message"]


# The same command again


def test_same_id_again_gives_the_same_answer(engine: Engine, session: Session) -> None:
    first = level_up_atomic(session, 1, "PLAYER", 1200, command_id=ID)
    level_up_atomic(session, 1, "PLAYER", 5000)
    assert level_up_atomic(session, 1, "player", 1200, command_id=ID) == first
    assert tables(engine).progress[1, "PLAYER"]["total_xp"] == 6200


def test_rejection_is_kept_under_its_id_after_its_cause_is_gone(
    engine: Engine, session: Session, coupler: ProgressLicenseCoupler
) -> None:
    first = coupler.update_level_atomic(1, "PLAYER", 2, xp_change=-5, command_id=ID)
    assert recorded(engine) == [("rejected", "validation_error")]
    session.rollback()
    level_up_atomic(session, 1, "PLAYER", 50)
    assert coupler.update_level_atomic(1, "PLAYER", 2, xp_change=-5, command_id=ID) == first
    assert recorded(engine) == [("rejected", "validation_error"), ("applied", None)]
    with engine.connect() as connection:
        kept = outcome_of(connection, ID)
    assert kept is not None and (kept.status, kept.message) == ("rejected", first["message"])


def test_same_id_for_another_command_is_refused_and_not_recorded(engine: Engine, session: Session) -> None:
    level_up_atomic(session, 1, "PLAYER", 5, command_id=ID)
    message = refused(level_up_atomic(session, 2, "PLAYER", 5, command_id=ID))
    assert message == "command_id was used before, for another command of PLAYER:1"
    assert recorded(engine) == [("applied", None)]


SAME = LevelUp(user_id=1, specialization="PLAYER", xp_gained=5, reason="Level up", command_id=ID)


def test_id_of_a_rolled_back_transaction_may_be_used_again(own_engine: Engine) -> None:
    with own_engine.connect() as connection:
        apply_commands(connection, [SAME])
        connection.rollback()
    with Session(own_engine) as session:
        result = level_up_atomic(session, 1, "PLAYER", 5, command_id=ID)
    assert result["success"] is True and result["xp_change"] == 5
    assert recorded(own_engine) == [("applied", None)]


def test_direct_call_and_batch_share_the_ledger(own_engine: Engine) -> None:
    with Session(own_engine) as session:
        level_up_atomic(session, 1, "PLAYER", 5, command_id=ID)
    (outcome,) = apply(own_engine, [SAME])
    assert (outcome.status, outcome.duplicate) == ("applied", True)


# The caller's session


def test_pending_work_is_flushed_and_committed_with_the_change(
    application_engine: Engine, application_session: Session
) -> None:
    session = application_session
    session.add(user := User(id=4001, name="old"))
    session.commit()
    session.add(User(id=4000, name="new"))
    user.name = "renamed"
    assert level_up_atomic(session, 4000, "PLAYER", 5)["success"] is True
    assert new_users(application_engine) == {4000: "new", 4001: "renamed"}
    assert not session.in_transaction()


def test_pending_work_is_rolled_back_with_a_refusal(application_engine: Engine, application_session: Session) -> None:
    session = application_session
    session.add(User(id=4000, name="new"))
    assert ProgressLicenseCoupler(session).update_level_atomic(4000, "PLAYER", 99)["success"] is False
    assert new_users(application_engine) == {}
    assert recorded(application_engine) == [("rejected", "validation_error")]
    assert not session.in_transaction() and not session.new


def test_pending_work_that_cannot_be_flushed_is_a_database_error(application_session: Session) -> None:
    application_session.add(User(id=1, name="a second one"))
    result = level_up_atomic(application_session, 1, "PLAYER", 5)
    assert result["success"] is False and result["error_type"] == "database_error"
    assert "users_pkey" in result["message"] and "\n" not in result["message"]
    assert level_up_atomic(application_session, 1, "PLAYER", 5)["success"] is True


@pytest.mark.parametrize("expire_on_commit", [True, False])
def test_objects_show_the_new_level(engine: Engine, expire_on_commit: bool) -> None:
    with Session(engine, expire_on_commit=expire_on_commit) as session:
        level_up_atomic(session, 1, "PLAYER", 5)
        row = session.query(Progress).one()
        assert row.current_level == 1
        level_up_atomic(session, 1, "PLAYER", 2500)
        assert (row.current_level, row.total_xp) == (3, 2505)


def test_session_serves_one_call_after_another(session: Session, coupler: ProgressLicenseCoupler) -> None:
    for _ in range(3):
        assert level_up_atomic(session, 1, "PLAYER", 5)["success"] is True
        assert coupler.update_level_atomic(1, "PLAYER", 99)["success"] is False
        assert coupler.validate_consistency(1, "PLAYER").get("consistent") is True
