"""The verdict, from the tables and the record alone: plain SQL and a fold of its own, no levelq code.

Every check says what it found and how many things it looked at, so a tick on nothing shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from redis import Redis

from .record import Record
from .reference import Learner, apply
from .scenario import Place, Sent
from .watching import OUT_OF_STEP


class Check(NamedTuple):
    """One line of the verdict."""

    name: str
    passed: bool
    detail: str


class Row(NamedTuple):
    """One ledger row, as the checks need it."""

    command_id: UUID
    user_id: int
    specialization: str
    kind: str
    status: str
    xp: int
    sessions: int
    projects: int
    theory: int
    practice: int
    from_level: int | None
    to_level: int | None
    before: list[int] | None
    after: list[int] | None

    @property
    def place(self) -> Place:
        """The lane."""
        return self.user_id, self.specialization


_LEDGER = """
    SELECT command_id, user_id, specialization, kind, status, xp, sessions, projects, theory_hours, practice_hours,
           from_level, to_level, before, after
    FROM levelq_ledger ORDER BY id
"""

# Both rows of every lane.
_ROWS = """
    SELECT coalesce(p.student_id, l.user_id), coalesce(p.specialization_id, l.specialization_type),
           coalesce(p.current_level, 0), coalesce(l.current_level, 0), coalesce(l.max_achieved_level, 0), p.total_xp,
           p.completed_sessions, p.completed_projects, p.theory_hours_completed, p.practice_hours_completed
    FROM specialization_progress p
    FULL JOIN user_licenses l ON l.user_id = p.student_id AND l.specialization_type = p.specialization_id
"""

# Lanes whose totals are not the sum of what the ledger applied to them; a reset takes away what it found.
_SUMS = """
    SELECT count(*), count(*) FILTER (WHERE (p.total_xp, p.completed_sessions, p.completed_projects,
        p.theory_hours_completed, p.practice_hours_completed) IS DISTINCT FROM (s.xp, s.sessions, s.projects, s.theory,
        s.practice))
    FROM specialization_progress p FULL JOIN (
        SELECT user_id, specialization, sum(xp - was[4])::bigint AS xp, sum(sessions - was[5])::bigint AS sessions,
               sum(projects - was[6])::bigint AS projects, sum(theory_hours - was[7])::bigint AS theory,
               sum(practice_hours - was[8])::bigint AS practice
        FROM levelq_ledger, LATERAL (SELECT CASE kind WHEN 'reset' THEN before ELSE '{0,0,0,0,0,0,0,0}' END) AS r(was)
        WHERE status = 'applied' GROUP BY user_id, specialization
    ) s ON s.user_id = p.student_id AND s.specialization = p.specialization_id
"""

# Progressions that do not begin where the one before ended, and licenses that are not where their last one led.
_BROKEN_CHAINS = """
    WITH steps AS (
        SELECT user_license_id, from_level, to_level, id,
               lag(to_level, 1, 1) OVER (PARTITION BY user_license_id ORDER BY id) AS was
        FROM license_progressions
    ), last AS (SELECT DISTINCT ON (user_license_id) user_license_id, to_level FROM steps ORDER BY 1, id DESC)
    SELECT (SELECT count(*) FROM steps),
           (SELECT count(*) FROM steps WHERE from_level <> was OR from_level = to_level)
         + (SELECT count(*) FROM user_licenses l LEFT JOIN last ON last.user_license_id = l.id
            WHERE l.current_level <> coalesce(last.to_level, 1))
         + abs((SELECT count(*) FROM steps)
             - (SELECT count(*) FROM levelq_ledger WHERE status = 'applied' AND from_level <> to_level))
