"""A system with something of everything that the console shows, in the words that are given."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from math import sin
from typing import Any, NamedTuple
from uuid import UUID

from levelq import LevelUp
from levelq_core.domain.lag_histogram import bucket_of
from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.trend_slots import DAY, HOUR, Slot
from levelq_core.lanes.worker_reports import WorkerReport, WorkerReports, read
from levelq_core.operations.audit import record, user_target
from levelq_core.operations.pausing import PauseScope, Pausing
from levelq_worker.auditor import Auditor
from levelq_worker.reporter import Reporter
from tests.support.redrive import put_into_quarantine, reject
from tests.support.system import PLAYER, System, up

# Who is what.
BUSY, DRIFTED, PAUSED, BLOCKED, IN_OUTBOX, REJECTED = 42, 7, 8, 9, 10, 1000
_TRIGGER = f"""
    CREATE FUNCTION hold_back() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE 'learner % is under review', NEW.student_id; END $$;
    CREATE TRIGGER hold_back BEFORE INSERT OR UPDATE ON specialization_progress
        FOR EACH ROW WHEN (NEW.student_id = {BLOCKED}) EXECUTE FUNCTION hold_back()
"""


class Scene(NamedTuple):
    """What pages can be asked for: a command that waits, one that was rejected, an entry that was quarantined."""

    waiting: UUID
    rejected: UUID
    quarantined: int


@contextmanager
def scene(system: System, texts: Sequence[str], raw: Sequence[bytes]) -> Iterator[Scene]:
    """Applied, waiting, parked, paused, rejected, quarantined, out of step, audited, charted; a worker is silent.

    `texts`: reasons, names of authors and errors. `raw`: entries that are no commands. At the end its worker
    withdraws its report.
    """
    reporter = Reporter(system.worker, list(system.settings.tracks))
    applied(system)
    rejected = rejected_with(system, texts)
    quarantine(system, texts, raw)
    drift(system)
    steer(system, texts, texts)
    waiting = keep_waiting(system)
    chart(system)
    reporter.post()
    (report,) = read(system.redis, system.settings.keys)
    post_others(system, report)
    ((entry,),) = system.rows("SELECT min(id) FROM levelq_quarantine")
    try:
        yield Scene(waiting, rejected, entry)
    finally:
        reporter.stop()


def applied(system: System) -> None:
    """Users with levels; one of them is busier than all others."""
    system.push(
        *(up(user, 150 * user % 2600) for user in range(1, 61)), *(up(user, 900, "COACH") for user in (7, 8, 42))
    )
    system.push(*(up(BUSY, 5, reason=f"Training session {n}") for n in range(1, 61)))
    system.drain(*system.settings.tracks)


def rejected_with(system: System, texts: Sequence[str]) -> UUID:
    """As by a worker whose catalog is too old; the id of one."""
    commands = [
        LevelUp(user_id=REJECTED + n, specialization="PLAYER", xp_gained=5, reason=text) for n, text in enumerate(texts)
    ]
    return reject(system, *commands)[0]


def quarantine(system: System, texts: Sequence[str], raw: Sequence[bytes]) -> None:
    """What another program wrote into lanes, found there by a worker, and reasons that are `texts`."""
    for user, entry in enumerate(raw, 61):
        system.push_raw(user, entry)
    system.drain()
    for user, reason in enumerate(texts, 1):
        put_into_quarantine(system, user, reason.encode(), reason)


def drift(system: System) -> None:
    """A user whose levels differ, found by an audit."""
    system.sql(
        f"UPDATE user_licenses SET current_level = 5 WHERE user_id = {DRIFTED} AND specialization_type = 'PLAYER'"
    )
    auditor = Auditor(system.settings)
    auditor.audit()
    auditor.stop()


def steer(system: System, names: Sequence[str], reasons: Sequence[str]) -> None:
    """Two pauses, and lines of the audit, by those of these names."""
    editor = LaneEditor(system.redis, system.settings)
    pausing = Pausing(system.engine, editor, system.waker, system.settings, names[0])
    pausing.pause(PauseScope(["PLAYER"], PAUSED), reason=reasons[-1][:150])
    pausing.pause(PauseScope(["COACH"]), timedelta(hours=4), reasons[0][:150])
    with system.engine.begin() as connection:
        for user, (name, reason) in enumerate(zip(names, reasons, strict=True), 1):
            record(connection, "rejected retry", user_target(user, "PLAYER"), {"reason": reason}, actor=name)


def keep_waiting(system: System) -> UUID:
    """Commands in lanes and in the outbox, and a parked lane; the id of one that waits."""
    system.sql(_TRIGGER)
    system.push(up(BLOCKED, 400), up(BLOCKED, 25), up(PAUSED, 80))
    system.run_drains(PLAYER)
    waiting = up(BUSY, 600, reason="Final match")
    system.push(waiting, *(up(BUSY, 5, reason=f"Training session {n}") for n in range(61, 73)))
    system.push(*(up(user, 20) for user in range(11, 31)), *(up(user, 20, "COACH") for user in range(31, 37)))
    system.commit(up(IN_OUTBOX, 75))
    return waiting.command_id


def chart(system: System) -> None:
    """An hour and a day of history, with a burst."""
    now = int(time.time())
    for series in (HOUR, DAY):
        for ago in range(series.slots, 0, -1):
            rate = 60 + 18 * sin(ago / 9) + (240 if 60 < ago < 72 else 0)
            number = int(rate * series.slot_seconds)
            lag = 12 if ago < 60 or ago > 75 else 900
            did = Slot(
                number, number // 400, number, max(1, number // 180), {bucket_of(lag): number}, 4 * lag, ago // 50
            )
            key = system.settings.keys.trends
            field = series.field((now // series.slot_seconds - ago) * series.slot_seconds)
            figures = did.figures()
            value = " ".join(f"{name}={figure}" for name, figure in zip(figures[::2], figures[1::2], strict=True))
            system.redis.hset(key, field, value)


def post_others(system: System, report: WorkerReport) -> None:
    """Reports of workers of another host, like this one: of one that is at work, and the last of one that is silent."""
    at = report.posted_ms
    post_as(system, report, 311, posted_ms=at - 60_000, state="transaction", partition="PLAYER:1:0")
    post_as(system, report, 312, state="draining", partition="PLAYER:1:0", progress_ms=at)


def post_as(system: System, report: WorkerReport, pid: int = 4711, **changed: Any) -> None:
    """The report of another worker, which differs in this."""
    other = report.model_copy(update={"host": "web2", "pid": pid, "name": f"web2:{pid}"} | changed)
    WorkerReports(system.redis, system.settings.keys, f"{other.name}:{time.time_ns()}", lambda _: False).post(other)
