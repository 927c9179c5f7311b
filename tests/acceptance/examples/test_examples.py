"""Each example of docs/examples, run by the commands at its top on real servers, and driven as its users would."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from redis import Redis

from levelq_core import Settings
from tests.support.fixtures.ports import free_port
from tests.support.fixtures.processes import Started, end_family
from tests.support.fixtures.waiting import until

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
LEVELS = """
    SELECT student_id, specialization_id, total_xp, p.current_level, l.current_level FROM specialization_progress AS p
    JOIN user_licenses AS l ON (user_id, specialization_type) = (student_id, specialization_id) ORDER BY 1, 2
"""


class Example:
    """One example as its reader has it: its folder, the commands at its top, and the servers of this test."""

    def __init__(self, file: Path, settings: Settings, redis: Redis) -> None:
        self.folder, self.settings, self.redis = file.parent, settings, redis
        self.stack = ExitStack()
        top = ast.get_docstring(ast.parse(file.read_text())) or ""
        up, *self.commands = (line.partition("  ")[0] for line in top.split("\n\n")[1].splitlines())
        assert up == "levelq up"

    def start(self, command: str) -> Started:
        """Start a command in a shell."""
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env=os.environ | self.settings.environment() | {"PATH": PATH},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.stack.callback(end_family, process)
        return process

    def run(self, command: str, code: int = 0) -> str:
        """Run a command to its end; returns what it printed."""
        process = self.start(command)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == code, output
        return output

    def work(self, command: str) -> None:
        """Start levelq's worker, and wait until it takes wake-ups."""
        self.start(command)
        until(lambda: self.redis.scard("rq:workers:levelq.PLAYER"), 60, command)

    def serve(self, command: str, option: str = "--port") -> httpx.Client:
        """Start a web server on a free port; returns a client, when it answers."""
        port = free_port()
        process = self.start(f"{command} {option} {port}")
        client = self.stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60))
        until(lambda: process.poll() is not None or _answers(client), 60, command)
        assert process.poll() is None, process.communicate()
        return client

    def levels(self) -> list[tuple[Any, ...]]:
        """Of each learner: user, specialization, xp, the level of the progress row and of the license."""
        with psycopg.connect(self.settings.database_url or "") as connection:
            return connection.execute(LEVELS).fetchall()


def _answers(client: httpx.Client) -> bool:
    try:
        client.get("/")
    except httpx.ConnectError:
        return False
    return True


@pytest.fixture
def example(request: pytest.FixtureRequest, settings: Settings, redis: Redis) -> Iterator[Example]:
    """The example that the test is marked with."""
    made = Example(EXAMPLES / request.param, settings, redis)
    with made.stack:
        yield made


def of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", [name], indirect=True)


def never_sent(client: httpx.Client, url: str) -> int:
    """The code that a status URL answers for an id that was never sent."""
    return client.get(re.sub("[0-9a-f-]{36}", str(uuid4()), url)).status_code


def decided(client: httpx.Client, url: str) -> dict[str, Any]:
    """What a status URL says once the command is decided."""

    def ask() -> dict[str, Any] | None:
        told: dict[str, Any] = client.get(url).raise_for_status().json()
        return told if told["status"] != "queued" else None

    return until(ask, 60, url) or {}


@of("fastapi_app.py")
def test_fastapi_waits_for_an_outcome_or_gives_a_status_url(example: Example) -> None:
    worker, server, _ = example.commands
    client = example.serve(server)
    posted = client.post("/players/42/matches")
    assert posted.status_code == 202
    assert client.get(posted.json()["status_url"]).json() == {"status": "queued"}
    assert never_sent(client, posted.json()["status_url"]) == 404
    example.work(worker)
    assert decided(client, posted.json()["status_url"])["to_level"] == 1
    assert client.post("/players/42/sessions", json={"xp": 1200}).json() == {"from_level": 1, "to_level": 2}
    refused = client.post("/players/42/sessions", json={"xp": -5})
    assert refused.status_code == 422 and "xp_gained" in refused.json()["detail"]
    assert example.levels() == [(42, "PLAYER", 1350, 2, 2)]


