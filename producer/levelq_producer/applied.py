# Generated from async_applied.py by `make sync`: do not edit.
"""Read-your-writes: wait until all that was pushed to a lane so far is decided."""

from __future__ import annotations

import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from uuid import UUID

from redis.exceptions import RedisError

from levelq_core.domain.codec import FLAG_REPLY, IDENTITY_AT, IDENTITY_BYTES, STAMP_DIGITS, digest_in
from levelq_core.errors import OutcomeTimeout, OutcomeUnknown
from levelq_core.keys import Partition
from levelq_core.lanes import outcome_streams
from levelq_core.lanes.lane_tail import LaneTail
from levelq_core.redis_client.url_options import redacted

from .handle_base import LEDGER_SECONDS, require_timeout
from .sending import require_lane, unavailable
from .shared_read import Waiter
from .threads import Connections, ProcessConnections

if TYPE_CHECKING:
    from levelq_core.settings import Settings

_FIRST_SECONDS, _LONGEST_SECONDS, _GROWTH = 0.002, 0.1, 1.5  # between two looks at a lane
_EACH_SECONDS = 0.001  # of pause for each that waits: 1,000 looks a second at most, however many wait
_KEPT_SECONDS = 1.0  # between two looks, where the outcome of the last command is read as soon as it is kept


class AppliedWaits:
    """The waits of one producer: they share its connections, and their pauses grow with their number."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._waiting: set[object] = set()

    def wait(self, user_id: int, specialization: str, timeout: float | None) -> None:
        """See Producer.wait_until_applied."""
        seconds = require_timeout(timeout)
        lane = require_lane(self._connections.settings, user_id, specialization)
        wait = _LaneWait(self._connections, lane.user_id, lane.specialization, seconds, self._waiting)
        self._waiting.add(wait)
        try:
            wait.run()
        except RedisError as error:
            raise unavailable(self._connections.settings, str(error)) from error
        finally:
            self._waiting.discard(wait)


class _LaneWait:
    """One wait."""

    def __init__(
        self, connections: Any, user_id: int, specialization: str, timeout: float, waiting: set[object]
    ) -> None:
        self._settings: Settings = connections.settings
        self._connections: ProcessConnections = connections.get()
        self._user_id, self._specialization = user_id, specialization
        self._timeout, self._deadline = timeout, time.monotonic() + timeout
        self._waiting = waiting

    def run(self) -> None:
        """Note what the lane holds now, in Redis and in the outbox, and wait until that is decided."""
        lanes, ledger = self._connections.lanes, self._connections.ledger
        name, user_id = self._specialization, self._user_id
        # Read now: a change of the shard count moves lanes, and holds new commands back until the old ones are decided.
        layout = (lanes.layouts([name]))[name]
        tails = [(partition, lanes.tail(partition, user_id)) for partition in layout.holding(name, user_id)]
        with nullcontext() if ledger is None else ledger.waiting():
            if ledger is not None:
                self._await_outbox(ledger)
            for partition, tail in tails:
                if tail.waiting:
                    self._await_tail(partition, tail)

    def _await_outbox(self, ledger: Any) -> None:
        """Wait for the rows of the outbox: the transaction that decides a command removes its row."""
        lane = self._user_id, self._specialization
        row = ledger.last_in_outbox(*lane)
        while row is not None:
            if time.monotonic() >= self._deadline:
                raise self._too_late("commands wait in the outbox, or their lane; a worker's relay pushes them")
            time.sleep(min(ledger.pause(LEDGER_SECONDS), max(0, self._deadline - time.monotonic())))
            if ledger.last_in_outbox(*lane, row, row) is None:
                row = ledger.last_in_outbox(*lane, 0, row)  # what was before it, if it was cancelled

    def _await_tail(self, partition: Partition, tail: LaneTail) -> None:
        """Wait until an entry, and with it all before it, has left its lane."""
        entry, pause = tail.entry, _FIRST_SECONDS
        replies, waiter = self._connections.replies, self._waiter(entry)
        with nullcontext() if waiter is None else replies.waiting(waiter):
            while tail.waiting:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    raise self._too_late(f"commands waiting: {tail.waiting:,}; {_why(partition, tail)}")
                if waiter is None:
                    time.sleep(min(max(pause, _EACH_SECONDS * len(self._waiting)), left))
                    pause = min(pause * _GROWTH, _LONGEST_SECONDS)
                elif outcome := replies.wait(waiter, time.monotonic() + min(_KEPT_SECONDS, left), last=False):
                    if outcome.error != "cancelled":
                        return
                    waiter = None  # it was taken out of its turn: what was before it may wait
                earlier, tail = tail, self._connections.lanes.tail(partition, self._user_id, entry)
        if tail.lost_since(earlier) and not self._is_decided(entry):
            raise OutcomeUnknown(
                f"LEVELQ_REDIS_URL {redacted(self._settings.redis_url)}: restarted or emptied during this call, so it "
                f"is unknown whether all of user {self._user_id} {self._specialization} was decided; call again",
                user_id=self._user_id,
                specialization=self._specialization,
            )

    def _waiter(self, entry: bytes) -> Waiter | None:
        """Waits for the entry's outcome, if its sender had it kept."""
        stamp, payload = entry[:STAMP_DIGITS], entry[STAMP_DIGITS:]
        if len(entry) < IDENTITY_AT + IDENTITY_BYTES or not payload[3] & FLAG_REPLY or not stamp.isdigit():
            return None
        command_id = _id_of(entry)
        send = outcome_streams.send_key(digest_in(payload), int(stamp))
        return Waiter(self._settings.keys.reply(command_id.bytes), command_id, send, threading.Event())

    def _is_decided(self, entry: bytes) -> bool:
        """Whether the ledger, if there is one to read, has an entry that Redis no longer has."""
        ledger = self._connections.ledger
        if ledger is None or len(entry) < IDENTITY_AT + IDENTITY_BYTES:
            return False
        return ledger.outcome(_id_of(entry), digest_in(entry[STAMP_DIGITS:])) is not None

    def _too_late(self, why: str) -> OutcomeTimeout:
        lane = f"user {self._user_id} {self._specialization}"
        return OutcomeTimeout(
            f"{lane}: not all is decided after {self._timeout:g} s: {why}",
            timeout=self._timeout,
            user_id=self._user_id,
            specialization=self._specialization,
        )


def _id_of(entry: bytes) -> UUID:
    return UUID(bytes=entry[IDENTITY_AT : IDENTITY_AT + 16])


def _why(partition: Partition, tail: LaneTail) -> str:
    if tail.parked:
        return f"the lane is parked: {tail.parked}"
    if tail.claimed:
        return "a worker has claimed them"
    return f"workers drain {partition}" if tail.drains else f"no worker drains {partition}"