"""


def verify(database: psycopg.Connection[Any], redis: Redis, record: Record, namespace: str) -> list[Check]:
    """All checks on a system at rest."""
    ledger = [Row(*row) for row in database.execute(_LEDGER)]
    return list(
        chain(
            _against_the_record(ledger, record),
            _of_the_tables(database),
            _of_the_rules(database, ledger, record),
            _of_the_answers(ledger, record),
            [_lanes_empty(database, redis, namespace)],
        )
    )


def _check(name: str, wrong: int, seen: int, what: str) -> Check:
    return Check(name, wrong == 0, f"{seen:,} {what}" if not wrong else f"{wrong:,} wrong among {seen:,} {what}")


def _against_the_record(ledger: list[Row], record: Record) -> Iterator[Check]:
    ids = [row.command_id for row in ledger]
    decided = set(ids)
    due = record.acknowledged | set(record.succeeded)
    unsent = len(set(record.first_sends) - record.acknowledged) + len(record.refused)
    yield _check("every send was acknowledged", unsent, len(record.sends), "sends")
    yield _check("nothing lost: each acknowledged id is in the ledger", len(due - decided), len(due), "ids")
    yield _check("nothing doubled: each id is there once", len(ids) - len(decided), len(ids), "ledger rows")
    strange = sum(1 for row in ledger if not _as_sent(row, record.known.get(row.command_id)))
    yield _check("nothing invented: each row is what was sent", strange, len(ledger), "ledger rows")
    orders: dict[Place, list[UUID]] = {}
    for row in ledger:
        if row.command_id in record.first_sends:
            orders.setdefault(row.place, []).append(row.command_id)
    moved = sum(1 for place, order in record.lanes.items() if orders.get(place, []) != order)
    yield _check("nothing reordered: ledger order is push order", moved, len(record.lanes), "lanes")
    rejected = {row.command_id for row in ledger if row.status == "rejected"}
    expected = {command_id for command_id, sent in record.first_sends.items() if sent.fate == "rejected"}
    yield _check("rejected: those that had to be, no others", len(rejected ^ expected), len(expected), "rejections")


def _as_sent(row: Row, sent: Sent | None) -> bool:
    if sent is None:
        return False
    numbers = (sent.xp, sent.sessions, sent.projects, sent.theory, sent.practice)
    return row.place == sent.place and row.kind == sent.kind and row[5:10] == numbers


def _of_the_tables(database: psycopg.Connection[Any]) -> Iterator[Check]:
    def ask(statement: str) -> tuple[int, ...]:
        return tuple(database.execute(statement).fetchone() or ())

    pairs, wrong = ask(_SUMS)
    yield _check("every total is the sum of what the ledger applied", wrong, pairs, "pairs of rows")
    (apart,) = ask(OUT_OF_STEP)
    yield _check("progress level = license level", apart, pairs, "pairs of rows")
    licenses, above = ask(
        "SELECT count(*), count(*) FILTER (WHERE max_achieved_level < current_level) FROM user_licenses"
    )
    yield _check("no level is above the highest achieved", above, licenses, "licenses")
    steps, broken = ask(_BROKEN_CHAINS)
    yield _check("progressions form one chain per license", broken, steps, "progressions")


def _of_the_rules(database: psycopg.Connection[Any], ledger: list[Row], record: Record) -> Iterator[Check]:
    """Fold the recorded commands again, in the ledger's order, and compare every step and every row."""
    learners: dict[Place, Learner] = {}
    wrong = 0
    for row in ledger:
        sent = record.known.get(row.command_id)
        if sent is None:
            continue  # reported above
        was = learners.get(sent.place, Learner())
        now = apply(was, sent)
        if now is not None:
            learners[sent.place] = now
        wrong += not _decided_so(row, was, now)
    yield _check("each decision is what the rules say", wrong, len(ledger), "decisions")
    found = {(row[0], row[1]): list(row[2:]) for row in database.execute(_ROWS)}
    places = found.keys() | learners.keys()
    other = sum(1 for place in places if place not in learners or found.get(place) != learners[place].row)
    yield _check("each pair of rows is what the rules lead to", other, len(places), "pairs of rows")


def _decided_so(row: Row, was: Learner, now: Learner | None) -> bool:
    if now is None:
        return row.status == "rejected"
    start = was if was.progress else Learner(1, 1, 1)
    levels = (start.license, now.license)
    states = (row.before, row.after) == (start.row, now.row)
    return row.status == "applied" and (row.from_level, row.to_level) == levels and states


def _of_the_answers(ledger: list[Row], record: Record) -> Iterator[Check]:
    rows = {row.command_id: row for row in ledger}
    repeated = {sent.command_id: sent.fate for sent in record.sends if sent.fate in ("duplicate", "conflict")}
    for fate, name in (
        ("duplicate", "sent twice: answered with the first decision"),
        ("conflict", "same id, other content: refused as a conflict"),
    ):
        asked = {command_id for command_id, expected in repeated.items() if expected == fate}
        right = set()
        for answer in record.answers:
            row = rows.get(answer.command_id)
            if fate == "conflict":
                good = (answer.status, answer.error, answer.duplicate) == ("rejected", "conflict", False)
            else:
                good = answer.duplicate and row is not None and answer.status == row.status
            if good:
                right.add(answer.command_id)
        yield _check(name, len(asked - right), len(asked), "answers")
    failed = len(record.calls) - len(record.succeeded)
    wrong = sum(1 for command_id, call in record.succeeded.items() if not _returned(rows.get(command_id), call.result))
    yield _check("direct calls: returned what the ledger says", failed + wrong, len(record.calls), "calls")


def _returned(row: Row | None, result: dict[str, Any]) -> bool:
    if row is None or row.after is None:
        return False
    license_ = (result["license"]["old_level"], result["license"]["new_level"])
    return license_ == (row.from_level, row.to_level) and result["progress"]["total_xp"] == row.after[3]


def _lanes_empty(database: psycopg.Connection[Any], redis: Redis, namespace: str) -> Check:
    """Look for what should be gone by the names of the keys, and into the quarantine."""
    left = sum(1 for _ in redis.scan_iter(f"{namespace}:{{*}}:lane:*", count=10_000))
    for name in ("ready", "claimed"):
        left += sum(int(redis.zcard(key)) for key in redis.scan_iter(f"{namespace}:{{*}}:{name}", count=10_000))
    row = database.execute("SELECT count(*) FROM levelq_quarantine").fetchone()
    left += row[0] if row else 0
    return Check("at rest: no lane holds anything, nothing quarantined", left == 0, f"{left} left")
