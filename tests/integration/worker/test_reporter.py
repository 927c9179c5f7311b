"""What workers report, and what `levelq workers`, `status` and `top` make of it."""

import json
import re
import time
from importlib import metadata
from typing import Any

import pytest

from levelq_core import LevelUp
from levelq_core.lanes.worker_reports import KEPT_SECONDS, HotLane, WorkerReport, read
from levelq_core.operations.readings.explanation import explain
from levelq_core.operations.readings.status import status
from levelq_core.operations.readings.workers import WorkerStatus, workers
from levelq_worker.draining.activity import HOT_COMMANDS
from levelq_worker.draining.context import current
from levelq_worker.draining.drain import Drain
from levelq_worker.draining.observing import DecidedBatch
from levelq_worker.process.worker_main import reporting, working
from levelq_worker.reporter import Reporter
from levelq_worker.rq_adapter.worker import LaneWorker
from levelq_worker.support.stop import Stop
from tests.support.console import Page, served
from tests.support.console_scene import post_as
from tests.support.coupler import session
from tests.support.fixtures.command_line import NOWHERE, Levelq, LevelqWith
from tests.support.fixtures.waiting import until
from tests.support.system import PLAYER, System, up

OTHER = 2**22 + 7  # a process id that no process has


def posted(system: System, reporter: Reporter) -> WorkerReport:
    reporter.post()
    (report,) = read(system.redis, system.settings.keys)
    return report


def worker_of(system: System) -> WorkerStatus:
    (worker,) = workers(system.settings).workers
    return worker


def rates_of(report: WorkerReport, commands: int) -> Any:
    """The rates of this many commands since the worker started, less than ten seconds ago."""
    return pytest.approx([commands / max(1.0, (report.posted_ms - report.started_ms) / 1000)] * 3, rel=0.01)


def test_report_counts_what_was_decided_and_leaves_with_the_worker(system: System, reporter: Reporter) -> None:
    again = up(3)
    system.push(*(up(user) for user in range(10, 14)), again, again, LevelUp(user_id=9, specialization="COACH"))
    system.push(LevelUp(user_id=1, specialization="PLAYER", theory_hours=5))  # PLAYER tracks no hours
    system.drain("PLAYER", "COACH")
    report = posted(system, reporter)
    assert (report.applied, report.rejected, report.duplicates, report.quarantined) == (6, 1, 1, 0)
    assert (report.state, report.version, report.why) == ("idle", metadata.version("levelq"), None)
    player, coach = report.partitions["PLAYER:1:0"], report.partitions["COACH:1:0"]
    assert (list(player.decided), list(player.rejected)) == (rates_of(report, 6), rates_of(report, 1))
    assert (list(coach.decided), sum(player.lags.values())) == (rates_of(report, 1), 7)
    assert report.batch is not None and report.batch.usual_seconds is None and report.memory_bytes
    total = workers(system.settings).total
    assert total.rate_1_min == pytest.approx(player.decided[1] + coach.decided[1])
    assert total.rejected_1_min == player.rejected[1]
    reporter.stop()
    assert workers(system.settings).workers == ()


def test_lag_is_the_time_from_send_to_commit(system: System) -> None:
    system.settings = system.settings.model_copy(update={"claim_seconds": 1.0})  # so that a lane is parked briefly
    reporter = Reporter(system.worker, ["PLAYER"])
    begun = time.monotonic()
    system.fill(100)
    system.drain()
    sent = time.monotonic()
    with session(str(system.settings.database_url)) as holder:
        holder.execute("SELECT FROM user_licenses WHERE user_id < 3 FOR UPDATE")
        system.push(up(1), up(2))
        pushed = time.monotonic()
        system.run_drains(PLAYER)
        until(lambda: time.monotonic() > pushed + 0.3)
    held = time.monotonic() - pushed
    system.drain()
    reporter.post()
    total = status(system.settings).total
    assert total is not None and total.lag_p50_seconds is not None and total.lag_p99_seconds is not None
    assert total.lag_p50_seconds <= 1.07 * (sent - begun)
    assert 0.93 * held <= total.lag_p99_seconds <= 1.07 * (time.monotonic() - sent)


