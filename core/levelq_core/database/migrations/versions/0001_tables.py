"""The nine tables. The first three may be the application's own already: those stay as they are."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from levelq_core.database.migrations import inspector
from levelq_core.database.table_names import OPEN_REJECTION
from levelq_core.errors import SchemaError

revision = "0001"
down_revision = None

_NOW = sa.text("now()")
_ZERO = sa.text("0")
_ONE = sa.text("1")


def upgrade() -> None:
    """Create each table that is absent."""
    there = inspector()
    for name, create in (
        ("specialization_progress", _progress),
        ("user_licenses", _licenses),
        ("license_progressions", _progressions),
        ("levelq_ledger", _ledger),
        ("levelq_outbox", _outbox),
        ("levelq_quarantine", _quarantine),
        ("levelq_identity", _identity),
        ("levelq_audit", _audit),
        ("levelq_event_positions", _event_positions),
    ):
        if not there.has_table(name):
            create(name)


def _id() -> sa.Column[Any]:
    return sa.Column("id", sa.BigInteger, sa.Identity(always=False), primary_key=True)


def _filled(type_: Any, *names: str, default: Any = None) -> list[sa.Column[Any]]:
    """Columns that are NOT NULL."""
    return [sa.Column(name, type_, nullable=False, server_default=default) for name in names]


def _times(*names: str) -> list[sa.Column[Any]]:
    return _filled(sa.DateTime(timezone=True), *names, default=_NOW)


def _leave_room(name: str) -> None:
    """Rows are updated over and over: room in each page keeps those updates off the index (HOT)."""
    # As a statement: Alembic's `postgresql_with` needs SQLAlchemy 2.1.
    op.execute(f"ALTER TABLE {name} SET (fillfactor = 70)")


def _progress(name: str) -> None:
    op.create_table(
        name,
        _id(),
        *_filled(sa.BigInteger, "student_id"),
        *_filled(sa.Text, "specialization_id"),
        *_filled(sa.Integer, "current_level", default=_ONE),
        *_filled(sa.BigInteger, "total_xp", "completed_sessions", "completed_projects", default=_ZERO),
        *_filled(sa.BigInteger, "theory_hours_completed", "practice_hours_completed", default=_ZERO),
        *_times("last_activity", "created_at", "updated_at"),
        sa.UniqueConstraint("student_id", "specialization_id", name=f"{name}_pair_key"),
    )
    _leave_room(name)


def _licenses(name: str) -> None:
    op.create_table(
        name,
        _id(),
        *_filled(sa.BigInteger, "user_id"),
        *_filled(sa.Text, "specialization_type"),
        *_filled(sa.Integer, "current_level", "max_achieved_level", default=_ONE),
        *_times("started_at", "last_advanced_at"),
        sa.UniqueConstraint("user_id", "specialization_type", name=f"{name}_pair_key"),
    )
    _leave_room(name)


def _progressions(name: str) -> None:
    # The licenses may be the application's, with ids of its own type.
    there = inspector()
    id_type: Any = sa.BigInteger
    if there.has_table("user_licenses"):  # when statements are only printed, levelq's own does not exist yet
        columns = there.get_columns("user_licenses")
        id_type = next((column["type"] for column in columns if column["name"] == "id"), None)
    if id_type is None:
        message = "user_licenses has no column id for license_progressions to refer to"
        raise SchemaError(message, table="user_licenses")
    op.create_table(
        name,
        _id(),
        # An application that deletes a license, by a cascade from its users for one, deletes its progressions too.
        sa.Column("user_license_id", id_type, sa.ForeignKey("user_licenses.id", ondelete="CASCADE"), nullable=False),
        *_filled(sa.Integer, "from_level", "to_level"),
        sa.Column("advanced_by", sa.BigInteger),
        *_filled(sa.Text, "advancement_reason", default=""),
        *_filled(JSONB, "requirements_met"),
        *_times("advanced_at"),
    )
    op.create_index(f"{name}_license", name, ["user_license_id", "id"])


def _ledger(name: str) -> None:
    op.create_table(
        name,
        _id(),
        *_filled(sa.Uuid, "command_id"),
        *_filled(sa.BigInteger, "user_id"),
        *_filled(sa.Text, "specialization", "kind", "status"),
        sa.Column("error", sa.Text),
        sa.Column("message", sa.Text),
        *_filled(sa.LargeBinary, "digest"),
        *_filled(sa.Integer, "xp", "sessions", "projects", "theory_hours", "practice_hours"),
        sa.Column("level", sa.Integer, comment="the level that the command names"),
        sa.Column("mode", sa.Text, comment="progress or license: a sync's source; keep or earned: instead of a level"),
        sa.Column("advanced_by", sa.BigInteger),
        sa.Column("reason", sa.Text),
        sa.Column("from_level", sa.Integer),
        sa.Column("to_level", sa.Integer),
        sa.Column("before", ARRAY(sa.BigInteger), comment="the fields of levelq_core.Totals, in their order"),
        sa.Column("after", ARRAY(sa.BigInteger), comment="the fields of levelq_core.Totals, in their order"),
        *_filled(sa.Uuid, "batch"),
        sa.Column("xid", sa.BigInteger, nullable=False, comment="pg_current_xact_id() of the transaction"),
        *_filled(sa.Text, "source"),
        sa.Column("worker", sa.Text, comment="the worker process that decided it: host:pid"),
        *_times("applied_at"),
        sa.Column("settled", sa.Text, comment="what an operator did about a rejection: retried or discarded"),
        sa.UniqueConstraint("command_id", name=f"{name}_command_id_key"),
    )
    op.create_index(f"{name}_user", name, ["user_id", "id"])
    op.create_index(f"{name}_rejected", name, ["id"], postgresql_where=sa.text("status = 'rejected'"))
    op.create_index(f"{name}_open", name, ["id"], postgresql_where=sa.text(OPEN_REJECTION))


def _outbox(name: str) -> None:
    op.create_table(
        name,
        _id(),
        sa.Column("command_id", sa.Uuid, nullable=False, unique=True),
        *_filled(sa.BigInteger, "user_id"),
        *_filled(sa.Text, "specialization"),
        *_filled(sa.LargeBinary, "payload"),
        *_times("created_at"),
        sa.Column("pushed_at", sa.DateTime(timezone=True)),
        *_filled(sa.Integer, "pushes", default=_ZERO),
    )
    op.create_index(f"{name}_user", name, ["user_id", "id"])


def _quarantine(name: str) -> None:
    op.create_table(
        name,
        _id(),
        *_filled(sa.Text, "specialization"),
        sa.Column("user_id", sa.BigInteger),
        *_filled(sa.Text, "reason"),
        sa.Column("raw", sa.LargeBinary, nullable=False, comment="the first 4 KiB"),
        *_filled(sa.BigInteger, "length"),
        *_filled(sa.LargeBinary, "sha256"),
        *_times("at"),
    )
    op.create_index(f"{name}_sha256", name, ["sha256"])
    op.create_index(f"{name}_user", name, ["user_id"])


def _identity(name: str) -> None:
    op.create_table(
        name,
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False, server_default=_ONE),
        *_filled(sa.Uuid, "identity", default=sa.text("gen_random_uuid()")),
        *_times("created_at"),
        sa.CheckConstraint("id = 1", name=f"{name}_one_row"),
    )
    op.execute(f"INSERT INTO {name} DEFAULT VALUES")


def _audit(name: str) -> None:
    op.create_table(
        name,
        _id(),
        *_times("at"),
        *_filled(sa.Text, "actor", "origin", "action", "target"),
        sa.Column("detail", JSONB),
    )
    # For comparison byte by byte, so that it finds what begins with a target.
    op.create_index(f"{name}_target", name, ["target", "id"], postgresql_ops={"target": "text_pattern_ops"})


def _event_positions(name: str) -> None:
    op.create_table(
        name,
        _id(),
        sa.Column("consumer", sa.Text, nullable=False, unique=True),
        *_filled(sa.BigInteger, "position", default=_ZERO),
        *_filled(ARRAY(sa.BigInteger), "pending", "pending_above", default="{}"),
    )
