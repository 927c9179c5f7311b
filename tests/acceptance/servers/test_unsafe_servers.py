"""Servers that can lose what they acknowledged: workers refuse to start on what the doctor calls an error."""

from __future__ import annotations

import os
import subprocess
import sys

from levelq.server_account import temporary_folder
from tests.acceptance.servers.kit.site import Site


def run(site: Site, *arguments: str) -> tuple[int, str]:
    """The exit code of `levelq ...`, and its output on one line."""
    done = subprocess.run(
        [sys.executable, "-m", "levelq", *arguments],
        env=os.environ | {"COLUMNS": "1000"} | site.settings.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_workers_refuse_to_start_on_servers_that_can_lose_what_they_acknowledged() -> None:
    with temporary_folder("levelq-faults-") as folder, Site(folder) as site:
        assert site.problems() == ""
        site.redis.config_set("maxmemory-policy", "allkeys-lru")
        site.redis.config_set("appendonly", "no")
        site.admin("ALTER DATABASE postgres SET synchronous_commit = off")
        site.servers.postgres.stop()
        site.servers.postgres.options = (*site.servers.postgres.options, "fsync=off")
        site.servers.postgres.start()
        risks = [
            "maxmemory-policy is allkeys-lru, expected noeviction: Redis may drop waiting commands",
            "appendonly is off, expected yes: a restart of Redis loses waiting commands",
        ]
        assert site.problems().splitlines() == risks
        code, started = run(site, "worker", "--processes", "3")
        assert code == 2
        assert f"WARNING LEVELQ_REDIS_URL: {risks[1]}\n" in started
        refused = [line for line in started.splitlines() if line.startswith("levelq: ")]
        assert [line.split()[1] for line in refused] == ["maxmemory-policy", "fsync", "synchronous_commit"]
        assert "CONFIG SET maxmemory-policy noeviction" in refused[0]
        assert all("`levelq db check` prints the statements that fix it" in line for line in refused[1:])
        code, out = run(site, "doctor")
        assert code == 1
        for verdict in ("FAIL  eviction", "warn  durability  appendonly is off", "FAIL  schema      fsync is off"):
            assert verdict in out
        assert "FAIL  schema      synchronous_commit is off" in out
        assert run(site, "db", "check")[0] == 1
        site.redis.config_set("maxmemory-policy", "noeviction")
        site.admin("ALTER DATABASE postgres RESET synchronous_commit")
        site.servers.postgres.stop()
        site.servers.postgres.options = site.servers.postgres.options[:-1]
        site.servers.postgres.start()
        assert run(site, "doctor")[0] == 0  # only warnings are left
        code, ended = run(site, "worker", "--burst")
        assert code == 0 and "done: nothing is due; lanes parked for later: 0\n" in ended
