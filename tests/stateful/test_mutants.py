"""The protocol with one guard removed: the machine must notice, each time within the same few hundred examples.

As it is, the protocol passes the same machines: see test_stateful.py.
"""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase

from levelq_core.coupler import ledger
from levelq_core.domain import rules
from levelq_core.domain.record import ADJUST, RESET, Record
from levelq_core.lanes.client import Lanes
from levelq_core.lanes.protocol import Claim
from levelq_worker.withdrawal.canceller import Canceller
from tests.conformance.kit import PARTITION
from tests.stateful.machine import Hand, Machine, run
from tests.stateful.world import World
from tests.support.fixtures.keys import KEYS
from tests.support.mutants import counts_twice_what_comes_twice_in_a_batch, replace, rewrite

Patch = pytest.MonkeyPatch
SEED, EXAMPLES = 3, 300


def trims_by_count_and_its_token_comes_again(patch: Patch) -> None:
    replace(patch, "ack", ("    if string.find(entry, wanted", "    if false and string.find(entry, wanted"))
    patch.setattr(World, "token", staticmethod(lambda number: "process 1"))


class AcksFirst(Machine):
    """Acknowledges, then commits."""

    def decide(self, hand: Hand, stops_at: str | None) -> bool:
        self.world.bench.lanes.ack(PARTITION, hand.token, hand.batch.acknowledgements([], 0))
        return super().decide(hand, stops_at)


def appends_before_it_is_ready(patch: Patch) -> None:
    def change(text: str) -> str:
        start, end = text.index("-- One call for many lanes"), text.index("if total > before then")
        ready, last = text[start:end], text.rindex("return {")
        return text[:start] + text[end:last] + ready + text[last:]

    rewrite(patch, "push", change)


def retires_in_two_steps(patch: Patch) -> None:
    """It sees nothing due, and takes its registration back by a call of its own."""
    replace(patch, "claim", ("  redis.call('ZREM', drains, drain)\n", ""))
    claim = Lanes.claim

    def then_retire(self: Lanes, partition: Any, drain: str, *args: Any, **how: Any) -> Claim:
        claimed = claim(self, partition, drain, *args, **how)
        if claimed.retired:
            self.redis.zrem(KEYS.of(partition, "drains"), drain)
        return claimed

    patch.setattr(Lanes, "claim", then_retire)


def leaves_without_a_successor(patch: Patch) -> None:
    rewrite(patch, "yield", lambda text: text[: text.rindex("return")] + "return 0\n")


def takes_a_conflict_for_a_repeat(patch: Patch) -> None:
    patch.setattr(ledger, "answer", lambda known, record: known.decision._replace(duplicate=True))


def adds_what_a_reset_sets(patch: Patch) -> None:
    decide = rules.decide

    def add(state: Any, record: Record, *how: Any) -> Any:
        return decide(state, record._replace(kind=ADJUST) if record.kind == RESET else record, *how)

    patch.setattr(rules, "decide", add)


def withdraws_what_it_did_not_decide(patch: Patch) -> None:
    """tests/conformance holds the count and several entries: a sweep follows here, and corrects a count."""
    patch.setattr(Canceller, "_decide", lambda self, works, malformed, rows: None)


OTHERWISE = [
    trims_by_count_and_its_token_comes_again,
    appends_before_it_is_ready,
    retires_in_two_steps,
    leaves_without_a_successor,
    counts_twice_what_comes_twice_in_a_batch,
    takes_a_conflict_for_a_repeat,
    withdraws_what_it_did_not_decide,
    adds_what_a_reset_sets,
]
TAKEN = "    commands, bytes = commands + #entries, bytes + size\n"
# A script, and what of it is replaced by what.
REPLACED = {
    "checks_no_token": ("ack", "if holders[i] ~= token then", "if false then"),
    "forgets_what_is_left": ("ack", "    if more then\n", "    if false then\n"),
    "renews_what_is_not_its_own": (
        "renew", "if redis.call('HGET', tag .. 'tokens', ARGV[i]) == token then", "if true then"
    ),
    "makes_a_claimed_lane_ready": ("push", "if not deadline then", "if true then"),
    "pops_what_it_claims": (
        "claim", TAKEN, f"{TAKEN}    redis.call('LTRIM', tag .. 'lane:' .. user, #entries, -1)\n"
    ),
    "claims_while_they_are_blocked": ("claim", "if ARGV[11] == '1' and", "if false and"),
    "fills_behind_what_came_since": (
        "restore", "in_steps('LPUSH', lane, entries)", "in_steps('RPUSH', lane, entries)"
    ),
    "counts_without_what_is_claimed": (
        "sweep", "local sum = standing(tag)", "local sum = standing(tag) - redis.call('ZCARD', tag .. 'claimed')"
    ),
}  # fmt: skip


def replacing(script: str, old: str, new: str) -> Callable[[Patch], None]:
    return lambda patch: replace(patch, script, (old, new))


MUTANTS = {mutate.__name__: mutate for mutate in OTHERWISE} | {
    name: replacing(*change) for name, change in REPLACED.items()
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_noticed(valkey: World, monkeypatch: Patch, mutant: str) -> None:
    MUTANTS[mutant](monkeypatch)
    with pytest.raises(AssertionError):
        run(lambda: Machine(valkey), SEED, examples=EXAMPLES, phases=(Phase.generate,))


def test_who_acknowledges_before_the_commit_is_noticed(valkey: World) -> None:
    with pytest.raises(AssertionError):
        run(lambda: AcksFirst(valkey), SEED, examples=EXAMPLES, phases=(Phase.generate,))
