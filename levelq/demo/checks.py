"""The verdict of the demo: `levelq verify`, and one SQL query that knows nothing of it.

Each check shows how many cases it looked at, so a check of nothing is noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import Engine

from levelq.laboratory.screen import WIDTH
from levelq_core.operations.verify import Report

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


class Check(NamedTuple):
    """One line of the verdict."""

    name: str
    passed: bool
    detail: str


def counted(name: str, wrong: int, cases: int, what: str) -> Check:
    """A check that passes if none of the cases is wrong."""
    return Check(name, wrong == 0, f"{wrong:,} wrong among {cases:,} {what}" if wrong else f"{cases:,} {what}")


def check_report(report: Report) -> list[Check]:
    """What `levelq verify` found, one check for each invariant."""
    found = []
    for invariant, name in _INVARIANTS.items():
        checks = [check for check in report.checks if check.invariant == invariant and not check.note]
        cases, wrong = sum(check.checked for check in checks), sum(check.found for check in checks)
        found.append(counted(f"{invariant} {name}", wrong, cases, "cases"))
    return found


def check_rows(engine: Engine) -> list[Check]:
    """The totals and the levels of both tables, from the ledger alone."""
    with engine.connect() as connection:
        pairs, totals, levels, quarantined = connection.exec_driver_sql(_ROWS).one()
    return [
        counted("SQL: every total is the sum of what was applied", totals, pairs, "pairs of rows"),
        counted("SQL: both levels are where the last command led", levels, pairs, "pairs of rows"),
        Check("SQL: nothing is quarantined", quarantined == 0, f"{quarantined} entries"),
    ]


def show_checks(console: Console, checks: Sequence[Check]) -> None:
    """One line per check, with a tick or a cross, and a number."""
    failed = sum(not check.passed for check in checks)
    verdict = (
        f"[bold red]{failed} of {len(checks)} checks failed" if failed else f"[bold green]all {len(checks)} passed"
    )
    console.print(f"[bold]Verified[/] with `levelq verify` and SQL: {verdict}")
    table = Table.grid(padding=(0, 1))
    table.width = min(WIDTH, console.width)
    table.add_column(width=1)
    table.add_column(ratio=1)
    table.add_column(justify="right", style="dim", no_wrap=True)
    for check in checks:
        mark = Text("✔", "bold green") if check.passed else Text("✖", "bold red")
        table.add_row(mark, Text(check.name, "" if check.passed else "bold red"), Text(check.detail))
    console.print(table)
