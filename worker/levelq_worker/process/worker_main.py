"""One worker process, as the supervisor starts it.

RQ only carries wake-ups. While RQ's Redis is down or full, the process polls the lanes instead: so a full Redis, which
takes none of RQ's writes, is drained all the same.
"""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Semaphore

from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from levelq_core.errors import ConfigurationError
from levelq_core.keys import Partition
from levelq_core.lanes.partition_directory import PartitionDirectory
from levelq_core.lanes.pauses import Pause, pauses
from levelq_core.lanes.protocol import Status
from levelq_core.log_events import log_event
from levelq_core.operations.key_faults import find_in_rq
from levelq_core.operations.redischeck.health import refusal
from levelq_core.operations.rq_registry import suspension
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings
from levelq_core.untrusted_text import printable
from levelq_worker.draining.context import Runtime, tune_gc
from levelq_worker.draining.drain import Drain
from levelq_worker.draining.observing import Incident
from levelq_worker.metrics.figures import Figures
from levelq_worker.relay.thread import Relay
from levelq_worker.reporter import Reporter
from levelq_worker.rq_adapter.worker import LaneWorker
from levelq_worker.support.backoff import restart_backoff
from levelq_worker.support.outage import describe
from levelq_worker.support.safe_log import log_safely
from levelq_worker.support.stop import Stop

EXIT_MISCONFIGURED = 2  # no restart would help
POLL_SECONDS = 0.1  # between two looks at lanes that other workers hold


def run(
    settings: Settings,
    specializations: Sequence[str],
    may_print: Semaphore | None = None,
    *,
    burst: bool,
    figures: Figures | None = None,
) -> int:
    """Work until asked to stop, or with `burst` until nothing is due; the exit code.

    With EXIT_MISCONFIGURED the supervisor does not start it again. `may_print`: the first worker of a supervisor that
    acquires it prints why; the others end for the same reason and print nothing. `figures`: where it counts what it
    does.
    """
    log_safely(settings)
    try:
        return (drain_until_empty if burst else serve)(settings, specializations, figures)
    except ConfigurationError as error:
        if may_print is None or may_print.acquire(block=False):
            for reason in error.reasons:
                print(f"levelq: {printable(reason)}", file=sys.stderr)  # noqa: T201
        return EXIT_MISCONFIGURED
    except RedisError as error:
        print(f"levelq: LEVELQ_RQ_URL: {printable(str(error))}", file=sys.stderr)  # noqa: T201
        return 1


def serve(settings: Settings, specializations: Sequence[str], figures: Figures | None = None) -> int:
    """Work until asked to stop. RQ's worker ends when it loses its Redis; then another one begins in this process."""
    stop = _stop_at_signals()
    queues = [settings.keys.queue(name) for name in specializations]
    backoff = restart_backoff(settings.claim_seconds)
    ended: LaneWorker | None = None
    while not stop.is_set():
        begun = time.monotonic()
        try:
            with connect(settings.queue_url, settings.redis_seconds) as rq:
                why = _unusable(rq, queues)
                if why is not None:
                    log_event(logging.WARNING, "wake_ups_unusable", "working without wake-ups: %(error)s", error=why)
                    _poll_while_unusable(settings, specializations, stop, rq, queues, figures)
                if ended is not None:
                    ended.unregister(rq)
                ended = LaneWorker(queues, connection=rq, settings=settings, stop=stop, figures=figures)
                ended.work(logging_level="WARNING")
        except RedisError as error:
            log_event(logging.WARNING, "rq_lost", "LEVELQ_RQ_URL: %(error)s", error=error)
        stop.wait(backoff.next_delay(time.monotonic() - begun))
    return 0


def _poll_while_unusable(
    settings: Settings,
    specializations: Sequence[str],
    stop: Stop,
    rq: Redis,
    queues: list[str],
    figures: Figures | None,
) -> None:
    """Work without wake-ups while RQ's Redis is down, takes no writes, or holds other types in RQ's keys."""
    tune_gc()
    with working(settings, specializations, stop, figures) as (runtime, relay), reporting(runtime, specializations):
        while _unusable(rq, queues) is not None and not stop.is_set():
            try:
                drain_all(runtime, relay, specializations, rq)
            except RedisError as error:
                runtime.activity.wait(describe(error))
                runtime.outage.failed(describe(error))
                runtime.activity.enter("idle")
            else:
                stop.wait(settings.sweep_seconds)


