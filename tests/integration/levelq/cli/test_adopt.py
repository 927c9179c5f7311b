"""`levelq adopt`, `levelq sync --all` and `levelq check --json`, on tables with planted faults."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from redis import Redis
from sqlalchemy import Engine, text

from benchmarks.planted import FAULTS, LEFT, plant, untouched, wrong
from levelq_core import Settings
from levelq_core.database.migrations import upgrade
from levelq_core.lanes import drift_report
from levelq_core.lanes.drift_report import DriftReport
from levelq_core.operations.drift.adoption import Adoption
from tests.support.db_check import execute, query
from tests.support.fixtures.command_line import Levelq, LevelqWith
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.processes import Started
from tests.support.fixtures.waiting import until

PROGRESS = "INSERT INTO specialization_progress (student_id, specialization_id, current_level) VALUES"
LICENSE = "INSERT INTO user_licenses (user_id, specialization_type, current_level, max_achieved_level) VALUES"
PLAYER = "'PLAYER'"
AUDIT = "SELECT action, target, detail FROM levelq_audit ORDER BY id"


@pytest.fixture
def short(settings: Settings) -> Settings:
    """A lock is waited for 50 ms."""
    return settings.model_copy(update={"claim_seconds": 0.5, "redis_seconds": 0.4})


@pytest.fixture
def application(blank_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A database of an application that does not know levelq yet."""
    with psycopg.connect(blank_database_url, autocommit=True) as database:
        yield database


def test_adopt_repairs_every_kind_of_fault_though_it_is_killed_midway(
    application: psycopg.Connection[Any],
    blank_database_url: str,
    settings: Settings,
    engines: Callable[..., Engine],
    start: Callable[..., Started],
    levelq_with: LevelqWith,
    redis: Redis,
) -> None:
    planted = plant(application, 4_000, 10)
    given = settings.model_copy(update={"database_url": blank_database_url})
    engine = engines(blank_database_url)
    upgrade(engine)
    before = untouched(application, planted)
    levelq = levelq_with(given, columns=80)

    code, out, _ = levelq("adopt", "--dry-run")
    assert code == 1 and "4,000 pairs compared" in out and "several rows of a pair" in out
    assert query(engine, AUDIT) == [] and untouched(application, planted) == before

    killed = start("adopt", "--yes", "--rate", "100", LEVELQ_DATABASE_URL=blank_database_url)
    assert killed.stdout is not None
    next(line for line in killed.stdout if line.startswith("repaired "))
    killed.kill()
    killed.wait()
    ((action, target, first),) = query(engine, AUDIT)
    assert (action, target) == ("adopt", "everything") and sum(first.values()) > 0
    assert any(wrong(application, planted).values())

    redis.hset(KEYS.drift, "report", DriftReport(1, out_of_step=9).encode())
    code, out, _ = levelq("adopt", "--yes", "--json", "--rate", "100000")
    found = json.loads(out)
    assert code == 1 and not found["dry_run"] and found["done"]["failed"] == {}
    assert {item["kind"]: item["number"] for item in found["left"]["repairs"]} == {"unknown_name": 16, "no_user": 16}
    assert not any(wrong(application, planted).values()) and len(FAULTS) == 12 and len(LEFT) == 2
    assert untouched(application, planted) == before
    second = query(engine, AUDIT)[1][2]
    assert second == found["done"]["repaired"] | {"failed": 0}
    assert drift_report.read(redis, KEYS) is None  # the workers audit again

    repaired = query(engine, "SELECT count(*), min(source), min(status) FROM levelq_ledger")
    assert repaired == [(first.get("pairs", 0) + second["pairs"], "adopt", "applied")]
    code, out, _ = levelq("adopt", "--yes")
    assert code == 1 and "0 to repair, 32 left as they are" in out
    assert len(query(engine, AUDIT)) == 2


