"""The direct coupler's four calls, on both kinds of schema."""

from __future__ import annotations

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from levelq_core import ProgressLicenseCoupler, level_up_atomic


def test_a_level_up_creates_and_raises_both_rows(engine: Engine) -> None:
    with Session(engine) as session:
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


def test_a_refused_update_changes_nothing(engine: Engine) -> None:
    with Session(engine) as session:
        coupler = ProgressLicenseCoupler(session)
        level_up_atomic(session, 1, "COACH", 100)
        result = coupler.update_level_atomic(1, "COACH", 2, xp_change=-101)
        assert result["success"] is False
        assert result["error_type"] == "validation_error"
        assert result["message"] == "total_xp: 100 -101 would go below zero"
        assert coupler.validate_consistency(1, "COACH").get("consistent") is True
