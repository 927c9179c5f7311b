"""Procrastinate, one job per level-up with a lock per user; run with -m it is the worker."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

from ..site import Site
from ..transaction import job
from ..workload import Grant
from .kinds import Promises, Workers

TASK = "level_up"
POLL_SECONDS = 0.1  # by default a worker that found every user locked is idle for 5 s


class ProcrastinateJobs:
    """Two processes, `concurrency` jobs at once in each."""

    most = 2_000

    def __init__(self, concurrency: int = 4) -> None:
        self.name = "procrastinate"
        self.how = f"2 processes of {concurrency} threads, a lock per user"
        self.promises = Promises("yes", "no", "by hand: it stays 'doing'")
        self._concurrency = concurrency

    def fill(self, site: Site, grants: Sequence[Grant]) -> None:
        site.database.execute("DROP SCHEMA IF EXISTS procrastinate CASCADE; CREATE SCHEMA procrastinate")
        with App(connector=SyncPsycopgConnector(conninfo=url_of(site))).open() as app:
            app.schema_manager.apply_schema()
            for user_id, xp in grants:
                app.configure_task(TASK, lock=f"user:{user_id}").defer(user_id=user_id, xp=xp)
        # A table filled at once has no statistics yet, and fetching a job by its lock needs them.
        site.database.execute("ANALYZE procrastinate.procrastinate_jobs")

    def work(self, site: Site) -> Workers:
        command = ["-m", __name__, url_of(site), str(self._concurrency)]
        return site.running(self.name, command, command, BENCH_THREADS=str(self._concurrency))


def url_of(site: Site) -> str:
    """Procrastinate's tables are in their own schema."""
    return f"{site.settings.database_url}&options=-csearch_path%3Dprocrastinate,public"


async def main(url: str, concurrency: int) -> None:
    app = App(connector=PsycopgConnector(conninfo=url, max_size=concurrency + 2))
    app.task(name=TASK)(job)
    async with app.open_async():
        await app.run_worker_async(
            concurrency=concurrency, delete_jobs="always", fetch_job_polling_interval=POLL_SECONDS
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
