"""The protocol with one thing done otherwise: each is an easy mistake, and the search must find what it breaks.

And `Counted` and `Processes`, tokens that are no fence: with `ByCount` they break it, with the rest of the
protocol as it is they do not, as the ledger and the trim by identity do not rely on them.
"""

from __future__ import annotations

from collections.abc import Iterator

from .model import Protocol
from .state import Batch, Commands, Lane, Phase, Redis, State, Step, Worker, with_lanes, with_redis, with_worker


class Processes(Protocol):
    """The token is a process id, and in two containers that may be the same."""

    unique_tokens = False

    def token(self, state: State) -> tuple[int, int]:
        return 1, 0


class Counted(Protocol):
    """The token comes from a counter in Redis: unique, as long as Redis does not go back.

    Three claims at most, or there would be no end of states.
    """

    unique_tokens = False

    def token(self, state: State) -> tuple[int, int]:
        return state.redis.counter + 1, state.redis.counter + 1

    def claim(self, state: State, w: int) -> Iterator[Step]:
        if state.redis.counter < 3:
            yield from super().claim(state, w)


class ByCount(Protocol):
    """ack.lua removes as many entries as were decided, whichever they are."""

    def trim(self, entries: Commands, decided: Commands) -> int:
        return min(len(entries), len(decided))


class ByCountOfProcesses(ByCount, Processes):
    """Trim by count, and the token is a process id."""


class ByCountOfCounted(ByCount, Counted):
    """Trim by count, and the token comes from a counter in Redis."""


class AckFirst(Protocol):
    """Acknowledge what was claimed, then apply it."""

    def lock(self, state: State, w: int) -> Iterator[Step]:
        worker = state.workers[w]
        lanes = tuple(
            Lane(lane.entries[len(entries) :], ready=len(lane.entries) > len(entries))
            if entries is not None and lane.token == worker.token
            else lane
            for lane, entries in zip(state.redis.lanes, worker.batch, strict=True)
        )
        after = with_worker(with_lanes(state, lanes), w, Worker(Phase.LOCKED, worker.token, worker.batch))
        yield Step(f"worker {w + 1}: ack.lua, then locks its rows", f"lock {w}", after)


class TwiceInABatch(Protocol):
    """coupler.fold asks the ledger, and does not look whether an id comes twice in the batch."""

    def decide(self, state: State, w: int) -> tuple[Commands, ...]:
        return tuple(
            (*known, *(command for command in entries or () if command not in known))
            for known, entries in zip(state.ledger, state.workers[w].batch, strict=True)
        )


class LedgerForgotten(Protocol):
    """No process reads the ledger: what is delivered again takes effect again."""

    def decide(self, state: State, w: int) -> tuple[Commands, ...]:
        batch = state.workers[w].batch
        return tuple(
            (*known, *dict.fromkeys(entries or ())) for known, entries in zip(state.ledger, batch, strict=True)
        )


class RetiresInTwoSteps(Protocol):
    """claim.lua returns that nothing is due; the drain then unregisters by another call."""

    def retire(self, state: State, w: int) -> State:
        return with_worker(state, w, Worker(Phase.RETIRING))


class AppendsFirst(Protocol):
    """push.lua appends the command, and then makes the lane ready."""

    def append(self, lane: Lane, command: str) -> tuple[Lane, Lane]:
        appended = lane._replace(entries=(*lane.entries, command))
        return appended, appended if lane.token else appended._replace(ready=True)


class LowersReady(Protocol):
    """push.lua makes the lane ready without looking whether it is claimed."""

    def append(self, lane: Lane, command: str) -> tuple[Lane, Lane]:
        ready = lane._replace(ready=True)
        return ready, ready._replace(entries=(*lane.entries, command))


class PopsLanesFirst(Protocol):
    """claim.lua takes the due lanes out of ready, then reads their heads; at a key of the wrong type it dies."""

    def claim(self, state: State, w: int) -> Iterator[Step]:
        yield from super().claim(state, w)
        lanes = tuple(lane._replace(ready=False) for lane in state.redis.lanes)
        after = with_lanes(state, lanes)
        yield Step(f"worker {w + 1}: claim.lua pops what is ready, and dies", f"claim {w}", after, fault=True)


class PopsCommands(Protocol):
    """claim.lua takes the commands out of their lane when it hands them over."""

    def take_due(self, redis: Redis, token: int) -> tuple[Redis, Batch]:
        after, batch = super().take_due(redis, token)
        lanes = [
            lane._replace(entries=lane.entries[len(entries or ()) :])
            for lane, entries in zip(after.lanes, batch, strict=True)
        ]
        return after._replace(lanes=tuple(lanes)), batch


class NoSweep(Protocol):
    """No worker sweeps."""

    def sweep(self, state: State) -> Iterator[Step]:
        yield from ()


class NeverExpires(Protocol):
    """Claims have no deadline."""

    @staticmethod
    def expire(state: State) -> Iterator[Step]:
        yield from ()


class EndsWithoutSuccessor(Protocol):
    """yield.lua ends the drain, and leaves it to the next push to wake another."""

    def leave(self, state: State, w: int) -> Iterator[Step]:
        yield Step(f"worker {w + 1}: yield.lua", f"yield {w}", Protocol.retire(self, state, w))


class ResumesWithoutWaking(Protocol):
    """A pause ends, and it is left to the next push to wake a drain for what came in meanwhile."""

    def pause(self, state: State) -> Iterator[Step]:
        if not state.redis.paused:
            yield from super().pause(state)
        else:
            yield Step("the pause ends", "resume", with_redis(state, state.redis._replace(paused=False)))


class WakesWhilePaused(Protocol):
    """reserve_wake does not ask whether the partition is paused: wake-ups come for drains that may take nothing."""

    def wake(self, label: str, action: str, state: State) -> Iterator[Step]:
        paused = state.redis.paused
        running = with_redis(state, state.redis._replace(paused=False))
        for step in super().wake(label, action, running):
            yield step._replace(state=with_redis(step.state, step.state.redis._replace(paused=paused)))


class RetiresBeforeItsAck(Protocol):
    """A drain asks for lanes before its last acknowledgement is confirmed, and is retired if there are none."""

    def work(self, state: State, w: int) -> Iterator[Step]:
        yield from super().work(state, w)
        if state.workers[w].phase == Phase.LOOKING and state.workers[w].acked.token:
            yield from self.claim(state, w)

    def retire(self, state: State, w: int) -> State:
        acked = state.workers[w].acked
        return with_worker(super().retire(state, w), w, Worker(acked=acked))
