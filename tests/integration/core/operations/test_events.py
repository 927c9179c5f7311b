"""LevelEvents on a real database: which events a consumer gets, in which order, and how often."""

from __future__ import annotations

from sqlalchemy import Engine

from levelq_core import LevelEvents, LevelUp, apply_commands


def test_first(own_engine: Engine) -> None:
    with own_engine.begin() as connection:
        apply_commands(connection, [LevelUp(user_id=1, specialization="PLAYER", xp_gained=2500, reason="x")])
    print(list(LevelEvents(own_engine, "a")))
    assert list(LevelEvents(own_engine, "a")) == []
