"""Rows spelt otherwise than in upper case are reported everywhere, and what is printed renames them."""

from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from levelq_core import Catalog, LevelUp, SchemaError, Settings, level_up_atomic
from levelq_core.operations.checks import check_database
from levelq_core.operations.readings.status import status as look
from levelq_worker.rq_adapter.worker import LaneWorker
from levelq_worker.support.preflight import preflight
from tests.support.coupler import put_license, put_progress
from tests.support.db_check import execute, findings, fix, query
from tests.support.isolation import apply

SPELLINGS = ("player", "Player", " PLAYER", "PLAYER ", "\tplayer\n")


def put(engine: Engine, user: int, spelling: str, level: int, xp: int = 0, highest: int | None = None) -> None:
    """Both rows of a learner, as an application that spells names its own way wrote them."""
    put_progress(engine, (user, spelling), level, total_xp=xp)
    put_license(engine, (user, spelling), level, highest or level)


def rows(engine: Engine) -> list[tuple[Any, ...]]:
    return query(
        engine,
        """
        SELECT p.student_id, p.specialization_id, p.current_level, l.current_level FROM specialization_progress p
        JOIN user_licenses l ON (l.user_id, l.specialization_type) = (p.student_id, p.specialization_id)
        ORDER BY 1, 2
        """,
    )


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_misspelt_rows_are_found_and_the_printed_statements_rename_them(engine: Engine, spelling: str) -> None:
    put(engine, 7, spelling, 5)
    put(engine, 8, spelling, 3)
    put(engine, 9, "PLAYER", 2)
    found = findings(engine)
    assert [finding.severity for finding in found] == ["error", "error"]
    assert found[0].problem == (
        f"specialization_progress.specialization_id: 2 rows not spelt as levelq spells them, for example {spelling!r} "
        "of user 7, expected 'PLAYER': levelq would not find them and make second rows at level 1; "
        "workers refuse to start"
    )
    assert found[1].problem.startswith("user_licenses.specialization_type: 2 rows")
    fix(engine, found)
    assert findings(engine) == []
    with Session(engine) as session:
        answer = level_up_atomic(session, 7, "PLAYER", 1)
    assert answer["success"]
    assert answer["progress"]["new_level"] == 5
    assert rows(engine) == [(7, "PLAYER", 5, 5), (8, "PLAYER", 3, 3), (9, "PLAYER", 2, 2)]


def test_of_twins_the_more_advanced_is_kept_and_its_history_and_highest_level_with_it(engine: Engine) -> None:
    put(engine, 7, "PLAYER", 1, highest=6)
    put(engine, 7, "player", 5, xp=20_000)
    put(engine, 7, "Player", 5, xp=19_000)
    put(engine, 8, "player", 2)
    put(engine, 8, "PLAYER", 3)
    execute(
        engine,
        "INSERT INTO license_progressions (user_license_id, from_level, to_level, advancement_reason, requirements_met,"
        " advanced_at) SELECT id, 1, 2, specialization_type, '{}', now() FROM user_licenses WHERE user_id = 7",
    )
    found = findings(engine)
    assert "2 pairs of user and specialization with several rows" in found[0].problem
    assert "the most advanced will be kept" in found[1].problem
    fix(engine, found)
    assert findings(engine) == []
    assert rows(engine) == [(7, "PLAYER", 5, 5), (8, "PLAYER", 3, 3)]
    assert query(engine, "SELECT total_xp FROM specialization_progress WHERE student_id = 7") == [(20_000,)]
    assert query(engine, "SELECT max_achieved_level FROM user_licenses WHERE user_id = 7") == [(6,)]
    assert query(engine, "SELECT count(DISTINCT user_license_id), count(*) FROM license_progressions") == [(1, 3)]


def test_foreign_key_that_keeps_the_old_spelling_is_named_before_the_statement_that_renames(own_engine: Engine) -> None:
    put(own_engine, 7, "player", 2)
    execute(
        own_engine,
        "CREATE TABLE badges (holder bigint, kind text, CONSTRAINT held FOREIGN KEY (holder, kind) "
        "REFERENCES user_licenses (user_id, specialization_type))",
        "INSERT INTO badges VALUES (7, 'player')",
    )
    (license_,) = [f for f in findings(own_engine) if f.problem.startswith("user_licenses")]
    assert license_.fix[1] == (
        "-- badges has held: FOREIGN KEY (holder, kind) REFERENCES user_licenses(user_id, specialization_type): "
        "it must allow the new spelling first"
    )


