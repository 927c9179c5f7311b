"""Servers set up so that they can lose what they acknowledged: said at a worker's start, by the doctor, by status."""

from __future__ import annotations

import os
import subprocess
import sys

from levelq_worker.server_account import temporary_folder
from tests.acceptance.server_faults.site import Site


def run(site: Site, *arguments: str) -> str:
    """What `levelq ...` says, on one line each."""
    done = subprocess.run(
        [sys.executable, "-m", "levelq_worker", *arguments],
        env=os.environ | {"COLUMNS": "1000"} | site.settings.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_servers_that_can_lose_what_they_acknowledged_are_warned_of() -> None:
    with temporary_folder("levelq-faults-") as folder, Site(folder) as site:
        assert site.problems() == ""
        site.redis.config_set("maxmemory-policy", "allkeys-lru")
        site.redis.config_set("appendonly", "no")
        site.admin("ALTER DATABASE postgres SET synchronous_commit = off")
        site.servers.postgres.stop()
        site.servers.postgres.options = (*site.servers.postgres.options, "fsync=off")
        site.servers.postgres.start()
        risks = [
            "maxmemory-policy is allkeys-lru: Redis may drop waiting commands; set noeviction",
            "appendonly is off: a restart of Redis loses waiting commands; set appendonly yes",
        ]
        assert site.problems().splitlines() == risks
        started = run(site, "worker", "--burst")
        for risk in risks:
            assert f"WARNING LEVELQ_REDIS_URL: {risk}\n" in started
        for option in ("synchronous_commit", "fsync"):
            assert f"WARNING PostgreSQL runs with {option}=off: a crash can lose commits; set it on\n" in started
        told = run(site, "doctor")
        for verdict in ("FAIL  eviction", "warn  durability  appendonly no", "FAIL  schema      fsync is off"):
            assert verdict in told
        assert "FAIL  schema      synchronous_commit is off" in told
