"""benchmarks/locustfile.py: hundreds of users on a hundred accounts in one process of Locust, verified."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from levelq_core import Settings
from tests.support.foreign_trigger import add_foreign_trigger

LOCUSTFILE = Path(__file__).parents[3] / "benchmarks" / "locustfile.py"


def locust(settings: Settings, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A run without its web page."""
    return subprocess.run(
        [sys.executable, "-m", "locust", "-f", LOCUSTFILE, "--headless", "--only-summary", *arguments],
        env=os.environ | settings.environment() | environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.usefixtures("two_workers")
def test_run_of_five_hundred_users_leaves_no_violation(settings: Settings) -> None:
    done = locust(settings, "-u", "500", "-r", "250", "-t", "10s", "--first-user", "1", "--accounts", "100", "--alone")
    assert done.returncode == 0, done.stdout + done.stderr
    queued = re.search(r"the checker found nothing among [\d,]+ cases; commands queued: (\d+)", done.stdout)
    assert queued is not None and int(queued[1]) > 500, done.stdout
    assert re.search(r"outcome  level_up +\d+ +0\(0\.00%\)", done.stderr), done.stderr
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url) as database:
        row = database.execute("SELECT count(*), count(DISTINCT user_id) FROM levelq_ledger").fetchone()
    assert row == (int(queued[1]), 100)


@pytest.mark.usefixtures("two_workers")
def test_violation_sets_the_exit_code(settings: Settings) -> None:
    add_foreign_trigger(settings)
    done = locust(settings, "-u", "5", "-r", "5", "-t", "1s", "--first-user", "1", "--think", "0.1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^I2 .*: user \d+, command", done.stdout, re.MULTILINE) and "violations among" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "url", "line"),
    [
        ("", None, "levelq: --first-user, --accounts: expected at least 1, got 0 and 100: these will gain levels"),
        (
            "--first-user 1",
            "redis://192.0.2.1:1/0",
            "levelq: LEVELQ_REDIS_URL: expected a Unix socket, a loopback address or one of this machine's own, got "
            "'192.0.2.1': a load test there needs --allow-remote",
        ),
    ],
    ids=["no accounts", "remote host"],
)
def test_impossible_option_is_refused_before_a_user_exists(
    settings: Settings, redis: Redis, arguments: str, url: str | None, line: str
) -> None:
    done = locust(settings, "-u", "1", "-t", "1s", *arguments.split(), LEVELQ_REDIS_URL=url or settings.redis_url)
    assert done.returncode == 2
    assert line in done.stderr.splitlines() and "Traceback" not in done.stderr
    assert redis.dbsize() == 0
