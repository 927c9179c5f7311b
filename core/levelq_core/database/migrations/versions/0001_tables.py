"""The eight tables. The first three may be the application's own already: those stay as they are."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from levelq_core.database.migrations import inspector
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
    ):
        if not there.has_table(name):
            create(name)


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger, sa.Identity(always=False), primary_key=True)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=_ZERO)


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=_NOW)


def _leave_room(name: str) -> None:
    """Rows are updated over and over: room in each page keeps those updates off the index (HOT)."""
    # As a statement: Alembic's `postgresql_with` needs SQLAlchemy 2.1.
    op.execute(f"ALTER TABLE {name} SET (fillfactor = 70)")


def _progress(name: str) -> None:
    op.create_table(
        name,
        _id(),
        sa.Column("student_id", sa.BigInteger, nullable=False),
        sa.Column("specialization_id", sa.Text, nullable=False),
        sa.Column("current_level", sa.Integer, nullable=False, server_default=_ONE),
        _count("total_xp"),
        _count("completed_sessions"),
        _count("completed_projects"),
        _count("theory_hours_completed"),
        _count("practice_hours_completed"),
        _time("last_activity"),
        _time("created_at"),
        _time("updated_at"),
        sa.UniqueConstraint("student_id", "specialization_id", name=f"{name}_pair_key"),
    )
    _leave_room(name)


def _licenses(name: str) -> None:
    op.create_table(
        name,
        _id(),
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("specialization_type", sa.Text, nullable=False),
        sa.Column("current_level", sa.Integer, nullable=False, server_default=_ONE),
        sa.Column("max_achieved_level", sa.Integer, nullable=False, server_default=_ONE),
        _time("started_at"),
        _time("last_advanced_at"),
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
        raise SchemaError("user_licenses has no column id for license_progressions to refer to")
    op.create_table(
        name,
        _id(),
        # An application that deletes a license, by a cascade from its users for one, deletes its progressions too.
        sa.Column("user_license_id", id_type, sa.ForeignKey("user_licenses.id", ondelete="CASCADE"), nullable=False),
        sa.Column("from_level", sa.Integer, nullable=False),
        sa.Column("to_level", sa.Integer, nullable=False),
        sa.Column("advanced_by", sa.BigInteger),
        sa.Column("advancement_reason", sa.Text, nullable=False, server_default=""),
        sa.Column("requirements_met", JSONB, nullable=False),
        _time("advanced_at"),
    )
    op.create_index(f"{name}_license", name, ["user_license_id", "id"])


def _ledger(name: str) -> None:
    op.create_table(
        name,
        _id(),
        sa.Column("command_id", sa.Uuid, nullable=False),
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("specialization", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("message", sa.Text),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        *(
            sa.Column(change, sa.Integer, nullable=False)
            for change in ("xp", "sessions", "projects", "theory_hours", "practice_hours")
        ),
        sa.Column("level", sa.Integer, comment="the level that the command names"),
        sa.Column("mode", sa.Text, comment="progress or license: a sync's source; keep or earned: instead of a level"),
        sa.Column("advanced_by", sa.BigInteger),
        sa.Column("reason", sa.Text),
        sa.Column("from_level", sa.Integer),
        sa.Column("to_level", sa.Integer),
        sa.Column("before", ARRAY(sa.BigInteger), comment="the fields of levelq_core.Totals, in their order"),
        sa.Column("after", ARRAY(sa.BigInteger), comment="the fields of levelq_core.Totals, in their order"),
        sa.Column("batch", sa.Uuid, nullable=False),
        sa.Column("xid", sa.BigInteger, nullable=False, comment="pg_current_xact_id() of the transaction"),
        sa.Column("source", sa.Text, nullable=False),
        _time("applied_at"),
        sa.UniqueConstraint("command_id", name=f"{name}_command_id_key"),
    )
    op.create_index(f"{name}_user", name, ["user_id", "id"])
    op.create_index(f"{name}_rejected", name, ["id"], postgresql_where=sa.text("status = 'rejected'"))


def _outbox(name: str) -> None:
    op.create_table(
        name,
        _id(),
        sa.Column("command_id", sa.Uuid, nullable=False, unique=True),
        sa.Column("user_id", sa.BigInteger, nullable=False),
        sa.Column("specialization", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        _time("created_at"),
        sa.Column("pushed_at", sa.DateTime(timezone=True)),
        sa.Column("pushes", sa.Integer, nullable=False, server_default=_ZERO),
    )


def _quarantine(name: str) -> None:
    op.create_table(
        name,
        _id(),
        sa.Column("specialization", sa.Text, nullable=False),
        sa.Column("user_id", sa.BigInteger),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False, comment="the first 4 KiB"),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.LargeBinary, nullable=False),
        _time("at"),
    )
    op.create_index(f"{name}_sha256", name, ["sha256"])
    op.create_index(f"{name}_user", name, ["user_id"])


def _identity(name: str) -> None:
    op.create_table(
        name,
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False, server_default=_ONE),
        sa.Column("identity", sa.Uuid, nullable=False, server_default=sa.text("gen_random_uuid()")),
        _time("created_at"),
        sa.CheckConstraint("id = 1", name=f"{name}_one_row"),
    )
    op.execute(f"INSERT INTO {name} DEFAULT VALUES")


def _audit(name: str) -> None:
    op.create_table(
        name,
        _id(),
        _time("at"),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("detail", JSONB),
    )