def test_what_other_code_holds_or_refuses_is_left_and_named_and_the_rest_repaired(
    own_engine: Engine, short: Settings
) -> None:
    pairs = ", ".join(f"({user}, 'PLAYER', 3)" for user in range(1, 41))
    execute(own_engine, f"{PROGRESS} {pairs}")
    execute(
        own_engine,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'not user %%', NEW.user_id; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON user_licenses FOR EACH ROW WHEN (NEW.user_id = 7) "
        "EXECUTE FUNCTION refuse()",
    )
    left = "SELECT student_id FROM specialization_progress WHERE NOT EXISTS (SELECT FROM user_licenses)"
    left += " OR student_id NOT IN (SELECT user_id FROM user_licenses) ORDER BY 1"
    adoption = Adoption(own_engine, short)
    with own_engine.connect() as holder, holder.begin():
        holder.execute(text("SELECT FROM specialization_progress WHERE student_id = 9 FOR UPDATE"))
        done = adoption.run()
    assert done.repaired == {"pairs": 38}
    assert sorted(done.failed) == ["not user # (SQLSTATE P0001)", "other code holds its rows or its user"]
    assert query(own_engine, left) == [(7,), (9,)]
    execute(own_engine, "DROP TRIGGER refuse ON user_licenses")
    assert Adoption(own_engine, short).run().repaired == {"pairs": 2}
    assert query(own_engine, left) == [] and not adoption.plan().repairs
    assert [detail for *_, detail in query(own_engine, AUDIT)] == [
        {"pairs": 38, "failed": 2},
        {"pairs": 2, "failed": 0},
    ]


def test_of_a_batch_of_rows_only_those_at_fault_are_left(own_engine: Engine, short: Settings) -> None:
    execute(
        own_engine,
        "INSERT INTO specialization_progress (student_id, specialization_id, current_level) "
        "SELECT n, 'player', 3 FROM generate_series(1, 20) n",
        f"{LICENSE} {', '.join(f'({user}, {PLAYER}, 3, 3)' for user in range(1, 21))}",
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE 'not this one' USING ERRCODE = 'LQ001'; END $$",
        "CREATE TRIGGER refuse BEFORE UPDATE ON specialization_progress FOR EACH ROW WHEN (NEW.student_id = 7) "
        "EXECUTE FUNCTION refuse()",
    )
    with own_engine.connect() as holder, holder.begin():
        holder.execute(text("SELECT FROM specialization_progress WHERE student_id = 9 FOR UPDATE"))
        done = Adoption(own_engine, short).run()
    assert done.repaired == {"misspelt": 18}
    assert sorted(done.failed.items()) == [
        ("canceling statement due to lock timeout (SQLSTATE 55P03)", 1),
        ("not this one (SQLSTATE LQ001)", 1),
    ]
    left = "SELECT student_id FROM specialization_progress WHERE specialization_id = 'player' ORDER BY 1"
    assert query(own_engine, left) == [(7,), (9,)]


def test_rows_without_a_user_or_a_name_do_not_stop_it(own_engine: Engine, settings: Settings) -> None:
    execute(
        own_engine,
        "ALTER TABLE specialization_progress ALTER student_id DROP NOT NULL, ALTER specialization_id DROP NOT NULL, "
        "ALTER current_level DROP NOT NULL",
        f"{PROGRESS} (NULL, 'player', 3), (NULL, 'PLAYER', 3), (5, NULL, NULL), (6, 'player', 2)",
    )
    adoption = Adoption(own_engine, settings)
    plan = {planned.kind: planned for planned in adoption.plan().repairs}
    assert plan["misspelt"].examples == ("user 6 'player'", "no user 'player'") and plan["unnamed"].number == 1
    done = adoption.run()
    assert (done.repaired, done.failed) == ({"misspelt": 2, "pairs": 1}, {})
    rows = query(own_engine, "SELECT student_id, specialization_id FROM specialization_progress ORDER BY 1, 2")
    assert rows == [(5, None), (6, "PLAYER"), (None, "PLAYER"), (None, "PLAYER")]