def test_slow_trigger_is_named_until_it_is_gone(system: System, reporter: Reporter) -> None:
    def batches(count: int) -> tuple[str, ...]:
        for _ in range(count):
            system.push(up(1), up(2))
            system.drain()
        reporter.post()
        return status(system.settings).problems

    assert batches(12) == ()
    usual = worker_of(system).usual_seconds or 0.0
    system.sql(
        f"""CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep({max(0.1, 4 * usual)}); RETURN NEW; END $$""",
        "CREATE TRIGGER slow BEFORE UPDATE ON specialization_progress FOR EACH ROW EXECUTE FUNCTION slow()",
    )
    (problem,) = batches(3)
    assert re.match(
        r"batches take \d+\.\d s, usually \d+\.\d+ s for this size \(\d commands?\): the database is slow", problem
    )
    assert worker_of(system).slow_since is not None
    system.sql("DROP FUNCTION slow CASCADE")
    until(lambda: batches(1) == ())


def test_silent_worker_is_named_with_its_host_and_versions_are_compared(
    system: System, reporter: Reporter, levelq_here: Levelq
) -> None:
    report = posted(system, reporter)
    post_as(system, report, version="0.0.9")
    both = workers(system.settings)
    assert both.notes == (f"workers run different versions: 0.0.9 (1 worker), {report.version} (1 worker)",)
    assert levelq_here("workers").code == 0 and both.problems == ()
    system.redis.delete(system.settings.keys.workers)
    reporter.post()
    hot = (HotLane(partition="PLAYER:1:0", user_id=99, commands=5_000),)
    post_as(system, report, posted_ms=report.posted_ms - 60_000, host="web2\x1b[2J", version="0.0.9", hot=hot)
    code, out, _ = levelq_here("workers")
    assert code == 1 and "\x1b" not in out and "silent" in out
    (problem,) = status(system.settings).problems
    assert problem.startswith("worker web2:4711 is silent since ") and "on host web2\\x1b[2J: ps -o " in problem
    found = json.loads(levelq_here("workers", "--json").out)
    assert [(worker["pid"], worker["state"]) for worker in found["workers"]] == [
        (report.pid, "idle"), (4711, "silent")
    ]  # fmt: skip
    assert found["notes"] == found["hot_lanes"] == []  # of those that live, all have one version
    post_as(system, report, hot=hot)
    told = "user 99 has 100% of the commands of PLAYER:1:0 in the last minute"
    assert workers(system.settings).notes == (told,)
    assert explain(system.settings, 99).notes == (told,) and explain(system.settings, 98).notes == ()
    assert f"note  {told}\n" in levelq_here("explain", 99).out
    with served(system.settings) as site:
        hot_page, other_page = (Page(site.client.get(f"/users/{user}").text).text for user in (99, 98))
    assert told in hot_page and told not in other_page


@pytest.mark.parametrize(
    ("changed", "left"),
    [
        pytest.param({}, 2, id="alive"),
        pytest.param({"posted_ms": -1_000 * KEPT_SECONDS}, 1, id="silent for too long"),
        pytest.param({"pid": OTHER, "host": None}, 1, id="killed on this host"),
        pytest.param({"pid": OTHER}, 2, id="on another host"),
    ],
)
def test_new_worker_removes_reports_of_dead_ones(
    system: System, reporter: Reporter, changed: dict[str, Any], left: int
) -> None:
    report = posted(system, reporter)
    if "posted_ms" in changed:
        changed = {"posted_ms": report.posted_ms + changed["posted_ms"] - 1}
    if "host" in changed:
        changed = changed | {"host": report.host}
    reporter.stop()
    post_as(system, report, **changed)
    Reporter(system.worker, ["PLAYER"]).post()
    assert system.redis.hlen(system.settings.keys.workers) == left
    assert 0 < system.redis.pttl(system.settings.keys.workers) <= 1000 * KEPT_SECONDS


