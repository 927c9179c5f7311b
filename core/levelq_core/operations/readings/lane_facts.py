"""What is known of one of a user's lanes: what its cause is told by."""

from __future__ import annotations

from dataclasses import dataclass

from levelq_core.lanes.worker_alerts import WorkerAlert
from levelq_core.operations.wording import count

from .levels import Levels, RowHolder
from .pauses import ActivePause
from .timeline import Event
from .waiting import OutboxRows, WaitingLane

HELD_SECONDS = 1.0  # for which other code may hold a row before it is a cause


@dataclass(frozen=True, kw_only=True)
class LaneFacts:
    """What is known of one lane. `redis` and `database`: why that server cannot be read, None if it can.

    `lane`: the one that holds commands, or is parked; None if neither. `workers`: how many serve it, None if that was
    not read; `drains`: how many drain its partition now. `idle_seconds`: since a drain last decided something there.
    `silent`: for how long the worker that has claimed it has not reported. `repair`: the command that repairs levels
    that differ, or after `--` why none can; `drift_policy`: how the workers' audits do. `last`: the newest event in the
    database.
    """

    user_id: int
    specialization: str
    claim_seconds: float
    sweep_seconds: float
    rq_url: str  # the setting that names RQ's Redis
    redis: str | None = None
    database: str | None = None
    lane: WaitingLane | None = None
    outbox: OutboxRows | None = None
    levels: Levels | None = None
    known: bool = True
    suspended: bool = False
    workers: int | None = None
    drains: int = 0
    idle_seconds: float | None = None
    blocked: bool = False
    restoring: bool = False
    alert: WorkerAlert | None = None
    silent: float = 0.0
    holders: tuple[RowHolder, ...] = ()
    repair: str = ""
    drift_policy: str = "report"
    last: Event | None = None

    @property
    def waits(self) -> bool:
        """Whether commands wait, in the lane or in the outbox."""
        return self.lane is not None or self.outbox is not None

    @property
    def paused(self) -> ActivePause | None:
        """What an operator has paused of it."""
        return self.lane.paused if self.lane else None

    @property
    def what(self) -> str:
        """How many commands wait."""
        in_lane = (self.lane.waiting or 0) if self.lane else 0
        number = in_lane or (self.outbox.total if self.outbox else 0)
        return f"{count(number, 'command')} {'waits' if number == 1 else 'wait'}"

    @property
    def holder(self) -> RowHolder | None:
        """The first session that is no worker's and has held a row for longer than a moment."""
        held = (h for h in self.holders if not h.is_worker and (h.seconds is None or h.seconds >= HELD_SECONDS))
        return next(held, None)

    @property
    def patience(self) -> float:
        """Seconds until the death of one worker no longer explains why nothing moves."""
        return self.claim_seconds + self.sweep_seconds

    @property
    def overdue(self) -> float:
        """For how many seconds the claim on the lane has been over; 0 if it is not claimed, or not over."""
        until = self.lane.claimed_until if self.lane else None
        return 0.0 if until is None or self.lane is None else max(0.0, (self.lane.now - until).total_seconds())

    @property
    def due_seconds(self) -> float:
        """For how long a worker might have claimed the lane."""
        due = self.lane.due_at if self.lane else None
        return 0.0 if due is None or self.lane is None else (self.lane.now - due).total_seconds()
