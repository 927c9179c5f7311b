"""Outcomes on their way back to the sender that asked: one small stream per flagged command.

A stream, because reading does not consume it: any number of processes may wait for the same command,
before and after it is decided, and XREAD blocks without polling.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis import Redis

from .outcome import Outcome
from .partitions import reply_key

FIELD = b"outcome"


def write(redis: Redis, outcomes: Iterable[Outcome], seconds: int) -> None:
    """Keep outcomes for `seconds`, in one round trip. Again for the same command: the last one is read."""
    pipeline = redis.pipeline(transaction=False)
    for outcome in outcomes:
        key = reply_key(outcome.command_id.bytes)
        pipeline.xadd(key, {FIELD: outcome.model_dump_json()}, maxlen=1, approximate=False)
        pipeline.expire(key, seconds)
    if len(pipeline):
        pipeline.execute()


def read(reply: Any) -> Outcome | None:
    """The outcome in an XREAD's reply, if there is one."""
    streams = reply.items() if isinstance(reply, dict) else reply or ()
    for _, entries in streams:
        nested = entries and isinstance(entries[0], list)  # RESP3's replies are one level deeper
        for _, fields in entries[0] if nested else entries:
            return Outcome.model_validate_json(fields[FIELD])
    return None
