"""What the nemesis does: each fault begins, lasts and ends within its function. When it returns, all is well again.

Durations are in claims: most outlast a claim, so that others take over while the victim is away.
"""

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any, NamedTuple

import psutil
import psycopg
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from levelq_core.errors import LevelqError
from levelq_core.keys import Partition
from levelq_core.lanes import scan as standing
from levelq_core.lanes.lane_editor import LaneEditor
from levelq_core.lanes.script_files import load
from levelq_core.operations.pausing import PauseScope, Pausing
from levelq_worker.withdrawal.canceller import Canceller
from levelq_worker.withdrawal.forgetting import Forgetting
from levelq_worker.withdrawal.waiting_lanes import Scope
from tests.chaos import traced_worker
from tests.chaos.world import CLAIM_SECONDS, PARTITIONS, USERS, World
from tests.support.fixtures.proxy import Fault as Loss
from tests.support.fixtures.proxy import Proxy
from tests.support.fixtures.servers import kill_with_backends

STOP_SECONDS = 15.0  # a supervisor's most: the claim, or 5 s for the interpreters to end; more on a busy machine


class Fault(NamedTuple):
    """A kind of fault: what it is called, whom it hits, how often it is drawn, and what it does.

    Two may strike at once if they hit different parts.
    """

    name: str
    part: str
    weight: int
    strike: Callable[[World, Random], None]


FAULTS: list[Fault] = []
_never = threading.Event()  # waited on where a fault has to last


def fault(
    name: str, part: str, weight: int = 1
) -> Callable[[Callable[[World, Random], None]], Callable[[World, Random], None]]:
    """Put a function on the list."""

    def listed(strike: Callable[[World, Random], None]) -> Callable[[World, Random], None]:
        FAULTS.append(Fault(name, part, weight, strike))
        return strike

    return listed


def last(rng: Random, least: float = 0.3, most: float = 2.0) -> None:
    _never.wait(CLAIM_SECONDS * rng.uniform(least, most))


# Workers


@fault("a worker killed", "workers", 3)
def _(world: World, rng: Random) -> None:
    world.a_child(rng).kill()


@fault("all workers killed", "workers")
def _(world: World, rng: Random) -> None:
    for child in world.children():
        child.kill()


@fault("a worker stopped, continued", "workers", 3)
def _(world: World, rng: Random) -> None:
    victim = world.a_child(rng)
    try:
        victim.suspend()
        last(rng, 0.5, 2.5)
        victim.resume()
    except psutil.NoSuchProcess:
        pass  # another fault was faster


@fault("a worker asked to stop", "workers")
def _(world: World, rng: Random) -> None:
    victim = world.a_child(rng)
    number = rng.choice((signal.SIGTERM, signal.SIGINT))
    for _ in range(rng.choice((1, 2))):
        try:
            victim.send_signal(number)
        except psutil.NoSuchProcess:
            return
    victim.wait(STOP_SECONDS)


@fault("a supervisor killed", "workers")
def _(world: World, rng: Random) -> None:
    supervisor = world.supervisors.pop(rng.randrange(len(world.supervisors)))
    orphans = psutil.Process(supervisor.pid).children()
    supervisor.kill()
    supervisor.wait()
    psutil.wait_procs(orphans, STOP_SECONDS)  # they end with it, once their batch is done
    world.start_supervisor()


@fault("workers restarted one by one", "workers", 2)
def _(world: World, rng: Random) -> None:
    for supervisor in list(world.supervisors):
        world.start_supervisor()
        supervisor.terminate()
        code = supervisor.wait(STOP_SECONDS)
        world.supervisors.remove(supervisor)
        # -SIGTERM: asked while it was still importing, as no signal was its own yet.
        assert code in (0, 1, -signal.SIGTERM), f"a supervisor ended with {code}:\n{world.log_of('workers')}"


# Producers


@fault("a producer killed", "producers", 2)
def _(world: World, rng: Random) -> None:
    name = rng.choice([name for name in world.traffic if name in USERS])
    world.traffic[name].kill()
    world.traffic[name].wait()
    world.start_traffic(name)


# An operator


def operate(act: Callable[[], object]) -> None:
    """What an operator does while a server is away: nothing now, and try again later."""
    with suppress(RedisError, SQLAlchemyError, LevelqError):
        act()


@fault("an operator cancels", "operator", 3)
def _(world: World, rng: Random) -> None:
    canceller = Canceller(world.engine, LaneEditor(world.redis, world.settings), world.waker, world.settings)

    def cancel(partition: Partition, user_id: int, only_one: bool) -> None:
        entries: Any = world.redis.lrange(world.lanes.keys.lane(partition, user_id), 0, -1) if only_one else ()
        only = standing.command_id_of(rng.choice(entries)) if entries else None
        canceller.run(Scope((partition.specialization,), user_id, only))

    for _ in range(20):
        operate(partial(cancel, rng.choice(PARTITIONS), rng.choice(range(1, 161)), rng.random() < 0.5))
    if rng.random() < 0.3:
        operate(lambda: canceller.run(Scope()))


