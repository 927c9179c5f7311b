"""An application's own alembic on a database that has levelq's tables: `alembic revision --autogenerate`."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

import levelq.alembic
from levelq_core.database.migrations import VERSION_TABLE
from levelq_core.database.schema import LICENSES, PROGRESS, PROGRESSIONS, REQUIRED
from tests.architecture.sources import ROOT

MODELS = """
from sqlalchemy import Column, Integer, MetaData, Table

{metadata}
Table("matches", metadata, Column("id", Integer, primary_key=True), Column("score", Integer, index=True))
"""
ALL_OF_THEM = "from tests.support.fixtures.application import metadata"  # users, and the three coupled tables
NONE_OF_THEM = "metadata = MetaData()"

ENV = """
from alembic import context
from sqlalchemy import create_engine

import levelq.alembic
from models import metadata

engine = create_engine({url!r})
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, include_schemas={schemas}, {option})
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
"""

REVISION = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = ${repr(up_revision)}, None

def upgrade():
    ${upgrades}
"""

Autogenerate = Callable[..., set[str]]


@pytest.fixture
def autogenerate(tmp_path: Path) -> Autogenerate:
    """Write an application with its alembic environment; the operations that autogenerate proposes, by table."""

    def propose(url: str, metadata: str, option: str = "", schemas: bool = False) -> set[str]:
        versions = tmp_path / "migrations" / "versions"
        versions.mkdir(parents=True)
        (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = migrations\nprepend_sys_path = .\n")
        (tmp_path / "models.py").write_text(MODELS.format(metadata=metadata))
        url = url.replace("postgresql://", "postgresql+psycopg://")
        (versions.parent / "env.py").write_text(dedent(ENV).format(url=url, option=option, schemas=schemas))
        (versions.parent / "script.py.mako").write_text(REVISION)
        done = subprocess.run(
            [sys.executable, "-m", "alembic", "revision", "--autogenerate", "-m", "first"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (revision,) = versions.glob("*.py")
        return set(operations(revision))

    return propose


def operations(revision: Path) -> Iterator[str]:
    """What a revision does to which table, as in `create_index matches`."""
    for node in ast.walk(ast.parse(revision.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="op"), attr=done)) if done != "f":
                named = [k.value for k in node.keywords if k.arg == "table_name"]
                yield f"{done} {ast.literal_eval((named or [a for a in node.args if isinstance(a, ast.Constant)])[0])}"


OWN = {"create_table matches", "create_index matches"}
DROPPED = {f"drop_table {name}" for name in (*REQUIRED, VERSION_TABLE)}
COUPLED = {f"drop_table {name}" for name in (PROGRESS, LICENSES, PROGRESSIONS)}


def test_without_the_filter_levelqs_tables_would_be_dropped(
    autogenerate: Autogenerate, application_database_url: str
) -> None:
    proposed = autogenerate(application_database_url, ALL_OF_THEM)
    assert proposed >= DROPPED - COUPLED


@pytest.mark.parametrize(
    ("option", "schemas"), [("include_name", False), ("include_name", True), ("include_object", False)]
)
def test_with_the_filter_only_the_applications_own_changes_are_proposed(
    autogenerate: Autogenerate, application_database_url: str, option: str, schemas: bool
) -> None:
    filtered = f"{option}=levelq.alembic.{option}"
    assert autogenerate(application_database_url, ALL_OF_THEM, filtered, schemas) == OWN


def test_tables_that_the_metadata_lacks_are_dropped_but_for_include_object(
    autogenerate: Autogenerate, own_database_url: str
) -> None:
    option = "include_object=levelq.alembic.include_object"
    assert autogenerate(own_database_url, NONE_OF_THEM, option) == OWN


def test_include_name_alone_leaves_the_coupled_tables_to_the_application(
    autogenerate: Autogenerate, own_database_url: str
) -> None:
    proposed = autogenerate(own_database_url, NONE_OF_THEM, "include_name=levelq.alembic.include_name")
    assert {line for line in proposed if line.startswith(("create", "drop_table"))} == OWN | COUPLED


def test_filters_know_every_table_of_levelq() -> None:
    own = {*REQUIRED, VERSION_TABLE} - levelq.alembic.COUPLED
    assert {PROGRESS, LICENSES, PROGRESSIONS} == levelq.alembic.COUPLED
    for name in own:
        assert not levelq.alembic.include_name(name, "table", {"schema_name": None})
    others: list[tuple[str | None, str]] = [("matches", "table"), (PROGRESS, "table"), ("levelq_x", "column")]
    for name_or_none, type_ in (*others, (None, "schema")):
        assert levelq.alembic.include_name(name_or_none, type_, {"schema_name": None})


def test_filters_need_no_alembic() -> None:
    code = "import sys; sys.modules.update(alembic=None, sqlalchemy=None); from levelq.alembic import include_name"
    subprocess.run([sys.executable, "-I", "-W", "error", "-c", code], check=True)
