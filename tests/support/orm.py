"""An application's own classes of its users and of the two tables, and its session."""

from typing import Any
from uuid import UUID

from sqlalchemy import Engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from tests.support.coupler import ledger

ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
REFUSED = 666_000_666  # experience that the application's check constraint refuses


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Progress(Base):
    __tablename__ = "specialization_progress"
    id: Mapped[int] = mapped_column(primary_key=True)
    student_id: Mapped[int]
    specialization_id: Mapped[str]
    current_level: Mapped[int]
    total_xp: Mapped[int] = mapped_column(default=0)


class License(Base):
    """Its attributes have names of their own."""

    __tablename__ = "user_licenses"
    id: Mapped[int] = mapped_column(primary_key=True)
    holder: Mapped[int] = mapped_column("user_id")
    specialization_type: Mapped[str]
    level: Mapped[int] = mapped_column("current_level")


class Match(Base):
    __tablename__ = "matches"
    id: Mapped[int] = mapped_column(primary_key=True)


def loaded(session: Session, user: int) -> tuple[Progress, License]:
    progress = session.scalars(select(Progress).where(Progress.student_id == user)).one()
    return progress, session.scalars(select(License).where(License.holder == user)).one()


def new_users(engine: Engine) -> dict[int, str]:
    """The users that a test made, with their names."""
    with engine.connect() as connection:
        found = connection.execute(text("SELECT id, name FROM users WHERE id >= 4000"))
        return {row.id: row.name for row in found}


def recorded(engine: Engine, *columns: str) -> list[Any]:
    """These columns of the ledger in the order of effect; by default status and error."""
    return [tuple(row[name] for name in columns or ("status", "error")) for row in ledger(engine)]
