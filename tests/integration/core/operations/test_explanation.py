"""`levelq explain`: each cause planted on real servers, its last line, and what the command in that line does."""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg
import pytest
from rq.suspension import suspend
from sqlalchemy.orm import Session

import levelq
from levelq import Explanation, InvalidArgument, LevelEvents, SetLevel, level_up_atomic
from levelq_core.domain.commands import retry_id
from levelq_core.keys import Partition
from levelq_core.lanes.drift_report import DriftReport
from levelq_core.lanes.worker_alerts import WorkerAlerts
from levelq_core.operations.readings.causes import CAUSES
from levelq_worker.rq_adapter.worker import LaneWorker
from levelq_worker.support.worker_name import worker_name
from tests.support.fixtures.command_line import NOWHERE, Levelq
from tests.support.fixtures.databases import as_role
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.waiting import until
from tests.support.system import PLAYER, System, up

RQ = str(Path(sys.executable).parent / "rq")
BLOCKED = """
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'learner 7 is blocked'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON specialization_progress
    FOR EACH ROW WHEN (NEW.student_id = 7) EXECUTE FUNCTION refuse()
"""
AGO = r"[0-9.]+ (s|min)"
WHEN = r"[0-9-]{10} [0-9:]{8} UTC"


class Scene:
    """One system in which user 7 has a problem."""

    def __init__(self, system: System, levelq: Levelq, stack: ExitStack) -> None:
        self.system, self.levelq, self.redis = system, levelq, system.redis
        self.stack = stack
        self.environment: dict[str, str] = {}

    def listed(self) -> None:
        """A worker that RQ lists and that does nothing."""
        worker: Any = LaneWorker([KEYS.queue("PLAYER")], connection=self.redis, settings=self.system.settings)
        worker.register_birth()
        self.stack.callback(worker.register_death)

    def waiting(self, *, worker: bool = True) -> None:
        """Two commands of user 7 in the lane."""
        self.system.push(up(7, 600, reason="a match", advanced_by=3), up(7))
        if worker:
            self.listed()

    def hold(self) -> None:
        """A session that holds user 7's license, for longer than a moment."""
        url = self.system.settings.database_url or ""
        held = self.stack.enter_context(closing(psycopg.connect(url, application_name="a report")))
        held.execute("SELECT FROM user_licenses WHERE user_id = 7 FOR UPDATE")

    def claim(self, seconds: float) -> None:
        """A worker's claim on the lane, with so many seconds left."""
        self.waiting()
        self.system.lanes.claim(PLAYER, "drain", f"{worker_name()} {uuid4().hex}", 100)
        self.redis.zadd(KEYS.of(PLAYER, "claimed"), {"7": 1000 * (time.time() + seconds)})
        self.redis.zrem(KEYS.of(PLAYER, "drains"), "drain")


def _applied(scene: Scene) -> None:
    scene.system.push(up(7, 1200))
    scene.system.drain()


def _row_locked(scene: Scene) -> None:
    _applied(scene)
    scene.hold()
    scene.waiting()
    scene.system.run_drains(PLAYER)
    until(
        lambda: levelq.explain(scene.system.settings, 7).cause == "row_locked", what="the session to hold for a second"
    )


def _row_held(scene: Scene) -> None:
    _applied(scene)
    scene.hold()
    until(lambda: levelq.explain(scene.system.settings, 7).cause == "row_held", what="the session to hold for a second")


def _parked(scene: Scene) -> None:
    scene.system.sql(BLOCKED)
    scene.waiting()
    scene.system.run_drains(PLAYER)


def _suspended(scene: Scene) -> None:
    scene.waiting()
    suspend(scene.redis)


def _stalled(scene: Scene) -> None:
    scene.waiting()
    scene.redis.zadd(KEYS.of(PLAYER, "ready"), {"7": 1000 * time.time() - 60_000})


