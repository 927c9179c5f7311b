"""How long a command takes: alone and at a steady rate; and how long a transaction takes in a burst.

Times of commit are PostgreSQL's own (track_commit_timestamp).
"""

from __future__ import annotations

import os
import threading
import time
from statistics import median
from typing import NamedTuple
from unittest.mock import patch

from levelq_core import LevelUp
from levelq_producer import Producer

from .site import Site, until
from .transaction import level_up, sessions
from .workload import Grant, Workload, level_ups

LONE, USERS = 300, 1_000
RATE, SECONDS = 1_000, 15.0


class Alone(NamedTuple):
    """Medians in milliseconds on an idle system: the direct transaction, and a command from send to outcome."""

    direct: float
    levelq: float


class Steady(NamedTuple):
    """Milliseconds from send to commit at a steady rate."""

    p50: float
    p99: float
    worst: float
    waits: list[float]


def alone(site: Site) -> Alone:
    """One at a time, the two in turn, so that both see the same speed of the machine."""
    site.reset(USERS)
    direct, queued = [], []
    with (
        patch.dict(os.environ, site.settings.environment()),
        site.running("alone", ["-m", "levelq", "worker", "--processes", "2"]),
        Producer(site.settings) as producer,
        sessions(1)() as session,
    ):
        producer.send(_command(1)).result(60)
        for number in range(LONE):
            user = 1 + number % USERS
            begun = time.perf_counter()
            level_up(session, user, 1)
            between = time.perf_counter()
            producer.send(_command(user)).result(30)
            if number >= LONE // 10:  # both are warm
                direct.append(1e3 * (between - begun))
                queued.append(1e3 * (time.perf_counter() - between))
    return Alone(median(direct), median(queued))


def steady(site: Site) -> Steady:
    """A sender at a steady rate; each command's time from just before its send to its commit."""
    site.reset(USERS)
    number = int(RATE * SECONDS)
    sent: dict[bytes, float] = {}
    with site.running("steady", ["-m", "levelq", "worker", "--processes", "2"]), Producer(site.settings) as producer:
        producer.send(_command(1)).result(60)
        pause = threading.Event()
        begun = time.perf_counter()
        for index in range(number):
            if (early := begun + index / RATE - time.perf_counter()) > 0:
                pause.wait(early)
            command = _command(1 + index % USERS)
            sent[command.command_id.bytes] = time.time()
            producer.send(command, reply=False)
        until(lambda: site.waiting() == 0, 60, "the last command")
    waits = sorted(1e3 * (at - sent[id_]) for id_, at in _commits(site) if id_ in sent)
    assert len(waits) == number
    return Steady(waits[number // 2], waits[int(0.99 * number)], waits[-1], waits)


def transactions(site: Site) -> list[float]:
    """How long each transaction of the last burst took, in milliseconds, ascending."""
    found = site.database.execute("""
        SELECT DISTINCT 1000 * extract(epoch FROM pg_xact_commit_timestamp(xid::text::xid) - applied_at)::float8
        FROM levelq_ledger ORDER BY 1
    """)
    return [row[0] for row in found]


def _commits(site: Site) -> list[tuple[bytes, float]]:
    found = site.database.execute("""
        SELECT command_id, extract(epoch FROM pg_xact_commit_timestamp(xid::text::xid))::float8 FROM levelq_ledger
    """)
    return [(row[0].bytes, row[1]) for row in found]


def _command(user_id: int) -> LevelUp:
    return next(level_ups([Grant(user_id, 1)]))


def waiting_times(site: Site, workload: Workload) -> list[float]:
    """All users at the same instant: seconds from the first push until each command's commit, ascending."""
    site.reset(workload.users)
    commands = list(level_ups(workload.grants()))
    with site.running("instant", ["-m", "levelq", "worker", "--processes", "2"]):
        with Producer(site.settings) as producer:
            producer.send(_command(1)).result(60)
            begun = time.time()
            producer.send_many(commands)
        until(lambda: site.waiting() == 0, 60, "the last command")
    wanted = {command.command_id.bytes for command in commands}
    return sorted(at - begun for id_, at in _commits(site) if id_ in wanted)
