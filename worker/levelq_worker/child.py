"""One worker process: `python -m levelq_worker.child [--burst] SPECIALIZATION...`, settings from the environment.

The supervisor starts these; exit code 2 tells it that starting again would not help.

RQ only carries wake-ups, and without its Redis a process can do its work as well: it looks for itself. That
is how a Redis that is full gets drained, which takes none of RQ's own writes.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from redis import Redis
from redis.exceptions import RedisError

from levelq_core.errors import ConfigurationError
from levelq_core.health import refusal
from levelq_core.lanes import connect
from levelq_core.partitions import QUEUE_PREFIX
from levelq_core.settings import Settings

from .draining import Drain
from .lane_worker import LaneWorker, rq_client
from .relaying import Relay
from .runtime import Runtime, spare_the_collector
from .sweeping import partitions

log = logging.getLogger("levelq")

OTHERS_SECONDS = 0.1  # between two looks at lanes that other workers hold


def main() -> int:
    """Work until asked to stop, or with --burst until nothing is due."""
    parser = argparse.ArgumentParser(prog="levelq_worker.child")
    parser.add_argument("--burst", action="store_true")
    parser.add_argument("specializations", nargs="+")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    try:
        settings = Settings.load()
        work = drain_until_empty if arguments.burst else serve
        return work(settings, arguments.specializations)
    except ConfigurationError as error:
        print(f"levelq: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except RedisError as error:
        print(f"levelq: LEVELQ_RQ_URL: {error}", file=sys.stderr)  # noqa: T201
        return 1


def serve(settings: Settings, specializations: Sequence[str]) -> int:
    """Work until asked to stop; 1 if RQ's Redis was lost on the way, and the process must begin anew."""
    if work_without_rq(settings, specializations):
        return 0
    queues = [QUEUE_PREFIX + name for name in specializations]
    worker = LaneWorker(queues, connection=rq_client(settings), settings=settings)
    worker.work(logging_level="WARNING")
    return 0 if worker.stopping else 1


def work_without_rq(settings: Settings, specializations: Sequence[str]) -> bool:
    """Work without wake-ups while RQ's Redis is away or takes no writes; True if asked to stop meanwhile."""
    rq = connect(settings.queue_url, settings.redis_seconds)
    why = _unusable(rq)
    if why is None:
        return False
    log.warning("working without wake-ups: %s", why)
    with _working(settings, specializations) as (runtime, relay):
        while _unusable(rq) is not None and not runtime.stop.is_set():
            try:
                _drain(runtime, relay, specializations)
            except RedisError as error:
                runtime.weather.failed(f"Redis: {error}")
            else:
                runtime.stop.wait(settings.sweep_seconds)
    return runtime.stop.is_set()


def _unusable(rq: Redis) -> str | None:
    try:
        return refusal(rq)
    except RedisError as error:
        return str(error)


def drain_until_empty(settings: Settings, specializations: Sequence[str]) -> int:
    """Relay and drain without waiting for wake-ups until no lane is due and none is held by anybody."""
    with _working(settings, specializations) as (runtime, relay):
        _drain(runtime, relay, specializations)
    return 0


@contextmanager
def _working(settings: Settings, specializations: Sequence[str]) -> Iterator[tuple[Runtime, Relay]]:
    """What it takes to work without RQ, until the end or a signal."""
    spare_the_collector()
    runtime = Runtime(settings)
    relay = Relay(settings, specializations)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: runtime.stop.set())
    try:
        yield runtime, relay
    finally:
        relay.release()
        runtime.close()


def _drain(runtime: Runtime, relay: Relay, specializations: Sequence[str]) -> None:
    while not runtime.stop.is_set():
        relay.poll()
        places = partitions(runtime.lanes, runtime.settings, specializations)
        for partition in places:
            runtime.lanes.sweep(partition)
        found = [(partition, runtime.lanes.status(partition)) for partition in places]
        due = [partition for partition, status in found if status.ready]
        for partition in due:
            Drain(runtime, partition).run()
        if not due:
            if not any(status.claimed for _, status in found) and not relay.elsewhere():
                break
            runtime.stop.wait(OTHERS_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