def _not_in_catalog(scene: Scene) -> None:
    chef = Partition("CHEF")
    entry = scene.redis.lindex(KEYS.lane(PLAYER, 7), 0) or b"%013d" % 1 + b"LQ"
    scene.redis.rpush(KEYS.lane(chef, 7), entry)
    scene.redis.zadd(KEYS.of(chef, "ready"), {"7": 1})
    scene.redis.zadd(KEYS.registry, {str(chef): 1})


def _resharding(scene: Scene) -> None:
    scene.redis.hset(KEYS.shards, "PLAYER", "2:1<1")
    second = Partition("PLAYER", 2)
    entry = b"%013d" % 1 + b"LQ"
    scene.redis.rpush(KEYS.lane(second, 7), entry)
    scene.redis.zadd(KEYS.of(second, "ready"), {"7": 1})
    scene.listed()


def _restoring(scene: Scene) -> None:
    scene.waiting()
    scene.redis.delete(KEYS.of(PLAYER, "filled"))
    scene.redis.set(KEYS.of(PLAYER, "relay"), "lease", px=60_000)


def _outbox(scene: Scene) -> None:
    scene.listed()
    scene.system.commit(up(7, 5, reason="from the shop"))


def _quarantined(scene: Scene) -> None:
    scene.system.push_raw(7, b"\xff\x1b[31m no command")
    scene.system.drain()


def _drift(scene: Scene) -> None:
    _applied(scene)
    scene.system.sql("UPDATE user_licenses SET current_level = 4 WHERE user_id = 7")


def _repaired_drift(scene: Scene) -> None:
    _drift(scene)
    scene.redis.hset(KEYS.drift, "report", DriftReport(1, 2, policy="higher").encode())


def _rejected(scene: Scene) -> None:
    scene.system.push(SetLevel(user_id=7, specialization="PLAYER", new_level=99))
    scene.system.drain()


def _workers_waiting(scene: Scene) -> None:
    scene.waiting()
    WorkerAlerts(scene.redis, KEYS, "h:1", 60).post("PostgreSQL: no room left")


def _paused(*arguments: object) -> Callable[[Scene], None]:
    def plant(scene: Scene) -> None:
        scene.waiting()
        assert scene.levelq("pause", *arguments).code == 0

    return plant


def _away(**environment: str) -> Callable[[Scene], None]:
    def plant(scene: Scene) -> None:
        scene.waiting()
        scene.environment = environment

    return plant


class Case(NamedTuple):
    """How a cause is planted, its last line without the specialization, and the cause after its command has run."""

    plant: Callable[[Scene], object]
    line: str
    then: str = ""


