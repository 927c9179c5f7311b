"""The real scripts and the real transaction against the reference, on fakeredis and on Valkey.

A failing run prints its number: STATEFUL_SEED=<number> runs the same machines again, and `@reproduce_failure`
in its output the one that failed. For longer by hand: STATEFUL_EXAMPLES=2000, some four minutes of two cores.
"""

import os
from random import SystemRandom

import pytest
from hypothesis import Phase

from tests.stateful.machine import Hand, Machine, run
from tests.stateful.world import World

EXAMPLES = int(os.environ.get("STATEFUL_EXAMPLES") or 40)


@pytest.mark.timeout(120 + 20 * EXAMPLES)  # a failing example is shrunk first, which on a busy machine takes minutes
@pytest.mark.parametrize("engine", ["fake", "valkey"])
def test_whatever_happens_both_sides_agree(request: pytest.FixtureRequest, engine: str) -> None:
    world: World = request.getfixturevalue(engine)
    number = int(os.environ.get("STATEFUL_SEED") or SystemRandom().getrandbits(32))
    print(f"STATEFUL_SEED={number}")
    run(lambda: Machine(world), number, examples=EXAMPLES, phases=(Phase.generate, Phase.shrink))


# What was found


@pytest.fixture
def machine(valkey: World) -> Machine:
    return Machine(valkey)


def test_an_id_refused_because_of_a_lane_that_is_parked_leaves_its_outbox_row(machine: Machine) -> None:
    """Redis is wiped before that lane is decided: the row was deleted, and the command lost."""
    machine.push(1, [1])
    machine.serve("a", 8)  # unblocks claims
    machine.serve("a", 8)
    machine.store(1, [2])
    machine.relay(None)
    machine.push_again(2, "other lane", 1, 0)
    machine.hold(1)
    hand = machine.claim("a", 8, None)
    assert isinstance(hand, Hand) and hand.users == [1, 2]
    machine.apply(hand, None)
    machine.ack(hand)
    machine.lose(everything=True, then=3)
    machine.redis_holds_what_it_must()
    machine.teardown()
    assert machine.made[1].command_id in machine.tables.model.ledger
