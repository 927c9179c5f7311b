"""What the coupler writes: each rule on rows of both kinds of schema."""

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from levelq_core import Catalog, Command, LevelUp, Outcome, SetLevel, SyncLevels, apply_commands
from levelq_core.operations.queries import out_of_step
from tests.support.coupler import comparable, put_license, put_progress, tables
from tests.support.model import Model

LANE = (1, "COACH")
ID = UUID(int=7)


def apply(engine: Engine, *commands: Command, **options: Any) -> list[Outcome]:
    with engine.begin() as connection:
        return apply_commands(connection, commands, **options)


def up(user_id: int = 1, specialization: str = "COACH", **fields: Any) -> LevelUp:
    return LevelUp(user_id=user_id, specialization=specialization, **fields)


def put(engine: Engine, progress: int | None, license_: int | None, highest: int | None = None, **totals: Any) -> None:
    if progress is not None:
        put_progress(engine, LANE, progress, **totals)
    if license_ is not None:
        put_license(engine, LANE, license_, license_ if highest is None else highest)


def levels(engine: Engine) -> tuple[int | None, int | None, int | None]:
    found = tables(engine)
    progress, license_ = found.progress.get(LANE, {}), found.licenses.get(LANE, {})
    return progress.get("level"), license_.get("level"), license_.get("highest")


def chain(engine: Engine) -> list[tuple[int, int]]:
    return [(row["from"], row["to"]) for row in tables(engine).progressions.get(LANE, [])]


@pytest.mark.parametrize(
    ("progress", "license_", "after", "audit"),
    [
        (None, None, (1, 1, 1), []),
        (4, None, (4, 4, 4), []),
        (None, 3, (3, 3, 3), []),
        (2, 5, (5, 5, 5), []),
        (5, 2, (5, 5, 5), [(2, 5)]),
        (12, 12, (12, 12, 12), []),
    ],
)
def test_level_up_without_gains_leaves_both_at_the_higher(
    engine: Engine, progress: int | None, license_: int | None, after: Any, audit: Any
) -> None:
    put(engine, progress, license_)
    (outcome,) = apply(engine, up())
    assert outcome.status == "applied"
    assert levels(engine) == after
    assert chain(engine) == audit


def test_several_levels_earned_at_once_are_one_audit_row(engine: Engine) -> None:
    apply(engine, up(xp_gained=5000, theory_hours=2, reason="exam", advanced_by=9))
    (row,) = tables(engine).progressions[LANE]
    met = {"total_xp": 5000, "completed_sessions": 0, "completed_projects": 0, "theory_hours": 2, "practice_hours": 0}
    assert row == {"lane": LANE, "from": 1, "to": 4, "by": 9, "why": "exam", "met": met}


def test_highest_level_never_falls(engine: Engine) -> None:
    put(engine, 6, 6)
    apply(engine, SetLevel(user_id=1, specialization="COACH", new_level=2))
    assert levels(engine) == (2, 2, 6)
    assert chain(engine) == [(6, 2)]


def test_before_has_what_the_license_row_held(engine: Engine) -> None:
    put(engine, None, 2, highest=1)
    (outcome,) = apply(engine, up())
    assert outcome.before is not None and outcome.after is not None
    assert (outcome.before.max_achieved_level, outcome.after.max_achieved_level) == (1, 2)


@pytest.mark.parametrize(
    ("progress", "license_", "source"), [(None, None, "progress"), (3, None, "license"), (None, 3, "progress")]
)
def test_sync_without_its_source_changes_nothing(
    engine: Engine, progress: int | None, license_: int | None, source: Any
) -> None:
    put(engine, progress, license_)
    (outcome,) = apply(engine, SyncLevels(user_id=1, specialization="COACH", source=source))
    assert (outcome.status, outcome.error) == ("rejected", "validation_error")
    assert outcome.message == f"source: there is no {source} row with a level to copy"
    assert levels(engine) == (progress, license_, license_)


REFUSED: list[tuple[Command, str]] = [
    (SetLevel(user_id=1, specialization="COACH", new_level=0), "new_level: expected 1 to 8 for COACH, got 0"),
    (SetLevel(user_id=1, specialization="COACH", new_level=999), "new_level: expected 1 to 8 for COACH, got 999"),
    (
        SetLevel(user_id=1, specialization="COACH", new_level=3, sessions_change=-6),
        "completed_sessions: 5 -6 would go below zero",
    ),
]


@pytest.mark.parametrize(("command", "message"), REFUSED)
def test_refused_command_changes_no_row(engine: Engine, command: Command, message: str) -> None:
    put(engine, 2, 2, total_xp=1500, completed_sessions=5)
    before = tables(engine)
    (outcome,) = apply(engine, command)
    assert (outcome.status, outcome.error, outcome.message) == ("rejected", "validation_error", message)
    assert outcome.before == outcome.after
    assert tables(engine) == before


@pytest.mark.parametrize(("command", "message"), REFUSED)
def test_refused_command_inserts_no_row(engine: Engine, command: Command, message: str) -> None:
    (outcome,) = apply(engine, command)
    assert outcome.status == "rejected" and outcome.before is None
    assert levels(engine) == (None, None, None)


