"""What an application's session holds after a direct call, in the ways that applications map and load the two rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, String, func, inspect, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    column_property,
    deferred,
    make_transient,
    mapped_column,
    object_session,
    undefer,
)

from levelq import ProgressLicenseCoupler, Settings, level_up_atomic


class Base(DeclarativeBase):
    pass


class Progress(Base):
    """A progress row with a column that is loaded only when it is used, and one that is computed."""

    __tablename__ = "specialization_progress"
    id: Mapped[int] = mapped_column(primary_key=True)
    student_id: Mapped[int]
    current_level: Mapped[int]
    total_xp: Mapped[int] = deferred(mapped_column())
    completed_sessions: Mapped[int | None]
    double: Mapped[int | None] = column_property(text("completed_sessions * 2").columns() if False else None)  # type: ignore[arg-type]


class License(Base):
    """A license row whose class depends on its specialization."""

    __tablename__ = "user_licenses"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int]
    specialization_type: Mapped[str] = mapped_column(String(20))
    current_level: Mapped[int]
    __mapper_args__ = {"polymorphic_on": "specialization_type", "polymorphic_identity": "ANY"}  # noqa: RUF012


class PlayerLicense(License):
    """One for players."""

    __mapper_args__ = {"polymorphic_identity": "PLAYER"}  # noqa: RUF012


class CoachLicense(License):
    """One for coaches."""

    __mapper_args__ = {"polymorphic_identity": "COACH"}  # noqa: RUF012
