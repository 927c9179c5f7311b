"""`levelq loadtest`: simulated users, measured and verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Exit, Option

_PROCESSES_HELP = "Worker processes to start; default: 2, none with --external."
_EXTERNAL_HELP = "Use the servers and workers of the settings, not embedded ones."
_FIRST_USER_HELP = "With --external: the first account's id; the others follow."
_ALLOW_REMOTE_HELP = "With --external: allow servers on other machines."
_FOREIGN_WRITES_HELP = "With --external: the application also writes to the tables."


def loadtest(
    scenario: Annotated[str, Option(help="steady, match (bursts) or contention.")] = "steady",
    users: Annotated[int | None, Option(help="How many users to simulate.")] = None,
    accounts: Annotated[int | None, Option(help="How many accounts they have; fewer than users: shared.")] = None,
    rate: Annotated[float | None, Option(help="Commands a second, of all users together.")] = None,
    seconds: Annotated[float | None, Option(help="How long they send.")] = None,
    burst: Annotated[int | None, Option(help="match: how many users level up within a second.")] = None,
    every: Annotated[float | None, Option(help="match: seconds between two bursts.")] = None,
    seed: Annotated[int | None, Option(help="The same seed gives the same schedule; default: a new one.")] = None,
    processes: Annotated[int | None, Option(min=0, max=256, help=_PROCESSES_HELP)] = None,
    senders: Annotated[int, Option(min=1, max=64, help="Processes that send.")] = 2,
    out: Annotated[Path, Option(help="Where to save the report.")] = Path("loadtest.html"),
    external: Annotated[bool, Option("--external", help=_EXTERNAL_HELP)] = False,
    first_user: Annotated[int | None, Option(min=1, max=2**62, help=_FIRST_USER_HELP)] = None,
    allow_remote: Annotated[bool, Option("--allow-remote", help=_ALLOW_REMOTE_HELP)] = False,
    foreign_writes: Annotated[bool, Option("--foreign-writes", help=_FOREIGN_WRITES_HELP)] = False,
    keep: Annotated[Path | None, Option(help="Keep data, logs and recorded sends in this new folder.")] = None,
) -> None:
    """Simulate concurrent users, and verify what became of their commands.

    Every command has a planned time to be sent; latencies count from there, so a system that hangs shows all the
    waiting it causes. Ends with `levelq verify` and an HTML report. Exit code 1 if anything is wrong. On embedded
    servers, unless --external. Needs levelq\\[demo].
    """
    from levelq.loadtest.load_test import run_loadtest
    from levelq.loadtest.options import LoadTestOptions
    from levelq.loadtest.scenarios import chosen

    from .connections import load

    picked = chosen(scenario, users=users, accounts=accounts, rate=rate, seconds=seconds, burst=burst, every=every)
    given = (seed, processes, senders, out, external, allow_remote, first_user, foreign_writes, keep)
    raise Exit(run_loadtest(load(), LoadTestOptions(picked, *given)))
