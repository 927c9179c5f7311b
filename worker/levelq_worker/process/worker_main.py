"""One worker process, as the supervisor starts it.

RQ only carries wake-ups, and without its Redis a process can do its work as well: it looks for itself. That
is how a Redis that is full gets drained, which takes none of RQ's own writes.
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
from levelq_core.lanes.protocol import Status
from levelq_core.operations.key_faults import find_in_rq
from levelq_core.operations.redischeck.health import refusal
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings
from levelq_core.untrusted_text import printable
from levelq_worker.draining.context import Runtime, tune_gc
from levelq_worker.draining.drain import Drain
from levelq_worker.relay.thread import Relay
from levelq_worker.rq_adapter.suspension import suspension
from levelq_worker.rq_adapter.worker import LaneWorker
from levelq_worker.support.backoff import Backoff
from levelq_worker.support.partition_directory import PartitionDirectory
from levelq_worker.support.safe_log import log_safely
from levelq_worker.support.stop import Stop

log = logging.getLogger("levelq")

EXIT_MISCONFIGURED = 2  # the exit code after what no other start would fix
OTHERS_SECONDS = 0.1  # between two looks at lanes that other workers hold


def run(
    settings: Settings,
    specializations: Sequence[str],
    to_say: Semaphore | None = None,
    *,
    burst: bool,
) -> int:
    """Work until asked to stop, or with `burst` until nothing is due; the exit code.

    EXIT_MISCONFIGURED tells the supervisor that starting again would not help. `to_say`: the first worker of
    a supervisor that acquires it prints why; the others end for the same reason and print nothing.
    """
    log_safely()
    try:
        work = drain_until_empty if burst else serve
        return work(settings, specializations)
    except ConfigurationError as error:
        if to_say is None or to_say.acquire(block=False):
            for reason in error.reasons:
                print(f"levelq: {printable(reason)}", file=sys.stderr)  # noqa: T201
        return EXIT_MISCONFIGURED
    except RedisError as error:
        print(f"levelq: LEVELQ_RQ_URL: {error}", file=sys.stderr)  # noqa: T201
        return 1


def serve(settings: Settings, specializations: Sequence[str]) -> int:
    """Work until asked to stop.

    RQ ends a worker whose Redis is lost. Another begins in this process.
    """
    stop = _stopped_by_signals()
    pace = Backoff(settings.claim_seconds)
    while not stop.is_set():
        begun = time.monotonic()
        try:
            _work_without_rq(settings, specializations, stop)
            _work_with_rq(settings, specializations, stop)
        except RedisError as error:
            log.warning("LEVELQ_RQ_URL: %s", error)
        stop.wait(pace.after(time.monotonic() - begun))
    return 0


def _work_with_rq(settings: Settings, specializations: Sequence[str], stop: Stop) -> None:
    """Work at wake-ups, until RQ's Redis is lost or somebody asks to stop."""
    queues = [settings.keys.queue(name) for name in specializations]
    with connect(settings.queue_url, settings.redis_seconds) as rq:
        LaneWorker(queues, connection=rq, settings=settings, stop=stop).work(logging_level="WARNING")


def _work_without_rq(settings: Settings, specializations: Sequence[str], stop: Stop) -> None:
    """Work without wake-ups while RQ's Redis is away, takes no writes, or holds something else in RQ's keys."""
    queues = [settings.keys.queue(name) for name in specializations]
    with connect(settings.queue_url, settings.redis_seconds) as rq:
        why = _unusable(rq, queues)
        if why is None:
            return
        log.warning("working without wake-ups: %s", why)
        with _working(settings, specializations, stop) as (runtime, relay):
            while _unusable(rq, queues) is not None and not stop.is_set():
                try:
                    _drain(runtime, relay, specializations, rq)
                except RedisError as error:
                    runtime.outage.failed(f"Redis: {error}")
                else:
                    stop.wait(settings.sweep_seconds)


def _stopped_by_signals() -> Stop:
    """What SIGTERM and SIGINT ask for. RQ puts its own handlers in their place for as long as it works."""
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _unusable(rq: Redis, queues: Sequence[str]) -> str | None:
    try:
        why = refusal(rq)
        with suppress(NoPermissionError):  # to ask for types, which RQ does not need
            why = why or next(map(str, find_in_rq(rq, queues)), None)
    except RedisError as error:
        return str(error)
    return why


def _suspended(rq: Redis) -> str | None:
    """What `rq suspend` says, as far as it can be known."""
    try:
        return suspension(rq)
    except RedisError:
        return None


def drain_until_empty(settings: Settings, specializations: Sequence[str]) -> int:
    """Relay and drain without waiting for wake-ups until no lane is due and none is held by anybody.

    Raises ConfigurationError if workers are suspended.
    """
    with (
        connect(settings.queue_url, settings.redis_seconds) as rq,
        _working(settings, specializations, _stopped_by_signals()) as (runtime, relay),
    ):
        _drain(runtime, relay, specializations, rq)
        why = _suspended(rq)
        if why is not None:
            raise ConfigurationError(why)
    return 0


@contextmanager
def _working(settings: Settings, specializations: Sequence[str], stop: Stop) -> Iterator[tuple[Runtime, Relay]]:
    """What it takes to work without RQ."""
    tune_gc()
    runtime = Runtime(settings, stop)
    relay = Relay(settings, specializations, runtime.binding)
    try:
        yield runtime, relay
    finally:
        relay.release()
        runtime.close()


def _drain(runtime: Runtime, relay: Relay, specializations: Sequence[str], rq: Redis) -> None:
    _drain_all(runtime, relay, specializations, rq)
    if runtime.binding.refused is not None:
        raise runtime.binding.refused


def _drain_all(runtime: Runtime, relay: Relay, specializations: Sequence[str], rq: Redis) -> None:
    while not runtime.stop.is_set() and _suspended(rq) is None:
        with suppress(RedisError):  # of a cluster, its server may be away while those of the lanes are not
            runtime.binding.check(runtime.lanes)
        relay.poll()
        places = PartitionDirectory(runtime.lanes, specializations)
        found, failed = _look(runtime, places.read())
        due = [partition for partition, status in found if status.ready and not places.waits(partition)]
        for partition in due:
            Drain(runtime, partition).run()
        if not due:
            if failed is not None:
                raise failed
            if not any(places.waits(p) or status.claimed for p, status in found) and not relay.elsewhere():
                break
            runtime.stop.wait(OTHERS_SECONDS)


def _look(runtime: Runtime, known: Sequence[Partition]) -> tuple[list[tuple[Partition, Status]], RedisError | None]:
    """Sweep and count what answers, and why the rest did not: of a cluster, a server may be away."""
    found: list[tuple[Partition, Status]] = []
    failed: RedisError | None = None
    for partition in known:
        try:
            runtime.lanes.sweep(partition)
            found.append((partition, runtime.lanes.status(partition)))
        except RedisError as error:
            failed = error
    return found, failed
