"""The auditor: what it finds and repairs by each policy, that one at a time works, and that another goes on."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from levelq_core import Settings
from levelq_core.lanes import drift_report
from levelq_core.lanes.drift_report import DriftReport
from levelq_core.operations.drift.ranges import SIZE, PairRanges, Position, Range
from levelq_core.operations.readings.check import check
from levelq_core.operations.readings.status import status
from levelq_worker import auditor as module
from levelq_worker.auditor import Auditor
from tests.support.fixtures.keys import KEYS
from tests.support.fixtures.processes import Started
from tests.support.fixtures.waiting import until
from tests.support.system import System, up

# By user: the levels of progress and license. The last two are in step.
PAIRS: dict[int, tuple[int | None, int | None]] = {
    1: (3, 1), 2: (1, 4), 3: (2, None), 4: (None, 2), 5: (2, 2), 6: (1, 1)
}  # fmt: skip
REPAIRED = {
    "report": PAIRS,
    "progress": PAIRS | {1: (3, 3), 2: (1, 1), 3: (2, 2)},
    "license": PAIRS | {1: (1, 1), 2: (4, 4), 4: (2, 2)},
    "higher": PAIRS | {1: (3, 3), 2: (4, 4), 3: (2, 2), 4: (2, 2)},
}


def plant(system: System, pairs: dict[int, tuple[int | None, int | None]], name: str = "PLAYER") -> None:
    """Write these levels as an application does, in tables of its own."""
    progress = "INSERT INTO specialization_progress (student_id, specialization_id, current_level, created_at)"
    license_ = "INSERT INTO user_licenses (user_id, specialization_type, current_level, started_at)"
    for insert, side in ((progress, 0), (license_, 1)):
        for user, levels in pairs.items():
            if levels[side] is not None:
                system.sql(f"{insert} VALUES ({user}, '{name}', {levels[side]}, now())")


def levels(system: System) -> dict[int, tuple[int | None, int | None]]:
    """By user, what is there now."""
    query = """
        SELECT coalesce(student_id, user_id), p.current_level, l.current_level FROM specialization_progress p
        FULL JOIN user_licenses l ON student_id = user_id AND specialization_id = specialization_type
        WHERE coalesce(specialization_id, specialization_type) = 'PLAYER'
    """
    return {user: (progress, license_) for user, progress, license_ in system.rows(query)}


@pytest.fixture
def application(
    settings: Settings, redis: Redis, application_database_url: str, application_engine: Engine
) -> Iterator[System]:
    """A system on an application's own tables: int4, varchar, other columns, foreign keys."""
    given = settings.model_copy(update={"database_url": application_database_url})
    with System(given, redis, application_engine) as made:
        yield made


@pytest.fixture
def auditor(settings: Settings) -> Iterator[Callable[..., Auditor]]:
    """Make auditors; audits are due at once."""
    with ExitStack() as stack:

        def make(system: System, **given: Any) -> Auditor:
            made = Auditor(system.settings.model_copy(update={"drift_seconds": 0.001, **given}))
            stack.callback(made.stop)
            return made

        yield make


@pytest.mark.parametrize("policy", REPAIRED)
def test_pairs_out_of_step_are_reported_and_repaired_by_policy(
    application: System, auditor: Callable[..., Auditor], policy: str
) -> None:
    plant(application, PAIRS)
    plant(application, {7: (5, None)}, "JUGGLER")
    application.push(up(5, 10))  # a lane that holds a command
    audit = auditor(application, drift_policy=policy).audit
    report = audit()
    repaired = {user for user in PAIRS if REPAIRED[policy][user] != PAIRS[user]}
    assert report == drift_report.read(application.redis, KEYS) and report is not None
    found = (report.compared, report.out_of_step, report.repaired, report.unknown, report.policy)
    assert found == (7, 4, len(repaired), 1, policy)
    assert {pair.user_id for pair in report.examples} == {1, 2, 3, 4} - repaired
    assert report.unrepairable == (1 if policy in ("progress", "license") else 0)
    problems = [line for line in status(application.settings).problems if "out of step" in line]
    assert len(problems) == (policy != "higher")
    if policy == "report":
        assert problems[0].startswith("4 of 7 pairs out of step (progress, license), audited ")
        assert "user 1 PLAYER (3, 1), user 2 PLAYER (1, 4), user 3 PLAYER (2, none)" in problems[0]
        assert problems[0].endswith("`levelq sync --all --source higher` repairs them, or LEVELQ_DRIFT_POLICY")

    application.drain()
    assert levels(application) == REPAIRED[policy]
    assert application.rows("SELECT count(*) FROM levelq_ledger WHERE reason LIKE '%policy %'") == [(len(repaired),)]
    again = audit()
    assert again is not None and again.out_of_step == 4 - len(repaired)


