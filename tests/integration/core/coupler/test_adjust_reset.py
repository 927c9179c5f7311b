"""Adjust and Reset as an application uses them: directly, in batches, through the queue and the outbox."""

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from levelq import (
    Adjust,
    AsyncProducer,
    LevelUp,
    LevelUpRefused,
    Outbox,
    Producer,
    ProgressLicenseCoupler,
    Reset,
    SetLevel,
    Settings,
)
from levelq_worker.relay.thread import Relay
from tests.support.coupler import drain_all, put_rows, runtime, tables
from tests.support.db_check import execute
from tests.support.isolation import apply
from tests.support.orm import recorded

LANE = (1, "COACH")
TOTALS = ["total_xp", "completed_sessions", "completed_projects", "theory_hours", "practice_hours"]
PROGRESS = "specialization_progress"


def put(engine: Engine, level: int, **totals: Any) -> None:
    put_rows(engine, LANE, level, **totals)


def rows(engine: Engine) -> tuple[dict[str, Any], dict[str, Any]]:
    found = tables(engine)
    return found.progress[LANE], found.licenses[LANE]


def progressions(engine: Engine) -> list[tuple[int, int, int | None, str]]:
    return [(p["from"], p["to"], p["by"], p["why"]) for p in tables(engine).progressions.get(LANE, [])]


# The direct coupler


def test_adjust_adds_signed_changes_and_keeps_the_levels(engine: Engine, coupler: ProgressLicenseCoupler) -> None:
    put(engine, 3, **dict.fromkeys(TOTALS, 10) | {"total_xp": 2500})
    result = coupler.adjust_atomic(1, "coach", -2000, 1, -2, 3, -4, reason="penalty")
    assert result == {
        "success": True,
        "message": "level stays 3",
        "progress": {"old_level": 3, "new_level": 3, "total_xp": 500, "completed_sessions": 11},
        "license": {"old_level": 3, "new_level": 3, "max_achieved_level": 3},
        "progression_created": False,
        "xp_change": -2000,
        "sessions_change": 1,
    }
    progress, license_ = rows(engine)
    assert [progress[name] for name in TOTALS] == [500, 11, 8, 13, 6]
    assert license_ == {"level": 3, "highest": 3}


def test_adjust_to_what_is_earned_lowers_both_levels_and_writes_one_progression(
    engine: Engine, coupler: ProgressLicenseCoupler
) -> None:
    put(engine, 3, total_xp=2500)
    result = coupler.adjust_atomic(1, "COACH", xp_change=-1, level="earned", advanced_by=7, reason="refund")
    assert result["success"]
    assert result["license"] == {"old_level": 3, "new_level": 2, "max_achieved_level": 3}
    assert result["progression_created"]
    progress, license_ = rows(engine)
    assert (progress["level"], license_) == (2, {"level": 2, "highest": 3})
    assert progressions(engine) == [(3, 2, 7, "refund")]


def test_adjust_below_zero_is_refused_and_changes_nothing(engine: Engine, coupler: ProgressLicenseCoupler) -> None:
    put(engine, 2, total_xp=1000)
    before = rows(engine)
    refused = coupler.adjust_atomic(1, "COACH", xp_change=-1001, level="earned")
    message = "total_xp: 1000 -1001 would go below zero"
    assert refused == {"success": False, "message": message, "error_type": "validation_error"}
    with pytest.raises(LevelUpRefused, match=message):
        coupler.adjust_atomic(1, "COACH", xp_change=-1001, raise_on_failure=True)
    assert rows(engine) == before


def test_reset_sets_all_totals_and_what_they_earn(engine: Engine, coupler: ProgressLicenseCoupler) -> None:
    put(engine, 5, **dict.fromkeys(TOTALS, 12_000))
    result = coupler.reset_atomic(1, "COACH", 1000, 1, 2, 3, 4, reason="the season ends")
    assert result["success"]
    assert result["progress"] == {"old_level": 5, "new_level": 2, "total_xp": 1000, "completed_sessions": 1}
    assert (result["xp_change"], result["sessions_change"]) == (-11_000, -11_999)
    progress, license_ = rows(engine)
    assert [progress[name] for name in TOTALS] == [1000, 1, 2, 3, 4]
    assert license_ == {"level": 2, "highest": 5}
    assert progressions(engine) == [(5, 2, None, "the season ends")]


def test_reset_of_a_learner_without_rows_inserts_them(engine: Engine, coupler: ProgressLicenseCoupler) -> None:
    assert coupler.reset_atomic(1, "COACH", total_xp=500, level=4)["success"]
    progress, license_ = rows(engine)
    assert (progress["level"], progress["total_xp"], license_) == (4, 500, {"level": 4, "highest": 4})
    assert progressions(engine) == [(1, 4, None, "")]


