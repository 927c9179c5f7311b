"""What `levelq verify` costs on a large ledger, and whether four times the rows take four times as long.

    .venv/bin/python -m benchmarks.verifying [--rows 250000 1000000] [--repeats 3]

A generated ledger of 20 commands per learner, the learners mixed, one level change each. For
each size, trials in turn: seconds, the checker's peak memory, PostgreSQL's temporary files, the longest transaction;
then the same with `--since` the last twentieth.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psycopg

from .command import options, temporary_site
from .site import Site

PER_LEARNER = 20
XP = 60  # the 17th command reaches level 2
LEVELQ = Path(sys.executable).with_name("levelq")

_LEDGER = """
    INSERT INTO levelq_ledger (command_id, user_id, specialization, kind, status, digest, xp, sessions, projects,
        theory_hours, practice_hours, from_level, to_level, before, after, batch, xid, source, applied_at)
    SELECT gen_random_uuid(), n %% %(users)s + 1, 'PLAYER', 'level_up', 'applied', '\\x00', %(xp)s, 1, 0, 0, 0,
           was, now, ARRAY[was, was, was, k * %(xp)s, k, 0, 0, 0],
           ARRAY[now, now, now, (k + 1) * %(xp)s, k + 1, 0, 0, 0],
           lpad(to_hex(n / 500), 32, '0')::uuid, n / 500, 'worker', now() - (%(rows)s - n) * interval '1 second'
    FROM generate_series(0, %(rows)s - 1) n CROSS JOIN LATERAL (SELECT n / %(users)s AS k) c
    CROSS JOIN LATERAL (SELECT CASE WHEN k * %(xp)s >= 1000 THEN 2 ELSE 1 END AS was,
                               CASE WHEN (k + 1) * %(xp)s >= 1000 THEN 2 ELSE 1 END AS now) l
"""
_ROWS = (
    "UPDATE specialization_progress SET current_level = 2, total_xp = %(total)s, completed_sessions = %(per)s",
    "UPDATE user_licenses SET current_level = 2, max_achieved_level = 2",
    "INSERT INTO license_progressions (user_license_id, from_level, to_level, requirements_met) "
    "SELECT id, 1, 2, '{}' FROM user_licenses",
    "VACUUM ANALYZE",
    "CHECKPOINT",
)


class Cost(NamedTuple):
    """One verification: seconds, bytes, bytes, seconds."""

    seconds: float
    memory: int
    temporary: int
    longest: float


class Watch(threading.Thread):
    """Reads every 20 ms how long the checker's transaction has been open."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._ended = threading.Event()
        self.longest = 0.0

    def run(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._ended.wait(0.02):
                found = connection.execute(
                    "SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) FROM pg_stat_activity "
                    "WHERE application_name LIKE 'levelq%' AND backend_xmin IS NOT NULL AND pid <> pg_backend_pid()"
                ).fetchone()
                self.longest = max(self.longest, float(found[0] or 0)) if found else self.longest

    def end(self) -> float:
        self._ended.set()
        self.join()
        return self.longest


def fill(site: Site, rows: int) -> None:
    """Make the ledger and the rows that agree with it."""
    users = rows // PER_LEARNER
    site.reset(users)
    values = {"users": users, "rows": rows, "xp": XP, "total": XP * PER_LEARNER, "per": PER_LEARNER}
    for statement in (_LEDGER, *_ROWS):
        site.database.execute(statement, values if "%(" in statement else None)


def measure(site: Site, *options: str) -> Cost:
    """Run the command once; raises CalledProcessError unless every invariant holds."""
    before = _temporary(site)
    watch = Watch(site.settings.database_url or "")
    watch.start()
    begun = time.monotonic()
    process = subprocess.Popen(
        [LEVELQ, "verify", *options], env=os.environ | site.settings.environment(), stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    longest = watch.end()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "levelq verify")
    return Cost(seconds, usage.ru_maxrss * 1024, _temporary(site) - before, longest)


def _temporary(site: Site) -> int:
    time.sleep(1)  # a backend that ends reports within a second
    return site.number("SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()")


def line(name: str, rows: int, costs: Sequence[Cost]) -> str:
    """The medians of one size."""
    middle = [median(values) for values in zip(*costs, strict=True)]
    return (
        f"{name:8} {rows:10,} rows  {middle[0]:7.1f} s  {middle[1] / 2**20:5.0f} MB memory  "
        f"{middle[2] / 2**20:7.0f} MB temporary files  {middle[3]:6.2f} s longest transaction"
    )


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[250_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    costs: dict[tuple[str, int], list[Cost]] = {}
    with temporary_site() as site:
        for _ in range(given.repeats):
            for rows in given.rows:
                fill(site, rows)
                costs.setdefault(("whole", rows), []).append(measure(site))
                costs.setdefault(("--since", rows), []).append(measure(site, "--since", f"{rows // 20}s"))
    for (name, rows), found in costs.items():
        print(line(name, rows, found))
    least, most = min(given.rows), max(given.rows)
    ratio = median(c.seconds for c in costs["whole", most]) / median(c.seconds for c in costs["whole", least])
    print(f"{most / least:.1f} x the rows took {ratio:.1f} x as long")


if __name__ == "__main__":
    main()
