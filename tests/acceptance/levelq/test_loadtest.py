"""`levelq loadtest` as a user runs it: each scenario small, a stall, an early end, refused options."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Any
from unittest.mock import Mock

import psutil
import psycopg
import pytest
from redis import Redis

from levelq.cli.app import run
from levelq.embedded import Servers
from levelq_core import Settings
from tests.support.fixtures.clusters import ValkeyCluster
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until
from tests.support.foreign_trigger import add_foreign_trigger

SMALL = ("--senders", "1", "--seed", "7", "--out", "report.html")


def begin(folder: Path, *arguments: str, settings: Settings | None = None) -> subprocess.Popen[str]:
    given = settings.environment() if settings else {"LEVELQ_REDIS_URL": "redis://not.ours:1/0"}
    return subprocess.Popen(
        [sys.executable, "-m", "levelq", "loadtest", *SMALL, *arguments],
        cwd=folder,
        env=os.environ | given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end(test: subprocess.Popen[str], code: int) -> str:
    """Wait until it ends with this exit code; its output."""
    try:
        output, _ = test.communicate(timeout=60)
    finally:
        test.kill()
    assert test.returncode == code, output
    assert "Traceback" not in output
    return output


def figures(folder: Path) -> dict[str, Any]:
    """The JSON in the report."""
    (data,) = re.findall(r'id="result">(.*?)</script>', (folder / "report.html").read_text())
    return dict(json.loads(data))


def test_stall_of_redis_shows_all_the_waiting_it_causes(server_folder: Path) -> None:
    test = begin(server_folder, "--users", "100", "--rate", "150", "--seconds", "3", "--keep", "kept")
    until(lambda: any((server_folder / "kept").glob("sends-*.jsonl")), 60, "the first sends")
    kept = (server_folder / "kept").resolve()
    children = psutil.Process(test.pid).children()
    (valkey,) = [one for one in children if str(kept) in one.cwd() and "valkey" in one.name()]
    until(lambda: sum(path.stat().st_size for path in kept.glob("sends-*.jsonl")) > 15_000, 30, "some traffic")
    children = psutil.Process(test.pid).children(recursive=True)
    valkey.send_signal(signal.SIGSTOP)
    try:
        psutil.wait_procs([psutil.Process(test.pid)], timeout=1.0)
    finally:
        valkey.send_signal(signal.SIGCONT)
    output = end(test, 0)
    assert "the checker found nothing" in output and "seed 7" in output
    found = figures(server_folder)
    assert found["violations"] == 0 and found["counts"]["undecided"] == 0
    assert found["counts"]["begun"] == found["counts"]["applied"] > 300
    assert 0.8 < found["seconds"]["waits"]["longest"] < 8
    # A quarter of all were due during the stall; sends that waited for answers would have been a handful.
    assert found["seconds"]["waits"]["p90"] > max(0.3, found["seconds"]["closed"]["p50"])
    assert "flushed" in found["facts"]["committed at"]
    assert psutil.wait_procs(children, timeout=5)[1] == []
    assert (kept / "servers" / "postgres").is_dir()


def test_match_on_an_external_cluster_reports_its_facts(
    tmp_path: Path, cluster: ValkeyCluster, servers: Servers, own_database_url: str, redis: Redis
) -> None:
    settings = Settings.load(redis_url=cluster.url, rq_url=servers.valkey.url, database_url=own_database_url, shards=4)
    given = ("--scenario", "match", "--users", "150", "--burst", "300", "--rate", "20", "--seconds", "3")
    external = ("--external", "--first-user", "1000", "--processes", "1", "--senders", "2")
    output = end(begin(tmp_path, *given, *external, settings=settings), 0)
    found = figures(tmp_path)
    assert found["violations"] == 0 and found["counts"]["begun"] == found["counts"]["applied"] >= 300
    assert int(re.findall(r"level-ups (\d+)", output)[0]) >= 150
    assert "a cluster of 3" in found["facts"]["queue"]
    assert "track_commit_timestamp is off" in found["facts"]["committed at"]
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url) as database:
        row = database.execute("SELECT min(user_id) >= 1000, max(user_id) < 1150 FROM levelq_ledger").fetchone()
    assert row == (True, True)


@pytest.mark.usefixtures("unmeasured", "two_workers")
def test_ctrl_c_ends_a_contended_run_with_a_report(tmp_path: Path, settings: Settings) -> None:
    given = ("--scenario", "contention", "--users", "200", "--accounts", "20", "--rate", "300", "--seconds", "600")
    test = begin(tmp_path, *given, "--external", "--first-user", "1", settings=settings)
    assert test.stdout is not None
    for line in test.stdout:
        if int((re.findall(r"decided +([\d,]+)", line) or ["0"])[0].replace(",", "")) > 100:
            break
    test.send_signal(signal.SIGINT)
    output = end(test, 130)
    assert "stopping: what is queued is waited for" in output and "the checker found nothing" in output
    found = figures(tmp_path)
    assert found["counts"]["begun"] == found["counts"]["queued"] == found["counts"]["applied"] > 100
    assert "interrupted: these are the figures until then" in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("redis")
def test_violation_is_reported_and_the_folder_kept(tmp_path: Path, settings: Settings) -> None:
    add_foreign_trigger(settings)
    given = ("--users", "10", "--rate", "20", "--seconds", "1", "--external", "--first-user", "1", "--processes", "1")
    output = end(begin(tmp_path, *given, settings=settings), 1)
    assert re.search(r"✖ the checker found \d+ violations of .*I2", output)
    assert figures(tmp_path)["violations"] > 0
    (kept,) = re.findall(r"histories, logs and data: (/\S+)", output)
    assert list(Path(kept).glob("sends-*.jsonl"))
    rmtree(kept)


EXTERNAL = "--external --first-user 1"
OUT = "--out: expected a file in a folder that can be written, got"
REFUSED = {
    "unknown scenario": ("--scenario rush", "--scenario: expected one of steady, match, contention, got 'rush'"),
    "no users": ("--users 0", "--users: expected 1 to 1,000,000, got 0"),
    "no rate": ("--rate nan", "--rate: expected 0.1 to 50,000, got nan"),
    "no time": ("--seconds 0", "--seconds: expected 1 to 86,400, got 0.0"),
    "burst of the wrong scenario": ("--burst 5", "--burst and --every: expected --scenario match, got steady"),
    "not a number": ("--users many", "'--users'"),
    "no workers": ("--processes 0", "--processes: expected at least 1 without --external, got 0"),
    "report is a folder": ("--out .", f"{OUT} '.'"),
    "report in no folder": ("--out none/x.html", f"{OUT} 'none/x.html'"),
    "folder in use": ("--keep used", "--keep: expected an empty folder or a new one, got 'used'"),
    "no accounts": ("--external", "--first-user: expected with --external, got none"),
    "no workers serve": (EXTERNAL, "--external: expected workers that serve these queues, got none"),
}


@pytest.fixture
def refused(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run it where no process may start; its one line on stderr."""

    def refuse(line: str, **environment: str) -> str:
        for name, value in (settings.environment() | environment).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(subprocess, "Popen", Mock(side_effect=AssertionError("something was started")))
        assert run(["loadtest", *line.split()]) == 2
        printed = capsys.readouterr()
        assert printed.out.count("\n") <= 2 and printed.err.startswith("levelq: ") and printed.err.count("\n") == 1
        return printed.err

    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    monkeypatch.chdir(tmp_path)
    return refuse


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_option_is_refused_in_one_line(
    refused: Callable[..., str], redis: Redis, tmp_path: Path, case: str
) -> None:
    arguments, expected = REFUSED[case]
    assert expected in refused(arguments)
    assert set(redis.keys()) <= {KEYS.shards.encode()}  # made by the check of the settings
    assert [path.name for path in tmp_path.iterdir()] == ["used"]


@pytest.mark.parametrize("name", ["LEVELQ_REDIS_URL", "LEVELQ_RQ_URL", "LEVELQ_DATABASE_URL"])
def test_remote_host_is_refused(refused: Callable[..., str], name: str) -> None:
    scheme = "postgresql" if "DATABASE" in name else "redis"
    line = refused(EXTERNAL, **{name: f"{scheme}://ann:hunter2@192.0.2.1:1/0"})
    assert line == (
        f"levelq: {name}: expected a Unix socket, a loopback address or one of this machine's own, got '192.0.2.1': "
        "a load test there needs --allow-remote\n"
    )


def test_allowed_remote_host_is_tried(refused: Callable[..., str]) -> None:
    line = refused(
        f"{EXTERNAL} --allow-remote", LEVELQ_REDIS_URL="redis://ann:hunter2@192.0.2.1:1/0", LEVELQ_REDIS_SECONDS="0.05"
    )
    assert line.startswith("levelq: LEVELQ_REDIS_URL: redis://ann:***@192.0.2.1:1/0: ") and "--allow-remote" not in line
