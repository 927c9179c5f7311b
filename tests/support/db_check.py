"""What the tests of `levelq db check` share: its findings, and their fixes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from levelq_core import Catalog, level_up_atomic
from levelq_core.database.migrations import upgrade
from levelq_core.operations.dbcheck import Finding, check


def findings(engine: Engine, catalog: Catalog | None = None) -> list[Finding]:
    with engine.connect() as connection:
        return check(connection, catalog)


def execute(engine: Engine, *statements: str) -> None:
    """Run statements as psql would: each by itself."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def query(engine: Engine, statement: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(statement)]


@contextmanager
def role(engine: Engine, name: str, *grants: str) -> Iterator[None]:
    """A role with these rights, for as long as the block lasts."""
    execute(engine, f"CREATE ROLE {name} LOGIN", *grants)
    try:
        yield
    finally:
        execute(engine, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def works(engine: Engine, user: int = 1, name: str = "PLAYER", xp: int = 1000) -> bool:
    """Whether a direct call can level a user up."""
    with Session(engine) as session:
        return level_up_atomic(session, user, name, xp)["success"]


def fix(engine: Engine, found: list[Finding]) -> None:
    """Apply the fixes: run their statements; levelq's own commands have tests of their own."""
    for finding in found:
        for line in finding.fix:
            if line == "levelq db upgrade":
                upgrade(engine)
            elif line.endswith(";"):
                execute(engine, line)