@pytest.mark.parametrize("level", [0, 9, -1, "5", True, "keep", None])
def test_reset_to_a_level_that_the_catalog_lacks_is_refused(coupler: ProgressLicenseCoupler, level: Any) -> None:
    refused = coupler.reset_atomic(1, "COACH", level=level)
    assert not refused["success"]
    assert refused["error_type"] == "validation_error"
    assert refused["message"].startswith("level: expected 'earned' or ")


def test_hours_are_refused_where_they_are_not_tracked(coupler: ProgressLicenseCoupler) -> None:
    for refused, field in (
        (coupler.adjust_atomic(1, "PLAYER", theory_hours_change=-1), "theory_hours_change"),
        (coupler.reset_atomic(1, "PLAYER", practice_hours=2), "practice_hours"),
    ):
        assert not refused["success"]
        assert refused["message"].startswith(f"{field}: PLAYER does not track hours, expected 0, got ")


def test_calls_in_a_transaction_of_the_caller_do_not_commit(
    engine: Engine, session: Session, coupler: ProgressLicenseCoupler
) -> None:
    with session.begin():
        assert coupler.adjust_atomic(1, "COACH", xp_change=5)["committed"] is False
        assert coupler.reset_atomic(1, "COACH", total_xp=7)["committed"] is False
        session.rollback()
    assert recorded(engine) == []


def test_level_up_after_a_demotion_rises_again_but_not_after_a_reset(
    engine: Engine, coupler: ProgressLicenseCoupler
) -> None:
    """The documented effect of SetLevel."""
    put(engine, 3, total_xp=2500)
    coupler.update_level_atomic(1, "COACH", 1)
    assert coupler.level_up_atomic(1, "COACH", 1)["success"]
    assert rows(engine)[0]["level"] == 3
    coupler.adjust_atomic(1, "COACH", xp_change=-2000, level="earned")
    assert coupler.level_up_atomic(1, "COACH", 1)["success"]
    assert rows(engine)[0]["level"] == 1


# Fractions and NULLs


def printed(engine: Engine) -> list[str | None]:
    with engine.connect() as connection:
        columns = "total_xp::text, completed_sessions::text, completed_projects::text, theory_hours_completed::text"
        return list(connection.execute(text(f"SELECT {columns} FROM {PROGRESS}")).one())


@pytest.fixture
def fractions(engine: Engine) -> Engine:
    """A learner whose totals have fractions, and one NULL where a total may be NULL."""
    numeric = [f"ALTER {name} TYPE numeric(12,2)" for name in ("total_xp", "theory_hours_completed")]
    execute(engine, f"ALTER TABLE {PROGRESS} {', '.join(numeric)}, ALTER completed_projects DROP NOT NULL")
    put(engine, 1, total_xp=Decimal("10.75"), theory_hours=Decimal("3.50"), completed_projects=None)
    return engine


def coach(kind: type[Any], **fields: Any) -> Any:
    return kind(user_id=1, specialization="COACH", **fields)


def test_adjust_keeps_fractions(fractions: Engine) -> None:
    apply(fractions, [coach(Adjust, xp_change=-10, theory_hours_change=1)])
    assert printed(fractions) == ["0.75", "0", None, "4.50"]


def test_reset_to_the_total_without_its_fraction_removes_the_fraction(fractions: Engine) -> None:
    apply(fractions, [coach(Reset, total_xp=10, theory_hours=3)])
    assert printed(fractions) == ["10.00", "0", "0", "3.00"]


def test_commands_after_a_reset_in_one_batch_start_from_what_it_set(fractions: Engine) -> None:
    apply(fractions, [coach(LevelUp, xp_gained=5), coach(Reset, total_xp=7), coach(LevelUp, xp_gained=2)])
    assert printed(fractions) == ["9.00", "0", "0", "0.00"]


def test_reset_that_is_refused_leaves_the_fractions(fractions: Engine) -> None:
    apply(fractions, [coach(Reset, total_xp=10, level=9), coach(LevelUp, xp_gained=1)])
    assert printed(fractions) == ["11.75", "0", None, "3.50"]


def test_reset_sent_again_removes_no_fraction(fractions: Engine) -> None:
    reset = coach(Reset, total_xp=10)
    apply(fractions, [reset])
    execute(fractions, "UPDATE specialization_progress SET total_xp = 10.25")
    apply(fractions, [reset, coach(LevelUp, xp_gained=1)])
    assert printed(fractions)[0] == "11.25"


# What the database refuses


