"""`levelq metrics`: what a namespace holds as numbers, also with a server away."""

import pytest
from sqlalchemy import text

from levelq_core import Settings
from levelq_core.lanes.drift_report import AuditLease, DriftReport
from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.operations.readings import gauges as module
from levelq_core.operations.readings.gauges import GAUGES, gauges
from tests.support.fixtures.command_line import NOWHERE, LevelqWith
from tests.support.fixtures.keys import KEYS
from tests.support.system import PLAYER, System, up

REDIS_GAUGES = {
    "levelq_waiting_commands", "levelq_ready_lanes", "levelq_oldest_command_age_seconds", "levelq_paused",
    "levelq_worker_reports", "levelq_drift_pairs",
}  # fmt: skip
TABLE_GAUGES = {"levelq_ledger_size_bytes", "levelq_outbox_rows", "levelq_rejected_commands"}


def read(settings: Settings) -> dict[tuple[str, ...], float]:
    """The numbers by name and labels."""
    found = gauges(settings)
    assert len({(sample.name, *sample.labels.values()) for sample in found.samples}) == len(found.samples)
    return {(sample.name, *sample.labels.values()): sample.value for sample in found.samples}


def test_commands_of_a_paused_user_are_neither_lag_nor_parked_lanes(system: System) -> None:
    system.push(up(7))
    lanes = LaneEditor(system.redis, system.settings)
    for seconds in (30, 0):  # a lane that waits for another reason, and then for the pause
        later = system.redis.time()[0] * 1000 + seconds * 1000
        system.redis.zadd(KEYS.of(PLAYER, "ready"), {"7": later})
        found = read(system.settings)
        assert found["levelq_parked_lanes", "PLAYER"] == bool(seconds)
        assert found["levelq_oldest_command_age_seconds", "PLAYER"] > 0
    lanes.pause(PLAYER, 7, 0, "ops", "")
    found = read(system.settings)
    assert found["levelq_paused_lanes", "PLAYER"] == found["levelq_waiting_commands", "PLAYER"] == 1
    assert found["levelq_parked_lanes", "PLAYER"] == found["levelq_oldest_command_age_seconds", "PLAYER"] == 0


@pytest.fixture
def filled(system: System) -> System:
    """A rejected command and three applied ones; rubbish; then three waiting, one of them in the outbox, and more."""
    system.push(up(1), up(2), up(3), up(4, theory_hours=1))
    system.push_raw(5, b"rubbish")
    system.drain()
    system.sql("ANALYZE levelq_ledger")
    system.commit(up(9))
    system.fill(2, users=2)
    now_ms = system.redis.time()[0] * 1000
    system.redis.hset(KEYS.of(PLAYER, "paused"), mapping={"*": f"{now_ms} 0 ops|", "7": f"{now_ms} 0 ops|", "8": "?"})
    lease = AuditLease(system.redis, KEYS, "auditor")
    assert lease.take(every_ms=1, policy="report")
    lease.finish(DriftReport(now_ms, compared=10, out_of_step=5, repaired=2))
    return system


def test_gauges_have_what_redis_and_the_tables_hold(filled: System) -> None:
    found = read(filled.settings)
    for name, expected in {
        ("levelq_up", "redis"): 1, ("levelq_up", "rq"): 1, ("levelq_up", "postgresql"): 1,
        ("levelq_writable", "redis"): 1, ("levelq_writable", "postgresql"): 1, ("levelq_unreadable",): 0,
        ("levelq_waiting_commands", "PLAYER"): 2, ("levelq_ready_lanes", "PLAYER"): 2,
        ("levelq_waiting_commands", "COACH"): 0, ("levelq_paused", "PLAYER"): 1, ("levelq_paused", "COACH"): 0,
        ("levelq_paused_lanes", "PLAYER"): 1, ("levelq_workers", "PLAYER"): 0, ("levelq_suspended",): 0,
        ("levelq_worker_reports", "silent"): 0, ("levelq_drift_pairs",): 3, ("levelq_rejected_commands",): 1,
        ("levelq_quarantined_entries",): 1, ("levelq_outbox_rows",): 1, ("levelq_ledger_rows",): 4,
    }.items():  # fmt: skip
        assert found[name] == expected, name
    assert found["levelq_ledger_size_bytes",] > 8192
    assert found["levelq_outbox_oldest_age_seconds",] > 0
    assert found["levelq_oldest_command_age_seconds", "PLAYER"] > 0
    assert {name for name, *_ in found} == GAUGES.keys()


@pytest.mark.parametrize(
    ("away", "down", "absent"),
    [
        ({"redis_url": f"redis://{NOWHERE}/0"}, {"redis", "rq"}, REDIS_GAUGES),
        ({"database_url": f"postgresql://u@{NOWHERE}/x"}, {"postgresql"}, TABLE_GAUGES),
    ],
    ids=["Redis", "PostgreSQL"],
)
def test_server_that_is_away_is_down_and_the_others_are_read(
    filled: System, levelq_with: LevelqWith, away: dict[str, str], down: set[str], absent: set[str]
) -> None:
    settings = filled.settings.model_copy(update=away)
    found = read(settings)
    assert {server for server in ("redis", "rq", "postgresql") if not found["levelq_up", server]} == down
    names = {name for name, *_ in found}
    assert not names & absent
    assert (REDIS_GAUGES | TABLE_GAUGES) - absent <= names
    assert found["levelq_unreadable",] == 1
    code, out, err = levelq_with(settings)("metrics")
    assert code == 1 and "levelq_unreadable 1.0" in out
    assert err.startswith("levelq: LEVELQ_") and err.count("\n") == 1


def test_refused_count_and_a_key_of_another_type_cost_only_their_own_figures(
    filled: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_OUTBOX", text("SELECT pg_sleep(60)"))
    monkeypatch.setattr(module, "COUNT_MS", 50)
    filled.redis.set("rq:queues", "x")
    filled.redis.delete(KEYS.drift)
    filled.redis.set(KEYS.drift, "x")
    found = gauges(filled.settings)
    names = {sample.name for sample in found.samples}
    assert not names & {"levelq_outbox_rows", "levelq_drift_pairs"}
    assert {"levelq_rejected_commands", "levelq_ledger_rows", "levelq_waiting_commands"} <= names
    assert [problem for problem in found.problems if "statement timeout" in problem] == list(found.problems)


def test_read_only_database_and_full_redis_are_not_writable(filled: System) -> None:
    url = str(filled.settings.database_url)
    url += f"{'&' if '?' in url else '?'}options=-c%20default_transaction_read_only%3Don"
    filled.redis.config_set("maxmemory", "1mb")
    try:
        found = read(filled.settings.model_copy(update={"database_url": url}))
    finally:
        filled.redis.config_set("maxmemory", "0")
    assert (found["levelq_writable", "postgresql"], found["levelq_writable", "redis"]) == (0, 0)
    assert found["levelq_rejected_commands",] == 1
