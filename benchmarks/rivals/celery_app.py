"""Celery, one task per level-up, acknowledged late; run with -m it is the worker."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from celery import Celery

from ..site import Site
from ..transaction import job
from ..workload import Grant
from .kinds import Promises, Workers

TASK = "level_up"


def app_at(url: str) -> Celery:
    """An application on that Redis, with Celery's settings for tasks that must not be lost."""
    app = Celery("bench", broker=url)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=4,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
    )
    app.task(name=TASK)(job)
    return app


class CeleryTasks:
    """Two worker processes with a pool of threads each."""

    most = 4_000

    def __init__(self, threads: int = 4) -> None:
        self.name = "Celery"
        self.how = f"2 processes of {threads} threads"
        self.promises = Promises("as the workers race", "no", "run again after an hour (visibility timeout)")
        self._threads = str(threads)

    def fill(self, site: Site, grants: Sequence[Grant]) -> None:
        app = app_at(url_of(site))
        with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
            for grant in grants:
                app.send_task(TASK, args=list(grant), producer=producer, ignore_result=True)

    def work(self, site: Site) -> Workers:
        arguments = ["worker", "--loglevel", "WARNING", "--pool", "threads", "--concurrency", self._threads]
        arguments += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        commands = [["-m", __name__, url_of(site), *arguments, "-n", f"worker{number}"] for number in range(2)]
        return site.running(self.name, *commands, BENCH_THREADS=self._threads)


def url_of(site: Site) -> str:
    """Celery's URL of a socket."""
    return "redis+socket://" + site.settings.redis_url.removeprefix("unix://")


if __name__ == "__main__":
    os.environ.setdefault("C_FORCE_ROOT", "1")
    app_at(sys.argv[1]).worker_main(sys.argv[2:])
