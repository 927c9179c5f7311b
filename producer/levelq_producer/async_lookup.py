"""Finds out what became of a command: decided, or queued in a lane or in the outbox."""

from __future__ import annotations

from typing import Literal, NamedTuple
from uuid import UUID

from redis.exceptions import RedisError

from levelq_core.domain.outcome import Outcome
from levelq_core.domain.record import Lane
from levelq_core.errors import LevelqError, OutcomeUnknown
from levelq_core.keys import Partition

from .event_loops import LoopConnections
from .sending import unavailable

OUTBOX = "the outbox"

State = Literal["queued", "decided", "unknown"]


class Found(NamedTuple):
    """Where a command is. `place`: what holds it while it is queued; `specialization`: its own, if it is known."""

    state: State
    outcome: Outcome | None = None
    place: str = ""
    specialization: str = ""


async def find(connections: LoopConnections, command_id: UUID, lane: Lane | None) -> Found:
    """Look in Redis's replies, in the ledger, in the lanes and in the outbox; in one lane, if it is known.

    Raises OutcomeUnknown if the lane is not known and too many commands wait to search all, QueueUnavailable and
    ConfigurationError if Redis or the ledger cannot be read.
    """
    try:
        return await _decided(connections, command_id) or await _search(connections, command_id, lane)
    except RedisError as error:
        raise unavailable(connections.settings, str(error)) from error


async def explain(
    connections: LoopConnections, command_id: UUID, lane: Lane | None
) -> tuple[Found | None, int | None, str]:
    """For a timeout: where the command is, how many workers serve it (None if unknown), and both in words."""
    try:
        found = await _search(connections, command_id, lane)
    except (LevelqError, RedisError) as error:
        return None, None, f"; its state cannot be read: {error}"
    if found.state == "unknown":
        kept = f" (outcomes are kept for {connections.settings.reply_seconds} s)" if not connections.ledger else ""
        return found, None, f"; its state is unknown: never sent, or decided and no longer kept{kept}"
    if found.state == "decided":
        return found, None, "; it is decided by now"
    waits = ""
    try:
        if lane is not None and found.place != OUTBOX:
            tail = await connections.lanes.tail(Partition.parse(found.place), lane.user_id)
            waits = tail.parked and f"; its lane waits: {tail.parked}"
        workers = await connections.waker.workers(found.specialization)
    except RedisError as error:
        return found, None, f"; it is queued in {found.place}{waits}; which workers serve it cannot be read: {error}"
    serve = f"{workers} workers serve" if workers > 1 else "1 worker serves"
    if not workers:
        serve = f"no worker serves (`levelq worker -s {found.specialization}` starts one)"
    return found, workers, f"; it is queued in {found.place}, which {serve}{waits}"


async def _search(connections: LoopConnections, command_id: UUID, lane: Lane | None) -> Found:
    """Look where it may be queued, then for a decision: it goes from the outbox to a lane to the ledger."""
    unread: list[str] = []
    found = await _queued(connections, command_id, lane, unread) or await _decided(connections, command_id)
    if found is None and unread:
        raise OutcomeUnknown(
            f"command_id: {command_id} is not decided, and {', '.join(unread)} holds too many commands to search: "
            "give user_id and specialization, and only that lane is searched",
            command_id=command_id,
        )
    return found or Found("unknown")


async def _queued(connections: LoopConnections, command_id: UUID, lane: Lane | None, unread: list[str]) -> Found | None:
    """Look in the lanes, then in the outbox; notes partitions that hold too much to be searched."""
    layouts = await connections.lanes.layouts([lane.specialization] if lane else sorted(connections.settings.tracks))
    for name, layout in layouts.items():
        for partition in layout.holding(name, lane.user_id) if lane else layout.all_partitions(name):
            held = await connections.lanes.holds(partition, command_id, lane.user_id if lane else None)
            if held:
                return Found("queued", place=str(partition), specialization=name)
            if held is None:
                unread.append(str(partition))
    if connections.ledger is not None and (own := await connections.ledger.in_outbox(command_id)):
        return Found("queued", place=OUTBOX, specialization=own)
    return None


async def _decided(connections: LoopConnections, command_id: UUID) -> Found | None:
    outcome: Outcome | None = None
    try:
        outcome = await connections.lanes.kept_outcome(command_id)
    except RedisError:
        if connections.ledger is None:
            raise
    if outcome is None and connections.ledger is not None:
        outcome = await connections.ledger.outcome(command_id)
    return None if outcome is None else Found("decided", outcome, specialization=outcome.specialization)