def test_hours_that_are_not_tracked_are_refused_by_field_and_value(engine: Engine) -> None:
    (outcome,) = apply(engine, up(1, "PLAYER", practice_hours=3))
    assert outcome.message == "practice_hours: PLAYER does not track hours, expected 0, got 3"


def test_unknown_specialization_is_refused_with_the_known_ones(engine: Engine) -> None:
    (outcome,) = apply(engine, up(1, "wizard"))
    assert (outcome.error, outcome.specialization) == ("validation_error", "WIZARD")
    assert outcome.message == "specialization: expected one of PLAYER, COACH, INTERNSHIP, got 'WIZARD'"


def test_first_decision_is_the_answer_after_its_cause_is_gone(engine: Engine) -> None:
    command = SetLevel(user_id=1, specialization="COACH", new_level=2, xp_change=-10, command_id=ID)
    (first,) = apply(engine, command)
    apply(engine, up(xp_gained=50))
    (again,) = apply(engine, command)
    assert (first.duplicate, again.duplicate) == (False, True)
    assert again == first.model_copy(update={"duplicate": True})


def test_id_used_for_another_command_conflicts_and_the_first_decision_stays(engine: Engine) -> None:
    (first,) = apply(engine, up(xp_gained=5, command_id=ID))
    for other in (
        up(xp_gained=6, command_id=ID),
        up(2, xp_gained=5, command_id=ID),
        up(xp_gained=5, reason="why", command_id=ID),
        SyncLevels(user_id=1, specialization="COACH", command_id=ID),
    ):
        (outcome,) = apply(engine, other)
        assert (outcome.status, outcome.error, outcome.before) == ("rejected", "conflict", None)
        assert outcome.message == "command_id was used before, for another command of COACH:1"
    (again,) = apply(engine, up(1, "coach", xp_gained=5, command_id=ID))
    assert comparable(again) == comparable(first) | {"duplicate": True}


def test_id_repeated_across_lanes_of_one_batch_belongs_to_the_first_in_the_input(engine: Engine) -> None:
    first, second = (up(user, xp_gained=5, command_id=ID) for user in (2, 1))
    outcomes = apply(engine, first, second, first)
    assert [(o.error, o.duplicate) for o in outcomes] == [(None, False), ("conflict", False), (None, True)]


def test_id_repeated_across_lanes_belongs_to_the_first_though_others_are_isolated(application_engine: Engine) -> None:
    first, second = (up(user, xp_gained=5, command_id=ID) for user in (3, 1))
    bad = up(2, xp_gained=666_000_666)
    outcomes = apply(application_engine, first, second, bad)
    assert [o.error for o in outcomes] == [None, "conflict", "database_error"]


def test_both_levels_are_equal_after_a_mixed_batch_of_many_lanes(engine: Engine) -> None:
    model = Model()
    batch = [
        command
        for user in range(1, 200)
        for name in ("PLAYER", "COACH", "INTERNSHIP")
        for command in (
            up(user, name, xp_gained=37 * user),
            SetLevel(user_id=user, specialization=name, new_level=1 + user % 4, xp_change=-user),
            up(user, name, sessions_completed=1),
        )
    ]
    outcomes = apply(engine, *batch)
    assert [comparable(o) for o in outcomes] == [model.apply(command) for command in batch]
    with engine.connect() as connection:
        assert tables(connection).progress == model.progress
        assert list(out_of_step(connection)) == []


def test_null_totals_count_as_zero(application_engine: Engine) -> None:
    put(application_engine, 1, 1, total_xp=None, completed_sessions=None, theory_hours=None)
    (outcome,) = apply(application_engine, up(xp_gained=1000))
    assert outcome.before is not None and outcome.before.total_xp == 0
    assert levels(application_engine) == (2, 2, 2)


def test_rows_inserted_for_the_application_have_every_named_column(application_engine: Engine) -> None:
    apply(application_engine, up(xp_gained=1000))
    with application_engine.connect() as connection:
        for table in ("specialization_progress", "user_licenses", "license_progressions"):
            (row,) = connection.execute(text(f"SELECT * FROM {table}")).mappings()
            assert [name for name, value in row.items() if value is None and name != "advanced_by"] == []
            for moment in (value for name, value in row.items() if name.endswith("_at")):
                now = connection.execute(text("SELECT now() AT TIME ZONE 'UTC'")).scalar_one()
                assert abs((now - moment).total_seconds()) < 60


def test_catalog_of_the_caller_decides(engine: Engine) -> None:
    catalog = Catalog.of(
        {"CHESS": {"levels": [0, {"completed_sessions": 2}, {"completed_sessions": 2, "total_xp": 5}]}}
    )
    first, second = (up(1, "chess", xp_gained=9, sessions_completed=1) for _ in range(2))
    outcomes = apply(engine, first, second, catalog=catalog)
    assert [(o.from_level, o.to_level) for o in outcomes] == [(1, 1), (1, 3)]