def test_worker_that_hangs_in_a_batch_is_named(system: System, reporter: Reporter) -> None:
    report = posted(system, reporter)
    reporter.stop()
    hung: dict[str, Any] = {"state": "transaction", "partition": "PLAYER:1:0", "progress_ms": report.posted_ms - 60_000}
    post_as(system, report, **hung)
    (problem,) = workers(system.settings).problems
    assert problem == (
        "worker web2:4711 hangs in PLAYER:1:0 (transaction) for 60 s; restart it on host web2: kill 4711"
    )


@pytest.mark.parametrize("kind", ["rq", "polling"])
def test_every_kind_of_worker_reports_while_it_drains(system: System, kind: str) -> None:
    settings = system.settings.model_copy(update={"sweep_seconds": 0.1})
    seen: list[WorkerReport] = []

    def look(_: DecidedBatch) -> None:
        seen.extend(until(draining, what="the report"))

    def draining() -> list[WorkerReport]:
        return [report for report in read(system.redis, settings.keys) if report.state == "draining"]

    system.push(up(1))
    if kind == "rq":
        system.waker.wake(PLAYER)
        worker = LaneWorker([settings.keys.queue("PLAYER")], settings=settings)
        current().observers.add(look)
        worker.work(burst=True)
    else:
        with working(settings, ["PLAYER"], Stop()) as (runtime, _), reporting(runtime, ["PLAYER"]):
            runtime.observers.add(look)
            Drain(runtime, PLAYER).run()
    (report,) = seen
    assert (report.partition, report.specializations) == ("PLAYER:1:0", ("PLAYER",))
    assert (report.rq_name is not None) == (kind == "rq")
    assert read(system.redis, settings.keys) == []


def test_top_shows_partitions_workers_and_the_hot_lane_in_80_columns(
    system: System, reporter: Reporter, levelq_with: LevelqWith
) -> None:
    system.push(*(up(7) for _ in range(HOT_COMMANDS)), up(8), up(9, specialization="COACH"))
    system.drain("PLAYER", "COACH")
    post_as(system, posted(system, reporter), host="web-" + "x" * 40, name="web-" + "x" * 40 + ":4711")
    system.fill(30)
    code, out, _ = levelq_with(system.settings, columns=80)("top", "--once")
    assert code == 0
    lines = out.splitlines()
    (player,) = [line.split() for line in lines if line.startswith("PLAYER:1:0")]
    assert player[:3] == ["PLAYER:1:0", "30", "30"] and float(player[-3]) > 0
    assert f"Hot lanes in 1 min  PLAYER:1:0 user 7: {2 * HOT_COMMANDS}" in lines  # the other worker's, too
    assert [line.split()[1] for line in lines if " idle " in line] == ["idle"] * 2
    unserved = "wrong  PLAYER:1:0: 30 commands waiting and no worker serves it: levelq worker -s PLAYER"
    assert unserved in lines  # whole, so that a command in it can be copied
    assert max(len(line) for line in lines if line != unserved) <= 80


def test_top_says_which_server_is_away_and_shows_the_rest(system: System, levelq_here: Levelq) -> None:
    _, out, _ = levelq_here("top", "--once", LEVELQ_REDIS_URL=f"redis://{NOWHERE}")
    assert "Redis does not answer; trying again" in out and "LEVELQ_REDIS_URL" in out
    _, out, _ = levelq_here("top", "--once", LEVELQ_DATABASE_URL=f"postgresql://{NOWHERE}/x")
    assert "PLAYER:1:0" in out and "LEVELQ_DATABASE_URL" in out