def test_repair_waits_its_turn_in_a_busy_lane(system: System, auditor: Callable[..., Auditor]) -> None:
    plant(system, {1: (2, 4)})
    system.push(up(1, 40), up(1, 2))
    report = auditor(system, drift_policy="progress").audit()
    system.push(up(1, 1))
    system.drain()
    assert report is not None and report.repaired == 1
    kinds = system.rows("SELECT kind, from_level, to_level, after[1:2] FROM levelq_ledger ORDER BY id")
    # The first command lifted the progress to the license's level, so there was nothing to repair any more.
    ups = ("level_up", 4, 4, [4, 4])
    assert kinds == [ups, ups, ("sync_levels", 4, 4, [4, 4]), ups]


def test_repair_that_still_waits_is_not_sent_again(system: System, auditor: Callable[..., Auditor]) -> None:
    plant(system, {1: (3, 1), 2: (1, 4)})
    for policy in ("higher", "higher", "progress"):  # a lane that is paused, or has no worker
        report = auditor(system, drift_policy=policy).audit()
        assert report is not None and report.repaired == 2
    system.drain()
    sent = system.rows("SELECT user_id, kind FROM levelq_ledger ORDER BY user_id, id")
    assert [user for user, _ in sent] == [1, 2, 2]  # user 1's progress was the higher one
    assert levels(system) == {1: (3, 3), 2: (4, 4)}


def test_numeric_levels_are_reported(system: System, auditor: Callable[..., Auditor]) -> None:
    for table in ("specialization_progress", "user_licenses"):
        system.sql(f"ALTER TABLE {table} ALTER current_level TYPE numeric(5, 0)")
    plant(system, {1: (3, 1)})
    report = auditor(system).audit()
    assert report is not None and report.examples == ((1, "PLAYER", 3, 1, ""),)
    assert '"progress_level":3,' in check(system.engine).model_dump_json()