HOLDS = (
    rf"session (\d+) \(a report, user postgres; idle in transaction for {AGO}\) holds its rows: commit or end that "
    r"transaction; to end it: SELECT pg_terminate_backend\(\1\)"
)
CASES = {
    "redis_away": Case(
        _away(LEVELQ_REDIS_URL=f"redis://:hunter2@{NOWHERE}"),
        "user 7: nothing else is known of this user; what waits is unknown: LEVELQ_REDIS_URL: .+; `levelq doctor` .+",
    ),
    "suspended": Case(
        _suspended,
        r"2 commands wait because rq suspend stopped all workers; `rq resume --url \$LEVELQ_REDIS_URL` lets them go on",
        "due",
    ),
    "paused": Case(
        _paused("--user", 7, "--for", "1h", "--reason", "a check"),
        rf"2 commands wait because .+ paused it until {WHEN} \(a check\); `levelq resume --user 7` ends that",
        "due",
    ),
    "paused partition": Case(
        _paused("PLAYER"), r"2 commands wait because .+ paused it; `levelq resume PLAYER` ends that", "due"
    ),
    "not_in_catalog": Case(
        _not_in_catalog,
        "1 command waits, but the catalog lacks this specialization, so no worker serves it; `levelq catalog` lists "
        "what it has, LEVELQ_CATALOG names another",
    ),
    "no_worker": Case(
        lambda scene: scene.waiting(worker=False),
        "2 commands wait because no worker serves it; `levelq worker -s PLAYER` starts one",
        "fine",
    ),
    "resharding": Case(
        _resharding,
        "1 command waits until the old shards are empty, or the layout is restored; `levelq status` says what holds .+",
    ),
    "restoring": Case(
        _restoring,
        "2 commands wait until a worker has put back what Redis lost of the outbox; `levelq status` shows whether .+",
    ),
    "row_locked": Case(_row_locked, HOLDS, "parked"),
    "parked": Case(
        _parked,
        r"its first command cannot be applied: learner 7 is blocked \(SQLSTATE P0001\); a trigger or function of the "
        rf"database raised this: .+; it is tried again by itself (in {AGO}|now)",
    ),
    "database_away": Case(
        _away(LEVELQ_DATABASE_URL=f"postgresql://ann:hunter2@{NOWHERE}/app"),
        r"2 commands wait and cannot be applied from here: LEVELQ_DATABASE_URL: postgresql://ann:\*\*\*@.+",
    ),
    "workers_waiting": Case(
        _workers_waiting,
        "2 commands wait because workers cannot work: PostgreSQL: no room left; they go on by themselves .+",
    ),
    "claim_expired": Case(
        lambda scene: scene.claim(-30),
        rf"the claim of {re.escape(worker_name())} ran out {AGO} ago and no worker takes the lane back: workers are "
        "dead, stopped, or cannot reach Redis; `levelq worker -s PLAYER` starts one",
    ),
    "row_held": Case(_row_held, HOLDS, "fine"),
    "claimed": Case(
        lambda scene: scene.claim(8),
        rf"{re.escape(worker_name())} is applying it; if that worker dies, another takes it in {AGO}: wait",
    ),
    "stalled": Case(
        _stalled,
        rf"2 commands wait, due for {AGO}, and no worker takes it: workers are dead, stopped, or cannot reach Redis; "
        "`levelq worker -s PLAYER` starts one",
    ),
    "due": Case(
        Scene.waiting,
        "2 commands wait for a worker, which takes it next: wait; `levelq status` shows whether the backlog falls",
    ),
    "in_outbox": Case(
        _outbox,
        rf"1 command waits in the outbox since {WHEN}; a worker pushes it within a second: wait; if it stays, "
        "`levelq status`",
    ),
    "database_unread": Case(
        lambda scene: scene.environment.update(LEVELQ_DATABASE_URL=f"postgresql://{NOWHERE}/app"),
        "user 7: nothing waits in Redis; all else is unknown: LEVELQ_DATABASE_URL: .+",
    ),
    "out_of_step": Case(
        _drift,
        r"progress and license differ \(2 and 4\): code other than levelq wrote one of them; "
        "`levelq sync 7 PLAYER --source license` repairs it",
        "fine",
    ),
    "rejected": Case(
        _rejected,
        r"nothing waits; the last command was rejected \(new_level: .+\): end the cause, then `levelq rejected retry "
        "[0-9a-f-]{36}` sends it again",
    ),
    "quarantined": Case(
        _quarantined,
        "nothing waits; the last entry was no command and was quarantined: .+; `levelq quarantine list` shows .+",
    ),
    "fine": Case(
        _applied, rf"nothing waits, and both levels are 2; the last command was applied at {WHEN}: nothing to do"
    ),
    "fine with a line of the audit alone": Case(
        lambda scene: [scene.levelq(act, "--user", 7) for act in ("pause", "resume")],
        "user 7: no rows, nothing waits, and nothing was decided: nothing to do",
    ),
    "database_unread in part": Case(
        lambda scene: scene.system.sql("ALTER TABLE levelq_ledger DROP COLUMN worker"),
        r"user 7: nothing waits in Redis; all else is unknown: decisions unknown: column .worker. does not exist .+",
    ),
    "out_of_step and repaired by workers": Case(
        _repaired_drift,
        r"progress and license differ \(2 and 4\): .+ repairs it, and so does the next audit \(higher\)",
    ),
    "unknown_user": Case(
        lambda scene: None,
        "user 7 is unknown here: no rows, nothing waits, nothing was decided; check the id, and `levelq namespace "
        "show` for whether these are the servers you mean",
    ),
}