@pytest.mark.parametrize("beside", [0, 20])
def test_reset_that_a_check_constraint_refuses_is_rejected_for_it(fractions: Engine, beside: int) -> None:
    """Though the total is the same but for its fraction. `beside`: other learners of the batch, who pass."""
    execute(fractions, "ALTER TABLE specialization_progress ADD CONSTRAINT more CHECK (total_xp <> 10)")
    others = [LevelUp(user_id=user, specialization="COACH", xp_gained=1) for user in range(2, 2 + beside)]
    commands = [coach(LevelUp), coach(Reset, total_xp=10), coach(LevelUp), *others]
    outcomes = apply(fractions, commands)
    assert [outcome.error for outcome in outcomes] == [None, "database_error", None, *[None] * beside]
    assert '"more"' in outcomes[1].message
    assert len(recorded(fractions)) == len(commands)
    assert rows(fractions)[0]["total_xp"] == Decimal("10.75")


def test_reset_that_a_check_constraint_on_the_fraction_refuses_is_found_beforehand(fractions: Engine) -> None:
    """The constraint is known from the first learner's command; the second's changes nothing but the fraction."""
    execute(fractions, "ALTER TABLE specialization_progress ADD CONSTRAINT more CHECK (total_xp <> 10)")
    put_rows(fractions, (2, "COACH"), 1, total_xp=Decimal("10.5"))
    resets = [Reset(user_id=user, specialization="COACH", total_xp=10) for user in (1, 2, 3)]
    outcomes = apply(fractions, [*resets, LevelUp(user_id=4, specialization="COACH")])
    assert [outcome.error for outcome in outcomes] == ["database_error"] * 3 + [None]


def test_reset_is_not_refused_for_a_fraction_that_it_removes(fractions: Engine) -> None:
    """Another learner's command has made the constraint known, so it is evaluated beforehand."""
    execute(fractions, "ALTER TABLE specialization_progress ADD CONSTRAINT other CHECK (total_xp <> 7.75)")
    put_rows(fractions, (2, "COACH"), 1, total_xp=Decimal("5.75"))
    outcomes = apply(fractions, [coach(Reset, total_xp=7), LevelUp(user_id=2, specialization="COACH", xp_gained=2)])
    assert [outcome.error for outcome in outcomes] == [None, "database_error"]


def test_reset_over_a_narrow_column_is_rejected(engine: Engine) -> None:
    execute(engine, "ALTER TABLE specialization_progress ALTER completed_sessions TYPE smallint")
    (outcome,) = apply(engine, [coach(Reset, completed_sessions=2**15)])
    assert outcome.message == "completed_sessions: 32768 would overflow its column (at most 32767)"


# The queue


def test_producers_send_both_and_read_the_outcomes(settings: Settings, own_engine: Engine) -> None:
    async def send_async() -> int | None:
        async with AsyncProducer(settings) as producer:
            await producer.adjust(1, "COACH", -300, level="earned")
            handle = await producer.reset(1, "COACH", total_xp=40, level=2)
            drain_all(worker, "COACH")
            return (await handle.result()).to_level

    with Producer(settings) as producer, runtime(settings) as worker:
        adjusted = producer.adjust(1, "COACH", 1200)
        reset = producer.reset(1, "COACH", total_xp=1200, advanced_by=7, reason="season")
        drain_all(worker, "COACH")
        outcomes = [adjusted.result(), reset.result()]
        assert asyncio.run(send_async()) == 2
    assert [(o.from_level, o.to_level) for o in outcomes] == [(1, 1), (1, 2)]
    assert recorded(own_engine, "kind", "level", "mode", "advanced_by") == [
        ("adjust", None, "keep", None), ("reset", None, "earned", 7), ("adjust", None, "earned", None),
        ("reset", 2, None, None),
    ]  # fmt: skip


def test_outbox_sends_both(settings: Settings, own_engine: Engine) -> None:
    with Session(own_engine) as session:
        commands = [coach(Adjust, xp_change=5), coach(Reset, total_xp=1500), coach(SetLevel, new_level=1)]
        Outbox(session, settings=settings).send_many(commands)
        session.commit()
    relay = Relay(settings, ["COACH"])
    with runtime(settings) as worker:
        relay.poll()
        drain_all(worker, "COACH")
    relay.release()
    assert rows(own_engine)[1] == {"level": 1, "highest": 2}


def test_command_that_the_catalog_never_allows_is_refused_before_it_is_sent(settings: Settings) -> None:
    with Producer(settings) as producer:
        calls: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
            (producer.reset, {"level": 9}, "level: expected 'earned' or 1 to 8 for COACH, got 9"),
            (producer.reset, {"total_xp": -1}, "total_xp: "),
            (producer.adjust, {"level": 2}, "level: "),
            (producer.adjust, {"xp_change": "5"}, "xp_change: "),
        ]
        for call, fields, message in calls:
            with pytest.raises(ValueError, match=message):
                call(1, "COACH", **fields)
