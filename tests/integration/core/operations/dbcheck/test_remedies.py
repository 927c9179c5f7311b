"""Faulty databases, each fixed by exactly what is printed: then nothing is found, and nothing was lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from levelq_core import SchemaError, Settings, level_up_atomic
from levelq_core.database.schema import forget
from levelq_worker.support.preflight import preflight
from tests.support.db_check import execute, query, role, works
from tests.support.fixtures.command_line import LevelqWith
from tests.support.fixtures.databases import as_role
from tests.support.fixtures.waiting import until
from tests.support.remedies import Operator

PROGRESS = "INSERT INTO specialization_progress (student_id, specialization_id, current_level, total_xp"
LICENSE = "INSERT INTO user_licenses (user_id, specialization_type, current_level, max_achieved_level"
NO_PROGRESS_KEY = "ALTER TABLE specialization_progress DROP CONSTRAINT specialization_progress_pair_key"
NO_LICENSE_KEY = "ALTER TABLE user_licenses DROP CONSTRAINT user_licenses_pair_key"
STEPS = (
    "INSERT INTO license_progressions (user_license_id, from_level, to_level, requirements_met, advancement_reason) "
    "SELECT id, 1, 2, '{}', 'step ' || id FROM user_licenses"
)
PAIR = (f"{PROGRESS}) VALUES (7, 'PLAYER', 2, 1500)", f"{LICENSE}) VALUES (7, 'PLAYER', 2, 4)")


class Row(NamedTuple):
    """A learner after the fix: levels, the highest one, experience, and how many progressions."""

    user: int
    name: str
    level: int
    license: int
    highest: int
    xp: int
    steps: int = 0


KEPT = [Row(7, "PLAYER", 2, 2, 4, 1500)]


class Wrong(NamedTuple):
    """How a database got wrong, what its operator knows, and what must be there after the fix."""

    broken: Sequence[str]
    kept: Sequence[Row] = KEPT
    fills: Mapping[str, str] = MappingProxyType({})
    rounds: int = 1
    explained: str = ""


WRONG = {
    "two requests made a progress each": Wrong(
        (NO_PROGRESS_KEY, *PAIR, f"{PROGRESS}, completed_sessions) VALUES (7, 'PLAYER', 1, 700, 9)"),
        explained="the most advanced",
    ),
    "two rows of the same level": Wrong(
        (NO_PROGRESS_KEY, f"{PROGRESS}) VALUES (7, 'PLAYER', 1, 400), (7, 'PLAYER', 1, 700), (7, 'PLAYER', 1, 100)",
         f"{LICENSE}) VALUES (7, 'PLAYER', 1, 1)"),
        [Row(7, "PLAYER", 1, 1, 1, 700)],
    ),
    "two rows that hold a part each": Wrong(
        (NO_PROGRESS_KEY, f"{PROGRESS}) VALUES (7, 'PLAYER', 1, 400), (7, 'PLAYER', 1, 700)",
         f"{LICENSE}) VALUES (7, 'PLAYER', 1, 1)"),
        [Row(7, "PLAYER", 1, 1, 1, 1100)],
        fills={"UPDATE specialization_progress SET total_xp": ""},
        explained="If each row holds a part",
    ),
    "totals that are NULL in one of the rows": Wrong(
        ("ALTER TABLE specialization_progress ALTER total_xp DROP NOT NULL", NO_PROGRESS_KEY, *PAIR,
         f"{PROGRESS}) VALUES (7, 'PLAYER', 3, NULL), (8, 'COACH', 1, NULL), (8, 'COACH', 1, NULL)",
         f"{LICENSE}) VALUES (8, 'COACH', 1, 1)", "UPDATE user_licenses SET current_level = 3 WHERE user_id = 7"),
        [Row(7, "PLAYER", 3, 3, 4, 1500), Row(8, "COACH", 1, 1, 1, 0)],
    ),
    "two licenses, their progressions and what else refers to them": Wrong(
        (NO_LICENSE_KEY, *PAIR, f"{LICENSE}) VALUES (7, 'PLAYER', 1, 6)", STEPS,
         "ALTER TABLE user_licenses ADD COLUMN is_active boolean NOT NULL DEFAULT true",
         "CREATE TABLE certificates (license_id bigint REFERENCES user_licenses ON DELETE CASCADE)",
         "INSERT INTO certificates SELECT id FROM user_licenses"),
        [Row(7, "PLAYER", 2, 2, 6, 1500, steps=2)],
        explained="Other columns keep the values of that row: is_active",
    ),
    "licenses without a foreign key from the progressions": Wrong(
        (NO_LICENSE_KEY, *PAIR, f"{LICENSE}) VALUES (7, 'PLAYER', 1, 6)", STEPS,
         "ALTER TABLE license_progressions DROP CONSTRAINT license_progressions_user_license_id_fkey"),
        [Row(7, "PLAYER", 2, 2, 6, 1500, steps=2)],
    ),
    "rows without a user beside duplicates": Wrong(
        (NO_PROGRESS_KEY, *PAIR, "ALTER TABLE specialization_progress ALTER student_id DROP NOT NULL",
         f"{PROGRESS}) VALUES (7, 'PLAYER', 1, 700)"),
    ),
    "both spellings of a name, in both tables": Wrong(
        (*PAIR, f"{PROGRESS}) VALUES (7, 'player', 3, 900), (8, ' coach', 2, 5)",
         f"{LICENSE}) VALUES (7, 'Player', 3, 3), (8, 'Coach', 2, 2)", STEPS),
        [Row(7, "PLAYER", 3, 3, 4, 1500, steps=2), Row(8, "COACH", 2, 2, 2, 5, steps=1)],
        explained="your application must write 'PLAYER' and look for it, too",
    ),
    "both spellings, each more than once": Wrong(
        (NO_PROGRESS_KEY, NO_LICENSE_KEY, *PAIR, *PAIR, *(line.replace("PLAYER", "player") for line in PAIR * 2),
         STEPS),
        [Row(7, "PLAYER", 2, 2, 4, 1500, steps=4)],
    ),
    "halves in different spellings": Wrong(
        (f"{PROGRESS}) VALUES (7, 'player', 2, 1500)", f"{LICENSE}) VALUES (7, 'PLAYER', 2, 4)"),
    ),
    "an enum of lower-case names": Wrong(
        ("CREATE TYPE kind AS ENUM ('player', 'coach')", f"{PROGRESS}) VALUES (7, 'player', 2, 1500)",
         f"{LICENSE}) VALUES (7, 'player', 2, 4)",
         "ALTER TABLE specialization_progress ALTER specialization_id TYPE kind USING specialization_id::kind",
         "ALTER TABLE user_licenses ALTER specialization_type TYPE kind USING specialization_type::kind"),
        rounds=2,
        explained="native_enum=False",
    ),
    "char(n), citext and name": Wrong(
        (*PAIR, STEPS, "CREATE EXTENSION citext",
         "ALTER TABLE specialization_progress ALTER specialization_id TYPE char(20)",
         "ALTER TABLE user_licenses ALTER specialization_type TYPE citext",
         "ALTER TABLE license_progressions ALTER advancement_reason DROP DEFAULT, ALTER advancement_reason TYPE name"),
        [Row(7, "PLAYER", 2, 2, 4, 1500, steps=1)],
    ),
    "user ids as text": Wrong(
        (*PAIR, "ALTER TABLE specialization_progress ALTER student_id TYPE text",
         "ALTER TABLE user_licenses ALTER user_id TYPE varchar(20)"),
    ),
    "a view on a column of the wrong type": Wrong(
        (*PAIR, "ALTER TABLE user_licenses ALTER specialization_type TYPE char(20)",
         "CREATE VIEW licensed AS SELECT user_id, specialization_type FROM user_licenses"),
        fills={"ALTER TABLE user_licenses ALTER COLUMN specialization_type": ""},
        explained="is used by rule _RETURN on view licensed: drop that",
    ),
    "an index that compares user ids as text": Wrong(
        (*PAIR, "ALTER TABLE user_licenses ALTER user_id TYPE text",
         "CREATE INDEX folded ON user_licenses (lower(user_id))"),
        explained="is used by index folded: drop that",
    ),
    "a check that compares names of an enum": Wrong(
        (*PAIR, "CREATE TYPE kind AS ENUM ('PLAYER', 'COACH')",
         "ALTER TABLE user_licenses ALTER specialization_type TYPE kind USING specialization_type::kind",
         "ALTER TABLE user_licenses ADD CONSTRAINT players CHECK (specialization_type = 'PLAYER')"),
        explained="is used by constraint players on table user_licenses: drop that",
    ),
    "a column generated from one of the wrong type": Wrong(
        (*PAIR, "ALTER TABLE user_licenses ALTER specialization_type TYPE char(20)",
         "ALTER TABLE user_licenses ADD COLUMN shown text GENERATED ALWAYS AS (specialization_type || '!') STORED"),
        explained="is used by default value for column shown of table user_licenses: drop that",
    ),
    "a value that only the model knows": Wrong(
        (*PAIR, "ALTER TABLE user_licenses ADD COLUMN is_active boolean NOT NULL DEFAULT true, "
         "ADD COLUMN renewal_cost integer NOT NULL DEFAULT 1000",
         "ALTER TABLE user_licenses ALTER is_active DROP DEFAULT, ALTER renewal_cost DROP DEFAULT"),
        fills={"ALTER TABLE user_licenses ALTER COLUMN is_active": "true",
               "ALTER TABLE user_licenses ALTER COLUMN renewal_cost": "1000"},
        explained="levelq does not know what is_active must hold in a row that it makes: take the default of your"
        " model",
    ),
    "a column whose name is a word of SQL": Wrong(
        (*PAIR, 'ALTER TABLE user_licenses ADD COLUMN "order" integer NOT NULL DEFAULT 1',
         'ALTER TABLE user_licenses ALTER "order" DROP DEFAULT'),
        fills={"ALTER TABLE user_licenses ALTER COLUMN": "1"},
    ),
    "a rule that notes every change": Wrong(
        (*PAIR, "CREATE TABLE log (user_id bigint)",
         "CREATE RULE note AS ON UPDATE TO user_licenses DO ALSO INSERT INTO log VALUES (NEW.user_id)"),
        fills={"DROP RULE": ""},
        explained="PostgreSQL refuses INSERT ... ON CONFLICT, by which levelq makes rows",
    ),
    "another table that holds the old spelling by a foreign key": Wrong(
        (f"{PROGRESS}) VALUES (7, 'PLAYER', 2, 1500)", f"{LICENSE}) VALUES (7, 'player', 2, 4)",
         "CREATE TABLE badges (holder bigint, kind text, FOREIGN KEY (holder, kind) "
         "REFERENCES user_licenses (user_id, specialization_type) ON UPDATE CASCADE)",
         "INSERT INTO badges VALUES (7, 'player')"),
    ),
    "ids that the model makes": Wrong(
        (*PAIR, "ALTER TABLE specialization_progress DROP COLUMN id, ADD COLUMN id uuid PRIMARY KEY "
         "DEFAULT gen_random_uuid()", "ALTER TABLE specialization_progress ALTER id DROP DEFAULT"),
    ),
    "the user's column has another name": Wrong(
        (*PAIR, "ALTER TABLE user_licenses RENAME COLUMN user_id TO learner"),
        fills={"ALTER TABLE user_licenses RENAME COLUMN": "learner"},
    ),
    "no highest level": Wrong(
        (*PAIR, "ALTER TABLE user_licenses DROP COLUMN max_achieved_level"), [Row(7, "PLAYER", 2, 2, 2, 1500)]
    ),
    "levels that are NULL": Wrong(
        (*PAIR, "ALTER TABLE specialization_progress ALTER current_level DROP NOT NULL",
         "UPDATE specialization_progress SET current_level = NULL"),

    ),
    "no table of ours": Wrong(
        (*PAIR, "DROP TABLE levelq_ledger, levelq_outbox, levelq_quarantine, levelq_identity, levelq_audit, "
         "levelq_event_positions")
    ),
    "a table outside the search path": Wrong(
        (*PAIR, "CREATE SCHEMA app", "ALTER TABLE user_licenses SET SCHEMA app"),
        fills={"ALTER ROLE": ""},
        explained="there is one in schema app, outside the search path",
    ),
    "partitioned tables without the constraint": Wrong(
        ("ALTER TABLE specialization_progress RENAME TO flat",
         "CREATE TABLE specialization_progress (LIKE flat INCLUDING DEFAULTS INCLUDING IDENTITY) "
         "PARTITION BY HASH (student_id)",
         "CREATE TABLE progress_0 PARTITION OF specialization_progress FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
         "CREATE TABLE progress_1 PARTITION OF specialization_progress FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
         *PAIR, f"{PROGRESS}) VALUES (7, 'PLAYER', 1, 700), (8, 'COACH', 1, 7), (8, 'COACH', 1, 8)",
         f"{LICENSE}) VALUES (8, 'COACH', 1, 1)"),
        [*KEPT, Row(8, "COACH", 1, 1, 1, 8)],
    ),
    "an id of 32 bits at its end, in a view": Wrong(
        (*PAIR, "ALTER TABLE user_licenses ALTER id TYPE integer", "ALTER SEQUENCE user_licenses_id_seq AS integer",
         "SELECT setval('user_licenses_id_seq', 2147483647)", "CREATE VIEW licensed AS SELECT id FROM user_licenses"),
        fills={"ALTER TABLE user_licenses ALTER COLUMN id": ""},
    ),
    "levels out of step in numeric columns": Wrong(
        (*PAIR, "ALTER TABLE specialization_progress ALTER student_id TYPE numeric(10,2), "
         "ALTER current_level TYPE numeric(4,0)", "ALTER TABLE user_licenses ALTER user_id TYPE numeric",
         "UPDATE user_licenses SET current_level = 4"),
        [Row(7, "PLAYER", 4, 4, 4, 1500)],
    ),
    "levels out of step": Wrong(
        (*PAIR, "UPDATE user_licenses SET current_level = 4", f"{PROGRESS}) VALUES (8, 'COACH', 3, 5)",
         f"{LICENSE}) VALUES (9, 'COACH', 6, 6), (10, 'PLAYER', 9, 9)", f"{PROGRESS}) VALUES (10, 'PLAYER', 0, 5)"),
        [Row(7, "PLAYER", 4, 4, 4, 1500, 0), Row(8, "COACH", 3, 3, 3, 5), Row(9, "COACH", 6, 6, 6, 0),
         Row(10, "PLAYER", 9, 9, 9, 5)],
    ),
}  # fmt: skip


# What a person drops first, as is printed.
IN_THE_WAY = {
    "a view on a column of the wrong type": "DROP VIEW licensed",
    "an id of 32 bits at its end, in a view": "DROP VIEW licensed",
    "an index that compares user ids as text": "DROP INDEX folded",
    "a check that compares names of an enum": "ALTER TABLE user_licenses DROP CONSTRAINT players",
    "a column generated from one of the wrong type": "ALTER TABLE user_licenses DROP COLUMN shown",
}


@pytest.fixture
def operator(settings: Settings, levelq_with: LevelqWith) -> Operator:
    return Operator(settings, levelq_with(settings))


def rows(engine: Engine) -> list[Row]:
    found = query(
        engine,
        """
        SELECT p.student_id, p.specialization_id, p.current_level, l.current_level, l.max_achieved_level,
               coalesce(p.total_xp, 0), (SELECT count(*) FROM license_progressions a WHERE a.user_license_id = l.id)
        FROM specialization_progress p
        FULL JOIN user_licenses l ON (l.user_id, l.specialization_type) = (p.student_id, p.specialization_id)
        ORDER BY 1, 2
        """,
    )
    return [Row(*row) for row in found]


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_printed_mends_the_database_and_loses_nothing(
    operator: Operator, own_engine: Engine, wrong: str
) -> None:
    broken, kept, operator.fills, rounds, explained = WRONG[wrong]
    execute(own_engine, *broken)
    if wrong in IN_THE_WAY:
        assert explained in operator.printed()
        execute(own_engine, IN_THE_WAY[wrong])
        operator.fills, explained = {}, ""
    scripts = operator.fix(rounds)
    assert explained in scripts[0]
    own_engine.dispose()  # a new search path is for new connections
    assert rows(own_engine) == list(kept)
    forget(own_engine)
    with Session(own_engine) as session:
        answer = level_up_atomic(session, 7, kept[0].name, 1)
        assert answer["success"], answer
        assert level_up_atomic(session, 70, "PLAYER", 1)["success"]


def test_what_is_printed_before_the_psql_script_is_for_people_and_never_a_statement(
    operator: Operator, own_engine: Engine
) -> None:
    """A name with a line break in it cannot end a comment."""
    name = "x\n; DROP TABLE user_licenses; --"
    with own_engine.begin() as connection:
        for statement in PAIR:
            connection.execute(text(statement.replace("'PLAYER'", ":name")), {"name": name})
    script = operator.printed()
    assert "DROP TABLE" in script and all(line.startswith("--") for line in script.splitlines() if line)
    operator.follow(script)
    assert [(row.user, row.name, row.license) for row in rows(own_engine)] == [(7, name, 2)]


def test_a_script_that_is_run_unread_sets_no_default_that_levelq_made_up(
    operator: Operator, own_engine: Engine
) -> None:
    execute(own_engine, *WRONG["a value that only the model knows"].broken)
    script = operator.printed()
    operator.follow(script)
    assert operator.printed() == script
    with Session(own_engine) as session:
        answer = level_up_atomic(session, 70, "PLAYER", 1)
    assert not answer["success"] and "is_active" in answer["message"]


def test_upgrade_reports_tables_of_the_same_name_outside_the_search_path(
    operator: Operator, own_engine: Engine
) -> None:
    moved = "ALTER TABLE user_licenses SET SCHEMA app"
    execute(own_engine, "CREATE SCHEMA app", moved)
    lines = operator.levelq("db", "upgrade").out.splitlines()
    (shown,) = [line for line in lines if "user_licenses" in line]
    assert shown.split(maxsplit=1)[1] == "created; there is another in schema app, outside the search path"


def test_rows_outside_the_catalog_move_once_it_has_their_name(
    operator: Operator, own_engine: Engine, tmp_path: Path
) -> None:
    execute(
        own_engine,
        f"{PROGRESS}) VALUES (7, 'goalie', 5, 10), (8, 'GOALIE', 2, 10), (9, 'Goalie', 2, 10)",
        f"{LICENSE}) VALUES (7, 'goalie', 3, 3), (9, 'goalie', 4, 4)",
    )
    script = operator.printed()
    assert "'goalie' (1 in specialization_progress, 2 in user_licenses)" in script
    assert "add a table [GOALIE] to the file that LEVELQ_CATALOG names" in script
    listed = operator.levelq("check", "--limit", "9")
    assert listed.code == 1 and "not in the catalog" in listed.out
    assert "levelq sync" not in script + listed.out
    catalog = tmp_path / "catalog.toml"
    catalog.write_text("[PLAYER]\nlevels = [0]\n[GOALIE]\nlevels = [0, 100, 200, 300, 400, 500]\n")
    operator.levelq.environment["LEVELQ_CATALOG"] = str(catalog)
    assert "levelq sync" not in operator.levelq("check").out.replace("levelq sync 8 GOALIE --source progress", "")
    operator.fix(2)
    assert rows(own_engine) == [
        Row(7, "GOALIE", 5, 5, 5, 10, steps=1),
        Row(8, "GOALIE", 2, 2, 2, 10),
        Row(9, "GOALIE", 4, 4, 4, 10),
    ]


@pytest.mark.parametrize("stop", [True, False])
def test_rows_that_an_application_holds_together_are_refused_and_not_lost(
    operator: Operator, own_engine: Engine, *, stop: bool
) -> None:
    """Two certificates cannot belong to one license: then no row goes, and the answer names the constraint."""
    execute(
        own_engine,
        NO_LICENSE_KEY,
        *PAIR,
        f"{LICENSE}) VALUES (7, 'PLAYER', 1, 6)",
        "CREATE TABLE certificates (license_id bigint UNIQUE REFERENCES user_licenses ON DELETE CASCADE)",
        "INSERT INTO certificates SELECT id FROM user_licenses",
    )
    explained = operator.psql(operator.printed(), check=False, stop=stop)
    assert "certificates_license_id_key" in explained
    assert ("could not create unique index" in explained) != stop
    assert query(own_engine, "SELECT count(*) FROM certificates") == [(2,)]
    levels = query(own_engine, "SELECT current_level, max_achieved_level FROM user_licenses ORDER BY id")
    assert levels == [(2, 6), (1, 6)]


def test_what_an_application_writes_while_rows_are_merged_is_kept(operator: Operator, own_engine: Engine) -> None:
    execute(own_engine, NO_PROGRESS_KEY, *PAIR, f"{PROGRESS}) VALUES (7, 'PLAYER', 1, 700)")
    script = operator.printed()
    with own_engine.connect() as writer, ThreadPoolExecutor(1) as pool:
        writer.execute(text("UPDATE specialization_progress SET total_xp = 9000 WHERE total_xp = 700"))
        merging = pool.submit(operator.psql, script, check=False)
        with own_engine.connect() as watcher:
            waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            until(lambda: watcher.execute(waiting).scalar_one() == 1)
        writer.commit()
        assert "could not create unique index" in merging.result()
    operator.fix(1)
    assert rows(own_engine) == [Row(7, "PLAYER", 2, 2, 4, 9000)]


def test_row_that_grew_between_two_of_the_statements_is_not_deleted(operator: Operator, own_engine: Engine) -> None:
    execute(own_engine, NO_PROGRESS_KEY, *PAIR, f"{PROGRESS}) VALUES (7, 'PLAYER', 1, 700)")
    statements = [line for line in operator.printed().splitlines() if line and not line.startswith("--")]
    assert [line.partition(" ")[0] for line in statements] == ["UPDATE", "DELETE", "CREATE"]
    execute(own_engine, statements[0])
    execute(own_engine, "UPDATE specialization_progress SET total_xp = 1800 WHERE total_xp = 700", statements[1])
    operator.fix(1)
    assert rows(own_engine) == [Row(7, "PLAYER", 2, 2, 4, 1800)]


PAIRS_WITHOUT_COMMAND = {
    "a row without a user": (
        ("ALTER TABLE specialization_progress ALTER student_id DROP NOT NULL",
         f"{PROGRESS}) VALUES (NULL, 'PLAYER', 2, 5)"),
        "levelq reads no row without a user or a specialization",
    ),
    "a user that no command can name": (
        (f"{PROGRESS}) VALUES (-4, 'PLAYER', 2, 5)",),
        "user_id: expected an integer from 1 to 2^63 - 1",
    ),
    "levels that nobody can have": (
        (f"{PROGRESS}) VALUES (7, 'PLAYER', -1, 5)", f"{LICENSE}) VALUES (7, 'PLAYER', 0, 1)"),
        "levelq cannot copy either level",
    ),
    "a level that the other column cannot hold": (
        ("ALTER TABLE user_licenses ALTER current_level TYPE smallint", f"{PROGRESS}) VALUES (7, 'PLAYER', 40000, 5)"),
        "level 40000 does not fit its column",
    ),
    "a user that the application deleted": (
        ("CREATE TABLE users (id bigint PRIMARY KEY)",
         "ALTER TABLE user_licenses ADD FOREIGN KEY (user_id) REFERENCES users (id)",
         f"{PROGRESS}) VALUES (7, 'PLAYER', 2, 5)"),
        "user 7 is not in users, so no row can be made",
    ),
    "a table that levelq cannot work on": (
        (NO_PROGRESS_KEY, f"{PROGRESS}) VALUES (7, 'PLAYER', 2, 5)"),
        "First do what `levelq db check` says: until then `levelq sync` is refused",
    ),
    "the other row is spelt otherwise": (
        (f"{PROGRESS}) VALUES (7, 'PLAYER', 2, 5)", f"{LICENSE}) VALUES (7, 'player', 2, 2)"),
        "it has a row that is spelt otherwise",
    ),
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS_WITHOUT_COMMAND)
def test_a_command_that_would_be_refused_is_not_printed(operator: Operator, own_engine: Engine, pair: str) -> None:
    broken, reason = PAIRS_WITHOUT_COMMAND[pair]
    execute(own_engine, *broken)
    listed = operator.levelq("check")
    assert listed.code == 1
    assert not re.search(r"levelq sync \S+ \S+ --source", listed.out)
    if NO_PROGRESS_KEY not in broken:  # there the constraint is printed first
        assert "levelq sync" not in operator.printed()
    assert reason in " ".join(listed.out.split())


def test_rights_that_a_role_lacks_are_granted_as_printed(
    operator: Operator, own_engine: Engine, engines: Callable[..., Engine], settings: Settings
) -> None:
    name = "levelq_lacking"
    execute(
        own_engine,
        "CREATE TABLE users (id bigint PRIMARY KEY)",
        "ALTER TABLE user_licenses ADD FOREIGN KEY (user_id) REFERENCES users (id)",
    )
    theirs = as_role(settings, name)
    with role(own_engine, name, f"GRANT SELECT ON specialization_progress, levelq_identity TO {name}"):
        operator.levelq.environment |= theirs.environment()
        with pytest.raises(SchemaError, match=r"role levelq_lacking .*license_progressions"):
            preflight(theirs)
        script = operator.printed()
        assert "GRANT INSERT, UPDATE, DELETE ON specialization_progress TO levelq_lacking;" in script
        assert re.search(r"GRANT SELECT.*, UPDATE \(id\) ON users TO levelq_lacking;", script)
        operator.follow(script)  # as the owner
        operator.require_clean()
        execute(own_engine, "INSERT INTO users VALUES (7)")
        assert works(engines(str(theirs.database_url)), 7, xp=5000)
