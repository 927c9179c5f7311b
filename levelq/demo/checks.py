"""The verdict of the demo: `levelq verify`, one SQL check of its own, and the answers to senders and callers.

Each check shows how many cases it looked at, so a check of nothing is noticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from levelq.laboratory.environment import Environment
from levelq_core.operations.verify import Options, verify

from .scenario import Send

_INVARIANTS = {
    "I1": "nothing lost, nothing invented",
    "I2": "nothing doubled: each id once, exactly its changes",
    "I3": "levels are equal, the highest never fell",
    "I4": "one progression per level change, in one chain",
    "I5": "nothing reordered: decided in the order of sending",
    "I6": "batches are whole, nothing else wrote",
    "I7": "no lane is stranded, no claim without end",
    "I8": "no entry left its lane undecided",
}
_ANSWERS = {
    "duplicate": "sent twice: answered with the first decision",
    "conflict": "same id, other content: refused as a conflict",
}

# Both rows of every lane against what the ledger applied to it; each command starts where the one before it ended. A
# reset replaces the totals that it found.
_ROWS = """
    SELECT count(*),
           count(*) FILTER (WHERE (p.total_xp, p.completed_sessions, p.completed_projects, p.theory_hours_completed,
               p.practice_hours_completed) IS DISTINCT FROM (a.xp, a.sessions, a.projects, a.theory, a.practice)),
           count(*) FILTER (WHERE (p.current_level, l.current_level, l.max_achieved_level)
               IS DISTINCT FROM (a.level, a.level, a.highest) OR a.broken),
           (SELECT count(*) FROM levelq_quarantine)
    FROM specialization_progress p
    FULL JOIN user_licenses l ON l.user_id = p.student_id AND l.specialization_type = p.specialization_id
    FULL JOIN (
        SELECT user_id, specialization, (array_agg(to_level ORDER BY id DESC))[1] AS level, max(to_level) AS highest,
               bool_or(before IS DISTINCT FROM found) AS broken,
               sum(xp - was[4])::bigint AS xp, sum(sessions - was[5])::bigint AS sessions,
               sum(projects - was[6])::bigint AS projects, sum(theory_hours - was[7])::bigint AS theory,
               sum(practice_hours - was[8])::bigint AS practice
        FROM (
            SELECT *, lag(after, 1, '{1,1,1,0,0,0,0,0}') OVER (PARTITION BY user_id, specialization ORDER BY id)
                       AS found,
                   CASE kind WHEN 'reset' THEN before ELSE '{0,0,0,0,0,0,0,0}' END AS was
            FROM levelq_ledger WHERE status = 'applied'
        ) steps GROUP BY user_id, specialization
    ) a ON a.user_id = coalesce(p.student_id, l.user_id)
        AND a.specialization = coalesce(p.specialization_id, l.specialization_type)
"""

_DECISIONS = "SELECT command_id::text, status, from_level, to_level, after[4] FROM levelq_ledger"


class Recorded(NamedTuple):
    """What the demo's processes recorded: files of sends, how many failed, answers to repeated ones, direct calls."""

    records: Sequence[Path]
    failed: int
    answers: Sequence[dict[str, Any]]
    calls: Sequence[dict[str, Any]]


class Check(NamedTuple):
    """One line of the verdict."""

    name: str
    passed: bool
    detail: str


def check_all(environment: Environment, sends: Sequence[Send], recorded: Recorded) -> list[Check]:
    """All checks of a system at rest."""
    return [
        _counted("every send was acknowledged", recorded.failed, len(sends), "sends"),
        *_invariants(environment, recorded),
        *_rows(environment),
        *_decisions(environment, sends, recorded),
    ]


def _counted(name: str, wrong: int, cases: int, what: str) -> Check:
    return Check(name, wrong == 0, f"{wrong:,} wrong among {cases:,} {what}" if wrong else f"{cases:,} {what}")


def _invariants(environment: Environment, recorded: Recorded) -> Iterator[Check]:
    options = Options(history=recorded.records, at_rest=True)
    report = verify(environment.engine, environment.redis, environment.settings, options)
    for invariant, name in _INVARIANTS.items():
        checks = [check for check in report.checks if check.invariant == invariant and not check.note]
        cases, wrong = sum(check.checked for check in checks), sum(check.found for check in checks)
        yield _counted(f"{invariant} {name}", wrong, cases, "cases")


def _rows(environment: Environment) -> Iterator[Check]:
    with environment.engine.connect() as connection:
        pairs, totals, levels, quarantined = connection.exec_driver_sql(_ROWS).one()
    yield _counted("SQL: every total is the sum of what was applied", totals, pairs, "pairs of rows")
    yield _counted("SQL: both levels are where the last command led", levels, pairs, "pairs of rows")
    yield Check("SQL: nothing is quarantined", quarantined == 0, f"{quarantined} entries")


def _decisions(environment: Environment, sends: Sequence[Send], recorded: Recorded) -> Iterator[Check]:
    with environment.engine.connect() as connection:
        ledger = {row[0]: row for row in connection.exec_driver_sql(_DECISIONS)}
    rejected = {id_ for id_, row in ledger.items() if row.status == "rejected"}
    impossible = {str(send.command_id) for send in sends if send.fate == "rejected"}
    name = "rejected: the impossible commands, no others"
    yield _counted(name, len(rejected ^ impossible), len(impossible), "rejections")
    answers = {answer["id"]: answer for answer in recorded.answers}
    for fate, name in _ANSWERS.items():
        ids = [str(send.command_id) for send in sends if send.fate == fate]
        wrong = sum(not _answered(fate, answers.get(id_), ledger.get(id_)) for id_ in ids)
        yield _counted(name, wrong, len(ids), "answers")
    wrong = sum(not _returned(call["result"], ledger.get(call["id"])) for call in recorded.calls)
    yield _counted("direct calls: returned what the ledger says", wrong, len(recorded.calls), "calls")


def _answered(fate: str, answer: dict[str, Any] | None, row: Any) -> bool:
    if answer is None or row is None:
        return False
    if fate == "conflict":
        return (answer["status"], answer["error"], answer["duplicate"]) == ("rejected", "conflict", False)
    return bool(answer["duplicate"]) and answer["status"] == row.status


def _returned(result: dict[str, Any], row: Any) -> bool:
    if row is None or not result["success"]:
        return False
    levels = (result["license"]["old_level"], result["license"]["new_level"])
    return (*levels, result["progress"]["total_xp"]) == tuple(row[2:])