def follow(scene: Scene, line: str, levelq_process: Levelq) -> None:
    for statement in re.findall(r"SELECT pg_terminate_backend\(\d+\)", line):
        scene.system.sql(statement)
    for command in re.findall(r"`((?:levelq|rq) [^`]+)`", line):
        program, *arguments = shlex.split(command.replace("$LEVELQ_REDIS_URL", scene.system.settings.redis_url))
        if program == "rq":
            subprocess.run([RQ, *arguments], check=True, capture_output=True)
        elif arguments[0] == "worker":
            assert levelq_process(*arguments, "--burst").code == 0
        else:
            more = ["--dry-run"] if arguments[0] == "rejected" else []
            code, _, err = scene.levelq(*arguments, *more, **scene.environment)
            assert code in (0, 1) or arguments[0] in ("doctor", "namespace", "status"), err


@pytest.mark.parametrize("name", CASES)
def test_last_line_is_the_cause_and_the_next_step_and_the_command_in_it_runs(
    system: System, levelq_here: Levelq, levelq: Levelq, name: str
) -> None:
    case = CASES[name]
    cause = name.partition(" ")[0]
    with ExitStack() as stack:
        scene = Scene(system, levelq_here, stack)
        case.plant(scene)
        code, out, _ = levelq_here("explain", 7, **scene.environment)
        last = out.splitlines()[-1]
        assert code == 0
        assert re.fullmatch(case.line if case.line.startswith("user 7") else rf"(?:PLAYER|CHEF): {case.line}", last), (
            last
        )
        again = levelq_here("explain", 7, "--json", **scene.environment).out
        assert f'"cause":"{cause}","conclusion":' in again
        if case.then or cause not in ("claim_expired", "stalled"):
            follow(scene, last, levelq)
        if case.then:
            assert levelq_here("explain", 7, "--json").out.count(f'"cause":"{case.then}"') == 2


def test_every_cause_of_the_table_is_planted() -> None:
    assert {cause.name for cause in CAUSES} <= {name.partition(" ")[0] for name in CASES}


