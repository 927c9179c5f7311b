"""What the records of the readings have in common."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, PlainSerializer

from levelq_core.keys import Partition
from levelq_core.lanes import parked
from levelq_core.operations.parked_advice import remedy
from levelq_core.operations.wording import iso_utc, time_of

Time = Annotated[datetime, PlainSerializer(iso_utc, return_type=str, when_used="json")]


class Reading(BaseModel):
    """A frozen record; `model_dump_json()` gives its JSON."""

    model_config = ConfigDict(frozen=True, defer_build=True, ser_json_bytes="base64", val_json_bytes="base64")


class ParkedLane(Reading):
    """A lane that waits: since when, until when, why, and what to do about it.

    `until`: the earliest time of the next attempt, None while a worker has the lane or its user is paused. `user` is
    a text only if the key in Redis names no user.
    """

    partition: str
    user: int | str
    since: Time
    until: Time | None
    attempts: int
    reason: str
    remedy: str

    @classmethod
    def of(cls, partition: Partition, lane: parked.ParkedLane, held: str | None, **more: object) -> Self:
        """The record of a lane. `held`: what to do about the rows that other code holds."""
        return cls.model_validate({
            "partition": str(partition),
            "user": int(lane.user) if lane.user.isdecimal() else lane.user,
            "since": time_of(lane.since_ms),
            "until": None if lane.until_ms is None else time_of(lane.until_ms),
            "attempts": lane.attempts,
            "reason": lane.reason,
            "remedy": remedy(lane.reason, held),
            **more,
        })  # fmt: skip
