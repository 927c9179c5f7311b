"""What the model of the lane protocol remembers: Redis, the queue of wake-ups, two workers, the ledger.

Time is not counted: whatever may happen later may happen now, and a deadline is over when a step ends it.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

T = TypeVar("T")
Commands = tuple[str, ...]
Batch = tuple[Commands | None, ...]  # per lane: what was read of it; None if the lane was not claimed


class Phase:
    """Where a worker is. Plain words rather than an enumeration: a million of them are compared."""

    IDLE = "idle"
    STARTED = "started"
    LOOKING = "looking"  # after a batch
    CLAIMED = "claimed"
    LOCKED = "locked"
    DECIDED = "decided"
    RETIRING = "retiring"  # only a mutant needs two steps for that
    WORKING = (CLAIMED, LOCKED, DECIDED)


class Lane(NamedTuple):
    """One lane in Redis. A token of 0: not claimed."""

    entries: Commands = ()
    ready: bool = False
    token: int = 0


class Redis(NamedTuple):
    """One partition. `ghost`: a drain that ended without a word is still registered."""

    lanes: tuple[Lane, ...]
    drains: tuple[bool, bool] = (False, False)
    ghost: bool = False
    reserved: bool = False
    counter: int = 0
    paused: bool = False


class Held(NamedTuple):
    """A claim: its token, and what was read of the lanes. A token of 0: there is none."""

    token: int = 0
    batch: Batch = ()


NOTHING = Held()


class Worker(NamedTuple):
    """One worker process: idle, or in a drain at one of its points, with the batch in hand.

    `ahead` was claimed while that batch was in hand; `acked` is an acknowledgement that Redis has not answered yet.
    """

    phase: str = Phase.IDLE
    token: int = 0
    batch: Batch = ()
    ahead: Held = NOTHING
    acked: Held = NOTHING

    @property
    def tokens(self) -> tuple[int, int, int]:
        """Those of everything it holds."""
        return self.token, self.ahead.token, self.acked.token


class State(NamedTuple):
    """Everything. `job`: a wake-up is queued. `ledger`: per lane, the commands in the order of their effect.

    `pushed`: per lane, how many commands were ever pushed; they are pushed in the order of their names.
    `gone`: what a rollback of Redis took with it, which may stay lost.
    `snapshot`: what Redis may be rolled back to; `rolled`: it was.
    """

    redis: Redis
    workers: tuple[Worker, Worker]
    ledger: tuple[Commands, ...]
    pushed: tuple[int, ...]
    job: bool = False
    gone: frozenset[str] = frozenset()
    snapshot: Redis | None = None
    rolled: bool = False


class Step(NamedTuple):
    """One step of one process. Steps that are no fault go on happening when they can: fairness is by `action`.

    `wrong`: what this step itself did that it must not do.
    """

    label: str
    action: str
    state: State
    fault: bool = False
    wrong: str = ""


def start(lanes: int) -> State:
    """Nothing pushed, no drain at work."""
    return State(Redis((Lane(),) * lanes), (Worker(), Worker()), ((),) * lanes, (0,) * lanes)


def with_item(items: tuple[T, ...], at: int, item: T) -> tuple[T, ...]:
    return (*items[:at], item, *items[at + 1 :])


# Not by _replace, which takes five times as long: these are called a million times.


def with_redis(state: State, redis: Redis) -> State:
    return State(redis, *state[1:])


def with_lanes(state: State, lanes: tuple[Lane, ...]) -> State:
    return State(Redis(lanes, *state.redis[1:]), *state[1:])


def with_lane(state: State, at: int, lane: Lane) -> State:
    return with_lanes(state, with_item(state.redis.lanes, at, lane))


def with_worker(state: State, w: int, worker: Worker) -> State:
    first, second = state.workers
    return State(state.redis, (first, worker) if w else (worker, second), *state[2:])


def with_drain(redis: Redis, w: int, registered: bool) -> Redis:
    """Redis with one worker's drain registered or not."""
    first, second = redis.drains
    if redis.drains[w] == registered:
        return redis
    return redis._replace(drains=(first, registered) if w else (registered, second))


def died(state: State, w: int) -> State:
    """A drain is gone without a word: its registration and its claims stay for as long as they last."""
    if state.redis.drains[w]:
        state = with_redis(state, with_drain(state.redis, w, False)._replace(ghost=True))
    return with_worker(state, w, Worker())


def abandoned(state: State, w: int) -> State:
    """Claims.abandon: what is left to do is to give the lanes back, with nothing acknowledged."""
    worker = state.workers[w]
    nothing = tuple([None if entries is None else () for entries in worker.batch])
    return with_worker(state, w, Worker(Phase.DECIDED, worker.token, nothing, worker.ahead, worker.acked))