@of("flask_app.py")
def test_flask_waits_for_an_outcome_or_sends_with_its_own_transaction(example: Example) -> None:
    worker, server, _ = example.commands
    example.work(worker)
    client = example.serve(server)
    assert client.post("/players/42/sessions", data={"xp": 1200}).json() == {"from_level": 1, "to_level": 2}
    refused = client.post("/players/42/sessions", data={"xp": -5})
    assert refused.status_code == 422 and "xp_gained" in refused.json()["error"]
    for url, data in (("/players/42/training", {}), ("/matches/7", {"winner": "42"})):
        posted = client.post(url, data=data)
        assert posted.status_code == 202
        assert decided(client, posted.json()["status_url"])["status"] == "applied"
        assert never_sent(client, posted.json()["status_url"]) == 404
    assert client.post("/matches/7", data={"winner": "42"}).status_code == 500  # its row and its level-up: neither
    assert example.levels() == [(42, "PLAYER", 1370, 2, 2)]


@of("django_site/manage.py")
def test_django_sends_by_the_outbox_on_commit_and_a_command(example: Example, blank_database_url: str) -> None:
    example.settings = example.settings.model_copy(update={"database_url": blank_database_url})
    migrate, worker, server, _, award, _ = example.commands
    example.run(migrate)
    example.work(worker)
    client = example.serve(server, "--noreload")
    posted = client.post("/matches/", data={"winner": "42"})
    assert posted.status_code == 202
    assert decided(client, posted.json()["status_url"])["status"] == "applied"
    assert never_sent(client, posted.json()["status_url"]) == 404
    assert client.post("/trainings/", data={"player": "42"}).status_code == 202
    assert "level 1 -> 2" in example.run(award)
    assert client.get("/players/42/").json() == {"level": 2, "total_xp": 150 + 20 + 1200}
    assert client.get("/players/43/").status_code == 404
    assert example.levels() == [(42, "PLAYER", 1370, 2, 2)]


@of("celery_tasks.py")
def test_celery_task_that_runs_twice_counts_once(example: Example) -> None:
    worker, celery, send = example.commands
    example.work(worker)
    example.start(f"{celery} --concurrency 2")
    example.run(f"{send}; {send}; {send.replace('991', '992')}")
    until(lambda: example.levels() == [(42, "PLAYER", 300, 1, 1)], 60, "both matches")


@of("rq_tasks.py")
def test_rq_task_that_runs_twice_counts_once(example: Example) -> None:
    worker, rq, send = example.commands
    example.work(worker)
    example.run(f"{send}; {send}; {send.replace('991', '992')}")
    example.run(f"{rq} --burst")
    assert example.redis.zcard("rq:failed:matches") == 0
    assert example.levels() == [(42, "PLAYER", 300, 1, 1)]


@of("script.py")
def test_script_that_runs_twice_counts_once(example: Example) -> None:
    worker, script = example.commands
    example.work(worker)
    first, second = (example.run(script) for _ in range(2))
    assert first.startswith("user 42: applied") and second == first
    assert "xp_gained" in example.run(script.replace("1200", "-6"), code=1)
    assert example.levels() == [(42, "PLAYER", 1200, 2, 2)]


@of("season_end.py")
def test_season_ends_with_the_levels_that_it_prints(example: Example) -> None:
    worker, script = example.commands
    example.work(worker)
    assert example.run(script) == "level 1 -> 3\n"
    assert example.levels() == [(42, "PLAYER", 500, 3, 3)]


@of("direct_calls.py")
def test_direct_calls_need_no_worker(example: Example) -> None:
    (script,) = example.commands
    assert example.run(script) == ""
    assert example.levels() == [(42, "COACH", 40, 3, 3), (42, "PLAYER", 190, 1, 1), (43, "PLAYER", 40, 1, 1)]


@of("django_site/manage.py")
def test_django_tests_itself_and_names_a_wrong_setting(example: Example) -> None:
    *_, test, _, _ = example.commands
    assert "Ran 1 test" in example.run(test)
    shown = example.run("LEVELQ_REDIS_URL=http://here python manage.py check", code=1)
    assert "levelq.E001) LEVELQ['REDIS_URL']: expected a URL that begins with redis://" in shown