def test_audit_that_a_repair_overtook_begins_again(
    system: System, auditor: Callable[..., Auditor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SIZE", 1)
    plant(system, dict.fromkeys((1, 2, 3), (3, 1)))
    one = auditor(system)
    audit_range = one._audit_range
    asked: list[bool] = []

    def repaired(*given: Any) -> Any:
        found = audit_range(*given)
        if found[1].compared == 2 and not asked:  # the second range
            system.sql("UPDATE user_licenses SET current_level = 3")
            drift_report.request_audit(system.redis, KEYS)
            asked.append(True)
        return found

    monkeypatch.setattr(one, "_audit_range", repaired)
    assert one.audit() is None
    assert drift_report.read(system.redis, KEYS) is None
    report = one.audit()
    assert report is not None and (report.compared, report.out_of_step) == (3, 0)


def test_range_that_takes_too_long_is_smaller_the_next_time(
    system: System, auditor: Callable[..., Auditor], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(system, {1: (2, 2)})
    sizes: list[int] = []
    read = PairRanges.read

    def noted(ranges: PairRanges, connection: Connection, position: Position, size: int) -> Range:
        sizes.append(size)
        return read(ranges, connection, position, size)

    monkeypatch.setattr(PairRanges, "read", noted)
    one = auditor(system, claim_seconds=0.5, redis_seconds=0.4)
    with system.engine.connect() as slow, slow.begin():
        slow.execute(text("LOCK TABLE user_licenses IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(DBAPIError, match="timeout"):
            one.audit()
    assert one.audit() is not None
    assert sizes == [SIZE, module.LEAST]


def test_pair_within_an_application_transaction_is_not_found(system: System, auditor: Callable[..., Auditor]) -> None:
    plant(system, {1: (2, 2)})
    with system.engine.connect() as connection, connection.begin():
        connection.execute(text("UPDATE specialization_progress SET current_level = 3"))
        report = auditor(system).audit()
        connection.execute(text("UPDATE user_licenses SET current_level = 3"))
    assert report is not None and (report.compared, report.out_of_step) == (1, 0)
    assert levels(system) == {1: (3, 3)}


def test_of_two_auditors_one_works_and_an_audit_is_not_repeated_before_it_is_due(
    system: System, auditor: Callable[..., Auditor]
) -> None:
    plant(system, {1: (2, 2)})
    both = [auditor(system, drift_seconds=3600) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda one: one.audit(), both))
    assert sum(report is not None for report in reports) == 1
    assert [one.audit() for one in both] == [None, None]
    drift_report.request_audit(system.redis, KEYS)  # as levelq sync --all and adopt do
    assert drift_report.read(system.redis, KEYS) is None
    assert isinstance(both[0].audit(), DriftReport)


def test_audit_under_way_when_another_is_requested_is_not_published(
    system: System, auditor: Callable[..., Auditor]
) -> None:
    lease = drift_report.AuditLease(system.redis, KEYS, "under way")
    run = lease.take(0, "report")
    assert run is not None and lease.renew(run)
    drift_report.request_audit(system.redis, KEYS)
    lease.finish(run.report._replace(out_of_step=10))  # what was repaired meanwhile
    assert drift_report.read(system.redis, KEYS) is None
    assert isinstance(auditor(system, drift_seconds=3600).audit(), DriftReport)


@pytest.mark.parametrize("planted", ["", "no JSON", '["{}", 5]', '["[]", []]'], ids=["kept", "text", "number", "list"])
def test_another_auditor_goes_on_where_one_stopped(
    system: System, auditor: Callable[..., Auditor], monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    monkeypatch.setattr(module, "SIZE", 2)
    plant(system, dict.fromkeys(range(1, 6), (3, 1)))
    first, second = auditor(system), auditor(system)
    first.stop()
    assert first.audit() is None  # one range
    assert not system.redis.exists(KEYS.auditor)
    if planted:  # what is unreadable begins anew
        system.redis.hset(KEYS.drift, "run", planted)
    compared: list[int] = []
    audit_range = second._audit_range

    def counted(*given: Any) -> Any:
        found = audit_range(*given)
        compared.append(found[0].pairs)
        return found

    monkeypatch.setattr(second, "_audit_range", counted)
    report = second.audit()
    assert report is not None and (report.compared, report.out_of_step, len(report.examples)) == (5, 5, 5)
    assert sum(compared) == (5 if planted else 3)


def test_auditor_that_lost_its_lease_stops_and_a_foreign_lease_is_removed(
    system: System, auditor: Callable[..., Auditor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SIZE", 1)
    plant(system, {1: (1, 1), 2: (1, 1), 3: (1, 1)})
    one = auditor(system)
    audit_range = one._audit_range

    def overtaken(*given: Any) -> Any:
        system.redis.set(KEYS.auditor, "another program")
        return audit_range(*given)

    monkeypatch.setattr(one, "_audit_range", overtaken)
    assert one.audit() is None
    other = auditor(system)
    assert other.audit() is None and not system.redis.exists(KEYS.auditor)  # it had no end
    assert other.audit() is not None


@pytest.mark.parametrize("seconds", [0, 0.01])
def test_thread_audits_when_it_is_due_unless_audits_are_off(
    system: System, auditor: Callable[..., Auditor], seconds: float
) -> None:
    plant(system, {1: (2, 1)})
    one = auditor(system, drift_seconds=seconds)
    one.start()
    if seconds:
        until(lambda: drift_report.read(system.redis, KEYS) is not None, what="a report")
    assert one.is_alive() == bool(seconds)


def test_worker_process_repairs_drift(system: System, start: Callable[..., Started]) -> None:
    plant(system, {1: (3, 1), 2: (None, 4)})
    start("worker", "--specialization", "PLAYER", LEVELQ_DRIFT_SECONDS="0.2", LEVELQ_DRIFT_POLICY="higher")
    until(lambda: levels(system) == {1: (3, 3), 2: (4, 4)}, 30, "the repair")
