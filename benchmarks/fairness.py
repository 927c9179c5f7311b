"""Fairness: other users beside a hot one, and three specializations on one worker."""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from levelq_core import LevelUp
from levelq_core.keys import Partition
from levelq_producer import Producer

from .site import SPECIALIZATION, Site, until

HOT, OTHERS = 100_000, 200
EACH = 100_000  # commands of each specialization
SPECIALIZATIONS = ("PLAYER", "COACH", "INTERNSHIP")


class Hot(NamedTuple):
    """Other users while one worker drains a hot user's backlog.

    `batch`: the median time between two commits. `waits`: the others' times from send to commit, ascending, in seconds.
    `between`: for each of the others, how many batches began and were committed while it waited.
    """

    batch: float
    waits: list[float]
    between: list[int]

    @property
    def most_between(self) -> int:
        """The most batches that a user waited for."""
        return max(self.between)


class Shared(NamedTuple):
    """When each specialization's backlog was half and wholly applied, in seconds since the first commit."""

    half: dict[str, float]
    whole: dict[str, float]


def hot_user(site: Site) -> Hot:
    """100,000 commands of one user, then one of each other user."""
    site.reset(OTHERS + 1)
    with Producer(site.settings) as producer:
        producer.send_many(_level_ups([OTHERS + 1] * HOT))
        with site.running("hot", ["-m", "levelq", "worker", "--processes", "1"]):
            until(lambda: site.waiting() < 0.9 * HOT, 30, "the hot user's backlog to shrink")
            sent = {}
            for user in range(1, OTHERS + 1):
                sent[user] = time.time()
                producer.send_many(_level_ups([user]))
                time.sleep(0.002)  # all within half a second: a fast machine drains the backlog in one second
            assert site.waiting() > 0.05 * HOT, "the hot user's backlog was gone before the others came"
            until(lambda: site.waiting() == 0, 60, "the last command")
    found = site.database.execute("""
        SELECT user_id, extract(epoch FROM applied_at)::float8 AS begun,
            extract(epoch FROM pg_xact_commit_timestamp(xid::text::xid))::float8 AS at
        FROM levelq_ledger ORDER BY at
    """).fetchall()
    batches = sorted({(begun, at) for _, begun, at in found})
    waits, between = [], []
    for user, _, at in found:
        if user in sent:
            waits.append(at - sent[user])
            between.append(sum(begun > sent[user] and end < at for begun, end in batches))
    commits = [at for _, at in batches]
    return Hot(median(b - a for a, b in pairwise(commits)), sorted(waits), between)


def shared_worker(site: Site) -> Shared:
    """Three deep backlogs, one worker."""
    site.reset(100)
    with Producer(site.settings) as producer:
        for name in SPECIALIZATIONS:
            producer.send_many(_level_ups([1 + n % 100 for n in range(EACH)], name))
    counts = [site.settings.keys.of(Partition(name), "count") for name in SPECIALIZATIONS]
    with site.running("shared", ["-m", "levelq", "worker", "--processes", "1"]):
        until(lambda: not any(site.redis.exists(key) for key in counts), 60, "all of it")
    found = site.database.execute("""
        SELECT specialization, extract(epoch FROM pg_xact_commit_timestamp(xid::text::xid))::float8
        FROM levelq_ledger ORDER BY id
    """).fetchall()
    first = min(at for _, at in found)
    half, whole = {}, {}
    for name in SPECIALIZATIONS:
        times = sorted(at - first for which, at in found if which == name)
        half[name], whole[name] = times[len(times) // 2], times[-1]
    return Shared(half, whole)


def _level_ups(users: list[int], specialization: str = SPECIALIZATION) -> list[LevelUp]:
    return [LevelUp(user_id=user, specialization=specialization, xp_gained=1, sessions_completed=1) for user in users]
