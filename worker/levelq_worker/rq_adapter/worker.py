"""The RQ worker class for levelq queues.

Used of RQ: its work loop, its registry of workers with their heartbeats, and `rq suspend`. Switched off: the fork for
each job (SimpleWorker), the job timeout by SIGALRM, every job but a wake-up (job.py), pubsub commands, and the retries
without end when Redis is lost: then this worker ends, and another one is started.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import ConnectionError, RedisError, TimeoutError
from rq import Queue, SimpleWorker, worker_registration
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty
from rq.worker import DequeueStrategy
from sqlalchemy.exc import DBAPIError

from levelq_core.database.urls import check_database_urls
from levelq_core.errors import ConfigurationError, WrongDatabase
from levelq_core.lanes.partition_directory import partitions
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings
from levelq_core.untrusted_text import MOST_SHOWN, printable
from levelq_worker.auditor import Auditor
from levelq_worker.draining.context import Runtime, install, tune_gc
from levelq_worker.metrics.figures import Figures
from levelq_worker.metrics.host import HostMetrics
from levelq_worker.relay.thread import Relay
from levelq_worker.reporter import Reporter
from levelq_worker.support.outage import describe
from levelq_worker.support.preflight import check_servers
from levelq_worker.support.stop import Stop
from levelq_worker.sweeper import Sweeper

from .job import LaneJob, RefusedJob
from .queue import LaneQueue

__all__ = ["LaneJob", "LaneWorker", "RefusedJob"]

NO_DRAIN = "none"  # no drain has this id
HEARTBEAT_SECONDS = 60  # beyond two claims: how long RQ keeps a silent worker registered


class NoJobTimeout(BaseDeathPenalty):
    """No job timeout: RQ's is a SIGALRM, which may interrupt a COMMIT. A drain has its own limits."""

    def setup_death_penalty(self) -> None:
        """Set no alarm."""

    def cancel_death_penalty(self) -> None:
        """There is no alarm."""


