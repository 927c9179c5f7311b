"""`levelq loadtest`: simulated users, watched and verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .connecting import load


def loadtest(
    scenario: Annotated[str, typer.Option(help="steady, match (bursts) or contention.")] = "steady",
    users: Annotated[int | None, typer.Option(help="How many users to simulate.")] = None,
    accounts: Annotated[int | None, typer.Option(help="How many accounts they have; fewer are shared.")] = None,
    rate: Annotated[float | None, typer.Option(help="Commands a second of all users together.")] = None,
    seconds: Annotated[float | None, typer.Option(help="How long they go on.")] = None,
    burst: Annotated[int | None, typer.Option(help="match: how many level up within a second.")] = None,
    every: Annotated[float | None, typer.Option(help="match: seconds from burst to burst.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="The same seed draws the same schedule; a new one if not given.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=0, max=256, help="Worker processes to start: 2, or none with --external.")
    ] = None,
    senders: Annotated[int, typer.Option(min=1, max=64, help="Processes that send.")] = 2,
    out: Annotated[Path, typer.Option(help="Where to save the report.")] = Path("loadtest.html"),
    external: Annotated[
        bool, typer.Option("--external", help="Use the servers and workers of the settings, not embedded ones.")
    ] = False,
    first_user: Annotated[
        int | None,
        typer.Option(min=1, max=2**62, help="With --external: the first of the accounts; the others follow."),
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="With --external: the servers may be other machines.")
    ] = False,
    foreign_writes: Annotated[
        bool, typer.Option("--foreign-writes", help="With --external: the application writes to the tables, too.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option(help="A new folder for data, logs and recorded sends, to be kept.")
    ] = None,
) -> None:
    """Simulate concurrent users, and verify what became of their commands.

    Every command has a time at which it is meant to be sent, drawn beforehand; latencies count from there, so a
    stuck system shows all the waiting it causes. Ends with the checker and an HTML report. Exit code 1 if the
    checker finds anything. On embedded servers, unless --external. Needs levelq\\[demo].
    """
    from levelq.loadtest import run_loadtest  # noqa: PLC0415 - only this command needs it
    from levelq.loadtest.scenarios import chosen  # noqa: PLC0415
    from levelq.loadtest.wish import Wish  # noqa: PLC0415

    picked = chosen(scenario, users=users, accounts=accounts, rate=rate, seconds=seconds, burst=burst, every=every)
    wish = Wish(picked, seed, processes, senders, out, external, allow_remote, first_user, foreign_writes, keep)
    raise typer.Exit(run_loadtest(load(), wish))
