"""The change of shards, searched: every order of its steps, with producers, workers and drivers that die anywhere.

One user's lane over three generations of two partitions each. Each function is a step of
core/levelq_core/lanes/shard_layout.py or worker/levelq_worker/relay/resharding.py, which it names; what
is read from Redis may be old by the time it is used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import pytest

GENERATIONS, PARTITIONS, PUSHES = 3, 2, 2
STEADY, CLOSING, DRAINING = range(3)

Pairs = tuple[tuple[bool, ...], ...]  # of each generation, of each partition
NONE: Pairs = ((False,) * PARTITIONS,) * GENERATIONS


class Hand(NamedTuple):
    """What a worker holds: the generation, the entries, whether they are committed."""

    generation: int
    entries: tuple[int, ...]
    committed: bool = False


class Driver(NamedTuple):
    """A relay or the operator, with the layout as it has read it, and how many of its steps it has made."""

    generation: int
    form: int
    done: int = 0


class State(NamedTuple):
    """`lanes`: of the user, in partition 0 of each generation; numbers are in the order of their pushes."""

    generation: int = 0
    form: int = STEADY
    closed: Pairs = NONE
    restored: Pairs = ((True,) * PARTITIONS, *NONE[1:])
    lanes: tuple[tuple[int, ...], ...] = ((),) * GENERATIONS
    pushed: int = 0
    known: tuple[int, ...] = (0, 0)  # the generation that each producer goes by
    hands: tuple[Hand | None, ...] = (None, None)
    drivers: tuple[Driver | None, ...] = (None, None)
    restoring: int | None = None  # a drain has found that this generation may be restored
    decided: tuple[int, ...] = ()


T = TypeVar("T")
Guards = frozenset[str]
ALL: Guards = frozenset({"close first", "empty first", "claims count"})


def put(pairs: Pairs, generation: int, partition: int) -> Pairs:
    row = tuple(True if n == partition else value for n, value in enumerate(pairs[generation]))
    return (*pairs[:generation], row, *pairs[generation + 1 :])


def replaced(values: tuple[T, ...], at: int, value: T) -> tuple[T, ...]:
    return (*values[:at], value, *values[at + 1 :])


def with_lane(state: State, generation: int, lane: tuple[int, ...]) -> State:
    return state._replace(lanes=replaced(state.lanes, generation, lane))


def producers(state: State, guards: Guards) -> Iterator[State]:
    """Producer._send_window: append, or get MOVED and read the layout."""
    for producer, generation in enumerate(state.known):
        if state.closed[generation][0]:
            if state.generation != generation:
                yield state._replace(known=replaced(state.known, producer, state.generation))
        elif state.pushed < PUSHES:
            lane = (*state.lanes[generation], state.pushed)
            yield with_lane(state._replace(pushed=state.pushed + 1), generation, lane)


def workers(state: State, guards: Guards) -> Iterator[State]:
    """Claim, commit, acknowledge, or die."""
    for n, hand in enumerate(state.hands):
        if hand is None:
            for generation, lane in enumerate(state.lanes):
                held = any(other and other.generation == generation for other in state.hands)
                if lane and state.restored[generation][0] and not held:
                    yield state._replace(hands=replaced(state.hands, n, Hand(generation, lane)))
            continue
        yield state._replace(hands=replaced(state.hands, n, None))
        if not hand.committed:
            new = tuple(entry for entry in hand.entries if entry not in state.decided)  # the ledger knows the others
            hands = replaced(state.hands, n, hand._replace(committed=True))
            yield state._replace(decided=state.decided + new, hands=hands)
        else:
            left = tuple(entry for entry in state.lanes[hand.generation] if entry not in hand.entries)
            yield with_lane(state._replace(hands=replaced(state.hands, n, None)), hand.generation, left)


def drains(state: State, guards: Guards) -> Iterator[State]:
    """A drain finds a generation not restored, reads the layout, and restores it later unless it is blocked."""
    if state.restoring is not None:
        restored = state.restored
        for partition in range(PARTITIONS):
            restored = put(restored, state.restoring, partition)
        yield state._replace(restored=restored, restoring=None)
        return
    for generation, lane in enumerate(state.lanes):
        blocked = state.form == DRAINING and generation == state.generation
        if lane and not state.restored[generation][0] and not blocked:
            yield state._replace(restoring=generation)


def operator(state: State, guards: Guards) -> Iterator[State]:
    """resharding.begin: begin a change to one more generation."""
    if state.form == STEADY and state.generation + 1 < GENERATIONS:
        yield state._replace(form=CLOSING)


def drivers(state: State, guards: Guards) -> Iterator[State]:
    """resharding.close and Resharding._finish, a call at a time."""
    for n, driver in enumerate(state.drivers):
        if driver is None:
            if state.form != STEADY:
                yield state._replace(drivers=replaced(state.drivers, n, Driver(state.generation, state.form)))
            continue
        yield state._replace(drivers=replaced(state.drivers, n, None))  # it dies, or leaves it to others
        step = closing if driver.form == CLOSING else finishing
        on = replaced(state.drivers, n, driver._replace(done=driver.done + 1))
        yield from step(state, driver, state._replace(drivers=on), guards)


def changed(state: State, driver: Driver, generation: int, form: int) -> State:
    """relayout.lua: only if the layout is still what the driver has read."""
    if (state.generation, state.form) != (driver.generation, driver.form):
        return state
    return state._replace(generation=generation, form=form)


def closing(state: State, driver: Driver, on: State, guards: Guards) -> Iterator[State]:
    steps = PARTITIONS if "close first" in guards else 0
    if driver.done < steps:
        yield on._replace(closed=put(state.closed, driver.generation, driver.done))
    elif driver.done == steps:
        yield changed(on, driver, driver.generation + 1, DRAINING)


def finishing(state: State, driver: Driver, on: State, guards: Guards) -> Iterator[State]:
    old = driver.generation - 1
    if driver.done < PARTITIONS:
        if driver.done == 0 and "empty first" in guards and not empty(state, old, guards):
            return
        yield on._replace(closed=put(state.closed, old, driver.done))
    elif driver.done < 2 * PARTITIONS:
        yield on._replace(restored=put(state.restored, driver.generation, driver.done - PARTITIONS))
    elif driver.done == 2 * PARTITIONS:
        yield changed(on, driver, driver.generation, STEADY)


def empty(state: State, generation: int, guards: Guards) -> bool:
    """close.lua's count. A lane that a worker has claimed is not in `ready`."""
    claimed = any(hand and hand.generation == generation for hand in state.hands)
    return (
        not claimed and not state.lanes[generation]
        if "claims count" in guards
        else claimed or not state.lanes[generation]
    )


