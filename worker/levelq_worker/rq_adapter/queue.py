"""The RQ queue class: its wait for a wake-up ends when the worker is asked to stop."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

from redis import Redis
from rq import Queue
from rq.exceptions import DequeueTimeout, StopRequested

from levelq_core.redis_client.versions import OF_POOL
from levelq_core.untrusted_text import MOST_SHOWN, printable
from levelq_worker.draining.context import current
from levelq_worker.support.stop import Stop

_JOB_ID = re.compile(rb"[A-Za-z0-9_-]{1,200}")


class LaneQueue(Queue):
    """RQ's queue, for the runtime of this process."""

    @classmethod
    def lpop(cls, queue_keys: Sequence[str], timeout: int | None, connection: Redis | None = None) -> Any:
        """Take the first job: the queue's key and the job's id; None if there is none and `timeout` (in s) is None.

        An entry that is no job id is dropped. Raises DequeueTimeout after the timeout or after such an entry,
        StopRequested when the worker is asked to stop, and redis-py's errors.
        """
        if not timeout or connection is None:
            while (answer := super().lpop(queue_keys, timeout, connection)) is not None and not _is_job(answer):
                pass
            return answer
        stop = current().stop
        try:
            answer = _wait(connection, stop, "BLPOP", *queue_keys, timeout)
        except Exception:
            if stop.is_set():  # a closed socket raises various errors, more of them with TLS
                raise StopRequested from None
            raise
        if answer is None or not _is_job(answer):
            raise DequeueTimeout(timeout, queue_keys)
        return answer

    @classmethod
    def lmove(cls, connection: Redis, queue_key: str, timeout: int | None) -> Any:
        """The same for one queue, without RQ's intermediate list: a sweep replaces a lost wake-up."""
        return cls.lpop([queue_key], timeout, connection)

    def move_dependents_to_ready(self, *_: Any, **__: Any) -> dict[str, list[str]]:
        """Enqueue nothing: a wake-up has no dependents, and those of a planted job are ignored."""
        return {}

    def enqueue_dependents(self, *_: Any, **__: Any) -> dict[str, list[str]]:
        """The same, after a failure."""
        return {}


def _is_job(answer: tuple[Any, bytes]) -> bool:
    """Whether an entry is a job id of RQ's form. Any other entry would end RQ's worker."""
    entry = answer[1]
    if _JOB_ID.fullmatch(entry):
        return True
    shown = printable(entry, MOST_SHOWN)
    what = "dropped from a queue: expected a job id, got %(entry)s"
    current().cause_log.log(logging.WARNING, ("queue", None), "queue_entry_dropped", what, entry=shown)
    return False


def _wait(redis: Redis, stop: Stop, *command: str | int) -> Any:
    pool = redis.connection_pool
    connection: Any = pool.get_connection(*OF_POOL)
    try:
        connection.send_command(*command)
        with stop.ending_reads(connection._sock):
            if stop.is_set():
                raise StopRequested
            return connection.read_response()
    except BaseException:
        connection.disconnect()  # the next command would get its answer
        raise
    finally:
        pool.release(connection)