@fault("an operator forgets users", "operator", 2)
def _(world: World, rng: Random) -> None:
    for user_id in rng.sample(range(1, 161), 3):
        lanes = LaneEditor(world.redis, world.settings)
        operate(Forgetting(world.engine, lanes, world.waker, world.settings, user_id).run)


@fault("an operator pauses and resumes", "operator", 2)
def _(world: World, rng: Random) -> None:
    acting = Pausing(world.engine, LaneEditor(world.redis, world.settings), world.waker, world.settings)
    scope = PauseScope((rng.choice(PARTITIONS).specialization,), rng.choice([None, rng.randint(1, 160)]))
    operate(lambda: acting.pause(scope, timedelta(seconds=CLAIM_SECONDS)))  # it ends by itself if Redis is away then
    last(rng)
    operate(lambda: acting.resume(scope))


# Servers


@fault("Valkey killed, restarted", "Redis", 2)
def _(world: World, rng: Random) -> None:
    world.servers.valkey.kill()
    last(rng)
    world.servers.valkey.start()


@fault("PostgreSQL killed, restarted", "PostgreSQL", 2)
def _(world: World, rng: Random) -> None:
    kill_with_backends(world.servers.postgres)
    last(rng)
    world.servers.postgres.start()


@fault("PostgreSQL stopped at once, restarted", "PostgreSQL")
def _(world: World, rng: Random) -> None:
    world.servers.postgres.stop(signal.SIGQUIT)
    last(rng)
    world.servers.postgres.start()


@fault("all backends terminated", "PostgreSQL", 2)
def _(world: World, rng: Random) -> None:
    with psycopg.connect(world.settings.database_url or "", autocommit=True) as connection:
        for _ in range(rng.randint(1, 10)):
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND application_name LIKE 'levelq%'"
            )
            _never.wait(rng.uniform(0, 0.1))


@fault("Redis full", "Redis")
def _(world: World, rng: Random) -> None:
    world.redis.config_set("maxmemory", 1)
    last(rng)
    world.redis.config_set("maxmemory", 0)


# The network


def _cut(proxy: Proxy, rng: Random) -> None:
    proxy.lose(*rng.choice((("requests",), ("replies",), ("requests", "replies"))))
    last(rng, 0.5, 2.5)
    proxy.heal()


@fault("workers and producers cut off from Redis", "network", 2)
def _(world: World, rng: Random) -> None:
    _cut(world.to_redis, rng)


@fault("workers cut off from PostgreSQL", "network", 2)
def _(world: World, rng: Random) -> None:
    _cut(world.to_postgres, rng)


@fault("all connections reset", "network", 2)
def _(world: World, rng: Random) -> None:
    for _ in range(rng.randint(1, 5)):
        world.to_redis.reset()
        world.to_postgres.reset()
        _never.wait(rng.uniform(0, 0.2))


@fault("a slow network", "network")
def _(world: World, rng: Random) -> None:
    proxy = rng.choice((world.to_redis, world.to_postgres))
    proxy.delay_seconds = rng.uniform(0.01, 0.1)
    last(rng)
    proxy.delay_seconds = 0.0


@fault("one message lost", "network", 4)
def _(world: World, rng: Random) -> None:
    name = rng.choice(("push", "claim", "ack", "COMMIT"))
    proxy = world.to_postgres if name == "COMMIT" else world.to_redis
    scripts = traced_worker.noting(name) if name in ("claim", "ack") else load("push")
    match = b"COMMIT" if name == "COMMIT" else scripts.sha.encode()
    trap = proxy.trap(rng.choice(list(Loss)), match)
    trap.struck.wait(10)


# Foreign code


def _hold(world: World, rng: Random, statements: tuple[str, ...]) -> None:
    users = rng.sample(range(1, 161), 20)
    try:
        with psycopg.connect(world.settings.database_url or "") as connection:
            for statement in statements:
                connection.execute(statement, (users,))
            last(rng, 0.1, 1.5)
            connection.rollback()
    except psycopg.errors.DeadlockDetected:
        pass


@fault("rows locked by other code", "PostgreSQL", 2)
def _(world: World, rng: Random) -> None:
    _hold(world, rng, ("SELECT FROM specialization_progress WHERE student_id = ANY(%s) FOR UPDATE",))


@fault("rows locked in the wrong order", "PostgreSQL", 2)
def _(world: World, rng: Random) -> None:
    for _ in range(5):
        _hold(
            world,
            rng,
            (
                "SELECT FROM user_licenses WHERE user_id = ANY(%s) ORDER BY user_id DESC FOR UPDATE",
                "SELECT FROM specialization_progress WHERE student_id = ANY(%s) ORDER BY student_id DESC FOR UPDATE",
            ),
        )