def test_timeline_is_one_over_both_servers_in_time_order(system: System, levelq_here: Levelq) -> None:
    with Session(system.engine) as session:
        level_up_atomic(session, 7, "PLAYER", 1200, reason="by hand\x1b[31m")
    refused = SetLevel(user_id=7, specialization="PLAYER", new_level=99, reason="too high", advanced_by=3)
    retry = SetLevel(user_id=7, specialization="PLAYER", new_level=3, command_id=retry_id(refused.command_id))
    for part in ([refused], [retry], [up(7, 5, "COACH")], [up(8, 5)]):
        system.push(*part)
        system.drain("PLAYER", "COACH")
    system.push_raw(7, b"\xff\x1b no command")
    system.drain()
    system.sql("INSERT INTO license_progressions (user_license_id, from_level, to_level, requirements_met, "
               "advancement_reason) SELECT id, 3, 9, '{}', 'old code' FROM user_licenses "
               "WHERE user_id = 7 AND specialization_type = 'PLAYER'")  # fmt: skip
    list(LevelEvents(system.engine, "achievements"))
    assert levelq_here("cancel", 7, "COACH", "--yes").code == 0
    last = up(7, 600, reason="a match", advanced_by=3)
    system.push(up(7), last, *[up(7) for _ in range(5)])
    found = levelq.explain(system.settings, 7, engine=system.engine)
    assert [event.at for event in found.events] == sorted(event.at for event in found.events)
    assert [event.what for event in found.events if event.what != "audit"] == [
        "applied", "rejected", "applied", "applied", "quarantined", "progressed", "waiting", "waiting", "waiting"
    ]  # fmt: skip
    direct, rejected, retried = found.events[:3]
    assert direct.summary == 'level_up +1,200 XP: level 1 -> 2, 0 -> 1,200 XP; "by hand\\x1b[31m"'
    assert (direct.detail["source"], direct.detail["worker"]) == ("direct", None)
    assert (rejected.detail["source"], rejected.detail["worker"]) == ("queue", worker_name())
    assert rejected.summary.startswith("set_level to level 99: new_level: ")
    assert rejected.summary.endswith(f'; by 3, "too high"; retried as {retry.command_id}: applied')
    assert retried.summary.endswith(f"level 2 -> 3; the retry of {refused.command_id}")
    assert {"batch", "xid", "before", "after"} <= set(retried.detail)
    (other,) = [event for event in found.events if event.what == "progressed"]
    assert other.summary == 'license 3 -> 9; "old code"'
    (lane,) = [lane for one in found.lanes for lane in one.lanes]
    assert (lane.waiting, [command.position for command in lane.first]) == (7, [1, 2, 3])
    assert lane.first[1].in_words() == 'level_up +600 XP; by 3, "a match"'
    assert found.unread == {"achievements": 0} and found.problems == ()
    assert found.lanes[-1].levels and found.lanes[-1].levels.max_achieved_level == 3
    assert Explanation.model_validate_json(levelq_here("explain", 7, "--json").out).user_id == 7
    shown = levelq_here("explain", 7).out
    assert all(f"{event.command_id}" in shown for event in found.events if event.command_id) and "\x1b" not in shown
    assert f"tx {retried.detail['xid']}" in shown
    coach = levelq.explain(system.settings, 7, "coach")
    assert {event.specialization for event in coach.events} <= {"COACH", None}
    assert [lane.specialization for lane in coach.lanes] == ["COACH"]
    newest = levelq.explain(system.settings, 7, since=found.events[4].at, limit=1).events
    assert min(event.at for event in newest) >= found.events[4].at
    for command in (last.command_id, refused.command_id):
        assert levelq_here("explain", "--command", command).out.splitlines()[-1] == shown.splitlines()[-1]
    assert "neither in the ledger" in levelq_here.refused("explain", "--command", uuid4())


def test_whatever_else_is_wrong_is_told_before_the_reason(system: System, levelq_here: Levelq) -> None:
    system.push(up(7, 1200))
    system.drain()
    assert levelq.explain(system.settings, 7).lanes[0].also == ()
    system.sql("UPDATE user_licenses SET current_level = 4")
    assert levelq.explain(system.settings, 7).lanes[0].also == ()  # it is the reason
    system.push(up(7))
    levelq_here("pause", "--user", 7)
    (lane,) = levelq.explain(system.settings, 7).lanes
    assert lane.cause == "paused"
    no_worker, differ = lane.also
    assert no_worker == "PLAYER: 1 command waits because no worker serves it; `levelq worker -s PLAYER` starts one"
    assert differ.startswith("PLAYER: progress and license differ (2 and 4): ")
    shown = levelq_here("explain", 7).out.splitlines()
    assert shown[-3:] == [f"also  {no_worker}", f"also  {differ}", lane.conclusion]


