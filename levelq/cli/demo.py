"""`levelq demo`: the main job on embedded servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Exit, Option


def demo(
    users: Annotated[int, Option(min=1, max=1_000_000, help="How many users to simulate.")] = 1000,
    commands: Annotated[int, Option(min=1, max=2_000_000, help="How many commands they send.")] = 50_000,
    processes: Annotated[int, Option(min=1, max=64, help="How many worker processes to start.")] = 2,
    picture: Annotated[Path, Option(help="Where to save the picture of backlog and throughput.")] = Path("demo.png"),
    console: Annotated[
        bool, Option("--console", help="Serve the console of the demo's servers, to watch in a browser.")
    ] = False,
) -> None:
    """Watch a burst of level-ups on embedded servers, verified at the end.

    One worker is killed in the middle. Takes less than a minute; exit code 1 if a check fails. Needs levelq\\[demo].
    With --console it waits for Enter before the burst, and stays until another after it. Needs levelq\\[console], too.
    """
    from levelq.demo.demo import run_demo

    raise Exit(run_demo(users, commands, processes, picture, with_console=console))