class RedisErrorFilter(logging.Filter):
    """Drops the forty lines that RQ logs at each failed attempt to reach Redis; levelq logs each outage once."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to keep a line."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, RedisError) and "could not connect to Redis" not in str(record.msg)


_redis_errors = RedisErrorFilter()


class LaneWorker(SimpleWorker):
    """An RQ worker for levelq queues: JSON jobs only, in this process, sweeping and relaying while it lives.

    Works from `levelq worker` and from `rq worker -w levelq_worker.LaneWorker levelq.PLAYER ...`. Ends when RQ's
    Redis is lost, full or silent; the caller starts another one. Raises ConfigurationError for a queue that is not of
    the namespace. `stop`: see Runtime. `figures`: where a supervisor's worker counts what it does.
    """

    job_class = LaneJob
    death_penalty_class = NoJobTimeout
    max_connection_wait_time = 1.0  # RQ sleeps up to a minute after a lost connection, and no signal ends that

    def __init__(
        self,
        queues: Any,
        *args: Any,
        connection: Redis | None = None,
        settings: Settings | None = None,
        stop: Stop | None = None,
        figures: Figures | None = None,
        **options: Any,
    ) -> None:
        self.settings = Settings.of(settings)
        check_database_urls(self.settings)
        given = [queues] if isinstance(queues, str | Queue) else list(queues)
        if connection is None:
            connection = next((q.connection for q in given if isinstance(q, Queue)), None)
        if connection is None:
            connection = connect(self.settings.queue_url, self.settings.redis_seconds)
        options |= {
            "connection": connection,
            "serializer": JSONSerializer,
            "job_class": LaneJob,
            "queue_class": LaneQueue,
        }
        options.setdefault("log_job_description", False)
        names = [q.name if isinstance(q, Queue) else q for q in given]
        self._require_own(names)
        super().__init__(names, *args, **options)
        self.log.addFilter(_redis_errors)
        self._supervised = stop is not None
        self._runtime = install(Runtime(self.settings, stop))
        if figures is not None:
            figures.observe(self._runtime.observers)

    def _require_own(self, queues: Sequence[str]) -> None:
        """Refuse queues of another namespace: this worker would take their wake-ups and drain its own lanes."""
        keys = self.settings.keys
        for name in queues:
            if keys.specialization(name) is None:
                expected = f"{keys.queue('SPECIALIZATION')}, like {keys.queue('PLAYER')}"
                raise ConfigurationError(f"queue {name}: expected {expected}; LEVELQ_NAMESPACE is {keys.namespace}")

    @property
    def specializations(self) -> Sequence[str]:
        """The specializations of this worker's queues."""
        return [name for q in self.queues if (name := self.settings.keys.specialization(q.name)) is not None]

    @property
    def dequeue_timeout(self) -> int:
        """How long to block for a wake-up; for so long a silent server goes unnoticed, and RQ's default is 405 s."""
        return max(1, int(self.settings.claim_seconds / 2))

    @property
    def connection_timeout(self) -> int:
        """How long to wait for any answer."""
        return self.dequeue_timeout + math.ceil(self.settings.redis_seconds)

    def get_heartbeat_ttl(self, *_: Any) -> int:
        """How long RQ keeps this worker registered without a heartbeat; a drain takes a slice and a transaction."""
        return int(2 * self.settings.claim_seconds) + HEARTBEAT_SECONDS

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Renew the registration. Raises RedisError, where RQ would retry for ever, up to a minute apart."""
        try:
            if pipeline is not None:
                self._register(pipeline)
                return
            with self.connection.pipeline(transaction=False) as own:
                self._register(own)
                own.execute()
        except (ConnectionError, TimeoutError) as error:
            raise RedisError(str(error)) from error

    def _register(self, pipeline: Pipeline) -> None:
        """Register as at the start: Redis may have lost the key, or it expired while the process was stopped."""
        if self.birth_date is not None and self.last_heartbeat is not None:
            pipeline.hset(self.key, mapping=self.serialize())
            worker_registration.register(self, pipeline)
        super().heartbeat(self.get_heartbeat_ttl(), pipeline)

    def unregister(self, rq: Redis) -> None:
        """Remove the registration of a worker that ended while Redis took no writes. Raises RedisError."""
        with rq.pipeline() as pipeline:
            worker_registration.unregister(self, pipeline)
            pipeline.delete(self.key, self.executions_key)
            pipeline.execute()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run a wake-up; after `rq suspend`, one that an idle worker had taken waits for `rq resume`."""
        job.origin = queue.name
        self.check_for_suspension(burst=False)
        super().execute_job(job, queue)

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """Log a job that failed, but not a failure of RQ's Redis or a lost binding, which are logged elsewhere.

        Refused jobs are logged once per reason while they come.
        """
        error = exc_info[1]
        if isinstance(error, RefusedJob):
            what, shown = "job %(job)s refused: %(error)s", printable(job.id, MOST_SHOWN)
            cause = "job", str(error)
            self._runtime.cause_log.log(logging.WARNING, cause, "job_refused", what, job=shown, error=error)
        elif not isinstance(error, RedisError | WrongDatabase):
            super().handle_exception(job, *exc_info)

    def subscribe(self) -> None:
        """Take no commands: RQ's are for forked jobs, and need one more connection."""

    @property
    def stopping(self) -> bool:
        """Whether the process is asked to stop."""
        return self._runtime.stop.is_set()

    def work(self, *args: Any, **options: Any) -> bool:
        """RQ's work loop, taking the queues in turn so that no specialization starves another.

        Raises ConfigurationError, before any work, for what `levelq doctor` calls an error (under a supervisor, which
        has checked that, only for what its own start needs) and if LEVELQ_METRICS_PORT is in use; WrongDatabase, before
        any work, or when the namespace is bound to another database meanwhile.
        """
        runtime = self._runtime
        reporter = Reporter(runtime, self.specializations, self.name)
        try:
            if self._supervised:
                runtime.transactions.probe()
            else:
                check_servers(self.settings)
            runtime.binding.verify(runtime.lanes, runtime.engine)
        except (DBAPIError, RedisError) as error:
            runtime.activity.wait(describe(error))
            runtime.outage.failed(describe(error))
            runtime.activity.enter("idle")
        except ConfigurationError:
            runtime.close()
            raise
        with self._serving_figures():
            return self._sweep_and_work(reporter, *args, **options)

    @contextmanager
    def _serving_figures(self) -> Iterator[None]:
        """Serve what this worker counts at LEVELQ_METRICS_PORT; under a supervisor, that does."""
        try:
            metrics = None if self._supervised else HostMetrics.open(self.settings, 1)
        except ConfigurationError:
            self._runtime.close()
            raise
        if metrics is None:
            yield
            return
        metrics.figures[0].observe(self._runtime.observers)
        metrics.began(0)
        server = metrics.serve_in_thread()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()

    def _sweep_and_work(self, reporter: Reporter, *args: Any, **options: Any) -> bool:
        runtime = self._runtime
        tune_gc()
        options["dequeue_strategy"] = DequeueStrategy.ROUND_ROBIN
        sweeper = Sweeper(self.settings, self.specializations, runtime.binding, runtime.observers)
        relay = Relay(self.settings, self.specializations, runtime.binding)
        auditor = Auditor(self.settings, runtime.binding)
        for thread in (reporter, sweeper, relay, auditor):
            thread.start()
        try:
            worked = bool(super().work(*args, **options))
            if runtime.binding.refused is not None:
                raise runtime.binding.refused
            return worked
        finally:
            auditor.stop()
            relay.stop()
            sweeper.stop()
            self._hand_over()
            reporter.stop()
            runtime.close()

    def _hand_over(self) -> None:
        """Wake other workers for what is due: a wake-up that this worker was about to take ends with it.

        Its reservation would keep other drains from being woken for up to 5 s, so a yield clears it.
        """
        runtime = self._runtime
        with suppress(RedisError):  # then a sweep wakes them
            for partition in partitions(runtime.lanes, self.specializations):
                with suppress(RedisError):
                    if runtime.lanes.yield_(partition, NO_DRAIN):
                        runtime.waker.wake(partition)

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        self._stop_requested = self.stopping  # the signal may have come before

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """On SIGTERM or SIGINT, once or again: the drain finishes its batch, hands over and the worker ends.

        RQ raises an exception here, which may interrupt anything.
        """
        self._runtime.stop.set()
        self._stop_requested = True
