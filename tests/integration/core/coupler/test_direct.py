"""The direct coupler's four calls, on both kinds of schema: every shape that DESIGN section 3 documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from levelq_core import LevelUp, ProgressLicenseCoupler, apply_commands, level_up_atomic
from levelq_core.operations.queries import outcome_of
from tests.support.coupler import ledger, put_license, put_progress, tables

ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
LANE = (1, "COACH")


class Base(DeclarativeBase):
    pass


class Progress(Base):
    """The application's own view of a progress row."""

    __tablename__ = "specialization_progress"
    id: Mapped[int] = mapped_column(primary_key=True)
    student_id: Mapped[int]
    specialization_id: Mapped[str]
    current_level: Mapped[int]
    total_xp: Mapped[int]


class User(Base):
    """The application's user."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as made:
        yield made


@pytest.fixture
def coupler(session: Session) -> ProgressLicenseCoupler:
    return ProgressLicenseCoupler(session)


@pytest.fixture
def own_coupler(own_engine: Engine) -> Iterator[ProgressLicenseCoupler]:
    """For what is refused before the database is asked: one kind of schema is enough."""
    with Session(own_engine) as made:
        yield ProgressLicenseCoupler(made)


def put(engine: Engine, progress: int | None, license_: int | None, **totals: int) -> None:
    with engine.begin() as connection:
        if progress is not None:
            put_progress(connection, LANE, progress, **totals)
        if license_ is not None:
            put_license(connection, LANE, license_, license_)


def nothing_was_written(engine: Engine) -> bool:
    with engine.connect() as connection:
        return tables(connection) == ({}, {}, {})


def recorded(engine: Engine) -> list[tuple[str, str | None]]:
    with engine.connect() as connection:
        return [(row["status"], row["error"]) for row in ledger(connection)]


# The shapes


def test_a_level_up_creates_and_raises_both_rows(engine: Engine, session: Session) -> None:
    result = level_up_atomic(session, 1, "player", 2600, 3)
    assert result == {
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


def test_an_update_moves_both_down_and_keeps_the_highest(engine: Engine, coupler: ProgressLicenseCoupler) -> None:
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
    with engine.connect() as connection:
        (step,) = tables(connection).progressions[LANE]
    assert (step["from"], step["to"], step["by"], step["why"]) == (5, 2, 7, "")


def test_an_update_to_the_level_that_is_writes_no_progression(engine: Engine, coupler: ProgressLicenseCoupler) -> None:
    put(engine, 2, 2)
    result = coupler.update_level_atomic(1, "COACH", 2)
    assert result["success"] is True
    assert (result["message"], result["progression_created"]) == ("level stays 2", False)
    with engine.connect() as connection:
        assert tables(connection).progressions == {}


def test_a_refused_update_changes_nothing(engine: Engine, session: Session, coupler: ProgressLicenseCoupler) -> None:
    level_up_atomic(session, 1, "COACH", 100)
    result = coupler.update_level_atomic(1, "COACH", 2, xp_change=-101)
    assert result == {
        "success": False,
        "message": "total_xp: 100 -101 would go below zero",
        "error_type": "validation_error",
    }
    assert coupler.validate_consistency(1, "COACH").get("level") == 1


@pytest.mark.parametrize(
    ("progress", "license_", "source", "action", "level"),
    [
        (3, 3, "progress", "none", 3),
        (3, 3, "license", "none", 3),
        (5, 3, "progress", "updated_license", 5),
        (5, 3, "license", "updated_progress", 3),
        (12, None, "progress", "created_license", 12),
        (None, 4, "license", "created_progress", 4),
    ],
)
def test_the_five_actions_of_a_sync(
    engine: Engine,
    coupler: ProgressLicenseCoupler,
    progress: int | None,
    license_: int | None,
    source: Any,
    action: str,
    level: int,
) -> None:
    put(engine, progress, license_)
    result = coupler.sync_existing_records_atomic(1, "COACH", source, command_id=ID)
    message = f"{action}: both at level {level}"
    assert result == {"success": True, "message": message, "action": action, "final_level": level}
    assert coupler.sync_existing_records_atomic(1, "COACH", source, command_id=ID) == result
    both = {"consistent": True, "message": f"Both at level {level}", "progress_exists": True, "license_exists": True}
    assert coupler.validate_consistency(1, "coach") == both | {"level": level}


def test_a_sync_without_its_source(coupler: ProgressLicenseCoupler) -> None:
    assert coupler.sync_existing_records_atomic(1, "COACH") == {
        "success": False,
        "message": "source: there is no progress row with a level to copy",
        "error_type": "validation_error",
    }


@pytest.mark.parametrize(
    ("progress", "license_", "found"),
    [
        (None, None, {"consistent": True, "progress_exists": False, "license_exists": False}),
        (4, 4, {"consistent": True, "progress_exists": True, "license_exists": True, "level": 4}),
        (
            5,
            3,
            {
                "consistent": False,
                "message": "Desync detected: Progress=5, License=3",
                "progress_exists": True,
                "license_exists": True,
                "progress_level": 5,
                "license_level": 3,
                "difference": 2,
                "recommended_action": "sync_to_higher_level",
            },
        ),
        (
            5,
            None,
            {
                "consistent": False,
                "progress_exists": True,
                "license_exists": False,
                "progress_level": 5,
                "recommended_action": "create_license_from_progress",
            },
        ),
        (
            None,
            3,
            {
                "consistent": False,
                "progress_exists": False,
                "license_exists": True,
                "license_level": 3,
                "recommended_action": "create_progress_from_license",
            },
        ),
    ],
)
def test_what_validate_finds(
    engine: Engine,
    coupler: ProgressLicenseCoupler,
    progress: int | None,
    license_: int | None,
    found: dict[str, Any],
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


@pytest.mark.parametrize("user_id", [0, -1, "1", "one", None, 1.0, True, 2**63])
def test_user_ids_that_are_none(own_engine: Engine, own_coupler: ProgressLicenseCoupler, user_id: Any) -> None:
    for result in (
        own_coupler.update_level_atomic(user_id, "PLAYER", 2),
        own_coupler.level_up_atomic(user_id, "PLAYER", 5),
        own_coupler.sync_existing_records_atomic(user_id, "PLAYER"),
    ):
        message = refused(result)
        assert message.startswith("user_id: ") and message.endswith(f", got {user_id!r}")
    assert nothing_was_written(own_engine) and recorded(own_engine) == []


@pytest.mark.parametrize("user_id", [0, "one", None, 1.5, True, 2**63])
def test_validate_refuses_user_ids_that_are_none(own_coupler: ProgressLicenseCoupler, user_id: Any) -> None:
    assert refused(own_coupler.validate_consistency(user_id, "PLAYER")).startswith("user_id: ")


@pytest.mark.parametrize("name", [None, 7, "", "no spaces", "nul\0"])
def test_validate_refuses_names_that_are_none(own_coupler: ProgressLicenseCoupler, name: Any) -> None:
    assert refused(own_coupler.validate_consistency(1, name)).startswith("specialization: ")


@pytest.mark.parametrize("xp", [-1, 2**31, 5.0, float("nan"), float("inf"), True, "5", None])
def test_gains_that_are_none(own_engine: Engine, own_coupler: ProgressLicenseCoupler, xp: Any) -> None:
    assert refused(own_coupler.level_up_atomic(1, "PLAYER", xp)).startswith("xp_gained: ")
    assert refused(own_coupler.level_up_atomic(1, "PLAYER", 5, xp)).startswith("sessions_completed: ")
    assert nothing_was_written(own_engine) and recorded(own_engine) == []


@pytest.mark.parametrize(("level", "top"), [(0, 8), (-1, 8), (9, 8), (999, 8)])
def test_levels_that_the_catalog_has_not(engine: Engine, coupler: ProgressLicenseCoupler, level: int, top: int) -> None:
    message = refused(coupler.update_level_atomic(1, "PLAYER", level))
    assert message == f"new_level: expected 1 to {top} for PLAYER, got {level}"
    assert nothing_was_written(engine)


@pytest.mark.parametrize("level", [2.0, True, "2", None, float("nan"), 2**31])
def test_levels_that_are_no_numbers(own_engine: Engine, own_coupler: ProgressLicenseCoupler, level: Any) -> None:
    assert refused(own_coupler.update_level_atomic(1, "PLAYER", level)).startswith("new_level: ")
    assert nothing_was_written(own_engine) and recorded(own_engine) == []


def test_an_unknown_specialization(engine: Engine, session: Session, coupler: ProgressLicenseCoupler) -> None:
    expected = "specialization: expected one of PLAYER, COACH, INTERNSHIP, got 'WIZARD'"
    assert refused(level_up_atomic(session, 1, "wizard", 5)) == expected
    assert refused(coupler.update_level_atomic(1, "WIZARD", 1)) == expected
    assert refused(coupler.sync_existing_records_atomic(1, "Wizard")) == expected
    assert refused(level_up_atomic(session, 1, "no spaces", 5)).startswith("specialization: ")
    assert nothing_was_written(engine)


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
def test_other_fields(
    own_engine: Engine, own_coupler: ProgressLicenseCoupler, fields: dict[str, Any], field: str
) -> None:
    assert refused(own_coupler.update_level_atomic(1, "PLAYER", 2, **fields)).startswith(field)
    assert nothing_was_written(own_engine)


def test_an_unknown_source(coupler: ProgressLicenseCoupler) -> None:
    assert refused(coupler.sync_existing_records_atomic(1, "PLAYER", "both")).startswith("source: ")  # type: ignore[arg-type]


def test_what_the_database_refuses_is_told_with_the_constraint(application_engine: Engine) -> None:
    with Session(application_engine) as session:
        result = level_up_atomic(session, 1, "PLAYER", 666_000_666)
        assert result["success"] is False and result["error_type"] == "database_error"
        assert "ck_not_the_beast" in result["message"]
        result = level_up_atomic(session, 5000, "PLAYER", 1)
        assert result["success"] is False and result["error_type"] == "database_error"
        assert "specialization_progress_student_id_fkey" in result["message"]
    assert nothing_was_written(application_engine)
    assert recorded(application_engine) == [("rejected", "database_error")] * 2


def test_a_database_that_cannot_be_reached_is_a_database_error(engines: Any, own_database_url: str) -> None:
    engine = engines(own_database_url.replace("/test_", "/gone_"))
    with Session(engine) as session:
        coupler = ProgressLicenseCoupler(session)
        for result in (
            level_up_atomic(session, 1, "PLAYER", 5),
            coupler.update_level_atomic(1, "PLAYER", 2),
            coupler.sync_existing_records_atomic(1, "PLAYER"),
            coupler.validate_consistency(1, "PLAYER"),
        ):
            assert result.get("error_type") == "database_error"
            assert "does not exist" in result["message"] and "\n" not in result["message"]


def test_a_transaction_of_the_wrong_kind_is_told(own_engine: Engine) -> None:
    with Session(own_engine.execution_options(isolation_level="SERIALIZABLE")) as session:
        result = level_up_atomic(session, 1, "PLAYER", 5)
        assert result == {
            "success": False,
            "message": "isolation level: expected READ COMMITTED, got SERIALIZABLE",
            "error_type": "database_error",
        }


# The same command again


def test_the_same_id_again_gives_the_same_answer(engine: Engine, session: Session) -> None:
    first = level_up_atomic(session, 1, "PLAYER", 1200, command_id=ID)
    level_up_atomic(session, 1, "PLAYER", 5000)
    assert level_up_atomic(session, 1, "player", 1200, command_id=ID) == first
    with engine.connect() as connection:
        assert tables(connection).progress[1, "PLAYER"]["total_xp"] == 6200


def test_a_rejection_is_kept_under_its_id_even_when_the_cause_is_mended(
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


def test_the_same_id_for_something_else_is_refused_and_not_recorded(engine: Engine, session: Session) -> None:
    level_up_atomic(session, 1, "PLAYER", 5, command_id=ID)
    message = refused(level_up_atomic(session, 2, "PLAYER", 5, command_id=ID))
    assert message == "command_id was used before, for another command of PLAYER:1"
    assert recorded(engine) == [("applied", None)]


def test_an_id_whose_transaction_was_rolled_back_may_be_used_again(own_engine: Engine) -> None:
    command = LevelUp(user_id=1, specialization="PLAYER", xp_gained=5, reason="Level up", command_id=ID)
    with own_engine.connect() as connection:
        apply_commands(connection, [command])
        connection.rollback()
    with Session(own_engine) as session:
        result = level_up_atomic(session, 1, "PLAYER", 5, command_id=ID)
    assert result["success"] is True and result["xp_change"] == 5
    assert recorded(own_engine) == [("applied", None)]


def test_direct_and_batch_share_the_ledger(own_engine: Engine) -> None:
    with Session(own_engine) as session:
        level_up_atomic(session, 1, "PLAYER", 5, command_id=ID)
    command = LevelUp(user_id=1, specialization="PLAYER", xp_gained=5, reason="Level up", command_id=ID)
    with own_engine.begin() as connection:
        (outcome,) = apply_commands(connection, [command])
    assert (outcome.status, outcome.duplicate) == ("applied", True)


# The caller's session


def names(engine: Engine) -> dict[int, str]:
    with engine.connect() as connection:
        return {row.id: row.name for row in connection.execute(text("SELECT * FROM users WHERE id >= 4000"))}


def test_pending_work_is_flushed_and_committed_with_the_change(application_engine: Engine) -> None:
    with Session(application_engine) as session:
        session.add(user := User(id=4001, name="old"))
        session.commit()
        session.add(User(id=4000, name="new"))
        user.name = "renamed"
        assert level_up_atomic(session, 4000, "PLAYER", 5)["success"] is True
        assert names(application_engine) == {4000: "new", 4001: "renamed"}
        assert not session.in_transaction()


def test_pending_work_is_rolled_back_with_a_refusal(application_engine: Engine) -> None:
    with Session(application_engine) as session:
        session.add(User(id=4000, name="new"))
        assert ProgressLicenseCoupler(session).update_level_atomic(4000, "PLAYER", 99)["success"] is False
        assert names(application_engine) == {}
        assert recorded(application_engine) == [("rejected", "validation_error")]
        assert not session.in_transaction() and not session.new


def test_pending_work_that_cannot_be_flushed_is_a_database_error(application_engine: Engine) -> None:
    with Session(application_engine) as session:
        session.add(User(id=1, name="a second one"))
        result = level_up_atomic(session, 1, "PLAYER", 5)
        assert result["success"] is False and result["error_type"] == "database_error"
        assert "users_pkey" in result["message"] and "\n" not in result["message"]
        assert level_up_atomic(session, 1, "PLAYER", 5)["success"] is True


@pytest.mark.parametrize("expire_on_commit", [True, False])
def test_objects_are_expired_and_show_the_new_level(engine: Engine, expire_on_commit: bool) -> None:
    with Session(engine, expire_on_commit=expire_on_commit) as session:
        level_up_atomic(session, 1, "PLAYER", 5)
        row = session.query(Progress).one()
        assert row.current_level == 1
        level_up_atomic(session, 1, "PLAYER", 2500)
        assert (row.current_level, row.total_xp) == (3, 2505)


def test_a_session_may_be_used_for_one_call_after_another(session: Session, coupler: ProgressLicenseCoupler) -> None:
    for _ in range(3):
        assert level_up_atomic(session, 1, "PLAYER", 5)["success"] is True
        assert coupler.update_level_atomic(1, "PLAYER", 99)["success"] is False
        assert coupler.validate_consistency(1, "PLAYER").get("consistent") is True