def test_history_shows_what_waits_and_filters(system: System, levelq_here: Levelq) -> None:
    system.push(up(7, 1200, reason="a match", advanced_by=3), SetLevel(user_id=7, specialization="PLAYER", new_level=4))
    system.push(up(7, 5, "COACH"))
    system.drain("PLAYER", "COACH")
    system.push(up(7, 9, reason="later"))
    shown = levelq_here("history", 7).out
    assert "    now  COACH level 1, 5 XP\n" in shown and "    now  PLAYER level 4, 1,200 XP\n" in shown
    assert "waiting  PLAYER 1 command\n      1  level_up +9 XP; by" not in shown
    assert 'waiting  PLAYER 1 command\n      1  level_up +9 XP; "later"\n' in shown
    assert 'applied; by 3, "a match"' in shown
    assert "set_level" not in levelq_here("history", 7, "--kind", "level-up").out
    assert "level_up  " not in levelq_here("history", 7, "--kind", "set-level").out
    assert "PLAYER" not in levelq_here("history", 7, "-s", "coach").out
    assert "nothing of that was decided" in levelq_here("history", 7, "--until", "1h").out
    assert levelq_here("history", 7, "--since", "1h").out == shown
    error = levelq_here.refused("history", 7, "--kind", "dance")
    assert "kinds: expected some of level_up, set_level, sync_levels, adjust, reset, got 'dance'" in error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"user_id": 0}, "user_id: expected an integer from 1 to 9223372036854775807, got 0"),
        ({"limit": 0}, "limit: expected an integer from 1 to 10000, got 0"),
        ({"first": 101}, "first: expected an integer from 1 to 100, got 101"),
        ({"specialization": 5}, "specialization: expected its name, got 5"),
        ({"since": datetime(2026, 1, 1)}, "since: expected a datetime with a zone, got "),
    ],
)
def test_wrong_argument_of_explain_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        levelq.explain(None, **{"user_id": 7} | given)


def test_rows_that_several_sessions_share_name_them_and_what_a_role_may_not_read_is_told(
    system: System, levelq_here: Levelq
) -> None:
    system.push(up(7, 1200))
    system.drain()
    url = system.settings.database_url or ""
    with psycopg.connect(url, application_name="first") as first, psycopg.connect(url) as second:
        for holder in (first, second):
            holder.execute("SELECT FROM user_licenses WHERE user_id = 7 FOR SHARE")
        (lane,) = levelq.explain(system.settings, 7).lanes
        assert {holder.pid for holder in lane.holders} == {first.info.backend_pid, second.info.backend_pid}
        assert lane.holders[0].query.startswith("SELECT FROM user_licenses")
    system.sql(
        "CREATE ROLE levelq_blind LOGIN", "GRANT SELECT ON user_licenses, specialization_progress TO levelq_blind"
    )
    try:
        blind = levelq.explain(as_role(system.settings, "levelq_blind"), 7)
        assert blind.lanes[0].levels and blind.lanes[0].holders == ()
        assert [problem.partition(":")[0] for problem in blind.problems] == [
            "outbox unknown", "decisions unknown", "progressions unknown", "quarantine unknown", "audit unknown",
            "consumers unknown",
        ]  # fmt: skip
    finally:
        system.sql("DROP OWNED BY levelq_blind", "DROP ROLE levelq_blind")


def test_status_tells_the_longest_lanes_and_who_sends_malformed_entries(system: System, levelq_here: Levelq) -> None:
    for user in range(1, 8):
        system.push(*[up(user) for _ in range(user)])
    seen = levelq.status(system.settings).hot_spots
    assert [(lane.user, lane.waiting) for lane in seen.longest] == [(7, 7), (6, 6), (5, 5), (4, 4), (3, 3)]
    assert (seen.oldest[0].user, seen.quarantined, seen.list_writers) == (1, (), ())
    system.drain()
    system.redis.client_setname("billing")
    for user in (4, 5):
        system.push_raw(user, b"rubbish \x1b %d" % user)
    system.drain()
    system.redis.rpush("elsewhere", "x")
    (group,) = levelq.status(system.settings).hot_spots.quarantined
    assert (group.specialization, group.entries, group.reason) == ("PLAYER", 2, "not a levelq entry")
    printed = levelq_here("status").out
    assert "malformed  PLAYER: 2 entries in the last hour, for example of user 5: not a levelq entry" in printed
    assert re.search(
        r"writer  perhaps, as its last command wrote into some list: client (\d+) from a Unix socket "
        r"\(billing, user default; RPUSH \d+ s ago\); CLIENT KILL ID \1 ends it\n",
        printed,
    )
    system.sql("UPDATE levelq_quarantine SET at = at - interval '2 hours'")
    assert levelq.status(system.settings).hot_spots.quarantined == ()
