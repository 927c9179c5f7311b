"""The RQ queue class: to wait for a wake-up ends when the worker is asked to end, though nothing is raised for it."""

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
    """What RQ's is, for this process's runtime."""

    @classmethod
    def lpop(cls, queue_keys: Sequence[str], timeout: int | None, connection: Redis | None = None) -> Any:
        """The first job of these queues: the queue's key and the job's id; None if `timeout` is None and there is none.

        An entry that is no job id is dropped. Raises DequeueTimeout after so many seconds, or after such an entry,
        StopRequested once the worker is to end, and redis-py's errors.
        """
        if not timeout or connection is None:
            while (answer := super().lpop(queue_keys, timeout, connection)) is not None and not _is_job(answer):
                pass
            return answer
        stop = current().stop
        try:
            answer = _wait(connection, stop, "BLPOP", *queue_keys, timeout)
        except Exception:
            if stop.is_set():  # the end of the socket is an error of some kind, with TLS of several
                raise StopRequested from None
            raise
        if answer is None or not _is_job(answer):
            raise DequeueTimeout(timeout, queue_keys)
        return answer

    @classmethod
    def lmove(cls, connection: Redis, queue_key: str, timeout: int | None) -> Any:
        """The same for one queue. RQ keeps the job in a list beside it until it has begun; of a wake-up that is lost
        there another is given within seconds, by a sweep.
        """
        return cls.lpop([queue_key], timeout, connection)

    def move_dependents_to_ready(self, *_: Any, **__: Any) -> dict[str, list[str]]:
        """A wake-up has no dependents; those that a planted job names are not enqueued."""
        return {}

    def enqueue_dependents(self, *_: Any, **__: Any) -> dict[str, list[str]]:
        """The same, after a failure."""
        return {}


def _is_job(answer: tuple[Any, bytes]) -> bool:
    """Whether an entry is a job id, as RQ makes them. Another entry would end the worker."""
    entry = answer[1]
    if _JOB_ID.fullmatch(entry):
        return True
    shown = printable(entry, MOST_SHOWN)
    current().cause_log.log(logging.WARNING, ("queue", None), "dropped from a queue: expected a job id, got %s", shown)
    return False


def _wait(redis: Redis, stop: Stop, *command: str | int) -> Any:
    pool = redis.connection_pool
    connection: Any = pool.get_connection(*OF_POOL)
    try:
        connection.send_command(*command)
        with stop.shutting(connection._sock):
            if stop.is_set():
                raise StopRequested
            return connection.read_response()
    except BaseException:
        connection.disconnect()  # its answer would be taken for that to the next command
        raise
    finally:
        pool.release(connection)