def test_level_that_other_code_raised_since_the_comparison_is_not_lowered(
    own_engine: Engine, settings: Settings
) -> None:
    execute(own_engine, f"{PROGRESS} (1, 'PLAYER', 3), (2, 'PLAYER', 3)", f"{LICENSE} (1, 'PLAYER', 5, 5)")
    waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with own_engine.connect() as old_code, ThreadPoolExecutor(1) as pool:
        old_code.execute(text("UPDATE specialization_progress SET current_level = 8 WHERE student_id = 1"))
        done = pool.submit(Adoption(own_engine, settings.model_copy(update={"claim_seconds": 100})).run)
        until(lambda: query(own_engine, waiting), what="the wait for the row")
        old_code.commit()
        assert (done.result().repaired, done.result().failed) == ({"pairs": 2}, {})
    for table in ("specialization_progress", "user_licenses"):
        assert query(own_engine, f"SELECT current_level FROM {table} ORDER BY 1") == [(3,), (8,)]
    assert query(own_engine, "SELECT count(*) FROM levelq_ledger") == [(2,)]


def test_index_of_a_partitioned_table_waits_briefly_for_writers(own_engine: Engine, short: Settings) -> None:
    execute(
        own_engine,
        "ALTER TABLE specialization_progress RENAME TO before",
        "CREATE TABLE specialization_progress (LIKE before INCLUDING IDENTITY INCLUDING DEFAULTS) "
        "PARTITION BY HASH (student_id)",
        "CREATE TABLE part PARTITION OF specialization_progress FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
    )
    adoption = Adoption(own_engine, short)
    (planned,) = adoption.plan().repairs
    assert planned.action == "make it; writers of the partitioned table wait meanwhile"
    with own_engine.connect() as writer, writer.begin():
        writer.execute(text("LOCK TABLE specialization_progress IN ROW EXCLUSIVE MODE"))
        assert "canceling statement due to lock timeout (SQLSTATE 55P03)" in adoption.run().failed
    assert adoption.run().repaired == {"no_constraint": 1}


def test_adoption_beside_old_code_loses_nothing_of_either(own_engine: Engine, settings: Settings) -> None:
    users = range(1, 301)
    execute(own_engine, f"{PROGRESS} {', '.join(f'({user}, {PLAYER}, 3)' for user in users)}")
    execute(own_engine, f"{LICENSE} {', '.join(f'({user}, {PLAYER}, 1, 1)' for user in users if user % 2)}")

    def old_code(first: int) -> None:
        """Locks the progress, then the license, as an application does, and counts a session."""
        for user in users[first::4]:
            with own_engine.begin() as connection:
                for lock in (
                    "SELECT FROM specialization_progress WHERE student_id = :user FOR UPDATE",
                    "SELECT FROM user_licenses WHERE user_id = :user FOR UPDATE",
                    "UPDATE specialization_progress SET completed_sessions = completed_sessions + 1 "
                    "WHERE student_id = :user",
                ):
                    connection.execute(text(lock), {"user": user})

    with ThreadPoolExecutor(3) as pool:
        old = [pool.submit(old_code, first) for first in (0, 1)]
        done = pool.submit(Adoption(own_engine, settings, rate=200).run).result()
        for code in old:
            code.result()
    assert (done.repaired, done.failed) == ({"pairs": 300}, {})
    assert not Adoption(own_engine, settings).plan().repairs
    assert query(own_engine, "SELECT sum(completed_sessions), min(current_level) FROM specialization_progress") == [
        (150, 3)
    ]


def test_names_that_a_constraint_keeps_in_lower_case_are_left(own_engine: Engine, settings: Settings) -> None:
    execute(
        own_engine,
        f"{PROGRESS} (1, 'player', 2), (2, 'PLAYER', 2)",
        "ALTER TABLE specialization_progress ADD CONSTRAINT lower CHECK (specialization_id <> 'PLAYER') NOT VALID",
        f"{LICENSE} (1, 'player', 2, 2), (3, 'PLAYER', 2, 2)",
    )
    done = Adoption(own_engine, settings).run()
    assert done.repaired == {"misspelt": 1, "pairs": 1}  # the license is renamed, and user 2 has one now
    assert sum(done.failed.values()) == 2 and all("lower" in why for why in done.failed)
    assert query(own_engine, "SELECT specialization_id FROM specialization_progress ORDER BY 1") == [
        ("PLAYER",),
        ("player",),
    ]


