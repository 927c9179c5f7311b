"""What an application's session holds after a direct call, in the ways that applications map and load the two rows."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    column_property,
    deferred,
    mapped_column,
    relationship,
    selectinload,
    undefer,
)

from levelq import ProgressLicenseCoupler, Settings, level_up_atomic


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Progress(Base):
    """A progress row with a total that is loaded when it is used, and one that is computed."""

    __tablename__ = "specialization_progress"
    id: Mapped[int] = mapped_column(primary_key=True)
    student_id: Mapped[int]
    specialization_id: Mapped[str]
    current_level: Mapped[int]
    total_xp: Mapped[int] = deferred(mapped_column())
    completed_sessions: Mapped[int | None]


Progress.doubled = column_property(Progress.__table__.c.total_xp * 2)


class Summary(Base):
    """The same table under another class, with fewer columns."""

    __table__ = Progress.__table__
    __mapper_args__ = {"include_properties": ["id", "student_id", "total_xp"]}  # noqa: RUF012


class License(Base):
    """A license row whose class depends on its specialization."""

    __tablename__ = "user_licenses"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]
    specialization_type: Mapped[str]
    current_level: Mapped[int]
    progressions: Mapped[list[Progression]] = relationship()
    __mapper_args__ = {"polymorphic_on": "specialization_type", "polymorphic_abstract": True}  # noqa: RUF012


class PlayerLicense(License):
    __mapper_args__ = {"polymorphic_identity": "PLAYER"}  # noqa: RUF012


class CoachLicense(License):
    __mapper_args__ = {"polymorphic_identity": "COACH"}  # noqa: RUF012


class Progression(Base):
    __tablename__ = "license_progressions"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_license_id: Mapped[int] = mapped_column(ForeignKey("user_licenses.id"))
    to_level: Mapped[int]


@pytest.fixture
def engine(application_engine: Engine) -> Engine:
    """With one user in two specializations, at level 1."""
    with Session(application_engine) as session:
        for name in ("PLAYER", "COACH"):
            level_up_atomic(session, 1, name, 10)
    return application_engine


def keeping(engine: Engine) -> Session:
    return Session(engine, expire_on_commit=False)


def progress_of(session: Session, *options: Any) -> Progress:
    statement = select(Progress).where(Progress.specialization_id == "PLAYER").options(*options)
    return session.scalars(statement).one()


def test_what_was_loaded_can_be_used_after_the_session_was_closed(engine: Engine) -> None:
    with keeping(engine) as session:
        row = progress_of(session)
        license_ = session.scalars(select(PlayerLicense)).one()
        level_up_atomic(session, 1, "PLAYER", 2500)
    assert (row.current_level, license_.current_level) == (3, 3)
    assert (row.completed_sessions, row.doubled) == (0, 5020)  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["by an option", "by its use"])
def test_deferred_total_that_was_loaded_is_read_again(engine: Engine, how: str) -> None:
    with keeping(engine) as session:
        row = progress_of(session, *([undefer(Progress.total_xp)] if how == "by an option" else []))
        assert row.total_xp == 10
        level_up_atomic(session, 1, "PLAYER", 5)
    assert row.total_xp == 15


def test_deferred_total_that_was_not_loaded_is_read_when_it_is_used(engine: Engine) -> None:
    with keeping(engine) as session:
        row = progress_of(session)
        level_up_atomic(session, 1, "PLAYER", 5)
        assert "total_xp" not in row.__dict__
        assert row.total_xp == 15


def test_two_classes_of_one_table_both_show_the_change(engine: Engine) -> None:
    with keeping(engine) as session:
        row, summary = progress_of(session, undefer(Progress.total_xp)), session.scalars(select(Summary)).first()
        assert summary is not None
        level_up_atomic(session, 1, "PLAYER", 5)
        level_up_atomic(session, 1, "COACH", 5)
    assert (row.total_xp, summary.total_xp) == (15, 15)  # type: ignore[attr-defined]


def test_licenses_of_several_classes_are_each_read_again(engine: Engine) -> None:
    with keeping(engine) as session:
        licenses = session.scalars(select(License).order_by(License.id)).all()
        for name in ("PLAYER", "COACH"):
            level_up_atomic(session, 1, name, 1000)
    assert [(type(row), row.current_level) for row in licenses] == [(PlayerLicense, 2), (CoachLicense, 2)]


@pytest.mark.parametrize("options", [[selectinload(License.progressions)], []], ids=["by an option", "by their use"])
def test_progressions_that_were_loaded_have_the_new_one(engine: Engine, options: list[Any]) -> None:
    with keeping(engine) as session:
        license_ = session.scalars(select(PlayerLicense).options(*options)).one()
        assert license_.progressions == []
        level_up_atomic(session, 1, "PLAYER", 1000)
    assert [row.to_level for row in license_.progressions] == [2]


def test_other_objects_keep_what_was_loaded(engine: Engine) -> None:
    with keeping(engine) as session:
        user = session.get_one(User, 1)
        level_up_atomic(session, 1, "PLAYER", 5)
        assert not inspect(user).expired
    assert user.name == "somebody"


def test_detached_object_is_left_as_it_is(engine: Engine) -> None:
    with keeping(engine) as session:
        row = progress_of(session, undefer(Progress.total_xp))
        session.expunge(row)
        level_up_atomic(session, 1, "PLAYER", 5)
        assert row.total_xp == 10 and inspect(row).detached
        assert session.merge(row, load=True).current_level == 1


def test_object_that_the_session_deletes_is_no_obstacle(engine: Engine) -> None:
    with keeping(engine) as session:
        row = progress_of(session)
        session.delete(row)
        assert level_up_atomic(session, 1, "PLAYER", 5)["success"]
        assert progress_of(session).total_xp == 5  # of a new row


def test_change_of_the_callers_is_part_of_what_a_call_starts_from(engine: Engine) -> None:
    with keeping(engine) as session:
        row = progress_of(session)
        row.total_xp = 990
        result = level_up_atomic(session, 1, "PLAYER", 10)
        assert result["success"] and result["progress"]["new_level"] == 2
    assert (row.total_xp, row.current_level) == (1000, 2)


@pytest.mark.parametrize("expire", [True, False])
def test_refused_call_leaves_objects_as_a_rollback_does(engine: Engine, expire: bool) -> None:
    """SQLAlchemy expires everything at a rollback, with any `expire_on_commit`."""
    with Session(engine, expire_on_commit=expire) as session:
        row = progress_of(session)
        row.total_xp = 990
        assert level_up_atomic(session, 1, "GOALIE", 10)["success"] is False
        assert inspect(row).expired
        assert row.total_xp == 10


def test_refused_call_in_the_callers_block_leaves_its_change(engine: Engine) -> None:
    with keeping(engine) as session, session.begin():
        row = progress_of(session)
        row.total_xp = 990
        assert ProgressLicenseCoupler(session).update_level_atomic(1, "PLAYER", 99)["success"] is False
        assert row.total_xp == 990
    assert row.total_xp == 990


@pytest.mark.parametrize("expire", [True, False])
async def test_objects_of_an_async_session_follow_its_own_setting(engine: Engine, expire: bool) -> None:
    async_engine = create_async_engine(Settings.load(database_url=engine.url.render_as_string(False)).sqlalchemy_url)
    async with AsyncSession(async_engine, expire_on_commit=expire) as session:
        statement = select(Progress).where(Progress.specialization_id == "PLAYER").options(undefer(Progress.total_xp))
        row = (await session.scalars(statement)).one()
        assert (await session.run_sync(level_up_atomic, 1, "PLAYER", 5))["success"]
        assert inspect(row).expired is expire
        await session.refresh(row, ["total_xp"])
        assert row.total_xp == 15
    await async_engine.dispose()
