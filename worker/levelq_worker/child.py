"""One worker process: `python -m levelq_worker.child [--burst] SPECIALIZATION...`, settings from the environment.

The supervisor starts these; exit code 2 tells it that starting again would not help.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence

from redis import Redis
from redis.exceptions import RedisError

from levelq_core.errors import ConfigurationError
from levelq_core.partitions import QUEUE_PREFIX
from levelq_core.settings import Settings

from .draining import Drain
from .lane_worker import LaneWorker
from .relaying import Relay
from .runtime import Runtime
from .sweeping import partitions

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
        if arguments.burst:
            return drain_until_empty(settings, arguments.specializations)
        queues = [QUEUE_PREFIX + name for name in arguments.specializations]
        worker = LaneWorker(queues, connection=Redis.from_url(settings.queue_url), settings=settings)
        worker.work(logging_level="WARNING")
    except ConfigurationError as error:
        print(f"levelq: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except RedisError as error:
        print(f"levelq: LEVELQ_RQ_URL: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def drain_until_empty(settings: Settings, specializations: Sequence[str]) -> int:
    """Relay and drain without waiting for wake-ups until no lane is due and none is held by anybody."""
    runtime = Runtime(settings)
    relay = Relay(settings, specializations)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: runtime.stop.set())
    while not runtime.stop.is_set():
        relay.poll()
        places = partitions(runtime.lanes, settings, specializations)
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
    relay.release()
    runtime.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
