"""Redis wiped again and again during a burst through the outbox: nothing lost, doubled or out of order."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable

import pytest
from redis import Redis
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from levelq_core import Settings
from levelq_producer import Outbox
from tests.support.fixtures.processes import Started, children
from tests.support.fixtures.recoveries import note
from tests.support.fixtures.waiting import until
from tests.support.system import System, ended, up

USERS = 40  # of each producer: a lane has one writer, so the order of its commits is known
PRODUCERS = 3
WIPES = 6

_MATCHES = "CREATE TABLE matches (n bigserial PRIMARY KEY, command_id uuid UNIQUE, user_id bigint, xp bigint)"
_MATCH = text("INSERT INTO matches (command_id, user_id, xp) VALUES (:command_id, :user_id, :xp)")

# Each finds what must not be there, as its name describes.
_VIOLATIONS = {
    "I1 lost": "SELECT m.* FROM matches m LEFT JOIN levelq_ledger l USING (command_id) WHERE l.id IS NULL",
    "I1 rejected": "SELECT * FROM levelq_ledger WHERE status <> 'applied'",
    "I1 unexpected": "SELECT l.* FROM levelq_ledger l LEFT JOIN matches m USING (command_id) WHERE m.n IS NULL",
    "I2 totals": """
        SELECT * FROM (SELECT user_id, sum(xp) AS xp, count(*) AS sessions FROM matches GROUP BY user_id) m
        FULL JOIN specialization_progress p ON p.student_id = m.user_id
        WHERE (p.total_xp, p.completed_sessions) IS DISTINCT FROM (m.xp, m.sessions)
    """,
    "I3 coupled": """
        SELECT * FROM specialization_progress p
        FULL JOIN user_licenses l ON l.user_id = p.student_id AND l.specialization_type = p.specialization_id
        WHERE p.current_level IS DISTINCT FROM l.current_level OR l.max_achieved_level < l.current_level
    """,
    "I4 audit chain": """
        SELECT * FROM (
            SELECT l.current_level, a.from_level, a.to_level,
                   lag(a.to_level, 1, 1) OVER w AS earlier, lead(a.from_level, 1, l.current_level) OVER w AS later
            FROM user_licenses l JOIN license_progressions a ON a.user_license_id = l.id
            WINDOW w AS (PARTITION BY l.id ORDER BY a.id)) AS chain
        WHERE from_level <> earlier OR to_level <> later
    """,
    "I4 one row per change": """
        SELECT 1 WHERE (SELECT count(*) FROM license_progressions)
                    <> (SELECT count(*) FROM levelq_ledger WHERE from_level <> to_level)
    """,
    "I5 order": """
        SELECT * FROM (SELECT l.user_id, m.n, lag(m.n) OVER (PARTITION BY l.user_id ORDER BY l.id) AS earlier
                       FROM levelq_ledger l JOIN matches m USING (command_id)) AS effects
        WHERE n < earlier
    """,
}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"claim_seconds": 2.0, "sweep_seconds": 0.2, "redis_seconds": 0.5})


def produce(settings: Settings, engine: Engine, number: int, seed: int, over: threading.Event) -> None:
    """Commit matches and their commands together until it is over; roll one in ten back."""
    rng = random.Random(seed * 100 + number)
    first = 1 + number * USERS
    with Session(engine) as session:
        while not over.is_set():
            users = rng.choices(range(first, first + USERS), k=rng.randint(1, 4))
            commands = [up(user, rng.randint(1, 900), sessions_completed=1) for user in users]
            for command in commands:
                values = {"command_id": command.command_id, "user_id": command.user_id, "xp": command.xp_gained}
                session.execute(_MATCH, values)
            Outbox(session, settings=settings).send_many(commands, reply=rng.random() < 0.1)
            if rng.random() < 0.1:
                session.rollback()
            else:
                session.commit()


def wipe(system: System, rng: random.Random, worker: Started | None) -> None:
    """Wipe Redis while commands are sent and applied; kill one process of the worker each time, if one is given."""
    for _ in range(WIPES):
        wanted = system.applied() + rng.randint(1, 250)
        until(lambda wanted=wanted: system.applied() >= wanted, what=f"command {wanted}")  # type: ignore[misc]
        if worker and (victims := children(worker)):
            rng.choice(victims).send_signal(signal.SIGKILL)
        system.redis.flushall()


@pytest.mark.parametrize("killing", [False, True], ids=["wipes", "wipes and kills"])
def test_every_committed_command_is_applied_once_and_in_order_though_redis_is_wiped(
    start: Callable[..., Started], settings: Settings, redis: Redis, engines: Callable[..., Engine], killing: bool
) -> None:
    seed = random.randrange(10_000)
    print(f"seed {seed}")
    system = System(settings, redis, engines(settings.database_url, PRODUCERS + 1))
    system.sql(_MATCHES)
    worker = start("worker", "--processes", "2", LEVELQ_BATCH_COMMANDS="200")
    until(lambda: len(children(worker)) == 2, what="two workers")
    over = threading.Event()
    producers = [
        threading.Thread(target=produce, args=(settings, system.engine, n, seed, over)) for n in range(PRODUCERS)
    ]
    for producer in producers:
        producer.start()
    try:
        wipe(system, random.Random(seed), worker if killing else None)
    finally:
        over.set()
        for producer in producers:
            producer.join()
    wiped = time.monotonic()
    until(lambda: not system.rows("SELECT FROM levelq_outbox LIMIT 1"), seconds=60, what="an empty outbox")
    kills = "and workers killed, " if killing else ""
    note(f"FLUSHALL, {kills}until all was applied", recovered=time.monotonic() - wiped)
    ((sent,),) = system.rows("SELECT count(*) FROM matches")
    assert system.applied() == sent > WIPES
    for name, statement in _VIOLATIONS.items():
        assert system.rows(statement) == [], name
    worker.terminate()
    code, output = ended(worker)
    print(sent, output)
    assert code == 0
    assert "outbox commands were put back" in output
