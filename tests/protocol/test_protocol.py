"""Every interleaving of two workers, producers and faults; and what breaks when one thing is done otherwise.

Run with `-s` to read the numbers of states and how each mutant fails.
"""

from __future__ import annotations

import pytest

from tests.protocol import mutants
from tests.protocol.liveness import components, stuck
from tests.protocol.model import Protocol
from tests.protocol.search import Counterexample, Graph, explore
from tests.protocol.state import Step, start
from tests.protocol.symmetry import canonical

ONE_LANE = (("a1", "a2", "a3"),)
SMALL = (("a1", "a2"),)
TWO_SHORT = (("a1",), ("b1",))
TWO_LANES = (("a1", "a2"), ("b1",))


def safe(protocol: Protocol, least: int) -> Graph:
    """The graph of a protocol in which nothing is wrong. `least`: states, lest a mistake make the search idle."""
    found = explore(protocol)
    assert isinstance(found, Graph), f"\n{found}"
    print(f"{type(protocol).__name__}: {len(found.states):,} states, {found.steps:,} steps")
    assert len(found.states) > least
    return found


def broken(protocol: Protocol, what: str) -> list[str]:
    """The steps by which a mutant comes to grief, shown."""
    found = explore(protocol)
    assert isinstance(found, Counterexample), f"{type(protocol).__name__} passes"
    return trace_of(protocol, found, what)


def trace_of(protocol: Protocol, found: Counterexample, what: str) -> list[str]:
    print(f"\n{type(protocol).__name__}: {protocol.__doc__}\n{found}")
    assert what in found.what
    return [label for label, _ in found.steps]


def without_faults(step: Step) -> bool:
    """Without faults, no lane needs the sweep."""
    return not step.fault and step.action != "sweep"


# The protocol as it is


def test_one_lane_is_safe() -> None:
    safe(Protocol(ONE_LANE, longest=(3,), wakes=False), least=20_000)


def test_two_lanes_are_safe() -> None:
    safe(Protocol(TWO_LANES, longest=(2, 1), most=1, wakes=False), least=40_000)


def test_claiming_ahead_is_safe() -> None:
    safe(Protocol(TWO_SHORT, longest=(1, 1), most=1, wakes=False, ahead=True), least=100_000)
    safe(Protocol(SMALL, longest=(2,), most=1, wakes=False, ahead=True), least=3_500)


def test_claiming_ahead_needs_no_sweep_either() -> None:
    graph = explore(Protocol(TWO_LANES, longest=(2, 1), most=1, ahead=True), without_faults)
    assert isinstance(graph, Graph) and len(graph.states) > 8_000
    print(f"{len(graph.states):,} states")
    assert (trap := stuck(graph)) is None, f"\n{trap}"


def test_after_any_faults_what_was_pushed_is_decided() -> None:
    graph = safe(Protocol(SMALL, longest=(2,)), least=70_000)
    assert (trap := stuck(graph)) is None, f"\n{trap}"


def test_without_faults_no_lane_needs_the_sweep() -> None:
    graph = explore(Protocol(ONE_LANE, longest=(3,)), without_faults)
    assert isinstance(graph, Graph) and len(graph.states) > 4_000
    assert (trap := stuck(graph)) is None, f"\n{trap}"


def test_a_rollback_loses_what_it_took_and_nothing_else() -> None:
    safe(Protocol(SMALL, longest=(1,), wakes=False, rollback=True), least=3_000)


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(SMALL, longest=(1,), wakes=False),
        Protocol((("a1",),), longest=(1,), wakes=False, rollback=True),
        Protocol((("a1",),), longest=(1,)),
        mutants.Processes(SMALL, longest=(1,), wakes=False),
    ],
)
def test_searching_like_states_once_leaves_nothing_out(protocol: Protocol) -> None:
    seen = {start(len(protocol.commands))}
    waiting = list(seen)
    while waiting:
        after = {step.state for step in protocol.steps(waiting.pop())} - seen
        seen |= after
        waiting += after
    reduced = explore(protocol)
    assert isinstance(reduced, Graph)
    print(f"{type(protocol).__name__}: {len(seen):,} states, {len(reduced.states):,} that differ")
    assert {canonical(protocol, state) for state in seen} == set(reduced.states)
    assert len(seen) > len(reduced.states)


def with_a_pause(step: Step) -> bool:
    """No fault but a pause, and no sweep."""
    return step.action == "pause" or without_faults(step)


def wakes_for_nothing(graph: Graph) -> bool:
    """Whether workers can start drains of a paused partition for ever."""
    paused = [state.redis.paused for state in graph.states]
    inside = [[edge for edge in some if paused[edge[0]] and paused[n]] for n, some in enumerate(graph.edges)]
    return any(
        action == "sweep" or action.startswith("claim") for part in components(inside)
        for n in part for to, action in inside[n] if to in part
    )  # fmt: skip


def test_a_pause_loses_nothing_and_needs_no_sweep_to_end() -> None:
    faulty = safe(Protocol((("a1",),), longest=(1,), pauses=True), least=1_000)
    faultless = explore(Protocol(SMALL, longest=(2,), pauses=True), with_a_pause)
    assert isinstance(faultless, Graph) and len(faultless.states) > 1_000
    assert [stuck(graph) for graph in (faulty, faultless)] == [None, None]


