"""What a command does not import: most of its time is imports, as docs/performance.md shows."""

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

READING = (
    "explain 1", "events", "rejected list", "quarantine list", "audit", "workers", "pause PLAYER", "resume PLAYER",
    "drain PLAYER", "rejected retry --dry-run", "quarantine retry --dry-run", "sync --all --source higher --dry-run",
    "adopt --dry-run",
)  # fmt: skip


@pytest.mark.parametrize(
    ("command", "others"),
    [
        ("catalog", {"redis", "rq", *DATABASE}),
        ("send level-up 1 PLAYER --no-wait", DATABASE),
        ("history 1", {"rq", "levelq_producer"}),
        ("status", {"levelq_producer"}),
        ("top --once", {"levelq_producer", "rich.live"}),
        ("metrics", {"levelq_producer", "levelq_worker.relay.thread"}),
    ],
)
def test_command_imports_only_what_it_uses(settings: Settings, command: str, others: set[str]) -> None:
    environment = settings.environment()
    if "sqlalchemy" in others:
        environment["LEVELQ_DATABASE_URL"] = ""
    code, _, err = python("-c", PROGRAM, *command.split(), **environment)
    assert code == 0, err
    assert not (ALWAYS | others) & set(err.split())


def test_commands_of_an_operator_import_neither_rq_nor_a_producer(settings: Settings) -> None:
    """In one process, for speed: what a command imports is still there after the next one."""
    unwanted = ALWAYS | {"rq", "levelq_producer", "prometheus_client", "rich.live"}
    program = f"""
import sys
sys.modules["opentelemetry"] = None
from levelq.cli import app
for command in {READING}:
    print(app.run(command.split()), command, *({unwanted} & set(sys.modules)), file=sys.stderr)
"""
    _, _, err = python("-c", program, **settings.environment())
    assert err.splitlines() == [f"0 {command}" for command in READING]
