"""Mutants of the protocol, run end to end: real drains, duplicate pushes, a claim that runs out; each is caught.

Every scenario is run with the protocol as it is, too, and verifies: it is the mutation that is caught.
"""

from collections.abc import Callable
from types import SimpleNamespace

import psycopg
import pytest

from levelq_core import failpoints as faults
from levelq_worker.draining import claims
from levelq_worker.draining.claims import Claims, HeldClaim
from levelq_worker.draining.drain import Drain
from levelq_worker.support.worker_name import worker_name
from tests.support.mutants import counts_twice_what_comes_twice_in_a_batch, replace
from tests.support.verify import PLAYER, Traced, World, assert_clean, up, violations_of

mutated = pytest.mark.parametrize("mutant", [False, True], ids=["as it is", "mutant"])


def once_at(monkeypatch: pytest.MonkeyPatch, point: str, happen: Callable[[], object]) -> None:
    """Let something happen when a fault point is passed for the first time."""

    def hook(name: str) -> None:
        if name == point:
            monkeypatch.setattr(faults, "hook", None)
            happen()

    monkeypatch.setattr(faults, "hook", hook)


NO_TOKEN_CHECK = ("if holders[i] ~= token then", "if false then")
TRIM_BY_COUNT = ("    if string.find(entry, wanted", "    if false and string.find(entry, wanted")


@mutated
def test_no_token_check(world: World, monkeypatch: pytest.MonkeyPatch, mutant: bool) -> None:
    """A worker outlives its claim, and acknowledges under another's."""
    if mutant:
        replace(monkeypatch, "ack", NO_TOKEN_CHECK)
    world.worker.lanes = Traced(world.redis, world.settings, world.recorder)
    commands = [up(7, 10), up(7, 20)]
    world.send(*commands)

    def overtake() -> None:
        world.expire(7)
        world.send(*commands)
        with world.another_worker() as other:
            Traced(world.redis, world.settings, world.recorder).claim(PLAYER, "other", "other's", 2)
            assert other.settings == world.settings

    once_at(monkeypatch, "ack request", overtake)
    Drain(world.worker, PLAYER).run()
    world.expire(7)
    world.drain()
    report = world.verify(at_rest=True)
    if mutant:
        assert violations_of(report) == [("I8", "stale", 7, "PLAYER", None)]
    else:
        assert_clean(report)


@mutated
def test_trim_by_count_with_a_token_that_comes_again(
    world: World, monkeypatch: pytest.MonkeyPatch, mutant: bool
) -> None:
    """The same, with commands that are not applied yet at the head of the lane."""
    if mutant:
        replace(monkeypatch, "ack", TRIM_BY_COUNT)
        monkeypatch.setattr(claims, "uuid4", lambda: SimpleNamespace(hex="process 1"))
    first, later = [up(7, 10), up(7, 20)], [up(7, 30), up(7, 40)]
    world.send(*first)

    def overtake() -> None:
        world.expire(7)
        world.send(*first)
        with world.another_worker() as other:
            Drain(other, PLAYER).run()
        world.send(*later)
        world.worker.lanes.claim(PLAYER, "third", f"{worker_name()} process 1", 10)

    once_at(monkeypatch, "ack request", overtake)
    Drain(world.worker, PLAYER).run()
    world.expire(7)
    world.drain()
    report = world.verify(at_rest=True)
    if mutant:
        assert violations_of(report) == [("I1", "lost", 7, "PLAYER", command.command_id) for command in later]
    else:
        assert_clean(report)


@mutated
def test_trim_by_count_when_redis_was_rolled_back(world: World, monkeypatch: pytest.MonkeyPatch, mutant: bool) -> None:
    """The claim survived, but other entries stand at the head of the lane."""
    if mutant:
        replace(monkeypatch, "ack", TRIM_BY_COUNT)
    first, later = [up(7, 10), up(7, 20)], [up(7, 30), up(7, 40)]
    world.send(*first)

    def roll_back() -> None:
        world.redis.delete(world.lane(7))
        world.send(*later)

    once_at(monkeypatch, "ack request", roll_back)
    world.drain()
    report = world.verify(at_rest=True)
    if mutant:
        assert violations_of(report) == [("I1", "lost", 7, "PLAYER", command.command_id) for command in later]
    else:
        assert_clean(report)


@mutated
def test_ack_before_commit(world: World, monkeypatch: pytest.MonkeyPatch, mutant: bool) -> None:
    """The connection is lost before COMMIT."""
    claim = Claims.claim

    def ack_first(self: Claims) -> HeldClaim:
        held = claim(self)
        if held.claim.lanes:
            self.ack(held, held.decode().acknowledgements([], 0))
        return held

    if mutant:
        monkeypatch.setattr(Claims, "claim", ack_first)
    commands = [up(7, 10), up(8, 20)]
    world.send(*commands, commands[0])

    def cut() -> None:
        with psycopg.connect(world.settings.database_url or "", autocommit=True) as admin:
            ended = (
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'levelq worker'"
            )
            assert admin.execute(f"{ended} AND datname = current_database()").fetchone() == (1,)

    once_at(monkeypatch, "commit request", cut)
    world.drain()
    report = world.verify(at_rest=True)
    if mutant:
        assert set(violations_of(report)) == {("I1", "lost", c.user_id, "PLAYER", c.command_id) for c in commands}
    else:
        assert_clean(report)


@mutated
def test_no_dedupe_inside_a_batch(world: World, monkeypatch: pytest.MonkeyPatch, mutant: bool) -> None:
    """The same command twice in one claim."""
    if mutant:
        counts_twice_what_comes_twice_in_a_batch(monkeypatch)
    command = up(7, 30)
    world.send(up(7, 10), command, command)
    world.drain()
    report = world.verify(at_rest=True)
    if mutant:
        assert violations_of(report) == [("I2", "duplicated", 7, "PLAYER", command.command_id)]
    else:
        assert_clean(report)