def test_no_drain_runs_in_circles_over_a_paused_partition() -> None:
    for protocol, in_circles in ((Protocol, False), (mutants.WakesWhilePaused, True)):
        graph = explore(
            protocol(SMALL, longest=(2,), pauses=True), lambda step: step.action == "pause" or not step.fault
        )
        assert isinstance(graph, Graph)
        assert wakes_for_nothing(graph) is in_circles


# Each guard, and what it guards against


@pytest.mark.parametrize(
    ("mutant", "what"),
    [
        (mutants.AckFirst, "lost: a1"),
        (mutants.TwiceInABatch, "took effect twice: a1 a1"),
        (mutants.LedgerForgotten, "took effect twice: a1 a1"),
        (mutants.AppendsFirst, "stranded"),
        (mutants.PopsLanesFirst, "stranded"),
        (mutants.PopsCommands, "lost: a1"),
        (mutants.LowersReady, "both ready and claimed"),
    ],
)
def test_a_mutant_is_not_safe(mutant: type[Protocol], what: str) -> None:
    broken(mutant(ONE_LANE, longest=(3,), wakes=False), what)


def test_a_push_that_appends_first_needs_only_to_die() -> None:
    protocol = mutants.AppendsFirst(ONE_LANE, longest=(3,), wakes=False)
    assert broken(protocol, "stranded") == ["push.lua: a1, dies midway"]


# Tokens and trims: a trim by count is as good as the token is unique


def test_trim_by_count_with_a_reusable_token_removes_what_was_not_decided() -> None:
    steps = broken(mutants.ByCountOfProcesses(SMALL, longest=(2,), wakes=False), "removed a2, which was not decided")
    assert "the claim on lane 1 expires" in steps


def test_trim_by_count_with_a_token_counted_in_redis_is_safe_until_redis_is_rolled_back() -> None:
    safe(mutants.ByCountOfCounted(SMALL, longest=(2,), wakes=False), least=1_000)
    protocol = mutants.ByCountOfCounted(SMALL, longest=(2,), wakes=False, rollback=True)
    assert "Redis is rolled back to the copy" in broken(protocol, "which was not decided")


def test_trim_by_count_with_a_token_that_was_never_before_is_safe_even_then() -> None:
    """A copy of Redis with this token in it has at the lane's head what the claim read: they came in one step."""
    safe(mutants.ByCount(SMALL, longest=(2,), wakes=False), least=1_000)
    safe(mutants.ByCount(SMALL, longest=(1,), wakes=False, rollback=True), least=3_000)


@pytest.mark.parametrize("mutant", [mutants.Processes, mutants.Counted])
@pytest.mark.parametrize("rollback", [False, True])
def test_trim_by_identity_does_not_rely_on_the_token(mutant: type[Protocol], rollback: bool) -> None:
    safe(mutant(SMALL, longest=(1,), wakes=False, rollback=rollback), least=200)


# Liveness


@pytest.mark.parametrize("mutant", [mutants.RetiresInTwoSteps, mutants.EndsWithoutSuccessor])
def test_a_drain_that_ends_in_two_steps_leaves_a_lane_to_the_sweep(mutant: type[Protocol]) -> None:
    protocol = mutant(SMALL, longest=(2,))
    graph = explore(protocol, without_faults)
    assert isinstance(graph, Graph)
    trap = stuck(graph)
    assert trap is not None
    trace_of(protocol, trap, "may never be decided")


def test_a_pause_that_ends_without_a_wake_up_leaves_a_lane_to_the_sweep() -> None:
    protocol = mutants.ResumesWithoutWaking(SMALL, longest=(2,), pauses=True)
    graph = explore(protocol, with_a_pause)
    assert isinstance(graph, Graph)
    trap = stuck(graph)
    assert trap is not None
    trace_of(protocol, trap, "may never be decided")


def test_a_drain_that_is_retired_before_its_ack_leaves_a_lane_to_the_sweep() -> None:
    protocol = mutants.RetiresBeforeItsAck(SMALL, longest=(2,), most=1, ahead=True)
    graph = explore(protocol, without_faults)
    assert isinstance(graph, Graph)
    trap = stuck(graph)
    assert trap is not None
    trace_of(protocol, trap, "may never be decided")


def test_but_the_sweep_finds_it() -> None:
    protocol = mutants.RetiresInTwoSteps(SMALL, longest=(1,))
    graph = explore(protocol)
    assert isinstance(graph, Graph)
    assert stuck(graph) is None


@pytest.mark.parametrize(
    ("mutant", "fault"),
    [(mutants.NoSweep, "push.lua: a1, wake-up lost"), (mutants.NeverExpires, "worker 1: claim.lua, reply lost")],
)
def test_without_the_sweep_or_deadlines_a_fault_is_for_ever(mutant: type[Protocol], fault: str) -> None:
    protocol = mutant(SMALL, longest=(1,))
    graph = explore(protocol)
    assert isinstance(graph, Graph)
    trap = stuck(graph)
    assert trap is not None
    assert fault in trace_of(protocol, trap, "may never be decided")
