"""What the tests of `levelq db check` share: its findings, and doing what they say."""

from __future__ import annotations

from sqlalchemy import Engine

from levelq_core import Catalog
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


def fix(engine: Engine, found: list[Finding]) -> None:
    """Do what the findings say: run their statements; levelq's own commands have tests of their own."""
    for finding in found:
        for line in finding.fix:
            if line == "levelq db upgrade":
                upgrade(engine)
            elif line.endswith(";"):
                execute(engine, line)
