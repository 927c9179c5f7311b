"""Breadth-first search over all states of a protocol, and the report when something is wrong."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from .model import Protocol
from .properties import wrong
from .state import Held, Lane, State, Step, Worker, start
from .symmetry import canonical

Edge = tuple[int, str]  # the state it leads to, and whose action it is


class Counterexample(NamedTuple):
    """The shortest way to something wrong: the steps, and the states after each."""

    what: str
    steps: list[tuple[str, State]]

    def __str__(self) -> str:
        lines = [f"{n:3}. {label}\n       {_show(state)}" for n, (label, state) in enumerate(self.steps, 1)]
        return "\n".join([*lines, f"     => {self.what}"])


@dataclass
class Graph:
    """All states that were reached. `ways[n]`: from which state n was reached first; `edges[n]`: where it leads.

    Edges are those steps that are no fault and go on of themselves, which a push does not.
    """

    protocol: Protocol
    states: list[State] = field(default_factory=list)
    ways: list[int] = field(default_factory=list)
    edges: list[list[Edge]] = field(default_factory=list)
    steps: int = 0

    def way_to(self, n: int, what: str, last: Step | None = None) -> Counterexample:
        """How to get to a state, and to a step further, with the workers' names kept from step to step."""
        wanted = [] if last is None else [canonical(self.protocol, last.state)]
        while n:
            wanted.insert(0, self.states[n])
            n = self.ways[n]
        state, trace = self.states[0], []
        for one in wanted:
            step = next(s for s in self.protocol.steps(state) if canonical(self.protocol, s.state) == one)
            state = step.state
            trace.append((step.label, state))
        return Counterexample(what, trace)


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing here is garbage: looking for it took a quarter of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@uncollected()
def explore(protocol: Protocol, allowed: Callable[[Step], bool] = lambda step: True) -> Graph | Counterexample:
    """Every state that the allowed steps reach, or the shortest way to one that must not be."""
    graph = Graph(protocol)
    numbers: dict[State, int] = {}

    def number(state: State, way: int) -> int:
        if (found := numbers.get(state)) is None:
            one = canonical(protocol, state)
            if (found := numbers.get(one)) is None:
                found = numbers[one] = len(graph.states)
                graph.states.append(one)
                graph.ways.append(way)
            numbers[state] = found
        return found

    number(start(len(protocol.commands)), 0)
    at = 0
    while at < len(graph.states):
        edges: list[Edge] = []
        for step in filter(allowed, protocol.steps(graph.states[at])):
            graph.steps += 1
            if step.wrong:
                return graph.way_to(at, step.wrong, step)
            before = len(graph.states)
            to = number(step.state, at)
            if to == before and (what := wrong(protocol.commands, step.state)):
                return graph.way_to(to, what)
            if not step.fault and step.action != "push":
                edges.append((to, step.action))
        graph.edges.append(edges)
        at += 1
    return graph


def _show(state: State) -> str:
    """A state on one line."""
    lanes = [_lane(n, lane) for n, lane in enumerate(state.redis.lanes, 1)]
    workers = [_worker(n, worker) for n, worker in enumerate(state.workers, 1)]
    ledger = ", ".join(" ".join(decided) or "-" for decided in state.ledger)
    return f"{'; '.join(lanes)} | {'; '.join(workers)} | ledger {ledger}"


def _lane(number: int, lane: Lane) -> str:
    where = " ready" * lane.ready + (f" claimed with token {lane.token}" if lane.token else "")
    return f"lane {number} [{' '.join(lane.entries)}]{where}"


def _worker(number: int, worker: Worker) -> str:
    held = (("", Held(worker.token, worker.batch)), ("ahead ", worker.ahead), ("unconfirmed ", worker.acked))
    return f"worker {number} {worker.phase}" + "".join(_claim(what, claim) for what, claim in held if claim.token)


def _claim(what: str, held: Held) -> str:
    batch = " ".join(" ".join(entries) for entries in held.batch if entries)
    return f" ({what}{batch}; token {held.token})"