def _stop_at_signals() -> Stop:
    """A Stop that SIGTERM and SIGINT set. RQ's worker replaces the handlers while it works."""
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _unusable(rq: Redis, queues: Sequence[str]) -> str | None:
    """Why RQ's Redis cannot carry wake-ups; None if it can."""
    try:
        why = refusal(rq)
        with suppress(NoPermissionError):  # for TYPE, which RQ does not need
            why = why or next(map(str, find_in_rq(rq, queues)), None)
    except RedisError as error:
        return str(error)
    return why


def drain_until_empty(settings: Settings, specializations: Sequence[str], figures: Figures | None = None) -> int:
    """Relay and drain without wake-ups until no lane is due or claimed.

    Raises ConfigurationError if workers are suspended.
    """
    tune_gc()
    with (
        connect(settings.queue_url, settings.redis_seconds) as rq,
        working(settings, specializations, _stop_at_signals(), figures) as (runtime, relay),
        reporting(runtime, specializations),
    ):
        drain_all(runtime, relay, specializations, rq)
        why = _suspended(rq)
        if why is not None:
            raise ConfigurationError(why)
    return 0


@contextmanager
def working(
    settings: Settings, specializations: Sequence[str], stop: Stop, figures: Figures | None = None
) -> Iterator[tuple[Runtime, Relay]]:
    """A runtime and a relay, to work without RQ."""
    runtime = Runtime(settings, stop)
    if figures is not None:
        figures.observe(runtime.observers)
    relay = Relay(settings, specializations, runtime.binding)
    try:
        yield runtime, relay
    finally:
        relay.release()
        runtime.close()


@contextmanager
def reporting(runtime: Runtime, specializations: Sequence[str]) -> Iterator[None]:
    """Report what this process does, for `levelq workers`, until the block ends."""
    reporter = Reporter(runtime, specializations)
    reporter.start()
    try:
        yield
    finally:
        reporter.stop()


def drain_all(runtime: Runtime, relay: Relay, specializations: Sequence[str], rq: Redis) -> None:
    """Relay and drain until no lane is due or claimed, or until asked to stop. Raises WrongDatabase, RedisError."""
    while not runtime.stop.is_set() and _suspended(rq) is None:
        with suppress(RedisError):  # on a cluster, the server of this key may be down while others are not
            runtime.binding.check(runtime.lanes)
        relay.poll()
        directory = PartitionDirectory(runtime.lanes, specializations)
        found, failure = _sweep(runtime, directory.read())
        blocked = {p for p, _, _ in found if directory.layouts[p.specialization].is_blocked(p)}
        due = [p for p, status, paused in found if status.ready and p not in blocked and None not in paused]
        for partition in due:
            Drain(runtime, partition).run()
        if not due:
            if failure is not None:
                raise failure
            paused_names = {p.specialization for p, _, paused in found if paused}  # it may keep a change from its end
            busy = {p.specialization for p in blocked} - paused_names or any(status.claimed for _, status, _ in found)
            if not busy and not relay.waits_for_other_relays():
                break
            runtime.stop.wait(POLL_SECONDS)
    if runtime.binding.refused is not None:
        raise runtime.binding.refused


def _suspended(rq: Redis) -> str | None:
    """Why workers are suspended, if they are; None also if RQ's Redis does not answer."""
    try:
        return suspension(rq)
    except RedisError:
        return None


_Swept = tuple[Partition, Status, dict[int | None, Pause]]


def _sweep(runtime: Runtime, known: Sequence[Partition]) -> tuple[list[_Swept], RedisError | None]:
    """Sweep and count the partitions; the last error, because on a cluster one server may be down."""
    lanes = runtime.lanes
    found: list[_Swept] = []
    failure: RedisError | None = None
    for partition in known:
        try:
            _, returned = lanes.sweep(partition)
            if returned:
                runtime.observers.met(Incident("claims_expired", partition.specialization, returned))
            found.append((partition, lanes.status(partition), pauses(lanes.redis, lanes.keys, partition)))
        except RedisError as error:
            failure = error
    return found, failure
