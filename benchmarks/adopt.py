"""`levelq adopt` on an application's tables with planted faults: time, rate, and whether all else is as it was.

    .venv/bin/python -m benchmarks.adopt [--pairs 1000000] [--every 50] [--rate 2000] [--kill]

Every repaired pair is compared with what it must be, and all rows without a fault, every column, by a checksum before
and after. `--kill`: SIGKILL at half of the time that the first run would take, then a second run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg

from levelq_core.database.engine import engine_open
from levelq_core.database.migrations import upgrade

from .command import options, temporary_site
from .planted import FAULTS, LEFT, Planted, plant, untouched, wrong
from .site import Site

LEVELQ = Path(sys.executable).with_name("levelq")


def prepare(site: Site, pairs: int, every: int) -> tuple[psycopg.Connection[Any], dict[str, str], Planted]:
    """A database of an application, with faults and levelq's own tables; the environment for commands."""
    site.database.execute("CREATE DATABASE application")
    settings = site.settings
    assert settings.database_url is not None
    settings = settings.model_copy(
        update={"database_url": settings.database_url.replace("/postgres?", "/application?")}
    )
    assert settings.database_url is not None
    database = psycopg.connect(settings.database_url, autocommit=True)
    planted = plant(database, pairs, every)
    with engine_open(settings) as engine:
        upgrade(engine)
    database.execute("VACUUM ANALYZE")
    return database, os.environ | settings.environment(), planted


def adopt(environment: dict[str, str], *given: str, kill_after: float | None = None) -> dict[str, Any]:
    """Run the command; what it prints. With `kill_after` it is killed, and prints nothing."""
    command = [str(LEVELQ), "adopt", "--json", *given]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            output, _ = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            return {}
    found: dict[str, Any] = json.loads(output)
    return found


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--kill", action="store_true")
    given = parser.parse_args()
    with temporary_site() as site:
        database, environment, planted = prepare(site, given.pairs, given.every)
        before = untouched(database, planted)
        rate = ("--rate", str(given.rate))
        begun = time.monotonic()
        plan = adopt(environment, "--dry-run", *rate)["plan"]
        print(f"{given.pairs:,} pairs, {planted.faults:,} with a fault: planned in {time.monotonic() - begun:.1f} s")
        for item in plan["repairs"]:
            print(f"  {item['number']:8,}  {item['kind']:14} {item['table'] or ''}")
        if given.kill:
            adopt(environment, "--yes", *rate, kill_after=planted.faults / given.rate / 2 + 5)
            print("killed; again:")
        begun = time.monotonic()
        done = adopt(environment, "--yes", *rate)
        seconds = time.monotonic() - begun
        repaired = sum(done["done"]["repaired"].values())
        working = done["done"]["seconds"]
        print(
            f"repaired {repaired:,} in {working:.1f} s ({repaired / working:,.0f}/s), {seconds:.1f} s with both looks"
        )
        print(f"repaired: {done['done']['repaired']}, failed: {done['done']['failed']}")
        print(f"left: {[(item['kind'], item['number']) for item in done['left']['repairs']]}")
        faulty = wrong(database, planted)
        print(f"not repaired: {faulty}")
        same = untouched(database, planted) == before
        print(f"all other rows as they were: {same}")
        kinds = {item["kind"] for item in done["left"]["repairs"]}
        assert same and not any(faulty.values()) and len(kinds) == len(LEFT), kinds
        assert len(FAULTS) == len(faulty) - 1
        database.close()


if __name__ == "__main__":
    main()
