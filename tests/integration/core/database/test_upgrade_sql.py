"""`levelq db upgrade --sql`: prints what `levelq db upgrade` would run on this database, and changes nothing."""

import subprocess
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from levelq import Settings
from levelq.cli.app import run
from levelq.server_account import account, programs
from levelq_core.database.engine import engine_for
from levelq_core.database.migrations import VERSION_TABLE
from levelq_core.database.schema import REQUIRED
from tests.support.fixtures import application
from tests.support.fixtures.databases import Databases

# Everything that a migration could make, without what differs between two equal databases: oids.
CATALOG = """
    SELECT 'column', c.oid::regclass::text, a.attname::text, format('%s %s %s %s %s %s %s',
        format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attnum, a.attcollation,
        pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum))
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    UNION ALL SELECT 'relation', oid::regclass::text, relkind::text, format('%s %s', reloptions, relpersistence)
    FROM pg_class WHERE relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    UNION ALL SELECT 'constraint', conrelid::regclass::text, conname::text, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE conrelid <> 0
    UNION ALL SELECT 'index', indrelid::regclass::text, indexrelid::regclass::text, pg_get_indexdef(indexrelid)
    FROM pg_index WHERE indexrelid::regclass::text NOT LIKE 'pg_toast%'
    UNION ALL SELECT 'sequence', seqrelid::regclass::text, seqtypid::regtype::text, format('%s', seqmax)
    FROM pg_sequence
    UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname::text, pg_get_triggerdef(oid)
    FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'function', pronamespace::regnamespace::text, proname::text, prosrc
    FROM pg_proc WHERE pronamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')
    ORDER BY 1, 2, 3, 4
"""


def catalog(url: str) -> list[Any]:
    """What the database holds besides rows, and its recorded version."""
    with psycopg.connect(url) as connection:
        found = connection.execute(CATALOG).fetchall()
        if ("relation", VERSION_TABLE, "r") in {row[:3] for row in found}:
            found += connection.execute(f"SELECT 'version', version_num, '', '' FROM {VERSION_TABLE}").fetchall()
    return found


class Printed(NamedTuple):
    """What the command wrote."""

    script: str
    hint: str


class Upgrading:
    """The command on databases that begin alike."""

    def __init__(
        self, databases: Databases, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._databases, self._patch, self._capsys = databases, monkeypatch, capsys
        self._made: list[str] = []

    def database(self, like: str | None = None) -> str:
        """The URL of a new database, empty or a copy of another."""
        name = f"upgraded_{len(self._made)}"
        template = "template1" if like is None else str(conninfo_to_dict(like)["dbname"])
        self._admin("CREATE DATABASE {} TEMPLATE {}", name, template)
        self._made.append(name)
        return self._databases.url(name)

    def __call__(self, url: str, *arguments: str) -> Printed:
        self._patch.setenv("LEVELQ_DATABASE_URL", url)
        assert run(["db", "upgrade", *arguments]) == 0
        return Printed(*self._capsys.readouterr())

    def drop(self) -> None:
        for name in self._made:
            self._admin("DROP DATABASE {} WITH (FORCE)", name)

    def _admin(self, statement: str, *names: str) -> None:
        self._databases.admin.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


@pytest.fixture
def upgrade(
    databases: Databases, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Upgrading]:
    made = Upgrading(databases, monkeypatch, capsys)
    yield made
    made.drop()


def psql(url: str, script: str) -> None:
    """Run a script as the person who reviewed it."""
    options = ("--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--file", "-")
    done = subprocess.run(
        [programs(account()) / "psql", *options, url], input=script, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def nothing(url: str) -> None:
    """No table at all."""


def all_tables(url: str) -> None:
    """An application's own three tables, and its users."""
    engine = engine_for(Settings.load(database_url=url))
    application.metadata.create_all(engine)
    engine.dispose()


def licenses_alone(url: str) -> None:
    """One of the three tables, whose narrow id another must refer to."""
    engine = engine_for(Settings.load(database_url=url))
    application.users.create(engine)
    application.licenses.create(engine)
    engine.dispose()


@pytest.mark.parametrize("prepare", [nothing, all_tables, licenses_alone])
def test_printed_script_makes_what_the_upgrade_makes(upgrade: Upgrading, prepare: Callable[[str], None]) -> None:
    template = upgrade.database()
    prepare(template)
    before = catalog(template)
    printed = upgrade(template, "--sql")
    assert catalog(template) == before
    by_script, by_upgrade = upgrade.database(template), upgrade.database(template)
    psql(by_script, printed.script)
    upgrade(by_upgrade)
    assert catalog(by_script) == catalog(by_upgrade)
    assert {name for kind, name, what, _ in catalog(by_script) if (kind, what) == ("relation", "r")} >= set(REQUIRED)
    assert "psql --set ON_ERROR_STOP=1" in printed.hint

    for url in (by_script, by_upgrade):
        again = upgrade(url, "--sql")
        assert again.script == "-- nothing to do: the database is at this version of levelq\n"
        assert again.hint.startswith("Nothing to do in postgresql://")
        psql(url, again.script)
    assert catalog(by_script) == catalog(by_upgrade)


def test_script_is_one_transaction_that_waits_for_other_upgrades(upgrade: Upgrading) -> None:
    lines = [line for line in upgrade(upgrade.database(), "--sql").script.splitlines() if line]
    assert (lines[0], lines[-1]) == ("BEGIN;", "COMMIT;")
    assert lines[1].startswith("SELECT pg_advisory_xact_lock(")


def test_script_that_is_run_late_changes_nothing(upgrade: Upgrading) -> None:
    url = upgrade.database()
    script = upgrade(url, "--sql").script
    upgrade(url)
    before = catalog(url)
    with pytest.raises(AssertionError, match="already exists"):
        psql(url, script)
    assert catalog(url) == before


def test_search_path_of_the_setting_holds_in_the_script_too(upgrade: Upgrading) -> None:
    template = upgrade.database()
    psql(template, 'CREATE SCHEMA game; CREATE SCHEMA "ga\'me 2";')
    chosen = "&options=-csearch_path%3D%22ga%27me%5C%202%22,game"
    script = upgrade(template + chosen, "--sql").script
    by_script, by_upgrade = upgrade.database(template), upgrade.database(template)
    psql(by_script, script)
    upgrade(by_upgrade + chosen)
    assert catalog(by_script) == catalog(by_upgrade)
    assert ("relation", '"ga\'me 2".levelq_ledger') in {row[:2] for row in catalog(by_script)}


def test_role_that_may_only_read_gets_the_script(upgrade: Upgrading) -> None:
    url = upgrade.database()
    psql(url, "CREATE ROLE reviewer LOGIN")
    try:
        assert "CREATE TABLE levelq_ledger" in upgrade(url.replace("postgres@", "reviewer@"), "--sql").script
    finally:
        psql(url, "DROP ROLE reviewer")