@pytest.mark.parametrize(
    ("source", "after", "left"),
    [
        ("higher", [(3, 3), (4, 4), (2, 2), (2, 2)], 0),
        ("progress", [(3, 3), (1, 1), (2, 2), (None, 2)], 1),
        ("license", [(1, 1), (4, 4), (2, None), (2, 2)], 1),
    ],
)
def test_sync_all_repairs_the_pairs_of_the_named_specializations(
    own_engine: Engine, levelq_here: Levelq, source: str, after: list[tuple[int | None, int | None]], left: int
) -> None:
    for name in ("PLAYER", "COACH"):
        execute(own_engine, f"{PROGRESS} (1, '{name}', 3), (2, '{name}', 1), (3, '{name}', 2)")
        execute(own_engine, f"{LICENSE} (1, '{name}', 1, 6), (2, '{name}', 4, 4), (4, '{name}', 2, 2)")
    assert "no terminal to ask" in levelq_here("sync", "--all", "--source", source).err
    options = ("sync", "--all", "--source", source, "--specialization", "player")
    dry = json.loads(levelq_here(*options, "--dry-run", "--json").out)
    assert dry["done"] is None and {item["kind"] for item in dry["plan"]["repairs"]} >= {"out_of_step"}
    code, out, _ = levelq_here(*options, "--yes")
    assert code == left and f"repaired  {4 - left} in" in out
    found = """
        SELECT p.current_level, l.current_level FROM specialization_progress p FULL JOIN user_licenses l
        ON student_id = user_id AND specialization_id = specialization_type
        WHERE coalesce(specialization_id, specialization_type) = '{}' ORDER BY coalesce(student_id, user_id)
    """
    assert query(own_engine, found.format("PLAYER")) == after
    assert query(own_engine, found.format("COACH")) == [(3, 1), (1, 4), (2, None), (None, 2)]
    assert query(own_engine, AUDIT) == [("sync", "PLAYER", {"pairs": 4 - left, "failed": 0})]
    assert query(own_engine, "SELECT max_achieved_level FROM user_licenses WHERE user_id = 1") == [(6,), (6,)]

    code, out, _ = levelq_here("check", "--json", "--limit", "1")
    report = json.loads(out)
    assert (code, report["total"], len(report["pairs"]), report["tables_complete"]) == (1, 4 + left, 1, True)
    assert report["pairs"][0]["repair"] == "levelq sync 1 COACH --source progress"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("adopt", "--json"), "--json: expected --yes or --dry-run with it"),
        (("sync", "--all", "--source", "higher", "--json"), "--json: expected --yes or --dry-run with it"),
        (("sync", "1", "PLAYER", "--all", "--source", "higher"), "expected either --all or USER SPECIALIZATION"),
        (("sync", "--source", "progress"), "expected USER SPECIALIZATION, or --all"),
        (("sync", "1", "PLAYER", "--source", "higher"), "expected progress or license for one pair, got higher"),
        (("sync", "--all", "--source", "higher", "-s", "NONE"), "--specialization: expected one of PLAYER"),
        (("sync", "1", "PLAYER", "--source", "license", "--dry-run"), "--dry-run: expected --all with it"),
        (("sync", "1", "PLAYER", "--source", "license", "--json"), "--json: expected --all with it"),
        (("sync", "1", "PLAYER", "--source", "license", "-s", "COACH"), "--specialization: expected --all with it"),
    ],
)
def test_options_that_do_not_fit_are_refused(levelq_here: Levelq, arguments: tuple[str, ...], message: str) -> None:
    assert message in levelq_here.refused(*arguments)
