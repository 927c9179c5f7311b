"""Bytes of a command: in Redis while it waits, in PostgreSQL's log, in the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.capacity.costs import Sizes, Terms

from ..drain import drain
from ..rivals.levelq import Levelq
from ..site import Site
from ..workload import Grant
from .fitting import least_squares
from .shapes import COUNTED, Point

POINTS = (Point(1, 20_000), Point(100, 50_000), Point(1, 10_000, batch_lanes=50))


class Weighed(Levelq):
    """Notes, when all is queued, the memory of Redis and the position of PostgreSQL's log."""

    memory = wal = 0

    def fill(self, site: Site, grants: Sequence[Grant]) -> None:
        before = site.redis_bytes()
        super().fill(site, grants)
        self.memory = site.redis_bytes() - before
        self.wal = _wal(site)


def sizes(site: Site) -> Sizes:
    """Bytes, from three drains."""
    rows: list[tuple[float, float, float]] = []
    wal, memory = [], []
    with _without_page_images(site):
        for point in POINTS:
            rival = Weighed(2, **point.limits)
            drain(site, rival, point.workload)
            wal.append((_wal(site) - rival.wal) / point.commands)
            memory.append(rival.memory / point.commands)
            commands, lanes, _, batches = site.database.execute(COUNTED).fetchone() or (1, 0, 0, 0)
            rows.append((1.0, lanes / commands, batches / commands))
    lane = max(0.0, (memory[0] - memory[1]) / (1 - 1 / POINTS[1].commands_per_lane))
    tables = [_size(site, "pg_total_relation_size", name) for name in ("specialization_progress", "user_licenses")]
    return Sizes(
        redis_command=memory[0] - lane,
        redis_lane=lane,
        wal=Terms(**dict(zip(("command", "lane", "batch"), least_squares(rows, wal), strict=True))),
        ledger_row=_size(site, "pg_total_relation_size", "levelq_ledger") / POINTS[-1].commands,
        ledger_user_index_row=_size(site, "pg_relation_size", "levelq_ledger_user") / POINTS[-1].commands,
        learner=sum(tables) / POINTS[-1].workload.learners,
    )


@contextmanager
def _without_page_images(site: Site) -> Iterator[None]:
    """PostgreSQL logs a whole page at its first change after a checkpoint. That depends on the time between two
    checkpoints, which the model adds, not on the command."""
    site.database.execute("ALTER SYSTEM SET full_page_writes = off")
    site.database.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        site.database.execute("ALTER SYSTEM RESET full_page_writes")
        site.database.execute("SELECT pg_reload_conf()")


def _wal(site: Site) -> int:
    return site.number("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint")


def _size(site: Site, function: str, relation: str) -> int:
    return site.number(f"SELECT {function}('{relation}')")
