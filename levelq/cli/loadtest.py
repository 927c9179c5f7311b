"""`levelq loadtest`: simulated users, measured and verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def loadtest(
    scenario: Annotated[str, typer.Option(help="steady, match (bursts) or contention.")] = "steady",
    users: Annotated[int | None, typer.Option(help="How many users to simulate.")] = None,
    accounts: Annotated[int | None, typer.Option(help="How many accounts they have; fewer than users: shared.")] = None,
    rate: Annotated[float | None, typer.Option(help="Commands a second, of all users together.")] = None,
    seconds: Annotated[float | None, typer.Option(help="How long they send.")] = None,
    burst: Annotated[int | None, typer.Option(help="match: how many users level up within a second.")] = None,
    every: Annotated[float | None, typer.Option(help="match: seconds between two bursts.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same schedule; default: a new one.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=0, max=256, help="Worker processes to start; default: 2, none with --external.")
    ] = None,
    senders: Annotated[int, typer.Option(min=1, max=64, help="Processes that send.")] = 2,
    out: Annotated[Path, typer.Option(help="Where to save the report.")] = Path("loadtest.html"),
    external: Annotated[
        bool, typer.Option("--external", help="Use the servers and workers of the settings, not embedded ones.")
    ] = False,
    first_user: Annotated[
        int | None,
        typer.Option(min=1, max=2**62, help="With --external: the first account's id; the others follow."),
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="With --external: allow servers on other machines.")
    ] = False,
    foreign_writes: Annotated[
        bool, typer.Option("--foreign-writes", help="With --external: the application also writes to the tables.")
    ] = False,
    keep: Annotated[Path | None, typer.Option(help="Keep data, logs and recorded sends in this new folder.")] = None,
) -> None:
    """Simulate concurrent users, and verify what became of their commands.

    Every command has a planned time to be sent; latencies count from there, so a system that hangs shows all the
    waiting it causes. Ends with `levelq verify` and an HTML report. Exit code 1 if anything is wrong. On embedded
    servers, unless --external. Needs levelq\\[demo].
    """
    from levelq.loadtest import run_loadtest
    from levelq.loadtest.options import LoadTestOptions
    from levelq.loadtest.scenarios import chosen

    from .connections import load

    picked = chosen(scenario, users=users, accounts=accounts, rate=rate, seconds=seconds, burst=burst, every=every)
    options = LoadTestOptions(
        picked, seed, processes, senders, out, external, allow_remote, first_user, foreign_writes, keep
    )
    raise typer.Exit(run_loadtest(load(), options))
