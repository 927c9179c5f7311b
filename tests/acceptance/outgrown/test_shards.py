"""`levelq shards` while workers and producers run, with workers and the operator's command killed."""

from __future__ import annotations

from pathlib import Path
from random import Random

import psutil
import pytest

from levelq.embedded import Servers
from levelq_core import Settings
from levelq_core.lanes.shard_layout import Layout
from tests.acceptance.outgrown.running import Running
from tests.support.fixtures.waiting import until


@pytest.fixture
def running(own_database_url: str, servers: Servers, redis: object, tmp_path: Path) -> Running:
    times = {"claim_seconds": 1.5, "sweep_seconds": 0.3, "redis_seconds": 0.5}
    return Running(tmp_path, Settings.load(database_url=own_database_url, redis_url=servers.valkey.url, **times))


def test_shards_change_while_commands_flow_and_workers_and_the_operator_die(running: Running) -> None:
    rng = Random(running.seed)
    with running:
        supervisor = running.start_workers("--processes", "2")
        running.start_traffic()
        for name, shards in (("COACH", 3), ("INTERNSHIP", 16)):
            assert running.levelq("shards", name, str(shards)) == 0, running.logs()
            running.goes_on()
            assert 2 <= running.sessions() <= 2 * 2  # of two processes: one for batches, one for the outbox, each
        for generation, shards in enumerate((4, 2), 2):
            operator = running.start_operator("shards", "PLAYER", str(shards))
            until(lambda g=generation: _generation(running) == g, 30, "the new generation")  # type: ignore[misc]
            operator.kill()
            operator.wait()
            rng.choice(psutil.Process(supervisor.pid).children()).kill()
            until(lambda: running.lanes.layouts(["PLAYER"])["PLAYER"].steady, 30, "the end of the change")
            running.goes_on()
        report = running.at_rest()
        assert report.violations == 0, report.examples[:5]
        layouts = running.lanes.layouts(["PLAYER", "COACH", "INTERNSHIP"])
        assert layouts == {"PLAYER": Layout(3, 2), "COACH": Layout(2, 3), "INTERNSHIP": Layout(2, 16)}


def _generation(running: Running) -> int:
    return running.lanes.layouts(["PLAYER"])["PLAYER"].generation


def test_levelq_shards_refuses_what_it_cannot_change_and_shows_the_change(running: Running) -> None:
    with running:
        for arguments, expected in {
            ("PLAYER", "0"): "shards: expected 1 to 4,096, got 0",
            ("PLAYER", "5000"): "shards: expected 1 to 4,096, got 5000",
            ("PLAYER", "x"): "Invalid value for 'SHARDS'",
            ("PLAYER", "1"): "PLAYER: expected another number of shards than 1",
            ("NOBODY", "2"): "expected one of PLAYER, COACH, INTERNSHIP, got 'NOBODY'",
        }.items():
            assert running.levelq("shards", *arguments) == 2
            (line,) = running.output().splitlines()
            assert expected in line
        assert running.levelq("shards", "PLAYER", "4", "--no-wait") == 0
        assert "PLAYER: commands go to 4 shards now; 1 old one to be drained first" in running.output()
        assert running.levelq("shards", "PLAYER", "8") == 2
        assert "a change to 4 shards is under way" in running.output()
        assert running.levelq("shards") == 0
        shown = running.output()
        assert "from 1: the old ones are empty" in shown
        assert "INTERNSHIP" in shown
