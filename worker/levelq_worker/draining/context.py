"""What one worker process holds: settings, connections, and the state its drains share."""

from __future__ import annotations

import gc

from levelq_core.database.engine import engine_for
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.wakeups import Waker
from levelq_core.redis_client.pool import connect
from levelq_core.settings import Settings
from levelq_core.tracing import flush as flush_spans
from levelq_worker.support.binding import Binding
from levelq_worker.support.outage import MOST_SECONDS, Outage, alerts_of
from levelq_worker.support.stop import Stop

from .activity import Activity
from .batch_size import BatchSize
from .batch_spans import trace_batch
from .cause_log import CauseLog
from .observing import Observers, log_batch
from .transaction import Transactions


class Runtime:
    """One at a time in a process. Connections are made at first use. `stop`: set when the process is to end."""

    def __init__(self, settings: Settings, stop: Stop | None = None) -> None:
        self.settings = settings
        self.stop = stop or Stop()
        self.binding = Binding(self.stop, settings.sweep_seconds)
        # A call that outlives its claim would act on lanes that another drain has claimed.
        seconds = min(settings.redis_seconds, settings.claim_seconds / 2)
        redis = connect(settings.redis_url, seconds)
        self.lanes = Lanes(redis, settings)
        self.waker = Waker(redis, connect(settings.queue_url, seconds), settings.keys)
        self.engine = engine_for(settings, name="levelq worker", limited=True)
        self.transactions = Transactions(self.engine, settings, settings.tracks)
        longest = min(MOST_SECONDS, settings.claim_seconds / 2)
        self.outage = Outage(self.stop, most_seconds=longest, notices=alerts_of(redis, settings))
        self.cause_log = CauseLog()
        self.observers = Observers()
        self.activity = Activity()
        self.observers.add(trace_batch)
        self.observers.add(log_batch)
        self.batch_size = BatchSize(settings.batch_commands, settings.batch_seconds)

    def close(self) -> None:
        """Give the connections back."""
        self.outage.end()
        self.lanes.redis.close()
        self.engine.dispose()
        flush_spans()


def tune_gc() -> None:
    """Have this worker process look for reference cycles less often than a batch makes objects.

    A batch makes some 30,000 and frees them all at its end; at the default threshold of 700 the collector walks
    through them over and over.
    """
    if not gc.get_freeze_count():  # once in a process: what is garbage by now would never be collected
        gc.freeze()
    gc.set_threshold(100_000, 20, 20)


_current: Runtime | None = None


def current() -> Runtime:
    """This process's runtime; made from the environment if no worker installed one."""
    return _current if _current is not None else install(Runtime(Settings.load()))


def install(runtime: Runtime) -> Runtime:
    """Make this the process's runtime."""
    global _current  # noqa: PLW0603 - RQ calls the job with a name only, so the process must know the rest
    _current = runtime
    return runtime
