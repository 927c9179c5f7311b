"""Why a user's lane is as it is and what to do next: a table of causes. The first that applies gives the sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from levelq_core.operations.parked_advice import is_locked, waiting_advice
from levelq_core.operations.wording import count, duration, one_line, when_utc

from .lane_facts import LaneFacts


class Cause(NamedTuple):
    """A cause by name, when it applies, and the reason and the next step in one sentence."""

    name: str
    applies: Callable[[LaneFacts], object]
    sentence: Callable[[LaneFacts], str]


def explain_cause(seen: LaneFacts) -> tuple[int, str, str]:
    """The first cause that applies: its rank in the table (the lower, the worse), its name and its sentence."""
    rank, cause = next((n, cause) for n, cause in enumerate(CAUSES) if cause.applies(seen))
    return rank, cause.name, f"{seen.specialization}: {cause.sentence(seen)}"


def other_causes(seen: LaneFacts, first: str) -> tuple[str, ...]:
    """The sentences of what else is wrong, and stays when the first cause has ended."""
    wrong = {cause.name: cause for cause in CAUSES if cause.name in _LASTING and cause.applies(seen)}
    if seen.paused or "row_locked" in wrong:
        wrong.pop("parked", None)  # by the pause, or by the lock
    if not seen.known:
        wrong.pop("no_worker", None)
    wrong.pop(first, None)
    return tuple(f"{seen.specialization}: {cause.sentence(seen)}" for cause in wrong.values())


def _paused(seen: LaneFacts) -> str:
    assert seen.paused is not None
    by, target = seen.paused, seen.specialization if seen.paused.user is None else f"--user {seen.user_id}"
    until = "" if by.until is None else f" until {when_utc(by.until)}"
    why = f" ({by.reason})" if by.reason else ""
    return f"{seen.what} because {by.actor} paused it{until}{why}; `levelq resume {target}` ends that"


def _held(seen: LaneFacts) -> str:
    assert seen.holder is not None
    return (
        f"{seen.holder.in_words()} holds its rows: commit or end that transaction; "
        f"to end it: SELECT pg_terminate_backend({seen.holder.pid})"
    )


def _parked(seen: LaneFacts) -> str:
    assert seen.lane is not None and seen.lane.parked is not None
    parked = seen.lane.parked
    left = parked.retry_in_seconds
    again = f"in {duration(left)}" if left else "now"
    return f"its first command cannot be applied: {parked.reason}; {parked.remedy}; it is tried again by itself {again}"


def _alert(seen: LaneFacts) -> str:
    assert seen.alert is not None
    advice = waiting_advice(seen.alert.what) or "they go on by themselves when that ends; `levelq doctor` shows more"
    return f"{seen.what} because workers cannot work: {seen.alert.what}; {advice}"


def _expired(seen: LaneFacts) -> str:
    assert seen.lane is not None
    who = seen.lane.claimed_by or "a worker"
    silent = f", which has been silent for {duration(seen.silent)}," if seen.silent else ""
    return (
        f"the claim of {who}{silent} ran out {duration(seen.overdue)} ago and no worker takes the lane back: "
        f"workers are dead, stopped, or cannot reach Redis; `levelq worker -s {seen.specialization}` starts one"
    )


def _claimed(seen: LaneFacts) -> str:
    assert seen.lane is not None and seen.lane.claimed_until is not None
    left = max(0.0, (seen.lane.claimed_until - seen.lane.now).total_seconds())
    who = seen.lane.claimed_by or "a worker"
    silent = f" (silent for {duration(seen.silent)})" if seen.silent else ""
    return f"{who}{silent} is applying it; if that worker dies, another takes it in {duration(left)}: wait"


def _due(seen: LaneFacts) -> str:
    assert seen.lane is not None
    ahead = seen.lane.ahead
    first = f"after {count(ahead, 'lane')} that came before it" if ahead else "next"
    return f"{seen.what} for a worker, which takes it {first}: wait; `levelq status` shows whether the backlog falls"


def _outbox(seen: LaneFacts) -> str:
    assert seen.outbox is not None
    since = "" if seen.outbox.unpushed_since is None else f" since {when_utc(seen.outbox.unpushed_since)}"
    if not seen.outbox.unpushed:
        return f"{seen.what} in the outbox and not in its lane; a worker pushes it again when it is overdue: wait"
    return f"{seen.what} in the outbox{since}; a worker pushes it within a second: wait; if it stays, `levelq status`"


def _out_of_step(seen: LaneFacts) -> str:
    assert seen.levels is not None
    shown = ("missing" if level is None else level for level in (seen.levels.progress_level, seen.levels.license_level))
    progress, license_ = shown
    step = seen.repair.removeprefix("-- ")
    if seen.repair.startswith("levelq "):
        by_itself = "" if seen.drift_policy == "report" else f", and so does the next audit ({seen.drift_policy})"
        step = f"`{seen.repair}` repairs it{by_itself}"
    return f"progress and license differ ({progress} and {license_}): code other than levelq wrote one of them; {step}"


def _rejected(seen: LaneFacts) -> str:
    assert seen.last is not None
    if seen.last.detail["error"] == "cancelled":
        return "nothing waits; an operator cancelled the last command: nothing to do"
    return (
        f"nothing waits; the last command was rejected ({one_line(seen.last.detail['message'])}): end the cause, then "
        f"`levelq rejected retry {seen.last.command_id}` sends it again"
    )


def _fine(seen: LaneFacts) -> str:
    level = "" if seen.levels is None else f", and both levels are {seen.levels.progress_level}"
    last = "" if seen.last is None else f"; the last command was {seen.last.what} at {when_utc(seen.last.at)}"
    return f"nothing waits{level}{last}: nothing to do"


def _parked_by_lock(seen: LaneFacts) -> object:
    return seen.lane and seen.lane.parked and is_locked(seen.lane.parked.reason) and seen.holder


# Causes that last beside any other, until an operator ends them.
_LASTING = ("paused", "not_in_catalog", "no_worker", "row_locked", "parked", "workers_waiting", "out_of_step")

CAUSES = (
    Cause("redis_away", lambda s: s.redis, lambda s: f"what waits is unknown: {s.redis}"),
    Cause(
        "suspended",
        lambda s: s.waits and s.suspended,
        lambda s: f"{s.what} because rq suspend stopped all workers; `rq resume --url ${s.rq_url}` lets them go on",
    ),
    Cause("paused", lambda s: s.waits and s.paused, _paused),
    Cause(
        "not_in_catalog",
        lambda s: s.waits and not s.known,
        lambda s: (
            f"{s.what}, but the catalog lacks this specialization, so no worker serves it; `levelq catalog` "
            "lists what it has, LEVELQ_CATALOG names another"
        ),
    ),
    Cause(
        "no_worker",
        lambda s: s.waits and s.workers == 0 and not s.drains,
        lambda s: f"{s.what} because no worker serves it; `levelq worker -s {s.specialization}` starts one",
    ),
    Cause(
        "resharding",
        lambda s: s.lane and s.blocked,
        lambda s: (
            f"{s.what} until the old shards are empty, or the layout is restored; `levelq status` says what holds "
            "that up"
        ),
    ),
    Cause(
        "restoring",
        lambda s: s.lane and s.restoring,
        lambda s: (
            f"{s.what} until a worker has put back what Redis lost of the outbox; `levelq status` shows whether "
            "workers can"
        ),
    ),
    Cause("row_locked", _parked_by_lock, _held),
    Cause("parked", lambda s: s.lane and s.lane.parked, _parked),
    Cause(
        "database_away",
        lambda s: s.waits and s.database,
        lambda s: f"{s.what} and cannot be applied from here: {s.database}",
    ),
    Cause("workers_waiting", lambda s: s.waits and s.alert, _alert),
    Cause("claim_expired", lambda s: s.overdue > s.sweep_seconds, _expired),
    Cause("row_held", lambda s: s.holder, _held),
    Cause("claimed", lambda s: s.lane and s.lane.claimed_until, _claimed),
    Cause(
        "stalled",
        lambda s: s.due_seconds > s.patience and not s.drains and (s.idle_seconds or s.patience) >= s.claim_seconds,
        lambda s: (
            f"{s.what}, due for {duration(s.due_seconds)}, and no worker takes it: workers are dead, stopped, or "
            f"cannot reach Redis; `levelq worker -s {s.specialization}` starts one"
        ),
    ),
    Cause("due", lambda s: s.lane, _due),
    Cause("in_outbox", lambda s: s.outbox, _outbox),
    Cause(
        "database_unread",
        lambda s: s.database,
        lambda s: f"nothing waits in its lane; what was decided is unknown: {s.database}",
    ),
    Cause("out_of_step", lambda s: s.levels and not s.levels.in_step, _out_of_step),
    Cause("rejected", lambda s: s.last and s.last.what == "rejected", _rejected),
    Cause(
        "quarantined",
        lambda s: s.last and s.last.what == "quarantined",
        lambda s: (
            "nothing waits; the last entry was no command and was quarantined: another program writes into the "
            "lane, or data was damaged; `levelq quarantine list` shows more"
        ),
    ),
    Cause("fine", lambda s: True, _fine),
)
