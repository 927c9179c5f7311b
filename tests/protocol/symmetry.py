"""States that differ in nothing that matters are searched once."""

from __future__ import annotations

from .model import Protocol
from .state import NOTHING, Held, Phase, Redis, State, Worker, with_worker


def canonical(protocol: Protocol, state: State) -> State:
    """One state for all that differ only in the names of the two workers, of tokens, or in a dead acknowledgement.

    The workers keep their names where wake-ups are modelled, which is for liveness: fairness is to each of them.
    """
    if protocol.unique_tokens:
        state = _renamed(_acknowledged(protocol, state))
    if protocol.wakes:
        return state
    first, second = state.workers
    if first.phase < second.phase:
        return state
    other = _swapped(state)
    if protocol.unique_tokens:
        other = _renamed(other)
    return other if first.phase > second.phase else min(state, other, key=_order)


def _acknowledged(protocol: Protocol, state: State) -> State:
    """An acknowledgement whose token no lane has, and none can have again, will change nothing: it is over."""
    for w, worker in enumerate(state.workers):
        if worker.phase == Phase.DECIDED and worker.token not in _held(state):
            state = with_worker(state, w, protocol.after(worker))
        elif worker.acked.token and worker.acked.token not in _held(state):
            state = with_worker(state, w, worker._replace(acked=NOTHING))
    return state


def _held(state: State) -> list[int]:
    """The tokens that lanes have, or may have again after a rollback."""
    held = [lane.token for lane in state.redis.lanes]
    return held + [lane.token for lane in state.snapshot.lanes] if state.snapshot else held


def _renamed(state: State) -> State:
    """Tokens by order of appearance."""
    names = {0: 0}
    for token in (*_held(state), *state.workers[0].tokens, *state.workers[1].tokens):
        if token not in names:
            names[token] = len(names)
    if all(token == name for token, name in names.items()):
        return state

    def redis(r: Redis) -> Redis:
        return r._replace(lanes=tuple([lane._replace(token=names[lane.token]) for lane in r.lanes]))

    def held(h: Held) -> Held:
        return Held(names[h.token], h.batch) if h.token else h

    first, second = [Worker(w.phase, names[w.token], w.batch, held(w.ahead), held(w.acked)) for w in state.workers]
    snapshot = state.snapshot and redis(state.snapshot)
    return state._replace(redis=redis(state.redis), workers=(first, second), snapshot=snapshot)


def _swapped(state: State) -> State:
    def redis(r: Redis) -> Redis:
        return r._replace(drains=(r.drains[1], r.drains[0])) if r.drains[0] != r.drains[1] else r

    workers = (state.workers[1], state.workers[0])
    return state._replace(redis=redis(state.redis), workers=workers, snapshot=state.snapshot and redis(state.snapshot))


def _order(state: State) -> list[tuple[object, ...]]:
    workers = zip(state.workers, state.redis.drains, strict=True)
    return [
        (
            drain,
            *(
                (held.token, *(entries or ("", entries is None) for entries in held.batch))
                for held in (Held(w.token, w.batch), w.ahead, w.acked)
            ),
        )
        for w, drain in workers
    ]
