"""`levelq db check`: every fault is found, and the printed fix repairs it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine

from levelq.embedded import Postgres, Servers
from levelq_core import Catalog, Settings
from levelq_core.database.engine import engine_for
from levelq_core.database.migrations import upgrade
from levelq_core.database.schema import forget
from levelq_core.operations.dbcheck import server
from tests.support.db_check import execute, findings, fix, query, role, works

PROGRESS_KEY = "student_id, specialization_id"
LICENSE_KEY = "user_id, specialization_type"


def pair_constraint(engine: Engine, table: str) -> str:
    of_table = f"contype = 'u' AND conrelid = to_regclass('{table}')::oid"
    ((name,),) = query(engine, f"SELECT conname FROM pg_constraint WHERE {of_table}")
    return str(name)


def test_a_sound_database_has_no_findings(engine: Engine) -> None:
    assert works(engine)
    assert findings(engine) == []


def test_an_empty_database_lacks_all_tables_and_upgrade_makes_them(
    engines: Callable[..., Engine], blank_database_url: str
) -> None:
    engine = engines(blank_database_url)
    (finding,) = findings(engine)
    assert finding.severity == "error"
    assert finding.fix == ("levelq db upgrade",)
    assert "specialization_progress" in finding.problem and "levelq_quarantine" in finding.problem
    fix(engine, [finding])
    assert findings(engine) == []


# What breaks a sound database of either kind, and the one finding it must give.
FAULTS = {
    "a total is missing": ("ALTER TABLE specialization_progress DROP COLUMN total_xp",
        "specialization_progress has no column total_xp"),
    "a time is missing": ("ALTER TABLE license_progressions DROP COLUMN advanced_at",
        "license_progressions has no column advanced_at"),
    "the highest level is missing": ("ALTER TABLE user_licenses DROP COLUMN max_achieved_level",
        "user_licenses has no column max_achieved_level"),
    "the reason is missing": ("ALTER TABLE license_progressions DROP COLUMN advancement_reason",
        "license_progressions has no column advancement_reason"),
    "an id is missing": ("ALTER TABLE license_progressions DROP COLUMN id", "license_progressions has no column id"),
    "a column of the ledger is missing": ("ALTER TABLE levelq_ledger DROP COLUMN batch",
        "levelq_ledger has no column batch"),
    "a total is text": (
        "ALTER TABLE specialization_progress ALTER completed_projects DROP DEFAULT, "
        "ALTER completed_projects TYPE text, ALTER completed_projects SET DEFAULT '0'",
        "specialization_progress.completed_projects is of type text, expected int2 or int4 or int8 or numeric"),
    "a level is text": ("ALTER TABLE user_licenses ALTER current_level DROP DEFAULT, ALTER current_level TYPE text",
        "user_licenses.current_level is of type text, expected int2 or int4 or int8 or numeric"),
    "a specialization is an enum": (
        "CREATE TYPE kind AS ENUM ('PLAYER', 'COACH', 'INTERNSHIP'); ALTER TABLE user_licenses "
        "ALTER specialization_type TYPE kind USING specialization_type::kind",
        "user_licenses.specialization_type is of type kind, expected text or varchar"),
    "a time is text": ("ALTER TABLE user_licenses ALTER started_at DROP DEFAULT, ALTER started_at TYPE text",
        "user_licenses.started_at is of type text, expected date or timestamp or timestamptz"),
    "the ledger has a narrow column": ("ALTER TABLE levelq_ledger ALTER user_id TYPE integer",
        "levelq_ledger.user_id is of type int4, expected int8"),
    "a column is generated": (
        "ALTER TABLE user_licenses DROP COLUMN last_advanced_at, ADD COLUMN last_advanced_at timestamp "
        "GENERATED ALWAYS AS (NULL::timestamp) STORED",
        "user_licenses.last_advanced_at is generated from other columns: levelq must write it"),
    "who advanced must be given": (
        "UPDATE license_progressions SET advanced_by = 1; "
        "ALTER TABLE license_progressions ALTER advanced_by SET NOT NULL",
        "license_progressions.advanced_by is NOT NULL: levelq writes NULL where nothing is known"),
    "an id has no default": (
        "ALTER TABLE specialization_progress ALTER id DROP IDENTITY IF EXISTS, ALTER id DROP DEFAULT",
        "specialization_progress.id has no default: levelq's inserts give no id, and fail"),
    "an id has no default and may be null": ("ALTER TABLE license_progressions DROP COLUMN id, ADD COLUMN id integer",
        "license_progressions.id has no default: levelq's inserts give no id, and fail"),
    "a sequence is behind": ("SELECT setval(pg_get_serial_sequence('user_licenses', 'id'), 1, false)",
        "user_licenses.id: its sequence is behind the highest id, 1: inserts fail as duplicates"),
    "the totals do not fit": (
        "ALTER TABLE license_progressions ALTER requirements_met TYPE varchar(100) "
        "USING left(requirements_met::text, 9)",
        "license_progressions.requirements_met holds 100 characters: level-ups whose totals need more are rejected"),
    "the progress is unlogged": ("ALTER TABLE specialization_progress SET UNLOGGED",
        "specialization_progress is UNLOGGED: a crash of the server empties it"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_what_is_printed_mends_it(engine: Engine, fault: str) -> None:
    breaking, problem = FAULTS[fault]
    assert works(engine, user=1)
    execute(engine, *breaking.split("; "))
    found = findings(engine)
    assert [(finding.severity, finding.problem) for finding in found] == [("error", problem)]
    fix(engine, found)
    assert findings(engine) == []
    forget(engine)
    assert works(engine, user=2)


@pytest.mark.parametrize(("kind", "default"), [("text", "'x'"), ("tsrange", "'empty'"), ("boolean", "true")])
def test_a_value_that_levelq_does_not_know_is_a_template_and_no_guess(engine: Engine, kind: str, default: str) -> None:
    assert works(engine, user=1)
    added = f'ALTER TABLE user_licenses ADD COLUMN "Valid During" {kind} DEFAULT {default} NOT NULL'
    execute(engine, added, 'ALTER TABLE user_licenses ALTER COLUMN "Valid During" DROP DEFAULT')
    (finding,) = findings(engine)
    problem = "user_licenses.Valid During is NOT NULL without a default, and levelq gives it no value: inserts fail"
    assert finding[:2] == ("error", problem)
    assert all(line.startswith("--") for line in finding.fix)
    assert finding.fix[0].startswith("-- levelq does not know what Valid During must hold")
    template = 'ALTER TABLE user_licenses ALTER COLUMN "Valid During" SET DEFAULT <the default of your model>;'
    assert finding.fix[-1] == f"-- {template}"
    execute(engine, template.replace("<the default of your model>", default))
    assert findings(engine) == []
    forget(engine)
    assert works(engine, user=2)


def test_a_trigger_or_a_domain_may_fill_what_has_no_default(engine: Engine) -> None:
    assert works(engine, user=1)
    execute(
        engine,
        "CREATE DOMAIN active AS boolean NOT NULL DEFAULT true",
        "ALTER TABLE user_licenses ADD COLUMN active active",
        "ALTER TABLE specialization_progress ADD COLUMN school text DEFAULT 'x' NOT NULL",
        "ALTER TABLE specialization_progress ALTER COLUMN school DROP DEFAULT",
        "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.school = 'y'; RETURN NEW; END $$",
        "CREATE TRIGGER fill BEFORE INSERT ON specialization_progress FOR EACH ROW EXECUTE FUNCTION fill()",
    )
    (finding,) = findings(engine)
    assert finding.severity == "warning"
    assert finding.problem.startswith("specialization_progress.school is NOT NULL without a default")
    assert finding.problem.endswith("inserts fail, unless your trigger fills it")
    forget(engine)
    assert works(engine, user=2)
    execute(engine, "ALTER DOMAIN active DROP DEFAULT")
    assert [f.problem.partition(" ")[0] for f in findings(engine) if f.severity == "error"] == ["user_licenses.active"]
    assert not works(engine, user=3)


@pytest.mark.parametrize(("table", "key"), [("specialization_progress", PROGRESS_KEY), ("user_licenses", LICENSE_KEY)])
def test_a_lost_unique_constraint_and_the_duplicates_it_let_in(engine: Engine, table: str, key: str) -> None:
    for user in (1, 2):
        assert works(engine, user)
    execute(engine, f"ALTER TABLE {table} DROP CONSTRAINT {pair_constraint(engine, table)}")
    (lost,) = findings(engine)
    assert lost.severity == "error"
    assert lost.problem == f"{table} has no unique constraint on ({key}): workers refuse to start"

    columns = ", ".join(set_columns(engine, table))
    execute(engine, f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {table} WHERE current_level = 2")
    execute(engine, f"UPDATE {table} SET current_level = 1 WHERE id > 2")
    found = findings(engine)
    assert [finding.severity for finding in found] == ["error", "error", "warning"]
    assert f"{table}: more than one row for ({key}): 1 PLAYER (2 rows), 2 PLAYER (2 rows)" in found[0].problem
    fix(engine, found)
    assert findings(engine) == []
    assert query(engine, f"SELECT id, current_level FROM {table} ORDER BY id") == [(1, 2), (2, 2)]
    assert works(engine, 3)


def set_columns(engine: Engine, table: str) -> list[str]:
    named = f"table_name = '{table}' AND column_name <> 'id'"
    return [f'"{row[0]}"' for row in query(engine, f"SELECT column_name FROM information_schema.columns WHERE {named}")]


def test_merged_licenses_keep_their_history_and_their_highest_level(engine: Engine) -> None:
    assert works(engine)
    execute(
        engine,
        f"ALTER TABLE user_licenses DROP CONSTRAINT {pair_constraint(engine, 'user_licenses')}",
        "INSERT INTO user_licenses (user_id, specialization_type, current_level, max_achieved_level, started_at) "
        "VALUES (1, 'PLAYER', 1, 6, now())",
        "UPDATE license_progressions SET user_license_id = 2",
    )
    fix(engine, findings(engine))
    assert query(engine, "SELECT id, current_level, max_achieved_level FROM user_licenses") == [(1, 2, 6)]
    assert query(engine, "SELECT user_license_id, count(*) FROM license_progressions GROUP BY 1") == [(1, 1)]


def test_an_index_that_failed_to_build_is_replaced(engine: Engine) -> None:
    assert works(engine)
    execute(engine, f"ALTER TABLE user_licenses DROP CONSTRAINT {pair_constraint(engine, 'user_licenses')}")
    columns = ", ".join(set_columns(engine, "user_licenses"))
    execute(engine, f"INSERT INTO user_licenses ({columns}) SELECT {columns} FROM user_licenses")
    duplicates, lost = findings(engine)
    with pytest.raises(Exception, match="could not create unique index"):
        fix(engine, [lost])  # in the wrong order
    fix(engine, [duplicates])
    (lost,) = findings(engine)
    assert lost.fix[0] == "DROP INDEX CONCURRENTLY user_licenses_levelq_key;"
    fix(engine, [lost])
    assert findings(engine) == []


def test_a_ledger_without_its_unique_id_keeps_the_first_decision(engine: Engine) -> None:
    assert works(engine)
    execute(engine, f"ALTER TABLE levelq_ledger DROP CONSTRAINT {pair_constraint(engine, 'levelq_ledger')}")
    columns = ", ".join(set_columns(engine, "levelq_ledger"))
    execute(engine, f"INSERT INTO levelq_ledger ({columns}) SELECT {columns} FROM levelq_ledger")
    found = findings(engine)
    assert found[0].problem.startswith("levelq_ledger: ")
    assert "the first will be kept" in found[0].problem
    fix(engine, found)
    assert findings(engine) == []
    assert query(engine, "SELECT id FROM levelq_ledger") == [(1,)]


def test_levels_out_of_step_are_counted_with_the_commands_that_mend_them(engine: Engine) -> None:
    for user in range(1, 9):
        assert works(engine, user)
    execute(
        engine,
        "UPDATE user_licenses SET current_level = 4 WHERE user_id <= 5",
        "UPDATE specialization_progress SET current_level = 5 WHERE student_id = 6",
        "DELETE FROM specialization_progress WHERE student_id = 2",
    )
    (finding,) = findings(engine)
    assert finding.severity == "warning"
    assert finding.problem.startswith(
        "levels out of step (progress, license) in 6 pairs: 1 PLAYER (2, 4), 2 PLAYER (none"
    )
    assert finding.fix == (*(f"levelq sync {user} PLAYER --source license" for user in range(1, 6)), "levelq check")
    execute(engine, "UPDATE user_licenses SET current_level = 2 WHERE user_id IN (1, 3, 4, 5)")
    (finding,) = findings(engine)
    assert finding.fix == ("levelq sync 2 PLAYER --source license", "levelq sync 6 PLAYER --source progress")


def test_levels_that_are_null_are_a_warning_and_the_printed_statement_fills_them(engine: Engine) -> None:
    assert works(engine)
    for table in ("specialization_progress", "user_licenses"):
        execute(
            engine, f"ALTER TABLE {table} ALTER current_level DROP NOT NULL", f"UPDATE {table} SET current_level = NULL"
        )
    found = findings(engine)
    assert [finding.severity for finding in found] == ["warning", "warning"]
    assert found[1].problem.startswith("user_licenses.current_level is NULL in 1 row: ")
    fix(engine, found)
    assert findings(engine) == []


def test_a_name_longer_than_its_column_is_a_warning(application_engine: Engine) -> None:
    catalog = Catalog.of({"ASSISTANT_REFEREE_ABROAD": {"levels": [0]}})
    (finding,) = findings(application_engine, catalog)
    problem = (
        "user_licenses.specialization_type holds 20 characters: commands for ASSISTANT_REFEREE_ABROAD are rejected"
    )
    assert finding[:2] == ("warning", problem)
    fix(application_engine, [finding])
    assert findings(application_engine, catalog) == []


def test_several_faults_at_once_are_fixed_in_the_order_printed(application_engine: Engine) -> None:
    engine = application_engine
    assert works(engine)
    execute(
        engine,
        "DROP TABLE levelq_outbox, levelq_quarantine",
        "ALTER TABLE specialization_progress DROP COLUMN id, DROP COLUMN total_xp, ADD COLUMN total_xp text",
        f"ALTER TABLE specialization_progress DROP CONSTRAINT {pair_constraint(engine, 'specialization_progress')}",
        "INSERT INTO specialization_progress (student_id, specialization_id, current_level, created_at) "
        "VALUES (1, 'PLAYER', 1, now())",
    )
    found = findings(engine)
    assert len(found) >= 5
    fix(engine, found)
    assert findings(engine) == []
    assert works(engine, 2)


@pytest.mark.parametrize("owner", ["DATABASE {name}", "ROLE levelq_check", "ROLE levelq_check IN DATABASE {name}"])
def test_synchronous_commit_off_for_the_database_or_the_role(engine: Engine, owner: str) -> None:
    owner = owner.format(name=engine.url.database)
    with role(engine, "levelq_check", "ALTER ROLE levelq_check SUPERUSER"):
        mine = engine_for(Settings.load(database_url=re.sub("//[^@]*@", "//levelq_check@", url_of(engine))))
        execute(engine, f"ALTER {owner} SET synchronous_commit = off")
        (finding,) = findings(mine)
        assert finding.problem.startswith("synchronous_commit is off")
        assert finding.fix == (f"ALTER {owner} RESET synchronous_commit;",)
        fix(mine, [finding])
        mine.dispose()
        assert findings(mine) == []
        mine.dispose()


def url_of(engine: Engine) -> str:
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


def test_synchronous_commit_off_in_the_url(engine: Engine, engines: Callable[..., Engine]) -> None:
    (finding,) = findings(engines(url_of(engine) + "&options=-csynchronous_commit%3Doff"))
    assert finding.fix == ("-- take synchronous_commit out of the options of LEVELQ_DATABASE_URL (or of PGOPTIONS)",)


@pytest.fixture
def private_server(server_folder: Path) -> Iterator[Postgres]:
    """A server of this test's own, whose settings it may spoil."""
    private = Servers(server_folder)
    with private.postgres as postgres:
        yield postgres
    private.sockets.rmdir()


def test_unsafe_settings_of_the_server(private_server: Postgres, engines: Callable[..., Engine]) -> None:
    with psycopg.connect(private_server.url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("ALTER SYSTEM SET synchronous_commit = off")
    private_server.stop()
    private_server.options = ("full_page_writes=off",)
    private_server.start()
    engine = engines(private_server.url)
    upgrade(engine)
    found = findings(engine)
    assert [finding.problem.partition(" ")[0] for finding in found] == [
        "fsync",
        "full_page_writes",
        "synchronous_commit",
    ]
    assert {finding.severity for finding in found} == {"error"}
    assert found[0].fix == ("ALTER SYSTEM SET fsync = on;", "SELECT pg_reload_conf();")
    assert found[1].fix == ("-- take full_page_writes off the command line that starts the server, then restart it",)
    fix(engine, found)
    engine.dispose()
    private_server.stop()
    private_server.options = ()
    private_server.start()
    assert findings(engine) == []


def test_a_server_that_is_too_old(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "OLDEST", 99)
    (finding,) = findings(engine)
    assert re.fullmatch(r"PostgreSQL \S+.* is too old: 99 is the least", finding.problem)
    assert finding.fix == ("-- move the database to PostgreSQL 99 or later",)
