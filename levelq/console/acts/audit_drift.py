"""Have a worker compare all pairs of levels again, soon: what `levelq adopt` asks for when it has repaired them."""

from __future__ import annotations

from levelq_core.lanes import drift_report
from levelq_core.operations import audit
from levelq_core.operations.connections import lanes_of, redis_of
from levelq_core.operations.identity import require_bound
from levelq_core.operations.wording import count, duration

from .act import Asked, Plan, act
from .chosen import database

ACTION = "drift audit"


def _plan(asked: Asked) -> Plan:
    settings = asked.console.settings
    with redis_of(settings) as redis:
        last = drift_report.read(redis, settings.keys)
        under_way = drift_report.read_under_way(redis, settings.keys)
    happens = ["One of the workers compares every pair of progress and license again, and begins within some seconds."]
    if last is not None:
        took = duration(max(0, last.finished_ms - last.started_ms) / 1000)
        happens.append(f"The last audit compared {count(last.compared, 'pair')} in {took}; its result is removed now.")
        if last.policy != "report":
            happens.append(f"It repairs what it finds: its policy is {last.policy}.")
    if under_way is not None:
        happens.append("The audit under way begins again.")
    if not asked.console.overview.get().status.workers:
        happens.append("No worker runs: the audit waits until one does.")
    if not settings.drift_seconds:
        happens.append("LEVELQ_DRIFT_SECONDS is 0 here: a worker with this setting does not audit.")
    return Plan(title="Audit the levels now", happens=tuple(happens), command="", button="Audit now", back="/drift")


def _perform(asked: Asked) -> str:
    settings = asked.console.settings
    with database(asked) as engine, lanes_of(settings) as lanes, engine.begin() as connection:
        require_bound(connection, lanes)  # the workers of another database have drift of their own
        audit.record(connection, ACTION, "everything", actor=asked.actor)
        drift_report.request_audit(lanes.redis, settings.keys)
    return "An audit was asked for: a worker begins within some seconds. This page shows how far it is."


route = act("audit-drift", _plan, _perform)