def test_rows_of_specializations_that_are_not_in_the_catalog_are_a_warning_with_the_remedy(engine: Engine) -> None:
    put(engine, 7, "junior helper", 5)
    put(engine, 8, "goalkeeper", 5)
    put(engine, 9, "goalkeeper", 4)
    (finding,) = findings(engine)
    assert finding.severity == "warning"
    assert finding.problem == (
        "rows of specializations that are not in the catalog, which levelq leaves alone: 'goalkeeper' (2 in "
        "specialization_progress, 2 in user_licenses), 'junior helper' (1 in specialization_progress, 1 in "
        "user_licenses)"
    )
    assert "add a table [GOALKEEPER] to the file that LEVELQ_CATALOG names" in finding.fix[0]
    assert "rename these rows if levelq should move them, to JUNIOR_HELPER for example" in finding.fix[1]
    wider = Catalog.of({name: {"levels": [0, 1000]} for name in ("PLAYER", "GOALKEEPER")})
    misspelt = [finding for finding in findings(engine, wider) if finding.severity == "error"]
    assert all("2 rows not spelt as levelq spells them" in finding.problem for finding in misspelt)
    fix(engine, misspelt)
    assert [finding.severity for finding in findings(engine, wider)] == ["warning"]
    assert "'goalkeeper'" not in findings(engine, wider)[0].problem


def test_halves_of_a_pair_that_differ_in_spelling_are_no_pair_out_of_step(engine: Engine) -> None:
    put_progress(engine, (7, "player"), 5)
    put_license(engine, (7, "PLAYER"), 5, 5)
    (finding,) = findings(engine)
    assert finding.problem.startswith("specialization_progress.specialization_id: 1 row not spelt")
    fix(engine, [finding])
    assert findings(engine) == []


REFUSAL = r"specialization_progress\.specialization_id: 1 row .* 'player' of user 7.*`levelq db check` prints"


def test_workers_refuse_to_start_on_misspelt_rows_before_anything_is_claimed(
    settings: Settings, redis: Redis, own_engine: Engine
) -> None:
    put(own_engine, 7, "player", 5)
    with pytest.raises(SchemaError, match=REFUSAL) as refused:
        preflight(settings)
    assert "\n" not in str(refused.value)
    with pytest.raises(SchemaError, match=REFUSAL):
        LaneWorker(["levelq.PLAYER"], connection=redis, settings=settings).work(burst=True)
    fix(own_engine, findings(own_engine))
    preflight(settings)
    LaneWorker(["levelq.PLAYER"], connection=redis, settings=settings).work(burst=True)


def test_doctor_and_status_tell_of_misspelt_rows(settings: Settings, own_engine: Engine) -> None:
    put(own_engine, 7, "player", 5)
    found = [finding for finding in check_database(settings) if finding.topic == "schema"]
    assert (found[0].severity, "1 row not spelt" in found[0].problem) == ("error", True)
    assert any("'player' of user 7" in problem for problem in look(settings).problems)


@pytest.mark.parametrize("halves", ["both", "progress", "license"])
def test_no_second_row_is_made_beside_a_misspelt_one(engine: Engine, halves: str) -> None:
    if halves != "license":
        put_progress(engine, (7, "player"), 5)
    if halves != "progress":
        put_license(engine, (7, "Player "), 5, 5)
    commands = [LevelUp(user_id=user, specialization="PLAYER", xp_gained=10) for user in (6, 7, 8)]
    outcomes = apply(engine, commands)
    assert [outcome.status for outcome in outcomes] == ["applied", "rejected", "applied"]
    spelt = "Player " if halves == "license" else "player"
    assert outcomes[1].message == (
        f"user 7 has a row spelt {spelt!r}, expected 'PLAYER': `levelq db check` prints the statements that fix it"
    )
    with Session(engine) as session:
        answer = level_up_atomic(session, 7, "PLAYER", 10)
    assert not answer["success"]
    assert answer["message"] == outcomes[1].message
    fix(engine, findings(engine))
    with Session(engine) as session:
        assert level_up_atomic(session, 7, "PLAYER", 10)["success"]
