"""A hot user, a busy specialization or a large batch delays others by little."""

from collections import Counter
from collections.abc import Callable
from itertools import groupby

from redis import Redis
from rq import Queue
from sqlalchemy import Engine

from levelq_core import LevelUp, Settings
from levelq_core.keys import Partition
from levelq_worker import LaneWorker
from levelq_worker.draining.context import Runtime
from levelq_worker.draining.drain import Drain
from tests.support.coupler import drain_all, ledger, push
from tests.support.db_check import execute
from tests.support.fixtures.keys import KEYS
from tests.support.isolation import PLAYER, apply, experience, level_up, push_at_once

SPECIALIZATIONS = ("PLAYER", "COACH", "INTERNSHIP")


def test_others_are_in_the_next_batch_beside_a_hot_user(
    own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime]
) -> None:
    # On a busy machine batches would shrink below what the hot lane may take, but for the long aim.
    worker = worker_of(own_database_url, claim_seconds=10, redis_seconds=2, batch_seconds=60)
    hot, others = 1, range(2, 52)
    push(worker, [level_up(hot, 0)])
    drain_all(worker, "PLAYER")  # the partition is open
    push_at_once(worker, [level_up(hot, 1) for _ in range(5_000)])
    drain = Drain(worker, PLAYER)
    drain.step()
    assert experience(own_engine) == {hot: worker.settings.lane_commands}
    push(worker, [level_up(user, 1) for user in others])
    drain.step()
    assert experience(own_engine) == {hot: 2 * worker.settings.lane_commands, **dict.fromkeys(others, 1)}


def test_drain_hands_over_when_its_slice_is_over(
    redis: Redis, own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime]
) -> None:
    worker = worker_of(own_database_url, claim_seconds=10, slice_seconds=0.1, batch_commands=1)
    push(worker, [level_up(1, 0)])
    drain_all(worker, "PLAYER")  # the partition is open, so the first step applies a batch, however slow the machine
    push_at_once(worker, [level_up(1 + n % 7, 1) for n in range(1_000)])  # a second's work at the very least
    redis.delete(f"rq:queue:{KEYS.queue('PLAYER')}", KEYS.of(PLAYER, "wake"))  # as when the drain's job was taken
    Drain(worker, PLAYER).run()
    status = worker.lanes.status(PLAYER)
    assert 0 < sum(experience(own_engine).values()) == 1_000 - status.waiting
    assert (status.claimed, status.drains) == (0, 0)
    assert Queue(KEYS.queue("PLAYER"), connection=redis).count == 1


def test_three_specializations_take_turns_on_one_worker(settings: Settings, redis: Redis, own_engine: Engine) -> None:
    few = settings.model_copy(update={"slice_seconds": 0.1, "batch_commands": 10})
    worker = LaneWorker([KEYS.queue(name) for name in SPECIALIZATIONS], connection=redis, settings=few)
    runtime = worker._runtime
    for name in SPECIALIZATIONS:
        users = [LevelUp(user_id=1 + n % 5, specialization=name, xp_gained=1) for n in range(1_000)]
        push_at_once(runtime, users, Partition(name))
        runtime.waker.wake(Partition(name))
    worker.work(burst=True)
    names = [row["specialization"] for row in ledger(own_engine)]
    assert Counter(names) == dict.fromkeys(SPECIALIZATIONS, 1_000)
    turns = [name for name, _ in groupby(names)]
    assert set(turns[:3]) == set(SPECIALIZATIONS), "each has a turn before any has a second"
    assert len(turns) > 3


def test_batch_is_as_large_as_its_time_allows(
    own_engine: Engine, own_database_url: str, worker_of: Callable[..., Runtime]
) -> None:
    each, aim = 0.005, 0.5  # long enough that what an empty transaction takes does not matter
    users = range(1, 1_001)
    apply(own_engine, [level_up(user, 1) for user in users])
    execute(
        own_engine,
        f"""
            CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM pg_sleep({each}); RETURN NEW; END $$;
            CREATE TRIGGER slow BEFORE UPDATE ON specialization_progress FOR EACH ROW EXECUTE FUNCTION slow()
        """,
    )
    worker = worker_of(own_database_url, claim_seconds=10, redis_seconds=2, batch_seconds=aim, batch_commands=400)
    push_at_once(worker, [level_up(user, 1) for user in users])
    drain = Drain(worker, PLAYER)
    while not drain.step():
        pass
    sizes = list(Counter(row["batch"] for row in ledger(own_engine) if row["source"] == "queue").values())
    assert (sum(sizes), sizes[0]) == (1_000, 400)
    assert max(sizes[2:]) <= aim / each  # the second was claimed before it was known how long the first takes
