"""The nine tables by name, and what each must have."""

from __future__ import annotations

PROGRESS, LICENSES, PROGRESSIONS = "specialization_progress", "user_licenses", "license_progressions"
LEDGER, OUTBOX, QUARANTINE = "levelq_ledger", "levelq_outbox", "levelq_quarantine"
IDENTITY, AUDIT, POSITIONS = "levelq_identity", "levelq_audit", "levelq_event_positions"

REQUIRED: dict[str, tuple[str, ...]] = {
    PROGRESS: (
        "id", "student_id", "specialization_id", "current_level", "total_xp", "completed_sessions",
        "completed_projects", "theory_hours_completed", "practice_hours_completed", "last_activity",
        "created_at", "updated_at",
    ),
    LICENSES: (
        "id", "user_id", "specialization_type", "current_level", "max_achieved_level", "started_at",
        "last_advanced_at",
    ),
    PROGRESSIONS: (
        "id", "user_license_id", "from_level", "to_level", "advanced_by", "advancement_reason",
        "requirements_met", "advanced_at",
    ),
    LEDGER: (
        "id", "command_id", "user_id", "specialization", "kind", "status", "error", "message", "digest", "xp",
        "sessions", "projects", "theory_hours", "practice_hours", "level", "mode", "advanced_by", "reason",
        "from_level", "to_level", "before", "after", "batch", "xid", "source", "worker", "applied_at", "settled",
    ),
    OUTBOX: ("id", "command_id", "user_id", "specialization", "payload", "created_at", "pushed_at", "pushes"),
    QUARANTINE: ("id", "specialization", "user_id", "reason", "raw", "length", "sha256", "at"),
    IDENTITY: ("id", "identity", "created_at"),
    AUDIT: ("id", "at", "actor", "origin", "action", "target", "detail"),
    POSITIONS: ("id", "consumer", "position", "pending", "pending_above"),
}  # fmt: skip


# Which rows of the ledger wait for an operator: rejections that were neither retried nor discarded. What an operator
# cancelled, and what was forgotten, does not. The index levelq_ledger_open has the same condition.
OPEN_REJECTION = "status = 'rejected' AND settled IS NULL AND error <> 'cancelled' AND user_id <> 0"

TOTALS = ("total_xp", "completed_sessions", "completed_projects", "theory_hours_completed", "practice_hours_completed")

# The columns that name the user and the specialization of a row.
PAIR: dict[str, tuple[str, str]] = {
    PROGRESS: ("student_id", "specialization_id"),
    LICENSES: ("user_id", "specialization_type"),
}

# What the three unique constraints cover, without which levelq does not work.
UNIQUE_KEYS: dict[str, tuple[str, ...]] = {**PAIR, LEDGER: ("command_id",)}

# The constraint triggers of `levelq db enforce` on progress and licenses: for updates, and for inserts.
PAIR_TRIGGERS = ("levelq_pair_in_step", "levelq_pair_in_step_insert")