def wrong(state: State) -> str | None:
    if list(state.decided) != sorted(state.decided):
        return f"decided in the order {state.decided}"
    waiting = {entry for lane in state.lanes for entry in lane}
    if lost := set(range(state.pushed)) - waiting - set(state.decided):
        return f"lost {lost}"
    return None


def canonical(state: State) -> State:
    """Which producer, worker or driver is which does not matter."""
    hands, drivers = tuple(sorted(state.hands, key=repr)), tuple(sorted(state.drivers, key=repr))
    return state._replace(hands=hands, drivers=drivers, known=tuple(sorted(state.known)))


STEPS: tuple[Callable[[State, Guards], Iterator[State]], ...] = (producers, workers, drains, operator, drivers)


def search(guards: Guards) -> tuple[int, str | None, dict[State, list[State]]]:
    """All states there are, or what is wrong with the first bad one."""
    seen: dict[State, list[State]] = {}
    left = deque([State()])
    while left:
        state = left.popleft()
        if state in seen:
            continue
        if found := wrong(state):
            return len(seen), found, seen
        seen[state] = [canonical(new) for step in STEPS for new in step(state, guards)]
        left.extend(new for new in seen[state] if new not in seen)
    return len(seen), None, seen


def test_no_order_of_steps_loses_or_reorders_and_every_change_can_end() -> None:
    count, found, states = search(ALL)
    print(f"{count} states")
    assert found is None
    assert count > 10_000
    ended = {state for state in states if state.form == STEADY and state.generation == GENERATIONS - 1}
    assert reaching(ended, states) == len(states)
    decided = {state for state in states if len(state.decided) == PUSHES and not any(state.lanes)}
    assert reaching(decided, states) == len(states)


def reaching(ends: set[State], states: dict[State, list[State]]) -> int:
    """From how many states there is a way to one of these."""
    back: dict[State, list[State]] = {}
    for state, following in states.items():
        for new in following:
            back.setdefault(new, []).append(state)
    seen, left = set(ends), deque(ends)
    while left:
        for state in back.get(left.popleft(), ()):
            if state not in seen:
                seen.add(state)
                left.append(state)
    return len(seen)


@pytest.mark.parametrize("guard", ["close first", "empty first", "claims count"])
def test_without_one_of_its_guards_a_change_reorders(guard: str) -> None:
    _, found, _ = search(ALL - {guard})
    assert found is not None and found.startswith("decided in the order")
