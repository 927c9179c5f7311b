"""What a command does not import: most of its time is imports, as docs/performance.md shows."""

from __future__ import annotations

import pytest

from levelq_core import Settings
from tests.support.fixtures.command_line import python

DATABASE = {"sqlalchemy", "psycopg"}
ALWAYS = {"alembic", "structlog", "matplotlib", "levelq_worker.draining.drain", "opentelemetry.trace"}
PROGRAM = """
import sys
sys.modules["opentelemetry"] = None  # redis-py imports it where it is installed
from levelq.cli import app
code = app.run(sys.argv[1:])
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("command", "others"),
    [
        ("catalog", {"redis", "rq", *DATABASE}),
        ("send level-up 1 PLAYER --no-wait", DATABASE),
        ("history 1", {"rq", "levelq_producer"}),
        ("status", {"levelq_producer"}),
    ],
)
def test_command_imports_only_what_it_uses(settings: Settings, command: str, others: set[str]) -> None:
    environment = settings.environment()
    if "sqlalchemy" in others:
        environment["LEVELQ_DATABASE_URL"] = ""
    code, _, err = python("-c", PROGRAM, *command.split(), **environment)
    assert code == 0, err
    assert not (ALWAYS | others) & set(err.split())
