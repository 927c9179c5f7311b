"""Liveness under weak fairness: every process that can go on, does so in the end.

In a finite graph an execution that never gets done stays, from some point on, in one strongly connected
component. It is fair, and so a counterexample, if every action either is taken inside the component or is
impossible in some state of it. So no such component may exist among the states that are not done.
"""

from __future__ import annotations

from collections.abc import Iterator

from .properties import done
from .search import Counterexample, Edge, Graph


def stuck(graph: Graph, without: frozenset[str] = frozenset()) -> Counterexample | None:
    """The shortest way to states from which, though no fault happens any more, a pushed command may never be decided.

    `without`: actions that no process must take.
    """
    edges = [[edge for edge in some if edge[1] not in without] for some in graph.edges]
    undone = [not done(graph.protocol.commands, state) for state in graph.states]
    traps = [min(part) for part in components(edges) if undone[part[0]] and fair(edges, part)]
    if not traps:
        return None
    return graph.way_to(min(traps), "from here on, without a fault, what was pushed may never be decided")


def fair(edges: list[list[Edge]], component: list[int]) -> bool:
    """Whether an execution may stay in this component for ever although no process that can go on is held up."""
    inside = set(component)
    taken = {action for n in component for to, action in edges[n] if to in inside}
    always = set.intersection(*({action for _, action in edges[n]} for n in component))
    return always <= taken


def components(edges: list[list[Edge]]) -> Iterator[list[int]]:
    """The strongly connected components (Tarjan's algorithm, without recursion: the graphs are deep)."""
    order: list[int] = [0] * len(edges)  # when a state was first seen; 0: not yet
    low = [0] * len(edges)
    on_stack = [False] * len(edges)
    stack: list[int] = []
    seen = 0
    for root in range(len(edges)):
        if order[root]:
            continue
        path = [(root, iter(edges[root]))]
        while path:
            n, rest = path[-1]
            if not order[n]:
                seen += 1
                order[n] = low[n] = seen
                stack.append(n)
                on_stack[n] = True
            for to, _ in rest:
                if not order[to]:
                    path.append((to, iter(edges[to])))
                    break
                if on_stack[to]:
                    low[n] = min(low[n], order[to])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[n])
                if low[n] == order[n]:
                    yield _popped(stack, on_stack, n)


def _popped(stack: list[int], on_stack: list[bool], first: int) -> list[int]:
    component: list[int] = []
    while not component or component[-1] != first:
        component.append(stack.pop())
        on_stack[component[-1]] = False
    return component
