"""Direct calls in transactions that the application owns, and their effect on its session."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, inspect, select, text
from sqlalchemy.orm import Session, load_only, scoped_session, sessionmaker
from sqlalchemy.orm.exc import ObjectDeletedError

from levelq import LevelUpRefused, ProgressLicenseCoupler, apply_commands, level_up_atomic
from levelq_core import failpoints
from tests.support.coupler import ledger
from tests.support.isolation import DISK_FULL, execute, experience, level_up
from tests.support.orm import ID, Progress, User, loaded, new_users, recorded

UNKNOWN = "specialization: expected one of PLAYER, COACH, INTERNSHIP, got 'GOALIE'"


@pytest.fixture
def database_url(application_database_url: str) -> str:
    return application_database_url


def statuses(engine: Engine) -> list[tuple[int, str]]:
    return recorded(engine, "user_id", "status")


def users(engine: Engine) -> set[int]:
    return set(new_users(engine))


def is_untouched(engine: Engine) -> bool:
    return experience(engine) == {} and statuses(engine) == [] and users(engine) == set()


# Blocks of the session


def test_block_of_session_begin_commits_two_learners_and_the_callers_row(engine: Engine, session: Session) -> None:
    with session.begin():
        session.add(User(id=4000, name="new"))
        results = [level_up_atomic(session, user, "PLAYER", 10) for user in (4000, 1)]
        assert experience(engine) == {}
    assert [(r["success"], r["committed"]) for r in results] == [(True, False)] * 2
    assert experience(engine) == {1: 10, 4000: 10}
    assert users(engine) == {4000}


def test_block_of_sessionmaker_begin_takes_all_three_changing_calls(engine: Engine) -> None:
    with sessionmaker(engine).begin() as session:
        coupler = ProgressLicenseCoupler(session)
        results: list[Any] = [
            level_up_atomic(session, 2, "PLAYER", 10),
            coupler.update_level_atomic(1, "PLAYER", 3),
            coupler.sync_existing_records_atomic(2, "PLAYER"),
        ]
        assert coupler.validate_consistency(1, "PLAYER").get("level") == 3
    assert [(r["success"], r["committed"]) for r in results] == [(True, False)] * 3
    assert experience(engine) == {1: 0, 2: 10}


def test_block_that_fails_rolls_its_level_ups_back(engine: Engine, session: Session) -> None:
    with pytest.raises(ZeroDivisionError), session.begin():
        level_up_atomic(session, 1, "PLAYER", 10)
        raise ZeroDivisionError
    assert experience(engine) == {} and statuses(engine) == []


def test_rejection_in_a_block_has_its_reason_and_ledger_row_and_leaves_the_block_usable(
    engine: Engine, session: Session
) -> None:
    with session.begin():
        session.add(User(id=4000, name="new"))
        assert level_up_atomic(session, 4000, "GOALIE", 10, command_id=ID) == {
            "success": False,
            "message": UNKNOWN,
            "error_type": "validation_error",
            "committed": False,
        }
        assert session.execute(select(User.name).where(User.id == 4000)).scalar_one() == "new"
        assert level_up_atomic(session, 4000, "PLAYER", 10)["success"]
    assert users(engine) == {4000}
    assert statuses(engine) == [(4000, "rejected"), (4000, "applied")]
    with Session(engine) as later:
        assert level_up_atomic(later, 4000, "GOALIE", 10, command_id=ID)["message"] == UNKNOWN
    assert len(statuses(engine)) == 2


def test_invalid_argument_in_a_block_leaves_the_callers_pending_row(engine: Engine, session: Session) -> None:
    with session.begin():
        session.add(User(id=4000, name="new"))
        result = level_up_atomic(session, 4000, "PLAYER", -1)
        assert (result["success"], result.get("error_type"), result["committed"]) == (False, "validation_error", False)
    assert users(engine) == {4000}


def test_infrastructure_failure_in_a_block_rolls_back_only_its_own_part(engine: Engine, session: Session) -> None:
    execute(engine, DISK_FULL)
    with session.begin():
        session.add(User(id=4000, name="new"))
        level_up_atomic(session, 1, "PLAYER", 10)
        result = level_up_atomic(session, 4, "PLAYER", 5000)
        assert (result["message"], result["committed"]) == ("disk full (SQLSTATE 53100)", False)
    assert users(engine) == {4000}
    assert experience(engine) == {1: 10}
    assert statuses(engine) == [(1, "applied")]


def test_rollback_after_a_call_in_begin_nested_removes_the_outer_row(engine: Engine, session: Session) -> None:
    session.add(User(id=4000, name="outer"))
    session.flush()
    session.begin_nested()
    session.add(User(id=4001, name="inner"))
    assert level_up_atomic(session, 4001, "PLAYER", 10)["committed"] is False
    assert level_up_atomic(session, 4001, "GOALIE", 10)["success"] is False
    session.rollback()
    assert users(engine) == set() and experience(engine) == {}


def test_savepoint_of_the_sessions_connection_is_the_callers_too(engine: Engine, session: Session) -> None:
    session.add(User(id=4000, name="outer"))
    session.flush()
    with session.connection().begin_nested():
        results = [level_up_atomic(session, 4000, name, 10) for name in ("PLAYER", "GOALIE")]
    assert [(r["success"], r["committed"]) for r in results] == [(True, False), (False, False)]
    session.rollback()
    assert users(engine) == set() and experience(engine) == {}


def test_savepoint_of_the_callers_can_be_rolled_back_alone(engine: Engine, session: Session) -> None:
    with session.begin():
        level_up_atomic(session, 1, "PLAYER", 10)
        savepoint = session.begin_nested()
        level_up_atomic(session, 2, "PLAYER", 10)
        savepoint.rollback()
        assert level_up_atomic(session, 3, "PLAYER", 10)["success"]
    assert experience(engine) == {1: 10, 3: 10}


def test_learner_locked_by_another_transaction_is_answered_and_may_be_sent_again(
    engine: Engine, session: Session
) -> None:
    with engine.connect() as holder:
        apply_commands(holder, [level_up(2, 1)])
        with session.begin():
            assert level_up_atomic(session, 1, "PLAYER", 10)["success"]
            result = level_up_atomic(session, 2, "PLAYER", 10, command_id=ID)
            assert (result["success"], result.get("error_type")) == (False, "database_error")
            assert "send the same command_id again" in result["message"]
        holder.commit()
    assert level_up_atomic(session, 2, "PLAYER", 10, command_id=ID)["success"]
    assert experience(engine) == {1: 10, 2: 11}


def test_second_batch_in_a_transaction_begun_by_use_is_answered_and_not_recorded(
    engine: Engine, session: Session
) -> None:
    with engine.connect() as holder:
        apply_commands(holder, [level_up(2, 1)])
        apply_commands(session.connection(), [level_up(1, 1)])
        result = level_up_atomic(session, 2, "PLAYER", 10, command_id=ID)
        assert result == {"success": False, "message": result["message"], "error_type": "database_error"}
        assert not session.in_transaction()
    assert statuses(engine) == []


@pytest.mark.parametrize("begin", ["an object", "a query", "the connection"])
def test_transaction_begun_by_use_of_the_session_is_committed(engine: Engine, session: Session, begin: str) -> None:
    if begin == "an object":
        session.add(User(id=4000, name="new"))
    elif begin == "a query":
        session.execute(text("INSERT INTO users (id) VALUES (4000)"))
    else:
        session.connection().execute(text("INSERT INTO users (id) VALUES (4000)"))
    assert "committed" not in level_up_atomic(session, 1, "PLAYER", 10)
    assert not session.in_transaction()
    assert users(engine) == {4000}


# A Connection with a transaction of its own


MODES = ["create_savepoint", "conditional_savepoint", "rollback_only", "control_fully"]


@contextmanager
def outer_transaction(engine: Engine) -> Iterator[Connection]:
    """The usual test fixture: whatever happens in it is rolled back at the end."""
    with engine.connect() as connection:
        outer = connection.begin()
        yield connection
        if outer.is_active:  # closing a session that controls it fully has rolled it back
            outer.rollback()
    assert is_untouched(engine)


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_calls_on_a_connection_stay_in_its_transaction(engine: Engine, mode: Any, used_before: bool) -> None:
    with outer_transaction(engine) as connection, Session(bind=connection, join_transaction_mode=mode) as session:
        session.add(User(id=4000, name="new"))
        if used_before:
            session.flush()
        results = [level_up_atomic(session, user, "PLAYER", 10) for user in (4000, 2, 1)]
        assert [(r["success"], r["committed"]) for r in results] == [(True, False)] * 3
        for user in (4000, 1):
            assert level_up_atomic(session, user, "GOALIE", 10)["message"] == UNKNOWN
        assert session.get(User, 4000) is not None
        assert level_up_atomic(session, 1, "PLAYER", 10)["success"]
        assert connection.in_transaction()
        assert [row["status"] for row in ledger(connection) if row["user_id"] == 2] == ["applied"]
        assert [row["status"] for row in ledger(connection) if row["user_id"] == 4000] == ["applied", "rejected"]


def test_level_up_survives_the_end_of_its_session_in_the_usual_fixture(engine: Engine) -> None:
    """One request's session after another's, as the application closes them."""
    with outer_transaction(engine) as connection:
        make = sessionmaker(connection, join_transaction_mode="create_savepoint")
        for xp in (10, 20, 30):
            with make() as session:
                result = level_up_atomic(session, 1, "PLAYER", 10)
                assert result["success"] and result["progress"]["total_xp"] == xp


def test_session_that_began_on_a_connection_by_itself_is_committed(engine: Engine) -> None:
    with engine.connect() as connection, Session(bind=connection) as session:
        for used_before in (False, True):
            if used_before:
                session.execute(text("SELECT 1"))
            assert "committed" not in level_up_atomic(session, 1, "PLAYER", 10)
            assert not connection.in_transaction()
    assert experience(engine) == {1: 20}


# Refusals


@pytest.mark.parametrize(("name", "xp"), [("GOALIE", 1), ("PLAYER", -1)])
def test_refused_call_rolls_back_what_the_session_holds(engine: Engine, session: Session, name: str, xp: int) -> None:
    session.add(User(id=4000, name="new"))
    assert level_up_atomic(session, 4000, name, xp)["success"] is False
    assert not session.in_transaction() and not session.new
    session.commit()
    assert users(engine) == set()


def test_refused_call_can_raise_with_everything_it_knows(session: Session) -> None:
    with pytest.raises(LevelUpRefused) as raised:
        level_up_atomic(session, 7, "GOALIE", 1, command_id=ID, raise_on_failure=True)
    refused = raised.value
    assert (refused.user_id, refused.specialization, refused.command_id) == (7, "GOALIE", ID)
    assert (refused.error_type, refused.message) == ("validation_error", UNKNOWN)
    assert refused.result == {"success": False, "message": UNKNOWN, "error_type": "validation_error"}
    assert str(refused) == f"validation_error: GOALIE of user 7: {UNKNOWN}"


def test_every_changing_call_can_raise(engine: Engine, session: Session, coupler: ProgressLicenseCoupler) -> None:
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (level_up_atomic, (session, 1, "PLAYER", -1)),
        (coupler.level_up_atomic, (1, "PLAYER", -1)),
        (coupler.update_level_atomic, (1, "PLAYER", 99)),
        (coupler.sync_existing_records_atomic, (1, "PLAYER")),
    ]
    for call, arguments in calls:
        session.add(User(id=4000, name="new"))
        with pytest.raises(LevelUpRefused):
            call(*arguments, raise_on_failure=True)
    assert users(engine) == set()
    assert coupler.update_level_atomic(1, "PLAYER", 2, raise_on_failure=True)["success"]


def test_raised_refusal_keeps_its_cause(session: Session) -> None:
    session.add(User(id=1, name="a second one"))
    with pytest.raises(LevelUpRefused, match="users_pkey") as raised:
        level_up_atomic(session, 1, "PLAYER", 5, raise_on_failure=True)
    assert type(raised.value.__cause__).__name__ == "IntegrityError"
    assert raised.value.error_type == "database_error"


def test_refusal_caught_inside_a_block_leaves_the_block_usable(engine: Engine, session: Session) -> None:
    with session.begin():
        session.add(User(id=4000, name="new"))
        with pytest.raises(LevelUpRefused) as raised:
            level_up_atomic(session, 4000, "GOALIE", 1, raise_on_failure=True)
        assert raised.value.result["committed"] is False
    assert users(engine) == {4000}
    assert statuses(engine) == [(4000, "rejected")]


# Objects of the session


def test_objects_of_an_expiring_session_are_expired_by_its_commit(session: Session) -> None:
    level_up_atomic(session, 1, "PLAYER", 10)
    user = session.get_one(User, 1)
    row = session.scalars(select(Progress)).one()
    level_up_atomic(session, 1, "PLAYER", 2500)
    assert inspect(user).expired and inspect(row).expired
    assert (row.current_level, row.total_xp) == (3, 2510)


def test_session_that_does_not_expire_keeps_its_objects_and_reads_the_two_rows_again(engine: Engine) -> None:
    with Session(engine, expire_on_commit=False) as session:
        for user in (1, 2):
            level_up_atomic(session, user, "PLAYER", 10)
        kept, row, license_ = session.get_one(User, 1), *loaded(session, 1)
        other, _ = loaded(session, 2)
        session.commit()
        level_up_atomic(session, 1, "PLAYER", 2500)
        assert not session.in_transaction()
        assert "name" in kept.__dict__
        assert (row.__dict__["current_level"], row.__dict__["total_xp"]) == (3, 2510)
        assert license_.__dict__["level"] == 3
        assert other.__dict__["total_xp"] == 10


def test_objects_are_read_again_within_the_callers_block(session: Session) -> None:
    with session.begin():
        level_up_atomic(session, 1, "PLAYER", 10)
        row, license_ = loaded(session, 1)
        level_up_atomic(session, 1, "PLAYER", 2500)
        assert (row.total_xp, license_.level) == (2510, 3)


def test_object_whose_user_was_not_loaded_is_read_again(engine: Engine) -> None:
    with Session(engine, expire_on_commit=False) as session:
        level_up_atomic(session, 1, "PLAYER", 10)
        row = session.scalars(select(Progress).options(load_only(Progress.total_xp))).one()
        level_up_atomic(session, 1, "PLAYER", 10)
        assert row.total_xp == 20


@pytest.mark.parametrize("owned", [False, True])
def test_object_whose_row_is_gone_is_no_obstacle(engine: Engine, owned: bool) -> None:
    with Session(engine, expire_on_commit=False) as session:
        level_up_atomic(session, 1, "PLAYER", 10)
        row = session.scalars(select(Progress)).one()
        session.commit()
        execute(engine, "DELETE FROM specialization_progress")
        with session.begin() if owned else nullcontext():
            assert level_up_atomic(session, 1, "PLAYER", 5)["success"]
        with pytest.raises(ObjectDeletedError):
            _ = row.total_xp
    assert experience(engine) == {1: 5}


@pytest.mark.parametrize("autoflush", [True, False])
def test_validate_sees_pending_rows_as_any_query_does(engine: Engine, autoflush: bool) -> None:
    with Session(engine, autoflush=autoflush) as session:
        level_up_atomic(session, 1, "PLAYER", 10)
        session.scalars(select(Progress)).one().current_level = 4
        found = ProgressLicenseCoupler(session).validate_consistency(1, "PLAYER")
        assert found.get("progress_level", 1) == (4 if autoflush else 1)


def test_pending_row_that_cannot_be_flushed_is_an_answer_of_validate(session: Session) -> None:
    session.add(User(id=1, name="a second one"))
    found = ProgressLicenseCoupler(session).validate_consistency(1, "PLAYER")
    assert found.get("error_type") == "database_error" and "users_pkey" in found["message"]
    assert not session.in_transaction()


class Interrupt(BaseException):
    """As a signal handler or a timeout may raise it."""


def interrupt(name: str) -> None:
    if name == "write":
        raise Interrupt


@pytest.mark.parametrize("owner", ["levelq", "the caller", "apply_commands"])
def test_interrupted_call_leaves_nothing_for_a_later_commit(
    engine: Engine, session: Session, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failpoints, "hook", interrupt)
    if owner == "the caller":
        session.begin()
    with pytest.raises(Interrupt):
        if owner == "apply_commands":
            apply_commands(session.connection(), [level_up(1)])
        else:
            level_up_atomic(session, 1, "PLAYER", 10)
    session.commit()
    assert experience(engine) == {} and statuses(engine) == []


def test_scoped_session_serves_as_a_session(engine: Engine) -> None:
    scoped = scoped_session(sessionmaker(engine))
    coupler = ProgressLicenseCoupler(scoped)
    assert "committed" not in level_up_atomic(scoped, 1, "PLAYER", 10)
    with scoped.begin():
        assert coupler.level_up_atomic(1, "PLAYER", 10).get("committed") is False
    scoped.remove()
    assert coupler.level_up_atomic(1, "PLAYER", 10)["success"]
    scoped.remove()
    assert experience(engine) == {1: 30}
