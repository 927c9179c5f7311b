"""The lane protocol as steps between states: two workers, producers, and everything that may go wrong.

Each step names the script or the function it stands for, and does what that does, as one atomic change: a
script is atomic in Redis, and between a row's lock and COMMIT no other transaction touches the row. Not modelled, as
nothing here depends on it: numbers, limits, "not now" delays (a lane may wait any time anyway), several
partitions, and the content of commands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from .state import (
    NOTHING,
    Batch,
    Commands,
    Held,
    Lane,
    Phase,
    Redis,
    State,
    Step,
    Worker,
    abandoned,
    died,
    with_drain,
    with_item,
    with_lane,
    with_lanes,
    with_redis,
    with_worker,
)

Steps = Iterator[Step]


@dataclass(frozen=True)
class Protocol:
    """The protocol as it is. A mutant overrides one of the methods that stand for a script."""

    unique_tokens: ClassVar[bool] = True  # Claims._ask makes a fresh uuid4 for each claim

    commands: tuple[Commands, ...]  # per lane, in the order of their first push
    longest: tuple[int, ...]  # entries per lane: what bounds the pushes of a producer that lost the reply
    most: int = 2  # entries of one lane that one claim takes
    wakes: bool = True  # without: any idle worker may start a drain at any time, which allows all that wake-ups do
    ahead: bool = False  # whether a worker claims its next batch, and goes on to it, before Redis has answered its ack
    pauses: bool = False  # whether an operator may pause the partition, and resumes it in the end
    rollback: bool = False  # whether Redis may once be rolled back to an earlier state of its own

    def steps(self, state: State) -> Steps:
        """Everything that may happen next."""
        yield from self.push(state)
        for w in (0, 1):
            yield from self.work(state, w)
            yield from self.crash(state, w)
        yield from self.sweep(state)
        yield from self.expire(state)
        if self.wakes:
            yield from self.registrations(state)
            yield from self.wake_twice(state)
        if self.pauses:
            yield from self.pause(state)
        if self.rollback:
            yield from self.roll_back(state)

    @property
    def looking(self) -> Worker:
        """A worker after its batch, whatever became of it. Without wake-ups every idle worker is one."""
        return Worker(Phase.LOOKING if self.wakes else Phase.IDLE)

    def after(self, worker: Worker) -> Worker:
        """The worker without the batch it had in hand: at the one it claimed ahead, or looking for another."""
        if worker.ahead.token:
            return Worker(Phase.CLAIMED, *worker.ahead, acked=worker.acked)
        return self.looking._replace(acked=worker.acked)

    # Producers

    def push(self, state: State) -> Steps:
        """push.lua, called by Producer.send: the next command of a lane, or again one whose reply was lost.

        The script may die before it appends: the server runs out of memory, or is killed.
        """
        for l, (lane, names, pushed) in enumerate(zip(state.redis.lanes, self.commands, state.pushed, strict=True)):
            if len(lane.entries) == self.longest[l]:
                continue
            for n, command in enumerate(names[: pushed + 1]):
                label = f"push.lua: {command}" + (" again" if n < pushed else "")
                died, appended = self.append(lane, command)
                yield Step(label + ", dies midway", "push", with_lane(state, l, died), fault=True)
                after = with_lane(state, l, appended)
                if n == pushed:
                    after = after._replace(pushed=with_item(state.pushed, l, pushed + 1))
                yield from self.wake(label, "push", after)

    def append(self, lane: Lane, command: str) -> tuple[Lane, Lane]:
        """push.lua on one lane: what a script that dies midway leaves, and what one that ends leaves."""
        ready = lane if lane.token else lane._replace(ready=True)
        return ready, ready._replace(entries=(*lane.entries, command))

    def wake(self, label: str, action: str, state: State) -> Steps:
        """reserve_wake in prelude.lua, then Waker.wake by the caller of the script; the wake-up may be lost."""
        r = state.redis
        due = any(lane.ready for lane in r.lanes) and not r.paused
        if not self.wakes or not due or r.reserved or r.ghost or any(r.drains):
            yield Step(label, action, state)
            return
        state = with_redis(state, r._replace(reserved=True))
        yield Step(label + " and wake", action, state._replace(job=True))
        yield Step(label + ", wake-up lost", action, state, fault=True)

    @staticmethod
    def wake_twice(state: State) -> Steps:
        """RQ delivers a wake-up again, or one that was late."""
        if not state.job:
            yield Step("a wake-up comes twice", "wake", state._replace(job=True), fault=True)

    # A worker: RQ's loop, then Drain.run

    def work(self, state: State, w: int) -> Steps:
        """The next step of a worker, by where it is."""
        worker = state.workers[w]
        if self.ahead:
            yield from self.arrive(state, w)
            if worker.phase in Phase.WORKING and not worker.ahead.token:
                yield from self.claim_ahead(state, w)
        match worker.phase:
            case Phase.IDLE | Phase.LOOKING if worker.acked.token:
                pass  # Claims._ask and Claims.yield_ confirm the last acknowledgement first
            case Phase.IDLE if self.wakes:
                yield from self.take(state, w)
            case Phase.IDLE:
                yield from self.claim(state, w)
            case Phase.STARTED:
                yield from self.claim(state, w)
                # Transaction.probe: the database is away.
                yield from (step._replace(fault=True) for step in self.leave(state, w))
            case Phase.CLAIMED:
                yield from self.lock(state, w)
            case Phase.LOCKED:
                yield from self.commit(state, w)
            case Phase.DECIDED:
                yield from self.ack(state, w)
            case Phase.LOOKING:
                yield from self.claim(state, w)
                yield from self.leave(state, w)
            case Phase.RETIRING:
                yield from self.finish_retiring(state, w)

    def take(self, state: State, w: int) -> Steps:
        """LaneJob.perform: an idle worker takes the wake-up off its queue and starts a drain."""
        if state.job:
            after = with_worker(state, w, Worker(Phase.STARTED))._replace(job=False)
            yield Step(f"worker {w + 1} starts a drain", "take", after)

    def claim(self, state: State, w: int) -> Steps:
        """claim.lua, called by Claims.take: register, take due lanes; or retire.

        Where the reply is lost, no process knows the token, and the lanes wait for the end of the claim.
        """
        label, action = f"worker {w + 1}: claim.lua", f"claim {w}"
        r = state.redis
        registered = with_drain(r._replace(reserved=r.reserved and r.drains[w]), w, self.wakes)
        token, counter = self.token(state)
        redis, batch = self.take_due(registered._replace(counter=counter), token)
        if any(entries is not None for entries in batch):
            taken = " ".join(" ".join(entries) for entries in batch if entries)
            after = with_worker(with_redis(state, redis), w, Worker(Phase.CLAIMED, token, batch))
            yield Step(f"{label} takes {taken}", action, after)
        else:
            after = self.retire(with_redis(state, redis._replace(counter=r.counter)), w)
            yield Step(f"{label}: nothing is due", action, after)
        yield Step(f"{label}, reply lost", action, with_worker(after, w, self.looking), fault=True)

    def claim_ahead(self, state: State, w: int) -> Steps:
        """claim.lua again, while a batch is in hand: it never retires the drain."""
        token, _ = self.token(state)
        redis, batch = self.take_due(with_drain(state.redis, w, self.wakes), token)
        after = with_redis(state, redis)
        if any(entries is not None for entries in batch):
            label = f"worker {w + 1}: claim.lua, ahead"
            got = with_worker(after, w, state.workers[w]._replace(ahead=Held(token, batch)))
            yield Step(label, f"ahead {w}", got)
            yield Step(f"{label}, reply lost", f"ahead {w}", after, fault=True)

    def token(self, state: State) -> tuple[int, int]:
        """uuid4 in Claims._ask: a token that no claim ever had. (Here: that is not remembered.) And Redis' counter."""
        seen = {lane.token for lane in state.redis.lanes} | {t for worker in state.workers for t in worker.tokens}
        if state.snapshot:
            seen |= {lane.token for lane in state.snapshot.lanes}
        return next(n for n in range(1, len(seen) + 2) if n not in seen), 0

    def take_due(self, redis: Redis, token: int) -> tuple[Redis, Batch]:
        """claim.lua's loop over due lanes: read the head, then move the lane; its commands stay where they are.

        While the partition is paused there are none, which retires a drain that has no batch.
        """
        if redis.paused:
            return redis, (None,) * len(redis.lanes)
        lanes, batch = [], []
        for lane in redis.lanes:
            due = lane.ready and bool(lane.entries)
            batch.append(lane.entries[: self.most] if due else None)
            lanes.append(lane._replace(ready=False, token=token) if due else lane._replace(ready=False))
        return redis._replace(lanes=tuple(lanes)), tuple(batch)

    def retire(self, state: State, w: int) -> State:
        """The end of claim.lua: nothing was due, and in the same step the drain is no longer registered."""
        redis = state.redis
        return with_worker(with_redis(state, with_drain(redis, w, False)), w, Worker())

    def lock(self, state: State, w: int) -> Steps:
        """locking.lock in coupler.couple: the rows of all lanes of the batch, unless another transaction has them.

        A lane that stays locked is parked by Isolation: nothing of it is decided. Outage before COMMIT
        (Claims.abandon) decides nothing at all, and gives the lanes back.
        """
        worker, other = state.workers[w], state.workers[1 - w]
        theirs = other.batch if other.phase == Phase.LOCKED else ()
        taken = [l for l, entries in enumerate(theirs) if entries and worker.batch[l]]
        if not taken:
            locked = with_worker(state, w, worker._replace(phase=Phase.LOCKED))
            yield Step(f"worker {w + 1} locks its rows", f"lock {w}", locked)
        for l in taken:
            parked = worker._replace(batch=with_item(worker.batch, l, ()))
            yield Step(f"worker {w + 1} parks lane {l + 1}", f"park {w}", with_worker(state, w, parked))
        yield Step(f"worker {w + 1} abandons: outage", f"lock {w}", abandoned(state, w), fault=True)

    def commit(self, state: State, w: int) -> Steps:
        """The rest of coupler.couple, and the COMMIT in Transaction.apply.

        Where the reply to COMMIT is lost, it happened or not; the worker does not know, and abandons.
        """
        label, action = f"worker {w + 1} commits", f"commit {w}"
        decided = state._replace(ledger=self.decide(state, w))
        yield Step(label, action, with_worker(decided, w, state.workers[w]._replace(phase=Phase.DECIDED)))
        yield Step(f"{label}, but does not know it", action, abandoned(decided, w), fault=True)
        yield Step(f"worker {w + 1} loses the database before COMMIT", action, abandoned(state, w), fault=True)

    def decide(self, state: State, w: int) -> tuple[Commands, ...]:
        """coupler.fold: what the ledger knows is answered from it, and an id counts once in a batch."""
        ledger = []
        for known, entries in zip(state.ledger, state.workers[w].batch, strict=True):
            fresh = [command for command in dict.fromkeys(entries or ()) if command not in known]
            ledger.append((*known, *fresh))
        return tuple(ledger)

    def ack(self, state: State, w: int) -> Steps:
        """ack.lua, called by Claims.ack (or with nothing decided by Claims.abandon); request or reply may be lost."""
        label, action = f"worker {w + 1}: ack.lua", f"ack {w}"
        worker = state.workers[w]
        gone_on = self.after(worker)
        lanes, wrong = self.acknowledge(state, Held(worker.token, worker.batch))
        after = with_worker(with_lanes(state, lanes), w, gone_on)
        yield Step(label, action, after, wrong=wrong)
        yield Step(f"{label}, reply lost", action, after, fault=True, wrong=wrong)
        yield Step(f"{label}, request lost", action, with_worker(state, w, gone_on), fault=True)
        if self.ahead and not worker.acked.token:
            unconfirmed = gone_on._replace(acked=Held(worker.token, worker.batch))
            yield Step(f"{label} is sent", action, with_worker(state, w, unconfirmed))

    def arrive(self, state: State, w: int) -> Steps:
        """The script of an acknowledgement that was sent; Claims.hear_ack."""
        worker = state.workers[w]
        if worker.acked.token:
            confirmed = worker._replace(acked=NOTHING)
            label, action = f"worker {w + 1}: ack.lua, later", f"confirmed {w}"
            lanes, wrong = self.acknowledge(state, worker.acked)
            yield Step(label, action, with_worker(with_lanes(state, lanes), w, confirmed), wrong=wrong)
            yield Step(f"{label}: lost", action, with_worker(state, w, confirmed), fault=True)

    def acknowledge(self, state: State, held: Held) -> tuple[tuple[Lane, ...], str]:
        """ack.lua: the lanes after it, and what it removed that it must not."""
        lanes, wrong = [], ""
        for lane, decided, known in zip(state.redis.lanes, held.batch, state.ledger, strict=True):
            if decided is None or lane.token != held.token:
                lanes.append(lane)
                continue
            count = self.trim(lane.entries, decided)
            undecided = [command for command in lane.entries[:count] if command not in known]
            wrong = wrong or (f"removed {undecided[0]}, which was not decided" if undecided else "")
            rest = lane.entries[count:]
            lanes.append(Lane(rest, ready=bool(rest)))
        return tuple(lanes), wrong

    def trim(self, entries: Commands, decided: Commands) -> int:
        """`matching` in ack.lua: how many entries at the head are those that were decided, by identity."""
        same = [entry == command for entry, command in zip(entries, decided, strict=False)]
        return same.index(False) if False in same else len(same)

    def leave(self, state: State, w: int) -> Steps:
        """yield.lua, called by Claims.yield_ after a batch, or before the first: the slice of time is over.

        A drain that is not registered has not cleared the reservation of its own wake-up; this does.
        """
        label, redis = f"worker {w + 1}: yield.lua", state.redis
        redis = redis._replace(reserved=redis.reserved and redis.drains[w])
        left = with_worker(with_redis(state, with_drain(redis, w, False)), w, Worker())
        yield from self.wake(label, f"yield {w}", left)
        yield Step(f"{label}, request lost", f"yield {w}", died(state, w), fault=True)

    def finish_retiring(self, state: State, w: int) -> Steps:
        """Only a mutant is ever here: what it saw and what it does about it are two steps."""
        yield Step(f"worker {w + 1} retires", f"retire {w}", Protocol.retire(self, state, w))

    def crash(self, state: State, w: int) -> Steps:
        """SIGKILL: whatever it held is lost but for what Redis and PostgreSQL know; another process replaces it."""
        if state.workers[w].phase != Phase.IDLE:
            yield Step(f"worker {w + 1} is killed", f"crash {w}", died(state, w), fault=True)

    # Everybody else

    def sweep(self, state: State) -> Steps:
        """sweep.lua, called by Sweeper.sweep in every live worker: wake a drain if a lane is due and there is none.

        That it also returns claims is in `expire`, as claim.lua does that just so.
        """
        for step in self.wake("sweep.lua", "sweep", state):
            if step.state != state:
                yield step

    @staticmethod
    def expire(state: State) -> Steps:
        """return_expired in prelude.lua, called by claim.lua and sweep.lua: a claim is over, by the server's clock.

        It is a fault where its holder is still at work: stopped, or slower than a claim is long.
        """
        for l, lane in enumerate(state.redis.lanes):
            if lane.token:
                held = any(lane.token in worker.tokens for worker in state.workers)
                after = with_lane(state, l, Lane(lane.entries, ready=True))
                yield Step(f"the claim on lane {l + 1} expires", f"expire {l}", after, fault=held)

    def pause(self, state: State) -> Steps:
        """pause.lua; and the end of the pause: Pausing.resume with its sweep, or the sweep that finds it over."""
        paused = state.redis.paused
        after = with_redis(state, state.redis._replace(paused=not paused))
        if paused:
            yield from self.wake("the pause ends", "resume", after)
        else:
            yield Step("pause.lua", "pause", after, fault=True)

    @staticmethod
    def registrations(state: State) -> Steps:
        """What else passes with time: registrations of drains, the reservation of a wake-up."""
        redis = state.redis
        if redis.ghost:
            after = with_redis(state, redis._replace(ghost=False))
            yield Step("the registration of a drain that is gone expires", "forget", after)
        for w in (0, 1):
            if redis.drains[w]:
                after = with_redis(state, with_drain(redis, w, False))
                yield Step(f"the registration of worker {w + 1} expires", "late", after, fault=True)
        if redis.reserved:
            after = with_redis(state, redis._replace(reserved=False))
            yield Step("the reservation of a wake-up expires", "reserve", after, fault=state.job)

    def roll_back(self, state: State) -> Steps:
        """Redis restarts from an older AOF, or an older replica is promoted: once, to any state it was in."""
        if state.rolled:
            return
        if state.snapshot is None:
            yield Step("Redis is copied", "copy", state._replace(snapshot=state.redis), fault=True)
            return
        decided = {command for lane in state.ledger for command in lane}
        there = {command for lane in state.snapshot.lanes for command in lane.entries}
        pushed = {command for names, n in zip(self.commands, state.pushed, strict=True) for command in names[:n]}
        redis = state.snapshot
        alive = [w.phase != Phase.IDLE for w in state.workers]
        ghost = redis.ghost or any(drain and not here for drain, here in zip(redis.drains, alive, strict=True))
        drains = (redis.drains[0] and alive[0], redis.drains[1] and alive[1])
        redis = redis._replace(ghost=ghost, drains=drains)
        gone = frozenset(pushed - there - decided)
        after = with_redis(state, redis)._replace(snapshot=None, rolled=True, gone=gone)
        yield Step("Redis is rolled back to the copy", "roll back", after, fault=True)
